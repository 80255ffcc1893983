"""The output's audit against the audit of sequences, told of every event."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine import output_audit as module
from millstream.engine.audit import Audit, Figures
from millstream.engine.lanes import hashes_of
from millstream.engine.output_audit import OutputAudit
from tests.engine.test_promises import Seen, courses, side_by_side

MEASURES = ("reordered", "extent", "n_reordering", "free_runs", "gaps", "late_time")

_courses = st.one_of(courses(), side_by_side())


def told(figures: Figures) -> dict[str, Any]:
    report = figures.report()
    return {name: report[name] for name in MEASURES}


def watched(course: list[list[Seen]], scope: Any, *, together: int = 4) -> OutputAudit:
    audit = OutputAudit(scope)
    with patch.object(module, "TOGETHER", together):
        for now, batch in enumerate(course):
            lanes: list[Hashable] | None = [each.lane for each in batch]
            audit.observe(
                lanes if scope == "key" else None, [each.number for each in batch], 1000 * now
            )
    return audit


def whole(course: list[list[Seen]], scope: Any) -> Audit:
    """An audit that looks at each event from the start."""
    audit = Audit(scope, ordinal=scope == "key")
    for now, batch in enumerate(course):
        known = [each for each in batch if scope == "global" or each.lane is not None]
        if known:
            audit.observe(
                np.array([each.number for each in known]),
                hashes_of([each.lane for each in known]) if scope == "key" else None,
                np.full(len(known), 1000 * now),
            )
    return audit


@settings(max_examples=200)
@given(_courses, st.integers(1, 40))
def test_of_one_sequence_all_is_measured(course: list[list[Seen]], together: int) -> None:
    ours, theirs = watched(course, "global", together=together), whole(course, "global")

    assert ours.figures.report() == {**theirs.figures.report(), "window": 4 * module.WINDOW}


@settings(max_examples=200)
@given(_courses, st.integers(1, 40))
def test_keys_are_looked_at_once_something_is_late(course: list[list[Seen]], together: int) -> None:
    ours, theirs = watched(course, "key", together=together), whole(course, "key")

    expected = told(theirs.figures)
    unordered = sum(each.lane is None for batch in course for each in batch)
    if not ours.promise.reordered:
        # Nobody asked which events have a lane.
        expected["free_runs"]["accepted"] += unordered
        expected["free_runs"]["arrivals"] += unordered
        assert expected["reordered"] == 0
    assert ours.promise.reordered == expected["reordered"]
    if unordered == 0:
        assert told(ours.figures) == expected


@settings(max_examples=100)
@given(_courses, st.integers(1, 12))
def test_what_was_forgotten_is_not_guessed(course: list[list[Seen]], window: int) -> None:
    with patch.object(module, "WINDOW", window):
        audit = OutputAudit("key")
        for now, batch in enumerate(course):
            audit.observe([each.lane for each in batch], [each.number for each in batch], now)
            assert audit._seen_events <= window + max(map(len, course)) + module.TOGETHER

    true = whole(course, "key").figures
    assert audit.figures.reordered <= true.reordered
    assert audit.figures.events == sum(map(len, course)) or audit.promise.reordered


@settings(max_examples=50)
@given(_courses, _courses, st.sampled_from(["global", "key"]))
def test_sittings_add_up(first: list[list[Seen]], second: list[list[Seen]], scope: Any) -> None:
    before, after = watched(first, scope), watched(second, scope)
    promise, figures = before.kept()
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(figures), type=Figures)

    again = OutputAudit(scope)
    again.go_on_from(promise, decoded)
    for now, batch in enumerate(second):
        lanes = [each.lane for each in batch] if scope == "key" else None
        again.observe(lanes, [each.number for each in batch], 1000 * now)

    assert again.figures.events == before.figures.events + after.figures.events
    assert again.figures.reordered == before.figures.reordered + after.figures.reordered


@pytest.mark.parametrize("scope", ["global", "key"])
def test_a_run_without_output_has_figures_too(scope: Any) -> None:
    report = OutputAudit(scope).figures.report()

    assert (report["events"], report["reordered"], report["reordered_ratio"]) == (0, 0, 0.0)
    assert report["n_reordering"] == {}
