"""Tells a watcher how a run stands, in full. A run that nobody watches so has none of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from .counted import Counted
from .observer import Deaths, Details, Observer, StageDetails, Watcher

if TYPE_CHECKING:
    from .batch import Batch
    from .channel import Channel
    from .executors.base import Executor
    from .runner import Run

LEAST_NS: Final = 200_000_000
"""Between two tellings: a shorter interval says little."""
_SAMPLE_NS: Final = 1_000_000_000
"""Between two looks at memory and processor time: each process is asked, and there may be many."""


class Watching:
    """What is told of one run."""

    def __init__(self, run: Run, watcher: Watcher) -> None:
        self._run, self._watcher = run, watcher
        self._told_ns = self._sampled_ns = 0
        self._rss = self._cpu_ns = 0

    @classmethod
    def asked_for(cls, run: Run, observer: Observer) -> Watching | None:
        """None when the observer wants no details."""
        return cls(run, observer) if isinstance(observer, Watcher) else None

    def tell(self, now: int) -> None:
        """Tell how the run stands at `now` (monotonic), unless it was told just before."""
        if now - self._told_ns >= LEAST_NS:
            self._tell(now, is_last=False)

    def tell_last(self) -> None:
        """Tell how the run has ended."""
        self._tell(time.monotonic_ns(), is_last=True)

    def _tell(self, now: int, *, is_last: bool) -> None:
        self._told_ns = now
        self._watcher.on_details(self._details(now, is_last=is_last))

    def _details(self, now: int, *, is_last: bool) -> Details:
        run, outlet = self._run, self._run.outlet
        if is_last or now - self._sampled_ns >= _SAMPLE_NS:
            self._sampled_ns = now
            self._rss, self._cpu_ns = run.processes.sample(run.pids())
        progress = run.progress(now)
        violations = run.violations_so_far()  # first: it takes in what the stages have not yet
        return Details(
            run=run.id,
            is_last=is_last,
            at_ns=now,
            elapsed_ns=progress.elapsed_ns,
            done=progress.done,
            backlog=progress.backlog,
            counts=run.counts(),
            duplicated=outlet.duplicates,
            violations=violations,
            offered=run.offered(),
            share=run.share(now),
            warmup_left_ns=max(0, outlet.measured_from_ns - now),
            bytes_read=progress.bytes_read,
            bytes_total=progress.bytes_total,
            response=Counted.of(outlet.response) if run.has_schedule() else None,
            loop_lag=Counted.of(run.watch.lag),
            rss=self._rss,
            cpu_ns=self._cpu_ns,
            stages=[
                _stage(executor, channel)
                for executor, channel in zip(run.executors, run.channels, strict=False)
            ],
            deaths=[
                Deaths(each["stage"], each["error"], each["count"])
                for each in run.dead_letters.reasons.report(0)["reasons"]
            ],
        )


def _stage(executor: Executor, inbox: Channel[Batch]) -> StageDetails:
    meter, plan = executor.meter, executor.meter.stage
    return StageDetails(
        name=plan.name,
        executor=plan.executor,
        workers=plan.workers,
        concurrency=plan.concurrency,
        alive=len(getattr(executor, "pids", ())),
        waiting=inbox.statistics().events,
        in_flight=executor.pending,
        handled=meter.handled,
        retried=executor.context.failures.retried,
        queue_wait=Counted.of(meter.queue_wait),
        service=Counted.of(meter.service),
    )
