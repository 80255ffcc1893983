"""Result objects as the engine writes them, with all that its schema asks for and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def distribution(p50: int = 300_000, **changes: int) -> dict[str, int]:
    """The figures of a histogram, in ns."""
    made = {"count": 5400, "min": 200_000, "mean": 310_000, "p50": p50, "p90": 350_000}
    return {**made, "p99": 1_130_000, "p999": 5_430_000, "max": 6_100_000, **changes}


def stage(name: str = "charge", **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "executor": "inline", "workers": 1, "concurrency": 1}
    made |= {"handled": 12345, "queue_wait": distribution(), "service": distribution(1_500)}
    return {**made, **changes}


def audit(**changes: Any) -> dict[str, Any]:
    """Of an output in order."""
    made: dict[str, Any] = {
        **{"schema": "millstream.audit/1", "scope": "key", "events": 12345, "keys": None},
        **{"reordered": 0, "reordered_ratio": 0.0, "duplicates": 0},
        "discontinuities": {"count": None, "missing": None},
        "extent": {"max": 0, "counts": {}},
        "late_time": {"max": None, "mean": None},
        "n_reordering": {},
        "free_runs": {"reordered": 0, "accepted": 0, "arrivals": 0, "q": 0},
        "gaps": {"max": 0, "counts": {}},
        "reorder_density": {"threshold": 8, "counts": {}},
        "buffer_occupancy": {"threshold": 8, "counts": {}},
        **{"window": 131072, "unknown": 0, "late_unknown": 0, "overlaps": 0, "examples": []},
        "places": [{"place": "charge"}, {"place": "output"}],
    }
    return {**made, **changes}


def result(**changes: Any) -> dict[str, Any]:
    """Of a run of 12,345 events in 2 s that went well, as an early version wrote it."""
    counts = {"read": 12345, "handled": 12345, "filtered": 0, "emitted": 12345, "retried": 0}
    series: dict[str, Any] = {"throughput": [6000.0, 6345.0], "backlog": [3, 2]}
    series |= {"response_p50": [None, None], "response_p99": [None, None]}
    made: dict[str, Any] = {
        **{"schema": "millstream.result/1", "command": "run", "name": "charge"},
        **{"version": "0.1.0", "started_at": "2026-11-28T03:30:51.442745Z"},
        **{"options": {"order": "key"}, "inputs": ["events.jsonl"], "output": "out.jsonl"},
        **{"dead_letter_file": None, "seed": 7, "exit_code": 0, "verdict": "pass"},
        "host": {"cpus": 2, "python": "3.11.7", "platform": "Linux"},
        "counts": {**counts, "dead_lettered": 0},
        **{"duration_ns": 2_000_000_000, "throughput": 6172.5, "bytes_read": 1_000_000},
        **{"response": None, "slip": None, "stages": [stage()]},
        "ordering": {"order": "key", "violations": 0, "audit": audit()},
        "delivery": {"lost": 0, "duplicated": 0, "unexpected": 0, "recovered": 0},
        "resources": {"cpu_ns": 3_000_000_000, "rss_peak": 64 * 2**20, "loop_lag_p99": 1_234_567},
        "series": {"interval_ns": 1_000_000_000, **series, "rss": [1, 2], "cpu": [0.5, 0.5]},
        **{"conditions": [], "invariants": []},
    }
    return {**made, **changes}


def bench(**changes: Any) -> dict[str, Any]:
    """Of a benchmark with a schedule that went well."""
    load: dict[str, Any] = {"open": True, "arrivals": "constant", "rate": 6000.0}
    load |= {"offered": 6000.0, "released": 12345, "taken": 12345, "dropped": 0, "warmup_ns": 0}
    load |= {"elapsed_ns": 2_000_000_000, "cpu_ns": 1, "loop_lag_p99_ns": 1, "starved_ns": 0}
    series = {
        **{"interval_ns": 1_000_000_000, "throughput": [6000.0, 6345.0], "backlog": [3, 2]},
        **{"response_p50": [300_000, 300_000], "response_p99": [1_000_000, 2_000_000]},
        **{"rss": [1, 2], "cpu": [0.5, 0.5], "offered": [6000.0, 6000.0]},
    }
    made: dict[str, Any] = {
        **{"command": "bench", "name": "feed", "response": distribution(), "slip": distribution()},
        "scenario": {"name": "feed", "settings": {"accounts": 2000}},
        "load": {**load, "gave_up": False},
        "series": series,
        "steady": {"steady": True, "why": "no trend", "backlog_slope": 0.0},
        **{"tail": None, "objectives": [], "invalid": []},
        "invariants": [{"name": "timelines", "held": True, "detail": "675 timelines"}],
    }
    return result(**{**made, **changes})


def fact(throughput: float, value: str = "", **changes: Any) -> dict[str, Any]:
    """One trial of an experiment."""
    made: dict[str, Any] = {"value": value, "repeat": 0, "verdict": "pass", "offered": 6000.0}
    made |= {"throughput": throughput, "response": None, "service_ns": 1500, "steady": True}
    return {**made, "violations": 0, "exit_code": 0, "invalid": [], **changes}


def experiment(facts: list[dict[str, Any]], kind: str = "repeat", **changes: Any) -> dict[str, Any]:
    made = {"kind": kind, "parameter": None, "facts": facts, "hottest_key": None}
    return {**made, "search": None, "said": "", **changes}


def counted(**changes: int) -> Mapping[str, int]:
    """The counts of result(), changed."""
    return {**result()["counts"], **changes}
