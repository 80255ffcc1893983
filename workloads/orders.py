"""The scenario `orders`: orders of a shop, step by step, over a database that workers share.

Here are its handlers; what an event does is orders_rules.py's, what keeps it orders_store.py's,
and the oracle is orders_oracle.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, stage

from . import orders_oracle as oracle
from .orders_postgres import (
    URLS,
    PostgresBeside,
    Target,
    import_psycopg,
    open_postgres,
    schema_of,
)
from .orders_rules import Note, apply_event, items_touched
from .orders_store import DATABASE, SqliteBeside, Store, View, close_store, open_sqlite
from .orders_stream import Shape, order_lines
from .scenario import (
    Beside,
    Invariant,
    Outcome,
    Parameter,
    ParameterValue,
    Scenario,
    ScenarioError,
    Seed,
)

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
_BATCH_WAIT_S: Final = 0.002
"""An event waits no longer for others to be committed with."""


def receive(event: Event, state: list[int]) -> Event:
    """Number the deliveries of an event, and mark an order whose total is not that of its lines.

    The database could not tell one that is delivered again from one that is tried again, since a
    worker was killed after it had committed: but only the first has had its result. The state of
    a key, here how often each step came, is the engine's, and as it was when an event is tried
    again.
    """
    data = event.data
    step = data["step"]
    state.extend([0] * (step + 1 - len(state)))
    state[step] += 1
    data["delivery"] = state[step]
    if event.type == "order.place":
        lines = sum(quantity * price for _, quantity, price in data["lines"])
        if lines != data["total"]:
            data["refused"] = True
    return event


def apply(events: list[Event], resource: Store) -> list[Mapping[str, Any] | None]:
    """Apply events in one transaction, those not applied before; gives what came of each.

    Nothing for a delivery after the one that was applied.
    """
    asked = [(str(event.type), event.data) for event in events]
    names = [(data["order"], data["step"]) for _, data in asked]

    def work(view: View) -> None:
        for name, (kind, data) in zip(names, asked, strict=True):
            if name not in view.notes and name not in view.new:
                view.new[name] = apply_event(view.orders, view.items, kind, data)

    view = resource.transact(names, lambda view: items_touched(view.orders, asked), work)
    known = view.notes | view.new
    return [answer(event, known[name]) for event, name in zip(events, names, strict=True)]


def answer(event: Event, note: Note) -> Mapping[str, Any] | None:
    """What is told of an event; nothing when another delivery of it was applied."""
    if note.delivery != event.data["delivery"]:
        return None
    return {
        "id": event.id,
        "key": event.key,
        "type": event.type,
        "order": note.order,
        "step": note.step,
        "outcome": note.outcome,
        "status": note.status,
        "amount": note.amount,
    }


class Orders(Scenario):
    """Orders that are paid, shipped, cancelled, and taken back."""

    name: ClassVar = "orders"
    summary: ClassVar = "Orders of a shop, over a database: payments, stock, and what undoes them."
    description: ClassVar = (
        "Many orders are under way at once: placed, stock reserved, payment authorised (or "
        "declined), captured, shipped; some are cancelled, and what was done for them is undone. "
        "Each step is an event, with the order as its key and a time of its own in the schedule; "
        "some are delivered again. One stage checks totals and counts deliveries, one applies "
        "events to a database that all workers share, in one transaction with the note that they "
        "were applied. Hard are the items that all buy, and that nothing may happen twice."
    )
    parameters: ClassVar = (
        Parameter(
            "store",
            SQLITE,
            "The database: sqlite, in a file; postgresql, as the environment says (PGHOST and so "
            "on); or a URL, postgresql://user@host/database.",
        ),
        Parameter("batch", 10, "Events that are applied in one transaction.", least=1, most=1000),
        Parameter("durable", False, "Whether each transaction waits for the disk."),
        Parameter("open", 1000, "Orders under way at once, at most.", least=1, most=1_000_000),
        Parameter("items", 500, "How many items there are to buy.", least=1, most=1_000_000),
        Parameter(
            "stock", 1_000_000, "How many there are of each item at first.", least=0, most=1e12
        ),
        Parameter("declines", 0.05, "The share of payments that are declined.", least=0, most=1),
        Parameter("cancels", 0.1, "The share of orders that are cancelled.", least=0, most=1),
        Parameter(
            "repeats", 0.02, "The share of events that are delivered again.", least=0, most=0.5
        ),
    )
    promises: ClassVar = oracle.PROMISES
    orders: ClassVar = ("key", "global")
    withstands: ClassVar = Scenario.withstands | {"duplicate"}

    def __init__(self, settings: Mapping[str, ParameterValue] | None = None, seed: Seed = 1):
        """Of a URL only `postgresql` stays in the settings: it may have a password in it.

        Raises ScenarioError.
        """
        super().__init__(settings, seed)
        store = str(self.settings["store"])
        self._target: Target | None = None
        if store != SQLITE:
            if store != POSTGRESQL and not store.startswith(URLS):
                raise ScenarioError(
                    "--set store: it can be sqlite, postgresql, or postgresql://user@host/database"
                )
            url = URLS[0] if store == POSTGRESQL else store
            self._target = Target(url, durable=bool(self.settings["durable"]))
            self.settings["store"] = POSTGRESQL

    def lines(self) -> Iterator[bytes]:
        """The events."""
        settings = self.settings
        shape = Shape(
            open=int(settings["open"]),
            items=int(settings["items"]),
            declines=float(settings["declines"]),
            cancels=float(settings["cancels"]),
            repeats=float(settings["repeats"]),
        )
        return order_lines(self.random("orders"), shape)

    def running(self, folder: Path) -> Beside:
        """The database with its stock."""
        items, stock = int(self.settings["items"]), int(self.settings["stock"])
        if self._target is None:
            return SqliteBeside(str(folder / DATABASE), items, stock)
        import_psycopg()
        return PostgresBeside(folder, self._target, items, stock)

    def pipeline(self, folder: Path) -> Pipeline:
        """Two stages. What fails in the second has had no effect: nothing may fail after it."""
        applying = stage(
            apply,
            setup=self._opener(folder),
            teardown=close_store,
            batch=int(self.settings["batch"]),
            batch_wait=_BATCH_WAIT_S,
        )
        return Pipeline(stage(receive, state=list), applying)

    def _opener(self, folder: Path) -> Callable[[], Store]:
        durable = bool(self.settings["durable"])
        if self._target is None:
            return partial(open_sqlite, str(folder / DATABASE), durable=durable)
        target = Target(self._target.url, schema_of(folder), durable)
        return partial(open_postgres, target)

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare database and results with what a sequential simulation comes to."""
        return oracle.check_orders(self, outcome, Path(outcome.folder) / DATABASE)
