"""The audit of promises: did events of one lane begin, end and leave in order, one at a time?

Pure, and independent of the engine's bookkeeping: it is told what was observed (which events, when
their handlers started and ended, in the order in which that became known) and trusts nothing else.
Terms are those of RFC 4737: an arrival is reordered when its number is below one seen before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
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
_MOST_CALM: Final = 256
"""How many batches are looked at one by one; of more, the oldest become known lane by lane."""

Past = tuple[int, int] | tuple[int, int, int, int]
"""The largest number, and when the last handler ended, of all that a lane may have had; when it
came back from beyond the window, then also of what was seen of it since."""


class _Calm:
    """Events that were seen together, one after another, and in whose way nothing came since."""

    __slots__ = ("_names", "ends", "first_start", "lanes", "last_end", "numbers", "starts")

    def __init__(
        self,
        lanes: Sequence[Lane],
        numbers: Sequence[int],
        starts: Ints | None,
        ends: Ints | None,
    ) -> None:
        self.lanes, self.numbers, self.starts, self.ends = lanes, numbers, starts, ends
        self.first_start = 0 if starts is None else int(starts[0])
        self.last_end = 0 if ends is None else int(ends[-1])
        self._names: set[Lane] | None = None

    def is_after(self, past: Past) -> bool:
        """Whether all of it is."""
        return self.numbers[0] > past[0] and self.first_start >= past[1]

    @property
    def past(self) -> tuple[int, int]:
        """Its largest number and its latest end."""
        return self.numbers[-1], self.last_end

    def breaks_nothing_of(self, other: _Calm) -> bool:
        """Whether in each lane that both have, it comes after the other. None is no lane."""
        if self.is_after(other.past):
            return True
        if other._names is None:
            other._names = set(other.lanes)
            other._names.discard(None)
        if other._names.isdisjoint(self.lanes):
            return True
        common = other._names.intersection(self.lanes)
        pasts = {
            lane: past
            for lane, past in zip(other.lanes, other.pasts(), strict=True)
            if lane in common
        }
        begun = self.numbers if self.starts is None else self.starts.tolist()
        return all(
            number > pasts[lane][0] and start >= pasts[lane][1]
            for lane, number, start in zip(self.lanes, self.numbers, begun, strict=True)
            if lane in common
        )

    def pasts(self) -> Iterable[tuple[int, int]]:
        """The number and the end of each event."""
        stamps = (0,) * len(self.numbers) if self.ends is None else self.ends.tolist()
        return zip(self.numbers, stamps, strict=True)


class Example(msgspec.Struct, frozen=True):
    """One broken promise: the event, and the one of its lane that it should have come before."""

    kind: str
    place: str
    key: Any
    sequence: int
    position: int
    after: dict[str, int]


class PromiseReport(msgspec.Struct, frozen=True):
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
        # The last batches that can't have broken anything, not yet merged into _recent.
        self._calm: deque[_Calm] = deque()
        self._calm_events = 0
        self._settled: Past = (-1, 0)
        """The largest number and the latest end of all that is not among them."""
        self._is_perfect = True
        """So far each event came after all others, whatever their lanes."""

    def observe(
        self,
        lanes: Sequence[Lane] | None,
        numbers: Sequence[int] | Ints,
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
        steady = _is_steady(numbers, starts_ns, ends_ns)
        if lanes is None:
            if not (steady and numbers[0] > self._max_number):
                self._observe_global(numbers, position)
        else:
            assert not isinstance(numbers, np.ndarray), "its numbers would be slow, one by one"
            if not (steady and self._defer(_Calm(lanes, numbers, starts_ns, ends_ns))):
                self._observe_each(lanes, numbers, starts_ns, ends_ns, position)
        if steady:
            last = int(numbers[-1])
        else:
            last = int(numbers.max()) if isinstance(numbers, np.ndarray) else max(numbers)
        self._max_number = max(self._max_number, last)
        if ends_ns is not None:
            latest = int(ends_ns[-1] if steady else ends_ns.max())
            self._max_end = max(self._max_end, latest)
        if not self._calm:
            self._settled = self._max_number, self._max_end

    def _observe_global(self, numbers: Sequence[int] | Ints, position: int) -> None:
        arrived = np.asarray(numbers, dtype=np.int64)
        highest = np.maximum.accumulate(arrived)
        before = np.concatenate(([self._max_number], np.maximum(highest[:-1], self._max_number)))
        late = np.flatnonzero(arrived < before)
        self.reordered += len(late)
        for place in late[:_MOST_EXAMPLES].tolist():
            number, seen = int(arrived[place]), int(before[place])
            self._example("reordered", None, number, position + place, seen)

    def _defer(self, batch: _Calm) -> bool:
        """Keep events for later when they certainly break nothing; whether they do."""
        calm = self._calm
        if not batch.is_after((self._max_number, self._max_end)):
            self._is_perfect = False
            if not batch.is_after(self._settled):
                return False
            if not all(batch.breaks_nothing_of(other) for other in reversed(calm)):
                return False
        calm.append(batch)
        self._calm_events += len(batch.numbers)
        most = min(self.window, IN_ORDER_WINDOW) if self._is_perfect else self.window
        while self._calm_events > most and len(calm) > 1:
            if self._recent or self._older:
                self._merge_one()  # what is known of its lanes would be too old
            else:
                self._forget(self._settle())
        while len(calm) > _MOST_CALM:
            self._merge_one()
        return True

    def _settle(self) -> Past:
        """Take the oldest calm batch out: its largest number and its latest end."""
        old = self._calm.popleft()
        self._calm_events -= len(old.numbers)
        past = old.past
        self._settled = max(self._settled[0], past[0]), max(self._settled[1], past[1])
        return past

    def _merge_one(self) -> None:
        old = self._calm[0]
        self._recent.update(zip(old.lanes, old.pasts(), strict=True))
        self._settle()
        self._rotate()

    def _observe_each(
        self,
        lanes: Sequence[Lane],
        numbers: Sequence[int],
        starts: Ints | None,
        ends: Ints | None,
        position: int,
    ) -> None:
        while self._calm:
            self._merge_one()
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

    def go_on_from(self, seen: PromiseReport) -> None:
        """Count what was seen in earlier sittings, too; lanes are not remembered across them."""
        self.events, self.reordered, self.overlaps = seen.events, seen.reordered, seen.overlaps
        self.unknown, self.examples = seen.unknown, list(seen.examples)

    def kept(self) -> PromiseReport:
        """What was seen so far, for go_on_from(): a key may be longer than what keeps it takes."""
        examples = [
            msgspec.structs.replace(each, key=str(each.key))
            if isinstance(each.key, int) and each.key.bit_length() > 63
            else each
            for each in self.examples
        ]
        return msgspec.structs.replace(self.report(), examples=examples)

    def report(self) -> PromiseReport:
        """What was seen so far."""
        return PromiseReport(
            scope=self.scope,
            events=self.events,
            reordered=self.reordered,
            overlaps=self.overlaps,
            unknown=self.unknown,
            window=self.window,
            examples=list(self.examples),
        )


def _is_steady(numbers: Sequence[int] | Ints, starts: Ints | None, ends: Ints | None) -> bool:
    """Whether the numbers rise, and each began after the one before had ended."""
    if not isinstance(numbers, range):
        rising = np.asarray(numbers, dtype=np.int64)
        if not bool((rising[1:] > rising[:-1]).all()):
            return False
    return starts is None or ends is None or bool((starts[1:] >= ends[:-1]).all())
