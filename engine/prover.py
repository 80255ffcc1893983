"""A user's job under kills: run once undisturbed, then killed and gone on with, again and again.

Runs are subprocesses, each in a session of its own, and what they leave is judged by evidence.py.
Everything is written into one folder; nothing outlives prove() but that.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from . import evidence, guard, journal, judging, tracing
from .connectors.files import find_inputs
from .evidence import Comparison, Field, Left, Mask, Shape
from .judging import Check, Judgement, Verdict
from .kill_points import Point, draw_points
from .plan import NoCheckpoint, PlanError, RunOptions, fault_plan, make_plan
from .result import BROKEN, DEAD_LETTERS, OK, UNEXPECTED, UNUSABLE, USAGE, read_result

SCHEMA: Final = "millstream.prove/1"

CODES: Final[dict[Verdict, int]] = {"proved": OK, "broken": BROKEN, "unproved": UNUSABLE}
_CHECKPOINT: Final = "checkpoint"
_BASELINE: Final = "baseline"
_WATCH_S: Final = 0.0005
_LEAST_CHECKPOINT_NS: Final = 2_000_000
_MOST_CHECKPOINT_NS: Final = 1_000_000_000
_SNAPSHOTS: Final = 10
"""How many are wanted between two kills."""
_NEARLY: Final = 0.9
_SHORT_NS: Final = 3_000_000_000
_STRETCH: Final = 4
"""A run that is shorter undisturbed is stretched to so many times its length, to half of this at
least and twice at most: kills should come upon progress, and a sitting starts its workers first."""
_GONE_S: Final = 10.0
_MOST_SAID: Final = 40
_SIGNALLED: Final = 128
_NO_ROOM: Final = "No space left on device"
_LEAST_ROOM: Final = 1 << 20
ROOM_ADVICE: Final = "make room there, or name another folder: TMPDIR, or --keep FOLDER"
_COMMAND: Final = (sys.executable, "-P", "-m", "millstream.cli.main", "run")


class ProofFailed(Exception):
    """A run ended by itself, and not well; `code` is what this ends with."""

    def __init__(self, message: str, code: int, *, is_foreign: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_foreign = is_foreign
        """Whether it says nothing of the job: something else ended the run."""


class Kill(msgspec.Struct, frozen=True):
    """A kill that was planned, and where it came."""

    point: Point
    words: str
    """Where it was to come."""
    made: bool
    """False: the run had ended before."""
    calls: int
    """Handler calls so far, over all sittings."""
    output_bytes: int
    kept: int = 0
    """How many of the calls never had to be made again."""


class Proof(msgspec.Struct, frozen=True):
    """What came of it."""

    verdict: Verdict
    why: str
    """What the verdict says, in a sentence."""
    seed: int
    counts: dict[str, int]
    """events, results (lines), dead_letters: of the undisturbed run."""
    kills: list[Kill]
    sittings: int
    checkpoint_every: str
    slowed_to: float | None
    """Events a second that the disturbed run was slowed to: it would have been over too soon."""
    checks: list[Check]
    comparison: Comparison
    varying_fields: list[str]
    """Fields whose values differ between two undisturbed runs, and were not compared."""
    ignored_fields: list[str]
    """Fields that were not compared, as asked."""

    @property
    def exit_code(self) -> int:
        return CODES[self.verdict]


def options_for_runs(options: RunOptions) -> RunOptions:
    """The options of a job, without where it writes. Raises PlanError."""
    if options.follow:
        raise PlanError("--follow never ends, so it can't be proved; leave it out")
    if options.dry_run:
        raise PlanError("--dry-run calls no handler, so it can't be proved; leave it out")
    faults = fault_plan(options, 0)
    for fault in faults.faults if faults else ():
        if fault.kind == "disk-full":
            raise PlanError(
                f"--inject {fault.text!r} ends the undisturbed run too, so it can't be proved; "
                "leave it out"
            )
    return msgspec.structs.replace(
        options,
        output=None, dead_letter=None, checkpoint=None, resume=False, result=None, record=None,
        fail_if=(), name=None, quiet=False,
    )  # fmt: skip


def arguments_of(options: RunOptions) -> list[str]:
    """The flags that stand for `options`; what is as by default has none."""
    flags = []
    for name, flag in zip(options.__struct_fields__, options.__struct_encode_fields__, strict=True):
        value = getattr(options, name)
        if value == RunOptions.__struct_defaults__[options.__struct_fields__.index(name)]:
            continue
        if value is True:
            flags.append(f"--{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--{flag}={each}" for each in values]
    return flags


Meddle = Callable[[Path, int], None]
"""Called with the disturbed run's folder after each of its sittings, numbered from 1."""


