"""A trace of a run's handler calls, kept outside of its own bookkeeping: `millstream prove` asks.

A call is 8 bytes in a file that all processes of a run append to, written before the handler is
called; what was written outlives a SIGKILL. A run that is not asked to pays nothing.
Imported by worker processes: neither numpy nor asyncio here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from .plan import StagePlan

TRACE: Final = "MILLSTREAM_TRACE_CALLS"
"""Environment: the file that calls are appended to."""
KILL_AT: Final = "MILLSTREAM_TRACE_KILL_AT"
"""Environment: the call, from 1, over the whole file, whose process kills all of its group."""
FIRST_STAGE: Final = "MILLSTREAM_TRACE_FIRST_STAGE"
"""Environment: the name of the stage that is called with lines of a source."""
CALL_BYTES: Final = 8
MADE: Final = 1
"""The lowest bit of a call, as a little-endian number: its event has passed other handlers."""


def traced(stage: StagePlan) -> StagePlan:
    """The stage whose handler's calls, in this process, are traced when that is asked for.

    Raises OSError when the file can't be written.
    """
    path = os.environ.get(TRACE)
    if path is None:
        return stage
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    is_first = os.environ.get(FIRST_STAGE, stage.name) == stage.name
    note = _noter(fd, digest_of(stage.name, is_first=is_first), _kill_at())
    handler = stage.handler

    def call(given: Any, **more: Any) -> Any:
        note(given)
        return handler(given, **more)  # also an awaitable, or a generator: the plan knows its kind

    return replace(stage, handler=call)


def _kill_at() -> int | None:
    """Where to kill the group; only in a session of its own, which a shell's job never has."""
    at = os.environ.get(KILL_AT)
    return int(at) if at is not None and os.getpgrp() == os.getsid(0) else None


def _noter(fd: int, digest: Callable[[bytes], bytes], kill_at: int | None) -> Callable[[Any], None]:
    def note(given: Any) -> None:
        events = given if type(given) is list else (given,)
        os.write(fd, b"".join([digest(_identity(event)) for event in events]))
        # The offset after an append is the length of the file, whoever else has written to it.
        if kill_at is not None and os.lseek(fd, 0, os.SEEK_CUR) >= kill_at * CALL_BYTES:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    return note


def digest_of(stage: str, *, is_first: bool = True) -> Callable[[bytes], bytes]:
    """What stands in the trace for a call of a stage: its argument is the event's line."""
    from hashlib import blake2b

    start = blake2b(stage.encode("utf-8", "surrogatepass") + b"\n", digest_size=CALL_BYTES)
    bit = 0 if is_first else MADE

    def digest(line: bytes) -> bytes:
        state = start.copy()
        state.update(line)
        found = state.digest()
        return bytes((found[0] & ~MADE | bit,)) + found[1:]

    return digest


def _identity(event: Any) -> bytes:
    """An event as it came, or, when a handler made it, its line."""
    line = getattr(event, "_line", None)
    if line is not None:
        return bytes(line)
    try:
        return bytes(event.to_line())
    except (TypeError, ValueError, OverflowError, RecursionError):  # it will be said elsewhere
        return repr(event).encode("utf-8", "backslashreplace")
