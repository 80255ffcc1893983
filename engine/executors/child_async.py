"""Async handlers in a worker process: many in flight within one piece of work, lanes in order."""

from __future__ import annotations

import asyncio
from array import array
from typing import TYPE_CHECKING, Any

import uvloop

from ..batch import DEAD, Value, is_nothing
from ..order import Lane
from .calling import Caller
from .cancelling import FAILURES, ends_the_task
from .groups import flatten, regroup
from .holding import Holding
from .line_loop import now_ns
from .wire import Failed

if TYPE_CHECKING:
    from .work_faults import WorkFaults


class AsyncCalls:
    """Runs pieces of work in a loop of its own."""

    def __init__(self, caller: Caller, holding: Holding, faults: WorkFaults | None) -> None:
        self._caller, self._holding, self._faults = caller, holding, faults
        self._stage = caller.stage
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def open(self) -> None:
        """Set up; async set-up is awaited."""
        if self._stage.setup is not None:
            self._caller.resource = self._finish(self._stage.setup())

    def close(self) -> None:
        """Tear down."""
        if self._stage.teardown is not None:
            self._finish(self._stage.teardown(self._caller.resource))
        self._runner.close()

    def _finish(self, result: Any) -> Any:
        async def wait() -> Any:
            return await result

        return self._runner.run(wait()) if asyncio.iscoroutine(result) else result

    def handle(
        self,
        values: list[Value],
        lanes: list[Lane],
        failures: list[Failed],
        skipped: list[int],
    ) -> tuple[list[Value], array[int], array[int]]:
        """What became of `values`, and when each began and ended."""
        out = list(values)
        starts, ends = array("q", [now_ns()]) * len(values), array("q", [now_ns()]) * len(values)
        live = [p for p, v in enumerate(values) if not is_nothing(v)]
        if self._stage.batch:
            size = self._stage.batch
            chains = [[live[at : at + size]] for at in range(0, len(live), size)]
            # Groups follow one another, so that events of one key never overlap.
            chains = [[group for chain in chains for group in chain]]
        else:
            chains = [[[place] for place in places] for places in _by_lane(live, lanes)]

        async def run_all() -> None:
            slots = asyncio.Semaphore(self._stage.concurrency)

            async def run_chain(chain: list[list[int]]) -> None:
                for places in chain:
                    async with slots:
                        start = now_ns()
                        free = self._holding.free(places, lanes, skipped)
                        for place in set(places) - set(free):
                            out[place] = DEAD
                        if free:
                            await self._call(free, values, lanes, out, failures)
                        end = now_ns()
                    for place in places:
                        starts[place], ends[place] = start, end

            beat = asyncio.ensure_future(self._beat())
            async with asyncio.TaskGroup() as group:
                for chain in chains:
                    group.create_task(run_chain(chain))
            beat.cancel()

        self._runner.run(run_all())
        gone = [p for p, v in enumerate(values) if is_nothing(v)]
        for place in set(gone) - set(self._holding.free(gone, lanes, skipped)):
            out[place] = DEAD
        return out, starts, ends

    async def _beat(self) -> None:
        """Say, while there is work, that the loop is not blocked."""
        if self._stage.timeout_s is None:
            return
        while True:
            self._holding.mark(-1)
            await asyncio.sleep(self._stage.timeout_s / 4)

    async def _call(
        self,
        places: list[int],
        values: list[Value],
        lanes: list[Lane],
        out: list[Value],
        failures: list[Failed],
    ) -> None:
        try:
            if self._stage.batch:
                events, sizes = flatten([values[p] for p in places])
                async with asyncio.timeout(self._stage.timeout_s):
                    if self._faults is not None:
                        await self._faults.suffer_all(places, values)
                    result = await self._stage.handler(events, **self._caller.kwargs(None))
                spread = self._caller.spread(result, events)
                for place, value in zip(places, regroup(spread, sizes), strict=True):
                    out[place] = self._holding.sendable(value)
            else:
                (place,) = places
                key = self._caller.state_key(lanes, place, values[place])
                try:
                    async with asyncio.timeout(self._stage.timeout_s):
                        if self._faults is not None:
                            await self._faults.suffer_all(places, values)
                        value = await self._caller.handle_async(values[place], key)
                        out[place] = self._holding.sendable(value)
                finally:
                    self._holding.note(place, key, self._caller)
        except FAILURES as error:
            if ends_the_task(error):
                raise
            failures += self._holding.failed_group(places, lanes, error)
            for place in places:
                out[place] = DEAD


def _by_lane(places: list[int], lanes: list[Lane]) -> list[list[int]]:
    """The places of each lane, in order; events without a lane are on their own."""
    chains: dict[Lane, list[int]] = {}
    alone: list[list[int]] = []
    for place in places:
        lane = lanes[place]
        if lane is None:
            alone.append([place])
        else:
            chains.setdefault(lane, []).append(place)
    return [*chains.values(), *alone]
