"""What came out: promises and conditions, dead letters by reason, faults; and what was run.

Pure: a result in, sections out.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from ..figures import checks_of
from ..units import duration, size
from . import svg
from .model import Chart, Section, Table, Verdict

_MOST_BARS: Final = 20
_DULL: Final[tuple[Any, ...]] = (None, False, [], (), "", "auto", "none")
"""Values of options that say nothing."""
_LEFT_OUT: Final = ("dry-run", "quiet", "result", "report", "list-runs", "live")


def checks_section(result: Mapping[str, Any], prefix: str = "") -> Section:
    """All that was promised or asked, and how it came out."""
    rows: list[list[str | Verdict]] = [
        [check.text, _KINDS.get(check.kind, check.kind), Verdict(check.said, check.ok),
         check.observed]
        for check in checks_of(result)
    ]  # fmt: skip
    for each in result["invariants"]:
        word = Verdict("held", True) if each["held"] else Verdict("BROKEN", False)
        rows.append([str(each["name"]), "invariant of the scenario", word, str(each["detail"])])
    for why in result.get("invalid", ()):
        rows.append(["the measurement", "validity", Verdict("INVALID", False), why])
    steady = result.get("steady")
    if steady is not None:
        known = steady["backlog_slope"] is not None
        word = Verdict("yes" if steady["steady"] else "NO", bool(steady["steady"]))
        told = word if known else Verdict("can't be told", None)
        rows.append(["a steady state was reached", "steadiness", told, steady["why"]])
    table = Table(["what", "kind", "outcome", "observed"], rows, left=4)
    return Section(f"{prefix}checks", "Promises and conditions", tables=[("", table)])


_KINDS: Final = {
    "promise": "promise",
    "objective": "objective",
    "condition": "--fail-if",
}


def failures_section(result: Mapping[str, Any], prefix: str = "") -> Section:
    """Dead letters by reason, and what was done on purpose."""
    charts, tables, notes = [], [], []
    dead = result["counts"]["dead_lettered"]
    reasons = result.get("dead_letters", {}).get("reasons", ())
    if reasons:
        charts.append(_reasons(result["dead_letters"], dead, prefix))
    if dead and result.get("dead_letter_file"):
        notes.append(f"The dead letters are in {result['dead_letter_file']}.")
    faults = result.get("faults", ())
    if faults:
        tables.append(("Faults on purpose", _faults(result)))
    return Section(f"{prefix}failures", "Failures", charts, tables, notes)


def _reasons(told: Mapping[str, Any], dead: int, prefix: str) -> Chart:
    reasons = told["reasons"]
    bars = [
        svg.Bar(
            f"{each['stage']}: {each['error']}",
            [svg.Piece(each["count"], 4, f"{each['error']}: {each['count']:,}")],
            f"{each['count']:,}",
        )
        for each in reasons[:_MOST_BARS]
    ]
    rows = [
        [each["stage"], each["error"], each["message"], f"{each['source']}, line {each['line']:,}",
         f"{each['count']:,}"]
        for each in reasons
    ]  # fmt: skip
    if told["others"]:
        rows.append(["", "others", "", "", f"{told['others']:,}"])
    said = f"{dead:,} dead letters by stage and type of error"
    head = ["stage", "error", "message of the first one", "where it stood", "dead letters"]
    return Chart(
        id=f"{prefix}reasons",
        title="Dead letters by reason",
        said=f"{said}.",
        table=Table(head, rows, left=4),
        svg=svg.bars(said, bars, max(each["count"] for each in reasons)),
        wide=True,
    )


def _faults(result: Mapping[str, Any]) -> Table:
    recovered = {each["fault"]: each for each in result.get("recovery", ())}
    rows = []
    for fault in result["faults"]:
        first = "never" if fault["first_ns"] is None else duration(fault["first_ns"])
        recovery = recovered.get(fault["text"])
        after = "–"
        if recovery is not None:
            took = recovery["recovered_ns"]
            after = "not before the load ended" if took is None else f"after {duration(took)}"
        rows.append(
            [fault["text"], first, after, f"{fault['fired']:,}", f"{fault['violations']:,}"]
        )
    head = ["fault", "first at", "recovered", "times", "violations and dead letters near it"]
    return Table(head, rows, left=3)


def about_section(result: Mapping[str, Any], prefix: str = "") -> Section:
    """Host, options, seed, and the command that repeats it."""
    host, resources, counts = result["host"], result["resources"], result["counts"]
    rows = [
        ["started at", result["started_at"]],
        ["lasted", duration(result["duration_ns"])],
        ["millstream", result["version"]],
        *([[name.replace("_", " "), str(host[name])] for name in host]),
        ["inputs", ", ".join(map(str, result.get("inputs", ()))) or "–"],
        ["events", f"{counts['read']:,} read, {counts['handled']:,} handled, "
                   f"{counts['filtered']:,} of them filtered out, {counts['emitted']:,} emitted, "
                   f"{counts['retried']:,} retries"],
        ["bytes read", size(result["bytes_read"])],
        ["processor time", duration(resources["cpu_ns"])],
        ["memory at most", size(resources["rss_peak"])],
        ["seed", "–" if result["seed"] is None else str(result["seed"])],
    ]  # fmt: skip
    scenario = result.get("scenario")
    if scenario is not None:
        told = ", ".join(f"{name} = {value}" for name, value in scenario["settings"].items())
        rows.append([f"scenario {scenario['name']}", told or "–"])
    options = [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in result["options"].items()
        if value not in _DULL and name not in _LEFT_OUT
    ]
    tables = [("Run", Table(["", "value"], rows, left=2))]
    if options:
        tables.append(("Options", Table(["option", "value"], options, left=2)))
    command = command_of(result)
    notes = [] if command is None else [f"To repeat it: {command}"]
    return Section(f"{prefix}about", "About this run", tables=tables, notes=notes)


def command_of(result: Mapping[str, Any]) -> str | None:
    """The command that repeats the run, with its seed; None where it was made from Python."""
    argv = result.get("argv")
    if not argv:
        return None
    told = [str(word) for word in argv]
    if result["seed"] is not None and not any(word.split("=")[0] == "--seed" for word in told):
        told += ["--seed", str(result["seed"])]
    return shlex.join(told)
