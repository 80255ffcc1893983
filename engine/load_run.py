"""A run under a load: what it measures beside, and when its clock begins.

All else is the ordinary run: nothing in the engine knows whether it is benchmarked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from .connectors.base import Sink
from .histogram import Histogram, HistogramState, recorded_since
from .injecting import Injection
from .load import Load, LoadReader, LoadReport, LoadSource
from .observer import Observer
from .plan import RunPlan
from .reading import Reader
from .record_file import RecordFile
from .recording import Recorder
from .result import RunResult
from .runner import Run
from .sampling import MOST_POINTS, Series
from .tail import TailFold
from .tail_recorder import FoldedRows, TailRecorder

LEAD_NS: Final = 20_000_000
"""From the moment when all is ready until the schedule begins."""


class Window(msgspec.Struct, frozen=True):
    """The response times of an interval; when it began in the schedule, and its length, in ns."""

    start_ns: int
    length_ns: int
    response: HistogramState


def _joined(one: Window, two: Window) -> Window:
    both = Histogram()
    both.restore(one.response)
    both.restore(two.response)
    return Window(one.start_ns, one.length_ns + two.length_ns, both.snapshot())


class LoadRun(Run):
    """Runs a plan under a load."""

    def __init__(
        self,
        plan: RunPlan,
        load: Load,
        sink: Sink,
        observer: Observer,
        *,
        warmup_ns: int = 0,
        stop_after_ns: int | None = None,
    ) -> None:
        """What was due in the first `warmup_ns` of the schedule is handled and not measured.

        `stop_after_ns`: end a load that has no schedule.
        """
        self.load, self._warmup_ns, self._stop_after_ns = load, warmup_ns, stop_after_ns
        self.keeps_windows = False
        """Whether the response times of each interval are kept."""
        self._measured = Histogram().snapshot()
        self.windows: list[Window] = []
        self.gives_up_at: int | None = None
        """The load ends when so many events wait: then it is plain that it is not borne."""
        self.gave_up = False
        self.expected: tuple[int | None, int | None] = None, None
        """How many events are to be released, and for how long (ns), when that is known."""
        self._source = LoadSource(load)
        self._fold: TailFold | None = None
        self._rows: FoldedRows | None = None
        self.origin_ns = 0
        """When the schedule began (monotonic)."""
        self.report: LoadReport | None = None
        self._at_warm: tuple[int, int] | None = None  # done, and when
        self._at_end: tuple[int, int] | None = None
        self._begun = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []
        super().__init__(plan, [self._source], sink, observer)
        self.series = Series(more=("offered",))

    # --- what differs from another run

    def has_schedule(self) -> bool:
        return self.load.is_open

    def _open_readers(self) -> list[Reader]:
        need, mapping = self._need(), self.plan.mapping
        return [
            LoadReader(
                *(self._source, self.load, mapping, need, self._begin_load, self._on_end),
                settled=lambda: self.outlet.settled,
            )
        ]

    def _open_record(self) -> Recorder | None:
        if not self.load.is_open:
            return super()._open_record()
        path = self.options.record
        stages = [stage.name for stage in self.plan.stages]
        self._fold = TailFold(stages)
        self._rows = FoldedRows(self._fold, None if path is None else RecordFile(path, stages))
        recorder = TailRecorder(
            self._rows, len(stages), self._late_keys(), wants_keys=path is not None
        )
        return self._watched(recorder)

    async def _run(self) -> RunResult:
        await self.load.open()
        try:
            return await super()._run()
        finally:
            self._cancel_timers()
            self.load.kill()

    async def _strike(self, injection: Injection) -> None:
        await self._begun.wait()
        await asyncio.sleep((self.origin_ns - time.monotonic_ns()) / 1e9)
        await super()._strike(injection)

    async def _begin_load(self) -> None:
        """Begin the schedule, once every stage can take its first event."""
        await asyncio.gather(*(each.context.ready.wait() for each in self.executors))
        lead_ns = LEAD_NS if self.load.is_open else 0
        self.origin_ns = self.started_ns = time.monotonic_ns() + lead_ns
        measured_from_ns = self.origin_ns + self._warmup_ns
        self.outlet.measured_from_ns = measured_from_ns
        for executor in self.executors:
            executor.meter.measured_from_ns = measured_from_ns
        if self._rows is not None:
            self._rows.measured_from_ns, self._rows.origin_ns = measured_from_ns, self.origin_ns
        self._last_released = 0
        # What went on until then, while workers started, is no part of the course.
        self.series, self.outlet.response_window = Series(more=("offered",)), Histogram()
        self._begin_series(self.origin_ns)
        self._at_warm = None if self._warmup_ns else (0, self.origin_ns)
        if self._warmup_ns:
            self._at(measured_from_ns, self._mark_warm)
        if self._stop_after_ns is not None:
            self._at(self.origin_ns + self._stop_after_ns, self._stop_closed)
        self.load.begin(self.origin_ns)
        self._begun.set()

    def _stop_closed(self) -> None:
        """The time of a load without a schedule is over: nothing more is handled of it."""
        reader = self.readers[0]
        assert isinstance(reader, LoadReader)
        reader.is_stopped = True
        self.load.stop()

    def _at(self, at_ns: int, call: Callable[[], None]) -> None:
        delay_s = (at_ns - time.monotonic_ns()) / 1e9
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, call))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _mark_warm(self) -> None:
        self._at_warm = self.outlet.frontier.done, time.monotonic_ns()

    def _on_end(self) -> None:
        """All was released, and taken."""
        self._at_end = self.outlet.frontier.done, time.monotonic_ns()
        if self.load.is_open:  # else all may have been taken before the warm-up is over
            self._cancel_timers()

    async def _run_parts(self) -> None:
        await super()._run_parts()
        self.report = await self.load.close()

    def _let_go(self, why: str | None) -> None:
        self.load.kill()
        super()._let_go(why)

    def _backlog(self) -> int:
        return max(0, self.load.released - self.outlet.frontier.done)

    def offered(self) -> int:
        return self.load.released

    def share(self, now: int) -> float | None:
        events, duration_ns = self.expected
        shares = [] if not events else [self.outlet.settled / events]
        if duration_ns and self.origin_ns:
            shares.append((now - self.origin_ns) / duration_ns)
        return min(1.0, max(0.0, *shares)) if shares else None

    def _more_of_point(self, elapsed_ns: int) -> dict[str, Any]:
        released = self.load.released
        offered = (released - self._last_released) * 1e9 / elapsed_ns
        self._last_released = released
        return {"offered": offered}

    def _point(self, now: int) -> None:
        if self.keeps_windows:
            self._keep_window(now)
        super()._point(now)
        if self.gives_up_at is not None and self._backlog() > self.gives_up_at:
            self.gave_up = True
            self.load.stop()

    def _window(self) -> HistogramState:
        """What is measured, and was recorded since the last window: none of it in the warm-up."""
        before, self._measured = self._measured, self.outlet.response.snapshot()
        return recorded_since(self._measured, before)

    def _keep_window(self, now: int) -> None:
        start_ns, *_ = self._last_point
        window = Window(start_ns - self.origin_ns, max(0, now - start_ns), self._window())
        if window.start_ns < self._warmup_ns and not window.response.counts:
            return
        self.windows.append(window)
        if len(self.windows) >= MOST_POINTS:
            pairs = zip(self.windows[::2], self.windows[1::2], strict=False)
            self.windows = [_joined(one, two) for one, two in pairs]

    def _begin_series(self, at_ns: int) -> None:
        super()._begin_series(at_ns)
        self._last_released = self.load.released

    # --- summing up

    def _result(self, notes: list[str]) -> RunResult:
        if self.keeps_windows and self.outlet.response.count:
            self._keep_window(self.ended_ns)
        result = super()._result(notes)
        report = self.report or LoadReport(self.load.released)
        tail = None if self._fold is None else self._fold.report()
        result.data |= {
            "command": "bench",
            "load": {
                "open": self.load.is_open,
                "warmup_ns": self._warmup_ns,
                "taken": self._taken(),
                "gave_up": self.gave_up,
                **msgspec.to_builtins(report),
            },
            "tail": msgspec.to_builtins(tail),
        }
        return result

    def _taken(self) -> int:
        reader = self.readers[0]
        assert isinstance(reader, LoadReader)
        return reader.taken

    def _throughput(self, read: int, duration_ns: int) -> float:
        """Events done per second, from the end of the warm-up to the end of the load."""
        if self._at_warm is None:
            return 0.0
        done, at_ns = (
            self._at_end
            if self.load.is_open and self._at_end
            else (
                self.outlet.frontier.done,
                self.ended_ns,
            )
        )
        before, since_ns = self._at_warm
        return (done - before) * 1e9 / max(1, at_ns - since_ns)
