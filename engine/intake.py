"""The start of a run: blocks become numbered batches, released when they are due.

Numbers are given in order of arrival; they are an event's identity to the end. Backpressure is
the channel's: when it is full, reading waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import numpy as np

from .batch import Batch
from .channel import Channel
from .codecs import Block, Decoded, Decoder, Times, UnreadableInput
from .connectors.base import ConnectorError
from .dead_letters import DeadLetters, ErrorInfo
from .dedupe import Dedupe
from .due import DueTimes
from .event import DEFAULT_FIELDS, Event, Scalar, decode_json
from .injecting import Injection
from .ledger import Ledger, Row, read_again
from .observer import RunWarning
from .pacing import Pacer, due_count
from .positions import Positions
from .reading import Reader, Stream, closing
from .recording import Recorder

_EARLY_S = 0.001
KEY_HINTS = ("user_id", "userId", "distinct_id", "anonymousId", "subject")


Blocks = Callable[[Sequence[Stream]], AsyncIterator[tuple[Reader, Block | None]]]
"""The blocks of streams in the order in which their events are to be numbered; None: one ended."""


class Intake:
    """Reads all sources into the first channel, until they end, the limit, or stop()."""

    def __init__(
        self,
        readers: Sequence[Reader],
        *,
        order: str,
        raw: bool,
        limit: int | None,
        pacer: Pacer | None,
        needs_time: bool,
        blocks: Blocks,
        check_keys: bool,
        chosen_key: str | None,
        positions: Positions,
        dead_letters: DeadLetters,
        warn: Callable[[RunWarning], None],
        dedupe: Dedupe | None = None,
        event_decoder_of: Callable[[int], Decoder] | None = None,
        injection: Injection | None = None,
        recorder: Recorder | None = None,
        key_decoder_of: Callable[[Reader], Decoder] | None = None,
    ) -> None:
        self.read = 0
        """How many numbers were given; those of earlier sittings included. With a checkpoint they
        stay given, whether their events were admitted or not."""
        self.reached = 0
        """The number after the last one that was admitted."""
        self.waiting_again = 0
        """Events that have a number and are left to a later sitting, or still to be admitted in
        this one after an earlier one."""
        self.ended: set[int] = set()
        """Which readers have no more."""
        self.ledger: Ledger | None = None
        """Kept with a checkpoint."""
        self.due = DueTimes()
        """Of events in flight; empty without a schedule."""
        self.dedupe = dedupe
        """Finds the events whose id came before, when that is asked for."""
        self.on_dropped: Callable[[Sequence[int]], None] | None = None
        """Told of events that are dropped on purpose."""
        self._event_decoder_of, self._injection = event_decoder_of, injection
        self._recorder, self._key_decoder_of = recorder, key_decoder_of
        self._readers, self._order, self._raw = readers, order, raw
        self._limit, self._pacer, self._needs_time = limit, pacer, needs_time
        self._blocks = blocks
        self._chosen_key, self._positions = chosen_key, positions
        self._dead_letters, self._warn = dead_letters, warn
        self._checked_keys = order != "key" or not check_keys
        self._stopped = asyncio.Event()
        self._start_ns = 0
        self._scheduled = 0
        self._streams: Sequence[Stream] | None = None
        self._again: Sequence[Row] = ()
        self._undone: Callable[[range], Sequence[int]] = list

    def go_on(
        self,
        read: int,
        waiting_again: int,
        streams: Sequence[Stream],
        rows: Sequence[Row],
        undone: Callable[[range], Sequence[int]],
    ) -> None:
        """Begin where an earlier sitting stood: first the events of `rows` that are not done.

        `undone` gives the places of those among numbers.
        """
        self.read, self.waiting_again = read, waiting_again
        self._streams, self._again, self._undone = streams, rows, undone
        self._checked_keys = self._checked_keys or read > 0

    def stop(self) -> None:
        """Read no further; what was read goes on."""
        self._stopped.set()
        for reader in self._readers:
            reader.source.stop()

    async def run(
        self, outbox: Channel[Batch], gate: Callable[[], asyncio.Future[None] | None]
    ) -> None:
        """Send all there is, then close `outbox`. `gate` gives what to wait for, if anything."""
        self._start_ns = time.monotonic_ns()
        try:
            await self._send_blocks(outbox, gate)
        except UnreadableInput:
            if not self._stopped.is_set():
                raise
            # Nobody wanted the rest, so it does not matter that it breaks off.
        outbox.close()

    async def _send_blocks(
        self, outbox: Channel[Batch], gate: Callable[[], asyncio.Future[None] | None]
    ) -> None:
        streams = self._streams
        if streams is None:
            streams = [Stream(reader, change=self._change()) for reader in self._readers]
        if not streams:
            return
        try:
            await self._send_again(streams, outbox, gate)
            if not self._is_over():
                await self._send_new(streams, outbox, gate)
        finally:
            for stream in streams:
                await stream.close()

    async def _send_again(
        self,
        streams: Sequence[Stream],
        outbox: Channel[Batch],
        gate: Callable[[], asyncio.Future[None] | None],
    ) -> None:
        """What earlier sittings have numbered and not done."""
        async with closing(read_again(self._again, streams)) as blocks:
            async for reader, block, first in blocks:
                if self._stopped.is_set():
                    break
                await self._send(self._batches_again(reader, block, first), outbox, gate)

    async def _send_new(
        self,
        streams: Sequence[Stream],
        outbox: Channel[Batch],
        gate: Callable[[], asyncio.Future[None] | None],
    ) -> None:
        async with closing(self._blocks(streams)) as blocks:
            async for reader, block in blocks:
                if self._stopped.is_set():
                    break
                if block is None:
                    self.ended.add(reader.partition)
                    continue
                await self._send(self._batches(reader, block), outbox, gate)
                if self._is_over():
                    break

    def _is_over(self) -> bool:
        is_full = self._limit is not None and self.read >= self._limit
        return self._stopped.is_set() or is_full

    async def _send(
        self,
        batches: list[Batch],
        outbox: Channel[Batch],
        gate: Callable[[], asyncio.Future[None] | None],
    ) -> None:
        if not batches:
            await asyncio.sleep(0)  # blank lines without an end hold nobody up
        for batch in batches:
            await self._release(batch, outbox)
            waiting = gate()
            if waiting is not None:
                await waiting

    def _batches_again(self, reader: Reader, block: Block, first: int) -> list[Batch]:
        """The events of a block that are not done, under the numbers that they had."""
        numbers = range(first, first + block.count)
        self._positions.add(first, reader.source.name, block)
        self.reached = numbers.stop
        places = self._undone(numbers)
        if not places:
            return []
        self.waiting_again -= len(places)
        indexes = numbers if len(places) == len(numbers) else [numbers[place] for place in places]
        block = block.only(places)
        if self._stays_raw(reader, block):
            return [self._raw_batch(reader, block, indexes)]
        return [reader.batch(reader.decode(block), indexes, self._order)]  # type: ignore[arg-type]

    def _number(self, reader: Reader, block: Block) -> range:
        """The numbers of the next records, noted."""
        first = self.read
        self.read = self.reached = first + block.count
        self._positions.add(first, reader.source.name, block)
        if self.ledger is not None:
            self.ledger.add(first, reader.partition, block)
        if block.times is not None:
            self._note_times(range(first, self.read), block.times)
        return range(first, self.read)

    def _note_times(self, numbers: range, times: Times) -> None:
        """What came released from elsewhere tells when it was due."""
        self.due.add(numbers, times.intended_ns, times.released_ns)
        if self._recorder is not None:
            self._recorder.intended(numbers, times.intended_ns)
            self._recorder.released(numbers, times.released_ns)

    def _stays_raw(self, reader: Reader, block: Block) -> bool:
        return self._raw and reader.format != "csv" and not block.bad

    def _batches(self, reader: Reader, block: Block) -> list[Batch]:
        """The batches of a block (none for blank lines), numbered and noted."""
        if not block.count:
            return []
        if self._limit is None and self._stays_raw(reader, block):
            if not self._checked_keys:
                # Of a copy: the stage decodes the block itself, in its own way.
                seen = Block(block.count, block.first_line, block.data, records=block.records)
                self._check_keys(reader, reader.decode(seen))
            numbers = self._number(reader, block)
            if self._tells_keys():
                assert self._recorder is not None
                self._recorder.keyed(numbers, self._keys_of(reader, block))
            return [self._raw_batch(reader, block, numbers)]
        decoded = reader.decode(block)
        block = self._within_limit(block)
        decoded = _first(decoded, block.count)
        if not block.count:
            return []
        if not self._checked_keys:
            self._check_keys(reader, decoded)
        numbers = self._number(reader, block)
        if self._recorder is not None and self._recorder.wants_keys and decoded.keys is not None:
            self._recorder.keyed(numbers, decoded.keys)
        return [reader.batch(decoded, numbers, self._order)]  # type: ignore[arg-type]

    def _tells_keys(self) -> bool:
        """Whether the recorder wants keys, and nobody else tells it."""
        recorder = self._recorder
        return recorder is not None and recorder.wants_keys and not recorder.late_keys

    def _keys_of(self, reader: Reader, block: Block) -> Sequence[Scalar]:
        """The keys of a block that stays raw."""
        assert self._key_decoder_of is not None
        seen = Block(block.count, block.first_line, block.data, records=block.lines())
        return self._key_decoder_of(reader).decode(seen).keys or [None] * block.count

    def _within_limit(self, block: Block) -> Block:
        if self._limit is None or self.read + block.count <= self._limit:
            return block
        count = self._limit - self.read
        lines = block.lines()[:count]
        numbers = block.line_numbers[:count] if block.line_numbers else None
        bad = {place: why for place, why in (block.bad or {}).items() if place < count} or None
        data = None if block.data is None else b"\n".join(lines)
        return Block(
            count,
            block.first_line,
            data,
            lines,
            numbers,
            bad,
            start=block.start,
            before=block.before,
            times=None if block.times is None else block.times.at(slice(count)),
        )

    def _raw_batch(self, reader: Reader, block: Block, indexes: Sequence[int]) -> Batch:
        return Batch(indexes, time.monotonic_ns(), block=block, partition=reader.partition)

    async def _release(self, batch: Batch, outbox: Channel[Batch]) -> None:
        """Send a batch: at once, or each of its events when it is due."""
        if self._pacer is None:
            await self._admit(self._prepared(batch), outbox)
        elif self._injection is None or self._injection.plan.reorder_fault is None:
            await self._release_paced(batch, outbox, self._prepared)
        else:  # what changes places does so among all that it has beside it, due or not
            for part in self._prepared(batch):
                await self._release_paced(part, outbox, lambda part: [part])

    async def _release_paced(
        self, batch: Batch, outbox: Channel[Batch], prepared: Callable[[Batch], list[Batch]]
    ) -> None:
        due = self._schedule(batch)
        at = 0
        while at < len(due) and not self._stopped.is_set():
            now = time.monotonic_ns()
            count = due_count(due, at, now - self._start_ns)
            if not count:
                await self._sleep((due[at] - (now - self._start_ns)) / 1e9)
                continue
            part = batch.at(range(at, at + count))
            part.ready_ns = now
            intended = self._start_ns + np.array(due[at : at + count], dtype=np.int64)
            self.due.add(part.indexes, intended, now)
            if self._recorder is not None:
                self._recorder.intended(part.indexes, intended)
            at += count
            await self._admit(prepared(part), outbox)
        if at < len(due):  # stopped before they were due: never admitted
            if self.ledger is not None:
                self.waiting_again += len(due) - at
            else:
                self.read -= len(due) - at

    async def _admit(self, parts: Sequence[Batch], outbox: Channel[Batch]) -> None:
        for part in parts:
            if len(part):
                if self._recorder is not None:
                    self._recorder.admitted(part.indexes, part.ready_ns, part.partition)
                self._note_bad(part)
                await outbox.send(part)

    def _prepared(self, batch: Batch) -> list[Batch]:
        """What is to be sent on of a batch, in this order."""
        parts = [batch] if self.dedupe is None else self._deduplicated(self.dedupe, batch)
        if self._injection is None:
            return parts
        return [self._disturbed(self._injection, part) for part in parts]

    def _change(self) -> Callable[[Reader, Block], Block] | None:
        """What blocks go through before they are numbered."""
        injection = self._injection
        return injection.doubled if injection is not None and injection.doubles else None

    def _disturbed(self, injection: Injection, batch: Batch) -> Batch:
        """The batch without events that are dropped on purpose, in the order that is asked for."""
        places = injection.places(batch.indexes)
        if places is None:
            return batch
        if len(places) < len(batch):
            dropped = [batch.indexes[n] for n in sorted({*range(len(batch))}.difference(places))]
            self.due.take(dropped)
            if self.on_dropped is not None:
                self.on_dropped(dropped)
        return batch.at(places)

    def _deduplicated(self, dedupe: Dedupe, batch: Batch) -> list[Batch]:
        """The batch, with its duplicates apart, as events that were filtered out."""
        told = zip(batch.indexes, self._ids(batch), strict=True)
        is_duplicate = [dedupe.is_duplicate(number, id) for number, id in told]
        if not any(is_duplicate):
            return [batch]
        fresh = [place for place, known in enumerate(is_duplicate) if not known]
        filtered = batch.at([place for place, known in enumerate(is_duplicate) if known])
        filtered.values, filtered.block, filtered.singles = [None] * len(filtered), None, False
        if filtered.lanes is None and self._order != "none":
            filtered.lanes = [None] * len(filtered)
        return [*([batch.at(fresh)] if fresh else []), filtered]

    def _ids(self, batch: Batch) -> list[Scalar]:
        """The id of each event; a line that is none has no id."""
        events: Sequence[object] = batch.values or ()
        if not any(isinstance(each, Event) for each in events):
            assert self._event_decoder_of is not None
            data = None if batch.block is None else batch.block.data
            block = Block(len(batch), 0, data, records=list(batch.lines()))
            decoded = self._event_decoder_of(batch.partition).decode(block)
            events = list(decoded.events or ())
            for place in decoded.bad:
                events[place] = None
        bad = batch.bad or {}
        return [
            _id_of(each) if isinstance(each, Event) and number not in bad else None
            for number, each in zip(batch.indexes, events, strict=True)
        ]

    def _note_bad(self, batch: Batch) -> None:
        for index, bad in (batch.bad or {}).items():
            if index in batch.indexes:
                line = batch.lines()[batch.indexes.index(index)]
                self._dead_letters.add(index, line, "input", ErrorInfo.of_bad(bad))
        self._dead_letters.flush()

    def _schedule(self, batch: Batch) -> list[int]:
        times = None
        if self._needs_time:
            times = [_time_of(value) for value in batch.values or ()]
        assert self._pacer is not None
        first = self._scheduled
        self._scheduled += len(batch)
        return self._pacer.schedule(first, times, len(batch))

    async def _sleep(self, seconds: float) -> None:
        # Timers are coarse and may fire early or late; every event keeps its own intended time.
        try:
            async with asyncio.timeout(max(seconds, _EARLY_S)):
                await self._stopped.wait()
        except TimeoutError:
            pass

    def _check_keys(self, reader: Reader, decoded: Decoded) -> None:
        self._checked_keys = True
        if decoded.keys is None or any(key is not None for key in decoded.keys):
            return
        lines = [line for place, line in enumerate(decoded.lines) if place not in decoded.bad]
        if not lines:
            return
        message = _no_key(reader, lines[0], self._chosen_key)
        if self._chosen_key is not None:
            raise ConnectorError(message)
        self._warn(RunWarning("no-key", message))


def _first(decoded: Decoded, count: int) -> Decoded:
    if count == len(decoded.lines):
        return decoded
    return Decoded(
        decoded.lines[:count],
        None if decoded.keys is None else decoded.keys[:count],
        None if decoded.events is None else decoded.events[:count],
        {place: bad for place, bad in decoded.bad.items() if place < count},
    )


def _time_of(value: object) -> int | None:
    try:
        return value.time_ns if isinstance(value, Event) else None
    except ValueError:
        return None


def _id_of(event: Event) -> Scalar:
    """Its id; none when that is a number which no float can hold, such as 1e400."""
    try:
        return event.id
    except msgspec.ValidationError:
        return None


def _no_key(reader: Reader, line: bytes, chosen: str | None) -> str:
    seen = fields_of(reader, line)
    if chosen is not None:
        start = f"{reader.source.name}: no event of the first block has the key {chosen!r}"
    else:
        known = " or ".join(repr(name) for name in DEFAULT_FIELDS["key"])
        start = f"no key found ({known}), so all events count as unordered"
    likely = [name for name in KEY_HINTS if name in seen] or seen[:1]
    advice = f"name one (--key {likely[0]})" if likely else "name one (--key FIELD)"
    fields = ", ".join(seen) or "none"
    return f"{start}. The first event has the fields {fields}: {advice}, or say --order none"


def fields_of(reader: Reader, line: bytes) -> list[str]:
    """The dotted names of an event's fields, one level down."""
    if reader.header:
        return list(reader.header)
    try:
        whole = decode_json(line)
    except msgspec.DecodeError:
        return []
    if type(whole) is not dict:
        return []
    names: list[str] = []
    for name, value in whole.items():
        names += [f"{name}.{below}" for below in value] if type(value) is dict and value else [name]
    return names
