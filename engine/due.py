"""When events in flight were due, and when they were released, by column and number.

Pure. What bounds it is how far the newest event is ahead of the oldest one that is not done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from .histogram import Ints

_NONE: Final = -1
_LEAST_ROOM: Final = 4096


class DueTimes:
    """Intended time and time of release (ns, monotonic) of each event that is not done."""

    def __init__(self) -> None:
        self._first = 0
        """The number that has the first place."""
        self._intended = np.full(_LEAST_ROOM, _NONE, dtype=np.int64)
        self._released = np.empty(_LEAST_ROOM, dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, numbers: Sequence[int], intended_ns: Ints, released_ns: Ints | int) -> None:
        """These were due, and released; none is below a floor that was told."""
        if not len(numbers):
            return
        last = numbers[-1] if type(numbers) is range else max(numbers)
        self._make_room(last + 1 - self._first)
        at = self._places(numbers)
        self._intended[at] = intended_ns
        self._released[at] = released_ns
        self._count += len(numbers)

    def take(self, numbers: Sequence[int]) -> tuple[Ints, Ints]:
        """Both times of those of `numbers` (distinct) that have some; then they are forgotten."""
        at = self._places(numbers)
        if isinstance(at, slice):
            at = np.arange(at.start, at.stop)
        at = at[(at >= 0) & (at < len(self._intended))]
        at = at[self._intended[at] != _NONE]
        taken = self._intended[at], self._released[at]
        self._intended[at] = _NONE
        self._count -= len(at)
        return taken

    def prune(self, floor: int) -> None:
        """All below `floor` is done."""
        done = floor - self._first
        if done * 2 < len(self._intended) or done <= 0:
            return
        self._shift(done, len(self._intended))

    def _make_room(self, count: int) -> None:
        room = len(self._intended)
        if count > room:
            self._shift(0, max(count, 2 * room))

    def _shift(self, gone: int, room: int) -> None:
        """Let the places begin `gone` numbers later."""
        for name in ("_intended", "_released"):
            before = getattr(self, name)
            after = np.full(room, _NONE, dtype=np.int64)
            kept = before[gone:]
            after[: len(kept)] = kept
            setattr(self, name, after)
        self._first += gone

    def _places(self, numbers: Sequence[int]) -> slice | Ints:
        if type(numbers) is range and numbers.step == 1 and numbers.start >= self._first:
            start = numbers.start - self._first
            return slice(start, start + len(numbers))
        return np.asarray(numbers, dtype=np.int64) - self._first
