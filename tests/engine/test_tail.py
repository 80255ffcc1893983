"""Where the time of slow events goes: parts that add up, for each event and for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.histogram import Histogram, Ints
from millstream.engine.record_file import ADMITTED, EMITTED_AT, INTENDED, stage_column
from millstream.engine.tail import (
    CAME_OUT,
    DONE,
    EXAMPLES,
    MORE,
    RELEASED,
    TailFold,
    TailReport,
    part_names,
)

MS = 1_000_000
ORIGIN = 10**15
"""The schedule's beginning: what a clock may show."""


def stamps(events: list[dict[str, Any]], stages: int = 1) -> Ints:
    """Columns of events; each gives `due` (since the origin), and gaps in ns on its way.

    A stage that is None was not come to; `came_out` None: it was never sent on; `done` None: not
    complete.
    """
    base = stage_column(stages)
    columns = np.zeros((base + MORE, len(events)), dtype=np.int64)
    for at, event in enumerate(events):
        now = ORIGIN + event.get("due", 0)
        columns[INTENDED, at] = now
        now += event.get("slip", 0)
        columns[base + RELEASED, at] = now
        now += event.get("transport", 0)
        columns[ADMITTED, at] = now
        for stage, times in enumerate(event.get("stages", [(0, 0)] * stages)):
            if times is None:
                break
            wait, service = times
            columns[stage_column(stage), at] = now + wait
            now += wait + service
            columns[stage_column(stage) + 1, at] = now
        if event.get("out", 0) is not None:
            now += event.get("out", 0)
            columns[base + CAME_OUT, at] = now
        if event.get("done", 0) is not None:
            now += event.get("done", 0)
            columns[base + DONE, at] = columns[EMITTED_AT, at] = now
    return columns


def folded(
    events: list[dict[str, Any]], stages: int = 1, measured_from: int = ORIGIN, **more: Any
) -> TailReport | None:
    fold = TailFold([f"s{n}" for n in range(stages)])
    fold.feed(more.pop("first", 0), stamps(events, stages), measured_from, ORIGIN)
    return fold.report(**more)


GAP = st.integers(0, 10**10)


def event(stages: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            **{"due": GAP, "slip": GAP, "transport": GAP, "out": GAP | st.none(), "done": GAP},
            "stages": st.lists(st.tuples(GAP, GAP) | st.none(), min_size=stages, max_size=stages),
        }
    )


@given(st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), st.lists(event(n), min_size=1))))
def test_the_parts_of_each_event_add_up_to_its_response(
    case: tuple[int, list[dict[str, Any]]],
) -> None:
    stages, events = case
    columns = stamps(events, stages)

    report = folded(events, stages)

    assert report is not None
    responses = columns[stage_column(stages) + DONE] - columns[INTENDED]
    assert report.all_events == len(events)
    assert report.all_response_ns == round(int(responses.sum()) / len(events))
    for example in report.examples:
        assert list(example.parts) == part_names([f"s{n}" for n in range(stages)])
        assert all(part >= 0 for part in example.parts.values())
        assert sum(example.parts.values()) == example.response_ns == responses[example.sequence]
        assert example.at_ns == events[example.sequence]["due"]
    assert sum(report.all_parts.values()) == pytest.approx(
        report.all_response_ns, abs=len(report.all_parts)
    )
    assert sum(report.parts.values()) == pytest.approx(report.response_ns, abs=len(report.parts))


def test_each_part_is_what_it_is_called() -> None:
    one = {"slip": 1, "transport": 20, "stages": [(300, 4000), (50_000, 600_000)]}

    report = folded([{**one, "out": 7_000_000, "done": 80_000_000}], 2)

    assert report is not None
    assert report.examples[0].parts == report.all_parts == {
        "slip": 1,
        "transport in": 20,
        "queue wait s0": 300,
        "service s0": 4000,
        "queue wait s1": 50_000,
        "service s1": 600_000,
        "transport out": 7_000_000,
        "resequencing and output": 80_000_000,
    }  # fmt: skip
    assert report.response_ns == 87_654_321


