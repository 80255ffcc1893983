"""Several results, one over the other: their figures side by side, and the same charts for all.

Pure: results in, sections out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..comparison import Comparison, compare
from ..comparison_words import EACH, TOGETHER, doubts, headline, row_of
from ..figures import Figure, figures
from ..run_sets import NotComparable, run_set
from .course import SAY, times_of
from .latency import spectrum_chart, spectrum_of
from .model import Chart, Line, Plot, PlotUnit, Section, Table, Verdict

_COLORS: Final = 8
_MOST: Final = 8
"""Results in one chart; more could not be told apart."""

Named = tuple[str, Mapping[str, Any]]


def overlay_sections(results: Sequence[Named]) -> list[Section]:
    """What is compared at a glance."""
    shown = results[:_MOST]
    notes = [f"The charts show the first {_MOST} of them."] if len(results) > _MOST else []
    charts = [
        *_over_time(shown, "throughput", "Throughput", "rate", log=False),
        *_over_time(shown, "response_p99", "Response time p99", "time", log=True),
        *_spectra(shown),
        *_over_time(shown, "backlog", "Backlog", "count", log=False),
        *_over_time(shown, "rss", "Memory", "size", log=False),
    ]
    sections = [
        Section("together", "Side by side", tables=[("", _side_by_side(results))], notes=notes),
        _comparisons(shown),
        Section("overlaid", "One over the other", charts),
    ]
    return [section for section in sections if not section.is_empty]


def _comparisons(results: Sequence[Named]) -> Section:
    """Each of the other results against the first one."""
    tables, notes = [], []
    (base, first), *others = results
    for label, result in others:
        title = f"{label} against {base}"
        try:
            made = compare(run_set(base, [(base, first)]), run_set(label, [(label, result)]))
        except NotComparable as error:
            notes.append(f"{title}: {error}")
            continue
        notes.append(f"{title}: {headline(made)}. {' '.join(map(_sentence, doubts(made)))}")
        tables.append((title, _compared(made)))
    if tables:
        notes.append(f"Of the primary figures {TOGETHER}; {EACH}.")
    return Section("compared", "Compared with the first", tables=tables, notes=notes)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _compared(made: Comparison) -> Table:
    rows: list[list[str | Verdict]] = []
    for each in made.figures:
        row = row_of(each)
        ok = {"better": True, "worse": False}.get(row.direction)
        kind = "primary" if each.is_primary else "more"
        rows.append(
            [row.name, kind, row.base, row.candidate, row.difference, row.interval,
             Verdict(row.word, ok)]
        )  # fmt: skip
    head = ["figure", "kind", "base", "candidate", "difference", "interval", "shown"]
    return Table(head, rows, left=2)


def _side_by_side(results: Sequence[Named]) -> Table:
    by_result = [{each.name: each for each in figures(result)} for _, result in results]
    names = list(dict.fromkeys(name for own in by_result for name in own))
    rows: list[list[str | Verdict]] = [
        ["verdict", *(_word(result) for _, result in results)],
    ]
    for name in names:
        label = next(own[name].label for own in by_result if name in own)
        rows.append([label, *(_cell(own.get(name)) for own in by_result)])
    return Table(["", *(name for name, _ in results)], rows)


def _word(result: Mapping[str, Any]) -> Verdict:
    verdict = result["verdict"]
    return Verdict(verdict if verdict == "pass" else verdict.upper(), verdict == "pass")


def _cell(figure: Figure | None) -> str | Verdict:
    if figure is None:
        return "–"
    return figure.text if figure.ok is None else Verdict(figure.text, figure.ok)


def _over_time(
    results: Sequence[Named], name: str, title: str, unit: PlotUnit, *, log: bool
) -> list[Chart]:
    known = [
        (label, result["series"])
        for label, result in results
        if any(value is not None for value in result["series"].get(name, ()))
    ]
    if len(known) < 2:
        return []
    lines = [
        Line(label, series[name], number % _COLORS, number)
        for number, (label, series) in enumerate(known)
    ]
    plot = Plot([times_of(series) for _, series in known], lines, unit, log)
    return [
        Chart(
            id=f"all-{name.replace('_', '-')}",
            title=title,
            said=f"{title} of each result, over the seconds since it began.",
            table=_middles(lines, unit),
            plot=plot,
        )
    ]


def _middles(lines: Sequence[Line], unit: PlotUnit) -> Table:
    rows = []
    for line in lines:
        known = sorted(value for value in line.values if value is not None)
        middle = known[len(known) // 2]
        rows.append([line.label, *(SAY[unit](value) for value in (known[0], middle, known[-1]))])
    return Table(["result", "least", "median", "largest"], rows)


def _spectra(results: Sequence[Named]) -> list[Chart]:
    spectra = [
        (label, spectrum_of(result, "response"), number % _COLORS)
        for number, (label, result) in enumerate(results)
        if result["response"] is not None
    ]
    if len(spectra) < 2:
        return []
    return [spectrum_chart("all-spectrum", "Percentile spectrum", spectra, "Response time")]
