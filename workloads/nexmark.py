"""The scenario `nexmark`: a benchmark's queries over the events of an auction house.

Its parameters are here; its events in nexmark_generator.py, its handlers in nexmark_queries.py, and
its oracle, DuckDB, in nexmark_oracle.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd
from pathlib import Path
from typing import ClassVar, Final

from millstream.engine.pipeline import Pipeline

from .nexmark_generator import OUT_OF_ORDER_STEP, Config, Generator
from .nexmark_oracle import judge, require_duckdb
from .nexmark_queries import BY_PERSON, QUERIES, Times, pipeline_of
from .scenario import (
    Beside,
    Invariant,
    Outcome,
    Parameter,
    ParameterValue,
    Promise,
    Scenario,
    ScenarioError,
    Seed,
    judged,
    survivors,
)

RESULT = Promise("result", "The rows of the query are what SQL says of the same events.")
MOST_BEHIND: Final = 1_000_000
"""By so many events one key may be handled behind another."""


class Nexmark(Scenario):
    """Windows, joins and aggregates over people, auctions and bids."""

    name: ClassVar = "nexmark"
    summary: ClassVar = "Nexmark's queries: windows, joins and aggregates over an auction house."
    description: ClassVar = (
        "People come, begin auctions and bid, as in the Nexmark suites of Apache Beam and Flink; "
        "half of the bids are for one hot auction, three of four by one hot bidder, and one event "
        "of ten is late by up to three seconds. One of nine queries runs over them, with state by "
        "key where the query goes by auction or person, and a stage behind that for what goes "
        "across. The result is compared with that of the query in SQL, by DuckDB."
    )
    parameters: ClassVar = (
        Parameter("query", "q5", "Which of the queries.", choices=QUERIES),
        Parameter("window-size-sec", 10, "How long windows are, and gaps.", "s", least=1),
        Parameter("window-period-sec", 2, "How far q5's windows are apart.", "s", least=1),
        Parameter("person-proportion", 1, "Of so many events in an epoch, people.", least=1),
        Parameter("auction-proportion", 3, "Of so many events in an epoch, auctions.", least=1),
        Parameter("bid-proportion", 46, "Of so many events in an epoch, bids.", least=1),
        Parameter("hot-auction-ratio", 2, "One of so many bids is for no hot auction.", least=1),
        Parameter("hot-sellers-ratio", 4, "One of so many auctions has no hot seller.", least=1),
        Parameter("hot-bidders-ratio", 4, "One of so many bids has no hot bidder.", least=1),
        Parameter("num-in-flight-auctions", 100, "How many auctions are open.", least=1),
        Parameter("num-active-people", 1000, "How many people sell and bid.", least=1),
        Parameter(
            "out-of-order-group-size",
            1,
            "Within so many events the order is another one; 1: all come in order.",
            least=1,
            most=1_000_000,
        ),
        Parameter(
            "first-event-rate",
            10_000,
            "How many events happen in a second of their own time; it goes on like this.",
            "events/s",
            least=1,
            most=1_000_000,
        ),
        Parameter(
            "occasional-delay-sec", 3, "How late an event may come.", "s", least=0, most=3600
        ),
        Parameter("prob-delayed-event", 0.1, "The share of events that are late.", least=0, most=1),
        Parameter(
            "avg-person-byte-size", 200, "What a person takes.", "bytes", least=0, most=2**20
        ),
        Parameter(
            "avg-auction-byte-size", 500, "What an auction takes.", "bytes", least=0, most=2**20
        ),
        Parameter("avg-bid-byte-size", 100, "What a bid takes.", "bytes", least=0, most=2**20),
        Parameter(
            "key-groups",
            10_000,
            "Ids that differ by so many have the same key, so that keys come again and their state "
            "has a bound; not in the standard.",
            least=1,
        ),
    )
    promises: ClassVar = (RESULT,)
    orders: ClassVar = ("key", "global")

    def __init__(self, settings: Mapping[str, ParameterValue] | None = None, seed: Seed = 1):
        super().__init__(settings, seed)
        self.config = Config.of(self.settings)
        size = self.config.out_of_order_group_size
        if size % OUT_OF_ORDER_STEP == 0:
            raise ScenarioError(
                f"--set out-of-order-group-size={size}: events change places by "
                f"{OUT_OF_ORDER_STEP}; give it a number that this does not divide"
            )

    @property
    def query(self) -> str:
        """Which query runs."""
        return str(self.settings["query"])

    @property
    def times(self) -> Times:
        """What the query has to know of time."""
        config = self.config
        size_ms = int(self.settings["window-size-sec"]) * 1000
        period_ms = int(self.settings["window-period-sec"]) * 1000
        behind_ms = MOST_BEHIND * 1000 // config.first_event_rate
        return Times(
            size_ms=size_ms,
            period_ms=period_ms,
            pane_ms=gcd(size_ms, period_ms),
            disorder_ms=config.disorder_ms,
            reach_ms=config.reach_ms,
            behind_ms=size_ms + config.disorder_ms + behind_ms,
        )

    def lines(self) -> Iterator[bytes]:
        """The events. But for their keys they are the same for all queries."""
        by_person = self.query in BY_PERSON
        return Generator(self.config, self.random, by_person=by_person).lines()

    def pipeline(self, folder: Path) -> Pipeline:
        """The query's stages."""
        return pipeline_of(self.query, self.times)

    def running(self, folder: Path) -> Beside:
        """Nothing runs beside it; but what is missing is said before the run, not after."""
        require_duckdb()
        return super().running(folder)

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare what came out with what SQL says."""
        times = self.times
        found = judge(
            self.query,
            survivors(self, outcome),
            outcome.output,
            outcome.folder,
            size_ms=times.size_ms,
            period_ms=times.period_ms,
        )
        fine = f"{found.rows:,} rows of {self.query}, as SQL has them"
        return [judged(RESULT, found.wrong, fine, found.differences)]
