"""Verdicts and waits, and three things against simple models: budget, breaker, retry schedule."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Hashable
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import inf, nan
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from millstream.engine.failure import (
    NS,
    Budget,
    CircuitBreaker,
    Policy,
    Verdict,
    WaitingRoom,
    is_transient,
)
from millstream.engine.pipeline import Breaker, Reject, Retry

MS = 10**6
AGAIN, NEVER = Verdict(True), Verdict(False)


class Flaky(Exception):
    class Worse(Exception):
        pass


class FlakyToo(Flaky):
    pass


class Refused(Reject):
    pass


class Patience(Retry):
    pass


def foreign(*names: str) -> Exception:
    """An error as a library has it: the names of its classes, the most general one first."""
    made: Any = Exception
    for name in names:
        made = type(name, (made,), {})
    error: Exception = made()
    return error


# --- policy: verdicts


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Retry(), Verdict(True)),
        (Retry(after=0), Verdict(True, 0)),
        (Retry(after=2.0), Verdict(True, 2 * NS)),
        (Retry(after=0.0015), Verdict(True, 1_500_000)),
        (Patience(after=1), Verdict(True, NS)),
    ],
)
def test_a_handler_that_asks_for_another_attempt_gets_it_whatever_on_says(
    error: Retry, verdict: Verdict
) -> None:
    assert Policy().verdict(error) == Policy(on=()).verdict(error) == verdict


@pytest.mark.parametrize(("after", "least"), [(-1.0, 0), (nan, 0), (inf, NS), (1e300, NS)])
def test_a_wait_that_means_nothing_is_no_error_of_its_own(after: float, least: int) -> None:
    verdict = Policy().verdict(Retry(after=after))

    assert verdict.retriable
    assert verdict.after_ns is not None
    assert least <= verdict.after_ns < 2**63


@pytest.mark.parametrize(
    "error",
    [
        Reject(),
        Refused("of no use"),
        MemoryError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        asyncio.CancelledError(),
        BaseExceptionGroup("several", [KeyboardInterrupt(), TimeoutError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_no_attempt_can_help_is_given_up_though_on_has_it(error: BaseException) -> None:
    by_type = Policy(on=(BaseException, type(error)))
    by_name = Policy(on=("BaseException", type(error).__name__))

    assert {Policy().verdict(error), by_type.verdict(error), by_name.verdict(error)} == {NEVER}


@pytest.mark.parametrize(
    "kind",
    [
        Flaky,
        Exception,
        "Flaky",
        "Exception",
        f"{Flaky.__module__}.Flaky",
        "builtins.Exception",
        pytest.param((ValueError, "Flaky"), id="the second of two"),
    ],
)
def test_on_has_errors_by_type_by_name_and_by_qualified_name_with_all_below(kind: Any) -> None:
    policy = Policy.of(Retry(on=kind))

    assert policy.verdict(Flaky()) == policy.verdict(FlakyToo()) == AGAIN


@pytest.mark.parametrize(
    "kind",
    [
        FlakyToo,
        "FlakyToo",
        "flaky",
        "Flak",
        "Flaky.Worse",
        "elsewhere.Flaky",
        Flaky.__module__,
        pytest.param((), id="nothing"),
    ],
)
def test_what_on_does_not_have_is_given_up(kind: Any) -> None:
    assert Policy.of(Retry(on=kind)).verdict(Flaky()) == NEVER


def test_a_class_in_a_class_goes_by_its_own_name_and_by_its_whole_one() -> None:
    names = ["Worse", f"{Flaky.__module__}.Flaky.Worse", "Flaky.Worse", "Flaky"]

    verdicts = [Policy(on=(name,)).verdict(Flaky.Worse()) for name in names]

    assert verdicts == [AGAIN, AGAIN, NEVER, NEVER]


@pytest.mark.parametrize("kinds", [(Flaky,), ()])
def test_on_takes_the_place_of_the_usual_ones(kinds: tuple[type[Exception], ...]) -> None:
    policy = Policy(on=kinds)

    assert policy.verdict(TimeoutError()) == policy.verdict(ConnectionResetError()) == NEVER


@pytest.mark.parametrize("never", [FlakyToo, "FlakyToo", f"{Flaky.__module__}.FlakyToo"])
def test_never_wins_over_on(never: Any) -> None:
    policy = Policy.of(Retry(on=Exception, never=never))

    assert policy.verdict(FlakyToo()) == NEVER
    assert policy.verdict(Flaky()) == AGAIN


def test_never_wins_over_the_usual_ones() -> None:
    policy = Policy(never=(ConnectionRefusedError, "ReadTimeout"))

    assert policy.verdict(ConnectionRefusedError()) == NEVER
    assert policy.verdict(foreign("Timeout", "ReadTimeout")) == NEVER
    assert policy.verdict(ConnectionResetError()) == policy.verdict(foreign("Timeout")) == AGAIN


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(),
        BrokenPipeError(),
        foreign("HTTPError", "TransportError", "TimeoutException", "PoolTimeout"),  # httpx
        foreign("HTTPError", "TransportError", "NetworkError", "ConnectError"),  # httpx
        foreign("ClientError", "ClientConnectionError", "ServerDisconnectedError"),  # aiohttp
        foreign("RedisError", "ConnectionError"),  # redis
        foreign("RedisError", "TimeoutError"),  # redis
        foreign("RequestException", "ConnectionError", "ProxyError"),  # requests
        foreign("RequestException", "Timeout", "ReadTimeout"),  # requests
        foreign("HTTPError", "TimeoutError", "ReadTimeoutError"),  # urllib3
        foreign("HTTPError", "PoolError", "RequestError", "MaxRetryError"),  # urllib3
        foreign("HTTPError", "TransportError", "ProtocolError", "RemoteProtocolError"),  # httpx
        foreign("WebSocketException", "ConnectionClosed", "ConnectionClosedOK"),  # websockets
    ],
    ids=lambda error: type(error).__name__,
)
def test_timeouts_and_connection_errors_are_tried_again_unless_told_otherwise(
    error: Exception,
) -> None:
    assert is_transient(error)
    assert Policy().verdict(error) == AGAIN


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        OSError(),
        Flaky(),
        foreign("ClientError", "ClientResponseError"),
        foreign("RedisError", "ResponseError"),
        foreign("HTTPError", "HTTPStatusError"),
        foreign("RedisError", "ConnectionError", "AuthenticationError"),
        foreign("RequestException", "ConnectionError", "SSLError"),
        foreign("ConnectTimeoutPolicyError"),
        foreign("timeout"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_given_up_unless_told_otherwise(error: Exception) -> None:
    assert not is_transient(error)
    assert Policy().verdict(error) == NEVER


@pytest.mark.parametrize("after", ["2", (1,)])
def test_what_is_no_number_of_seconds_is_the_handlers_error(after: Any) -> None:
    with pytest.raises(TypeError, match="give it seconds, as a number"):
        Retry(after=after)


# --- policy: waits


def test_what_a_stage_declares_in_seconds_is_kept_in_nanoseconds() -> None:
    declared = Retry(5, first=0.25, factor=3.0, ceiling=7.5, on="A", never=(OSError,), budget=None)

    assert Policy.of(declared) == Policy(
        5, 250 * MS, 3.0, 7500 * MS, ("A",), (OSError,), None
    )  # fmt: skip


def test_a_stage_that_declares_nothing_has_the_policy_without_arguments() -> None:
    assert Policy.of(Retry()) == Policy()


def test_a_ceiling_may_be_endless() -> None:
    policy = Policy.of(Retry(first=1.0, ceiling=inf))

    assert policy.delay_ns(21, 0.5) == 2**20 * NS // 2


factors = st.one_of(st.integers(1, 10), st.floats(1, 4), st.floats(1, exclude_min=True))
waits_ns = st.integers(0, 10**15)
draws = st.floats(0, 1, exclude_max=True)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    return Policy(first_ns=draw(waits_ns), factor=draw(factors), ceiling_ns=draw(waits_ns))


@given(policies(), st.integers(1, 20), draws)
def test_a_wait_is_the_drawn_share_of_what_has_grown_so_far_up_to_the_ceiling(
    policy: Policy, attempt: int, draw: float
) -> None:
    grown = policy.first_ns and policy.first_ns * Fraction(min(policy.factor, 1e300)) ** (
        attempt - 1
    )
    most = min(grown, policy.ceiling_ns)

    wait = policy.delay_ns(attempt, draw)

    assert 0 <= wait <= most * (1 + Fraction(1, 10**12))
    assert wait == pytest.approx(float(most * Fraction(draw)), rel=1e-12, abs=1)


@given(policies(), st.integers(1, 10**400), draws)
@example(Policy(factor=2), 10**9, 0.5)
@example(Policy(factor=2.0), 1025, 0.5)
@example(Policy(first_ns=0), 1025, 0.5)
@example(Policy(factor=inf), 3, 0.5)
def test_a_wait_after_ever_so_many_attempts_keeps_within_its_bounds(
    policy: Policy, attempt: int, draw: float
) -> None:
    wait = policy.delay_ns(attempt, draw)

    assert 0 <= wait <= (policy.ceiling_ns if policy.first_ns else 0)
    if policy.factor >= 2 and attempt > 60 and policy.first_ns:
        assert wait == int(policy.ceiling_ns * draw)


@given(policies(), st.integers(1, 2000), draws, draws)
def test_a_wait_grows_with_the_draw_and_with_the_attempts(
    policy: Policy, attempt: int, one: float, other: float
) -> None:
    low, high = sorted([one, other])

    assert policy.delay_ns(attempt, low) <= policy.delay_ns(attempt, high)
    assert policy.delay_ns(attempt, low) <= policy.delay_ns(attempt + 1, low)


# --- budget

BURST = round(Budget.BURST)
A_TOKEN_NS = round(NS / Budget.TRICKLE)

steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 12_345, A_TOKEN_NS, NS, 20 * NS]),  # so much later
        st.sampled_from([0, 0, 1, 7, 1000, 10**6]),  # first attempts
        st.sampled_from([0, 1, 2, 30, BURST, BURST + 100]),  # retries
    ),
    max_size=8,
)
ratios = st.sampled_from([0.01, 0.2, 1 / 3, 1.0, 5.0])


@dataclass
class Schedule:
    """What became of deposits and takes at their times."""

    starts: list[int]
    """When each retry may start."""
    waits: list[int]
    deposits: list[tuple[int, int]]
    """When, and how many first attempts there were by then."""
    first_ns: int
    end_ns: int


def run(budget: Budget, steps: list[tuple[int, int, int]]) -> Schedule:
    now, deposited = 10**15, 0
    schedule = Schedule([], [], [(0, 0)], 0, 0)
    for later, first_attempts, retries in steps:
        now += later
        deposited += first_attempts
        budget.deposit(first_attempts)
        schedule.deposits.append((now, deposited))
        for _ in range(retries):
            schedule.first_ns = schedule.first_ns or now
            schedule.waits.append(budget.take(now))
            schedule.starts.append(now + schedule.waits[-1])
    schedule.end_ns = now
    return schedule


@given(steps, ratios)
def test_retries_never_exceed_burst_and_share_and_trickle(
    steps: list[tuple[int, int, int]], ratio: float
) -> None:
    schedule = run(Budget(ratio), steps)

    for count, at_ns in enumerate(sorted(schedule.starts), 1):
        by_then = bisect_right(schedule.deposits, (at_ns, inf)) - 1
        earned = ratio * schedule.deposits[by_then][1]
        trickled = Budget.TRICKLE * (at_ns - schedule.first_ns) / NS
        assert count <= BURST + earned + trickled + 1


@given(steps, ratios)
def test_a_retry_waits_for_those_before_it_and_no_longer(
    steps: list[tuple[int, int, int]], ratio: float
) -> None:
    budget = Budget(ratio)
    schedule = run(budget, steps)

    for before, wait in enumerate(schedule.waits, 1):
        assert 0 <= wait <= max(0, before - BURST) * A_TOKEN_NS + 1
    rested_ns = schedule.end_ns + len(schedule.waits) * A_TOKEN_NS
    assert [budget.take(rested_ns) for _ in range(BURST - 1)] == [0] * (BURST - 1)


def test_beyond_the_burst_retries_start_one_by_one_as_tokens_trickle_in() -> None:
    budget = Budget(0.2)

    waits = [budget.take(5 * NS) for _ in range(BURST + 3)]

    assert waits == [0] * BURST + [A_TOKEN_NS, 2 * A_TOKEN_NS, 3 * A_TOKEN_NS]
    assert budget.take(6 * NS) == 0  # 50 more by now, and 3 were owed


def test_first_attempts_allow_their_share_of_retries() -> None:
    budget = Budget(0.25)
    for _ in range(BURST):
        budget.take(0)
    budget.deposit(8)

    assert [budget.take(0) for _ in range(3)] == [0, 0, A_TOKEN_NS]


def test_what_is_saved_up_is_at_most_the_burst() -> None:
    budget = Budget(1.0)
    budget.deposit(10**9)
    at_first = [budget.take(0) for _ in range(BURST + 1)]
    much_later = [budget.take(10**9 * NS) for _ in range(BURST + 1)]

    assert at_first == much_later == [0] * BURST + [A_TOKEN_NS]


# --- circuit breaker

WINDOW_NS, TENTH_NS, PAUSE_NS = NS, NS // 10, NS // 2


@dataclass(eq=False)
class Call:
    """A call as the model has it."""

    begun: int
    """What begin() gave."""
    era: int
    """How many changes of state there were before it began."""
    ended_ns: int | None = None
    failed: bool = False
    weight: int = 1


class BreakerAgainstAList(RuleBasedStateMachine):
    """Whatever calls begin, end and are dropped, the breaker does what a list of them tells."""

    @initialize(
        ratio=st.sampled_from([0.07, 0.25, 0.5, 1.0]),
        calls=st.sampled_from([1, 2, 5, 12]),
        probes=st.integers(1, 3),
        now_ns=st.sampled_from([0, 1, 123_456_789_012]),
    )
    def start(self, ratio: float, calls: int, probes: int, now_ns: int) -> None:
        self.declared = Breaker(ratio, calls, WINDOW_NS / NS, PAUSE_NS / NS, probes)
        self.breaker = CircuitBreaker(self.declared)
        self.now_ns = now_ns
        self.state, self.era, self.opened, self.opened_ns = "closed", 0, 0, 0
        self.calls: list[Call] = []

    # --- the model

    def _become(self, state: str) -> None:
        self.state = state
        self.era += 1
        if state == "open":
            self.opened += 1
            self.opened_ns = self.now_ns

    def _of_this_era(self) -> list[Call]:
        return [call for call in self.calls if call.era == self.era]

    def _in_flight(self) -> list[Call]:
        return [call for call in self.calls if call.ended_ns is None]

    def _is_any_in_flight(self) -> bool:
        return bool(self._in_flight())

    def _is_too_much(self, since_ns: int) -> bool:
        counted = [
            call
            for call in self._of_this_era()
            if call.ended_ns is not None and call.ended_ns >= since_ns
        ]
        calls = sum(call.weight for call in counted)
        failures = sum(call.weight for call in counted if call.failed)
        return calls >= self.declared.calls and failures / calls >= self.declared.ratio

    def _too_much(self) -> set[bool]:
        """Whether too much failed in the window; its oldest tenth may count in part, or not."""
        oldest, newest = self.now_ns - WINDOW_NS + 1, self.now_ns - WINDOW_NS + TENTH_NS
        times = {newest} | {
            call.ended_ns
            for call in self._of_this_era()
            if call.ended_ns is not None and oldest <= call.ended_ns < newest
        }
        return {self._is_too_much(since_ns) for since_ns in times}

    # --- what happens

    @rule(by=st.sampled_from([1, TENTH_NS, 3 * TENTH_NS, PAUSE_NS - 1, PAUSE_NS, WINDOW_NS]))
    def time_passes(self, by: int) -> None:
        self.now_ns += by

    @rule(times=st.integers(1, 4))
    def begin(self, times: int) -> None:
        for _ in range(times):
            if self.state == "open" and self.now_ns >= self.opened_ns + PAUSE_NS:
                self._become("half-open")
            is_full = len(self._of_this_era()) >= self.declared.probes
            agrees = self.state == "closed" or (self.state == "half-open" and not is_full)

            begun = self.breaker.begin(self.now_ns)

            assert (begun is not None) == agrees
            if begun is not None:
                self.calls.append(Call(begun, self.era))

    @precondition(_is_any_in_flight)
    @rule(data=st.data(), failed=st.booleans(), weight=st.integers(1, 5))
    def end(self, data: st.DataObject, failed: bool, weight: int) -> None:
        self._end(data.draw(st.sampled_from(self._in_flight())), failed, weight)

    @precondition(_is_any_in_flight)
    @rule(failed=st.booleans())
    def end_all(self, failed: bool) -> None:
        for call in self._in_flight():
            self._end(call, failed, 1)

    def _end(self, call: Call, failed: bool, weight: int) -> None:
        call.ended_ns, call.failed, call.weight = self.now_ns, failed, weight
        self.breaker.ended(call.begun, self.now_ns, failed=failed, calls=weight)
        if call.era != self.era:
            return  # nothing follows, as the invariants have it
        if self.state == "closed":
            verdicts = self._too_much() if failed else {False}
            assert (self.breaker.state == "open") in verdicts
            if self.breaker.state == "open":
                self._become("open")
        elif failed:
            self._become("open")
        elif sum(call.ended_ns is not None for call in self._of_this_era()) == self.declared.probes:
            self._become("closed")

    @precondition(_is_any_in_flight)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self._in_flight()))
        self.calls.remove(call)
        self.breaker.dropped(call.begun)

    # --- what holds

    @invariant()
    def state_is_that_of_the_list(self) -> None:
        assert (self.breaker.state, self.breaker.opened) == (self.state, self.opened)

    @invariant()
    def wait_tells_when_a_call_may_begin(self) -> None:
        def agrees(at_ns: int) -> bool:
            return deepcopy(self.breaker).begin(at_ns) is not None

        wait = self.breaker.wait_ns(self.now_ns)
        if wait is None:
            assert self.state == "half-open"
            assert not agrees(self.now_ns + 1000 * NS)
        else:
            assert wait >= 0
            assert agrees(self.now_ns + wait)
            assert wait == 0 or not agrees(self.now_ns + wait - 1)

    @invariant()
    def it_gets_never_stuck(self) -> None:
        for failed in (None, False, True):
            breaker = deepcopy(self.breaker)
            for call in self._in_flight():
                if failed is None:
                    breaker.dropped(call.begun)
                else:
                    breaker.ended(call.begun, self.now_ns, failed=failed)
            assert breaker.begin(self.now_ns + PAUSE_NS) is not None


TestBreakerAgainstAList = BreakerAgainstAList.TestCase
TestBreakerAgainstAList.settings = settings(max_examples=60, stateful_step_count=40)


def opened(declared: Breaker) -> CircuitBreaker:
    """It opened at 0."""
    breaker = CircuitBreaker(declared)
    breaker.ended(begun(breaker), 0, failed=True, calls=declared.calls)
    return breaker


def begun(breaker: CircuitBreaker, now_ns: int = 0) -> int:
    token = breaker.begin(now_ns)
    assert token is not None
    return token


def test_it_opens_at_exactly_its_share_of_the_calls() -> None:
    opened_at = {}
    for percent in range(1, 101):
        breaker = CircuitBreaker(Breaker(ratio=percent / 100, calls=100))
        token = begun(breaker)
        breaker.ended(token, 0, failed=False, calls=100 - percent)
        failures = 0
        while breaker.state == "closed" and failures < 200:
            breaker.ended(token, 0, failed=True)
            failures += 1
        opened_at[percent] = failures

    assert opened_at == {percent: percent for percent in range(1, 101)}


def test_it_does_not_open_below_its_number_of_calls() -> None:
    breaker = CircuitBreaker(Breaker(calls=20))
    token = begun(breaker)
    breaker.ended(token, 0, failed=True, calls=19)
    before = breaker.state
    breaker.ended(token, 0, failed=True)

    assert (before, breaker.state) == ("closed", "open")


def test_what_failed_before_the_window_counts_no_more() -> None:
    breaker = CircuitBreaker(Breaker(calls=20, window=10.0))
    token = begun(breaker)
    breaker.ended(token, 0, failed=True, calls=19)
    breaker.ended(token, 10 * NS, failed=True, calls=19)
    before = breaker.state
    breaker.ended(token, 19 * NS, failed=True)

    assert (before, breaker.state) == ("closed", "open")


def test_a_window_may_be_endless() -> None:
    breaker = CircuitBreaker(Breaker(calls=2, window=inf))
    token = begun(breaker)
    breaker.ended(token, 0, failed=True)
    breaker.ended(token, 10**8 * NS, failed=True)

    assert breaker.state == "open"


def test_it_pauses_lets_probes_through_and_closes_when_all_have_succeeded() -> None:
    breaker = opened(Breaker(pause=5.0, probes=2))
    early = breaker.begin(5 * NS - 1)
    one, other = begun(breaker, 5 * NS), begun(breaker, 5 * NS)
    third = breaker.begin(5 * NS)
    states = [breaker.state]
    for token in (one, other):
        breaker.ended(token, 6 * NS, failed=False)
        states.append(breaker.state)

    assert early is third is None
    assert states == ["half-open", "half-open", "closed"]
    assert breaker.opened == 1


def test_after_it_has_closed_it_counts_anew() -> None:
    breaker = opened(Breaker(calls=2, window=100.0, pause=5.0, probes=1))
    breaker.ended(begun(breaker, 5 * NS), 5 * NS, failed=False)
    breaker.ended(begun(breaker, 5 * NS), 5 * NS, failed=True)

    assert (breaker.state, breaker.opened) == ("closed", 1)


def test_a_probe_that_fails_begins_the_pause_anew() -> None:
    breaker = opened(Breaker(pause=5.0))
    breaker.ended(begun(breaker, 7 * NS), 8 * NS, failed=True)

    assert (breaker.state, breaker.opened) == ("open", 2)
    assert breaker.wait_ns(8 * NS) == 5 * NS


def test_a_probe_that_was_dropped_makes_room_for_another() -> None:
    breaker = opened(Breaker(pause=5.0, probes=1))
    token = begun(breaker, 5 * NS)
    full = breaker.wait_ns(5 * NS)
    breaker.dropped(token)

    assert (full, breaker.wait_ns(5 * NS)) == (None, 0)
    assert breaker.begin(5 * NS) is not None


# --- the retry schedule


@dataclass(frozen=True)
class Item:
    """An event: it has no order of its own."""

    lane: Hashable
    number: int


LANES: tuple[Hashable, ...] = (None, "a", "b", 7, (1, "c"))
lanes = st.sampled_from(LANES)
delays = st.sampled_from([0, 0, 1, 5, 40])


class ScheduleAgainstLists(RuleBasedStateMachine):
    """Whatever arrives, fails, waits and ends, the room holds what lists of it hold, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.room: WaitingRoom[Item] = WaitingRoom()
        self.now = 0
        self.arrived: dict[Hashable, list[Item]] = {lane: [] for lane in LANES}
        self.ended: dict[Hashable, list[Item]] = {lane: [] for lane in LANES}
        self.waiting: list[tuple[int, Item]] = []  # (due, item), in the order in which they came
        self.trying: list[Item] = []
        self.behind: dict[Hashable, list[Item]] = {}  # of each lane that is held

    # --- the model

    def _new(self, lane: Hashable) -> Item:
        item = Item(lane, len(self.arrived[lane]))
        self.arrived[lane].append(item)
        return item

    def _queues(self, item: Item) -> None:
        self.room.queue(item.lane, item)
        self.behind[item.lane].append(item)

    def _fails(self, item: Item, delay: int) -> None:
        self.room.wait(item.lane, item, self.now + delay)
        self.waiting.append((self.now + delay, item))
        if item.lane is not None:
            self.behind.setdefault(item.lane, [])

    def _ends(self, item: Item) -> None:
        self.ended[item.lane].append(item)

    def _any_tried(self, data: st.DataObject) -> Item:
        item = data.draw(st.sampled_from(self.trying))
        self.trying.remove(item)
        return item

    def _is_trying(self) -> bool:
        return bool(self.trying)

    # --- what happens

    @rule(by=st.sampled_from([1, 5, 40]))
    def time_passes(self, by: int) -> None:
        self.now += by

    @rule(lane=lanes, delay=delays)
    def one_arrives_and_fails(self, lane: Hashable, delay: int) -> None:
        if self.room.holds(lane):
            self._queues(self._new(lane))
        else:
            self._fails(self._new(lane), delay)

    @rule(lane=lanes)
    def one_arrives_and_ends(self, lane: Hashable) -> None:
        if self.room.holds(lane):
            self._queues(self._new(lane))
        else:
            self._ends(self._new(lane))

    @rule(most=st.sampled_from([None, None, 1, 2]))
    def those_that_are_due_are_tried(self, most: int | None) -> None:
        due = sorted(
            (each for each in self.waiting if each[0] <= self.now), key=lambda each: each[0]
        )[:most]

        taken = list(islice(self.room.take_due(self.now), most))

        assert taken == [(item.lane, item) for _, item in due]
        for each in due:
            self.waiting.remove(each)
            self.trying.append(each[1])

    @precondition(_is_trying)
    @rule(data=st.data(), delay=delays)
    def one_fails_again(self, data: st.DataObject, delay: int) -> None:
        self._fails(self._any_tried(data), delay)

    @precondition(_is_trying)
    @rule(data=st.data())
    def one_ends_and_the_next_is_tried(self, data: st.DataObject) -> None:
        item = self._any_tried(data)
        self._ends(item)

        following = self.room.next_behind(item.lane)

        if self.behind.get(item.lane):
            expected = self.behind[item.lane].pop(0)
            assert following == expected
            self.trying.append(expected)
        else:
            assert following is None
            self.behind.pop(item.lane, None)

    @precondition(lambda self: bool(self.behind))
    @rule(data=st.data(), earlier=st.integers(1, 3), later=st.integers(0, 2))
    def some_come_back_that_came_before_others(
        self, data: st.DataObject, earlier: int, later: int
    ) -> None:
        lane = data.draw(st.sampled_from(list(self.behind)))
        back = [self._new(lane) for _ in range(earlier)]
        for _ in range(later):
            self._queues(self._new(lane))

        self.room.queue_in_order(lane, back, lambda item: item.number)

        self.behind[lane] = sorted([*self.behind[lane], *back], key=lambda item: item.number)

    # --- what holds

    @invariant()
    def it_counts_what_is_inside(self) -> None:
        inside = len(self.waiting) + sum(map(len, self.behind.values()))
        assert len(self.room) == inside
        assert bool(self.room) == bool(inside or self.behind)

    @invariant()
    def it_holds_the_lanes_of_which_one_waits_or_is_tried_and_no_other(self) -> None:
        pending = [item for _, item in self.waiting] + self.trying
        held = {item.lane for item in pending if item.lane is not None}
        assert {lane for lane in LANES if self.room.holds(lane)} == held

    @invariant()
    def it_knows_when_the_next_is_due(self) -> None:
        assert self.room.next_due_ns == min((due for due, _ in self.waiting), default=None)

    @invariant()
    def nobody_of_a_lane_overtakes(self) -> None:
        for lane in LANES[1:]:
            ended = self.ended[lane]
            assert ended == self.arrived[lane][: len(ended)]

    def teardown(self) -> None:
        """In the end all that arrived has ended once, and in order."""
        for _, item in (*self.room.take_due(self.now + 40), *((0, item) for item in self.trying)):
            self._ends(item)
            while (following := self.room.next_behind(item.lane)) is not None:
                self._ends(following)

        self.ended[None].sort(key=lambda item: item.number)
        assert self.ended == self.arrived
        assert not self.room


