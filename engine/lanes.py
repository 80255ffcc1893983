"""Which sequence an event belongs to: keys, by their hashes, to rows of a table.

Pure. What is remembered of each sequence stands in columns, so that a batch of events is looked up
at once: one by one, each look-up would wait for memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .histogram import Ints

_FIRST_ROWS: Final = 1024
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_INT_TAG: Final = 0x9E3779B9

NO_KEY: Final = hash(None)
"""The hash of an event that has no key."""


def hashes_of(keys: Sequence[Any]) -> Ints:
    """A 64-bit number for each key; two keys have the same with a chance of 2⁻⁶⁴."""
    are_plain = set(map(type, keys)) <= {str, type(None)}
    return np.fromiter(map(hash if are_plain else _hash_of, keys), np.int64, len(keys))


def _hash_of(key: Any) -> int:
    # Python's own hash of a number is the number, and that of -1 is that of -2.
    if type(key) is str or key is None:
        return hash(key)
    return hash((_INT_TAG, repr(key)))


class LaneTable:
    """What is known of each sequence, by row: columns of one length.

    It holds at most `limit` sequences, and half as many anew at a time; of those that it forgets,
    `forgotten_max` is the largest number.
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, 2)
        self.rows = 0
        self.seen = 0
        """How many sequences there were, those forgotten included."""
        self.forgotten_max: Any = None
        self._hash = np.zeros(_FIRST_ROWS, dtype=np.int64)
        self.max_number: npt.NDArray[Any] = np.zeros(_FIRST_ROWS, dtype=np.int64)
        self.count = np.zeros(_FIRST_ROWS, dtype=np.int64)
        """First copies so far."""
        self.last_late = np.zeros(_FIRST_ROWS, dtype=np.int64)
        """The index of the last one that was reordered; 0: none was."""
        self.last_seen = np.zeros(_FIRST_ROWS, dtype=np.int64)
        """The position of its last arrival."""
        self.gaps: npt.NDArray[Any] = np.zeros(_FIRST_ROWS, dtype=np.int64)
        """Bit k: whether a sequence discontinuity came k arrivals before the last one."""
        self.is_open = np.zeros(_FIRST_ROWS, dtype=bool)
        """Whether its densities are followed event by event."""
        self.was_late = np.zeros(_FIRST_ROWS, dtype=bool)
        """Whether an arrival was reordered, before the last batch."""
        self.is_cut = np.zeros(_FIRST_ROWS, dtype=bool)
        """Whether it may have had arrivals that were forgotten."""
        self.cut_at: npt.NDArray[Any] = np.zeros(_FIRST_ROWS, dtype=np.int64)
        """If so: the largest number that they may have had."""
        self._index = np.full(4 * _FIRST_ROWS, -1, dtype=np.int32)

    _COLUMNS: Final = (
        *("_hash", "max_number", "count", "last_late", "last_seen", "gaps"),
        *("is_open", "was_late", "is_cut", "cut_at"),
    )

    def rows_of(self, hashes: Ints) -> Ints:
        """The row of each of `hashes`; those that are new get the next rows."""
        mask = len(self._index) - 1
        at = _home(hashes, mask)
        row = self._index[at]
        same = (self._hash[row] == hashes) & (row >= 0)
        found = np.where(same, row, -1).astype(np.int64)
        # Most are found at once. For the others, look on.
        left = np.flatnonzero(~same)
        row, at = row[left], at[left]
        new: list[Ints] = []
        while len(left):
            new.append(left[row < 0])
            other = row >= 0
            left, at = left[other], (at[other] + 1) & mask
            row = self._index[at]
            same = (row >= 0) & (self._hash[row] == hashes[left])
            found[left[same]] = row[same]
            left, at, row = left[~same], at[~same], row[~same]
        missing = np.concatenate(new) if new else left
        if len(missing):
            values, places = np.unique(hashes[missing], return_inverse=True)
            found[missing] = self._add(values)[places]
        return found

    def _add(self, hashes: Ints) -> Ints:
        first, self.rows = self.rows, self.rows + len(hashes)
        self.seen += len(hashes)
        if self.rows > len(self._hash):
            self._grow()
        rows = np.arange(first, self.rows, dtype=np.int64)
        self._hash[rows] = hashes
        if self.forgotten_max is not None:
            self.is_cut[rows], self.cut_at[rows] = True, self.forgotten_max
        if 2 * self.rows > len(self._index):
            self._index_anew()
        else:
            self._put(rows)
        return rows

    def _grow(self) -> None:
        size = max(2 * len(self._hash), self.rows)
        for name in self._COLUMNS:
            old = getattr(self, name)
            column = np.zeros(size, dtype=old.dtype)
            column[: len(old)] = old
            setattr(self, name, column)

    def _index_anew(self) -> None:
        size = 4 * _FIRST_ROWS
        while size < 2 * self.rows + _FIRST_ROWS:
            size *= 2
        self._index = np.full(size, -1, dtype=np.int32)
        self._put(np.arange(self.rows, dtype=np.int64))

    def _put(self, rows: Ints) -> None:
        mask = len(self._index) - 1
        at = _home(self._hash[rows], mask)
        while len(rows):
            free = self._index[at] < 0
            self._index[at[free]] = rows[free]  # of several the last one stays
            lost = self._index[at] != rows
            rows, at = rows[lost], (at[lost] + 1) & mask

    def is_full(self) -> bool:
        """Whether it is time to forget some."""
        return self.rows > self.limit

    def forget(self) -> Ints:
        """Forget those that were not seen for longest, down to half of the limit.

        Gives the new row of each old one, -1 for what is forgotten; the rows that stay keep their
        order.
        """
        last_seen = self.last_seen[: self.rows]
        keep = self.limit // 2
        oldest = np.partition(last_seen, self.rows - keep)[self.rows - keep]
        stays = last_seen >= oldest
        gone = np.flatnonzero(~stays & (self.count[: self.rows] > 0))
        if len(gone):
            largest = self.max_number[gone].max()
            known = self.forgotten_max
            self.forgotten_max = largest if known is None else max(known, largest)
        new = np.where(stays, np.cumsum(stays) - 1, -1)
        kept = np.flatnonzero(stays)
        for name in self._COLUMNS:
            column = getattr(self, name)
            column[: len(kept)] = column[kept]
            column[len(kept) : self.rows] = 0
        self.rows = len(kept)
        self._index_anew()
        return new

    def widen(self, name: str) -> None:
        """Let a column hold any object."""
        column = getattr(self, name)
        if column.dtype != object:
            setattr(self, name, column.astype(object))


def _home(hashes: Ints, mask: int) -> Ints:
    mixed = hashes.view(np.uint64) * _MIX
    return ((mixed >> np.uint64(32)) & np.uint64(mask)).astype(np.int64)
