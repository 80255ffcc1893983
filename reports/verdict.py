"""The verdict on a result, in one sentence: pass, FAIL or INVALID, why, how much and how fast.

Pure: a result object in, words out. Names and conditions in it are the user's: whoever shows the
sentence escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from millstream.engine.result import BROKEN, CONDITION, FROM_SIGNALS, INVALID, UNUSABLE

from .figures import checks_of
from .units import duration, rate

_SHOWN: Final = 3
"""Reasons of a kind that the sentence tells."""
_MEANINGS: Final[Mapping[int, str]] = {
    BROKEN: "a promise or an invariant was broken",
    CONDITION: "a condition held, or an objective was missed",
    INVALID: "the generator could not keep up",
    UNUSABLE: "they were stopped before their end, or their outputs could not be finished",
}


def verdict_sentence(result: Mapping[str, Any]) -> str:
    """Such as "pass: 200,000 events in 4.01 s, 49,856/s, order per key held, nothing lost", or
    "FAIL: order per key broken 3 times; 200,000 events in 4.01 s, 49,856/s"."""
    code = result["exit_code"]
    if code >= FROM_SIGNALS:
        return f"interrupted: {_amount(result)}, {', '.join(_kept(result))}"
    if code == INVALID:
        return f"INVALID: {_joined(why(result))}; {_amount(result)}"
    if result["verdict"] == "fail":
        return f"FAIL: {_joined(why(result))}; {_amount(result)}"
    return f"pass: {_amount(result)}, {', '.join(_kept(result))}"


def why(result: Mapping[str, Any]) -> list[str]:
    """The reasons for a verdict that is not "pass", the gravest first."""
    code = result["exit_code"]
    if code == BROKEN:
        found = broken(result)
    elif code == INVALID:
        found = [_without_advice(each) for each in result.get("invalid", ())][:1]
    elif code == CONDITION:
        found = unmet(result)
    elif code == UNUSABLE:
        found = _stopped(result)
    else:
        found = [*broken(result), *unmet(result)]
    return found or _of_trials(result, code) or [f"exit code {code}"]


def broken(result: Mapping[str, Any]) -> list[str]:
    """Promises about order and delivery, and invariants, that did not hold."""
    found = []
    for check in checks_of(result):
        if check.kind == "promise" and not check.ok:
            what = f"{check.text} broken {check.observed}"
            found.append(check.observed if check.text.startswith(("no ", "nothing ")) else what)
    if result["delivery"]["unexpected"]:
        found.append(f"{result['delivery']['unexpected']:,} unexpected")
    counts = result["counts"]
    missing = counts["read"] - counts["handled"] - counts["dead_lettered"]
    if missing:
        found.append(f"{abs(missing):,} events not accounted for")
    unheld = [each["name"] for each in result["invariants"] if not each["held"]]
    return [*found, *(f"invariant {name} broken" for name in unheld)]


def unmet(result: Mapping[str, Any]) -> list[str]:
    """Objectives that were missed, and conditions that held."""
    found = []
    for check in checks_of(result):
        if check.kind != "promise" and not check.ok:
            seen = "nothing was observed" if check.observed == "-" else f"it was {check.observed}"
            flag = "--fail-if" if check.kind == "condition" else "objective"
            how = "held" if check.kind == "condition" else "missed"
            found.append(f"{flag} {check.text!r} {how}: {seen}")
    return found


def _stopped(result: Mapping[str, Any]) -> list[str]:
    """Why a run that was to be stopped, or whose outputs could not be finished, has code 3."""
    options, dead = result["options"], result["counts"]["dead_lettered"]
    if options.get("on-error") == "halt" and dead:
        return ["halted by a dead letter (--on-error halt)"]
    most = options.get("max-dead-letters")
    if most is not None and dead:
        return [f"stopped above --max-dead-letters {most}"]
    return ["a tear-down failed, and the output is not finished"]


def _without_advice(reason: str) -> str:
    return reason.partition("; ")[0]


def _of_trials(result: Mapping[str, Any], code: int) -> list[str]:
    """The reason that is none of this trial: other ones of the experiment have it."""
    facts = result.get("experiment", {}).get("facts", ())
    alike = [fact for fact in facts if fact["exit_code"] == code]
    if not alike:
        return []
    reasons = [_without_advice(each) for fact in alike for each in fact["invalid"]]
    why = reasons[0] if reasons else _MEANINGS.get(code, f"exit code {code}")
    return [f"{len(alike)} of {len(facts)} trials: {why}"]


def _joined(reasons: Sequence[str]) -> str:
    more = len(reasons) - _SHOWN
    return ", ".join([*reasons[:_SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _amount(result: Mapping[str, Any]) -> str:
    """How much, and how fast; of an experiment, what its trials came to."""
    experiment = result.get("experiment")
    if experiment is not None and experiment["facts"]:
        return _trials(experiment)
    counts = result["counts"]
    events = "1 event" if counts["read"] == 1 else f"{counts['read']:,} events"
    return f"{events} in {duration(result['duration_ns'])}, {rate(result['throughput'])}"


def _trials(experiment: Mapping[str, Any]) -> str:
    facts = experiment["facts"]
    trials = "1 trial" if len(facts) == 1 else f"{len(facts):,} trials"
    match experiment["kind"]:
        case "search":
            return f"{trials}: {experiment['said']}"
        case "repeat":
            middle = median(fact["throughput"] for fact in facts)
            return f"{trials}, {rate(middle)} in the median"
        case _:
            best = max(facts, key=_throughput)
            where = f"{experiment['parameter']}={best['value']}"
            return f"{trials}, {rate(best['throughput'])} at best ({where})"


def _throughput(fact: Mapping[str, Any]) -> tuple[bool, float]:
    """What was measured validly comes first."""
    return fact["verdict"] != "invalid", fact["throughput"]


def _kept(result: Mapping[str, Any]) -> list[str]:
    """What held, and what the run left to look at."""
    promises = [check for check in checks_of(result) if check.kind == "promise"]
    order = [c for c in promises if not c.text.startswith(("no ", "nothing "))]
    told = [f"{c.text} {'held' if c.ok else f'broken {c.observed}'}" for c in order]
    told = told or ["no order promised"]
    lost = result["delivery"]["lost"]
    told.append(f"{lost:,} lost" if lost else "nothing lost")
    dead = result["counts"]["dead_lettered"]
    if dead:
        told.append("1 dead letter" if dead == 1 else f"{dead:,} dead letters")
    return told
