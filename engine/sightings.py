"""What came lately: arrivals in order, sequence by sequence, so that a late one can be placed.

Pure. Holds the last `window` arrivals, batch by batch; each batch is sorted by sequence and number,
so that many look-ups are answered at once.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .histogram import Ints

Numbers = npt.NDArray[Any]

NOWHERE: Final = -1


class Batch:
    """In-order arrivals of one batch, sorted by row and by number."""

    __slots__ = ("ends", "indexes", "numbers", "places", "rows", "size", "starts", "times")

    def __init__(
        self,
        rows: Ints,
        starts: Ints,
        numbers: Numbers,
        indexes: Ints,
        times: Numbers | None,
        places: Ints | None,
        size: int,
    ) -> None:
        """`rows` are those that it has arrivals of, `starts` where each one's begin; `size` counts
        the late ones, too."""
        self.rows, self.starts = rows, starts
        self.ends = np.append(starts, len(numbers))[1:]
        self.numbers, self.indexes = numbers, indexes
        self.times, self.places, self.size = times, places, size

    def spans(self, rows: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
        """Where the arrivals of each of `rows` begin and end, and whether there are any."""
        if len(self.rows) == 0:
            none = np.zeros(len(rows), dtype=np.int64)
            return none, none, np.zeros(len(rows), dtype=bool)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return self.starts[at], self.ends[at], self.rows[at] == rows


class Found:
    """For each late arrival: the earliest one in the window that has a larger number (`after`), and
    the last in-order one with a number that is not larger (`before`)."""

    def __init__(self, count: int) -> None:
        self.after_in = np.full(count, NOWHERE, dtype=np.int64)
        """Which batch, from the newest on; NOWHERE: none."""
        self.after_at = np.zeros(count, dtype=np.int64)
        self.before_in = np.full(count, NOWHERE, dtype=np.int64)
        self.before_at = np.zeros(count, dtype=np.int64)
        self.is_seen = np.zeros(count, dtype=bool)
        """Whether an in-order arrival had just this number."""


class Sightings:
    """The window."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._batches: deque[Batch] = deque()  # the newest first
        self._size = 0

    @property
    def size(self) -> int:
        """How many arrivals it holds, the late ones included."""
        return self._size

    def add(self, batch: Batch) -> None:
        """Take the newest batch in, and let go of what is beyond the window."""
        self._batches.appendleft(batch)
        self._size += batch.size
        while self._size - self._batches[-1].size >= self.window:
            self._size -= self._batches.pop().size

    def find(self, rows: Ints, numbers: Numbers) -> Found:
        """Place late arrivals."""
        found = Found(len(rows))
        left = np.arange(len(rows))
        for number, batch in enumerate(self._batches):
            if not len(left):
                break
            begin, end, there = batch.spans(rows[left])
            some = np.flatnonzero(there)
            begin, end, asked = begin[some], end[some], left[some]
            at = _first_above(batch.numbers, begin, end, numbers[asked])
            later = at < end
            found.after_in[asked[later]] = number
            found.after_at[asked[later]] = at[later]
            earlier = at > begin
            done = asked[earlier]
            found.before_in[done] = number
            found.before_at[done] = at[earlier] - 1
            same = batch.numbers[at[earlier] - 1] == numbers[done]
            found.is_seen[done] = np.asarray(same, dtype=bool)
            if len(done):
                left = left[found.before_in[left] == NOWHERE]
        return found

    def column(self, name: str, which: Ints, at: Ints) -> Numbers | None:
        """A column's values at places that find() gave; where that is NOWHERE, anything."""
        values: Numbers | None = None
        for number, batch in enumerate(self._batches):
            column = getattr(batch, name)
            if column is None:
                return None
            here = np.flatnonzero(which == number)
            if values is None:
                values = np.zeros(len(which), dtype=column.dtype)
            if len(here):
                if column.dtype != values.dtype:
                    values = values.astype(np.promote_types(column.dtype, values.dtype))
                values[here] = column[at[here]]
        return values

    def last_of(self, rows: Ints, counts: Ints) -> dict[int, list[Any]]:
        """By row, the last so many numbers before the newest batch, or as many as there are.

        Oldest first.
        """
        found: dict[int, list[Any]] = {}
        left = counts.copy()
        for batch in islice(self._batches, 1, None):
            if not len(rows):
                break
            begin, end, there = batch.spans(rows)
            some = np.flatnonzero(there)
            begin = np.maximum(begin[some], end[some] - left[some])
            left[some] -= end[some] - begin
            spans = zip(rows[some].tolist(), begin.tolist(), end[some].tolist(), strict=True)
            for row, start, stop in spans:
                numbers = batch.numbers[start:stop].tolist()
                found[row] = numbers + found[row] if row in found else numbers
            rows, left = rows[left > 0], left[left > 0]
        return found

    def renumber(self, new_rows: Ints) -> None:
        """Rows have new numbers (-1: forgotten), in the same order."""
        for place, batch in enumerate(self._batches):
            rows = new_rows[batch.rows]
            stays = rows >= 0
            if stays.all():
                batch.rows = rows
                continue
            kept = np.repeat(stays, batch.ends - batch.starts)
            lengths = (batch.ends - batch.starts)[stays]
            starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
            self._batches[place] = Batch(
                rows[stays],
                starts[: len(lengths)],
                batch.numbers[kept],
                batch.indexes[kept],
                None if batch.times is None else batch.times[kept],
                None if batch.places is None else batch.places[kept],
                batch.size,
            )


def _first_above(column: Numbers, begin: Ints, end: Ints, values: Numbers) -> Ints:
    """In column[begin:end], which rises, the place of the first number above each of `values`."""
    if len(begin) and (begin == begin[0]).all():
        start = int(begin[0])
        above: Ints = np.searchsorted(column[start : int(end[0])], values, side="right")
        return start + above
    low, high = begin.copy(), end.copy()
    while True:
        open_ = np.flatnonzero(low < high)
        if not len(open_):
            return low
        middle = (low[open_] + high[open_]) >> 1
        is_above = np.asarray(column[middle] > values[open_], dtype=bool)
        high[open_[is_above]] = middle[is_above]
        low[open_[~is_above]] = middle[~is_above] + 1
