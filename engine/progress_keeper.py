"""Keeps how far a run has come, in its checkpoint, and lets a later sitting go on from there.

A snapshot is taken in the loop, between two turns of the outlet; what it counts on is brought to
the disk, and then it itself, in threads, while the run goes on. One at a time.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .checkpoint import CheckpointError, CheckpointStore, Put
from .connectors.files import FileSource
from .event import encode_printable, printable
from .fingerprint import Fingerprint
from .frontier import Frontier
from .ledger import Ledger, Row, streams_of
from .observer import RunWarning
from .places import dead_letter_path
from .plan import RunOptions, StagePlan, checkpoint_every_ns
from .result import RunResult
from .resuming import (
    BOUND_OPTIONS,
    InputFacts,
    Phase,
    ReaderState,
    RunFacts,
    RunState,
    StageFacts,
    StageState,
    refusal,
)
from .state_ledger import StateLedger, key_from_bytes, key_to_bytes

if TYPE_CHECKING:
    from .connectors.base import Source
    from .dedupe import Dedupe, DedupeState
    from .executors.base import Executor
    from .outlet import OutletState
    from .runner import Run

_BUSY_S: Final = 0.01
_SEEN: Final = "seen"


class _Outcome(msgspec.Struct, frozen=True):
    data: msgspec.Raw
    notes: list[str]
    output: str | None = None
    """What tells the output from another file of its name."""


class ProgressKeeper:
    """The checkpoint of one run, open."""

    def __init__(self, store: CheckpointStore, run: Run, facts: RunFacts, sittings: int) -> None:
        self.sittings = sittings
        self._store, self._run, self._facts = store, run, facts
        self._every_ns = checkpoint_every_ns(run.options)
        self._due_ns = time.monotonic_ns() + self._every_ns
        self._values: dict[str, bytes] | None = None
        self._puts: list[Put] = []
        """Taken, and not on the disk yet."""
        self._work = asyncio.Event()
        self._is_over = False

    # --- while the run goes on

    @property
    def wait_s(self) -> float:
        """How long until the next snapshot is wanted; 0: now."""
        if self._values is not None:
            return _BUSY_S
        dedupe = self._run.intake.dedupe
        if dedupe is not None and dedupe.wants_snapshot:
            return 0
        return max(0, self._due_ns - time.monotonic_ns()) / 1e9

    def take(self, length: int) -> None:
        """A snapshot; all that counts as done stands in the first `length` bytes of the output."""
        self._values, self._puts = self._snapshot(length)
        self._due_ns = time.monotonic_ns() + self._every_ns
        self._work.set()

    async def run(self) -> None:
        """Bring snapshots to the disk until end(). Raises CheckpointError, and what sync() does."""
        while not self._is_over:
            await self._work.wait()
            self._work.clear()
            if self._values is not None:
                await self._commit(self._values, self._puts)
                self._values, self._puts = None, []

    def end(self) -> None:
        """No more snapshots will be taken by the outlet."""
        self._is_over = True
        self._work.set()

    # --- the ends of a sitting

    async def begin(self) -> None:
        """The first snapshot of this sitting, before anything is read."""
        length = await self._run.sink.mark()
        values, puts = self._snapshot(length)
        values |= {"phase": _phase("running"), "facts": _encode(self._facts)}
        await self._commit(values, puts)
        self._due_ns = time.monotonic_ns() + self._every_ns

    async def pause(self, length: int) -> None:
        """The last snapshot of a sitting that was interrupted."""
        await self._commit(*self._last_snapshot(length))

    async def finish(self, length: int, result: RunResult) -> None:
        """All is done, and `result` is what it came to; the output has not got its name yet."""
        values, puts = self._last_snapshot(length)
        values |= {
            "phase": _phase("finishing"),
            "result": encode_printable(
                {
                    "data": result.data,
                    "notes": result.notes,
                    "output": self._run.sink.identity(),
                }
            ),
        }
        await self._commit(values, puts)

    async def complete(self) -> None:
        """The output stands under its name."""
        await self._store.commit({"phase": _phase("complete")})

    def _snapshot(self, length: int) -> tuple[dict[str, bytes], list[Put]]:
        return {"state": _encode(snapshot(self._run, length))}, changed_rows(self._run)

    def _last_snapshot(self, length: int) -> tuple[dict[str, bytes], list[Put]]:
        """With what an earlier one has that may not have come to the disk."""
        values, puts = self._snapshot(length)
        return values, [*self._puts, *puts]

    async def _commit(self, values: dict[str, bytes], puts: list[Put]) -> None:
        await asyncio.to_thread(self._sync)
        await self._store.commit(values, puts)

    def _sync(self) -> None:
        self._run.sink.sync()
        self._run.dead_letters.sync()


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(value)


def _phase(phase: Phase) -> bytes:
    return phase.encode()


def changed_rows(run: Run) -> list[Put]:
    """The states of keys and the parked keys that have changed, as far as their events are done,
    and the ids that came and left."""
    puts: list[Put] = []
    done = run.outlet.done()
    for executor in run.executors:
        context = executor.context
        if context.states is not None:
            name = context.stage.name
            for key, state in context.states.take(done.has):
                puts.append(("state", name, key_to_bytes(key), state))
    if run.intake.dedupe is not None:
        puts += [(_SEEN, "", key, row) for key, row in run.intake.dedupe.changes()]
    fresh, run.parking.fresh = run.parking.fresh or [], []
    for lane, index in fresh:
        puts.append(("parked", "", key_to_bytes(lane), index.to_bytes(8, "big")))
    return puts


# --- opening


@asynccontextmanager
async def keeping(run: Run) -> AsyncIterator[RunResult | None]:
    """Give `run` its keeper while the block runs, and, on resume, what earlier sittings left.

    When these had completed it, gives their result: nothing is to be run. Raises CheckpointError.
    """
    path = run.options.checkpoint
    assert path is not None
    was_there = os.path.exists(path)
    async with _opened(path) as store:
        phase = await store.read("phase")
        if phase is not None and not run.options.resume:
            if phase != _phase("complete"):
                raise CheckpointError(
                    f"the checkpoint {path} holds a run that is not finished; go on with it by "
                    "--resume, or remove the file to begin anew"
                )
            await store.clear()
            phase = None
        if phase is None:
            if run.options.resume:
                why = "holds no run" if was_there else "does not exist"
                said = f"nothing to go on from: {path} {why}; the run begins at the start"
                run.observer.on_warning(RunWarning("nothing-kept", said))
            left = await store.read("begun")
            if left is not None:  # by a run that was killed before it had anything to go on from
                run.sink.forget(left.decode())
            await store.commit({"begun": run.id.encode()})
            _begin(run, store)
            yield None
        else:
            yield await _go_on(run, store, path, phase)


@asynccontextmanager
async def _opened(path: str) -> AsyncIterator[CheckpointStore]:
    store = await CheckpointStore.open(path)
    try:
        yield store
    except BaseException:
        with suppress(CheckpointError):  # what went wrong first is what is to be said
            await store.close()
        raise
    await store.close()


def _begin(run: Run, store: CheckpointStore) -> None:
    run.intake.ledger = Ledger()
    run.dead_letters.ahead = set()
    _keep_states(run)
    run.sink.keep(run.id, None)
    for reader in run.readers:
        if not reader.source.can_seek:
            reader.fingerprint = Fingerprint()
    if run.intake.dedupe is not None:
        run.intake.dedupe.keep()
    _keep_places(run)
    run.keeper = run.outlet.keeper = ProgressKeeper(store, run, _facts(run), 1)
    if not run.sink.can_be_cut:
        what = "standard output" if run.sink.name == "-" else f"output {run.sink.name!r}"
        run.observer.on_warning(
            RunWarning(
                "uncut-output",
                f"{what} can't be cut back: after a resume, results may come twice there; "
                "name a file (--output FILE) to have each once",
            )
        )


async def _go_on(run: Run, store: CheckpointStore, path: str, phase: bytes) -> RunResult | None:
    try:
        facts = msgspec.msgpack.decode(await store.read("facts") or b"", type=RunFacts)
        state = msgspec.msgpack.decode(await store.read("state") or b"", type=RunState)
    except msgspec.DecodeError as error:
        raise CheckpointError(
            f"the checkpoint {path} was written by another version of Millstream; go on with that "
            "one, or remove the checkpoint to begin anew"
        ) from error
    now = _facts(run)
    why = refusal(facts, now, _found(state), has_ended=bool(state.ended))
    if why is not None:
        raise CheckpointError(
            f"the run in the checkpoint {path} can't be gone on with: {why}, or remove the "
            "checkpoint to begin anew"
        )
    facts = msgspec.structs.replace(facts, follow=now.follow, inputs=now.inputs)
    run.id = run.dead_letters.run = facts.run
    run.sink.keep(facts.run, state.length)
    if phase == _phase("running"):
        put_back(run, facts, state)
        await _put_back_rows(run, store)
        if run.intake.dedupe is not None and state.dedupe is not None:
            run.intake.dedupe.go_on_from(state.dedupe, await store.rows(_SEEN, ""))
            run.intake.dedupe.keep()
        run.keeper = run.outlet.keeper = ProgressKeeper(store, run, facts, state.sittings + 1)
        return None
    outcome = msgspec.json.decode(await store.read("result") or b"", type=_Outcome)
    if phase == _phase("finishing"):
        if not run.sink.is_complete(outcome.output):
            await run.sink.open()
            await run.sink.commit()
        await store.commit({"phase": _phase("complete")})
    elif not run.sink.is_complete():
        raise CheckpointError(
            f"the run in the checkpoint {path} was complete, but its output {run.sink.name!r} is "
            "not there any more; put it back, or remove the checkpoint to begin anew"
        )
    run.observer.on_warning(
        RunWarning("complete", f"the run in {path} was complete; its result is given again")
    )
    data = msgspec.json.decode(outcome.data)
    run.judge_again(data)
    return RunResult(data, outcome.notes)


def _found(state: RunState) -> dict[str, str | None]:
    """What the options came to that were left to the run to find out."""
    formats = {each.known.format for each in state.readers} - {None}
    format = formats.pop() if len(formats) == 1 else None
    return {"format": format, "output_format": state.output_format}


def _keep_states(run: Run) -> None:
    """Let the stages of `run` tell what becomes of the states of keys, and which are parked."""
    run.parking.fresh = []
    stages = [executor.context for executor in run.executors]
    if all(context.stage.state is None for context in stages):
        return
    run.outlet.letters_go_ahead = False
    for context in stages:
        context.keeps_lanes = True
        if context.stage.state is not None:
            context.states = StateLedger(lambda: run.outlet.frontier.floor)


async def _put_back_rows(run: Run, store: CheckpointStore) -> None:
    _keep_states(run)
    for executor in run.executors:
        context = executor.context
        if context.states is not None:
            rows = await store.rows("state", context.stage.name)
            context.states_before = {key_from_bytes(key): state for key, state in rows}
    again: list[Put] = []
    for key, index in await store.rows("parked", ""):
        if run.outlet.frontier.has(int.from_bytes(index, "big")):
            run.parking.keys[key_from_bytes(key)] = int.from_bytes(index, "big")
        else:  # the event that died will be handled again
            again.append(("parked", "", key, None))
    await store.commit({}, again)


# --- facts


def _facts(run: Run) -> RunFacts:
    options = msgspec.to_builtins(run.options)
    names = dict(
        zip(run.options.__struct_fields__, run.options.__struct_encode_fields__, strict=True)
    )
    return RunFacts(
        run.id,
        datetime.now(UTC).isoformat(),
        {name: printable(options[names[name]]) for name in (*BOUND_OPTIONS, "seed")},
        [_input_facts(source) for source in run.sources],
        [_stage_facts(stage) for stage in run.plan.stages],
        run.options.follow,
        run.seed,
        _places(run.options),
    )


def _stage_facts(stage: StagePlan) -> StageFacts:
    handler: Any = stage.handler
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__qualname__"):
        handler = type(handler)
    # The last part only: `FILE.py` and `package.module` may mean the same.
    module = str(handler.__module__).rpartition(".")[2].removeprefix("_millstream_")
    name = printable(f"{module}.{handler.__qualname__}")
    return StageFacts(stage.name, stage.batch, name, stage.state is not None, stage.types)


def _places(options: RunOptions) -> dict[str, str]:
    files = {"dead_letter": dead_letter_path(options)}
    if options.output not in (None, "-"):
        files["output"] = options.output
    return {name: printable(os.path.realpath(path)) for name, path in files.items()}


def _input_facts(source: Source) -> InputFacts:
    name = printable(source.name)
    if not source.can_seek:
        return InputFacts(name)
    facts = os.stat(source.name)
    return InputFacts(
        name,
        facts.st_size,
        facts.st_mtime_ns,
        (facts.st_dev, facts.st_ino),
        printable(os.path.realpath(source.name)),
    )


def _keep_places(run: Run) -> None:
    for source in run.sources:
        if isinstance(source, FileSource):
            source.keeps_place = True


# --- the state of a run


def snapshot(run: Run, length: int) -> RunState:
    """How far `run` has come, at a moment when the outlet holds nothing back."""
    intake, dead_letters = run.intake, run.dead_letters
    ahead = dead_letters.ahead or set()
    assert intake.ledger is not None and run.keeper is not None
    assert intake.ledger.read == intake.read
    _, cpu_ns = run.processes.sample(run.pids())
    rows = intake.ledger.rows(intake.ended)
    faults, unattributed = run.kept_faults()
    outlet = run.outlet.snapshot()
    return RunState(
        sittings=run.keeper.sittings,
        elapsed_ns=time.monotonic_ns() - run.started_ns,
        read=intake.read,
        dead=dead_letters.count - (0 if run.outlet.letters_go_ahead else len(ahead)),
        length=length,
        output_format=run.output_format,
        outlet=outlet,
        rows=rows,
        ended=sorted(intake.ended),
        readers=_reader_states(run, rows),
        stages=[_stage_state(executor) for executor in run.executors],
        lag=run.watch.lag.snapshot(),
        series=run.series.report(),
        cpu_ns=cpu_ns,
        rss_peak=run.processes.rss_peak,
        parent_rss_peak=run.processes.parent_rss_peak,
        blocked=run.blocked,
        dedupe=_dedupe_state(intake.dedupe, outlet),
        faults=faults,
        unattributed=unattributed,
    )


def _dedupe_state(dedupe: Dedupe | None, outlet: OutletState) -> DedupeState | None:
    if dedupe is None:
        return None
    done = Frontier.restore(outlet.floor, outlet.above)
    return dedupe.snapshot(done.undone(dedupe.duplicates()))


def _reader_states(run: Run, rows: list[Row]) -> list[ReaderState]:
    offsets: dict[int, int] = {}
    for row in rows:
        offsets.setdefault(row.reader, row.restart[1].offset)
    states = []
    for reader in run.readers:
        print_ = reader.fingerprint
        marks = [] if print_ is None else print_.marks(offsets.get(reader.partition, 0))
        states.append(ReaderState(reader.known, reader.source.bytes_read, marks))
    return states


def _stage_state(executor: Executor) -> StageState:
    meter, failures = executor.meter, executor.context.failures
    audit = meter.audit.kept()  # which looks at what is left to look at
    return StageState(
        meter.handled,
        failures.retried,
        meter.service.snapshot(),
        meter.queue_wait.snapshot(),
        audit,
    )


def put_back(run: Run, facts: RunFacts, state: RunState) -> None:
    """Let `run`, which is to be run next, begin where `state` says."""
    run.first_started_at, run.elapsed_before_ns = facts.started_at, state.elapsed_ns
    run.go_on_with_faults(facts.seed, state.faults, state.unattributed)
    run.output_format = state.output_format
    run.dead_letters.ahead, run.dead_letters.count = set(), state.dead
    run.outlet.go_on_from(state.outlet, state.read)
    _put_back_inputs(run, state)
    for executor, stage in zip(run.executors, state.stages, strict=True):
        meter = executor.meter
        meter.handled = stage.handled
        executor.context.failures.retried = stage.retried
        meter.service.restore(stage.service)
        meter.queue_wait.restore(stage.queue_wait)
        meter.audit.go_on_from(stage.audit)
    run.watch.lag.restore(state.lag)
    run.series.go_on_from(state.series)
    run.processes.go_on_from(state.cpu_ns, state.rss_peak, state.parent_rss_peak)
    run.blocked.update(state.blocked)


def _put_back_inputs(run: Run, state: RunState) -> None:
    _keep_places(run)
    ended, intake, frontier = set(state.ended), run.intake, run.outlet.frontier
    known = [each.known for each in state.readers]
    streams = streams_of(run.readers, known, state.rows, ended)
    read_on = {stream.reader.partition for stream in streams}
    for reader, before in zip(run.readers, state.readers, strict=True):
        if reader.partition not in read_on:
            reader.source.bytes_read = before.bytes_read
        elif not reader.source.can_seek:
            reader.fingerprint = Fingerprint(before.marks)
    intake.ledger, intake.ended = Ledger(state.rows, state.read), ended
    intake.go_on(
        state.read,
        state.read - frontier.done,
        streams,
        state.rows,
        frontier.undone,
    )
