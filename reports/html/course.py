"""The course of a run: throughput, response times, backlog and resources over time.

Pure: a result in, charts out. Faults and phases of the load are bands across all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, log2
from typing import Any, Final

from millstream.engine.sampling import PER_OCTAVE

from ..units import duration, rate, size
from . import svg
from .axes import Axis, linear_axis
from .model import Band, Chart, Line, Plot, PlotUnit, Section, Table

MOST_ROWS: Final = 24
"""Of a table beside a plot: so many intervals, joined from the plot's own."""
_MOST_COLUMNS: Final = 300
_MOST_BANDS: Final = 60
_HEAT: Final = (196, 84, 26)

PERCENTILES: Final = (
    ("response_p50", "p50", 0),
    ("response_p90", "p90", 2),
    ("response_p99", "p99", 1),
    ("response_p999", "p99.9", 3),
    ("response_max", "max", 4),
)

Say = Callable[[float], str]


def cores(value: float) -> str:
    """Processor time as a number of cores."""
    return f"{value:.2g} cores" if value < 10 else f"{value:.0f} cores"


def count(value: float) -> str:
    """A number of events."""
    return f"{value:,.0f}"


SAY: Final[Mapping[PlotUnit, Say]] = {
    "rate": rate,
    "time": lambda value: duration(round(value)),
    "size": size,
    "count": count,
    "cores": cores,
}


def course_sections(result: Mapping[str, Any], prefix: str = "") -> list[Section]:
    """What went on over time, then what it took. `prefix` keeps ids of several results apart."""
    series = result["series"]
    if len(series["rss"]) < 2:
        short = f"It was over within {duration(2 * series['interval_ns'])}: too soon for a course."
        return [Section(f"{prefix}course", "Course", notes=[short])]
    made = _Charts(result, prefix)
    course = [made.throughput(), *made.backlog(), *made.latency()]
    return [
        Section(f"{prefix}course", "Course", charts=course, notes=made.notes()),
        Section(f"{prefix}resources", "Resources", charts=made.resources(), columns=3),
    ]


class _Charts:
    def __init__(self, result: Mapping[str, Any], prefix: str) -> None:
        self._result, self._series, self._prefix = result, result["series"], prefix
        self._times = times_of(self._series)
        self._bands = bands_of(result)

    def notes(self) -> list[str]:
        """What the bands stand for."""
        told = [f"{band.label}: {_span(band)}" for band in self._bands if band.kind == "phase"]
        faults = self._result.get("faults", ())
        struck = [(n, each) for n, each in enumerate(faults, 1) if each["windows"]]
        marked = {band.mark for band in self._bands}
        shown = [f"{n} {each['text']}" for n, each in struck if str(n) in marked]
        if shown:
            told.append(f"Numbered bands: when faults struck; {', '.join(shown)}")
        along = [each["text"] for n, each in struck if str(n) not in marked]
        if along:
            told.append(f"All along: {', '.join(along)}")
        return [f"{'. '.join(told)}."] if told else []

    def throughput(self) -> Chart:
        lines = [("achieved", "throughput", 0)]
        if "offered" in self._series and self._result.get("load", {}).get("open"):
            lines = [("offered", "offered", 5), *lines]
        return self._plot("throughput", "Throughput", "rate", lines, "Events a second")

    def latency(self) -> list[Chart]:
        if self._result["response"] is None:
            return []
        lines = [(label, name, color) for name, label, color in PERCENTILES if name in self._series]
        said = "Response time in each interval, from the intended arrival of an event"
        charts = [self._plot("latency", "Response time", "time", lines, said, log=True)]
        buckets = self._series.get("response_buckets", ())
        if any(buckets):
            id_ = f"{self._prefix}heatmap"
            charts.append(heatmap_of(buckets, self._times, id_, self._bands))
        return charts

    def backlog(self) -> list[Chart]:
        said = "Events that have arrived and are not done"
        return [self._plot("backlog", "Backlog", "count", [("backlog", "backlog", 1)], said)]

    def resources(self) -> list[Chart]:
        charts = [
            self._plot(
                *("cpu", "Processor time", "cores", [("all processes", "cpu", 0)]),
                "Cores in use, of all processes of the run together",
            ),
            self._plot(
                *("rss", "Memory", "size", [("all processes", "rss", 2)]),
                "Resident memory, of all processes of the run together",
            ),
        ]
        if any(value is not None for value in self._series.get("loop_lag", ())):
            said = "How late the event loop was, at worst, in each interval"
            lines = [("largest", "loop_lag", 3)]
            charts.append(self._plot("lag", "Event loop lag", "time", lines, said))
        return charts

    def _plot(
        self,
        name: str,
        title: str,
        unit: PlotUnit,
        lines: Sequence[tuple[str, str, int]],
        said: str,
        *,
        log: bool = False,
    ) -> Chart:
        drawn = [Line(label, self._series[key], color) for label, key, color in lines]
        plot = Plot([self._times], drawn, unit, log, self._bands)
        return Chart(
            id=f"{self._prefix}{name}",
            title=title,
            said=f"{said}. {extent(drawn, unit)}",
            table=table_of(plot),
            plot=plot,
        )


