"""When the events of an open load are due."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.arrivals import (
    FORMS,
    NS,
    Arrivals,
    ArrivalsError,
    Closed,
    parse_arrivals,
)

TRACE = [7, 7, 1000, 5000, 5001, 10**12]


def arrivals(
    text: str,
    rate: float | None = 1000.0,
    *,
    seed: int = 1,
    duration_s: float | None = 10.0,
    trace: Sequence[int] = (),
) -> Arrivals:
    def read_trace(path: str) -> Sequence[int]:
        assert path == "FILE"
        return trace or TRACE

    return parse_arrivals(text, rate=rate, seed=seed, duration_s=duration_s, read_trace=read_trace)


def times(made: Arrivals, count: int, sizes: Sequence[int] = ()) -> list[int]:
    """The first times, taken in pieces of these sizes, then the rest at once."""
    taken: list[int] = []
    for size in sizes:
        taken += made.take(min(size, count - len(taken))).tolist()
    return taken + made.take(count - len(taken)).tolist()


def within(text: str, rate: float, duration_s: float, **more: Any) -> int:
    """How many are due before `duration_s`."""
    due = times(
        arrivals(text, rate, duration_s=duration_s, **more), math.ceil(4 * rate * duration_s)
    )
    return sum(each < duration_s * NS for each in due)


KINDS = st.one_of(
    st.sampled_from(["constant", "poisson", "burst", "ramp", "sine", "trace:FILE"]),
    st.integers(1, 5000).map(lambda size: f"burst:{size}"),
    st.floats(0, 1e6).map(lambda start: f"ramp:{start}"),
    st.tuples(st.floats(0.01, 100), st.integers(1, 10**11)).map(
        lambda pair: f"sine:{pair[0]:.2f}%:{pair[1]}ns"
    ),
)
RATES = st.floats(1e-3, 1e9)
SIZES = st.lists(st.integers(0, 300), max_size=8)


@given(KINDS, RATES, st.integers(0, 2**63), st.floats(1e-3, 1e5), SIZES)
def test_times_never_decrease_and_begin_at_0_or_later(
    text: str, rate: float, seed: int, duration_s: float, sizes: list[int]
) -> None:
    due = times(arrivals(text, rate, seed=seed, duration_s=duration_s), 1000, sizes)

    assert due == sorted(due)
    assert due[0] >= 0
    assert len(due) == (len(TRACE) if text.startswith("trace") else 1000)


@given(KINDS, RATES, st.integers(0, 2**63), st.floats(1e-3, 1e5), SIZES)
def test_pieces_of_any_size_have_the_times_of_the_whole(
    text: str, rate: float, seed: int, duration_s: float, sizes: list[int]
) -> None:
    def made() -> Arrivals:
        return arrivals(text, rate, seed=seed, duration_s=duration_s)

    assert times(made(), 1000, sizes) == times(made(), 1000)


@given(KINDS, st.integers(0, 2**63))
def test_the_same_seed_gives_the_same_times(text: str, seed: int) -> None:
    assert times(arrivals(text, seed=seed), 500) == times(arrivals(text, seed=seed), 500)


def test_another_seed_gives_other_times() -> None:
    assert times(arrivals("poisson", seed=1), 50) != times(arrivals("poisson", seed=2), 50)


def test_nothing_is_taken_when_nothing_is_asked_for() -> None:
    for text in ("constant", "poisson", "burst", "ramp", "sine", "trace:FILE"):
        made = arrivals(text)
        assert len(made.take(0)) == 0
        assert times(made, 5) == times(arrivals(text), 5)


@given(st.integers(1, 100_000), st.integers(1, 3))
def test_a_constant_whole_rate_has_exactly_that_many_a_second(rate: int, seconds: int) -> None:
    due = times(arrivals("constant", float(rate)), rate * seconds + 1)

    assert due[-1] == seconds * NS
    assert due[-2] < seconds * NS
    assert all(abs(at - i * NS / rate) <= 1 for i, at in enumerate(due))


@pytest.mark.parametrize("rate", [10.0, 333.0, 20_000.0])
def test_poisson_arrivals_have_the_mean_and_the_spread_of_exponential_gaps(rate: float) -> None:
    count = 20_000

    gaps = np.diff(times(arrivals("poisson", rate, seed=3), count + 1))

    mean = NS / rate
    assert gaps.mean() == pytest.approx(mean, rel=4 / math.sqrt(count))
    assert gaps.std() == pytest.approx(mean, rel=0.05)
    assert (gaps > mean).mean() == pytest.approx(math.exp(-1), abs=0.02)


@given(st.integers(1, 400), st.integers(1, 10**6))
def test_bursts_come_at_one_moment_and_keep_the_rate(size: int, rate: int) -> None:
    due = times(arrivals(f"burst:{size}", float(rate)), 3 * size + 1)

    for burst in range(3):
        together = due[burst * size : (burst + 1) * size]
        assert set(together) == {together[0]}
        assert abs(together[0] - burst * size * NS / rate) <= 1
    assert abs(due[-1] - 3 * size * NS / rate) <= 1


def test_a_burst_is_100_unless_told() -> None:
    assert times(arrivals("burst"), 250) == times(arrivals("burst:100"), 250)


def expected_by(rate_at: Callable[[float], float], until_s: float, steps: int = 20_000) -> float:
    """Events by a time: the integral of the rate, by Simpson's rule."""
    at = np.linspace(0, until_s, 2 * steps + 1)
    values = np.array([rate_at(float(each)) for each in at])
    weights = np.ones(len(at))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((values * weights).sum() * until_s / (6 * steps))


