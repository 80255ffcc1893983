"""What a run tells of itself, made up: all of it ordinary but for what a test is about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from millstream.engine.counted import Counted
from millstream.engine.histogram import Histogram
from millstream.engine.observer import Details, StageDetails

S = 1_000_000_000


def counted(values: Iterable[int] = ()) -> Counted:
    """A histogram of `values` (ns)."""
    histogram = Histogram()
    histogram.record(list(values))
    return Counted.of(histogram)


def counts(**changes: int) -> dict[str, int]:
    """As in a result."""
    names = ("read", "handled", "filtered", "emitted", "retried", "dead_lettered")
    return {**dict.fromkeys(names, 0), **changes}


def stage_details(name: str = "score", **changes: Any) -> StageDetails:
    """A stage that runs inline, idle."""
    facts: dict[str, Any] = {
        "executor": "inline", "workers": 1, "concurrency": 1, "alive": 0, "waiting": 0,
        "in_flight": 0, "handled": 0, "retried": 0, "queue_wait": counted(), "service": counted(),
    }  # fmt: skip
    return StageDetails(name=name, **{**facts, **changes})


def details(**changes: Any) -> Details:
    """A run 10 s after its beginning."""
    facts: dict[str, Any] = {
        "run": "one", "is_last": False, "at_ns": 110 * S, "elapsed_ns": 10 * S, "done": 0,
        "backlog": 0, "counts": counts(), "duplicated": 0, "violations": 0, "offered": None,
        "share": None, "warmup_left_ns": 0, "bytes_read": 0, "bytes_total": None,
        "response": None, "loop_lag": counted(), "rss": 50 * 2**20, "cpu_ns": 0,
        "stages": [stage_details()], "deaths": [],
    }  # fmt: skip
    return Details(**{**facts, **changes})
