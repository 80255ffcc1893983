"""Where the time of slow events goes: their response, part by part, which add up for each of them.

Pure. Sums are kept by bucket of the response, so that the slowest hundredth is known at the end,
whatever its bound turns out to be; memory is constant but for a few examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from .histogram import BUCKETS, HIGHEST, Ints, bucket_of, lowest_in
from .record_file import ADMITTED, INTENDED, stage_column

EXAMPLES: Final = 10
RELEASED, CAME_OUT, DONE = 0, 1, 2
"""Columns of stamps that this needs behind those of the stages: when the load generator released an
event, when the last stage had sent it on, when the response was complete."""
MORE: Final = 3


class Example(Struct, frozen=True):
    """A slow event; all in ns."""

    sequence: int
    """Its number, from 0 in order of arrival."""
    at_ns: int
    """When it was due, since the beginning of the schedule."""
    response_ns: int
    parts: dict[str, int]
    """They add up to the response."""


class TailReport(Struct, frozen=True):
    """What the slowest events spent their time on, beside what all did; means in ns an event."""

    events: int
    from_ns: int
    """All with a response this long, or longer; exact to three digits."""
    response_ns: int
    parts: dict[str, int]
    """Mean of each part; they add up to the mean response but for rounding."""
    all_events: int
    all_response_ns: int
    all_parts: dict[str, int]
    examples: list[Example]
    """The slowest ones, the worst first."""


def part_names(stages: Sequence[str]) -> list[str]:
    """The parts that a response is made of, in the order of an event's way.

    "transport in" is from the load generator to the intake, "transport out" from the last stage's
    end to the outlet.
    """
    own = [f"{what} {stage}" for stage in stages for what in ("queue wait", "service")]
    return ["slip", "transport in", *own, "transport out", "resequencing and output"]


class TailFold:
    """Adds up the parts of events, by response."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = len(stages)
        self._names = part_names(stages)
        self._counts = np.zeros(BUCKETS, dtype=np.int64)
        self._sums = np.zeros((len(self._names), BUCKETS), dtype=np.int64)
        self._worst: list[tuple[int, int, int, tuple[int, ...]]] = []
        self._total = 0

    def feed(self, first: int, stamps: Ints, measured_from_ns: int, origin_ns: int) -> None:
        """Events `first` … by column: those of a record, and MORE. Some may not be complete."""
        base = stage_column(self._stages)
        whole = (stamps[base + DONE] > 0) & (stamps[INTENDED] >= max(measured_from_ns, 1))
        places = np.flatnonzero(whole)
        if not len(places):
            return
        stamps = stamps[:, places]
        parts = self._parts(stamps)
        responses = stamps[base + DONE] - stamps[INTENDED]
        self._add(responses, parts)
        self._note_worst(first + places, stamps[INTENDED] - origin_ns, responses, parts)

    def _parts(self, stamps: Ints) -> Ints:
        """What each event's response is made of: a row a part."""
        base = stage_column(self._stages)
        parts = np.zeros((len(self._names), stamps.shape[1]), dtype=np.int64)
        released, admitted = stamps[base + RELEASED], stamps[ADMITTED]
        parts[0] = released - stamps[INTENDED]
        parts[1] = admitted - released
        at = admitted.copy()
        for stage in range(self._stages):
            started, finished = stamps[stage_column(stage)], stamps[stage_column(stage) + 1]
            was_there = finished > 0  # what was filtered out, or died, did not come to all stages
            parts[2 + 2 * stage] = np.where(was_there, started - at, 0)
            parts[3 + 2 * stage] = np.where(was_there, finished - started, 0)
            at = np.where(was_there, finished, at)
        came_out = np.maximum(stamps[base + CAME_OUT], at)
        parts[-2] = came_out - at
        parts[-1] = stamps[base + DONE] - came_out
        return parts

    def _add(self, responses: Ints, parts: Ints) -> None:
        buckets = bucket_of(np.clip(responses, 0, HIGHEST))
        order = np.argsort(buckets, kind="stable")
        buckets = buckets[order]
        starts = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]])
        own = buckets[starts]
        self._counts[own] += np.diff(np.r_[starts, len(buckets)])
        self._sums[:, own] += np.add.reduceat(parts[:, order], starts, axis=1)
        self._total += len(buckets)

    def _note_worst(self, numbers: Ints, due: Ints, responses: Ints, parts: Ints) -> None:
        places = range(len(responses))
        if len(responses) > EXAMPLES:
            bound = np.partition(responses, -EXAMPLES)[-EXAMPLES]
            slower = np.flatnonzero(responses > bound)
            as_slow = np.flatnonzero(responses == bound)[: EXAMPLES - len(slower)]
            places = np.concatenate((slower, as_slow)).tolist()
        found = [
            (int(responses[at]), int(numbers[at]), int(due[at]), tuple(parts[:, at].tolist()))
            for at in places
        ]
        worst = sorted([*self._worst, *found], key=lambda each: (-each[0], each[1]))
        self._worst = worst[:EXAMPLES]

    def report(self, slowest: float = 0.01) -> TailReport | None:
        """Of the slowest share of the events; None when there were none."""
        if not self._total:
            return None
        above = np.cumsum(self._counts[::-1])[::-1]  # by bucket: how many are in it or above
        wanted = max(1, int(self._total * slowest + 0.5))
        bucket = int(np.flatnonzero(above >= wanted)[-1])
        events = int(above[bucket])
        tail, every = self._sums[:, bucket:].sum(axis=1), self._sums.sum(axis=1)
        return TailReport(
            events=events,
            from_ns=lowest_in(bucket),
            response_ns=round(int(tail.sum()) / events),
            parts=self._means(tail, events),
            all_events=self._total,
            all_response_ns=round(int(every.sum()) / self._total),
            all_parts=self._means(every, self._total),
            examples=[
                Example(number, due, response, dict(zip(self._names, parts, strict=True)))
                for response, number, due, parts in self._worst
            ],
        )

    def _means(self, sums: Ints, events: int) -> dict[str, int]:
        return {
            name: round(int(total) / events) for name, total in zip(self._names, sums, strict=True)
        }
