"""The verdict in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.reports.verdict import verdict_sentence
from tests.support.results import bench, counted, experiment, fact, result

AMOUNT = "12,345 events in 2 s, 6,172/s"
LATE = "the generator was late: slip 20 ms at p99, more than 10 ms; give it a lower --rate"


def ended(code: int, verdict: str = "fail", **changes: Any) -> dict[str, Any]:
    return bench(exit_code=code, verdict=verdict, **changes)


def ordered(order: str, violations: int = 0) -> dict[str, Any]:
    return {**result()["ordering"], "order": order, "violations": violations}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "order per key held, nothing lost"),
        ({"ordering": ordered("global")}, "global order held, nothing lost"),
        ({"ordering": ordered("none")}, "no order promised, nothing lost"),
        (
            {"exit_code": 4, "counts": counted(dead_lettered=2, handled=12343)},
            "order per key held, nothing lost, 2 dead letters",
        ),
        (
            {"exit_code": 4, "counts": counted(dead_lettered=1, handled=12344)},
            "order per key held, nothing lost, 1 dead letter",
        ),
    ],
)
def test_a_run_that_went_well(changes: dict[str, Any], told: str) -> None:
    assert verdict_sentence(result(**changes)) == f"pass: {AMOUNT}, {told}"


def test_what_broke_comes_first() -> None:
    made = ended(
        5,
        ordering=ordered("key", 3),
        delivery={"lost": 2, "duplicated": 0, "unexpected": 0, "recovered": 0},
        invariants=[
            {"name": "a", "held": False, "detail": ""},
            {"name": "b", "held": False, "detail": ""},
            {"name": "c", "held": True, "detail": ""},
        ],
    )

    assert verdict_sentence(made) == (
        f"FAIL: order per key broken 3 times, 2 lost, invariant a broken, and 1 more; {AMOUNT}"
    )


def test_events_that_are_not_accounted_for_are_told() -> None:
    made = ended(5, counts=counted(handled=12340))

    assert verdict_sentence(made) == f"FAIL: 5 events not accounted for; {AMOUNT}"


def test_objectives_that_were_missed_and_conditions_that_held() -> None:
    made = ended(
        6,
        objectives=[
            {"text": "response.p99 < 1ms", "observed": 1_130_000, "met": False},
            {"text": "slip.p99 < 1s", "observed": None, "met": False},
        ],
        conditions=[{"text": "dead_letters >= 0", "observed": 0, "held": True}],
    )

    assert verdict_sentence(made) == (
        "FAIL: objective 'response.p99 < 1ms' missed: it was 1.13 ms, --fail-if "
        "'dead_letters >= 0' held: it was 0, objective 'slip.p99 < 1s' missed: nothing was "
        f"observed; {AMOUNT}"
    )


def test_an_invalid_measurement_says_why_without_advice() -> None:
    made = ended(7, "invalid", invalid=[LATE, "and another thing"])

    assert verdict_sentence(made) == (
        f"INVALID: the generator was late: slip 20 ms at p99, more than 10 ms; {AMOUNT}"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on-error": "halt"}, "halted by a dead letter (--on-error halt)"),
        ({"max-dead-letters": "1%"}, "stopped above --max-dead-letters 1%"),
        ({}, "a tear-down failed, and the output is not finished"),
    ],
)
def test_a_run_that_was_stopped(options: dict[str, Any], told: str) -> None:
    counts = counted(dead_lettered=1, handled=12344)

    made = ended(3, options=options, counts=counts)

    assert verdict_sentence(made) == f"FAIL: {told}; {AMOUNT}"


@pytest.mark.parametrize("code", [130, 143])
def test_a_run_that_was_interrupted(code: int) -> None:
    made = ended(code, "pass")

    assert verdict_sentence(made) == f"interrupted: {AMOUNT}, order per key held, nothing lost"


def test_of_repeats_the_median_is_told() -> None:
    made = bench(experiment=experiment([fact(100.0), fact(300.0), fact(110.0)]))

    assert verdict_sentence(made) == (
        "pass: 3 trials, 110/s in the median, order per key held, nothing lost"
    )


def test_of_a_sweep_the_best_valid_trial_is_told() -> None:
    facts = [fact(100.0, "1"), fact(200.0, "2"), fact(900.0, "4", verdict="invalid")]

    made = bench(experiment=experiment(facts, "sweep", parameter="workers"))

    assert verdict_sentence(made).startswith("pass: 3 trials, 200/s at best (workers=2), ")


def test_of_a_search_what_it_found_is_told() -> None:
    facts = [fact(100.0, "100")]

    made = bench(experiment=experiment(facts, "search", said="100/s, and not 110/s"))

    assert verdict_sentence(made).startswith("pass: 1 trial: 100/s, and not 110/s, order ")


@pytest.mark.parametrize(
    ("code", "verdict", "invalid", "told"),
    [
        (5, "fail", [], "FAIL: 1 of 2 trials: a promise or an invariant was broken; "),
        (6, "fail", [], "FAIL: 1 of 2 trials: a condition held, or an objective was missed; "),
        (7, "invalid", [LATE], "INVALID: 1 of 2 trials: the generator was late: slip 20 ms "),
    ],
)
def test_what_broke_in_another_trial_than_the_one_shown(
    code: int, verdict: str, invalid: list[str], told: str
) -> None:
    facts = [fact(100.0), fact(90.0, exit_code=code, invalid=invalid)]

    made = ended(code, verdict, experiment=experiment(facts))

    assert verdict_sentence(made).startswith(told)


def test_a_code_that_nothing_explains_is_told_as_it_is() -> None:
    assert verdict_sentence(ended(6)) == f"FAIL: exit code 6; {AMOUNT}"
