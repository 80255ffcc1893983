"""The summary of a result on a terminal: coloured by rich where there is one, else plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from .bench import experiment_lines
from .summary import Summary, summarize


def write_summary(
    result: Mapping[str, Any], notes: list[str], stream: TextIO, *, color: bool
) -> None:
    """Write the summary to `stream`."""
    summary = summarize(result, notes)
    if color:
        _write_rich(summary, result["exit_code"], stream)
    else:
        stream.write("\n".join(plain_lines(summary)) + "\n")
    stream.flush()


def write_experiment(experiment: Mapping[str, Any], stream: TextIO) -> None:
    """Write the table of an experiment to `stream`."""
    stream.writelines(f"  {line}\n" for line in experiment_lines(experiment))
    stream.flush()


def plain_lines(summary: Summary) -> list[str]:
    """The summary as lines of plain text."""
    lines = [summary.headline]
    lines += [f"  {label:<13}{text}" for label, text in summary.lines]
    rows = [("stage", "executor", "handled", "wait p50 / p99", "service p50 / p99")]
    rows += [(s.name, s.executor, s.handled, s.wait, s.service) for s in summary.stages]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    lines += [f"  ! {problem}" for problem in summary.problems]
    return lines


def _write_rich(summary: Summary, exit_code: int, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    style = "bold green" if exit_code == 0 else "bold yellow" if exit_code == 4 else "bold red"
    console.print(Text(summary.headline, style=style))
    for label, text in summary.lines:
        console.print(Text.assemble(("  " + label.ljust(13), "dim"), text))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("  stage", "executor", "handled", "wait p50 / p99", "service p50 / p99"):
        table.add_column(name, justify="right" if name == "handled" else "left")
    for row in summary.stages:
        table.add_row("  " + row.name, row.executor, row.handled, row.wait, row.service)
    console.print(table)
    for problem in summary.problems:
        console.print(Text(f"  ! {problem}", style="red"))
