"""What people are told of a benchmark: lines of a trial, the table of an experiment."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.reports.bench import (
    bench_lines,
    experiment_lines,
    fact_line,
    figures_of,
    invariant_lines,
    run_line,
)

MS = 1_000_000
NS = 1_000_000_000


def result(**changes: Any) -> dict[str, Any]:
    """Of an open trial; `load` is changed by member."""
    load = {
        **{"open": True, "arrivals": "poisson", "rate": 1000.0, "offered": 998.5},
        **changes.pop("load", {}),
    }
    made: dict[str, Any] = {
        "throughput": 990.0,
        "steady": {"steady": True, "why": "no trend", "backlog_slope": 0.0},
        "objectives": [],
        "tail": None,
        "invariants": [],
    }
    return made | changes | {"load": load}


def told(label: str, **changes: Any) -> list[str]:
    """The lines of that label."""
    return [text for each, text in bench_lines(result(**changes)) if each == label]


# --- a trial


def test_what_was_asked_offered_and_done() -> None:
    assert told("load") == ["poisson 1,000/s: 998/s offered, 990/s done after the warm-up"]
    assert told("load", load={"arrivals": "trace:x", "rate": None}) == [
        "trace:x: 998/s offered, 990/s done after the warm-up"
    ]
    assert told("load", load={"open": False}) == ["as fast as it can: 990/s"]


def test_whether_it_was_steady() -> None:
    assert told("steady") == ["yes"]
    moving = {"steady": False, "why": "it grows", "backlog_slope": 9.5}
    assert told("steady", steady=moving) == ["NO: it grows"]
    short = {"steady": False, "why": "3 intervals", "backlog_slope": None}
    assert told("steady", steady=short) == ["can't be told: 3 intervals"]


def test_the_largest_parts_of_the_slowest_are_told() -> None:
    parts = {"slip": 5, "transport": 0, "queue wait a": 600, "service a": 300, "queue wait b": 4}
    tail = {"events": 1234, "response_ns": 1000, "parts": {**parts, "service b": 91}}

    assert told("slowest 1 %", tail=tail) == [
        "1 µs on average: queue wait a 60%, service a 30%, service b 9%"
    ]
    assert told("slowest 1 %", tail={"events": 1, "response_ns": 0, "parts": {"slip": 0}})


def test_recoveries() -> None:
    fault = {"fault": "kill-worker@2s", "at_ns": 2 * NS}

    assert told("recovery") == []
    assert told(
        "recovery", recovery=[{**fault, "recovered_ns": 0}, {**fault, "recovered_ns": None}]
    ) == [
        "from kill-worker@2s at 2 s: after 0 ns",
        "from kill-worker@2s at 2 s: not before the load ended",
    ]


@pytest.mark.parametrize(
    ("held", "lines"),
    [
        ((), []),
        ((True,), [("invariant", "a: held (as it is)")]),
        ((True, True, True), [("invariants", "all 3 held: a, b, c")]),
        ((False,), [("invariant", "a: BROKEN (as it is)")]),
        (
            (True, False, True),
            [("invariant", "b: BROKEN (as it is)"), ("invariants", "2 held: a, c")],
        ),
    ],
)
def test_invariants_are_one_line_as_long_as_they_hold(
    held: tuple[bool, ...], lines: list[tuple[str, str]]
) -> None:
    judged = [
        {"name": name, "held": each, "detail": "as it is"}
        for name, each in zip("abc", held, strict=False)
    ]

    assert invariant_lines(judged) == lines


def test_a_run_that_was_kept_is_a_line() -> None:
    data: dict[str, Any] = {
        **{"started_at": "2026-11-27T10:00:00.123456Z", "name": "feed", "verdict": "pass"},
        **{"throughput": 500.0, "response": None},
    }

    assert run_line("x.json", data) == "2026-11-27T10:00:00  feed: pass, 500/s  x.json"
    assert "pass, 500/s, p99 5 ms  x" in run_line("x", {**data, "response": {"p99": 5 * MS}})


# --- experiments


def fact(value: str = "", throughput: float = 100.0, **changes: Any) -> dict[str, Any]:
    made = {
        **{"value": value, "repeat": 0, "verdict": "pass", "throughput": throughput},
        **{"response": None, "steady": True, "invalid": []},
    }
    return made | changes


def experiment(parameter: str | None, facts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    made = {"kind": "sweep", "parameter": parameter, "facts": facts, "hottest_key": None}
    return made | {"said": "", "search": None} | more


def test_a_trial_is_told_as_it_is_over() -> None:
    response = {"p50": MS, "p99": 2 * MS}

    assert fact_line(fact()) == "       100/s  pass"
    assert fact_line(fact("200", response=response)) == (
        "       200         100/s  p50 1 ms, p99 2 ms  pass"
    )
    assert fact_line(fact("2", verdict="fail", steady=False)).endswith("  fail, not steady")
    late = fact("2", verdict="invalid", invalid=["the generator was late", "more"])
    assert fact_line(late).endswith("  invalid (the generator was late)")


def test_rows_are_values_over_their_repeats() -> None:
    facts = [
        fact(value, throughput, response={"p50": int(throughput), "p99": int(throughput) * 2})
        for throughput in (10.0, 30.0, 20.0)
        for value in ("a", "b")
    ]

    rows = figures_of(experiment("keys", facts)).rows

    assert [(row.value, row.trials, row.throughput.value) for row in rows] == [
        ("a", 3, 20.0),
        ("b", 3, 20.0),
    ]
    assert (rows[0].response_p50, rows[0].response_p99) == (20, 40)


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (("pass", "pass"), "pass"),
        (("pass", "fail"), "fail"),
        (("fail", "invalid"), "invalid"),
    ],
)
def test_a_row_has_the_worst_verdict_of_its_trials(verdicts: tuple[str, ...], verdict: str) -> None:
    facts = [fact("a", verdict=each) for each in verdicts]

    assert figures_of(experiment("keys", facts)).rows[0].verdict == verdict


def test_invalid_trials_give_no_figures_where_others_do() -> None:
    facts = [fact("a", 999.0, verdict="invalid"), fact("a", 10.0), fact("b", 7.0)]
    alone = [fact("a", 999.0, verdict="invalid")]

    assert figures_of(experiment("keys", facts)).rows[0].throughput.value == 10.0
    assert figures_of(experiment("keys", alone)).rows[0].throughput.value == 999.0


def test_the_law_of_scaling_is_fitted_from_four_points_on() -> None:
    def points(counts: tuple[int, ...], **more: Any) -> dict[str, Any]:
        return experiment(
            "workers",
            [
                fact(str(n), 1000 * n / (1 + 0.05 * (n - 1) + 0.01 * n * (n - 1)), **more)
                for n in counts
            ],
        )

    fitted = figures_of(points((1, 2, 4, 8, 16)))
    few = figures_of(points((1, 2, 4)))
    invalid = figures_of(points((1, 2, 4, 8, 16), verdict="invalid"))

    assert fitted.usl is not None
    assert fitted.usl.sigma == pytest.approx(0.05, abs=1e-3)
    assert fitted.notes[0].startswith("Universal Scalability Law: λ 1,000/s, σ 0.05, κ 0.01 (R² 1")
    assert "peak at 9.7 workers" in fitted.notes[0]
    assert few.usl is invalid.usl is None
    assert few.notes[0].startswith("no law of scaling is given: ")


def test_the_knee_of_a_curve() -> None:
    facts = [
        fact(str(rate), float(rate), response={"p50": MS, "p99": p99 * MS})
        for rate, p99 in ((100, 1), (200, 1), (300, 1), (400, 2), (500, 50), (600, 100))
    ]

    found = figures_of(experiment("rate", facts))

    assert found.knee is not None and 300 <= found.knee <= 500
    assert found.notes[0].startswith("knee at ")
    assert figures_of(experiment("rate", facts[:1])).notes[0].startswith("no knee is given: ")
    assert figures_of(experiment("rate", [fact("1")])).knee is None


def test_the_price_of_order() -> None:
    facts = [fact("key", 80.0), fact("none", 100.0), fact("global", 25.0)]
    hottest = {"key": "k1", "events": 25, "of": 1000}

    found = figures_of(experiment("order", facts, hottest_key=hottest))

    assert found.price == {"key": 0.8, "none": 1.0, "global": 0.25}
    assert found.notes == [
        "--order key has 80% of the throughput of --order none",
        "--order global has 25% of the throughput of --order none",
        "the hottest key 'k1' has 2.50% of all events: in order by key, 40 events at most can be "
        "handled side by side",
    ]


def test_an_invalid_trial_is_no_price() -> None:
    facts = [fact("key", 999.0, verdict="invalid"), fact("none", 100.0), fact("global", 25.0)]

    found = figures_of(experiment("order", facts))

    assert found.price == {"none": 1.0, "global": 0.25}
    assert [row.value for row in found.rows] == ["key", "none", "global"]
    nothing = figures_of(experiment("order", facts[:1]))
    assert (nothing.price, nothing.notes) == (
        None,
        ["no price of order is given: no trial was valid"],
    )


def test_throughputs_of_nothing_have_no_price_and_end_well() -> None:
    found = figures_of(experiment("order", [fact("key", 0.0), fact("none", 0.0)]))

    assert found.price == {"key": 0.0, "none": 0.0}


def test_a_search_says_what_it_found_and_shows_no_table() -> None:
    found = experiment("rate", [fact("100"), fact("200", verdict="fail")], kind="search")

    assert experiment_lines({**found, "said": "100/s; at 200/s it failed"}) == [
        "sustainable: 100/s; at 200/s it failed"
    ]


def test_the_table_of_a_sweep() -> None:
    facts = [
        fact("1", 1000.0),
        fact("20", 5.0, verdict="fail", response={"p50": MS, "p99": 2 * MS}),
    ]

    assert experiment_lines(experiment("keys", facts)) == [
        "keys  throughput  95 %  p50 / p99    verdict",
        "1     1,000/s     -     -            pass",
        "20    5/s         -     1 ms / 2 ms  fail",
    ]


def test_the_table_of_repeats_has_an_interval_where_there_are_enough() -> None:
    facts = [fact(throughput=1000.0 + each) for each in range(10)]

    head, row = experiment_lines(experiment(None, facts, kind="repeat"))

    assert head.startswith("trials  throughput")
    assert row.startswith("10      1,004/s")
    assert " to " in row
    (_, few) = experiment_lines(experiment(None, facts[:2], kind="repeat"))
    assert " to " not in few
