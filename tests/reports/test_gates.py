"""Gates: how they are written, and when they hold, do not, and can't be told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.conditions import ConditionError
from millstream.reports.gates import GateOutcome, judge, parse_gate
from millstream.reports.intervals import Interval, Shift


def shift(low: float, value: float, high: float, runs: int = 10) -> Shift:
    return Shift(value, Interval(low, high), "", (runs, runs))


def outcome(text: str, low: float, value: float, high: float, base: float = 100) -> GateOutcome:
    return judge(parse_gate(text), shift(low, value, high), base)


@pytest.mark.parametrize(
    ("text", "amount", "is_percent"),
    [
        ("response.p99 worse by 5%", 5.0, True),
        ("  service  better  by  1_0.5 %  ", 10.5, True),
        ("response.p99 worse by 2ms", 2e6, False),
        ("cpu_per_event worse by 3us", 3e3, False),
        ("throughput worse by 100/s", 100.0, False),
        ("throughput worse by 100", 100.0, False),
        ("rss_peak worse by 16MiB", 16 * 2.0**20, False),
        ("dead_letters worse by 3", 3.0, False),
    ],
)
def test_a_gate_is_a_figure_a_direction_and_an_amount(
    text: str, amount: float, is_percent: bool
) -> None:
    gate = parse_gate(text)

    assert (gate.amount, gate.is_percent) == (amount, is_percent)
    assert gate.figure.name in text
    assert gate.direction in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("response.p99", "write it like 'response.p99 worse by 5%'"),
        ("response.p99 worse", "write it like"),
        ("response.p99 slower by 5%", "write it like"),
        ("response.p99 worse by -5%", "write it like"),
        ("response.p99 > 50ms", "that is asked of one run (run --fail-if, bench --fail-if)"),
        ("response.p9 worse by 5%", "no figure 'response.p9'; there is response.p99, response.p90"),
        ("zzz worse by 5%", "there is throughput, response.p50"),
        ("response.p99 worse by 5", "is a time; the unit of an amount is %, ns"),
        ("throughput worse by 5ms", "is a rate; the unit of an amount is %, no unit, /s"),
        ("rss_peak worse by 0%", "the amount has to be more than 0"),
        (f"rss_peak worse by {'9' * 400}%", "the amount has to be more than 0"),
    ],
)
def test_what_can_t_be_understood_is_refused_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ConditionError) as refused:
        parse_gate(text)

    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "low", "value", "high", "state"),
    [
        ("service worse by 5%", 2, 6, 9, "held"),
        ("service worse by 5%", 2, 5, 9, "held"),
        ("service worse by 5%", 2, 4, 9, "undecided"),  # worse for sure, by 5 % perhaps
        ("service worse by 5%", -1, 6, 9, "undecided"),  # nothing is shown
        ("service worse by 5%", -1, 2, 4, "not held"),
        ("service worse by 5%", 1, 2, 4, "not held"),
        ("service worse by 5%", -9, -7, -6, "not held"),
        ("service better by 5%", -9, -7, -6, "held"),
        ("service better by 5%", 2, 6, 9, "not held"),
        ("throughput worse by 5%", -9, -6, -2, "held"),
        ("throughput better by 5%", 2, 6, 9, "held"),
        ("throughput worse by 5%", 2, 6, 9, "not held"),
        ("service worse by 6ns", 2, 6, 9, "held"),
        ("service worse by 7ns", 2, 6, 9, "undecided"),
        ("service worse by 10ns", 2, 6, 9, "not held"),
    ],
)
def test_a_gate_holds_when_a_difference_is_shown_and_is_that_large(
    text: str, low: float, value: float, high: float, state: str
) -> None:
    assert outcome(text, low, value, high).state == state


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (outcome("service worse by 5%", 2, 6, 9), "worse by 6 % (between 2 % and 9 % worse)"),
        (
            outcome("service worse by 5%", -3, 2, 4),
            "no, it is between 3 % better and 4 % worse",
        ),
        (outcome("service worse by 5%", -9, -7, -6), "no, it is between 6 % and 9 % better"),
        # The interval is 12 % wide, and has to be 5 %: 10 × (12 / 5)² = 57.6.
        (
            outcome("service worse by 5%", -3, 3, 9),
            "can't be told: somewhere between 3 % better and 9 % worse; "
            "some 58 runs each would tell",
        ),
        # It is narrow enough, and 1 from the amount: 10 × (4 / 2)² = 40.
        (
            outcome("service worse by 5%", 2, 4, 6),
            "can't be told: somewhere between 2 % and 6 % worse; some 40 runs each would tell",
        ),
        (
            outcome("throughput worse by 1/s", -900, 0, 900),
            "can't be told: somewhere between 900/s better and 900/s worse; "
            "not even 1,000 runs each would tell",
        ),
        (
            outcome("service worse by 5%", 0, 1, 2, base=0),
            "can't be told: the base's median is 0: name an amount, no share",
        ),
    ],
)
def test_an_outcome_in_words(found: GateOutcome, said: str) -> None:
    assert found.said == said


def test_too_few_runs_tell_nothing() -> None:
    few = Shift(9.0, None, "3 runs, and an interval needs 5 or more", (3, 3))

    found = judge(parse_gate("service worse by 5%"), few, 100)

    assert (found.state, found.interval) == ("undecided", None)
    assert found.said == "can't be told: 3 runs, and an interval needs 5 or more"


_ends = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).map(sorted)


@given(_ends, st.floats(0.1, 1e6))
def test_worse_and_better_are_the_same_from_both_sides(ends: list[float], amount: float) -> None:
    low, value, high = ends
    worse = outcome(f"service worse by {amount:f}ns", low, value, high)
    better = outcome(f"service better by {amount:f}ns", -high, -value, -low)

    assert better.state == worse.state
    assert (better.observed, better.interval) == (worse.observed, worse.interval)


@given(_ends, st.floats(0.1, 1e6))
def test_more_runs_are_asked_for_only_where_they_would_help(
    ends: list[float], amount: float
) -> None:
    found = outcome(f"service worse by {amount:f}ns", *ends)

    assert found.runs_needed is None or found.state == "undecided"
    assert found.runs_needed is None or 10 < found.runs_needed <= 1000
