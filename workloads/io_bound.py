"""The scenario `io`: an async handler that asks a server once an event, and waits for the answer.

The server is io_server.py's, in a process of its own; the oracle is io_oracle.py. aiohttp is
imported when it is needed.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, stage

from . import io_oracle as oracle
from .echo import keyed_lines
from .passthrough import KEYS, PAYLOAD
from .scenario import (
    Beside,
    Invariant,
    Outcome,
    Parameter,
    Scenario,
    ScenarioError,
    ScenarioUnusable,
)

if TYPE_CHECKING:
    import aiohttp

PORT: Final = "io.port"
"""The file in the scenario's folder that has the server's port."""
_START_TIMEOUT_S: Final = 60.0
_END_TIMEOUT_S: Final = 10.0

_decode: Final = msgspec.json.Decoder().decode


async def ask(event: Event, resource: aiohttp.ClientSession) -> Event:
    """Ask the server about the event; its answer goes with the event."""
    data = event.data
    async with resource.get(f"/{data['key']}/{data['seq']}") as response:
        data["answer"] = _decode(await response.read())
    return event


async def open_client(port: int, connections: int) -> aiohttp.ClientSession:
    """A worker's connections to the server; what its stage is set up with."""
    library = import_aiohttp()
    client: aiohttp.ClientSession = library.ClientSession(
        f"http://127.0.0.1:{port}",
        connector=library.TCPConnector(limit=connections),
        cookie_jar=library.DummyCookieJar(),
        raise_for_status=True,
        # The engine has timeouts of its own (--timeout).
        timeout=library.ClientTimeout(total=None),
    )
    return client


async def close_client(client: aiohttp.ClientSession) -> None:
    """What its stage is torn down with."""
    await client.close()


def import_aiohttp() -> ModuleType:
    """The module, or ScenarioError."""
    try:
        import aiohttp
    except ImportError as error:
        raise ScenarioUnusable(
            f"the scenario io needs aiohttp ({error}); install it with "
            "pip install 'millstream[scenarios]'"
        ) from None
    return aiohttp


class Io(Scenario):
    """Events whose handler waits for somebody else."""

    name: ClassVar = "io"
    summary: ClassVar = "A handler that waits for a server: how much goes on at once."
    description: ClassVar = (
        "An async handler makes one HTTP request an event, to a server on this machine that "
        "answers after `latency`, and up to `jitter` more. What is measured is how many "
        "events wait side by side while those of a key come one after another. A request costs "
        "both sides some processor time, which bounds how many there are a second."
    )
    parameters: ClassVar = (
        Parameter("latency", 5.0, "How long the server takes.", "ms", least=0, most=60_000),
        Parameter("jitter", 0.0, "How much longer it may take.", "ms", least=0, most=60_000),
        Parameter(
            "connections",
            500,
            "Connections to the server at once, at most, a worker.",
            least=1,
            most=20_000,
        ),
        KEYS,
        PAYLOAD,
    )
    promises: ClassVar = oracle.PROMISES
    orders: ClassVar = ("key", "none", "partition", "global")

    def lines(self) -> Iterator[bytes]:
        """The events."""
        return keyed_lines(self, int(self.settings["keys"]), int(self.settings["payload"]))

    def running(self, folder: Path) -> Beside:
        """The server."""
        import_aiohttp()
        latency_ms, jitter_ms = float(self.settings["latency"]), float(self.settings["jitter"])
        return Server(folder / PORT, latency_ms, jitter_ms)

    def pipeline(self, folder: Path) -> Pipeline:
        """One stage."""
        connections = int(self.settings["connections"])
        opener = partial(open_client, _port_in(folder), connections)
        return Pipeline(stage(ask, setup=opener, teardown=close_client))

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare what came out with the stream, and each answer with its event."""
        return oracle.check_answers(self, outcome)


def _port_in(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return int((folder / PORT).read_text())
    raise ScenarioError(f"there is no server of {folder} yet; enter running() of the scenario")


class Server(Beside):
    """The server's process. It ends with this one, even when that is killed."""

    def __init__(self, port_file: Path, latency_ms: float, jitter_ms: float) -> None:
        self._port_file = port_file
        self._times = [str(latency_ms), str(jitter_ms)]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millstream.workloads.io_server", *self._times],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # An interrupt is for the run, which then goes on until all in flight is answered.
            start_new_session=True,
        )
        try:
            self._port_file.write_text(str(self._port()))
        except BaseException:
            self._end()
            raise
        return self

    def _port(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(_START_TIMEOUT_S) else b""
        if not line:
            raise ScenarioUnusable("the server of the scenario io did not start; see what it said")
        return int(line)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self.process is not None
        self._port_file.unlink(missing_ok=True)
        with self.process:  # closes its input, which ends it
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
