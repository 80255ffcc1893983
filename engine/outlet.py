"""The end of a run: results become lines, in the order that was asked for, and are accounted for.

Every input event arrives here once. An event counts as done when its results were handed to the
sink; what the frontier has not seen at the end was lost, what it saw twice was duplicated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct

from .audit import Figures
from .batch import (
    DEAD,
    DEAD_COUNT,
    Batch,
    Value,
    is_nothing,
    split_out,
)
from .channel import Channel, EndOfStream
from .codecs import CsvEncoder, Encoder, JsonLinesEncoder, UnwritableResult
from .connectors.base import Sink
from .dead_letters import DeadLetters, ErrorInfo
from .due import DueTimes
from .frontier import Frontier
from .histogram import Histogram, HistogramState
from .journal import Journal
from .order import Emit, Order, Resequencer
from .output_audit import OutputAudit
from .promises import PromiseReport
from .record_file import Outcome
from .recording import Codes, Recorder

FLUSH_BYTES = 1024 * 1024
IDLE_S = 0.01
LATE_NS = 100_000_000
"""How long a result may wait for company when others keep coming, but slowly."""

Lines = list[bytes]
LinesOf = Lines | None
"""The output lines of an event: none when it was filtered, None when it is dead."""

_GONE: Final[Any] = object()
"""In place of the lines of an event that an earlier sitting has dealt with, or that was dropped."""
_UNWRITABLE = (TypeError, ValueError, OverflowError, UnwritableResult, RecursionError)


def _as_lines(value: Value) -> LinesOf:
    """The output lines that an encoded value stands for."""
    if type(value) is bytes:
        return [value]
    return None if value is DEAD else value or []


class Keeper(Protocol):
    """Keeps how far the run has come; the outlet says when that is a whole."""

    @property
    def wait_s(self) -> float:
        """How long until it wants to; 0: it is time."""
        ...

    def take(self, length: int) -> None:
        """All that counts as done stands in the first `length` bytes of the output."""
        ...


class OutletState(Struct, frozen=True):
    """An outlet whose buffer is empty, as it is kept."""

    floor: int
    above: bytes
    handled: int
    filtered: int
    emitted: int
    duplicates: int
    duplicated: list[int]
    head_written: bool
    columns: list[str] | None
    response: HistogramState
    slip: HistogramState
    audit: PromiseReport
    figures: Figures | None = None
    """None: an earlier version kept it."""


class Counts:
    """What became of the input events."""

    def __init__(self) -> None:
        self.handled = 0
        """Done without becoming a dead letter; filtered ones included."""
        self.filtered = 0
        self.emitted = 0


class Outlet:
    """Takes the last stage's batches and writes them to the sink."""

    def __init__(
        self,
        sink: Sink,
        encoder: Callable[[list[str] | None], Encoder],
        *,
        order: Order,
        emit: Emit,
        last_stage: str,
        due: DueTimes,
        dead_letters: DeadLetters,
        on_progress: Callable[[int], None],
        on_halted: Callable[[str], None],
        goes_on_later: Callable[[], bool],
    ) -> None:
        """`on_halted` is told why the run has to stop, once what led to that is written;
        `goes_on_later` says at the end of the stream whether another sitting is to follow."""
        self.keeper: Keeper | None = None
        self.recorder: Recorder | None = None
        self.measured_from_ns = 0
        """Events that were due before (monotonic) are left out of response and slip."""
        self.journal: Journal | None = None
        self.counts = Counts()
        self.frontier = Frontier()
        self.duplicated: list[int] = []
        self.duplicates = 0
        self.response, self.slip = Histogram(), Histogram()
        """Of what is done, so that what another sitting handles again is told once."""
        self.response_window = Histogram()
        is_global = order in ("none", "global") or emit == "input"
        self.audit = OutputAudit("global" if is_global else "key")
        self.letters_go_ahead = True
        self.closed_early = False
        """Nobody reads the output any more, as when it is piped into `head`."""
        self._sink, self._make_encoder = sink, encoder
        self._encoder: Encoder | None = None
        self._ordered = order not in ("none", "global")
        self._last_stage, self._due = last_stage, due
        self._dead_letters, self._on_progress = dead_letters, on_progress
        self._on_halted, self._goes_on_later = on_halted, goes_on_later
        self._sequencer: Resequencer[tuple[int, LinesOf]] | None = None
        if emit == "input":
            self._sequencer = Resequencer()
        self._buffer: Lines = []
        self._buffered = 0
        self._empty_ns = time.monotonic_ns()
        self._head_written = False
        self._columns: list[str] | None = None
        self._is_dirty = False  # whether more is done than was kept
        self._dropped: list[int] = []  # that the resequencer has not been told of
        self._settled: Frontier | None = None  # what is done and what was dropped

    @property
    def held(self) -> int:
        """Events that wait in the resequencer."""
        return len(self._sequencer) if self._sequencer is not None else 0

    @property
    def settled(self) -> int:
        """How many events are done, or were dropped on purpose."""
        return (self._settled or self.frontier).done

    @property
    def floor(self) -> int:
        """All numbers below it are done, or will never come."""
        return (self._settled or self.frontier).floor

    def drop(self, numbers: Sequence[int]) -> None:
        """These will never come, on purpose: they are lost, but nothing waits for them."""
        if self._settled is None:
            self._settled = Frontier.restore(*self.frontier.snapshot())
        self._settled.add(numbers)
        if self._sequencer is not None:
            self._dropped += numbers

    @property
    def _keeper(self) -> Keeper | None:
        """Who keeps what is written: nobody, once nobody reads it."""
        return None if self.closed_early else self.keeper

    async def run(self, inbox: Channel[Batch]) -> None:
        """Write all that comes until the end of the stream."""
        while True:
            try:
                batch = await self._receive(inbox)
            except EndOfStream:
                break
            await self._take(batch)
        self._let_pass()
        if self._sequencer is not None and not self._goes_on_later():
            self._put_in_order(self._sequencer.rest())  # an event before them was lost
        await self._flush(last=True)
        if self.journal is not None:
            self.journal.close()

    async def _receive(self, inbox: Channel[Batch]) -> Batch:
        """The next batch; while none comes, what is buffered goes out."""
        while True:
            batch = inbox.receive_now()
            if batch is None and self._buffered:
                await asyncio.sleep(0)
                batch = inbox.receive_now()
            if batch is not None:
                return batch
            wait_s = self._wait_s()
            if wait_s is None:
                return await inbox.receive()
            try:
                async with asyncio.timeout(wait_s):
                    return await inbox.receive()
            except TimeoutError:
                await self._flush()

    def _wait_s(self) -> float | None:
        """How long to wait for a batch before something else is to be done."""
        if self._buffered:
            return IDLE_S
        if self._is_dirty and self._keeper is not None:
            return max(self._keeper.wait_s, 0.001)
        return None

    async def _take(self, batch: Batch) -> None:
        self._is_dirty = True
        if self.recorder is not None:
            self.recorder.came_out(batch.indexes)
        self._let_pass()
        if self._sequencer is not None:
            if self.journal is not None:
                self.journal.came(batch.indexes, batch.lanes if self._ordered else None)
            lines = zip(batch.indexes, self._lines_by_event(batch), strict=True)
            self._put_in_order(self._sequencer.push(batch.indexes, lines))
        elif batch.out is not None:
            self._count_packed(batch)
            if batch.counts is None or any(count > 0 for count in batch.counts):
                self._put([batch.out])
        elif batch.singles:
            self._put(self._singles(batch))
        else:
            self._put(self._all_lines(batch))
        # Should the run stop, it may be for a result that can't be encoded here.
        halted = self._dead_letters.write() if self._dead_letters.has_pending else None
        self._account(batch)
        if self._buffered >= FLUSH_BYTES or self._is_late() or self._wants_to_keep() or halted:
            await self._flush()
        if halted is not None:
            self._on_halted(str(halted))

    def _is_late(self) -> bool:
        now = time.monotonic_ns()
        if not self._buffered:
            self._empty_ns = now
        return now - self._empty_ns > LATE_NS

    def _wants_to_keep(self) -> bool:
        return self._keeper is not None and self._keeper.wait_s <= 0

    # --- lines

    def _all_lines(self, batch: Batch) -> Lines:
        """The lines of all events of a batch, counted."""
        by_event = self._lines_by_event(batch)
        self._count(by_event)
        return [line for lines in by_event for line in lines or ()]

    def _count(self, by_event: Sequence[LinesOf]) -> None:
        dead = by_event.count(None)
        self.counts.filtered += by_event.count([])
        self.counts.handled += len(by_event) - dead
        self.counts.emitted += sum(map(len, filter(None, by_event)))

    def _singles(self, batch: Batch) -> Lines:
        """The lines of a batch in which each event has one result."""
        values = batch.values or []
        if not batch.encoded:
            encode = self._encode().encode
            try:
                values = [encode(value) for value in values]
            except _UNWRITABLE:
                # One by one, to find which.
                return self._all_lines(batch)
        self.counts.handled += len(values)
        self.counts.emitted += len(values)
        return values

    def _lines_by_event(self, batch: Batch) -> list[LinesOf]:
        if batch.out is not None:
            return split_out(batch.out, batch.counts)
        values = batch.values or []
        if batch.encoded:
            return [_as_lines(value) for value in values]
        return [self._encoded(batch, place, value) for place, value in enumerate(values)]

    def _encoded(self, batch: Batch, place: int, value: Value) -> LinesOf:
        if is_nothing(value):
            return None if value is DEAD else []
        encode = self._encode().encode
        try:
            return [encode(event) for event in (value if type(value) is list else (value,))]
        except _UNWRITABLE as error:
            assert batch.values is not None
            batch.values[place], batch.singles = DEAD, False
            info = ErrorInfo(type(error).__name__, f"the result can't be written: {error}")
            index, line = batch.indexes[place], batch.lines()[place]
            self._dead_letters.add(index, line, self._last_stage, info)
            return None

    def _encode(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._make_encoder(self._columns)
        return self._encoder

    def _put_in_order(self, released: list[tuple[int, LinesOf]]) -> None:
        """Write what the resequencer let go, count it, and tell the audit of it."""
        now = time.monotonic_ns()
        if self._dead_letters.ahead:
            self._dead_letters.ahead.difference_update(number for number, _ in released)
        if self._due:
            self._record_response([number for number, _ in released], now)
        new = [(number, lines) for number, lines in released if lines is not _GONE]
        self._count([lines for _, lines in new])
        written = [number for number, lines in new if lines]
        self.audit.observe(None, written, now)
        if self.recorder is not None and written:
            self.recorder.emitted(written, now)
        self._put([line for _, lines in new for line in lines or ()])
        if self.journal is not None:
            for number, lines in new:
                self.journal.left(number, lines)

    def _let_pass(self) -> None:
        """Let the resequencer wait no longer for what was dropped."""
        if self._sequencer is not None and self._dropped:
            gone, self._dropped = self._dropped, []
            self._put_in_order(self._sequencer.push(gone, [(number, _GONE) for number in gone]))

    def _put(self, lines: Lines) -> None:
        self._buffer += lines
        self._buffered += sum(map(len, lines)) + len(lines)

    async def _flush(self, *, last: bool = False) -> None:
        self._buffer.append(b"")  # so that the last line is ended too, without another copy
        data = b"\n".join(self._buffer)
        if not self._head_written and (data or last):
            self._head_written = True
            data = self._encode().head() + data
        self._buffer, self._buffered = [], 0
        self._empty_ns = time.monotonic_ns()
        if data and not self.closed_early:
            try:
                await self._sink.write(data)
            except BrokenPipeError:
                self.closed_early = True
        if self._wants_to_keep():
            await self._keep()

    # --- what is kept

    async def _keep(self) -> None:
        """Let the keeper take what counts as done: all of that has been written."""
        assert self.keeper is not None
        length = await self._sink.mark()
        # Not before: stages may have added some meanwhile, and what is kept counts on them.
        self._dead_letters.write()
        self._is_dirty = False
        self.keeper.take(length)

    def done(self) -> Frontier:
        """What counts as done, for a checkpoint, while nothing is buffered.

        Dead letters go ahead of their events, but where states are kept: there the events of a
        key are done in order.
        """
        done = self.frontier
        if self._sequencer is not None:
            done = Frontier.restore(self._sequencer.next, b"")
        if self._dead_letters.ahead and self.letters_go_ahead:
            done = Frontier.restore(*done.snapshot())
            done.add(sorted(self._dead_letters.ahead))
        return done

    def snapshot(self) -> OutletState:
        """What counts as done, while nothing is buffered."""
        assert not self._buffer, "what is not written yet can't be kept as done"
        if self._due and self._dead_letters.ahead and self.letters_go_ahead:
            self._record_response(sorted(self._dead_letters.ahead), time.monotonic_ns())
        floor, above = self.done().snapshot()
        counts = self.counts
        return OutletState(
            floor,
            above,
            counts.handled,
            counts.filtered,
            counts.emitted,
            self.duplicates,
            self.duplicated,
            self._head_written,
            self._columns if self._encoder is None else self._encoder.columns,
            self.response.snapshot(),
            self.slip.snapshot(),
            *self.audit.kept(),
        )

    def go_on_from(self, state: OutletState, read: int) -> None:
        """Begin where an earlier sitting stood, when `read` numbers were given."""
        self.frontier = Frontier.restore(state.floor, state.above)
        counts = self.counts
        counts.handled, counts.filtered, counts.emitted = (
            state.handled,
            state.filtered,
            state.emitted,
        )
        self.duplicates, self.duplicated = state.duplicates, state.duplicated
        self._head_written, self._columns = state.head_written, state.columns
        self.response.restore(state.response)
        self.slip.restore(state.slip)
        self.audit.go_on_from(state.audit, state.figures)
        if self._sequencer is not None:
            self._sequencer = Resequencer(state.floor)
            gone = [number for number in range(state.floor, read) if self.frontier.has(number)]
            self._sequencer.push(gone, [(number, _GONE) for number in gone])
            if self._dead_letters.ahead is not None:
                self._dead_letters.ahead.update(gone)

    # --- accounting

    def _count_packed(self, batch: Batch) -> None:
        counts = batch.counts
        if counts is None:
            self.counts.handled += len(batch)
            self.counts.emitted += len(batch)
            return
        dead = counts.count(DEAD_COUNT)
        self.counts.filtered += counts.count(0)
        self.counts.handled += len(batch) - dead
        self.counts.emitted += sum(counts) + dead

    def _account(self, batch: Batch) -> None:
        now = time.monotonic_ns()
        if self.recorder is not None:
            self._record(self.recorder, batch, now)
        if self._sequencer is None:
            self._observe(batch, now)
            if self._dead_letters.ahead:
                self._dead_letters.ahead.difference_update(batch.indexes)
        again = self.frontier.add(batch.indexes)
        if self._settled is not None:
            self._settled.add(batch.indexes)
        if again:
            self.duplicates += len(again)
            self.duplicated = (self.duplicated + again)[:10]
        if self._due and self._sequencer is None:
            self._record_response(batch.indexes, now)
        if self.recorder is not None:
            self.recorder.done_below(self.floor)
        self._on_progress(self.frontier.floor)

    def _record(self, recorder: Recorder, batch: Batch, now: int) -> None:
        outcomes = outcomes_of(batch)
        recorder.ended(batch.indexes, outcomes)
        if self._sequencer is None:
            recorder.emitted(batch.indexes, now, outcomes)
        if recorder.late_keys and batch.lanes is not None:
            recorder.keyed(batch.indexes, batch.lanes)

    def _observe(self, batch: Batch, now: int) -> None:
        """Tell the audit of the events that have results.

        What was filtered or died passes by the stages after: it may come early, and breaks nothing.
        """
        indexes, lanes = batch.indexes, batch.lanes if self._ordered else None
        if batch.out is not None:
            written = None if batch.counts is None else [count > 0 for count in batch.counts]
        elif batch.singles:
            written = None
        else:
            written = [not is_nothing(value) for value in batch.values or ()]
        if written is not None and not all(written):
            indexes = list(compress(indexes, written))
            lanes = None if lanes is None else list(compress(lanes, written))
        self.audit.observe(lanes, indexes, now)

    def _record_response(self, indexes: Sequence[int], now: int) -> None:
        intended, released = self._due.take(indexes)
        if self.recorder is not None:
            self.recorder.responded(indexes, now)
        self.response_window.record(now - intended)
        if self.measured_from_ns:
            measured = intended >= self.measured_from_ns
            intended, released = intended[measured], released[measured]
        self.slip.record(released - intended)
        self.response.record(now - intended)


def outcomes_of(batch: Batch) -> Codes | int:
    """What became of the events of a batch at the end: one code for all, or one an event."""
    if batch.out is not None:
        if batch.counts is None:
            return Outcome.EMITTED
        counts = np.asarray(batch.counts)
        others = np.where(counts == 0, Outcome.FILTERED, Outcome.DEAD)
        return np.where(counts > 0, Outcome.EMITTED, others).astype(np.uint8)
    if batch.singles:
        return Outcome.EMITTED
    return np.array([_outcome_of(value) for value in batch.values or ()], dtype=np.uint8)


def _outcome_of(value: Value) -> int:
    if value is DEAD:
        return Outcome.DEAD
    has_none = value is None or (type(value) is list and not value)
    return Outcome.FILTERED if has_none else Outcome.EMITTED


def make_encoder(
    format: str,
    header: Sequence[str],
    delimiter: str | None,
    columns: Sequence[str] | None = None,
) -> Encoder:
    """The encoder of an output format ("jsonl" or "csv"); `columns`: those it has already."""
    if format == "csv" and columns is not None:
        return CsvEncoder(columns, delimiter or ",", fixed=True)
    if format == "csv":
        return CsvEncoder(header, delimiter or ",")
    return JsonLinesEncoder()
