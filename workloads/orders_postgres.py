"""The scenario `orders` over PostgreSQL: a schema of its own for each run, and connections to it.

psycopg is imported when a server is asked for. No message says more of a URL than host and port.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from .orders_rules import Item, Note
from .orders_store import (
    COLUMNS,
    DATABASE,
    TABLES,
    ItemsOf,
    View,
    Work,
    create_tables,
    order_of_row,
    remove_database,
    row_of_order,
)
from .scenario import Beside, ScenarioError, ScenarioUnusable

if TYPE_CHECKING:
    import psycopg

URLS: Final = ("postgresql://", "postgres://")
SCHEMA: Final = "orders.schema"
"""The file in the scenario's folder that has the schema's name."""

_CONNECT_TIMEOUT_S: Final = 10
_LOCK_TIMEOUT: Final = "30s"
"""At the end of a run: nobody uses its schema any more."""
_ATTEMPTS: Final = 5


class StoreLost(ConnectionError):
    """The connection to the server broke; a later attempt makes another one."""


class Target(Struct, frozen=True):
    """Where a run's tables are. Shows nothing of the URL, which may have a password in it."""

    url: str
    schema: str = ""
    durable: bool = False

    def __repr__(self) -> str:
        return f"Target(schema={self.schema!r})"


def open_postgres(target: Target) -> PostgresStore:
    """A worker's connection; what its stage is set up with. Raises ScenarioError."""
    return PostgresStore(target)


class PostgresStore:
    """One worker's connection."""

    def __init__(self, target: Target) -> None:
        self._psycopg, self._target = import_psycopg(), target
        self._connection = _worker_connection(target)
        names = {name: f"{target.schema}.{name}" for name in COLUMNS}
        self._sql = {name: text.format(**names).encode() for name, text in _STATEMENTS.items()}

    def transact(self, events: list[tuple[int, int]], items: ItemsOf, work: Work) -> View:
        """As Store says. Raises StoreLost."""
        errors = self._psycopg.errors
        # A worker that was killed may have left a transaction that the server is still at: an
        # event that it commits now was not seen here. The next attempt sees it.
        unseen = (errors.UniqueViolation, errors.SerializationFailure, errors.DeadlockDetected)
        for left in reversed(range(_ATTEMPTS)):
            try:
                return self._attempt(events, items, work)
            except unseen as error:
                self._connection.rollback()
                if not left:
                    raise StoreLost(f"other transactions were in the way: {error}") from None
            except self._psycopg.OperationalError as error:
                self._connection.close()
                raise StoreLost(_without_secrets(str(error), self._target.url)) from None
            except BaseException:
                if not self._connection.closed:
                    self._connection.rollback()
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """As Store says."""
        self._connection.close()

    def _attempt(self, events: list[tuple[int, int]], items: ItemsOf, work: Work) -> View:
        if self._connection.closed:
            try:
                self._connection = _worker_connection(self._target)
            except ScenarioError as error:
                raise StoreLost(str(error)) from None
        connection, sql, view = self._connection, self._sql, View()
        numbers = sorted({order for order, _ in events})
        # Three journeys to the server and back: the orders, the items, and all that is written.
        with connection.pipeline():
            orders = connection.execute(sql["orders"], (numbers,))
            notes = connection.execute(sql["notes"], (numbers,))
            view.orders = {row[0]: order_of_row(row) for row in orders.fetchall()}
            wanted = set(events)
            known = (Note(*row) for row in notes.fetchall())
            view.notes = {(n.order, n.step): n for n in known if (n.order, n.step) in wanted}
            needed = sorted(items(view))
            if needed:
                # In the order of their numbers: so no two transactions wait for each other.
                rows = connection.execute(sql["items"], (needed,)).fetchall()
                view.items = {row[0]: Item(*row) for row in rows}
            work(view)
            self._write(view)
            connection.commit()
        return view

    def _write(self, view: View) -> None:
        execute, sql = self._connection.execute, self._sql
        if view.new:
            # First of all: nothing else is written when somebody else has applied one of them.
            notes = [msgspec.structs.astuple(note) for note in view.new.values()]
            execute(sql["put notes"], _by_column(notes))
        changed = [row_of_order(order) for order in view.changed_orders()]
        if changed:
            execute(sql["put orders"], _by_column(changed))
        if view.items:
            rows = [msgspec.structs.astuple(item) for item in view.items.values()]
            execute(sql["put items"], _by_column(rows))


_STATEMENTS: Final = {
    "orders": f"SELECT {', '.join(COLUMNS['orders'])} FROM {{orders}} WHERE id = ANY(%s)",
    "notes": f"SELECT {', '.join(COLUMNS['applied'])} FROM {{applied}} WHERE order_id = ANY(%s)",
    "items": "SELECT id, available, reserved, shipped FROM {stock} WHERE id = ANY(%s) "
    "ORDER BY id FOR UPDATE",
    "put notes": "INSERT INTO {applied} SELECT * FROM unnest"
    "(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])",
    "put orders": "INSERT INTO {orders} SELECT * FROM unnest(%s::bigint[], %s::text[], "
    "%s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[]) "
    "ON CONFLICT (id) DO UPDATE SET status = excluded.status, holds = excluded.holds, "
    "authorised = excluded.authorised, captured = excluded.captured",
    "put items": "UPDATE {stock} AS old SET available = new.available, reserved = new.reserved, "
    "shipped = new.shipped FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) "
    "AS new (id, available, reserved, shipped) WHERE old.id = new.id",
}


