"""HdrHistogram with three significant digits, recorded by batch and merged by adding counts.

Pure. The bucket layout is HdrHistogram's own (sub-bucket count 2048, unit magnitude 0), so that
its public tools read what is exported; memory is constant whatever is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

HIGHEST: Final = (1 << 42) - 1
"""The largest value that is told apart, 73 minutes in ns; larger ones count as this one."""

BUCKETS: Final = (31 << 10) + 2048
_FLUSH_AT: Final = 4096

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Summary(msgspec.Struct, frozen=True, rename={"n": "count"}):
    """A distribution in the figures of the result file; integers, in the unit recorded (ns)."""

    n: int
    min: int
    mean: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int


class HistogramState(msgspec.Struct, frozen=True):
    """A histogram as it is kept: the buckets that hold something, and how much."""

    places: bytes
    counts: bytes
    sum: int
    min: int
    max: int


class Histogram:
    """Counts of non-negative integers, exact to three significant digits."""

    def __init__(self) -> None:
        self._counts: Ints = np.zeros(BUCKETS, dtype=np.int64)
        self._pending: list[Ints] = []
        self._pending_n = 0
        self._total = 0
        self._sum = 0
        self._min = HIGHEST
        self._max = 0

    def record(self, values: Ints | Iterable[int]) -> None:
        """Count each of `values`; negative ones count as 0."""
        batch = values if isinstance(values, np.ndarray) else np.fromiter(values, dtype=np.int64)
        if not len(batch):
            return
        self._pending.append(batch)
        self._pending_n += len(batch)
        if self._pending_n >= _FLUSH_AT:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        values = np.concatenate(self._pending) if len(self._pending) > 1 else self._pending[0]
        self._pending, self._pending_n = [], 0
        self._total += len(values)
        values = np.clip(values, 0, HIGHEST)
        self._sum += int(values.sum())
        self._min = min(self._min, int(values.min()))
        self._max = max(self._max, int(values.max()))
        np.add.at(self._counts, bucket_of(values), 1)

    def merge(self, other: Histogram) -> None:
        """Add what `other` counted; it stays as it is."""
        self._flush()
        other._flush()
        self._counts += other._counts
        self._total += other._total
        self._sum += other._sum
        self._min = min(self._min, other._min)
        self._max = max(self._max, other._max)

    def snapshot(self) -> HistogramState:
        """All that was recorded, for restore()."""
        self._flush()
        places = np.flatnonzero(self._counts)
        counts = self._counts[places]
        return HistogramState(
            places.astype("<i8").tobytes(),
            counts.astype("<i8").tobytes(),
            self._sum,
            self._min,
            self._max,
        )

    def restore(self, state: HistogramState) -> None:
        """Count what was counted before, too."""
        places, counts = (np.frombuffer(c, dtype="<i8") for c in (state.places, state.counts))
        self._counts[places] += counts
        self._total += int(counts.sum())
        self._sum += state.sum
        self._min = min(self._min, state.min)
        self._max = max(self._max, state.max)

    def buckets(self) -> tuple[Ints, int]:
        """How many values each of the BUCKETS holds, as a copy, and the sum of all values."""
        self._flush()
        return self._counts.copy(), self._sum

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return self._total + self._pending_n

    def percentile(self, percent: float) -> int:
        """The highest value equivalent to the one at `percent` (0 to 100); 0 when empty."""
        return self.percentiles(percent)[0]

    def percentiles(self, *percents: float) -> list[int]:
        """Several at once, which costs no more than one."""
        self._flush()
        places = buckets_at(self._counts, percents)
        return [min(highest_in(place), self._max) for place in places] or [0] * len(percents)

    def summary(self) -> Summary | None:
        """The figures of the result file; None when nothing was recorded."""
        self._flush()
        if not self._total:
            return None
        p50, p90, p99, p999 = self.percentiles(50, 90, 99, 99.9)
        mean = round(self._sum / self._total)
        return Summary(self._total, self._min, mean, p50, p90, p99, p999, self._max)

    def counts(self) -> dict[int, int]:
        """Lowest value of each bucket that holds something -> how many it holds."""
        self._flush()
        return {lowest_in(int(b)): int(self._counts[b]) for b in np.flatnonzero(self._counts)}


def recorded_since(state: HistogramState, before: HistogramState) -> HistogramState:
    """What a histogram counts in `state` and did not in `before`, an earlier one of the same.

    Its least and largest value are those of their buckets.
    """
    counts = np.zeros(BUCKETS, dtype=np.int64)
    for each, sign in ((state, 1), (before, -1)):
        places, more = (np.frombuffer(c, dtype="<i8") for c in (each.places, each.counts))
        counts[places] += sign * more
    places = np.flatnonzero(counts)
    low, high = HIGHEST, 0
    if len(places):
        low, high = lowest_in(int(places[0])), highest_in(int(places[-1]))
    return HistogramState(
        places.astype("<i8").tobytes(),
        counts[places].astype("<i8").tobytes(),
        state.sum - before.sum,
        max(low, state.min),
        min(high, state.max),
    )


def buckets_at(counts: Ints, percents: Sequence[float]) -> list[int]:
    """The bucket in which each of `percents` (0 to 100) lies; none when nothing is counted."""
    running = np.cumsum(counts)
    total = int(running[-1])
    if not total:
        return []
    wanted = [max(1, int(percent / 100 * total + 0.5)) for percent in percents]
    return [int(place) for place in np.searchsorted(running, wanted)]


def bucket_of(values: Ints) -> Ints:
    """The bucket of each value: `s = max(0, bit_length - 11); (s << 10) + (value >> s)`."""
    exponents = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    shifts = np.maximum(exponents - 11, 0)
    buckets: Ints = (shifts << 10) + (values >> shifts)
    return buckets


def lowest_in(bucket: int) -> int:
    """The lowest value that counts in `bucket`."""
    shift = max(0, (bucket >> 10) - 1)
    return (bucket - (shift << 10)) << shift


def highest_in(bucket: int) -> int:
    """The highest value that counts in `bucket`."""
    return lowest_in(bucket + 1) - 1
