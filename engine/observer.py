"""What may be watched of a run while it goes on, and the warnings that it may give.

The engine calls an observer; it never waits for one and never learns what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

if TYPE_CHECKING:
    from .counted import Counted


class Progress(Struct, frozen=True):
    """How a run stands; rates in events per second, sizes in bytes."""

    elapsed_ns: int
    read: int
    done: int
    dead_lettered: int
    rate: float
    backlog: int
    bytes_read: int
    bytes_total: int | None
    worst_stage: str | None
    """The stage with most events waiting or in flight, when any are."""
    worst_stage_backlog: int


class StageDetails(Struct, frozen=True, eq=False):
    """How a stage stands."""

    name: str
    executor: str
    workers: int
    concurrency: int
    alive: int
    """Its worker processes, when it has any."""
    waiting: int
    """Events on their way to it."""
    in_flight: int
    """Events in its hands."""
    handled: int
    retried: int
    queue_wait: Counted
    service: Counted
    """Since the beginning; in a benchmark, since the end of its warm-up."""


class Deaths(Struct, frozen=True):
    """Dead letters of one stage and one type of error."""

    stage: str
    error: str
    count: int


class Details(Struct, frozen=True, eq=False):
    """How a run stands, in full: facts from which whoever watches derives figures."""

    run: str
    """Its id: a benchmark may be of many runs, one after another."""
    is_last: bool
    """Whether the run is over: what is told is what its result has."""
    at_ns: int
    """Monotonic."""
    elapsed_ns: int
    done: int
    backlog: int
    counts: dict[str, int]
    """As in the result."""
    duplicated: int
    violations: int
    """Of the promise of order, so far."""
    offered: int | None
    """Events that a load has released; None: there is no load."""
    share: float | None
    """How much of all is done, from 0 to 1, when that can be told."""
    warmup_left_ns: int
    """How long it is until events are measured."""
    bytes_read: int
    bytes_total: int | None
    response: Counted | None
    """None: the run has no schedule."""
    loop_lag: Counted
    rss: int
    """Of this process and its workers."""
    cpu_ns: int
    """Of the same, since the beginning."""
    stages: list[StageDetails]
    deaths: list[Deaths]
    """Most first; what is not among them is in the count of dead letters alone."""


class RunWarning(Struct, frozen=True):
    """Something that the user should know, with advice."""

    kind: str
    message: str


class Observer(Protocol):
    """Gets told of progress (about four times a second) and of warnings."""

    def on_progress(self, progress: Progress) -> None: ...
    def on_warning(self, warning: RunWarning) -> None: ...


@runtime_checkable
class Watcher(Observer, Protocol):
    """An observer that is told all details, too: just after each progress, and at the end."""

    def on_details(self, details: Details) -> None: ...


class Silent:
    """Watches nothing."""

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_warning(self, warning: RunWarning) -> None:
        pass
