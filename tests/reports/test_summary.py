"""What people are told of a result: words, units, and nothing that scripts rely on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.reports.summary import notes_of, summarize
from millstream.reports.terminal import plain_text, write_summary
from millstream.reports.units import duration, rate, size
from tests.support.results import audit, bench, counted, distribution, experiment, fact, stage
from tests.support.results import result as whole_result

TIMES = distribution(1_500, p90=2_500_000, p99=3_000_000_000, p999=999, max=4)
STAGES = [
    stage("parse", queue_wait=TIMES, service=None),
    stage("score", executor="process", workers=4, handled=7, queue_wait=None, service=TIMES),
    stage(
        "enrich",
        executor="coroutine",
        concurrency=200,
        handled=0,
        queue_wait=None,
        service=None,
    ),
]
ORDERING = {
    "order": "key",
    "violations": 0,
    "audit": audit(reordered_ratio=0.125, places=[{"place": name} for name in "abcd"]),
}


def result(**changes: Any) -> dict[str, Any]:
    return whole_result(**{"stages": STAGES, "ordering": ORDERING, **changes})


def lines_of(**changes: Any) -> dict[str, str]:
    return dict(summarize(result(**changes), []).lines)


def test_the_verdict_comes_first_then_what_it_is_of() -> None:
    summary = summarize(result(), [])

    assert summary.headline == (
        "pass: 12,345 events in 2 s, 6,172/s, order per key held, nothing lost"
    )
    assert summary.lines[0] == ("run", "charge")
    assert summarize(bench(), []).lines[0] == ("bench", "feed, seed 7")


def test_what_became_of_the_events() -> None:
    counts = counted(handled=12340, filtered=40, dead_lettered=5)

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


def test_conditions_and_objectives_are_lines() -> None:
    conditions = [
        {"text": "dead_letters > 1", "observed": 5, "held": True},
        {"text": "response.p99 > 1s", "observed": None, "held": False},
    ]
    objective = {"text": "slip.p99 < 1ms", "observed": 1_130_000, "met": False}

    lines = summarize(bench(conditions=conditions, objectives=[objective]), []).lines

    assert [line for line in lines if line[0] in ("fail if", "objective")] == [
        ("fail if", "response.p99 > 1s: did not hold, nothing was observed"),
        ("fail if", "dead_letters > 1: HELD, it was 5"),
        ("objective", "slip.p99 < 1ms: MISSED, it was 1.13 ms"),
    ]


def test_dead_letters_are_told_by_reason() -> None:
    reasons = [
        {"stage": "score", "error": "ValueError", "count": count, "message": message}
        for count, message in ((40, "no such thing"), (30, ""), (20, "x" * 100), (5, "y"))
    ]

    lines = summarize(
        result(
            counts=counted(handled=12245, dead_lettered=100),
            dead_letter_file="dead.jsonl",
            dead_letters={"reasons": reasons, "others": 5},
        ),
        [],
    ).lines

    start = lines.index(("dead letters", "100 in dead.jsonl"))
    told = [text for _, text in lines[start + 1 : start + 5]]
    assert told == [
        "40 ValueError at score: no such thing",
        "30 ValueError at score",
        f"20 ValueError at score: {'x' * 39}…",
        "10 for other reasons",
    ]


def test_the_course_of_a_run_is_a_sparkline() -> None:
    series = {"throughput": [800.0, 400.0, 0.0, 100.0], "response_p99": [1000, None, 3000, 8000]}
    more = [1000, None, 3000, 8000, 2000]

    short = lines_of(series={**result()["series"], **series})
    longer = lines_of(series={**result()["series"], **series, "response_p99": more})

    assert short["throughput"] == "█▅▁▂  0/s to 800/s"
    assert "p99" not in short
    assert longer["p99"] == "▂ ▄█▃  1 µs to 8 µs"


def test_of_a_result_that_is_read_what_is_wrong_is_derived() -> None:
    after = {"sequence": 8}
    examples = [
        {"kind": "reordered", "place": "score", "key": "k", "sequence": 7, "after": after},
        {"kind": "overlap", "place": "output", "key": None, "sequence": 9, "after": after},
    ]
    made = bench(
        counts=counted(handled=12340),
        delivery={"lost": 2, "duplicated": 3, "unexpected": 0, "recovered": 0},
        ordering={"order": "key", "violations": 2, "audit": audit(examples=examples)},
        invalid=["too late; slow down"],
    )

    assert notes_of(made) == [
        "not every event is accounted for: read 12,345, handled 12,340, dead-lettered 0",
        "2 events were lost",
        "3 events arrived twice",
        "score: event 7 of key 'k' came after event 8",
        "output: event 9 began before the end of event 8",
        "invalid: too late; slow down",
    ]
    assert notes_of(result()) == []


def test_what_the_run_said_itself_stands_in_place_of_it() -> None:
    assert summarize(bench(invalid=["late"]), ["a note"]).problems == ["a note"]


def test_plain_lines_align_and_end_without_blanks() -> None:
    lines = plain_text(result(delivery={**result()["delivery"], "lost": 1})).splitlines()

    assert lines[-1] == "  ! 1 events were lost"
    header = next(line for line in lines if line.startswith("  stage"))
    assert [line.index("inline") for line in lines if "inline" in line] == [header.index("exec")]
    assert all(line == line.rstrip() for line in lines)


def test_a_usual_run_fills_one_screen() -> None:
    series = {**bench()["series"], "throughput": [1e6] * 600, "response_p99": [10**7] * 600}
    made = bench(series=series, stages=STAGES, experiment=experiment([fact(1.0), fact(2.0)]))

    lines = plain_text(made).splitlines()

    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


HOSTILE = "\x1b]0;owned\x07\x9b2J\r\n[red]\u202egnp"


@pytest.mark.parametrize("color", [True, False])
def test_nothing_in_a_result_reaches_the_terminal_as_a_command(
    color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")  # what is left of escapes is not ours
    monkeypatch.setenv("TERM", "dumb")
    reason = {"stage": HOSTILE, "error": HOSTILE, "count": 1, "message": HOSTILE}
    made = bench(
        name=HOSTILE,
        dead_letter_file=HOSTILE,
        counts=counted(handled=12344, dead_lettered=1),
        dead_letters={"reasons": [reason], "others": 0},
        stages=[stage(HOSTILE)],
        invariants=[{"name": HOSTILE, "held": False, "detail": HOSTILE}],
        conditions=[{"text": HOSTILE, "observed": 1.0, "held": True}],
        invalid=[HOSTILE],
        experiment=experiment([fact(1.0, HOSTILE)], "sweep", parameter=HOSTILE),
    )
    written = io.StringIO()

    write_summary(made, [HOSTILE], written, color=color)

    left = set(written.getvalue())
    assert not left & set("\x1b\x07\x9b\r\u202e")
    assert written.getvalue().count("\\x1b]0;owned") >= 8


def test_a_stream_that_has_no_room_for_blocks_gets_ascii() -> None:
    series = {**result()["series"], "throughput": [800.0, 400.0, 0.0, 100.0]}
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii", errors="strict")

    write_summary(result(series=series), ["é"], stream, color=False)

    text = written.getvalue().decode("ascii")
    assert "throughput   #+_.  0/s to 800/s" in text
    assert "1.5 us / 3 s" in text
    assert "! \\xe9" in text


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

    assert coloured.getvalue().startswith(f"\x1b[{style}mpass: 12,345 events")
    assert name in coloured.getvalue()
    assert "! [b]note" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert name in plain.getvalue()


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
