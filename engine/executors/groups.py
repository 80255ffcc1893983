"""A batch handler's events and results, taken apart and put together again.

Imported by worker processes: neither numpy nor asyncio is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..batch import Value
from ..event import Event
from .calling import compact


def flatten(values: Sequence[Value]) -> tuple[list[Event], list[int]]:
    """All events of several input events, and how many each has."""
    events: list[Event] = []
    sizes = []
    for value in values:
        own = value if type(value) is list else [value]
        events += own
        sizes.append(len(own))
    return events, sizes


def regroup(results: Sequence[Value], sizes: Iterable[int]) -> Iterable[Value]:
    """The reverse of flatten(), for the results of its events."""
    at = 0
    for size in sizes:
        if size == 1:
            yield results[at]
        else:
            flat: list[Event] = []
            for value in results[at : at + size]:
                flat += value if type(value) is list else [value] if value is not None else []
            yield compact(flat)
        at += size
