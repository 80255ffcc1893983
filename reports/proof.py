"""A proof for people: its verdict, what was proved, what it cost, and how to have it again.

Pure: a proof's object in, lines of text out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .units import rate

_MOST_OF_A_KIND = 3
_VERDICTS = {"proved": "proved", "broken": "broken", "unproved": "can't be proved"}
_HELD = {True: "held", False: "BROKEN", None: "unknown"}


def proof_lines(proof: Mapping[str, Any]) -> list[str]:
    """The lines of a proof's summary."""
    counts, kills = proof["counts"], proof["kills"]
    made = sum(kill["made"] for kill in kills)
    times = "once" if made == 1 else f"{made:,} times"
    lines = [f"{_VERDICTS[proof['verdict']]}: {proof['why']}"]
    lines.append(_row("events", f"{counts['events']:,}, the run killed {times} on its way"))
    for check in proof["checks"]:
        lines.append(_row(check["name"], f"{_HELD[check['held']]}: {check['detail']}"))
    left_out = [*proof["ignored_fields"], *proof["varying_fields"]]
    if left_out:
        lines.append(_row("left out", ", ".join(left_out)))
    lines.append(_row("calls", _calls(proof["calls"])))
    for number, kill in enumerate(kills):
        lines.append(_row("" if number else "kills", _kill(kill)))
    slowed = proof["slowed_to"]
    pace = f", slowed to {rate(slowed)} to be killed on its way" if slowed else ""
    lines.append(_row("checkpoints", f"every {proof['checkpoint_every']}{pace}"))
    lines += _findings(proof["findings"])
    if proof["folder"] is not None:
        lines.append(_row("files", f"kept in {proof['folder']}"))
    lines.append(_row("again", proof["command"]))
    return lines


def _row(label: str, text: str) -> str:
    return f"  {label:<13}{text}"


def _findings(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first few of each kind."""
    lines: list[str] = []
    for _, some in groupby(findings, key=lambda finding: finding["kind"]):
        alike = list(some)
        for finding in alike[:_MOST_OF_A_KIND]:
            lines.append(f"  ! {finding['words']}".replace("\n", "\n    "))
        if len(alike) > _MOST_OF_A_KIND:
            lines.append("  ! … and more of these")
    return lines


def _calls(calls: Mapping[str, int]) -> str:
    which = " of the first stage" if calls["first_stage_only"] else ""
    text = f"{calls['disturbed']:,}{which}, undisturbed {calls['undisturbed']:,}"
    if not calls["repeated"]:
        return f"{text}; none came again"
    most = calls["most_by_one_kill"]
    return f"{text}; {calls['repeated']:,} came again, at most {most:,} for one kill"


def _kill(kill: Mapping[str, Any]) -> str:
    if not kill["made"]:
        return f"{kill['words']}: not any more, it had ended"
    return f"{kill['words']}: {kill['kept']:,} of {kill['calls']:,} calls so far were made for good"
