"""The summary of an audit: each line of it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from millstream.engine.audit import Figures
from millstream.reports.audit import headline_of, rows_of, sentence_of, write_audit


def report(**more: Any) -> dict[str, Any]:
    figures = Figures("global", 8, 1000, events=10, keys=1, first_copies=10)
    figures.displaced, figures.occupied = [0] * 8 + [10] + [0] * 8, [10] + [0] * 8
    given = {"inputs": ["log.jsonl"], "malformed": 0, "examples": []}
    return {**figures.report(), **given, **more}


DELIVERY = {"lost": 2, "duplicated": 0, "unexpected": 1, "recovered": 3}


@pytest.mark.parametrize(
    ("more", "headline"),
    [
        ({}, "log.jsonl: in order"),
        ({"inputs": ["-"]}, "standard input: in order"),
        ({"inputs": ["a", "b"]}, "2 logs: in order"),
        ({"reordered": 1}, "log.jsonl: 1 event out of order"),
        (
            {"reordered": 2000, "duplicates": 1, "late_unknown": 3},
            "log.jsonl: 2,000 events out of order, 1 duplicate, 3 late beyond the window",
        ),
        ({"delivery": DELIVERY}, "log.jsonl: 2 lost, 1 unexpected"),
    ],
)
def test_the_verdict_comes_first(more: dict[str, Any], headline: str) -> None:
    assert headline_of(report(**more)) == headline


def test_a_log_in_order_needs_no_figures() -> None:
    assert rows_of(report()) == [("events", "10")]


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (0, "10 of no key"),
        (1, "10 of 1 key"),
        (3, "10 of 3 keys"),
        (None, "10 of more keys than are remembered"),
    ],
)
def test_how_many_keys_there_were(keys: int | None, shown: str) -> None:
    assert rows_of(report(scope="key", keys=keys))[0] == ("events", shown)


def test_what_is_shown_of_a_log_by_key() -> None:
    shown = dict(
        rows_of(
            report(
                scope="key",
                keys=3,
                malformed=1,
                reordered=2,
                reordered_ratio=0.2,
                extent={"max": 7, "counts": {"1": 1, "7": 1}},
                late_time={"max": 62, "mean": 31.5},
                n_reordering={"1": 0.2, "2": 0.1},
                free_runs={"reordered": 2, "accepted": 8, "arrivals": 10, "q": 9},
                gaps={"max": 4, "counts": {"4": 1}},
                discontinuities={"count": 1, "missing": 2},
                reorder_density={"threshold": 8, "counts": {"-1": 5, "0": 5}},
                buffer_occupancy={"threshold": 8, "counts": {"0": 9999, "3": 1}},
                unknown=4,
                delivery=DELIVERY,
            )
        )
    )

    assert shown == {
        "events": "10 of 3 keys, and 1 malformed record",
        "reordered": "2 (20.000%), extent at most 7, late by at most 62, on average 31.5",
        "n-reordered": "1: 20.000%, 2: 10.000%; at most 2",
        "free runs": "4 events on average, 4 the largest gap",
        "missing": "2 numbers, in 1 discontinuity",
        "displacement": "-1: 50.0%, 0: 50.0% (threshold 8)",
        "buffer": "0: 100.0%, 3: 0.010% (threshold 8)",
        "unknown": "4 beyond the window of 1,000",
        "delivery": "2 lost, 0 duplicated, 1 unexpected, 3 recovered",
    }


PRICE = {
    **{"order": "key", "events": 10, "waited": 2, "p50_ns": 0, "p99_ns": 1500, "max_ns": 2_000_000},
    **{"buffer": 1, "buffer_max": 3, "keys_missing_ns": 0},
    "blocking_keys": [{"key": "ann", "held_up": 2, "waited_ns": 3_000_000}],
    "blocking_events": [{"sequence": 7, "key": "ann", "held_up": 1, "waited_ns": 2_000_000}],
}
FREE = {**PRICE, "waited": 0, "blocking_keys": [], "blocking_events": []}


def test_the_price_of_order() -> None:
    rows = rows_of(report(price={"none": FREE, "key": PRICE}))

    assert rows[1:] == [
        ("order none", "free: no event would wait"),
        (
            "order key",
            "adds p50 0 ns, p99 1.5 µs, max 2 ms; 2 of 10 events wait; 99.9 % restored with room "
            "for 1, all with 3",
        ),
        ("", "key 'ann' blocked most: it held up 2 for 3 ms in all"),
        ("", "event 7 blocked most: it held up 1 for 2 ms in all"),
    ]


AT = {"source": "log.jsonl", "line": 4}
SEQUENCE = {"sequence": 4}


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (
            {
                "kind": "reordered",
                "sequence": 3,
                "key": "ann",
                "extent": 1,
                "after": {"sequence": 4},
            },
            "3 of key 'ann' (log.jsonl line 4) came after 4, 1 place late",
        ),
        (
            {"kind": "duplicate", "sequence": "b", "key": None, "after": {"sequence": "b", **AT}},
            "b (log.jsonl line 4) is a copy of b (log.jsonl line 4)",
        ),
        (
            {"kind": "unknown", "sequence": 3, "key": None},
            "3 (log.jsonl line 4) is late by more than the window: reordered, or a copy",
        ),
        ({"kind": "lost", "id": "x"}, "'x' (log.jsonl line 4) was never delivered"),
        (
            {"kind": "duplicated", "id": "x", "after": {"source": "-", "line": 1}},
            "'x' (log.jsonl line 4) was delivered again, after standard input line 1",
        ),
        ({"kind": "unexpected", "id": "x"}, "'x' (log.jsonl line 4) was delivered, but never sent"),
        (
            {"kind": "recovered", "id": "x"},
            "'x' (log.jsonl line 4) was delivered, though it was not acknowledged",
        ),
    ],
    ids=lambda value: value.get("kind", "") if isinstance(value, dict) else "",
)
def test_both_events_are_named(example: dict[str, Any], sentence: str) -> None:
    assert sentence_of({**example, **AT}) == sentence


def test_three_of_each_kind_are_shown() -> None:
    examples = [
        {"kind": kind, "sequence": n, "key": None, "after": {"sequence": n}, "extent": 1}
        for kind in ("reordered", "duplicate")
        for n in range(5)
    ]
    stream = io.StringIO()

    write_audit(report(examples=examples), ["a note"], stream, color=False)

    assert stream.getvalue().count("came after") == stream.getvalue().count("is a copy") == 3
    assert stream.getvalue().endswith("  ! a note\n")


def test_colours_only_where_there_are_some() -> None:
    plain, coloured = io.StringIO(), io.StringIO()

    write_audit(report(), [], plain, color=False)
    write_audit(report(), [], coloured, color=True)

    assert "\x1b" not in plain.getvalue()
    assert coloured.getvalue().startswith("\x1b[1;32mlog.jsonl: in order\x1b[0m\n")


@pytest.mark.parametrize("color", [True, False])
def test_what_logs_hold_reaches_no_terminal_as_a_command(color: bool) -> None:
    hostile = "\x1b]0;owned\x07\x9b2J\n\u202e"
    example = {"kind": hostile, "sequence": hostile, "key": hostile}
    made = report(inputs=[hostile], duplicates=1, examples=[example])
    written = io.StringIO()

    write_audit(made, [hostile], written, color=color)

    ours = {"\x1b"} if color else set()
    assert set(written.getvalue()) & set("\x1b\x07\x9b\u202e") == ours
    assert written.getvalue().count("\\x1b]0;owned") >= 3
