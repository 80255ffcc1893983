"""What a disturbed run left behind, and what an undisturbed one did: columns in, differences out.

Pure: no files, no processes. A column holds 64 bits a line (or letter, or call), in order; it may
be larger than memory (numpy.memmap), since it is looked at in parts of at most PART_LINES.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Column = NDArray[np.uint64]
Places = NDArray[np.int64]

PART_LINES: Final = 2_000_000
"""Lines that are looked at together: some 100 bytes each. More means several passes."""
MOST_EXAMPLES: Final = 10
_CHUNK: Final = 1 << 20
NONE: Final = -1


class Swap(Struct, frozen=True):
    """A line that came after a later one of its lane; places are lines from 0."""

    place: int
    base: int
    """Where the line stands in the undisturbed output."""
    after: int
    """Where the later line stands there, that came before it."""


class Differences(Struct, frozen=True):
    """Counts, and the places of the first few of each."""

    missing: int = 0
    """In the undisturbed run, and not in the other."""
    missing_at: list[int] = []
    """Places in the undisturbed run."""
    repeated: int = 0
    """More often than in the undisturbed run."""
    repeated_at: list[tuple[int, int]] = []
    """Place, and a place in the undisturbed run where the same stands."""
    foreign: int = 0
    """What the undisturbed run has not at all."""
    foreign_at: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.missing or self.repeated or self.foreign)


class Matched(Struct, frozen=True):
    """A pass over what has the same hashes: who stands for whom."""

    others: Places
    """Places in the disturbed run, rising within equal hashes..."""
    bases: Places
    """...and where the same stands in the undisturbed one."""
    ambiguous: NDArray[np.bool_]
    """Whether it tells nothing of order: the same line stands in several lanes there, or not as
    often."""
    differences: Differences


def differences(base: Column, other: Column, *, part_lines: int = PART_LINES) -> Differences:
    """Two multisets compared."""
    found = Differences()
    for matched in matches(base, other, None, part_lines=part_lines):
        found = together(found, matched.differences)
    return found


def matches(
    base: Column, other: Column, lanes: Column | None, *, part_lines: int = PART_LINES
) -> Iterator[Matched]:
    """The k-th occurrence of a line is matched with its k-th one in `base`, part by part."""
    for bases, others in zip(
        *(_parts(column, len(base) + len(other), part_lines) for column in (base, other)),
        strict=True,
    ):
        yield _match(base[bases], other[others], bases, others, lanes)


def _parts(column: Column, total: int, part_lines: int) -> Iterator[Places]:
    """The places of a column, in parts by value; equal values come in one part."""
    parts = max(1, -(-total // part_lines))
    for part in range(parts):
        found = [
            np.flatnonzero(column[first : first + _CHUNK] % np.uint64(parts) == part) + first
            for first in range(0, len(column), _CHUNK)
        ]
        yield np.concatenate(found) if found else np.empty(0, np.int64)


def _match(
    base: Column, other: Column, bases: Places, others: Places, lanes: Column | None
) -> Matched:
    b_order, b_values, b_starts, b_counts = _grouped(base)
    o_order, o_values, o_starts, o_counts = _grouped(other)
    group, known = _groups_of(o_values, b_values)
    in_base = np.zeros(len(o_values), np.int64)
    in_base[known] = b_counts[group[known]]

    rank = np.arange(len(other)) - np.repeat(o_starts, o_counts)
    o_in_base = np.repeat(in_base, o_counts)
    is_matched = rank < o_in_base
    o_group = np.repeat(group, o_counts)
    matched_bases = bases[b_order[b_starts[o_group[is_matched]] + rank[is_matched]]]

    in_other = np.zeros(len(b_values), np.int64)
    in_other[group[known]] = o_counts[known]
    b_rank = np.arange(len(base)) - np.repeat(b_starts, b_counts)
    missing = bases[b_order[b_rank >= np.repeat(in_other, b_counts)]]
    foreign = others[o_order[o_in_base == 0]]
    again = (o_in_base > 0) & ~is_matched
    repeated, stands_for = others[o_order[again]], bases[b_order[b_starts[o_group[again]]]]
    ambiguous = in_other[o_group[is_matched]] != o_in_base[is_matched]
    if lanes is not None and len(b_values):
        own = np.asarray(lanes)[bases[b_order]] if len(bases) else np.empty(0, np.uint64)
        several = np.minimum.reduceat(own, b_starts) != np.maximum.reduceat(own, b_starts)
        ambiguous |= several[o_group[is_matched]]
    return Matched(
        others[o_order[is_matched]],
        matched_bases,
        ambiguous,
        Differences(
            len(missing),
            _first(missing),
            len(repeated),
            _first_pairs(repeated, stands_for),
            len(foreign),
            _first(foreign),
        ),
    )


def _grouped(values: Column) -> tuple[Places, Column, Places, Places]:
    """Places sorted by value, stably; then each value, where its group starts, and its size."""
    order = np.argsort(values, kind="stable")
    unique, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    return order, unique, starts, counts


def _groups_of(values: Column, known_values: Column) -> tuple[Places, NDArray[np.bool_]]:
    """Where each value stands among the known ones, which are sorted, and whether it does."""
    group = np.searchsorted(known_values, values)
    known = group < len(known_values)
    known[known] = known_values[group[known]] == values[known]
    group[~known] = 0
    return group, known


def _first(places: Places) -> list[int]:
    return [int(place) for place in np.sort(places)[:MOST_EXAMPLES]]


def _first_pairs(places: Places, others: Places) -> list[tuple[int, int]]:
    order = np.argsort(places, kind="stable")[:MOST_EXAMPLES]
    return [(int(places[at]), int(others[at])) for at in order]


def together(one: Differences, two: Differences) -> Differences:
    """The differences of two parts."""
    return Differences(
        one.missing + two.missing,
        sorted(one.missing_at + two.missing_at)[:MOST_EXAMPLES],
        one.repeated + two.repeated,
        sorted(one.repeated_at + two.repeated_at)[:MOST_EXAMPLES],
        one.foreign + two.foreign,
        sorted(one.foreign_at + two.foreign_at)[:MOST_EXAMPLES],
    )


# --- order


def swaps(
    lanes: Column, stands_for: Places, *, part_lines: int = PART_LINES
) -> tuple[int, list[Swap]]:
    """How many lines came after a later one of their lane, and the first few.

    `lanes`: of the undisturbed output's lines. `stands_for`: for each line of the disturbed one,
    its place there; NONE: it has none, or tells nothing of order.
    """
    total = len(stands_for)
    parts = max(1, -(-total // part_lines))
    count, first = 0, list[Swap]()
    for part in range(parts):
        places = _places_of_lanes(lanes, stands_for, part, parts)
        bases = np.asarray(stands_for[places])
        own = np.asarray(lanes[bases])
        found = _swaps(own, places, bases)
        count += len(found[0])
        first += [Swap(*map(int, row)) for row in zip(*found, strict=True)]
        first = sorted(first, key=lambda swap: swap.place)[:MOST_EXAMPLES]
    return count, first


def _places_of_lanes(lanes: Column, stands_for: Places, part: int, parts: int) -> Places:
    found = []
    for first in range(0, len(stands_for), _CHUNK):
        bases = np.asarray(stands_for[first : first + _CHUNK])
        at = np.flatnonzero(bases != NONE)
        mine = lanes[bases[at]] % np.uint64(parts) == part
        found.append(at[mine] + first)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _swaps(lanes: Column, places: Places, bases: Places) -> tuple[Places, Places, Places]:
    """Place, base and the base of what came before, of each line below one before it."""
    order = np.argsort(lanes, kind="stable")
    bases, places, own = bases[order], places[order], lanes[order]
    if not len(own):
        return places, bases, bases
    begins = np.concatenate(([True], own[1:] != own[:-1]))
    # Each lane above all lanes before it, so that one running maximum serves them all.
    lifted = bases + (np.cumsum(begins) - 1) * (int(bases.max()) + 1)
    highest = np.maximum.accumulate(lifted)
    late = np.flatnonzero(lifted < highest)
    return places[late], bases[late], bases[late] + highest[late] - lifted[late]


# --- calls


class Repeats(Struct, frozen=True):
    """Calls of handlers beyond those that an undisturbed run makes."""

    calls: int
    base_calls: int
    repeated: int
    by_sitting: list[int]
    """How many of them fell to each sitting."""
    kept: list[int]
    """How many were made by the end of each sitting, and never again after it."""
    never: int
    """Events that only the undisturbed run called a handler for."""
    never_at: list[int]
    """The first of their calls in its trace."""

    @property
    def most(self) -> int:
        """The largest number that one kill caused: they fall to the sitting after it."""
        return max(self.by_sitting[1:], default=0)


def repeats(
    base: Column, other: Column, ends: Sequence[int], *, part_lines: int = PART_LINES
) -> Repeats:
    """Count the calls that came again. `ends`: the length of the trace after each sitting."""
    by_sitting, kept = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
    never, never_at = 0, list[int]()
    for bases, others in zip(
        *(_parts(column, len(base) + len(other), part_lines) for column in (base, other)),
        strict=True,
    ):
        again, last, gone = _repeats(base[bases], other[others])
        sitting = np.searchsorted(ends, others[again], side="right")
        by_sitting += np.bincount(sitting, minlength=len(ends))[: len(ends)]
        kept += np.searchsorted(np.sort(others[last]), ends)
        never += len(gone)
        never_at = sorted(never_at + _first(bases[gone]))[:MOST_EXAMPLES]
    return Repeats(
        len(other),
        len(base),
        int(by_sitting.sum()),
        by_sitting.tolist(),
        kept.tolist(),
        never,
        never_at,
    )


def _repeats(base: Column, other: Column) -> tuple[Places, Places, Places]:
    """The places of calls that came again, of the last call of each event, and of the first calls
    of events that never came."""
    b_order, b_values, b_starts, b_counts = _grouped(base)
    o_order, o_values, o_starts, o_counts = _grouped(other)
    group, known = _groups_of(o_values, b_values)
    allowed = np.ones(len(o_values), np.int64)
    allowed[known] = b_counts[group[known]]
    rank = np.arange(len(other)) - np.repeat(o_starts, o_counts)
    again = o_order[rank >= np.repeat(allowed, o_counts)]
    gone = b_order[b_starts[~np.isin(b_values, o_values)]]
    return again, o_order[o_starts + o_counts - 1], gone
