"""The audit of sequences against slow transcriptions of each definition (tests/support/rfc.py)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.audit import Audit, Figures, Scope
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


PARTS = 8 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 1
"""`make draws` draws more than ten thousand sequences, the ordinary tests an eighth of them."""


@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=1300, deadline=None)
@given(
    streams(),
    st.lists(st.integers(1, 9), max_size=40),
    st.sampled_from(["global", "key"]),
    st.integers(1, 12),
)
def test_every_measure_is_as_defined_over_ten_thousand_sequences(
    part: int, arrivals: list[Arrival], sizes: list[int], scope: Scope, threshold: int
) -> None:
    audit = audited(arrivals, sizes, scope=scope, threshold=threshold)

    expected = audit_slowly(arrivals, scope=scope, threshold=threshold)
    assert told(audit.figures.report()) == told(expected)
    assert audit.figures.unknown == 0


@settings(max_examples=200, deadline=None)
@given(streams(text=True), st.lists(st.integers(1, 9)), st.sampled_from(["global", "key"]))
def test_texts_compare_by_code_point(
    arrivals: list[Arrival], sizes: list[int], scope: Scope
) -> None:
    audit = audited(arrivals, sizes, scope=scope)

    assert told(audit.figures.report()) == told(audit_slowly(arrivals, scope=scope, threshold=4))


@settings(max_examples=100, deadline=None)
@given(
    streams(),
    st.lists(st.integers(1, 9)),
    st.sampled_from(["global", "key"]),
    st.sampled_from([2**62, -(2**63), 2**64, 10**30]),
    st.sampled_from([4, 60]),
)
def test_numbers_may_be_of_any_size(
    arrivals: list[Arrival], sizes: list[int], scope: Scope, base: int, threshold: int
) -> None:
    moved = [dataclasses.replace(each, number=base + each.number) for each in arrivals]

    audit = audited(moved, sizes, scope=scope, threshold=threshold)

    expected = audit_slowly(moved, scope=scope, threshold=threshold)
    assert told(audit.figures.report()) == told(expected)


@settings(max_examples=300, deadline=None)
@given(
    streams(),
    st.lists(st.integers(1, 9), max_size=40),
    st.sampled_from(["global", "key"]),
    st.integers(1, 30),
)
def test_beyond_the_window_nothing_is_guessed(
    arrivals: list[Arrival], sizes: list[int], scope: Scope, window: int
) -> None:
    audit = audited(arrivals, sizes, scope=scope, window=window)

    figures, true = audit.figures, audit_slowly(arrivals, scope=scope, threshold=4)
    assert figures.events == true["events"]
    assert figures.reordered <= true["reordered"]
    assert figures.duplicates <= true["duplicates"]
    certain = figures.reordered + figures.duplicates
    assert certain + figures.late_unknown <= true["reordered"] + true["duplicates"]
    assert certain + figures.unknown >= true["reordered"] + true["duplicates"]
    if not figures.unknown:
        assert told(figures.report())["extent"] == told(true)["extent"]


@settings(max_examples=100, deadline=None)
@given(streams(), st.lists(st.integers(1, 9)), st.integers(4, 20))
def test_memory_is_bounded_by_the_window(
    arrivals: list[Arrival], sizes: list[int], window: int
) -> None:
    audit = Audit("key", threshold=4, window=window)
    at, most = 0, max(sizes, default=1)
    while at < len(arrivals):
        size = sizes[at % len(sizes)] if sizes else 1
        _show(audit, arrivals[at : at + size], at)
        at += size

        assert sum(batch.size for batch in audit._sightings._batches) <= window + 2 * most
        assert audit._lanes.rows <= window // 2 + 2 + most
        late = sum(len(each.numbers) for each in audit._late.values())
        assert late <= window + window // 8 + 2 * most
        assert len(audit._open) <= audit._lanes.rows


@settings(max_examples=100, deadline=None)
@given(streams(), st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_figures_of_parts_add_up(arrivals: list[Arrival], sizes: list[int], threshold: int) -> None:
    """Partitions of a log that share no key, audited by several processes."""
    whole = audited(arrivals, sizes, scope="key", threshold=threshold).figures
    parts = [
        audited(
            [each for each in arrivals if hash(each.key) % 3 == part],
            scope="key",
            threshold=threshold,
        ).figures
        for part in range(3)
    ]
    decoded = [msgspec.json.decode(msgspec.json.encode(part), type=Figures) for part in parts]

    merged = decoded[0]
    for other in decoded[1:]:
        merged.merge(other)

    assert _close(told(merged.report()), told(whole.report()))


def _close(ours: Any, theirs: Any) -> bool:
    """Equal but for the last bits of sums of fractions."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(_close(ours[k], theirs[k]) for k in ours)
    return bool(ours == (pytest.approx(theirs) if isinstance(theirs, float) else theirs))


