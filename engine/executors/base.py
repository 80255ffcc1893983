"""What every executor shares: its protocol, what it gets to work with, and what is measured.

An executor takes batches from a channel, runs one stage over them in the promised order, and
sends them on. Each input event that comes in goes out once, with its results, filtered, or dead.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any, Protocol

import numpy as np

from ..batch import Batch
from ..channel import Channel
from ..codecs import Bad, Decoder, JsonDecoder
from ..dead_letters import DeadLetters, ErrorInfo
from ..event import FieldMapping
from ..faults import FaultPlan
from ..histogram import Histogram, Ints
from ..loading import HandlerNotFound
from ..order import Lane, Order
from ..plan import StagePlan
from ..promises import OrderAudit
from ..state_ledger import StateLedger
from .call_faults import CallFaults, Note
from .calling import Caller, hook_failed
from .failing import StageFailures

now_ns = time.monotonic_ns

TURN_NS = 10_000_000
"""How long a stage may hold the loop before it lets the others go on."""


class Executor(Protocol):
    """Runs one stage."""

    context: StageContext
    meter: StageMeter

    @property
    def pending(self) -> int:
        """Events in its hands: those that came in and have not gone out."""
        ...

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        ...


Recorded = Callable[[Sequence[int], Ints, Ints], None]
"""Told of numbers, and when their handlers began and ended."""


class StageMeter:
    """What is measured and audited of one stage.

    Small batches are put together before they are looked at: numpy costs by the call.
    """

    def __init__(
        self, stage: StagePlan, audit: OrderAudit, recorded: Recorded | None = None
    ) -> None:
        """`recorded` is told of each event that was handled, when a record is kept."""
        self.stage = stage
        self.service = Histogram()
        self.queue_wait = Histogram()
        self.handled = 0
        self.in_flight = 0
        self.measured_from_ns = 0
        """What was ended before (monotonic) is left out of service and queue wait."""
        self._audit, self._recorded = audit, recorded
        self._rows: list[_Row] = []  # bounded by _LOOK_AT
        self._waiting = 0

    def record(
        self,
        lanes: Sequence[Lane] | None,
        indexes: Sequence[int],
        ready_ns: int | Sequence[int],
        starts_ns: Ints,
        ends_ns: Ints,
    ) -> None:
        """Note events in the order in which their handlers ended; all columns of one length."""
        self.handled += len(indexes)
        ready = ready_ns if isinstance(ready_ns, int) else as_ints(ready_ns)
        self._rows.append((lanes, indexes, starts_ns - ready, starts_ns, ends_ns))
        self._waiting += len(indexes)
        if self._recorded is not None:
            self._recorded(indexes, starts_ns, ends_ns)
        if self._waiting >= _LOOK_AT:
            self._look()

    @property
    def audit(self) -> OrderAudit:
        """The audit, with all that was recorded."""
        if self._rows:
            self._look()
        return self._audit

    def _look(self) -> None:
        rows, self._rows, self._waiting = self._rows, [], 0
        for are_small, some in groupby(rows, key=_is_small):
            alike = list(some)
            for lanes, indexes, _, starts, ends in _joined(alike) if are_small else alike:
                self._audit.observe(lanes, indexes, starts, ends)
        waits, starts, ends = (np.concatenate([row[at] for row in rows]) for at in (2, 3, 4))
        services = ends - starts
        if self.measured_from_ns:
            measured = ends >= self.measured_from_ns
            services, waits = services[measured], waits[measured]
        self.service.record(services)
        self.queue_wait.record(waits)


_Row = tuple[Sequence[Lane] | None, Sequence[int], Ints, Ints, Ints]
_LOOK_AT = 2048
_SMALL = 128
"""Many rows below so many events are audited as one: numpy costs by the call."""
_FEW = 16


def _is_small(row: _Row) -> bool:
    return len(row[1]) < _SMALL


def _joined(rows: list[_Row]) -> list[_Row]:
    """Many as one; a few as they are."""
    if len(rows) <= _FEW:
        return rows
    lanes: list[Lane] | None = None
    if rows[0][0] is not None:
        lanes = [lane for row in rows for lane in row[0] or ()]
    spans = [row[1] for row in rows]
    indexes: Sequence[int]
    if all(type(span) is range for span in spans) and _follow(spans):
        indexes = range(spans[0][0], spans[-1][-1] + 1)
    else:
        indexes = [index for span in spans for index in span]
    waits, starts, ends = (np.concatenate([row[column] for row in rows]) for column in (2, 3, 4))
    return [(lanes, indexes, waits, starts, ends)]


def _follow(spans: list[Sequence[int]]) -> bool:
    """Whether each span begins where the one before ended."""
    return all(a[-1] + 1 == b[0] for a, b in pairwise(spans))


def as_ints(values: Sequence[int] | Ints) -> Ints:
    """A column of stamps as numpy sees it."""
    if isinstance(values, np.ndarray):
        return values
    column = values if isinstance(values, array) else array("q", values)
    return np.frombuffer(column, dtype=np.int64)


class WorkerNotReplaced(HandlerNotFound):
    """A worker died, and no other one could take its place; what was handled by then is kept."""


class StageContext:
    """What an executor gets to work with."""

    def __init__(
        self,
        stage: StagePlan,
        mapping: FieldMapping,
        meter: StageMeter,
        failures: StageFailures,
        dead_letters: DeadLetters,
        *,
        is_first: bool,
        order: Order,
        encodes: Callable[[], bool],
        by_event: bool,
        decoder_of: Callable[[int], JsonDecoder],
        event_decoder_of: Callable[[int], Decoder],
        unpack: Callable[[Batch], None],
        torn: Callable[[str], None],
        faults: FaultPlan | None = None,
        note_fault: Note = lambda fault, at_ns: None,
    ) -> None:
        self.stage, self.mapping, self.meter = stage, mapping, meter
        self.failures, self.dead_letters = failures, dead_letters
        self.is_first, self.order = is_first, order
        self.encodes = encodes
        """Whether the stage gives output lines rather than events: it is the last one."""
        self.by_event = by_event
        """Whether the output lines of each event are wanted apart from one another."""
        self.decoder_of = decoder_of
        """The decoder of a partition, for a first stage that gets raw blocks."""
        self.event_decoder_of = event_decoder_of
        """Decodes a line of a partition anew, for another attempt."""
        self.unpack = unpack
        """Gives a batch its values when it has none."""
        self.ready = asyncio.Event()
        """Set once the stage can take its first event: workers run, set-ups are done."""
        self.states: StateLedger | None = None
        """Told of the state of a key after each of its events, when a checkpoint keeps it."""
        self.states_before: dict[Lane, bytes] = {}
        """Pickled states of keys that earlier sittings left."""
        self.keeps_lanes = False
        """Whether an event whose results are known already (none, or dead) must not pass others of
        its lane: a checkpoint keeps states."""
        self.torn = torn
        """Told of a tear-down that failed; what was handled goes on its way all the same."""
        self.faults = faults
        """What the calls of handlers are to suffer; None: nothing."""
        self.note_fault = note_fault

    def call_faults(self, caller: Caller) -> CallFaults | None:
        """What the calls of this stage are to suffer in this process."""
        return None if self.faults is None else CallFaults(self.faults, caller, self.note_fault)

    def dead(self, index: int, line: bytes, error: BaseException) -> Any:
        """Note that an event became a dead letter here; gives back what stands for it."""
        return self.failures.bury_at_once(index, line, ErrorInfo.of(error))

    def setup_failed(self, error: BaseException) -> HandlerNotFound:
        """What ends a run whose set-up raised `error`."""
        return HandlerNotFound(hook_failed("set-up", self.stage.name, error))

    def teardown_failed(self, error: BaseException) -> None:
        """Note that tear-down raised `error`."""
        self.torn(hook_failed("tear-down", self.stage.name, error))

    def malformed(self, index: int, line: bytes, bad: Bad) -> None:
        """Note a line that is no event."""
        self.dead_letters.add(index, line, "input", ErrorInfo.of_bad(bad))
