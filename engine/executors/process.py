"""Worker processes: own supervised ones, spawned, each over a socket pair in the loop.

Lines cross as they came and are decoded by the worker. A lane is bound to one worker only while
it has events in flight there; free lanes go to the worker with least to do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from operator import is_
from typing import Any

import msgspec
import numpy as np

from ..batch import DEAD, Batch, Value, is_nothing, split_out
from ..channel import Channel, EndOfStream
from ..codecs import Decoder, make_decoder
from ..dead_letters import ErrorInfo, Halted
from ..histogram import Ints
from ..loading import HandlerNotFound, Reference, reference_to
from ..order import Lane
from ..reading import Reader
from .base import StageContext, WorkerNotReplaced
from .cancelling import to_the_end
from .failing import Trial
from .holding import OUT_OF_MEMORY
from .returns import Returns
from .wire import (
    Done,
    End,
    Failed,
    Partition,
    Start,
    WireEvent,
    WireValue,
    Work,
    value_from_wire,
    value_to_wire,
)
from .worker import (
    FRAME_BYTES,
    STOPPED_TWICE,
    DiedAtStart,
    Frame,
    WorkerProcess,
    how_it_ended,
    signal_name,
)

FRAME_EVENTS = 512
FRAME_NS = 20_000_000
"""A frame aims at no more work than this, so that a worker answers often."""
UNKNOWN_EVENTS = 16
"""A frame has so many events while it is not known how long one takes."""
IN_FLIGHT = 2
"""Frames that a worker has at once: one that it works on, one that waits."""
LOOK_AFTER_S = 0.25
_SENT_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WORD = 2**64 - 1
START_ATTEMPTS = 3
"""How often a worker is started in the place of one that died, when others kill it as it starts."""
MOST_IDLE_DEATHS = 10
"""Workers that died in a row, without having handled anything, before the run gives up."""
STOP_TIMEOUT_S = 10.0


class ProcessExecutor:
    """One stage in worker processes."""

    def __init__(
        self,
        context: StageContext,
        readers: Sequence[Reader],
    ) -> None:
        self.context = context
        self.meter = context.meter
        self._readers = readers
        self._workers: list[WorkerProcess] = []
        self._owners: dict[Lane, Frame] = {}
        """The frame that a lane's last event went to; done ones are swept out now and then."""
        self._sweep_at = 4096
        self._ready: deque[Frame] = deque()  # frames of unordered events, for whoever is free
        self._states: dict[Lane, bytes] = {}
        self._next_id = 0
        self._held = 0
        self._service_ns = 0.0
        """What an event takes, as of late; 0: not known yet."""
        self._answers = 0
        self._done: deque[Batch] = deque()
        self._sender: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._closing = False
        self._error: BaseException | None = None
        self._decoders: dict[int, Decoder] = {}
        self._idle_deaths = 0
        self._replacing: set[asyncio.Future[None]] = set()
        self._fresh: set[WorkerProcess] = set()
        """Workers that start in place of dead ones."""
        self._stopping = False
        self._state_holder: WorkerProcess | None = None
        self._limit = FRAME_EVENTS * IN_FLIGHT * 2 * context.stage.workers
        self._failures = context.failures
        self._returns = Returns(context)
        self._alarm: asyncio.TimerHandle | None = None
        self._is_over = False

    @property
    def pending(self) -> int:
        """Events in its hands: those that came in and have not gone out."""
        return self._held

    @property
    def pids(self) -> list[int]:
        """The processes that are alive."""
        processes = [each.process for each in (*self._workers, *self._fresh)]
        return [each.pid for each in processes if each is not None and each.returncode is None]

    @property
    def targets(self) -> list[WorkerProcess]:
        """The workers that may be killed or stopped on purpose."""
        return [each for each in self._workers if each.is_ready]

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        self._loop = asyncio.get_running_loop()
        self._states.update(self.context.states_before)
        self._start = self._start_message()
        self._workers = [WorkerProcess(self) for _ in range(self.context.stage.workers)]
        try:
            async with asyncio.TaskGroup() as starting:
                for worker in self._workers:
                    starting.create_task(worker.start(self._start))
            self.context.ready.set()
            try:
                async with asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(self._look_after_workers())
                    sending = tasks.create_task(self._send_on(outbox))
                    await self._feed(inbox, outbox)
                    await sending
                    watch.cancel()
            except BaseExceptionGroup:
                if isinstance(self._error, Halted):  # what was done by then goes on
                    while self._done:
                        await outbox.send(self._done.popleft())
                raise
            self._is_over = True
        finally:
            await to_the_end(self._stop())
        outbox.close()

    async def _look_after_workers(self) -> None:
        stage = self.context.stage
        pause_s = LOOK_AFTER_S if stage.timeout_s is None else min(LOOK_AFTER_S, stage.timeout_s)
        while True:
            await asyncio.sleep(pause_s)
            for worker in self._workers:
                worker.look_after(stage.timeout_s, is_async=stage.is_async)

    def _start_message(self) -> Start:
        stage, faults = self.context.stage, self.context.faults
        name = stage.name

        def reference(each: Any) -> Reference | None:
            return None if each is None else reference_to(each, name)

        return Start(
            name=name,
            handler=reference_to(stage.handler, name),
            kind=stage.kind,
            batch=stage.batch,
            concurrency=stage.concurrency,
            types=stage.types,
            max_outputs=stage.max_outputs,
            injected=stage.injected,
            setup=reference(stage.setup),
            teardown=reference(stage.teardown),
            state=reference(stage.state),
            mapping=self.context.mapping.paths,
            path=[os.path.abspath(each) for each in sys.path],
            order=self.context.order,
            attempts=stage.policy.attempts,
            retry_on=None if stage.policy.on is None else _kinds(stage.policy.on, name),
            retry_never=_kinds(stage.policy.never, name),
            holds_all=self._failures.parking.on,
            keeps_states=self.context.states is not None and stage.state is not None,
            guards=stage.breaker is not None,
            timeout_s=stage.timeout_s,
            memory=stage.memory,
            inject=() if faults is None else tuple(fault.text for fault in faults.faults),
            seed=0 if faults is None else faults.seed & _WORD,
        )

    async def _stop(self) -> None:
        self._stopping = True
        if self._alarm is not None:
            self._alarm.cancel()
        workers = [*self._workers, *self._fresh]
        for worker in self._fresh:
            worker.ending = True
            worker.kill()
        if self._replacing:
            await asyncio.wait(self._replacing)
        for worker in workers:
            worker.ending = True
            if worker.was_struck:
                worker.strike(signal.SIGCONT)
            if worker.transport is not None and not worker.transport.is_closing():
                worker.send(End())
        gone = [w.gone for w in workers if w.gone is not None and w.process is not None]
        if gone:
            _, left = await asyncio.wait(gone, timeout=STOP_TIMEOUT_S if self._is_over else 0.1)
            if left:
                if self._is_over:
                    self.on_broken_end(f"it took longer than {STOP_TIMEOUT_S:g} s, and was ended")
                for worker in workers:
                    worker.kill()
                await asyncio.wait(left, timeout=10)  # each is reaped when it has gone
        for worker in workers:
            if worker.transport is not None:
                worker.transport.close()

    # --- intake

    async def _feed(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        while True:
            try:
                batch = await inbox.receive()
            except EndOfStream:
                break
            if not (batch.values is None or batch.singles or self.context.keeps_lanes):
                batch = await self._pass_on(batch, outbox)
            if len(batch):
                self._held += len(batch)
                rest = await self._probe(batch)
                self._dispatch(rest)
                self._pump_all()
            while self._error is None and (
                self._held >= self._limit or self._returns.takes_no_more
            ):
                await self._until_woken()
            self._raise_error()
        self._closing = True
        self._wake_sender()

    async def _until_woken(self) -> None:
        self._room = self._loop.create_future()
        await self._room

    async def _probe(self, batch: Batch) -> Batch:
        """While nobody knows how long an event takes, a few go out one by one; gives the rest.

        Where many are in flight at once, there is no need to know.
        """
        stage = self.context.stage
        few = IN_FLIGHT * stage.workers
        while self._knows_nothing() and not (stage.batch or stage.is_async) and len(batch) > few:
            self._dispatch(batch.part(0, few))
            self._pump_all()
            while self._knows_nothing() and self._has_work_out():
                await self._until_woken()
            self._raise_error()
            batch = batch.part(few, len(batch))
        return batch

    def _has_work_out(self) -> bool:
        """Whether an answer is to be expected: of events of parked keys there is none."""
        return bool(self._ready or self._returns.room) or any(map(_load, self._workers))

    def _knows_nothing(self) -> bool:
        return not self._answers and self._error is None

    async def _pass_on(self, batch: Batch, outbox: Channel[Batch]) -> Batch:
        """Send on at once what needs no handling; gives back the rest."""
        values = batch.values or []
        gone = [p for p, v in enumerate(values) if is_nothing(v)]
        if not gone:
            return batch
        passed = _pick(batch, gone)
        await outbox.send(passed)
        skip = set(gone)
        rest = _pick(batch, [place for place in range(len(batch)) if place not in skip])
        if all(type(value) is bytes for value in rest.values or ()):
            rest.values = None  # the lines themselves
        return rest

    def _dispatch(self, batch: Batch) -> None:
        if self._returns.is_needed and batch.lanes is not None:
            batch = self._without_kept_back(batch)
            if not len(batch):
                return
        if batch.lanes is None:
            self._dispatch_unordered(batch)
        else:
            self._dispatch_lanes(batch)

    def _without_kept_back(self, batch: Batch) -> Batch:
        """The events that may go out; those of held and parked lanes stay here."""
        frame = Frame(self._workers[0], batch.partition)
        frame.batch = batch
        keeps_back = self._returns.keeps_back
        lanes, indexes = batch.lanes or (), batch.indexes
        kept = [p for p, lane in enumerate(lanes) if keeps_back(lane, indexes[p])]
        if not kept:
            return batch
        for place in kept:
            self._returns.keep_back(frame.trial(place))
        self._send_gone()
        left = set(kept)
        return _pick(batch, [place for place in range(len(batch)) if place not in left])

    def _dispatch_unordered(self, batch: Batch) -> None:
        size = self._frame_events(batch)
        for start in range(0, len(batch), size):
            part = batch.part(start, min(start + size, len(batch)))
            frame = Frame(self._workers[0], part.partition)
            frame.batch = part
            self._ready.append(frame)

    def _frame_events(self, batch: Batch) -> int:
        """How many events of `batch` one frame should have."""
        if self.context.stage.batch:
            return max(self.context.stage.batch, 1)
        concurrency = self.context.stage.concurrency
        if self._service_ns:
            # A worker ends a frame before it begins the next: none is smaller than what it can
            # have in flight.
            most = max(concurrency, int(FRAME_NS * concurrency / self._service_ns))
        elif self._answers:
            most = UNKNOWN_EVENTS  # what came was no event
        else:
            most = concurrency
        return max(1, min(most, len(batch)))

    def _dispatch_lanes(self, batch: Batch) -> None:
        most = max(1, min(FRAME_EVENTS, self._frame_events(batch)))
        for start in range(0, len(batch), most):
            self._dispatch_part(batch, start, min(start + most, len(batch)), most)
        if len(self._owners) > self._sweep_at:
            self._owners = {lane: f for lane, f in self._owners.items() if not f.done}
            self._sweep_at = max(4096, 2 * len(self._owners))

    def _dispatch_part(self, batch: Batch, start: int, stop: int, most: int) -> None:
        """Free lanes go to the worker with least to do, the others to where they are in flight."""
        owners = self._owners
        lanes = (batch.lanes or [])[start:stop]
        free = self._open_frame(self._least_busy(), batch.partition)
        before = list(map(owners.get, lanes))
        bound: dict[Frame | None, Frame] = {
            owner: self._open_frame(owner.worker, batch.partition)
            for owner in set(before)
            if owner is not None and not owner.done
        }
        targets = list(map(bound.get, before, repeat(free)))
        owners.update(zip(lanes, targets, strict=True))
        owners.pop(None, None)  # events without a lane are free, always
        frames = set(targets)
        for frame in frames:
            chosen = None
            if len(frames) > 1:
                chosen = list(map(is_, targets, repeat(frame)))
            frame.extend(batch, slice(start, stop), chosen)
            if len(frame) >= most or frame.bytes >= FRAME_BYTES:
                self._enqueue(frame.worker)

    def _open_frame(self, worker: WorkerProcess, partition: int) -> Frame:
        frame = worker.open
        if frame is not None and frame.partition != partition:
            self._enqueue(worker)  # a frame is decoded as one partition
            frame = None
        if frame is None:
            frame = worker.open = Frame(worker, partition)
        return frame

    def _enqueue(self, worker: WorkerProcess) -> None:
        """The open frame of a worker is whole."""
        frame, worker.open = worker.open, None
        if frame is not None and len(frame):
            worker.queue.append(frame)
            worker.events += len(frame)

    def _least_busy(self) -> WorkerProcess:
        return min(self._workers, key=_load)

    # --- frames to workers

    def _pump_all(self) -> None:
        for worker in sorted(self._workers, key=_load):
            self._pump(worker)

    def _pump(self, worker: WorkerProcess) -> None:
        """Give a worker frames while it has fewer than it can hold."""
        if self._error is not None:
            return
        has_breaker = self._failures.breaker is not None
        while len(worker.in_flight) < IN_FLIGHT and worker.is_there:
            if has_breaker and self._failures.is_held_back:
                self._set_alarm()
                return
            if worker.queue:
                frame = worker.queue.popleft()
                worker.events -= len(frame)
            elif worker.open is not None and len(worker.open):
                frame, worker.open = worker.open, None
            elif self._ready:
                frame = self._ready.popleft()
            else:
                return
            if self._returns.is_needed and not frame.is_trial:
                frame = self._stripped(frame)
            if has_breaker and self._failures.is_open and len(frame) > 1:
                frame = self._probe_of(worker, frame)
            if len(frame):
                self._send(worker, frame)

    def _strip_queue(self, worker: WorkerProcess) -> None:
        """Take back what waits to be sent and must not go out any more: before anything that comes
        later goes behind the same events."""
        if not self._returns.is_needed:
            return
        worker.queue = deque(
            frame if frame.is_trial else self._stripped(frame) for frame in worker.queue
        )
        worker.events = sum(map(len, worker.queue))
        if worker.open is not None and len(worker.open):
            worker.open = self._stripped(worker.open)

    def _stripped(self, frame: Frame) -> Frame:
        """The frame without events whose lanes are held, or parked, by now."""
        lanes = frame.lanes if frame.batch is None else frame.batch.lanes or []
        keeps_back = self._returns.keeps_back
        kept = {p for p, lane in enumerate(lanes) if keeps_back(lane, frame.index(p))}
        if not kept:
            return frame
        for place in sorted(kept):
            self._returns.keep_back(frame.trial(place))
        frame.done = True
        rest = frame.without(kept)
        self._hand_over(frame, rest)
        self._send_gone()
        return rest

    def _hand_over(self, frame: Frame, rest: Frame) -> None:
        """The lanes that went to `frame` last belong to what is left of it."""
        for lane in rest.lanes:
            if lane is not None and self._owners.get(lane) is frame:
                self._owners[lane] = rest

    def _probe_of(self, worker: WorkerProcess, frame: Frame) -> Frame:
        """The first event of a frame: the circuit breaker lets no more go out; the rest waits."""
        probe, rest = Frame(worker, frame.partition), frame.without({0})
        probe.add(frame.trial(0))
        probe.is_trial = rest.is_trial = frame.is_trial
        frame.done = True
        self._hand_over(frame, rest)
        self._hand_over(frame, probe)
        worker.queue.appendleft(rest)
        worker.events += len(rest)
        return probe

    def _send(self, worker: WorkerProcess, frame: Frame) -> None:
        frame.worker = worker
        frame.begun = self._failures.begin() or 0
        self._next_id += 1
        worker.in_flight[self._next_id] = frame
        self._introduce(worker, frame.partition)
        work = self._work(worker, self._next_id, frame.partition, frame)
        worker.send(work if self.context.faults is None else self._with_numbers(work, frame))

    def _with_numbers(self, work: Work, frame: Frame) -> Work:
        """With what decides which faults hit its events."""
        indexes = list(frame.indexes if frame.batch is None else frame.batch.indexes)
        attempts = None
        if frame.is_trial:
            attempts = [self._returns.attempt_of(index) for index in indexes]
        return msgspec.structs.replace(work, indexes=indexes, attempts=attempts)

    def _introduce(self, worker: WorkerProcess, partition: int) -> None:
        if partition in worker.partitions:
            return
        worker.partitions.add(partition)
        reader = self._readers[partition]
        worker.send(
            Partition(
                partition,
                reader.header,
                reader.delimiter,
                encodes=self.context.encodes(),
                cloud_events=reader.cloud_events and self.context.is_first,
            )
        )

    def _work(self, worker: WorkerProcess, number: int, partition: int, frame: Frame) -> Work:
        batch, seen = frame.batch, worker.seen
        values = frame.values if batch is None else batch.values
        states = self._states_for(worker, frame) if self.context.stage.state is not None else None
        lanes = None
        if self.context.order != "none":
            lanes = frame.lanes if batch is None else batch.lanes
            stage = self.context.stage
            by_line = values is None and self._readers[partition].format != "csv"
            needed = stage.state is not None or stage.is_async or stage.batch or not by_line
            lanes = lanes if needed else None
        if values is not None:
            wire = [value_to_wire(v) if type(v) is not bytes else _raw_value(v) for v in values]
            return Work(number, partition, seen, values=wire, lanes=lanes, states=states)
        if batch is not None and batch.block is not None and batch.block.data is not None:
            return Work(
                number, partition, worker.seen, lines=batch.block.data, lanes=lanes, states=states
            )
        lines = frame.lines if batch is None else batch.lines()
        if self._readers[partition].format == "csv" and any(b"\n" in line for line in lines):
            wire = [_raw_value(line) for line in lines]
            return Work(number, partition, seen, values=wire, lanes=lanes, states=states)
        return Work(
            number, partition, worker.seen, lines=b"\n".join(lines), lanes=lanes, states=states
        )

    def _states_for(self, worker: WorkerProcess, frame: Frame) -> list[tuple[Lane, bytes | None]]:
        """The states of keys that the worker does not have from a frame still in flight."""
        if self.context.order != "key":
            # Order global: one lane, so one worker holds them all, and is given them once.
            if worker is self._state_holder:
                return []
            self._state_holder = worker
            return list(self._states.items())
        held = {
            lane
            for other in worker.in_flight.values()
            if other is not frame
            for lane in (other.lanes or ())
        }
        keys = {lane for lane in frame.lanes if lane is not None}
        return [(key, self._states.get(key)) for key in keys if key not in held]

    # --- replies

    def on_done(self, worker: WorkerProcess, done: Done) -> None:
        """A worker has handled a frame."""
        frame = worker.in_flight.pop(done.id)
        worker.seen = done.id
        self._answers += 1
        try:
            frame.done = True
            for fault, at_ns in done.fired:
                self.context.note_fault(fault, at_ns)
            stay = self._settle(worker, frame, done)
            batch = self._finished(frame, done, stay)
            if self.context.states is not None:
                for place, key, state in done.noted:
                    if place not in stay:
                        self.context.states.note(key, frame.index(place), state)
            for key, state in done.states or ():
                if state is None:
                    self._states.pop(key, None)
                else:
                    self._states[key] = state
            if len(batch):
                self._done.append(batch)
            if self.context.dead_letters.has_pending:
                self.context.dead_letters.flush()
        except BaseException as error:
            self._fail(error)
        self._wake_sender()
        self._wake_room()
        self._serve()
        if self._failures.breaker is None:
            self._pump(worker)
        else:  # it may have held back the others as well
            self._pump_all()

    def _settle(self, worker: WorkerProcess, frame: Frame, done: Done) -> set[int]:
        """Judge the failures of a frame; gives the places of those that stay here."""
        returns = self._returns
        if not (done.failures or done.skipped or returns.has_news):
            self._failures.succeeded(frame.begun, len(frame))
            self._failures.handled(len(frame))
            return set()
        stay = set(done.skipped)
        waiting: list[Trial] = []

        def known(place: int) -> Trial:
            trial = frame.trial(place)
            return returns.trial_of(trial.index, lambda: trial)

        # Those that succeeded are told first: a few failures of many calls open no breaker.
        not_good = stay.union(failed.place for failed in done.failures)
        good = [place for place in range(len(frame)) if place not in not_good]
        if good:
            self._failures.succeeded(frame.begun, len(good))
        elif all(failed.malformed for failed in done.failures):  # nothing was called
            self._failures.dropped(frame.begun)
        ended: list[Trial] = []
        firsts = 0
        for failed in done.failures:
            trial = known(failed.place)
            firsts += not (trial.attempts or failed.malformed)
            if failed.malformed:
                self.context.dead_letters.add(trial.index, trial.line, "input", failed.error)
            elif returns.is_to_wait(trial, failed, frame.begun):
                stay.add(failed.place)
                waiting.append(trial)
            else:
                ended.append(trial)
        waiting += [known(place) for place in done.skipped]
        tried = [known(place) for place in good] if frame.is_trial else []
        ended += tried
        firsts += sum(not trial.attempts for trial in tried) if frame.is_trial else len(good)
        self._failures.handled(firsts)
        returns.keep(waiting, list(worker.in_flight.values()))
        self._strip_queue(worker)
        for trial in ended:
            returns.ended(trial)
        self._send_gone()
        return stay

    def _finished(self, frame: Frame, done: Done, stay: set[int]) -> Batch:
        """The batch of what ended."""
        batch = frame.batch or Batch(
            frame.indexes,
            frame.ready,
            frame.lanes if self.context.order != "none" else None,
            roots=frame.lines,
            partition=frame.partition,
        )
        ends = np.frombuffer(done.stamps, dtype=np.int64)
        if done.starts is None:
            starts, ends = ends[:-1], ends[1:]
        else:
            starts = np.frombuffer(done.starts, dtype=np.int64)
        decoder = self._decoder(batch.partition)
        passed = self._passed_through(batch.values if frame.batch is not None else frame.values)
        batch.values = None
        batch.out, batch.counts = done.out, done.counts
        if done.values is not None:
            batch.values = [value_from_wire(value, decoder) for value in done.values]
            batch.singles = False
        self._record(batch, done, starts, ends, stay | passed)
        batch.ready_ns = ends.tolist()
        return _without(batch, stay) if stay else batch

    def _passed_through(self, values: list[Value] | None) -> set[int]:
        """The places of what was filtered or dead when it came: no handler saw it."""
        if values is None or not self.context.keeps_lanes:
            return set()
        return {place for place, value in enumerate(values) if is_nothing(value)}

    def _decoder(self, partition: int) -> Decoder:
        """Decodes what came back from a worker as a line of the source."""
        decoder = self._decoders.get(partition)
        if decoder is None:
            reader = self._readers[partition]
            decoder = self._decoders[partition] = make_decoder(
                self.context.mapping,
                header=reader.header,
                delimiter=reader.delimiter,
                keys=True,
                events=True,
                partition=partition,
            )
        return decoder

    def _record(self, batch: Batch, done: Done, starts: Ints, ends: Ints, stay: set[int]) -> None:
        no_events = stay | {failed.place for failed in done.failures if failed.malformed}
        indexes, lanes, ready = batch.indexes, batch.lanes, batch.ready_ns
        if no_events:
            kept = [place for place in range(len(batch)) if place not in no_events]
            starts, ends = starts[kept], ends[kept]
            indexes = [indexes[place] for place in kept]
            lanes = None if lanes is None else [lanes[place] for place in kept]
            ready = ready if isinstance(ready, int) else [ready[place] for place in kept]
        if not len(indexes):
            return
        if done.starts is not None:
            # The audit is told of events in the order in which they ended.
            turn = np.argsort(ends, kind="stable")
            starts, ends = starts[turn], ends[turn]
            indexes = [indexes[place] for place in turn]
            lanes = None if lanes is None else [lanes[place] for place in turn]
            ready = ready if isinstance(ready, int) else [ready[place] for place in turn]
        self.meter.record(lanes, indexes, ready, starts, ends)
        mean = float((ends - starts).mean())
        self._service_ns = mean if not self._service_ns else 0.8 * self._service_ns + 0.2 * mean

    # --- events that came back

    def _send_gone(self) -> None:
        """What became a dead letter here goes on its way."""
        gone, self._returns.gone = self._returns.gone, []
        self._done += map(self._dead, gone)
        if gone:
            self.context.dead_letters.flush()
            self._wake_sender()

    def _serve(self) -> None:
        """Send out what is due, and see to it that it is looked at again in time."""
        if not self._returns.room and self._failures.breaker is None and self._alarm is None:
            return
        for trials in self._returns.take_due(self._trial_events()):
            worker = self._least_busy()
            frame = Frame(worker, trials[0].partition)
            frame.is_trial = True
            for trial in trials:
                frame.add(trial)
                if trial.lane is not None:
                    self._owners[trial.lane] = frame
            worker.queue.append(frame)
            worker.events += len(frame)
            self._pump(worker)
        self._set_alarm()

    def _trial_events(self) -> int:
        """How many events that are tried again one frame should have."""
        stage = self.context.stage
        if stage.batch or stage.is_async:
            return stage.batch or FRAME_EVENTS
        known = int(FRAME_NS / self._service_ns) if self._service_ns else 0
        return min(max(known, UNKNOWN_EVENTS), FRAME_EVENTS)

    def _set_alarm(self) -> None:
        due = self._returns.room.next_due_ns
        if self._failures.is_open:
            again = self._failures.may_begin_ns()
            due = again if due is None else min(due, again)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if due is not None and not self._stopping:
            wait_s = max(0.001, (due - time.monotonic_ns()) / 1e9)
            self._alarm = self._loop.call_later(wait_s, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        try:
            self._serve()
            self._pump_all()
        except BaseException as error:
            self._fail(error)

    # --- workers that die

    def on_death(self, worker: WorkerProcess, code: int) -> None:
        """A worker died with events in its hands: they run again, another worker starts."""
        self._answers += 1
        left = [frame for _, frame in sorted(worker.in_flight.items())]
        if worker.hung_at is not None and worker.hung_in not in worker.in_flight:
            worker.hung_at = None  # it has answered after all, before it was killed
        worker.in_flight.clear()
        if worker is self._state_holder:
            self._state_holder = None
        self._idle_deaths = self._idle_deaths + 1 if not (left or worker.seen) else 0
        if self._idle_deaths >= MOST_IDLE_DEATHS:
            self._fail(
                WorkerNotReplaced(
                    f"{MOST_IDLE_DEATHS} workers of stage {self.context.stage.name!r} died in a "
                    f"row ({how_it_ended(code)}), without an event in their hands: what their "
                    "set-up or their import starts may end them"
                )
            )
        try:
            self._take_back(worker, left, code)
            if self.context.dead_letters.has_pending:
                self.context.dead_letters.flush()
        except BaseException as failed:
            self._fail(failed)
        self._wake_sender()
        self._wake_room()
        self._serve()
        self._replacing.add(task := asyncio.ensure_future(self._replace(worker)))
        task.add_done_callback(self._replacing.discard)

    def _take_back(self, worker: WorkerProcess, left: list[Frame], code: int) -> None:
        """All that was in its hands waits here; what it may have died of will be tried alone."""
        returns = self._returns
        waiting: list[Trial] = []
        ended: list[Trial] = []
        for frame in left:
            frame.done = True
            if frame is not left[0] or worker.hung_at is None:  # a hang is judged as a failure
                self._failures.dropped(frame.begun)
            trials = [
                returns.trial_of(trial.index, lambda own=trial: own)  # type: ignore[misc]
                for trial in frame.trials()
            ]
            for trial in self._blamed(worker, trials) if frame is left[0] else ():
                if self._is_over_for(trial, worker, code, frame):
                    trials.remove(trial)
                    ended.append(trial)
            waiting += trials
        returns.keep(waiting, ())
        self._strip_queue(worker)
        for trial in ended:
            self._done.append(self._dead(trial))
            returns.ended(trial)
        self._send_gone()

    def _blamed(self, worker: WorkerProcess, trials: list[Trial]) -> list[Trial]:
        """Those of which the worker may have died."""
        place = worker.hung_at
        if place is None or place < 0:
            return list(trials)
        size = self.context.stage.batch or 1
        first = place // size * size
        return trials[first : first + size]

    def _is_over_for(self, trial: Trial, worker: WorkerProcess, code: int, frame: Frame) -> bool:
        stage = self.context.stage
        if worker.hung_at is None:
            # The only one in its hands is as good as alone.
            trial.alone = trial.alone or len(frame) == 1
            return self._returns.has_died_with(
                trial, self._death(worker, code), from_outside=-code in _SENT_BY_OTHERS
            )
        self._note_hang(trial)
        error = TimeoutError(f"stage {stage.name!r} took longer than {stage.timeout_s:g} s")
        verdict = stage.policy.verdict(error)
        failed = Failed(
            0,
            ErrorInfo(type(error).__name__, f"{error}; its worker was replaced"),
            held=True,
            retriable=verdict.retriable,
            together=worker.hung_at < 0 or bool(stage.batch),
        )
        return not self._returns.is_to_wait(trial, failed, frame.begun)

    def _note_hang(self, trial: Trial) -> None:
        """Its worker was killed since it hung, and can no longer tell whether that was injected."""
        faults = self.context.faults
        if faults is not None:
            for action in faults.before_call(trial.index, trial.attempts + 1, None):
                if action.kind == "hang":
                    self.context.note_fault(action.fault, time.monotonic_ns())

    def _death(self, worker: WorkerProcess, code: int) -> ErrorInfo:
        how = how_it_ended(code)
        if worker.was_stopped >= STOPPED_TWICE:
            how = "it was found stopped, and was killed"
        elif code == OUT_OF_MEMORY and self.context.stage.memory is not None:
            how = f"out of memory: more than the {self.context.stage.memory:,} bytes it may use"
        return ErrorInfo(
            "WorkerDied",
            f"the worker process died ({how}) with this event, alone, in its hands",
            signal=signal_name(code) if code < 0 else None,
            exit_code=code if code >= 0 else None,
            peak_rss=worker.peak_rss,
        )

    def _dead(self, trial: Trial) -> Batch:
        return Batch(
            [trial.index],
            time.monotonic_ns(),
            [trial.lane] if self.context.order != "none" else None,
            [trial.value if is_nothing(trial.value) else DEAD],
            [trial.line],
            partition=trial.partition,
        )

    def on_broken_end(self, how: str) -> None:
        """A worker did not come to the end of its tear-down."""
        stage = self.context.stage
        if stage.teardown is not None and self._is_over:
            self.context.torn(f"tear-down of stage {stage.name!r}: {how}")

    async def _replace(self, worker: WorkerProcess) -> None:
        if self._stopping:
            return
        fresh = await self._fresh_worker()
        if fresh is None:
            return
        self._fresh.discard(fresh)
        if self._is_stopping():  # it may have begun meanwhile
            return
        fresh.queue, fresh.open, fresh.events = worker.queue, worker.open, worker.events
        for frame in [*fresh.queue, *([] if fresh.open is None else [fresh.open])]:
            frame.worker = fresh
        self._workers[self._workers.index(worker)] = fresh
        self._pump(fresh)

    async def _fresh_worker(self) -> WorkerProcess | None:
        """One that has started; None: none could, or the run ends, and _stop() sees to it."""
        for attempt in range(1, START_ATTEMPTS + 1):
            fresh = WorkerProcess(self)
            self._fresh.add(fresh)
            try:
                await fresh.start(self._start)
            except DiedAtStart as died:
                by_others = -died.code in _SENT_BY_OTHERS and attempt < START_ATTEMPTS
                if not by_others or self._is_stopping():
                    self._fail_to_replace(died)
                    return None
                self._fresh.discard(fresh)
            except HandlerNotFound as error:
                self._fail_to_replace(error)
                return None
            except BaseException as error:
                if not self._is_stopping():
                    self._fail(error)
                return None
            else:
                return fresh
        return None

    def _fail_to_replace(self, error: HandlerNotFound) -> None:
        if not self._is_stopping():
            self._fail(WorkerNotReplaced(f"{error}; it was to take the place of one that died"))

    def _is_stopping(self) -> bool:
        return self._stopping

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._wake_sender()
        self._wake_room()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    # --- what is done goes on

    async def _send_on(self, outbox: Channel[Batch]) -> None:
        while True:
            self._raise_error()
            if self._done:
                batch = self._done.popleft()
                self._held -= len(batch)
                self.meter.in_flight = self._held
                if self._held < self._limit:
                    self._wake_room()
                await outbox.send(batch)
                continue
            if self._closing and not self._held:
                return
            self._sender = self._loop.create_future()
            await self._sender
            self._sender = None

    def _wake_sender(self) -> None:
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)

    def _wake_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def _load(worker: WorkerProcess) -> int:
    """Events that a worker has to do, in its hands or waiting for it."""
    in_flight = sum(map(len, worker.in_flight.values()))
    return in_flight + worker.events + (len(worker.open) if worker.open is not None else 0)


def _pick(batch: Batch, places: Sequence[int]) -> Batch:
    """The events of a batch at `places`."""
    values, lines, ready = batch.values, batch.lines(), batch.ready_ns
    return Batch(
        [batch.indexes[place] for place in places],
        ready if isinstance(ready, int) else [ready[place] for place in places],
        None if batch.lanes is None else [batch.lanes[place] for place in places],
        None if values is None else [values[place] for place in places],
        [lines[place] for place in places],
        singles=batch.singles,
        partition=batch.partition,
        encoded=batch.encoded,
    )


def _without(batch: Batch, places: set[int]) -> Batch:
    """The events of a batch of answers but those at `places`."""
    if batch.out is not None:
        lines = split_out(batch.out, batch.counts)
        batch.values = [DEAD if own is None else own or None for own in lines]
        batch.out = batch.counts = None
        batch.encoded = True
    return _pick(batch, [place for place in range(len(batch)) if place not in places])


def _kinds(kinds: Sequence[type[BaseException] | str], stage: str) -> tuple[Reference | str, ...]:
    """Error types as a worker finds them; one that it can't, by its name."""
    found: list[Reference | str] = []
    for kind in kinds:
        try:
            found.append(kind if isinstance(kind, str) else reference_to(kind, stage))
        except HandlerNotFound:
            assert isinstance(kind, type)
            found.append(kind.__name__)
    return tuple(found)


def _raw_value(line: bytes) -> WireValue:
    return [WireEvent(line)]
