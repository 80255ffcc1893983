"""What a live view shows: figures of the last interval, and lines of text that fit a terminal.

Pure. A line is pieces of text with a style by name (label, good, bad, dim or none); no piece holds
a control character, whatever names a user's stages and files have.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Sequence
from statistics import fmean
from typing import Final

import numpy as np
from msgspec import Struct

from millstream.engine.observer import Details, StageDetails

from .sparks import sparkline
from .units import duration, executor_label, rate, size

Piece = tuple[str, str]
Line = list[Piece]

MINUTE_NS: Final = 60_000_000_000
_MOST_POINTS: Final = 400
"""Some 4 a second, for a minute."""
_FRESH_NS: Final = 1_000_000_000
"""A run that is first told of later than that may have gone on long, in earlier sittings."""
_LEAST_BAR: Final = 10


class StageFigures(Struct, frozen=True):
    """A stage, and its service times in the last interval (ns); None: it handled nothing."""

    name: str
    executor: str
    waiting: int
    in_flight: int
    handled: int
    p50: int | None
    p99: int | None


class Figures(Struct, frozen=True):
    """A run at a moment: rates in events per second, times in ns, sizes in bytes."""

    elapsed_ns: int
    share: float | None
    left_ns: int | None
    rate: float
    average: float
    offered: float | None
    bars: list[float | None]
    """Rates of the last minute, one a slot, the latest last; None: it had not begun."""
    counts: dict[str, int]
    duplicated: int
    violations: int
    response: tuple[int | None, int | None, int | None] | None
    """p50, p99 and the largest of the last interval; None: there is no schedule."""
    warmup_left_ns: int
    backlog: int
    workers: int
    lag: int | None
    rss: int
    cores: float | None
    bytes_read: int
    stages: list[StageFigures]


class Course:
    """Keeps what was told before, to say what the last interval and the last minute were like."""

    def __init__(self) -> None:
        self._latest: Details | None = None
        self._done: deque[tuple[int, int]] = deque(maxlen=_MOST_POINTS)
        self._cpu: deque[tuple[int, int]] = deque(maxlen=2)

    def tell(self, details: Details, slots: int) -> Figures:
        """The figures, with the last minute in so many slots."""
        before = self._latest
        self._latest = details
        if before is None and details.elapsed_ns < _FRESH_NS:
            self._done.append((details.at_ns - details.elapsed_ns, 0))
        self._done.append((details.at_ns, details.done))
        if not self._cpu or details.cpu_ns != self._cpu[-1][1]:
            self._cpu.append((details.at_ns, details.cpu_ns))
        average = details.done * 1e9 / max(1, details.elapsed_ns)
        return Figures(
            elapsed_ns=details.elapsed_ns,
            share=details.share,
            left_ns=_left_ns(details),
            rate=average if before is None else _rate(before, details, "done"),
            average=average,
            offered=None if details.offered is None else _offered(before, details),
            bars=self._bars(slots),
            counts=details.counts,
            duplicated=details.duplicated,
            violations=details.violations,
            response=_response(before, details),
            warmup_left_ns=details.warmup_left_ns,
            backlog=details.backlog,
            workers=sum(stage.alive for stage in details.stages),
            lag=details.loop_lag.since(before.loop_lag if before else None).max,
            rss=details.rss,
            cores=self._cores(),
            bytes_read=details.bytes_read,
            stages=_stages(before, details),
        )

    def _bars(self, slots: int) -> list[float | None]:
        """The rate of each slot of the last minute; slots stay where they are as time goes on."""
        times, done = np.array(self._done, dtype=np.float64).T
        length = MINUTE_NS / slots
        last = times[-1] // length
        edges = np.minimum((np.arange(slots + 1) - slots + 1 + last) * length, times[-1])
        rises = np.diff(np.interp(edges, times, done))
        begun = np.maximum(edges[:-1], times[0])
        spans = edges[1:] - begun
        return [
            float(rise * 1e9 / span) if span > 0 else None
            for rise, span in zip(rises, spans, strict=True)
        ]

    def _cores(self) -> float | None:
        """Processor time between two looks at it, per time."""
        if len(self._cpu) < 2:
            return None
        (since, before), (at, now) = self._cpu
        return max(0.0, (now - before) / max(1, at - since))


def _left_ns(details: Details) -> int | None:
    share = details.share
    return int(details.elapsed_ns * (1 - share) / share) if share else None


def _rate(before: Details, now: Details, what: str) -> float:
    more = getattr(now, what) - getattr(before, what)
    return float(more * 1e9 / max(1, now.at_ns - before.at_ns))


def _offered(before: Details | None, now: Details) -> float:
    if before is None:
        return (now.offered or 0) * 1e9 / max(1, now.elapsed_ns)
    return _rate(before, now, "offered")


def _response(
    before: Details | None, now: Details
) -> tuple[int | None, int | None, int | None] | None:
    if now.response is None:
        return None
    window = now.response.since(before.response if before else None)
    p50, p99 = window.percentiles(50, 99)
    return p50, p99, window.max


def _stages(before: Details | None, now: Details) -> list[StageFigures]:
    earlier: Sequence[StageDetails | None] = before.stages if before else [None] * len(now.stages)
    figures = []
    for then, stage in zip(earlier, now.stages, strict=True):
        p50, p99 = stage.service.since(then.service if then else None).percentiles(50, 99)
        figures.append(
            StageFigures(
                stage.name,
                executor_label(stage.executor, stage.workers, stage.concurrency),
                *(stage.waiting, stage.in_flight, stage.handled),
                p50=p50,
                p99=p99,
            )
        )
    return figures


# --- text that fits


def safe(text: str) -> str:
    """A name without what a terminal might take for more than text."""
    return "".join(
        "�" if unicodedata.category(sign)[0] in "CZ" and sign != " " else sign for sign in text
    )


def width_of(text: str) -> int:
    """How many columns a text takes."""
    return sum(
        0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF")
        for sign in text
    )


def fitted(text: str, width: int) -> str:
    """A text cut to a width."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) > width - 1:
        text = text[:-1]
    return text + "…" if width > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """A text cut or filled to a width."""
    text = fitted(text, width)
    gap = " " * (width - width_of(text))
    return gap + text if right else text + gap


