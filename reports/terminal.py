"""The summary of a result on a terminal: coloured by rich where there is one, else plain text.

All that is written has passed `plain` and `encodable`: nothing in a result reaches the terminal as
a command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from msgspec import Struct

from .bench import experiment_lines
from .summary import StageRow, Summary, summarize
from .texts import aligned, encodable, plain

_LABEL_WIDTH = 13
_STAGES = ("stage", "executor", "handled", "wait p50 / p99", "service p50 / p99")


class _Page(Struct, frozen=True):
    """What is written, safe for the terminal."""

    headline: str
    lines: list[tuple[str, str]]
    stages: list[tuple[str, ...]]
    problems: list[str]
    experiment: list[str]


def write_summary(
    result: Mapping[str, Any], notes: Sequence[str] | None, stream: TextIO, *, color: bool
) -> None:
    """Write the summary to `stream`; `notes` as summarize() has them."""
    page = _page(summarize(result, notes), result.get("experiment"), stream.encoding)
    if color:
        _write_rich(page, result["exit_code"], stream)
    else:
        stream.write("\n".join(_plain_lines(page)) + "\n")
    stream.flush()


def plain_text(result: Mapping[str, Any]) -> str:
    """The summary of a result that was read, as lines of plain text."""
    return "\n".join(_plain_lines(_page(summarize(result, None), result.get("experiment")))) + "\n"


def _page(
    summary: Summary, experiment: Mapping[str, Any] | None, encoding: str | None = None
) -> _Page:
    def safe(text: str) -> str:
        return encodable(plain(text), encoding)

    table = [] if experiment is None else experiment_lines(experiment)
    return _Page(
        safe(summary.headline),
        [(safe(label), safe(text)) for label, text in summary.lines],
        [tuple(map(safe, _cells(stage))) for stage in summary.stages],
        [safe(problem) for problem in summary.problems],
        [safe(line) for line in table],
    )


def _cells(stage: StageRow) -> tuple[str, ...]:
    return stage.name, stage.executor, stage.handled, stage.wait, stage.service


def _plain_lines(page: _Page) -> list[str]:
    lines = [page.headline]
    lines += [f"  {label:<{_LABEL_WIDTH}}{text}" for label, text in page.lines]
    lines += [f"  {row}" for row in aligned([_STAGES, *page.stages])]
    lines += [f"  ! {problem}" for problem in page.problems]
    return lines + [f"  {line}".rstrip() for line in page.experiment]


def _write_rich(page: _Page, exit_code: int, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    style = "bold green" if exit_code == 0 else "bold yellow" if exit_code == 4 else "bold red"
    console.print(Text(page.headline, style=style))
    lines = Table.grid(padding=(0, 0))
    lines.add_column(no_wrap=True, min_width=_LABEL_WIDTH + 2)
    lines.add_column(overflow="fold")
    for label, text in page.lines:
        lines.add_row(Text("  " + label, "dim"), Text(text))
    console.print(lines)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in _STAGES:
        indent = "  " if name == "stage" else ""
        table.add_column(indent + name, justify="right" if name == "handled" else "left")
    for name, *cells in page.stages:
        table.add_row(*(Text(text) for text in ("  " + name, *cells)))
    console.print(table)
    for problem in page.problems:
        console.print(Text(f"  ! {problem}", style="red"))
    for line in page.experiment:
        console.print(Text(f"  {line}"))
