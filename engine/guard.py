"""A run that ends with whoever started it: `millstream prove` asks for it.

The starter holds the write end of a pipe, and nobody else does: when it is gone, even by SIGKILL,
the pipe hangs up. A run that is not asked to watch pays nothing. No module of ours is imported.
"""

from __future__ import annotations

import os
import select
import signal
from threading import Thread
from typing import Final

GUARD: Final = "MILLSTREAM_GUARD"
"""Environment: the number of the pipe's read end."""


def watch_when_asked() -> None:
    """From now on, kill this process's group once the pipe hangs up; only in its own session."""
    number = os.environ.pop(GUARD, None)
    if number is not None and os.getpgrp() == os.getsid(0) == os.getpid():
        os.set_inheritable(int(number), False)  # to what handlers start
        Thread(target=_watch, args=(int(number),), name="millstream-guard", daemon=True).start()


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is told unasked
    if poll.poll()[0][1] & select.POLLHUP:
        os.killpg(os.getpgrp(), signal.SIGKILL)
