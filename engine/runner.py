"""The one place where a run's parts meet: opens, runs, drains, closes, and sums up.

What decides is elsewhere (plan, order, audit, frontier, conditions); this only connects.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import secrets
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from .batch import Batch, split_out
from .channel import Channel
from .codecs import Block, Decoder, Encoder, JsonDecoder, UnreadableInput, make_decoder
from .conditions import Condition, needs_schedule, parse_condition, stage_of
from .connectors.base import ConnectorError, OutputError, Sink, Source
from .connectors.files import FileSink, FileSource, find_inputs
from .connectors.stdio import NoSink, StdinSource, StdoutSink
from .dead_letters import DeadLetters, DeadLetterUnwritable, Halted
from .dedupe import DEFAULT_WINDOW, Dedupe
from .event import ATTRIBUTES, decode_json, lookup_attribute
from .executors.base import Executor, StageContext, StageMeter, WorkerNotReplaced
from .executors.calling import GC_THRESHOLD
from .executors.failing import Parking, StageFailures
from .faults import FaultPlan, KeptFault
from .histogram import Histogram
from .histogram_codec import encoded
from .injecting import Injection
from .intake import Intake
from .journal import Journal
from .ledger import MOST_ROWS
from .loop_watch import LoopWatch
from .observer import Observer, Progress, RunWarning, Silent
from .outlet import Outlet, make_encoder
from .output_audit import OutputAudit
from .pacing import ConstantPacer, Pacer, TimePacer
from .pipeline import Job
from .places import dead_letter_path, refuse_shared_files
from .plan import (
    PlanError,
    RunOptions,
    RunPlan,
    StagePlan,
    dead_letter_limit,
    drain_timeout_s,
    fault_plan,
    make_plan,
)
from .positions import Positions
from .promises import OrderAudit, PromiseReport
from .reading import Need, Reader, Stream, one_by_one, side_by_side
from .record_file import RecordError, RecordFile
from .recording import RECORD_WINDOW, Recorder
from .result import (
    BROKEN,
    CONDITION,
    DEAD_LETTERS,
    FROM_SIGNALS,
    OK,
    SCHEMA,
    UNUSABLE,
    RunResult,
    host,
    verdict_for,
    version_of,
)
from .sampling import Processes, Series, response_figures
from .signals import GRACE_S, Signals
from .tracing import traced
from .watching import Watching

if TYPE_CHECKING:
    from .progress_keeper import ProgressKeeper

CHANNEL_BATCHES = {"coroutine": 16}
"""Capacity by receiver, else 4: in one turn of the loop thousands of waiting coroutines may end,
and each should find its next event."""
RESEQUENCE_WINDOW = 32_768
"""With --emit input, how far reading may be ahead of the first event that is not written."""
KEPT_WINDOW = 1_000_000
"""With a checkpoint, how far reading may be ahead of the first event that is not done."""
PROGRESS_S = 0.25
_LEAST_TICK_S = 0.01
_CLOSE_S = 0.5
_ENOUGH_FOR_A_SHARE = 100
"""Of fewer events no share of dead letters stops the run: one of one would be all of them."""


class Run:
    """One run, from opening to its result."""

    def __init__(
        self,
        plan: RunPlan,
        sources: Sequence[Source],
        sink: Sink,
        observer: Observer,
    ) -> None:
        self.plan, self.options = plan, plan.options
        self.sink, self.observer = sink, observer
        self.id = uuid.uuid4().hex
        """Names the run, in its dead letters."""
        self.conditions = [parse_condition(text) for text in self.options.fail_if]
        self.pacer = _pacer(self.options)
        _check_conditions(self.conditions, plan.stages, has_schedule=self.has_schedule())
        self.positions = Positions()
        self.sources = sources
        self.dead_letters = self._open_dead_letters()
        self.readers = self._open_readers()
        self.series, self.processes = Series(), Processes()
        self.watch = LoopWatch(self._on_blocked)
        self.signal: int | None = None
        self.halted: str | None = None
        """Why the run ended before all was done that it had read."""
        self._is_broken_off = False
        self._aborted: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.keeper: ProgressKeeper | None = None
        """Keeps a checkpoint, when one is asked for."""
        self.elapsed_before_ns = 0
        self.first_started_at: str | None = None
        """Of earlier sittings: how long they took, and when the first began."""
        self.output_format: str | None = None
        """The format of the output, once it is known."""
        self._gate: asyncio.Future[None] | None = None
        self._nowhere_at = -1
        self._signals = Signals(
            drain_timeout_s(self.options),
            on_first=self._on_signal,
            on_held_up=self._on_held_up,
            end=self._let_go,
        )
        self.blocked: dict[str, int] = {}
        """Stage -> how often it held the loop for long."""
        self._key_decoders: dict[str, Decoder] = {}
        self._event_decoders: dict[int, Decoder] = {}
        self.parking = Parking(on=self.options.on_error == "park")
        self.seed = self.options.seed if self.options.seed is not None else secrets.randbits(32)
        self._dice = random.Random(self.seed)
        self.draw = self._dice.random
        """For the waits between attempts."""
        faults = fault_plan(self.options, self.seed)
        self.injection = None if faults is None else Injection(faults)
        """Faults on purpose, when some are asked for, or earlier sittings had some."""
        self._faults_before: tuple[list[KeptFault], int] = [], 0
        self.torn: list[str] = []
        """What tear-downs failed with."""
        self._most_dead = dead_letter_limit(self.options)
        self._build()
        self._watching = Watching.asked_for(self, observer)

    # --- building

    def has_schedule(self) -> bool:
        """Whether events are due at some time."""
        return self.pacer is not None

    def _open_dead_letters(self) -> DeadLetters:
        path = dead_letter_path(self.options)
        refuse_shared_files(self.options, [source.name for source in self.sources])
        return DeadLetters(path, self.positions.place_of, self._describe, self.id, self._too_many)

    def _open_readers(self) -> list[Reader]:
        return [self._reader(source, number) for number, source in enumerate(self.sources)]

    def _reader(self, source: Source, number: int) -> Reader:
        options = self.options
        return Reader(
            source,
            self.plan.mapping,
            self._need(),
            format=self.plan.input_format,
            delimiter=options.delimiter,
            partition=number,
            chosen_key=options.key if options.order == "key" else None,
            cloud_events=self.plan.cloud_events,
        )

    def _need(self) -> Need:
        if not self.plan.first_stage_decodes or self.options.pace == "time":
            return "events"
        has_keys = self.options.order == "key" or self.options.record is not None
        return "keys" if has_keys else "nothing"

    def _raw(self) -> bool:
        """Whether the first stage gets raw lines and decodes them itself."""
        first = self.plan.stages[0]
        if self.options.pace == "time" or first.batch:
            return False
        return first.executor != "process" or self.options.order == "none"

    def _decoder_of(self, partition: int) -> JsonDecoder:
        decoder = self.readers[partition].decoder
        assert isinstance(decoder, JsonDecoder)
        return decoder

    def _event_decoder_of(self, partition: int) -> Decoder:
        decoder = self._event_decoders.get(partition)
        if decoder is None:
            reader = self.readers[partition]
            decoder = self._event_decoders[partition] = make_decoder(
                self.plan.mapping,
                header=reader.header,
                delimiter=reader.delimiter,
                keys=True,
                events=True,
                partition=partition,
                cloud_events=reader.cloud_events,
            )
        return decoder

    def _open_record(self) -> Recorder | None:
        """What keeps the record that is asked for."""
        path = self.options.record
        if path is None:
            return None
        stages = [stage.name for stage in self.plan.stages]
        return self._watched(Recorder(RecordFile(path, stages), len(stages), self._late_keys()))

    def _late_keys(self) -> bool:
        """Whether only the lanes of events, at the outlet, tell a recorder their keys."""
        # Of lines that only the first stage decodes; what was filtered out before it, as a
        # duplicate, has no lane.
        return self._raw() and self.options.order == "key" and not self.options.dedupe

    def _watched(self, recorder: Recorder) -> Recorder:
        recorder.on_room, recorder.on_failed = self._look_at_gate, self._fail
        return recorder

    def _about_record(self) -> dict[str, str]:
        return {
            "run": self.id,
            "started_at": self.started_at.replace("+00:00", "Z"),
            "order": self.options.order,
            "emit": self.options.emit,
        }

    def _build(self) -> None:
        options = self.options
        self.recorder = self._open_record()
        self.intake = Intake(
            self.readers,
            order=options.order,
            raw=self._raw(),
            limit=options.limit,
            pacer=self.pacer,
            needs_time=options.pace == "time",
            blocks=self._blocks,
            check_keys=self._check_keys(),
            chosen_key=options.key,
            positions=self.positions,
            dead_letters=self.dead_letters,
            warn=self.observer.on_warning,
            dedupe=_dedupe(options),
            event_decoder_of=self._event_decoder_of,
            injection=self.injection,
            recorder=self.recorder,
            key_decoder_of=self._key_decoder,
        )
        self.outlet = Outlet(
            self.sink,
            self._encoder,
            order=options.order,
            emit=options.emit,
            last_stage=self.plan.stages[-1].name,
            due=self.intake.due,
            dead_letters=self.dead_letters,
            on_progress=self._on_floor,
            on_halted=self._abort,
            goes_on_later=self._goes_on_later,
        )
        self.intake.on_dropped = self.outlet.drop
        self.outlet.recorder = self.recorder
        if options.emit == "input":
            self.outlet.journal = Journal.asked_for(self.positions.place_of)
        last = len(self.plan.stages) - 1
        self.executors = [
            self._executor(stage, number, is_last=number == last)
            for number, stage in enumerate(self.plan.stages)
        ]
        receivers = [*(stage.executor for stage in self.plan.stages), "outlet"]
        self.channels: list[Channel[Batch]] = [
            Channel(CHANNEL_BATCHES.get(receiver, 4)) for receiver in receivers
        ]

    def _blocks(self, streams: Sequence[Stream]) -> AsyncIterator[tuple[Reader, Block | None]]:
        """The blocks of all readers, in the order in which their events are numbered."""
        options = self.options
        # A file that is followed never ends: those after it would never be read.
        apart = options.partitions or options.follow or options.order == "partition"
        return (side_by_side if apart and len(self.readers) > 1 else one_by_one)(streams)

    def _check_keys(self) -> bool:
        """Whether to see to it that the first events have a key."""
        return True

    def _executor(self, stage: StagePlan, number: int, *, is_last: bool) -> Executor:
        is_first, recorder = number == 0, self.recorder
        if stage.executor != "process":  # whose workers trace the calls that they make
            stage = traced(stage)
        scope = "global" if self.options.order in ("none", "global") else "key"
        recorded = None if recorder is None else partial(recorder.handled, number)
        meter = StageMeter(stage, OrderAudit(f"stage {stage.name!r}", scope), recorded)
        failures = StageFailures(
            stage,
            self.dead_letters,
            self.parking,
            self.draw,
            is_first=is_first,
            warn=lambda message: self.observer.on_warning(RunWarning("breaker", message)),
        )
        context = StageContext(
            stage,
            self.plan.mapping,
            meter,
            failures,
            self.dead_letters,
            is_first=is_first,
            order=self.options.order,
            encodes=lambda: is_last and self._output_format() == "jsonl",
            by_event=self.options.emit == "input",
            decoder_of=self._decoder_of,
            event_decoder_of=self._event_decoder_of,
            unpack=self._unpack,
            torn=self.torn.append,
            **self._call_faults(),
        )
        match stage.executor:
            case "inline":
                from .executors.inline import InlineExecutor

                return InlineExecutor(context)
            case "coroutine":
                from .executors.coroutine import CoroutineExecutor

                return CoroutineExecutor(context)
            case "process":
                from .executors.process import ProcessExecutor

                return ProcessExecutor(context, self.readers)

    def _call_faults(self) -> dict[str, Any]:
        """What a stage is to know of faults that its calls suffer."""
        injection = self.injection
        if injection is None or not injection.plan.for_handlers:
            return {}
        return {"faults": injection.plan, "note_fault": injection.note}

    def go_on_with_faults(self, seed: int, kept: list[KeptFault], unattributed: int) -> None:
        """Draw from the seed of earlier sittings, and take over what their faults did."""
        self.seed = seed
        self._dice.seed(seed)
        self._faults_before = kept, unattributed
        if self.injection is not None:
            self.injection.plan.draw_from(seed)
        elif kept:
            self.injection = Injection(FaultPlan((), seed))

    def kept_faults(self) -> tuple[list[KeptFault], int]:
        """What faults on purpose did by now, for a later sitting."""
        if self.injection is None:
            return [], 0
        self.injection.look(self.violations_so_far(), self.outlet.duplicates)
        return self.injection.kept(self.started_ns)

    def _prepare_faults(self, injection: Injection) -> None:
        plan = injection.plan
        injection.begin(
            self.violations_so_far(),
            self.outlet.duplicates,
            *self._faults_before,
            self.started_ns,
        )
        self.dead_letters.on_add = injection.buried
        if plan.disk_fault is not None and plan.disk_bytes is not None:
            assert isinstance(self.sink, FileSink)  # others were refused
            text = plan.faults[plan.disk_fault].text
            self.sink.fill_up_at(plan.disk_bytes, f"--inject {text}")

    def violations_so_far(self) -> int:
        """How often a promise of order was broken until now."""
        reports = [executor.meter.audit.report() for executor in self.executors]
        reports.append(self.outlet.audit.promise.report())
        return self._violations(reports)

    def _output_format(self) -> str:
        if self.output_format is not None:
            return self.output_format
        options = self.options
        if options.output_format != "auto":
            return options.output_format
        name = (options.output or "").removesuffix(".gz").removesuffix(".zst")
        if name.endswith(".csv"):
            return "csv"
        if name.endswith((".jsonl", ".ndjson", ".json")):
            return "jsonl"
        return "csv" if self._reads_rows() else "jsonl"

    def _reads_rows(self) -> bool:
        """Whether the first input is CSV; it is known once anything has come from it."""
        return self.readers[0].format == "csv"

    def _encoder(self, columns: list[str] | None) -> Encoder:
        self.output_format = self._output_format()
        header = next((reader.header for reader in self.readers if reader.header), ())
        delimiter = next((r.delimiter for r in self.readers if r.header), None)
        return make_encoder(self.output_format, header, delimiter, columns)

    def _unpack(self, batch: Batch) -> None:
        """Give a batch that came packed from worker processes its values."""
        if batch.values is not None:
            return
        reader = self.readers[batch.partition]
        if batch.out is None:
            decoded = reader.decode(Block(len(batch), 0, records=batch.lines()))
            batch.values = list(decoded.events or ())
            batch.singles = True
            return
        raise AssertionError(f"a packed batch of {len(split_out(batch.out, batch.counts))} events")

    # --- running

    async def run(self) -> RunResult:
        """Run to the end.

        Raises ConnectorError, UnreadableInput, DeadLetterUnwritable, CheckpointError.
        """
        if self.options.checkpoint is None:
            return await self._run()
        from .progress_keeper import keeping

        async with keeping(self) as result:
            return result or await self._run()

    async def _run(self) -> RunResult:
        self.started_at = self.first_started_at or datetime.now(UTC).isoformat()
        with self._signals:
            await self.sink.open()
            self.started_ns = time.monotonic_ns() - self.elapsed_before_ns
            try:
                if self.recorder is not None:
                    await self.recorder.open(self._about_record())
                if self.injection is not None:
                    self._prepare_faults(self.injection)
                await self._begin()
                await self._run_watched()
                self.ended_ns = time.monotonic_ns()
                if self.keeper is not None:
                    return await self._close_kept(self.keeper)
                self.dead_letters.close()
            except BaseException as error:
                with suppress(Exception):
                    self.dead_letters.close()
                if self.recorder is not None:
                    await self.recorder.abandon(self.intake.read)
                kept = await self.sink.abandon(keep=self._keeps_results(error))
                if kept is not None and self.keeper is None:
                    said = f"{error}; the results so far are in {kept}"
                    raise type(error)(said) from error
                raise
            note = await self._close_outputs()
        notes = [*self.torn, *([self.halted] if self.halted else []), *([note] if note else [])]
        return self._result(notes)

    def _keeps_results(self, error: BaseException) -> bool:
        """Whether what was written before `error` is whole, and kept beside the output's name."""
        is_whole = isinstance(error, ConnectorError | DeadLetterUnwritable | WorkerNotReplaced)
        return is_whole and not isinstance(error, OutputError)

    async def _begin(self) -> None:
        """What has to be in place before anything is read."""
        if self.keeper is not None:
            if self.first_started_at is not None:
                done = self.outlet.frontier
                self.dead_letters.cut_back(self.dead_letters.count, done.has)
            await self.keeper.begin()
        self.dead_letters.claim()

    async def _run_watched(self) -> None:
        """Run all parts to their end, or until they halt, while they are watched."""
        self.watch.start()
        ticker = asyncio.ensure_future(self._tick())
        try:
            with _rarer_collections():
                await self._run_parts()
            self.dead_letters.flush()  # the last results of all may have been too many
        except Halted as halted:
            self.halted = str(halted)
        finally:
            self._signals.is_closing = True
            ticker.cancel()
            if self._deadline is not None:
                self._deadline.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
            await self.watch.stop()
            if self._watching is not None:
                self._watching.tell_last()

    async def _close_kept(self, keeper: ProgressKeeper) -> RunResult:
        """The end of a run with a checkpoint: killed at any point, it can be gone on with."""
        if self.outlet.closed_early:  # nobody has what came after the last snapshot
            self.dead_letters.close()
            await self.sink.abandon(keep=True)
            return self._result([])
        length = await self.sink.mark()
        self.dead_letters.write()
        if self.signal is not None or self.torn or self.halted:
            await keeper.pause(length)
            self.dead_letters.close()
            kept = await self.sink.abandon(keep=True)
            why = [*self.torn, *([self.halted] if self.halted else [])]
            what = "unfinished" if self.signal is None else "interrupted"
            where = f"; the results so far are in {kept}" if kept else ""
            return self._result([*why, f"{what}: go on with it by --resume{where}"])
        result = self._result([])
        await keeper.finish(length, result)
        self.dead_letters.close()
        await self.sink.commit()
        await keeper.complete()
        return result

    async def _run_parts(self) -> None:
        """Run all parts to their end. The outlet comes to its own end even when the run halts:
        what was handled is written."""
        outlet = asyncio.ensure_future(self._run_outlet())
        self._aborted = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as parts:
                abort = parts.create_task(self._until_aborted())
                work = [parts.create_task(self.intake.run(self.channels[0], self._wait_for_window))]
                for number, executor in enumerate(self.executors):
                    name = f"stage:{self.plan.stages[number].name}"
                    inbox, outbox = self.channels[number], self.channels[number + 1]
                    work.append(parts.create_task(executor.run(inbox, outbox), name=name))
                if self.keeper is not None:
                    work.append(parts.create_task(self.keeper.run()))
                beside = [abort]
                if self.injection is not None and self.injection.plan.timed_faults:
                    beside.append(parts.create_task(self._strike(self.injection)))
                await asyncio.gather(*work, asyncio.shield(outlet))
                for each in beside:
                    each.cancel()
        except BaseExceptionGroup as group:
            error = _first_cause(group)
            self._is_broken_off = True
            if isinstance(error, Halted) or (self._keeps_results(error) and not outlet.done()):
                self.channels[-1].close()
                await outlet
            raise error from None
        finally:
            outlet.cancel()
            await asyncio.gather(outlet, return_exceptions=True)

    async def _strike(self, injection: Injection) -> None:
        """Do what faults do by time."""
        await injection.strike(self._targets)

    def _goes_on_later(self) -> bool:
        """Whether what is not done yet is left to another sitting."""
        return self.keeper is not None and bool(
            self._is_broken_off or self.signal is not None or self.torn
        )

    def _targets(self) -> list[Any]:
        return [worker for each in self.executors for worker in getattr(each, "targets", ())]

    async def _until_aborted(self) -> None:
        assert self._aborted is not None
        await self._aborted

    def _abort(self, why: str) -> None:
        """Let go of what is in flight."""
        self._fail(Halted(why))

    def _fail(self, error: BaseException) -> None:
        """The same, for an error."""
        if self._aborted is not None and not self._aborted.done():
            self._aborted.set_exception(error)

    def _too_many(self, dead: int) -> str | None:
        """Why the run stops at so many dead letters."""
        if self.options.on_error == "halt":
            if not self.dead_letters.first:  # there is none yet
                return "halted (--on-error halt)" if dead else None
            place, stage, error = self.dead_letters.first[0]
            return (
                f"halted (--on-error halt): {place.source} line {place.line} at stage {stage!r}: "
                f"{error.type}: {error.message}"
            )
        most, share = self._most_dead
        read = self.intake.read
        if most is not None and dead > most:
            return f"stopped: {dead} dead letters, more than --max-dead-letters {most}"
        if share is not None and read >= _ENOUGH_FOR_A_SHARE and dead > share * read:
            return (
                f"stopped: {dead} dead letters of {read} events read, more than "
                f"--max-dead-letters {self.options.max_dead_letters}"
            )
        return None

    async def _run_outlet(self) -> None:
        await self.outlet.run(self.channels[-1])
        if self.keeper is not None:
            self.keeper.end()

    async def _close_outputs(self) -> str | None:
        """Put what is complete in its place; gives where the results are, if not there."""
        try:
            note = await self._close_sink()
        except BaseException:
            if self.recorder is not None:
                await self.recorder.abandon(self.intake.read)
            raise
        if self.recorder is not None:
            try:
                await self.recorder.finish(self.intake.read)
            except RecordError as error:
                over = "the run itself is over, and its other outputs are as they should be"
                raise RecordError(f"{error}; {over}") from error
        return note

    async def _close_sink(self) -> str | None:
        interrupted = self.signal is not None and not self.options.follow
        if not (interrupted or self.torn or self.halted):
            await self.sink.commit()
            return None
        kept = await self.sink.abandon(keep=True)
        if kept is None:
            return None
        return f"{'interrupted' if interrupted else 'unfinished'}: the results so far are in {kept}"

    def _wait_for_window(self) -> asyncio.Future[None] | None:
        """What the intake waits for: that the oldest event be done (--emit input: written)."""
        if self.outlet.closed_early:
            self.intake.stop()
        if not self._is_far_ahead(self.outlet.floor):
            return None
        self._gate = asyncio.get_running_loop().create_future()
        return self._gate

    def _is_far_ahead(self, floor: int) -> bool:
        ahead = self.intake.reached - floor
        if ahead >= RESEQUENCE_WINDOW and self.options.emit == "input":
            return True
        recorder = self.recorder
        if recorder is not None and self.intake.reached - recorder.first >= RECORD_WINDOW:
            return True
        ledger = self.intake.ledger
        if ledger is None:
            return False
        # Rows of earlier sittings must be read again, however many they are.
        is_long = len(ledger) >= MOST_ROWS and not self.intake.waiting_again
        return ahead >= KEPT_WINDOW or is_long

    def _on_floor(self, floor: int) -> None:
        self.positions.prune(floor)
        self.intake.due.prune(floor)
        if self.intake.ledger is not None:
            self.intake.ledger.prune(floor)
        if self.outlet.closed_early:
            self.intake.stop()
        self._look_at_gate()

    def _look_at_gate(self) -> None:
        if self._gate is not None and not self._is_far_ahead(self.outlet.floor):
            self._open_gate()

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    def _let_go_of_the_lost(self, done: int) -> None:
        """Open the gate for good when what it waits for is nowhere any more: the engine lost it.

        Twice in a row, so that nothing is only on its way from one hand to the next.
        """
        nowhere = (
            self._gate is not None
            and not any(channel.statistics().batches for channel in self.channels)
            and not any(executor.pending for executor in self.executors)
            and not (self.recorder is not None and self.recorder.is_writing)
        )
        if nowhere and self._nowhere_at == done:
            self.intake.stop()
            self._open_gate()
        self._nowhere_at = done if nowhere else -1

    def _on_signal(self, number: int, left_s: float) -> None:
        if self._signals.is_closing:  # all is done: what is left takes no longer than to say so
            return
        self.signal = number
        self.intake.stop()
        self._deadline = asyncio.get_running_loop().call_later(left_s, self._drained_too_long)
        self.observer.on_warning(
            RunWarning(
                "interrupted",
                f"{signal.Signals(number).name}: finishing what is in flight "
                f"({self._in_flight():,} events that were read); once more: stop at once",
            )
        )

    def _in_flight(self) -> int:
        return self.intake.read - self.intake.waiting_again - self.outlet.frontier.done

    def _drained_too_long(self) -> None:
        limit_s = drain_timeout_s(self.options)
        self._abort(
            f"what was in flight was not done within {limit_s:g} s (--drain-timeout): "
            f"{self._in_flight():,} events that were read are left"
        )

    def _on_held_up(self, number: int) -> None:
        """A signal came, and the loop does not take it. Called by another thread."""
        limit_s = drain_timeout_s(self.options)
        held = self.watch.holder()
        who = "a stage" if held is None else f"stage {held[0]!r} (at {held[1]})"
        self.observer.on_warning(
            RunWarning(
                "held-up",
                f"{signal.Signals(number).name}: {who} holds the event loop, and nothing can "
                f"interrupt it there; the run ends when it returns, or {GRACE_S:g} s after "
                f"{limit_s:g} s (--drain-timeout); once more: stop at once",
            )
        )

    def _let_go(self, why: str | None) -> None:
        """The process ends at once: leave no worker, and nothing torn. Called by another thread."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.recorder is not None:
            self.recorder.drop()
        with suppress(Exception):
            kept = self.sink.drop(keep=why is not None)
            if why is not None:
                also = f"; the results so far are in {kept}" if kept else ""
                resumed = "; go on with it by --resume" if self.keeper is not None else ""
                left = f"{self._in_flight():,} events that were read are left"
                self.observer.on_warning(RunWarning("ended", f"{why}: {left}{resumed}{also}"))
        close = getattr(self.observer, "close", None)
        if close is not None:  # gives the terminal back; whoever holds it may not let go of it
            closing = threading.Thread(target=close, daemon=True)
            closing.start()
            closing.join(_CLOSE_S)

    def _on_blocked(self, stage: str, duration_ns: int, where: str) -> None:
        times = self.blocked.get(stage, 0)
        self.blocked[stage] = times + 1
        executor = next((s.executor for s in self.plan.stages if s.name == stage), None)
        mixed = any(s.executor == "coroutine" for s in self.plan.stages)
        if times or executor is None or not mixed:
            return
        self.observer.on_warning(
            RunWarning(
                "blocked-loop",
                f"stage {stage!r} held the event loop for {duration_ns / 1e6:.0f} ms at {where}; "
                "meanwhile nothing else went on: await what blocks, or run the stage in processes",
            )
        )

    def _describe(self, line: bytes, source: str) -> dict[str, Any]:
        """What a dead letter says of its event beside the event itself."""
        reader = next((each for each in self.readers if each.source.name == source), None)
        try:
            if reader is None or not reader.header:
                key = lookup_attribute(decode_json(line), self.plan.mapping.paths["key"])
            else:
                keys = self._key_decoder(reader).decode(Block(1, 0, records=[line])).keys
                key = keys[0] if keys else None
        except (ValueError, RecursionError):  # the line is no event
            key = None
        return {"key": key, **self._decoding(reader)}

    def _decoding(self, reader: Reader | None) -> dict[str, Any]:
        """How a dead letter's event was decoded, where that can't be told by looking at it."""
        chosen = {name: getattr(self.options, name) for name in ATTRIBUTES}
        fields = {name: path for name, path in chosen.items() if path is not None}
        how: dict[str, Any] = {"fields": fields} if fields else {}
        if reader is not None and reader.header:
            how |= {"header": reader.header, "delimiter": reader.delimiter}
        elif self.plan.cloud_events:
            how["format"] = "cloudevents"
        return how

    def _key_decoder(self, reader: Reader) -> Decoder:
        decoder = self._key_decoders.get(reader.source.name)
        if decoder is None:
            decoder = self._key_decoders[reader.source.name] = make_decoder(
                self.plan.mapping,
                header=reader.header,
                delimiter=reader.delimiter,
                keys=True,
                events=False,
            )
        return decoder

    # --- watching

    def pids(self) -> list[int]:
        return [pid for each in self.executors for pid in getattr(each, "pids", ())]

    async def _tick(self) -> None:
        self._begin_series(time.monotonic_ns())
        while True:
            left_s = (self._next_point_ns - time.monotonic_ns()) / 1e9
            await asyncio.sleep(min(PROGRESS_S, max(left_s, _LEAST_TICK_S)))
            now = time.monotonic_ns()
            self.observer.on_progress(self.progress(now))
            if self._watching is not None:
                self._watching.tell(now)
            self._let_go_of_the_lost(self.outlet.frontier.done)
            if self.injection is not None:
                self.injection.look(self.violations_so_far(), self.outlet.duplicates)
            if now >= self._next_point_ns:
                self._point(now)

    def _begin_series(self, at_ns: int) -> None:
        """The first interval begins at `at_ns`."""
        self._next_point_ns = at_ns + self.series.interval_ns
        _, cpu_ns = self.processes.sample(self.pids())
        self._last_point = at_ns, self.outlet.frontier.done, cpu_ns

    def _point(self, now: int) -> None:
        self._next_point_ns += self.series.interval_ns
        done, (rss, cpu) = self.outlet.frontier.done, self.processes.sample(self.pids())
        before_ns, before_done, before_cpu = self._last_point
        self._last_point = now, done, cpu
        elapsed_ns = max(1, now - before_ns)  # the loop may have been held: longer than it should
        window = self.outlet.response_window
        self.outlet.response_window = type(window)()
        self.series.add(
            **self._more_of_point(elapsed_ns),
            throughput=(done - before_done) * 1e9 / elapsed_ns,
            **response_figures(window),
            backlog=self._backlog(),
            rss=rss,
            cpu=(cpu - before_cpu) / elapsed_ns,
            loop_lag=self.watch.take_worst(),
        )

    def _backlog(self) -> int:
        """Events that have arrived and are not done."""
        return self.intake.read - self.outlet.frontier.done

    def _more_of_point(self, elapsed_ns: int) -> dict[str, Any]:
        """What a point of the series has beside."""
        return {}

    def progress(self, now: int) -> Progress:
        """How the run stands."""
        elapsed = max(1, now - self.started_ns)
        done = self.outlet.frontier.done
        backlogs = [
            (channel.statistics().events + executor.meter.in_flight, stage.name)
            for channel, executor, stage in zip(
                self.channels, self.executors, self.plan.stages, strict=False
            )
        ]
        worst, name = max(backlogs)
        sizes = [source.size for source in self.sources]
        known = [size for size in sizes if size is not None]
        return Progress(
            elapsed_ns=elapsed,
            read=self.intake.read,
            done=done,
            dead_lettered=self.dead_letters.count,
            rate=done * 1e9 / elapsed,
            backlog=self._backlog(),
            bytes_read=sum(source.bytes_read for source in self.sources),
            bytes_total=sum(known) if len(known) == len(sizes) else None,
            worst_stage=name if worst else None,
            worst_stage_backlog=worst,
        )

    def offered(self) -> int | None:
        """Events that a load has released by now; None: there is no load."""
        return None

    def share(self, now: int) -> float | None:
        """How much of all is done by now, from 0 to 1; None: it can't be told."""
        shares = []
        if self.options.limit is not None:
            shares.append(self.intake.read / self.options.limit)
        sizes = [source.size for source in self.sources]
        if sizes and all(sizes) and not self.options.follow:
            read = sum(source.bytes_read for source in self.sources)
            shares.append(read / sum(size or 0 for size in sizes))
        return min(1.0, max(shares)) if shares else None

    # --- summing up

    def _result(self, notes: list[str]) -> RunResult:
        counts = self.counts()
        lost, missing = self.outlet.frontier.missing_below(self.intake.read)
        unfinished = self.intake.read - self.intake.waiting_again - counts["read"]
        if self.halted:
            lost, missing = 0, []
        lost = max(0, lost - self.intake.waiting_again)  # those are for the next sitting
        reports = [executor.meter.audit.report() for executor in self.executors]
        reports.append(self.outlet.audit.promise.report())
        violations = self._violations(reports)
        _, cpu = self.processes.sample(self.pids())
        duration = max(1, self.ended_ns - self.started_ns)
        data: dict[str, Any] = {
            "schema": SCHEMA,
            "command": "run",
            "name": self.options.name or self.plan.stages[-1].name,
            "version": version_of("millstream"),
            "started_at": self.started_at.replace("+00:00", "Z"),
            "sittings": 1 if self.keeper is None else self.keeper.sittings,
            "options": msgspec.to_builtins(self.options),
            "inputs": [source.name for source in self.sources],
            "output": self.sink.name,
            "dead_letter_file": self.dead_letters.path if self.dead_letters.count else None,
            "seed": self.seed,
            "host": host(),
            "exit_code": OK,
            "verdict": "pass",
            "counts": counts,
            "unfinished": unfinished,
            "duration_ns": duration,
            "throughput": self._throughput(counts["read"], duration),
            "bytes_read": sum(source.bytes_read for source in self.sources),
            "response": _summary(self.outlet.response),
            "slip": _summary(self.outlet.slip),
            "stages": [self._stage_figures(executor) for executor in self.executors],
            "ordering": {
                "order": self.options.order,
                "violations": violations,
                "audit": {
                    "schema": "millstream.audit/1",
                    **_output_measures(self.outlet.audit, reports),
                    "places": [
                        {"place": place, **msgspec.to_builtins(report)}
                        for place, report in zip(self._places(), reports, strict=True)
                    ],
                },
            },
            "delivery": {
                "lost": lost,
                "duplicated": self.outlet.duplicates,
                "unexpected": 0,
                "recovered": 0,
            },
            "resources": {
                "cpu_ns": cpu,
                "rss_peak": self.processes.rss_peak,
                "rss_peak_parent": self.processes.parent_rss_peak,
                "loop_lag_p99": self.watch.lag.percentile(99),
                "loop_blocked": self.blocked,
            },
            "series": self.series.report(),
            "histograms": self._histograms(),
            "dead_letters": self.dead_letters.reasons.report(counts["dead_lettered"]),
            "conditions": [],
            "invariants": [],
        }
        if self.injection is not None:
            self.injection.look(violations, self.outlet.duplicates)
            data |= self.injection.report(self.started_ns, lost)
        notes += self._broken_promises(counts, lost, missing, reports, violations)
        self._judge(
            data, broken=bool(violations or lost or self.outlet.duplicates or self._unbalanced)
        )
        return RunResult(data, notes)

    def _throughput(self, read: int, duration_ns: int) -> float:
        """Events per second, as the result has it."""
        return read * 1e9 / duration_ns

    def counts(self) -> dict[str, int]:
        """What became of the events, as the result has it."""
        done = self.outlet.counts
        dedupe = self.intake.dedupe
        more = {} if dedupe is None else {"deduplicated": dedupe.found}
        return {
            "read": done.handled + self.dead_letters.count
            if self.halted
            else self.intake.read - self.intake.waiting_again,
            "handled": done.handled,
            "filtered": done.filtered,
            "emitted": done.emitted,
            "retried": sum(each.context.failures.retried for each in self.executors),
            "dead_lettered": self.dead_letters.count,
            **more,
        }

    def _places(self) -> list[str]:
        return [*(stage.name for stage in self.plan.stages), "output"]

    def _violations(self, reports: Sequence[Any]) -> int:
        return int(sum(r.reordered + r.overlaps for r in self._promised(reports)))

    def _promised(self, reports: Sequence[Any]) -> Sequence[Any]:
        """The reports of the places in which an order was promised."""
        if self.options.order != "none":
            return reports
        return reports[-1:] if self.options.emit == "input" else ()

    def _stage_figures(self, executor: Executor) -> dict[str, Any]:
        meter = executor.meter
        stage = meter.stage
        return {
            "name": stage.name,
            "executor": stage.executor,
            "workers": stage.workers,
            "concurrency": stage.concurrency,
            "handled": meter.handled,
            "queue_wait": _summary(meter.queue_wait),
            "service": _summary(meter.service),
        }

    def _histograms(self) -> dict[str, Any]:
        meters = [executor.meter for executor in self.executors]
        return {
            "response": _encoded(self.outlet.response),
            "slip": _encoded(self.outlet.slip),
            "stages": [
                {"queue_wait": _encoded(each.queue_wait), "service": _encoded(each.service)}
                for each in meters
            ],
        }

    def _broken_promises(
        self,
        counts: dict[str, int],
        lost: int,
        missing: list[int],
        reports: Sequence[Any],
        violations: int,
    ) -> list[str]:
        notes = []
        self._unbalanced = counts["read"] != counts["handled"] + counts["dead_lettered"]
        if self._unbalanced:
            notes.append(
                f"not every event is accounted for: read {counts['read']}, handled "
                f"{counts['handled']}, dead-lettered {counts['dead_lettered']}"
            )
        if lost:
            places = [self.positions.place_of(index) for index in missing]
            where = ", ".join(f"{p.source} line {p.line}" for p in places)
            notes.append(f"{lost} events were lost: {where}{', …' if lost > len(missing) else ''}")
        if self.outlet.duplicates:
            notes.append(
                f"{self.outlet.duplicates} events arrived twice, "
                f"such as number {self.outlet.duplicated[0]}"
            )
        if violations:
            for report in self._promised(reports):
                notes += [_sentence(example) for example in report.examples[:3]]
        return notes

    def judge_again(self, data: dict[str, Any]) -> None:
        """Judge the result of a completed run by the conditions that are asked for now."""
        data["conditions"] = []
        self._judge(data, broken=data["exit_code"] == BROKEN)

    def _judge(self, data: dict[str, Any], *, broken: bool) -> None:
        held = []
        for condition in self.conditions:
            observed, is_held = condition.evaluate(data)
            held.append(is_held)
            data["conditions"].append(
                {"text": condition.text, "observed": observed, "held": is_held}
            )
        code = OK
        if broken:
            code = BROKEN
        elif self.torn:
            code = UNUSABLE
        elif self.signal is not None:
            code = FROM_SIGNALS + self.signal
        elif self.halted:
            code = UNUSABLE
        elif any(held):
            code = CONDITION
        elif data["counts"]["dead_lettered"]:
            code = DEAD_LETTERS
        data["exit_code"] = code
        data["verdict"] = verdict_for(code)


