"""Circuit breakers in every executor: told how each call ended, and never in the way for good."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.engine import Breaker, Pipeline, Retry, stage
from millstream.engine.executors.failing import StageFailures
from millstream.engine.failure import CircuitBreaker
from millstream.engine.observer import RunWarning, Silent
from tests.support import handlers
from tests.support.running import json_lines, numbered, run_over

from .test_stages import EXECUTORS, in_executor

FOR_EVER_S = 3600.0


pytestmark = pytest.mark.usefixtures("tries")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """When breakers opened."""
    times: list[int] = []
    original = CircuitBreaker._open

    def noting(self: CircuitBreaker, now_ns: int) -> None:
        times.append(now_ns)
        original(self, now_ns)

    monkeypatch.setattr(CircuitBreaker, "_open", noting)
    yield times


class Told(Silent):
    """Keeps what a user is told."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.messages: list[str] = []

    def on_warning(self, warning: RunWarning) -> None:
        self.kinds.append(warning.kind)
        self.messages.append(warning.message)


def moody(count: int, seed: int) -> bytes:
    """Lines of which some are no events, and events that fail once, always, or by themselves."""
    draw = random.Random(seed)
    lines = json_lines(numbered(count, ["a", "b", "c", None])).splitlines(keepends=True)
    for number in range(count):
        match draw.randrange(8):
            case 0:
                lines[number] = b'{"id": %d, "key"\n' % number
            case 1 | 2 | 3:
                error = draw.choice(["connection", "timeout", "value", "reject"])
                fails = draw.choice([1, 99])
                event = {"id": number, "key": draw.choice("abc"), "error": error, "fails": fails}
                (lines[number],) = json_lines([event]).splitlines(keepends=True)
    return b"".join(lines)


@pytest.mark.parametrize("on_error", ["continue", "park"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("executor", EXECUTORS)
def test_whatever_ends_the_probes_the_run_goes_on(
    tmp_path: Path, executor: str, seed: int, on_error: str, opened: list[int]
) -> None:
    breaker = Breaker(ratio=0.1, calls=2, pause=0.002, probes=1 + seed % 2)
    retry = Retry(attempts=2, first=0.001, ceiling=0.002, budget=None)
    job = in_executor(executor, handlers.flaky, handlers.aflaky, breaker=breaker, retry=retry)

    ran = run_over(tmp_path, job, moody(200, seed), on_error=on_error)

    assert ran.violations == 0, ran.result.notes
    assert ran.counts["read"] == 200 == ran.counts["handled"] + ran.counts["dead_lettered"]
    assert opened or on_error == "park"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_event_has_to_call_for_a_probe_to_end(
    tmp_path: Path, executor: str, opened: list[int]
) -> None:
    """Filtered events of a later stage with a checkpoint keep their places, and are not handled."""
    events = numbered(60, ["a", "b"])
    for number in range(6):
        events[number] |= {"fails": 1}
    breaker = Breaker(ratio=0.5, calls=4, pause=0.01, probes=1)
    retry = Retry(attempts=3, first=0.001, budget=None)
    first = stage(handlers.keep_first_six, name="first")
    second = in_executor(executor, handlers.flaky, handlers.aflaky, breaker=breaker, retry=retry)
    counting = stage(handlers.count_all, name="count", state=dict)

    ran = run_over(
        tmp_path,
        Pipeline(first, second, counting),
        events,
        checkpoint=str(tmp_path / "c"),
    )

    assert (ran.exit_code, ran.counts["handled"]) == (0, 60), ran.result.notes
    assert opened


@pytest.mark.parametrize("executor", EXECUTORS)
def test_calls_that_succeed_count_against_those_that_fail(
    tmp_path: Path, executor: str, opened: list[int]
) -> None:
    events = numbered(2000, list("abcdefg"))
    for number in range(19, 2000, 20):
        events[number] |= {"fails": 1}
    breaker = Breaker(ratio=0.5, calls=10, pause=FOR_EVER_S)
    retry = Retry(attempts=2, first=0.001, budget=None)
    job = in_executor(executor, handlers.flaky, handlers.aflaky, breaker=breaker, retry=retry)

    ran = run_over(tmp_path, job, events)

    assert (ran.exit_code, ran.counts["handled"], opened) == (0, 2000, [])


def test_workers_that_hang_open_it_again(tmp_path: Path, opened: list[int]) -> None:
    events = [{**each, "end": "hang"} for each in numbered(4, list("abcd"))]
    breaker = Breaker(ratio=0.5, calls=2, pause=0.01, probes=1)
    retry = Retry(attempts=2, first=0.001, budget=None)
    job = stage(
        handlers.hang_six_times,
        executor="process",
        workers=2,
        timeout=0.2,
        breaker=breaker,
        retry=retry,
    )

    ran = run_over(tmp_path, job, events)

    assert (ran.exit_code, ran.counts["handled"]) == (0, 4), ran.result.notes
    assert len(opened) > 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_first_attempts_fill_the_budget_whatever_else_fails(
    tmp_path: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(StageFailures, "handled", lambda self, count: counts.append(count))
    events = numbered(1000, list("abcdefg"))
    for number in range(0, 1000, 9):
        events[number] |= {"fails": 1}
    retry = Retry(attempts=2, first=0.001, ceiling=0.002)
    job = in_executor(executor, handlers.flaky, handlers.aflaky, retry=retry)

    run_over(tmp_path, job, events)

    assert 900 <= sum(counts) <= 1000


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_event_that_always_fails_does_not_keep_it_open_for_ever(
    tmp_path: Path, executor: str, opened: list[int]
) -> None:
    events = [{**each, "fails": 10**6} for each in numbered(4, list("abcd"))]
    breaker = Breaker(ratio=0.5, calls=2, pause=0.002, probes=1, patience=0.3)
    retry = Retry(attempts=3, first=0.001, ceiling=0.002, budget=None)
    job = in_executor(executor, handlers.flaky, handlers.aflaky, breaker=breaker, retry=retry)

    ran = run_over(tmp_path, job, events)

    assert (ran.exit_code, sorted(ran.dead_ids)) == (4, [0, 1, 2, 3])
    assert len(opened) > 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_its_user_is_told_when_a_stage_pauses_and_when_it_goes_on(
    tmp_path: Path, executor: str
) -> None:
    events = [{**each, "fails": 2} for each in numbered(6, list("abcdef"))]
    breaker = Breaker(ratio=0.5, calls=2, pause=0.01, probes=1)
    retry = Retry(attempts=3, first=0.001, ceiling=0.002, budget=None)
    job = in_executor(executor, handlers.flaky, handlers.aflaky, breaker=breaker, retry=retry)
    told = Told()

    run_over(tmp_path, job, events, observer=told)

    assert told.kinds[:2] == ["breaker", "breaker"]
    assert "flaky' pauses: too many of its calls fail" in told.messages[0]
    assert "flaky' goes on, after" in told.messages[1]
