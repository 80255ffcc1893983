"""What Nexmark's queries have to come to: nexmark-flink's SQL, run by DuckDB over the events.

Nothing of the handlers here. DuckDB comes with the extra `scenarios`; it is imported when it is
needed. Its database is a file that is gone afterwards, and its memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from .scenario import MOST_NAMED, ScenarioUnusable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY: Final = "1GB"
_EVENTS_A_FILE: Final = 200_000


class Judgement(Struct, frozen=True):
    """How a query's result differs from SQL's."""

    rows: int
    """So many rows are in SQL's result."""
    wrong: tuple[str, ...]
    """Some of the differences."""
    differences: int


class _Query(Struct, frozen=True):
    expected: str
    """The result, from the views `person`, `auction` and `bid`, with the parameters $size and
    $period in ms."""
    columns: dict[str, str]
    """Of the rows that the pipeline writes: name -> type."""
    result: str
    """The result that those rows (`written`) stand for."""


_BID: Final = {
    "auction": "BIGINT",
    "bidder": "BIGINT",
    "price": "BIGINT",
    "dateTime": "BIGINT",
    "extra": "VARCHAR",
}


def _rows_in_data(columns: dict[str, str]) -> dict[str, str]:
    """Of events whose payloads are the rows."""
    members = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return {"seq": "BIGINT", "data": f"STRUCT({members})"}


_FROM_DATA: Final = "SELECT seq, unnest(data) FROM written"

# Where it is in the standard's files, the SQL is theirs, word by word but for the names of windows.
# The differences: windows are ms since 1970; q4 shows the sums that its average comes from, so that
# no difference is rounded away; a window of q7 ends before its last moment, which belongs to the
# next one, where the file's BETWEEN takes it to both; q11's sessions are found by their gaps.
_QUERIES: Final = {
    "q0": _Query(
        "SELECT seq, auction, bidder, price, dateTime, extra FROM bid",
        _rows_in_data(_BID),
        _FROM_DATA,
    ),
    "q1": _Query(
        "SELECT seq, auction, bidder, CAST(0.908 * price AS DECIMAL(23, 3)) AS price, dateTime, "
        "extra FROM bid",
        _rows_in_data(_BID | {"price": "DECIMAL(23, 3)"}),
        _FROM_DATA,
    ),
    "q2": _Query(
        "SELECT auction, price FROM bid WHERE mod(auction, 123) = 0",
        {"auction": "BIGINT", "price": "BIGINT"},
        "SELECT * FROM written",
    ),
    "q3": _Query(
        """
        SELECT P.name, P.city, P.state, A.id
        FROM auction AS A INNER JOIN person AS P ON A.seller = P.id
        WHERE A.category = 10 AND (P.state = 'OR' OR P.state = 'ID' OR P.state = 'CA')
        """,
        {"name": "VARCHAR", "city": "VARCHAR", "state": "VARCHAR", "id": "BIGINT"},
        "SELECT * FROM written",
    ),
    "q4": _Query(
        """
        SELECT Q.category AS id, sum(Q.final) // count(*) AS final, sum(Q.final) AS total,
            count(*) AS auctions
        FROM (
            SELECT max(B.price) AS final, A.category
            FROM auction A, bid B
            WHERE A.id = B.auction AND B.dateTime BETWEEN A.dateTime AND A.expires
            GROUP BY A.id, A.category
        ) Q
        GROUP BY Q.category
        """,
        dict.fromkeys(("id", "final", "total", "auctions", "update"), "BIGINT"),
        'SELECT * EXCLUDE ("update") FROM written '
        'QUALIFY rank() OVER (PARTITION BY id ORDER BY "update" DESC) = 1',
    ),
    "q5": _Query(
        """
        WITH hops AS (
            SELECT auction, unnest(
                range(dateTime - dateTime % $period, dateTime - $size, -$period)
            ) AS starttime
            FROM bid
        ), counted AS (
            SELECT auction, count(*) AS num, starttime FROM hops GROUP BY auction, starttime
        )
        SELECT A.auction, A.num, A.starttime
        FROM counted AS A
        JOIN (SELECT max(num) AS maxn, starttime FROM counted GROUP BY starttime) AS M
        ON A.starttime = M.starttime AND A.num >= M.maxn
        """,
        dict.fromkeys(("auction", "num", "starttime"), "BIGINT"),
        "SELECT * FROM written QUALIFY num = max(num) OVER (PARTITION BY starttime)",
    ),
    "q7": _Query(
        """
        SELECT B.seq, B.auction, B.bidder, B.price, B.dateTime, B.extra, M.starttime
        FROM bid B
        JOIN (
            SELECT max(price) AS maxprice, dateTime - dateTime % $size AS starttime
            FROM bid GROUP BY starttime
        ) M
        ON B.price = M.maxprice
        WHERE B.dateTime >= M.starttime AND B.dateTime < M.starttime + $size
        """,
        _rows_in_data(_BID | {"starttime": "BIGINT"}),
        f"FROM ({_FROM_DATA}) QUALIFY price = max(price) OVER (PARTITION BY starttime)",
    ),
    "q8": _Query(
        """
        SELECT P.id, P.name, P.starttime
        FROM (
            SELECT id, name, dateTime - dateTime % $size AS starttime FROM person
            GROUP BY id, name, starttime
        ) P
        JOIN (
            SELECT seller, dateTime - dateTime % $size AS starttime FROM auction
            GROUP BY seller, starttime
        ) A
        ON P.id = A.seller AND P.starttime = A.starttime
        """,
        {"id": "BIGINT", "name": "VARCHAR", "starttime": "BIGINT"},
        "SELECT * FROM written",
    ),
    "q11": _Query(
        """
        WITH gaps AS (
            SELECT bidder, dateTime, seq,
                dateTime - lag(dateTime) OVER (PARTITION BY bidder ORDER BY dateTime, seq) AS gap
            FROM bid
        ), numbered AS (
            SELECT bidder, dateTime,
                count(*) FILTER (gap > $size)
                    OVER (PARTITION BY bidder ORDER BY dateTime, seq) AS session
            FROM gaps
        )
        SELECT bidder, count(*) AS bid_count, min(dateTime) AS starttime,
            max(dateTime) + $size AS endtime
        FROM numbered GROUP BY bidder, session
        """,
        dict.fromkeys(("bidder", "bid_count", "starttime", "endtime", "update"), "BIGINT"),
        'SELECT * EXCLUDE ("update") FROM (FROM written '
        'QUALIFY rank() OVER (PARTITION BY bidder, starttime ORDER BY "update" DESC) = 1) '
        "WHERE bid_count > 0",
    ),
}

