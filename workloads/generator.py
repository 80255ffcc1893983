"""The load generator, in a process of its own: it releases events when they are due, and no later.

What it can't hand over waits in its memory, as what arrives at a busy system would, up to a bound.
It does one thing at a time: gives out what is due, makes some events ahead, or sleeps.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Final

from millstream.engine.arrivals import Arrivals, Closed, parse_arrivals
from millstream.engine.histogram import Histogram

from .registry import scenario_class
from .supply import Piece, Supply
from .trace import read_trace
from .wire import HEAD, LENGTH, ORIGIN, Broken, Ended, Ready, Start, encode_message

AHEAD_BYTES: Final = 64 << 20
"""So much is made ahead of the schedule."""
AHEAD_CLOSED_BYTES: Final = 256 << 20
"""Without a schedule, before it begins: then making events steals no time."""
MOST_TAKEN_PER_SECOND: Final = 1_000_000
"""More events than any engine takes."""
MOST_AHEAD_NS: Final = 30_000_000_000
"""So long, at most, it makes events before it begins."""
MOST_WAITING_BYTES: Final = 512 << 20
"""Of what is released and not taken; what is due after that is dropped."""
CLOSED_WAITING_BYTES: Final = 1 << 20
CLOSED_CHUNK: Final = 1024
"""Events that are made at a time where nothing is due meanwhile."""
TICK_NS: Final = 250_000
"""How often, at most, it looks at the schedule."""
LEAST_SLEEP_NS: Final = 50_000
_PR_SET_PDEATHSIG: Final = 1
_AT_ONCE: Final = 64


class Generator:
    """Gives out a supply over a socket."""

    def __init__(self, supply: Supply, sock: socket.socket, counter: mmap.mmap) -> None:
        self._supply, self._socket, self._counter = supply, sock, counter
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0
        self._released = self._dropped = 0
        self._lag = Histogram()
        self._lags: list[int] = []
        self._is_stopped = False
        self._cpu_before_ns = time.process_time_ns()  # what was made before is not counted

    def run_open(self, origin_ns: int) -> None:
        """Release each event when it is due, then wait until all is taken."""
        supply = self._supply
        woken_for = origin_ns
        while not (supply.is_over or self._is_stopped):
            now = time.monotonic_ns()
            if now >= origin_ns:
                self._note_lag(now - woken_for)
                self._release(origin_ns, now)
            self._send()
            self._look_for_stop()
            if supply.bytes < AHEAD_BYTES and not supply.is_made:
                supply.make()
                woken_for = time.monotonic_ns()
                continue
            due = supply.next_due_ns
            if due is None:
                continue
            now = time.monotonic_ns()
            # What is late wakes it at the next tick; what is early, when it is due.
            woken_for = max(origin_ns + due, now + TICK_NS)
            if woken_for - now > LEAST_SLEEP_NS:
                time.sleep(min(woken_for - now, 10 * TICK_NS) / 1e9)
                woken_for = min(woken_for, now + 10 * TICK_NS)
        self._finish(time.monotonic_ns() - origin_ns)

    def run_closed(self) -> None:
        """Give out everything as fast as it is taken."""
        origin_ns, supply = time.monotonic_ns(), self._supply
        while not (supply.is_over or self._is_stopped):
            if self._waiting_bytes >= CLOSED_WAITING_BYTES:
                self._await_room()
            elif (piece := supply.give_any()) is not None:
                self._put(piece, 0, b"")
                self._count()
            else:
                supply.make(CLOSED_CHUNK)
            self._send()
            self._look_for_stop()
        self._finish(time.monotonic_ns() - origin_ns)

    def _release(self, origin_ns: int, now: int) -> None:
        for piece in self._supply.give(now - origin_ns):
            if self._waiting_bytes > MOST_WAITING_BYTES:
                self._dropped += len(piece.due_ns)
                continue
            self._put(piece, now, (piece.due_ns + origin_ns).tobytes())
        self._count()

    def _put(self, piece: Piece, released_ns: int, due: bytes) -> None:
        count = len(piece.due_ns)
        head = HEAD.pack(count, len(piece.data), released_ns)
        frame = b"".join((head, due, piece.data))
        self._waiting.append(memoryview(frame))
        self._waiting_bytes += len(frame)
        self._released += count

    def _count(self) -> None:
        ORIGIN.pack_into(self._counter, 0, self._released)

    def _send(self) -> None:
        while self._waiting:
            parts = list(islice(self._waiting, _AT_ONCE))
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                return
            self._waiting_bytes -= sent
            while sent:
                first = self._waiting[0]
                if sent < len(first):
                    self._waiting[0] = first[sent:]
                    break
                sent -= len(first)
                self._waiting.popleft()

    def _await_room(self) -> None:
        """Wait until the other end takes something, or wants no more."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT | select.POLLIN)
        for _, event in poll.poll(100):
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._look_for_stop()

    def _look_for_stop(self) -> None:
        with suppress(BlockingIOError):
            if not self._socket.recv(64):
                raise BrokenPipeError  # nobody is there any more
            self._is_stopped = True

    def _note_lag(self, late_ns: int) -> None:
        self._lags.append(max(0, late_ns))
        if len(self._lags) >= 1024:
            self._lag.record(self._lags)
            self._lags = []

    def _finish(self, elapsed_ns: int) -> None:
        """Hand over what waits, and say how it went."""
        self._lag.record(self._lags)
        message = Ended(
            released=self._released,
            dropped=self._dropped,
            cpu_ns=time.process_time_ns() - self._cpu_before_ns,
            elapsed_ns=elapsed_ns,
            loop_lag_p99_ns=self._lag.percentile(99),
        )
        self._waiting.append(memoryview(encode_message(message)))
        while self._waiting:
            self._send()
            if self._waiting:
                self._await_room()


