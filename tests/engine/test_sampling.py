"""The course of a run: what a point says, and what stays when neighbours are joined."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.histogram import HIGHEST, Histogram
from millstream.engine.sampling import MOST_POINTS, PER_OCTAVE, Series, response_figures

_times = st.one_of(st.integers(0, 5000), st.integers(0, HIGHEST))


def figures(values: list[int]) -> dict[str, object]:
    window = Histogram()
    window.record(values)
    return response_figures(window)


@given(st.lists(_times, min_size=1, max_size=100))
def test_each_response_time_counts_in_its_bucket(values: list[int]) -> None:
    flat = figures(values)["response_buckets"]

    assert isinstance(flat, list)
    buckets, counts = flat[::2], flat[1::2]
    assert sum(counts) == len(values)
    assert buckets == sorted(set(buckets))
    # To the three digits of the histogram that they come from.
    for value in values:
        at = [b for b in buckets if 2 ** (b / PER_OCTAVE) * 0.998 <= max(1, value)]
        assert any(max(1, value) < 2 ** ((b + 1) / PER_OCTAVE) * 1.002 for b in at)


def test_an_interval_without_a_response_says_nothing_of_any() -> None:
    assert figures([]) == {}


@given(st.lists(st.lists(_times, max_size=4), min_size=1, max_size=12))
def test_no_response_time_is_lost_when_neighbours_are_joined(intervals: list[list[int]]) -> None:
    series, repeated = Series(), (intervals * MOST_POINTS)[:MOST_POINTS]

    for values in repeated:
        series.add(rss=1, throughput=4.0, loop_lag=len(values), **figures(values))

    joined, counted = series.report(), Counter[int]()
    for flat in joined["response_buckets"]:
        counted.update(dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {})
    assert len(joined["rss"]) == MOST_POINTS // 2
    assert joined["interval_ns"] == 2 * Series().interval_ns
    assert sum(counted.values()) == sum(map(len, repeated))
    assert max(joined["loop_lag"]) == max(map(len, repeated))


def test_a_series_of_an_earlier_version_is_gone_on_with() -> None:
    series, before = Series(), Series()
    before.add(rss=1, throughput=2.0)
    kept = before.report()
    del kept["response_buckets"], kept["loop_lag"]

    series.go_on_from(kept)
    series.add(rss=2, throughput=3.0, loop_lag=5)

    assert series.report()["loop_lag"] == [None, 5]
    assert series.report()["throughput"] == [2.0, 3.0]
