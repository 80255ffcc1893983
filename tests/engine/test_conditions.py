"""`--fail-if`: what is understood, what is refused, and what is observed of a result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.conditions import (
    ConditionError,
    figure_of,
    needs_schedule,
    parse_condition,
)

DISTRIBUTIONS = ("response", "slip", "service", "queue_wait")
FIGURES = {"count": 9, "min": 1, "mean": 3, "p50": 2, "p90": 4, "p99": 5, "p999": 6, "max": 7}


def times(factor: int) -> dict[str, int]:
    return {name: value * factor for name, value in FIGURES.items()}


def result(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "counts": {
            "read": 200,
            "handled": 190,
            "filtered": 20,
            "emitted": 170,
            "retried": 0,
            "dead_lettered": 10,
        },
        "throughput": 1234.5,
        "response": times(1_000_000),
        "slip": times(1_000),
        "stages": [
            {"name": "parse", "queue_wait": times(10), "service": times(100)},
            {"name": "score.all", "queue_wait": times(30), "service": times(50)},
            {"name": "idle", "queue_wait": None, "service": None},
        ],
        "ordering": {"violations": 3},
        "delivery": {"lost": 1, "duplicated": 2},
        "resources": {"rss_peak": 5 * 2**20},
    }
    return {**made, **changes}


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("throughput", 1234.5),
        ("rss_peak", 5 * 2**20),
        ("dead_letters", 10),
        ("read", 200),
        ("filtered", 20),
        ("emitted", 170),
        ("ordering.violations", 3),
        ("delivery.lost", 1),
        ("delivery.duplicated", 2),
        ("response.p50", 2_000_000),
        ("response.p90", 4_000_000),
        ("response.p99", 5_000_000),
        ("response.p999", 6_000_000),
        ("response.max", 7_000_000),
        ("slip.mean", 3_000),
        ("service.p99", 500),
        ("service.min", 100),
        ("queue_wait.p99", 150),
        ("service.parse.p99", 500),
        ("service.score.all.p99", 250),
        ("service.absent.p99", None),
        ("service.idle.p99", None),
    ],
)
def test_every_figure_is_found_in_the_result(figure: str, value: float | None) -> None:
    unit = "B" if figure == "rss_peak" else "ns" if figure.split(".")[0] in DISTRIBUTIONS else ""

    condition = parse_condition(f"{figure} >= 0{unit}")

    assert figure_of(result(), figure) == value
    assert condition.evaluate(result()) == (value, value is not None)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("response.p99 > 4.9ms", True),
        ("response.p99 > 5ms", False),
        ("response.p99>=5ms", True),
        ("response.p99 < 5_000_001 ns", True),
        ("response.p99 <= 5000us", True),
        ("response.p99 == 5000µs", True),
        ("response.p99 != 0.005s", False),
        ("slip.max < 1e-5s", True),
        ("throughput < 2000", True),
        ("throughput < 1e3/s", False),
        ("rss_peak > 5MiB", False),
        ("rss_peak >= 5120 KiB", True),
        ("rss_peak > 0.001GiB", True),
        ("rss_peak > 4000000B", True),
        ("dead_letters > 9", True),
        ("dead_letters >= 5%", True),
        ("dead_letters > 5 %", False),
        ("filtered == 10%", True),
        ("  ordering.violations  >  0  ", True),
        ("service.absent.p99 >= 0ns", False),
    ],
)
def test_a_condition_holds_or_does_not(text: str, held: bool) -> None:
    assert parse_condition(text).evaluate(result())[1] is held


def test_what_was_observed_is_told_in_the_unit_of_the_condition() -> None:
    assert parse_condition("dead_letters > 1%").evaluate(result()) == (5.0, True)
    assert parse_condition("dead_letters > 1").evaluate(result()) == (10, True)
    assert parse_condition("response.p50 > 1s").evaluate(result(response=None)) == (None, False)


def test_a_share_of_nothing_is_nothing() -> None:
    empty = result(counts={**result()["counts"], "read": 0, "dead_lettered": 0})

    assert parse_condition("dead_letters > 0%").evaluate(empty) == (0.0, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "can't be understood"),
        ("response.p99", "can't be understood"),
        ("response.p99 > ", "can't be understood"),
        ("response.p99 => 5ms", "can't be understood"),
        ("response.p99 > -5ms", "can't be understood"),
        ("response.p99 > 5ms or so", "can't be understood"),
        ("5ms < response.p99", "can't be understood"),
        ("response > 5ms", "no figure 'response'"),
        ("response.p95 > 5ms", "no figure 'response.p95'"),
        ("latency.p99 > 5ms", "no figure 'latency.p99'"),
        ("throughput.p99 > 5", "no figure"),
        ("response.p99 > 5", "its unit is ns, us"),
        ("response.p99 > 5%", "response.p99 is a time"),
        ("response.p99 > 5MS", "response.p99 is a time"),
        ("throughput > 5ms", "throughput is a rate"),
        ("rss_peak > 5MB", "its unit is B, KiB, MiB, GiB"),
        ("dead_letters > 5ms", "its unit is no unit, %"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_text(text: str, said: str) -> None:
    with pytest.raises(ConditionError) as refused:
        parse_condition(text)

    assert repr(text) in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("response.p99 > 1ms", True),
        ("slip.max > 1ms", True),
        ("service.p99 > 1ms", False),
        ("throughput > 1", False),
    ],
)
def test_some_figures_need_a_schedule(text: str, needed: bool) -> None:
    assert needs_schedule(parse_condition(text)) is needed


@given(
    value=st.integers(0, 10**12),
    against=st.integers(0, 10**12),
    operator=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
)
def test_an_operator_means_what_it_means_in_python(value: int, against: int, operator: str) -> None:
    made = result(delivery={"lost": value, "duplicated": 0})

    held = parse_condition(f"delivery.lost {operator} {against}").evaluate(made)[1]

    assert held is eval(f"{value} {operator} {against}")
