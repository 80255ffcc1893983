"""Axes of charts: where a value lies, and which values are labelled. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil, floor, log10
from typing import Final

from msgspec import Struct

_STEPS: Final = (1, 2, 5, 10)
_MOST_DECADES: Final = 7


class Axis(Struct, frozen=True):
    """Values from `low` to `high`, each with a place from 0 to 1."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    """Values that are labelled, and how."""
    title: str = ""
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; values beyond are put at the end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = log10(max(value, low)), log10(low), log10(high)
        return min(1.0, max(0.0, (value - low) / (high - low)))


def linear_axis(
    values: Iterable[float],
    label: Callable[[float], str],
    *,
    title: str = "",
    ticks: int = 5,
    from_zero: bool = True,
    even: bool = False,
) -> Axis:
    """An axis for all of `values`, which ends at a round number. `even`: label whole numbers."""
    known = [float(value) for value in values]
    low = 0.0 if from_zero or not known else min(known)
    high = max(known, default=1.0)
    if high <= low:
        high = low + 1.0
    step = _round_up((high - low) / ticks)
    step = max(1.0, step) if even else step
    first, last = floor(low / step), ceil(high / step - 1e-9)
    shown = [step * number for number in range(first, last + 1)]
    return Axis(shown[0], shown[-1], [(value, label(value)) for value in shown], title)


def log_axis(values: Iterable[float], label: Callable[[float], str], *, title: str = "") -> Axis:
    """A logarithmic axis of whole decades for the positive ones of `values`."""
    known = [float(value) for value in values if value > 0]
    first = floor(log10(min(known, default=1.0)) + 1e-9)
    last = max(ceil(log10(max(known, default=10.0)) - 1e-9), first + 1)
    every = ceil((last - first) / _MOST_DECADES)
    shown = [10.0**power for power in range(first, last + 1, every)]
    if last - first == 1:
        shown = [10.0**first * step for step in _STEPS]
    return Axis(10.0**first, 10.0**last, [(v, label(v)) for v in shown], title, log=True)


def _round_up(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    power = 10.0 ** floor(log10(step))
    return next(power * each for each in _STEPS if power * each >= step * (1 - 1e-9))
