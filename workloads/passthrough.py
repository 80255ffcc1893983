"""The scenario `passthrough`: a handler that gives back its event. What is measured is the engine.

Its oracle is the stream itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, stage

from .echo import check_echo, keyed_lines
from .scenario import Invariant, Outcome, Parameter, Promise, Scenario

KEYS = Parameter("keys", 1000, "How many keys the events have.", least=1)
PAYLOAD = Parameter("payload", 100, "What an event carries.", "bytes", least=0)
EACH_ONCE = Promise("each once", "Each event comes out once, as it came in.")
IN_ORDER = Promise("in order", "Events of a key come out in the order in which they came in.")


def passthrough(event: Event) -> Event:
    """Give back the event."""
    return event


def passthrough_batch(events: list[Event]) -> list[Event]:
    """Give back the events."""
    return events


class Passthrough(Scenario):
    """Events that are not touched."""

    name: ClassVar = "passthrough"
    summary: ClassVar = "A handler that does nothing: what the engine itself takes."
    description: ClassVar = (
        "Events with a key, a number and a payload pass one plain function that gives them back "
        "as they are. All that takes time here is the engine: to read, order, account and write."
    )
    parameters: ClassVar = (
        KEYS,
        PAYLOAD,
        Parameter("batch", 0, "How many the handler gets at a time; 0: one, by itself.", least=0),
    )
    promises: ClassVar = (EACH_ONCE, IN_ORDER)
    orders: ClassVar = ("key", "none", "partition", "global")

    def lines(self) -> Iterator[bytes]:
        """The events."""
        return keyed_lines(self, int(self.settings["keys"]), int(self.settings["payload"]))

    def pipeline(self, folder: Path) -> Pipeline:
        """One stage."""
        batch = int(self.settings["batch"])
        if batch:
            return Pipeline(stage(passthrough_batch, name="passthrough", batch=batch))
        return Pipeline(stage(passthrough))

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare what came out with the stream."""
        return check_echo(self, outcome, EACH_ONCE, IN_ORDER)
