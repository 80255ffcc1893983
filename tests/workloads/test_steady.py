"""A steady state is one without a trend; noise and outliers alone make none."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.workloads.steady import (
    NS,
    Series,
    Steadiness,
    backlog_grows,
    backlog_slope,
    steadiness,
    trend,
)

# What a monotonic clock may show: a float could not tell its ns apart.
START_NS = 2**60 + 1


def seconds(count: int) -> list[int]:
    """The ends of so many intervals of a second."""
    return [START_NS + (i + 1) * NS for i in range(count)]


def series(count: int = 20, **changes: Any) -> Series:
    """100 events a second, done as they come, with 10 waiting."""
    columns: dict[str, Any] = {
        "start_ns": START_NS,
        "ends_ns": seconds(count),
        "offered": [100] * count,
        "done": [100] * count,
        "backlog": [10] * count,
        "response_ns": [5e6] * count,
    }
    return Series(**{**columns, **changes})


def queue(share: float, seed: int, count: int = 60, rate: float = 1000.0) -> Series:
    """A queue with exponential arrivals and services, from empty; 10 s of warm-up are left out."""
    chance = np.random.default_rng(seed)
    jobs = int(rate * (count + 10) * 1.2)
    arrivals = np.cumsum(chance.exponential(1 / rate, jobs))
    services = chance.exponential(share / rate, jobs)
    # Each is done after its service, which begins when it is there and the one before is done.
    before = np.cumsum(services) - services
    done = np.maximum.accumulate(arrivals - before) + before + services
    edges = np.arange(10, count + 11, dtype=np.float64)
    came, went = np.searchsorted(arrivals, edges), np.searchsorted(done, edges)
    responses = done - arrivals
    return Series(
        start_ns=START_NS,
        ends_ns=seconds(count),
        offered=np.diff(came).tolist(),
        done=np.diff(went).tolist(),
        backlog=(came - went)[1:].tolist(),
        response_ns=[
            float(np.median(responses[a:b])) * NS if b > a else None for a, b in pairwise(went)
        ],
    )


@given(st.lists(st.tuples(st.integers(1, 10 * NS), st.integers(0, 10**6)), min_size=2, max_size=50))
@example([(1, 0), (1, 1000)])
def test_the_slope_is_that_of_least_squares(steps: list[tuple[int, int]]) -> None:
    times = [START_NS + time for time in accumulate(step for step, _ in steps)]
    backlog = [count for _, count in steps]
    x = (np.array(times) - times[0]) / NS
    slope, _ = np.polyfit(x / x[-1], backlog, 1)

    assert backlog_slope(times, backlog) * x[-1] == pytest.approx(slope, rel=1e-6, abs=1e-6)


@given(st.integers(-1000, 1000), st.integers(2, 100))
def test_a_line_has_its_own_slope(per_second: int, count: int) -> None:
    backlog = [10**6 + per_second * i for i in range(count)]

    assert backlog_slope(seconds(count), backlog) == pytest.approx(per_second, abs=1e-6)


def test_a_slope_by_hand() -> None:
    # Deviations −1.5, −0.5, 0.5, 1.5 of time and −2, 0, −1, 3 of events: 7 / 5.
    assert backlog_slope(seconds(4), [1, 3, 2, 6]) == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("times", "backlog", "why"),
    [
        ([], [], "two different times"),
        ([5], [1], "two different times"),
        ([5, 5], [1, 2], "two different times"),
        ([5, 6], [1], "2 times and 1 backlogs"),
    ],
)
def test_there_is_no_slope_of_a_point(times: list[int], backlog: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        backlog_slope(times, backlog)


@pytest.mark.parametrize(
    ("slope", "offered", "lasts", "grows"),
    [
        (10.0, 1000.0, 10.0, False),  # 1 % is allowed
        (10.1, 1000.0, 10.0, True),
        (-50.0, 1000.0, 10.0, False),
        (0.05, 1.0, 10.0, False),  # half an event in all
        (0.05, 1.0, 30.0, True),
        (0.0, 0.0, 10.0, False),
    ],
)
def test_a_backlog_grows_by_more_than_a_hundredth_of_the_rate(
    slope: float, offered: float, lasts: float, grows: bool
) -> None:
    assert backlog_grows(slope, offered, lasts) is grows


def test_what_stays_as_it_is_is_steady() -> None:
    assert steadiness(series()) == Steadiness(
        True, "no trend in backlog, throughput or response times", 0.0
    )


@pytest.mark.parametrize("rate", [0.1, 1, 10, 1_000_000])
def test_what_stays_as_it_is_is_steady_at_any_rate(rate: float) -> None:
    count = [round(rate * 10)] * 20

    assert steadiness(
        series(ends_ns=[START_NS + 10 * NS * i for i in range(1, 21)], offered=count, done=count)
    ).steady


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"backlog": [10 + 2 * i for i in range(20)]},
            "the backlog grows by 2 events/s, more than 1% of the 100/s offered",
        ),
        (
            {"backlog": [100 - 2 * i for i in range(20)]},
            "the backlog still shrinks, by 2 events/s, more than 1% of the 100/s offered",
        ),
        (
            {"done": [100 - i for i in range(20)]},
            "throughput falls by 21% from the first interval to the last",
        ),
        (
            {"done": [100 + i for i in range(20)]},
            "throughput rises by 17% from the first interval to the last",
        ),
        (
            {"response_ns": [5e6 + 1e5 * i for i in range(20)]},
            "the median response time rises by 32% from the first interval to the last",
        ),
        (
            {"response_ns": [9e6 - 1e5 * i for i in range(20)]},
            "the median response time falls by 24% from the first interval to the last",
        ),
        (
            {"response_ns": [None if i % 3 else 5e6 + 1e5 * i for i in range(30)], "count": 30},
            "the median response time rises by 43% from the first interval to the last",
        ),
        ({"done": [0] * 20, "response_ns": [None] * 20}, "nothing was finished"),
        ({"count": 7}, "7 intervals, and 8 are needed"),
        ({"count": 1}, "1 interval, and 8 are needed"),
        ({"count": 0}, "0 intervals, and 8 are needed"),
    ],
)
def test_what_moves_is_said(changes: dict[str, Any], why: str) -> None:
    found = steadiness(series(**changes))

    assert not found.steady
    assert found.why == why


@pytest.mark.parametrize(
    "changes",
    [
        {"backlog": [10] * 19 + [2010], "offered": [100_000] * 20},
        {"done": [100] * 10 + [0, 0] + [100] * 8},
        {"response_ns": [5e6] * 17 + [500e6] * 3},
        {"response_ns": [5e6 + 1e4 * i for i in range(20)]},  # sure, but 4 % in all
        {"response_ns": [5e6, 9e6] * 10},
        {"response_ns": [None] * 13 + [5e6 + 1e6 * i for i in range(7)]},  # too few to tell
    ],
)
def test_outliers_and_small_drifts_are_no_trend(changes: dict[str, Any]) -> None:
    assert steadiness(series(**changes)).steady


@given(st.integers(0, 2**32), st.integers(8, 60))
def test_the_order_of_intervals_is_all_that_counts(seed: int, count: int) -> None:
    chance = np.random.default_rng(seed)
    values = chance.lognormal(0, 1, count).tolist()
    found, back = trend(seconds(count), values), trend(seconds(count), values[::-1])

    assert found is not None
    assert back is not None
    assert back.drift == pytest.approx(-found.drift)
    assert back.chance == pytest.approx(found.chance)
    bent = trend(seconds(count), [value**3 for value in values])
    assert bent is not None
    assert bent.chance == found.chance


def test_noise_alone_makes_a_trend_as_often_as_it_says() -> None:
    chance = np.random.default_rng(1)
    likely = [
        found.chance
        for _ in range(1000)
        if (found := trend(seconds(20), chance.lognormal(0, 1, 20).tolist())) is not None
    ]

    for level in (0.01, 0.05, 0.2):
        share = sum(each < level for each in likely) / 1000
        assert share == pytest.approx(level, abs=4 * (level / 1000) ** 0.5)


def test_a_trend_by_hand() -> None:
    # All 28 pairs rise: z = 27 / √(8 · 7 · 21 / 18) = 3.340. From 1 to 8, 7 / 4.5.
    rising = trend(seconds(8), [1, 2, 3, 4, 5, 6, 7, 8])
    # 4 · 4 pairs rise, two groups of four are equal: the variance is (1176 − 2 · 4 · 3 · 13) / 18,
    # and z = 15 / √48 = 2.165.
    tied = trend(seconds(8), [1, 1, 1, 1, 2, 2, 2, 2])

    assert rising is not None
    assert tied is not None
    assert rising.chance == pytest.approx(0.000837, rel=0.01)
    assert rising.drift == pytest.approx(7 / 4.5)
    assert tied.chance == pytest.approx(0.0304, rel=0.01)


def test_nothing_at_all_is_no_trend() -> None:
    found = trend(seconds(10), [0] * 10)

    assert found is not None
    assert (found.drift, found.chance) == (0, 1)


def test_a_long_series_is_looked_at_in_parts() -> None:
    count = 86_400
    chance = np.random.default_rng(1)
    noise = chance.lognormal(0, 0.5, count)
    still = trend(seconds(count), noise.tolist())
    rising = trend(seconds(count), (noise * np.linspace(1, 1.5, count)).tolist())

    assert still is not None
    assert rising is not None
    assert not still.is_real
    assert rising.is_real
    assert rising.drift == pytest.approx(0.4, abs=0.05)  # of the median, which is in the middle


@pytest.mark.parametrize("seed", range(10))
def test_queues_below_their_capacity_are_steady_and_others_are_not(seed: int) -> None:
    assert steadiness(queue(0.6, seed)).steady
    assert "backlog grows" in steadiness(queue(1.1, seed)).why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"done": [1] * 19}, "different lengths"),
        ({"response_ns": [1.0] * 21}, "different lengths"),
        ({"ends_ns": [START_NS + NS] * 20}, "do not rise"),
        ({"start_ns": START_NS + NS}, "do not rise"),
    ],
)
def test_columns_that_fit_not_together_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        steadiness(series(**changes))
