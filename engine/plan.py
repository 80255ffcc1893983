"""A pipeline and options, checked against each other: a RunPlan, or a PlanError that says why not.

Pure. Nothing is opened or started here; what can be refused before anything runs is refused here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from .codecs import Format
from .event import ATTRIBUTES, FieldMapping
from .order import EMITS, ORDERS, Emit, Order
from .pipeline import (
    EXECUTORS,
    ExecutorName,
    HandlerKind,
    Job,
    Pipeline,
    Stage,
    as_pipeline,
    handler_kind,
)

DEFAULT_CONCURRENCY = 100

InputFormat = Literal["auto", "jsonl", "csv", "json", "cloudevents"]
OutputFormat = Literal["auto", "jsonl", "csv"]


class PlanError(ValueError):
    """What was declared can't be run; the message says what to change."""


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
    result: str | None = None
    fail_if: tuple[str, ...] = ()
    name: str | None = None
    dry_run: bool = False
    quiet: bool = False


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
    for name in ("workers", "concurrency", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PlanError(f"--{name} is {value}; give it 1 or more")
    if options.rate is not None and not options.rate > 0:
        raise PlanError(f"--rate is {options.rate}; give it more than 0 events per second")
    if not options.speed > 0:
        raise PlanError(f"--speed is {options.speed}; give it more than 0")
    if options.rate is not None and options.pace == "time":
        raise PlanError("--rate and --pace time are two schedules for the same events; keep one")
    if options.delimiter is not None and len(options.delimiter) != 1:
        raise PlanError(f"--delimiter is {options.delimiter!r}; give it one character")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PlanError(f"--{name} is {value!r}; it can be {', '.join(allowed)}")


def _plan_stage(name: str, declared: Stage, options: RunOptions, cores: int) -> StagePlan:
    if not callable(declared.handler):
        raise PlanError(f"stage {name!r} has a handler that can't be called: {declared.handler!r}")
    kind = handler_kind(declared.handler)
    _check_numbers(name, declared)
    executor, why = _choose_executor(name, declared, kind, options)
    if declared.timeout is not None and executor != "coroutine":
        raise PlanError(
            f"stage {name!r} has a timeout, but runs {executor}: only a coroutine can be "
            "interrupted; make the handler async def, or leave the timeout out"
        )
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
        timeout_s=declared.timeout,
        setup=declared.setup,
        teardown=declared.teardown,
        state=declared.state,
        types=declared.types,
        max_outputs=declared.max_outputs,
        injected=injected,
        why=why,
    )


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
