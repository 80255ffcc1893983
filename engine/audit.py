"""The audit of sequences: how far a stream was from its order, by RFC 4737 and RFC 5236.

Pure. It is told of arrivals in batches (number, key, time, place) and gives figures that can be
merged. The definitions stand in the methods' docstrings; `s[i]` is the number of the i-th first
copy of a sequence, i from 1, and NextExp the largest number so far plus 1.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from .densities import (
    Densities,
    Tally,
    add_occupancies,
    bit_lengths,
    calm_occupancies,
    count_in_step,
    first_expected,
    gap_bits,
    replay,
)
from .histogram import Ints, bucket_of, lowest_in
from .lanes import LaneTable
from .sightings import NOWHERE, Batch, Found, Numbers, Sightings

Scope = Literal["global", "key"]

THRESHOLD: Final = 8
"""DT and BT of RFC 5236, unless told otherwise."""
WINDOW: Final = 2_000_000
"""How many of the last arrivals are remembered."""
MOST_EXAMPLES: Final = 10

_ROWS_A_WINDOW: Final = 2
"""The window is so many times as long as there are sequences remembered."""
_MOST_BITS: Final = 50
_SHORT: Final = 16
"""Sequences that have no more arrivals in a batch are followed in step with each other."""
_MANY_GAPS: Final = 32
"""From here on numpy is faster than one by one."""
_WIDE: Final = 1 << 62
"""The difference of two numbers beyond it may not fit 64 bits."""

Bools = npt.NDArray[np.bool_]


class Example(msgspec.Struct, frozen=True):
    """An offender: the arrival, and the one that it should have come before (or is a copy of).

    `position` counts all arrivals from 1; `source` and `line` are filled in where they are known.
    """

    kind: Literal["reordered", "duplicate", "unknown"]
    key: Any
    sequence: Any
    position: int
    place: int | None = None
    extent: int | None = None
    after: dict[str, Any] | None = None


class Figures(msgspec.Struct):
    """What was counted; merge() adds what was counted of other sequences."""

    scope: Scope
    threshold: int
    window: int
    events: int = 0
    keys: int | None = 0
    """None: they were not counted."""
    first_copies: int = 0
    reordered: int = 0
    duplicates: int = 0
    unknown: int = 0
    """Arrivals of which nothing is said: they, or what they would be compared with, are beyond the
    window."""
    late_unknown: int = 0
    """Of those, the ones that are certainly late: reordered, or a copy."""
    unkeyed: int = 0
    """Events without a key, which belong to no sequence."""
    unnumbered: int = 0
    """Events without a sequence number."""
    discontinuities: int | None = 0
    """None: the numbers are no whole numbers, so that none can be missing."""
    missing: int | None = 0
    extents: dict[int, int] = {}
    """Extent -> how many; exact below 2,048, then to three digits (the lowest of the bucket)."""
    max_extent: int = 0
    late_max: int | float | None = None
    late_sum: int | float = 0
    late_count: int = 0
    preceded: dict[int, int] = {}
    """Number of arrivals just before, all with larger numbers -> how many have as many."""
    squares: int = 0
    """q: the sum of the squares of the lengths of reordering-free runs."""
    gaps: dict[int, int] = {}
    max_gap: int = 0
    displaced: list[int] | None = None
    occupied: list[int] | None = None
    untold: int = 0
    """Arrivals that the densities leave out, since what they depend on is beyond the window."""
    examples: list[Example] = []

    def merge(self, other: Figures) -> None:
        """Add the figures of other sequences. Raises ValueError when they can't be added."""
        if (self.scope, self.threshold) != (other.scope, other.threshold):
            raise ValueError("figures of different scopes or thresholds can't be added")
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("extents", "preceded", "gaps"):
            both = Counter(getattr(self, name))
            both.update(getattr(other, name))
            setattr(self, name, dict(both))
        for name in ("keys", "discontinuities", "missing"):
            pair = getattr(self, name), getattr(other, name)
            setattr(self, name, None if None in pair else sum(pair))
        for name in ("displaced", "occupied"):
            ours, theirs = getattr(self, name), getattr(other, name)
            both_known = ours is not None and theirs is not None
            summed = [a + b for a, b in zip(ours, theirs, strict=True)] if both_known else None
            setattr(self, name, summed)
        self.max_extent = max(self.max_extent, other.max_extent)
        self.max_gap = max(self.max_gap, other.max_gap)
        self.window = min(self.window, other.window)
        latest = [late for late in (self.late_max, other.late_max) if late is not None]
        self.late_max = max(latest, default=None)
        self.examples = worst(self.examples + other.examples)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is known to be out of order or doubled."""
        return not (self.reordered or self.duplicates or self.late_unknown)

    def report(self) -> dict[str, Any]:
        """The figures as `audit --json` gives them (schema millstream.audit/1)."""
        copies = self.first_copies
        density = None if self.displaced is None else _displacements(self.displaced)
        occupied = self.occupied
        occupancy = None if occupied is None else {str(k): n for k, n in enumerate(occupied) if n}
        return {
            "scope": self.scope,
            "events": self.events,
            "keys": self.keys,
            "reordered": self.reordered,
            "reordered_ratio": self.reordered / copies if copies else 0.0,
            "duplicates": self.duplicates,
            "discontinuities": {"count": self.discontinuities, "missing": self.missing},
            "extent": {"max": self.max_extent, "counts": _by_number(self.extents)},
            "late_time": {
                "max": self.late_max,
                "mean": self.late_sum / self.late_count if self.late_count else None,
            },
            "n_reordering": self.n_reordering(),
            "free_runs": {
                "reordered": self.reordered,
                "accepted": copies - self.reordered,
                "arrivals": copies,
                "q": self.squares,
            },
            "gaps": {"max": self.max_gap, "counts": _by_number(self.gaps)},
            "reorder_density": {"threshold": self.threshold, "counts": density},
            "buffer_occupancy": {"threshold": self.threshold, "counts": occupancy},
            "densities_unknown": self.untold,
            "window": self.window,
            "unknown": self.unknown,
            "late_unknown": self.late_unknown,
            "unkeyed": self.unkeyed,
            "unnumbered": self.unnumbered,
        }

    def n_reordering(self) -> dict[str, float]:
        """n -> the share of arrivals that are n-reordered (RFC 4737, section 5.1).

        Every n up to 100; of larger ones those after which the share is less.
        """
        most = max(self.preceded, default=0)
        wanted = {*range(1, min(most, 100) + 1), *self.preceded}
        degrees: dict[str, float] = {}
        reached = 0
        for n in sorted(wanted, reverse=True):
            reached += self.preceded.get(n, 0)
            degrees[str(n)] = reached / self.first_copies
        return dict(reversed(degrees.items()))


_SUMMED: Final = (
    *("events", "first_copies", "reordered", "duplicates", "unknown", "late_unknown"),
    *("unkeyed", "unnumbered", "late_sum", "late_count", "squares", "untold"),
)


def worst(examples: list[Example]) -> list[Example]:
    """The worst offenders: the furthest out of order first, then copies, then what is unknown."""
    kinds = ("reordered", "duplicate", "unknown")
    ranked = sorted(examples, key=lambda e: (kinds.index(e.kind), -(e.extent or 0), e.position))
    return ranked[:MOST_EXAMPLES]


def _by_number(counts: dict[int, int]) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts) if counts[value]}


def _displacements(displaced: list[int]) -> dict[str, int]:
    threshold = len(displaced) // 2
    return {str(place - threshold): n for place, n in enumerate(displaced) if n}


class _Late:
    """The late arrivals of one sequence: those in the window, and what is derived from them."""

    __slots__ = ("came", "discontinuities", "found_at", "numbers", "runs")

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        """Number -> place, in order of arrival."""
        self.came: deque[tuple[int, int]] = deque()
        """The position of each batch that had some of them, and how many."""
        self.runs: list[tuple[Any, Numbers, Ints, int]] = []
        """Runs of late arrivals with rising numbers: the first number, all numbers, their indexes,
        and the position when they came. Numbers rise from run to run: what a smaller one came
        after is left out."""
        self.discontinuities: list[int] = []
        """Indexes of reordering discontinuities, rising."""
        self.found_at: list[int] = []
        """At which position each of them was found."""

    def last_below(self, number: Any) -> int:
        """The index of the last one with a smaller number; those with larger ones are dropped."""
        runs = self.runs
        while runs and runs[-1][0] > number:
            runs.pop()
        if not runs:
            return 0
        first, numbers, indexes, position = runs[-1]
        if len(numbers) == 1 or numbers[-1] < number:
            return int(indexes[-1])
        count = int(np.searchsorted(numbers, number))
        runs[-1] = first, numbers[:count], indexes[:count], position
        return int(indexes[count - 1])

    def forget(self, position: int) -> None:
        """Let go of what came before a position."""
        while self.came and self.came[0][0] < position:
            for number in list(islice(self.numbers, self.came.popleft()[1])):
                del self.numbers[number]
        if self.runs and self.runs[0][-1] < position:
            self.runs = [run for run in self.runs if run[-1] >= position]
        # The last one of the old is what the gap of the next one is measured from.
        old = {place for place, when in enumerate(self.found_at) if when < position}
        if len(old) > 1:
            old.remove(max(old))
            kept = [place for place in range(len(self.found_at)) if place not in old]
            self.discontinuities = [self.discontinuities[place] for place in kept]
            self.found_at = [self.found_at[place] for place in kept]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left that may matter."""
        return not (self.numbers or self.runs or self.discontinuities)


