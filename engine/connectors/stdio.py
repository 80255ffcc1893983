"""Standard input and output, without ever blocking the loop."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from .base import ConnectorError, OutputError
from .pipes import READ_BYTES, PipeReader, widen


class StdinSource:
    """Standard input: a pipe, a terminal, or a file that was put in its place."""

    def __init__(self) -> None:
        self.name = "-"
        self.bytes_read = 0
        self.can_seek = False  # whoever opened it may read from it, too
        if sys.stdin is None:
            raise ConnectorError("standard input is closed; name a file, or pipe events in")
        self._fd = sys.stdin.fileno()
        mode = os.fstat(self._fd).st_mode
        self._is_file = stat.S_ISREG(mode)
        self.size = os.fstat(self._fd).st_size if self._is_file else None
        self._pipe = PipeReader(self._fd)
        self._stopped = False
        if stat.S_ISFIFO(mode):
            widen(self._fd)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises ConnectorError."""
        while not self._stopped:
            try:
                if self._is_file:
                    chunk = await asyncio.to_thread(os.read, self._fd, READ_BYTES)
                else:
                    chunk = await self._pipe.read()
            except OSError as error:
                raise ConnectorError(f"standard input: {error.strerror}") from error
            if not chunk:
                return
            self.bytes_read += len(chunk)
            yield chunk

    def seek(self, offset: int) -> None:
        raise AssertionError("standard input can't be rewound")

    def stop(self) -> None:
        self._stopped = True
        self._pipe.stop()


class StdoutSink:
    """Standard output; written in a thread, since a pipe that nobody reads blocks."""

    name = "-"
    can_be_cut = False

    def __init__(self) -> None:
        # Not sys.stdout: that may have been put elsewhere, so that handlers can print.
        if sys.__stdout__ is None:
            raise OutputError("standard output is closed; name a file: --output FILE")
        self._fd = sys.__stdout__.fileno()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="millstream-output")
        self._is_kept = False

    def keep(self, id: str, length: int | None) -> None:
        self._is_kept = True

    async def open(self) -> None:
        sys.stdout.flush()

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, _write_all, self._fd, data)
        except BrokenPipeError:
            raise
        except OSError as error:
            again = "go on with it by --resume" if self._is_kept else "run it again"
            raise OutputError(
                f"standard output can't be written: {error.strerror}; see to it that it can be, "
                f"then {again}"
            ) from error

    async def mark(self) -> int:
        return 0

    def sync(self) -> None:
        pass

    def forget(self, id: str) -> None:
        pass

    def identity(self) -> str | None:
        return None

    def is_complete(self, identity: str | None = None) -> bool:
        return True

    async def commit(self) -> None:
        self._thread.shutdown(wait=False)

    def drop(self, *, keep: bool) -> str | None:
        return None

    async def abandon(self, *, keep: bool) -> str | None:
        self._thread.shutdown(wait=False)
        return None


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            writable = select.poll()
            writable.register(fd, select.POLLOUT)
            writable.poll()


class NoSink:
    """Output that is thrown away: for handlers whose effects are all there is."""

    name = "none"
    can_be_cut = True

    def keep(self, id: str, length: int | None) -> None:
        pass

    async def open(self) -> None:
        pass

    async def write(self, data: bytes) -> None:
        pass

    async def mark(self) -> int:
        return 0

    def sync(self) -> None:
        pass

    def forget(self, id: str) -> None:
        pass

    def identity(self) -> str | None:
        return None

    def is_complete(self, identity: str | None = None) -> bool:
        return True

    async def commit(self) -> None:
        pass

    def drop(self, *, keep: bool) -> str | None:
        return None

    async def abandon(self, *, keep: bool) -> str | None:
        return None
