"""The audit of order against a transcription of the definitions that remembers everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine import promises as promises_module
from millstream.engine.order import Lane
from millstream.engine.promises import OrderAudit


@dataclass(frozen=True)
class Seen:
    """One event as an observer sees it."""

    lane: Lane
    number: int
    start: int
    end: int


@dataclass
class Everything:
    """Slow and unbounded: all that was ever seen of each lane."""

    lanes: dict[Lane, list[Seen]] = field(default_factory=dict)

    def is_reordered(self, event: Seen) -> bool:
        """RFC 4737: the number is below one that came before."""
        return any(event.number < before.number for before in self.lanes.get(event.lane, ()))

    def overlaps(self, event: Seen) -> bool:
        """It began before one that came before had ended (events of one call end together)."""
        before = self.lanes.get(event.lane, ())
        latest = max((each.end for each in before), default=0)
        return event.start < latest and event.end != latest

    def breaks(self, event: Seen) -> str | None:
        if event.lane is None:
            return None
        if self.is_reordered(event):
            return "reordered"
        return "overlap" if self.overlaps(event) else None

    def add(self, event: Seen) -> None:
        self.lanes.setdefault(event.lane, []).append(event)


_lanes = st.one_of(st.none(), st.sampled_from("aaabbcdefgh"), st.integers(0, 2))


@st.composite
def courses(draw: st.DrawFn) -> list[list[Seen]]:
    """Batches of events in order of their ends: mostly well-behaved, with disorder mixed in."""
    count = draw(st.integers(0, 60))
    lanes = draw(st.lists(_lanes, min_size=count, max_size=count))
    disorder = draw(st.sampled_from([0, 0, 3, 30]))
    events = []
    clock = 1
    for number, lane in enumerate(lanes):
        lasts = draw(st.integers(1, 4))
        early = draw(st.integers(0, disorder)) if disorder else 0
        start = max(1, clock - early)
        end = max(start + lasts, clock + draw(st.integers(-disorder, disorder)))
        events.append(Seen(lane, number, start, end))
        clock = max(clock, clock + lasts)
    events.sort(key=lambda each: each.end)
    if not disorder:
        events = _one_at_a_time(events)
    return _cut(events, draw(st.lists(st.integers(1, 12), max_size=12)))


@st.composite
def wild_courses(draw: st.DrawFn) -> list[list[Seen]]:
    """Events of few lanes in any order, with any stamps."""
    numbers = draw(st.permutations(range(draw(st.integers(0, 40)))))
    ends = sorted(draw(st.lists(st.integers(6, 60), min_size=len(numbers), max_size=len(numbers))))
    events = [
        Seen(draw(st.sampled_from("abcdefgh")), number, end - draw(st.integers(1, 5)), end)
        for number, end in zip(numbers, ends, strict=True)
    ]
    return _cut(events, draw(st.lists(st.integers(1, 6), max_size=12)))


@st.composite
def side_by_side(draw: st.DrawFn) -> list[list[Seen]]:
    """What workers do with frames, each one event after another; mostly, a lane has one worker."""
    faithful = draw(st.booleans())
    clocks = [1, 1, 1]
    frames: list[list[Seen]] = [[], [], []]
    course = []
    for number in range(draw(st.integers(0, 60))):
        lane = draw(_lanes)
        worker = draw(st.integers(0, 2))
        if faithful and lane is not None:
            worker = sum(str(lane).encode()) % 3
        start = clocks[worker] + draw(st.integers(0, 3))
        clocks[worker] = start + draw(st.integers(1, 4))
        frames[worker].append(Seen(lane, number, start, clocks[worker]))
        if draw(st.integers(0, 4)) == 0:
            course.append(frames[worker])
            frames[worker] = []
    return [frame for frame in [*course, *frames] if frame]


@st.composite
def by_turns(draw: st.DrawFn) -> list[list[Seen]]:
    """Stretches that are in order, with an overlap between them, or an event that is late."""
    course: list[list[Seen]] = []
    number, clock = 10, 100
    left: list[int] = []
    for kind in draw(st.lists(st.sampled_from(["calm", "calm", "together", "late"]), max_size=12)):
        lanes = draw(st.sampled_from(["aaaaaaa", "bbbbbbb", "ab", "a", "b"]))
        if kind == "late" and left:
            course.append(
                [Seen(lanes[0], left.pop(draw(st.integers(-3, -1)) % len(left)), clock, clock + 1)]
            )
            clock += 1
            continue
        batch: list[Seen] = []
        for lane in lanes:
            start = clock - 2 if kind == "together" and batch else clock
            clock += 3
            batch.append(Seen(lane, number, start, clock))
            left.append(number + 1)
            number += 2
        course.append(batch)
    return course


def _one_at_a_time(events: Sequence[Seen]) -> list[Seen]:
    return [
        Seen(each.lane, number, 10 * number + 1, 10 * number + 9)
        for number, each in enumerate(events)
    ]


def _cut(events: list[Seen], sizes: Sequence[int]) -> list[list[Seen]]:
    batches = []
    at = 0
    for size in [*sizes, len(events)]:
        batches.append(events[at : at + size])
        at += size
    return batches


def show(audit: OrderAudit, batch: Sequence[Seen], *, stamped: bool = True) -> None:
    numbers: Sequence[int] = [each.number for each in batch]
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        numbers = range(numbers[0], numbers[0] + len(numbers))
    starts = np.array([each.start for each in batch], dtype=np.int64) if stamped else None
    ends = np.array([each.end for each in batch], dtype=np.int64) if stamped else None
    audit.observe([each.lane for each in batch], numbers, starts, ends)


@settings(max_examples=100)
@given(st.one_of(courses(), side_by_side()))
def test_each_broken_promise_is_found_and_nothing_else(course: list[list[Seen]]) -> None:
    audit, oracle = OrderAudit("here"), Everything()
    broken: list[tuple[str, Lane, int]] = []
    for batch in course:
        show(audit, batch)
        for event in batch:
            if (kind := oracle.breaks(event)) is not None:
                broken.append((kind, event.lane, event.number))
            oracle.add(event)

    report = audit.report()
    kinds = [kind for kind, *_ in broken]
    assert (report.reordered, report.overlaps) == (kinds.count("reordered"), kinds.count("overlap"))
    assert report.unknown == 0
    assert report.events == sum(map(len, course))
    assert [(e.kind, e.key, e.sequence) for e in report.examples] == broken[:10]


@settings(max_examples=100)
@given(st.one_of(courses(), side_by_side()))
def test_without_stamps_the_order_alone_is_judged(course: list[list[Seen]]) -> None:
    audit, oracle = OrderAudit("here"), Everything()
    reordered = 0
    for batch in course:
        show(audit, batch, stamped=False)
        for event in batch:
            reordered += event.lane is not None and oracle.is_reordered(event)
            oracle.add(event)

    assert (audit.reordered, audit.overlaps, audit.unknown) == (reordered, 0, 0)


@settings(max_examples=150)
@given(
    st.one_of(courses(), wild_courses(), side_by_side(), by_turns()),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_a_small_window_claims_nothing_false_and_passes_over_nothing(
    course: list[list[Seen]], window: int, calm: int
) -> None:
    audit, oracle = OrderAudit("here", window=window), Everything()
    events: dict[int, Seen] = {}
    for batch in course:
        before = audit.reordered + audit.overlaps, audit.unknown
        with patch.object(promises_module, "_MOST_CALM", calm):
            show(audit, batch)
        broken = 0
        for event in batch:
            broken += oracle.breaks(event) is not None
            oracle.add(event)
            events[event.number] = event
        claimed, unknown = audit.reordered + audit.overlaps - before[0], audit.unknown - before[1]
        assert claimed <= broken, "a broken promise that was kept"
        assert claimed + unknown >= broken, "a broken promise that nobody will hear of"

    for example in audit.report().examples:
        late, other = events[example.sequence], events[example.after["sequence"]]
        assert late.lane == other.lane == example.key
        assert late.number < other.number or example.kind == "overlap"


@given(st.one_of(courses(), side_by_side()), st.integers(1, 6))
def test_memory_is_bounded_by_the_window(course: list[list[Seen]], window: int) -> None:
    audit = OrderAudit("here", window=window)
    largest = max(map(len, course), default=0)
    for batch in course:
        show(audit, batch)
        assert len(audit._recent) < window + largest
        assert len(audit._older) < window + largest
        assert audit._calm_events <= window + largest


@given(st.permutations(range(25)), st.lists(st.integers(1, 9)))
def test_one_lane_for_all(order: list[int], sizes: list[int]) -> None:
    audit = OrderAudit("here", scope="global")
    at = 0
    for size in [*sizes, len(order)]:
        audit.observe(None, order[at : at + size])
        at += size

    late = [(n, max(order[:p])) for p, n in enumerate(order) if p and n < max(order[:p])]
    assert audit.reordered == len(late)
    examples = [(e.sequence, e.after["sequence"]) for e in audit.report().examples]
    assert examples == late[:10]


def test_events_of_one_call_of_a_batch_handler_do_not_overlap() -> None:
    audit = OrderAudit("here")

    show(audit, [Seen("a", 0, 5, 9), Seen("b", 1, 5, 9), Seen("a", 2, 5, 9)])

    assert (audit.reordered, audit.overlaps) == (0, 0)


@pytest.mark.parametrize(
    ("start", "overlaps"), [(8, 1), (9, 0)], ids=["before the end", "at the end"]
)
def test_an_event_may_begin_when_the_one_before_ends(start: int, overlaps: int) -> None:
    audit = OrderAudit("stage 'x'")

    show(audit, [Seen("a", 0, 5, 9)])
    show(audit, [Seen("a", 1, start, 12)])

    assert audit.overlaps == overlaps
    assert len(audit.report().examples) == overlaps


@given(st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_what_is_late_after_a_perfect_stretch_is_never_called_in_order(
    window: int, size: int, stamped: bool
) -> None:
    audit = OrderAudit("here", window=window)
    for number in range(10, 10 + 8 * size):  # lanes of their own, each forgotten again
        show(audit, [Seen(number, number, 10 * number, 10 * number + 5)], stamped=stamped)

    late = Seen(10, 3, 1000, 1005)  # before the first of its lane
    show(audit, [late], stamped=stamped)

    assert audit.reordered + audit.overlaps + audit.unknown == 1


def test_what_is_known_of_a_lane_is_never_older_than_what_was_forgotten_of_it() -> None:
    audit = OrderAudit("here", window=8)
    show(audit, [Seen("a", 0, 5, 10), Seen("b", 1, 6, 11)])  # they overlap: looked at by lane
    show(audit, [Seen("a", 2, 20, 21), Seen("a", 4, 22, 23)])
    for number in range(5, 25):
        show(audit, [Seen("b", number, 10 * number, 10 * number + 5)])

    show(audit, [Seen("a", 3, 500, 501)])

    assert audit.reordered + audit.unknown == 1
