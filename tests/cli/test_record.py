"""`millstream run --record FILE`, also when a run does not come to its end."""

from __future__ import annotations

import signal
from pathlib import Path

import duckdb
import pytest

from tests.cli.support import HANDLERS, Folder, folder_with, lines_of, numbered, wait_for
from tests.support.records import check_stamps, rows_of

GATED = """
    import asyncio, os

    async def gated(event):
        while event.data["id"] == 3 and not os.path.exists("gate"):
            await asyncio.sleep(0.01)
        return event

    async def stuck(event):
        if event.data["id"] == 3:
            await asyncio.Event().wait()
        return event

    def spinning(event):
        if event.data["id"] == 3:
            open("spins", "w").close()
            while True:
                pass
        return event
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    files = {"h.py": HANDLERS, "g.py": GATED, "in.jsonl": numbered(8)}
    return folder_with(tmp_path, files)


def test_the_flag_and_a_file_of_options_say_the_same(folder: Folder) -> None:
    folder.file("run.toml", 'record = "b.parquet"')

    flag = folder.run("h.py:same", "in.jsonl", "--record", "a.parquet")
    file = folder.run("h.py:same", "in.jsonl", "--config", "run.toml")

    assert (flag.code, file.code) == (0, 0)
    for name in ("a.parquet", "b.parquet"):
        found = duckdb.sql(f"select outcome, count(*) from '{folder.path / name}' group by all")
        assert found.fetchall() == [("emitted", 8)]
    assert folder.names == {"h.py", "g.py", "in.jsonl", "run.toml", "a.parquet", "b.parquet"}


def test_it_tells_what_became_of_each_event(folder: Folder) -> None:
    bad = {"id": 9, "key": "c", "bad": True}
    folder.file("in.jsonl", numbered(2) + b"nope\n" + lines_of(bad))

    ended = folder.run("h.py:fail_bad", "in.jsonl", "--record", "r.parquet", "--order", "none")

    rows = rows_of(folder.path / "r.parquet")
    assert ended.code == 4
    assert [(row["key"], row["outcome"]) for row in rows] == [
        *(("a", "emitted"), ("b", "emitted"), (None, "dead"), ("c", "dead"))
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_valid_file(folder: Folder, number: int) -> None:
    with folder.start("g.py:gated", "-", "--record", "r.parquet", stdin=-1) as run:
        run.write(numbered(8))
        assert run.line()  # some is done, and one waits
        run.signal(number)
        run.error_line("finishing what is in flight")
        folder.file("gate", "")
        ended = run.end()

    check_stamps(folder.path / "r.parquet")
    assert ended.code == 128 + number
    assert [row["outcome"] for row in rows_of(folder.path / "r.parquet")] == ["emitted"] * 8


def test_what_was_let_go_of_has_a_row_without_an_outcome(folder: Folder) -> None:
    arguments = ("g.py:stuck", "-", "--record", "r.parquet", "--drain-timeout", "1ms")
    with folder.start(*arguments, stdin=-1) as run:
        run.write(numbered(8))
        assert run.line()
        run.signal(signal.SIGINT)
        ended = run.end()

    check_stamps(folder.path / "r.parquet")
    rows = rows_of(folder.path / "r.parquet")
    assert ended.code == 130
    assert len(rows) == 8
    assert (rows[3]["outcome"], rows[3]["emitted_ns"]) == (None, None)
    assert rows[3]["admitted_ns"] is not None


def test_the_second_signal_leaves_nothing_behind(folder: Folder) -> None:
    folder.file("r.parquet", "older")
    with folder.start("g.py:spinning", "in.jsonl", "--record", "r.parquet") as run:
        wait_for((folder.path / "spins").exists, "the handler that holds the loop")
        run.signal(signal.SIGINT)
        run.error_line("holds the event loop")
        run.signal(signal.SIGINT)
        ended = run.end()

    assert ended.code == 130
    assert folder.read("r.parquet") == b"older"
    assert [name for name in folder.names if name.endswith(".part")] == []


def test_without_pyarrow_it_says_what_to_install(folder: Folder) -> None:
    folder.file("without/pyarrow.py", "raise ImportError('there is none')")
    arguments = ("h.py:same", "in.jsonl", "--output", "out.jsonl")

    plain = folder.run(*arguments, PYTHONPATH="without")
    ended = folder.run(*arguments, "--record", "r.parquet", PYTHONPATH="without")

    assert plain.code == 0
    assert ended.code == 3
    assert "--record needs pyarrow" in ended.err
    assert "pip install 'millstream[record]'" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--record", "-"), 2, "not to standard output; name a file"),
        (("--record", "r", "--checkpoint", "c"), 2, "leave one of them out"),
        (("--record", "o", "--output", "o"), 2, "--output and --record name the same file, o"),
        (("--record", "in.jsonl"), 2, "an input and --record name the same file, in.jsonl"),
        (("--record", "no/r"), 3, "record 'no/r' can't be written: No such file or directory"),
        (("--record", "/dev/full"), 3, "No space left on device"),
        (("--record", "."), 3, "is a folder; name a file in it"),
    ],
)
def test_what_can_not_be_done_is_told(
    folder: Folder, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = folder.run("h.py:same", "in.jsonl", *arguments)

    assert ended.code == code
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert [name for name in folder.names if name.endswith(".part")] == []


def test_a_link_stays_a_link(folder: Folder) -> None:
    (folder.path / "data").mkdir()
    (folder.path / "link").symlink_to("data/r.parquet")

    folder.run("h.py:same", "in.jsonl", "--record", "link")

    assert (folder.path / "link").is_symlink()
    assert len(rows_of(folder.path / "data" / "r.parquet")) == 8


def test_replay_and_prove_keep_none(folder: Folder) -> None:
    folder.file("run.toml", 'record = "r.parquet"\ndead-letter = "dead.jsonl"')
    folder.run("h.py:fail", "in.jsonl", "--config", "run.toml")
    (folder.path / "r.parquet").unlink()

    replayed = folder.command("replay", "dead.jsonl", "h.py:same", "--config", "run.toml")
    proved = folder.command("prove", "h.py:same", "in.jsonl", "--config", "run.toml", "--kills=1")

    assert replayed.code == 0
    assert proved.code == 0, proved.err
    assert "r.parquet" not in folder.names
