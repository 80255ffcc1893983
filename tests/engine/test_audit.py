"""The audit of sequences against slow transcriptions of each definition (tests/support/rfc.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.audit import Audit, Scope
from millstream.engine.lanes import hashes_of
from tests.support.rfc import Arrival, audit_slowly, streams

ENTRIES = (
    *("events", "keys", "reordered", "reordered_ratio", "duplicates", "discontinuities"),
    *("extent", "late_time", "n_reordering", "free_runs", "gaps"),
    *("reorder_density", "buffer_occupancy"),
)


def audited(
    arrivals: Sequence[Arrival],
    sizes: Sequence[int] = (),
    *,
    scope: Scope = "global",
    threshold: int = 4,
    window: int = 1_000_000,
) -> Audit:
    """An audit that has seen arrivals in batches of some sizes; all that is left in one."""
    audit = Audit(scope, threshold=threshold, window=window)
    at = 0
    for size in [*sizes, len(arrivals)]:
        batch = arrivals[at : at + size]
        at += size
        _show(audit, batch, at - size)
    return audit


def _show(audit: Audit, batch: Sequence[Arrival], at: int) -> None:
    if not batch:
        return
    numbers = [arrival.number for arrival in batch]
    whole = all(type(number) is int and abs(number) < 2**63 for number in numbers)
    times = [np.nan if arrival.time is None else arrival.time for arrival in batch]
    audit.observe(
        np.array(numbers, dtype=np.int64 if whole else object),
        hashes_of([arrival.key for arrival in batch]) if audit.scope == "key" else None,
        np.array(times, dtype=np.float64),
        np.arange(at, at + len(batch)),
        lambda place: batch[place].key,
    )


def told(report: dict[str, Any]) -> dict[str, Any]:
    """The entries that the RFCs define, in JSON's terms: keys are text, and none counts nothing."""
    return {name: _as_json(report[name]) for name in ENTRIES}


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _as_json(each) for name, each in value.items()}
    return value


@settings(max_examples=600, deadline=None)
@given(
    streams(),
    st.lists(st.integers(1, 9), max_size=40),
    st.sampled_from(["global", "key"]),
    st.integers(1, 12),
)
def test_every_measure_is_as_defined(
    arrivals: list[Arrival], sizes: list[int], scope: Scope, threshold: int
) -> None:
    audit = audited(arrivals, sizes, scope=scope, threshold=threshold)

    expected = audit_slowly(arrivals, scope=scope, threshold=threshold)
    assert told(audit.figures.report()) == told(expected)
    assert audit.figures.unknown == 0