_EVENTS: Final = """
    seq: 'BIGINT', type: 'VARCHAR',
    data: 'STRUCT(id BIGINT, name VARCHAR, city VARCHAR, state VARCHAR, seller BIGINT,
        category BIGINT, auction BIGINT, bidder BIGINT, price BIGINT, dateTime BIGINT,
        expires BIGINT, extra VARCHAR)'
"""
_TABLES: Final = {
    "person": "data.id, data.name, data.city, data.state, data.dateTime",
    "auction": "data.id, data.seller, data.category, data.dateTime, data.expires",
    "bid": "seq, data.auction, data.bidder, data.price, data.dateTime, data.extra",
}


def require_duckdb() -> None:
    """Raises ScenarioUnusable when DuckDB is missing."""
    if find_spec("duckdb") is None:
        raise ScenarioUnusable(
            "the scenario nexmark checks its results with DuckDB, which is not installed: "
            "pip install 'millstream[scenarios]'"
        )


def judge(
    query: str, lines: Iterable[bytes], output: str, folder: str, *, size_ms: int, period_ms: int
) -> Judgement:
    """Compare what a pipeline wrote (`output`) with what SQL makes of the events."""
    require_duckdb()
    asked = _QUERIES[query]
    windows = {"size": size_ms, "period": period_ms}
    with TemporaryDirectory(dir=folder) as own, _database(Path(own)) as database:
        _load(database, lines, Path(own))
        # Parameters that a query does not have are refused.
        given = {name: ms for name, ms in windows.items() if f"${name}" in asked.expected}
        database.execute(f"CREATE TABLE expected AS {asked.expected}", given)
        unreadable = _read(database, asked, output)
        if unreadable is not None:
            return Judgement(0, (unreadable,), 1)
        return _compare(database)


@contextmanager
def _database(folder: Path) -> Iterator[DuckDBPyConnection]:
    import duckdb

    database = duckdb.connect(str(folder / "oracle.duckdb"))
    try:
        database.execute(f"SET memory_limit = '{MEMORY}'")
        database.execute("SET preserve_insertion_order = false")
        yield database
    finally:
        database.close()


def _load(database: DuckDBPyConnection, lines: Iterable[bytes], folder: Path) -> None:
    """The events as tables, a file of them after the other."""
    path = folder / "events.jsonl"
    left = iter(lines)
    has_tables = False
    while True:
        some = list(islice(left, _EVENTS_A_FILE))
        if not some and has_tables:
            return
        path.write_bytes(b"".join(line + b"\n" for line in some))
        source = f"read_json($path, format='newline_delimited', columns={{{_EVENTS}}})"
        for table, columns in _TABLES.items():
            into = f"INSERT INTO {table}" if has_tables else f"CREATE TABLE {table} AS"
            text = f"{into} SELECT {columns} FROM {source} WHERE type = '{table}'"
            database.execute(text, {"path": str(path)})
        has_tables = True


def _read(database: DuckDBPyConnection, asked: _Query, output: str) -> str | None:
    """The result that was written, as a table; or why it is none."""
    import duckdb

    columns = ", ".join(f"\"{name}\": '{kind}'" for name, kind in asked.columns.items())
    source = f"read_json($path, format='newline_delimited', columns={{{columns}}})"
    try:
        database.execute(f"CREATE TABLE written AS FROM {source}", {"path": output})
    except duckdb.Error as error:
        return f"the results can't be read: {str(error).splitlines()[0]}"
    database.execute(f"CREATE TABLE result AS {asked.result}")
    return None


def _compare(database: DuckDBPyConnection) -> Judgement:
    """Rows that are missing, and rows too many."""
    wrong: list[str] = []
    differences = 0
    for some, other, text in (
        ("expected", "result", "is missing"),
        ("result", "expected", "is too much"),
    ):
        database.execute(
            f"CREATE OR REPLACE TABLE differs AS (FROM {some} EXCEPT ALL FROM {other})"
        )
        differences += _count(database, "differs")
        rows = database.execute(f"FROM differs ORDER BY ALL LIMIT {MOST_NAMED}")
        names = [column[0] for column in rows.description or ()]
        for row in rows.fetchall():
            told = ", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True))
            wrong.append(f"the row {told} {text}")
    return Judgement(_count(database, "expected"), tuple(wrong), differences)


def _count(database: DuckDBPyConnection, table: str) -> int:
    found = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found[0]) if found else 0
