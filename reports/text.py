"""The summary of results as plain text: what a terminal shows, without colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from .audit import write_audit
from .formats import AUDIT
from .side_by_side import side_by_side
from .terminal import write_summary
from .texts import aligned, encodable, plain, shortened

_NAME_WIDTH = 24


def text_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """One summary after the other; of several, each under its name, and a table of all."""
    written = io.StringIO()
    write_summaries(results, names, written, color=False)
    return written.getvalue().encode("utf-8", "backslashreplace")


def table_lines(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Several results side by side; nothing for a single one. Safe for a terminal."""
    pairs = [
        (result, shortened(plain(name), _NAME_WIDTH))
        for result, name in zip(results, names, strict=True)
        if result["schema"] != AUDIT
    ]
    if len(pairs) < 2:
        return []
    table = side_by_side([result for result, _ in pairs], [name for _, name in pairs])
    return aligned([table.head, *([plain(cell) for cell in row] for row in table.rows)])


def write_summaries(
    results: Sequence[Mapping[str, Any]], names: Sequence[str], stream: TextIO, *, color: bool
) -> None:
    """The same to a terminal, or to what stands in for one."""
    for number, (result, name) in enumerate(zip(results, names, strict=True)):
        if len(results) > 1:
            blank = "\n" if number else ""
            stream.write(f"{blank}{encodable(plain(name), stream.encoding)}\n")
        if result["schema"] == AUDIT:
            write_audit(result, [], stream, color=color)
        else:
            write_summary(result, None, stream, color=color)
    table = table_lines(results, names)
    if table:
        stream.write("\n")
        stream.writelines(f"{encodable(line, stream.encoding)}\n" for line in table)
    stream.flush()
