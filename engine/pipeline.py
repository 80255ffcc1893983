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


ErrorKinds = type[BaseException] | str | Sequence[type[BaseException] | str]


class Retry(Exception):
    """How a stage tries an event again; or, raised by a handler, the wish for another attempt.

        stage(enrich, retry=Retry(attempts=5, on=(httpx.HTTPError,)))
        raise Retry(after=2.0)      # whatever `on` says, within the stage's attempts

    attempts  how often at most, the first one included
    first     seconds: what the wait after the first failure is drawn from (0 up to this)
    factor    by how much that grows with each failure
    ceiling   seconds: how far it grows
    on        error types (or their names) worth an attempt; default: timeouts, connection errors
    never     types that are not, though `on` has them
    budget    retries may be this share of the events (and 50 a second); more of them wait.
              None: as many as there are
    after     seconds to wait, when raised by a handler
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        first: float = 0.1,
        factor: float = 2.0,
        ceiling: float = 30.0,
        on: ErrorKinds | None = None,
        never: ErrorKinds = (),
        budget: float | None = 0.2,
        after: float | None = None,
        reason: str = "the handler asked for another attempt",
    ) -> None:
        super().__init__(reason)
        if after is not None and not isinstance(after, int | float):
            raise TypeError(f"Retry(after={after!r}): give it seconds, as a number")
        self.attempts, self.first, self.factor, self.ceiling = attempts, first, factor, ceiling
        self.on = None if on is None else _as_kinds(on)
        self.never = _as_kinds(never)
        self.budget, self.after, self.reason = budget, after, reason


def _as_kinds(kinds: ErrorKinds) -> tuple[type[BaseException] | str, ...]:
    return (kinds,) if isinstance(kinds, type | str) else tuple(kinds)


@dataclass(frozen=True)
class Breaker:
    """A circuit breaker: when calls fail for reasons outside the events, the stage pauses.

    ratio   it opens when this share of the calls (0 to 1) fails with what is worth a retry,
    calls   of at least so many
    window  within so many seconds;
    pause   then nothing is begun for so many seconds,
    probes  and so many calls must succeed before all goes on

    What fails meanwhile costs no attempt, for
    patience    so many seconds from the first failure of an event on: then its attempts count again
    """

    ratio: float = 0.5
    calls: int = 20
    window: float = 10.0
    pause: float = 5.0
    probes: int = 3
    patience: float = 3600.0


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
    retry: Retry | None = None
    breaker: Breaker | None = None


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
    retry: Retry | None = None,
    breaker: Breaker | None = None,
) -> Stage:
    """A step that calls `handler(event)`; it gives back nothing, one result, or several.

    executor     inline (plain functions), coroutine (async), process; None: by the handler's kind
    workers      processes of a process stage
    concurrency  events (or batches) in flight at once in a coroutine stage
    batch        the handler gets a list of up to this many events, and gives back None or a list
                 with one entry an event (None, a result, or a list of results)
    batch_wait   seconds to wait for a batch to fill once it has its first event
    timeout      seconds that an attempt at one event (or batch) may take: a coroutine is cancelled,
                 a worker process that hangs is replaced
    setup        called once per worker before its first event; what it gives back is passed to
                 a handler that has a parameter `resource`. May be async in coroutine stages
    teardown     called once per worker with that resource
    state        makes the state of a key at its first event; passed to a handler that has a
                 parameter `state`, changed in place, kept until it is empty. What an attempt that
                 failed has changed is taken back
    retry        which errors are tried again, how often, and when: see Retry
    breaker      when to pause because calls fail: see Breaker
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
        retry=retry,
        breaker=breaker,
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
