"""The scalability law is found again in what it made; where nothing is, no figure is given."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.reports.scaling import Knee, NoFit, UslFit, fit_usl, knee

Points = list[tuple[float, float]]

_shares = st.one_of(st.just(0.0), st.floats(1e-4, 0.9))
_costs = st.one_of(st.just(0.0), st.floats(1e-7, 1.0))
_sets = st.sets(st.integers(1, 256), min_size=4, max_size=12)


def law(lam: float, sigma: float, kappa: float) -> UslFit:
    return UslFit(lam, sigma, kappa, 1.0, 1.0, 1.0)


def points_of(fit: UslFit, sizes: list[int]) -> Points:
    return [(n, fit.throughput(n)) for n in sizes]


def noisy(fit: UslFit, sizes: list[int], runs: int, noise: float, seed: int) -> Points:
    chance = np.random.default_rng(seed)
    return [(n, fit.throughput(n) * chance.normal(1, noise)) for n in sizes for _ in range(runs)]


def squares(points: Points, fit: UslFit) -> float:
    return sum((x - fit.throughput(n)) ** 2 for n, x in points)


@given(st.floats(1e-3, 1e9), _shares, _costs, _sets)
@example(1000.0, 0.0, 0.0, {1, 2, 4, 8})
@example(1000.0, 0.05, 0.0, {1, 2, 4, 8})
@example(1000.0, 0.0, 0.001, {1, 2, 4, 8})
@example(1.0, 0.9, 1.0, {1, 2, 3, 4})
def test_without_noise_the_parameters_come_back(
    lam: float, sigma: float, kappa: float, sizes: set[int]
) -> None:
    made = law(lam, sigma, kappa)
    points = points_of(made, sorted(sizes))
    throughputs = [x for _, x in points]
    found = fit_usl(points)

    if isinstance(found, NoFit):
        assert max(throughputs) <= min(throughputs) * 1.0501, found.why
        return
    assert found.sigma == pytest.approx(sigma, abs=1e-6)
    assert found.kappa == pytest.approx(kappa, abs=1e-6)
    assert found.lam == pytest.approx(lam, rel=1e-6)
    assert found.r_squared == pytest.approx(1)
    assert (found.smallest, found.largest) == (min(sizes), max(sizes))


@pytest.mark.parametrize(
    ("sigma", "kappa"),
    [(0.05, 0.0005), (0.2, 0.001), (0.0, 0.0), (0.02, 0.01), (0.0, 0.002), (0.5, 0.0)],
)
def test_with_two_percent_of_noise_they_come_back_nearly(sigma: float, kappa: float) -> None:
    made, sizes = law(1000, sigma, kappa), [1, 2, 4, 8, 16, 32]
    for seed in range(100):
        found = fit_usl(noisy(made, sizes, runs=5, noise=0.02, seed=seed))

        assert isinstance(found, UslFit)
        assert found.sigma == pytest.approx(sigma, abs=0.04)
        assert found.kappa == pytest.approx(kappa, abs=0.001)
        for n in sizes:
            assert found.throughput(n) == pytest.approx(made.throughput(n), rel=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0.8, 1.2)), min_size=4, max_size=20),
    st.tuples(st.floats(0, 1), st.floats(0, 0.2)),
    st.tuples(st.floats(0, 1), st.floats(0, 0.2)),
)
def test_no_other_parameters_fit_better(
    wrong: Points, made: tuple[float, float], another: tuple[float, float]
) -> None:
    points = [(n, law(100, *made).throughput(n) * factor) for n, factor in wrong]
    found = fit_usl(points)
    if isinstance(found, NoFit):
        return
    # The best λ for these σ and κ.
    shape = np.array([law(1, *another).throughput(n) for n, _ in points])
    x = np.array([each for _, each in points])
    other = law(float(shape @ x / (shape @ shape)), *another)

    assert squares(points, found) <= squares(points, other) * (1 + 1e-9)


@given(_sets, st.integers(0, 1000))
def test_parameters_keep_within_their_bounds(sizes: set[int], seed: int) -> None:
    made = law(100, 0.9, 0.0)
    found = fit_usl(noisy(made, sorted(sizes), runs=3, noise=0.2, seed=seed))

    if isinstance(found, UslFit):
        assert found.lam > 0
        assert 0 <= found.sigma <= 1
        assert found.kappa >= 0
        assert 0.9 <= found.r_squared <= 1


def test_a_fit_by_hand() -> None:
    # λ = 100, σ = 1/4, κ = 1/12: X(2) = 200 / (1 + 1/4 + 1/6), N* = 3.
    points = [(1, 100.0), (2, 200 / (17 / 12)), (3, 150.0), (4, 400 / 2.75), (6, 600 / 4.75)]
    found = fit_usl(points)

    assert isinstance(found, UslFit)
    assert (found.lam, found.sigma, found.kappa) == pytest.approx((100, 1 / 4, 1 / 12))
    assert found.peak == pytest.approx(3)
    assert found.throughput(3) == pytest.approx(150)
    assert found.throughput(12) == pytest.approx(1200 / (1 + 11 / 4 + 11))


@given(st.floats(1e-3, 1e9), st.floats(0, 0.9), _sets)
@example(569_987.5, 0.0, {1, 2, 4, 16, 50, 52, 86})
def test_rounding_makes_no_peak(lam: float, sigma: float, sizes: set[int]) -> None:
    found = fit_usl(points_of(law(lam, sigma, 0.0), sorted(sizes)))

    if isinstance(found, UslFit):
        assert found.kappa == 0
        assert found.peak is None


def test_contention_is_never_more_than_all_of_the_work() -> None:
    found = fit_usl(points_of(law(100, 1.05, 0.02), [1, 2, 4, 8, 16]))

    assert isinstance(found, UslFit)
    assert found.sigma == 1
    assert found.peak == 0


def test_what_scales_better_than_linearly_counts_as_linear() -> None:
    found = fit_usl([(1, 100), (2, 210), (4, 430), (8, 880)])

    assert isinstance(found, UslFit)
    assert (found.sigma, found.kappa) == (0, 0)
    assert found.r_squared > 0.99


def test_what_only_gets_slower_has_its_peak_at_one_or_below() -> None:
    found = fit_usl([(1, 100), (2, 60), (3, 42), (4, 32)])

    assert isinstance(found, UslFit)
    assert found.peak is not None
    assert found.peak <= 1


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([], "nothing was measured"),
        ([(1, 10), (2, 19), (4, 33)], "points of 3 different N"),
        ([(1, 10), (1, 11), (2, 19), (2, 20), (4, 33)], "points of 3 different N"),
        ([(1, 10), (2, 19), (4, 33), (0, 1)], "N = 0; give it 1 to 1,000,000"),
        ([(1, 10), (2, 19), (4, 33), (inf, 1)], "N = inf"),
        ([(1, 10), (2, 19), (4, 33), (nan, 1)], "N = nan"),
        ([(1, 10), (2, 19), (4, 33), (8, 0)], "throughput at N = 8 is 0"),
        ([(1, 10), (2, 19), (4, 33), (8, -3)], "throughput at N = 8 is -3"),
        ([(1, 10), (2, 19), (4, 33), (8, nan)], "throughput at N = 8 is nan"),
        ([(1, 100), (2, 101), (4, 99), (8, 102)], "changes by 3.0%"),
        ([(1, 1e-9), (2, 19), (4, 33), (8, 50)], "are not of one thing"),
        ([(1, 100), (2, 20), (4, 180), (8, 30)], "the law fits poorly: it explains "),
    ],
)
def test_where_there_is_no_fit_it_is_said_why(points: Points, why: str) -> None:
    found = fit_usl(points)

    assert isinstance(found, NoFit)
    assert why in found.why


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1_000_000), st.one_of(st.floats(1, 1e9), st.floats(1e-300, 1e300))
        ),
        max_size=12,
    )
)
def test_no_points_make_it_fail(points: Points) -> None:
    assert isinstance(fit_usl(points), UslFit | NoFit)


def m_m_1(capacity: float, shares: list[float]) -> Points:
    """Rates and mean response times of a queue with exponential arrivals and services."""
    return [(share * capacity, 1 / (capacity - share * capacity)) for share in shares]


def m_d_1(capacity: float, shares: list[float]) -> Points:
    """The same of one whose services all take equally long (Pollaczek–Khinchine)."""
    return [(share * capacity, (1 + share / (2 * (1 - share))) / capacity) for share in shares]


@given(
    st.floats(1e-3, 1e9),
    st.sets(st.integers(1, 49), min_size=1, max_size=20),
    st.sets(st.integers(51, 99), min_size=1, max_size=20),
)
def test_the_knee_of_m_m_1_is_at_half_the_capacity(
    capacity: float, below: set[int], above: set[int]
) -> None:
    percents = [*sorted(below), 50, *sorted(above)]
    found = knee(m_m_1(capacity, [percent / 100 for percent in percents]))

    assert found.rate == pytest.approx(capacity / 2)
    assert found.between == pytest.approx(
        (max(below) / 100 * capacity, min(above) / 100 * capacity)
    )


@given(st.lists(st.floats(0.01, 0.99), min_size=3, max_size=30, unique=True))
def test_the_knee_of_m_m_1_lies_between_the_rates_beside_it(shares: list[float]) -> None:
    found = knee(m_m_1(1.0, shares))

    if found.between is not None:
        assert found.between[0] <= 0.5 <= found.between[1]
    elif "below" in found.why:
        assert sorted(shares)[1] >= 0.5
    else:
        assert "beyond" in found.why
        assert sorted(shares)[-2] <= 0.5


def test_the_knee_of_m_d_1_is_where_one_job_is_in_the_system() -> None:
    # Kleinrock: N = 1, which for constant services is at 2 − √2 of the capacity.
    found = knee(m_d_1(500.0, [percent / 1000 for percent in range(100, 990)]))

    assert found.rate == pytest.approx(500 * (2 - sqrt(2)), rel=0.002)


def test_the_knee_does_not_move_with_the_highest_rate_measured() -> None:
    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    knees = {knee(m_m_1(100, [*shares, most])).rate for most in (0.8, 0.9, 0.99, 0.9999)}

    assert knees == {50}


def test_latencies_of_one_rate_count_as_their_median() -> None:
    outlier = [(60.0, 0.001)]  # alone it would be the knee
    found = knee([*m_m_1(100, [0.3, 0.5, 0.6, 0.6, 0.8]), *outlier])

    assert found.rate == 50


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([], "0 different rates; give it 3"),
        ([(10, 1), (20, 1), (10, 2)], "2 different rates"),
        ([(10, 1), (20, 1), (30, 1)], "up to 30: it lies beyond"),
        ([(10, 1), (20, 3), (30, 9)], "from 10 on: it lies below"),
        ([(10, 1), (20, 0), (30, 9)], "latency at a rate of 20 is 0"),
        ([(10, 1), (20, inf), (30, 9)], "latency at a rate of 20 is inf"),
        ([(0, 1), (20, 1), (30, 9)], "a rate of 0"),
        ([(nan, 1), (20, 1), (30, 9)], "a rate of nan"),
    ],
)
def test_where_there_is_no_knee_it_is_said_why(points: Points, why: str) -> None:
    found = knee(points)

    assert found.rate is None
    assert why in found.why


def test_a_knee_by_hand() -> None:
    # Powers: 10, 20, 15.
    assert knee([(30, 2.0), (10, 1.0), (20, 1.0)]) == Knee(
        20, "beyond it latency grows faster than the rate", (10, 30)
    )
