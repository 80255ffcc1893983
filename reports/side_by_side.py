"""Several results side by side: a row each, the figures that matter as columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from .figures import NOTHING, figures

_COLUMNS: Final[Mapping[str, str]] = {
    "throughput": "throughput",
    "response.p50": "p50",
    "response.p99": "p99",
    "response.max": "max",
    "ordering.violations": "disorder",
    "delivery.lost": "lost",
    "dead_letters": "dead",
}
"""The name of a figure, and what its column is called."""


class Table(Struct, frozen=True):
    """Rows of as many cells as there are names in the head; names of results are untrusted."""

    head: list[str]
    rows: list[list[str]]


def side_by_side(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """A row for each result: its name, verdict, and figures. What was asked of a figure and did not
    come out well is marked with an exclamation mark."""
    found = [{figure.name: figure for figure in figures(result)} for result in results]
    shown = [name for name in _COLUMNS if any(name in each for each in found)]
    rows = []
    for result, name, of_result in zip(results, names, found, strict=True):
        cells = [name, str(result["verdict"])]
        for figure_name in shown:
            figure = of_result.get(figure_name)
            mark = " !" if figure is not None and figure.ok is False else ""
            cells.append(NOTHING if figure is None else figure.text + mark)
        rows.append(cells)
    return Table(["result", "verdict", *(_COLUMNS[name] for name in shown)], rows)
