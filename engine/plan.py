"""A pipeline and options, checked against each other: a RunPlan, or a PlanError that says why not.

Pure. Nothing is opened or started here; what can be refused before anything runs is refused here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import msgspec

from .codecs import Format
from .event import ATTRIBUTES, FieldMapping
from .failure import Policy
from .faults import FaultError, FaultPlan
from .order import EMITS, ORDERS, Emit, Order
from .pipeline import (
    EXECUTORS,
    Breaker,
    ExecutorName,
    HandlerKind,
    Job,
    Pipeline,
    Retry,
    Stage,
    as_pipeline,
    handler_kind,
)
from .units import parse_duration, parse_share, parse_size

DEFAULT_CONCURRENCY = 100
DRAIN_TIMEOUT_S = 30.0
_WITHOUT = "leave --checkpoint out"

T = TypeVar("T")

InputFormat = Literal["auto", "jsonl", "csv", "json", "cloudevents"]
OutputFormat = Literal["auto", "jsonl", "csv"]
OnError = Literal["continue", "park", "halt"]


class PlanError(ValueError):
    """What was declared can't be run; the message says what to change."""


class NoCheckpoint(PlanError):
    """The job can't have a checkpoint: why not, and what to change so that it can, if anything."""

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__("; ".join((reason, ", or ".join(filter(None, (_WITHOUT, advice))))))
        self.reason = reason
        self.advice = advice


