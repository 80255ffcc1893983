"""Experiments of many trials: repeats, sweeps, the price of order, the search for the highest rate.

They decide which trials are made, in which order, and keep the facts of each; what these come to is
derived in reports/. Who makes a trial is handed in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from millstream.engine.addresses import without_credentials
from millstream.engine.event import FieldMapping, decode_json, lookup_attribute
from millstream.engine.plan import PlanError
from millstream.engine.result import FROM_SIGNALS
from millstream.engine.units import parse_duration

from .options import CLOSED_EVENTS, TRIAL_DURATION, BenchPlan
from .registry import scenario_class
from .scenario import Scenario, ScenarioError, parse_settings, stream
from .search import RateSearch, SearchOutcome
from .trial import Trial
from .verdict import TrialVerdict

MakeTrial = Callable[[BenchPlan], Trial]
OnTrial = Callable[["Fact"], None]

SWEPT_OPTIONS: Final = ("workers", "concurrency", "rate", "order")
GIVES_UP_AFTER_S: Final = 2.0
LEAST_WARMUP_NS: Final = 500_000_000
LEAST_RATE: Final = 1.0
MOST_RATE: Final = 1e9
"""A search begins between them."""
SEARCH_SHARE: Final = 0.7
"""Of what the system does without a schedule, where the search begins."""


class Fact(Struct, frozen=True):
    """One trial of an experiment: what it was asked, and what came of it."""

    value: str
    """Of the parameter that is swept; the rate, in a search; else empty."""
    repeat: int
    verdict: TrialVerdict
    throughput: float
    offered: float
    response: dict[str, int] | None
    service_ns: int
    """Mean, over all stages: what an event takes."""
    steady: bool
    violations: int
    exit_code: int
    invalid: list[str]
    read: int
    dead_lettered: int
    cpu_ns: int
    rss_peak: int


class Experiment(Struct, frozen=True):
    """All trials of an experiment, in the order in which they were made."""

    kind: str
    """repeat, sweep, or search."""
    parameter: str | None
    facts: list[Fact]
    hottest_key: HottestKey | None = None
    search: SearchOutcome | None = None
    said: str = ""
    """What a search has found, in words."""


class HottestKey(Struct, frozen=True):
    """What the most frequent key of a stream leaves to be done side by side, in order by key."""

    key: str
    events: int
    """So many of them have that key,"""
    of: int
    """of so many."""


def fact_of(trial: Trial, value: str = "", repeat: int = 0) -> Fact:
    """What an experiment keeps of a trial."""
    data = trial.result.data
    services = [stage["service"]["mean"] for stage in data["stages"] if stage["service"]]
    return Fact(
        value=value,
        repeat=repeat,
        verdict=trial.verdict,
        throughput=data["throughput"],
        offered=data["load"]["offered"],
        response=data["response"],
        service_ns=sum(services),
        steady=data["steady"]["steady"] or data["steady"]["backlog_slope"] is None,
        violations=data["ordering"]["violations"],
        exit_code=data["exit_code"],
        invalid=list(data["invalid"]),
        read=data["counts"]["read"],
        dead_lettered=data["counts"]["dead_lettered"],
        cpu_ns=data["resources"]["cpu_ns"],
        rss_peak=data["resources"]["rss_peak"],
    )


def repeated(
    plans: Sequence[tuple[str, BenchPlan]], repeat: int, make: MakeTrial, on_trial: OnTrial
) -> tuple[list[Fact], list[Trial]]:
    """Each plan so often, in turn: A B A B, so that slow moments meet all alike."""
    facts: list[Fact] = []
    trials: list[Trial] = []
    for turn in range(repeat):
        for value, plan in plans:
            trial = make(plan)
            fact = fact_of(trial, value, turn)
            facts.append(fact)
            trials.append(trial)
            on_trial(fact)
            if fact.exit_code >= FROM_SIGNALS:
                return facts, trials
    return facts, trials


def sweep(
    plan: BenchPlan, text: str, repeat: int, make: MakeTrial, on_trial: OnTrial
) -> tuple[Experiment, list[Trial]]:
    """A trial for each value of a parameter, `NAME=VALUE,VALUE…`. Raises PlanError."""
    name, values = parse_sweep(plan, text)
    plans = [(without_credentials(value), swept(plan, name, value)) for value in values]
    facts, trials = repeated(plans, repeat, make, on_trial)
    hottest = hottest_key(plan) if name == "order" else None
    return Experiment("sweep", name, facts, hottest_key=hottest), trials


def parse_sweep(plan: BenchPlan, text: str) -> tuple[str, list[str]]:
    """The parameter, and its values. Raises PlanError."""
    name, mark, rest = text.partition("=")
    values = [value.strip() for value in rest.split(",") if value.strip()]
    if not mark or not values:
        raise PlanError(f"--sweep is {text!r}; write it like workers=1,2,4")
    scenario = scenario_class(plan.scenario)
    if name == "order" and values == ["all"]:
        return name, list(scenario.orders)
    known = [*SWEPT_OPTIONS, *(each.name for each in scenario.parameters)]
    if name not in known:
        raise PlanError(f"--sweep {text}: it can sweep {', '.join(known)}, not {name!r}")
    if len(set(values)) < len(values):
        raise PlanError(f"--sweep {text}: a value stands there twice; repeat trials by --repeat")
    for value in values:
        swept(plan, name, value)
    return name, values


def swept(plan: BenchPlan, name: str, value: str) -> BenchPlan:
    """The plan with another value of a parameter. Raises PlanError."""
    flag = f"--sweep {name}={value}"
    if name == "rate":
        return at_rate(plan, _positive(flag, value))
    if name in ("workers", "concurrency"):
        count = int(_positive(flag, value, whole=True))
        changed: dict[str, Any] = {name: count}
        if name == "workers" and plan.options.executor == "auto":
            changed["executor"] = "process"  # also for one: else it would run in the loop
        return _with_options(plan, **changed)
    if name == "order":
        scenario = scenario_class(plan.scenario)
        if value not in scenario.orders:
            raise PlanError(
                f"{flag}: the scenario {scenario.name} keeps its promises under "
                f"{', '.join(scenario.orders)}"
            )
        return _with_options(plan, order=value)
    try:
        settings = parse_settings(scenario_class(plan.scenario), [f"{name}={value}"])
    except ScenarioError as error:
        raise PlanError(str(error).replace("--set", "--sweep", 1)) from None
    return msgspec.structs.replace(plan, settings={**plan.settings, **settings})


def _with_options(plan: BenchPlan, **changed: Any) -> BenchPlan:
    return msgspec.structs.replace(plan, options=msgspec.structs.replace(plan.options, **changed))


def _positive(flag: str, text: str, *, whole: bool = False) -> float:
    try:
        value = int(text.replace("_", "")) if whole else float(text.replace("_", ""))
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise PlanError(f"{flag}: give it {'a whole number' if whole else 'a number'} above 0")
    return value


def at_rate(plan: BenchPlan, rate: float) -> BenchPlan:
    """The plan as a short trial at a rate, which ends early when that is far too much."""
    arrivals = plan.arrivals if plan.is_open else "constant"
    duration_ns = plan.duration_ns or parse_duration(TRIAL_DURATION)
    warmup_ns = plan.warmup_ns or max(LEAST_WARMUP_NS, duration_ns // 10)
    return msgspec.structs.replace(
        plan,
        arrivals=arrivals,
        rate=rate,
        events=None,
        duration_ns=duration_ns,
        warmup_ns=min(warmup_ns, duration_ns // 2),
        gives_up_after_s=GIVES_UP_AFTER_S,
    )


def without_schedule(plan: BenchPlan) -> BenchPlan:
    """The plan as fast as the system can, for an estimate.

    It lasts a time, not a number of events: a fast system would be done within the warm-up.
    """
    return msgspec.structs.replace(
        plan,
        arrivals="closed",
        rate=None,
        events=None,
        duration_ns=parse_duration("2s"),
        warmup_ns=LEAST_WARMUP_NS // 2,
        objectives=(),
    )


def find_max(
    plan: BenchPlan, precision: float, make: MakeTrial, on_trial: OnTrial
) -> tuple[Experiment, Trial | None]:
    """The highest rate that is sustained, and the trial that showed it; None: there is none."""
    estimate = plan.rate
    facts: list[Fact] = []
    if estimate is None:
        first = make(without_schedule(plan))
        if first.result.exit_code >= FROM_SIGNALS:
            facts.append(fact_of(first, "closed"))
            nothing = RateSearch(precision).outcome()
            return Experiment("search", "rate", facts, search=nothing, said=nothing.words), None
        estimate = SEARCH_SHARE * first.result["throughput"]
    search = RateSearch(precision, start=min(max(LEAST_RATE, estimate), MOST_RATE))
    best: Trial | None = None
    while (rate := search.next_rate()) is not None:
        trial = make(at_rate(plan, rate))
        fact = fact_of(trial, f"{rate:g}", len(facts))
        facts.append(fact)
        on_trial(fact)
        if fact.exit_code >= FROM_SIGNALS:
            break
        search.tell(rate, trial.verdict)
        if trial.verdict == "pass" and rate == search.outcome().best:
            best = trial
    found = search.outcome()
    return Experiment("search", "rate", facts, search=found, said=found.words), best


def hottest_key(plan: BenchPlan, most: int = CLOSED_EVENTS) -> HottestKey | None:
    """The most frequent key among the first events of a plan's stream; None: they have none."""
    scenario: Scenario = scenario_class(plan.scenario)(plan.settings, plan.seed)
    count = min(plan.events or most, most)
    paths = FieldMapping.of().paths["key"]
    keys = Counter(lookup_attribute(decode_json(line), paths) for line in stream(scenario, count))
    of = keys.total()
    del keys[None]  # those without a key wait for nobody
    if not keys:
        return None
    key, events = keys.most_common(1)[0]
    return HottestKey(str(key), events, of)
