"""Intervals hold the true value as often as they say; medians and shifts are as defined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import comb, inf, nan, sqrt
from statistics import NormalDist, median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.reports.intervals import (
    Interval,
    Median,
    Shift,
    _rank,
    _tail,
    mann_whitney,
    median_of,
    runs_needed,
    shift_of,
)

_numbers = st.floats(-1e9, 1e9)
_runs = st.lists(_numbers, min_size=1, max_size=12)
_enough = st.lists(_numbers, min_size=5, max_size=12)

Draw = Callable[[np.random.Generator, int], "np.typing.NDArray[np.float64]"]

# Distributions with their medians: even, skewed as latencies are, and with heavy tails.
DRAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda chance, n: chance.normal(0, 1, n), 0.0),
    "lognormal": (lambda chance, n: chance.lognormal(0, 1, n), 1.0),
    "cauchy": (lambda chance, n: chance.standard_cauchy(n), 0.0),
}


@given(_runs)
def test_the_median_is_the_median(values: list[float]) -> None:
    found = median_of(values)

    assert found.value == median(values)
    assert found.runs == len(values)


@given(_enough)
def test_the_interval_lies_within_the_runs_and_holds_the_median(values: list[float]) -> None:
    found = median_of(values)

    assert found.interval is not None
    assert min(values) <= found.interval.low <= found.value <= found.interval.high <= max(values)


@given(_enough, st.integers(0, 2**32))
def test_equal_runs_and_seeds_make_equal_intervals(values: list[float], seed: int) -> None:
    assert median_of(values, seed) == median_of(list(values), seed)


@pytest.mark.parametrize(
    ("runs", "why"),
    [(1, "1 run, and an interval needs 5 or more"), (4, "4 runs, and an interval needs 5 or more")],
)
def test_few_runs_have_no_interval(runs: int, why: str) -> None:
    assert median_of([3.0] * runs) == Median(3.0, None, why, runs)
    assert shift_of([3.0] * runs, [4.0] * 9) == Shift(1.0, None, why, (runs, 9))
    assert shift_of([3.0] * 9, [4.0] * runs) == Shift(1.0, None, why, (9, runs))


@pytest.mark.parametrize("values", [[], [1.0, nan], [inf, 1.0]])
def test_what_is_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="give it"):
        median_of(values)
    with pytest.raises(ValueError, match="give it"):
        shift_of(values, [1.0])
    with pytest.raises(ValueError, match="give it"):
        shift_of([1.0], values)


@pytest.mark.parametrize(
    ("runs", "low", "high"),
    [
        # The median of a resample of n is the k-th or less with P(Bin(n, k / n) > n / 2). The tail
        # is Φ(−3.10) = 0.1 % for five runs, 0.4 % for seven, 0.7 % for nine, 1.0 % for eleven.
        (5, 1, 5),  # k = 1: 5.8 %
        (7, 1, 7),  # k = 1: 1.0 %
        (9, 2, 8),  # k = 1: 0.14 %, k = 2: 3.0 %
        (11, 3, 9),  # k = 2: 0.7 %, k = 3: 5.1 %
    ],
)
def test_intervals_by_hand(runs: int, low: float, high: float) -> None:
    interval = Interval(float(low), float(high))

    assert median_of([float(run) for run in range(runs, 0, -1)]).interval == interval


@pytest.mark.parametrize(
    ("runs", "t"), [(5, 2.7764), (6, 2.5706), (10, 2.2622), (20, 2.0930), (100, 1.9842)]
)
def test_tails_are_expanded_by_student_s_distribution(runs: int, t: float) -> None:
    expected = NormalDist().cdf(-t * sqrt(runs / (runs - 1)))

    assert _tail(runs) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("runs", [5, 7, 10, 15])
def test_intervals_of_medians_cover_the_true_one(name: str, runs: int) -> None:
    draw, true = DRAWS[name]
    chance = np.random.default_rng([runs, *name.encode()])
    covered = 0
    for _ in range(1000):
        interval = median_of(draw(chance, runs).tolist()).interval
        covered += interval is not None and true in interval

    assert 900 <= covered <= 990


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("runs", [(5, 5), (10, 10), (6, 12)])
def test_intervals_of_shifts_cover_the_true_one(name: str, runs: tuple[int, int]) -> None:
    draw, _ = DRAWS[name]
    chance = np.random.default_rng([*runs, *name.encode()])
    covered = 0
    for _ in range(1000):
        before, after = draw(chance, runs[0]), draw(chance, runs[1]) + 0.7
        interval = shift_of(before.tolist(), after.tolist()).interval
        covered += interval is not None and 0.7 in interval

    # Exact, and of few runs conservative: 95 % or somewhat more; three deviations are 2 %.
    assert 930 <= covered <= 990


@given(_runs, _runs)
def test_the_shift_is_the_median_of_all_differences(
    before: list[float], after: list[float]
) -> None:
    found = shift_of(before, after)

    assert found.value == median(b - a for a in before for b in after)
    assert found.runs == (len(before), len(after))


@given(_enough, _enough)
def test_the_other_way_round_it_is_the_opposite(before: list[float], after: list[float]) -> None:
    there, back = shift_of(before, after), shift_of(after, before)

    assert there.interval is not None
    assert back.interval is not None
    assert back.value == -there.value
    assert (back.interval.low, back.interval.high) == (-there.interval.high, -there.interval.low)
    assert there.value in there.interval


def test_a_shift_of_five_and_five_by_hand() -> None:
    # P(U ≤ 2) = 4/252 = 1.6 % and P(U ≤ 3) = 7/252 = 2.8 %: the third difference of each end.
    found = shift_of([1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0])

    # Differences: 6 once, 7 twice, 8 three times, …, 13 twice, 14 once.
    assert found == Shift(10.0, Interval(7.0, 13.0), "", (5, 5))
    assert found.shows_difference


def test_runs_that_lie_among_each_other_show_no_difference() -> None:
    assert not shift_of([1.0, 3, 5, 7, 9], [2.0, 4, 6, 8, 10]).shows_difference
    assert not shift_of([1.0] * 4, [9.0] * 4).shows_difference
    assert not shift_of([1.0] * 5, [1.0] * 5).shows_difference


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (4, 4), (5, 5), (3, 7)])
def test_ranks_are_distributed_as_all_orders_of_runs_are(m: int, n: int) -> None:
    orders = Counter(
        sum(place - i for i, place in enumerate(places)) for places in combinations(range(m + n), m)
    )

    expected = [orders[u] / comb(m + n, m) for u in range(m * n + 1)]
    assert mann_whitney(m, n).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("m", "n", "critical"),
    # Critical values of U, two-sided 5 %, as tables of the Mann–Whitney test have them.
    [
        (5, 5, 2),
        (5, 8, 6),
        (6, 6, 5),
        (7, 9, 12),
        (8, 8, 13),
        (10, 10, 23),
        (12, 20, 69),
        (20, 20, 127),
    ],
)
def test_ranks_are_those_of_the_tables(m: int, n: int, critical: int) -> None:
    assert _rank(m, n) == _rank(n, m) == critical + 1


def test_many_runs_are_ranked_by_the_normal_approximation() -> None:
    exact = np.searchsorted(np.cumsum(mann_whitney(52, 49)), 0.025, side="right")

    assert _rank(52, 49) == pytest.approx(int(exact), abs=2)


@pytest.mark.parametrize(
    ("level", "runs"),
    [(0.95, 5), (0.99, 5), (1 - 0.05 / 6, 5), (1 - 0.05 / 7, 6), (0.999, 7)],
)
def test_the_level_says_how_many_runs_are_needed(level: float, runs: int) -> None:
    """Once in C(2n, n), 252 for five and 924 for six, and on two sides."""
    first, second = [float(n) for n in range(runs)], [float(n) for n in range(2 * runs, 3 * runs)]

    assert runs_needed(level) == runs
    assert shift_of(first, second, level).interval is not None
    why = f"{runs - 1} runs, and an interval needs {runs} or more"
    assert shift_of(first[1:], second[1:], level).why == why


@given(_enough, _enough)
def test_the_higher_the_level_the_wider_the_interval(
    before: list[float], after: list[float]
) -> None:
    usual, higher = shift_of(before, after), shift_of(before, after, 0.98)

    assert usual.interval is not None
    assert higher.interval is not None
    assert higher.interval.low <= usual.interval.low <= usual.interval.high <= higher.interval.high
