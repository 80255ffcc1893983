"""What is read off a histogram at a moment, against plain counting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.counted import Counted
from millstream.engine.histogram import HIGHEST, Histogram, bucket_of, highest_in
from tests.support.details import counted

VALUES = st.lists(st.integers(0, 20_000_000_000), max_size=60)
BOUNDS = st.lists(st.integers(1, HIGHEST), min_size=1, max_size=8)


def equivalent(value: int) -> int:
    """The highest value that is not told from `value`."""
    return highest_in(int(bucket_of(np.array([value]))[0]))


@given(VALUES, BOUNDS)
def test_as_many_are_at_most_a_bound_as_plain_counting_says(
    values: list[int], bounds: list[int]
) -> None:
    found = counted(values).at_most(bounds)

    assert found == [sum(value <= equivalent(bound) for value in values) for bound in bounds]


@given(VALUES)
def test_percentiles_are_the_histograms_own(values: list[int]) -> None:
    histogram = Histogram()
    histogram.record(values)

    found = Counted.of(histogram).percentiles(50, 99, 100)

    expected = [equivalent(histogram.percentile(percent)) for percent in (50, 99, 100)]
    assert found == (expected if values else [None] * 3)


@given(VALUES, VALUES)
def test_what_came_since_is_what_was_recorded_since(first: list[int], later: list[int]) -> None:
    before, now = counted(first), counted([*first, *later])

    since = now.since(before)

    assert since.count == len(later)
    assert since.sum == sum(later)
    assert since.max == (equivalent(max(later)) if later else None)


@given(VALUES, VALUES)
def test_two_together_are_both(first: list[int], second: list[int]) -> None:
    both, whole = counted(first).plus(counted(second)), counted(first + second)

    assert both.sum == whole.sum
    assert both.buckets.tolist() == whole.buckets.tolist()


def test_what_is_counted_stays_as_it_was() -> None:
    histogram = Histogram()
    histogram.record([5])
    at_first = Counted.of(histogram)

    histogram.record([6] * 5000)

    assert (at_first.count, at_first.sum) == (1, 5)
