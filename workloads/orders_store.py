"""Where the scenario `orders` keeps its orders and its stock: what a store does, and SQLite as one.

What is done to an order is decided in orders_rules.py. PostgreSQL is orders_postgres.py's.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from types import TracebackType
from typing import Final, Protocol

import msgspec

from .orders_rules import Item, Note, Order
from .scenario import Beside

DATABASE: Final = "orders.sqlite"
"""The file in the scenario's folder; with another store, what it held at the end of the run."""

TABLES: Final = """
CREATE TABLE stock (
    id {integer} PRIMARY KEY, initial {integer} NOT NULL, available {integer} NOT NULL,
    reserved {integer} NOT NULL, shipped {integer} NOT NULL,
    CHECK (available >= 0 AND reserved >= 0 AND shipped >= 0)
);
CREATE TABLE orders (
    id {integer} PRIMARY KEY, status TEXT NOT NULL, total {integer} NOT NULL, lines TEXT NOT NULL,
    holds {integer} NOT NULL, authorised {integer} NOT NULL, captured {integer} NOT NULL,
    CHECK (authorised >= 0 AND captured >= 0)
);
CREATE TABLE applied (
    order_id {integer} NOT NULL, step {integer} NOT NULL, outcome TEXT NOT NULL,
    status TEXT NOT NULL, amount {integer} NOT NULL, delivery {integer} NOT NULL,
    PRIMARY KEY (order_id, step)
)"""
"""`applied` has a row an event, put in with its effect: an event that has one has no second effect.
"""
COLUMNS: Final = {
    "stock": ("id", "initial", "available", "reserved", "shipped"),
    "orders": ("id", "status", "total", "lines", "holds", "authorised", "captured"),
    "applied": ("order_id", "step", "outcome", "status", "amount", "delivery"),
}

_BUSY_TIMEOUT_S: Final = 60.0
# What a process that was killed has written is there for the others without it. Only a machine
# that loses its power loses what was not synced, and a run is not continued after that.
_UNSYNCED: Final = "OFF"


class View:
    """What a transaction has of the database: read, changed in memory, and written at its end."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.items: dict[int, Item] = {}
        self.notes: dict[tuple[int, int], Note] = {}
        """By order and step: events that were applied before."""
        self.new: dict[tuple[int, int], Note] = {}
        """Those that are applied in this transaction."""

    def changed_orders(self) -> list[Order]:
        """The orders that new notes are of."""
        return [self.orders[n] for n in {note.order for note in self.new.values() if note.status}]


Work = Callable[[View], None]
"""What is done in a transaction; called again when it has to be begun again."""
ItemsOf = Callable[[View], Iterable[int]]
"""The items that are needed, as soon as the orders are known."""


class Store(Protocol):
    """One worker's connection to the database."""

    def transact(self, events: list[tuple[int, int]], items: ItemsOf, work: Work) -> View:
        """Read what is known of events (order, step) and of items, do the work, write, commit.

        All of it becomes durable, or nothing does. Nobody else changes the same items meanwhile.
        """

    def close(self) -> None:
        """End the connection."""


def create_tables(connection: sqlite3.Connection) -> None:
    """The empty tables."""
    connection.executescript(TABLES.format(integer="INTEGER") + " WITHOUT ROWID;")


def open_sqlite(path: str, *, durable: bool) -> SqliteStore:
    """A worker's connection; what its stage is set up with."""
    return SqliteStore(path, durable=durable)


def close_store(store: Store) -> None:
    """What its stage is torn down with."""
    store.close()


class SqliteStore:
    """One worker's connection to a database in a file, which those of other workers write too.

    With a rollback journal: WAL would save little where all transactions write, and older versions
    of SQLite can corrupt it when several connections write.
    """

    def __init__(self, path: str, *, durable: bool) -> None:
        self._connection = _connect(path, durable=durable)
        # Who waits for a database sleeps up to 0.1 s between two looks; for a lock the kernel
        # wakes it at once. A process that is killed holds it no longer.
        self._queue = os.open(f"{path}.queue", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def transact(self, events: list[tuple[int, int]], items: ItemsOf, work: Work) -> View:
        """As Store says."""
        connection, view = self._connection, View()
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._read(view, events)
            for item in items(view):
                row = connection.execute(_ITEM, (item,)).fetchone()
                view.items[item] = Item(*row)
            work(view)
            self._write(view)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            fcntl.flock(self._queue, fcntl.LOCK_UN)
        return view

    def close(self) -> None:
        """As Store says."""
        self._connection.close()
        os.close(self._queue)

    def _read(self, view: View, events: list[tuple[int, int]]) -> None:
        execute = self._connection.execute
        for number in {order for order, _ in events}:
            row = execute(_ORDER, (number,)).fetchone()
            if row is not None:
                view.orders[number] = order_of_row(row)
        for event in events:
            row = execute(_NOTE, event).fetchone()
            if row is not None:
                view.notes[event] = Note(*row)

    def _write(self, view: View) -> None:
        connection = self._connection
        connection.executemany(_PUT_NOTE, [msgspec.structs.astuple(n) for n in view.new.values()])
        connection.executemany(_PUT_ORDER, [row_of_order(o) for o in view.changed_orders()])
        connection.executemany(
            _PUT_ITEM, [(i.left, i.reserved, i.shipped, i.number) for i in view.items.values()]
        )


_ORDER: Final = f"SELECT {', '.join(COLUMNS['orders'])} FROM orders WHERE id = ?"
_NOTE: Final = f"SELECT {', '.join(COLUMNS['applied'])} FROM applied WHERE order_id=? AND step=?"
_ITEM: Final = "SELECT id, available, reserved, shipped FROM stock WHERE id = ?"
_PUT_NOTE: Final = "INSERT INTO applied VALUES (?, ?, ?, ?, ?, ?)"
_PUT_ORDER: Final = (
    "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
    "status = excluded.status, holds = excluded.holds, authorised = excluded.authorised, "
    "captured = excluded.captured"
)
_PUT_ITEM: Final = "UPDATE stock SET available = ?, reserved = ?, shipped = ? WHERE id = ?"

_decode_lines: Final = msgspec.json.Decoder(list[tuple[int, int]]).decode


def order_of_row(row: tuple[int, str, int, str, int, int, int]) -> Order:
    """An order from its columns."""
    number, status, total, lines, holds, authorised, captured = row
    return Order(number, status, total, _decode_lines(lines), bool(holds), authorised, captured)


def row_of_order(order: Order) -> tuple[int, str, int, str, int, int, int]:
    """The reverse."""
    return (
        order.number,
        order.status,
        order.total,
        msgspec.json.encode(order.lines).decode(),
        int(order.holds),
        order.authorised,
        order.captured,
    )


def _connect(path: str, *, durable: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode = PERSIST")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else _UNSYNCED}")
    return connection


class SqliteBeside(Beside):
    """The database of one run: made at its begin, left for the oracle at its end."""

    def __init__(self, path: str, items: int, stock: int) -> None:
        self._path, self._items, self._stock = path, items, stock

    def __enter__(self) -> SqliteBeside:
        remove_database(self._path)
        with closing(_connect(self._path, durable=False)) as connection:
            create_tables(connection)
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO stock VALUES (?, ?, ?, 0, 0)",
                ((item, self._stock, self._stock) for item in range(self._items)),
            )
            connection.execute("COMMIT")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def remove_database(path: str) -> None:
    """What an earlier run in the folder has left: the file, and those beside it."""
    for name in (path, f"{path}-journal", f"{path}.queue"):
        if os.path.exists(name):
            os.unlink(name)
