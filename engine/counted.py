"""What a histogram holds at a moment, and what is read off that: percentiles, counts below bounds.

Pure. Whoever watches a run gets these, so that nothing is worked out of what nobody looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from .histogram import Histogram, Ints, bucket_of, buckets_at, highest_in


class Counted(Struct, frozen=True, eq=False):
    """The counts of a histogram, by its buckets, and the sum of what was recorded (ns)."""

    buckets: Ints
    sum: int

    @classmethod
    def of(cls, histogram: Histogram) -> Counted:
        """All that was recorded until now."""
        buckets, total = histogram.buckets()
        return cls(buckets, total)

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return int(self.buckets.sum())

    @property
    def max(self) -> int | None:
        """The highest value equivalent to the largest (ns); None when empty."""
        held = np.flatnonzero(self.buckets)
        return highest_in(int(held[-1])) if len(held) else None

    def since(self, before: Counted | None) -> Counted:
        """What was recorded after `before`, an earlier moment of the same histogram."""
        if before is None:
            return self
        return Counted(self.buckets - before.buckets, self.sum - before.sum)

    def plus(self, other: Counted) -> Counted:
        """Both together."""
        return Counted(self.buckets + other.buckets, self.sum + other.sum)

    def percentiles(self, *percents: float) -> list[int | None]:
        """The highest values (ns) equivalent to those at `percents` (0 to 100); None when empty."""
        places = buckets_at(self.buckets, percents)
        return [highest_in(place) for place in places] or [None] * len(percents)

    def at_most(self, bounds: Sequence[int]) -> list[int]:
        """How many values were at most each of `bounds` (ns), or equivalent to it."""
        running = np.cumsum(self.buckets)
        places = bucket_of(np.asarray(bounds, dtype=np.int64))
        return [int(count) for count in running[places]]
