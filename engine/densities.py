"""RFC 5236's reorder density and reorder buffer-occupancy density of one sequence, event by event.

Pure. Where events come in order both follow from their gaps alone: calm_occupancies() says how.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .histogram import Ints


class Tally:
    """What the densities count: FD[-DT..DT] and FB[0..BT], with DT = BT = `threshold`."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.displaced = [0] * (2 * threshold + 1)
        """At place `threshold + D` the events whose displacement was D."""
        self.occupied = [0] * (threshold + 1)
        """Arrivals after which the buffer held so many."""

    def merge(self, other: Tally) -> None:
        """Add what another one counted, of the same threshold."""
        self.displaced = [a + b for a, b in zip(self.displaced, other.displaced, strict=True)]
        self.occupied = [a + b for a, b in zip(self.occupied, other.occupied, strict=True)]

    def add_in_order(self, count: int) -> None:
        """So many had the displacement 0."""
        self.displaced[self.threshold] += count

    def add_occupancies(self, occupancies: Ints) -> None:
        """Arrivals, by what the buffer held after each."""
        counts = np.bincount(occupancies, minlength=self.threshold + 1).tolist()
        self.occupied = [a + b for a, b in zip(self.occupied, counts, strict=True)]


class Densities:
    """The state of both algorithms (RFC 5236, sections 7.1 and 7.2) in one sequence.

    Displacements are told as soon as they are certain: an arrival leaves the look-ahead window
    once the receive index is found among what has arrived, however few have come after it.
    """

    __slots__ = ("_early", "_held", "_tally", "_window", "calm", "expected", "index")

    def __init__(self, tally: Tally, index: int | None, expected: int) -> None:
        """`index` is the receive index, None at the start of a sequence; `expected` is E."""
        self._tally = tally
        self.index, self.expected = index, expected
        self._window: deque[int] = deque()  # up to DT + 1, in order of arrival
        self._early: set[int] = set()
        """What has arrived and was no receive index yet: in the window, or gone before its turn."""
        self._held: set[int] = set()  # up to BT
        self.calm = 0
        """How many came in order since the last that was late."""

    def count_to(self, tally: Tally) -> None:
        """From now on count there."""
        self._tally = tally

    def counts_to(self, tally: Tally) -> bool:
        """Whether it counts there."""
        return self._tally is tally

    def take(self, number: int) -> None:
        """The next arrival; no duplicate."""
        if number == self.index and not self._window:
            self._tally.displaced[self._tally.threshold] += 1
            self.index = number + 1
        elif self.index is None or number >= self.index:
            self._window.append(number)
            self._early.add(number)
            self._drain(self._tally.threshold)
        self._occupy(number)

    def _drain(self, most: int) -> None:
        """Assign receive indexes, until one is missing and the window holds no more than `most`."""
        window, early, threshold = self._window, self._early, self._tally.threshold
        displaced = self._tally.displaced
        while window:
            index = self.index
            if index is None or index not in early:
                if len(window) <= most:
                    return
                index = min(early)
            number = window.popleft()
            displacement = index - number
            if displacement < -threshold:
                early.discard(number)
                self.index = index
                continue
            # One that is late beyond the threshold, though its number was a receive index, takes
            # this one with it: else each index from here on would be one too low, for ever.
            if displacement <= threshold:
                displaced[threshold + displacement] += 1
            early.remove(index)
            self.index = index + 1

    def _occupy(self, number: int) -> None:
        held = self._held
        if number < self.expected:
            return  # excessively delayed
        if number != self.expected:
            held.add(number)
            if len(held) <= self._tally.threshold:
                self._tally.occupied[len(held)] += 1
                return
            self.expected = min(held)
            held.remove(self.expected)
        self.expected += 1
        while self.expected in held:
            held.remove(self.expected)
            self.expected += 1
        self._tally.occupied[len(held)] += 1

    def finish(self) -> None:
        """No more will come: tell what waits."""
        self._drain(0)

    @property
    def waiting(self) -> int:
        """How many wait for their receive index."""
        return len(self._window)

    def is_idle(self, largest: int) -> bool:
        """Whether nothing waits, and what comes next is expected, after a largest number."""
        return (
            not self._window
            and not self._held
            and not self._early
            and self.index == self.expected == largest + 1
        )

    @property
    def is_plain(self) -> bool:
        """Whether all that waits is in the window, and none of it has been a receive index."""
        return len(self._early) == len(self._window)

    def copy(self, tally: Tally) -> Densities:
        """The same, counting elsewhere."""
        other = Densities(tally, self.index, self.expected)
        other._window, other._early = self._window.copy(), self._early.copy()
        other._held, other.calm = self._held.copy(), self.calm
        return other


