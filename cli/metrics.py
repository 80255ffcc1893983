"""`--metrics HOST:PORT`: a Prometheus endpoint, served beside the run by threads of its own.

Whatever its clients do, the run is bound to lose little: connections, requests a second and the
time of each are bounded, and scrapes read what the run last told.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import HTTPServer
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, MetricsHandler

from millstream.engine.connectors.base import ConnectorError
from millstream.engine.observer import Details
from millstream.engine.plan import PlanError
from millstream.engine.result import version_of
from millstream.reports.prometheus import RunCollector

LOOPBACK: Final = "127.0.0.1"
MOST_CONNECTIONS: Final = 8
"""At once; one more closes the oldest."""
PATIENCE_S: Final = 5.0
"""How long a client may be silent, and how long it may take all in all."""
MOST_A_SECOND: Final = 20
"""Requests that are looked at in a second; more wait in the system's queue, which is short."""


class Address(NamedTuple):
    """Where to listen; port 0: the system picks one."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT`, `:PORT` or `PORT`; the loopback without a host.

    Raises PlanError.
    """
    host, mark, port = text.rpartition(":")
    is_ipv6 = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_ipv6 else host
    is_host = is_ipv6 or not set(":[]/ ") & set(host)
    if not (is_host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise PlanError(
            f"--metrics is {text!r}; give it HOST:PORT, such as 127.0.0.1:9464, or a port alone "
            "for the loopback; port 0 picks one"
        )
    if mark and is_ipv6 and not host:
        raise PlanError(f"--metrics is {text!r}; there is no address between the brackets")
    return Address(host or LOOPBACK, int(port))


class Endpoint:
    """The endpoint, from its making until close(); told of every run meanwhile."""

    def __init__(self, text: str) -> None:
        """Listen at the address `text`. Raises PlanError, ConnectorError."""
        self._collector = RunCollector(
            {"version": version_of("millstream"), "python": sys.version.split()[0]}
        )
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._collector)
        self._server = _listening(text, registry)
        self._thread = threading.Thread(
            target=self._server.serve, name="millstream-metrics", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._server.server_address[:2]
        shown = str(host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/metrics"

    def on_details(self, details: Details) -> None:
        self._collector.tell(details)

    def close(self) -> None:
        """Listen no more; let go of whoever is connected."""
        self._server.stop()
        self._thread.join()
        self._server.server_close()


def _listening(text: str, registry: CollectorRegistry) -> _Server:
    address = parse_address(text)
    handler = _Handler.factory(registry)
    try:
        found = socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        family, *_, place = found[0]
        return _Server(family, (str(place[0]), int(place[1])), handler)
    except (OSError, UnicodeError) as error:  # a host that is no name fails as text
        reason = getattr(error, "strerror", None) or str(error)
        raise ConnectorError(
            f"--metrics {text}: can't listen there: {reason}; name another address, or port 0 for "
            "one that is free"
        ) from error


class _Handler(MetricsHandler):
    timeout = PATIENCE_S


class _Server(ThreadingMixIn, HTTPServer):
    """A thread a connection, MOST_CONNECTIONS at once."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, family: int, place: tuple[str, int], handler: type[_Handler]) -> None:
        self.address_family = family
        self._open: dict[socket.socket, float] = {}  # since when; the oldest first
        self._lock = threading.Lock()
        self._looked: deque[float] = deque(maxlen=MOST_A_SECOND)
        self._is_stopping = threading.Event()
        self._woken, self._wake = os.pipe()
        super().__init__(place, handler)
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        # HTTPServer's own asks for the name of the host, which may take long.
        TCPServer.server_bind(self)

    def serve(self) -> None:
        """Take connections until stop()."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._is_stopping.is_set():
                ready = selector.select(PATIENCE_S if self._open else None)
                self._close_old(PATIENCE_S)
                if any(key.fileobj is self for key, _ in ready):
                    self._is_stopping.wait(self._wait_s())
                    self.handle_request()

    def _wait_s(self) -> float:
        """How long to wait before the next request is looked at, which this notes."""
        now = time.monotonic()
        is_full = len(self._looked) == MOST_A_SECOND
        wait = max(0.0, self._looked[0] + 1.0 - now) if is_full else 0.0
        self._looked.append(now + wait)
        return wait

    def stop(self) -> None:
        """End serve(), and all connections. Called by another thread."""
        self._is_stopping.set()
        os.write(self._wake, b".")
        self._close_old(0)

    def _close_old(self, age_s: float, most: int = MOST_CONNECTIONS) -> None:
        """Close what is open for so long, and the oldest of more than `most`."""
        since = time.monotonic() - age_s
        with self._lock:
            for number, (connection, at) in enumerate(list(self._open.items())):
                if at <= since or number < len(self._open) - most:
                    with suppress(OSError):  # whoever serves it finds it ended
                        connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, client = super().get_request()
        with self._lock:
            self._open[connection] = time.monotonic()
        self._close_old(PATIENCE_S)
        return connection, client

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What goes wrong with a client is the client's; a bug is told."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        os.close(self._woken)
        os.close(self._wake)
