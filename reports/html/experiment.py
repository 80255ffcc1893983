"""Experiments: rate and latency with the knee, scaling with its law, the price of order, repeats.

Pure: a result in, a section out; the figures are those of bench.py and scaling.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..bench import Figures, Row, figures_of
from ..units import duration, rate
from . import svg
from .axes import Axis, linear_axis, log_axis
from .model import Chart, Key, Section, Table, Verdict

_CURVE_POINTS: Final = 60
_MOST_TRIALS: Final = 100


def experiment_section(result: Mapping[str, Any], prefix: str = "") -> Section:
    """All trials, and what they come to; empty when it was a single one."""
    experiment = result.get("experiment")
    if experiment is None or not experiment["facts"]:
        return Section(f"{prefix}experiment", "Experiment")
    figures = figures_of(experiment)
    charts = _charts(experiment, figures, prefix)
    tables = [] if charts else [("Trials", _trials(experiment))]
    title = {"repeat": "Repeats", "sweep": f"Sweep over {experiment['parameter']}"}.get(
        experiment["kind"], "Search for the sustainable rate"
    )
    return Section(f"{prefix}experiment", title, charts, tables, list(figures.notes))


def _charts(experiment: Mapping[str, Any], figures: Figures, prefix: str) -> list[Chart]:
    facts, parameter = experiment["facts"], experiment["parameter"]
    trials = _trials(experiment)
    if experiment["kind"] == "repeat":
        return [_repeats(figures.rows[0], facts, trials, prefix)]
    if parameter == "rate":
        return _rate_latency(figures, facts, trials, prefix)
    if parameter in ("workers", "concurrency"):
        return [_scaling(figures, facts, parameter, trials, prefix)]
    return [_by_value(figures, parameter or "value", trials, prefix)]


def _trials(experiment: Mapping[str, Any]) -> Table:
    """A row a trial."""
    rows: list[list[str | Verdict]] = []
    for fact in experiment["facts"][:_MOST_TRIALS]:
        response = fact["response"] or {}
        times = [duration(response[name]) if name in response else "–" for name in ("p50", "p99")]
        ok = {"pass": True, "fail": False}.get(fact["verdict"])
        rows.append(
            [fact["value"] or f"{fact['repeat'] + 1}", Verdict(fact["verdict"], ok),
             rate(fact["offered"]) if fact["response"] else "as fast as it can",
             rate(fact["throughput"]), *times, duration(fact["service_ns"])]
        )  # fmt: skip
    first = experiment["parameter"] or "trial"
    head = [first, "verdict", "offered", "throughput", "response p50", "p99", "service, mean"]
    return Table(head, rows, left=2)


def _color_of(verdict: str) -> int:
    return {"pass": 2, "fail": 4}.get(verdict, 5)


def _verdict_dots(facts: Sequence[Mapping[str, Any]], x: Any, y: Any) -> list[svg.Curve]:
    return [
        svg.Curve([(x(fact), y(fact))], _color_of(fact["verdict"]), dots=True) for fact in facts
    ]


_VERDICTS: Final = (Key("pass", 2), Key("fail", 4), Key("invalid", 5))


def _rate_latency(
    figures: Figures, facts: Sequence[Mapping[str, Any]], trials: Table, prefix: str
) -> list[Chart]:
    """Response times over the offered rate, with the knee."""
    known = sorted((f for f in facts if f["response"]), key=lambda fact: fact["offered"])
    if not known:
        return []
    valid = [fact for fact in known if fact["verdict"] != "invalid"] or known
    values = [float(fact["response"][p]) for fact in known for p in ("p50", "p99")]
    x = linear_axis((f["offered"] for f in known), _short, title="events a second, offered")
    y = log_axis(values, lambda ns: duration(round(ns)))
    curves = [
        svg.Curve([(f["offered"], float(f["response"][p])) for f in valid], color)
        for p, color in (("p50", 0), ("p99", 1))
    ]
    for p in ("p50", "p99"):
        curves += _verdict_dots(
            known, lambda f: f["offered"], lambda f, p=p: float(f["response"][p])
        )
    knee = figures.knee
    marks = [] if knee is None else [svg.Mark(knee, f"knee at {rate(knee)}")]
    said = f"Response time over the offered rate, at {len(known)} rates"
    said += "" if knee is None else f"; the knee is at {rate(knee)}"
    return [
        Chart(
            id=f"{prefix}curve",
            title="Rate and latency",
            said=f"{said}.",
            table=trials,
            svg=svg.lines(said, x, y, curves, marks),
            legend=[Key("p50", 0), Key("p99", 1), *_VERDICTS],
            wide=True,
        )
    ]


def _scaling(
    figures: Figures,
    facts: Sequence[Mapping[str, Any]],
    parameter: str,
    trials: Table,
    prefix: str,
) -> Chart:
    """Throughput over workers or concurrency, the law, and what linear scaling would be."""
    numbers = [float(fact["value"]) for fact in facts]
    most, usl = max(numbers), figures.usl
    first = min(figures.rows, key=lambda row: float(row.value))
    each = first.throughput.value / float(first.value) if usl is None else usl.lam
    reach = most if usl is None or usl.peak is None else min(max(most, usl.peak * 1.1), 2 * most)
    points = [(reach * (n + 1) / _CURVE_POINTS) for n in range(_CURVE_POINTS)]
    points = [n for n in points if n >= 1] or [1.0]
    curves, legend = [svg.Curve([(0.0, 0.0), (reach, each * reach)], 5, dashed=True)], []
    throughputs = [fact["throughput"] for fact in facts]
    if usl is not None:
        law = [(n, usl.throughput(n)) for n in points]
        curves.append(svg.Curve(law, 0))
        legend.append(Key("Universal Scalability Law", 0))
        throughputs += [value for _, value in law]
    curves += _verdict_dots(facts, lambda f: float(f["value"]), lambda f: f["throughput"])
    x = linear_axis([0.0, reach], lambda v: f"{v:g}", title=parameter, even=True)
    y = linear_axis(throughputs, _short)
    peak = None if usl is None else usl.peak
    marks = [svg.Mark(peak, f"peak at {peak:.1f}")] if peak is not None and peak <= reach else []
    said = f"Throughput over {parameter}, from {min(numbers):g} to {most:g}"
    return Chart(
        id=f"{prefix}scaling",
        title="Scaling",
        said=f"{said}. {' '.join(figures.notes)}",
        table=trials,
        svg=svg.lines(said, x, y, _within(curves, y), marks),
        legend=[*legend, Key("if it scaled linearly", 5), *_VERDICTS[:2]],
        wide=True,
    )


def _within(curves: Sequence[svg.Curve], y: Axis) -> list[svg.Curve]:
    """A straight line is cut off where it leaves the drawing on top."""
    cut = []
    for curve in curves:
        if curve.dashed:
            (x0, y0), (x1, y1) = curve.points
            share = min(1.0, (y.high - y0) / (y1 - y0)) if y1 > y0 else 1.0
            ends = [(x0, y0), (x0 + share * (x1 - x0), y0 + share * (y1 - y0))]
            curve = svg.Curve(ends, curve.color, dashed=True)
        cut.append(curve)
    return cut


def _by_value(figures: Figures, parameter: str, trials: Table, prefix: str) -> Chart:
    """A bar a value: the price of each order, or what a parameter changes."""
    order = parameter == "order"
    title = "The price of order" if order else f"Throughput by {parameter}"
    best = max(row.throughput.value for row in figures.rows) or 1.0
    bars = [
        svg.Bar(
            row.value,
            [svg.Piece(row.throughput.value, _color_of(row.verdict), rate(row.throughput.value))],
            f"{rate(row.throughput.value)}, {row.throughput.value / best:.0%}",
        )
        for row in figures.rows
    ]
    said = f"Throughput under each {parameter}, in the median of its trials"
    return Chart(
        id=f"{prefix}values",
        title=title,
        said=f"{said}.",
        table=trials,
        svg=svg.bars(said, bars, best),
        legend=list(_VERDICTS),
        wide=True,
    )


def _repeats(row: Row, facts: Sequence[Mapping[str, Any]], trials: Table, prefix: str) -> Chart:
    """Each trial's throughput, or p99 where there is a schedule, with the median."""
    median = row.throughput
    points = [(float(number), fact["throughput"]) for number, fact in enumerate(facts, 1)]
    x = linear_axis([0.0, len(facts) + 1.0], lambda v: f"{v:g}", title="trial", even=True)
    x = Axis(0.5, len(facts) + 0.5, [t for t in x.ticks if 1 <= t[0] <= len(facts)], x.title)
    y = linear_axis([value for _, value in points], _short, from_zero=False)
    middle, said = None, f"{len(facts)} trials, {rate(median.value)} in the median"
    if median.interval is not None:
        low, high = median.interval.low, median.interval.high
        middle = svg.Range("", low, median.value, high, high, 0)
        said += f", its 95 % interval from {rate(low)} to {rate(high)}"
    else:
        said += f"; there is no interval: {median.why}"
    return Chart(
        id=f"{prefix}repeats",
        title="Throughput, trial by trial",
        said=f"{said}.",
        table=trials,
        svg=svg.dots(said, x, y, points, middle),
        legend=[Key("a trial", 1), Key("median and its 95 % interval", 0)],
        wide=True,
    )


def _short(per_second: float) -> str:
    """A rate on an axis."""
    if per_second >= 1_000_000:
        return f"{per_second / 1_000_000:,.4g}M/s"
    if per_second >= 10_000:
        return f"{per_second / 1000:,.4g}k/s"
    return rate(per_second)