class Prover:
    """One proof. `meddle` is a seam for tests: it may damage what lies on the disk."""

    def __init__(
        self,
        handler: str,
        job: Any,
        inputs: Sequence[str],
        options: RunOptions,
        folder: Path,
        *,
        kills: int,
        seed: int,
        ignore: Sequence[str] = (),
        say: Callable[[str], None] = lambda text: None,
        meddle: Meddle = lambda folder, sitting: None,
    ) -> None:
        """`job`: what `handler` names. `ignore`: fields of results that are not compared.

        Raises PlanError, ConnectorError.
        """
        self.handler, self.inputs = handler, find_inputs(inputs)
        self._options = msgspec.structs.replace(options_for_runs(options), seed=seed)
        self._folder, self._kills, self.seed = folder, kills, seed
        self.ignored, self._ignored = list(ignore), evidence.fields_of(ignore)
        self._say, self._meddle = say, meddle
        self._every: str | None = None
        if options.checkpoint_every != RunOptions().checkpoint_every:
            self._every = options.checkpoint_every
        self._shape = self._shape_of(job)

    def _shape_of(self, job: Any) -> Shape:
        options = self._options
        kept = msgspec.structs.replace(options, checkpoint=str(self._folder / _CHECKPOINT))
        make_plan(job, options)
        try:
            plan = make_plan(job, kept)
        except NoCheckpoint as error:
            raise PlanError(
                "prove kills a run and goes on from its checkpoint, which this job can't have: "
                f"{error.reason}; {error.advice or 'leave that out'}"
            ) from None
        return Shape(
            options.order,
            options.emit == "input",
            (options.partitions or options.order == "partition") and len(self.inputs) > 1,
            plan.stages[0].name,
            tuple(self.inputs),
            plan.mapping.paths["key"],
        )

    # --- the whole

    def prove(self) -> Proof:
        """Raises ProofFailed, OSError. No run outlives this process."""
        self._pipe = os.pipe()
        try:
            return self._prove()
        finally:
            for end in self._pipe:
                os.close(end)

    def _prove(self) -> Proof:
        base = self._undisturbed(_BASELINE)
        facts = read_result(str(base.path(evidence.RESULT)))
        self._say(f"undisturbed: {facts.counts['read']:,} events, {base.calls:,} handler calls")
        points = draw_points(self.seed, self._kills, base.calls, base.size(evidence.OUTPUT))
        options = self._disturbed_options(facts.duration_ns, facts.counts["read"])
        disturbed = _Disturbed(self, Left(self._folder / "disturbed"), options)
        disturbed.run(points)
        counts = {
            "events": facts.counts["read"],
            "results": base.count(evidence.OUTPUT),
            "dead_letters": facts.counts["dead_lettered"],
        }
        judged = self._judge(base, disturbed, counts)
        return Proof(
            verdict=judged.verdict,
            why=judged.why,
            seed=self.seed,
            counts=counts,
            kills=with_kept(disturbed.kills, judged.comparison),
            sittings=len(disturbed.ends),
            checkpoint_every=options.checkpoint_every,
            slowed_to=None if self._options.rate else options.rate,
            checks=judging.checks_of(judged, self._shape, counts),
            comparison=judged.comparison,
            varying_fields=judged.fields,
            ignored_fields=self.ignored,
        )

    def _judge(self, base: Left, disturbed: _Disturbed, counts: dict[str, int]) -> Judgement:
        if disturbed.stuck is not None:
            calls = evidence.only_calls(base, disturbed.left, disturbed.ends)
            return judging.stuck(calls, len(disturbed.kills), disturbed.stuck)
        mask = self._mask(base)
        comparison = evidence.compare(base, disturbed.left, self._shape, disturbed.ends, mask)
        if comparison.counts:
            judged = self._again(base, disturbed, comparison)
        else:
            judged = Judgement("proved", judging.WHY["proved"], comparison)
        alike = mask is not None and base.are_alike(mask)
        judged = judging.compared_without(judged, self.ignored, alike=alike)
        kills = with_kept(disturbed.kills, judged.comparison)
        judged = judging.as_far_as_it_goes(
            judged,
            events=counts["events"],
            results=counts["results"] - base.head(counts["results"]),
            kept=[kill.kept for kill in kills if kill.made],
        )
        if disturbed.said:
            judged = msgspec.structs.replace(
                judged,
                verdict="broken",
                why=judging.WHY["broken"],
                comparison=judging.with_promise(judged.comparison, disturbed.said),
            )
        return judged

    def _disturbed_options(self, duration_ns: int, events: int) -> RunOptions:
        """Such that several checkpoints come between two kills, even of a job that is over soon."""
        options, rate = self._options, self._options.rate
        if rate is None and options.pace == "none" and events and duration_ns < _SHORT_NS:
            duration_ns = max(_SHORT_NS // 2, min(_STRETCH * duration_ns, 2 * _SHORT_NS))
            rate = events * 1e9 / duration_ns
        every = duration_ns // (_SNAPSHOTS * (self._kills + 1))
        every_ms = max(_LEAST_CHECKPOINT_NS, min(_MOST_CHECKPOINT_NS, every)) // 1_000_000
        return msgspec.structs.replace(
            options, rate=rate, checkpoint_every=self._every or f"{every_ms}ms"
        )

    def _again(self, base: Left, disturbed: _Disturbed, comparison: Comparison) -> Judgement:
        """Whether the job or its handler is to blame: undisturbed once more, and as slowly."""
        self._say(
            "something differs; running it undisturbed once more, to see whether that does too"
        )
        other, ends = disturbed.left, disturbed.ends
        second = self._undisturbed("baseline-2", disturbed.options.rate)
        found = evidence.varying(base, second, self._shape, self._ignored)
        if found.otherwise:
            lines = [left.count(evidence.OUTPUT) for left in (base, second, other)]
            return judging.undistinguished(comparison, found.otherwise, lines)
        if not (found.fields or found.calls):
            return Judgement("broken", judging.why_broken(comparison), comparison)
        mask = self._mask(base, found.fields)
        masked = evidence.compare(
            base, other, self._shape, ends, mask, first_stage_only=found.calls
        )
        return judging.varying(masked, found.names)

    def _mask(self, base: Left, fields: frozenset[Field] = frozenset()) -> Mask | None:
        """What is compared of a line: all but what is ignored, and `fields`."""
        fields |= self._ignored
        return evidence.without(fields, base.columns()) if fields else None

    # --- runs

    def _undisturbed(self, name: str, rate: float | None = None) -> Left:
        left = Left(self._folder / name)
        left.folder.mkdir()
        rate = rate or self._options.rate
        options = msgspec.structs.replace(self._options, emit="input", rate=rate)
        environment = {journal.JOURNAL: str(left.path(evidence.JOURNAL))}
        code = self.sit(left, options, "run", environment, None)
        assert code is not None
        is_first = name == _BASELINE
        failed = failure_of(code, left, "run")
        if failed is not None:
            when = "already the undisturbed run" if is_first else "the job, run undisturbed again,"
            raise ProofFailed(f"{when} failed: {failed}", failed.code)
        if code == BROKEN:
            raise ProofFailed(
                f"already the undisturbed run broke a promise:\n{said(left, 'run')}", BROKEN
            )
        return left

    def sit(
        self,
        left: Left,
        options: RunOptions,
        log: str,
        environment: dict[str, str],
        point: Point | None,
    ) -> int | None:
        """One run to its end, or to `point`; gives its exit code, None when it was killed."""
        options = msgspec.structs.replace(
            options,
            output=str(left.path(evidence.OUTPUT)),
            dead_letter=str(left.path(evidence.LETTERS)),
            result=str(left.path(evidence.RESULT)),
            quiet=True,
        )
        command = [*_COMMAND, *arguments_of(options), "--", self.handler, *self.inputs]
        given = {tracing.TRACE: str(left.path(evidence.TRACE)), **environment}
        kill_at = None
        if point is not None and point.latest_call is not None:
            kill_at = left.calls + point.latest_call
        given[tracing.FIRST_STAGE] = self._shape.first_stage
        if kill_at is not None:
            given[tracing.KILL_AT] = str(kill_at)
        process = start(command, {**os.environ, **given}, left.path(f"{log}.log"), self._pipe[0])
        try:
            return self._watch(process, left, point, kill_at)
        finally:
            kill_group(process)

    def _watch(
        self, process: subprocess.Popen[bytes], left: Left, point: Point | None, kill_at: int | None
    ) -> int | None:
        if point is None:
            return process.wait()
        while process.poll() is None:
            if _is_reached(point, left):
                return None
            if not _is_about_to_pass(point, left):
                time.sleep(_WATCH_S)
        killed = kill_at is not None and left.calls >= kill_at
        if process.returncode == -signal.SIGKILL and killed:
            return None
        return process.returncode

    def told(self, text: str) -> None:
        """Say how it goes on."""
        self._say(text)

    def meddle(self, sitting: int, left: Left) -> None:
        self._meddle(left.folder, sitting)


def with_kept(kills: Sequence[Kill], comparison: Comparison) -> list[Kill]:
    """The kills, with how many of the calls that were compared had been made for good."""
    reached, kept = comparison.reached, comparison.kept
    return [
        msgspec.structs.replace(kill, calls=reached[number], kept=kept[number])
        if kill.made
        else kill
        for number, kill in enumerate(kills)
    ]


class _Disturbed:
    """The run that is killed at each of its points and gone on with."""

    def __init__(self, prover: Prover, left: Left, options: RunOptions) -> None:
        self._prover, self.left = prover, left
        self.options = msgspec.structs.replace(
            options, checkpoint=str(left.path(_CHECKPOINT)), resume=True
        )
        self.kills: list[Kill] = []
        self.ends: list[int] = []
        """Calls after each sitting."""
        self.said = ""
        """What the run itself said of broken promises."""
        self.stuck: str | None = None
        """What it said when it could not go on after a kill."""

    def run(self, points: Sequence[Point]) -> None:
        """Raises ProofFailed."""
        self.left.folder.mkdir()
        code: int | None = None
        for number, point in enumerate(points, 1):
            if code is None:
                code = self._sit(point)
            if self.stuck is not None:
                return
            kill = Kill(point, point.words, code is None, self.left.calls, written(self.left))
            self.kills.append(kill)
            what = "killed" if kill.made else "not killed: it had ended before"
            self._prover.told(
                f"kill {number} of {len(points)}, {kill.words}: {what} ({kill.calls:,} calls)"
            )
        if code is None:
            code = self._sit(None)
        if code == BROKEN:
            self.said = said(self.left, f"sitting-{len(self.ends)}")

    def _sit(self, point: Point | None) -> int | None:
        log = f"sitting-{len(self.ends) + 1}"
        code = self._prover.sit(self.left, self.options, log, {}, point)
        self.ends.append(self.left.calls)
        failed = None if code is None else failure_of(code, self.left, log)
        if failed is not None and not self.kills:
            text = f"the job, run again and not killed yet, failed: {failed}"
            raise ProofFailed(text, failed.code)
        if failed is not None and failed.is_foreign:
            raise failed
        self.stuck = None if failed is None else str(failed)
        self._prover.meddle(len(self.ends), self.left)
        return code


def start(
    command: Sequence[str], environment: dict[str, str], log: Path, guarded_by: int
) -> subprocess.Popen[bytes]:
    """A run in a session of its own, that ends when the pipe hangs up. Raises OSError."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env={**environment, guard.GUARD: str(guarded_by)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(guarded_by,),
        )


def _is_reached(point: Point, left: Left) -> bool:
    match point.kind:
        case "start":
            return True
        case "checkpoint":
            return left.path(_CHECKPOINT).exists()
        case "output":
            return _part_of(left) is not None
        case "bytes":
            return written(left) >= point.at
        case "written":
            # Its name it may get with fewer bytes, where results are not what they were.
            return written(left) >= point.at or left.path(evidence.OUTPUT).exists()
        case "named":
            return left.path(evidence.OUTPUT).exists()
        case "call":
            return False  # whoever makes that call ends the run


def _is_about_to_pass(point: Point, left: Left) -> bool:
    """Whether it may come and be over before one has slept."""
    return point.kind in ("named", "written") and written(left) >= _NEARLY * point.at


def _part_of(left: Left) -> Path | None:
    return next(left.folder.glob(f".{evidence.OUTPUT}.*.part"), None)


def written(left: Left) -> int:
    """How many bytes of output there are, whether it has its name yet or not."""
    part = _part_of(left)
    with suppress(FileNotFoundError):  # it has just got it
        if part is not None:
            return part.stat().st_size
    return left.size(evidence.OUTPUT)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a run with all its processes, and wait until they are gone."""
    group = process.pid
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + _GONE_S
    while time.monotonic() < deadline and _is_alive(group):
        time.sleep(_WATCH_S)


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # What nobody has reaped yet still counts as a member, and holds nothing any more.
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            is_dead = process.info["status"] == psutil.STATUS_ZOMBIE
            if os.getpgid(process.pid) == group and not is_dead:
                return True
    return False


def failure_of(code: int, left: Left, log: str) -> ProofFailed | None:
    """What to say of a run that ended by itself; None: it ended as a run should."""
    if code in (OK, DEAD_LETTERS, BROKEN):
        return None
    text = said(left, log)
    if code < 0:
        name = signal.Signals(-code).name
        return ProofFailed(
            f"a run was killed by {name}, not by this command: was there memory enough?\n{text}",
            UNUSABLE,
            is_foreign=True,
        )
    free = shutil.disk_usage(left.folder).free
    is_full = _NO_ROOM in text or (not text and free < _LEAST_ROOM)
    text = text or f"a run ended with exit code {code}, and said nothing"
    if is_full:
        told = f"{left.folder} has {free / 2**20:,.1f} MiB of room left"
        return ProofFailed(f"{text}\n{told}; {ROOM_ADVICE}", UNUSABLE, is_foreign=True)
    known = code in (UNEXPECTED, USAGE, UNUSABLE) or code > _SIGNALLED
    return ProofFailed(text, code if known else UNUSABLE, is_foreign=code > _SIGNALLED)


def said(left: Left, log: str) -> str:
    """The last of what a run said."""
    lines = left.path(f"{log}.log").read_text("utf-8", "replace").splitlines()[-_MOST_SAID:]
    # Where its results are is of no use: they are not kept.
    told = [line for line in lines if not line.startswith("millstream: unfinished: ")]
    return "\n".join(line.removeprefix("millstream: ") for line in told)


def command_line(
    handler: str,
    inputs: Sequence[str],
    options: RunOptions,
    *,
    kills: int,
    seed: int,
    ignore: Sequence[str] = (),
) -> str:
    """What repeats a proof, to be pasted into a shell."""
    flags = arguments_of(msgspec.structs.replace(options_for_runs(options), seed=None))
    flags += [f"--ignore={name}" for name in ignore]
    given = [handler, *inputs, *flags, f"--kills={kills}", f"--seed={seed}"]
    return shlex.join(["millstream", "prove", *given])
