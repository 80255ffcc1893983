"""A proof for people: its verdict, what was proved, what it cost, and how to have it again.

Pure: a proof's object in, lines of text out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_FINDINGS = 10
_HELD = {True: "held", False: "BROKEN", None: "unknown"}


def proof_lines(proof: Mapping[str, Any]) -> list[str]:
    """The lines of a proof's summary."""
    counts, kills = proof["counts"], proof["kills"]
    made = sum(kill["made"] for kill in kills)
    times = "once" if made == 1 else f"{made:,} times"
    lines = [f"{proof['verdict']}: {proof['why']}"]
    lines.append(_row("events", f"{counts['events']:,}, the run killed {times} on its way"))
    for check in proof["checks"]:
        lines.append(_row(check["name"], f"{_HELD[check['held']]}: {check['detail']}"))
    lines.append(_row("calls", _calls(proof["calls"])))
    lines.append(_row("kills", "; ".join(_kill(kill) for kill in kills)))
    lines.append(_row("checkpoints", f"every {proof['checkpoint_every']}"))
    findings = proof["findings"]
    lines += [f"  ! {finding['words']}" for finding in findings[:_MOST_FINDINGS]]
    if len(findings) > _MOST_FINDINGS:
        lines.append("  ! …: all that is named stands in --json")
    if proof["folder"] is not None:
        lines.append(_row("files", f"kept in {proof['folder']}"))
    lines.append(_row("again", proof["command"]))
    return lines


def _row(label: str, text: str) -> str:
    return f"  {label:<13}{text}"


def _calls(calls: Mapping[str, int]) -> str:
    text = f"{calls['disturbed']:,}, undisturbed {calls['undisturbed']:,}"
    if not calls["repeated"]:
        return f"{text}; none came again"
    most = calls["most_by_one_kill"]
    return f"{text}; {calls['repeated']:,} came again, at most {most:,} for one kill"


def _kill(kill: Mapping[str, Any]) -> str:
    return kill["at"] if kill["made"] else f"not {kill['at']} (it had ended)"