RAMPS = [(0.0, 100.0, 5.0), (10.0, 1000.0, 2.0), (500.0, 50.0, 4.0), (200.0, 200.0, 1.0)]


@pytest.mark.parametrize(("start", "end", "duration_s"), RAMPS)
def test_a_ramp_is_the_inverse_of_its_rates_integral(
    start: float, end: float, duration_s: float
) -> None:
    def rate_at(at_s: float) -> float:
        return start + (end - start) * min(at_s, duration_s) / duration_s

    due = times(arrivals(f"ramp:{start}", end, duration_s=duration_s), 800)

    for number in (0, 1, 7, 100, 333, 799):
        assert expected_by(rate_at, due[number] / NS) == pytest.approx(number, abs=2e-3)


def test_a_ramp_has_the_mean_of_its_ends_and_begins_at_a_tenth() -> None:
    assert within("ramp:200", 1000, 5) == 3000
    assert within("ramp", 1000, 10) == 5500


@pytest.mark.parametrize(
    ("rate", "share", "period_s"), [(100.0, 50, 10.0), (1000.0, 100, 0.5), (20.0, 1, 3.0)]
)
def test_a_sine_is_the_inverse_of_its_rates_integral(
    rate: float, share: float, period_s: float
) -> None:
    def rate_at(at_s: float) -> float:
        return rate * (1 + share / 100 * math.sin(math.tau * at_s / period_s))

    due = times(arrivals(f"sine:{share}%:{period_s}s", rate), 800)

    for number in (0, 1, 7, 100, 333, 799):
        assert expected_by(rate_at, due[number] / NS) == pytest.approx(number, abs=2e-3)


def test_a_sine_has_its_mean_over_whole_periods() -> None:
    assert within("sine:80%:1s", 1000, 4) == pytest.approx(4000, abs=1)
    assert times(arrivals("sine"), 99) == times(arrivals("sine:50%:10s"), 99)
    assert times(arrivals("sine:50%"), 99) == times(arrivals("sine:50%:10s"), 99)


# --- traces


def test_a_trace_is_as_it_was_from_its_first_time_on() -> None:
    made = arrivals("trace:FILE", None)

    assert times(made, 100) == [each - 7 for each in TRACE]
    assert len(made.take(5)) == 0


@given(st.lists(st.integers(0, 10**15), min_size=2, max_size=50).map(sorted), st.floats(0.1, 1e6))
def test_a_trace_is_stretched_to_a_mean_rate(recorded: list[int], rate: float) -> None:
    due = times(arrivals("trace:FILE", rate, trace=recorded), 100)

    assert len(due) == len(recorded)
    assert due == sorted(due)
    if recorded[-1] > recorded[0]:
        assert due[-1] == pytest.approx((len(due) - 1) * NS / rate, rel=1e-6, abs=1)


def test_a_trace_without_times_or_out_of_order_is_refused() -> None:
    with pytest.raises(ArrivalsError, match="no times"):
        parse_arrivals("trace:x", rate=None, seed=1, duration_s=None, read_trace=lambda path: [])
    with pytest.raises(ArrivalsError, match=r"time 4 .* before the one above it; sort"):
        arrivals("trace:FILE", None, trace=[5, 6, 9, 8])


def test_without_a_schedule_each_event_is_due_at_once() -> None:
    assert times(Closed(), 3) == [0, 0, 0]


# --- what can't be understood

MALFORMED = [
    *("", "Constant", "constant:1", "constant:", "poison", "poisson:5", "poisson:", "uniform"),
    *("burst:0", "burst:-1", "burst:x", "burst:1.5", "burst:1e3", "burst:10:10"),
    *("ramp:x", "ramp:-5", "ramp:nan", "ramp:inf", "ramp:1:2"),
    *("sine:0%", "sine:101%", "sine:50", "sine:x%", "sine:%", "sine:50%:", "sine:50%:x"),
    *("sine:50%:0s", "sine:50%:-1s", "sine:1.2.3%", "sine:..%", "sine:50%:1s:1s", "sine::10s"),
    *("trace", "trace:", "closed", "constant poisson"),
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_malformed_is_refused_with_what_it_can_be(text: str) -> None:
    with pytest.raises(ArrivalsError) as error:
        arrivals(text)

    assert f"--arrivals is {text!r}; it can be " in str(error.value)
    assert all(form in str(error.value) for form in FORMS)


@given(st.text(max_size=20) | st.from_regex(r"(burst|ramp|sine|poisson):.{0,12}", fullmatch=True))
def test_any_text_is_arrivals_or_refused(text: str) -> None:
    try:
        due = times(arrivals(text), 10)
    except ArrivalsError:
        return

    assert due == sorted(due)


@pytest.mark.parametrize("text", ["constant", "poisson", "burst:3", "ramp:5", "sine"])
def test_a_rate_is_needed(text: str) -> None:
    with pytest.raises(ArrivalsError, match=f"--arrivals {text} needs a rate; .*--rate 1000"):
        arrivals(text, None)


def test_a_ramp_needs_to_know_how_long() -> None:
    with pytest.raises(ArrivalsError, match="ramp needs to know how long: give it --duration"):
        arrivals("ramp", duration_s=None)
