"""The scenario `cpu`: a handler that computes, as long as it is told to.

Its oracle computes the same by another way round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, stage

from .echo import check_echo, keyed_lines
from .passthrough import EACH_ONCE, IN_ORDER, KEYS, PAYLOAD
from .scenario import Invariant, Outcome, Parameter, Promise, Scenario, judged, stream

COMPUTED = Promise("computed", "Each result is the hash chain of its event's payload.")
_EVERY: Final = 20
"""Of so many results one is computed again."""


def compute(event: Event, *, rounds: int) -> Event:
    """Hash the payload, and the hash again, so many times."""
    data = event.data
    digest = data["payload"].encode()
    for _ in range(rounds):
        digest = hashlib.sha256(digest).digest()
    data["hash"] = digest.hex()
    return event


class Cpu(Scenario):
    """Events that take processor time."""

    name: ClassVar = "cpu"
    summary: ClassVar = "A handler that computes: how work spreads over worker processes."
    description: ClassVar = (
        "Each event's payload is hashed, and the hash again, `rounds` times: some 0.5 µs a round. "
        "Nothing waits for anything else, so what a second worker brings is all there is to gain."
    )
    parameters: ClassVar = (
        Parameter("rounds", 100, "How often an event is hashed.", least=1),
        KEYS,
        PAYLOAD,
    )
    promises: ClassVar = (EACH_ONCE, IN_ORDER, COMPUTED)
    orders: ClassVar = ("key", "none", "partition", "global")

    def lines(self) -> Iterator[bytes]:
        """The events."""
        return keyed_lines(self, int(self.settings["keys"]), int(self.settings["payload"]))

    def pipeline(self, folder: Path) -> Pipeline:
        """One stage."""
        return Pipeline(stage(partial(compute, rounds=int(self.settings["rounds"]))))

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare what came out with the stream."""
        return [*check_echo(self, outcome, EACH_ONCE, IN_ORDER), self._check_hashes(outcome)]

    def _check_hashes(self, outcome: Outcome) -> Invariant:
        payload = msgspec.json.decode(next(stream(self, 1)))["payload"]
        wanted = _chain(payload.encode(), int(self.settings["rounds"]))
        wrong: list[str] = []
        checked = 0
        with open(outcome.output, "rb") as output:
            for line in islice(output, 0, None, _EVERY):
                result = msgspec.json.decode(line)
                checked += 1
                if result.get("hash") != wanted and len(wrong) < _EVERY:
                    wrong.append(f"event {result.get('seq')} has the hash {result.get('hash')}")
        return judged(COMPUTED, wrong, f"{checked:,} results computed again")


def _chain(data: bytes, rounds: int) -> str:
    """The hash chain, through one object a round."""
    text = data
    while rounds:
        hasher = hashlib.new("sha256")
        hasher.update(text)
        text = hasher.digest()
        rounds -= 1
    return text.hex()
