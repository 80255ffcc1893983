"""What may be watched of a run while it goes on, and the warnings that it may give.

The engine calls an observer; it never waits for one and never learns what it does.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


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


class RunWarning(Struct, frozen=True):
    """Something that the user should know, with advice."""

    kind: str
    message: str


class Observer(Protocol):
    """Gets told of progress (about four times a second) and of warnings."""

    def on_progress(self, progress: Progress) -> None: ...
    def on_warning(self, warning: RunWarning) -> None: ...


class Silent:
    """Watches nothing."""

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_warning(self, warning: RunWarning) -> None:
        pass
