"""Events that came back from workers unfinished: failed, skipped, or left by one that died.

They wait here for another attempt, in the order of their lanes, and go out again in frames of
their own. What is sent and received is process.py's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final, Protocol

from ..batch import is_nothing
from ..dead_letters import ErrorInfo
from ..failure import GIVE_UP, Verdict, WaitingRoom
from ..order import Lane
from .base import StageContext, now_ns
from .failing import MOST_WAITING, StageFailures, Trial
from .wire import Failed

DEATHS_ALONE: Final = 2
"""An event that was alone with a worker when somebody killed it, so often, is to blame for that."""
MOST_TOGETHER: Final = 128
"""So many events of a lane go out at once when nothing is known against them."""
_LOOK_AGAIN_NS: Final = 1_000_000


class Frame(Protocol):
    """As much of a frame as is looked at."""

    done: bool


class Returns:
    """Those that wait, or are tried again. At most MOST_WAITING, and what was in flight."""

    def __init__(self, context: StageContext) -> None:
        self.room: WaitingRoom[Trial] = WaitingRoom()
        self.gone: list[Trial] = []
        """Those that became dead letters here: the executor sends them on."""
        self._failures: StageFailures = context.failures
        self._heads: dict[Lane, int] = {}
        """Lane -> number of the event that waits or is tried, before all others of its lane; of
        several that are tried together, the last one."""
        self._together: dict[Lane, list[Trial]] = {}
        """By lane: those that are tried together, in order, in one frame."""
        self._out: dict[int, Trial] = {}
        """By number: trials that are in flight."""
        self._after: dict[int, list[Frame]] = {}
        """By number: frames that may bring back later events of its lane."""

    @property
    def is_needed(self) -> bool:
        """Whether events that come have to be looked at one by one."""
        return bool(self._heads or self._failures.parking.keys)

    @property
    def has_news(self) -> bool:
        """Whether the events of an answer have to be looked at one by one."""
        return bool(self._out)

    @property
    def takes_no_more(self) -> bool:
        """Whether what waits has to become less first."""
        return len(self.room) >= MOST_WAITING

    def keeps_back(self, lane: Lane, index: int) -> bool:
        """Whether an event of this lane must not go out as it comes."""
        if lane is None:
            return False
        return lane in self._heads or self._failures.parking.has(lane, index)

    def keep_back(self, trial: Trial) -> None:
        """Such an event: it goes behind the others of its lane, or after them for good."""
        if self._failures.parking.has(trial.lane, trial.index):
            self._bury_parked(trial)
        else:
            self.room.queue(trial.lane, trial)

    def attempt_of(self, index: int) -> int:
        """Which attempt at an event is in flight, from 1."""
        trial = self._out.get(index)
        return 1 if trial is None else trial.attempts + 1

    # --- going out again

    def take_due(self, most: int) -> list[list[Trial]]:
        """Trials whose time has come, in groups of one partition that may go out together."""
        groups: list[list[Trial]] = []
        open_groups: dict[tuple[int, bool], list[Trial]] = {}
        for lane, trial in list(self.room.take_due(now_ns())):
            after = self._after.get(trial.index)
            if after is not None and not all(frame.done for frame in after):
                self.room.wait(lane, trial, now_ns() + _LOOK_AGAIN_NS)
                continue
            self._after.pop(trial.index, None)
            trials = self._together.get(lane, [trial])
            self._out.update((each.index, each) for each in trials)
            if trial.alone:
                groups.append(trials)
                continue
            kind = _kind_of(trial)
            group = open_groups.setdefault(kind, [])
            group += trials
            if len(group) >= most:
                groups.append(open_groups.pop(kind))
        return [*groups, *open_groups.values()]

    # --- coming back

    def trial_of(self, index: int, make: Callable[[], Trial]) -> Trial:
        """What is known of an event that came back."""
        return self._out.pop(index, None) or make()

    def is_to_wait(self, trial: Trial, failed: Failed, begun: int) -> bool:
        """Judge a failure: whether the event is tried again; else it is buried."""
        failures = self._failures
        if not (failed.held or trial.attempts):
            failures.bury_at_once(trial.index, trial.line, failed.error)
            failures.succeeded(begun)  # it was the event's fault, not that of what was called
            return False
        verdict = Verdict(True, failed.after_ns) if failed.retriable else GIVE_UP
        due = failures.judge(trial, verdict, begun, now_ns(), together=failed.together)
        if due is None:
            failures.bury(trial, failed.error)
            return False
        trial.due_ns = due
        return True

    def has_died_with(self, trial: Trial, error: ErrorInfo, *, from_outside: bool) -> bool:
        """A worker died that may have died of this event: whether it did; then it is buried.

        `from_outside`: others may have killed it, which says less.
        """
        trial.attempts += 1
        if trial.alone:
            trial.deaths += 1
        if trial.deaths >= (DEATHS_ALONE if from_outside else 1):
            self._failures.bury(trial, error)
            return True
        trial.alone, trial.due_ns = True, now_ns()
        return False

    def keep(self, trials: Iterable[Trial], others: Sequence[Frame]) -> None:
        """Let events wait that came back, each behind those of its lane that came before it.

        `others` are frames in flight that may have later events of the same lanes.
        """
        behind: dict[Lane, list[Trial]] = {}
        for trial in sorted(trials, key=_number):
            lane = trial.lane
            if lane in self._together:  # those before it were handled, those after it were not
                del self._together[lane]
                self._heads[lane] = trial.index
            head = self._heads.get(lane, trial.index)
            if lane is None:
                self.room.wait(None, trial, trial.due_ns or now_ns())
            elif self._failures.parking.has(lane, trial.index):
                self._bury_parked(trial)
                self.ended(trial)
            elif head == trial.index:
                if lane not in self._heads and others:
                    self._after[trial.index] = list(others)
                self._heads[lane] = trial.index
                self.room.wait(lane, trial, trial.due_ns or now_ns())
            else:
                behind.setdefault(lane, []).append(trial)
        for lane, later in behind.items():
            self.room.queue_in_order(lane, later, _number)

    def ended(self, trial: Trial) -> None:
        """An event came to its end: the next one of its lane may be tried."""
        lane = trial.lane
        if lane is None or self._heads.get(lane) != trial.index:
            return
        self._together.pop(lane, None)
        while (following := self.room.next_behind(lane)) is not None:
            if not self._failures.parking.has(lane, following.index):
                self._heads[lane] = self._with_others(lane, following)
                self.room.wait(lane, following, now_ns())
                return
            self._bury_parked(following)
        del self._heads[lane]

    def _with_others(self, lane: Lane, first: Trial) -> int:
        """Let those behind an event go out with it, as far as nothing is known against them, and
        give the last one's number: one by one they would never catch up with those that come."""
        trials, kind = [first], _kind_of(first)
        is_open = self._failures.breaker is None  # else it lets one go out at a time
        while is_open and len(trials) < MOST_TOGETHER and _is_untried(trials[-1]):
            following = self.room.peek_behind(lane)
            if following is None or not _is_untried(following) or _kind_of(following) != kind:
                break
            trials.append(following)
            self.room.next_behind(lane)
        if len(trials) > 1:
            self._together[lane] = trials
        return trials[-1].index

    def _bury_parked(self, trial: Trial) -> None:
        if not is_nothing(trial.value):
            self._failures.bury_parked(trial.index, trial.line)
        self.gone.append(trial)


_number = attrgetter("index")


def _kind_of(trial: Trial) -> tuple[int, bool]:
    """What trials must have in common to go out in one frame."""
    return trial.partition, type(trial.value) is bytes


def _is_untried(trial: Trial) -> bool:
    """Whether nothing is known against it: it only waited behind another one."""
    return not (trial.attempts or trial.deaths or trial.alone)