def first_expected(first: int, threshold: int) -> int:
    """E at the start: 1, or, when numbers begin elsewhere, the first number that arrives."""
    return 1 if 1 <= first <= threshold + 1 else first


def calm_occupancies(
    gaps: npt.NDArray[np.bool_],
    starts: Ints,
    lengths: Ints,
    before: npt.NDArray[Any],
    threshold: int,
) -> Ints:
    """What the buffer holds after each arrival, in sequences in which all come in order.

    `gaps` says of each arrival whether a number before it is missing. Sequences stand one after
    another, from `starts` on, `lengths` each; `before` has their gaps of earlier: bit k says so of
    the arrival k before the first one here. A gap is waited for during `threshold` arrivals, its
    own included; then it is given up, and all up to the next gap is released. So the buffer holds
    what came since the oldest gap among the last `threshold` arrivals.
    """
    count = len(gaps)
    place = np.arange(count)
    nth = place - np.repeat(starts, lengths)
    since = place - np.minimum(nth, threshold - 1)
    at = np.flatnonzero(gaps)
    passed = np.concatenate(([0], np.cumsum(gaps)))[since]
    oldest = np.append(at, count)[passed]
    occupancies: Ints = np.maximum(place - oldest + 1, 0)
    old = np.repeat(before, lengths)
    near = np.flatnonzero((nth < threshold - 1) & (old != 0))
    if len(near):
        back = nth[near] + 1
        mask = (1 << (threshold - back).astype(old.dtype)) - 1
        bits = bit_lengths(old[near] & mask)
        occupancies[near] = np.where(bits > 0, bits + back, occupancies[near])
    return occupancies


def count_in_step(
    tally: Tally,
    gaps: npt.NDArray[np.bool_],
    starts: Ints,
    lengths: Ints,
    before: npt.NDArray[Any],
    mask: int,
) -> npt.NDArray[Any]:
    """Count as calm_occupancies() does, all sequences in step: first arrivals, second ones, …

    Gives the bits of `before` after them, all that `mask` has.
    """
    bits, recent = before.copy(), (1 << tally.threshold) - 1
    left = np.arange(len(starts))
    for nth in range(int(lengths.max())):
        if nth:
            left = left[lengths[left] > nth]
        now = (bits[left] << 1 | gaps[starts[left] + nth]) & mask
        bits[left] = now
        tally.add_occupancies(bit_lengths(now & recent))
    return bits


def add_occupancies(tally: Tally, gaps: Sequence[int], before: int, start: int, stop: int) -> None:
    """Count as calm_occupancies() does, one sequence with few gaps: those at some places of
    start..stop, and those of `before`."""
    occupied, threshold = tally.occupied, tally.threshold
    near = range(min(before.bit_length(), threshold - 1), 0, -1)
    old = [start - back for back in near if before >> back - 1 & 1]
    at, zeros = start, stop - start
    for gap in [*old, *gaps]:
        end = min(gap + threshold, stop)
        begin = max(gap, at)
        for place in range(begin, end):
            occupied[place - gap + 1] += 1
        if end > begin:
            zeros -= end - begin
            at = end
    occupied[0] += zeros


def bit_lengths(values: npt.NDArray[Any]) -> Ints:
    """The bit length of each value; int64 below 2⁵³, or any Python integers."""
    if values.dtype == object:
        return np.array([value.bit_length() for value in values], dtype=np.int64)
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def gap_bits(gaps: Iterable[int], bits: int, mask: int) -> int:
    """The bits of `before` after some more arrivals."""
    for gap in gaps:
        bits = (bits << 1 | gap) & mask
    return bits


def replay(densities: Densities, numbers: Sequence[int], threshold: int) -> None:
    """Bring the state to where it stands after `numbers`, without counting them."""
    counting = densities._tally
    densities.count_to(Tally(threshold))
    for number in numbers:
        densities.take(number)
    densities.count_to(counting)
