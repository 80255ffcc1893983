"""The audit of a run's output: the promise of order, and the measures of the RFCs beside it.

Pure. Where events leave in order of their lanes, as they should, the measures are known without a
look at each: only what was seen lately is kept, and looked at once something is out of order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from .audit import THRESHOLD, Audit, Figures, Scope
from .histogram import Ints
from .lanes import hashes_of
from .order import Lane
from .promises import WINDOW, OrderAudit, PromiseReport

TOGETHER: Final = 16_384
"""So many events are looked at at once: numpy costs by the call."""

_Seen = tuple[Sequence[Lane] | None, Sequence[int] | Ints, int]


class OutputAudit:
    """Told of events as they leave: their lanes, their numbers in order of arrival, and when.

    In scope "global" a number that does not come out (filtered, dead) is one that is missing, by
    the RFCs' terms. In scope "key" numbers count the events of all keys: they only tell what
    comes first: nothing is said of missing ones, nor of densities, which go by distances.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.promise = OrderAudit("output", scope)
        self._before: Figures | None = None
        """Of earlier sittings."""
        self._seen: deque[_Seen] = deque()
        self._seen_events = 0
        self._left_out = 0
        """Events that are not among them any more; all came in order."""
        self._largest_left_out = -1
        self._audit: Audit | None = None
        if scope == "global":
            self._audit = Audit("global", window=4 * WINDOW, distinct=True)

    def observe(self, lanes: Sequence[Lane] | None, numbers: Sequence[int], now_ns: int) -> None:
        """Take note of events in the order in which they left."""
        if not len(numbers):
            return
        broken = self.promise.reordered + self.promise.unknown
        seen: Sequence[int] | Ints = numbers
        if self.scope == "global":
            lanes, seen = None, _as_ints(numbers)
        self.promise.observe(lanes, seen)
        self._seen.append((lanes, seen, now_ns))
        self._seen_events += len(numbers)
        if self._audit is None:
            if self.promise.reordered + self.promise.unknown == broken:
                self._leave_out()
                return
            self._audit = Audit("key", window=4 * WINDOW, ordinal=True, distinct=True)
            if self._left_out:
                self._audit.begin_after(self._left_out, self._largest_left_out)
        if self._seen_events >= TOGETHER:
            self._look(self._audit)

    def _leave_out(self) -> None:
        while self._seen_events > WINDOW and len(self._seen) > 1:
            _, numbers, _ = self._seen.popleft()
            self._seen_events -= len(numbers)
            self._left_out += len(numbers)
            self._largest_left_out = max(self._largest_left_out, max(numbers))

    def _look(self, audit: Audit) -> None:
        seen, self._seen = list(self._seen), deque()
        self._seen_events = 0
        numbers = np.concatenate([_as_ints(each) for _, each, _ in seen])
        times = np.repeat([now for *_, now in seen], [len(each) for _, each, _ in seen])
        if self.scope == "global":
            audit.observe(numbers, None, times)
            return
        lanes = [lane for some, _, _ in seen for lane in some or ()]
        hashes = hashes_of(lanes)
        ordered = np.array([lane is not None for lane in lanes], dtype=bool)
        if not ordered.all():
            lanes = [lane for lane in lanes if lane is not None]
            numbers, hashes, times = numbers[ordered], hashes[ordered], times[ordered]
        audit.observe(numbers, hashes, times, key_of=lanes.__getitem__)

    @property
    def figures(self) -> Figures:
        """What was measured so far, earlier sittings included; `events` counts unordered ones."""
        audit = self._audit
        if audit is None:
            figures = Figures(self.scope, THRESHOLD, 4 * WINDOW, discontinuities=None, missing=None)
            figures.events = figures.first_copies = self._left_out + self._seen_events
        else:
            if self._seen:
                self._look(audit)
            figures = audit.figures
        if self.scope == "key":
            figures.keys = None
        if self._before is not None:
            figures.merge(self._before)
        return figures

    def go_on_from(self, promise: PromiseReport, figures: Figures | None) -> None:
        """Count what was seen in earlier sittings, too; sequences are not remembered."""
        self.promise.go_on_from(promise)
        self._before = figures

    def kept(self) -> tuple[PromiseReport, Figures]:
        """What was seen so far, for go_on_from()."""
        figures = self.figures
        examples = [
            msgspec.structs.replace(each, key=str(each.key)) if _is_long(each.key) else each
            for each in figures.examples
        ]
        return self.promise.kept(), msgspec.structs.replace(figures, examples=examples)


def _is_long(key: object) -> bool:
    return isinstance(key, int) and key.bit_length() > 63


def _as_ints(numbers: Sequence[int] | Ints) -> Ints:
    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop, numbers.step, dtype=np.int64)
    return np.asarray(numbers, dtype=np.int64)
