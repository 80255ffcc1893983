"""In a worker process: what the calls of one piece of work suffer, and what is told of it.

Imported only when faults are injected.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..batch import Value
from ..faults import FaultPlan
from .call_faults import CallFaults
from .calling import Caller
from .wire import Done, Start, Work


class WorkFaults:
    """The faults of a stage, by place in the work under way."""

    def __init__(self, start: Start, caller: Caller) -> None:
        self._faults = CallFaults(FaultPlan.of(start.inject, start.seed), caller, self._note)
        self._fired: list[tuple[int, int]] = []  # of one work
        self._indexes: list[int] = []
        self._attempts: list[int] | None = None

    def _note(self, fault: int, at_ns: int) -> None:
        self._fired.append((fault, at_ns))

    def begin(self, work: Work) -> None:
        """Take up a work."""
        self._fired, self._indexes, self._attempts = [], work.indexes or [], work.attempts

    def told(self, done: Done) -> Done:
        """The answer, with what fired."""
        return msgspec.structs.replace(done, fired=self._fired) if self._fired else done

    def suffer(self, place: int, value: Value) -> None:
        """Before the call of a plain handler. Raises InjectedError."""
        self._faults.suffer(self._indexes[place], self._attempt(place), value)

    async def suffer_all(self, places: Sequence[int], values: Sequence[Value]) -> None:
        """Before a call of an async handler with the events at `places`. Raises InjectedError."""
        for place in places:
            number, attempt = self._indexes[place], self._attempt(place)
            await self._faults.suffer_async(number, attempt, values[place])

    def _attempt(self, place: int) -> int:
        return 1 if self._attempts is None else self._attempts[place]
