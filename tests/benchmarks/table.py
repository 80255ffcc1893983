"""From samples to the table: medians, ratios, goals met or not. No clock and no commands here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.rows import Row
from tests.benchmarks.session import Record

HEADER = (
    *("row", "work", "median s", "min–max s"),
    *("against", "ratio", "goal", "met", "CPU s", "peak MiB"),
)
NUMERIC = frozenset({"median s", "min–max s", "ratio", "CPU s", "peak MiB"})
UNKNOWN = "–"


@dataclass(frozen=True)
class Line:
    """The figures of one row; None where something was not measured."""

    row: Row
    wall_seconds: float | None
    ratio: float | None
    met: bool | None
    # For a peer: how many times faster the best Millstream row on the same work is.
    ahead: float | None


def derive(records: Sequence[Record]) -> list[Line]:
    """One line a record, in the same order."""
    walls = {r.row.name: _median_seconds(r) for r in records}
    return [_derive_one(record, records, walls) for record in records]


def _derive_one(record: Record, records: Sequence[Record], walls: dict[str, float | None]) -> Line:
    row, wall, yardstick = record.row, walls[record.row.name], walls.get(record.row.against)
    ratio = ahead = met = None
    if wall and yardstick:
        ratio = wall / yardstick if row.inverse else yardstick / wall
    if ratio is not None and row.goal is not None:
        met = ratio <= row.goal if row.inverse else ratio >= row.goal
    if row.group == "peer" and wall:
        best = _best_of_ours(row, records, walls)
        ahead = wall / best if best else None
        met = ahead > 1 if ahead is not None else None
    return Line(row, wall, ratio, met, ahead)


def _best_of_ours(
    row: Row, records: Iterable[Record], walls: dict[str, float | None]
) -> float | None:
    ours = (
        walls[record.row.name]
        for record in records
        if record.row.group == "run"
        and (record.row.work, record.row.input) == (row.work, row.input)
    )
    return min((wall for wall in ours if wall), default=None)


def _median_seconds(record: Record) -> float | None:
    """The median of the wall times; None for a row with a fault, whatever it did before."""
    if record.fault is not None or not record.samples:
        return None
    return median(sample.wall_ns for sample in record.samples) / 1e9


def render(records: Sequence[Record]) -> str:
    """The table in Markdown, aligned to be read as it is, and a note for each fault."""
    lines = derive(records)
    cells = [HEADER, *(_cells(r, line) for r, line in zip(records, lines, strict=True))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER))]
    rule = [
        "-" * (width - 1) + ":" if name in NUMERIC else "-" * width
        for name, width in zip(HEADER, widths, strict=True)
    ]
    text = [_join(row, widths) for row in (cells[0], tuple(rule), *cells[1:])]
    notes = [f"- {r.row.name}: {r.fault}" for r in records if r.fault]
    return "\n".join(text + (["", "Not measured:", "", *notes] if notes else [])) + "\n"


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if name in NUMERIC else cell.ljust(width)
        for name, cell, width in zip(HEADER, cells, widths, strict=True)
    )
    return f"| {' | '.join(padded)} |"


def _cells(record: Record, line: Line) -> tuple[str, ...]:
    row = line.row
    against = UNKNOWN if row.against == row.name else row.against
    head, goal = (row.name, row.about), _goal(row)
    if line.wall_seconds is None:
        fault = "not installed" if record.fault == "not installed" else "failed, see below"
        return (*head, UNKNOWN, UNKNOWN, against, UNKNOWN, goal, fault, UNKNOWN, UNKNOWN)
    walls = [sample.wall_ns / 1e9 for sample in record.samples]
    return (
        *head,
        f"{line.wall_seconds:.3f}",
        f"{min(walls):.3f}–{max(walls):.3f}",
        against,
        UNKNOWN if line.ratio is None else f"{line.ratio:.2f}",
        goal,
        _met(line),
        f"{median(sample.cpu_ns for sample in record.samples) / 1e9:.2f}",
        f"{max(sample.rss_bytes for sample in record.samples) / 2**20:.0f}",
    )


def _goal(row: Row) -> str:
    if row.group == "peer":
        return "be ahead"
    if row.goal is None:
        return ""
    return f"{'at most' if row.inverse else 'at least'} {row.goal}"


def _met(line: Line) -> str:
    if line.met is None:
        return "unknown" if _goal(line.row) else ""
    verdict = "yes" if line.met else "no"
    return verdict if line.ahead is None else f"{verdict}, {line.ahead:.2f} times"
