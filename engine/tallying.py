"""How often each id was attempted, acknowledged and delivered, and what that comes to.

Pure: ids and their places in, figures and examples out; no files. Ids are told apart by their text,
never by a hash alone. delivery.py sees to it that a table does not outgrow memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from heapq import nsmallest
from itertools import islice
from sys import getsizeof
from typing import Final, Literal, cast

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from .event import Scalar

Ints = NDArray[np.int64]

Kind = Literal["lost", "duplicated", "unexpected", "recovered"]
KINDS: Final[tuple[Kind, ...]] = ("lost", "duplicated", "unexpected", "recovered")
MOST_EXAMPLES: Final = 10
"""Of each kind."""

ATTEMPTED, ACKNOWLEDGED, DELIVERED = range(3)
"""What a log tells of its ids: its role, and the column with the count of it."""
_FIRST: Final = 3
"""From here on: the column with the first place in the logs of each role."""
_FIRST_COPY, _SECOND_COPY, _LAST_COPY = _FIRST + DELIVERED, 6, 7
"""Columns with places in what was delivered."""
_NONE: Final = 2**63 - 1
"""A place behind all others."""
_EMPTY: Final = np.array([[0], [0], [0], [_NONE], [_NONE], [_NONE], [_NONE], [-1]], np.int64)
"""The columns of an id that is nowhere."""
COLUMNS: Final = len(_EMPTY)

_LINE_BITS: Final = 41
_LINE_MASK: Final = (1 << _LINE_BITS) - 1
MOST_FILES: Final = 1 << 21
_BYTES_EACH: Final = 64 + 32
"""What an id's text takes beside its characters, and its number."""
_LEAST_CAPACITY: Final = 64


class Place(Struct, frozen=True, order=True):
    """Where an id stands in a log."""

    file: int
    line: int


class DeliveryExample(Struct, frozen=True):
    """An id that was not delivered as it should have been, and how often it is where."""

    kind: Kind
    id: str
    places: tuple[Place, ...]
    """Lost: where it was acknowledged (attempted, when no log of that was given). Unexpected and
    recovered: where it was delivered. Duplicated: the first copy, and one that is too many (the
    second; the last, when it was attempted more than once)."""
    attempted: int
    acknowledged: int
    delivered: int


class Counts(Struct, frozen=True):
    """Events in the logs of each role."""

    attempted: int = 0
    acknowledged: int = 0
    delivered: int = 0


class DeliveryReport(Struct, frozen=True):
    """Multisets of ids compared, in the terms of Jepsen's total-queue checker."""

    lost: int = 0
    """Acknowledged, and not delivered."""
    duplicated: int = 0
    """Delivered more often than attempted."""
    unexpected: int = 0
    """Delivered, and never attempted."""
    recovered: int = 0
    """Attempted and delivered, though not acknowledged."""
    attempted: int = 0
    acknowledged: int = 0
    """As many as attempted, when no log of them was given."""
    delivered: int = 0
    without_id: Counts = Counts()
    """Events that have no id: they are in none of the other figures."""
    examples: tuple[DeliveryExample, ...] = ()
    """At most MOST_EXAMPLES of each kind, kind by kind: the first by file and line (of duplicates,
    of the copy that is too many)."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing breaks exactly-once delivery: what was recovered does not."""
        return not (self.lost or self.duplicated or self.unexpected)


# --- what comes in


def texts_of(ids: Sequence[Scalar]) -> tuple[Sequence[str], Ints | None]:
    """The texts of ids, and which of `ids` have one; None: all.

    A whole number and its decimal text are the same id, since a CSV has texts only. Null, booleans
    and numbers with a fraction are no ids.
    """
    kinds = set(map(type, ids))
    if kinds <= {str}:
        return cast(Sequence[str], ids), None
    if kinds <= {int}:
        try:
            return list(map(str, ids)), None
        except ValueError:  # one of them is so long that it has to be looked at alone
            pass
    at = [n for n, id in enumerate(ids) if type(id) is str or type(id) is int]
    texts = [id if type(id) is str else _decimal(cast(int, id)) for id in map(ids.__getitem__, at)]
    return texts, np.array(at, np.int64)


def _decimal(id: int) -> str:
    try:
        return str(id)
    except ValueError:  # longer than Python likes to convert (sys.set_int_max_str_digits)
        return str(Decimal(id))