def _arrivals(start: Start) -> Arrivals:
    if start.arrivals == "closed":
        return Closed()
    return parse_arrivals(
        start.arrivals,
        rate=start.rate,
        seed=start.seed,
        duration_s=None if start.duration_ns is None else start.duration_ns / 1e9,
        read_trace=read_trace,
    )


def _supply(start: Start) -> Supply:
    scenario = scenario_class(start.scenario)(start.settings, start.seed)
    is_closed = start.arrivals == "closed"
    supply = Supply(
        scenario.lines(),
        _arrivals(start),
        events=start.events,
        duration_ns=None if is_closed else start.duration_ns,
    )
    _make_ahead(supply, start)
    return supply


def _make_ahead(supply: Supply, start: Start) -> None:
    """Make what fits, but no more than a run can take, and not for ever."""
    ahead, most = AHEAD_BYTES, math.inf
    if start.arrivals == "closed":
        ahead = AHEAD_CLOSED_BYTES
        if start.duration_ns is not None:
            most = start.duration_ns / 1e9 * MOST_TAKEN_PER_SECOND
    made, until_ns = 0, time.monotonic_ns() + MOST_AHEAD_NS
    while not supply.is_made and supply.bytes < ahead and made < most:
        supply.make(CLOSED_CHUNK)
        made += CLOSED_CHUNK
        if time.monotonic_ns() > until_ns:
            return


def _receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise SystemExit(0)
        data += more
    return data


def _end_with_parent(parent: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(0)


def main() -> None:
    """Be a generator: arguments are the socket, the counter's memory, and the parent's id."""
    import gc

    import msgspec

    fd, memory, parent = map(int, sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides when it ends
    _end_with_parent(parent)
    with suppress(OSError):
        os.nice(-10)  # where that is allowed: who is to be on time should be asked first
    sock = socket.socket(fileno=fd)
    (length,) = LENGTH.unpack(_receive(sock, LENGTH.size))
    start = msgspec.json.decode(_receive(sock, length), type=Start)
    try:
        supply = _supply(start)
    except Exception as error:
        sock.sendall(encode_message(Broken(f"{type(error).__name__}: {error}")))
        return
    gc.collect()
    gc.freeze()
    gc.disable()  # events are bytes: they form no cycles, and a collection would make them late
    sock.sendall(encode_message(Ready()))
    (origin_ns,) = ORIGIN.unpack(_receive(sock, ORIGIN.size))
    if origin_ns < 0:  # stopped before it began
        sock.sendall(encode_message(Ended(0, 0, 0, 0, 0)))
        return
    sock.setblocking(False)
    generator = Generator(supply, sock, mmap.mmap(memory, mmap.PAGESIZE))
    with suppress(BrokenPipeError, ConnectionResetError):
        if start.arrivals == "closed":
            generator.run_closed()
        else:
            generator.run_open(origin_ns)


if __name__ == "__main__":
    main()
