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
    "call": "at its handler call {at:,}",
    "bytes": "at {at:,} bytes of output",
    "written": "once all {at:,} bytes of output were written",
    "named": "as the output got its name",
}
EARLY: Final[tuple[Kind, ...]] = ("start", "checkpoint", "output")
_A_FIFTH: Final = 5
_LATEST: Final = 0.85
_GRACE: Final = 0.1
"""Of all calls, over all sittings: how long kills wait for bytes of output beyond their share."""


class Point(Struct, frozen=True):
    """A moment to kill a sitting at."""

    kind: Kind
    at: int = 0
    """Handler calls of the sitting, or bytes of the output, those of earlier sittings included."""
    latest_call: int | None = None
    """The call of the sitting, from 1, at which it is killed in any case."""

    @property
    def words(self) -> str:
        return _WORDS[self.kind].format(at=self.at)


def draw_points(seed: int, kills: int, calls: int, output_bytes: int) -> list[Point]:
    """Where to kill a run that, undisturbed, makes `calls` and writes `output_bytes`.

    Of three and more kills a fifth, one at least, comes very early and as many very late.
    """
    dice = random.Random(f"millstream prove {seed}")
    extreme = max(1, kills // _A_FIFTH) if kills >= 3 else 0
    points = _between(dice, kills - 2 * extreme, calls, output_bytes)
    for number in range(extreme):
        # The first is the run's very start, others that of some sitting that goes on with it.
        at = dice.randrange(len(points) + 1) if number else 0
        points.insert(at, Point(dice.choice(EARLY), latest_call=1))
    # Once the output has its name, nothing is written any more: that comes last.
    named = sum(dice.random() < 0.5 or not output_bytes for _ in range(extreme))
    points += [Point("written", output_bytes)] * (extreme - named)
    return points + [Point("named", output_bytes)] * named


def _between(dice: random.Random, count: int, calls: int, output_bytes: int) -> list[Point]:
    """Points on the way: each sitting comes some share of the way further."""
    points: list[Point] = []
    before = 0.0
    for share in sorted(dice.uniform(0.02, _LATEST) for _ in range(count)):
        call = max(1, ceil((share - before) * calls))
        if output_bytes and dice.random() < 0.4:
            latest = call + int(_GRACE * calls / count)
            points.append(Point("bytes", max(1, int(share * output_bytes)), latest))
        else:
            points.append(Point("call", call, call))
        before = share
    return points
