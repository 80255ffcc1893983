"""Async handlers: many events in flight, each lane one at a time.

Lanes of work are long-lived tasks that pull events. A handler that does not suspend costs a
function call: one task runs on, and others are woken only once it has suspended.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby, repeat
from typing import Any, Final

import numpy as np

from ..batch import DEAD, Batch, Value, is_nothing, pack_lines
from ..channel import Channel, EndOfStream
from ..event import Record
from ..order import Lane
from ..plan import StagePlan
from ..state_ledger import StateLedger
from .base import TURN_NS, StageContext, now_ns
from .calling import Caller, compact
from .cancelling import FAILURES, ends_the_task
from .failing import snapshot
from .grouping import groups
from .groups import flatten, regroup
from .later import IsNothing, IsParked, Item, Later
from .line_loop import decoded, is_utf8

Done = tuple[int, Lane, bytes | None, int, int, Value, int, int]
"""Number, lane, line (None where nobody wants it), when it was ready, partition, what became of
it, when it began and ended (0: it was no event). The event itself goes: its memory is warm."""

_FLUSH_AT = 512
"""A handler that never suspends lets go of the loop after so many events."""
_MOST_DONE = 8192
"""So many events may be done and wait until they are sent on."""
_LOOK_AHEAD = 4096

_LANE: Final = 1
_VALUE: Final = 3
_DONE_PARTITION: Final = 4


class CoroutineExecutor:
    """One stage of async handlers."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.meter = context.meter
        stage = context.stage
        self.caller = Caller(stage, context.mapping, by_lane=context.order == "key")
        self._faults = context.call_faults(self.caller)
        self._coming: deque[Iterator[Item]] = deque()  # with _ready and _busy, bounded by _limit
        self._ready: deque[Item] = deque()
        self._failures = context.failures
        self._later = Later(context, self._again_soon)
        self._again: deque[Item] = deque()  # whose time has come; their lanes are busy with them
        self._busy: dict[Lane, deque[Item] | None] = {}  # lanes in flight, and who waits for them
        self._idle: list[asyncio.Future[None]] = []
        self._tasks = 0
        self._held = 0
        self._sending_now = 0
        self._grouped: list[Batch] = []
        self._limit = stage.concurrency * (stage.batch or 1) + max(_LOOK_AHEAD, stage.concurrency)
        self._taken = 0
        self._burst = 1
        self._pump_scheduled = False
        self._closing = False
        self._done: list[Done] = []
        self._ordered = context.order != "none"
        self._encode = False
        self._packs = False
        self._room: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._flush_scheduled = False
        self._sending: asyncio.Task[None] | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._waiting_to_flush = 0

    @property
    def pending(self) -> int:
        """Events in its hands: those that came in and have not gone out."""
        grouped = sum(map(len, self._grouped))
        return self._held + len(self._done) + self._sending_now + grouped

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._free = self._free_items()
        try:
            self.caller.resource = await _open(self.context.stage)
            self.caller.restore(self.context.states_before)
        except FAILURES as error:
            if ends_the_task(error):
                raise
            raise self.context.setup_failed(error) from error
        self.context.ready.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                await self._feed(inbox, outbox)
                while self._held or self._done or self._sending_now:
                    self._drained = self._loop.create_future()
                    await self._drained
                self._wake(len(self._idle))
        finally:
            try:
                await _close(self.context.stage, self.caller.resource)
            except FAILURES as error:
                if ends_the_task(error):
                    raise
                self.context.teardown_failed(error)
        outbox.close()

    # --- intake

    async def _feed(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        stage = self.context.stage
        if stage.batch:
            coming = groups(
                inbox, stage.batch, stage.batch_wait_s, self.context.unpack, self._grouped
            )
            async for batch in coming:
                if batch is not None:  # else a timer rang early
                    await self._take_in(batch, outbox)
        else:
            while True:
                try:
                    batch = await inbox.receive()
                except EndOfStream:
                    break
                await self._take_in(batch, outbox)
        self._closing = True

    async def _take_in(self, batch: Batch, outbox: Channel[Batch]) -> None:
        if self._failures.is_last:  # the run stops
            return
        self._encode = self.context.encodes()
        self._packs = self._encode and not self.context.by_event
        if batch.values is None and batch.block is not None:
            self._held += len(batch)
            self._coming.append(self._decoded(batch))
        else:
            self.context.unpack(batch)
            items = _items(batch)
            if not (batch.singles or self.context.keeps_lanes):
                passed = [item for item in items if is_nothing(item[_VALUE])]
                if passed:
                    await outbox.send(_as_batch(passed, self._ordered))
                    items = [item for item in items if not is_nothing(item[_VALUE])]
            self._held += len(items)
            self._coming.append(iter(items))
        self._schedule_pump()
        while self._held >= self._limit:
            self._room = self._loop.create_future()
            await self._room

    def _decoded(self, batch: Batch) -> Iterator[Item]:
        """The events of a raw block, each decoded when it is taken; what is none is done with."""
        lines, block = batch.lines(), batch.block
        assert block is not None
        decoder = self.context.decoder_of(batch.partition)
        by_key = self.context.order == "key"
        lane: Lane = {"partition": batch.partition, "global": 0}.get(self.context.order)
        ready, partition = batch.ready_ns, batch.partition
        assert isinstance(ready, int)
        events = decoded(lines, decoder, is_utf8=is_utf8(lines, block.data))
        for number, line, event in zip(batch.indexes, lines, events, strict=True):
            if isinstance(event, Record):
                yield number, event._key if by_key else lane, line, event, ready, partition
                continue
            self.context.malformed(number, line, event)
            self._put_done((number, None, line, None, ready, partition), DEAD, 0, 0)
            self._finished(1)
            if self._failures.is_last:  # the run stops: nothing comes after it
                while len(self._coming) > 1:
                    self._coming.pop()
                return

    # --- lanes of work

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Put more tasks to work while there is something to take; ever more at a time."""
        self._pump_scheduled = False
        is_there = self._coming or self._ready or self._again
        if not (self._held and is_there) or self._waiting_to_flush:
            self._burst = 1
            return
        woken = self._wake(self._burst)
        spare = min(self._burst - woken, self.context.stage.concurrency - self._tasks)
        for _ in range(spare):
            self._tasks += 1
            self._group.create_task(self._work(), name=f"stage:{self.context.stage.name}")
        self._burst = min(self._burst * 2, 1024)
        if woken or spare > 0:
            self._schedule_pump()

    def _wake(self, most: int) -> int:
        woken = 0
        while woken < most and self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                woken += 1
        return woken

    def _next(self) -> Item | None:
        """The next event in order of arrival, whatever its lane."""
        if self._ready:
            return self._ready.popleft()
        while self._coming:
            item = next(self._coming[0], None)
            if item is not None:
                return item
            self._coming.popleft()
        return None

    def _free_items(self) -> Iterator[Item | None]:
        """The events whose lane is free, without an end: None while there is none.

        Those of busy lanes wait at their lane.
        """
        busy, coming = self._busy, self._coming
        while True:
            while coming:
                for item in coming[0]:
                    lane = item[_LANE]
                    if lane is None:
                        yield item
                    elif lane not in busy:
                        busy[lane] = None
                        yield item
                    else:
                        self._wait_at(lane, item)
                coming.popleft()
            yield None

    def _wait_at(self, lane: Lane, item: Item) -> None:
        waiting = self._busy[lane]
        if waiting is None:
            self._busy[lane] = deque((item,))
        else:
            waiting.append(item)

    async def _work(self) -> None:
        try:
            await (self._work_groups() if self.context.stage.batch else self._work_singles())
        finally:
            self._tasks -= 1

    async def _work_singles(self) -> None:
        stage = self.context.stage
        simple = self.caller.is_plain and stage.kind == "coroutine" and stage.timeout_s is None
        simple = simple and self._faults is None
        call = self._call_any if self._faults is None else self._suffer_and_call
        handler = stage.handler
        busy, again, later = self._busy, self._again, self._later
        failures, parked = self._failures, self._failures.parking.keys
        is_parked = failures.parking.has
        guarded, keeps = failures.breaker is not None, failures.keeps
        keeps_lanes = self.context.keeps_lanes
        states = None if stage.state is None else self.context.states
        item: Item | None = None
        streak = begun = 0
        while True:
            item = item or (again.popleft() if again else next(self._free))
            if item is None:
                if self._closing:
                    return
                await self._rest()
                continue
            self._taken += 1
            taken = self._taken
            if (guarded or later.trials) and not self._is_passed_over(item):
                ready_item = later.prepare(item)
                if ready_item is None:
                    item = None
                    continue
                item, begun = ready_item
            number, lane, line, value, ready, partition = item
            pristine = None
            if keeps and (not later.trials or later.is_first(number)):
                pristine = snapshot(value)
            start = now_ns()
            try:
                if keeps_lanes and is_nothing(value):
                    raise IsNothing
                if parked and is_parked(lane, number):
                    raise IsParked
                if simple and type(value) is not list:
                    result = await handler(value)
                    if result is not value and result is not None:
                        result = self._odd(result, value)
                else:
                    result = await call(item)
                if self._encode and result is not None:
                    result = _encoded(result) if type(result) is list else result.to_line()
                if guarded or later.trials:
                    later.succeeded((number,), begun)
            except IsNothing:
                result = value
                start = 0
            except IsParked:
                result = later.parked(item)
                start = 0
            except FAILURES as error:
                if ends_the_task(error):
                    raise
                if later.failed((item,), error, begun, start, (pristine,)):
                    later.wait((item,))
                    item = None  # its lane stays busy with it
                    continue
                result = DEAD
                if failures.is_last:
                    kept = None if self._packs else line
                    self._done.append((number, lane, kept, ready, partition, DEAD, start, now_ns()))
                    self._flush_soon()
                    await self._loop.create_future()  # the run stops
            end = now_ns() if start else 0
            if states is not None and start:
                self._note_state(states, number, lane, value)
            kept = None if self._packs else line
            self._done.append((number, lane, kept, ready, partition, result, start, end))
            self._finished(1)
            item = None
            if lane is not None:
                waiting = busy[lane]
                if waiting:
                    item = waiting.popleft()
                else:
                    del busy[lane]  # nothing of it is in flight
            if self._taken == taken:  # nobody else took anything: it did not suspend
                streak += end - start
                if len(self._done) >= _FLUSH_AT:
                    await self._flush()
                elif streak > TURN_NS:
                    streak = 0
                    await asyncio.sleep(0)
            elif len(self._done) >= _MOST_DONE:
                await self._flush()

    def _is_passed_over(self, item: Item) -> bool:
        """Whether the handler is not called with it: nothing is begun."""
        nothing = self.context.keeps_lanes and is_nothing(item[_VALUE])
        return nothing or self._is_parked(item)

    def _note_state(self, states: StateLedger, number: int, lane: Lane, value: Value) -> None:
        key = self.caller.state_key((lane,), 0, value)
        if key is not None:
            states.note(key, number, self.caller.pickled(key))

    def _odd(self, result: Any, value: Value) -> Value:
        """A result that is neither the event itself nor nothing."""
        results: list[Any] = []
        self.caller.collect(result, value, results)
        return compact(results)

    async def _call_any(self, item: Item) -> Value:
        key = self.caller.state_key((item[_LANE],), 0, item[_VALUE])
        async with asyncio.timeout(self.context.stage.timeout_s):
            return await self.caller.handle_async(item[_VALUE], key)

    async def _suffer_and_call(self, item: Item) -> Value:
        """The same, with what is injected before."""
        key = self.caller.state_key((item[_LANE],), 0, item[_VALUE])
        async with asyncio.timeout(self.context.stage.timeout_s):
            await self._suffer((item,))
            return await self.caller.handle_async(item[_VALUE], key)

    async def _suffer(self, items: Sequence[Item]) -> None:
        """What is injected before a call with `items`. Raises InjectedError."""
        assert self._faults is not None
        for item in items:
            attempt = self._later.attempt_of(item)
            await self._faults.suffer_async(item[0], attempt, item[_VALUE])

    async def _rest(self) -> None:
        waiter = self._loop.create_future()
        self._idle.append(waiter)
        await waiter

    def _again_soon(self, items: list[Item]) -> None:
        """The time of these has come."""
        self._again += items
        self._schedule_pump()

    # --- batch handlers

    async def _work_groups(self) -> None:
        size = self.context.stage.batch or 1
        while True:
            items, lanes = self._take_group(size)
            if not items:
                if self._closing:
                    return
                await self._rest()
                continue
            for item in [each for each in items if self._is_parked(each)]:
                items.remove(item)
                self._put_done(item, self._later.parked(item), 0, 0)
                self._finished(1)
            if items:
                lanes -= await self._work_group(items)
            self._release(lanes)
            if len(self._done) >= _FLUSH_AT:
                await self._flush()

    def _is_parked(self, item: Item) -> bool:
        return self._failures.parking.has(item[_LANE], item[0])

    async def _work_group(self, items: list[Item]) -> set[Lane]:
        """Call the handler with `items`; gives the lanes that have to wait for another attempt."""
        prepared = self._later.prepare_all(items)
        if prepared is None:
            return self._keep_behind(items)
        items, begun = prepared
        kept = self._later.kept(items) if self._failures.keeps else ()
        start = now_ns()
        try:
            values = await self._call_batch(items)
        except FAILURES as error:
            if ends_the_task(error):
                raise
            waiting = self._later.failed(items, error, begun, start, kept)
            items = [item for item in items if item not in waiting]
            values = [DEAD] * len(items)
            lanes = self._keep_behind(waiting)
        else:
            self._later.succeeded([item[0] for item in items], begun)
            lanes = set()
        end = now_ns()
        for item, value in zip(items, values, strict=True):
            self._put_done(item, value, start, end)
        self._finished(len(items))
        return lanes

    def _keep_behind(self, items: Sequence[Item]) -> set[Lane]:
        """Of items that wait, only the first of a lane has a time; the others are behind it."""
        firsts: list[Item] = []
        behind: dict[Lane, list[Item]] = {}
        for item in items:
            lane = item[_LANE]
            if lane is None or lane not in behind:
                firsts.append(item)
                behind[lane] = []
            else:
                behind[lane].append(item)
        self._later.wait(firsts)
        behind.pop(None, None)
        for lane, others in behind.items():
            waiting = self._busy[lane]
            self._busy[lane] = deque([*others, *(waiting or ())]) or None
        return set(behind)

    def _take_group(self, size: int) -> tuple[list[Item], set[Lane]]:
        items: list[Item] = []
        lanes: set[Lane] = set()
        busy, again = self._busy, self._again
        while len(items) < size:
            is_own = bool(again)
            item = again.popleft() if again else self._next()
            if item is None:
                break
            lane = item[_LANE]
            if lane is not None and not is_own:
                # Beside one of its lane in this group it may go, unless others wait behind that.
                if lane in busy and (lane not in lanes or busy[lane]):
                    self._wait_at(lane, item)
                    continue
                busy[lane] = None
            if self._later.is_alone(item) and items:
                if lane in lanes and lane is not None:
                    busy[lane] = deque((item, *(busy[lane] or ())))
                else:
                    again.appendleft(item)
                break
            if lane is not None:
                lanes.add(lane)
            items.append(item)
            if self._later.is_alone(item):
                break
        return items, lanes

    def _release(self, lanes: set[Lane]) -> None:
        for lane in lanes:
            waiting = self._busy.pop(lane)
            if waiting:
                self._ready.extendleft(reversed(waiting))
        self._schedule_pump()

    async def _call_batch(self, items: Sequence[Item]) -> list[Value]:
        events, sizes = flatten([item[_VALUE] for item in items])
        async with asyncio.timeout(self.context.stage.timeout_s):
            if self._faults is not None:
                await self._suffer(items)
            result = await self.context.stage.handler(events, **self.caller.kwargs(None))
        values_out = list(regroup(self.caller.spread(result, events), sizes))
        if self._encode:
            return [None if value is None else _encoded(value) for value in values_out]
        return values_out

    # --- what is done goes on

    def _put_done(self, item: Item, value: Value, start: int, end: int) -> None:
        number, lane, line, _, ready, partition = item
        kept = None if self._packs else line
        self._done.append((number, lane, kept, ready, partition, value, start, end))

    def _finished(self, count: int) -> None:
        """So many more are done: make room, and see to it that they go on."""
        self._held -= count
        if self._room is not None and self._held < self._limit:
            _wake_up(self._room)
            self._room = None
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        """What ended in this turn of the loop goes on together."""
        self._flush_scheduled = False
        if self._done and self._sending is None:
            sending = self._send()
            try:
                self._sending = self._group.create_task(sending)
            except RuntimeError:  # the stage ends, by an error
                sending.close()

    async def _flush(self) -> None:
        """Wait until what is done now has gone on, or waits in the channel."""
        self._waiting_to_flush += 1
        if self._flushed is None:
            self._flushed = self._loop.create_future()
        self._flush_soon()
        await self._flushed
        self._waiting_to_flush -= 1

    async def _send(self) -> None:
        while self._done:
            done, self._done = self._done, []
            self._sending_now = len(done)
            halted = None
            if self.context.dead_letters.has_pending:
                halted = self.context.dead_letters.write()
            for _, part in groupby(done, key=_partition_of):
                await self._outbox.send(self._account(list(part)))
            if halted is not None:
                raise halted
            self._sending_now = 0
            self.meter.in_flight = self._held
            _wake_up(self._flushed)
            self._flushed = None
            self._schedule_pump()
        self._sending = None
        if not self._held:
            _wake_up(self._drained)

    def _account(self, done: list[Done]) -> Batch:
        """Measure what is done, and make it a batch."""
        numbers, lanes, lines, ready, _, values, starts, ends = zip(*done, strict=True)
        span = range(numbers[0], numbers[0] + len(numbers))
        indexes = span if numbers == tuple(span) else list(numbers)
        began, ended = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)
        kept_lanes = list(lanes) if self._ordered else None
        self._failures.handled(len(numbers))
        if began.all():
            self.meter.record(kept_lanes, indexes, ready, began, ended)
        else:
            places = np.flatnonzero(began)
            self.meter.record(
                None if kept_lanes is None else [lanes[place] for place in places],
                [numbers[place] for place in places],
                [ready[place] for place in places],
                began[places],
                ended[places],
            )
        batch = Batch(indexes, list(ends), kept_lanes, partition=done[0][_DONE_PARTITION])
        if self._packs:
            batch.out, batch.counts = pack_lines(list(values))
        else:
            batch.values, batch.roots = list(values), list(lines)
            batch.encoded = self._encode
        return batch


def _wake_up(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _partition_of(done: Done) -> int:
    return done[_DONE_PARTITION]


def _encoded(value: Value) -> Value:
    """The output lines of a value. Raises what Event.to_line() raises."""
    if type(value) is list:
        return [event.to_line() for event in value]
    return value.to_line()


def _items(batch: Batch) -> list[Item]:
    ready = batch.ready_ns
    return list(
        zip(
            batch.indexes,
            [None] * len(batch) if batch.lanes is None else batch.lanes,
            batch.lines(),
            batch.values or (),
            [ready] * len(batch) if isinstance(ready, int) else ready,
            batch.partitions or repeat(batch.partition, len(batch)),
            strict=True,
        )
    )


def _as_batch(items: list[Item], ordered: bool) -> Batch:
    numbers, lanes, lines, values, ready, partitions = map(list, zip(*items, strict=True))
    return Batch(numbers, ready, lanes if ordered else None, values, lines, partition=partitions[0])


async def _open(stage: StagePlan) -> Any:
    return await _maybe(stage.setup) if stage.setup is not None else None


async def _close(stage: StagePlan, resource: Any) -> None:
    if stage.teardown is not None:
        teardown = stage.teardown
        await _maybe(lambda: teardown(resource))


async def _maybe(call: Callable[[], Any | Awaitable[Any]]) -> Any:
    result = call()
    return await result if inspect.isawaitable(result) else result
