"""A comparison on a terminal: coloured where there is one, else plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TextIO

from .comparison import Comparison
from .comparison_words import (
    EACH,
    HEADINGS,
    TOGETHER,
    Row,
    doubts,
    gate_line,
    headline,
    row_of,
)
from .texts import aligned, encodable, plain, shortened

_GREEN, _RED, _YELLOW, _DIM, _OFF = "\x1b[1;32m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[2m", "\x1b[0m"
_OF_VERDICT: Final = {
    **dict.fromkeys(("faster", "better"), _GREEN),
    **dict.fromkeys(("slower", "worse"), _RED),
    **dict.fromkeys(("mixed", "too few runs"), _YELLOW),
}
_MOST: Final = 400
_OF_STATE: Final = {"held": _RED, "undecided": _YELLOW, "not held": ""}


def write_comparison(comparison: Comparison, stream: TextIO, *, color: bool) -> None:
    """Write it to `stream`."""
    encoding = stream.encoding
    stream.writelines(
        f"{encodable(line, encoding)}\n" for line in lines_of(comparison, color=color)
    )
    stream.flush()


def lines_of(comparison: Comparison, *, color: bool = False) -> list[str]:
    """The verdict, the gates, the figures, then what makes it doubtful."""

    def painted(text: str, paint: str) -> str:
        return f"{paint}{text}{_OFF}" if color and paint else text

    lines = [painted(headline(comparison), _OF_VERDICT.get(comparison.verdict, ""))]
    for outcome in comparison.gates:
        told = _shown(gate_line(outcome))
        lines.append(f"  {painted(told, _OF_STATE[outcome.state])}")
    primary = [row_of(each) for each in comparison.primary]
    additional = [row_of(each) for each in comparison.additional]
    table = aligned([HEADINGS, *(row.cells for row in (*primary, *additional))])
    lines.append(f"  {painted(table[0], _DIM)}")
    lines += _painted_rows(table[1 : 1 + len(primary)], primary, color)
    lines.append(f"  {painted(TOGETHER, _DIM)}")
    if additional:
        lines.append(f"  {painted(EACH, _DIM)}")
        lines += _painted_rows(table[1 + len(primary) :], additional, color)
    lines += [painted(f"  ! {_shown(each)}", _YELLOW) for each in doubts(comparison)]
    return lines


def _painted_rows(texts: Sequence[str], rows: Sequence[Row], color: bool) -> list[str]:
    paints = {"better": _GREEN, "worse": _RED, "": _DIM}
    return [
        f"  {text.removesuffix(row.word)}{paints[row.direction]}{row.word}{_OFF}"
        if color
        else f"  {text}"
        for text, row in zip(texts, rows, strict=True)
    ]


def _shown(text: str) -> str:
    """A text that holds others' in a line."""
    return shortened(plain(text), _MOST)
