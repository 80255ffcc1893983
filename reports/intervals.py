"""Medians and differences of runs with their intervals, at 95 % unless asked otherwise.

Pure. A run is one value, however many events it had: values in, figures out; equal values and
seeds give equal figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, isfinite, sqrt
from statistics import NormalDist, median
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

LEAST_RUNS: Final = 5
"""Of fewer runs, even the range from least to largest misses the median more than once in ten."""

RESAMPLES: Final = 10_000
_TAIL: Final = 0.025
_ROUNDING: Final = 1e-12
"""Must not decide where an error is what was asked for exactly."""
_Z: Final = NormalDist().inv_cdf(1 - _TAIL)
_EXACT_UP_TO: Final = 2_500
"""Pairs of runs whose ranks are counted exactly; beyond, the normal approximation is as good."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Interval(Struct, frozen=True):
    """Of the intervals that are made so, 95 % (or what was asked for) hold the true value."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Median(Struct, frozen=True):
    """The median of runs."""

    value: float
    interval: Interval | None
    why: str
    """Why there is no interval; empty where there is one."""
    runs: int


class Shift(Struct, frozen=True):
    """By how much a second set of runs lies above a first one, in the unit of the runs."""

    value: float
    interval: Interval | None
    why: str
    """Why there is no interval; empty where there is one."""
    runs: tuple[int, int]

    @property
    def shows_difference(self) -> bool:
        """Whether the runs show any: the interval is there, and zero is not in it."""
        return self.interval is not None and 0 not in self.interval


def median_of(values: Sequence[float], seed: int = 1) -> Median:
    """The median of runs, with a bootstrap percentile interval (B. Efron, Ann. Statist. 7, 1979).

    Percentile, and not BCa: BCa's acceleration comes from the jackknife, which is not consistent
    for a median (leaving out one value at a time gives two or three different medians, whatever the
    spread); and percentiles never lie outside of what was measured. Of few runs plain percentiles
    are too narrow, 87 % of seven: they are expanded, as in T. C. Hesterberg, "What Teachers Should
    Know About the Bootstrap", Amer. Statist. 69, 2015. Raises ValueError for no runs, and for a
    value that is no number.
    """
    runs = _checked(values)
    if len(runs) < LEAST_RUNS:
        return Median(median(runs), None, _too_few(len(runs)), len(runs))
    ranked = np.sort(np.array(runs))
    low, high = _middles(len(runs), seed)
    medians = np.sort((ranked[low] + ranked[high]) / 2)
    first = int(_tail(len(runs)) * RESAMPLES)
    interval = Interval(float(medians[first]), float(medians[-1 - first]))
    return Median(median(runs), interval, "", len(runs))


def shift_of(before: Sequence[float], after: Sequence[float], level: float = 0.95) -> Shift:
    """The Hodges–Lehmann shift from one set of runs to another, with its interval.

    The shift is the median of all differences `after` − `before` (J. L. Hodges, E. L. Lehmann, Ann.
    Math. Statist. 34, 1963). The interval is the one that goes with the Mann–Whitney test (L. E.
    Moses; Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", section 4.3): from the
    k-th difference to the k-th from the top, with the largest k that keeps each side's error at
    half of 1 − `level` or less. It asks for nothing but that both sets are spread alike, and needs
    no chance. Raises ValueError as median_of() does.
    """
    old, new = _checked(before), _checked(after)
    differences = np.sort(np.subtract.outer(np.array(new), np.array(old)), axis=None)
    value, runs = float(np.median(differences)), (len(old), len(new))
    k = 0 if min(runs) < LEAST_RUNS else _rank(*runs, (1 - level) / 2)
    if k == 0:
        return Shift(value, None, _too_few(min(runs), runs_needed(level)), runs)
    return Shift(value, Interval(float(differences[k - 1]), float(differences[-k])), "", runs)


@lru_cache(maxsize=64)
def _middles(runs: int, seed: int) -> tuple[Ints, Ints]:
    """The ranks, from 0, of the one or two runs in the middle of each resample.

    Which they are has nothing to do with the runs' values.
    """
    chance = np.random.default_rng(seed)
    resamples = np.sort(chance.integers(0, runs, (RESAMPLES, runs)), axis=1)
    return resamples[:, (runs - 1) // 2].copy(), resamples[:, runs // 2].copy()


def _tail(runs: int) -> float:
    """The share of resamples beyond each end: Φ(−t √(n / (n − 1))), with t the 97.5 % point of
    Student's distribution with n − 1 degrees of freedom (M. Abramowitz, I. A. Stegun, "Handbook of
    Mathematical Functions", 26.7.5)."""
    z, free = _Z, runs - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    return NormalDist().cdf(-t * sqrt(runs / free))


def _checked(values: Sequence[float]) -> list[float]:
    runs = [float(value) for value in values]
    if not runs:
        raise ValueError("there are no runs; give it the values of 1 or more")
    for run in runs:
        if not isfinite(run):
            raise ValueError(f"a run has the value {run}; give it a number")
    return runs


def runs_needed(level: float) -> int:
    """How many runs each of two sets needs for an interval of their shift at this level.

    The widest one, from the least difference to the largest, misses on one side where all runs of
    one set lie above all of the other: once in C(2n, n).
    """
    runs = LEAST_RUNS
    while 1 / comb(2 * runs, runs) > (1 - level) / 2 + _ROUNDING:
        runs += 1
    return runs


def _too_few(runs: int, needed: int = LEAST_RUNS) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}, and an interval needs {needed} or more"


@lru_cache(maxsize=256)
def _rank(m: int, n: int, tail: float = _TAIL) -> int:
    """The largest k with P(U ≤ k − 1) ≤ `tail`; 0 where there is none: U counts, of two sets that
    are alike, the pairs in which the second one is less."""
    if m * n > _EXACT_UP_TO:
        spread = sqrt(m * n * (m + n + 1) / 12)
        return max(1, int(m * n / 2 - NormalDist().inv_cdf(1 - tail) * spread))
    below = np.cumsum(mann_whitney(m, n))
    return int(np.searchsorted(below, tail + _ROUNDING, side="right"))


def mann_whitney(m: int, n: int) -> Floats:
    """The probability of each U from 0 to m·n when both sets are alike, without ties.

    By the recursion of H. B. Mann and D. R. Whitney (Ann. Math. Statist. 18, 1947) on which set the
    largest value is of: P(u; m, n) = (m P(u − n; m − 1, n) + n P(u; m, n − 1)) / (m + n).
    """
    most = m * n
    none: Floats = np.zeros(most + 1)
    none[0] = 1.0  # of an empty set there is no pair: U is 0
    column = [none] * (n + 1)
    for i in range(1, m + 1):
        row = [none]
        for j in range(1, n + 1):
            both: Floats = row[-1] * (j / (i + j))
            both[j:] += column[j][: most + 1 - j] * (i / (i + j))
            row.append(both)
        column = row
    return column[n]
