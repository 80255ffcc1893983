"""The histogram against the hdrhistogram package, count by count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.histogram import HIGHEST, Histogram, recorded_since

PERCENTILES = (0.1, 1, 25, 50, 75, 90, 99, 99.9, 99.99, 100)

# Small, near powers of two (where buckets change), and anywhere.
_values = st.one_of(
    st.integers(0, 5000),
    st.builds(
        lambda bits, by: min(HIGHEST, max(0, (1 << bits) + by)),
        st.integers(0, 42),
        st.integers(-2, 2),
    ),
    st.integers(0, HIGHEST),
)
_lists = st.lists(_values, min_size=1, max_size=200)


def oracle(values: Sequence[int]) -> HdrHistogram:
    histogram = HdrHistogram(1, HIGHEST, 3)
    for value in values:
        assert histogram.record_value(value)
    return histogram


def recorded(*batches: Sequence[int]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.record(batch)
    return histogram


def figures(histogram: Histogram) -> object:
    return histogram.summary(), histogram.counts(), histogram.count


@given(_lists)
def test_counts_are_those_of_hdrhistogram(values: list[int]) -> None:
    hdr = oracle(values)

    expected = Counter(int(hdr.get_lowest_equivalent_value(value)) for value in values)
    assert recorded(values).counts() == expected


@given(_lists)
def test_percentiles_are_those_of_hdrhistogram(values: list[int]) -> None:
    hdr, histogram = oracle(values), recorded(values)

    for percent in PERCENTILES:
        # A percentile is never above what was recorded.
        expected = min(int(hdr.get_value_at_percentile(percent)), max(values))
        assert histogram.percentile(percent) == expected, percent


@given(_lists)
def test_a_value_keeps_three_significant_digits(values: list[int]) -> None:
    ranked = sorted(values)
    histogram = recorded(values)

    for percent in PERCENTILES:
        exact = ranked[max(1, int(percent / 100 * len(ranked) + 0.5)) - 1]
        assert exact <= histogram.percentile(percent) <= exact * 1.001


@given(_lists)
def test_the_summary_is_exact_where_it_can_be(values: list[int]) -> None:
    summary = recorded(values).summary()

    assert summary is not None
    assert (summary.n, summary.min, summary.max) == (len(values), min(values), max(values))
    assert abs(summary.mean - sum(values) / len(values)) <= 0.5 + 1e-12 * summary.mean


@given(st.lists(_lists, min_size=1, max_size=6))
def test_batches_and_merged_histograms_count_as_one(batches: list[list[int]]) -> None:
    together = recorded([value for batch in batches for value in batch])
    parts = [recorded(batch) for batch in batches]
    before = [figures(recorded(batch)) for batch in batches[1:]]  # of others: a look is a flush
    for part in parts[1:]:
        parts[0].merge(part)

    assert figures(recorded(*batches)) == figures(together)
    assert figures(parts[0]) == figures(together)
    assert [figures(part) for part in parts[1:]] == before


@pytest.mark.parametrize("size", [4095, 4096, 4097, 10_000])
def test_many_values_at_once(size: int) -> None:
    values = np.random.default_rng(size).integers(0, 1 << 36, size)
    histogram = recorded(values[:10], values[10:])

    assert histogram.count == size
    assert sum(histogram.counts().values()) == size
    assert histogram.percentile(99) == int(oracle(values.tolist()).get_value_at_percentile(99))


def test_what_is_out_of_range_counts_at_its_edge() -> None:
    histogram = recorded([-5, HIGHEST + 1, 1 << 60])

    assert histogram.summary() is not None
    assert histogram.percentile(0) == 0
    assert histogram.percentile(100) == HIGHEST
    assert list(histogram.counts().values()) == [1, 2]


@given(st.lists(st.integers(0, 10**10), max_size=50), st.lists(st.integers(0, 10**10), max_size=50))
def test_what_was_recorded_since_is_what_was_recorded_since(
    before: list[int], after: list[int]
) -> None:
    whole, alone, since = Histogram(), Histogram(), Histogram()
    whole.record(before)
    earlier = whole.snapshot()
    whole.record(after)
    alone.record(after)

    since.restore(recorded_since(whole.snapshot(), earlier))

    assert since.counts() == alone.counts()
    assert since.count == len(after)
    if after:
        told, wanted = since.summary(), alone.summary()
        assert told is not None and wanted is not None
        assert (told.mean, told.n) == (wanted.mean, wanted.n)
        assert told.min <= wanted.min <= wanted.max <= told.max
        assert told.p99 == pytest.approx(wanted.p99, rel=1e-3)


def test_an_empty_histogram_has_no_figures() -> None:
    histogram = recorded([], [])
    histogram.merge(Histogram())

    assert histogram.summary() is None
    assert (histogram.count, histogram.percentile(50), histogram.counts()) == (0, 0, {})


def test_memory_does_not_grow_with_what_is_recorded() -> None:
    histogram = Histogram()
    for _ in range(300):
        histogram.record(range(1000))
        assert histogram._pending_n < 4096

    assert histogram.count == 300_000
