"""JUnit XML: what did not hold fails, what tells nothing is an error, hostile texts stay texts."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.reports.junit import Case, cases_of, junit_report
from tests.support.results import bench, counted, experiment, fact, result, stage

REASON = {"stage": "score", "error": "ValueError", "message": "no", "source": "in", "line": 3}


def parsed(made: dict[str, Any], name: str = "run") -> ET.Element:
    return ET.fromstring(junit_report([made], [name]))


def failing(made: dict[str, Any]) -> dict[str, Case]:
    """The cases that did not pass, by name."""
    return {case.name: case for case in cases_of(made) if case.outcome is not None}


def test_a_run_that_went_well_passes_in_every_case() -> None:
    assert [case.name for case in cases_of(bench())] == [
        "came to its end",
        "order per key",
        "nothing lost",
        "no duplicates",
        "every event accounted for",
        "dead letters",
        "invariant: timelines",
        "measurement valid",
    ]
    assert failing(bench()) == {}


def test_the_document_counts_what_it_holds() -> None:
    broken = result(
        exit_code=5,
        verdict="fail",
        ordering={**result()["ordering"], "order": "none"},
        delivery={**result()["delivery"], "lost": 2},
    )

    root = ET.fromstring(junit_report([broken, bench()], ["one", "two"]))

    assert (root.tag, root.get("name"), root.get("time")) == ("testsuites", "millstream", "4.000")
    assert [root.get(each) for each in ("tests", "failures", "errors")] == ["14", "1", "0"]
    one, two = root.findall("testsuite")
    assert one.attrib == {
        **{"name": "one", "tests": "6", "failures": "1", "errors": "0", "skipped": "1"},
        **{"time": "2.000", "timestamp": "2026-11-28T03:30:51"},
    }
    assert len(one.findall("testcase")) == 6
    assert len(two.findall("testcase")) == int(two.get("tests", "0")) == 8
    (failure,) = one.findall("testcase/failure")
    assert failure.attrib == {"message": "nothing lost: 2 lost", "type": "failure"}
    (skipped,) = one.findall("testcase/skipped")
    assert skipped.get("message") == "no order was promised"
    cases = one.findall("testcase")
    assert {case.get("classname") for case in cases} == {"millstream.one"}
    assert [case.get("time") for case in cases] == ["2.000", *["0.000"] * 5]


def test_properties_have_figures_seed_host_options_and_command() -> None:
    made = bench(
        options={"order": "key", "workers": None, "quiet": False, "rate": 5.0},
        argv=["millstream", "bench", "feed"],
    )

    found = {
        each.get("name"): each.get("value")
        for each in parsed(made).findall("testsuite/properties/property")
    }

    assert found["response.p99"] == "1.13 ms"
    assert found["seed"] == "7"
    assert found["host.python"] == "3.11.7"
    assert {key for key in found if key and key.startswith("option.")} == {
        "option.order",
        "option.rate",
    }
    assert found["command"] == "millstream bench feed"


@pytest.mark.parametrize(
    ("changes", "name", "outcome"),
    [
        ({"exit_code": 130}, "came to its end", "error"),
        ({"exit_code": 3, "verdict": "fail"}, "came to its end", "error"),
        ({"exit_code": 7, "verdict": "invalid", "invalid": ["late"]}, "measurement valid", "error"),
        (
            {"exit_code": 5, "invariants": [{"name": "a", "held": False, "detail": "b"}]},
            "invariant: a",
            "failure",
        ),
        (
            {"exit_code": 5, "counts": counted(handled=1)},
            "every event accounted for",
            "failure",
        ),
        (
            {
                "exit_code": 6,
                "objectives": [{"text": "response.p99 < 1ms", "observed": 5, "met": False}],
            },
            "objective response.p99 < 1ms",
            "failure",
        ),
        (
            {
                "exit_code": 6,
                "conditions": [{"text": "read > 1", "observed": 5.0, "held": True}],
            },
            "fail if read > 1",
            "failure",
        ),
        (
            {"exit_code": 4, "counts": counted(handled=12344, dead_lettered=1)},
            "dead letters",
            "failure",
        ),
        (
            {"exit_code": 6, "experiment": experiment([fact(1.0), fact(1.0, exit_code=6)])},
            "verdict",
            "failure",
        ),
    ],
)
def test_what_the_exit_code_is_about_does_not_pass(
    changes: dict[str, Any], name: str, outcome: str
) -> None:
    found = failing(bench(**changes))

    assert {name: case.outcome for name, case in found.items()} == {name: outcome}


def test_dead_letters_beside_something_worse_are_told_and_do_not_fail() -> None:
    made = bench(
        exit_code=6,
        conditions=[{"text": "read > 1", "observed": 5.0, "held": True}],
        counts=counted(handled=12343, dead_lettered=2),
        dead_letters={"reasons": [{**REASON, "count": 2}], "others": 0},
    )

    assert list(failing(made)) == ["fail if read > 1"]
    (told,) = [case.detail for case in cases_of(made) if case.name == "dead letters"]
    assert told == "2 ValueError at score: no (first in in line 3)"


def test_each_trial_of_repeats_and_sweeps_is_a_case_and_those_of_a_search_are_not() -> None:
    facts = [
        fact(100.0, "1"),
        fact(90.0, "2", verdict="invalid", exit_code=7, invalid=["late"]),
        fact(80.0, "4", verdict="fail", exit_code=5),
    ]

    swept = bench(exit_code=5, experiment=experiment(facts, "sweep", parameter="workers"))
    searched = bench(experiment=experiment(facts, "search", parameter="rate"))

    found = failing(swept)
    assert {name: case.outcome for name, case in found.items()} == {
        "trial 2 (workers=2)": "error",
        "trial 3 (workers=4)": "failure",
    }
    assert failing(searched) == {}


@pytest.mark.parametrize("code", [0, 3, 4, 5, 6, 7, 130, 143])
def test_something_fails_exactly_when_the_exit_code_is_not_0(code: int) -> None:
    assert bool(failing(bench(exit_code=code))) == (code != 0)


_texts = st.text(st.characters(codec="utf-8", exclude_categories=()), max_size=30)


@given(_texts)
def test_any_text_is_held_and_comes_back_as_far_as_xml_has_it(text: str) -> None:
    made = bench(
        name=text,
        started_at=text,
        stages=[stage(text)],
        options={text: text},
        invariants=[{"name": text, "held": False, "detail": text}],
        conditions=[{"text": text, "observed": None, "held": True}],
        argv=[text],
        exit_code=5,
    )

    root = parsed(made, text)

    names = [case.get("name", "") for case in root.iter("testcase")]
    (shown,) = [name for name in names if name.startswith("invariant: ")]
    if text.isprintable():
        assert shown == f"invariant: {text}"
    assert len(list(root.iter("failure"))) == 2


def test_markup_and_control_characters_stay_text() -> None:
    hostile = '"/><failure>\x00\x1b]]>&amp;\ufffe'

    (suite,) = parsed(result(), hostile).findall("testsuite")

    assert suite.get("name") == '"/><failure>\\x00\\x1b]]>&amp;\\xfffe'
    assert suite.findall("testcase/failure") == []
