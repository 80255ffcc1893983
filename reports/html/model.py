"""What a page is made of: sections of charts and tables, before any HTML of the page itself.

A chart is either a drawing (SVG, made here) or a plot over time (drawn in the browser by uPlot,
from its numbers); each has a table with what it shows, and a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup
from msgspec import Struct

PlotUnit = Literal["rate", "time", "size", "count", "cores"]


class Table(Struct, frozen=True):
    """Rows of texts; a cell that says how something came out has a mark before it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Verdict]]
    left: int = 1
    """So many columns from the left are texts; the others are figures, to the right."""


class Verdict(Struct, frozen=True):
    """A word on whether something came out well; None: it neither did nor did not."""

    text: str
    ok: bool | None


class Line(Struct, frozen=True):
    """A line of a plot."""

    label: str
    values: Sequence[float | None]
    color: int
    """0 to 7, of the palette."""
    times: int = 0
    """Which of the plot's `times` it is over."""


class Plot(Struct, frozen=True):
    """Lines over time, for the browser to draw."""

    times: Sequence[Sequence[float]]
    """Seconds since the run began, of one or several runs."""
    lines: Sequence[Line]
    unit: PlotUnit
    log: bool = False
    bands: Sequence[Band] = ()


class Band(Struct, frozen=True):
    """Something that lasted, such as a fault, in seconds."""

    start: float
    end: float
    label: str
    kind: Literal["fault", "phase"]
    mark: str = ""
    """Stands on it, and is explained beside the charts."""


class Key(Struct, frozen=True):
    """An entry of a drawing's legend: text, and number in the palette."""

    label: str
    color: int


class Chart(Struct, frozen=True):
    """A figure of the page."""

    id: str
    title: str
    said: str
    """What it shows, in a sentence, also for those who can't see it."""
    table: Table
    svg: Markup | None = None
    plot: Plot | None = None
    legend: Sequence[Key] = ()
    wide: bool = False


class Section(Struct, frozen=True):
    """A part of the page, with a title; empty ones are left out."""

    id: str
    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[tuple[str, Table]] = ()
    """Titles and tables that stand on their own."""
    notes: Sequence[str] = ()
    columns: int = 2
    """Charts side by side, where there is room."""

    @property
    def is_empty(self) -> bool:
        return not (self.charts or self.tables or self.notes)


class Tile(Struct, frozen=True):
    """A figure that matters, on top."""

    label: str
    value: str
    checks: Sequence[Verdict]


class Part(Struct, frozen=True):
    """All about one result."""

    id: str
    name: str
    facts: Sequence[str]
    """What it is a result of, in short."""
    verdict: Verdict
    """The word, and the sentence is `sentence`."""
    sentence: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
