"""Events of a coroutine stage that wait for another attempt, or for the circuit breaker.

They hold no task meanwhile; their lane stays busy with them, and all other lanes go on.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from itertools import zip_longest

from ..batch import Value
from ..dead_letters import ErrorInfo
from ..order import Lane
from .base import StageContext, now_ns
from .failing import StageFailures, Trial, restored, snapshot

Item = tuple[int, Lane, bytes, Value, int, int]
"""Number, lane, line, value, when it was ready, partition."""


class IsParked(Exception):
    """The key of the event is parked: it is not handled."""


class IsNothing(Exception):
    """There is nothing to handle; the event only keeps its place in its lane."""


class Later:
    """Those that wait, and what is known of them. Bounded by what the executor has in hand."""

    def __init__(self, context: StageContext, again: Callable[[list[Item]], None]) -> None:
        self.trials: dict[int, Trial] = {}
        """By number: events that have failed, or wait for the circuit breaker."""
        self._context, self._again = context, again
        self._failures: StageFailures = context.failures
        self._due: list[tuple[int, int, Item]] = []
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def is_alone(self, item: Item) -> bool:
        """Whether it has to be tried without others."""
        trial = self.trials.get(item[0])
        return trial is not None and trial.alone

    def attempt_of(self, item: Item) -> int:
        """Which attempt the next one is, from 1."""
        trial = self.trials.get(item[0])
        return 1 if trial is None else trial.attempts + 1

    # --- before an attempt

    def prepare(self, item: Item) -> tuple[Item, int] | None:
        """The event as it came, and what to give back when its call has ended; None: it waits."""
        prepared = self.prepare_all([item])
        if prepared is None:
            self.wait([item])
            return None
        return prepared[0][0], prepared[1]

    def prepare_all(self, items: Sequence[Item]) -> tuple[list[Item], int] | None:
        """The same for a group; None: not now."""
        begun = self._failures.begin()
        if begun is None:
            for item in items:
                self._trial(item).due_ns = self._failures.may_begin_ns()
            return None
        return [self._as_it_came(item) for item in items], begun

    def _as_it_came(self, item: Item) -> Item:
        number, lane, line, value, ready, partition = item
        trial = self.trials.get(number)
        if trial is not None and trial.attempts:
            decoder = self._context.event_decoder_of(partition)
            own = line if self._context.is_first else None
            value = restored(value, trial.pristine, decoder, own)
            return number, lane, line, value, ready, partition
        return item

    def kept(self, items: Sequence[Item]) -> list[bytes | None]:
        """Events as they are before their first attempt, for when that fails."""
        return [snapshot(item[3]) if self.is_first(item[0]) else None for item in items]

    def is_first(self, number: int) -> bool:
        """Whether the next attempt at an event is the first one."""
        trial = self.trials.get(number)
        return trial is None or not trial.attempts

    def _trial(self, item: Item) -> Trial:
        trial = self.trials.get(item[0])
        if trial is None:
            trial = self.trials[item[0]] = Trial(*item)
        return trial

    # --- after it

    def succeeded(self, numbers: Sequence[int], begun: int) -> None:
        """A call with these events came to its end."""
        for number in numbers:
            self.trials.pop(number, None)
        self._failures.succeeded(begun, len(numbers))

    def parked(self, item: Item) -> Value:
        """An earlier event of its key died: so it goes after it."""
        self.trials.pop(item[0], None)
        return self._failures.bury_parked(item[0], item[2])

    def failed(
        self,
        items: Sequence[Item],
        error: BaseException,
        begun: int,
        start_ns: int,
        kept: Sequence[bytes | None] = (),
    ) -> list[Item]:
        """A call with `items` failed: gives those that are to wait(); the others are dead.

        `kept`: what kept() gave before it."""
        failures = self._failures
        verdict = failures.policy.verdict(error)
        together = len(items) > 1
        waiting: list[Item] = []
        info: ErrorInfo | None = None
        at = None
        for item, pristine in zip_longest(items, kept):
            trial = self._trial(item)
            trial.pristine = pristine if trial.pristine is None else trial.pristine
            due = failures.judge(trial, verdict, begun, start_ns, together=together)
            if due is None:
                info = info or ErrorInfo.of(failures.explained(error))
                failures.bury(trial, info)
                del self.trials[item[0]]
                continue
            at = at or due  # a group is tried together again
            trial.due_ns = due if trial.alone else at
            waiting.append(item)
        return waiting

    def wait(self, items: Sequence[Item]) -> None:
        """Give `items` back when their time has come."""
        for item in items:
            self._turn += 1
            heapq.heappush(self._due, (self._trial(item).due_ns, self._turn, item))
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            wait_s = max(0.0, (self._due[0][0] - now_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = now_ns()
        items = []
        while self._due and self._due[0][0] <= now:
            items.append(heapq.heappop(self._due)[2])
        if items:
            self._again(items)
        self._arm()
