"""`millstream run`: what it writes, and that it is complete or absent."""

from __future__ import annotations

import gzip
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.cli.support import HANDLERS, Folder, folder_with, lines_of, numbered, wait_for

BIG = 1234567890123456789012345678901234567890
ODD = [
    b'  {"key" : "a",\t"n":1.0e5 , "big":%d}  ' % BIG,
    b'{"z":1,"key":"a","a":2,"z":3}',
    b'{"key":"\\u0061","text":"\\ud83d\\ude00 \\/ \\n","data":{"x":-0.0,"y":1E+2}}',
    b'{"key":"\xc3\xa9","data":[1,[2,{"3":[]}]],"data":null}',
    b'["key", 1]',
    b'"just text"',
    b"12345678901234567890.000",
    b"null",
    b"{}",
]

WAITING = """
    import os, time

    def wait(event):
        print("handling", event.id, flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        return event

    def stop_at_100(event):
        if event.id == 100:
            print("at 100", flush=True)
            while not os.path.exists("go"):
                time.sleep(0.01)
        return event

    def slowly(event):
        time.sleep(0.001)
        return event
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "w.py": WAITING})


# --- the same bytes, the same values


@pytest.mark.parametrize("executor", ["inline", "process"])
@pytest.mark.parametrize("emit", ["completion", "input"])
def test_untouched_events_are_written_byte_for_byte(
    folder: Folder, executor: str, emit: str
) -> None:
    folder.file("in.jsonl", lines_of(*ODD))
    folder.file("l.py", "def look(event):\n    event.key, event.type\n    return event\n")

    ended = folder.run(
        "l.py", "in.jsonl", "--executor", executor, "--workers", "1", "--emit", emit,
        "--order", "global",
    ) if executor == "process" else folder.run("l.py", "in.jsonl", "--emit", emit)  # fmt: skip

    assert (ended.code, ended.lines) == (0, ODD)


def test_untouched_events_pass_a_coroutine_byte_for_byte(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of(*ODD))
    folder.file("l.py", "async def look(event):\n    event.data\n    return event\n")

    ended = folder.run("l.py", "in.jsonl", "--order", "global")

    assert ended.code == 0
    assert [json.loads(line) for line in ended.lines] == [json.loads(line) for line in ODD]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_what_was_not_changed_keeps_its_value(folder: Folder, executor: str) -> None:
    twice = {"n": BIG, "paid": False}
    events: list[dict[str, Any]] = [
        {"key": "a", "copy": twice, "data": twice, "after": [twice, -BIG]},
        {"key": "b", "data": twice},
        {"key": "c", "deep": {"data": {"n": 1}}, "n": BIG, "f": 0.1},
        {"data": {"n": BIG}, "key": "d", "text": ',"data":{"n":1}}'},
    ] * 3
    folder.file("in.jsonl", lines_of(*events))
    folder.file("p.py", "def pay(event):\n    event.data['paid'] = True\n    return event\n")

    ended = folder.run("p.py", "in.jsonl", "--executor", executor, "--order", "global")

    expected = [
        {**event, "data": {**event["data"], "paid": True}}
        if "data" in event
        else {**event, "paid": True}
        for event in events
    ]
    assert (ended.code, ended.events) == (0, expected)


# --- files


def test_files_are_packed_by_their_names(folder: Folder) -> None:
    events = numbered(1000)
    folder.file("in.jsonl", events)

    codes = [
        folder.run("h.py:same", "in.jsonl", "--output", name).code
        for name in ("out.jsonl", "out.jsonl.gz", "out.jsonl.zst")
    ]

    assert codes == [0, 0, 0]
    assert folder.read("out.jsonl") == events
    assert gzip.decompress(folder.read("out.jsonl.gz")) == events
    unpacked = zstandard.ZstdDecompressor().decompressobj().decompress(folder.read("out.jsonl.zst"))
    assert unpacked == events
    assert len(folder.names) == 6


def test_the_input_may_be_the_output(folder: Folder) -> None:
    folder.file("events.jsonl", lines_of({"key": "a"}))

    codes = [folder.run("h.py:touch", "events.jsonl", "-o", "events.jsonl").code for _ in "12"]

    assert codes == [0, 0]
    assert folder.read("events.jsonl") == b'{"key":"a","touched":true}\n'


def test_a_link_is_written_through_and_its_target_keeps_its_mode(folder: Folder) -> None:
    target = folder.file("real/out.jsonl", b"old\n")
    target.chmod(0o640)
    (folder.path / "link.jsonl").symlink_to("real/out.jsonl")
    folder.file("in.jsonl", numbered(2))

    folder.run("h.py:same", "in.jsonl", "--output", "link.jsonl")

    assert (folder.path / "link.jsonl").is_symlink()
    assert target.read_bytes() == numbered(2)
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_killed_run_leaves_the_name_as_it_was(folder: Folder) -> None:
    folder.file("in.jsonl", numbered(200_000))
    folder.file("old.jsonl", b"old\n")

    for name in ("new.jsonl", "old.jsonl"):
        with folder.start("w.py:slowly", "in.jsonl", "--output", name) as run:
            part = folder.path / f".{name}.{run.process.pid}.part"
            wait_for(lambda part=part: part.exists() and part.stat().st_size, "some output")  # type: ignore[misc]
            run.signal(signal.SIGKILL)
            code = run.end().code

        assert code == -signal.SIGKILL

    assert not (folder.path / "new.jsonl").exists()
    assert folder.read("old.jsonl") == b"old\n"


def test_an_error_leaves_the_old_file_untouched(folder: Folder) -> None:
    folder.file("out.jsonl", b"old\n")
    folder.file("in.gz", gzip.compress(numbered(50_000))[:-20])

    ended = folder.run("h.py:same", "in.gz", "--output", "out.jsonl")

    assert ended.code == 3
    assert folder.read("out.jsonl") == b"old\n"
    assert len(folder.names) == 4


def test_no_results_still_make_a_file(folder: Folder) -> None:
    folder.file("in.jsonl", numbered(3))

    ended = folder.run("h.py:nothing", "in.jsonl", "--output", "out.jsonl", "--result", "r.json")

    assert (ended.code, folder.read("out.jsonl")) == (0, b"")
    counts = folder.json("r.json")["counts"]
    assert [counts[name] for name in ("read", "handled", "filtered", "emitted")] == [3, 3, 3, 0]


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--output", "absent/out.jsonl"),
        ("--output", "folder"),
        ("--output", "/dev/full"),
        ("--dead-letter", "absent/dead.jsonl"),
        ("--dead-letter", "/dev/full"),
        ("--result", "absent/r.json"),
        ("--result", "/dev/full"),
    ],
)
def test_what_can_not_be_written_to_is_named(folder: Folder, option: str, name: str) -> None:
    (folder.path / "folder").mkdir()
    folder.file("in.jsonl", numbered(2))

    handler = "h.py:fail" if option == "--dead-letter" else "h.py:same"
    ended = folder.run(handler, "in.jsonl", option, name)

    assert ended.code == 3
    assert name in ended.err
    assert "Traceback" not in ended.err


def test_a_full_standard_output_is_an_error(folder: Folder) -> None:
    folder.file("in.jsonl", numbered(2))

    with Path("/dev/full").open("wb") as full:
        ended = folder.start("h.py:same", "in.jsonl", stdout=full).end()

    assert ended.code == 3
    assert "standard output" in ended.err


# --- standard output


def test_a_closed_pipe_ends_quietly(folder: Folder) -> None:
    folder.file("in.jsonl", numbered(300_000))

    with folder.start("h.py:same", "in.jsonl") as run:
        first = run.line()
        assert run.process.stdout is not None
        run.process.stdout.close()
        run.process.stdout = None
        ended = run.end()

    assert first == b'{"id": 0, "key": "a"}\n'
    assert ended.code == 0
    assert [line for line in ended.err.splitlines() if "inline" not in line] == []


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_what_handlers_print_goes_to_standard_error(folder: Folder, executor: str) -> None:
    folder.file("in.jsonl", lines_of({"key": "a"}))
    folder.file(
        "n.py",
        """
        import subprocess, sys
        print("at import")
        def noisy(event):
            print("in the handler")
            sys.stdout.write("by name\\n")
            subprocess.run(["echo", "by a program"], check=True)
            return event
        """,
    )

    ended = folder.run("n.py", "in.jsonl", "--executor", executor)

    assert ended.out == b'{"key": "a"}\n'
    for said in ("at import", "in the handler", "by name", "by a program"):
        assert said in ended.err


def test_results_appear_while_the_input_stays_open(folder: Folder) -> None:
    with folder.start("h.py:same", "-", stdin=-1) as run:
        run.write(lines_of({"key": 1}))
        first = run.line()
        run.write(lines_of({"key": 2}))
        second = run.line()
        ended = run.end()

    assert (first, second) == (b'{"key": 1}\n', b'{"key": 2}\n')
    assert (ended.code, ended.out) == (0, b"")


# --- a dry run


def test_a_dry_run_shows_and_changes_nothing(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"key": "k1", "n": 1}, b"nope", {"key": "k2", "n": 2}))
    folder.file("x.py", "def handle(event):\n    open('touched', 'w').close()\n    return event\n")
    folder.file("out.jsonl", b"old\n")
    before = folder.names

    ended = folder.run(
        "x.py", "in.jsonl", "--dry-run", "--follow", "--output", "out.jsonl", "--result", "r.json"
    )

    assert (ended.code, ended.out) == (0, b"")
    assert folder.names == before
    assert folder.read("out.jsonl") == b"old\n"
    for said in ("handle: inline", "'k1'", "'k2'", "1 malformed", "in.jsonl line 2", "out.jsonl"):
        assert said in ended.err


def test_a_dry_run_checks_what_a_run_would_check(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"key": 1, "specversion": "1.0", "data_base64": "!"}))

    good = folder.run("h.py:same", "in.jsonl", "--dry-run")
    bad_condition = folder.run("h.py:same", "in.jsonl", "--dry-run", "--fail-if", "nonsense")
    bad_input = folder.run("h.py:same", "absent.jsonl", "--dry-run")

    assert (good.code, bad_condition.code, bad_input.code) == (0, 2, 3)
    assert "data_base64 is not base64" in good.err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("-o", "in.jsonl", "--checkpoint", "c"), "an input and --output name the same file, in"),
        (("-o", "link", "--checkpoint", "c"), "an input and --output name the same file, link"),
        (("-o", "hard", "--checkpoint", "c"), "an input and --output name the same file, hard"),
        (("--result", "./in.jsonl"), "an input and --result name the same file, ./in.jsonl"),
        (("--dead-letter", "in.jsonl"), "an input and --dead-letter name the same file"),
        (("--checkpoint", "in.jsonl"), "an input and --checkpoint name the same file"),
        (("-o", "o", "--result", "./o"), "--output and --result name the same file, ./o"),
        (("-o", "o", "--dead-letter", "o"), "--output and --dead-letter name the same file, o"),
        (("--result", "o", "--dead-letter", "o"), "--result and --dead-letter name the same"),
        (("--checkpoint", "o", "--result", "o"), "--checkpoint and --result name the same file"),
        (
            ("-o", "dead-letters.jsonl"),
            "--output and --dead-letter (where they go by default) name the same file",
        ),
    ],
)
def test_two_files_that_are_one_are_refused(
    tmp_path: Path, given: tuple[str, ...], said: str, more: tuple[str, ...]
) -> None:
    content = b'{"id": 1, "key": 1}\n'
    folder = folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": content})
    (tmp_path / "link").symlink_to("in.jsonl")
    (tmp_path / "hard").hardlink_to(tmp_path / "in.jsonl")
    before = folder.names

    ended = folder.run("h.py:same", "in.jsonl", *given, *more)

    assert (ended.code, ended.out) == (2, b"")
    assert f"{said}" in ended.err
    assert "give each its own" in ended.err
    assert (folder.read("in.jsonl"), folder.names) == (content, before)


@pytest.mark.parametrize(
    "given",
    [
        ("-o", "/dev/null", "--dead-letter", "/dev/null", "--result", "/dev/null"),
        ("-o", "o", "--result", "-"),
        ("in.jsonl", "-o", "o"),
    ],
)
def test_devices_and_inputs_may_be_named_twice(tmp_path: Path, given: tuple[str, ...]) -> None:
    folder = folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": b'{"id": 1, "key": 1}\n'})

    assert folder.run("h.py:same", "in.jsonl", *given).code == 0
