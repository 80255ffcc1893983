"""Faults on purpose, where a handler is about to be called: it fails, takes longer, or hangs.

Used in the loop and in worker processes: neither numpy nor asyncio is imported before it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..batch import Value
from ..event import Event
from ..faults import Action, FaultPlan, InjectedError
from .calling import Caller

Note = Callable[[int, int], None]
"""Told of a fault that fires: its number, and when (ns, monotonic)."""

_LONG_S = 3600.0


class CallFaults:
    """What the calls of one stage suffer. Attempts count from 1."""

    def __init__(self, plan: FaultPlan, caller: Caller, note: Note) -> None:
        self._plan, self._caller, self._note = plan, caller, note
        # Without a timeout nothing ends a call that hangs.
        self._hangs = caller.stage.timeout_s is not None

    def suffer(self, index: int, attempt: int, value: Value) -> None:
        """Before the call of a plain handler. Raises InjectedError."""
        for action in self._actions(index, attempt, value):
            self._note(action.fault, time.monotonic_ns())
            if action.kind == "delay":
                time.sleep(action.delay_ns / 1e9)
            elif action.kind == "error":
                raise InjectedError(self._plan.faults[action.fault].text)
            else:
                while True:  # until the process is killed
                    time.sleep(_LONG_S)

    async def suffer_async(self, index: int, attempt: int, value: Value) -> None:
        """The same for an async handler."""
        import asyncio

        for action in self._actions(index, attempt, value):
            self._note(action.fault, time.monotonic_ns())
            if action.kind == "delay":
                await asyncio.sleep(action.delay_ns / 1e9)
            elif action.kind == "error":
                raise InjectedError(self._plan.faults[action.fault].text)
            else:
                await asyncio.get_running_loop().create_future()  # until it is cancelled

    def _actions(self, index: int, attempt: int, value: Value) -> list[Action]:
        events: list[Event] = value if type(value) is list else [value]
        if not any(map(self._caller.takes, events)):
            return []
        actions = self._plan.before_call(index, attempt, events[0].key)
        return [each for each in actions if each.kind != "hang" or self._hangs]
