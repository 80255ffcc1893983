"""Each format is made of every result that can be read: good ones, old ones, hostile ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.histogram import Histogram
from millstream.engine.histogram_codec import encoded
from millstream.engine.result import ResultError, parse_report
from millstream.reports.formats import FORMATS, ReportError, format_of, write_report
from tests.support.results import audit, bench, experiment, fact, result, stage

OLD = Path(__file__).parents[1] / "data" / "results"
RESULT, AUDIT = "millstream.result/1", "millstream.audit/1"
AUDITED = {
    **audit(inputs=["log.jsonl"], malformed=0, reordered=1, reordered_ratio=0.1),
    "free_runs": {"reordered": 1, "accepted": 5, "arrivals": 9, "q": 25},
    "examples": [{"kind": "reordered", "sequence": 2, "extent": 1, "after": {"sequence": 3}}],
}


def histogram(*values: int) -> str:
    made = Histogram()
    made.record(values)
    return encoded(made)


def full() -> dict[str, Any]:
    """A result with everything that there is."""
    reason = {"stage": "score", "error": "ValueError", "count": 2, "message": "no", "line": 3}
    times = [{"queue_wait": None, "service": None}]
    fault = {"text": "error:5%", "fired": 1, "first_ns": 1, "last_ns": 2, "windows": [[1, 2]]}
    made = bench(
        argv=["millstream", "bench", "feed"],
        dead_letters={"reasons": [{**reason, "source": "in.jsonl"}], "others": 1},
        histograms={"response": histogram(10**6), "slip": None, "stages": times},
        faults=[{**fault, "violations": 0}],
        unattributed=0,
        objectives=[{"text": "response.p99 < 50ms", "observed": 1_130_000, "met": True}],
        conditions=[{"text": "service.p99 > 50ms", "observed": 1_130_000, "held": False}],
        tail={
            **{"events": 1, "from_ns": 1, "response_ns": 9, "parts": {"slip": 9}},
            **{"all_events": 9, "all_response_ns": 9, "all_parts": {"slip": 9}, "examples": []},
        },
        experiment=experiment([fact(100.0, "1"), fact(90.0, "2")], "sweep", parameter="workers"),
        stages=[stage(), stage("late", queue_wait=None, service=None)],
    )
    made["ordering"]["violations"] = 1
    made["ordering"]["audit"]["examples"] = [
        {"kind": "overlap", "place": "charge", "key": "k", "sequence": 2, "after": {"sequence": 1}}
    ]
    return made


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in an object."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        children = enumerate(value)
    for name, each in children:
        yield from places(each, (*path, name))


def changed(made: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(made)
    inner: Any = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return made


def without(made: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    made = copy.deepcopy(made)
    inner: Any = made
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return made


FORMS = sorted(FORMATS)
MADE = {"run": result(), "bench": full(), "audit": AUDITED}
PLACES = [(kind, path) for kind, made in MADE.items() for path in places(made)]
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.just(["x", 1]),
    st.sampled_from(["<script>alert(1)</script>", "\x1b[2J", "nan", "inf", "-1", "\ud800"]),
)


def reported(made: dict[str, Any]) -> None:
    """Read it, and make every report of it; whoever refuses has to say why."""
    try:
        data = parse_report(json.dumps(made).encode(), "r.json", (RESULT, AUDIT))
    except ResultError:
        return
    for name in FORMS:
        for results in ([data], [data, data]):
            try:
                assert write_report(FORMATS[name], results, ["a", "b"][: len(results)])
            except ReportError as error:
                assert len(str(error)) > 10


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_whatever_stands_in_a_result_it_is_reported_or_refused(
    place: tuple[str, tuple[str | int, ...]], value: Any
) -> None:
    kind, path = place

    reported(changed(MADE[kind], path, value))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PLACES))
def test_whatever_is_missing_in_a_result_it_is_reported_or_refused(
    place: tuple[str, tuple[str | int, ...]],
) -> None:
    kind, path = place

    reported(without(MADE[kind], path))


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"hgrm", "hlog"}))
@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda path: str(path.name))
def test_results_of_earlier_versions_are_reported(path: Path, name: str) -> None:
    data = parse_report(path.read_bytes(), path.name, (RESULT,))

    assert write_report(FORMATS[name], [data], ["old"])


@pytest.mark.parametrize("name", ["html", "text"])
def test_an_audit_is_reported(name: str) -> None:
    assert b"1 event out of order" in write_report(FORMATS[name], [AUDITED], ["log"])


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"html", "text"}))
def test_an_audit_is_refused_by_formats_of_results(name: str) -> None:
    with pytest.raises(ReportError, match=r"log is an audit, and .* html and text"):
        write_report(FORMATS[name], [result(), AUDITED], ["run", "log"])


@pytest.mark.parametrize(
    ("path", "asked_for", "name"),
    [
        ("a.html", None, "html"),
        ("A.HTML", None, "html"),
        ("a.b.md", None, "markdown"),
        ("x/a.xml", None, "junit"),
        ("a.json", None, "pytest-benchmark"),
        ("a.hgrm", None, "hgrm"),
        ("a.hlog", None, "hlog"),
        ("a.txt", None, "text"),
        ("a.html", "text", "text"),
        ("-", "junit", "junit"),
    ],
)
def test_a_format_is_the_one_asked_for_else_that_of_the_suffix(
    path: str, asked_for: str | None, name: str
) -> None:
    assert format_of(path, asked_for).name == name


@pytest.mark.parametrize("path", ["-", "a", "a.pdf", ".html"])
def test_a_name_that_says_no_format_is_refused(path: str) -> None:
    with pytest.raises(ReportError, match=r"let it end in one of \.html \(html\), \.md"):
        format_of(path)


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(ReportError, match=r"there is no format 'pdf'; there are html, markdown, "):
        format_of("a.html", "pdf")


def test_several_results_as_text_stand_under_their_names_with_a_table() -> None:
    text = write_report(FORMATS["text"], [result(), bench()], ["one", "two"]).decode()

    assert text.startswith("one\npass: 12,345 events in 2 s")
    assert "\n\ntwo\npass: 12,345 events in 2 s" in text
    assert text.endswith(
        "\n\n"
        "result  verdict  throughput  p50     p99      max     disorder  lost  dead\n"
        "one     pass     6,172/s     -       -        -       0         0     0\n"
        "two     pass     6,172/s     300 µs  1.13 ms  6.1 ms  0         0     0\n"
    )


def test_what_broke_is_marked_in_the_table() -> None:
    lost = {**result()["delivery"], "lost": 2}

    text = write_report(FORMATS["text"], [result(), result(delivery=lost)], ["a", "b"]).decode()

    assert [line.split()[-3:] for line in text.splitlines()[-2:]] == [
        ["0", "0", "0"],
        ["2", "!", "0"],
    ]
