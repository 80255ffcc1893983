"""A run under way as Prometheus has it: names after OpenTelemetry's messaging conventions.

Pure but for the collector, which is handed the latest details and told of each scrape by the
library. Counters go on rising from one run of a benchmark to the next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from millstream.engine.counted import Counted
from millstream.engine.event import printable
from millstream.engine.observer import Details, StageDetails

SYSTEM: Final = "millstream"
OTHER: Final = "_OTHER"
"""The type of error of those that are not told apart, as OpenTelemetry has it."""
BOUNDS_NS: Final = (
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 75_000_000),
    *(100_000_000, 250_000_000, 500_000_000, 750_000_000),
    *(1_000_000_000, 2_500_000_000, 5_000_000_000, 7_500_000_000, 10_000_000_000),
)
"""Upper bounds of buckets: those that OpenTelemetry asks for from 5 ms to 10 s, and finer ones."""

_RECEIVE, _SEND, _PROCESS = (
    {"messaging_system": SYSTEM, "messaging_operation_name": name}
    for name in ("receive", "send", "process")
)
_GROUP: Final = "messaging_consumer_group_name"

Labels = tuple[str, ...]


class About(Struct, frozen=True):
    """One metric."""

    name: str
    """Without the ending that its kind adds."""
    kind: str
    """counter, gauge or histogram."""
    help: str
    labels: tuple[str, ...] = ()
    fixed: Mapping[str, str] = {}
    """Labels that are the same for all its series."""

    @property
    def full_name(self) -> str:
        """As a scrape has it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


METRICS: Final = (
    About("messaging_client_consumed_messages", "counter", "Events read.", fixed=_RECEIVE),
    About("messaging_client_sent_messages", "counter", "Results written.", fixed=_SEND),
    About(
        *("messaging_process_duration_seconds", "histogram"),
        "How long a stage's handler took for an event, retries included.",
        (_GROUP,),
        _PROCESS,
    ),
    About("millstream_runs", "counter", "Runs begun: a benchmark may be of several."),
    About("millstream_events_handled", "counter", "Events handled, those filtered out included."),
    About("millstream_events_filtered", "counter", "Events that gave no result."),
    About("millstream_events_deduplicated", "counter", "Events filtered out as duplicates."),
    About("millstream_events_offered", "counter", "Events that the load has released."),
    About(
        *("millstream_dead_letters", "counter"),
        "Events that became dead letters.",
        ("stage", "error_type"),
    ),
    About("millstream_retries", "counter", "Attempts made again.", ("stage",)),
    About("millstream_stage_handled", "counter", "Events that a stage has handled.", ("stage",)),
    About("millstream_order_violations", "counter", "Promises of order that did not hold."),
    About("millstream_duplicates", "counter", "Events that came out twice."),
    About("millstream_read_bytes", "counter", "Bytes read of the input."),
    About("millstream_cpu_seconds", "counter", "Processor time, worker processes included."),
    About(
        *("millstream_response_time_seconds", "histogram"),
        "From when an event was due until its results were written.",
    ),
    About(
        *("millstream_queue_wait_seconds", "histogram"),
        "How long events waited for a stage.",
        ("stage",),
    ),
    About("millstream_loop_lag_seconds", "histogram", "How late the event loop was."),
    About("millstream_backlog_events", "gauge", "Events that have arrived and are not done."),
    About(
        *("millstream_stage_waiting_events", "gauge"), "Events on their way to a stage.", ("stage",)
    ),
    About(
        *("millstream_stage_in_flight_events", "gauge"),
        "Events in the hands of a stage.",
        ("stage",),
    ),
    About(
        *("millstream_stage_workers", "gauge"),
        "Worker processes of a stage that are alive.",
        ("stage",),
    ),
    About(
        *("millstream_resident_memory_bytes", "gauge"),
        "Resident memory, worker processes included.",
    ),
)
"""All that is exported, beside `millstream_build_info`."""

_OF = {each.name: each for each in METRICS}


