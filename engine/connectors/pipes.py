"""Reading what may be empty for a while (pipes, terminals, devices) without blocking anything."""

from __future__ import annotations

import asyncio
import os
import select
from typing import Final

READ_BYTES: Final = 256 * 1024
_PIPE_BYTES: Final = 1024 * 1024


class PipeReader:
    """Reads an open file descriptor as bytes come; stop() ends the wait for them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()  # select() takes no descriptor beyond 1023
        self._poll.register(fd, select.POLLIN)
        self._stopped = False
        self._readable: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """The next bytes; b"" at the end, or once stopped. Raises OSError."""
        while not self._stopped:
            if not self._poll.poll(0):
                await self._wait_readable()
                continue
            try:
                return os.read(self._fd, READ_BYTES)
            except BlockingIOError:  # somebody else was faster
                continue
        return b""

    async def _wait_readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._readable = loop.create_future()
        try:
            loop.add_reader(self._fd, self._wake)
        except OSError:  # such as /dev/null, which is always readable
            return
        try:
            await self._readable
        finally:
            loop.remove_reader(self._fd)

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def stop(self) -> None:
        """Nothing more is wanted."""
        self._stopped = True
        self._wake()


def widen(fd: int) -> None:
    """A larger pipe means fewer turns; where that is not allowed, it stays as it is."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (OSError, AttributeError):
        pass
