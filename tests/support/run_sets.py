"""Builders of runs to be compared: sets by their figures alone, and the results of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from millstream.reports.run_sets import Run, RunSet

REPEATS = Path(__file__).parents[1] / "data" / "repeats"


def runs_with(label: str = "runs", **figures: Sequence[float]) -> RunSet:
    """A set with a run for each place of the figures; `response_p50` is response.p50."""
    named = {name.replace("response_", "response."): each for name, each in figures.items()}
    return set_of(named, label)


def set_of(figures: Mapping[str, Sequence[float]], label: str = "runs") -> RunSet:
    """The same by the figures' own names."""
    rows = zip(*figures.values(), strict=True)
    runs = tuple(
        Run(f"{label}-{place}.json", None, dict(zip(figures, map(float, row), strict=True)))
        for place, row in enumerate(rows)
    )
    return RunSet(label, runs, (), {}, (), ("1",), ("1",), 0)


def measured(kind: str) -> dict[str, list[float]]:
    """Figures of real repeats, `closed` or `open` (tests/data/repeats)."""
    found: dict[str, list[float]] = json.loads((REPEATS / f"{kind}.json").read_text())["figures"]
    return found


_DISTRIBUTION = {"count": 100, "min": 1, "mean": 5, "p50": 4, "p90": 8, "p99": 9, "p999": 9}
_RESULT: dict[str, Any] = {
    **{"schema": "millstream.result/1", "command": "run", "name": "charge", "version": "0.1.0"},
    **{"started_at": "2026-11-28T03:41:18Z", "options": {}, "seed": 1, "inputs": ["events.jsonl"]},
    "host": {"cpus": 2, "machine": "x86_64", "platform": "Linux", "python": "3.11.7"},
    **{"exit_code": 0, "verdict": "pass", "duration_ns": 10**9, "throughput": 100.0},
    "counts": {"read": 100, "handled": 100, "emitted": 100, "retried": 0, "dead_lettered": 0},
    **{"bytes_read": 5000, "response": None, "slip": None},
    "stages": [
        {
            **{"name": "charge", "executor": "inline", "workers": 1, "concurrency": 1},
            "queue_wait": {**_DISTRIBUTION, "max": 10},
            "service": {**_DISTRIBUTION, "max": 10},
        }
    ],
    "ordering": {"order": "key", "violations": 0},
    "delivery": {"lost": 0, "duplicated": 0, "unexpected": 0, "recovered": 0},
    "resources": {"cpu_ns": 5000, "rss_peak": 2**20, "loop_lag_p99": 7},
}


def a_result(**changes: Any) -> dict[str, Any]:
    """The result of a job; what is changed is given by its path, `options__rate=5`."""
    result = deepcopy(_RESULT)
    for path, value in changes.items():
        *way, last = path.split("__")
        place = result
        for name in way:
            place = place[name]
        place[last] = value
    return result
