"""A scenario of known capacity: each event takes a service time that follows from its number.

For `millstream bench tests/benchmarks/waiting.py`: a stage that sleeps, for so many events at once,
or one that is busy, one event at a time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

from millstream.engine import Event, Pipeline, stage
from millstream.engine.faults import draw
from millstream.workloads.echo import check_echo
from millstream.workloads.passthrough import EACH_ONCE, IN_ORDER
from millstream.workloads.scenario import Invariant, Outcome, Parameter, Scenario


def service_s(number: int, mean_s: float, kind: str) -> float:
    """The service time of an event, in s."""
    if kind == "constant":
        return mean_s
    return -mean_s * math.log(1.0 - draw(7, 0, number, 0))


async def sleep(event: Event, *, mean_s: float, kind: str) -> Event:
    """Wait for it."""
    await asyncio.sleep(service_s(event.data["seq"], mean_s, kind))
    return event


def spin(event: Event, *, mean_s: float, kind: str) -> Event:
    """Be busy for it."""
    until = time.perf_counter() + service_s(event.data["seq"], mean_s, kind)
    while time.perf_counter() < until:
        pass
    return event


class Waiting(Scenario):
    """Events that take a known time."""

    name: ClassVar = "waiting"
    summary: ClassVar = "Events that take a known time, for so many at once."
    description: ClassVar = (
        "Capacity is concurrency / service time; waits are those of M/D/1, M/M/1."
    )
    parameters: ClassVar = (
        Parameter("service", 5.0, "Mean service time.", "ms", least=0.01),
        Parameter("distribution", "constant", "Of it.", choices=("constant", "exponential")),
        Parameter("slots", 1, "Events at once; 0: busy, one at a time.", least=0),
    )
    promises: ClassVar = (EACH_ONCE, IN_ORDER)
    orders: ClassVar = ("none",)

    def lines(self) -> Iterator[bytes]:
        for number in count():
            yield b'{"key":"k","seq":%d}' % number

    def pipeline(self, folder: Path) -> Pipeline:
        slots = int(self.settings["slots"])
        handler = partial(
            sleep if slots else spin,
            mean_s=float(self.settings["service"]) / 1e3,
            kind=str(self.settings["distribution"]),
        )
        return Pipeline(stage(handler, name="wait", concurrency=slots or None))

    def check(self, outcome: Outcome) -> list[Invariant]:
        return check_echo(self, outcome, EACH_ONCE, IN_ORDER)
