"""The file that `run --checkpoint` keeps: named blobs and keyed rows, all committed or none.

SQLite, used by one thread through one connection, which keeps all others out while it is open.
What the blobs and rows mean, and when they are committed, is not known here.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Final, ParamSpec, TypeVar

SCHEMA: Final = "millstream.checkpoint/1"
TABLES: Final = ("state", "parked", "seen")

Put = tuple[str, str, bytes, bytes | None]
"""Table, stage, key, value; without a value (None) the row goes."""

_APPLICATION_ID: Final = 0x4D494C4C  # "MILL", in the header of the file
_VERSION: Final = 1
_PATIENCE_SECONDS: Final = 0.5
_LARGEST_LOG: Final = 64 * 1024 * 1024
_RESERVED: Final = "schema"
_HEADER: Final = struct.Struct(">16s44xi4xi")
"""How an SQLite file begins: what it is; at 60, the user_version; at 68, the application_id."""

# Ordinary tables: with values of 1 kB, WITHOUT ROWID took 2.5 times as long to commit.
_CREATE: Final = (
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    *(
        f"CREATE TABLE {table} (stage TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, "
        "PRIMARY KEY (stage, key))"
        for table in TABLES
    ),
)
_PUT_VALUE: Final = (
    "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_PUT_ROW: Final = (
    "INSERT INTO {} VALUES (?, ?, ?) ON CONFLICT (stage, key) DO UPDATE SET value = excluded.value"
)

# When a process closes a file, it loses all its locks on that file, whoever of it has them. So what
# is open here already is not opened again, not even to read its header.
_OPENING: Final = threading.Lock()
_HELD: Final[set[tuple[int, int]]] = set()

P = ParamSpec("P")
T = TypeVar("T")


class CheckpointError(Exception):
    """The checkpoint can't be used: which file, why, and what to do."""


class CheckpointStore:
    """An open checkpoint file, which nobody else can use meanwhile.

    Calls are served one after another, in the order in which they were made; one that is
    cancelled may still be served. All raise CheckpointError.
    """

    def __init__(self, thread: ThreadPoolExecutor, database: _Database) -> None:
        """Use open()."""
        self._thread, self._database = thread, database
        self._closed = False

    @classmethod
    async def open(cls, path: str) -> CheckpointStore:
        """Open the file at `path`, which is made when there is none, or an empty one.

        A file that is no checkpoint, or of a later version, is refused and stays as it is; so is
        one that is in use, after half a second. Cancelled, it ends when the file is free.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        opening = thread.submit(_Database, path)
        try:
            database = await asyncio.shield(asyncio.wrap_future(opening))
        except BaseException as error:
            freeing = thread.submit(_close_if_opened, opening)
            thread.shutdown(wait=False)
            if isinstance(error, asyncio.CancelledError):
                # The thread opens it nonetheless; who asks for it next is not to find it in use.
                await asyncio.shield(asyncio.wrap_future(freeing))
            raise
        return cls(thread, database)

    async def read(self, name: str) -> bytes | None:
        """The blob that was committed under `name`."""
        return await self._do(self._database.read, name)

    async def rows(self, table: str, stage: str) -> list[tuple[bytes, bytes]]:
        """Key and value of the rows of a stage, in the order of their keys' bytes."""
        return await self._do(self._database.rows, table, stage)

    async def commit(self, values: Mapping[str, bytes], puts: Sequence[Put] = ()) -> None:
        """Keep all of it, or, when it raises, all or nothing; of two puts for a key, the last.

        When it returns, all of it is on the disk. `schema` is no name for a blob: ValueError.
        """
        await self._do(self._database.commit, dict(values), list(puts))

    async def clear(self) -> None:
        """Remove all blobs and rows, in one transaction."""
        await self._do(self._database.clear)

    async def close(self) -> None:
        """Leave one file, for others to use. What was committed is kept even when it raises."""
        if self._closed:
            return
        self._closed = True
        ending = self._thread.submit(self._database.close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(ending))

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise CheckpointError(f"the checkpoint {self._database.path} is closed; open it anew")
        return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))