def test_what_an_event_did_not_come_to_took_no_time() -> None:
    """It was filtered out, or died, in the first stage."""
    report = folded([{"slip": 5, "stages": [(10, 20), None], "out": None, "done": 7}], 2)

    assert report is not None
    parts = report.examples[0].parts
    assert (parts["queue wait s1"], parts["service s1"]) == (0, 0)
    assert (parts["service s0"], parts["resequencing and output"]) == (20, 7)
    assert sum(parts.values()) == 42


def test_what_is_not_complete_is_left_out() -> None:
    report = folded([{"done": None, "slip": 9}, {"done": 3}, {"done": None}])

    assert report is not None
    assert (report.all_events, report.all_response_ns) == (1, 3)
    assert report.examples[0].sequence == 1


def test_what_was_due_in_the_warm_up_is_left_out() -> None:
    events = [{"due": n * MS, "done": 1000 - n} for n in range(10)]

    report = folded(events, measured_from=ORIGIN + 4 * MS, first=100)

    assert report is not None
    assert report.all_events == 6
    assert [each.sequence for each in report.examples] == [104, 105, 106, 107, 108, 109]
    assert report.examples[0].at_ns == 4 * MS


def test_nothing_measured_is_no_report() -> None:
    assert TailFold(["s"]).report() is None
    assert folded([]) is None
    assert folded([{"done": None}, {"done": None}]) is None
    assert folded([{"due": 5}], measured_from=ORIGIN + 6) is None


def test_the_slowest_hundredth_and_what_all_others_did() -> None:
    """990 events take 1 ms in the stage, 10 take 5 ms more in the queue."""
    events = [{"stages": [(5 * MS if n % 100 == 50 else 0, MS)]} for n in range(1000)]

    report = folded(events)

    assert report is not None
    assert (report.events, report.all_events) == (10, 1000)
    assert report.response_ns == 6 * MS
    assert report.from_ns == pytest.approx(6 * MS, rel=1e-3) and report.from_ns <= 6 * MS
    assert (report.parts["queue wait s0"], report.parts["service s0"]) == (5 * MS, MS)
    assert report.all_parts["queue wait s0"] == 50_000
    assert [each.sequence for each in report.examples] == [50 + 100 * n for n in range(10)]


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=300), st.sampled_from([0.01, 0.1, 0.5, 1])
)
def test_the_slowest_share_is_all_from_a_bound_on_and_no_fewer_than_asked_for(
    responses: list[int], share: float
) -> None:
    report = folded([{"done": each} for each in responses], slowest=share)

    assert report is not None
    assert report.events == sum(each >= report.from_ns for each in responses)
    assert report.events >= max(1, int(len(responses) * share + 0.5))
    histogram = Histogram()
    histogram.record(responses)
    above = [low for low in histogram.counts() if low > report.from_ns]
    fewer = sum(histogram.counts()[low] for low in above)
    assert fewer < max(1, int(len(responses) * share + 0.5)), "a higher bound would do"


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.lists(st.integers(1, 20)))
def test_pieces_have_the_report_of_the_whole(responses: list[int], sizes: list[int]) -> None:
    events = [{"due": n, "slip": each // 3, "done": each} for n, each in enumerate(responses)]
    columns = stamps(events)
    fold, at = TailFold(["s0"]), 0
    for size in [*sizes, len(events)]:
        fold.feed(at, columns[:, at : at + size], ORIGIN, ORIGIN)
        at = min(at + size, len(events))

    assert fold.report() == folded(events)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_examples_are_the_slowest_and_of_equal_ones_the_first(responses: list[int]) -> None:
    report = folded([{"done": each} for each in responses])

    assert report is not None
    told = [each.response_ns for each in report.examples]
    assert told == sorted(responses, reverse=True)[:EXAMPLES]
    ranked = [(-each.response_ns, each.sequence) for each in report.examples]
    assert ranked == sorted(ranked)
    assert ranked == sorted((-each, n) for n, each in enumerate(responses))[:EXAMPLES]


def test_a_response_longer_than_any_histogram_counts_is_kept_whole() -> None:
    day = 86_400 * 10**9

    report = folded([{"stages": [(day, 1)]}, {"stages": [(0, 1)]}])

    assert report is not None
    assert report.response_ns == day + 1
    assert report.examples[0].parts["queue wait s0"] == day
