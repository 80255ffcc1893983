"""Async handlers: many events in flight, each lane one at a time.

Lanes of work are long-lived tasks that pull events. A handler that does not suspend costs a
function call: one task runs on, and others are woken only once it has suspended.
"""

from __future__ import annotations

import asyncio
import inspect
from array import array
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from ..batch import DEAD, Batch, Value
from ..channel import Channel, EndOfStream
from ..order import Lane
from ..plan import StagePlan
from .base import TURN_NS, StageContext, as_ints, now_ns
from .calling import Caller, compact
from .grouping import groups
from .groups import flatten, regroup

Item = tuple[int, Lane, bytes, Value, int]
"""Number, lane, line, value, when it was ready."""

_FLUSH_AT = 512
_LOOK_AHEAD = 1024


class _Done:
    """Events that ended, by column, until they are sent on."""

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.lanes: list[Lane] = []
        self.lines: list[bytes] = []
        self.values: list[Value] = []
        self.ready, self.starts, self.ends = array("q"), array("q"), array("q")

    def add(self, item: Item, value: Value, start: int, end: int) -> None:
        index, lane, line, _, ready = item
        self.indexes.append(index)
        self.lanes.append(lane)
        self.lines.append(line)
        self.values.append(value)
        self.ready.append(ready)
        self.starts.append(start)
        self.ends.append(end)


