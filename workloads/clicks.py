"""The scenario `clicks`: raw lines of an access log become clean clicks, sessions and windows.

Its stream, stages, tables and oracle are in the files beside it, clicks_*.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from millstream.engine.pipeline import Pipeline, stage

from .clicks_aggregate import Analytics, aggregate, close, new_user
from .clicks_ingest import ingest, load_geo
from .clicks_oracle import PROMISES, check_clicks, require_duckdb
from .clicks_stream import ClickStream
from .clicks_tables import import_parquet
from .scenario import Invariant, Outcome, Parameter, Scenario


class Clicks(Scenario):
    """A log of clicks that is cleaned, enriched and counted."""

    name: ClassVar = "clicks"
    summary: ClassVar = "Log lines are parsed, deduplicated, enriched and counted in windows."
    description: ClassVar = (
        "A collector passes on the lines of an access log: some are malformed, some come again as "
        "copies, and what they tell happened out of order, some of it too long ago. The first "
        "stage parses and enriches each line by itself, which takes tens of microseconds: "
        "regexes, URLs, a table of addresses, a hash. The second one, inline, refuses copies and "
        "what is late, joins a user's clicks to sessions (both in the user's state), and counts "
        "all users' clicks in tumbling and sliding windows; it writes all to Parquet files. An "
        "event is late by its own times, whatever other events do. Users may overtake one another "
        "by any number of events, so a window fires again when a straggler comes, and its last "
        "firing counts. What is a copy, and what a session was last, goes by the order of a "
        "user's events: so the promises need order by key, or global; state by key goes with no "
        "other."
    )
    parameters: ClassVar = (
        Parameter("users", 2000, "How many users there are.", least=1, most=200_000),
        Parameter("pages", 400, "How many pages they visit.", least=1, most=100_000),
        Parameter(
            "per-second", 50.0, "How many lines are received a second of log time.", "lines",
            least=0.01, most=100_000,
        ),
        Parameter("malformed", 0.01, "The share of malformed lines.", least=0, most=0.5),
        Parameter("duplicates", 0.02, "The share of lines that come again.", least=0, most=0.5),
        Parameter("within", 1000, "How much later a copy comes at most.", "events", least=1,
                  most=1_000_000),
        Parameter("disorder", 15, "How far most events lag behind at most.", "s", least=0,
                  most=86_400),
        Parameter("late", 0.01, "The share of lines beyond the lateness.", least=0, most=0.5),
        Parameter("lateness", 30, "How old an event may be when it is received.", "s", least=0,
                  most=86_400),
        Parameter("gap", 60, "After so long without a click a session is over.", "s", least=1,
                  most=86_400),
        Parameter("window", 30, "The length of a tumbling window.", "s", least=1, most=86_400),
        Parameter("sliding", 4, "The length of a sliding window.", "windows", least=1, most=100),
        Parameter("top", 10, "How many pages of a window are told.", least=1, most=1000),
    )  # fmt: skip
    promises: ClassVar = PROMISES
    orders: ClassVar = ("key", "global")
    withstands: ClassVar = Scenario.withstands | {"duplicate"}

    def lines(self) -> Iterator[bytes]:
        """The events."""
        return iter(ClickStream(self))

    def pipeline(self, folder: Path) -> Pipeline:
        """Two stages. Raises ScenarioError when pyarrow or DuckDB is not installed."""
        import_parquet()
        require_duckdb()  # now, rather than when all is done
        settings = {name: int(self.settings[name]) for name in ("within", "sliding", "top")}
        open_analytics = partial(
            Analytics,
            folder,
            within=settings["within"],
            lateness_ms=int(self.settings["lateness"]) * 1000,
            gap_ms=int(self.settings["gap"]) * 1000,
            window_ms=int(self.settings["window"]) * 1000,
            slices=settings["sliding"],
            best=settings["top"],
        )
        return Pipeline(
            stage(ingest, setup=load_geo),
            # One place for the windows of all users: it has no workers to be spread over.
            stage(
                aggregate,
                executor="inline",
                state=new_user,
                setup=open_analytics,
                teardown=close,
            ),
        )

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare tables and results with what SQL makes of the raw lines."""
        return check_clicks(self, outcome)
