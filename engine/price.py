"""The price of order: how long events would wait if each were held until those before it are done.

Pure but for price_of_order(), which reads a record. Resequencers are simulated over the events of a
run, in order of arrival and in chunks of any size; memory follows the events in flight.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final, Literal, get_args

import numpy as np
from msgspec import Struct

from .histogram import Histogram, Ints

Resequencing = Literal["none", "key", "global"]
RESTORED_PER_MILLE: Final = 999
MOST_BLOCKERS: Final = 10
MOST_KEYS: Final = 65_536
"""So many keys are kept with what they held up, and at most as many beside them for a while."""
_FOR_EVER: Final = np.iinfo(np.int64).max


class Completions(Struct):
    """Some events of a run by column, in order of arrival, behind those of the chunk before."""

    sequence: Ints
    key: Ints
    """The place of each event's key in `keys`; -1: it has none."""
    keys: list[str]
    admitted_ns: Ints
    """0: it never was. Else no less than that of the event before, or what is told is no longer
    exact: as where the input is reordered on purpose."""
    completed_ns: Ints
    """No less than `admitted_ns`; 0: it came to no end, and is left out."""


class BlockingKey(Struct, frozen=True):
    """A key by whose events others were held up; None: those that have none."""

    key: str | None
    held_up: int
    waited_ns: int
    """All that they waited."""


class BlockingEvent(Struct, frozen=True):
    """An event by which others were held up."""

    sequence: int
    key: str | None
    held_up: int
    waited_ns: int


class PriceReport(Struct, frozen=True):
    """What it would cost to give out events in order: `none`, `key` by key, or all of them.

    An event is released when it and all events before it (of its key; of all) have completed. The
    whole of its wait is put down to the one whose completion released it: the last of these to
    complete, the first in order of arrival where several did at once.
    """

    order: Resequencing
    events: int
    waited: int
    """How many of them would have been held."""
    p50_ns: int
    p99_ns: int
    max_ns: int
    """What is added to the latency, over all events."""
    buffer: int
    """The smallest number of places that restores the order of 99.9 % of the events: so many were
    held when they completed, themselves included, or fewer."""
    buffer_max: int
    """Places for all of them."""
    blocking_keys: list[BlockingKey]
    """The ten that cost most, the worst first."""
    blocking_events: list[BlockingEvent]
    """The ten that cost most, the worst first; exact."""
    keys_missing_ns: int
    """What any of `blocking_keys` may lack, at most. 0: they are exact; else there were more of
    them than MOST_KEYS, of which those that had cost least were forgotten."""


def price_of_order(path: str) -> dict[Resequencing, PriceReport]:
    """The price of each order in the run that a record tells of. Raises RecordError."""
    from .recording import read_record

    return price(read_record(path))


def price(chunks: Iterable[Completions]) -> dict[Resequencing, PriceReport]:
    """The price of each order, of a whole run."""
    modes: list[Resequencing] = list(get_args(Resequencing))
    simulations = {order: Simulation(order) for order in modes}
    for chunk in chunks:
        for simulation in simulations.values():
            simulation.feed(chunk)
    return {order: simulation.report() for order, simulation in simulations.items()}


