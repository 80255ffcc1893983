"""Where the time went: the percentile spectrum, the stages, the slowest events taken apart.

Pure: a result in, charts out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final

from millstream.engine.histogram_codec import decoded

from ..hdr import percentile_spectrum
from ..units import duration, executor_label
from . import svg
from .axes import Axis, log_axis
from .model import Chart, Key, Section, Table

_SUMMARY: Final = (("p50", 2.0), ("p90", 10.0), ("p99", 100.0), ("p999", 1000.0))
_MOST_EXAMPLES: Final = 10
_PARTS: Final = 8
"""Colours of the parts of a response."""

Spectrum = list[tuple[float, float]]
"""(1 / (1 − p), ns)."""


def latency_section(result: Mapping[str, Any], prefix: str = "") -> Section:
    """Spectrum, stages and tail."""
    charts = [*_spectrum_chart(result, prefix), *_stages_chart(result, prefix)]
    charts += _tail_chart(result, prefix)
    tables = [("Stages", _stage_table(result)), *_tail_examples(result)]
    return Section(f"{prefix}time", "Where the time went", charts=charts, tables=tables)


def spectrum_of(result: Mapping[str, Any], kind: str) -> Spectrum:
    """A distribution of the result as points; of an old result only those that it has."""
    figures = result[kind]
    if figures is None:
        return []
    text = result.get("histograms", {}).get(kind)
    if text is None:
        return _coarse(figures)
    return _fine(text, figures["max"])


def _coarse(figures: Mapping[str, int]) -> Spectrum:
    points = [(inverse, float(figures[name])) for name, inverse in _SUMMARY]
    known = [point for point in points if point[0] <= figures["count"]]
    return [*known, (float(max(2, figures["count"])), float(figures["max"]))]


def _fine(text: str, most: int) -> Spectrum:
    """`most`: the largest value, which the histogram knows to three digits only."""
    histogram = decoded(text)
    steps = percentile_spectrum(histogram)
    points = [(s.inverse, float(min(s.value, most))) for s in steps if s.inverse != inf]
    return [*points, (float(max(2, histogram.count)), float(most))] if steps else []


def percent_axis(most: float) -> Axis:
    """1 / (1 − p), logarithmic, labelled by percentiles."""
    ticks, shown = [(2.0, "50 %")], 10.0
    while shown <= max(100.0, most):
        ticks.append((shown, f"{100 - 100 / shown:.12g} %"))
        shown *= 10
    return Axis(1.0, max(100.0, most), ticks, "percentile", log=True)


def spectrum_chart(
    id_: str, title: str, spectra: Sequence[tuple[str, Spectrum, int]], what: str
) -> Chart:
    """Several spectra in one drawing: label, points, colour."""
    values = [ns for _, points, _ in spectra for _, ns in points]
    most = max(inverse for _, points, _ in spectra for inverse, _ in points)
    x, y = percent_axis(most), log_axis(values, lambda ns: duration(round(ns)))
    curves = [svg.Curve(points, color) for _, points, color in spectra]
    told = "; ".join(
        f"{label} up to {duration(round(points[-1][1]))}" for label, points, _ in spectra
    )
    said = f"{what} by percentile, both axes logarithmic: {told}"
    return Chart(
        id=id_,
        title=title,
        said=f"{said}.",
        table=_spectrum_table(spectra),
        svg=svg.lines(said, x, y, curves),
        legend=[Key(label, color) for label, _, color in spectra],
    )


def _spectrum_table(spectra: Sequence[tuple[str, Spectrum, int]]) -> Table:
    rows = []
    for label, inverse in (("p50", 2), ("p75", 4), ("p90", 10), ("p95", 20), ("p99", 100),
                           ("p99.9", 1000), ("p99.99", 10_000), ("max", None)):  # fmt: skip
        cells = [_value_at(points, inverse) for _, points, _ in spectra]
        if any(cell != "–" for cell in cells):
            rows.append([label, *cells])
    return Table(["percentile", *(label for label, _, _ in spectra)], rows)


def _value_at(points: Spectrum, inverse: float | None) -> str:
    if inverse is None:
        return duration(round(points[-1][1]))
    if inverse > points[-1][0] * (1 + 1e-9):
        return "–"
    reached = next(ns for at, ns in points if at >= inverse * (1 - 1e-9))
    return duration(round(reached))


def _spectrum_chart(result: Mapping[str, Any], prefix: str) -> list[Chart]:
    known = [
        ("response", spectrum_of(result, "response"), 1),
        ("slip", spectrum_of(result, "slip"), 5),
    ]
    stages = result.get("histograms", {}).get("stages", ())
    for number, (stage, kept) in enumerate(zip(result["stages"], stages, strict=False)):
        if kept["service"] is not None and number < 4:
            color = (0, 2, 3, 6)[number]
            known.append(
                (f"service {stage['name']}", _fine(kept["service"], stage["service"]["max"]), color)
            )
    spectra = [(label, points, color) for label, points, color in known if points]
    if not spectra:
        return []
    what = "Time" if result["response"] is None else "Response time, slip and service time"
    return [spectrum_chart(f"{prefix}spectrum", "Percentile spectrum", spectra, what)]


def _stages_chart(result: Mapping[str, Any], prefix: str) -> list[Chart]:
    rows, values = [], []
    for stage in result["stages"]:
        for name, label, color in (("queue_wait", "wait", 1), ("service", "service", 0)):
            figures = stage[name]
            if figures is None:
                continue
            low, middle, high, most = (
                max(1.0, float(figures[each])) for each in ("min", "p50", "p99", "max")
            )
            values += [low, most]
            rows.append(svg.Range(f"{stage['name']} {label}", low, middle, high, most, color))
    if not rows:
        return []
    said = (
        "Queue wait against service of each stage: from the least to p99, upright the median, thin "
        "up to the largest"
    )
    drawn = svg.ranges(said, rows, log_axis(values, lambda ns: duration(round(ns))))
    chart = Chart(
        id=f"{prefix}stages",
        title="Queue wait against service",
        said=f"{said}.",
        table=_stage_table(result),
        svg=drawn,
        legend=[Key("queue wait", 1), Key("service", 0)],
    )
    return [chart]


def _stage_table(result: Mapping[str, Any]) -> Table:
    names = ("p50", "p99", "max")
    rows = []
    for stage in result["stages"]:
        figures = [stage[kind] for kind in ("queue_wait", "service")]
        cells = [duration(each[name]) if each else "–" for each in figures for name in names]
        executor = executor_label(stage["executor"], stage["workers"], stage["concurrency"])
        rows.append([stage["name"], executor, f"{stage['handled']:,}", *cells])
    head = ["stage", "executor", "handled"]
    head += [f"{kind} {name}" for kind in ("wait", "service") for name in names]
    return Table(head, rows, left=2)


def _tail_chart(result: Mapping[str, Any], prefix: str) -> list[Chart]:
    tail = result.get("tail")
    if not tail or not tail["events"]:
        return []
    names = list(tail["parts"])
    groups = [
        (f"slowest 1 % ({tail['events']:,})", tail["parts"], tail["response_ns"]),
        (f"all ({tail['all_events']:,})", tail["all_parts"], tail["all_response_ns"]),
    ]
    bars = [_parts_bar(label, parts, whole) for label, parts, whole in groups]
    most = max(names, key=tail["parts"].__getitem__)
    share = tail["parts"][most] / max(1, tail["response_ns"])
    said = (
        f"The slowest hundredth of the events took {duration(tail['response_ns'])} on average, "
        f"{share:.0%} of it {most}; all took {duration(tail['all_response_ns'])}"
    )
    rows = [[name, *(_part(parts[name], whole) for _, parts, whole in groups)] for name in names]
    chart = Chart(
        id=f"{prefix}tail",
        title="The slowest events, taken apart",
        said=f"{said}.",
        table=Table(["part", *(label for label, _, _ in groups)], rows),
        svg=svg.bars(said, bars, 1.0),
        legend=[Key(name, number % _PARTS) for number, name in enumerate(names)],
        wide=True,
    )
    return [chart]


def _parts_bar(label: str, parts: Mapping[str, int], whole: int) -> svg.Bar:
    """What share of the whole each part is."""
    pieces = [
        svg.Piece(ns / max(1, whole), number % _PARTS, f"{name}: {duration(ns)}")
        for number, (name, ns) in enumerate(parts.items())
    ]
    return svg.Bar(label, pieces, duration(whole))


def _part(ns: int, whole: int) -> str:
    return f"{duration(ns)} ({ns / max(1, whole):.0%})"


def _tail_examples(result: Mapping[str, Any]) -> list[tuple[str, Table]]:
    tail = result.get("tail")
    if not tail or not tail["examples"]:
        return []
    rows = []
    for example in tail["examples"][:_MOST_EXAMPLES]:
        parts = sorted(example["parts"].items(), key=lambda part: -part[1])[:3]
        told = ", ".join(f"{name} {duration(ns)}" for name, ns in parts if ns)
        rows.append(
            [f"{example['sequence']:,}", told, f"{example['at_ns'] / 1e9:.2f} s",
             duration(example["response_ns"])]
        )  # fmt: skip
    table = Table(["event", "most of it", "arrived at", "response"], rows, left=2)
    return [("The slowest of all", table)]