def lines_of(title: str, figures: Figures, width: int, height: int) -> list[Line]:
    """The view, of at most `height` lines of at most `width` columns: what matters most stays."""
    heads = [
        (0, _title(title, figures, width)),
        (1, _rates(figures, width)),
        (4, _sparks(figures, width)),
        (2, _events(figures, width)),
        (3, _response_line(figures)),
        (1, _state(figures)),
        (3, _machine(figures)),
    ]
    shown = [(rank, line) for rank, line in heads if line]
    # Some stages with their heading have room in any case.
    room = max(1, height - min(len(figures.stages) + 1, max(3, height // 3)))
    for rank in (4, 3, 2, 1):
        if len(shown) > room:
            shown = [each for each in shown if each[0] != rank]
    lines = [_clipped(line, width) for _, line in shown][:height]
    return [*lines, *_table(figures.stages, width, height - len(lines))]


def slots_of(width: int) -> int:
    """How many slots of the last minute fit: such that each is a whole number of seconds."""
    return next(slots for slots in (60, 30, 20, 10) if slots <= max(10, width - 12))


def _labelled(label: str, *pieces: Piece | str) -> Line:
    line: Line = [(f"{label:<10}", "label")]
    for number, piece in enumerate(each for each in pieces if each):
        text, style = (piece, "") if isinstance(piece, str) else piece
        line.append((f"{'   ' if number else ''}{text}", style))
    return line


def _title(title: str, figures: Figures, width: int) -> Line:
    at = clock(figures.elapsed_ns)
    parts = [at]
    bar = ""
    if figures.warmup_left_ns:
        parts.append(f"warm-up, {duration(figures.warmup_left_ns)} left")
    if figures.share is not None:
        parts.append(f"{figures.share:.0%}")
        if figures.left_ns is not None:
            parts.append(f"{clock(figures.left_ns)} left")
    said = "   ".join(parts)
    name = fitted(safe(title), max(8, width - width_of(said) - _LEAST_BAR - 6))
    room = min(40, width - width_of(name) - width_of(said) - 6)
    if figures.share is not None and room >= _LEAST_BAR:
        full = round(figures.share * room)
        bar = "━" * full
        return [
            (name, "title"),
            ("   ", ""),
            (bar, "good"),
            ("╌" * (room - full), "dim"),
            ("   ", ""),
            (said, ""),
        ]
    return [(name, "title"), ("   ", ""), (said, "")]


def clock(ns: int) -> str:
    """Minutes and seconds, and hours when there are any."""
    minutes, seconds = divmod(ns // 1_000_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _rates(figures: Figures, width: int) -> Line:
    offered = "" if figures.offered is None else f"{rate(figures.offered)} offered"
    read = "" if not figures.bytes_read else f"{size(figures.bytes_read)} read"
    return _labelled(
        *("rate", (f"{rate(figures.rate)} now", "strong")),
        offered,
        f"{rate(figures.average)} on average",
        read,
    )


def _sparks(figures: Figures, width: int) -> Line:
    bars = sparkline(figures.bars, len(figures.bars), fmean).lstrip()
    note = "a minute" if width >= 12 + len(bars) + 10 else ""
    return _labelled("", (bars, "good"), (note, "dim"))


def _events(figures: Figures, width: int) -> Line:
    counts = figures.counts
    parts = [f"{counts['read']:,} read", f"{counts['handled']:,} handled"]
    for name, said in (
        *(("filtered", "filtered out"), ("emitted", "written"), ("retried", "retried")),
        ("deduplicated", "deduplicated"),
    ):
        if counts.get(name):
            parts.append(f"{counts[name]:,} {said}")
    return _labelled("events", *parts)


def _response_line(figures: Figures) -> Line | None:
    if figures.response is None:
        return None
    names = ("p50", "p99", "max")
    return _labelled(
        "response",
        *(f"{name} {_time(value)}" for name, value in zip(names, figures.response, strict=True)),
    )


def _state(figures: Figures) -> Line:
    dead = figures.counts["dead_lettered"]
    return _labelled(
        "backlog",
        f"{figures.backlog:,}",
        (_many(dead, "dead letter"), "bad") if dead else "",
        (_many(figures.violations, "order violation"), "bad") if figures.violations else "",
        (f"{figures.duplicated:,} duplicated", "bad") if figures.duplicated else "",
    )


def _machine(figures: Figures) -> Line:
    workers = figures.workers
    return _labelled(
        *("machine", size(figures.rss)),
        "" if figures.cores is None else f"{figures.cores:.1f} cores",
        _many(workers, "worker") if workers else "",
        f"loop lag {_time(figures.lag)}",
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _time(ns: int | None) -> str:
    return "–" if ns is None else duration(ns)


def _clipped(line: Line, width: int) -> Line:
    """A line cut at the width: pieces move closer, then those at its end are left out."""
    if sum(width_of(text) for text, _ in line) > width:
        line = [
            (text.replace("   ", "  ", 1) if text[:3] == "   " else text, style)
            for text, style in line
        ]
    clipped: Line = []
    left = width
    for number, (text, style) in enumerate(line):
        wide = width_of(text)
        if wide > left:
            if number < 2:  # the label alone says nothing
                clipped.append((fitted(text, left), style))
            break
        clipped.append((text, style))
        left -= wide
    return clipped


_COLUMNS: Final = (
    # heading, how far it can be done without (the highest goes first), to the right?
    *(("stage", 0, False), ("executor", 3, False), ("waiting", 1, True), ("in flight", 1, True)),
    *(("handled", 2, True), ("service p50", 1, True), ("p99", 0, True)),
)


def _table(stages: Sequence[StageFigures], width: int, height: int) -> list[Line]:
    if height < 2 or not stages:
        return []
    chosen, left_out = _busiest(stages, height - 1)
    rows = [[heading for heading, *_ in _COLUMNS]]
    rows += [
        [
            *(safe(stage.name), stage.executor, f"{stage.waiting:,}", f"{stage.in_flight:,}"),
            *(f"{stage.handled:,}", _time(stage.p50), _time(stage.p99)),
        ]
        for stage in chosen
    ]
    widths = [max(width_of(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    places = _columns_in(widths, width)
    lines: list[Line] = []
    for number, row in enumerate(rows):
        cells = [padded(row[place], widths[place], right=_COLUMNS[place][2]) for place in places]
        lines.append([(fitted("  ".join(cells), width), "" if number else "label")])
    if left_out:
        lines.append([(fitted(f"and {_many(left_out, 'more stage')}", width), "dim")])
    return lines


def _busiest(stages: Sequence[StageFigures], room: int) -> tuple[list[StageFigures], int]:
    """Those that fit, in their order: where there is no room for all, those with most to do."""
    if len(stages) <= room:
        return list(stages), 0
    says_so = room > 1
    room -= says_so
    ranked = sorted(stages, key=lambda stage: stage.waiting + stage.in_flight, reverse=True)
    kept = [id(stage) for stage in ranked[:room]]
    left_out = len(stages) - room if says_so else 0
    return [stage for stage in stages if id(stage) in kept], left_out


def _columns_in(widths: list[int], width: int) -> list[int]:
    """Which columns fit; the stage's name gives way first, then whole columns."""
    places = list(range(len(widths)))
    least = min(widths[0], 12)

    def needed() -> int:
        return least + sum(widths[place] + 2 for place in places[1:])

    for rank in (3, 2, 1):
        if needed() > width:
            places = [place for place in places if _COLUMNS[place][1] != rank]
    others = sum(widths[place] + 2 for place in places[1:])
    widths[0] = max(1, min(widths[0], width - others))
    return places
