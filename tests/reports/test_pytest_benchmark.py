"""pytest-benchmark reads our runs: its own command, its own figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from millstream.engine.histogram import Histogram
from millstream.engine.histogram_codec import encoded
from millstream.reports.formats import ReportError
from millstream.reports.pytest_benchmark import (
    pytest_benchmark_report,
    response_stats,
    stats_of,
)
from tests.support.results import bench, experiment, fact, result

COMMAND = str(Path(sys.executable).with_name("pytest-benchmark"))


def histogram(*values: int) -> Histogram:
    made = Histogram()
    made.record(values)
    return made


def theirs(data: list[float]) -> dict[str, Any]:
    stats = Stats()
    for each in data:
        stats.update(each)
    return dict(stats.as_dict())


def compared(folder: Path, *files: bytes, columns: str = "min,max,mean,median,rounds") -> str:
    """What `pytest-benchmark compare` says of the files."""
    paths = []
    for number, content in enumerate(files, 1):
        paths.append(folder / f"{number:04}_run.json")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [
            COMMAND,
            "compare",
            *(path.name for path in paths),
            "--columns",
            columns,
            "--sort",
            "name",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Failed to load" not in done.stdout + done.stderr
    return done.stdout


def rows(table: str) -> dict[str, list[float]]:
    """Name -> the figures of its row, without what stands in brackets behind them."""
    found = {}
    for line in table.splitlines():
        match = re.match(r"(\S.*? (?:per event|response time)\s(?:\(\S+\)))\s+(\d.*)", line)
        if match:
            figures = re.sub(r"\([^)]*\)", "", match[2]).split()
            found[match[1]] = [float(each.replace(",", "")) for each in figures]
    return found


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=20))
def test_the_figures_of_rounds_are_those_of_pytest_benchmark(data: list[float]) -> None:
    ours, expected = stats_of(data), theirs(data)

    for name, value in expected.items():
        if name not in ("outliers", "iqr_outliers", "stddev_outliers", "ld15iqr", "hd15iqr"):
            assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert ours["data"] == data
    assert ours.keys() - {"data", "iterations"} == expected.keys()


@pytest.mark.parametrize(
    "data", [[1.0], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0, 50.0], [1.0] * 9 + [30.0], [0.1, 5, 5, 5, 6]]
)
def test_outliers_are_those_of_pytest_benchmark(data: list[float]) -> None:
    ours, expected = stats_of(data), theirs(data)

    for name in ("outliers", "iqr_outliers", "stddev_outliers", "hd15iqr", "ld15iqr"):
        assert ours[name] == expected[name], name


def test_the_figures_of_a_histogram_are_near_those_of_its_values() -> None:
    values = [10**6 + 7 * number for number in range(1000)] + [9 * 10**7] * 5

    ours = response_stats(histogram(*values))
    expected = theirs([value / 1e9 for value in values])

    for name in ("min", "max", "mean", "stddev", "median", "q1", "q3", "total", "ops"):
        assert ours[name] == pytest.approx(expected[name], rel=0.002), name
    assert (ours["rounds"], ours["iqr_outliers"]) == (1005, 5)
    assert ours.keys() - {"iterations"} == expected.keys()


def test_compare_reads_repeats_and_response_times(tmp_path: Path) -> None:
    texts = {"response": encoded(histogram(10**6, 2 * 10**6)), "slip": None, "stages": []}
    base = bench(histograms=texts, experiment=experiment([fact(1000.0), fact(500.0), fact(800.0)]))
    candidate = {**base, "experiment": experiment([fact(2000.0)])}

    table = compared(
        tmp_path,
        pytest_benchmark_report([base], ["feed"]),
        pytest_benchmark_report([candidate], ["feed"]),
    )

    assert "benchmark 'seconds per event': 2 tests" in table
    assert "benchmark 'response time': 2 tests" in table
    found = rows(table)
    slow, fast = (
        found["feed: seconds per event (0001_run)"],
        found["feed: seconds per event (0002_run)"],
    )
    assert (slow[0] / fast[0], slow[1] / fast[1], slow[4], fast[4]) == (2.0, 4.0, 3.0, 1.0)
    assert found["feed: response time (0001_run)"][4] == 2.0


def test_each_value_of_a_sweep_is_a_benchmark_without_its_invalid_trials(tmp_path: Path) -> None:
    facts = [fact(100.0, "1"), fact(200.0, "2"), fact(999.0, "2", verdict="invalid")]
    made = bench(experiment=experiment(facts, "sweep", parameter="workers"))

    content = pytest_benchmark_report([made], ["feed"])

    benchmarks = json.loads(content)["benchmarks"]
    assert [(each["name"], each["param"], each["params"]) for each in benchmarks] == [
        ("feed[workers=1]: seconds per event", "workers=1", {"workers": "1"}),
        ("feed[workers=2]: seconds per event", "workers=2", {"workers": "2"}),
    ]
    assert [each["stats"]["rounds"] for each in benchmarks] == [1, 1]
    assert "feed[workers=2]: seconds per event" in compared(tmp_path, content)


def test_several_results_are_told_apart_by_their_names() -> None:
    content = pytest_benchmark_report([result(), result()], ["before", "after\x1b"])

    assert [each["name"] for each in json.loads(content)["benchmarks"]] == [
        "before: seconds per event",
        "after\\x1b: seconds per event",
    ]


def test_what_measured_nothing_is_refused() -> None:
    with pytest.raises(ReportError, match="nothing was measured"):
        pytest_benchmark_report([result(throughput=0.0)], ["run"])
