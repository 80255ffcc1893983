"""The histograms of results, for HdrHistogram's tools, read back by its Python package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from millstream.engine.histogram import HIGHEST, Histogram
from millstream.engine.histogram_codec import encoded
from millstream.reports.formats import ReportError
from millstream.reports.hdr_files import hgrm_report, hlog_report
from tests.support.results import bench, result


def holding(*values: int, **changes: Any) -> dict[str, Any]:
    made = Histogram()
    made.record(values)
    texts = {"response": encoded(made), "slip": None, "stages": []}
    return bench(histograms=texts, **changes)


def intervals(path: Path, content: bytes) -> list[HdrHistogram]:
    path.write_bytes(content)
    reader = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST, 3))
    found = []
    with reader.input_file:
        while (histogram := reader.get_next_interval_histogram()) is not None:
            found.append(histogram)
    return found


def test_percentiles_are_of_all_results_together() -> None:
    text = hgrm_report([holding(10**6), holding(3 * 10**6, 5 * 10**6)], ["a", "b"]).decode()

    steps = [line.split() for line in text.splitlines() if line and line.strip()[0].isdigit()]
    assert (steps[0][0], steps[-1][0], steps[-1][2]) == ("1.000", "5.001", "3")
    assert "Total count    =            3" in text


def test_a_log_has_an_interval_for_each_run_in_the_order_of_time(tmp_path: Path) -> None:
    late = holding(10**6, 2 * 10**6, started_at="2026-11-28T03:30:55Z")
    early = holding(10**6, started_at="2026-11-28T03:30:51Z")

    content = hlog_report([late, early], ["the late, one", "early"])

    found = intervals(tmp_path / "x.hlog", content)
    assert [each.get_total_count() for each in found] == [1, 2]
    assert [each.get_tag() for each in found] == ["early", "the_late_one"]
    starts = [each.get_start_time_stamp() for each in found]
    assert starts[1] - starts[0] == pytest.approx(4000)
    assert found[0].get_end_time_stamp() - starts[0] == pytest.approx(2000)


def test_a_single_run_has_no_tag(tmp_path: Path) -> None:
    (found,) = intervals(tmp_path / "x.hlog", hlog_report([holding(7)], ["a"]))

    assert (found.get_tag(), found.get_max_value()) == (None, 7)


@pytest.mark.parametrize("report", [hgrm_report, hlog_report])
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (bench(), r"^a holds no histogram: it is of an earlier version .*; make the run anew$"),
        (result(), r"^a has no response times: there was no schedule; give the run a --rate$"),
    ],
)
def test_a_result_without_a_histogram_is_refused_with_advice(
    report: Any, made: dict[str, Any], told: str
) -> None:
    with pytest.raises(ReportError, match=told):
        report([made], ["a"])


def test_a_log_of_a_run_that_does_not_say_when_it_began_is_refused() -> None:
    with pytest.raises(ReportError, match="a does not say when it began"):
        hlog_report([holding(7, started_at="yesterday")], ["a"])
