"""What a stage's failures come to: tried again later, dead-lettered, and what that does to a lane.

Decided by failure.py; here the decisions meet the run: budget, breaker, dead letters, parked keys.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from ..batch import DEAD, Value, is_nothing
from ..dead_letters import DeadLetters, ErrorInfo, Halted
from ..event import Event, Made, Record
from ..failure import Budget, CircuitBreaker, Policy, Verdict
from ..order import Lane
from ..plan import StagePlan
from .wire import event_of_line

now_ns: Final = time.monotonic_ns

MOST_WAITING: Final = 4096
"""Events that may wait for another attempt, or behind one, before a stage takes no more."""
MOST_PARKED: Final = 100_000


class TooManyParked(Halted):
    """More keys are parked than are kept: this is no trouble of single events."""


class Parking:
    """The keys of which an event died: later events go after it, unhandled, in order."""

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self.keys: dict[Lane, int] = {}
        """Key -> number of the first of its events that died: it is those after it that go after
        it. At most MOST_PARKED."""
        self.fresh: list[tuple[Lane, int]] | None = None
        """Those parked since the last checkpoint, and the numbers of the events that died."""

    def has(self, lane: Lane, index: int) -> bool:
        """Whether event number `index` goes after an earlier one of its key."""
        return lane is not None and index > self.keys.get(lane, index)

    def park(self, lane: Lane, index: int) -> None:
        """Park a key since event number `index` died. Raises TooManyParked."""
        if not self.on or lane is None or self.keys.get(lane, index + 1) <= index:
            return
        if len(self.keys) >= MOST_PARKED:
            raise TooManyParked(
                f"events of {MOST_PARKED:,} keys could not be handled, and all their keys are "
                "parked: something is wrong beyond single events; mend it, and go on with replay"
            )
        self.keys[lane] = index
        if self.fresh is not None:
            self.fresh.append((lane, index))


class Trial:
    """An event that is tried, maybe again, or waits behind one of its lane that is."""

    __slots__ = (
        "alone",
        "attempts",
        "charged",
        "deaths",
        "due_ns",
        "first_ns",
        "index",
        "lane",
        "line",
        "partition",
        "pristine",
        "ready",
        "value",
    )

    def __init__(
        self, index: int, lane: Lane, line: bytes, value: Value, ready: int, partition: int
    ) -> None:
        self.index, self.lane, self.line, self.value = index, lane, line, value
        self.ready, self.partition = ready, partition
        self.attempts = 0
        self.charged = 0
        """Those of them that count: not those made while the circuit breaker was not closed."""
        self.first_ns = 0
        """When its first attempt began, in ns since 1970; 0: none did."""
        self.deaths = 0
        """How often it was alone with a worker that died."""
        self.due_ns = 0
        self.pristine: bytes | None = None
        self.alone = False
        """Whether it is to be tried without others, to find who is to blame."""


class StageFailures:
    """Judges one stage's failures."""

    def __init__(
        self,
        stage: StagePlan,
        dead_letters: DeadLetters,
        parking: Parking,
        draw: Callable[[], float],
        *,
        is_first: bool,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`warn` is told when the circuit breaker opens, and when all goes on."""
        self.stage = stage
        self.policy: Policy = stage.policy
        self.parking = parking
        self.breaker = CircuitBreaker(stage.breaker) if stage.breaker is not None else None
        self._patience_ns = 0 if stage.breaker is None else stage.breaker.patience * 1e9
        self._warn, self._opened_ns = warn, 0
        self.retried = 0
        self.keeps = (
            self.policy.attempts > 1
            and not is_first
            and (stage.executor == "coroutine" or stage.retry_is_asked_for)
            and stage.executor != "process"
        )
        """Whether an event has to be kept as it came before a handler may change it: those of the
        first stage can be decoded again, a worker process changes only a copy, and for plain
        functions it is done only where retries were asked for: it costs as much as they do."""
        self.is_first = is_first
        self._budget = None if self.policy.budget is None else Budget(self.policy.budget)
        self._dead_letters, self._draw = dead_letters, draw

    @property
    def may_hold(self) -> bool:
        """Whether any failure can come to more than a dead letter."""
        return self.parking.on or self.policy.attempts > 1 or self.breaker is not None

    def holds(self, error: BaseException, dead: int = 0) -> bool:
        """Whether more is to be decided about `error` than that its event is dead.

        `dead`: how many died that are not dead letters yet."""
        if self.parking.on or (self.may_hold and self.policy.verdict(error).retriable):
            return True
        return self._dead_letters.would_stop(dead + 1)

    def would_stop(self, dead: int) -> bool:
        """Whether the run stops at so many more events that died."""
        return self._dead_letters.would_stop(dead)

    @property
    def is_last(self) -> bool:
        """Whether an event died by which the run stops: none is to be begun after it."""
        return self._dead_letters.is_last

    # --- circuit breaker and budget

    @property
    def is_open(self) -> bool:
        """Whether calls are held back, or a few probe."""
        return self.breaker is not None and self.breaker.state != "closed"

    def begin(self) -> int | None:
        """Ask to begin a call: what to give back when it has ended, or None: not now."""
        return 0 if self.breaker is None else self.breaker.begin(now_ns())

    @property
    def is_held_back(self) -> bool:
        """Whether no call may begin now."""
        return self.breaker is not None and self.breaker.wait_ns(now_ns()) != 0

    def may_begin_ns(self) -> int:
        """When to ask again (monotonic)."""
        now = now_ns()
        wait = 0 if self.breaker is None else self.breaker.wait_ns(now)
        return now + (_PROBE_POLL_NS if wait is None else max(wait, 1))

    def succeeded(self, begun: int, calls: int = 1) -> None:
        """So many calls came to an end that says nothing against what they called."""
        if self.breaker is not None:
            self._tell_breaker(self.breaker, begun, now_ns(), failed=False, calls=calls)

    def _tell_breaker(
        self, breaker: CircuitBreaker, begun: int, now: int, *, failed: bool, calls: int = 1
    ) -> None:
        breaker.ended(begun, now, failed=failed, calls=calls)
        stage = self.stage
        if breaker.state == "open" and not self._opened_ns:
            self._opened_ns = now
            assert stage.breaker is not None
            self._warn(
                f"stage {stage.name!r} pauses: too many of its calls fail with what is worth a "
                f"retry; it is tried again every {stage.breaker.pause:g} s"
            )
        elif breaker.state == "closed" and self._opened_ns:
            paused_s = (now - self._opened_ns) / 1e9
            self._opened_ns = 0
            self._warn(f"stage {stage.name!r} goes on, after {paused_s:,.1f} s")

    def passed(self, calls: int) -> None:
        """So many calls were made without asking, while the breaker was closed, and none failed
        for reasons outside its event."""
        if self.breaker is not None and calls:
            begun = self.begin()
            assert begun is not None
            self.succeeded(begun, calls)

    def dropped(self, begun: int) -> None:
        """A call came to no end of its own."""
        if self.breaker is not None:
            self.breaker.dropped(begun)

    def handled(self, count: int) -> None:
        """So many first attempts were made: the budget grows by a share of them."""
        if self._budget is not None:
            self._budget.deposit(count)

    # --- judging

    def judge(
        self, trial: Trial, verdict: Verdict, begun: int, start_ns: int, *, together: bool = False
    ) -> int | None:
        """An attempt failed that began at `start_ns` (monotonic): when to try again; None: never.

        `together`: it was made with others; the last one has to be made alone.
        """
        now = now_ns()
        trial.attempts += 1
        if not trial.first_ns:
            trial.first_ns = time.time_ns() - (now - start_ns)
        was_open = self.is_open
        if self.breaker is not None:
            self._tell_breaker(self.breaker, begun, now, failed=verdict.retriable)
        if not (was_open and verdict.retriable) or self._is_out_of_patience(trial):
            trial.charged += 1
        if not verdict.retriable or trial.charged >= self.policy.attempts:
            if not together or trial.alone:
                return None
            trial.alone = True
            return now
        self.retried += 1
        wait = verdict.after_ns
        if wait is None:
            wait = self.policy.delay_ns(trial.attempts, self._draw())
        if self._budget is not None:
            wait = max(wait, self._budget.take(now))
        return now + wait

    def _is_out_of_patience(self, trial: Trial) -> bool:
        """Whether it fails for so long that it may be to blame: none but it may be left."""
        return time.time_ns() - trial.first_ns > self._patience_ns

    # --- the end of an event

    def bury(self, trial: Trial, error: ErrorInfo) -> Any:
        """Make it a dead letter and park its key; gives back what stands for it."""
        self._dead_letters.add(
            trial.index,
            trial.line,
            self.stage.name,
            error,
            attempts=trial.attempts,
            first_ns=trial.first_ns,
        )
        self.parking.park(trial.lane, trial.index)
        return DEAD

    def bury_at_once(self, index: int, line: bytes, error: ErrorInfo) -> Any:
        """The same for one that failed at its first attempt, where nothing is parked."""
        self._dead_letters.add(index, line, self.stage.name, error)
        return DEAD

    def bury_parked(self, index: int, line: bytes) -> Any:
        """The same for an event whose key is parked: it was not handled."""
        self._dead_letters.add(index, line, self.stage.name, PARKED, attempts=0)
        return DEAD

    def explained(self, error: BaseException) -> BaseException:
        """A timeout of the stage says whose it was."""
        limit = self.stage.timeout_s
        if isinstance(error, TimeoutError) and limit is not None and not error.args:
            return TimeoutError(f"stage {self.stage.name!r} took longer than {limit:g} s")
        return error


_PROBE_POLL_NS: Final = 5_000_000
PARKED: Final = ErrorInfo("Parked", "an earlier event of its key could not be handled")


# --- events as they came, for another attempt

_dumps: Final = pickle.dumps


def snapshot(value: Value) -> bytes | None:
    """What is needed to have `value` again as it is now, b"" when its line is; None: unknown."""
    try:
        if type(value) is Record:  # the most usual, and nothing else costs as much
            obj = value._obj
            return b"" if obj is UNSET else _dumps((True, obj))
        if type(value) is list:
            return _dumps([_parts(event) for event in value])
        if isinstance(value, Record) and value._obj is UNSET:
            return b""
        return _dumps(_parts(value))
    except Exception:  # it holds what can't be copied: it will be as the handler left it
        return None


def _parts(event: Any) -> tuple[Any, ...]:
    """What a handler may change of an event: its data and its whole, each only if it has one.

    To pickle UNSET takes fifty times as long as all else: pickle looks for it in every module.
    """
    obj, whole = event._obj, event.whole if type(event) is Made else UNSET
    return (obj is not UNSET, None if obj is UNSET else obj) + (() if whole is UNSET else (whole,))


def restored(value: Value, kept: bytes | None, decoder: Any, line: bytes | None) -> Value:
    """`value` as it was before it was handled; `line`: it is the source's own, decode it anew."""
    if is_nothing(value):
        return value
    if line is not None and isinstance(value, Event):
        return event_of_line(line, decoder)
    if kept is None:
        return value
    if not kept:
        return event_of_line(value._line, decoder)
    events = value if type(value) is list else [value]
    parts = pickle.loads(kept)
    for event, own in zip(events, [parts] if type(parts) is tuple else parts, strict=True):
        has_obj, obj, *whole = own
        event._obj = obj if has_obj else UNSET
        if isinstance(event, Made):
            event.whole = whole[0] if whole else UNSET
    return value
