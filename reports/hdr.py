"""Histograms for HdrHistogram's public tools: percentile text (.hgrm) and interval log (.hlog).

Pure: histograms in, text out. The formats are those of github.com/HdrHistogram/HdrHistogram; what
is written follows the reference implementation in Java where other ones differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from math import inf, isfinite, sqrt
from typing import Final

from msgspec import Struct

from millstream.engine.histogram import HIGHEST, Histogram, highest_in, lowest_in
from millstream.engine.histogram_codec import encoded, filled

NS_PER_MS: Final = 1_000_000.0
"""Divides values in ns so that they stand in milliseconds, which the tools expect."""

_DIGITS: Final = 3
_SUB_BUCKETS: Final = 2048
_BUCKETS: Final = HIGHEST.bit_length() - _SUB_BUCKETS.bit_length() + 2

_YEAR_10000: Final = 253_402_300_800
_LEGEND: Final = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'


class PercentileStep(Struct, frozen=True):
    """A line of a percentile distribution: `count` values are `value` or less."""

    value: int
    """The highest one that is equivalent to what was recorded; in the unit recorded."""
    percentile: float
    """0 to 100: at most as many percent as `count` is."""
    count: int
    inverse: float
    """1 / (1 − percentile / 100); infinite at 100."""


class IntervalHistogram(Struct, frozen=True):
    """What was recorded in an interval of a run."""

    start_s: float
    """Seconds since the start of the log."""
    length_s: float
    histogram: Histogram
    tag: str | None = None
    """Tells several series in one log apart; without commas and white space."""


def percentile_spectrum(
    histogram: Histogram, ticks_per_half_distance: int = 5
) -> list[PercentileStep]:
    """The steps of a percentile distribution, finer and finer toward 100 %.

    From each percentile that is a half (a quarter, an eighth, …) away from 100 % there are
    `ticks_per_half_distance` equal steps to the next one (PercentileIterator of the Java version;
    several ports have steps that shrink within a half-distance). One is given for each percentile
    that has been reached with a value, and a last one for 100 %; none when nothing was recorded.
    """
    if ticks_per_half_distance < 1:
        raise ValueError(
            f"there are {ticks_per_half_distance} ticks per half-distance; give it 1 or more"
        )
    steps: list[PercentileStep] = []
    total, up_to = histogram.count, 0
    levels = _levels(ticks_per_half_distance)
    ahead, whole = next(levels)
    for place, count in filled(histogram):
        value = highest_in(place)
        up_to += count
        # In integers: no number of events is so large that a level can't be told from 100 %.
        while (total - up_to) * whole <= total * ahead:
            steps.append(PercentileStep(value, 100 - 100 * ahead / whole, up_to, whole / ahead))
            ahead, whole = next(levels)
            if up_to == total:
                break
    if steps:
        steps.append(PercentileStep(steps[-1].value, 100.0, total, inf))
    return steps


def _levels(ticks: int) -> Iterator[tuple[int, int]]:
    """How far each level is away from 100 %, as a fraction: numerator and denominator."""
    whole = 2 * ticks
    while True:
        for tick in range(ticks):
            yield 2 * ticks - tick, whole
        whole *= 2


def hgrm(
    histogram: Histogram, unit_ratio: float = NS_PER_MS, ticks_per_half_distance: int = 5
) -> str:
    """A histogram as HdrHistogram's percentile text, for its plotter and other tools.

    Values are divided by `unit_ratio`. Mean and standard deviation are HdrHistogram's: those of
    the middles of its buckets, not of the values recorded.
    """
    if not (unit_ratio > 0 and isfinite(unit_ratio)):
        raise ValueError(f"the unit ratio is {unit_ratio}; give it one above 0")
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    for step in percentile_spectrum(histogram, ticks_per_half_distance):
        line = (
            f"{step.value / unit_ratio:12.{_DIGITS}f} {step.percentile / 100:.12f} {step.count:10d}"
        )
        lines.append(line if step.inverse == inf else f"{line} {step.inverse:14.2f}")
    mean, deviation = (each / unit_ratio for each in _moments(histogram))
    highest = _highest(histogram) / unit_ratio
    lines += [
        f"#[Mean    = {mean:12.{_DIGITS}f}, StdDeviation   = {deviation:12.{_DIGITS}f}]",
        f"#[Max     = {highest:12.{_DIGITS}f}, Total count    = {histogram.count:12d}]",
        f"#[Buckets = {_BUCKETS:12d}, SubBuckets     = {_SUB_BUCKETS:12d}]",
    ]
    return "\n".join(lines) + "\n"


def hlog(
    intervals: Iterable[IntervalHistogram],
    started_s: float,
    comment: str = "",
    unit_ratio: float = NS_PER_MS,
) -> str:
    """Histograms of intervals as an interval log of version 1.2.

    `started_s` is the wall-clock time in seconds since the epoch from which on the intervals'
    starts are counted. Give the intervals in the order of their starts: readers stop at the first
    one that is beyond what they look for. Only the column Interval_Max is divided by `unit_ratio`;
    the histograms keep the unit recorded. Raises ValueError for a tag, a time or a ratio that
    the format has no room for.
    """
    lines = hlog_head(started_s, comment)
    lines += [hlog_line(interval, unit_ratio) for interval in intervals]
    return "\n".join(lines) + "\n"


def hlog_head(started_s: float, comment: str = "") -> list[str]:
    """The lines before the first interval, for those who write a log as it comes."""
    if not 0 <= started_s < _YEAR_10000:
        raise ValueError(f"the log starts at {started_s} s; give it seconds since the epoch")
    when = datetime.fromtimestamp(started_s, UTC).isoformat(timespec="milliseconds")
    return [
        # Behind a space no comment is taken for one of the lines below.
        *(f"# {line}" for line in comment.splitlines()),
        "#[Histogram log format version 1.2]",
        f"#[StartTime: {started_s:.3f} (seconds since epoch), {when}]",
        f"#[BaseTime: {started_s:.3f} (seconds since epoch)]",
        _LEGEND,
    ]


def hlog_line(interval: IntervalHistogram, unit_ratio: float = NS_PER_MS) -> str:
    """The line of an interval."""
    start, length, tag = interval.start_s, interval.length_s, interval.tag
    if not (start >= 0 and length >= 0 and isfinite(start + length)):
        raise ValueError(
            f"an interval starts at {start} s and lasts {length} s; give it times of 0 or more"
        )
    if not (unit_ratio > 0 and isfinite(unit_ratio)):
        raise ValueError(f"the unit ratio is {unit_ratio}; give it one above 0")
    if tag is not None and (not tag or "," in tag or tag.split() != [tag]):
        raise ValueError(f"the tag {tag!r} can't stand in a log; leave out commas and white space")
    label = f"Tag={tag}," if tag is not None else ""
    highest = _highest(interval.histogram) / unit_ratio
    return f"{label}{start:.3f},{length:.3f},{highest:.3f},{encoded(interval.histogram)}"


def _highest(histogram: Histogram) -> int:
    """The highest value that is equivalent to the largest one recorded, as the tools have it."""
    holding = filled(histogram)
    return highest_in(holding[-1][0]) if holding else 0


def _moments(histogram: Histogram) -> tuple[float, float]:
    """Mean and standard deviation, each value standing for the middle of its bucket."""
    total = histogram.count
    if not total:
        return 0.0, 0.0
    weighted = [
        (lowest_in(place) + lowest_in(place + 1) >> 1, count) for place, count in filled(histogram)
    ]
    mean = sum(middle * count for middle, count in weighted) / total
    return mean, sqrt(sum((middle - mean) ** 2 * count for middle, count in weighted) / total)
