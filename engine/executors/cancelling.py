"""Telling the end of the run from a handler that waited for something cancelled."""

from __future__ import annotations

import asyncio

FAILURES = (Exception, SystemExit, asyncio.CancelledError)
"""What an async handler may fail with; of these, ends_the_task() says what has to be passed on."""


def ends_the_task(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the running task itself."""
    task = asyncio.current_task()
    is_cancelled = isinstance(error, asyncio.CancelledError)
    return is_cancelled and task is not None and task.cancelling() > 0
