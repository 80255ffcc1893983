"""The options of a benchmark: what they come to, and what is refused, with what to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from millstream.engine.conditions import ConditionError
from millstream.engine.plan import PlanError
from millstream.workloads.options import (
    CLOSED_EVENTS,
    DEFAULT_SEED,
    MOST_WARMUP_NS,
    NOT_FOR_BENCH,
    BenchOptions,
    BenchPlan,
    plan_bench,
    precision_of,
)
from millstream.workloads.passthrough import Passthrough
from millstream.workloads.scenario import Parameter, Scenario

MS = 1_000_000
NS = 1_000_000_000


class Stored(Passthrough):
    """One that keeps something, under one order."""

    name = "stored"
    parameters = (*Passthrough.parameters, Parameter("store", "memory", "Where."))
    orders = ("global",)


def plan(scenario: type[Scenario] = Passthrough, **options: Any) -> BenchPlan:
    def read_trace(path: str) -> Sequence[int]:
        assert path == "FILE"
        return [1, 2, 5]

    return plan_bench("it", scenario, BenchOptions(**options), read_trace)


def refusal(scenario: type[Scenario] = Passthrough, **options: Any) -> str:
    with pytest.raises(PlanError) as error:
        plan(scenario, **options)
    return str(error.value)


# --- what they come to


def test_without_options_it_is_closed_with_so_many_events() -> None:
    made = plan()

    assert (made.arrivals, made.rate, made.events) == ("closed", None, CLOSED_EVENTS)
    assert (made.duration_ns, made.warmup_ns, made.is_open) == (None, 0, False)
    assert (made.scenario, made.seed, made.settings) == ("it", DEFAULT_SEED, {})
    assert made == plan(closed=True)


def test_a_closed_load_may_have_events_a_duration_or_both() -> None:
    assert plan(events=5).events == 5
    timed = plan(duration="3s")
    assert (timed.events, timed.duration_ns) == (None, 3 * NS)
    assert timed.warmup_ns == 300 * MS
    both = plan(closed=True, duration="3s", events=7)
    assert (both.events, both.duration_ns) == (7, 3 * NS)


def test_a_rate_makes_it_open_for_10_seconds() -> None:
    made = plan(rate=100.0)

    assert (made.arrivals, made.rate, made.is_open) == ("constant", 100.0, True)
    assert (made.events, made.duration_ns, made.warmup_ns) == (None, 10 * NS, NS)


def test_events_stand_in_for_a_duration() -> None:
    made = plan(rate=100.0, events=500)

    assert (made.events, made.duration_ns) == (500, None)
    assert made.warmup_ns == 500 * MS


def test_a_trace_has_its_own_times() -> None:
    made = plan(arrivals="trace:FILE")

    assert (made.arrivals, made.rate, made.is_open) == ("trace:FILE", None, True)
    assert (made.events, made.duration_ns, made.warmup_ns) == (None, None, 0)
    assert plan(arrivals="trace:FILE", rate=9.0).rate == 9.0


def test_a_ramp_without_a_duration_takes_the_default() -> None:
    assert plan(arrivals="ramp", rate=9.0).duration_ns == 10 * NS


@pytest.mark.parametrize(
    ("options", "warmup_ns"),
    [
        ({"rate": 10.0, "duration": "4s"}, 400 * MS),
        ({"rate": 10.0, "duration": "10min"}, MOST_WARMUP_NS),
        ({"rate": 10.0, "duration": "4s", "events": 20}, 200 * MS),
        ({"rate": 10.0, "duration": "1s", "events": 20}, 100 * MS),
        ({"rate": 10.0, "duration": "4s", "warmup": "0s"}, 0),
        ({"rate": 10.0, "duration": "4s", "warmup": "3999ms"}, 3999 * MS),
        ({"arrivals": "trace:FILE", "warmup": "1h"}, 3600 * NS),
        ({"events": 10, "warmup": "2s"}, 2 * NS),
    ],
)
def test_the_warm_up_is_a_tenth_and_5_seconds_at_most_unless_told(
    options: dict[str, Any], warmup_ns: int
) -> None:
    assert plan(**options).warmup_ns == warmup_ns


def test_what_is_set_is_the_scenarios() -> None:
    made = plan(Stored, set=("keys=5", "payload=1_000"), store="postgresql://here")

    assert made.settings == {"keys": 5, "payload": 1000, "store": "postgresql://here"}


def test_the_run_has_what_the_scenario_does_not_decide() -> None:
    made = plan(
        rate=5.0, workers=3, executor="process", attempts=2, inject=("error:1%",), seed=9, name="n"
    )

    assert made.options.rate is None, "the load has the schedule"
    assert (made.options.workers, made.options.executor, made.options.attempts) == (3, "process", 2)
    assert (made.options.inject, made.options.seed, made.options.name) == (("error:1%",), 9, "n")
    assert made.seed == 9


def test_the_order_is_the_scenarios_first_unless_told() -> None:
    assert plan().options.order == "key"
    assert plan(order="none").options.order == "none"
    assert plan(Stored).options.order == "global"
    assert plan(Stored, order="global").options.order == "global"


def test_objectives_are_kept_as_they_were_written() -> None:
    texts = ("response.p99 < 50ms", "throughput > 5")

    assert plan(rate=5.0, objective=texts).objectives == texts
    assert plan(objective=texts, find_max=True).objectives == texts
    assert plan(objective=texts, sweep="rate=1,2").objectives == texts
    assert plan(objective=("throughput > 5", "service.p99 < 1ms")).objectives


# --- what is refused

OTHER_VALUES: dict[str, Any] = {
    **{"pace": "time", "speed": 2.0, "follow": True, "limit": 5, "partitions": True},
    **{"output": "x", "output_format": "csv", "dead_letter": "x", "checkpoint": "x"},
    **{"resume": True, "checkpoint_every": "2s", "format": "csv", "delimiter": ";"},
    **{"dedupe": True, "dedupe_window": 5, "dry_run": True},
    **dict.fromkeys(("key", "sequence", "id", "type", "time"), "a.b"),
}


def test_all_that_is_not_for_a_benchmark_is_tried() -> None:
    assert set(OTHER_VALUES) == set(NOT_FOR_BENCH)


@pytest.mark.parametrize("name", NOT_FOR_BENCH)
def test_what_the_scenario_decides_is_refused(name: str) -> None:
    flag = "--" + name.replace("_", "-")

    assert refusal(**{name: OTHER_VALUES[name]}) == (
        f"{flag} is not for a benchmark: the scenario decides that; leave it out"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"closed": True, "rate": 5.0}, "--closed has no schedule, and --rate is one"),
        ({"closed": True, "arrivals": "poisson"}, "--closed has no schedule, and --arrivals is"),
        ({"events": 0}, "--events is 0; give it 1 or more"),
        ({"events": -5}, "--events is -5; give it 1 or more"),
        ({"repeat": 0}, "--repeat is 0; give it 1 or more"),
        ({"rate": 0.0}, "--rate is 0.0; give it more than 0"),
        ({"rate": -1.0}, "--rate is -1.0; give it more than 0"),
        ({"rate": float("nan")}, "--rate is nan; give it more than 0"),
        ({"rate": float("inf")}, "--rate is inf; give it more than 0"),
        ({"precision": "x"}, "--precision: 'x' is no share; write it like 5%"),
        ({"precision": "0%"}, "--precision: '0%' is no share"),
        ({"precision": "0.001%"}, "--precision is 0.001%; give it 0.01% or more"),
        ({"duration": "soon"}, "--duration: 'soon' is not a duration"),
        ({"duration": "0s"}, "--duration is 0; give it more"),
        ({"rate": 5.0, "warmup": "x"}, "--warmup: 'x' is not a duration"),
        ({"rate": 5.0, "duration": "2s", "warmup": "2s"}, "--warmup 2s leaves nothing"),
        ({"rate": 5.0, "events": 5, "warmup": "1s"}, "--warmup 1s leaves nothing"),
        ({"duration": "2s", "warmup": "3s"}, "--warmup 3s leaves nothing"),
        ({"rate": 5.0, "arrivals": "often"}, "--arrivals is 'often'; it can be constant, "),
        ({"rate": 5.0, "arrivals": "closed"}, "--arrivals is 'closed'; it can be constant, "),
        ({"arrivals": "closed"}, "--arrivals is 'closed'; it can be constant, "),
        ({"arrivals": "often"}, "--arrivals is 'often'; it can be constant, "),
        ({"arrivals": "poisson"}, "--arrivals poisson needs a rate; give it one: --rate 1000"),
        (
            {"arrivals": "poisson", "find_max": True},
            "--arrivals poisson needs a rate; give it one: --rate 1000",
        ),
        ({"rate": 5.0, "arrivals": "ramp", "events": 5}, "--arrivals ramp needs to know how long"),
        (
            {"objective": ("response.p99 < 5ms",)},
            "--objective 'response.p99 < 5ms': without a schedule there is no response time",
        ),
        (
            {"objective": ("throughput > 1", "slip.p99 < 5ms"), "sweep": "workers=1,2"},
            "--objective 'slip.p99 < 5ms': without a schedule",
        ),
        ({"find_max": True, "sweep": "keys=1,2"}, "--find-max and --sweep are two experiments"),
        ({"find_max": True, "repeat": 3}, "--find-max decides itself which trials it makes"),
        ({"find_max": True, "keep": "x"}, "--keep is for what one trial leaves"),
        ({"sweep": "keys=1,2", "keep": "x"}, "--keep is for what one trial leaves"),
        ({"repeat": 2, "keep": "x"}, "--keep is for what one trial leaves"),
        ({"set": ("keys",)}, "--set 'keys' can't be understood; write it like NAME=VALUE"),
        ({"set": ("kees=5",)}, "did you mean 'keys'?"),
        ({"set": ("keys=many",)}, "--set keys=many: give it a whole number"),
        ({"set": ("keys=0",)}, "--set keys=0: give it 1 or more"),
        ({"store": "redis://x"}, "--set store: the scenario passthrough has no such parameter"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_change(
    options: dict[str, Any], message: str
) -> None:
    assert message in refusal(**options)


def test_an_order_that_breaks_the_promises_is_refused() -> None:
    assert refusal(Stored, order="none") == (
        "--order none: the scenario stored keeps its promises under global"
    )


@pytest.mark.parametrize("text", ["response.p98 < 5ms", "p99 < 5", "response.p99 < 5%", ""])
def test_an_objective_that_can_not_be_understood_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConditionError, match=r"^--objective "):
        plan(rate=5.0, objective=(text,))


def test_the_precision_is_a_share() -> None:
    assert precision_of(BenchOptions()) == 0.02
    assert precision_of(BenchOptions(precision="0.5%")) == 0.005


def test_every_option_has_a_default_and_a_name_as_a_flag() -> None:
    assert msgspec.convert({}, BenchOptions) == BenchOptions()
    assert msgspec.convert({"find-max": True}, BenchOptions).find_max
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"find_max": True}, BenchOptions)
