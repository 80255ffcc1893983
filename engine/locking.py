"""Who may write a dead-letter file: runs, which append to it, share it; a replay has it alone.

Advisory locks (flock), held by the open file: they end with the process, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NO_LOCKS: Final = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)
"""What a file system answers that has no locks."""


def open_shared(path: str, flags: int) -> int:
    """Open a file together with others. Raises BlockingIOError while somebody has it alone.

    What can't be locked (a device, a pipe, a file system without locks) is opened all the same.
    """
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            _lock(fd, fcntl.LOCK_SH)
            if _stands_at(fd, path):
                return fd
        except OSError as error:
            if error.errno in NO_LOCKS:
                return fd
            os.close(fd)
            raise
        os.close(fd)  # a replay has put another file in its place meanwhile


@contextmanager
def alone(fd: int) -> Iterator[bool]:
    """Keep others off an open file that is shared, while the block runs; gives whether they are."""
    try:
        _lock(fd, fcntl.LOCK_EX)
    except BlockingIOError:
        _lock(fd, fcntl.LOCK_SH)  # an attempt has let go of it
        yield False
    except OSError:  # there are no locks
        yield False
    else:
        try:
            yield True
        finally:
            _lock(fd, fcntl.LOCK_SH)


def open_alone(path: str) -> int:
    """Open a file to read it while nobody writes to it. Raises BlockingIOError, OSError."""
    while True:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _lock(fd, fcntl.LOCK_EX)
            if _stands_at(fd, path):
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def _lock(fd: int, kind: int) -> None:
    fcntl.flock(fd, kind | fcntl.LOCK_NB)


def _stands_at(fd: int, path: str) -> bool:
    """Whether the open file is still the one that stands under the name."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
