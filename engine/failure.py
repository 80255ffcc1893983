"""What becomes of an error: tried again and when, or given up; budgets and circuit breakers.

Pure: no clock and no randomness of its own; times (ns) and draws are given. Imported by worker
processes: neither numpy nor asyncio is imported here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec

from .pipeline import Breaker, Reject, Retry

NS: Final = 1_000_000_000

TRANSIENT: Final = (TimeoutError, ConnectionError)
TRANSIENT_NAMES: Final = frozenset(
    {
        "Timeout",
        "TimeoutError",
        "TimeoutException",
        "ConnectionError",
        "ConnectionClosed",
        "ClientConnectionError",
        "MaxRetryError",
        "NetworkError",
        "ProtocolError",
    }
)
"""What the well-known client libraries (aiohttp, httpx, redis, requests, urllib3, websockets) call
timeouts and connection errors, where these are not Python's own."""


LASTING_NAMES: Final = frozenset({"AuthenticationError", "SSLError"})
"""What some of them derive from their connection errors, though no attempt more helps."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether one more attempt may help, and how long the handler itself asks to wait (ns)."""

    retriable: bool
    after_ns: int | None = None


GIVE_UP: Final = Verdict(False)
ONCE_MORE: Final = Verdict(True)


class Policy(msgspec.Struct, frozen=True):
    """When and how often a stage tries an event again."""

    attempts: int = 3
    first_ns: int = NS // 10
    factor: float = 2.0
    ceiling_ns: int = 30 * NS
    on: tuple[type[BaseException] | str, ...] | None = None
    """Types, or names of types, that are worth another attempt; None: TRANSIENT."""
    never: tuple[type[BaseException] | str, ...] = ()
    budget: float | None = 0.2

    @classmethod
    def of(cls, retry: Retry) -> Policy:
        """What a stage declared."""
        return cls(
            retry.attempts,
            _ns(retry.first),
            retry.factor,
            _ns(retry.ceiling),
            retry.on,
            retry.never,
            retry.budget,
        )

    def verdict(self, error: BaseException) -> Verdict:
        """Whether `error` is worth another attempt, however many there were."""
        if isinstance(error, Retry):
            return Verdict(True, None if error.after is None else _ns(error.after))
        if not isinstance(error, Exception) or isinstance(error, Reject | MemoryError):
            return GIVE_UP
        if self.never and _is_one_of(error, self.never):
            return GIVE_UP
        if self.on is not None:
            return ONCE_MORE if _is_one_of(error, self.on) else GIVE_UP
        return ONCE_MORE if is_transient(error) else GIVE_UP

    def delay_ns(self, attempt: int, draw: float) -> int:
        """How long to wait after attempt number `attempt` (1, 2, …) failed: full jitter.

        `draw` is uniform in [0, 1). Source: "Exponential Backoff And Jitter", AWS.
        """
        if not self.first_ns:
            return 0
        most = float(self.ceiling_ns)
        try:
            most = min(most, self.first_ns * float(self.factor) ** (attempt - 1))
        except OverflowError:
            pass
        return int(most * draw)


def _ns(seconds: float) -> int:
    """As ns; less than nothing, and what is no number, is none; endless is some 30 years."""
    return round(min(max(0.0, seconds), 1e9) * NS)  # in this order: max(0.0, nan) is 0.0


def is_transient(error: BaseException) -> bool:
    """Whether it is a timeout or a connection error, Python's own or a well-known library's."""
    names = {each.__name__ for each in type(error).__mro__}
    if names & LASTING_NAMES:
        return False
    return isinstance(error, TRANSIENT) or bool(names & TRANSIENT_NAMES)


def _is_one_of(error: BaseException, kinds: tuple[type[BaseException] | str, ...]) -> bool:
    for kind in kinds:
        if isinstance(kind, type):
            if isinstance(error, kind):
                return True
        elif any(
            kind in (each.__name__, f"{each.__module__}.{each.__qualname__}")
            for each in type(error).__mro__
        ):
            return True
    return False


class Budget:
    """A token bucket for retries: a share of the first attempts, and a trickle, so no storm.

    A retry beyond it is not given up: it waits.
    """

    TRICKLE: Final = 50.0
    """Retries per second that are always allowed."""
    BURST: Final = 500.0

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._tokens = self.BURST
        self._at_ns: int | None = None

    def deposit(self, first_attempts: int) -> None:
        """Note first attempts: they allow so many more retries."""
        self._tokens = min(self.BURST, self._tokens + self._ratio * first_attempts)

    def take(self, now_ns: int) -> int:
        """Take one retry; gives how long it has to wait for its token (ns)."""
        if self._at_ns is not None:
            trickled = (now_ns - self._at_ns) / NS * self.TRICKLE
            self._tokens = min(self.BURST, self._tokens + trickled)
        self._at_ns = now_ns
        self._tokens -= 1.0
        return 0 if self._tokens >= 0 else int(-self._tokens / self.TRICKLE * NS)


BreakerState = Literal["closed", "open", "half-open"]

_MAY_BECOME: Final[dict[BreakerState, tuple[BreakerState, ...]]] = {
    "closed": ("open",),
    "open": ("half-open",),
    "half-open": ("closed", "open"),
}


