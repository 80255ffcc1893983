"""Plain functions, called in the loop itself, one event after another.

Everything is in order whatever the order asked for. The stage gives the loop a turn every 10 ms.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from typing import Any

from ..batch import Batch, Value, by_partition, is_nothing
from ..channel import Channel, EndOfStream
from ..codecs import Bad
from ..order import lanes_of
from .base import TURN_NS, StageContext, as_ints, now_ns
from .calling import Caller, Resource, compact
from .cancelling import FAILURES, ends_the_task
from .grouping import groups
from .groups import flatten, regroup
from .line_loop import Handled, handle_lines, is_utf8


class InlineExecutor:
    """One stage of plain functions."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.meter = context.meter
        self.caller = Caller(context.stage, context.mapping, by_lane=context.order == "key")
        self._call = self.caller.call
        self._in_hand = 0
        self._grouped: list[Batch] = []

    @property
    def pending(self) -> int:
        """Events in its hands: those that came in and have not gone out."""
        return self._in_hand + sum(map(len, self._grouped))

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        resource = Resource(self.context.stage)
        try:
            self.caller.resource = resource.open()
        except FAILURES as error:
            raise self.context.setup_failed(error) from error
        try:
            if self.context.stage.batch:
                await self._run_groups(inbox, outbox)
            else:
                await self._run_batches(inbox, outbox)
        except asyncio.CancelledError as error:
            if ends_the_task(error):
                raise
            # A task that ends as if it was cancelled would leave the others waiting.
            name = self.context.stage.name
            raise RuntimeError(f"the handler of stage {name!r} raised CancelledError") from error
        finally:
            try:
                resource.close()
            except FAILURES as error:
                self.context.teardown_failed(error)
        outbox.close()

    async def _run_batches(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        is_plain = self.caller.is_plain
        turn = now_ns()
        while True:
            try:
                batch = await inbox.receive()
            except EndOfStream:
                return
            if batch.values is None and batch.block is not None:
                handle = self._handle_lines
            else:
                self.context.unpack(batch)
                handle = self._handle_singles if is_plain and batch.singles else self._handle_any
            start = 0
            while start < len(batch):
                self._in_hand = len(batch) - start
                done = handle(batch, start)
                start += len(done)
                if self.context.dead_letters.has_pending:
                    self.context.dead_letters.flush()
                await outbox.send(done)
                if now_ns() - turn > TURN_NS:
                    await asyncio.sleep(0)
                    turn = now_ns()
            self._in_hand = 0

    def _handle_lines(self, batch: Batch, start: int) -> Batch:
        """Raw lines of the source, decoded here, one after another."""
        context = self.context
        encode = context.encodes()
        lines = batch.lines()
        block = batch.block
        assert block is not None
        done = handle_lines(
            lines[start:] if start else lines,
            context.decoder_of(batch.partition),
            self._call,
            self._odd,
            encode=encode,
            turn_ns=TURN_NS,
            is_utf8=is_utf8(lines, block.data),
        )
        count = len(done.values)
        out = batch.part(start, start + count)
        for failure in done.failures:
            index, line = batch.indexes[start + failure.place], lines[start + failure.place]
            if isinstance(failure.error, Bad):
                context.malformed(index, line, failure.error)
            else:
                context.dead(index, line, failure.error)
        out.lanes = lanes_of(context.order, done.keys, batch.partition, count)
        self._record_lines(out, done)
        out.ready_ns = done.stamps[1:]
        out.block = None
        if encode and not context.by_event:
            # Joined while it is warm; nobody needs the lines any more.
            out.out, out.counts = done.packed()
            out.values, out.roots = None, None
        else:
            out.values = done.values
            out.singles, out.encoded = not done.odd, encode
        return out

    def _record_lines(self, out: Batch, done: Handled) -> None:
        times = as_ints(done.stamps)
        starts, ends = times[:-1], times[1:]
        no_events = {f.place for f in done.failures if isinstance(f.error, Bad)}
        if no_events:
            kept = [place for place in range(len(out)) if place not in no_events]
            starts, ends = starts[kept], ends[kept]
            indexes = [out.indexes[place] for place in kept]
            lanes = None if out.lanes is None else [out.lanes[place] for place in kept]
            self.meter.record(lanes, indexes, out.ready_ns, starts, ends)
        else:
            self.meter.record(out.lanes, out.indexes, out.ready_ns, starts, ends)

    def _handle_singles(self, batch: Batch, start: int) -> Batch:
        """The hot loop: one event a place, and a handler that takes the event alone."""
        values = batch.values or []
        handler = self.context.stage.handler
        out: list[Value] = []
        put = out.append
        stamps = array("q", (now_ns(),))
        stamp = stamps.append
        until = stamps[0] + TURN_NS
        singles = True
        for value in values[start:] if start else values:
            try:
                result = handler(value)
                if result is not value and result is not None:
                    result = self._odd(result, value)
                    singles = singles and type(result) is not list
            except (Exception, SystemExit) as error:
                place = start + len(out)
                result = self.context.dead(batch.indexes[place], batch.lines()[place], error)
                singles = False
            put(result)
            at = now_ns()
            stamp(at)
            if at > until:
                break
        done = batch.part(start, start + len(out))
        times = as_ints(stamps)
        ready = done.ready_ns
        self.meter.record(done.lanes, done.indexes, ready, times[:-1], times[1:])
        done.values, done.ready_ns = out, stamps[1:]
        done.singles = singles and None not in out
        return done

    def _odd(self, result: Any, value: Value) -> Value:
        """A result that is neither the event itself nor nothing."""
        results: list[Any] = []
        self.caller.collect(result, value, results)
        return compact(results)

    def _handle_any(self, batch: Batch, start: int) -> Batch:
        """Places that hold several events or none, handlers that take more than the event."""
        values = batch.values or []
        lanes = batch.lanes
        out: list[Value] = []
        places: list[int] = []
        starts, ends, ready = array("q"), array("q"), array("q")
        at = now_ns()
        until = at + TURN_NS
        for place in range(start, len(values)):
            value = values[place]
            if not is_nothing(value):
                places.append(place)
                starts.append(at)
                value = self._handle_one(batch, place, value, lanes)
                at = now_ns()
                ends.append(at)
            out.append(value)
            ready.append(at)
            if at > until:
                break
        if places:
            self._record_places(batch, places, starts, ends)
        done = batch.part(start, start + len(out))
        done.values, done.ready_ns = out, ready
        done.singles = False
        return done

    def _handle_one(
        self, batch: Batch, place: int, value: Value, lanes: Sequence[Any] | None
    ) -> Value:
        try:
            return self.caller.handle(value, self.caller.state_key(lanes, place, value))
        except (Exception, SystemExit) as error:
            return self.context.dead(batch.indexes[place], batch.lines()[place], error)

    def _record_places(
        self, batch: Batch, places: list[int], starts: array[int], ends: array[int]
    ) -> None:
        ready = batch.ready_ns
        self.meter.record(
            None if batch.lanes is None else [batch.lanes[p] for p in places],
            [batch.indexes[p] for p in places],
            ready if isinstance(ready, int) else [ready[p] for p in places],
            as_ints(starts),
            as_ints(ends),
        )

    async def _run_groups(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        stage = self.context.stage
        assert stage.batch is not None
        coming = groups(inbox, stage.batch, stage.batch_wait_s, self.context.unpack, self._grouped)
        async for group in coming:
            self._in_hand = len(group)
            done = self._handle_group(group)
            if self.context.dead_letters.has_pending:
                self.context.dead_letters.flush()
            for part in by_partition(done):
                await outbox.send(part)
            self._in_hand = 0
            await asyncio.sleep(0)

    def _handle_group(self, group: Batch) -> Batch:
        """One call with a list of events; when it fails, one call an event finds which."""
        values = group.values or []
        places = [p for p, value in enumerate(values) if not is_nothing(value)]
        kwargs = self.caller.kwargs(None)
        handler = self.context.stage.handler
        out = list(values)
        starts = array("q", [now_ns()]) * len(places)
        try:
            events, sizes = flatten([values[p] for p in places])
            results = self.caller.spread(handler(events, **kwargs) if events else None, events)
            for place, value in zip(places, regroup(results, sizes), strict=True):
                out[place] = value
        except (Exception, SystemExit) as error:
            for place in places:
                out[place] = self._alone(group, place, error, len(places))
        ends = array("q", [now_ns()]) * len(places)
        if places:
            self._record_places(group, places, starts, ends)
        group.values, group.ready_ns, group.singles = out, now_ns(), False
        return group

    def _alone(self, group: Batch, place: int, error: BaseException, size: int) -> Value:
        try:
            if size == 1:
                raise error
            events, sizes = flatten([(group.values or [])[place]])
            handler = self.context.stage.handler
            results = self.caller.spread(handler(events, **self.caller.kwargs(None)), events)
            return next(iter(regroup(results, sizes)))
        except (Exception, SystemExit) as own:
            return self.context.dead(group.indexes[place], group.lines()[place], own)