TestScheduleAgainstLists = ScheduleAgainstLists.TestCase
TestScheduleAgainstLists.settings = settings(max_examples=60, stateful_step_count=40)


def test_those_without_a_lane_hold_up_nobody() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    room.wait(None, "first", 5)
    room.wait(None, "second", 3)
    held = room.holds(None)
    taken = list(room.take_due(5))

    assert not held
    assert taken == [(None, "second"), (None, "first")]
    assert room.next_behind(None) is None
    assert not room


def test_other_lanes_go_on_while_one_is_held() -> None:
    room: WaitingRoom[str] = WaitingRoom()
    room.wait("a", "a1", 100)
    room.queue("a", "a2")
    room.wait("b", "b1", 1)
    taken = list(room.take_due(99))

    assert taken == [("b", "b1")]
    assert [room.holds(lane) for lane in "abc"] == [True, True, False]
    assert len(room) == 2


def test_those_due_at_the_same_time_are_tried_in_the_order_they_began_to_wait() -> None:
    room: WaitingRoom[int] = WaitingRoom()
    for number in range(20):
        room.wait(f"lane {number}", number, 7)
    early = list(room.take_due(6))

    assert early == []
    assert [number for _, number in room.take_due(7)] == list(range(20))


def test_what_comes_back_goes_before_those_that_came_since() -> None:
    room: WaitingRoom[int] = WaitingRoom()
    room.wait("a", 1, 0)
    room.queue("a", 5)
    room.queue_in_order("a", [2, 4], lambda number: number)
    room.queue_in_order("a", [3], lambda number: number)
    list(room.take_due(0))

    assert [room.next_behind("a") for _ in range(5)] == [2, 3, 4, 5, None]
    assert not room
