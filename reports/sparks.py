"""Sparklines: the course of a figure in a few characters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

BLOCKS: Final = "▁▂▃▄▅▆▇█"
GAP: Final = " "
"""Where nothing was observed."""


def sparkline(
    values: Sequence[float | None],
    width: int,
    merge: Callable[[Sequence[float]], float],
) -> str:
    """`values` from 0 (the lowest block) to their largest (the highest), at most `width` signs.

    Where there are more values than room, `merge` makes one of neighbours: their mean for a rate,
    their maximum for a latency, lest a peak be hidden. Negative values count as 0.
    """
    shown = _squeezed(values, width, merge)
    most = max((value for value in shown if value is not None), default=0.0)
    return "".join(_block(value, most) for value in shown).rstrip(GAP)


def _block(value: float | None, most: float) -> str:
    if value is None:
        return GAP
    if value <= 0 or most <= 0:
        return BLOCKS[0]
    return BLOCKS[min(len(BLOCKS) - 1, int(value / most * len(BLOCKS)))]


def _squeezed(
    values: Sequence[float | None], width: int, merge: Callable[[Sequence[float]], float]
) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    edges = [place * len(values) // width for place in range(width + 1)]
    merged: list[float | None] = []
    for start, end in pairwise(edges):
        known = [value for value in values[start:end] if value is not None]
        merged.append(merge(known) if known else None)
    return merged
