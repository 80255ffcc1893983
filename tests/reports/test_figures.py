"""The figures that matter, and what was asked of them."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.engine.result import SCHEMA_FILE
from millstream.reports.figures import Figure, checks_of, figures
from tests.support.results import bench, counted, experiment, fact, result


def named(made: dict[str, Any]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(made)}


def condition(text: str, observed: float | None, *, held: bool) -> dict[str, Any]:
    return {"text": text, "observed": observed, "held": held}


@pytest.mark.parametrize(
    "made", [result(), bench(), bench(experiment=experiment([fact(1.0), fact(2.0)]))]
)
def test_what_these_tests_read_is_what_the_engine_writes(made: dict[str, Any]) -> None:
    import json

    import jsonschema

    jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8"))).validate(made)


def test_a_run_without_a_schedule_has_no_response_times() -> None:
    assert list(named(result())) == [
        "throughput",
        "ordering.violations",
        "delivery.lost",
        "delivery.duplicated",
        "dead_letters",
    ]


def test_figures_have_labels_values_and_units() -> None:
    found = named(bench(counts=counted(dead_lettered=1234)))

    told = {name: (each.label, each.value, each.text) for name, each in found.items()}
    assert told == {
        "throughput": ("throughput", 6172.5, "6,172/s"),
        "response.p50": ("response p50", 300_000, "300 µs"),
        "response.p99": ("response p99", 1_130_000, "1.13 ms"),
        "response.p999": ("response p99.9", 5_430_000, "5.43 ms"),
        "response.max": ("response max", 6_100_000, "6.1 ms"),
        "ordering.violations": ("order violations", 0, "0"),
        "delivery.lost": ("lost", 0, "0"),
        "delivery.duplicated": ("duplicated", 0, "0"),
        "dead_letters": ("dead letters", 1234, "1,234"),
    }


def test_conditions_and_objectives_stand_beside_their_figure() -> None:
    met = {"text": "response.p99 < 50ms", "observed": 1_130_000, "met": True}
    missed = {"text": "response.p99 < 1ms", "observed": 1_130_000, "met": False}
    failing = condition("response.p99 > 1ms", 1_130_000, held=True)

    figure = named(bench(objectives=[met, missed], conditions=[failing]))["response.p99"]

    assert [(c.kind, c.text, c.ok, c.said, c.observed) for c in figure.checks] == [
        ("objective", "response.p99 < 50ms", True, "met", "1.13 ms"),
        ("objective", "response.p99 < 1ms", False, "MISSED", "1.13 ms"),
        ("condition", "response.p99 > 1ms", False, "HELD", "1.13 ms"),
    ]
    assert figure.ok is False


def test_what_else_is_asked_about_is_a_figure_too() -> None:
    asked = [
        condition("service.charge.p99 > 1s", 1_130_000, held=False),
        condition("rss_peak > 1GiB", 2**26, held=False),
        condition("dead_letters > 1%", 0.125, held=False),
    ]

    found = named(result(conditions=asked))

    assert found["service.charge.p99"].label == "service p99 of charge"
    assert found["service.charge.p99"].text == "1.13 ms"
    assert found["rss_peak"].text == "64 MiB"
    assert [check.observed for check in found["dead_letters"].checks] == ["0.125 %"]
    assert found["dead_letters"].ok is True


def test_a_condition_on_what_was_not_observed_is_told() -> None:
    missed = {"text": "response.p99 < 50ms", "observed": None, "met": False}

    figure = named(bench(response=None, objectives=[missed]))["response.p99"]

    assert (figure.value, figure.text, figure.ok) == (None, "-", False)


def test_a_condition_of_a_newer_version_is_shown_as_it_stands() -> None:
    unknown = condition("jitter.p99 > 3 bananas", 5.0, held=True)

    figure = figures(result(conditions=[unknown]))[-1]

    assert (figure.name, figure.value, figure.ok) == ("jitter.p99 > 3 bananas", None, False)
    assert figure.checks[0].observed == "5"


@pytest.mark.parametrize(
    ("order", "emit", "promise"),
    [
        ("key", "completion", "order per key"),
        ("partition", "completion", "order per partition"),
        ("global", "completion", "global order"),
        ("none", "input", "order of the output"),
    ],
)
def test_order_and_delivery_are_promises(order: str, emit: str, promise: str) -> None:
    made = result(
        options={"emit": emit},
        ordering={**result()["ordering"], "order": order, "violations": 1},
        delivery={**result()["delivery"], "lost": 2},
    )

    assert [(c.text, c.ok, c.said, c.observed) for c in checks_of(made)] == [
        (promise, False, "BROKEN", "once"),
        ("nothing lost", False, "BROKEN", "2 lost"),
        ("no duplicates", True, "held", "0 duplicated"),
    ]


def test_where_no_order_was_promised_none_is_asked_for() -> None:
    figure = named(result(ordering={**result()["ordering"], "order": "none"}))[
        "ordering.violations"
    ]

    assert figure.ok is None


def test_a_stage_that_is_not_there_has_no_value() -> None:
    asked = condition("service.gone.p99 > 1s", None, held=False)

    figure = named(result(conditions=[asked]))["service.gone.p99"]

    assert (figure.value, figure.ok) == (None, True)
