"""The events of a load with their times, made ahead in chunks: lines joined, and where each ends.

Pure: who gives them out, and when, is not decided here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Final

import numpy as np
from msgspec import Struct

from millstream.engine.arrivals import Arrivals
from millstream.engine.histogram import Ints

CHUNK_EVENTS: Final = 64
"""Few enough that to make them takes less time than what is due may be late by."""


class Chunk(Struct, frozen=True, gc=False):
    """Some events, in order."""

    due_ns: Ints
    """Since the start of the schedule."""
    data: bytes
    """Each line with its end."""
    ends: Ints
    """Where in `data` each line, with its end, stops."""

    def __len__(self) -> int:
        return len(self.due_ns)


class Piece(Struct, frozen=True, gc=False):
    """What is given out at a time: some events of a chunk."""

    due_ns: Ints
    data: bytes
    """Lines joined by newlines, without the last one's end."""


class Supply:
    """Makes events ahead, and gives out those that are due."""

    def __init__(
        self,
        lines: Iterator[bytes],
        arrivals: Arrivals,
        *,
        events: int | None,
        duration_ns: int | None,
    ) -> None:
        """It ends after so many events, or with those that are due before `duration_ns`, or, at the
        latest, with its lines or its times."""
        self._lines, self._arrivals = lines, arrivals
        self._left, self._duration_ns = events, duration_ns
        self._chunks: deque[Chunk] = deque()  # whoever calls make() bounds it, by `bytes`
        self._at = 0
        self.bytes = 0
        """Of what is made and not given out."""
        self.is_made = False
        """Whether there is no more to be made."""

    @property
    def is_over(self) -> bool:
        """Whether all has been given out."""
        return self.is_made and not self._chunks

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there to be given out, due or not."""
        return not self._chunks

    @property
    def next_due_ns(self) -> int | None:
        """When the next event is due; None when none is there."""
        return int(self._chunks[0].due_ns[self._at]) if self._chunks else None

    def make(self, count: int = CHUNK_EVENTS) -> None:
        """Make at most `count` events more."""
        if self._left is not None:
            count = min(count, self._left)
        due = self._arrivals.take(count) if count else np.empty(0, dtype=np.int64)
        if self._duration_ns is not None:
            due = due[: int(np.searchsorted(due, self._duration_ns))]
        self.is_made = len(due) < count or (self._left is not None and len(due) == self._left)
        lines = [line + b"\n" for line in islice(self._lines, len(due))]
        if len(lines) < len(due):  # a stream is to be endless; this one is not
            due, self.is_made = due[: len(lines)], True
        if not lines:
            self.is_made = True
            return
        if self._left is not None:
            self._left -= len(due)
        ends = np.fromiter(accumulate(map(len, lines)), dtype=np.int64, count=len(lines))
        chunk = Chunk(due, b"".join(lines), ends)
        self._chunks.append(chunk)
        self.bytes += len(chunk.data)

    def give(self, elapsed_ns: int) -> Iterator[Piece]:
        """All that is due by `elapsed_ns`."""
        while self._chunks:
            chunk = self._chunks[0]
            stop = int(np.searchsorted(chunk.due_ns, elapsed_ns, "right"))
            if stop <= self._at:
                return
            yield self._cut(chunk, stop)

    def give_any(self) -> Piece | None:
        """The next chunk, due or not."""
        return self._cut(self._chunks[0], len(self._chunks[0])) if self._chunks else None

    def _cut(self, chunk: Chunk, stop: int) -> Piece:
        start = self._at
        first = int(chunk.ends[start - 1]) if start else 0
        last = int(chunk.ends[stop - 1])
        if stop == len(chunk):
            self._chunks.popleft()
            self._at = 0
        else:
            self._at = stop
        self.bytes -= last - first
        return Piece(chunk.due_ns[start:stop], chunk.data[first : last - 1])