def _sentence(example: Any) -> str:
    key = f" of key {example.key!r}" if example.key is not None else ""
    after = example.after["sequence"]
    if example.kind == "overlap":
        return (
            f"{example.place}: event {example.sequence}{key} began before event {after} of the "
            "same key had ended"
        )
    return f"{example.place}: event {example.sequence}{key} came after event {after}"


def _output_measures(audit: OutputAudit, reports: Sequence[PromiseReport]) -> dict[str, Any]:
    """What the RFCs measure, of the output; overlaps, unknown events and examples of all places."""
    examples = [example for report in reports for example in report.examples][:10]
    return {
        **audit.figures.report(),
        "overlaps": sum(report.overlaps for report in reports),
        "unknown": sum(report.unknown for report in reports),
        "examples": msgspec.to_builtins(examples),
    }


def _summary(histogram: Histogram) -> dict[str, int] | None:
    summary = histogram.summary()
    return None if summary is None else msgspec.to_builtins(summary)


def _encoded(histogram: Histogram) -> str | None:
    return encoded(histogram) if histogram.count else None


def _pacer(options: RunOptions) -> Pacer | None:
    if options.rate is not None:
        return ConstantPacer(options.rate)
    return TimePacer(options.speed) if options.pace == "time" else None


def _dedupe(options: RunOptions) -> Dedupe | None:
    return Dedupe(options.dedupe_window or DEFAULT_WINDOW) if options.dedupe else None


