"""Differences between what two runs left: every one is found and named, and nothing else is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from millstream.engine.proving import (
    NONE,
    Column,
    Differences,
    Repeats,
    Swap,
    differences,
    matches,
    repeats,
    swaps,
)

values = st.integers(0, 12)
columns = st.lists(values, max_size=30)
parts = st.sampled_from([1, 3, 1000])


def column(rows: list[int]) -> Column:
    return np.array(rows, np.uint64)


def stands_for(base: list[int], other: list[int], lanes: list[int], part_lines: int) -> list[int]:
    """What swaps() is given: the place in `base` of each line that tells something of order."""
    made = [NONE] * len(other)
    for each in matches(column(base), column(other), column(lanes), part_lines=part_lines):
        for at, place, is_ambiguous in zip(each.others, each.bases, each.ambiguous, strict=True):
            made[at] = NONE if is_ambiguous else int(place)
    return made


def out_of_order(
    base: list[int], other: list[int], lanes: list[int], part_lines: int = 1000
) -> tuple[int, list[Swap]]:
    places = np.array(stands_for(base, other, lanes, part_lines), np.int64)
    return swaps(column(lanes), places, part_lines=part_lines)


@given(columns, columns, parts)
def test_differences_are_those_of_multisets(
    base: list[int], other: list[int], part_lines: int
) -> None:
    found = differences(column(base), column(other), part_lines=part_lines)

    have, want = Counter(other), Counter(base)
    more = have - want
    assert found.missing == (want - have).total()
    assert found.foreign == sum(count for value, count in more.items() if value not in want)
    assert found.repeated == sum(count for value, count in more.items() if value in want)
    assert bool(found) == (have != want)


@given(st.lists(values, min_size=1, max_size=30), st.data(), parts)
def test_a_line_that_was_lost_is_named(
    base: list[int], data: st.DataObject, part_lines: int
) -> None:
    gone = data.draw(st.integers(0, len(base) - 1))

    found = differences(column(base), column(base[:gone] + base[gone + 1 :]), part_lines=part_lines)

    assert (found.missing, found.repeated, found.foreign) == (1, 0, 0)
    assert [base[place] for place in found.missing_at] == [base[gone]]


@given(st.lists(values, min_size=1, max_size=30), st.data(), parts)
def test_a_line_that_came_twice_is_named(
    base: list[int], data: st.DataObject, part_lines: int
) -> None:
    which = data.draw(st.integers(0, len(base) - 1))
    at = data.draw(st.integers(0, len(base)))
    other = [*base[:at], base[which], *base[at:]]

    found = differences(column(base), column(other), part_lines=part_lines)

    assert (found.missing, found.repeated, found.foreign) == (0, 1, 0)
    ((place, base_place),) = found.repeated_at
    assert other[place] == base[base_place] == base[which]


@given(columns, st.data(), parts)
def test_a_foreign_line_is_named(base: list[int], data: st.DataObject, part_lines: int) -> None:
    at = data.draw(st.integers(0, len(base)))

    found = differences(column(base), column([*base[:at], 99, *base[at:]]), part_lines=part_lines)

    assert found == Differences(foreign=1, foreign_at=[at])


@given(st.permutations(range(12)), st.data(), parts)
def test_lines_of_different_keys_may_come_in_any_order(
    lines: list[int], data: st.DataObject, part_lines: int
) -> None:
    lanes = data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=12))
    base = list(range(12))
    own = {lane: [line for line in base if lanes[line] == lane] for lane in range(4)}
    other = [own[lanes[line]].pop(0) for line in lines]

    assert out_of_order(base, other, lanes, part_lines) == (0, [])


@given(st.data(), parts)
def test_a_swap_within_a_key_is_named(data: st.DataObject, part_lines: int) -> None:
    base = list(range(100, 112))
    lanes = data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=12))
    one, two = sorted(data.draw(st.sets(st.integers(0, 11), min_size=2, max_size=2)))
    assume(lanes[one] == lanes[two])
    other = base.copy()
    other[one], other[two] = other[two], other[one]

    count, first = out_of_order(base, other, lanes, part_lines)

    assert count == 1 + lanes[one + 1 : two].count(lanes[one])
    assert {swap.after for swap in first} == {two}
    assert first[-1].base == one


def test_equal_lines_of_several_keys_tell_nothing_of_order() -> None:
    assert out_of_order([5, 6, 5, 7], [6, 5, 7, 5], lanes=[1, 1, 2, 2])[0] == 0
    assert out_of_order([5, 6, 5, 7], [6, 5, 7, 5], lanes=[1, 1, 1, 1])[0] == 2


@given(st.lists(values, min_size=1, max_size=30), st.data(), parts)
def test_equal_lines_of_one_key_are_never_taken_for_a_swap(
    base: list[int], data: st.DataObject, part_lines: int
) -> None:
    gone = data.draw(st.integers(0, len(base) - 1))

    assert out_of_order(base, base, [1] * len(base), part_lines)[0] == 0
    fewer = base[:gone] + base[gone + 1 :]
    assert out_of_order(base, fewer, [1] * len(base), part_lines)[0] == 0


@given(columns, columns, st.lists(st.integers(0, 30), max_size=4), parts)
def test_calls_that_came_again_are_counted_by_sitting(
    base: list[int], other: list[int], cuts: list[int], part_lines: int
) -> None:
    ends = [*sorted(min(cut, len(other)) for cut in cuts), len(other)]

    found = repeats(column(base), column(other), ends, part_lines=part_lines)

    usual, seen, by_sitting = Counter(base), Counter[int](), [0] * len(ends)
    for place, value in enumerate(other):
        seen[value] += 1
        if seen[value] > max(1, usual[value]):
            by_sitting[next(n for n, end in enumerate(ends) if place < end)] += 1
    assert found.by_sitting == by_sitting
    last = {value: place for place, value in enumerate(other)}
    assert found.kept == [sum(place < end for place in last.values()) for end in ends]
    assert (found.calls, found.base_calls) == (len(other), len(base))
    assert found.never == len(set(base) - set(other))
    assert {base[place] for place in found.never_at} <= set(base) - set(other)


@pytest.mark.parametrize(("by_sitting", "most"), [([3], 0), ([0, 4], 4), ([0, 1, 7, 2], 7)])
def test_what_comes_again_in_a_sitting_is_due_to_the_kill_before(
    by_sitting: list[int], most: int
) -> None:
    assert Repeats(9, 9, sum(by_sitting), by_sitting, [], 0, []).most == most
