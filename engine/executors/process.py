"""Worker processes: own supervised ones, spawned, each over a socket pair in the loop.

Lines cross as they came and are decoded by the worker. A lane is bound to one worker only while
it has events in flight there; free lanes go to the worker with least to do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from operator import is_
from typing import Any, TypeVar, cast

import numpy as np

from ..batch import DEAD, Batch, Value, is_nothing
from ..channel import Channel, EndOfStream
from ..codecs import Decoder, make_decoder
from ..dead_letters import ErrorInfo
from ..histogram import Ints
from ..loading import HandlerNotFound, Reference, reference_to
from ..order import Lane
from ..reading import Reader
from .base import StageContext
from .wire import (
    HEADER,
    Broken,
    Done,
    End,
    Partition,
    Ready,
    Request,
    Start,
    WireEvent,
    WireValue,
    Work,
    decode_reply,
    encode,
    value_from_wire,
    value_to_wire,
)

FRAME_BYTES = 64 * 1024
FRAME_EVENTS = 512
FRAME_NS = 20_000_000
"""A frame aims at no more work than this, so that a worker answers often."""
UNKNOWN_EVENTS = 16
"""A frame has so many events while it is not known how long one takes."""
IN_FLIGHT = 2
"""Frames that a worker has at once: one that it works on, one that waits."""
START_TIMEOUT_S = 60.0

T = TypeVar("T")


class Frame:
    """Events for one worker, by column, until they are done."""

    __slots__ = (
        "batch",
        "bytes",
        "done",
        "indexes",
        "lanes",
        "lines",
        "partition",
        "ready",
        "values",
        "worker",
    )

    def __init__(self, worker: WorkerProcess, partition: int) -> None:
        self.worker, self.partition = worker, partition
        self.indexes: list[int] = []
        self.lanes: list[Lane] = []
        self.lines: list[bytes] = []
        self.values: list[Value] | None = None
        self.ready = array("q")
        self.bytes = 0
        self.done = False
        self.batch: Batch | None = None
        """A whole batch that crosses as it is, in place of the columns."""

    def __len__(self) -> int:
        return len(self.batch) if self.batch is not None else len(self.indexes)

    def extend(self, batch: Batch, span: slice, chosen: Sequence[bool] | None) -> None:
        """Add the events of `batch` in `span`, or those of them that are chosen."""

        def of(column: Sequence[T]) -> Iterable[T]:
            own = column if len(column) == span.stop - span.start else column[span]
            return own if chosen is None else compress(own, chosen)

        first = len(self.lines)
        self.lines += of(batch.lines())
        added = self.lines[first:] if first else self.lines
        if batch.values is not None:
            if self.values is None:
                self.values = list(self.lines[:first])
            self.values += of(batch.values)
        elif self.values is not None:
            self.values += added
        self.indexes += of(batch.indexes)
        self.lanes += of(batch.lanes or ())
        ready = batch.ready_ns
        self.ready += array("q", [ready] * len(added) if isinstance(ready, int) else of(ready))
        self.bytes += sum(map(len, added))


class WorkerProcess(asyncio.Protocol):
    """One worker: the process, the socket, and what it has to do."""

    def __init__(self, executor: ProcessExecutor) -> None:
        self._executor = executor
        self.process: subprocess.Popen[bytes] | None = None
        self.transport: asyncio.Transport | None = None
        self.in_flight: dict[int, Frame] = {}
        self.queue: deque[Frame] = deque()
        self.open: Frame | None = None
        self.events = 0
        self.partitions: set[int] = set()
        self.started: asyncio.Future[None] | None = None
        self.gone: asyncio.Future[None] | None = None
        self._buffer = bytearray()
        self.ending = False

    async def start(self, message: Start) -> None:
        """Spawn the process and wait until it is ready. Raises HandlerNotFound."""
        loop = asyncio.get_running_loop()
        self.started, self.gone = loop.create_future(), loop.create_future()
        # When one worker can't start, nobody waits for the others any more.
        self.started.add_done_callback(lambda each: each.cancelled() or each.exception())
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * FRAME_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * FRAME_BYTES)
        command = [sys.executable, "-m", "millstream.engine.executors.child", str(theirs.fileno())]
        try:
            # Popen returns once the child runs: a millisecond, at the start of a run only.
            self.process = subprocess.Popen(  # noqa: ASYNC220
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        await loop.create_connection(lambda: self, sock=ours)
        self.send(message)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.shield(self.started)
        except TimeoutError:
            self.process.kill()
            raise HandlerNotFound(
                f"a worker of stage {message.name!r} was not ready after {START_TIMEOUT_S:.0f} s: "
                "its import or its set-up hangs"
            ) from None

    @property
    def is_there(self) -> bool:
        """Whether it can be given work."""
        return self.transport is not None and not (self.ending or self.transport.is_closing())

    def send(self, message: Request) -> None:
        assert self.transport is not None
        body = encode(message)
        self.transport.writelines((HEADER.pack(len(body)), body))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own are no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            size = HEADER.unpack_from(self._buffer)[0]
            end = HEADER.size + size
            if len(self._buffer) < end:
                return
            reply = decode_reply(memoryview(self._buffer)[HEADER.size : end].tobytes())
            del self._buffer[:end]
            self._on_reply(reply)

    def _on_reply(self, reply: Ready | Broken | Done) -> None:
        if isinstance(reply, Done):
            self._executor.on_done(self, reply)
        elif isinstance(reply, Broken) and self.ending:
            self._executor.context.torn(reply.message)
        elif self.started is not None and not self.started.done():
            if isinstance(reply, Broken):
                self.started.set_exception(HandlerNotFound(reply.message))
            else:
                self.started.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._ending = asyncio.ensure_future(self._ended())

    async def _ended(self) -> None:
        assert self.process is not None and self.gone is not None
        code = await asyncio.to_thread(self.process.wait)
        if self.started is not None and not self.started.done():
            self.started.set_exception(
                HandlerNotFound(
                    f"a worker of stage {self._executor.context.stage.name!r} died at start "
                    f"({_how(code)}), before its first event"
                )
            )
        elif not self.ending:
            self._executor.on_death(self, code)
        if not self.gone.done():
            self.gone.set_result(None)


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
        self._replacing: set[asyncio.Future[None]] = set()
        self._fresh: set[WorkerProcess] = set()
        """Workers that start in place of dead ones."""
        self._stopping = False
        self._state_holder: WorkerProcess | None = None
        self._limit = FRAME_EVENTS * IN_FLIGHT * 2 * context.stage.workers

    @property
    def pending(self) -> int:
        """Events in its hands: those that came in and have not gone out."""
        return self._held

    @property
    def pids(self) -> list[int]:
        """The processes that are alive."""
        return [each.process.pid for each in self._workers if each.process is not None]

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        """Handle all that comes in until the end of the stream, then close `outbox`."""
        self._loop = asyncio.get_running_loop()
        self._start = self._start_message()
        self._workers = [WorkerProcess(self) for _ in range(self.context.stage.workers)]
        try:
            async with asyncio.TaskGroup() as starting:
                for worker in self._workers:
                    starting.create_task(worker.start(self._start))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_on(outbox))
                await self._feed(inbox, outbox)
        finally:
            await self._stop()
        outbox.close()

    def _start_message(self) -> Start:
        stage = self.context.stage
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
        )

    async def _stop(self) -> None:
        self._stopping = True
        workers = [*self._workers, *self._fresh]
        for worker in self._fresh:
            worker.ending = True
            if worker.process is not None:
                worker.process.kill()
        if self._replacing:
            await asyncio.wait(self._replacing)
        for worker in workers:
            worker.ending = True
            if worker.transport is not None and not worker.transport.is_closing():
                worker.send(End())
        gone = [w.gone for w in workers if w.gone is not None and w.process is not None]
        if gone:
            _, left = await asyncio.wait(gone, timeout=10 if self._error is None else 0.1)
            if left:
                for worker in workers:
                    if worker.process is not None and worker.process.poll() is None:
                        worker.process.kill()
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
            if batch.values is not None and not batch.singles:
                batch = await self._pass_on(batch, outbox)
            if len(batch):
                self._held += len(batch)
                rest = await self._probe(batch)
                self._dispatch(rest)
                self._pump_all()
            while self._held >= self._limit and self._error is None:
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
        if not self._knows_nothing() or stage.batch or stage.is_async or len(batch) <= few:
            return batch
        self._dispatch(batch.part(0, few))
        self._pump_all()
        while self._knows_nothing():
            await self._until_woken()
        self._raise_error()
        return batch.part(few, len(batch))

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
        if batch.lanes is None:
            self._dispatch_unordered(batch)
        else:
            self._dispatch_lanes(batch)

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
        while len(worker.in_flight) < IN_FLIGHT and worker.is_there:
            if worker.queue:
                frame = worker.queue.popleft()
                worker.events -= len(frame)
            elif worker.open is not None and len(worker.open):
                frame, worker.open = worker.open, None
            elif self._ready:
                frame = self._ready.popleft()
            else:
                return
            self._send(worker, frame)

    def _send(self, worker: WorkerProcess, frame: Frame) -> None:
        frame.worker = worker
        self._next_id += 1
        worker.in_flight[self._next_id] = frame
        self._introduce(worker, frame.partition)
        worker.send(self._work(worker, self._next_id, frame.partition, frame))

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
        batch = frame.batch
        values = frame.values if batch is None else batch.values
        states = self._states_for(worker, frame) if self.context.stage.state is not None else None
        lanes = None
        if self.context.order != "none":
            lanes = frame.lanes if batch is None else batch.lanes
            needed = self.context.stage.state is not None or self.context.stage.is_async
            lanes = lanes if needed else None
        if values is not None:
            wire = [value_to_wire(v) if type(v) is not bytes else _raw_value(v) for v in values]
            return Work(number, partition, values=wire, lanes=lanes, states=states)
        if batch is not None and batch.block is not None and batch.block.data is not None:
            return Work(number, partition, lines=batch.block.data, lanes=lanes, states=states)
        lines = frame.lines if batch is None else batch.lines()
        if self._readers[partition].format == "csv" and any(b"\n" in line for line in lines):
            wire = [_raw_value(line) for line in lines]
            return Work(number, partition, values=wire, lanes=lanes, states=states)
        return Work(number, partition, lines=b"\n".join(lines), lanes=lanes, states=states)

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
        self._answers += 1
        try:
            batch = self._finished(frame, done)
            for key, state in done.states or ():
                if state is None:
                    self._states.pop(key, None)
                else:
                    self._states[key] = state
            frame.done = True
            self._done.append(batch)
        except BaseException as error:
            self._fail(error)
        self._wake_sender()
        self._wake_room()
        self._pump(worker)

    def _finished(self, frame: Frame, done: Done) -> Batch:
        batch = frame.batch or Batch(
            frame.indexes,
            frame.ready,
            frame.lanes,
            roots=frame.lines,
            partition=frame.partition,
        )
        ends = np.frombuffer(done.stamps, dtype=np.int64)
        if done.starts is None:
            starts, ends = ends[:-1], ends[1:]
        else:
            starts = np.frombuffer(done.starts, dtype=np.int64)
        decoder = self._decoder(batch.partition)
        batch.values = None
        batch.out, batch.counts = done.out, done.counts
        if done.values is not None:
            batch.values = [value_from_wire(value, decoder) for value in done.values]
            batch.singles = False
        self._bury(batch, done)
        self._record(batch, done, starts, ends)
        batch.ready_ns = ends.tolist()
        return batch

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

    def _bury(self, batch: Batch, done: Done) -> None:
        for failed in done.failures:
            index, line = batch.indexes[failed.place], batch.lines()[failed.place]
            stage = "input" if failed.malformed else self.context.stage.name
            self.context.dead_letters.add(index, line, stage, failed.error)
        if done.failures:
            self.context.dead_letters.flush()

    def _record(self, batch: Batch, done: Done, starts: Ints, ends: Ints) -> None:
        no_events = {failed.place for failed in done.failures if failed.malformed}
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

    def on_death(self, worker: WorkerProcess, code: int) -> None:
        """A worker died with events in its hands: they become dead letters, another one starts."""
        self._answers += 1
        lost = list(worker.in_flight.values())
        worker.in_flight.clear()
        error = ErrorInfo(
            "WorkerDied", f"the worker process died ({_how(code)}) with this event in its hands"
        )
        for frame in lost:
            batch = frame.batch or Batch(frame.indexes, frame.ready, frame.lanes, roots=frame.lines)
            for index, line in zip(batch.indexes, batch.lines(), strict=True):
                self.context.dead_letters.add(index, line, self.context.stage.name, error)
            batch.values, batch.ready_ns = [DEAD] * len(batch), time.monotonic_ns()
            batch.singles = False
            frame.done = True
            self._done.append(batch)
        try:
            self.context.dead_letters.flush()
        except BaseException as failed:
            self._fail(failed)
        self._wake_sender()
        self._wake_room()
        self._replacing.add(task := asyncio.ensure_future(self._replace(worker)))
        task.add_done_callback(self._replacing.discard)

    async def _replace(self, worker: WorkerProcess) -> None:
        if self._stopping:
            return
        fresh = WorkerProcess(self)
        self._fresh.add(fresh)
        try:
            await fresh.start(self._start)
        except BaseException as error:
            if not self._stopping:
                self._fail(error)
            return
        finally:
            self._fresh.discard(fresh)
        if self._is_stopping():  # it may have begun meanwhile
            return
        fresh.queue, fresh.open, fresh.events = worker.queue, worker.open, worker.events
        for frame in [*fresh.queue, *([fresh.open] if fresh.open else [])]:
            frame.worker = fresh
        self._workers[self._workers.index(worker)] = fresh
        self._pump(fresh)

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
    values, lines, ready = batch.values or [], batch.lines(), batch.ready_ns
    return Batch(
        [batch.indexes[place] for place in places],
        ready if isinstance(ready, int) else [ready[place] for place in places],
        None if batch.lanes is None else [batch.lanes[place] for place in places],
        [values[place] for place in places],
        [lines[place] for place in places],
        partition=batch.partition,
    )


def _raw_value(line: bytes) -> WireValue:
    return [WireEvent(line)]


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
