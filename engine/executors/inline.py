"""Plain functions, called in the loop itself, one event after another.

Everything is in order whatever the order asked for. The stage gives the loop a turn every 10 ms.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from ..batch import DEAD, Batch, Value, is_nothing
from ..channel import Channel, EndOfStream
from ..codecs import Bad
from ..order import lanes_of
from .base import TURN_NS, StageContext, as_ints, now_ns
from .call_faults import CallFaults
from .calling import Caller, Resource, compact
from .cancelling import FAILURES
from .failing import Trial
from .grouping import groups, receive_until
from .groups import flatten, regroup
from .line_loop import Handled, decoded, handle_lines, is_utf8
from .one_by_one import Call, OneByOne


class InlineExecutor:
    """One stage of plain functions."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.meter = context.meter
        self.caller = Caller(context.stage, context.mapping, by_lane=context.order == "key")
        self._call = self.caller.call
        self._in_hand = self._no_events = 0
        self._grouped: list[Batch] = []
        self._failures = context.failures
        self._faults = context.call_faults(self.caller)
        self._is_careful = context.failures.keeps or self._faults is not None
        call = self._call_group if context.stage.batch else self._call_single
        self._trials = OneByOne(
            context,
            call if self._faults is None else self._suffering(self._faults, call),
            encoded=not context.stage.batch,
            ended=self._note_state,
        )
        self._held: tuple[BaseException, int] | None = None
        """What the next event failed with, and when that attempt began."""

    @property
    def pending(self) -> int:
        """Events in its hands: those that came in and have not gone out."""
        return self._in_hand + self._trials.pending + sum(map(len, self._grouped))

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        resource = Resource(self.context.stage)
        try:
            self.caller.resource = resource.open()
            self.caller.restore(self.context.states_before)
        except FAILURES as error:
            raise self.context.setup_failed(error) from error
        self.context.ready.set()
        try:
            if self.context.stage.batch:
                await self._run_groups(inbox, outbox)
            else:
                await self._run_batches(inbox, outbox)
        finally:
            try:
                resource.close()
            except FAILURES as error:
                self.context.teardown_failed(error)
        outbox.close()

    async def _run_batches(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        self._turn = now_ns()
        careful = self._is_careful or self.context.states is not None
        while True:
            try:
                batch = await self._next_batch(inbox, outbox)
            except EndOfStream:
                break
            handle = self._way_of(batch)
            if self._failures.is_last:  # a line that is no event
                self.context.dead_letters.flush()
            start = 0
            while start < len(batch):
                self._in_hand = len(batch) - start
                is_raw = handle == self._handle_lines  # whose results are encoded in the attempt
                parks = self._failures.parking.on and not is_raw
                if careful or parks or self._trials.is_needed:
                    start += self._one_by_one(batch, start)
                    await self._send_trials(outbox)
                    if self._trials.takes_no_more:
                        await self._wait_for_trials(outbox)
                    continue
                self._no_events = 0
                done = handle(batch, start)
                start += len(done)
                self._failures.passed(len(done) - self._no_events)
                held, self._held = self._held, None
                failed = self._trial(batch, start) if held is not None else None
                await self._send(done, outbox)
                if held is not None and failed is not None:
                    self._trials.failed([failed], *held)
                    start += 1
                    await self._send_trials(outbox)
            self._in_hand = 0
        while self._trials.room:
            await self._wait_for_trials(outbox)

    def _way_of(self, batch: Batch) -> Callable[[Batch, int], Batch]:
        if batch.values is None and batch.block is not None:
            return self._handle_lines
        self.context.unpack(batch)
        is_simple = self.caller.is_plain and batch.singles
        return self._handle_singles if is_simple else self._handle_any

    async def _send(self, done: Batch, outbox: Channel[Batch]) -> None:
        halted = None
        if self.context.dead_letters.has_pending:
            halted = self.context.dead_letters.write()
        if len(done):
            self._failures.handled(len(done))
            await outbox.send(done)
        if halted is not None:
            raise halted
        if now_ns() - self._turn > TURN_NS:
            await asyncio.sleep(0)
            self._turn = now_ns()

    # --- while something is amiss

    async def _next_batch(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> Batch:
        """The next batch; meanwhile what is due is tried. Raises EndOfStream."""
        while True:
            due = self._trials.next_ns()
            if due is None:
                return await inbox.receive()
            if self._trials.takes_no_more or due <= now_ns():
                await self._wait_for_trials(outbox)
                continue
            deadline = asyncio.get_running_loop().time() + (due - now_ns()) / 1e9
            batch = await receive_until(inbox, deadline)
            if batch is not None:
                return batch

    async def _wait_for_trials(self, outbox: Channel[Batch]) -> None:
        """Wait for what is due next, and try it."""
        due = self._trials.next_ns()
        if self._failures.is_held_back:
            may_begin = self._failures.may_begin_ns()
            due = may_begin if due is None else min(due, may_begin)
        due = due or now_ns()
        if due > now_ns():
            await asyncio.sleep((due - now_ns()) / 1e9)
        self._trials.serve(now_ns() + TURN_NS)
        await self._send_trials(outbox)

    async def _send_trials(self, outbox: Channel[Batch]) -> None:
        for part in self._trials.sent():
            await self._send(part, outbox)

    def _one_by_one(self, batch: Batch, start: int) -> int:
        """Take events of `batch` from `start` on, for a turn; gives how many."""
        trials = self._trials
        until = now_ns() + TURN_NS
        place = start
        while place < len(batch) and not (trials.takes_no_more or trials.is_done_full):
            trials.serve(until)
            if self._failures.is_last:
                break
            trials.take(self._trial(batch, place))
            place += 1
            if now_ns() > until or self._failures.is_last:
                break
        trials.complete()
        return place - start

    def _trial(self, batch: Batch, place: int) -> Trial:
        """The event at `place`; a line that is none is buried here."""
        ready = batch.ready_ns if isinstance(batch.ready_ns, int) else batch.ready_ns[place]
        index, line, partition = batch.indexes[place], batch.lines()[place], batch.partition
        if batch.partitions is not None:
            partition = batch.partitions[place]
        if batch.values is not None:
            lane = None if batch.lanes is None else batch.lanes[place]
            return Trial(index, lane, line, batch.values[place], ready, partition)
        decoder = self.context.decoder_of(partition)
        (event,) = decoded([line], decoder, is_utf8=False)
        if isinstance(event, Bad):
            self.context.malformed(index, line, event)
            return Trial(index, None, line, DEAD, ready, partition)
        lanes = lanes_of(self.context.order, [event._key], partition, 1)
        return Trial(index, lanes[0] if lanes else None, line, event, ready, partition)

    def _suffering(self, faults: CallFaults, call: Call) -> Call:
        """A call that suffers first what it is to suffer."""

        def suffer_and_call(trials: Sequence[Trial]) -> Sequence[Value]:
            for trial in trials:
                faults.suffer(trial.index, trial.attempts + 1, trial.value)
            return call(trials)

        return suffer_and_call

    def _call_single(self, trials: Sequence[Trial]) -> list[Value]:
        (trial,) = trials
        key = self.caller.state_key((trial.lane,), 0, trial.value)
        value = self.caller.handle(trial.value, key)
        if value is not None and self.context.encodes():
            value = [e.to_line() for e in value] if type(value) is list else value.to_line()
        return [value]

    def _note_state(self, trial: Trial) -> None:
        if self.context.states is not None and self.context.stage.state is not None:
            key = self.caller.state_key((trial.lane,), 0, trial.value)
            if key is not None:
                self.context.states.note(key, trial.index, self.caller.pickled(key))

    def _call_group(self, trials: Sequence[Trial]) -> list[Value]:
        events, sizes = flatten([trial.value for trial in trials])
        results = self.context.stage.handler(events, **self.caller.kwargs(None))
        values = list(regroup(self.caller.spread(results, events), sizes))
        if self._failures.parking.on and self.context.encodes():
            for event in flatten([each for each in values if not is_nothing(each)])[0]:
                event.to_line()  # what can't be written parks its key now
        return values

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
            holds=self._failures.holds,
            stops=self._failures.would_stop,
            is_utf8=is_utf8(lines, block.data),
        )
        count = len(done.values)
        if done.held is not None:
            self._held = done.held, done.stamps[-1]
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
        self._no_events = len(no_events)
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
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if self._failures.holds(error):
                    self._held = error, stamps[-1]
                    break
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
                try:
                    value = self.caller.handle(value, self.caller.state_key(lanes, place, value))
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    if self._failures.holds(error):
                        self._held = error, at
                        break
                    value = self.context.dead(batch.indexes[place], batch.lines()[place], error)
                places.append(place)
                starts.append(at)
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
        """Batch handlers: groups as they come, and groups of events that are due."""
        stage, trials = self.context.stage, self._trials
        assert stage.batch is not None
        self._turn = now_ns()
        coming = groups(
            inbox,
            stage.batch,
            stage.batch_wait_s,
            self.context.unpack,
            self._grouped,
            alarm=self._alarm,
        )
        async for group in coming:
            while trials.takes_no_more or (group is None and trials.is_due):
                await self._wait_for_trials(outbox)
            if group is None:
                continue
            for place in range(len(group)):
                trials.take(self._trial(group, place))
            trials.complete()
            await self._send_trials(outbox)
            await asyncio.sleep(0)
        while trials.room:
            await self._wait_for_trials(outbox)

    def _alarm(self) -> float | None:
        """When something is due, by the loop's clock."""
        due = self._trials.next_ns()
        if due is None:
            return None
        return asyncio.get_running_loop().time() + max(0, due - now_ns()) / 1e9
