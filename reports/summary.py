"""What people are told of a result: words and numbers, without any formatting for a terminal.

Pure: a result object in, rows out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from .bench import bench_lines
from .units import duration, rate, size

_LEAST_SECONDS = 0.1
"""Processor time is counted in ticks of some 10 ms: of a shorter run it tells nothing."""


class StageRow(Struct, frozen=True):
    """One stage, as texts."""

    name: str
    executor: str
    handled: str
    wait: str
    service: str


class Summary(Struct, frozen=True):
    """A result for people: a headline, lines of label and text, and the stages."""

    headline: str
    lines: list[tuple[str, str]]
    stages: list[StageRow]
    problems: list[str]


def summarize(result: Mapping[str, Any], notes: list[str]) -> Summary:
    """`notes` are sentences that the run itself added, such as the first broken promises."""
    counts = result["counts"]
    seconds = result["duration_ns"] / 1e9
    headline = (
        f"{result['name']}: {counts['read']:,} events in {duration(result['duration_ns'])}, "
        f"{rate(counts['read'] / seconds if seconds else 0.0)}"
    )
    lines = [("events", _events(counts))]
    if result.get("command") == "bench":
        lines += bench_lines(result)
    if "replay" in result:
        lines.append(("letters", _letters(result["replay"])))
    if counts["dead_lettered"]:
        lines.append(
            ("dead letters", f"{counts['dead_lettered']:,} in {result['dead_letter_file']}")
        )
    if result.get("faults"):
        lines.append(("injected", _faults(result)))
    lines.append(("order", _order(result)))
    if result["response"] is not None:
        lines.append(("response", _distribution(result["response"])))
        lines.append(("slip", _distribution(result["slip"])))
    lines.append(("resources", _resources(result, seconds)))
    problems = list(notes)
    for condition in result["conditions"]:
        if condition["held"]:
            problems.append(f"--fail-if {condition['text']}: it was {condition['observed']:g}")
    stages = [_stage_row(stage) for stage in result["stages"]]
    return Summary(headline, lines, stages, problems)


def _events(counts: Mapping[str, int]) -> str:
    parts = [f"{counts['handled']:,} handled"]
    if counts["filtered"]:
        parts.append(f"{counts['filtered']:,} of them filtered out")
    if counts.get("deduplicated"):
        parts.append(f"{counts['deduplicated']:,} duplicates")
    parts.append(f"{counts['emitted']:,} results written")
    return ", ".join(parts)


def _faults(result: Mapping[str, Any]) -> str:
    fired = ", ".join(f"{each['text']} {_times(each['fired'])}" for each in result["faults"])
    broken = sum(each["violations"] for each in result["faults"])
    told = f"{fired} (seed {result['seed']})"
    if broken or result["unattributed"]:
        told += f"; {broken:,} violations fall to them, {result['unattributed']:,} to none"
    return told


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count:,} times")


def _letters(replay: Mapping[str, int]) -> str:
    parts = [f"{replay['succeeded']:,} succeeded", f"{replay['failed_again']:,} failed again"]
    if replay["left"]:
        parts.append(f"{replay['left']:,} left as they were")
    if replay["replayed_before"]:
        parts.append(f"{replay['replayed_before']:,} replayed before")
    return ", ".join(parts)


def _order(result: Mapping[str, Any]) -> str:
    ordering = result["ordering"]
    order, audit = ordering["order"], ordering["audit"]
    if order == "none":
        return f"none promised; {audit['reordered_ratio']:.1%} of the arrivals were out of order"
    promise = {"key": "per key", "partition": "per partition", "global": "global"}[order]
    verdict = "held" if not ordering["violations"] else f"BROKEN {ordering['violations']:,} times"
    unknown = f", {audit['unknown']:,} beyond the window" if audit["unknown"] else ""
    return f"{promise}: {verdict} ({len(audit['places'])} places audited{unknown})"


def _resources(result: Mapping[str, Any], seconds: float) -> str:
    resources = result["resources"]
    parts = [f"{size(resources['rss_peak'])} at most"]
    if seconds >= _LEAST_SECONDS:
        parts.append(f"{resources['cpu_ns'] / 1e9 / seconds:.1f} cores")
    parts.append(f"loop lag {duration(resources['loop_lag_p99'])} at p99")
    return ", ".join(parts)


def _stage_row(stage: Mapping[str, Any]) -> StageRow:
    executor = str(stage["executor"])
    if executor == "process":
        executor += f" x {stage['workers']}"
    elif executor == "coroutine":
        executor += f" x {stage['concurrency']}"
    return StageRow(
        stage["name"],
        executor,
        f"{stage['handled']:,}",
        _pair(stage["queue_wait"]),
        _pair(stage["service"]),
    )


def _pair(figures: Mapping[str, int] | None) -> str:
    if figures is None:
        return "-"
    return f"{duration(figures['p50'])} / {duration(figures['p99'])}"


def _distribution(figures: Mapping[str, int] | None) -> str:
    if figures is None:
        return "-"
    names = ("p50", "p90", "p99", "p999", "max")
    return ", ".join(f"{name} {duration(figures[name])}" for name in names)
