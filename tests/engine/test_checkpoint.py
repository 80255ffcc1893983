"""The checkpoint file: all of a commit or nothing of it, through kills, full disks and rivals."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine import checkpoint
from millstream.engine.checkpoint import TABLES, CheckpointError, CheckpointStore, Put

T = TypeVar("T")


def with_store(path: Path, act: Callable[[CheckpointStore], Awaitable[T]]) -> T:
    """Open, act, close."""

    async def scenario() -> T:
        store = await CheckpointStore.open(str(path))
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(scenario())


def commit(path: Path, values: dict[str, bytes], puts: list[Put] | None = None) -> None:
    with_store(path, lambda store: store.commit(values, puts or []))


def read(path: Path, name: str) -> bytes | None:
    return with_store(path, lambda store: store.read(name))


def rows(path: Path, table: str, stage: str) -> list[tuple[bytes, bytes]]:
    return with_store(path, lambda store: store.rows(table, stage))


def refused(path: Path) -> str:
    """The message of the refusal to open it."""
    with pytest.raises(CheckpointError) as raised:
        with_store(path, lambda store: store.read("x"))
    assert path.name in str(raised.value)
    return str(raised.value)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def size_of(path: Path) -> int:
    return path.stat().st_size


def started(script: str, *args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# --- what is kept


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    commit(path, {"position": b"\0\xff", "": b""}, [("state", "score", b"k", b"v")])

    assert (read(path, "position"), read(path, ""), read(path, "absent")) == (b"\0\xff", b"", None)
    assert rows(path, "state", "score") == [(b"k", b"v")]
    assert [rows(path, *at) for at in (("state", "other"), ("seen", "score"))] == [[], []]


_names = st.sampled_from(["position", "counts", "ü"])
_puts = st.tuples(
    st.sampled_from(TABLES),
    st.sampled_from(["score", "join"]),
    st.binary(max_size=2),
    st.none() | st.binary(max_size=9000),
)
_commits = st.tuples(st.dictionaries(_names, st.binary(max_size=20)), st.lists(_puts, max_size=12))


@given(st.lists(st.lists(_commits, max_size=3), max_size=3), st.booleans())
@settings(max_examples=15)
def test_commits_come_to_what_they_come_to_in_a_dictionary(
    runs: list[list[tuple[dict[str, bytes], list[Put]]]], cleared: bool
) -> None:
    values: dict[str, bytes] = {}
    held: dict[tuple[str, str], dict[bytes, bytes]] = {}

    async def run(
        store: CheckpointStore, commits: list[tuple[dict[str, bytes], list[Put]]]
    ) -> None:
        for some, puts in commits:
            await store.commit(some, puts)
            values.update(some)
            for table, stage, key, value in puts:
                own = held.setdefault((table, stage), {})
                own.pop(key, None)
                if value is not None:
                    own[key] = value
        if cleared and len(commits) == 1:
            await store.clear()
            values.clear()
            held.clear()

    async def content(store: CheckpointStore) -> object:
        found = {name: await store.read(name) for name in ("position", "counts", "ü")}
        return found, {at: await store.rows(*at) for at in held}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.checkpoint")
        for commits in runs:
            with_store(path, lambda store, commits=commits: run(store, commits))  # type: ignore[misc]  # bound now
        found = with_store(path, content)
        left = names_in(Path(folder))

    expected = {name: values.get(name) for name in ("position", "counts", "ü")}
    assert found == (expected, {at: sorted(own.items()) for at, own in held.items()})
    assert left == ["run.checkpoint"]


def test_of_two_puts_for_a_key_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    commit(
        path,
        {},
        [
            ("seen", "s", b"a", b"1"),
            ("seen", "s", b"a", b"2"),
            ("seen", "s", b"b", b"1"),
            ("seen", "s", b"b", None),
            ("seen", "s", b"c", None),
            ("seen", "s", b"c", b"3"),
        ],
    )

    assert rows(path, "seen", "s") == [(b"a", b"2"), (b"c", b"3")]


def test_a_cleared_file_is_as_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    commit(path, {"position": b"1"}, [(table, "s", b"k", b"v") for table in TABLES])

    with_store(path, lambda store: store.clear())

    assert read(path, "position") is None
    assert [rows(path, table, "s") for table in TABLES] == [[], [], []]


def test_an_empty_file_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    path.touch()

    commit(path, {"position": b"1"})

    assert read(path, "position") == b"1"


def test_the_log_of_a_file_that_is_gone_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    async def act(store: CheckpointStore) -> bytes:
        await store.commit({"position": b"1"})
        return files_in(tmp_path)[log_of(path).name]

    log = with_store(path, act)
    path.unlink()
    log_of(path).write_bytes(log)

    assert log
    assert read(path, "position") is None


@pytest.mark.parametrize(
    "name", ["a b?mode=memory&x=%41#.ü", ":memory:", "file:x", os.fsdecode(b"\xff")]
)
def test_any_name_names_a_file(tmp_path: Path, name: str) -> None:
    for value in (b"1", b"2"):
        commit(tmp_path / name, {"position": value})

    assert read(tmp_path / name, "position") == b"2"
    assert names_in(tmp_path) == [name]


# --- all or nothing


@pytest.mark.parametrize(
    ("values", "put", "error"),
    [
        ({"position": b"2"}, ("state", "s", b"k", object()), sqlite3.ProgrammingError),
        ({"position": b"2"}, ("state", "\ud800", b"k", b"2"), UnicodeEncodeError),
        ({"position": b"2"}, ("meta", "s", b"k", b"2"), ValueError),
        ({"position": b"2", "schema": b""}, ("state", "s", b"k", b"2"), ValueError),
        ({"position": b"2", "other": None}, ("state", "s", b"k", b"2"), sqlite3.IntegrityError),
    ],
)
def test_a_commit_that_fails_leaves_nothing_and_the_next_one_counts(
    tmp_path: Path, values: dict[str, bytes], put: Put, error: type[Exception]
) -> None:
    path = tmp_path / "run.checkpoint"

    async def act(store: CheckpointStore) -> object:
        await store.commit({"position": b"1"}, [("state", "s", b"k", b"1")])
        with pytest.raises(error):
            await store.commit(values, [("state", "s", b"j", b"2"), put])
        after = await store.read("position"), await store.rows("state", "s")
        await store.commit({"position": b"3"})
        return after

    assert with_store(path, act) == (b"1", [(b"k", b"1")])
    assert read(path, "position") == b"3"


def test_a_full_disk_is_told_and_what_was_committed_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    async def act(store: CheckpointStore) -> str:
        await store.commit({"position": b"1"})
        await store._do(store._database._execute, "PRAGMA max_page_count = 12")
        with pytest.raises(CheckpointError) as raised:
            await store.commit({"position": b"2"}, [("state", "s", b"k", bytes(100_000))])
        return str(raised.value)

    message = with_store(path, act)

    assert message == (
        f"the checkpoint {path} can't be written: database or disk is full; "
        "make room, then go on from it"
    )
    assert read(path, "position") == b"1"


_COMMIT_UNTIL_IT_FAILS = """
import asyncio, os, resource, signal, sys
from millstream.engine.checkpoint import CheckpointError, CheckpointStore

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = await CheckpointStore.open(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    for number in range(1000):
        try:
            await store.commit({"n": b"%d" % number}, [("seen", "s", b"%d" % number, bytes(5000))])
        except CheckpointError as error:
            print(number, error, flush=True)
            os._exit(0)

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_is_told_and_what_was_committed_stays(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    told, _ = started(_COMMIT_UNTIL_IT_FAILS, path).communicate()

    failed, _, message = told.partition(" ")
    assert message.startswith(f"the checkpoint {path} can't be used: disk I/O error")
    assert (read(path, "n"), len(rows(path, "seen", "s"))) == (
        b"%d" % (int(failed) - 1),
        int(failed),
    )
    assert int(failed) > 0


_COMMIT_AND_PRINT = """
import asyncio, itertools, sys
from millstream.engine.checkpoint import CheckpointStore

async def main():
    store = await CheckpointStore.open(sys.argv[1])
    for number in itertools.count(1):
        key = b"%d" % (number % 50)
        new = ("seen", "s", b"%d" % number, b"")
        changed = ("state", "s", key, b"%d " % number + bytes(40_000))
        await store.commit({"n": b"%d" % number}, [new, changed])
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("commits", [1, 20, 150])  # before and after SQLite brings its log in
def test_what_a_killed_process_had_committed_is_there(tmp_path: Path, commits: int) -> None:
    path = tmp_path / "run.checkpoint"
    with started(_COMMIT_AND_PRINT, path) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(commits)]
        process.kill()
        lines += process.stdout.readlines()
    left = names_in(tmp_path)

    async def content(store: CheckpointStore) -> tuple[int, int, int]:
        newest = max(int(value.split()[0]) for _, value in await store.rows("state", "s"))
        return int(await store.read("n") or 0), newest, len(await store.rows("seen", "s"))

    held = with_store(path, content)
    assert held[0] >= int(lines[-1]) >= commits
    assert held == (held[0],) * 3
    assert left == ["run.checkpoint", "run.checkpoint-wal"]
    assert names_in(tmp_path) == ["run.checkpoint"]


_DIE_WHILE_THE_LOG_IS_BROUGHT_IN = """
import asyncio, itertools, resource, signal, sys
from millstream.engine.checkpoint import CheckpointStore

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # a write beyond the limit kills
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    store = await CheckpointStore.open(sys.argv[1])
    most = 5_000_000  # the log ends at about 4,200,000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for number in itertools.count(1):
        puts = [("seen", "s", b"%d.%d" % (number, part), bytes(4000)) for part in range(20)]
        await store.commit({"n": b"%d" % number}, puts)
        print(number, flush=True)

asyncio.run(main())
"""


def test_a_kill_while_the_log_is_brought_in_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    with started(_DIE_WHILE_THE_LOG_IS_BROUGHT_IN, path) as process:
        assert process.stdout
        lines = process.stdout.readlines()
    left = size_of(path)

    number = int(read(path, "n") or 0)

    assert (process.returncode, left) == (-signal.SIGXFSZ, 5_000_000)
    assert number >= int(lines[-1]) > 40
    assert len(rows(path, "seen", "s")) == 20 * number


_DIE_WHILE_MAKING_IT = """
import asyncio, resource, signal, sys
from millstream.engine.checkpoint import CheckpointStore

most = int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # a write beyond the limit kills
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
asyncio.run(CheckpointStore.open(sys.argv[1]))
"""


# In the journal, within the first page (the system writes up to the limit), and between pages.
@pytest.mark.parametrize("most", [0, 600, 4096, 3 * 4096])
def test_a_file_that_was_not_made_to_its_end_is_made_anew(tmp_path: Path, most: int) -> None:
    path = tmp_path / "run.checkpoint"
    with started(_DIE_WHILE_MAKING_IT, path, str(most)) as process:
        pass
    left = size_of(path)

    commit(path, {"position": b"1"})

    assert (process.returncode, left) == (-signal.SIGXFSZ, most)
    assert read(path, "position") == b"1"
    assert names_in(tmp_path) == ["run.checkpoint"]


# --- the log


def test_the_log_does_not_grow_with_the_commits(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    async def act(store: CheckpointStore) -> int:
        largest = 0
        for number in range(60):
            await store.commit({}, [("state", "s", b"%d" % (number % 3), bytes(1_000_000))])
            largest = max(largest, size_of(log_of(path)))
        return largest

    assert with_store(path, act) < 10_000_000


def test_a_log_that_has_outgrown_its_bound_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.checkpoint"
    monkeypatch.setattr(checkpoint, "_LARGEST_LOG", 1_000_000)

    async def act(store: CheckpointStore) -> tuple[int, int]:
        sizes = []
        for size in (900_000, 2_000_000):
            await store.commit({"x": bytes(size)})
            sizes.append(size_of(log_of(path)))
        return sizes[0], sizes[1]

    before, after = with_store(path, act)

    assert before > 900_000
    assert after == 0


def test_all_is_synced_before_a_commit_returns(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    async def act(store: CheckpointStore) -> list[object]:
        ask = store._database._execute
        names = ("synchronous", "journal_mode", "locking_mode")
        return await store._do(lambda: [ask(f"PRAGMA {name}").fetchone()[0] for name in names])

    new, old = with_store(path, act), with_store(path, act)

    assert new == old == [2, "wal", "exclusive"]


# --- refusals


def _sqlite_file(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def _ours_but(path: Path, *statements: str) -> None:
    commit(path, {"position": b"1"})
    _sqlite_file(path, "PRAGMA journal_mode = DELETE", *statements)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"id,name\n" * 1000),
        lambda path: path.write_bytes(b"\n"),
        lambda path: path.write_bytes(bytes(8192)),
        lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(10_000)),
        lambda path: _sqlite_file(path, "VACUUM"),
        lambda path: _sqlite_file(path, "CREATE TABLE meta (name, value)"),
        lambda path: _sqlite_file(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t (x)"),
        lambda path: _ours_but(path, "PRAGMA application_id = 1"),
        lambda path: _ours_but(path, "PRAGMA user_version = 0"),
        lambda path: _ours_but(path, "DROP TABLE seen"),
    ],
)
def test_a_foreign_file_is_refused_and_stays_as_it_is(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "foreign"
    make(path)
    before = files_in(tmp_path)

    assert refused(path) == (
        f"{path} is no checkpoint, and stays as it is; name another file for the checkpoint"
    )
    assert files_in(tmp_path) == before


def test_a_foreign_database_with_a_log_beside_it_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    with closing(sqlite3.connect(tmp_path / "original", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        for end in ("", "-wal"):
            Path(f"{path}{end}").write_bytes(Path(f"{tmp_path}/original{end}").read_bytes())
    before = files_in(tmp_path)

    assert "is no checkpoint" in refused(path)
    assert files_in(tmp_path) == before
    assert "copy-wal" in before


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (
            "PRAGMA user_version = 2",
            "was written by a later version of Millstream; use that version",
        ),
        ("UPDATE meta SET value = 'x/2' WHERE name = 'schema'", "is not millstream.checkpoint/1"),
        ("DELETE FROM meta", "is not millstream.checkpoint/1"),
    ],
)
def test_another_schema_is_refused_and_stays_as_it_is(
    tmp_path: Path, statement: str, why: str
) -> None:
    path = tmp_path / "run.checkpoint"
    _ours_but(path, statement)
    before = files_in(tmp_path)

    assert why in refused(path)
    assert files_in(tmp_path) == before


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    commit(path, {"position": b"1"})
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    assert "is damaged: database disk image is malformed; begin anew with another" in refused(path)


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = names_in(tmp_path)

    assert "is a folder; name a file" in refused(tmp_path / "folder")
    assert "the folder of the checkpoint" in refused(tmp_path / "absent" / "x")
    assert "Not a directory" in refused(tmp_path / "file" / "x")
    assert "File name too long" in refused(tmp_path / ("x" * 300))
    assert "is no ordinary file" in refused(tmp_path / "pipe")
    assert names_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do all")
@pytest.mark.parametrize(("name", "mode"), [(".", 0o555), ("run.checkpoint", 0o444)])
def test_what_may_not_be_written_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    path = tmp_path / "run.checkpoint"
    commit(path, {})
    (tmp_path / name).chmod(mode)

    assert "permission denied" in refused(path)


_HOLD = """
import asyncio, sys
from millstream.engine.checkpoint import CheckpointStore

async def main():
    store = await CheckpointStore.open(sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()
    await store.commit({"position": b"theirs"})
    await store.close()

asyncio.run(main())
"""


def test_a_file_in_use_by_another_process_is_refused_until_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    with started(_HOLD, path) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"

        message = refused(path)

    assert "is in use by another run; let that end, or name another file" in message
    assert read(path, "position") == b"theirs"


def test_a_refusal_in_the_same_process_does_not_loosen_the_hold(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"

    async def act(store: CheckpointStore) -> tuple[str, int]:
        with pytest.raises(CheckpointError) as raised:
            await CheckpointStore.open(str(path))
        with started(_HOLD, path) as other:
            pass
        await store.commit({"position": b"ours"})
        return str(raised.value), other.returncode

    message, others_exit = with_store(path, act)

    assert "is in use by another run" in message
    assert others_exit == 1
    assert read(path, "position") == b"ours"


# --- its life


def test_calls_are_served_in_order_without_waiting_for_each_other(tmp_path: Path) -> None:
    async def act(store: CheckpointStore) -> list[bytes | None]:
        calls: list[Awaitable[bytes | None]] = []
        for number in range(20):
            calls.append(asyncio.ensure_future(store.commit({"n": b"%d" % number})))
            calls.append(asyncio.ensure_future(store.read("n")))
        return (await asyncio.gather(*calls))[1::2]

    found = with_store(tmp_path / "run.checkpoint", act)

    assert found == [b"%d" % number for number in range(20)]


def test_what_is_changed_after_the_call_is_not_committed(tmp_path: Path) -> None:
    async def act(store: CheckpointStore) -> object:
        values, puts = {"a": b"1"}, [("state", "s", b"k", b"1")]
        committing = asyncio.ensure_future(store.commit(values, puts))
        await asyncio.sleep(0)
        values["b"] = b"2"
        puts.append(("state", "s", b"j", b"2"))
        await committing
        return await store.read("b"), await store.rows("state", "s")

    assert with_store(tmp_path / "run.checkpoint", act) == (None, [(b"k", b"1")])


def open_and_cancel(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, bool]:
    """Cancel an opening before its thread begins: whether it ended before that, and cancelled."""
    begin, database = threading.Event(), checkpoint._Database

    def opened(path: str) -> checkpoint._Database:
        begin.wait()
        return database(path)

    monkeypatch.setattr(checkpoint, "_Database", opened)

    async def scenario() -> tuple[bool, bool]:
        opening = asyncio.ensure_future(CheckpointStore.open(str(path)))
        await asyncio.sleep(0)
        opening.cancel()
        for _ in range(10):  # turns of the loop; what does not wait for the thread ends in two
            await asyncio.sleep(0)
        early = opening.done()
        begin.set()
        await asyncio.wait([opening])
        return early, opening.cancelled()

    return asyncio.run(scenario())


def test_an_opening_that_is_cancelled_leaves_the_file_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.checkpoint"

    early, cancelled = open_and_cancel(path, monkeypatch)
    commit(path, {"position": b"1"})

    assert (early, cancelled) == (False, True)
    assert read(path, "position") == b"1"
    assert names_in(tmp_path) == ["run.checkpoint"]


def test_an_opening_that_is_cancelled_tells_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign").write_bytes(b"id,name\n" * 1000)
    close = checkpoint._Database.close

    def close_and_fail(database: checkpoint._Database) -> None:
        close(database)
        raise CheckpointError("can't be closed")

    monkeypatch.setattr(checkpoint._Database, "close", close_and_fail)

    ends = [open_and_cancel(tmp_path / name, monkeypatch) for name in ("foreign", "new")]

    assert ends == [(False, True)] * 2


def test_a_closed_store_says_so_and_closes_again_in_silence(tmp_path: Path) -> None:
    async def act(store: CheckpointStore) -> None:
        await store.close()
        with pytest.raises(CheckpointError, match="is closed; open it anew"):
            await store.read("x")
        await store.close()

    with_store(tmp_path / "run.checkpoint", act)

    assert names_in(tmp_path) == ["run.checkpoint"]
