"""Which events came before, by their id: exact within the last so many distinct ids.

Pure: told of numbers and ids in order of arrival, it says which event is a duplicate, and what a
checkpoint has to keep so that a later sitting says the same of each number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from msgspec import Struct

from .event import Scalar

DEFAULT_WINDOW = 100_000
MOST_NOTED = 100_000
"""Duplicates between two snapshots."""


class DedupeState(Struct, frozen=True):
    """What is kept beside the ids of the window, which are kept one by one."""

    decided: int
    found: int
    unfinished: list[int]
    """Of the numbers below `decided`: duplicates that are not done."""


class Dedupe:
    """The last `window` distinct ids, each with the number of the event that brought it.

    An id that comes again keeps its place: it is forgotten when `window` other ids came after its
    first event. Memory: `window` ids, and with a checkpoint those that left since the last one.
    """

    def __init__(self, window: int) -> None:
        self.found = 0
        """How many duplicates there were."""
        self.decided = 0
        """The number after the last one that was decided about."""
        self._window = window
        self._first: dict[bytes, int] = {}  # in the order in which they came; at most _window
        self._keeps = False
        self._duplicates: list[int] = []  # not known to be done at the last snapshot, or since
        self._noted = 0  # of them: since
        self._new: dict[bytes, int] = {}  # of _first: those that are not kept yet
        self._gone: set[bytes] = set()  # kept, and no longer in _first; at most _window

    def __len__(self) -> int:
        return len(self._first)

    def is_duplicate(self, number: int, id: Scalar) -> bool:
        """Whether an event brings an id that is in the window. Without an id it never is one.

        Numbers rise, but for those of an earlier sitting, of which it is told again what it was.
        """
        if number < self.decided:
            at = bisect_left(self._duplicates, number)
            return self._duplicates[at : at + 1] == [number]
        self.decided = number + 1
        if id is None or id == "":
            return False
        key = _key_of(id)
        if key in self._first:
            self.found += 1
            if self._keeps:
                self._duplicates.append(number)
                self._noted += 1
            return True
        self._enter(key, number)
        return False

    def _enter(self, key: bytes, number: int) -> None:
        self._first[key] = number
        if self._keeps:
            self._new[key] = number
        if len(self._first) <= self._window:
            return
        oldest = next(iter(self._first))
        del self._first[oldest]
        if self._keeps and self._new.pop(oldest, None) is None:
            self._gone.add(oldest)

    # --- what is kept

    def keep(self) -> None:
        """From now on, note what changes() is to tell."""
        self._keeps = True

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """What came into the window and left it since the last time: id, and number or None."""
        gone = [(key, None) for key in self._gone if key not in self._new]
        new = [(key, b"%d" % number) for key, number in self._new.items()]
        self._new, self._gone = {}, set()
        return [*gone, *new]

    def snapshot(self, undone: Sequence[int]) -> DedupeState:
        """`undone`: the places among duplicates() of those that are not done."""
        self._duplicates = [self._duplicates[place] for place in undone]
        self._noted = 0
        return DedupeState(self.decided, self.found, self._duplicates)

    @property
    def wants_snapshot(self) -> bool:
        """Whether so many duplicates came since the last one that they should not be kept."""
        return self._noted >= MOST_NOTED

    def duplicates(self) -> list[int]:
        """The numbers of duplicates that were not known to be done at the last snapshot."""
        return self._duplicates

    def go_on_from(self, state: DedupeState, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin where an earlier sitting stood; `rows`: what changes() told of, as it is now."""
        self.decided, self.found = state.decided, state.found
        self._duplicates = list(state.unfinished)
        numbers = sorted((int(number), key) for key, number in rows)
        self._first = {key: number for number, key in numbers}


def _key_of(id: Scalar) -> bytes:
    """Ids of different types differ: 1 is not "1"."""
    if type(id) is str:
        return b"=" + id.encode()
    return b"#" + repr(id).encode()