class _Group(msgspec.Struct):
    """One batch of arrivals, sorted by sequence; all columns have one length but the last three."""

    order: Ints | None
    """Where each stood as it came; None: they stand as they came."""
    numbers: Numbers
    times: Numbers | None
    places: Ints | None
    starts: Ints
    lengths: Ints
    rows: Ints
    """Of each sequence: where its arrivals begin, how many there are, and its row."""

    def row_of(self, at: Ints) -> Ints:
        """The rows of arrivals."""
        return self.rows[self.part_of(at)]

    def part_of(self, at: Ints) -> Ints:
        """Which sequence arrivals are of, as its place in `rows`."""
        return np.searchsorted(self.starts, at, side="right") - 1


class Audit:
    """Follows the sequences of one scope.

    Memory is bounded by `window`: of the last so many arrivals all is remembered, and of half as
    many sequences where they stand. What can't be told with that is counted as unknown.
    """

    def __init__(
        self,
        scope: Scope = "global",
        *,
        threshold: int = THRESHOLD,
        window: int = WINDOW,
        ordinal: bool = False,
        distinct: bool = False,
    ) -> None:
        """`ordinal`: numbers only tell what comes first, so that none can be missing.
        `distinct`: each comes once, as somebody else sees to."""
        self._is_distinct = distinct
        self.scope, self.threshold, self.window = scope, threshold, window
        self._figures = Figures(scope, threshold, window)
        self._tally = Tally(threshold)
        self._lanes = LaneTable(window // _ROWS_A_WINDOW)
        self._bits = threshold + 2
        self._mask = (1 << self._bits) - 1
        if self._bits > _MOST_BITS:
            self._lanes.widen("gaps")
        self._sightings = Sightings(window)
        self._late: dict[int, _Late] = {}
        self._open: dict[int, Densities] = {}
        self._extents, self._preceded = _Counts(), _Counts()
        self._gaps: Counter[int] = Counter()
        self._worst: list[tuple[int, int, Example]] = []
        self._others: list[Example] = []
        self._swept = 0
        self._is_whole = not ordinal
        """Whether all numbers are whole, so that some may be missing."""

    # --- taking note

    def observe(
        self,
        numbers: Numbers,
        keys: Ints | None = None,
        times: Numbers | None = None,
        places: Ints | None = None,
        key_of: Callable[[int], Any] | None = None,
    ) -> None:
        """Take note of arrivals, in order.

        `numbers`: int64, or objects that can be compared (texts, numbers of any size). `keys`:
        lanes.hashes_of(), in scope "key". `places`: where each stands in its log, for examples.
        `key_of` gives the key of the arrival at a place in the batch.
        """
        if not len(numbers):
            return
        numbers = self._wide_enough(numbers)
        group = self._grouped(numbers, keys, times, places)
        before, fresh = self._before(group)
        in_order = _above(group.numbers, before)
        in_order[group.starts[fresh]] = True
        self._note_forgotten(group, in_order)
        gaps = self._note_gaps(group, before, fresh, in_order)
        late = np.flatnonzero(~in_order)
        batch = self._sighted(group, in_order, len(numbers))
        is_copy: Bools | None = None
        if len(late):
            is_copy = self._note_late(group, late, in_order, batch, key_of)
        self._note_densities(group, in_order, gaps, is_copy)
        self._advance(group, batch, is_copy)
        self._sweep()

    def _wide_enough(self, numbers: Numbers) -> Numbers:
        if numbers.dtype != object and numbers.min() > -_WIDE and numbers.max() < _WIDE:
            return numbers
        numbers = numbers.astype(object)
        self._lanes.widen("max_number")
        self._lanes.widen("cut_at")
        self._is_whole = self._is_whole and all(type(number) is int for number in numbers)
        return numbers

    def _grouped(
        self,
        numbers: Numbers,
        keys: Ints | None,
        times: Numbers | None,
        places: Ints | None,
    ) -> _Group:
        count = len(numbers)
        if keys is None:
            rows = self._lanes.rows_of(np.zeros(1, dtype=np.int64))
            starts, lengths = np.zeros(1, dtype=np.int64), np.array([count])
            return _Group(None, numbers, times, places, starts, lengths, rows)
        each = self._lanes.rows_of(keys)
        order = _order_of(each)
        each = each[order]
        starts = np.concatenate(([0], np.flatnonzero(each[1:] != each[:-1]) + 1))
        lengths = np.diff(np.append(starts, count))
        return _Group(
            order,
            numbers[order],
            None if times is None else times[order],
            None if places is None else places[order],
            starts,
            lengths,
            each[starts],
        )

    def _before(self, group: _Group) -> tuple[Numbers, Bools]:
        """The largest number before each arrival; and which sequences begin here."""
        numbers, starts = group.numbers, group.starts
        fresh = self._lanes.count[group.rows] == 0
        known = self._lanes.max_number[group.rows]
        if numbers.dtype != known.dtype:
            numbers = group.numbers = numbers.astype(object)
        before = np.empty_like(numbers)
        before[1:] = numbers[:-1]
        before[starts] = np.where(fresh, numbers[starts], known)
        falls = ~_above(numbers, before)
        falls[starts[fresh]] = False
        if falls.any():
            parts = np.unique(group.part_of(np.flatnonzero(falls)))
            _accumulate(numbers, before, starts[parts], group.lengths[parts])
        return before, fresh

    def _note_forgotten(self, group: _Group, in_order: Bools) -> None:
        """What seems in order may not be so in a sequence that may have been forgotten once."""
        if self._lanes.forgotten_max is None:
            return
        rows = np.repeat(group.rows, group.lengths)
        below = self._may_be_forgotten(rows, group.numbers)
        self._figures.unknown += int((below & in_order).sum())

    def begin_after(self, count: int, largest: int) -> None:
        """So many arrivals came before, all in order, up to a largest number; before the first
        observe()."""
        self._figures.events += count
        self._figures.first_copies += count
        if self.scope == "key":
            self._lanes.forgotten_max = largest

    def _may_be_forgotten(self, rows: Ints, numbers: Numbers) -> Bools:
        """Whether of these sequences as large a number may have been forgotten."""
        lanes = self._lanes
        if lanes.forgotten_max is None:
            return np.zeros(len(rows), dtype=bool)
        return lanes.is_cut[rows] & ~_above(numbers, lanes.cut_at[rows])

    def _note_gaps(
        self, group: _Group, before: Numbers, fresh: Bools, in_order: Bools
    ) -> Bools | None:
        """Sequence discontinuities (RFC 4737, section 3.4): in order, but above NextExp.

        Gives where numbers are missing that the densities wait for: also before the first arrival,
        where the sequence seems to begin at 1. None: nowhere.
        """
        if not self._is_whole:
            return None
        steps = group.numbers - before
        gaps = np.asarray(steps > 1, dtype=bool) & in_order
        first = group.starts[fresh]
        gaps[first] = False
        found = steps[gaps]
        figures = self._figures
        assert figures.discontinuities is not None
        assert figures.missing is not None
        figures.discontinuities += len(found)
        figures.missing += _sum(found) - len(found)
        begins = group.numbers[first]
        gaps[first] = np.asarray((begins > 1) & (begins <= self.threshold + 1), dtype=bool)
        return gaps

    def _sighted(self, group: _Group, in_order: Bools, size: int) -> Batch:
        """Put the arrivals that came in order into the window, numbered as if none were a copy."""
        shifts = self._lanes.count[group.rows] - group.starts + 1
        indexes = np.arange(size) + np.repeat(shifts, group.lengths)
        rows, starts, numbers, times, places = (
            *(group.rows, group.starts, group.numbers),
            *(group.times, group.places),
        )
        if not in_order.all():
            counts = np.add.reduceat(in_order, group.starts, dtype=np.int64)
            some = counts > 0
            rows, starts = rows[some], (np.cumsum(counts) - counts)[some]
            numbers, indexes = numbers[in_order], indexes[in_order]
            times = None if times is None else times[in_order]
            places = None if places is None else places[in_order]
        batch = Batch(rows, starts, numbers, indexes, times, places, size)
        self._sightings.add(batch)
        return batch

    # --- late arrivals

    def _note_late(
        self,
        group: _Group,
        late: Ints,
        in_order: Bools,
        batch: Batch,
        key_of: Callable[[int], Any] | None,
    ) -> Bools:
        """Tell copies from first copies, and measure those. Gives what counts as a copy."""
        rows = group.row_of(late)
        found = self._sightings.find(rows, group.numbers[late])
        is_first = self._first_copies(group, late, rows, found, key_of)
        is_copy = np.zeros(len(group.numbers), dtype=bool)
        is_copy[late[~is_first]] = True
        # Indexes count first copies only.
        passed = np.cumsum(is_copy)
        parts = np.repeat(passed[group.starts] - is_copy[group.starts], group.lengths)
        batch.indexes -= (passed - parts)[in_order]
        if is_first.any():
            nth = late - np.repeat(group.starts - 1, group.lengths)[late]
            index = self._lanes.count[rows] + nth - (passed - parts)[late]
            self._measure(group, late, rows, index, is_first, found, key_of)
        return is_copy

    def _first_copies(
        self,
        group: _Group,
        late: Ints,
        rows: Ints,
        found: Found,
        key_of: Callable[[int], Any] | None,
    ) -> Bools:
        """Which late arrivals come for the first time; the others are copies, or unknown."""
        earliest = self._sightings.column("indexes", found.after_in, found.after_at)
        assert earliest is not None
        # Nothing is known to come before it: either it is the sequence's start, or forgotten.
        is_placed = found.before_in != NOWHERE
        at_start = (found.after_in != NOWHERE) & (earliest == 1) & ~self._lanes.is_cut[rows]
        is_known = is_placed | at_start
        is_known &= ~self._may_be_forgotten(rows, group.numbers[late])
        for nth in np.flatnonzero(~is_known).tolist():
            self._figures.unknown += 1
            self._figures.late_unknown += 1
            self._example("unknown", group, late[nth], key_of, None)
        is_seen = is_known & found.is_seen
        if is_seen.any():
            places = self._sightings.column("places", found.before_in, found.before_at)
            for nth in np.flatnonzero(is_seen).tolist():
                self._figures.duplicates += 1
                where = None if places is None else int(places[nth])
                self._example("duplicate", group, late[nth], key_of, where)
        return self._first_late(group, late, rows, is_known & ~is_seen, key_of)

    def _first_late(
        self,
        group: _Group,
        late: Ints,
        rows: Ints,
        asked: Bools,
        key_of: Callable[[int], Any] | None,
    ) -> Bools:
        """Which of those that are asked for are no copies of another late arrival."""
        firsts = asked.copy()
        if self._is_distinct:
            return firsts
        some = np.flatnonzero(asked)
        at = late[some]
        places = at if group.places is None else group.places[at]
        columns = (each.tolist() for each in (some, rows[some], group.numbers[at], places))
        row_before, count_before = -1, 0
        numbers: dict[Any, int] = {}
        for nth, row, number, place in zip(*columns, strict=True):
            if row != row_before:
                self._note_came(row_before, len(numbers) - count_before)
                row_before, numbers = row, self._late_of(row).numbers
                count_before = len(numbers)
            if number in numbers:
                firsts[nth] = False
                self._figures.duplicates += 1
                where = None if group.places is None else numbers[number]
                self._example("duplicate", group, late[nth], key_of, where)
            else:
                numbers[number] = place
        self._note_came(row_before, len(numbers) - count_before)
        return firsts

    def _note_came(self, row: int, count: int) -> None:
        if count:
            self._late[row].came.append((self._figures.events, count))

    def _late_of(self, row: int) -> _Late:
        late = self._late.get(row)
        if late is None:
            late = self._late[row] = _Late()
        return late

    def _measure(
        self,
        group: _Group,
        late: Ints,
        rows: Ints,
        index: Ints,
        is_first: Bools,
        found: Found,
        key_of: Callable[[int], Any] | None,
    ) -> None:
        """Reordered arrivals: extent, late time, n-reordering, runs and gaps."""
        column = self._sightings.column
        after = column("indexes", found.after_in, found.after_at)
        before = column("indexes", found.before_in, found.before_at)
        assert after is not None
        assert before is not None
        before[found.before_in == NOWHERE] = 0
        late, rows, index, after, before = (
            each[is_first] for each in (late, rows, index, after, before)
        )
        figures = self._figures
        figures.reordered += len(late)
        extents = index - after
        self._extents.add(extents)
        figures.max_extent = max(figures.max_extent, int(extents.max()))
        if group.times is not None:
            times = column("times", found.after_in, found.after_at)
            assert times is not None
            self._note_late_times(_difference(group.times[late], times[is_first]))
        preceded = self._note_each(rows, index, group.numbers[late], after, before)
        self._preceded.add(preceded[preceded > 0])
        self._note_worst(group, late, extents, found, is_first, key_of)

    def _note_late_times(self, times: Numbers) -> None:
        """Late time offset (RFC 4737, section 4.3): time(i) − time(i − e)."""
        times = times[~np.isnan(times)] if times.dtype.kind == "f" else times
        if not len(times):
            return
        figures = self._figures
        latest = _plain(times.max())
        figures.late_max = latest if figures.late_max is None else max(figures.late_max, latest)
        figures.late_sum += _sum(times)
        figures.late_count += len(times)

    def _note_each(
        self, rows: Ints, index: Ints, numbers: Numbers, after: Ints, before: Ints
    ) -> Ints:
        """What depends on the late arrivals before; gives how many just before each are larger."""
        follows = np.zeros(len(rows), dtype=bool)
        follows[1:] = (rows[1:] == rows[:-1]) & _above(numbers[1:], numbers[:-1])
        # The last one before with a smaller number: in order, or late itself.
        last = before.copy()
        last[1:][follows[1:]] = np.maximum(before[1:], index[:-1])[follows[1:]]
        starts = np.flatnonzero(~follows)
        stops = np.append(starts[1:], len(rows))
        firsts = zip(rows[starts].tolist(), numbers[starts].tolist(), strict=True)
        position = self._figures.events
        for start, stop, (row, number) in zip(starts.tolist(), stops.tolist(), firsts, strict=True):
            late = self._late_of(row)
            last[start] = max(before[start], late.last_below(number))
            late.runs.append((number, numbers[start:stop], index[start:stop], position))
        self._note_runs(rows, index)
        changes = np.flatnonzero((rows[1:] != rows[:-1]) | (after[1:] != after[:-1])) + 1
        at = np.concatenate(([0], changes))
        for row, j in zip(rows[at].tolist(), after[at].tolist(), strict=True):
            self._note_discontinuity(self._late[row], j)
        return index - 1 - last

    def _note_runs(self, rows: Ints, index: Ints) -> None:
        """Reordering-free runs (RFC 4737, section 4.6): those in order between two that are not."""
        last = self._lanes.last_late[rows]
        same = rows[1:] == rows[:-1]
        last[1:][same] = index[:-1][same]
        runs = index - 1 - last
        self._figures.squares += sum(run * run for run in runs[runs > 0].tolist())
        self._lanes.last_late[rows] = index  # of several the last one stays

    def _note_discontinuity(self, late: _Late, j: int) -> None:
        """Gaps between reordering discontinuities (RFC 4737, section 4.5), by where they stand."""
        known = late.discontinuities
        at = bisect_left(known, j)
        if at < len(known):
            if known[at] == j:
                return
            if at:
                self._gaps[_bucket(known[at] - known[at - 1])] -= 1
            self._add_gap(known[at] - j)
        if at:
            self._add_gap(j - known[at - 1])
        known.insert(at, j)
        late.found_at.insert(at, self._figures.events)

    def _add_gap(self, gap: int) -> None:
        self._gaps[_bucket(gap)] += 1

    # --- examples

    def _note_worst(
        self,
        group: _Group,
        late: Ints,
        extents: Ints,
        found: Found,
        is_first: Bools,
        key_of: Callable[[int], Any] | None,
    ) -> None:
        least = self._worst[0][0] if len(self._worst) == MOST_EXAMPLES else 0
        worse = np.flatnonzero(extents > least)
        if not len(worse):
            return
        if len(worse) > MOST_EXAMPLES:
            # Of those that are equally bad, the first ones.
            worse = worse[np.argsort(-extents[worse], kind="stable")[:MOST_EXAMPLES]]
        numbers = self._sightings.column("numbers", found.after_in, found.after_at)
        places = self._sightings.column("places", found.after_in, found.after_at)
        assert numbers is not None
        for nth in np.sort(worse).tolist():
            example = self._made("reordered", group, late[nth], key_of)
            extent = int(extents[nth])
            after: dict[str, Any] = {"sequence": _plain(numbers[is_first][nth])}
            if places is not None:
                after["place"] = int(places[is_first][nth])
            example = msgspec.structs.replace(example, extent=extent, after=after)
            entry = (extent, -example.position, example)
            if len(self._worst) < MOST_EXAMPLES:
                heapq.heappush(self._worst, entry)
            else:
                heapq.heappushpop(self._worst, entry)

    def _example(
        self,
        kind: Literal["duplicate", "unknown"],
        group: _Group,
        at: Any,
        key_of: Callable[[int], Any] | None,
        before: int | None,
    ) -> None:
        if sum(each.kind == kind for each in self._others) >= MOST_EXAMPLES:
            return
        example = self._made(kind, group, at, key_of)
        if kind == "duplicate":
            after = {"sequence": example.sequence, "place": before}
            example = msgspec.structs.replace(example, after=after)
        self._others.append(example)

    def _made(
        self,
        kind: Literal["reordered", "duplicate", "unknown"],
        group: _Group,
        at: Any,
        key_of: Callable[[int], Any] | None,
    ) -> Example:
        came = int(at) if group.order is None else int(group.order[at])
        key = key_of(came) if key_of is not None else None
        place = None if group.places is None else int(group.places[at])
        number = _plain(group.numbers[at])
        return Example(kind, key, number, self._figures.events + came + 1, place)

    # --- densities

    def _note_densities(
        self,
        group: _Group,
        in_order: Bools,
        gaps: Bools | None,
        is_copy: Bools | None,
    ) -> None:
        """RFC 5236: sequences in which all comes in order together, the others one by one."""
        if gaps is None:
            return
        lanes = self._lanes
        apart = lanes.is_open[group.rows]
        if is_copy is not None:
            late = np.flatnonzero(~in_order & ~is_copy)
            apart = apart.copy()
            apart[group.part_of(late)] = True
        bits = lanes.gaps[group.rows]
        if not apart.any():
            kept = None if is_copy is None else ~is_copy
            self._note_calm(group.rows, group.lengths, gaps, bits, kept, group.starts)
            return
        calm = ~apart
        if calm.any():
            inside = np.repeat(calm, group.lengths)
            lengths = group.lengths[calm]
            starts = np.cumsum(lengths) - lengths
            kept = None if is_copy is None else ~is_copy[inside]
            self._note_calm(group.rows[calm], lengths, gaps[inside], bits[calm], kept, starts)
        parts = np.flatnonzero(apart)
        earlier = self._earlier(group.rows[parts])
        for part in parts.tolist():
            start = int(group.starts[part])
            span = slice(start, start + int(group.lengths[part]))
            some = slice(None) if is_copy is None else ~is_copy[span]
            _Zone(
                self,
                int(group.rows[part]),
                group.numbers[span][some].tolist(),
                in_order[span][some],
                gaps[span][some],
                earlier.get(int(group.rows[part]), []),
            ).run()

    def _earlier(self, rows: Ints) -> dict[int, list[Any]]:
        """The last numbers of sequences before this batch, where the densities depend on them."""
        lanes = self._lanes
        bits, counts = lanes.gaps[rows], lanes.count[rows]
        waiting = bit_lengths(bits)
        wanted = np.where(waiting > 0, waiting + 1, 0)
        is_young = (counts <= self._bits) & ~lanes.was_late[rows]
        wanted = np.where(is_young, counts, wanted)
        # Those that are followed one by one may cease to be, before as many have come anew.
        wanted = np.where(lanes.is_open[rows], self._bits + 1, wanted)
        some = wanted > 0
        return self._sightings.last_of(rows[some], wanted[some])

    def _note_calm(
        self,
        rows: Ints,
        lengths: Ints,
        gaps: Bools,
        bits: npt.NDArray[Any],
        kept: Bools | None,
        starts: Ints,
    ) -> None:
        """Sequences without late first copies; `kept` are the arrivals that are no copies."""
        if kept is not None and not kept.all():
            gaps = gaps[kept]
            lengths = np.add.reduceat(kept, starts, dtype=np.int64)
            some = lengths > 0
            rows, bits, lengths = rows[some], bits[some], lengths[some]
            starts = np.cumsum(lengths) - lengths
        self._tally.add_in_order(len(gaps))
        if not gaps.any() and not bits.any():
            self._tally.occupied[0] += len(gaps)
            return
        if lengths.max() <= _SHORT:
            self._lanes.gaps[rows] = count_in_step(
                self._tally, gaps, starts, lengths, bits, self._mask
            )
            return
        self._tally.add_occupancies(calm_occupancies(gaps, starts, lengths, bits, self.threshold))
        self._lanes.gaps[rows] = self._later_bits(gaps, starts, lengths, bits)

    def _later_bits(
        self, gaps: Bools, starts: Ints, lengths: Ints, bits: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The bits of `lanes.gaps` after some more arrivals."""
        most = self._bits
        to_end = np.repeat(starts + lengths - 1, lengths) - np.arange(len(gaps))
        shifts = np.minimum(to_end, most).astype(bits.dtype)
        own = (gaps & (to_end < most)).astype(bits.dtype) << shifts
        shifted = bits << np.minimum(lengths, most).astype(bits.dtype)
        later: npt.NDArray[Any] = (shifted | np.add.reduceat(own, starts)) & self._mask
        return later

    # --- what is remembered

    def _advance(self, group: _Group, batch: Batch, is_copy: Bools | None) -> None:
        lanes, figures = self._lanes, self._figures
        rows, starts = group.rows, group.starts
        counts = group.lengths
        if is_copy is not None:
            copies = np.add.reduceat(is_copy, starts, dtype=np.int64)
            counts = counts - copies
        lanes.count[rows] += counts
        figures.first_copies += int(counts.sum())
        lanes.max_number[batch.rows] = batch.numbers[batch.ends - 1]
        ends = starts + group.lengths - 1
        last = ends if group.order is None else group.order[ends]
        lanes.last_seen[rows] = figures.events + last
        figures.events += len(group.numbers)

    def _sweep(self) -> None:
        """Let go of what is beyond the window."""
        now = self._figures.events
        if self._lanes.is_full():
            new_rows = self._lanes.forget()
            self._sightings.renumber(new_rows)
            self._late = _renumbered(self._late, new_rows)
            self._open = _renumbered(self._open, new_rows)
        if now - self._swept < self.window // 8:
            return
        self._swept = now
        for row, late in list(self._late.items()):
            late.forget(now - self._sightings.size)
            if late.is_over:
                del self._late[row]

    # --- telling

    @property
    def figures(self) -> Figures:
        """What was counted so far."""
        figures = msgspec.structs.replace(self._figures)
        figures.keys = self._lanes.seen
        figures.extents = self._extents.by_value()
        figures.preceded = self._preceded.by_value()
        figures.gaps = {gap: count for gap, count in self._gaps.items() if count}
        figures.max_gap = max(figures.gaps, default=0)
        figures.examples = worst([each for *_, each in self._worst] + self._others)
        if self._lanes.forgotten_max is not None:
            # One that comes again is taken for a new one.
            figures.keys = None
        if not self._is_whole or figures.keys is None:
            figures.discontinuities = figures.missing = None
            return figures
        tally = Tally(self.threshold)
        tally.merge(self._tally)
        for densities in self._open.values():
            densities.copy(tally).finish()
        figures.displaced, figures.occupied = tally.displaced, tally.occupied
        return figures


class _Zone:
    """The arrivals of one sequence of one batch in which some are late, as the densities see them.

    Between late arrivals, once nothing waits any more, all is counted at once again.
    """

    def __init__(
        self,
        audit: Audit,
        row: int,
        numbers: list[int],
        in_order: Bools,
        gaps: Bools,
        earlier: list[int],
    ) -> None:
        """`earlier`: the last numbers in order before these, as far as they may matter."""
        lanes = audit._lanes
        self.audit, self.row, self.numbers, self.earlier = audit, row, numbers, earlier
        self.late = 0
        """Where the next late one stands."""
        self.in_order, self.gaps = in_order.tobytes(), gaps.tobytes()
        self.gaps_at: list[int] = np.flatnonzero(gaps).tolist()
        self.count = int(lanes.count[row])
        self.largest: int = _plain(lanes.max_number[row]) if self.count else 0
        """The largest number before; of a new sequence there is none."""
        if self.count and not earlier:
            self.earlier = [self.largest]
        self.bits = int(lanes.gaps[row])
        self.had_late = bool(lanes.was_late[row])
        """Whether any came late before."""
        self.is_cut = bool(lanes.is_cut[row])

    def run(self) -> None:
        audit, lanes, row = self.audit, self.audit._lanes, self.row
        open_ = audit._open.pop(row, None)
        at, stop = 0, len(self.numbers)
        while at < stop:
            if open_ is not None:
                at, open_ = self._follow(at, open_)
                continue
            begin = self._next_begin(at)
            self._calm(at, begin)
            at = begin
            if at == stop:
                break
            if self._fills_nothing(at):
                self.had_late = True
                at = self._next_in_order(at)
            elif self._is_one_late(at):
                at = self._pass_one_late(at)
            else:
                open_ = self._begin(at)
        lanes.gaps[row] = self.bits
        lanes.is_open[row] = open_ is not None
        lanes.was_late[row] = self.had_late
        if open_ is not None:
            audit._open[row] = open_

    def _next_in_order(self, at: int) -> int:
        found = self.in_order.find(1, at)
        return len(self.in_order) if found < 0 else found

    def _is_young(self, at: int) -> bool:
        """Whether the densities still depend on how the sequence began."""
        return not (self.had_late or self.is_cut) and self.count + at <= self.audit._bits

    def _fills_nothing(self, at: int) -> bool:
        """Whether it comes late when nothing waits: then both densities leave it out."""
        return not (self.in_order[at] or self.bits or self._is_young(at))

    def _next_begin(self, at: int) -> int:
        """Where to begin to look event by event: at the gap that the next late one may fill.

        One that was missing for longer than the densities wait for anything fills none.
        """
        begin = self.late = self.in_order.find(0, at)
        if begin < 0:
            return len(self.numbers)
        number = self.numbers[begin]
        for place in range(begin - 1, max(at, begin - self.audit._bits) - 1, -1):
            if self.numbers[place] <= number:
                break
            if self.gaps[place]:
                begin = place
        return begin

    def _calm(self, start: int, stop: int) -> None:
        if start == stop:
            return
        audit = self.audit
        count = stop - start
        audit._tally.add_in_order(count)
        first = bisect_left(self.gaps_at, start)
        gaps = self.gaps_at[first : bisect_left(self.gaps_at, stop, lo=first)]
        if not self.bits and not gaps:
            audit._tally.occupied[0] += count
        elif len(gaps) < _MANY_GAPS:
            add_occupancies(audit._tally, gaps, self.bits, start, stop)
        else:
            audit._tally.add_occupancies(
                calm_occupancies(
                    np.frombuffer(self.gaps[start:stop], dtype=bool),
                    np.zeros(1, dtype=np.int64),
                    np.array([count]),
                    np.array([self.bits], dtype=audit._lanes.gaps.dtype),
                    audit.threshold,
                )
            )
        if self.bits or gaps:
            recent = self.gaps[max(start, stop - audit._bits) : stop]
            self.bits = gap_bits(recent, self.bits, audit._mask)
        self.largest = self.numbers[stop - 1]

    def _is_one_late(self, at: int) -> bool:
        """Whether from `at` on come just those after a single one, and then that one."""
        late, numbers = self.late, self.numbers
        early = late - at
        return (
            0 < early <= self.audit.threshold
            and not self.bits
            and numbers[late] == self.largest + 1
            and numbers[at] == self.largest + 2
            and numbers[late - 1] - numbers[at] == early - 1
            and not self._is_young(at)
        )

    def _pass_one_late(self, at: int) -> int:
        """Then each of those is early by one, and waits for it."""
        tally, late = self.audit._tally, self.late
        early = late - at
        tally.displaced[tally.threshold - 1] += early
        tally.displaced[tally.threshold + early] += 1
        for held in range(early + 1):
            tally.occupied[held] += 1
        self.largest, self.had_late = self.numbers[late - 1], True
        return late + 1

    def _begin(self, at: int) -> Densities:
        """The state of the densities before the arrival at `at`, all before which came in order."""
        audit = self.audit
        threshold, tally = audit.threshold, audit._tally
        before = self.count + at
        if before == 0:
            return Densities(tally, None, first_expected(self.numbers[0], threshold))
        is_young = self._is_young(at)
        if not (is_young or self.bits):
            return Densities(tally, self.largest + 1, self.largest + 1)
        wanted = before if is_young else self.bits.bit_length() + 1
        earlier = self._earlier(at, wanted)
        if len(earlier) < wanted:
            # What waits is not known any more: nothing is told of what comes until it has passed.
            return Densities(Tally(threshold), self.largest + 1, self.largest + 1)
        first = earlier[0]
        if is_young:
            densities = Densities(tally, None, first_expected(first, threshold))
        else:
            densities = Densities(tally, first, first)
        replay(densities, earlier, threshold)
        tally.add_in_order(-densities.waiting)  # they were counted when they came
        return densities

    def _earlier(self, at: int, count: int) -> list[int]:
        """The last `count` numbers before `at` that came in order, oldest first."""
        here: list[int] = []
        while at and len(here) < count:
            at -= 1
            if self.in_order[at]:
                here.append(self.numbers[at])
        more = count - len(here)
        return (self.earlier[-more:] if more else []) + here[::-1]

    def _follow(self, at: int, densities: Densities) -> tuple[int, Densities | None]:
        """Event by event, until nothing waits; gives how far, and the state if something does."""
        bits, mask, most = self.bits, self.audit._mask, self.audit._bits
        largest, calm = self.largest, densities.calm
        take, is_over, begin = densities.take, False, at
        numbers, in_order, gaps = self.numbers, self.in_order, self.gaps
        while at < len(numbers):
            number = numbers[at]
            take(number)
            at += 1
            if in_order[at - 1]:
                largest = number
                calm += 1
                bits = (bits << 1 | gaps[at - 1]) & mask
            else:
                self.had_late = True
                calm, bits = 0, bits << 1 & mask
            if densities.is_idle(largest):
                bits, is_over = 0, True
                break
            if calm >= most and densities.is_plain:
                if densities.counts_to(self.audit._tally):
                    self.audit._tally.add_in_order(densities.waiting)
                is_over = True
                break
        if not densities.counts_to(self.audit._tally):
            self.audit._figures.untold += at - begin
        self.bits, self.largest, densities.calm = bits, largest, calm
        return at, None if is_over else densities


def _order_of(rows: Ints) -> Ints:
    """What sorts rows, each one's arrivals as they came: by two bytes at a time, which is quick."""
    order = np.argsort(rows.astype(np.uint16), kind="stable")
    high = (rows >> 16).astype(np.uint16)
    if high.any():
        order = order[np.argsort(high[order], kind="stable")]
    return order


def _renumbered(rows: dict[int, Any], new_rows: Ints) -> dict[int, Any]:
    moved = ((int(new_rows[row]), value) for row, value in rows.items())
    return {row: value for row, value in moved if row >= 0}


def _above(values: Numbers, others: Numbers) -> Bools:
    return np.asarray(values > others, dtype=bool)


def _accumulate(numbers: Numbers, before: Numbers, starts: Ints, lengths: Ints) -> None:
    """Make `before` the running maximum in some stretches; at their starts it is right already."""
    if len(starts) == 1:
        start, stop = int(starts[0]), int(starts[0] + lengths[0])
        seen = np.concatenate((before[start : start + 1], numbers[start : stop - 1]))
        before[start:stop] = np.maximum.accumulate(seen)
        return
    at = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    values = before[at]  # each the number before
    # Ranks, which may be lifted from stretch to stretch.
    distinct, ranks = np.unique(values, return_inverse=True)
    lift = np.repeat(np.arange(len(starts)), lengths) * len(distinct)
    highest = np.maximum.accumulate(ranks + lift) - lift
    before[at] = distinct[highest]


def _difference(values: Numbers, others: Numbers) -> Numbers:
    """Of times: also of whole numbers whose difference may not fit 64 bits."""
    both = (values, others)
    if any(each.dtype.kind == "i" and (abs(each // 2) > _WIDE // 2).any() for each in both):
        values, others = values.astype(object), others.astype(object)
    difference: Numbers = values - others
    return difference


def _sum(values: Numbers) -> Any:
    """The exact sum of whole numbers, however large; of others, their sum."""
    if values.dtype.kind == "f":
        return float(values.sum())
    if values.dtype == object:
        return sum(values.tolist())
    low, high = values & 0xFFFFFFFF, values >> 32
    return (int(high.sum()) << 32) + int(low.sum())


def _bucket(value: int) -> int:
    return value if value < 2048 else lowest_in(int(bucket_of(np.array([value]))[0]))


class _Counts:
    """How many there were of each value, by bucket."""

    def __init__(self) -> None:
        self._counts = np.zeros(0, dtype=np.int64)

    def add(self, values: Ints) -> None:
        counts = np.bincount(bucket_of(values), minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def by_value(self) -> dict[int, int]:
        """The lowest value of each bucket that holds something -> how many it holds."""
        held = np.flatnonzero(self._counts)
        return {lowest_in(at): int(self._counts[at]) for at in held.tolist()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
