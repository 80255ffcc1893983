"""The course of a run, sampled: throughput, backlog, memory, processor time, response times.

Memory is bounded: when the series is full, neighbours are joined and the interval doubles.
"""

from __future__ import annotations

from typing import Any, Final

import psutil

MOST_POINTS: Final = 600
INTERVAL_NS: Final = 1_000_000_000


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
        names = ("throughput", "response_p50", "response_p99", "backlog", "rss", "cpu", *more)
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
        return (a + b) / 2 if name in self._averaged else max(a, b)

    def go_on_from(self, report: dict[str, Any]) -> None:
        """Take over the series of earlier sittings."""
        self.interval_ns = report["interval_ns"]
        self._points = {name: list(report[name]) for name in self._points}

    def report(self) -> dict[str, Any]:
        """The series of the result file."""
        return {"interval_ns": self.interval_ns, **self._points}