class Figures:
    """Values of metrics by name and labels, at a moment."""

    def __init__(self) -> None:
        self.numbers: dict[str, dict[Labels, float]] = {}
        self.histograms: dict[str, dict[Labels, Counted]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Two stages of one name are one."""
        series = self.numbers.setdefault(name, {})
        key = tuple(str(printable(label)) for label in labels)
        series[key] = series.get(key, 0) + value

    def add_histogram(self, name: str, counted: Counted, *labels: str) -> None:
        series = self.histograms.setdefault(name, {})
        key = tuple(str(printable(label)) for label in labels)
        series[key] = series[key].plus(counted) if key in series else counted

    def rise_from(self, before: Figures) -> None:
        """Count on from what earlier runs came to; gauges are of this run alone."""
        for name, series in before.numbers.items():
            if _OF[name].kind == "counter":
                for labels, value in series.items():
                    self.add(name, value, *labels)
        for name, histograms in before.histograms.items():
            for labels, counted in histograms.items():
                self.add_histogram(name, counted, *labels)

    def families(self) -> Iterator[Metric]:
        """What is scraped."""
        for about in METRICS:
            if about.kind == "histogram":
                yield _histogram(about, self.histograms.get(about.name, {}))
            else:
                yield _numbers(about, self.numbers.get(about.name, {}))


def figures_of(details: Details) -> Figures:
    """The metrics of one run."""
    found, counts = Figures(), details.counts
    for name, value in (
        ("messaging_client_consumed_messages", counts["read"]),
        ("messaging_client_sent_messages", counts["emitted"]),
        ("millstream_runs", 1),
        ("millstream_events_handled", counts["handled"]),
        ("millstream_events_filtered", counts["filtered"]),
        ("millstream_order_violations", details.violations),
        ("millstream_duplicates", details.duplicated),
        ("millstream_read_bytes", details.bytes_read),
        ("millstream_cpu_seconds", details.cpu_ns / 1e9),
        ("millstream_backlog_events", details.backlog),
        ("millstream_resident_memory_bytes", details.rss),
    ):
        found.add(name, value)
    if details.offered is not None:
        found.add("millstream_events_offered", details.offered)
    if "deduplicated" in counts:
        found.add("millstream_events_deduplicated", counts["deduplicated"])
    if details.response is not None:
        found.add_histogram("millstream_response_time_seconds", details.response)
    found.add_histogram("millstream_loop_lag_seconds", details.loop_lag)
    for stage in details.stages:
        _add_stage(found, stage)
    for each in details.deaths:
        found.add("millstream_dead_letters", each.count, each.stage, each.error)
    others = counts["dead_lettered"] - sum(each.count for each in details.deaths)
    if others > 0:
        found.add("millstream_dead_letters", others, OTHER, OTHER)
    return found


def _add_stage(found: Figures, stage: StageDetails) -> None:
    for name, value in (
        ("millstream_stage_handled", stage.handled),
        ("millstream_retries", stage.retried),
        ("millstream_stage_waiting_events", stage.waiting),
        ("millstream_stage_in_flight_events", stage.in_flight),
        ("millstream_stage_workers", stage.alive),
    ):
        found.add(name, value, stage.name)
    found.add_histogram("messaging_process_duration_seconds", stage.service, stage.name)
    found.add_histogram("millstream_queue_wait_seconds", stage.queue_wait, stage.name)


def _numbers(about: About, series: Mapping[Labels, float]) -> Metric:
    make = CounterMetricFamily if about.kind == "counter" else GaugeMetricFamily
    family = make(about.name, about.help, labels=[*about.fixed, *about.labels])
    for labels, value in series.items():
        family.add_metric([*about.fixed.values(), *labels], value)
    return family


def _histogram(about: About, series: Mapping[Labels, Counted]) -> Metric:
    family = HistogramMetricFamily(about.name, about.help, labels=[*about.fixed, *about.labels])
    for labels, counted in series.items():
        family.add_metric(
            [*about.fixed.values(), *labels], list(buckets_of(counted)), counted.sum / 1e9
        )
    return family


def buckets_of(counted: Counted) -> Iterator[tuple[str, int]]:
    """Each upper bound in seconds, and how many values are at most that."""
    for bound, count in zip(BOUNDS_NS, counted.at_most(BOUNDS_NS), strict=True):
        yield repr(bound / 1e9), count
    yield "+Inf", counted.count


class RunCollector(Collector):
    """What a scrape finds of the latest details; before there are any, none but the build's."""

    def __init__(self, build: Mapping[str, str]) -> None:
        """`build`: the labels of millstream_build_info."""
        self._build = dict(build)
        self._latest: Details | None = None
        self._before = Figures()
        self._lock = threading.Lock()

    def tell(self, details: Details) -> None:
        """How the run stands; of another run than before, all counts go on from where they were."""
        with self._lock:
            latest = self._latest
            if latest is not None and latest.run != details.run:
                self._before = self._risen(latest)
            self._latest = details

    def _risen(self, details: Details) -> Figures:
        found = figures_of(details)
        found.rise_from(self._before)
        return found

    def collect(self) -> Iterable[Metric]:
        """All metrics, in the order of METRICS. Called by the threads that serve scrapes."""
        with self._lock:
            latest, before = self._latest, self._before
        info: Any = InfoMetricFamily("millstream_build", "The version that runs.")
        info.add_metric([], self._build)
        yield info
        if latest is not None:
            found = figures_of(latest)
            found.rise_from(before)
            yield from found.families()
