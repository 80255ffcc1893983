"""What people are told of a result: words, units, and nothing that scripts rely on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.reports.summary import summarize
from millstream.reports.terminal import plain_lines, write_summary
from millstream.reports.units import duration, rate, size

TIMES = {
    "count": 3,
    "min": 1,
    "mean": 2,
    "p50": 1_500,
    "p90": 2_500_000,
    "p99": 3_000_000_000,
    "p999": 999,
    "max": 4,
}


def result(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "charge",
        "exit_code": 0,
        "counts": {
            "read": 12345,
            "handled": 12345,
            "filtered": 0,
            "emitted": 12345,
            "retried": 0,
            "dead_lettered": 0,
        },
        "duration_ns": 2_000_000_000,
        "dead_letter_file": None,
        "response": None,
        "slip": None,
        "stages": [
            {
                "name": "parse",
                "executor": "inline",
                "workers": 1,
                "concurrency": 1,
                "handled": 12345,
                "queue_wait": TIMES,
                "service": None,
            },
            {
                "name": "score",
                "executor": "process",
                "workers": 4,
                "concurrency": 1,
                "handled": 7,
                "queue_wait": None,
                "service": TIMES,
            },
            {
                "name": "enrich",
                "executor": "coroutine",
                "workers": 1,
                "concurrency": 200,
                "handled": 0,
                "queue_wait": None,
                "service": None,
            },
        ],
        "ordering": {
            "order": "key",
            "violations": 0,
            "audit": {"reordered_ratio": 0.125, "unknown": 0, "places": [{}, {}, {}, {}]},
        },
        "resources": {"cpu_ns": 3_000_000_000, "rss_peak": 64 * 2**20, "loop_lag_p99": 1_234_567},
        "conditions": [],
    }
    return {**made, **changes}


def lines_of(**changes: Any) -> dict[str, str]:
    return dict(summarize(result(**changes), []).lines)


def test_the_headline_names_the_run_how_much_and_how_fast() -> None:
    assert summarize(result(), []).headline == "charge: 12,345 events in 2 s, 6,172/s"


def test_what_became_of_the_events() -> None:
    counts = {**result()["counts"], "handled": 12340, "filtered": 40, "dead_lettered": 5}

    lines = lines_of(counts=counts, dead_letter_file="dead.jsonl")

    assert lines["events"] == "12,340 handled, 40 of them filtered out, 12,345 results written"
    assert lines["dead letters"] == "5 in dead.jsonl"
    assert lines_of()["events"] == "12,345 handled, 12,345 results written"
    assert "dead letters" not in lines_of()


@pytest.mark.parametrize(
    ("order", "violations", "unknown", "said"),
    [
        ("key", 0, 0, "per key: held (4 places audited)"),
        ("key", 0, 2000, "per key: held (4 places audited, 2,000 beyond the window)"),
        ("partition", 1200, 0, "per partition: BROKEN 1,200 times (4 places audited)"),
        ("global", 0, 0, "global: held (4 places audited)"),
        ("none", 0, 0, "none promised; 12.5% of the arrivals were out of order"),
    ],
)
def test_the_promise_and_whether_it_held(
    order: str, violations: int, unknown: int, said: str
) -> None:
    audit = {**result()["ordering"]["audit"], "unknown": unknown}

    lines = lines_of(ordering={"order": order, "violations": violations, "audit": audit})

    assert lines["order"] == said


def test_response_and_slip_are_told_of_a_scheduled_run_alone() -> None:
    assert "response" not in lines_of()
    lines = lines_of(response=TIMES, slip=None)
    assert lines["response"] == "p50 1.5 µs, p90 2.5 ms, p99 3 s, p999 999 ns, max 4 ns"
    assert lines["slip"] == "-"


def test_what_it_took() -> None:
    assert lines_of()["resources"] == "64 MiB at most, 1.5 cores, loop lag 1.23 ms at p99"


def test_of_a_run_that_was_over_at_once_no_cores_are_told() -> None:
    assert lines_of(duration_ns=99_000_000)["resources"] == (
        "64 MiB at most, loop lag 1.23 ms at p99"
    )


def test_the_stages_are_rows() -> None:
    rows = summarize(result(), []).stages

    assert [(row.name, row.executor, row.handled) for row in rows] == [
        ("parse", "inline", "12,345"),
        ("score", "process x 4", "7"),
        ("enrich", "coroutine x 200", "0"),
    ]
    assert (rows[0].wait, rows[0].service) == ("1.5 µs / 3 s", "-")


def test_broken_promises_and_conditions_that_held_are_problems() -> None:
    conditions = [
        {"text": "dead_letters > 1", "observed": 5, "held": True},
        {"text": "response.p99 > 1s", "observed": None, "held": False},
    ]

    assert summarize(result(conditions=conditions), ["a note"]).problems == [
        "a note",
        "--fail-if dead_letters > 1: it was 5",
    ]


def test_plain_lines_align_and_end_without_blanks() -> None:
    lines = plain_lines(summarize(result(), ["a note"]))

    assert lines[-1] == "  ! a note"
    header = next(line for line in lines if line.startswith("  stage"))
    assert [line.index("inline") for line in lines if "inline" in line] == [header.index("exec")]
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(("exit_code", "style"), [(0, "1;32"), (4, "1;33"), (5, "1;31")])
def test_colour_says_how_it_went_and_nothing_more(
    exit_code: int, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    name = "[red]not markup[/red]"
    coloured, plain = io.StringIO(), io.StringIO()

    write_summary(result(exit_code=exit_code, name=name), ["[b]note"], coloured, color=True)
    write_summary(result(exit_code=exit_code, name=name), ["[b]note"], plain, color=False)

    assert coloured.getvalue().startswith(f"\x1b[{style}m{name}")
    assert "! [b]note" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert plain.getvalue().startswith(f"{name}: ")


# --- figures


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1 µs"),
        (1_234_567, "1.23 ms"),
        (999_600_000, "1,000 ms"),
        (59_900_000_000, "59.9 s"),
        (7_200_000_000_000, "7,200 s"),
    ],
)
def test_a_duration_has_three_digits_in_its_unit(ns: int, text: str) -> None:
    assert duration(ns) == text


@given(st.integers(0, 10**15))
def test_a_duration_is_near_what_it_stands_for(ns: int) -> None:
    number, unit = duration(ns).replace(",", "").split()
    factor = {"ns": 1, "µs": 10**3, "ms": 10**6, "s": 10**9}[unit]

    assert "e" not in number
    assert abs(float(number) * factor - ns) <= 0.0051 * ns


@given(st.integers(0, 2**50))
@example(2**30 - 1)
def test_a_size_is_near_what_it_stands_for(count: int) -> None:
    number, unit = size(count).replace(",", "").split()
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]

    assert "e" not in number
    assert abs(float(number) * factor - count) <= 0.0051 * count


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0.0, "0/s"),
        (0.1234, "0.123/s"),
        (99.94, "99.9/s"),
        (1234.5, "1,234/s"),
        (5e6, "5,000,000/s"),
    ],
)
def test_a_rate(per_second: float, text: str) -> None:
    assert rate(per_second) == text


def test_what_was_injected_stands_in_a_line_of_its_own() -> None:
    faults = [{"text": "error:5%", "fired": 1234, "violations": 2}]
    faults += [{"text": "drop:1%", "fired": 1, "violations": 0}]

    lines = summarize(result(faults=faults, unattributed=1, seed=7), []).lines

    assert dict(lines)["injected"] == (
        "error:5% 1,234 times, drop:1% once (seed 7); 2 violations fall to them, 1 to none"
    )


def test_without_faults_there_is_no_such_line() -> None:
    assert "injected" not in dict(summarize(result(), []).lines)
