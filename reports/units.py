"""Figures in words for people: durations, rates, sizes, executors. Pure."""

from __future__ import annotations


def duration(ns: int) -> str:
    """Three significant digits in the unit that fits."""
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if ns >= factor:
            return f"{_three_digits(ns / factor)} {unit}"
    return f"{ns} ns"


def _three_digits(value: float) -> str:
    """Three significant digits, or all that stand before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def rate(per_second: float) -> str:
    """Events per second."""
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"


def size(count: float) -> str:
    """Bytes, in the binary unit that fits."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{_three_digits(count / factor)} {unit}"
    return f"{count:.0f} B"


def executor_label(executor: str, workers: int, concurrency: int, times: str = "×") -> str:
    """Where a stage runs, and how many of it: "process × 2"; `times` is the sign between."""
    many = {"process": workers, "coroutine": concurrency}.get(executor)
    return executor if many is None else f"{executor} {times} {many}"