class Simulation:
    """A resequencer under one order, over a run."""

    def __init__(self, order: Resequencing) -> None:
        self.order = order
        self._events = self._waited = self._max_ns = 0
        self._waits = Histogram()
        self._buffer = _Buffer()
        self._worst = _WorstEvents()
        self._keys = _KeyTotals()
        self._lanes: dict[str, _Lane] = {}  # bounded by the events in flight
        """By key, or all in one, under "": those of which later events may be held up."""
        self._admitted_ns = 0

    def feed(self, chunk: Completions) -> None:
        """The next events."""
        admitted = chunk.admitted_ns[chunk.admitted_ns > 0]
        if len(admitted):
            self._admitted_ns = int(admitted[-1])
        places = np.flatnonzero(chunk.completed_ns)
        completed = chunk.completed_ns[places]
        waits = np.zeros(len(places), dtype=np.int64)
        if self.order == "key":
            own = np.flatnonzero(chunk.key[places] >= 0)
            lanes = chunk.key[places[own]]
            waits[own] = self._waits_of(chunk, places[own], lanes, chunk.keys)
        elif self.order == "global":
            waits = self._waits_of(chunk, places, np.zeros_like(places), [""])
        self._settle_lanes(self._admitted_ns)
        self._events += len(places)
        self._waited += int(np.count_nonzero(waits))
        self._max_ns = max(self._max_ns, int(waits.max(initial=0)))
        self._waits.record(waits)
        self._buffer.feed(completed, completed + waits, self._admitted_ns)

    def report(self) -> PriceReport:
        """What it comes to, when there are no more events."""
        self._settle_lanes(_FOR_EVER)
        buffer, buffer_max = self._buffer.places()
        return PriceReport(
            order=self.order,
            events=self._events,
            waited=self._waited,
            p50_ns=self._waits.percentile(50),
            p99_ns=self._waits.percentile(99),
            max_ns=self._max_ns,
            buffer=buffer,
            buffer_max=buffer_max,
            blocking_keys=self._keys.worst(),
            blocking_events=self._worst.report(),
            keys_missing_ns=self._keys.missing_ns,
        )

    def _waits_of(self, chunk: Completions, places: Ints, lanes: Ints, names: list[str]) -> Ints:
        """How long the events at `places` wait, each in one of the lanes that have `names`.

        What is known of these lanes goes before, as if it were an event each.
        """
        known = [(at, self._lanes[name]) for at, name in enumerate(names) if name in self._lanes]
        before = [lane for _, lane in known]
        completed = _behind([lane.completed_ns for lane in before], chunk.completed_ns[places])
        lanes = _behind([at for at, _ in known], lanes)
        latest, lasts = _latest_so_far(lanes, completed)
        waits: Ints = completed[latest] - completed
        tally = _Tally(before, places, latest, waits)
        tally.stays[lasts] = completed[lasts] > self._admitted_ns
        self._tell_keys(chunk, tally)
        self._tell_events(chunk, tally)
        for (at, _), stays in zip(known, tally.stays, strict=False):
            if not stays:
                del self._lanes[names[at]]
        for row in np.flatnonzero(tally.stays[len(before) :]).tolist():
            at = len(before) + row
            lane = _Lane(int(completed[at]), *tally.event(chunk, row))
            self._lanes[names[lanes[at]]] = lane
        return waits[len(before) :]

    def _tell_keys(self, chunk: Completions, tally: _Tally) -> None:
        """Put what was waited down to the keys of those that were waited for."""
        first = len(tally.before)
        for lane, *own in zip(tally.before, tally.held_up, tally.waited_ns, strict=False):
            self._keys.add(lane.key, *map(int, own))
        totals = np.zeros((2, len(chunk.keys) + 1), dtype=np.int64)  # the last one: without a key
        np.add.at(totals[0], chunk.key[tally.places], tally.held_up[first:])
        np.add.at(totals[1], chunk.key[tally.places], tally.waited_ns[first:])
        for at in np.flatnonzero(totals[1]).tolist():
            key = chunk.keys[at] if at < len(chunk.keys) else None
            self._keys.add(key, *map(int, totals[:, at]))

    def _tell_events(self, chunk: Completions, tally: _Tally) -> None:
        """Put it down to the events themselves; those that hold up no more are settled."""
        first = len(tally.before)
        for number, lane in enumerate(tally.before):
            lane.held_up += int(tally.held_up[number])
            lane.waited_ns += int(tally.waited_ns[number])
            if not tally.stays[number]:
                self._worst.add(lane.sequence, lane.key, lane.held_up, lane.waited_ns)
        own = tally.waited_ns[first:]
        settled = ~tally.stays[first:] & (own > 0) & (own >= self._worst.least_ns)
        for row in np.flatnonzero(settled).tolist():
            self._worst.add(*tally.event(chunk, row))

    def _settle_lanes(self, admitted_ns: int) -> None:
        """Drop the lanes of which nothing holds up what is admitted from then on."""
        for name in [n for n, lane in self._lanes.items() if lane.completed_ns <= admitted_ns]:
            lane = self._lanes.pop(name)
            self._worst.add(lane.sequence, lane.key, lane.held_up, lane.waited_ns)


class _Lane(Struct):
    """The event of a lane that completes last so far, and what it has held up."""

    completed_ns: int
    sequence: int
    key: str | None
    held_up: int
    waited_ns: int


class _Tally:
    """What each of some events has held up: those of lanes from `before`, then those of a chunk."""

    def __init__(self, before: list[_Lane], places: Ints, latest: Ints, waits: Ints) -> None:
        """`places`: of events in the chunk; `latest`: whom each event waits for."""
        self.before, self.places = before, places
        self.held_up: Ints = np.bincount(latest[waits > 0], minlength=len(waits))
        self.waited_ns: Ints = np.zeros_like(waits)
        np.add.at(self.waited_ns, latest, waits)
        self.stays = np.zeros(len(waits), dtype=bool)
        """Whether it may hold up later events too."""

    def event(self, chunk: Completions, row: int) -> tuple[int, str | None, int, int]:
        """Number, key, and what it has held up: of an event of the chunk."""
        at, place = len(self.before) + row, self.places[row]
        key = chunk.key[place]
        return (
            int(chunk.sequence[place]),
            chunk.keys[key] if key >= 0 else None,
            int(self.held_up[at]),
            int(self.waited_ns[at]),
        )


