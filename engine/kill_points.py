"""Where a run is killed: by how far it has come, as drawn from a seed.

Pure: no clock, no processes.
"""

from __future__ import annotations

import random
from math import ceil
from typing import Final, Literal

from msgspec import Struct

Kind = Literal["start", "checkpoint", "output", "call", "bytes", "written", "named"]

_WORDS: Final[dict[Kind, str]] = {
    "start": "as it started",
    "checkpoint": "once its checkpoint was there",
    "output": "once its output was begun",
    "call": "at handler call {at:,}",
    "bytes": "at {at:,} bytes of output",
    "written": "once all {at:,} bytes of output were written",
    "named": "as the output got its name",
}
EARLY: Final[tuple[Kind, ...]] = ("start", "checkpoint", "output")
_A_FIFTH: Final = 5
_LATEST: Final = 0.95
_GRACE: Final = 0.1
"""Of all calls: how long a kill waits for bytes of output, or what else is slow to come."""


class Point(Struct, frozen=True):
    """A moment to kill a sitting at."""

    kind: Kind
    at: int = 0
    """Calls since the run began, or bytes of its output."""
    latest_call: int | None = None
    """The call at which the sitting is killed in any case; 1 is its first one."""

    @property
    def words(self) -> str:
        return _WORDS[self.kind].format(at=self.at)


def draw_points(seed: int, kills: int, calls: int, output_bytes: int) -> list[Point]:
    """Where to kill a run that, undisturbed, makes `calls` and writes `output_bytes`.

    Of three and more kills a fifth, one at least, comes very early and as many very late.
    """
    dice = random.Random(f"millstream prove {seed}")
    extreme = max(1, kills // _A_FIFTH) if kills >= 3 else 0
    shares = sorted(dice.uniform(0.02, _LATEST) for _ in range(kills - 2 * extreme))
    points = [_middle(dice, share, calls, output_bytes) for share in shares]
    for number in range(extreme):
        # The first is the run's very start, others that of some sitting that goes on with it.
        at = dice.randrange(len(points) + 1) if number else 0
        points.insert(at, Point(dice.choice(EARLY), latest_call=1))
    late: list[Point] = [Point("named")] if extreme else []
    while len(late) < extreme:
        late.insert(0, Point("written", output_bytes) if output_bytes else Point("call", calls))
    if late and extreme == 1 and output_bytes and dice.random() < 0.5:
        late = [Point("written", output_bytes)]
    return points + late


def _middle(dice: random.Random, share: float, calls: int, output_bytes: int) -> Point:
    call = max(1, ceil(share * calls))
    if output_bytes and dice.random() < 0.4:
        latest = min(calls, call + ceil(_GRACE * calls))
        return Point("bytes", max(1, int(share * output_bytes)), latest)
    return Point("call", call, call)


def kill_at_call(point: Point, calls_so_far: int) -> int | None:
    """The call, counted over all sittings, at which a sitting is killed in any case."""
    if point.latest_call is None:
        return None
    if point.kind in EARLY:
        return calls_so_far + point.latest_call
    return max(point.latest_call, calls_so_far + 1)
