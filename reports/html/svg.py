"""Drawings: lines, bars, ranges, columns and a heatmap as SVG.

Pure: numbers in, markup out. Colours are classes (c0 to c7) that the page's style sheet defines
for light, dark and print; a drawing has a description for those who can't see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup
from msgspec import Struct

from .axes import Axis
from .markup import joined, tag
from .model import Band
from .png import grid_png

WIDTH: Final = 560
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 74, 22, 14, 50
ROW: Final = 26
_LABELS: Final = 190
_MOST_LABEL: Final = 22
_CHARACTER: Final = 10
"""The width of one, at most on average, on a small screen; elsewhere `_SMALL` of it."""
_SMALL: Final = 13 / 16


class Curve(Struct, frozen=True):
    """A line through points."""

    points: Sequence[tuple[float, float]]
    color: int
    dots: bool = False
    dashed: bool = False


class Mark(Struct, frozen=True):
    """A value on the x axis that is pointed out, with a label."""

    x: float
    label: str


class Piece(Struct, frozen=True):
    """A piece of a bar."""

    value: float
    color: int
    label: str


class Bar(Struct, frozen=True):
    """A bar of pieces, lying; with what it says at its end."""

    label: str
    pieces: Sequence[Piece]
    said: str


class Range(Struct, frozen=True):
    """From where to where most of something lies."""

    label: str
    low: float
    middle: float
    high: float
    most: float
    color: int


class Frame:
    """The area between two axes."""

    def __init__(self, x: Axis, y: Axis, height: int = HEIGHT, left: int = LEFT) -> None:
        self.x, self.y, self.height, self.left = x, y, height, left
        self._inner_width = WIDTH - left - RIGHT
        self._inner_height = height - TOP - BOTTOM

    def at_x(self, value: float) -> float:
        return self.left + self.x.place(value) * self._inner_width

    def at_y(self, value: float) -> float:
        return TOP + (1 - self.y.place(value)) * self._inner_height

    def grid(self) -> Markup:
        """Lines and labels of both axes."""
        parts, bottom, right = [], self.height - BOTTOM, WIDTH - RIGHT
        for value, label in self.y.ticks:
            y = self.at_y(value)
            parts.append(tag("line", x1=self.left, x2=right, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", label, x=self.left - 8, y=y + 4, class_="end"))
        for value, _ in self.x.ticks:
            x = self.at_x(value)
            parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="grid"))
        parts += self._below(bottom + 18)
        middle = (self.left + right) / 2
        parts.append(tag("text", self.x.title, x=middle, y=self.height - 8, class_="mid title"))
        return joined(parts)

    def _below(self, y: int) -> list[Markup]:
        """Labels of the x axis, the last one first; those without room are left out, and marked as
        tight those without room where letters are large (on a small screen)."""
        parts, free, free_large = [], float(WIDTH), float(WIDTH)
        for value, label in reversed(self.x.ticks):
            x, half = self.at_x(value), len(label) * _CHARACTER / 2
            small = half * _SMALL
            end = x + half > WIDTH
            if (WIDTH if end else x + small) > free:
                continue
            tight = (WIDTH if end else x + half) > free_large
            kind = f"{'end' if end else 'mid'}{' tight' if tight else ''}"
            parts.append(tag("text", label, x=WIDTH - 1 if end else x, y=y, class_=kind))
            free = (WIDTH - 2 * small if end else x - small) - _CHARACTER
            if not tight:
                free_large = (WIDTH - 2 * half if end else x - half) - _CHARACTER
        return parts


def drawing(height: int, said: str, *parts: Markup) -> Markup:
    """The SVG element; `said` describes it."""
    return tag(
        "svg",
        tag("title", said),
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=said,
        class_="drawing",
    )


def lines(
    said: str, x: Axis, y: Axis, curves: Sequence[Curve], marks: Sequence[Mark] = ()
) -> Markup:
    """Curves between two axes, and marks across."""
    frame = Frame(x, y)
    parts = [frame.grid()]
    for mark in marks:
        parts.append(_mark(frame, mark))
    for curve in curves:
        at = [(frame.at_x(a), frame.at_y(b)) for a, b in curve.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
        kind = f"line c{curve.color}{' dashed' if curve.dashed else ''}"
        if len(at) > 1:
            parts.append(tag("polyline", points=path, class_=kind))
        if curve.dots or len(at) == 1:
            parts += [tag("circle", cx=a, cy=b, r=4, class_=f"dot c{curve.color}") for a, b in at]
    return drawing(HEIGHT, said, *parts)


def dots(
    said: str, x: Axis, y: Axis, points: Sequence[tuple[float, float]], middle: Range | None
) -> Markup:
    """Single points, and across them a median with its interval."""
    frame = Frame(x, y)
    parts = [frame.grid()]
    left, right = frame.at_x(x.low), frame.at_x(x.high)
    if middle is not None:
        top, bottom = frame.at_y(middle.high), frame.at_y(middle.low)
        parts.append(
            tag("rect", x=left, y=top, width=right - left, height=bottom - top, class_="between c0")
        )
        at = frame.at_y(middle.middle)
        parts.append(tag("line", x1=left, x2=right, y1=at, y2=at, class_="line c0"))
    parts += [tag("circle", cx=frame.at_x(a), cy=frame.at_y(b), r=5, class_="dot c1")
              for a, b in points]  # fmt: skip
    return drawing(HEIGHT, said, *parts)


def bars(said: str, rows: Sequence[Bar], longest: float) -> Markup:
    """Bars from the left, a row each; `longest` is the value that takes the whole width."""
    room = WIDTH - _LABELS - 16 - _CHARACTER * max((len(bar.said) for bar in rows), default=0)
    parts = []
    for number, bar in enumerate(rows):
        y, x = 6 + number * ROW, float(_LABELS)
        parts.append(_row_label(bar.label, y))
        for piece in bar.pieces:
            width = max(0.0, piece.value) / (longest or 1) * room
            if width > 0.05:
                kind, told = f"fill c{piece.color}", tag("title", piece.label)
                parts.append(tag("rect", told, x=x, y=y, width=width, height=ROW - 8, class_=kind))
            x += width
        parts.append(tag("text", bar.said, x=x + 7, y=y + 14))
    return drawing(12 + ROW * len(rows), said, *parts)


def ranges(said: str, rows: Sequence[Range], x: Axis) -> Markup:
    """For each row a bar from low to high with its middle, and a thin line on to the most."""
    height = TOP + ROW * len(rows) + BOTTOM
    frame = Frame(x, Axis(0, 1, []), height, left=_LABELS)
    parts = [frame.grid()]
    for number, row in enumerate(rows):
        y = TOP + number * ROW
        low, middle, high, most = (
            frame.at_x(value) for value in (row.low, row.middle, row.high, row.most)
        )
        parts.append(_row_label(row.label, y))
        parts.append(
            tag("line", x1=high, x2=most, y1=y + 10, y2=y + 10, class_=f"thin c{row.color}")
        )
        parts.append(
            tag("line", x1=most, x2=most, y1=y + 5, y2=y + 15, class_=f"thin c{row.color}")
        )
        width = max(2.0, high - low)
        parts.append(
            tag("rect", x=low, y=y + 3, width=width, height=14, class_=f"fill c{row.color}")
        )
        parts.append(tag("line", x1=middle, x2=middle, y1=y, y2=y + 20, class_="middle"))
    return drawing(height, said, *parts)


def columns(said: str, x: Axis, y: Axis, counts: Sequence[tuple[float, float, float]]) -> Markup:
    """Standing bars: from, to, and how high."""
    frame = Frame(x, y)
    bottom = frame.at_y(y.low)
    parts = [frame.grid()]
    for start, end, count in counts:
        left, right, top = frame.at_x(start), frame.at_x(end), frame.at_y(count)
        gap = 1.0 if right - left > 4 else 0.0
        width, height = max(0.8, right - left - 2 * gap), max(0.0, bottom - top)
        parts.append(tag("rect", x=left + gap, y=top, width=width, height=height, class_="fill c0"))
    return drawing(HEIGHT, said, *parts)


def heatmap(
    said: str,
    x: Axis,
    y: Axis,
    grid: Sequence[Sequence[float]],
    color: tuple[int, int, int],
    bands: Sequence[Band] = (),
) -> Markup:
    """A grid of 0 to 1 that fills the area, its first row on top, and bands across."""
    frame = Frame(x, y)
    left, top = frame.at_x(x.low), frame.at_y(y.high)
    picture = tag(
        "image",
        x=left,
        y=top,
        width=frame.at_x(x.high) - left,
        height=frame.at_y(y.low) - top,
        href=grid_png(grid, color),
        preserveAspectRatio="none",
        class_="grid-picture",
    )
    shown = [_band(frame, band) for band in bands if band.start < x.high]
    return drawing(HEIGHT, said, frame.grid(), picture, *shown)


def _band(frame: Frame, band: Band) -> Markup:
    left, top = frame.at_x(band.start), frame.at_y(frame.y.high)
    width, height = max(2.0, frame.at_x(band.end) - left), frame.at_y(frame.y.low) - top
    shape = tag(
        "rect",
        tag("title", band.label),
        x=left,
        y=top,
        width=width,
        height=height,
        class_=f"band {band.kind}",
    )
    return shape + tag("text", band.mark, x=left + width / 2, y=top + 13, class_="mid")


def _mark(frame: Frame, mark: Mark) -> Markup:
    x, right = frame.at_x(mark.x), frame.at_x(mark.x) > WIDTH * 0.6
    line = tag("line", x1=x, x2=x, y1=TOP, y2=frame.height - BOTTOM, class_="mark")
    beside, side = (x - 6, "end") if right else (x + 6, None)
    return line + tag("text", mark.label, x=beside, y=frame.height - BOTTOM - 10, class_=side)


def _row_label(label: str, y: float) -> Markup:
    short = label if len(label) <= _MOST_LABEL else label[: _MOST_LABEL - 1] + "…"
    return tag("text", short, tag("title", label), x=_LABELS - 8, y=y + 14, class_="end")
