"""Set-ups whose figures are known: the benchmark finds them, exactly, on a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from millstream.engine import Event, Pipeline, RunOptions, stage
from millstream.engine.arrivals import Closed, parse_arrivals
from millstream.engine.load import Load
from millstream.engine.observer import Silent
from millstream.workloads.experiments import find_max
from millstream.workloads.load import LocalLoad
from millstream.workloads.options import BenchPlan
from millstream.workloads.scenario import Invariant, Outcome, Scenario
from millstream.workloads.supply import Supply
from millstream.workloads.trial import Trial, run_trial
from tests.support.virtual import run_virtually

MS = 1_000_000


async def wait(event: Event, *, times: Callable[[int], float]) -> Event:
    await asyncio.sleep(times(event.data["n"]))
    return event


class Waiting(Scenario):
    """A stage that takes as long as it is told, for so many events at once."""

    name: ClassVar = "waiting"
    summary: ClassVar = "It waits."
    description: ClassVar = "It waits."

    def __init__(self, times: Callable[[int], float], concurrency: int) -> None:
        super().__init__()
        self._times, self._concurrency = times, concurrency

    def lines(self) -> Iterator[bytes]:
        n = 0
        while True:
            yield b'{"n":%d}' % n
            n += 1

    def pipeline(self, folder: Path) -> Pipeline:
        handler = partial(wait, times=self._times)
        return Pipeline(stage(handler, name="wait", concurrency=self._concurrency))

    def check(self, outcome: Outcome) -> list[Invariant]:
        return []


def local(plan: BenchPlan, scenario: Scenario) -> Load:
    arrivals: Any = Closed()
    if plan.is_open:
        arrivals = parse_arrivals(
            plan.arrivals, rate=plan.rate, seed=plan.seed, duration_s=None, read_trace=str
        )
    duration = plan.duration_ns if plan.is_open else None
    supply = Supply(scenario.lines(), arrivals, events=plan.events, duration_ns=duration)
    return LocalLoad(supply, is_open=plan.is_open)


def offered(plan: BenchPlan, times: Callable[[int], float], concurrency: int = 1) -> Trial:
    """A trial on a clock of its own."""
    scenario = Waiting(times, concurrency)

    def make_load(plan: BenchPlan) -> Load:
        return local(plan, scenario)

    def trial() -> Any:
        return run_trial(plan, Silent(), make_load=make_load, scenario=scenario)

    return run_virtually(trial)


def plan(arrivals: str, rate: float | None, **more: Any) -> BenchPlan:
    return BenchPlan(
        scenario="waiting",
        settings={},
        seed=more.pop("seed", 1),
        arrivals=arrivals,
        rate=rate,
        events=more.pop("events", None),
        duration_ns=more.pop("duration_ns", None),
        warmup_ns=more.pop("warmup_ns", 0),
        options=RunOptions(order="none"),
        **more,
    )


SERVICE_S = 0.001
EVENTS = 20_000


def waits_s(trial: Trial) -> float:
    """The mean wait, by the engine's own figures: response without service."""
    service = trial.result["stages"][0]["service"]
    return float(trial.result["response"]["mean"] - service["mean"]) / 1e9


@pytest.mark.parametrize("utilisation", [0.5, 0.8])
@pytest.mark.parametrize("kind", ["constant", "exponential"])
def test_waits_are_those_of_pollaczek_and_khinchine(kind: str, utilisation: float) -> None:
    draw = random.Random(5)
    services = np.full(EVENTS, SERVICE_S)
    if kind == "exponential":
        services = np.array([draw.expovariate(1 / SERVICE_S) for _ in range(EVENTS)])
    rate = utilisation / SERVICE_S

    trial = offered(plan("poisson", rate, events=EVENTS, seed=11), services.__getitem__)

    # W = rate * E[S^2] / (2 * (1 - utilisation)); E[S^2] of an exponential S is 2 * E[S]^2.
    second_moment = SERVICE_S**2 * (2 if kind == "exponential" else 1)
    expected_s = rate * second_moment / (2 * (1 - utilisation))
    assert waits_s(trial) == pytest.approx(expected_s, rel=0.1)
    assert trial.result["slip"]["max"] <= 1000
    assert trial.result["invalid"] == []


def test_a_stall_shows_in_the_response_as_arithmetic_says_and_not_in_the_service() -> None:
    """One event in 10,000 takes a second; each that arrives meanwhile waits for its end."""
    stalled, gap_s, quick_s, count = 4000, 0.001, 0.0001, 10_000

    trial = offered(
        plan("constant", 1 / gap_s, events=count), lambda n: 1.0 if n == stalled else quick_s
    )

    free_s, responses = 0.0, []
    for n in range(count):  # Lindley's recursion
        free_s = max(free_s, n * gap_s) + (1.0 if n == stalled else quick_s)
        responses.append(free_s - n * gap_s)
    expected = np.sort(responses)
    response, service = trial.result["response"], trial.result["stages"][0]["service"]
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
        at = expected[round(share * count) - 1] * 1e9
        assert response[name] == pytest.approx(at, rel=0.002, abs=10_000)
    assert response["p99"] > 900 * MS
    assert service["p999"] < MS < 999 * MS < service["max"]


def test_the_parts_of_each_slow_event_add_up_to_its_response() -> None:
    trial = offered(plan("constant", 1000, events=3000), lambda n: 1.0 if n == 1000 else 0.0001)

    tail = trial.result["tail"]
    examples = tail["examples"]
    assert [sum(each["parts"].values()) for each in examples] == [
        each["response_ns"] for each in examples
    ]
    assert examples[0]["sequence"] == 1000
    assert examples[0]["parts"]["service wait"] == pytest.approx(1e9, rel=1e-6)
    assert tail["events"] == pytest.approx(30, abs=1)
    assert sum(tail["parts"].values()) == pytest.approx(tail["response_ns"], abs=10)


@pytest.mark.parametrize(("concurrency", "service_s"), [(1, 0.01), (4, 0.02), (10, 0.02)])
def test_the_search_finds_what_is_concurrency_by_service_time(
    concurrency: int, service_s: float
) -> None:
    capacity = concurrency / service_s

    def make(plan: BenchPlan) -> Trial:
        return offered(plan, lambda n: service_s, concurrency)

    asked = plan("constant", None, objectives=("response.p99 < 100ms",))
    asked = msgspec.structs.replace(asked, duration_ns=4000 * MS, rate=capacity * 0.7)

    found, best = find_max(asked, 0.02, make, lambda fact: None)

    assert found.search is not None and found.search.best is not None
    assert found.search.best == pytest.approx(capacity, rel=0.05)
    assert best is not None and best.verdict == "pass"


def test_a_warm_up_is_left_out_of_all_distributions() -> None:
    slow_s = 0.05

    trial = offered(
        plan("constant", 10, events=100, warmup_ns=5000 * MS),
        lambda n: slow_s if n < 50 else 0.001,
    )

    result = trial.result
    assert result["response"]["count"] == 50
    assert result["slip"]["count"] == 50
    assert result["response"]["max"] < 2 * MS
    assert result["stages"][0]["service"]["max"] < 2 * MS
    assert result["throughput"] == pytest.approx(10, rel=0.05)
    assert result["tail"]["all_events"] == 50


def test_a_closed_load_has_no_response_times() -> None:
    trial = offered(plan("closed", None, events=500), lambda n: 0.01, 5)

    assert trial.result["response"] is None and trial.result["slip"] is None
    assert trial.result["throughput"] == pytest.approx(500, rel=0.05)