@pytest.mark.parametrize("other", [Audit("key"), Audit("global", threshold=3)])
def test_figures_of_different_kinds_do_not_add_up(other: Audit) -> None:
    with pytest.raises(ValueError, match="can't be added"):
        Audit("global").figures.merge(other.figures)


def test_one_event_late() -> None:
    times = (68, 88, 108, 148, 168, 188, 208, 210, 228, 248)
    numbers = (1, 2, 3, 5, 6, 7, 8, 4, 9, 10)

    report = audited(
        [Arrival("a", number, time) for number, time in zip(numbers, times, strict=True)]
    ).figures.report()

    assert report["reordered_ratio"] == 0.1
    assert report["extent"] == {"max": 4, "counts": {"4": 1}}
    assert report["late_time"] == {"max": 62, "mean": 62}
    assert report["n_reordering"] == {"1": 0.1, "2": 0.1, "3": 0.1, "4": 0.1}
    assert report["free_runs"]["q"] == 49


def test_densities_of_the_standard_example() -> None:
    report = audited([Arrival("a", n) for n in (1, 4, 2, 5, 3, 6, 7, 8)]).figures.report()

    assert report["reorder_density"]["counts"] == {"-2": 1, "-1": 1, "0": 4, "1": 1, "2": 1}
    assert report["buffer_occupancy"]["counts"] == {"0": 5, "1": 2, "2": 1}


def test_the_worst_offenders_are_named_with_the_event_that_they_came_after() -> None:
    numbers = [2, 3, 1, 10, *range(11, 40), 9, 9]

    examples = audited([Arrival("k", n) for n in numbers], scope="key").figures.examples

    assert [(e.kind, e.sequence, e.extent, e.position) for e in examples] == [
        ("reordered", 9, 30, 34),
        ("reordered", 1, 2, 3),
        ("duplicate", 9, None, 35),
    ]
    assert [e.key for e in examples] == ["k"] * 3
    assert [(e.place, e.after) for e in examples] == [
        (33, {"sequence": 10, "place": 3}),
        (2, {"sequence": 2, "place": 0}),
        (34, {"sequence": 9, "place": 33}),
    ]


def test_keys_that_look_alike_are_sequences_of_their_own() -> None:
    keys: list[Any] = [1, "1", 1.0, True, -1, -2, 2**61 - 1, 0, None]

    assert len(set(hashes_of(keys).tolist())) == len(keys)


def test_what_leaves_the_window_costs_no_more_where_much_is_late() -> None:
    """Two streams side by side, one of them far ahead: all of the other is late."""
    pairs = np.stack([np.arange(100_000, 200_000), np.arange(100_000)], axis=1).ravel()
    audit = Audit("global", window=10_000)

    for start in range(0, len(pairs), 5000):
        audit.observe(pairs[start : start + 5000])

    (late,) = audit._late.values()
    assert len(late.numbers) <= 15_000
    assert len(late.discontinuities) == len(late.found_at) <= 15_000
    assert audit.figures.reordered + audit.figures.unknown == 100_000


def test_where_keys_were_forgotten_nothing_is_said_of_their_number() -> None:
    audit = Audit("key", window=40)
    for number in range(1, 400):
        audit.observe(np.array([number]), hashes_of([number % 100]))

    report = audit.figures.report()

    assert audit.figures.unknown == 0
    assert report["keys"] is None
    assert report["discontinuities"] == {"count": None, "missing": None}
    assert report["reorder_density"]["counts"] is None
