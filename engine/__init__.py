"""The engine as a library: declare stages, run them over events, look at the result.

from millstream.engine import Pipeline, run, stage

result = run(Pipeline(stage(parse), stage(charge)), "events.jsonl", output="charged.jsonl")
"""

from typing import TYPE_CHECKING, Any

from .event import Event
from .pipeline import Breaker, Pipeline, Reject, Retry, Stage, on, stage

if TYPE_CHECKING:
    from .plan import PlanError as PlanError
    from .plan import RunOptions as RunOptions
    from .result import RunResult as RunResult
    from .runner import run as run
    from .runner import run_async as run_async

__all__ = [
    "Breaker",
    "Event",
    "Pipeline",
    "PlanError",
    "Reject",
    "Retry",
    "RunOptions",
    "RunResult",
    "Stage",
    "on",
    "run",
    "run_async",
    "stage",
]

_LAZY = {
    "PlanError": "plan",
    "RunOptions": "plan",
    "RunResult": "result",
    "run": "runner",
    "run_async": "runner",
}


def __getattr__(name: str) -> Any:
    """What a worker process or a handler's file does not need is imported when it is asked for."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
