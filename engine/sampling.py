"""The course of a run, sampled: throughput, backlog, memory, processor time, response times.

Memory is bounded: when the series is full, neighbours are joined and the interval doubles.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
import psutil

from .histogram import Histogram

MOST_POINTS: Final = 600
INTERVAL_NS: Final = 250_000_000
PER_OCTAVE: Final = 4
"""Buckets of response times by interval, for each doubling."""

_PERCENTILES: Final = {
    "response_p50": 50.0,
    "response_p90": 90.0,
    "response_p99": 99.0,
    "response_p999": 99.9,
    "response_max": 100.0,
}


class Processes:
    """Memory and processor time of this process and its workers together."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._others: dict[int, psutil.Process] = {}
        self._ended_cpu_ns = 0
        self._last_cpu_ns: dict[int, int] = {}
        self.rss_peak = 0
        self.parent_rss_peak = 0
        self._cpu_at_start = self._cpu_of(self._own)

    def go_on_from(self, cpu_ns: int, rss_peak: int, parent_rss_peak: int) -> None:
        """Take over what earlier sittings needed."""
        self._ended_cpu_ns += cpu_ns
        self.rss_peak = max(self.rss_peak, rss_peak)
        self.parent_rss_peak = max(self.parent_rss_peak, parent_rss_peak)

    def sample(self, pids: list[int]) -> tuple[int, int]:
        """Resident bytes now, and ns of processor time since the start."""
        own_rss = self._own.memory_info().rss
        rss, cpu = own_rss, self._cpu_of(self._own) - self._cpu_at_start
        for pid in pids:
            try:
                process = self._others.get(pid) or psutil.Process(pid)
                self._others[pid] = process
                rss += process.memory_info().rss
                self._last_cpu_ns[pid] = self._cpu_of(process)
            except psutil.Error:
                pass
        for pid in set(self._others) - set(pids):
            del self._others[pid]
            self._ended_cpu_ns += self._last_cpu_ns.pop(pid, 0)
        self.rss_peak = max(self.rss_peak, rss)
        self.parent_rss_peak = max(self.parent_rss_peak, own_rss)
        return rss, cpu + self._ended_cpu_ns + sum(self._last_cpu_ns.values())

    @staticmethod
    def _cpu_of(process: psutil.Process) -> int:
        times = process.cpu_times()
        return int((times.user + times.system) * 1e9)


class Series:
    """One value an interval of each figure, at most MOST_POINTS of them."""

    _SUMMED = ("throughput", "cpu")

    def __init__(self, interval_ns: int = INTERVAL_NS, more: tuple[str, ...] = ()) -> None:
        """`more` figures, which are averaged like rates."""
        self.interval_ns = interval_ns
        self._averaged = (*self._SUMMED, *more)
        names = (
            *("throughput", *_PERCENTILES, "response_buckets"),
            *("backlog", "rss", "cpu", "loop_lag", *more),
        )
        self._points: dict[str, list[Any]] = {name: [] for name in names}

    def add(self, **values: Any) -> None:
        """One more interval."""
        for name, points in self._points.items():
            points.append(values.get(name))
        if len(self._points["rss"]) >= MOST_POINTS:
            self._halve()

    def _halve(self) -> None:
        self.interval_ns *= 2
        for name, points in self._points.items():
            pairs = zip(points[::2], points[1::2], strict=False)
            self._points[name] = [self._joined(name, a, b) for a, b in pairs]

    def _joined(self, name: str, a: Any, b: Any) -> Any:
        if a is None or b is None:
            return a if b is None else b
        if name == "response_buckets":
            return _flat(_counter(a) + _counter(b))
        return (a + b) / 2 if name in self._averaged else max(a, b)

    def go_on_from(self, report: dict[str, Any]) -> None:
        """Take over the series of earlier sittings."""
        self.interval_ns = report["interval_ns"]
        blank = [None] * len(report["rss"])  # a version that had not all of these may have kept it
        self._points = {name: list(report.get(name, blank)) for name in self._points}

    def report(self) -> dict[str, Any]:
        """The series of the result file."""
        return {"interval_ns": self.interval_ns, **self._points}


def response_figures(window: Histogram) -> dict[str, Any]:
    """What a point of the series says of the response times of its interval (ns).

    `response_buckets` is a flat list of bucket, count, bucket, count, …: bucket b holds what is at
    least 2 ** (b / PER_OCTAVE) and less than 2 ** ((b + 1) / PER_OCTAVE).
    """
    if not window.count:
        return {}
    times = window.percentiles(*_PERCENTILES.values())
    figures: dict[str, Any] = dict(zip(_PERCENTILES, times, strict=True))
    counts = window.counts()
    lowest = np.fromiter(counts, dtype=np.float64)
    buckets = np.floor(np.log2(np.maximum(lowest, 1)) * PER_OCTAVE + 1e-9).astype(int).tolist()
    coarse: Counter[int] = Counter()
    for bucket, count in zip(buckets, counts.values(), strict=True):
        coarse[bucket] += count
    return figures | {"response_buckets": _flat(coarse)}


def _counter(flat: list[int]) -> Counter[int]:
    return Counter(dict(zip(flat[::2], flat[1::2], strict=True)))


def _flat(counter: Counter[int]) -> list[int]:
    return [number for pair in sorted(counter.items()) for number in pair]