class RunOptions(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """The options of a run, as flags, in a file, or from Python. All have defaults."""

    order: Order = "key"
    emit: Emit = "completion"
    executor: Literal["auto", "inline", "coroutine", "process"] = "auto"
    workers: int | None = None
    concurrency: int | None = None
    key: str | None = None
    sequence: str | None = None
    id: str | None = None
    type: str | None = None
    time: str | None = None
    format: InputFormat = "auto"
    delimiter: str | None = None
    partitions: bool = False
    follow: bool = False
    limit: int | None = None
    rate: float | None = None
    pace: Literal["none", "time"] = "none"
    speed: float = 1.0
    output: str | None = None
    output_format: OutputFormat = "auto"
    dead_letter: str | None = None
    checkpoint: str | None = None
    resume: bool = False
    checkpoint_every: str = "1s"
    attempts: int | None = None
    backoff: str | None = None
    retry_on: tuple[str, ...] = ()
    timeout: str | None = None
    breaker: str | None = None
    on_error: OnError = "continue"
    max_dead_letters: str | None = None
    worker_memory: str | None = None
    drain_timeout: str | None = None
    seed: int | None = None
    dedupe: bool = False
    dedupe_window: int | None = None
    inject: tuple[str, ...] = ()
    result: str | None = None
    report: tuple[str, ...] = ()
    record: str | None = None
    fail_if: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False
    quiet: bool = False
    live: bool = False
    metrics: str | None = None


@dataclass(frozen=True)
class StagePlan:
    """One stage, with every question answered."""

    name: str
    handler: Callable[..., Any]
    kind: HandlerKind
    executor: ExecutorName
    workers: int
    concurrency: int
    batch: int | None
    batch_wait_s: float
    timeout_s: float | None
    setup: Callable[[], Any] | None
    teardown: Callable[[Any], Any] | None
    state: Callable[[], Any] | None
    types: str | None
    max_outputs: int
    injected: tuple[str, ...]
    """Which of `resource` and `state` the handler takes."""
    why: str
    """Why this executor, in a few words."""
    policy: Policy = field(default_factory=Policy)
    retry_is_asked_for: bool = False
    """Whether the policy was chosen by the stage or by flags."""
    breaker: Breaker | None = None
    memory: int | None = None
    """Bytes that a worker process may use."""

    @property
    def is_async(self) -> bool:
        """Whether the handler has to be awaited."""
        return self.kind in ("coroutine", "async generator")


@dataclass(frozen=True)
class RunPlan:
    """All that a run needs to know before it opens anything."""

    stages: tuple[StagePlan, ...]
    options: RunOptions
    mapping: FieldMapping = field(default_factory=FieldMapping.of)

    @property
    def input_format(self) -> Format | None:
        """The format that was asked for; None: told by content."""
        chosen = self.options.format
        if chosen == "cloudevents":
            return None
        return None if chosen == "auto" else chosen

    @property
    def cloud_events(self) -> bool:
        """Whether every input event must be a CloudEvent."""
        return self.options.format == "cloudevents"

    @property
    def first_stage_decodes(self) -> bool:
        """Whether the first stage takes raw lines and decodes them on its own cores."""
        return self.stages[0].executor == "process"


def make_plan(job: Job, options: RunOptions, *, cpus: int | None = None) -> RunPlan:
    """Check `job` and `options`, choose executors. Raises PlanError."""
    pipeline = as_pipeline(job)
    check_options(options)
    if not pipeline.stages:
        raise PlanError("the pipeline has no stages; give it one or more")
    cores = cpus or os.cpu_count() or 1
    names = [each.name for each in pipeline.stages]
    stages = []
    for place, each in enumerate(pipeline.stages):
        name = each.name
        if names.count(name) > 1:
            name = f"{name}-{names[: place + 1].count(name)}"
        stages.append(_plan_stage(name, each, options, cores))
    _check_checkpoint(stages, options)
    _check_faults(stages, options)
    chosen = {name: getattr(options, name) for name in ATTRIBUTES}
    return RunPlan(tuple(stages), options, FieldMapping.of(chosen))


def check_options(options: RunOptions) -> None:
    """Refuse values that mean nothing. Raises PlanError."""
    _choice("order", options.order, ORDERS)
    _choice("emit", options.emit, EMITS)
    _choice("executor", options.executor, ("auto", *EXECUTORS))
    _choice("format", options.format, get_args(InputFormat))
    _choice("output-format", options.output_format, get_args(OutputFormat))
    _choice("pace", options.pace, ("none", "time"))
    for name in ("workers", "concurrency", "limit", "dedupe_window"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PlanError(f"--{name.replace('_', '-')} is {value}; give it 1 or more")
    if options.rate is not None and not options.rate > 0:
        raise PlanError(f"--rate is {options.rate}; give it more than 0 events per second")
    if not options.speed > 0:
        raise PlanError(f"--speed is {options.speed}; give it more than 0")
    if options.rate is not None and options.pace == "time":
        raise PlanError("--rate and --pace time are two schedules for the same events; keep one")
    if options.delimiter is not None and len(options.delimiter) != 1:
        raise PlanError(f"--delimiter is {options.delimiter!r}; give it one character")
    if options.resume and options.checkpoint is None:
        raise PlanError("--resume goes on from a checkpoint; name its file: --checkpoint FILE")
    if options.dedupe_window is not None and not options.dedupe:
        raise PlanError("--dedupe-window says how far back --dedupe looks; give that too")
    checkpoint_every_ns(options)
    fault_plan(options, 0)
    _check_record(options)
    _check_failure_options(options)


def _check_record(options: RunOptions) -> None:
    if options.record is None:
        return
    if options.record == "-":
        raise PlanError("--record writes a Parquet file, not to standard output; name a file")
    if options.checkpoint is not None:
        raise PlanError(
            "--record and --checkpoint don't go together: nothing can be added to a Parquet file "
            "when the run goes on; leave one of them out"
        )


def _check_checkpoint(stages: Sequence[StagePlan], options: RunOptions) -> None:
    """Refuse what a checkpoint has no place for."""
    if options.checkpoint is None:
        return
    batched = [each.name for each in stages if each.batch]
    if batched and any(each.state is not None for each in stages):
        raise NoCheckpoint(
            f"stage {batched[0]!r} is batched in a pipeline that keeps state, which a checkpoint "
            "can't follow event by event",
            "give it one event at a time",
        )


def fault_plan(options: RunOptions, seed: int) -> FaultPlan | None:
    """Whom the faults of --inject hit; None: there are none. Raises PlanError."""
    try:
        return FaultPlan.of(options.inject, seed) if options.inject else None
    except FaultError as error:
        raise PlanError(str(error)) from None


def _check_faults(stages: Sequence[StagePlan], options: RunOptions) -> None:
    """Refuse faults that have nothing to hit, or that the run would never get over."""
    plan = fault_plan(options, 0)
    for fault in () if plan is None else plan.faults:
        why = None
        match fault.kind:
            case "kill-worker" | "stop-worker":
                if not any(each.executor == "process" for each in stages):
                    why = "no stage runs in worker processes; give it one (--executor process)"
            case "hang":
                if not any(each.timeout_s for each in stages):
                    why = (
                        "only a timeout ends a call that never returns, and no stage has one; "
                        "give it --timeout, in processes or with an async handler"
                    )
            case "disk-full":
                if options.output in (None, "-"):
                    why = "it fills the disk of an output file; name one (--output FILE)"
            case "drop":
                if options.checkpoint is not None and options.emit == "input":
                    why = (
                        "what never comes has no place in a checkpoint with --emit input; "
                        "leave one of them out"
                    )
            case "duplicate":
                if options.checkpoint is not None:
                    why = "which events came twice is not kept in a checkpoint"
                    raise NoCheckpoint(f"--inject {fault.text!r}: {why}")
        if why is not None:
            raise PlanError(f"--inject {fault.text!r}: {why}")


def checkpoint_every_ns(options: RunOptions) -> int:
    """How often the checkpoint is renewed. Raises PlanError."""
    return _parsed(options, "checkpoint_every", parse_duration) or 0


def _check_failure_options(options: RunOptions) -> None:
    _choice("on-error", options.on_error, get_args(OnError))
    if options.attempts is not None and options.attempts < 1:
        raise PlanError(f"--attempts is {options.attempts}; give it 1 or more (1: no retries)")
    if options.on_error == "park" and options.order != "key":
        raise PlanError(
            f"--on-error park keeps the order of keys, which needs --order key, not {options.order}"
        )
    for name in ("timeout", "drain_timeout"):
        _parsed(options, name, parse_duration)
    _parsed(options, "worker_memory", parse_size)
    _parsed(options, "breaker", parse_share)
    backoff_of(options)
    dead_letter_limit(options)


def _parsed(options: RunOptions, name: str, parse: Callable[[str], T]) -> T | None:
    text = getattr(options, name)
    if text is None:
        return None
    try:
        value = parse(text)
    except ValueError as error:
        raise PlanError(f"--{name.replace('_', '-')}: {error}") from None
    if not value:
        raise PlanError(f"--{name.replace('_', '-')} is {text!r}; give it more than nothing")
    return value


def backoff_of(options: RunOptions) -> tuple[float, float] | None:
    """First wait and ceiling, in seconds, of `--backoff FIRST..CEILING`. Raises PlanError."""
    if options.backoff is None:
        return None
    first, dots, ceiling = options.backoff.partition("..")
    try:
        least = parse_duration(first)
        most = parse_duration(ceiling) if dots else max(least, Policy().ceiling_ns)
    except ValueError as error:
        raise PlanError(f"--backoff: {error}, or as a range: 100ms..30s") from None
    if most < least:
        raise PlanError(f"--backoff is {options.backoff!r}; its ceiling is below its start")
    return least / 1e9, most / 1e9


def dead_letter_limit(options: RunOptions) -> tuple[int | None, float | None]:
    """At most so many dead letters, or such a share of what was read. Raises PlanError."""
    text = options.max_dead_letters
    if text is None:
        return None, None
    if text.strip().endswith("%"):
        return None, _parsed(options, "max_dead_letters", parse_share)
    try:
        most = int(text.replace("_", ""))
    except ValueError:
        most = -1
    if most < 0:
        raise PlanError(f"--max-dead-letters is {text!r}; give it a number or a share: 100 or 1%")
    return most, None


def drain_timeout_s(options: RunOptions) -> float:
    """How long an interrupted run may finish what it has in its hands, in seconds."""
    value = _parsed(options, "drain_timeout", parse_duration)
    return DRAIN_TIMEOUT_S if value is None else value / 1e9


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PlanError(f"--{name} is {value!r}; it can be {', '.join(allowed)}")


def _plan_stage(name: str, declared: Stage, options: RunOptions, cores: int) -> StagePlan:
    if not callable(declared.handler):
        raise PlanError(f"stage {name!r} has a handler that can't be called: {declared.handler!r}")
    kind = handler_kind(declared.handler)
    _check_numbers(name, declared)
    executor, why = _choose_executor(name, declared, kind, options)
    timeout_s = _timeout_of(name, declared, options, executor)
    concurrency = declared.concurrency or options.concurrency or DEFAULT_CONCURRENCY
    workers = declared.workers or options.workers or cores
    injected = _injected(name, declared)
    if "state" in injected and declared.state is None:
        raise PlanError(f"stage {name!r} takes `state`; say what makes it: stage(..., state=dict)")
    if declared.state is not None and options.order not in ("key", "global"):
        raise PlanError(
            f"stage {name!r} keeps state by key, which needs --order key or global, "
            f"not {options.order}"
        )
    return StagePlan(
        name=name,
        handler=declared.handler,
        kind=kind,
        executor=executor,
        workers=workers if executor == "process" else 1,
        concurrency=concurrency if kind in ("coroutine", "async generator") else 1,
        batch=declared.batch,
        batch_wait_s=declared.batch_wait,
        timeout_s=timeout_s,
        setup=declared.setup,
        teardown=declared.teardown,
        state=declared.state,
        types=declared.types,
        max_outputs=declared.max_outputs,
        injected=injected,
        why=why,
        policy=_policy_of(name, declared, options),
        retry_is_asked_for=bool(
            declared.retry or options.attempts or options.backoff or options.retry_on
        ),
        breaker=_breaker_of(name, declared, options),
        memory=_parsed(options, "worker_memory", parse_size) if executor == "process" else None,
    )


def _timeout_of(
    name: str, declared: Stage, options: RunOptions, executor: ExecutorName
) -> float | None:
    by_flag = _parsed(options, "timeout", parse_duration)
    timeout = declared.timeout or (None if by_flag is None else by_flag / 1e9)
    if timeout is not None and executor == "inline":
        raise PlanError(
            f"stage {name!r} has a timeout, but runs inline, where nothing can interrupt it; run "
            "it in processes (--executor process), make the handler async def, or leave it out"
        )
    return timeout


def _policy_of(name: str, declared: Stage, options: RunOptions) -> Policy:
    """What the stage says, else what the flags say."""
    retry = declared.retry
    if retry is None:
        first, ceiling = backoff_of(options) or (None, None)
        given: dict[str, Any] = {"attempts": options.attempts, "first": first, "ceiling": ceiling}
        if options.retry_on:
            given["on"] = Exception if "all" in options.retry_on else options.retry_on
        retry = Retry(**{key: value for key, value in given.items() if value is not None})
    wrong = _wrong_with(retry)
    if wrong is not None:
        raise PlanError(f"stage {name!r} has a retry with {wrong}")
    return Policy.of(retry)


def _wrong_with(declared: Any) -> str | None:
    if not isinstance(declared, Retry):
        return f"{declared!r}; give it a Retry(attempts=...)"
    retry: Any = declared
    if type(retry.attempts) is not int or retry.attempts < 1:
        return f"{retry.attempts} attempts; give it 1 or more"
    if retry.after is not None:
        return "after=, which is for `raise Retry(after=...)`; here it is first= and ceiling="
    if not retry.first >= 0 or not retry.ceiling >= 0:
        return f"first={retry.first} and ceiling={retry.ceiling}; give them 0 s or more"
    if not retry.factor >= 1:
        return f"factor={retry.factor}; give it 1 or more"
    if retry.budget is not None and not retry.budget > 0:
        return f"budget={retry.budget}; give it more than 0, or None"
    for kind in (*(retry.on or ()), *retry.never):
        is_error = isinstance(kind, type) and issubclass(kind, BaseException)
        if not (is_error or isinstance(kind, str)):
            return f"{kind!r}, which is no error type and no name of one"
    return None


def _breaker_of(name: str, declared: Stage, options: RunOptions) -> Breaker | None:
    ratio = _parsed(options, "breaker", parse_share)
    breaker = declared.breaker or (Breaker(ratio) if ratio is not None else None)
    if breaker is None:
        return None
    if not 0 < breaker.ratio <= 1:
        raise PlanError(f"stage {name!r} has a breaker with ratio={breaker.ratio}; it is 0 to 1")
    for label in ("calls", "probes", "window", "pause", "patience"):
        if not getattr(breaker, label) > 0:
            value = getattr(breaker, label)
            raise PlanError(f"stage {name!r} has a breaker with {label}={value}; give it more")
    return breaker


def _check_numbers(name: str, declared: Stage) -> None:
    for label in ("workers", "concurrency", "batch", "max_outputs"):
        value = getattr(declared, label)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise PlanError(f"stage {name!r} has {value} {label}; give it 1 or more")
    if declared.timeout is not None and not declared.timeout > 0:
        raise PlanError(
            f"stage {name!r} has a timeout of {declared.timeout} s; give it more than 0"
        )
    if declared.batch is not None and declared.types is not None:
        raise PlanError(f"stage {name!r} is routed by type and batched; make it one of the two")
    if declared.batch is not None and declared.state is not None:
        raise PlanError(f"stage {name!r} is batched and keeps state by key; make it one of the two")
    if declared.batch is not None and handler_kind(declared.handler) in (
        "generator",
        "async generator",
    ):
        raise PlanError(
            f"stage {name!r} is batched, so its handler gives back one list: no generator"
        )


def _choose_executor(
    name: str, declared: Stage, kind: HandlerKind, options: RunOptions
) -> tuple[ExecutorName, str]:
    is_async = kind in ("coroutine", "async generator")
    wanted = declared.executor or (None if options.executor == "auto" else options.executor)
    if wanted is None:
        if is_async:
            return "coroutine", f"its handler is a {kind}"
        if (declared.workers or options.workers or 1) > 1:
            return "process", "more than one worker was asked for"
        return "inline", f"its handler is a plain {kind}"
    if wanted not in EXECUTORS:
        raise PlanError(f"stage {name!r} has the executor {wanted!r}; use {', '.join(EXECUTORS)}")
    if wanted == "inline" and is_async:
        raise PlanError(
            f"stage {name!r} has an async handler, which inline can't run; use coroutine or process"
        )
    if wanted == "coroutine" and not is_async:
        raise PlanError(
            f"stage {name!r} has a plain {kind}, which would block every coroutine; "
            "make it async def, or use inline or process"
        )
    return wanted, "it was asked for"


def _injected(name: str, declared: Stage) -> tuple[str, ...]:
    try:
        parameters = list(inspect.signature(declared.handler).parameters.values())
    except (TypeError, ValueError):  # a built-in without a signature takes the event alone
        return ()
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if not parameters or parameters[0].kind not in positional:
        raise PlanError(f"stage {name!r} has a handler that takes no event; give it one parameter")
    names = tuple(p.name for p in parameters[1:] if p.name in ("resource", "state"))
    for parameter in parameters[1:]:
        needed = parameter.default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        )
        if needed and parameter.name not in names:
            raise PlanError(
                f"stage {name!r} has a handler with a parameter {parameter.name!r} that nothing "
                "fills; a handler gets the event, and `resource` and `state` when it names them"
            )
    return names


def describe(plan: RunPlan) -> list[str]:
    """A line a stage: what will run, and why so."""
    lines = []
    for stage in plan.stages:
        extent = ""
        if stage.executor == "process":
            extent = f", {stage.workers} worker{'s' * (stage.workers != 1)}"
        elif stage.executor == "coroutine":
            extent = f", up to {stage.concurrency} in flight"
        batch = f", batches of {stage.batch}" if stage.batch else ""
        lines.append(f"{stage.name}: {stage.executor}{extent}{batch} ({stage.why})")
    return lines


def options_from(values: Mapping[str, Any]) -> RunOptions:
    """Options from names and values as a file or a caller gives them. Raises PlanError."""
    try:
        return msgspec.convert(values, RunOptions, strict=True)
    except msgspec.ValidationError as error:
        raise PlanError(str(error)) from None


__all__ = ["Pipeline", "PlanError", "RunOptions", "RunPlan", "StagePlan", "describe", "make_plan"]
