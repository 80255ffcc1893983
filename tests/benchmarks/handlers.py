"""The handlers that the Millstream rows run, and the arithmetic that stands for 20 µs of work.

Nothing but the standard library is imported here: start-up is part of what is measured.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol

# How many turns of the loop take 20 µs on this machine: the harness measures it once and hands
# the same number to every contender.
SPIN_VARIABLE = "MILLSTREAM_BENCH_SPIN"
SPIN_TURNS = int(os.environ.get(SPIN_VARIABLE, "400"))
KEPT_TYPE = "order.placed"
SLEEP_SECONDS = 0.005


class Event(Protocol):
    """What these handlers use of an event."""

    type: str | None
    data: Any


def spin(turns: int) -> int:
    """Use the processor for `turns` turns: never by the clock, so a slow moment costs as much."""
    state = 1
    for _ in range(turns):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return state


def change(event: Event) -> Event:
    """Change one field of the payload: the work of the bare loop."""
    event.data["paid"] = True
    return event


async def achange(event: Event) -> Event:
    """The same in a coroutine that never suspends."""
    event.data["paid"] = True
    return event


def passthrough(event: Event) -> Event:
    """Touch nothing."""
    return event


def by_type(event: Event) -> Event | None:
    """Keep one type, about half of the events, and leave the payload alone."""
    return event if event.type == KEPT_TYPE else None


def spin20(event: Event) -> Event:
    """20 µs of computing, then the change."""
    spin(SPIN_TURNS)
    event.data["paid"] = True
    return event


async def aio5(event: Event) -> Event:
    """5 ms of waiting, then the change."""
    await asyncio.sleep(SLEEP_SECONDS)
    event.data["paid"] = True
    return event
