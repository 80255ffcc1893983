"""Cancellation: whose it is, and what must come to its end all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

FAILURES = BaseException
"""What an async handler may fail with; of these, ends_the_task() says what has to be passed on."""


def ends_the_task(error: BaseException) -> bool:
    """Whether `error` is the cancellation of the running task itself, or its end."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return True
    task = asyncio.current_task()
    is_cancelled = isinstance(error, asyncio.CancelledError)
    return is_cancelled and task is not None and task.cancelling() > 0


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait until `work` is done, however often this task is cancelled meanwhile; then it is."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
