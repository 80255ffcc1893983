"""What people are told of a result: words and numbers, without any formatting for a terminal.

Pure: a result object in, rows out. Texts in it are as they came: whoever shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from msgspec import Struct

from .bench import bench_lines, invariant_lines
from .figures import checks_of
from .sparks import sparkline
from .texts import shortened
from .units import duration, executor_label, rate, size
from .verdict import verdict_sentence

_LEAST_SECONDS = 0.1
"""Processor time is counted in ticks of some 10 ms: of a shorter run it tells nothing."""
_LEAST_POINTS: Final = 4
"""Of a course that is worth a sparkline."""
_SPARK_WIDTH: Final = 36
_MOST_REASONS: Final = 3
_REASON_WIDTH: Final = 64
_MOST_EXAMPLES: Final = 3


class StageRow(Struct, frozen=True):
    """One stage, as texts."""

    name: str
    executor: str
    handled: str
    wait: str
    service: str


class Summary(Struct, frozen=True):
    """A result for people: the verdict, lines of label and text, the stages, and what is wrong."""

    headline: str
    lines: list[tuple[str, str]]
    stages: list[StageRow]
    problems: list[str]


def summarize(result: Mapping[str, Any], notes: Sequence[str] | None) -> Summary:
    """`notes` are sentences that the run itself added, such as the first broken promises; None: it
    is over, and they are derived from its result as far as they are in it."""
    counts = result["counts"]
    seconds = result["duration_ns"] / 1e9
    lines = [(str(result["command"]), _name(result)), ("events", _events(counts))]
    if result["command"] == "bench":
        lines += bench_lines(result)
    if "replay" in result:
        lines.append(("letters", _letters(result["replay"])))
    lines += invariant_lines(result["invariants"])
    lines += _asked(result)
    lines += _dead_letters(result)
    if result.get("faults"):
        lines.append(("injected", _faults(result)))
    lines.append(("order", _order(result)))
    if result["response"] is not None:
        lines.append(("response", _distribution(result["response"])))
        lines.append(("slip", _distribution(result["slip"])))
    lines += _courses(result["series"])
    lines.append(("resources", _resources(result, seconds)))
    stages = [_stage_row(stage) for stage in result["stages"]]
    problems = notes_of(result) if notes is None else list(notes)
    return Summary(verdict_sentence(result), lines, stages, problems)


def notes_of(result: Mapping[str, Any]) -> list[str]:
    """What is wrong, in sentences, as far as the result has it."""
    counts, delivery = result["counts"], result["delivery"]
    notes = []
    if counts["read"] != counts["handled"] + counts["dead_lettered"]:
        notes.append(
            f"not every event is accounted for: read {counts['read']:,}, handled "
            f"{counts['handled']:,}, dead-lettered {counts['dead_lettered']:,}"
        )
    if delivery["lost"]:
        notes.append(f"{delivery['lost']:,} events were lost")
    if delivery["duplicated"]:
        notes.append(f"{delivery['duplicated']:,} events arrived twice")
    if result["ordering"]["violations"]:
        notes += [_sentence(each) for each in result["ordering"]["audit"]["examples"]][
            :_MOST_EXAMPLES
        ]
    return notes + [f"invalid: {why}" for why in result.get("invalid", ())]


def _sentence(example: Mapping[str, Any]) -> str:
    """An offending pair."""
    where = f"{example['place']}: " if example.get("place") else ""
    key = "" if example.get("key") is None else f" of key {example['key']!r}"
    after = (example.get("after") or {}).get("sequence")
    how = "began before the end of" if example["kind"] == "overlap" else "came after"
    return f"{where}event {example.get('sequence')}{key} {how} event {after}"


def _name(result: Mapping[str, Any]) -> str:
    seeded = result["command"] == "bench" and result["seed"] is not None
    return f"{result['name']}, seed {result['seed']}" if seeded else str(result["name"])


def _events(counts: Mapping[str, int]) -> str:
    parts = [f"{counts['handled']:,} handled"]
    if counts["filtered"]:
        parts.append(f"{counts['filtered']:,} of them filtered out")
    if counts.get("deduplicated"):
        parts.append(f"{counts['deduplicated']:,} duplicates")
    parts.append(f"{counts['emitted']:,} results written")
    return ", ".join(parts)


def _asked(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Objectives and conditions, and how they came out."""
    flags = {"objective": "objective", "condition": "fail if"}
    lines = []
    for check in checks_of(result):
        if check.kind in flags:
            nothing = check.observed == "-"
            seen = "nothing was observed" if nothing else f"it was {check.observed}"
            lines.append((flags[check.kind], f"{check.text}: {check.said}, {seen}"))
    return lines


def _dead_letters(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many, where they are, and the most frequent reasons."""
    count = result["counts"]["dead_lettered"]
    if not count:
        return []
    file = result.get("dead_letter_file")
    lines = [("dead letters", f"{count:,}{f' in {file}' if file else ''}")]
    found = result.get("dead_letters")
    if found is None:  # older results do not have them
        return lines
    shown = found["reasons"][:_MOST_REASONS]
    for reason in shown:
        message = f": {reason['message']}" if reason["message"] else ""
        told = f"{reason['count']:,} {reason['error']} at {reason['stage']}{message}"
        lines.append(("", shortened(told, _REASON_WIDTH)))
    rest = count - sum(reason["count"] for reason in shown)
    if rest > 0:
        lines.append(("", f"{rest:,} for other reasons"))
    return lines


def _courses(series: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Throughput over time and, with a schedule, the 99th percentile of the response."""
    lines = []
    for label, values, merge, told in (
        ("throughput", series["throughput"], fmean, rate),
        ("p99", series["response_p99"], max, duration),
    ):
        known = [value for value in values if value is not None]
        if len(known) >= _LEAST_POINTS:
            spark = sparkline(values, _SPARK_WIDTH, merge)
            low, high = told(round(min(known))), told(round(max(known)))
            lines.append((label, f"{spark}  {low} to {high}"))
    return lines


def _faults(result: Mapping[str, Any]) -> str:
    fired = ", ".join(f"{each['text']} {_times(each['fired'])}" for each in result["faults"])
    broken = sum(each["violations"] for each in result["faults"])
    told = f"{fired} (seed {result['seed']})"
    if broken or result.get("unattributed"):
        told += f"; {broken:,} violations fall to them, {result.get('unattributed', 0):,} to none"
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
    return StageRow(
        stage["name"],
        executor_of(stage),
        f"{stage['handled']:,}",
        pair(stage["queue_wait"]),
        pair(stage["service"]),
    )


def executor_of(stage: Mapping[str, Any]) -> str:
    """Where a stage ran, and how many of it: "process x 2"."""
    return executor_label(stage["executor"], stage["workers"], stage["concurrency"], "x")


def pair(figures: Mapping[str, int] | None) -> str:
    """Median and 99th percentile of a distribution."""
    if figures is None:
        return "-"
    return f"{duration(figures['p50'])} / {duration(figures['p99'])}"


def _distribution(figures: Mapping[str, int] | None) -> str:
    if figures is None:
        return "-"
    names = ("p50", "p90", "p99", "p999", "max")
    return ", ".join(f"{name} {duration(figures[name])}" for name in names)