class _Database:
    """The file and its connection; made, used and closed in one thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        with _OPENING:
            real, size = _place_of(path)
            if size:
                _refuse_foreign(path, real)
            self._log = f"{real}-wal"
            with _blaming(path):
                self._connection = sqlite3.connect(
                    real, timeout=_PATIENCE_SECONDS, isolation_level=None
                )
                self._execute = self._connection.execute
                try:
                    self._prepare()
                except BaseException:
                    self._connection.close()
                    raise
            self._identity = _identity_of(os.stat(real))
            _HELD.add(self._identity)

    def read(self, name: str) -> bytes | None:
        with _blaming(self.path):
            row = self._execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def rows(self, table: str, stage: str) -> list[tuple[bytes, bytes]]:
        _refuse_unknown(table)
        query = f"SELECT key, value FROM {table} WHERE stage = ? ORDER BY key"
        with _blaming(self.path):
            return self._execute(query, (stage,)).fetchall()

    def commit(self, values: dict[str, bytes], puts: list[Put]) -> None:
        if _RESERVED in values:
            raise ValueError(f"{_RESERVED!r} names the checkpoint's own schema; use another name")
        last: dict[str, dict[tuple[str, bytes], bytes | None]] = {}
        for table, stage, key, value in puts:
            last.setdefault(table, {})[stage, key] = value
        for table in last:
            _refuse_unknown(table)
        many = self._connection.executemany
        with self._transaction():
            many(_PUT_VALUE, values.items())
            for table, rows in last.items():
                gone = (at for at, value in rows.items() if value is None)
                many(f"DELETE FROM {table} WHERE stage = ? AND key = ?", gone)
                kept = ((*at, value) for at, value in rows.items() if value is not None)
                many(_PUT_ROW.format(table), kept)

    def clear(self) -> None:
        with self._transaction():
            self._execute("DELETE FROM meta WHERE name <> ?", (_RESERVED,))
            for table in TABLES:
                self._execute(f"DELETE FROM {table}")

    def close(self) -> None:
        try:
            with _blaming(self.path), closing(self._connection):
                # Closing does so too, but keeps its errors to itself.
                self._execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            _HELD.discard(self._identity)

    def _prepare(self) -> None:
        """Lock the file, look at it under the lock, make what is not there."""
        # Before anything is read: then no memory is shared with others, and no -shm file is made.
        self._execute("PRAGMA locking_mode = EXCLUSIVE")
        self._execute("PRAGMA synchronous = FULL")
        self._execute("PRAGMA fullfsync = ON")  # macOS: otherwise the drive may still hold it
        self._execute("PRAGMA wal_autocheckpoint = 1000")
        # A new one is not in WAL mode yet: so _refuse_foreign() finds the header in the file.
        self._execute("BEGIN EXCLUSIVE")
        if not _tables_of(self._connection):
            for statement in _CREATE:
                self._execute(statement)
            self._execute(_PUT_VALUE, (_RESERVED, SCHEMA.encode()))
        application, version = (
            self._execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        _refuse_other(self.path, application, version)
        if not _tables_of(self._connection) >= {"meta", *TABLES}:
            raise CheckpointError(_not_ours(self.path))
        schema = self.read(_RESERVED)
        if schema != SCHEMA.encode():
            raise CheckpointError(
                f"the schema of {self.path} is not {SCHEMA}; name another file for the checkpoint"
            )
        self._execute("COMMIT")
        (mode,) = self._execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise CheckpointError(
                f"the checkpoint {self.path} can't be used: SQLite keeps no write-ahead log there; "
                "name a file on a local disk"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _blaming(self.path):
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # some errors have ended it
                    self._execute("ROLLBACK")
                raise
            self._bound_log()

    def _bound_log(self) -> None:
        """SQLite brings its log in by itself, but keeps silent when it can't, and writes on."""
        if os.path.getsize(self._log) > _LARGEST_LOG:
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _identity_of(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _close_if_opened(opening: Future[_Database]) -> None:
    if opening.exception() is None:
        with suppress(CheckpointError):  # nobody has committed anything
            opening.result().close()


def _place_of(path: str) -> tuple[str, int]:
    """The file behind `path`, and its size, 0 when there is none. Opens nothing."""
    try:
        real = os.path.realpath(path)
        try:
            facts = os.stat(real)
        except FileNotFoundError:
            facts = None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"the checkpoint {path!r} can't be used: {why}") from error
    if facts is not None and _identity_of(facts) in _HELD:
        raise CheckpointError(_in_use(path))
    folder = os.path.dirname(real)
    if facts is None and not os.path.isdir(folder):
        raise CheckpointError(f"the folder of the checkpoint {path} does not exist; make it first")
    if facts is not None and not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "no ordinary file"
        raise CheckpointError(f"{path} is {what}; name a file for the checkpoint")
    if not os.access(folder, os.W_OK | os.X_OK) or (
        facts and not os.access(real, os.R_OK | os.W_OK)
    ):
        raise CheckpointError(
            f"the checkpoint {path} can't be used: permission denied; "
            "its folder and itself must be readable and writable"
        )
    return real, facts.st_size if facts else 0


