"""Loads for a run: by a generator in a process of its own, or in the loop (for other clocks)."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import msgspec
import numpy as np

from millstream.engine.codecs import BLOCK_BYTES, Times
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.connectors.pipes import PipeReader
from millstream.engine.load import LoadReport, Release

from .supply import Supply
from .wire import HEAD, LENGTH, ORIGIN, STOP, Broken, Ended, Message, Ready, Start, decode_message

START_TIMEOUT_S: Final = 120.0
_ENDING_TIMEOUT_S: Final = 2.0
_SOCKET_BYTES: Final = 1 << 20


class ProcessLoad:
    """The load of a scenario, from a process that does nothing else."""

    def __init__(self, start: Start) -> None:
        self.name = f"{start.scenario} (generated)"
        self.is_open = start.arrivals != "closed"
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: PipeReader | None = None
        self._counter: mmap.mmap | None = None
        self._buffer = bytearray()
        self._ended: Ended | None = None
        self._is_stopped = False
        self._starved_ns = 0

    @property
    def released(self) -> int:
        """How many events have been released by now."""
        if self._counter is None:
            return 0
        (count,) = ORIGIN.unpack_from(self._counter, 0)
        return int(count)

    async def open(self) -> None:
        """Start the process, and wait until it has made events ahead. Raises ConnectorError."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        memory = os.memfd_create("millstream-released")
        os.ftruncate(memory, mmap.PAGESIZE)
        self._counter = mmap.mmap(memory, mmap.PAGESIZE)
        command = [sys.executable, "-m", "millstream.workloads.generator"]
        command += [str(theirs.fileno()), str(memory), str(os.getpid())]
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220  # a millisecond, before anything runs
                command,
                pass_fds=[theirs.fileno(), memory],
                stdin=subprocess.DEVNULL,
                stdout=2,
            )
        finally:
            theirs.close()
            os.close(memory)
        self._socket = ours
        try:
            await self._wait_ready(ours)
        except BaseException:
            self.kill()
            raise

    async def _wait_ready(self, ours: socket.socket) -> None:
        body = msgspec.json.encode(self._start)
        with suppress(BrokenPipeError, ConnectionResetError):  # what is read next says why
            ours.sendall(LENGTH.pack(len(body)) + body)
        ours.setblocking(False)
        self._reader = PipeReader(ours.fileno())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                message = await self._message()
        except TimeoutError:
            raise ConnectorError(
                f"the load generator was not ready after {START_TIMEOUT_S:.0f} s"
            ) from None
        if isinstance(message, Broken):
            raise ConnectorError(f"the load can't be generated: {message.reason}")
        assert isinstance(message, Ready)

    def begin(self, origin_ns: int) -> None:
        """The schedule begins at `origin_ns`."""
        self._starved_ns = 0
        if not self._is_stopped:
            self._tell(ORIGIN.pack(origin_ns))

    def stop(self) -> None:
        """Release nothing more."""
        if not self._is_stopped:
            self._is_stopped = True
            self._tell(STOP)

    def _tell(self, data: bytes) -> None:
        if self._socket is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._socket.send(data)

    async def releases(self) -> AsyncIterator[Release]:
        """All that is released; what comes close together is put together."""
        while self._ended is None:
            frames, size = [], 0
            while (frame := self._frame()) is not None and frame[0]:
                frames.append(frame)
                size += len(frame[2])
                if size >= BLOCK_BYTES:
                    break
            if frames and self._is_stopped and not self.is_open:
                continue  # nothing of it was due: it is not waited for until all of it is handled
            if frames:
                yield _together(frames)
            elif frame is not None:
                self._take_message(frame[2])
            else:
                await self._fill()

    def _frame(self) -> tuple[int, bytes, bytes, int] | None:
        """The next frame that is there whole: count, intended times, lines, time of release.

        A message is left where it is as long as there are frames before it.
        """
        buffer = self._buffer
        if len(buffer) < HEAD.size:
            return None
        count, size, released_ns = HEAD.unpack_from(buffer)
        start = HEAD.size + (8 * count if released_ns else 0)
        if len(buffer) < start + size:
            return None
        times, data = bytes(buffer[HEAD.size : start]), bytes(buffer[start : start + size])
        if count:
            del buffer[: start + size]
        return count, times, data, released_ns

    async def _fill(self) -> None:
        assert self._reader is not None
        before_ns = time.monotonic_ns()
        try:
            more = await self._reader.read()
        except OSError as error:
            raise self._died() from error
        if not more:
            raise self._died()
        self._buffer += more
        self._starved_ns += time.monotonic_ns() - before_ns

    def _died(self) -> ConnectorError:
        assert self._process is not None
        how = "and can't be asked why"
        with suppress(subprocess.TimeoutExpired):  # its socket is closed: it is about to end
            code = self._process.wait(_ENDING_TIMEOUT_S)
            how = f"(exit code {code})"
            if code < 0:
                how = f"(killed by {signal.Signals(-code).name})"
        return ConnectorError(f"the load generator ended before its load did {how}")

    def _take_message(self, body: bytes) -> None:
        message = decode_message(body)
        assert isinstance(message, Ended)
        self._ended = message
        del self._buffer[: HEAD.size + len(body)]

    async def _message(self) -> Message:
        while (frame := self._frame()) is None:
            await self._fill()
        del self._buffer[: HEAD.size + len(frame[2])]
        message: Message = decode_message(frame[2])
        return message

    async def close(self) -> LoadReport:
        """The end of the process, and what it has said of itself."""
        if self._ended is None:
            self.stop()
            async for _ in self.releases():
                pass
        assert self._ended is not None and self._process is not None
        await asyncio.to_thread(self._process.wait)
        starved_ns = 0 if self.is_open else self._starved_ns
        return LoadReport(**msgspec.structs.asdict(self._ended), starved_ns=starved_ns)

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        if self._socket is not None:
            self._socket.close()