def times_of(series: Mapping[str, Any]) -> list[float]:
    """The end of each interval, in seconds since the run began."""
    step = series["interval_ns"] / 1e9
    return [round((number + 1) * step, 3) for number in range(len(series["rss"]))]


def bands_of(result: Mapping[str, Any]) -> list[Band]:
    """Faults, the warm-up, and what was drained after the load."""
    bands: list[Band] = []
    load = result.get("load")
    if load is not None and load["warmup_ns"]:
        bands.append(Band(0.0, load["warmup_ns"] / 1e9, "Warm-up, not measured", "phase"))
    for number, fault in enumerate(result.get("faults", ()), 1):
        whole = result["duration_ns"]
        for start, end in fault["windows"][:_MOST_BANDS]:
            if end - start < 0.9 * whole:  # what lasts all along is told, and would hide all else
                bands.append(Band(start / 1e9, end / 1e9, fault["text"], "fault", str(number)))
    return bands[: 2 * _MOST_BANDS]


def _span(band: Band) -> str:
    return f"the first {band.end:g} s" if not band.start else f"{band.start:g} to {band.end:g} s"


def extent(lines: Sequence[Line], unit: PlotUnit) -> str:
    """From where to where the lines go, in words."""
    told = []
    for line in lines:
        known = [value for value in line.values if value is not None]
        if known:
            told.append(f"{line.label} {SAY[unit](min(known))} to {SAY[unit](max(known))}")
    return f"{'; '.join(told)}." if told else "Nothing was observed."


def table_of(plot: Plot) -> Table:
    """The plot's numbers, of neighbouring intervals the largest."""
    times = plot.times[0]
    step = max(1, ceil(len(times) / MOST_ROWS))
    starts = range(0, len(times), step)
    rows = [
        [f"{times[min(at + step, len(times)) - 1]:g} s",
         *(_largest(line.values[at : at + step], SAY[plot.unit]) for line in plot.lines)]
        for at in starts
    ]  # fmt: skip
    more = "" if step == 1 else f", of {step} intervals the largest"
    return Table(["until", *(f"{line.label}{more}" for line in plot.lines)], rows)


def _largest(values: Sequence[float | None], say: Say) -> str:
    known = [value for value in values if value is not None]
    return say(max(known)) if known else "–"


def heatmap_of(
    buckets: Sequence[Sequence[int] | None],
    times: Sequence[float],
    id_: str,
    bands: Sequence[Band],
) -> Chart:
    """How many responses took how long, over time: each column is an interval."""
    cells = [dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {} for flat in buckets]
    step = ceil(len(cells) / _MOST_COLUMNS)
    columns = [_merged(cells[at : at + step]) for at in range(0, len(cells), step)]
    low = min(min(column) for column in columns if column)
    high = max(max(column) for column in columns if column) + 1
    most = max(max(column.values()) for column in columns if column)
    grid = [
        [log2(1 + column.get(bucket, 0)) / log2(1 + most) for column in columns]
        for bucket in range(high - 1, low - 1, -1)
    ]
    x = linear_axis(times, lambda value: f"{value:g}", title="seconds since the run began", ticks=6)
    x = Axis(0.0, times[-1], [tick for tick in x.ticks if tick[0] <= times[-1]], x.title)
    said = (
        f"Response times between {_bound(low)} and {_bound(high)} by interval; the stronger "
        f"the colour, the more responses, up to {most:,} in a cell"
    )
    return Chart(
        id=id_,
        title="Response times, all of them",
        said=f"{said}.",
        table=_heat_table(columns, [times[min(at + step, len(times)) - 1]
                                    for at in range(0, len(times), step)]),
        svg=svg.heatmap(said, x, _log_places(low, high), grid, _HEAT, bands),
    )  # fmt: skip


def _merged(cells: Sequence[Mapping[int, int]]) -> dict[int, int]:
    whole: dict[int, int] = {}
    for cell in cells:
        for bucket, number in cell.items():
            whole[bucket] = whole.get(bucket, 0) + number
    return whole


def _bound(bucket: int) -> str:
    return duration(round(2 ** (bucket / PER_OCTAVE)))


def _log_places(low: int, high: int) -> Axis:
    """An axis over bucket numbers, labelled at powers of ten of a nanosecond."""
    ticks = []
    for power in range(13):
        for step in (1, 3) if high - low < 40 else (1,):
            place = log2(step * 10.0**power) * PER_OCTAVE
            if low <= place <= high:
                ticks.append((place, duration(step * 10**power)))
    return Axis(float(low), float(high), ticks)


def _heat_table(columns: Sequence[Mapping[int, int]], times: Sequence[float]) -> Table:
    """The same, four buckets (a doubling) to a row, all intervals together, and when most were."""
    rows = []
    octaves = sorted({bucket // PER_OCTAVE for column in columns for bucket in column})
    for octave in octaves:
        inside = [
            sum(n for bucket, n in column.items() if bucket // PER_OCTAVE == octave)
            for column in columns
        ]
        most = max(range(len(inside)), key=inside.__getitem__)
        span = f"{_bound(octave * PER_OCTAVE)} to {_bound((octave + 1) * PER_OCTAVE)}"
        rows.append([span, f"{sum(inside):,}", f"{times[most]:g} s"])
    return Table(["response time", "responses", "most of them in the interval until"], rows)