def _refuse_foreign(path: str, real: str) -> None:
    """Look at a file's header before SQLite does, which might change it, or what is beside it."""
    try:
        with open(real, "rb") as file:
            header = file.read(_HEADER.size)
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} can't be read: {error.strerror}") from error
    if len(header) < _HEADER.size:
        raise CheckpointError(_not_ours(path))
    magic, version, application = _HEADER.unpack(header)
    if magic != b"SQLite format 3\0":
        raise CheckpointError(_not_ours(path))
    _refuse_other(path, application, version)


def _refuse_other(path: str, application: int, version: int) -> None:
    if application == _APPLICATION_ID and version > _VERSION:
        raise CheckpointError(
            f"the checkpoint {path} was written by a later version of Millstream; "
            "use that version, or name another file"
        )
    if application != _APPLICATION_ID or version != _VERSION:
        raise CheckpointError(_not_ours(path))


def _tables_of(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def _not_ours(path: str) -> str:
    return f"{path} is no checkpoint, and stays as it is; name another file for the checkpoint"


def _refuse_unknown(table: str) -> None:
    if table not in TABLES:
        raise ValueError(f"there is no table {table!r}; use one of {', '.join(TABLES)}")


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """Tell SQLite's errors as the file's; a value that it can't take is the caller's own error."""
    try:
        yield
    except sqlite3.Error as error:
        code = _code_of(error)
        if code is None or code == sqlite3.SQLITE_CONSTRAINT:
            raise
        raise CheckpointError(_told(path, error, code)) from error
    except OverflowError as error:  # from 2 GiB on SQLite is not even asked
        raise CheckpointError(_too_big(path)) from error


def _code_of(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _in_use(path: str) -> str:
    return f"the checkpoint {path} is in use by another run; let that end, or name another file"


def _too_big(path: str) -> str:
    return f"the checkpoint {path} can't hold a value of 1 GB or more; keep less under one key"


def _told(path: str, error: sqlite3.Error, code: int) -> str:
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _in_use(path)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"the checkpoint {path} is damaged: {error}; begin anew with another file"
    if code == sqlite3.SQLITE_TOOBIG:
        return _too_big(path)
    if code == sqlite3.SQLITE_FULL:
        return f"the checkpoint {path} can't be written: {error}; make room, then go on from it"
    return (
        f"the checkpoint {path} can't be used: {error} ({error.sqlite_errorname}); "
        "see that its disk is in order and has room, then go on from it"
    )
