"""What a scrape finds: names, types, labels and buckets, read back by the library's own parsers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from millstream.engine.event import printable
from millstream.engine.observer import Deaths, Details
from millstream.reports.prometheus import BOUNDS_NS, METRICS, OTHER, RunCollector, buckets_of
from tests.support.details import counted, counts, details, stage_details

Value = tuple[str, tuple[tuple[str, str], ...]]
FORMATS: list[tuple[Callable[..., bytes], Callable[[str], Iterable[Any]]]] = [
    (generate_latest, parse_plain),
    (generate_openmetrics, parse_openmetrics),
]
both_formats = pytest.mark.parametrize(("write", "parse"), FORMATS, ids=["plain", "openmetrics"])


def registry_of(*told: Details) -> CollectorRegistry:
    """What was told, one after another, ready to be scraped."""
    collector = RunCollector({"version": "1.2.3"})
    for each in told:
        collector.tell(each)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


def scraped(*told: Details) -> dict[Value, float]:
    """Name and labels -> value."""
    text = generate_latest(registry_of(*told)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_plain(text)
        for sample in family.samples
    }


def value(found: dict[Value, float], name: str, **labels: str) -> float:
    """The one value of a name, and of these labels among others."""
    (one,) = (
        number
        for (each, its), number in found.items()
        if each == name and set(labels.items()) <= set(its)
    )
    return one


def test_events_are_counted_by_the_names_of_the_conventions() -> None:
    found = scraped(details(counts=counts(read=7, emitted=5)))

    labels = {"messaging_system": "millstream"}
    read, sent = "messaging_client_consumed_messages_total", "messaging_client_sent_messages_total"
    assert value(found, read, **labels, messaging_operation_name="receive") == 7
    assert value(found, sent, **labels, messaging_operation_name="send") == 5


@both_formats
def test_each_family_says_what_it_is(write: Any, parse: Any) -> None:
    full = details(
        offered=3,
        counts=counts(deduplicated=1),
        response=counted([1]),
        deaths=[Deaths("score", "ValueError", 1)],
    )

    families = {family.name: family for family in parse(write(registry_of(full)).decode())}

    for about in METRICS:
        family = families[about.name]
        assert (family.type, family.documentation) == (about.kind, about.help)
        assert family.samples, about.name


def test_the_documents_table_is_what_is_exported() -> None:
    text = (Path(__file__).parents[2] / "docs" / "watching.md").read_text("utf-8")

    rows = re.findall(r"^\| `(m\S+)` \| (\w+) \| (.*) \| (.*) \|$", text, re.MULTILINE)

    table = [
        (name, kind, re.findall(r"`(\w+)`", labels), said) for name, kind, labels, said in rows
    ]
    assert table[:-1] == [
        (each.full_name, each.kind, [*each.labels, *each.fixed], each.help) for each in METRICS
    ]
    assert table[-1][0] == "millstream_build_info"


def test_names_follow_the_rules_of_prometheus() -> None:
    for about in METRICS:
        assert re.fullmatch(r"(messaging|millstream)_[a-z_]+", about.name)
        assert not about.name.endswith("_total")
        if about.kind == "histogram":
            assert about.name.endswith("_seconds")


@given(st.lists(st.integers(0, 20_000_000_000), max_size=50))
def test_buckets_are_a_plain_count(values: list[int]) -> None:
    found = dict(buckets_of(counted(values)))

    for bound in BOUNDS_NS:
        told_apart = [value for value in values if abs(value - bound) > bound / 1000]
        near = len(values) - len(told_apart)
        surely = sum(value <= bound for value in told_apart)
        assert surely <= found[repr(bound / 1e9)] <= surely + near
        at_most = sum(value <= bound for value in values)
        assert found[repr(bound / 1e9)] >= at_most
    assert found["+Inf"] == len(values)


def test_a_histogram_has_its_sum_in_seconds_and_rising_buckets() -> None:
    service = counted([1_500, 40_000_000, 30_000_000_000])
    found = scraped(details(stages=[stage_details("score", service=service)]))

    name = "messaging_process_duration_seconds"
    group = {"messaging_consumer_group_name": "score", "messaging_operation_name": "process"}
    assert value(found, f"{name}_count", **group) == 3
    assert value(found, f"{name}_sum", **group) == pytest.approx(30.0400015)
    by_bound = [
        (float(dict(labels)["le"]), count)
        for (each, labels), count in found.items()
        if each == f"{name}_bucket"
    ]
    assert [count for _, count in sorted(by_bound)] == sorted(count for _, count in by_bound)
    assert value(found, f"{name}_bucket", le="0.05") == 2
    assert value(found, f"{name}_bucket", le="10.0") == 2
    assert value(found, f"{name}_bucket", le="+Inf") == 3


@given(st.text(max_size=12), st.text(max_size=12))
@both_formats
def test_no_name_of_a_stage_or_an_error_breaks_out_of_its_label(
    write: Any, parse: Any, name: str, error: str
) -> None:
    told = details(
        stages=[stage_details(name)],
        counts=counts(dead_lettered=1),
        deaths=[Deaths(name, error, 1)],
    )

    families = {each.name: each for each in parse(write(registry_of(told)).decode())}

    assert families.keys() == {"millstream_build", *(about.name for about in METRICS)} or (
        write is generate_latest
    )
    (sample,) = families["millstream_dead_letters"].samples
    assert sample.labels == {"stage": printable(name), "error_type": printable(error)}


def test_a_lone_surrogate_does_not_end_the_scrapes() -> None:
    found = scraped(details(stages=[stage_details("s\udc80", handled=3)]))

    assert value(found, "millstream_stage_handled_total") == 3


def test_errors_that_are_not_told_apart_are_counted_together() -> None:
    found = scraped(
        details(counts=counts(dead_lettered=9), deaths=[Deaths("score", "ValueError", 4)])
    )

    assert value(found, "millstream_dead_letters_total", error_type="ValueError") == 4
    assert value(found, "millstream_dead_letters_total", error_type=OTHER) == 5


def test_counts_go_on_rising_from_run_to_run_and_gauges_do_not() -> None:
    def told(run: str, read: int, backlog: int) -> Details:
        service = counted([1_000] * read)
        return details(
            run=run,
            backlog=backlog,
            counts=counts(read=read),
            stages=[stage_details("score", handled=read, service=service)],
        )

    found = scraped(told("a", 3, 1), told("a", 5, 0), told("b", 0, 2), told("c", 4, 7))

    assert value(found, "millstream_runs_total") == 3
    assert value(found, "messaging_client_consumed_messages_total") == 9
    assert value(found, "millstream_stage_handled_total", stage="score") == 9
    assert value(found, "messaging_process_duration_seconds_count") == 9
    assert value(found, "millstream_backlog_events") == 7


def test_before_a_run_has_told_anything_there_is_the_version() -> None:
    found = scraped()

    assert found == {("millstream_build_info", (("version", "1.2.3"),)): 1.0}


def test_without_a_schedule_there_is_no_response_time() -> None:
    found = scraped(details())

    assert not any(name.startswith("millstream_response_time") for name, _ in found)
