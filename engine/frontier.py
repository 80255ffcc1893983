"""The frontier: how far all is done, without a gap, and what is done above it.

Pure. Completions come in any order; memory follows the span of what is unfinished (a bit more
than a byte an event, far less where a whole stretch is done), never the length of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

_SHIFT: Final = 12
_CHUNK: Final = 1 << _SHIFT
_ONES: Final = b"\1" * _CHUNK
_MANY: Final = 64
"""From here on numpy is faster than one by one."""
_MOST_CHUNKS: Final = 8


class Frontier:
    """Which of the positions 0, 1, 2, … are done; each is to be done once."""

    def __init__(self) -> None:
        self.floor = 0
        """All positions below it are done."""
        self.done = 0
        """How many positions are done, those above the floor included."""
        self._chunks: dict[int, bytearray | None] = {}  # None: all of the chunk is done

    def add(self, positions: Sequence[int]) -> list[int]:
        """Mark as done; gives back those that were done before (their second time)."""
        if isinstance(positions, range) and positions.step == 1:
            again = self._add_range(positions.start, positions.stop)
        elif len(positions) < _MANY or not self._add_many(positions):
            again = self._add_each(positions)
        else:
            again = []
        self.done += len(positions) - len(again)
        if self._chunks:
            self._advance()
        return again

    def missing_below(self, end: int, most: int = 10) -> tuple[int, list[int]]:
        """How many positions below `end` are not done, and the first few of them."""
        first: list[int] = []
        at = self.floor
        while at < end and len(first) < most:
            number = at >> _SHIFT
            chunk = self._chunks.get(number, b"")
            stop = min(end, (number + 1) << _SHIFT)
            if chunk is not None:
                base = number << _SHIFT
                first += [p for p in range(at, stop) if not chunk or not chunk[p - base]]
            at = stop
        return end - self.done, first[:most]

    def _add_range(self, start: int, stop: int) -> list[int]:
        if start == self.floor and not self._chunks:
            self.floor = stop
            return []
        again = list(range(start, min(stop, self.floor)))
        start = max(start, self.floor)
        while start < stop:
            number = start >> _SHIFT
            base = number << _SHIFT
            low, high = start - base, min(stop - base, _CHUNK)
            chunk = self._chunks.setdefault(number, bytearray(_CHUNK))
            if chunk is None:
                again += range(start, base + high)
            else:
                if any(chunk[low:high]):
                    again += [base + p for p in range(low, high) if chunk[p]]
                chunk[low:high] = _ONES[low:high]
                self._close_if_full(number, chunk)
            start = base + high
        return again

    def _add_many(self, positions: Sequence[int]) -> bool:
        """Mark many at once; leaves all as it was when some were done before."""
        many = np.asarray(positions, dtype=np.int64)
        first, last = int(many.min()) >> _SHIFT, int(many.max()) >> _SHIFT
        if first < self.floor >> _SHIFT or last - first > _MOST_CHUNKS:
            return False
        marked: dict[int, bytearray] = {}
        for number in range(first, last + 1):
            own = many[many >> _SHIFT == number] if first != last else many
            chunk = self._chunks.get(number, b"")
            if chunk is None or (number == first and int(own.min()) < self.floor):
                return False
            marked[number] = fresh = bytearray(chunk) or bytearray(_CHUNK)
            seen = np.frombuffer(fresh, dtype=np.uint8)
            before = np.count_nonzero(seen)
            seen[own & (_CHUNK - 1)] = 1
            if np.count_nonzero(seen) - before != len(own):
                return False
        for number, fresh in marked.items():
            self._chunks[number] = fresh
            self._close_if_full(number, fresh)
        return True

    def _add_each(self, positions: Sequence[int]) -> list[int]:
        again = []
        floor = self.floor
        chunks = self._chunks
        touched = set()
        for position in positions:
            number = position >> _SHIFT
            chunk = chunks.get(number, b"")
            if position < floor or chunk is None:
                again.append(position)
                continue
            if not chunk:
                chunk = chunks[number] = bytearray(_CHUNK)
            at = position & (_CHUNK - 1)
            if chunk[at]:
                again.append(position)
            else:
                chunk[at] = 1  # type: ignore[index]  # b"" was replaced by a bytearray
                touched.add(number)
        for number in touched:
            chunk = chunks[number]
            if isinstance(chunk, bytearray):
                self._close_if_full(number, chunk)
        return again

    def _close_if_full(self, number: int, chunk: bytearray) -> None:
        if chunk.find(0) < 0:
            self._chunks[number] = None

    def _advance(self) -> None:
        while True:
            number = self.floor >> _SHIFT
            chunk = self._chunks.get(number, b"")
            if chunk is not None:
                if not chunk:
                    return
                at = chunk.find(0, self.floor & (_CHUNK - 1))
                if at >= 0:
                    self.floor = (number << _SHIFT) + at
                    return
            self._chunks.pop(number, None)
            self.floor = (number + 1) << _SHIFT
