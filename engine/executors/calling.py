"""How a handler is called, whatever runs it: resources, state, types, and what it may give back.

Imported by worker processes: neither numpy nor asyncio is imported here.
"""

from __future__ import annotations

import inspect
import pickle
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..batch import Value
from ..dead_letters import ErrorInfo
from ..event import Event, FieldMapping, derive
from ..loading import HandlerNotFound
from ..order import Lane
from ..plan import StagePlan

GC_THRESHOLD: Final = (100_000, 20, 100)
"""For the collector of cycles, while events are handled: measured at a fifth of the time of a run
with thousands of events in flight at the default of 700 allocations."""


class HandlerError(Exception):
    """A handler gave back what is no result; the message says what it may give back."""


class StateNotKept(HandlerNotFound):
    """The state of a key can't be pickled; the message says of which stage."""


class Caller:
    """One stage's handler, ready to be called: with its resource, its state, its types."""

    def __init__(self, stage: StagePlan, mapping: FieldMapping, *, by_lane: bool) -> None:
        self.stage, self.mapping = stage, mapping
        self.resource: Any = None
        self.by_lane = by_lane
        self.states: dict[Lane, Any] = {}
        """State by key; an empty state is dropped, so what is kept is up to the handler."""
        self._matches = type_matcher(stage.types)

    @property
    def is_plain(self) -> bool:
        """Whether the handler can be called as it is, once an event."""
        stage = self.stage
        return not (stage.injected or stage.types or stage.batch or stage.state)

    def takes(self, event: Event) -> bool:
        """Whether the handler is called with the event, by its type."""
        return self._matches is None or self._matches(event.type)

    @property
    def call(self) -> Callable[[Any], Any]:
        """What to call with one event of the source."""
        if self.is_plain:
            return self.stage.handler
        return lambda event: self.handle(event, event.key if self.stage.state else None)

    def kwargs(self, lane: Lane) -> dict[str, Any]:
        """What the handler takes beside the event."""
        extra = {}
        if "resource" in self.stage.injected:
            extra["resource"] = self.resource
        if "state" in self.stage.injected:
            extra["state"] = self.state_of(lane)
        return extra

    def state_of(self, lane: Lane) -> Any:
        """The state of a key; an event without a key has one of its own."""
        state = self.states.get(lane)
        if state is None:
            assert self.stage.state is not None
            state = self.stage.state()
            if lane is not None:
                self.states[lane] = state
        return state

    def state_key(self, lanes: Sequence[Lane] | None, place: int, value: Value) -> Lane:
        """The key whose state goes with an input event: its lane, or under order global its key."""
        if self.stage.state is None:
            return None
        if self.by_lane:
            return lanes[place] if lanes is not None else None
        first: Event = value[0] if type(value) is list else value
        return first.key

    def keep_state(self, lane: Lane) -> None:
        """Drop the state of a key when the handler left it empty."""
        state = self.states.get(lane)
        if state is not None and hasattr(state, "__len__") and not len(state):
            del self.states[lane]

    def handle(self, value: Value, lane: Lane) -> Value:
        """All events of one input event through a plain handler; raises what it raises.

        An attempt that fails leaves the state as it was.
        """
        if self.stage.state is None:
            return self._handle(value, lane)
        saved = self._saved(lane)
        try:
            return self._handle(value, lane)
        except BaseException:
            self._roll_back(lane, saved)
            raise

    def restore(self, states: dict[Lane, bytes]) -> None:
        """Have the states again that pickled() gave."""
        self.states |= {key: pickle.loads(state) for key, state in states.items()}

    def pickled(self, key: Lane) -> bytes | None:
        """The state of a key for a checkpoint; None when there is none. Raises HandlerError."""
        if key not in self.states:
            return None
        try:
            return pickle.dumps(self.states[key])
        except Exception as error:
            raise StateNotKept(
                f"the state of stage {self.stage.name!r} can't be kept in a checkpoint, nor cross "
                f"to another process: {error}"
            ) from error

    def _saved(self, lane: Lane) -> bytes | None:
        if lane not in self.states:
            return b""
        try:
            return pickle.dumps(self.states[lane])
        except Exception:  # it can't be copied: it will be as the handler left it
            return None

    def _roll_back(self, lane: Lane, saved: bytes | None) -> None:
        if saved:
            self.states[lane] = pickle.loads(saved)
        elif saved is not None:
            self.states.pop(lane, None)

    def _handle(self, value: Value, lane: Lane) -> Value:
        results: list[Event] = []
        for event in value if type(value) is list else (value,):
            if self._matches is not None and not self._matches(event.type):
                results.append(event)
                continue
            try:
                result = self.stage.handler(event, **self.kwargs(lane))
                self.collect(result, event, results)
            finally:
                if self.stage.state is not None:
                    self.keep_state(lane)
        return compact(results)

    async def handle_async(self, value: Value, lane: Lane) -> Value:
        """The same for an async handler."""
        if self.stage.state is None:
            return await self._handle_async(value, lane)
        saved = self._saved(lane)
        try:
            return await self._handle_async(value, lane)
        except BaseException:
            self._roll_back(lane, saved)
            raise

    async def _handle_async(self, value: Value, lane: Lane) -> Value:
        results: list[Event] = []
        for event in value if type(value) is list else (value,):
            if self._matches is not None and not self._matches(event.type):
                results.append(event)
                continue
            try:
                result = self.stage.handler(event, **self.kwargs(lane))
                if self.stage.kind == "async generator":
                    async for each in result:
                        self.collect_one(each, event, results)
                else:
                    self.collect(await result, event, results)
            finally:
                if self.stage.state is not None:
                    self.keep_state(lane)
        return compact(results)

    def collect(self, result: Any, event: Event, results: list[Event]) -> None:
        """Add a handler's result, one or several, to `results`. Raises HandlerError."""
        if result is None:
            return
        if isinstance(result, Event | dict | str | bytes):
            self.collect_one(result, event, results)
        elif isinstance(result, list | tuple | types.GeneratorType):
            for each in result:
                self.collect_one(each, event, results)
        elif inspect.isawaitable(result) or inspect.isasyncgen(result):
            if inspect.iscoroutine(result):
                result.close()
            raise HandlerError(
                f"the handler of stage {self.stage.name!r} is a plain function that gave back a "
                f"{type(result).__name__}; make it async def"
            )
        elif hasattr(result, "__next__"):
            for each in result:
                self.collect_one(each, event, results)
        else:
            raise self._no_result(result)

    def collect_one(self, result: Any, event: Event, results: list[Event]) -> None:
        """Add one result. Raises HandlerError."""
        if result is None:
            return
        if isinstance(result, Event):
            results.append(result)
        elif isinstance(result, dict | str | bytes):
            results.append(derive(result, event, self.mapping))
        else:
            raise self._no_result(result)
        if len(results) > self.stage.max_outputs:
            raise HandlerError(
                f"stage {self.stage.name!r} gave more than {self.stage.max_outputs} results for "
                "one event; they are kept until all are there: give fewer, or raise max_outputs"
            )

    def _no_result(self, result: Any) -> HandlerError:
        return HandlerError(
            f"the handler of stage {self.stage.name!r} gave back a {type(result).__name__}; "
            "it may give back None, an event, a dict, str, bytes, or several of these"
        )

    def spread(self, result: Any, values: Sequence[Value]) -> list[Value]:
        """A batch handler's result, one value an event. Raises HandlerError."""
        if result is None:
            return [None] * len(values)
        entries = list(result) if not isinstance(result, dict | str | bytes | Event) else None
        if entries is None or len(entries) != len(values):
            got = type(result).__name__ if entries is None else f"{len(entries)} entries"
            raise HandlerError(
                f"the batch handler of stage {self.stage.name!r} gave back {got} for {len(values)} "
                "events; it must give back None, or a list with one entry an event"
            )
        spread = []
        for entry, value in zip(entries, values, strict=True):
            results: list[Event] = []
            self.collect(entry, value, results)
            spread.append(compact(results))
        return spread


def compact(results: list[Event]) -> Value:
    """None for no result, the event itself for one, else the list."""
    if len(results) == 1:
        return results[0]
    return results or None


def type_matcher(pattern: str | None) -> Callable[[str | None], bool] | None:
    """Whether an event's type matches; None when every event does."""
    if pattern is None:
        return None
    if not any(mark in pattern for mark in "*?["):
        return lambda type: type == pattern
    import re
    from fnmatch import translate

    matches = re.compile(translate(pattern)).match
    return lambda type: type is not None and matches(type) is not None


def hook_failed(hook: str, stage: str, error: BaseException) -> str:
    """What is said of a set-up or tear-down that raised `error`."""
    return f"{hook} of stage {stage!r} failed: {ErrorInfo.of(error).traceback}"


class Resource:
    """A worker's set-up and tear-down, sync."""

    def __init__(self, stage: StagePlan) -> None:
        self._stage = stage
        self.value: Any = None

    def open(self) -> Any:
        """Call set-up. Raises what it raises."""
        if self._stage.setup is not None:
            self.value = self._stage.setup()
        return self.value

    def close(self) -> None:
        """Call tear-down."""
        if self._stage.teardown is not None:
            self._stage.teardown(self.value)
