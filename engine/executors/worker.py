"""One worker process as the run sees it: started, fed with frames, listened to, ended.

What it is to do is process.py's business, which is told of answers and deaths.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import compress
from typing import Final, Protocol, TypeVar, cast

import msgspec
import psutil

from ..batch import Batch, Value
from ..loading import HandlerNotFound
from ..order import Lane
from .base import StageContext
from .failing import Trial
from .holding import UNDER_WAY
from .wire import HEADER, LEFT_TO_THE_RUN, Broken, Done, Ready, Request, Start, decode_reply, encode

FRAME_BYTES: Final = 64 * 1024
START_TIMEOUT_S: Final = 60.0
STOPPED_TWICE: Final = 2
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024

T = TypeVar("T")


class Owner(Protocol):
    """Who is told what becomes of a worker."""

    context: StageContext

    def on_done(self, worker: WorkerProcess, done: Done) -> None:
        """It has answered."""

    def on_death(self, worker: WorkerProcess, code: int) -> None:
        """It died, and was not to: with an exit code, or minus a signal."""

    def on_broken_end(self, how: str) -> None:
        """It did not come to the end of its tear-down."""


class DiedAtStart(HandlerNotFound):
    """A worker died before it was ready; `code` is how."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Frame:
    """Events for one worker, by column, until they are done."""

    __slots__ = (
        "batch",
        "begun",
        "bytes",
        "done",
        "indexes",
        "is_trial",
        "lanes",
        "lines",
        "partition",
        "ready",
        "values",
        "worker",
    )

    def __init__(self, worker: WorkerProcess, partition: int) -> None:
        self.worker, self.partition = worker, partition
        self.indexes: list[int] = []
        self.lanes: list[Lane] = []
        self.lines: list[bytes] = []
        self.values: list[Value] | None = None
        self.ready = array("q")
        self.bytes = 0
        self.begun = 0
        """What the circuit breaker gave for it."""
        self.is_trial = False
        """Whether its events were tried before, or kept back: their lanes are held for them."""
        self.done = False
        self.batch: Batch | None = None
        """A whole batch that crosses as it is, in place of the columns."""

    def __len__(self) -> int:
        return len(self.batch) if self.batch is not None else len(self.indexes)

    def add(self, trial: Trial) -> None:
        """Add one event."""
        if type(trial.value) is not bytes:
            self.values = self.values or []
            self.values.append(trial.value)
        self.indexes.append(trial.index)
        self.lanes.append(trial.lane)
        self.lines.append(trial.line)
        self.ready.append(trial.ready)
        self.bytes += len(trial.line)

    def index(self, place: int) -> int:
        """The number of one of its events."""
        return (self.indexes if self.batch is None else self.batch.indexes)[place]

    def trial(self, place: int) -> Trial:
        """One of its events, apart."""
        batch, line = self.batch, self.lines[place] if self.batch is None else b""
        if batch is None:
            value = line if self.values is None else self.values[place]
            index, lane, ready = self.indexes[place], self.lanes[place], self.ready[place]
        else:
            line = batch.lines()[place]
            value = line if batch.values is None else batch.values[place]
            stamps = batch.ready_ns
            index = batch.indexes[place]
            lane = None if batch.lanes is None else batch.lanes[place]
            ready = stamps if isinstance(stamps, int) else stamps[place]
        return Trial(index, lane, line, value, ready, self.partition)

    def trials(self) -> list[Trial]:
        """All of them."""
        return [self.trial(place) for place in range(len(self))]

    def without(self, places: set[int]) -> Frame:
        """The same without some of its events."""
        rest = Frame(self.worker, self.partition)
        for place in range(len(self)):
            if place not in places:
                rest.add(self.trial(place))
        return rest

    def extend(self, batch: Batch, span: slice, chosen: Sequence[bool] | None) -> None:
        """Add the events of `batch` in `span`, or those of them that are chosen."""

        def of(column: Sequence[T]) -> Iterable[T]:
            own = column if len(column) == span.stop - span.start else column[span]
            return own if chosen is None else compress(own, chosen)

        first = len(self.lines)
        self.lines += of(batch.lines())
        added = self.lines[first:] if first else self.lines
        if batch.values is not None:
            if self.values is None:
                self.values = list(self.lines[:first])
            self.values += of(batch.values)
        elif self.values is not None:
            self.values += added
        self.indexes += of(batch.indexes)
        self.lanes += of(batch.lanes or ())
        ready = batch.ready_ns
        self.ready += array("q", [ready] * len(added) if isinstance(ready, int) else of(ready))
        self.bytes += sum(map(len, added))


