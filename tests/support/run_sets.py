"""Builders of runs to be compared: sets by their figures alone, and the results of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from millstream.reports.run_sets import Run, RunSet
from tests.support.results import distribution, result, stage

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


def a_result(**changes: Any) -> dict[str, Any]:
    """Of a job of 100 events; what is changed is given by its path, such as `host__cpus=5`."""
    times = distribution(4, count=100, min=1, mean=5, p90=8, p99=9, p999=9, max=10)
    made = result(
        options={},
        host={"cpus": 2, "machine": "x86_64", "platform": "Linux", "python": "3.11.7"},
        counts={
            **{"read": 100, "handled": 100, "filtered": 0, "emitted": 100, "retried": 0},
            "dead_lettered": 0,
        },
        throughput=100.0,
        bytes_read=5000,
        stages=[stage(queue_wait=times, service=dict(times))],
        resources={"cpu_ns": 5000, "rss_peak": 2**20, "loop_lag_p99": 7},
    )
    for path, value in changes.items():
        *way, last = path.split("__")
        place = made
        for name in way:
            place = place[name]
        place[last] = value
    return made