class CoroutineExecutor:
    """One stage of async handlers."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.meter = context.meter
        stage = context.stage
        self.caller = Caller(stage, context.mapping, by_lane=context.order == "key")
        self._ready: deque[Item] = deque()  # bounded by _limit, with _busy
        self._busy: dict[Lane, deque[Item] | None] = {}  # lanes in flight, and who waits for them
        self._idle: list[asyncio.Future[None]] = []
        self._tasks = 0
        self._held = 0
        self._limit = stage.concurrency * (stage.batch or 1) + max(_LOOK_AHEAD, stage.concurrency)
        self._taken = 0
        self._burst = 1
        self._pump_scheduled = False
        self._closing = False
        self._done = _Done()
        self._ordered = context.order != "none"
        self._room: asyncio.Future[None] | None = None
        self._flush: asyncio.Future[None] | None = None
        self._flushed: asyncio.Future[None] | None = None

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        self._loop = asyncio.get_running_loop()
        self.caller.resource = await _open(self.context.stage)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                flusher = tasks.create_task(self._flush_until_closed(outbox))
                await self._feed(inbox, outbox)
                await flusher
        finally:
            await _close(self.context.stage, self.caller.resource)
        outbox.close()

    # --- intake

    async def _feed(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        stage = self.context.stage
        if stage.batch:
            async for batch in groups(inbox, stage.batch, stage.batch_wait_s, self.context.unpack):
                await self._take_in(batch, outbox)
        else:
            while True:
                try:
                    batch = await inbox.receive()
                except EndOfStream:
                    break
                self.context.unpack(batch)
                await self._take_in(batch, outbox)
        self._closing = True
        self._wake(len(self._idle))
        self._wake_flusher()

    async def _take_in(self, batch: Batch, outbox: Channel[Batch]) -> None:
        items = _items(batch)
        if not batch.singles:
            passed = [item for item in items if item[3] is None or item[3] is DEAD]
            if passed:
                await outbox.send(_as_batch(passed, self._ordered))
                items = [item for item in items if item[3] is not None and item[3] is not DEAD]
        self._ready.extend(items)
        self._held += len(items)
        self._schedule_pump()
        while self._held >= self._limit:
            self._room = self._loop.create_future()
            await self._room

    # --- lanes of work

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled and self._ready:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Put more tasks to work while there is something to take; ever more at a time."""
        self._pump_scheduled = False
        waiting = len(self._ready)
        if not waiting:
            self._burst = 1
            return
        wanted = min(waiting, self._burst)
        woken = self._wake(wanted)
        spare = min(wanted - woken, self.context.stage.concurrency - self._tasks)
        for _ in range(spare):
            self._tasks += 1
            self._group.create_task(self._work(), name=f"stage:{self.context.stage.name}")
        self._burst = min(self._burst * 2, 4096)
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

    def _take(self) -> Item | None:
        """The next event whose lane is free; those of busy lanes wait at their lane."""
        ready, busy = self._ready, self._busy
        while ready:
            item = ready.popleft()
            lane = item[1]
            if lane is None:
                return item
            if lane not in busy:
                busy[lane] = None
                return item
            waiting = busy[lane]
            if waiting is None:
                busy[lane] = deque((item,))
            else:
                waiting.append(item)
        return None

    def _next_of(self, lane: Lane) -> Item | None:
        """The event that waits for `lane`, which is free now; a lane with none is forgotten."""
        waiting = self._busy[lane]
        if waiting:
            return waiting.popleft()
        del self._busy[lane]
        return None

    async def _work(self) -> None:
        try:
            await (self._work_groups() if self.context.stage.batch else self._work_singles())
        finally:
            self._tasks -= 1

    async def _work_singles(self) -> None:
        call = self._call_plain if self._is_simple() else self._call_any
        item: Item | None = None
        streak = 0
        while True:
            item = item or self._take()
            if item is None:
                if self._finished():
                    return
                await self._rest()
                continue
            self._taken += 1
            taken = self._taken
            start = now_ns()
            try:
                value = await call(item)
            except Exception as error:
                value = self.context.dead(item[0], item[2], self._explained(error))
            end = now_ns()
            self._complete(item, value, start, end)
            item = self._next_of(item[1]) if item[1] is not None else None
            if self._taken == taken:  # nobody else took anything: it did not suspend
                streak += end - start
                if streak > TURN_NS:
                    streak = 0
                    await asyncio.sleep(0)
            if len(self._done.indexes) >= _FLUSH_AT:
                await self._wait_flushed()

    def _is_simple(self) -> bool:
        stage = self.context.stage
        return self.caller.is_plain and stage.kind == "coroutine" and stage.timeout_s is None

    async def _call_plain(self, item: Item) -> Value:
        value = item[3]
        if type(value) is list:
            return await self.caller.handle_async(value, None)
        result = await self.context.stage.handler(value)
        if result is value or result is None:
            return result
        results: list[Any] = []
        self.caller.collect(result, value, results)
        return compact(results)

    async def _call_any(self, item: Item) -> Value:
        key = self.caller.state_key((item[1],), 0, item[3])
        async with asyncio.timeout(self.context.stage.timeout_s):
            return await self.caller.handle_async(item[3], key)

    def _explained(self, error: Exception) -> Exception:
        limit = self.context.stage.timeout_s
        if isinstance(error, TimeoutError) and limit is not None and not error.args:
            return TimeoutError(f"stage {self.context.stage.name!r} took longer than {limit} s")
        return error

    def _complete(self, item: Item, value: Value, start: int, end: int) -> None:
        self._done.add(item, value, start, end)
        if self._flush is not None:
            self._wake_flusher()

    def _finished(self) -> bool:
        return self._closing and not self._ready

    async def _rest(self) -> None:
        waiter = self._loop.create_future()
        self._idle.append(waiter)
        await waiter

    # --- batch handlers

    async def _work_groups(self) -> None:
        size = self.context.stage.batch or 1
        while True:
            items, lanes = self._take_group(size)
            if not items:
                if self._finished():
                    return
                await self._rest()
                continue
            start = now_ns()
            values = await self._call_group(items)
            end = now_ns()
            for item, value in zip(items, values, strict=True):
                self._complete(item, value, start, end)
            self._release(lanes)
            if len(self._done.indexes) >= _FLUSH_AT:
                await self._wait_flushed()

    def _take_group(self, size: int) -> tuple[list[Item], set[Lane]]:
        items: list[Item] = []
        lanes: set[Lane] = set()
        ready, busy = self._ready, self._busy
        while ready and len(items) < size:
            item = ready.popleft()
            lane = item[1]
            if lane is not None and lane not in lanes:
                if lane in busy:
                    waiting = busy[lane]
                    if waiting is None:
                        waiting = busy[lane] = deque()
                    waiting.append(item)
                    continue
                busy[lane] = None
                lanes.add(lane)
            items.append(item)
        return items, lanes

    def _release(self, lanes: set[Lane]) -> None:
        for lane in lanes:
            waiting = self._busy.pop(lane)
            if waiting:
                self._ready.extendleft(reversed(waiting))
        self._schedule_pump()

    async def _call_group(self, items: list[Item]) -> list[Value]:
        try:
            return await self._call_batch([item[3] for item in items])
        except Exception as error:
            if len(items) == 1:
                return [self.context.dead(items[0][0], items[0][2], self._explained(error))]
        # One call an event tells which of them is to blame.
        values: list[Value] = []
        for item in items:
            values += await self._call_group([item])
        return values

    async def _call_batch(self, values: list[Value]) -> list[Value]:
        events, sizes = flatten(values)
        async with asyncio.timeout(self.context.stage.timeout_s):
            result = await self.context.stage.handler(events, **self.caller.kwargs(None))
        return list(regroup(self.caller.spread(result, events), sizes))

    # --- what is done goes on

    def _wake_flusher(self) -> None:
        if self._flush is not None and not self._flush.done():
            self._flush.set_result(None)

    async def _wait_flushed(self) -> None:
        if self._flushed is None or self._flushed.done():
            self._flushed = self._loop.create_future()
        await self._flushed

    async def _flush_until_closed(self, outbox: Channel[Batch]) -> None:
        while True:
            done = self._done
            if not done.indexes:
                if self._closing and not self._held:
                    return
                self._flush = self._loop.create_future()
                await self._flush
                self._flush = None
                continue
            self._done = _Done()
            if self._flushed is not None and not self._flushed.done():
                self._flushed.set_result(None)
            self._account(done)
            if self.context.dead_letters.has_pending:
                self.context.dead_letters.flush()
            lanes = done.lanes if self._ordered else None
            await outbox.send(
                Batch(done.indexes, done.ends, lanes, done.values, done.lines, singles=False)
            )

    def _account(self, done: _Done) -> None:
        self._held -= len(done.indexes)
        self.meter.in_flight = self._held
        if self._room is not None and self._held < self._limit and not self._room.done():
            self._room.set_result(None)
        lanes = done.lanes if self._ordered else None
        starts, ends = as_ints(done.starts), as_ints(done.ends)
        self.meter.record(lanes, done.indexes, done.ready, starts, ends)


def _items(batch: Batch) -> list[Item]:
    ready = batch.ready_ns
    stamps = [ready] * len(batch) if isinstance(ready, int) else ready
    lanes: list[Lane] = [None] * len(batch) if batch.lanes is None else batch.lanes
    columns = (batch.indexes, lanes, batch.lines(), batch.values or (), stamps)
    return list(zip(*columns, strict=True))


def _as_batch(items: list[Item], ordered: bool) -> Batch:
    indexes, lanes, lines, values, ready = (list(column) for column in zip(*items, strict=True))
    return Batch(indexes, ready, lanes if ordered else None, values, lines)


async def _open(stage: StagePlan) -> Any:
    return await _maybe(stage.setup) if stage.setup is not None else None


async def _close(stage: StagePlan, resource: Any) -> None:
    if stage.teardown is not None:
        teardown = stage.teardown
        await _maybe(lambda: teardown(resource))


async def _maybe(call: Callable[[], Any | Awaitable[Any]]) -> Any:
    result = call()
    return await result if inspect.isawaitable(result) else result