class CircuitBreaker:
    """Holds a stage's calls back while most of them fail for reasons outside the events.

    closed: calls go on, their outcomes are counted over a window. open: none may begin until the
    pause is over. half-open: a few probes may; the first that fails opens it again, and when all
    have succeeded it closes.
    """

    _BUCKETS: Final = 10

    def __init__(self, declared: Breaker) -> None:
        self.state: BreakerState = "closed"
        self.opened = 0
        """How often it has opened."""
        self._declared = declared
        self._pause_ns = _ns(declared.pause)
        self._bucket_ns = max(1, _ns(declared.window / self._BUCKETS))
        self._buckets: deque[list[int]] = deque(maxlen=self._BUCKETS)  # [number, calls, failures]
        self._until_ns = 0
        self._generation = 0
        self._probes_begun = self._probes_succeeded = 0

    def _become(self, state: BreakerState) -> None:
        assert state in _MAY_BECOME[self.state], f"{self.state} -> {state}"
        self.state = state
        self._generation += 1
        self._probes_begun = self._probes_succeeded = 0
        self._buckets.clear()

    def begin(self, now_ns: int) -> int | None:
        """Ask to begin a call: what to give back to `ended`, or None: not now."""
        if self.state == "open" and now_ns >= self._until_ns:
            self._become("half-open")
        if self.state == "open":
            return None
        if self.state == "half-open":
            if self._probes_begun >= self._declared.probes:
                return None
            self._probes_begun += 1
        return self._generation

    def wait_ns(self, now_ns: int) -> int | None:
        """How long it lasts until begin() may agree; None: until a probe has ended."""
        if self.state == "open":
            return max(0, self._until_ns - now_ns)
        if self.state == "half-open" and self._probes_begun >= self._declared.probes:
            return None
        return 0

    def ended(self, begun: int, now_ns: int, *, failed: bool, calls: int = 1) -> None:
        """Note how calls ended; of those begun in an earlier state nothing follows."""
        if begun != self._generation:
            return
        if self.state == "half-open":
            if failed:
                self._open(now_ns)
            else:
                self._probes_succeeded += 1
                if self._probes_succeeded >= self._declared.probes:
                    self._become("closed")
            return
        number = now_ns // self._bucket_ns
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1] += calls
        self._buckets[-1][2] += calls if failed else 0
        if failed and self._is_too_much(number):
            self._open(now_ns)

    def dropped(self, begun: int) -> None:
        """A call that had begun came to no end of its own: a probe may begin in its place."""
        if begun == self._generation and self.state == "half-open":
            self._probes_begun -= 1

    def _is_too_much(self, number: int) -> bool:
        recent = [each for each in self._buckets if each[0] > number - self._BUCKETS]
        calls = sum(each[1] for each in recent)
        failures = sum(each[2] for each in recent)
        return calls >= self._declared.calls and failures / calls >= self._declared.ratio

    def _open(self, now_ns: int) -> None:
        self._become("open")
        self._until_ns = now_ns + self._pause_ns
        self.opened += 1


T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """Events that wait for their next attempt, and, in order, those of the same lane behind them.

    An event without a lane (None) holds up nobody. What bounds it is whoever fills it: see len().
    """

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Hashable, T]] = []
        self._behind: dict[Hashable, deque[T]] = {}
        self._count = 0
        self._turn = 0

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0 or bool(self._behind)

    def holds(self, lane: Hashable) -> bool:
        """Whether an event of this lane waits, or is being tried again: others go behind it."""
        return lane in self._behind

    def wait(self, lane: Hashable, event: T, due_ns: int) -> None:
        """`event`, the first of its lane, waits until `due_ns`."""
        if lane is not None:
            self._behind.setdefault(lane, deque())
        self._turn += 1
        heapq.heappush(self._due, (due_ns, self._turn, lane, event))
        self._count += 1

    def queue(self, lane: Hashable, event: T) -> None:
        """`event` goes behind those of its lane that wait already."""
        self._behind[lane].append(event)
        self._count += 1

    def queue_in_order(
        self, lane: Hashable, events: Sequence[T], number: Callable[[T], int]
    ) -> None:
        """The same for events that may have come before some that are behind already."""
        self._behind[lane] = deque(sorted([*self._behind[lane], *events], key=number))
        self._count += len(events)

    @property
    def next_due_ns(self) -> int | None:
        """When the next event may be tried; None: nothing waits for its time."""
        return self._due[0][0] if self._due else None

    def take_due(self, now_ns: int) -> Iterator[tuple[Hashable, T]]:
        """The events whose time has come. Their lanes stay held."""
        while self._due and self._due[0][0] <= now_ns:
            _, _, lane, event = heapq.heappop(self._due)
            self._count -= 1
            yield lane, event

    def peek_behind(self, lane: Hashable) -> T | None:
        """The first event that is behind the one of its lane that is tried; it stays there."""
        behind = self._behind.get(lane)
        return behind[0] if behind else None

    def next_behind(self, lane: Hashable) -> T | None:
        """The first event of the lane ended: the next one, its lane still held; None: it is free.

        An event that comes meanwhile goes behind: nobody overtakes.
        """
        if lane is None:
            return None
        behind = self._behind[lane]
        if behind:
            self._count -= 1
            return behind.popleft()
        del self._behind[lane]
        return None
