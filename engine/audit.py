"""The audit of order: did events of one lane begin, end and leave in order, one at a time?

Pure, and independent of the engine's bookkeeping: it is told what was observed (which events, when
their handlers started and ended, in the order in which that became known) and trusts nothing else.
Terms are those of RFC 4737: an arrival is reordered when its number is below one seen before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from .histogram import Ints
from .order import Lane

WINDOW: Final = 32_768
"""How many lanes are remembered exactly, twice over."""

IN_ORDER_WINDOW: Final = 4_096
"""How many of the last events are remembered while all come in perfect order: more of them would
push everything else out of the processor's cache."""

_MOST_EXAMPLES: Final = 10

Past = tuple[int, int] | tuple[int, int, int, int]
"""The largest number, and when the last handler ended, of all that a lane may have had; when it
came back from beyond the window, then also of what was seen of it since."""


class Example(msgspec.Struct, frozen=True):
    """One broken promise: the event, and the one of its lane that it should have come before."""

    kind: str
    place: str
    key: Any
    sequence: int
    position: int
    after: dict[str, int]


class AuditReport(msgspec.Struct, frozen=True):
    """What one observer saw. `unknown` events came back from beyond the window."""

    scope: str
    events: int
    reordered: int
    overlaps: int
    unknown: int
    window: int
    examples: list[Example]


class OrderAudit:
    """Observes one place (a stage, or the sink) of a run.

    Memory is bounded by `window`: of what is forgotten, the largest number and the latest end are
    kept, so that an event is called in order only when that is certain, and else unknown.
    """

    def __init__(self, place: str, scope: str = "key", window: int = WINDOW) -> None:
        self.place, self.scope, self.window = place, scope, window
        self.events = self.reordered = self.overlaps = self.unknown = 0
        self.examples: list[Example] = []
        self._max_number = -1
        self._max_end = 0
        self._recent: dict[Lane, Past] = {}
        self._older: dict[Lane, Past] = {}
        self._forgotten: Past = (-1, 0)
        # Batches that came in perfect order, not yet merged into _recent.
        self._in_order: deque[tuple[Sequence[Lane], Sequence[int], Ints | None]] = deque()
        self._in_order_events = 0

    def observe(
        self,
        lanes: Sequence[Lane] | None,
        numbers: Sequence[int],
        starts_ns: Ints | None = None,
        ends_ns: Ints | None = None,
    ) -> None:
        """Take note of events in the order in which they ended (or left).

        `numbers` rise with arrival; `lanes` is None when there is one lane only. With stamps,
        overlaps within a lane are found too.
        """
        if not len(numbers):
            return
        position = self.events
        self.events += len(numbers)
        sequential = self._is_sequential(numbers, starts_ns, ends_ns)
        if lanes is None:
            if not sequential:
                self._observe_global(numbers, position)
        elif sequential:
            self._defer(lanes, numbers, ends_ns)
        else:
            self._observe_each(lanes, numbers, starts_ns, ends_ns, position)
        last = numbers[-1] if isinstance(numbers, range) else max(numbers)
        self._max_number = max(self._max_number, last)
        if ends_ns is not None:
            latest = int(ends_ns[-1] if sequential else ends_ns.max())
            self._max_end = max(self._max_end, latest)

    def _is_sequential(
        self, numbers: Sequence[int], starts: Ints | None, ends: Ints | None
    ) -> bool:
        """Whether all began after all before had ended: then no lane can be out of order."""
        if numbers[0] <= self._max_number:
            return False
        if not isinstance(numbers, range):
            rising = np.asarray(numbers, dtype=np.int64)
            if not bool((rising[1:] > rising[:-1]).all()):
                return False
        if starts is None or ends is None:
            return True
        return int(starts[0]) >= self._max_end and bool((starts[1:] >= ends[:-1]).all())

    def _observe_global(self, numbers: Sequence[int], position: int) -> None:
        arrived = np.asarray(numbers, dtype=np.int64)
        highest = np.maximum.accumulate(arrived)
        before = np.concatenate(([self._max_number], np.maximum(highest[:-1], self._max_number)))
        late = np.flatnonzero(arrived < before)
        self.reordered += len(late)
        for place in late[:_MOST_EXAMPLES].tolist():
            number, seen = int(arrived[place]), int(before[place])
            self._example("reordered", None, number, position + place, seen)

    def _defer(self, lanes: Sequence[Lane], numbers: Sequence[int], ends: Ints | None) -> None:
        self._in_order.append((lanes, numbers, ends))
        self._in_order_events += len(numbers)
        most = min(self.window, IN_ORDER_WINDOW)
        while self._in_order_events > most and len(self._in_order) > 1:
            _, old, old_ends = self._in_order.popleft()
            self._in_order_events -= len(old)
            self._forget((old[-1], 0 if old_ends is None else int(old_ends[-1])))

    def _merge(self) -> None:
        while self._in_order:
            lanes, numbers, ends = self._in_order.popleft()
            stamps = (0,) * len(numbers) if ends is None else ends.tolist()
            self._recent.update(zip(lanes, zip(numbers, stamps, strict=True), strict=True))
            self._rotate()
        self._in_order_events = 0

    def _observe_each(
        self,
        lanes: Sequence[Lane],
        numbers: Sequence[int],
        starts: Ints | None,
        ends: Ints | None,
        position: int,
    ) -> None:
        if self._in_order:
            self._merge()
        recent, older, forgotten = self._recent, self._older, self._forgotten
        begun: Sequence[int] = numbers if starts is None else starts.tolist()
        ended: Sequence[int] = numbers if ends is None else ends.tolist()
        for lane, number, start, end in zip(lanes, numbers, begun, ended, strict=True):
            past = recent.get(lane) or older.get(lane) or forgotten
            if number > past[0] and start >= past[1]:
                recent[lane] = (number, end)
            elif lane is not None:
                recent[lane] = self._judge(lane, number, start, end, position)
            position += 1
        self._rotate()

    def _judge(self, lane: Lane, number: int, start: int, end: int, position: int) -> Past:
        """An event that is not certainly in order: reordered, overlapping, or unknown."""
        past = self._recent.get(lane) or self._older.get(lane) or (*self._forgotten[:2], -1, 0)
        seen, ended = past[-2:]
        if number < seen:
            self.reordered += 1
            self._example("reordered", lane, number, position, seen)
        elif start < ended and end != ended:  # one call of a batch handler ends all its events
            self.overlaps += 1
            self._example("overlap", lane, number, position, seen)
        elif len(past) == 4:
            self.unknown += 1
        seen, ended = max(number, seen), max(end, ended)
        if len(past) == 2:
            return seen, ended
        return max(number, past[0]), max(end, past[1]), seen, ended

    def _example(self, kind: str, lane: Lane, number: int, position: int, seen: int) -> None:
        if len(self.examples) < _MOST_EXAMPLES:
            after = {"sequence": seen}
            self.examples.append(Example(kind, self.place, lane, number, position, after))

    def _rotate(self) -> None:
        if len(self._recent) < self.window:
            return
        for past in self._older.values():
            self._forget(past)
        self._older, self._recent = self._recent, {}

    def _forget(self, past: Past) -> None:
        self._forgotten = max(self._forgotten[0], past[0]), max(self._forgotten[1], past[1])

    def report(self) -> AuditReport:
        """What was seen so far."""
        return AuditReport(
            scope=self.scope,
            events=self.events,
            reordered=self.reordered,
            overlaps=self.overlaps,
            unknown=self.unknown,
            window=self.window,
            examples=list(self.examples),
        )
