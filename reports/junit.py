"""JUnit XML of results, as the readers of CI systems take it.

A test suite for each result, a test case for each promise, invariant, objective and condition;
written to junit-10.xsd of Jenkins' xUnit plugin. A failure is something that did not hold, an
error a run or a measurement that tells nothing; skipped is what was not promised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from xml.etree import ElementTree as ET

from msgspec import Struct

from millstream.engine.result import DEAD_LETTERS, FROM_SIGNALS, UNUSABLE

from .bench import fact_line
from .figures import Check, figures
from .verdict import verdict_sentence, why

_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no room for, however they are written."""

Outcome = Literal["failure", "error", "skipped"]


class Case(Struct, frozen=True):
    """A test case."""

    name: str
    outcome: Outcome | None = None
    """None: it passed."""
    message: str = ""
    """Why it did not pass, in a line."""
    detail: str = ""
    """What was seen, whatever the outcome."""


def junit_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """All results as one document; `names` tell their suites apart."""
    suites = [_suite(result, name) for result, name in zip(results, names, strict=True)]
    seconds = sum(result["duration_ns"] for result in results) / 1e9
    root = ET.Element("testsuites", {"name": "millstream", "time": f"{seconds:.3f}"})
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def cases_of(result: Mapping[str, Any]) -> list[Case]:
    """The test cases of a result. All pass exactly when its exit code is 0."""
    cases = [_end(result), *_promises(result), _accounted(result), _dead_letters(result)]
    cases += [
        Case(
            f"invariant: {each['name']}",
            None if each["held"] else "failure",
            "" if each["held"] else f"invariant {each['name']} broken",
            str(each["detail"]),
        )
        for each in result["invariants"]
    ]
    cases += _asked(result)
    if result["command"] == "bench":
        cases.append(_valid(result))
    cases += _trials(result)
    if result["exit_code"] and not any(each.outcome in ("failure", "error") for each in cases):
        cases.append(Case("verdict", "failure", verdict_sentence(result)))
    return cases


def _end(result: Mapping[str, Any]) -> Case:
    code = result["exit_code"]
    if code >= FROM_SIGNALS:
        return Case("came to its end", "error", "the run was interrupted")
    if code == UNUSABLE:
        return Case("came to its end", "error", ", ".join(why(result)))
    return Case("came to its end", detail=verdict_sentence(result))


def _promises(result: Mapping[str, Any]) -> Iterator[Case]:
    found = [each for each in _checks(result) if each.kind == "promise"]
    if not any(not each.text.startswith(("no", "nothing")) for each in found):
        yield Case("order", "skipped", "no order was promised")
    for check in found:
        message = "" if check.ok else f"{check.text}: {check.observed}"
        yield Case(check.text, None if check.ok else "failure", message, check.observed)


def _accounted(result: Mapping[str, Any]) -> Case:
    counts = result["counts"]
    detail = (
        f"read {counts['read']}, handled {counts['handled']}, "
        f"dead-lettered {counts['dead_lettered']}"
    )
    held = counts["read"] == counts["handled"] + counts["dead_lettered"]
    name = "every event accounted for"
    return Case(name, detail=detail) if held else Case(name, "failure", detail, detail)


def _dead_letters(result: Mapping[str, Any]) -> Case:
    """A failure when they are what the exit code is about; else what there are of them is told."""
    count = result["counts"]["dead_lettered"]
    found = result.get("dead_letters")
    reasons = [] if found is None else found["reasons"]
    detail = "\n".join(
        f"{each['count']} {each['error']} at {each['stage']}: {each['message']} "
        f"(first in {each['source']} line {each['line']})"
        for each in reasons
    )
    if not count or result["exit_code"] != DEAD_LETTERS:
        return Case("dead letters", detail=detail or f"{count} dead letters")
    message = "1 event became a dead letter"
    if count > 1:
        message = f"{count:,} events became dead letters"
    return Case("dead letters", "failure", message, detail)


def _asked(result: Mapping[str, Any]) -> Iterator[Case]:
    for check in _checks(result):
        if check.kind == "promise":
            continue
        name = f"{'fail if' if check.kind == 'condition' else 'objective'} {check.text}"
        seen = "nothing was observed" if check.observed == "-" else f"it was {check.observed}"
        message = "" if check.ok else f"{name}: {check.said}, {seen}"
        yield Case(name, None if check.ok else "failure", message, seen)


def _checks(result: Mapping[str, Any]) -> list[Check]:
    return [check for figure in figures(result) for check in figure.checks]


def _valid(result: Mapping[str, Any]) -> Case:
    reasons = result["invalid"]
    if not reasons:
        return Case("measurement valid")
    return Case("measurement valid", "error", reasons[0], "\n".join(reasons))


def _trials(result: Mapping[str, Any]) -> Iterator[Case]:
    """Those of repeats and sweeps; that some fail is what a search is about."""
    experiment = result.get("experiment")
    if experiment is None or experiment["kind"] == "search":
        return
    outcomes: dict[str, Outcome] = {"fail": "failure", "invalid": "error"}
    for number, fact in enumerate(experiment["facts"], 1):
        value = f" ({experiment['parameter']}={fact['value']})" if fact["value"] else ""
        told = fact_line(fact).strip()
        outcome = outcomes.get(fact["verdict"]) if fact["exit_code"] else None
        yield Case(f"trial {number}{value}", outcome, told if outcome else "", told)


def _suite(result: Mapping[str, Any], name: str) -> ET.Element:
    cases = cases_of(result)
    seconds = f"{result['duration_ns'] / 1e9:.3f}"
    suite = ET.Element("testsuite", {"name": _xml(name), "tests": str(len(cases))})
    for total, outcome in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(sum(case.outcome == outcome for case in cases)))
    suite.set("time", seconds)
    started = _timestamp(result["started_at"])
    if started is not None:
        suite.set("timestamp", started)
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(result):
        ET.SubElement(properties, "property", {"name": _xml(key), "value": _xml(value)})
    for number, case in enumerate(cases):
        # All of them are judged at the end; the first one has the time that it took.
        suite.append(_case(case, f"millstream.{name}", "0.000" if number else seconds))
    return suite


def _case(case: Case, class_name: str, seconds: str) -> ET.Element:
    made = ET.Element(
        "testcase", {"name": _xml(case.name), "classname": _xml(class_name), "time": seconds}
    )
    if case.outcome == "skipped":
        ET.SubElement(made, "skipped", {"message": _xml(case.message)})
    elif case.outcome is not None:
        attributes = {"message": _xml(case.message), "type": case.outcome}
        ET.SubElement(made, case.outcome, attributes).text = _xml(case.detail or case.message)
    elif case.detail:
        ET.SubElement(made, "system-out").text = _xml(case.detail)
    return made


def _properties(result: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The figures, the seed, the host, the options that were given, and the command."""
    yield "version", str(result["version"])
    yield from ((figure.name, figure.text) for figure in figures(result))
    yield "seed", str(result["seed"])
    yield from ((f"host.{key}", str(value)) for key, value in result["host"].items())
    for key, value in result["options"].items():
        if value not in (None, False, [], ""):
            yield f"option.{key}", str(value)
    if result.get("argv"):
        yield "command", " ".join(map(str, result["argv"]))


def _timestamp(text: str) -> str | None:
    """In UTC, without a zone and fractions: some readers take nothing else."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _xml(text: str) -> str:
    """The text with what XML can't hold escaped, as Python writes it."""
    return _NOT_XML.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
