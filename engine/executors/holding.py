"""In a worker process: which lanes are held, what failed and why, and what is under way.

A lane is held from a failure on that the run has to decide about, until the run has seen it: later
events of the lane that are here already are skipped. Imports neither numpy nor asyncio.
"""

from __future__ import annotations

import mmap
import os
import resource
import struct
from collections.abc import Sequence
from typing import Final

from ..batch import Value
from ..dead_letters import ErrorInfo
from ..event import Event
from ..order import Lane
from ..plan import StagePlan
from .calling import Caller
from .line_loop import now_ns
from .wire import Failed, Start, Work, value_to_wire

OUT_OF_MEMORY: Final = 86
"""Exit code of a worker whose handler ran into --worker-memory."""
UNDER_WAY: Final = struct.Struct("=qqq")
"""Work, place in it (-1: unknown), and since when (ns, monotonic; 0: nothing is under way)."""


def limit_memory(size: int) -> None:
    """Let this process have `size` bytes of memory of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


class Holding:
    """The lanes that are held, and how failures are told."""

    def __init__(self, start: Start, stage: StagePlan) -> None:
        self._stage, self._policy = stage, stage.policy
        self._order = start.order
        self.holds_all = start.holds_all
        self._may_retry = start.attempts > 1 or start.guards
        self._has_limit = start.memory is not None
        self._keeps_states = start.keeps_states
        self._noted: list[tuple[int, Lane, bytes | None]] = []
        self._injects = bool(start.inject)
        self._held: dict[Lane, int] = {}
        """Lane -> the last work in which an event of it failed, or was passed over."""
        self._work = self._partition = 0
        self._memory = None if start.under_way is None else mmap.mmap(start.under_way, 4096)

    def begin(self, work: Work) -> None:
        """Take up a work: what the run has seen holds nothing any more."""
        self._work, self._partition = work.id, work.partition
        if self._held:
            self._held = {lane: at for lane, at in self._held.items() if at > work.seen}
        self.mark(-1)

    def mark(self, place: int) -> None:
        """Say that an attempt begins."""
        if self._memory is not None:
            UNDER_WAY.pack_into(self._memory, 0, self._work, place, now_ns())

    def rest(self) -> None:
        """Say that nothing is under way."""
        if self._memory is not None:
            UNDER_WAY.pack_into(self._memory, 0, 0, 0, 0)

    @property
    def is_careful(self) -> bool:
        """Whether events have to be looked at one by one from the start."""
        return bool(self._held) or self._injects or self._memory is not None

    # --- lanes

    def lane_of(self, event: Event) -> Lane:
        """The lane of an event as it came."""
        return event.key if self._order == "key" else self.lane((), 0)

    def lane(self, lanes: Sequence[Lane], place: int) -> Lane:
        """The lane of an event, by what the run sent along."""
        match self._order:
            case "key":
                return lanes[place]
            case "partition":
                return self._partition
            case "global":
                return 0
        return None

    def skips(self, lane: Lane) -> bool:
        """Whether an event of this lane is passed over, since it is held.

        It stays held until the run has seen that too: what it sent before goes behind this event.
        """
        if lane is None or lane not in self._held:
            return False
        self._held[lane] = self._work
        return True

    def free(self, places: list[int], lanes: Sequence[Lane], skipped: list[int]) -> list[int]:
        """The places whose lane is not held; the others are added to `skipped`."""
        if not self._held:
            return places
        free: list[int] = []
        for place in places:
            (skipped if self.skips(self.lane(lanes, place)) else free).append(place)
        return free

    # --- states

    def note(self, place: int, key: Lane, caller: Caller) -> None:
        """Note the state of a key after an event of it, when a checkpoint keeps it."""
        if self._keeps_states and key is not None:
            self._noted.append((place, key, caller.pickled(key)))

    def noted(self) -> list[tuple[int, Lane, bytes | None]]:
        """What was noted since."""
        noted, self._noted = self._noted, []
        return noted

    # --- failures

    def holds(self, error: BaseException, dead: int = 0) -> bool:
        """Whether the run has to decide what becomes of an event that failed with `error`."""
        if self._has_limit and isinstance(error, MemoryError):
            os._exit(OUT_OF_MEMORY)  # whatever else it does, this process is of no use any more
        return self.holds_all or (self._may_retry and self._policy.verdict(error).retriable)

    def sendable(self, value: Value) -> Value:
        """`value`, that can cross to the run. Raises what encoding it raises.

        Only where that parks its key is it looked at: else it is found out later, at no cost."""
        if self.holds_all:
            value_to_wire(value)
        return value

    def hold(
        self, place: int, lane: Lane, error: BaseException, *, together: bool = False
    ) -> Failed:
        """Hold the lane of an event that failed."""
        verdict = self._policy.verdict(error)
        if lane is not None:
            self._held[lane] = self._work
        return Failed(
            place,
            ErrorInfo.of(self._explained(error)),
            held=True,
            retriable=verdict.retriable,
            after_ns=verdict.after_ns,
            together=together,
        )

    def failed(self, place: int, lane: Lane, error: BaseException) -> Failed:
        """What is told of an event that failed; its lane is held when more is to be decided."""
        if self.holds(error):
            return self.hold(place, lane, error)
        return Failed(place, ErrorInfo.of(self._explained(error)))

    def failed_group(
        self, places: Sequence[int], lanes: Sequence[Lane], error: BaseException
    ) -> list[Failed]:
        """The same for a call with several events: one call an event has to tell which it was."""
        if len(places) == 1:
            return [self.failed(places[0], self.lane(lanes, places[0]), error)]
        self.holds(error)
        return [self.hold(place, self.lane(lanes, place), error, together=True) for place in places]

    def _explained(self, error: BaseException) -> BaseException:
        limit = self._stage.timeout_s
        if isinstance(error, TimeoutError) and limit is not None and not error.args:
            return TimeoutError(f"stage {self._stage.name!r} took longer than {limit:g} s")
        return error