def _check_conditions(
    conditions: Sequence[Condition], stages: Sequence[StagePlan], *, has_schedule: bool
) -> None:
    names = [stage.name for stage in stages]
    for condition in conditions:
        stage = stage_of(condition)
        if stage is not None and stage not in names:
            raise PlanError(
                f"--fail-if {condition.text!r}: there is no stage {stage!r}; "
                f"there {'are' if len(names) > 1 else 'is'} {', '.join(names)}"
            )
        if not has_schedule and needs_schedule(condition):
            raise PlanError(
                f"--fail-if {condition.text!r}: a run without a schedule has no "
                f"{condition.figure.split('.')[0]} time; give it --rate or --pace time"
            )


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of tasks failed with: an expected one before a bug."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack += error.exceptions
        else:
            flat.append(error)
    from .checkpoint import CheckpointError

    kinds = (ConnectorError, UnreadableInput, CheckpointError, DeadLetterUnwritable)
    expected = [e for e in flat if isinstance(e, kinds)]
    halted = [e for e in flat if isinstance(e, Halted)]
    return (expected or halted or flat)[0]


@contextmanager
def _rarer_collections() -> Iterator[None]:
    """Let the collector of cycles look less often: events in flight are many, and form none."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


# --- the same run from Python


def open_sources(inputs: Sequence[str], options: RunOptions) -> list[Source]:
    """The sources that input names stand for. Raises ConnectorError."""
    return [
        StdinSource() if name == "-" else FileSource(name, follow=options.follow)
        for name in find_inputs(inputs)
    ]


def open_sink(output: str | None, *, default: Callable[[], Sink] = NoSink) -> Sink:
    """The sink of an output name; `-` is standard output."""
    if output is None:
        return default()
    return StdoutSink() if output == "-" else FileSink(output)


async def run_async(
    job: Job,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    observer: Observer | None = None,
    options: RunOptions | None = None,
    **more: Any,
) -> RunResult:
    """Run `job` over `inputs` in the running loop; the options are those of the command.

    Without `output`, results are counted and thrown away. Raises PlanError, HandlerNotFound,
    ConnectorError, UnreadableInput, DeadLetterUnwritable, CheckpointError.
    """
    given = options or RunOptions()
    if more:
        paths = ("output", "dead_letter", "checkpoint", "result", "record")
        more |= {name: os.fspath(more[name]) for name in paths if more.get(name) is not None}
        given = msgspec.structs.replace(given, **more)
    if given.report:
        raise PlanError("a report is written by the command, or by millstream.reports alone")
    plan = make_plan(job, given)
    names = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    sources = open_sources([os.fspath(name) for name in names], given)
    run = Run(plan, sources, open_sink(given.output), observer or Silent())
    result = await run.run()
    if given.result is not None:
        result.write(given.result)
    return result


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run(
    job: Job,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    **options: Any,
) -> RunResult:
    """Run `job` over `inputs` and wait for the result; also from a notebook.

    Takes what run_async() takes, and raises what it raises.
    """
    import threading

    import uvloop

    def call() -> RunResult:
        return uvloop.run(run_async(job, inputs, **options))

    if not _loop_is_running():
        return call()
    # A loop runs in this thread already, as in a notebook: use another thread.
    box: list[RunResult | BaseException] = []

    def in_thread() -> None:
        try:
            box.append(call())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=in_thread, name="millstream-run")
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]
