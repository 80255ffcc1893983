"""Markdown of results, for the summary of a CI job or a pull request.

Texts from elsewhere are escaped, so that they are shown as they are: no markup, no HTML, no links,
and no mentions that would notify somebody.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from millstream.engine.result import FROM_SIGNALS

from .bench import experiment_rows, figures_of
from .figures import figures
from .side_by_side import side_by_side
from .summary import executor_of, notes_of, pair
from .texts import plain, shortened
from .verdict import verdict_sentence

_MARKUP: Final = re.compile(r"[\\`*_\[\]<>#|~&:@$]|(?<=www)\.", re.IGNORECASE)
_AT_START: Final = re.compile(r"^(\d*)([-+=.)])")
"""What would make a list, or a heading, of a text."""
_BREAKS: Final = "\u200b"
"""Behind an @ and a #, where a site would make a mention or a reference of the text shown."""
_MOST_MESSAGE: Final = 200
_MOST_INVARIANTS: Final = 5
"""That are named when all hold; of more, only their number is told."""


def escaped(text: str) -> str:
    """The text in one line, as it is shown wherever it stands, in a table too."""
    shown = _MARKUP.sub(r"\\\g<0>", plain(text).strip())
    shown = _AT_START.sub(r"\1\\\2", shown)
    return shown.replace("@", f"@{_BREAKS}").replace("#", f"#{_BREAKS}")


def code(text: str) -> str:
    """The text as code; where it can't stand as such, escaped."""
    safe = plain(text).strip()
    if not safe or "`" in safe or "|" in safe:
        return escaped(text)
    return f"`{safe}`"


def markdown_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """One result with all that matters; several in one table, with the verdict of each."""
    if len(results) == 1:
        lines = _whole(results[0], names[0])
    else:
        lines = _several(results, names)
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _several(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    table = side_by_side(results, [escaped(name) for name in names])
    lines = ["### millstream", ""]
    lines += _table(table.head, table.rows, right=range(2, len(table.head)))
    lines.append("")
    for result, name in zip(results, names, strict=True):
        lines.append(f"- {escaped(name)}: {escaped(verdict_sentence(result))}")
    return lines


def _whole(result: Mapping[str, Any], name: str) -> list[str]:
    verdict = {"pass": "pass", "fail": "FAIL", "invalid": "INVALID"}[result["verdict"]]
    if result["exit_code"] >= FROM_SIGNALS:
        verdict = "interrupted"
    _, _, told = verdict_sentence(result).partition(": ")
    lines = [f"### {escaped(name)}: {verdict}", "", f"**{verdict}**: {escaped(told)}", ""]
    lines += _table(("figure", "value", "asked", "came out"), _figure_rows(result), right=(1,))
    lines += _notes(result)
    lines += ["", *_table(*_stages(result), right=(2,))]
    for part in (_invariants(result), _dead_letters(result), _experiment(result)):
        lines += ["", *part] if part else []
    return [*lines, "", _origin(result)]


def _figure_rows(result: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for figure in figures(result):
        shown = escaped(figure.label), figure.text
        if not figure.checks:
            yield (*shown, "", "")
        for check in figure.checks:
            flag = {"condition": "fail if ", "objective": "", "promise": ""}[check.kind]
            asked = escaped(check.text) if check.kind == "promise" else code(check.text)
            said = check.said if check.ok else f"**{check.said}**"
            yield (*shown, flag + asked, said)
            shown = "", ""


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = [f"- {escaped(note)}" for note in notes_of(result)]
    return ["", *notes] if notes else []


def _stages(result: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    head = ("stage", "executor", "handled", "wait p50 / p99", "service p50 / p99")
    rows: list[Sequence[str]] = [
        (
            code(stage["name"]),
            escaped(executor_of(stage)),
            f"{stage['handled']:,}",
            pair(stage["queue_wait"]),
            pair(stage["service"]),
        )
        for stage in result["stages"]
    ]
    return head, rows


def _invariants(result: Mapping[str, Any]) -> list[str]:
    invariants = result["invariants"]
    if not invariants:
        return []
    if all(each["held"] for each in invariants):
        count = (
            "The invariant held"
            if len(invariants) == 1
            else (f"All {len(invariants)} invariants held")
        )
        named = ", ".join(escaped(each["name"]) for each in invariants[:_MOST_INVARIANTS])
        return [f"{count}: {named}{', …' if len(invariants) > _MOST_INVARIANTS else ''}."]
    rows = [
        (
            escaped(each["name"]),
            "held" if each["held"] else "**BROKEN**",
            escaped(shortened(str(each["detail"]), _MOST_MESSAGE)),
        )
        for each in invariants
    ]
    return _table(("invariant", "came out", "detail"), rows)


def _dead_letters(result: Mapping[str, Any]) -> list[str]:
    found = result.get("dead_letters")
    if found is None or not found["reasons"]:
        return []
    rows = [
        (
            f"{each['count']:,}",
            escaped(each["error"]),
            code(each["stage"]),
            escaped(shortened(each["message"], _MOST_MESSAGE)),
            f"{escaped(each['source'])} line {each['line']}",
        )
        for each in found["reasons"]
    ]
    if found["others"]:
        rows.append((f"{found['others']:,}", "other reasons", "", "", ""))
    return _table(("dead letters", "error", "stage", "message", "first"), rows, right=(0,))


def _experiment(result: Mapping[str, Any]) -> list[str]:
    experiment = result.get("experiment")
    if experiment is None:
        return []
    lines: list[str] = []
    if experiment["kind"] != "search":
        head, *rows = experiment_rows(experiment)
        cells = [[escaped(cell) for cell in row] for row in rows]
        lines += [*_table([escaped(cell) for cell in head], cells, right=(1,)), ""]
    return lines + [f"- {escaped(note)}" for note in figures_of(experiment).notes]


def _origin(result: Mapping[str, Any]) -> str:
    host = result["host"]
    parts = [
        f"millstream {escaped(str(result['version']))}",
        f"{escaped(str(host.get('cpus', '?')))} cores",
        f"Python {escaped(str(host.get('python', '?')))}",
        f"seed {result['seed']}",
    ]
    told = f"{', '.join(parts)}, {escaped(result['started_at'])}"
    if result.get("argv"):
        told += f": {code(shlex.join(map(str, result['argv'])))}"
    return told


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()
) -> list[str]:
    """A table; `right` are the columns of figures."""
    aligned = set(right)
    marks = ["---:" if column in aligned else "---" for column in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, marks, *rows)]