def _together(frames: list[tuple[int, bytes, bytes, int]]) -> Release:
    counts = [count for count, *_ in frames]
    data = frames[0][2] if len(frames) == 1 else b"\n".join(frame[2] for frame in frames)
    times = None
    if frames[0][3]:
        intended = np.frombuffer(b"".join(frame[1] for frame in frames), dtype="<i8")
        released = np.repeat(np.array([frame[3] for frame in frames], dtype=np.int64), counts)
        times = Times(intended, released)
    return Release(sum(counts), data, times)


class LocalLoad:
    """A load in the running loop: for clocks that only the loop knows.

    It steals the loop from the handlers, so that nothing it shows of a real clock can be trusted.
    """

    name = "in the loop"

    def __init__(self, supply: Supply, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self._supply = supply
        self._pieces: deque[Release] = deque()  # as at a busy system, what nobody takes waits
        self._there = asyncio.Event()
        self._released = 0
        self._is_over = False
        self._task: asyncio.Task[None] | None = None
        self._origin_ns = self._ended_ns = 0

    @property
    def released(self) -> int:
        return self._released

    async def open(self) -> None:
        """There is nothing to start."""

    def begin(self, origin_ns: int) -> None:
        self._origin_ns = origin_ns
        if self.is_open:
            self._task = asyncio.ensure_future(self._release())

    async def _release(self) -> None:
        supply, origin_ns = self._supply, self._origin_ns
        while not supply.is_over:
            if supply.is_empty:
                supply.make()
                continue
            now = time.monotonic_ns()
            for piece in supply.give(now - origin_ns):
                due = piece.due_ns + origin_ns
                released = np.full(len(due), now, dtype=np.int64)
                self._pieces.append(Release(len(due), piece.data, Times(due, released)))
                self._released += len(due)
                self._there.set()
            due_ns = supply.next_due_ns
            if due_ns is not None:
                await asyncio.sleep(max(0, origin_ns + due_ns - time.monotonic_ns()) / 1e9)
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over, self._ended_ns = True, time.monotonic_ns()
            self._there.set()

    async def releases(self) -> AsyncIterator[Release]:
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._is_over or (not self.is_open and self._supply.is_over):
                return
            if self.is_open:
                self._there.clear()
                await self._there.wait()
            else:
                self._supply.make()
                piece = self._supply.give_any()
                if piece is not None:
                    self._released += len(piece.due_ns)
                    yield Release(len(piece.due_ns), piece.data, None)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._end()

    async def close(self) -> LoadReport:
        self._end()
        return LoadReport(self._released, elapsed_ns=self._ended_ns - self._origin_ns)

    def kill(self) -> None:
        self.stop()
