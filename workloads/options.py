"""The options of a benchmark, checked: a BenchPlan, or a PlanError that says what to change.

Pure. What a run and a benchmark share is declared, and checked, in engine/plan.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from millstream.engine.arrivals import ArrivalsError, parse_arrivals
from millstream.engine.conditions import Condition, parse_condition
from millstream.engine.order import Order
from millstream.engine.plan import PlanError, RunOptions
from millstream.engine.units import parse_duration, parse_share

from .scenario import ParameterValue, Scenario, parse_settings
from .search import LEAST_PRECISION

DEFAULT_DURATION: Final = "10s"
CLOSED_EVENTS: Final = 200_000
WARMUP_SHARE: Final = 0.1
MOST_WARMUP_NS: Final = 5_000_000_000
DEFAULT_SEED: Final = 1
TRIAL_DURATION: Final = "5s"
"""Of a search or a sweep, where many trials are made."""


class BenchOptions(
    RunOptions, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True
):
    """The options of a benchmark, as flags, in a file, or from Python. All have defaults."""

    order: Order | None = None  # type: ignore[assignment]  # None: the scenario's first one
    closed: bool = False
    arrivals: str = "constant"
    duration: str | None = None
    events: int | None = None
    warmup: str | None = None
    set: tuple[str, ...] = ()
    store: str | None = None
    objective: tuple[str, ...] = ()
    find_max: bool = False
    precision: str = "2%"
    sweep: str | None = None
    repeat: int = 1
    hdr: str | None = None
    runs: str | None = None
    list_runs: bool = False
    keep: str | None = None


NOT_FOR_BENCH: Final = (
    *("pace", "speed", "follow", "limit", "partitions", "output", "output_format", "dead_letter"),
    *("checkpoint", "resume", "checkpoint_every", "key", "sequence", "id", "type", "time"),
    *("format", "delimiter", "dedupe", "dedupe_window", "dry_run"),
)
"""Options of a run that a scenario decides for itself."""


class BenchPlan(msgspec.Struct, frozen=True):
    """What one trial offers to a scenario, with every question answered."""

    scenario: str
    """Its name, or its file."""
    settings: dict[str, ParameterValue]
    seed: int
    arrivals: str
    """As `--arrivals` has it; "closed": no schedule."""
    rate: float | None
    events: int | None
    duration_ns: int | None
    warmup_ns: int
    options: RunOptions
    """Of the run: what the scenario does not decide."""
    objectives: tuple[str, ...] = ()
    gives_up_after_s: float | None = None
    """The load ends when it is as far behind as so many seconds of its rate."""
    keep: str | None = None
    """Folder in which what a trial leaves is kept."""

    @property
    def is_open(self) -> bool:
        """Whether there is a schedule."""
        return self.arrivals != "closed"


def plan_bench(
    name: str, scenario: type[Scenario], options: BenchOptions, read_trace: Callable[[str], Any]
) -> BenchPlan:
    """What `options` come to for a trial of `scenario`. Raises PlanError, ScenarioError."""
    _check(scenario, options)
    arrivals, rate, events = options.arrivals, options.rate, options.events
    duration_ns = _duration(options)
    is_closed = options.closed or (rate is None and arrivals == "constant")
    if is_closed:
        arrivals, rate = "closed", None
        if events is None and duration_ns is None:
            events = CLOSED_EVENTS
    elif events is None and duration_ns is None and not arrivals.startswith("trace:"):
        duration_ns = parse_duration(DEFAULT_DURATION)
    if not is_closed:
        _check_arrivals(arrivals, rate, duration_ns, read_trace)
    elif options.objective and not _sets_rates(options):
        _refuse_schedule_objectives(options.objective)
    texts = list(options.set)
    if options.store is not None:
        texts.append(f"store={options.store}")
    return BenchPlan(
        scenario=name,
        settings=parse_settings(scenario, texts),
        seed=DEFAULT_SEED if options.seed is None else options.seed,
        arrivals=arrivals,
        rate=rate,
        events=events,
        duration_ns=duration_ns,
        warmup_ns=_warmup(options, rate, events, duration_ns),
        options=run_options(scenario, options),
        objectives=options.objective,
        keep=options.keep,
    )


def run_options(scenario: type[Scenario], options: BenchOptions) -> RunOptions:
    """Those of the run."""
    values = {name: getattr(options, name) for name in RunOptions.__struct_fields__}
    values["rate"] = None  # the load has the schedule, not the run
    values["order"] = options.order or scenario.orders[0]
    if values["seed"] is None:
        values["seed"] = DEFAULT_SEED
    return RunOptions(**values)


def _is_given(options: BenchOptions, name: str) -> bool:
    """Whether an option differs from its default."""
    default: Any = getattr(BenchOptions(), name)
    return bool(getattr(options, name) != default)


def _check(scenario: type[Scenario], options: BenchOptions) -> None:
    for name in NOT_FOR_BENCH:
        if _is_given(options, name):
            raise PlanError(
                f"--{name.replace('_', '-')} is not for a benchmark: the scenario decides that; "
                "leave it out"
            )
    if options.order is not None and options.order not in scenario.orders:
        raise PlanError(
            f"--order {options.order}: the scenario {scenario.name} keeps its promises under "
            f"{', '.join(scenario.orders)}"
        )
    if options.closed and options.rate is not None:
        raise PlanError("--closed has no schedule, and --rate is one; keep one of them")
    if options.closed and options.arrivals != "constant":
        raise PlanError("--closed has no schedule, and --arrivals is one; keep one of them")
    for name in ("events", "repeat"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise PlanError(f"--{name} is {value}; give it 1 or more")
    if options.rate is not None and not 0 < options.rate < math.inf:
        raise PlanError(f"--rate is {options.rate}; give it more than 0 events per second")
    precision_of(options)
    objectives_of(options.objective)
    _check_experiment(options)


def _check_experiment(options: BenchOptions) -> None:
    """Whether the trials that are asked for are those of one experiment."""
    if options.find_max and options.sweep is not None:
        raise PlanError("--find-max and --sweep are two experiments; keep one of them")
    if options.find_max and options.repeat > 1:
        raise PlanError("--find-max decides itself which trials it makes; leave out --repeat")
    has_many = options.find_max or options.sweep is not None or options.repeat > 1
    for name in ("keep", "record"):
        if has_many and getattr(options, name) is not None:
            raise PlanError(
                f"--{name} is for what one trial leaves; leave it out, or --find-max, --sweep and "
                "--repeat"
            )


def precision_of(options: BenchOptions) -> float:
    """How close a search is to come, as a share. Raises PlanError."""
    try:
        share = parse_share(options.precision)
    except ValueError as error:
        raise PlanError(f"--precision: {error}") from None
    if share < LEAST_PRECISION:
        raise PlanError(
            f"--precision is {options.precision}; give it {LEAST_PRECISION:.2%} or more"
        )
    return share


def objectives_of(texts: Sequence[str]) -> list[Condition]:
    """What has to be true. Raises ConditionError."""
    return [parse_condition(text, "--objective") for text in texts]


def _refuse_schedule_objectives(texts: Sequence[str]) -> None:
    for text, objective in zip(texts, objectives_of(texts), strict=True):
        if objective.figure.split(".", 1)[0] in ("response", "slip"):
            raise PlanError(
                f"--objective {text!r}: without a schedule there is no response time; give it "
                "--rate, or --find-max"
            )


def _sets_rates(options: BenchOptions) -> bool:
    """Whether an experiment gives its trials a schedule."""
    return options.find_max or (options.sweep or "").startswith("rate=")


def _duration(options: BenchOptions) -> int | None:
    if options.duration is None:
        return None
    try:
        value = parse_duration(options.duration)
    except ValueError as error:
        raise PlanError(f"--duration: {error}") from None
    if not value:
        raise PlanError("--duration is 0; give it more")
    return value


def _warmup(
    options: BenchOptions, rate: float | None, events: int | None, duration_ns: int | None
) -> int:
    """Asked for, or a share of what is expected."""
    length_ns = duration_ns
    if events is not None and rate is not None:
        by_events = int(events / rate * 1e9)
        length_ns = by_events if length_ns is None else min(length_ns, by_events)
    if options.warmup is None:
        return 0 if length_ns is None else min(int(length_ns * WARMUP_SHARE), MOST_WARMUP_NS)
    try:
        warmup_ns = parse_duration(options.warmup)
    except ValueError as error:
        raise PlanError(f"--warmup: {error}") from None
    if length_ns is not None and warmup_ns >= length_ns:
        raise PlanError(
            f"--warmup {options.warmup} leaves nothing to be measured of {length_ns / 1e9:g} s; "
            "give it less, or more --duration"
        )
    return warmup_ns


def _check_arrivals(
    arrivals: str,
    rate: float | None,
    duration_ns: int | None,
    read_trace: Callable[[str], Any],
) -> None:
    duration_s = None if duration_ns is None else duration_ns / 1e9
    try:
        parse_arrivals(arrivals, rate=rate, seed=0, duration_s=duration_s, read_trace=read_trace)
    except ArrivalsError as error:
        raise PlanError(str(error)) from None
