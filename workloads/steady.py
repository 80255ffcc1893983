"""Whether a run came to a steady state: no growing backlog, no trend in what it does.

Pure: series by interval in, a verdict out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt
from msgspec import Struct

NS: Final = 1_000_000_000

MOST_SLOPE: Final = 0.01
"""By how much the backlog may grow, as a share of the offered rate."""

LEAST_INTERVALS: Final = 8
"""Of fewer, hardly any order is unlikely by chance."""

MOST_CHANCE: Final = 0.01
"""A trend counts when chance alone would make one as clear less often than this …"""

MOST_DRIFT: Final = 0.1
"""… and when it comes to more than this, as a share of the median, from first to last interval."""

_MOST_COMPARED: Final = 500
"""Trends compare each interval with each other one; of longer series, means of neighbours."""

Floats = npt.NDArray[np.float64]


class Series(Struct, frozen=True):
    """What happened in the intervals of a run after its warm-up, in columns of one length."""

    start_ns: int
    """When the first one began."""
    ends_ns: Sequence[int]
    """When each one ended; rising."""
    offered: Sequence[int]
    """How many events were due in it."""
    done: Sequence[int]
    """How many were finished in it."""
    backlog: Sequence[int]
    """How many were due and not finished at its end."""
    response_ns: Sequence[float | None]
    """The median response time of those that were finished in it; None: there were none."""


class Steadiness(Struct, frozen=True):
    """Whether a steady state was reached, and why or why not."""

    steady: bool
    why: str
    backlog_slope: float | None
    """Events per second; None: there are too few intervals."""


class Trend(Struct, frozen=True):
    """How a series moves from its first value to its last."""

    drift: float
    """By how much, as a share of its median: Theil's and Sen's slope over its length."""
    chance: float
    """How likely one as clear is without any trend: Mann's and Kendall's test, two-sided."""

    @property
    def is_real(self) -> bool:
        """Whether it is there, and large enough to matter."""
        return self.chance < MOST_CHANCE and abs(self.drift) > MOST_DRIFT


def backlog_slope(times_ns: Sequence[int], backlog: Sequence[int]) -> float:
    """By how many events a second the backlog grows: the slope of a line by least squares.

    Raises ValueError for columns of different lengths, and for fewer than two different times.
    """
    if len(times_ns) != len(backlog):
        raise ValueError(f"there are {len(times_ns)} times and {len(backlog)} backlogs")
    if len(set(times_ns)) < 2:
        raise ValueError("a slope needs two different times or more")
    # From the first one on: what a float can't hold of a clock's ns, it would lack in the slope.
    seconds = np.array([time - times_ns[0] for time in times_ns], dtype=np.float64) / NS
    seconds -= seconds.mean()
    events = np.array(backlog, dtype=np.float64)
    return float(seconds @ (events - events.mean()) / (seconds @ seconds))


def backlog_grows(slope: float, offered_rate: float, seconds: float) -> bool:
    """Whether a backlog's slope is one that no system can bear for ever.

    It is when it is more than MOST_SLOPE of the offered rate, and comes to one event or more in the
    time that was measured: at a low rate, 1 % would be less than anybody can count.
    """
    return slope > MOST_SLOPE * offered_rate and slope * seconds >= 1


def steadiness(series: Series) -> Steadiness:
    """Whether a run was in a steady state in all of these intervals.

    It was when the backlog neither grew nor shrank (by backlog_grows(), either way), and neither
    throughput nor response times had a trend (Trend.is_real), up or down: falling response times
    tell of a warm-up that is not over. A single outlier is no trend.
    """
    count = len(series.ends_ns)
    columns = (series.offered, series.done, series.backlog, series.response_ns)
    if any(len(column) != count for column in columns):
        raise ValueError("the columns of a series have different lengths")
    if count < LEAST_INTERVALS:
        plural = "" if count == 1 else "s"
        return Steadiness(
            False, f"{count} interval{plural}, and {LEAST_INTERVALS} are needed", None
        )
    if any(np.diff([series.start_ns, *series.ends_ns]) <= 0):
        raise ValueError("the times of a series do not rise")
    slope = backlog_slope(series.ends_ns, series.backlog)
    why = _unsteady(series, slope)
    return Steadiness(not why, why or "no trend in backlog, throughput or response times", slope)


def _unsteady(series: Series, slope: float) -> str:
    """What moves; empty when nothing does."""
    seconds = (series.ends_ns[-1] - series.start_ns) / NS
    offered_rate = sum(series.offered) / seconds
    share = f"{abs(slope):.3g} events/s, more than {MOST_SLOPE:.0%} of the {offered_rate:.3g}/s"
    if backlog_grows(slope, offered_rate, seconds):
        return f"the backlog grows by {share} offered"
    if backlog_grows(-slope, offered_rate, seconds):
        return f"the backlog still shrinks, by {share} offered"
    if not any(series.done):
        return "nothing was finished"
    lengths = np.diff([series.start_ns, *series.ends_ns]) / NS
    throughput = trend(series.ends_ns, (np.array(series.done) / lengths).tolist())
    if throughput is not None and throughput.is_real:
        return f"throughput {_moves(throughput)}"
    known = [
        (end, response)
        for end, response in zip(series.ends_ns, series.response_ns, strict=True)
        if response is not None
    ]
    response = trend([end for end, _ in known], [each for _, each in known])
    if response is not None and response.is_real:
        return f"the median response time {_moves(response)}"
    return ""


def _moves(found: Trend) -> str:
    verb = "rises" if found.drift > 0 else "falls"
    return f"{verb} by {abs(found.drift):.0%} from the first interval to the last"


def trend(times_ns: Sequence[int], values: Sequence[float]) -> Trend | None:
    """How a series of values of 0 or more moves over time; None for fewer than LEAST_INTERVALS.

    The test is that of H. B. Mann (Econometrica 13, 1945) and M. G. Kendall ("Rank Correlation
    Methods"), with the normal approximation, ties and continuity corrected: it asks for no
    distribution, only whether later values tend to be larger. The drift is the median slope of all
    pairs (P. K. Sen, J. Amer. Statist. Assoc. 63, 1968), which up to 29 % of outliers do not move.
    The test takes intervals as independent; where they are not it finds trends that are none, so
    that a trend is to matter as well.
    """
    if len(values) < LEAST_INTERVALS:
        return None
    seconds = _thinned([(time - times_ns[0]) / NS for time in times_ns])
    column = _thinned(values)
    first, second = np.triu_indices(len(column), 1)
    rises = column[second] - column[first]
    slope = float(np.median(rises / (seconds[second] - seconds[first])))
    # Where more than half are 0, the largest one tells better what is much.
    usual = float(np.median(column)) or float(column.max()) or 1.0
    drift = slope * float(seconds[-1] - seconds[0]) / usual
    return Trend(drift, _chance(int(np.sign(rises).sum()), column))


def _chance(score: int, column: Floats) -> float:
    """How likely a score at least as far from 0 is: of all pairs, those that rise less those that
    fall."""
    n = len(column)
    _, ties = np.unique(column, return_counts=True)
    variance = n * (n - 1) * (2 * n + 5) - int((ties * (ties - 1) * (2 * ties + 5)).sum())
    if not variance or not score:
        return 1.0
    return erfc((abs(score) - 1) / sqrt(variance / 18) / sqrt(2))


def _thinned(values: Sequence[float]) -> Floats:
    """No more than _MOST_COMPARED values: means of neighbours, where there are more."""
    column: Floats = np.array(values, dtype=np.float64)
    if len(column) <= _MOST_COMPARED:
        return column
    return np.array([part.mean() for part in np.array_split(column, _MOST_COMPARED)])
