"""What a load scenario is: a seeded stream of events, a pipeline, and an oracle that judges it.

Each scenario is a file of its own, with its oracle beside it; registry.py lists them. Users' own
are Python files with the same parts. Imported by worker processes: nothing heavy here.
"""

from __future__ import annotations

import difflib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final

from msgspec import Struct

from millstream.engine.connectors.base import ConnectorError
from millstream.engine.faults import parse_fault
from millstream.engine.order import ORDERS, Order
from millstream.engine.pipeline import Pipeline
from millstream.engine.plan import PlanError

ParameterValue = str | int | float | bool

Seed = int


class ScenarioError(PlanError):
    """A scenario, or a parameter of one, is not there; the message says what to change."""


class ScenarioUnusable(ScenarioError, ConnectorError):
    """What a scenario needs (a package, a server) can't be used; the message says what to do."""


class Parameter(Struct, frozen=True):
    """What can be set of a scenario: `--set users=5000`."""

    name: str
    default: ParameterValue
    """Its type is the parameter's type."""
    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> ParameterValue:
        """The value that a text stands for. Raises ScenarioError."""
        kind = type(self.default)
        try:
            if kind is bool:
                return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
            return self.checked(kind(text.replace("_", "") if kind is not str else text))
        except (KeyError, ValueError) as error:
            if isinstance(error, ScenarioError):
                raise
            what = {bool: "yes or no", int: "a whole number", float: "a number"}[kind]
            raise ScenarioError(f"--set {self.name}={text}: give it {what}") from None

    def checked(self, value: ParameterValue) -> ParameterValue:
        """The value, when it is one that the parameter can have. Raises ScenarioError."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ScenarioError(f"--set {self.name}={value!r}: give it a {kind.__name__}")
        if self.choices and value not in self.choices:
            raise ScenarioError(f"--set {self.name}={value}: it can be {', '.join(self.choices)}")
        if isinstance(value, int | float):
            # Written so that it refuses what compares with nothing (nan), too.
            if self.least is not None and not value >= self.least:
                raise ScenarioError(f"--set {self.name}={value}: give it {self.least:g} or more")
            if self.most is not None and not value <= self.most:
                raise ScenarioError(f"--set {self.name}={value}: give it {self.most:g} or less")
        return value


class Promise(Struct, frozen=True):
    """An invariant of a scenario: what is true after every run of it that went well."""

    name: str
    text: str


class Invariant(Struct, frozen=True):
    """Whether an invariant held in a run, and what was seen."""

    name: str
    held: bool
    detail: str


class Outcome(Struct, frozen=True):
    """What a run of a scenario has left, for its oracle to judge."""

    events: int
    """How many lines of the stream were put in: the first ones."""
    output: str
    """Path of the results, JSON Lines, as the pipeline's last stage gave them."""
    folder: str
    """The scenario's own folder in this run: databases, Parquet files."""
    order: Order
    dead: frozenset[int] = frozenset()
    """The places in the stream, from 0, of events that became dead letters: they had no effect."""


class Scenario(ABC):
    """A load scenario with its parameters set. Equal seeds make equal streams, byte for byte."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line: what it models."""
    description: ClassVar[str]
    """A paragraph: the events, the stages, and what is hard about them."""
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    promises: ClassVar[tuple[Promise, ...]] = ()
    orders: ClassVar[tuple[Order, ...]] = ORDERS
    """Under which of them the promises hold; the first one is the default."""
    withstands: ClassVar[frozenset[str]] = frozenset(
        {"error", "delay", "hang", "kill-worker", "stop-worker"}
    )
    """The kinds of faults (engine/faults.py) that break none of the promises."""

    def __init__(self, settings: Mapping[str, ParameterValue] | None = None, seed: Seed = 1):
        """`settings`: parameters that differ from their defaults. Raises ScenarioError."""
        self.settings = settled(self.parameters, settings or {}, self.name)
        self.seed = seed

    @abstractmethod
    def lines(self) -> Iterator[bytes]:
        """The events as lines of JSON, without a line's end. Endless."""

    @abstractmethod
    def pipeline(self, folder: Path) -> Pipeline:
        """The pipeline. What it keeps outside of its results stands in `folder`.

        Its handlers are functions of a module (bound by functools.partial where they need the
        settings), so that worker processes find them.
        """

    @abstractmethod
    def check(self, outcome: Outcome) -> list[Invariant]:
        """The oracle: whether each promise held, in their order.

        It comes to what should be there by itself, one event after another, and shares no code
        with the handlers.
        """

    def running(self, folder: Path) -> Beside:
        """What runs beside the pipeline while it does: a server that it calls. Entered before
        pipeline() is called, left when the run is over."""
        return Beside()

    @classmethod
    def bears(cls, faults: Sequence[str]) -> bool:
        """Whether the promises hold under faults, as `--inject` is given them."""
        return {parse_fault(each).kind for each in faults} <= cls.withstands

    def random(self, purpose: str = "") -> random.Random:
        """A source of chance for one purpose, that follows from the seed alone."""
        return random.Random(f"{self.name}/{purpose}/{self.seed}")


class Beside:
    """Runs beside a pipeline; this one is nothing."""

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def settled(
    parameters: Sequence[Parameter], settings: Mapping[str, ParameterValue], scenario: str
) -> dict[str, ParameterValue]:
    """All parameters with their values. Raises ScenarioError."""
    known = {each.name: each for each in parameters}
    for name in settings:
        if name not in known:
            raise ScenarioError(unknown_parameter(name, list(known), scenario))
    return {
        name: each.checked(settings[name]) if name in settings else each.default
        for name, each in known.items()
    }


def parse_settings(scenario: type[Scenario], texts: Sequence[str]) -> dict[str, ParameterValue]:
    """`NAME=VALUE` texts as values of a scenario's parameters. Raises ScenarioError."""
    known = {each.name: each for each in scenario.parameters}
    values: dict[str, ParameterValue] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            raise ScenarioError(f"--set {text!r} can't be understood; write it like NAME=VALUE")
        if name not in known:
            raise ScenarioError(unknown_parameter(name, list(known), scenario.name))
        values[name] = known[name].parse(value)
    return values


def unknown_parameter(name: str, known: Sequence[str], scenario: str) -> str:
    """What to say of a parameter that there is none of."""
    if not known:
        return f"--set {name}: the scenario {scenario} has no parameters"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
    return f"--set {name}: the scenario {scenario} has no such parameter; {hint}"


def stream(scenario: Scenario, events: int) -> Iterator[bytes]:
    """The first `events` lines of a scenario's stream."""
    return islice(scenario.lines(), events)


def survivors(scenario: Scenario, outcome: Outcome) -> Iterator[bytes]:
    """The lines that were put in and did not become dead letters: what had an effect."""
    dead = outcome.dead
    for place, line in enumerate(stream(scenario, outcome.events)):
        if place not in dead:
            yield line


MOST_NAMED: Final = 3


def judged(
    promise: Promise, wrong: Sequence[str], fine: str, count: int | None = None
) -> Invariant:
    """An invariant by what was found `wrong` (some of `count`), or what is to be said if nothing.

    Keep `wrong` short: three of them are named.
    """
    found = len(wrong) if count is None else count
    if not found:
        return Invariant(promise.name, True, fine)
    more = f"; and {found - MOST_NAMED:,} more" if found > MOST_NAMED else ""
    return Invariant(promise.name, False, "; ".join(wrong[:MOST_NAMED]) + more)
