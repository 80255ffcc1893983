"""What a user declares: stages, routes, pipelines. Immutable, and without effect until planned.

Pure. Nothing here runs a handler; plan.py checks what is declared here against the options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

ExecutorName = Literal["inline", "coroutine", "process"]
EXECUTORS: Final[tuple[ExecutorName, ...]] = ("inline", "coroutine", "process")

Handler = Callable[..., Any]

MAX_OUTPUTS: Final = 100_000
"""What one event may become in one stage, by default: its results are kept and leave together."""


class Reject(Exception):
    """Raised by a handler for an event that no further attempt can help: it is dead-lettered."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline; made by stage() or on()."""

    handler: Handler
    name: str
    executor: ExecutorName | None = None
    workers: int | None = None
    concurrency: int | None = None
    batch: int | None = None
    batch_wait: float = 0.05
    timeout: float | None = None
    setup: Callable[[], Any] | None = None
    teardown: Callable[[Any], Any] | None = None
    state: Callable[[], Any] | None = None
    types: str | None = None
    max_outputs: int = MAX_OUTPUTS


def stage(
    handler: Handler,
    *,
    name: str | None = None,
    executor: ExecutorName | None = None,
    workers: int | None = None,
    concurrency: int | None = None,
    batch: int | None = None,
    batch_wait: float = 0.05,
    timeout: float | None = None,
    setup: Callable[[], Any] | None = None,
    teardown: Callable[[Any], Any] | None = None,
    state: Callable[[], Any] | None = None,
    max_outputs: int = MAX_OUTPUTS,
) -> Stage:
    """A step that calls `handler(event)`; it gives back nothing, one result, or several.

    executor     inline (plain functions), coroutine (async), process; None: by the handler's kind
    workers      processes of a process stage
    concurrency  events (or batches) in flight at once in a coroutine stage
    batch        the handler gets a list of up to this many events, and gives back None or a list
                 with one entry an event (None, a result, or a list of results)
    batch_wait   seconds to wait for a batch to fill once it has its first event
    timeout      seconds that a coroutine handler may take with one event (or batch)
    setup        called once per worker before its first event; what it gives back is passed to
                 a handler that has a parameter `resource`. May be async in coroutine stages
    teardown     called once per worker with that resource
    state        makes the state of a key at its first event; passed to a handler that has a
                 parameter `state`, changed in place, kept until it is empty
    max_outputs  results that one event may have; one more makes it a dead letter
    """
    return Stage(
        handler,
        name or handler_name(handler),
        executor=executor,
        workers=workers,
        concurrency=concurrency,
        batch=batch,
        batch_wait=batch_wait,
        timeout=timeout,
        setup=setup,
        teardown=teardown,
        state=state,
        max_outputs=max_outputs,
    )


def on(type: str, handler: Handler, **options: Any) -> Stage:
    """A stage for events of one type (`"order.placed"`, or a pattern: `"order.*"`).

    Events of other types pass on unchanged. Options are those of stage().
    """
    made = stage(handler, **options)
    fields = {**made.__dict__, "types": type}
    return Stage(**fields)


class Pipeline:
    """Stages one after another: each gets the results of the one before.

    All results of one input event go through the pipeline together and in order; if a stage
    fails on one of them, none is written and the input event becomes one dead letter.
    """

    def __init__(self, *stages: Stage | Handler) -> None:
        self.stages: tuple[Stage, ...] = tuple(
            each if isinstance(each, Stage) else stage(each) for each in stages
        )

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(s.name for s in self.stages)})"


Job = Pipeline | Stage | Handler | Sequence[Stage | Handler]


def as_pipeline(job: Job) -> Pipeline:
    """The pipeline that a function, a stage or a sequence of them stands for."""
    if isinstance(job, Pipeline):
        return job
    if isinstance(job, Stage) or callable(job):
        return Pipeline(job)
    return Pipeline(*job)


def handler_name(handler: Handler) -> str:
    """What a stage is called when it is not named."""
    while isinstance(handler, partial):
        handler = handler.func
    name = getattr(handler, "__name__", None) or type(handler).__name__
    return str(name).strip("<>")


HandlerKind = Literal["function", "generator", "coroutine", "async generator"]


def handler_kind(handler: Handler) -> HandlerKind:
    """How the handler gives its results; objects count by their __call__."""
    while isinstance(handler, partial):
        handler = handler.func
    code: Any = handler
    if not (inspect.isfunction(code) or inspect.ismethod(code) or inspect.isbuiltin(code)):
        code = getattr(handler, "__call__", handler)  # noqa: B004  (the method itself is inspected)
    if inspect.isasyncgenfunction(code):
        return "async generator"
    if inspect.iscoroutinefunction(code):
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(code) else "function"
