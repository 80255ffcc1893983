"""JSON as pytest-benchmark saves it, so that `pytest-benchmark compare FILE...` reads our runs.

Of each result the seconds that an event takes (a round for each trial; of a sweep, a benchmark
for each value), and, where it holds a histogram of the response, the response times (a round for
each event). Fields and formulas are those of pytest_benchmark/stats.py and plugin.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millstream.engine.event import encode_indented
from millstream.engine.histogram import Histogram

from .formats import ReportError
from .hdr_files import response_of
from .texts import plain

FORMAT_VERSION: Final = "5.0.0"
"""Of pytest-benchmark, whose files these are like."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def pytest_benchmark_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """The benchmarks of all results in one file. Raises ReportError when there are none."""
    made: list[dict[str, Any]] = []
    for result, name in zip(results, names, strict=True):
        own = name if len(results) > 1 else str(result["name"])
        made += _benchmarks(result, plain(own))
    if not made:
        raise ReportError("nothing was measured: no event was handled, or no trial was valid")
    return encode_indented(
        {
            "machine_info": _machine(results[0]["host"]),
            "commit_info": {
                **{"id": "unversioned", "time": None, "author_time": None, "dirty": False},
                **{"project": str(results[0]["name"]), "branch": "(unknown)"},
            },
            "benchmarks": made,
            "datetime": results[0]["started_at"],
            "version": FORMAT_VERSION,
        }
    )


def _benchmarks(result: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = []
    for value, rates in _trials(result).items():
        seconds = [1 / rate for rate in rates if rate > 0]
        if seconds:
            param = f"{_parameter(result)}={plain(value)}" if value else None
            title = f"{name}[{param}]" if param else name
            found.append(_benchmark(result, title, "seconds per event", stats_of(seconds), param))
    if result["response"] is not None and (result.get("histograms") or {}).get("response"):
        response = response_of(result, name)
        if response.count:
            found.append(_benchmark(result, name, "response time", response_stats(response), None))
    return found


def _parameter(result: Mapping[str, Any]) -> str:
    return plain(str(result["experiment"]["parameter"]))


def _trials(result: Mapping[str, Any]) -> dict[str, list[float]]:
    """The throughput of each trial, by what was swept; invalid trials tell of the generator."""
    experiment = result.get("experiment")
    if experiment is None or experiment["kind"] == "search":
        return {"": [result["throughput"]]}
    found: dict[str, list[float]] = {}
    for fact in experiment["facts"]:
        if fact["verdict"] != "invalid":
            found.setdefault(fact["value"], []).append(fact["throughput"])
    return found


def _benchmark(
    result: Mapping[str, Any], title: str, what: str, stats: dict[str, Any], param: str | None
) -> dict[str, Any]:
    name, _, value = (param or "").partition("=")
    return {
        "group": what,
        "name": f"{title}: {what}",
        "fullname": f"millstream::{title}: {what}",
        "params": {name: value} if param else None,
        "param": param,
        "extra_info": {
            "verdict": result["verdict"],
            "events": result["counts"]["read"],
            "seed": result["seed"],
            "millstream": result["version"],
        },
        "options": {},
        "stats": stats,
    }


def stats_of(data: Sequence[float]) -> dict[str, Any]:
    """The figures of rounds (at least one), in seconds."""
    ranked = sorted(data)
    mean, deviation = fmean(data), stdev(data) if len(data) > 1 else 0.0
    q1, q3 = _quartiles(ranked)
    within = [each for each in ranked if q1 - 1.5 * (q3 - q1) <= each <= q3 + 1.5 * (q3 - q1)]
    outside = sum(not mean - deviation <= each <= mean + deviation for each in data)
    stats = {
        **{"min": ranked[0], "max": ranked[-1], "mean": mean, "stddev": deviation},
        **{"rounds": len(data), "median": median(data), "iqr": q3 - q1, "q1": q1, "q3": q3},
        **{"iqr_outliers": len(data) - len(within), "stddev_outliers": outside},
        **{"ld15iqr": within[0], "hd15iqr": within[-1]},
        **{"ops": len(data) / sum(data), "total": sum(data)},
    }
    return _finished(stats) | {"data": list(data)}


def response_stats(response: Histogram) -> dict[str, Any]:
    """The same of a histogram of ns that holds something: as good as its three digits."""
    counts = response.counts()
    values: Floats = np.array(list(counts), dtype=np.float64) / 1e9
    weights: Ints = np.array(list(counts.values()), dtype=np.int64)
    total = int(weights.sum())
    mean = float(values @ weights) / total
    deviation = float(np.sqrt(((values - mean) ** 2 @ weights) / max(1, total - 1)))
    q1, middle, q3 = (response.percentile(percent) / 1e9 for percent in (25, 50, 75))
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    within = (values >= low) & (values <= high)
    near = (values >= mean - deviation) & (values <= mean + deviation)
    return _finished(
        {
            **{"min": float(values[0]), "max": float(values[-1]), "mean": mean},
            **{"stddev": deviation, "rounds": total, "median": middle},
            **{"iqr": q3 - q1, "q1": q1, "q3": q3},
            "iqr_outliers": int(weights[~within].sum()),
            "stddev_outliers": int(weights[~near].sum()),
            "ld15iqr": float(values[within][0]) if within.any() else middle,
            "hd15iqr": float(values[within][-1]) if within.any() else middle,
            **{"ops": 1 / mean if mean else 0, "total": mean * total},
        }
    )


def _finished(stats: dict[str, Any]) -> dict[str, Any]:
    outliers = f"{stats['stddev_outliers']};{stats['iqr_outliers']}"
    return {**stats, "outliers": outliers, "iterations": 1}


def _quartiles(ranked: Sequence[float]) -> tuple[float, float]:
    """As pytest-benchmark has them: methods 2 and 3 of the quartile's computing methods."""
    count = len(ranked)
    if count == 1:
        return ranked[0], ranked[0]
    if count % 2 == 0:
        half = count // 2
        return median(ranked[:half]), median(ranked[half:])
    n, rest = divmod(count, 4)
    if rest == 1:
        return (
            0.25 * ranked[n - 1] + 0.75 * ranked[n],
            0.75 * ranked[3 * n] + 0.25 * ranked[3 * n + 1],
        )
    return (
        0.75 * ranked[n] + 0.25 * ranked[n + 1],
        0.25 * ranked[3 * n + 1] + 0.75 * ranked[3 * n + 2],
    )


def _machine(host: Mapping[str, Any]) -> dict[str, Any]:
    platform = str(host.get("platform", ""))
    system, _, rest = platform.partition("-")
    return {
        **{"node": "", "processor": "", "machine": str(host.get("machine", ""))},
        "python_compiler": "",
        "python_implementation": str(host.get("implementation", "")),
        "python_implementation_version": str(host.get("python", "")),
        "python_version": str(host.get("python", "")),
        **{"python_build": [], "release": rest.partition("-")[0], "system": system},
        "cpu": {"count": host.get("cpus")},
    }
