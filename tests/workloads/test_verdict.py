"""What a trial comes to: pass, fail or invalid, and the exit code."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from millstream.workloads.options import objectives_of
from millstream.workloads.steady import Series
from millstream.workloads.verdict import (
    MOST_SLIP_NS,
    exit_code_of,
    keeps_up,
    met,
    most_slip_ns,
    verdict_of,
    why_invalid,
)

MS = 1_000_000
NS = 1_000_000_000


def result(**changes: Any) -> dict[str, Any]:
    """Of an open trial of 1,000 events a second that went well; `load` is changed by member."""
    load = {
        **{"open": True, "dropped": 0, "gave_up": False, "offered": 1000.0, "warmup_ns": 0},
        **{"released": 10_000, "elapsed_ns": 10 * NS, "starved_ns": 0},
        **{"cpu_ns": NS, "loop_lag_p99_ns": MS},
        **changes.pop("load", {}),
    }
    made: dict[str, Any] = {
        "exit_code": 0,
        "throughput": 1000.0,
        "duration_ns": 10 * NS,
        "counts": {"dead_lettered": 0, "filtered": 0, "read": 10_000, "emitted": 10_000},
        "resources": {"rss_peak": 1},
        "response": {"p50": 1 * MS, "p99": 5 * MS},
        "slip": {"p99": MS},
        "stages": [],
        "delivery": {"lost": 0, "duplicated": 0},
        "ordering": {"violations": 0},
        "invariants": [{"name": "each once", "held": True, "detail": ""}],
        "objectives": [],
        "invalid": [],
    }
    return made | changes | {"load": load}


def closed(**changes: Any) -> dict[str, Any]:
    load = {"open": False, **changes.pop("load", {})}
    return result(response=None, slip=None, load=load, **changes)


def course(backlog: list[int], offered: int = 250) -> Series:
    """Quarters of a second."""
    count = len(backlog)
    return Series(
        start_ns=0,
        ends_ns=[(n + 1) * NS // 4 for n in range(count)],
        offered=[offered] * count,
        done=[offered] * count,
        backlog=backlog,
        response_ns=[1.0 * MS] * count,
    )


FLAT = course([5] * 40)
GROWING = course([n * 10 for n in range(40)])
"""By 40 events a second, 4 % of what is offered."""


# --- the bound of the slip


@pytest.mark.parametrize(
    ("objectives", "bound_ns"),
    [
        ([], 10 * MS),
        (["response.p99 < 50ms"], 5 * MS),
        (["response.p50 <= 20ms"], 2 * MS),
        (["response.p99 < 10s"], 10 * MS),
        (["response.p99 < 50ms", "response.p999 < 30ms"], 3 * MS),
        (["response.p99 > 1ms", "response.max >= 1ms", "response.p50 != 1ms"], 10 * MS),
        (["service.p99 < 1ms", "throughput > 5", "queue_wait.p99 < 1ms"], 10 * MS),
    ],
)
def test_the_slip_may_be_a_tenth_of_the_strictest_objective_for_the_response(
    objectives: list[str], bound_ns: int
) -> None:
    asked = objectives_of(objectives)

    assert most_slip_ns(asked) == bound_ns <= MOST_SLIP_NS
    assert why_invalid(result(slip={"p99": bound_ns}), asked) == []
    (why,) = why_invalid(result(slip={"p99": bound_ns + 1}), asked)
    assert why.startswith("the generator was late: slip ")
    assert "--rate" in why


def test_dropped_events_make_a_trial_invalid() -> None:
    (why,) = why_invalid(result(load={"dropped": 1234}), [])

    assert why == "1,234 events were never offered, since too many waited already"


def test_all_reasons_are_told() -> None:
    assert len(why_invalid(result(load={"dropped": 1}, slip={"p99": NS}), [])) == 2


def test_nothing_measured_is_invalid() -> None:
    assert why_invalid(result(slip=None, response=None), []) == [
        "nothing was due after the warm-up"
    ]
    assert why_invalid(closed(throughput=0.0), []) == ["nothing was done after the warm-up"]


def test_a_closed_trial_whose_generator_was_slower_than_the_engine_is_invalid() -> None:
    assert why_invalid(closed(load={"starved_ns": NS // 2}), []) == []
    (why,) = why_invalid(closed(load={"starved_ns": NS}), [])

    assert "waited for the generator for 10% of the time" in why


def test_no_share_of_the_time_is_more_than_all() -> None:
    """The generator may be done long before the run is."""
    (why,) = why_invalid(closed(duration_ns=NS, load={"starved_ns": NS, "elapsed_ns": 1}), [])

    assert "for 100% of the time" in why
    assert why_invalid(closed(load={"starved_ns": NS // 4, "elapsed_ns": NS // 4}), []) == []


# --- the verdict


def test_what_went_well_passes() -> None:
    assert verdict_of(result(), FLAT) == "pass"
    assert verdict_of(closed(), course([0] * 40)) == "pass"


@pytest.mark.parametrize(
    "changes",
    [
        {"delivery": {"lost": 1, "duplicated": 0}},
        {"ordering": {"violations": 1}},
        {"invariants": [{"name": "a", "held": True}, {"name": "b", "held": False}]},
        {"objectives": [{"text": "a", "met": True}, {"text": "b", "met": False}]},
        {"load": {"gave_up": True}},
    ],
)
def test_what_broke_a_promise_or_missed_an_objective_fails(changes: dict[str, Any]) -> None:
    assert verdict_of(result(**changes), FLAT) == "fail"
    assert verdict_of(result(**changes, invalid=["late"]), FLAT) == "invalid"


def test_a_growing_backlog_fails_and_an_invalid_trial_says_nothing_of_it() -> None:
    assert verdict_of(result(), GROWING) == "fail"
    assert verdict_of(result(invalid=["late"]), GROWING) == "invalid"
    assert keeps_up(closed(), GROWING), "without a schedule there is no backlog"


def test_the_slope_is_1_percent_of_the_rate_at_most() -> None:
    steep = course([round(n * 2.6) for n in range(400)])  # 10.4 events/s, of 1,000
    flat = course([round(n * 2.4) for n in range(400)])

    assert not keeps_up(result(), steep)
    assert keeps_up(result(), flat)


@pytest.mark.parametrize(("throughput", "keeps"), [(950.0, True), (949.0, False)])
def test_of_a_short_trial_most_has_to_be_done(throughput: float, keeps: bool) -> None:
    short = course([0, 100, 200])

    assert keeps_up(result(throughput=throughput), short) == keeps


def test_objectives_are_told_with_what_was_seen() -> None:
    asked = objectives_of(["response.p99 < 5ms", "response.p50 < 5ms", "service.p99 < 1s"])

    found = met(asked, result())

    assert [(each.observed, each.met) for each in found] == [
        (5 * MS, False),
        (MS, True),
        (None, False),
    ]
    assert [each.text for each in found] == [each.text for each in asked]


# --- the exit code

STAYS = (1, 2, 3, 130, 143)


@pytest.mark.parametrize("code", STAYS)
def test_what_ended_the_run_stays(code: int) -> None:
    made = result(
        exit_code=code,
        invalid=["late"],
        invariants=[{"held": False}],
        objectives=[{"met": False}],
    )

    assert exit_code_of(made) == code


@pytest.mark.parametrize(
    ("code", "held", "valid", "reached"),
    list(product((0, 4, 5, 6), (True, False), (True, False), (True, False))),
)
def test_of_several_codes_the_first_of_5_7_6_4(
    code: int, held: bool, valid: bool, reached: bool
) -> None:
    made = result(
        exit_code=code,
        invalid=[] if valid else ["late"],
        invariants=[{"held": True}, {"held": held}],
        objectives=[{"met": reached}],
    )

    there = {code}
    there |= set() if held else {5}
    there |= set() if valid else {7}
    there |= set() if reached else {6}
    assert exit_code_of(made) == next(each for each in (5, 7, 6, 4, 0) if each in there)


def test_a_generator_that_is_always_busy_makes_a_trial_invalid() -> None:
    assert why_invalid(result(load={"cpu_ns": 9 * NS}), []) == []
    (why,) = why_invalid(result(load={"cpu_ns": 99 * NS // 10}), [])

    assert "busy for 99% of the time" in why


def test_a_generator_whose_loop_is_late_makes_a_trial_invalid() -> None:
    assert why_invalid(result(load={"loop_lag_p99_ns": 10 * MS}), []) == []
    (why,) = why_invalid(result(load={"loop_lag_p99_ns": 11 * MS}), [])

    assert "the generator's loop was late: 11 ms at p99" in why