def places_of(file: int, lines: Sequence[int] | Ints) -> Ints:
    """Places as numbers that sort by file and line. A file has less than 2 x 10^12 lines."""
    if not 0 <= file < MOST_FILES:
        raise ValueError(f"file number {file} is not among 0 to {MOST_FILES - 1}; give another one")
    if isinstance(lines, range):  # asarray would make each of its numbers an object
        lines = np.arange(lines.start, lines.stop, lines.step, dtype=np.int64)
    return np.asarray(lines, np.int64) | np.int64(file << _LINE_BITS)


def _place(number: int) -> Place:
    return Place(number >> _LINE_BITS, number & _LINE_MASK)


# --- counting


class Table:
    """Distinct ids, each with its counts and places: COLUMNS numbers, the same for any order in
    which they came. Some 250 bytes an id that is short; `bytes` tells."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._columns: Ints = np.empty((COLUMNS, _LEAST_CAPACITY), np.int64)
        self._object_bytes = 0

    def __len__(self) -> int:
        """How many distinct ids it has."""
        return len(self._numbers)

    @property
    def bytes(self) -> int:
        """What it takes up."""
        return self._object_bytes + getsizeof(self._numbers) + self._columns.nbytes

    def add(self, role: int, ids: Sequence[str], places: Ints) -> None:
        """Count ids that stand in a log of this role. They may repeat."""
        if len(ids):
            before = len(self)
            self._merge(before, *_grouped(self._numbered(ids), places, role))

    def merge(self, ids: Sequence[str], columns: Ints) -> None:
        """Count what another table had of these ids, which are distinct."""
        if len(ids):
            before = len(self)
            self._merge(before, self._numbered(ids), columns)

    def content(self) -> tuple[list[str], Ints]:
        """The ids, and their columns; good until something is added."""
        return list(self._numbers), self._columns[:, : len(self)]

    def _numbered(self, ids: Sequence[str]) -> Ints:
        """The number of each id, by which its column is found: how many came before it."""
        known, before = self._numbers, len(self)
        counts = iter(known.__len__, -1)  # asked anew before each id
        numbers = np.fromiter(map(known.setdefault, ids, counts), np.int64, len(ids))
        new = len(self) - before
        if new:
            # Joined, they take up as much or more: one wide character makes all of them wide. To
            # ask each of them costs as much as to find it.
            texts = "".join(islice(reversed(known), new))
            self._object_bytes += getsizeof(texts) + _BYTES_EACH * new
        return numbers

    def _merge(self, before: int, numbers: Ints, block: Ints) -> None:
        """`numbers` are distinct, and new from `before` on. A second copy is the second of all."""
        after = len(self)
        if after > self._columns.shape[1]:
            larger = np.empty((COLUMNS, max(after, 2 * self._columns.shape[1])), np.int64)
            larger[:, :before] = self._columns[:, :before]
            self._columns = larger
        if after - before == len(numbers):  # all are new, and so they rise
            self._columns[:, before:after] = block
            return
        self._columns[:, before:after] = _EMPTY
        columns = self._columns[:, numbers]
        later = np.maximum(columns[_FIRST_COPY], block[_FIRST_COPY])
        counts, lowest, last = columns[:_FIRST], columns[_FIRST:_LAST_COPY], columns[_LAST_COPY]
        counts += block[:_FIRST]
        np.minimum(lowest, block[_FIRST:_LAST_COPY], out=lowest)
        np.minimum(columns[_SECOND_COPY], later, out=columns[_SECOND_COPY])
        np.maximum(last, block[_LAST_COPY], out=last)
        self._columns[:, numbers] = columns


def _grouped(numbers: Ints, places: Ints, role: int) -> tuple[Ints, Ints]:
    """Numbers that may repeat, as distinct ones with their columns."""
    if (numbers[1:] > numbers[:-1]).all():  # as all ids that are new: nothing needs to be sorted
        block = np.repeat(_EMPTY, len(numbers), axis=1)
        block[role] = 1
        block[_FIRST + role] = places
        if role == DELIVERED:
            block[_LAST_COPY] = places
        return numbers, block
    order = np.lexsort((places, numbers))
    numbers, places = numbers[order], places[order]
    ends = np.flatnonzero(np.append(numbers[1:] != numbers[:-1], True))
    starts = np.append(0, ends[:-1] + 1)
    block = np.repeat(_EMPTY, len(starts), axis=1)
    block[role] = ends - starts + 1
    block[_FIRST + role] = places[starts]
    if role == DELIVERED:
        again = starts < ends
        block[_SECOND_COPY, again] = places[starts[again] + 1]
        block[_LAST_COPY] = places[ends]
    return numbers[starts], block


def dealt(ids: Sequence[str], level: int, parts: int) -> list[Ints]:
    """Deal ids out: which of `ids` are in each part. Each level asks other digits of the hash.

    An id is in the same part for as long as the process lasts. `parts`: at most 65,536.
    """
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)
    part = (hashes // np.uint64(parts**level) % np.uint64(parts)).astype(np.uint16)
    order = np.argsort(part, kind="stable")
    return np.split(order, np.searchsorted(part[order], np.arange(1, parts)))


def most_levels(parts: int) -> int:
    """How many digits to the base `parts` a hash has: ids that share them all are never parted."""
    level = 1
    while parts ** (level + 1) <= 1 << 64:
        level += 1
    return level


# --- what it comes to


def tally(ids: Sequence[str], columns: Ints, *, acknowledged: bool) -> DeliveryReport:
    """The figures and examples of distinct ids.

    `acknowledged`: whether a log of that was given; if not, what was attempted counts as
    acknowledged. Source: total-queue in Jepsen's checker.clj.
    """
    role = ACKNOWLEDGED if acknowledged else ATTEMPTED
    a, k, d = columns[ATTEMPTED], columns[role], columns[DELIVERED]
    excess = np.maximum(d - a, 0)
    too_many = np.where(a == 1, columns[_SECOND_COPY], columns[_LAST_COPY])
    found: dict[Kind, tuple[Ints, Ints]] = {
        "lost": (np.maximum(k - d, 0), columns[_FIRST + role]),
        "duplicated": (np.where(a > 0, excess, 0), too_many),
        "unexpected": (np.where(a == 0, d, 0), columns[_FIRST_COPY]),
        "recovered": (np.maximum(np.minimum(d, a) - k, 0), columns[_FIRST_COPY]),
    }
    examples = []
    for kind, (amounts, places) in found.items():
        for n in _first(ids, amounts, places):
            numbers = [columns[_FIRST_COPY][n]] if kind == "duplicated" else []
            at = tuple(_place(int(number)) for number in [*numbers, places[n]])
            examples.append(DeliveryExample(kind, ids[n], at, int(a[n]), int(k[n]), int(d[n])))
    lost, duplicated, unexpected, recovered = (int(found[kind][0].sum()) for kind in KINDS)
    return DeliveryReport(
        lost=lost,
        duplicated=duplicated,
        unexpected=unexpected,
        recovered=recovered,
        attempted=int(a.sum()),
        acknowledged=int(k.sum()),
        delivered=int(d.sum()),
        examples=tuple(examples),
    )


def _first(ids: Sequence[str], amounts: Ints, places: Ints) -> list[int]:
    """Where some of the amounts stand that are not 0: those first by place, then by id."""
    at = np.flatnonzero(amounts)
    if len(at) > MOST_EXAMPLES:  # events that share a line share a place
        at = at[places[at] <= np.partition(places[at], MOST_EXAMPLES - 1)[MOST_EXAMPLES - 1]]
    return nsmallest(MOST_EXAMPLES, at.tolist(), key=lambda n: (places[n], ids[n]))


def together(one: DeliveryReport, two: DeliveryReport) -> DeliveryReport:
    """The report of ids of which each has a part, and no id is in both."""
    examples = []
    for kind in KINDS:
        both = [each for each in (*one.examples, *two.examples) if each.kind == kind]
        examples += nsmallest(MOST_EXAMPLES, both, key=lambda each: (each.places[-1], each.id))
    return DeliveryReport(
        lost=one.lost + two.lost,
        duplicated=one.duplicated + two.duplicated,
        unexpected=one.unexpected + two.unexpected,
        recovered=one.recovered + two.recovered,
        attempted=one.attempted + two.attempted,
        acknowledged=one.acknowledged + two.acknowledged,
        delivered=one.delivered + two.delivered,
        examples=tuple(examples),
    )