def _by_column(rows: Sequence[Iterable[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _worker_connection(target: Target) -> psycopg.Connection[Any]:
    connection = connect(target)
    # A plan that was made while the tables were empty would read all of them for ever.
    connection.execute(b"SET enable_seqscan = off")
    connection.execute(b"SET synchronous_commit = " + (b"on" if target.durable else b"off"))
    connection.isolation_level = import_psycopg().IsolationLevel.READ_COMMITTED
    connection.commit()
    connection.autocommit = False
    return connection


# --- the server


def connect(target: Target) -> psycopg.Connection[Any]:
    """A connection in which each statement is a transaction. Raises ScenarioError."""
    library = import_psycopg()
    try:
        parts = library.conninfo.conninfo_to_dict(target.url)
    except library.Error:
        # Its message has parts of the URL in it.
        raise ScenarioError(
            "--set store: the URL can't be understood; write it like "
            "postgresql://user@host:5432/database, with %-escapes in a password"
        ) from None
    parts.setdefault("connect_timeout", _CONNECT_TIMEOUT_S)
    parts.setdefault("application_name", "millstream")
    try:
        connection: psycopg.Connection[Any] = library.connect(**parts, autocommit=True)
        return connection
    except library.Error as error:
        raise ScenarioUnusable(
            "--set store: the PostgreSQL server can't be used: "
            f"{_without_secrets(str(error), target.url)}"
        ) from None


def import_psycopg() -> ModuleType:
    """The module, or ScenarioError."""
    try:
        import psycopg
        import psycopg.conninfo
        import psycopg.errors
    except ImportError as error:
        raise ScenarioUnusable(
            f"--set store: PostgreSQL needs psycopg ({error}); install it with "
            "pip install 'millstream[scenarios]'"
        ) from None
    return psycopg


def _without_secrets(message: str, url: str) -> str:
    """What the server or its library says, on one line, without names of users and passwords."""
    parts = import_psycopg().conninfo.conninfo_to_dict(url)
    found = {str(parts[name]) for name in ("user", "password", "passfile") if parts.get(name)}
    found |= {os.environ[name] for name in ("PGUSER", "PGPASSWORD") if os.environ.get(name)}
    for secret in sorted({url, *found}, key=len, reverse=True):
        message = message.replace(secret, "***")
    return "; ".join(line.strip() for line in message.splitlines() if line.strip())


class PostgresBeside(Beside):
    """The schema of one run: made at its begin, copied into a file and dropped at its end."""

    def __init__(self, folder: Path, target: Target, items: int, stock: int) -> None:
        self._folder, self._target = folder, target
        self._items, self._stock = items, stock

    def __enter__(self) -> PostgresBeside:
        file = self._folder / SCHEMA
        with closing(connect(self._target)) as connection:
            if file.exists():  # a run that was killed has left it
                _drop(connection, file.read_text())
                file.unlink()
            schema = f"millstream_orders_{secrets.token_hex(8)}"
            file.write_text(schema)
            with connection.transaction():
                connection.execute(f"CREATE SCHEMA {schema}".encode())
                connection.execute(f"SET LOCAL search_path TO {schema}".encode())
                for statement in TABLES.format(integer="BIGINT").split(";"):
                    connection.execute(statement.encode())
                connection.execute(
                    b"INSERT INTO stock SELECT id, %s, %s, 0, 0 FROM generate_series(0, %s) AS id",
                    (self._stock, self._stock, self._items - 1),
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        psycopg = import_psycopg()
        file = self._folder / SCHEMA
        schema = file.read_text()
        try:
            with closing(connect(self._target)) as connection:
                try:
                    if kind is None:
                        _copy(connection, schema, str(self._folder / DATABASE))
                finally:
                    _drop(connection, schema)
            file.unlink()
        except (ScenarioError, psycopg.Error) as failed:
            if kind is None:
                said = _without_secrets(str(failed), self._target.url)
                raise ScenarioUnusable(f"the tables in schema {schema}: {said}") from None


def schema_of(folder: Path) -> str:
    """The name of the schema that was made for the run. Raises ScenarioError."""
    with suppress(FileNotFoundError):
        return (folder / SCHEMA).read_text()
    raise ScenarioError(f"there is no database in {folder} yet; enter running() of the scenario")


def _drop(connection: psycopg.Connection[Any], schema: str) -> None:
    connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())


def _copy(connection: psycopg.Connection[Any], schema: str, path: str) -> None:
    """Copy all tables into an SQLite database."""
    remove_database(path)
    with closing(sqlite3.connect(path)) as copied:
        create_tables(copied)
        copied.execute("PRAGMA synchronous = OFF")
        for table, columns in COLUMNS.items():
            query = f"COPY (SELECT {', '.join(columns)} FROM {schema}.{table}) TO STDOUT"
            put = f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})"
            with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
                copy.set_types(["text" if name in _TEXTS else "int8" for name in columns])
                copied.executemany(put, copy.rows())
        copied.commit()


_TEXTS: Final = frozenset({"status", "lines", "outcome"})