def _latest_so_far(lanes: Ints, completed: Ints) -> tuple[Ints, Ints]:
    """For each event the one of its lane, up to it, that completes last; and those of whole lanes.

    Of several that complete at once it is the first.
    """
    count = len(completed)
    if not count:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    by_time = np.lexsort((-np.arange(count), completed))
    rank = np.empty(count, dtype=np.int64)
    rank[by_time] = np.arange(count)
    by_lane = np.argsort(lanes, kind="stable")
    in_order = lanes[by_lane]
    # Ranks of a later lane are larger than all of those before: so the maximum starts anew.
    best = np.maximum.accumulate(in_order * count + rank[by_lane]) % count
    latest = np.empty(count, dtype=np.int64)
    latest[by_lane] = by_time[best]
    ends = np.flatnonzero(np.append(in_order[1:] != in_order[:-1], True))
    return latest, by_time[best[ends]]


def _behind(before: list[int], column: Ints) -> Ints:
    return np.concatenate([np.array(before, dtype=np.int64), column])


class _Buffer:
    """How many events were held whenever one completed."""

    def __init__(self) -> None:
        # Those that complete later than others that are still to come may.
        self._completed: Ints = np.zeros(0, dtype=np.int64)
        self._released: Ints = np.zeros(0, dtype=np.int64)
        self._held: Ints = np.zeros(0, dtype=np.int64)
        """When those are released, in order, that have completed before, and are held."""
        self._counts: Ints = np.zeros(1, dtype=np.int64)

    def feed(self, completed: Ints, released: Ints, until_ns: int) -> None:
        """More events; those that are still to come complete at `until_ns` or later."""
        completed = np.concatenate([self._completed, completed])
        released = np.concatenate([self._released, released])
        is_over = completed < until_ns
        self._completed, self._released = completed[~is_over], released[~is_over]
        completed, released = completed[is_over], released[is_over]
        has_waited = released > completed
        begun = np.sort(completed[has_waited])
        ended = np.sort(np.concatenate([self._held, released[has_waited]]))
        held = (
            len(self._held)
            + np.searchsorted(begun, completed, side="right")
            - np.searchsorted(ended, completed, side="right")
        )
        self._held = ended[np.searchsorted(ended, until_ns) :]
        counts = np.bincount(held, minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts

    def places(self) -> tuple[int, int]:
        """The places that suffice for most, and for all, when there are no more events."""
        nothing = np.zeros(0, dtype=np.int64)
        self.feed(nothing, nothing, _FOR_EVER)
        so_far = np.cumsum(self._counts)
        if not so_far[-1]:
            return 0, 0
        enough = np.searchsorted(so_far * 1000, so_far[-1] * RESTORED_PER_MILLE)
        return int(enough), len(self._counts) - 1


class _WorstEvents:
    """The events that cost most, of those that hold up no more."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, str | None]] = []  # at most MOST_BLOCKERS

    @property
    def least_ns(self) -> int:
        """One that cost less is none of them."""
        return self._heap[0][0] if len(self._heap) == MOST_BLOCKERS else 0

    def add(self, sequence: int, key: str | None, held_up: int, waited_ns: int) -> None:
        """One more; of two that cost the same the first in order of arrival is worse."""
        if waited_ns:
            heapq.heappush(self._heap, (waited_ns, -sequence, held_up, key))
            if len(self._heap) > MOST_BLOCKERS:
                heapq.heappop(self._heap)

    def report(self) -> list[BlockingEvent]:
        """The worst first."""
        return [
            BlockingEvent(-negative, key, held_up, waited_ns)
            for waited_ns, negative, held_up, key in sorted(self._heap, reverse=True)
        ]


class _KeyTotals:
    """What the events of each key have held up; of too many keys, those that cost least go."""

    def __init__(self) -> None:
        self.missing_ns = 0
        """What any key may lack, at most."""
        self._totals: dict[str | None, tuple[int, int]] = {}  # at most 2 * MOST_KEYS

    def add(self, key: str | None, held_up: int, waited_ns: int) -> None:
        """So many more."""
        if not waited_ns:
            return
        before = self._totals.get(key, (0, 0))
        self._totals[key] = before[0] + held_up, before[1] + waited_ns
        if len(self._totals) > 2 * MOST_KEYS:
            order = sorted(self._totals.items(), key=_cost, reverse=True)
            self._totals = dict(order[:MOST_KEYS])
            # One that went may come again, and go again.
            self.missing_ns += _cost(order[MOST_KEYS])

    def worst(self) -> list[BlockingKey]:
        """Those that cost most, the worst first."""
        order = sorted(self._totals.items(), key=lambda each: (-_cost(each), *_as_text(each[0])))
        return [BlockingKey(key, *totals) for key, totals in order[:MOST_BLOCKERS]]


def _cost(entry: tuple[str | None, tuple[int, int]]) -> int:
    return entry[1][1]


def _as_text(key: str | None) -> tuple[bool, str]:
    return key is None, key or ""