class WorkerProcess(asyncio.Protocol):
    """One worker: the process, the socket, and what it has to do."""

    def __init__(self, executor: Owner) -> None:
        self._executor = executor
        self.process: subprocess.Popen[bytes] | None = None
        self.transport: asyncio.Transport | None = None
        self.in_flight: dict[int, Frame] = {}
        self.queue: deque[Frame] = deque()
        self.open: Frame | None = None
        self.events = 0
        self.partitions: set[int] = set()
        self.started: asyncio.Future[None] | None = None
        self.gone: asyncio.Future[None] | None = None
        self._buffer = bytearray()
        self.ending = False
        self.seen = 0
        """The last work that it has answered."""
        self.hung_at: int | None = None
        """It was killed since it hung, at this place of its work (-1: unknown)."""
        self.hung_in = 0
        """Which work that was."""
        self.was_stopped = 0
        """How often in a row it was seen stopped."""
        self.was_killed = False
        """Whether its end was decided here."""
        self.was_struck = False
        """Whether it was sent a signal on purpose: it may stand still."""
        self.peak_rss = 0
        self._under_way: mmap.mmap | None = None
        self._end: asyncio.Future[None] | None = None

    async def start(self, message: Start) -> None:
        """Spawn the process and wait until it is ready. Raises HandlerNotFound."""
        loop = asyncio.get_running_loop()
        self.started, self.gone = loop.create_future(), loop.create_future()
        # When one worker can't start, nobody waits for the others any more.
        self.started.add_done_callback(lambda each: each.cancelled() or each.exception())
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * FRAME_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * FRAME_BYTES)
        command = [sys.executable, "-m", "millstream.engine.executors.child", str(theirs.fileno())]
        passed = [theirs.fileno()]
        memory = None
        if message.timeout_s is not None:
            memory = os.memfd_create("millstream-under-way")
            os.ftruncate(memory, 4096)
            self._under_way = mmap.mmap(memory, 4096)
            passed.append(memory)
            message = msgspec.structs.replace(message, under_way=memory)
        try:
            # Popen returns once the child runs: a millisecond, at the start of a run only.
            with _blocked(LEFT_TO_THE_RUN):
                self.process = subprocess.Popen(  # noqa: ASYNC220
                    command, pass_fds=passed, stdin=subprocess.DEVNULL, stdout=2
                )
        finally:
            theirs.close()
            if memory is not None:
                os.close(memory)
        ours.setblocking(False)
        try:
            await loop.create_connection(lambda: self, sock=ours)
        except BaseException:
            self.kill()
            self.connection_lost(None)  # uvloop does not say so when it was given up in the making
            self.transport = None
            raise
        self.send(message)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(self.started)
        except TimeoutError:
            self.kill()
            raise HandlerNotFound(
                f"a worker of stage {message.name!r} was not ready after {START_TIMEOUT_S:.0f} s: "
                "its import or its set-up hangs"
            ) from None

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.was_killed = True
        if self.process is not None and (self.gone is None or not self.gone.done()):
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)

    @property
    def is_ready(self) -> bool:
        """Whether it has started, and has not ended as far as is known."""
        has_started = self.started is not None and self.started.done()
        return has_started and self.gone is not None and not self.gone.done() and self.is_there

    @property
    def is_busy(self) -> bool:
        """Whether it has work in its hands."""
        return bool(self.in_flight)

    def strike(self, number: int) -> None:
        """Send it a signal, on purpose."""
        self.was_struck = True
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def look_after(self, timeout_s: float | None, *, is_async: bool) -> None:
        """Kill it when it hangs, or is stopped: another one takes its place."""
        if not self.in_flight or self.process is None or self.hung_at is not None:
            return
        if self._under_way is not None and timeout_s is not None:
            work, place, since = UNDER_WAY.unpack_from(self._under_way, 0)
            patience_ns = timeout_s * 1e9 * (2 if is_async else 1)
            if since and work in self.in_flight and time.monotonic_ns() - since > patience_ns:
                self.hung_at, self.hung_in = place, work
                self.kill()
                return
        try:
            is_stopped = psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return
        self.was_stopped = self.was_stopped + 1 if is_stopped else 0
        if self.was_stopped >= STOPPED_TWICE:
            self.kill()

    @property
    def is_there(self) -> bool:
        """Whether it can be given work."""
        return self.transport is not None and not (self.ending or self.transport.is_closing())

    def send(self, message: Request) -> None:
        assert self.transport is not None
        body = encode(message)
        self.transport.writelines((HEADER.pack(len(body)), body))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._end is None:
            self.transport = cast(asyncio.Transport, transport)  # uvloop's own are no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            size = HEADER.unpack_from(self._buffer)[0]
            end = HEADER.size + size
            if len(self._buffer) < end:
                return
            reply = decode_reply(memoryview(self._buffer)[HEADER.size : end].tobytes())
            del self._buffer[:end]
            self._on_reply(reply)

    def _on_reply(self, reply: Ready | Broken | Done) -> None:
        if isinstance(reply, Done):
            self._executor.on_done(self, reply)
        elif isinstance(reply, Broken) and self.ending:
            self._executor.context.torn(reply.message)
        elif self.started is not None and not self.started.done():
            if isinstance(reply, Broken):
                self.started.set_exception(HandlerNotFound(reply.message))
            else:
                self.started.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is None:
            self._end = asyncio.ensure_future(self._ended())

    async def _ended(self) -> None:
        assert self.process is not None and self.gone is not None
        code = await asyncio.to_thread(self._wait)
        if self.started is not None and not self.started.done():
            self.started.set_exception(
                DiedAtStart(
                    f"a worker of stage {self._executor.context.stage.name!r} died at start "
                    f"({how_it_ended(code)}), before its first event",
                    code,
                )
            )
        elif not self.ending:
            self._executor.on_death(self, code)
        elif code and not self.was_killed:
            self._executor.on_broken_end(f"its worker died of it ({how_it_ended(code)})")
        if not self.gone.done():
            self.gone.set_result(None)

    def _wait(self) -> int:
        """Wait for its end, in a thread; gives its exit code, or minus its signal."""
        assert self.process is not None
        try:
            _, status, usage = os.wait4(self.process.pid, 0)
        except ChildProcessError:  # somebody else has waited for it
            return self.process.returncode or 0
        self.peak_rss = usage.ru_maxrss * _MAXRSS_UNIT
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode


@contextmanager
def _blocked(signals: Iterable[int]) -> Iterator[None]:
    """What starts in the block has these signals blocked, until it lets them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(code: int) -> str:
    """How a process ended, in words."""
    return f"signal {signal_name(code)}" if code < 0 else f"exit code {code}"


def signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return str(-code)
