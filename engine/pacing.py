"""Pacing: when event i is due.

Pure: given the elapsed time, a pacer says how many events are due; it never sleeps. All times are
in ns since the start of the schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

NS: int = 1_000_000_000


class Pacer(Protocol):
    """Gives each event its intended time, in order; the times never decrease."""

    def schedule(
        self, first: int, event_times_ns: Sequence[int | None] | None, count: int
    ) -> list[int]:
        """When the events first, first + 1, … are due."""
        ...


class ConstantPacer:
    """Event i is due at i / rate: an open load that does not wait for anybody."""

    def __init__(self, rate_per_second: float) -> None:
        if not rate_per_second > 0:
            raise ValueError(f"the rate is {rate_per_second} events per second; give one above 0")
        self.rate_per_second = rate_per_second

    def schedule(
        self, first: int, event_times_ns: Sequence[int | None] | None, count: int
    ) -> list[int]:
        rate = self.rate_per_second
        return [int(i * NS / rate) for i in range(first, first + count)]


class TimePacer:
    """Events are due at their own pace: as far apart as their times, divided by `speed`.

    An event without a time, or with one before that of an earlier event, is due with the one
    before it.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"the speed is {speed}; give a factor above 0")
        self.speed = speed
        self._origin_ns: int | None = None
        self._last = 0

    def schedule(
        self, first: int, event_times_ns: Sequence[int | None] | None, count: int
    ) -> list[int]:
        due = []
        for time_ns in event_times_ns or [None] * count:
            if time_ns is not None:
                if self._origin_ns is None:
                    self._origin_ns = time_ns
                self._last = max(self._last, int((time_ns - self._origin_ns) / self.speed))
            due.append(self._last)
        return due


def due_count(due_ns: Sequence[int], start: int, elapsed_ns: int) -> int:
    """How many of due_ns[start:] have come by now; each keeps its own intended time."""
    at = start
    while at < len(due_ns) and due_ns[at] <= elapsed_ns:
        at += 1
    return at - start
