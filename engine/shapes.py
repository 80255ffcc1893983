"""What a result and an audit must look like for reports to be made of them.

Files come from anywhere, so their types are checked before anything is shown: each key that is read
stands here, more may stand beside it. Keys that early versions did not write have defaults.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from .histogram_codec import decoded

_MOST_SWEPT: Final = 1e12

Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]
Parts = Annotated[dict[str, int], Meta(min_length=1)]
"""What a time was spent on, in ns."""
Verdict = Literal["pass", "fail", "invalid"]


class Distribution(Struct):
    """Times in ns."""

    count: Count
    min: Count
    mean: Count
    p50: Count
    p90: Count
    p99: Count
    p999: Count
    max: Count


class Stage(Struct):
    name: str
    executor: str
    workers: Count
    concurrency: Count
    handled: Count
    queue_wait: Distribution | None
    service: Distribution | None


class Counts(Struct):
    read: Count
    handled: Count
    filtered: Count
    emitted: Count
    retried: Count
    dead_lettered: Count
    deduplicated: Count = 0


class Delivery(Struct):
    lost: Count
    duplicated: Count
    unexpected: Count
    recovered: Count


class Resources(Struct):
    cpu_ns: Count
    rss_peak: Count
    loop_lag_p99: Count


class Series(Struct):
    interval_ns: AtLeastOne
    throughput: list[Amount]
    response_p50: list[Amount | None]
    response_p99: list[Amount | None]
    backlog: list[Amount]
    rss: list[Amount]
    cpu: list[Amount]
    offered: list[Amount] = []
    response_p90: list[Amount | None] = []
    response_p999: list[Amount | None] = []
    response_max: list[Amount | None] = []
    loop_lag: list[Amount | None] = []
    response_buckets: list[list[Count] | None] = []


class Extent(Struct):
    max: Count
    counts: dict[str, Count]


class Density(Struct):
    threshold: Count
    counts: dict[str, Count] | None


class LateTime(Struct):
    max: float | None
    mean: float | None

    def __post_init__(self) -> None:
        if (self.max is None) != (self.mean is None):
            raise ValueError("max and mean are known both, or neither")


class FreeRuns(Struct):
    reordered: Count
    accepted: Count
    arrivals: Count
    q: Count


class Discontinuities(Struct):
    count: Count | None
    missing: Count | None


class After(Struct):
    sequence: Any = None
    source: str | None = None
    line: int | None = None


class Example(Struct):
    kind: str
    place: str | None = None
    key: str | int | None = None
    sequence: Any = None
    id: Any = None
    extent: Count = 0
    source: str | None = None
    line: int | None = None
    after: After | None = None


class Place(Struct):
    place: str


class Figures(Struct, kw_only=True):
    """The figures of an audit."""

    scope: Literal["global", "key"]
    events: Count
    keys: Count | None
    reordered: Count
    reordered_ratio: Annotated[float, Meta(ge=0, le=1)]
    duplicates: Count
    discontinuities: Discontinuities
    extent: Extent
    late_time: LateTime
    n_reordering: dict[str, float]
    free_runs: FreeRuns
    gaps: Extent
    reorder_density: Density
    buffer_occupancy: Density
    window: Count | None
    unknown: Count
    late_unknown: Count
    examples: list[Example]


class AuditOfRun(Figures, kw_only=True):
    overlaps: Count = 0
    places: list[Place]


class Ordering(Struct):
    order: Literal["none", "key", "partition", "global"]
    violations: Count
    audit: AuditOfRun


class Condition(Struct):
    text: str
    observed: float | None
    held: bool


class Invariant(Struct):
    name: str
    held: bool
    detail: Any


class Objective(Struct):
    text: str
    observed: float | None
    met: bool


class Fault(Struct):
    text: str
    fired: Count
    first_ns: int | None
    last_ns: int | None
    windows: list[tuple[int, int]]
    violations: Count


class Replay(Struct):
    letters: Count
    replayed_before: Count
    succeeded: Count
    failed_again: Count
    left: Count


class Reason(Struct):
    stage: str
    error: str
    message: str
    source: str
    line: Count
    count: Count


class DeadLetters(Struct):
    reasons: list[Reason]
    others: Count


class StageHistograms(Struct):
    queue_wait: str | None
    service: str | None


class Histograms(Struct):
    response: str | None
    slip: str | None
    stages: list[StageHistograms]


class Host(Struct):
    cpus: int | None
    python: str
    platform: str


class Result(Struct, kw_only=True):
    """A result of `run` or `replay`."""

    command: Literal["run", "replay", "bench"]
    name: str
    version: str
    started_at: str
    options: dict[str, Any]
    seed: int | None
    host: Host
    exit_code: Count
    verdict: Verdict
    counts: Counts
    duration_ns: AtLeastOne
    throughput: Amount
    bytes_read: Count
    response: Distribution | None
    slip: Distribution | None
    stages: list[Stage]
    ordering: Ordering
    delivery: Delivery
    resources: Resources
    series: Series
    conditions: list[Condition]
    invariants: list[Invariant]
    inputs: list[str] = []
    output: str | None = None
    dead_letter_file: str | None = None
    argv: list[str] | None = None
    dead_letters: DeadLetters | UnsetType = UNSET
    histograms: Histograms | UnsetType = UNSET
    replay: Replay | UnsetType = UNSET
    faults: list[Fault] = []
    unattributed: Count = 0


class Load(Struct, kw_only=True):
    open: bool
    arrivals: str
    rate: float | None
    offered: Amount
    released: Count
    taken: Count
    dropped: Count
    warmup_ns: Count
    elapsed_ns: Count


class Steady(Struct):
    steady: bool
    why: str
    backlog_slope: float | None


class TailExample(Struct):
    sequence: Count
    at_ns: Count
    response_ns: Count
    parts: Parts


class Tail(Struct):
    events: Count
    from_ns: Count
    response_ns: Count
    parts: Parts
    all_events: Count
    all_response_ns: Count
    all_parts: Parts
    examples: list[TailExample]


class Recovery(Struct):
    fault: str
    at_ns: Count
    recovered_ns: int | None
    response_bound_ns: Count
    backlog_bound: Count


class FactResponse(Struct):
    p50: Count
    p99: Count


class Fact(Struct):
    value: str
    repeat: Count
    verdict: Verdict
    throughput: Amount
    offered: Amount
    response: FactResponse | None
    service_ns: Count
    steady: bool
    violations: Count
    exit_code: Count
    invalid: list[str]
    read: Count = 0
    dead_lettered: Count = 0
    cpu_ns: Count = 0
    rss_peak: Count = 0


class HottestKey(Struct):
    key: str
    events: AtLeastOne
    of: AtLeastOne


class Search(Struct):
    best: float | None
    upper: float | None
    limited_by: str
    upper_verdict: Verdict | None


def _check_number(parameter: str, value: str) -> None:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < _MOST_SWEPT:
        raise ValueError(f"{value!r} is no number of {parameter}")


class Experiment(Struct):
    kind: Literal["repeat", "sweep", "search"]
    parameter: str | None
    facts: list[Fact]
    hottest_key: HottestKey | None
    search: Search | None
    said: str

    def __post_init__(self) -> None:
        if self.parameter in ("workers", "concurrency", "rate"):
            for fact in self.facts:
                _check_number(self.parameter, fact.value)


class ScenarioOfBench(Struct):
    name: str
    settings: dict[str, Any]


class BenchResult(Result, kw_only=True):
    """A result of `bench`."""

    scenario: ScenarioOfBench
    load: Load
    steady: Steady
    tail: Tail | None
    objectives: list[Objective]
    invalid: list[str]
    recovery: list[Recovery] = []
    experiment: Experiment | UnsetType = UNSET


class BlockingKey(Struct):
    key: Any
    held_up: Count
    waited_ns: Count


class BlockingEvent(Struct):
    sequence: Any
    held_up: Count
    waited_ns: Count


class Price(Struct):
    events: Count
    waited: Count
    p50_ns: Count
    p99_ns: Count
    max_ns: Count
    buffer: Count
    buffer_max: Count
    blocking_keys: list[BlockingKey]
    blocking_events: list[BlockingEvent]


class AuditReport(Figures, kw_only=True):
    """What `audit --json` writes."""

    inputs: list[str]
    malformed: Count
    delivery: Delivery | None = None
    price: dict[str, Price] | None = None


def check_result(data: Any) -> None:
    """Raises msgspec.ValidationError, with the place, for what is no result."""
    is_bench = isinstance(data, dict) and data.get("command") == "bench"
    checked = msgspec.convert(data, BenchResult if is_bench else Result)
    if checked.histograms is not UNSET:
        _check_histograms(checked.histograms)


def _check_histograms(histograms: Histograms) -> None:
    texts = {"response": histograms.response, "slip": histograms.slip}
    for number, stage in enumerate(histograms.stages):
        texts[f"stages[{number}].queue_wait"] = stage.queue_wait
        texts[f"stages[{number}].service"] = stage.service
    for place, text in texts.items():
        try:
            if text is not None:
                decoded(text)
        except ValueError as error:
            raise msgspec.ValidationError(f"{error} - at `$.histograms.{place}`") from None


def check_audit(data: Any) -> None:
    """Raises msgspec.ValidationError, with the place, for what is no audit's report."""
    msgspec.convert(data, AuditReport)
