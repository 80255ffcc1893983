"""`millstream replay`: dead letters run again as a user would; killed, stopped, repeated."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import COMMAND, Folder, folder_with, lines_of, wait_for
from tests.support import peak
from tests.support.letters import letter, state_of, write_letters

HANDLERS = """
    import os, time

    def charge(event):
        if event.data["amount"] <= 0:
            raise ValueError(f"nothing to pay: {event.data['amount']}")
        return event

    def mend(event):
        event.data["amount"] = abs(event.data["amount"]) or 1
        return event

    def same(event):
        return event

    def wait(event):
        if event.id == 3:
            open("reached", "w").close()
            while not os.path.exists("go"):
                time.sleep(0.005)
        if event.id == 1:
            raise ValueError("again")
        return event

    def die(event):
        os._exit(9)

    async def await_it(event):
        import asyncio
        if event.id == 3:
            open("reached", "w").close()
            while not os.path.exists("go"):
                await asyncio.sleep(0.005)
        if event.id == 1:
            raise ValueError("again")
        return event
"""
EVENTS = lines_of(
    {"id": 1, "key": "ann", "data": {"amount": 0}},
    {"id": 2, "key": "bob", "data": {"amount": 20}},
    {"id": 3, "key": "ann", "data": {"amount": -5}},
    b"nope",
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": EVENTS})


@pytest.fixture
def dead(folder: Folder) -> Folder:
    """A folder in which a run has left three dead letters."""
    assert folder.run("h.py:charge", "in.jsonl", "--output", "out.jsonl").code == 4
    return folder


def replay(folder: Folder, *arguments: str, handler: str = "h.py:mend") -> tuple[int, str, bytes]:
    """Exit code, what was said, and the output."""
    ended = folder.command("replay", "dead-letters.jsonl", handler, *arguments)
    return ended.code, ended.err, ended.out


def states(folder: Folder) -> list[str]:
    return state_of(folder.path / "dead-letters.jsonl")


def test_the_example_of_the_help_runs_as_printed(folder: Folder) -> None:
    shown = folder.command("replay", "--help").out.decode()
    found = re.search(r"Example:\s+millstream (.*?)\n\s*\n", shown, re.DOTALL)
    assert found is not None
    folder.file("handlers.py", "def charge(event):\n    return event\n")
    write_letters(folder.path / "dead-letters.jsonl", letter(0, "a"))

    ended = folder.command(*shlex.split(found.group(1)))

    assert ended.code == 0, ended.err
    assert folder.read("recovered.jsonl") == b'{"id":0,"key":"a"}\n'
    assert states(folder) == ["replayed"]


def test_another_handler_takes_what_it_can_and_the_rest_stays(dead: Folder) -> None:
    code, said, out = replay(dead, "--result", "r.json")

    assert code == 4
    assert [json.loads(line)["data"]["amount"] for line in out.splitlines()] == [1, 5]
    assert states(dead) == ["replayed", "replayed", "again"]
    assert "letters      2 succeeded, 1 failed again" in said
    result = dead.json("r.json")
    assert (result["command"], result["inputs"]) == ("replay", ["dead-letters.jsonl"])
    assert result["counts"]["dead_lettered"] == 1
    assert result["options"]["on-error"] == "park"


def test_the_same_handler_fails_again_and_twice_is_no_harm(dead: Folder) -> None:
    for times in (1, 2):
        assert replay(dead, handler="h.py:charge")[0] == 4
        assert len(dead.dead_letters()[0]["history"]) == times

    assert replay(dead)[0] == 4
    assert dead.dead_letters()[0]["attempts"] == 3


def test_what_ended_a_worker_is_replayed_in_worker_processes(folder: Folder) -> None:
    arguments = ("--executor", "process", "--workers", "1", "--quiet")
    assert folder.run("h.py:die", "in.jsonl", *arguments).code == 4

    for handler, name in (("h.py:die", "die"), ("h.py:same", "same")):
        code, said, _ = replay(folder, "--dry-run", handler=handler)
        assert (code, f"  {name}: process, " in said) == (0, True)
    code, said, _ = replay(folder, handler="h.py:die")
    assert code == 4
    assert (
        "millstream: stage 'die' runs in worker processes: an event that ended one would end "
        "this command; --executor inline says otherwise\n"
    ) in said
    assert states(folder) == ["again"] * 4
    assert replay(folder, "--quiet", handler="h.py:die")[:2] == (4, "")
    assert replay(folder, "--executor", "inline", handler="h.py:die")[0] == 9


def test_what_ended_no_worker_is_replayed_as_it_is_declared(dead: Folder) -> None:
    _, said, _ = replay(dead)

    assert "worker processes" not in said
    assert "millstream: mend: inline (its handler is a plain function)" in said


def test_a_second_replay_does_nothing_and_says_so(dead: Folder) -> None:
    assert replay(dead, "--error", "ValueError", "--output", "recovered.jsonl")[0] == 0
    before = {name: dead.read(name) for name in dead.names}

    again = replay(dead, "--error", "ValueError", "--output", "recovered.jsonl")
    nothing = "the letter that is left is not selected"
    assert (again[0], nothing in again[1]) == (0, True)
    assert {name: dead.read(name) for name in dead.names} == before

    dead.file("all.py", "def none(event): raise SystemExit")
    dead.file("dead-letters.jsonl", b"".join(dead.read("dead-letters.jsonl").splitlines(True)[:2]))
    code, said, out = replay(dead, "--result", "r.json", handler="all.py:none")
    assert (code, out) == (0, b"")
    assert "dead-letters.jsonl: all letters (2) are replayed already" in said
    assert dead.json("r.json")["counts"]["read"] == 0
    assert replay(dead, "--quiet") == (0, "", b"")


def test_an_empty_file_has_nothing_to_replay(folder: Folder) -> None:
    folder.file("dead-letters.jsonl", b"")

    code, said, _ = replay(folder)

    assert (code, "holds no dead letters" in said) == (0, True)


def test_a_dry_run_counts_and_changes_nothing(dead: Folder) -> None:
    before = {name: dead.read(name) for name in dead.names}
    run = dead.dead_letters()[0]["run"]

    code, said, out = replay(dead, "--dry-run", "--stage", "charge", handler="h.py:same")

    assert (code, out) == (0, b"")
    assert "dead-letters.jsonl: letters: 3; replayed already: 0; to be replayed: 2; left" in said
    for line in (f"  {run}: 2", "  charge: 2", "  ValueError: 2", "order: key, on error: park"):
        assert line in said
    assert {name: dead.read(name) for name in dead.names} == before


@pytest.mark.parametrize(
    ("order", "flags", "on_error"),
    [
        ("key", (), "park"),
        ("none", ("--order", "none"), "continue"),
        ("key", ("--on-error", "continue"), "continue"),
        ("key", ("--config", "c.toml"), "continue"),
    ],
)
def test_what_fails_again_parks_its_key_unless_told_otherwise(
    dead: Folder, order: str, flags: tuple[str, ...], on_error: str
) -> None:
    dead.file("c.toml", 'on-error = "continue"\ndead-letter = "elsewhere.jsonl"\nformat = "csv"\n')

    _, said, _ = replay(dead, "--dry-run", *flags)

    assert f"order: {order}, on error: {on_error}" in said


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("-", "h.py:same"), 2, "can't be piped in: name a file"),
        (("absent.jsonl", "h.py:same"), 3, "absent.jsonl is not there; name the file of dead"),
        (("in.jsonl", "h.py:same"), 3, "in.jsonl is no file of dead letters: line 1: "),
        (("dead-letters.jsonl", "h.py:absent"), 3, "absent"),
        (("dead-letters.jsonl", "h.py:same", "--order", "odd"), 2, "--order is 'odd'"),
        (("dead-letters.jsonl", "h.py:same", "--attempts", "0"), 2, "--attempts is 0"),
        (("dead-letters.jsonl", "h.py:same", "--format", "csv"), 2, "No such option"),
        (("dead-letters.jsonl", "h.py:same", "--result", "-"), 2, "can't share standard output"),
        (
            ("dead-letters.jsonl", "h.py:same", "--result", "./dead-letters.jsonl"),
            3,
            "--result ./dead-letters.jsonl is the file of dead letters; name another one",
        ),
        (("dead-letters.jsonl", "h.py:same", "--on-error", "x"), 2, "it can be continue, park"),
        (
            ("dead-letters.jsonl", "h.py:same", "--on-error", "park", "--order", "none"),
            2,
            "needs --order key",
        ),
    ],
)
def test_what_can_not_be_done_is_refused_and_nothing_touched(
    dead: Folder, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = {name: dead.read(name) for name in dead.names}

    ended = dead.command("replay", *arguments)

    assert (ended.code, ended.out) == (code, b"")
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert {name: dead.read(name) for name in dead.names} == before


@pytest.mark.parametrize("name", ["out.jsonl", "recovered.jsonl.partial"])
def test_results_that_are_there_are_not_replaced(dead: Folder, name: str) -> None:
    dead.file(name, b"precious\n")

    code, said, _ = replay(dead, "--output", name.removesuffix(".partial"))

    assert code == 3
    assert f"{name} holds results already, which a replay would replace" in said
    assert dead.read(name) == b"precious\n"
    assert states(dead) == ["left"] * 3


def test_a_run_and_a_replay_keep_off_each_others_file(folder: Folder) -> None:
    path = folder.path / "dead-letters.jsonl"
    before = write_letters(path, *(letter(n) for n in (1, 3))).read_bytes()
    folder.file("waiting.jsonl", lines_of({"id": 3, "key": "a"}))

    with folder.start("h.py:wait", "waiting.jsonl") as running:
        wait_for((folder.path / "reached").exists, "the run's handler")
        code, said, _ = replay(folder)
        assert (code, "a run still appends to it, or another replay" in said) == (3, True)
        folder.file("go", b"")
        assert running.end().code == 0
    (folder.path / "go").unlink()
    (folder.path / "reached").unlink()
    with folder.start("dead-letters.jsonl", "h.py:wait", command="replay") as replaying:
        wait_for((folder.path / "reached").exists, "the replay's handler")
        assert replay(folder)[0] == 3
        refused = folder.run("h.py:charge", "in.jsonl", "--output", "out.jsonl")
        assert (refused.code, "dead-letters.jsonl is being replayed" in refused.err) == (3, True)
        assert path.read_bytes() == before
        folder.file("go", b"")
        assert replaying.end().code == 4

    assert states(folder) == ["again", "replayed"]
    assert "out.jsonl" not in folder.names


# --- stopped in the middle


def letters(folder: Folder, count: int) -> bytes:
    path = write_letters(
        folder.path / "dead-letters.jsonl", *(letter(n, f"k{n}") for n in range(count))
    )
    return path.read_bytes()


@pytest.mark.parametrize("handler", ["h.py:wait", "h.py:await_it"])
def test_a_replay_that_is_killed_leaves_the_file_and_the_next_one_completes(
    folder: Folder, handler: str
) -> None:
    before = letters(folder, 6)
    command = ("dead-letters.jsonl", handler, "--output", "recovered.jsonl")

    with folder.start(*command, command="replay") as replaying:
        wait_for((folder.path / "reached").exists, "the handler")
        replaying.signal(signal.SIGKILL)
        replaying.end()
    assert folder.read("dead-letters.jsonl") == before
    assert "recovered.jsonl" not in folder.names
    folder.file("go", b"")

    code, _, _ = replay(folder, "--output", "recovered.jsonl", handler=handler)

    assert code == 4
    assert states(folder) == ["replayed", "again", *["replayed"] * 4]
    written = [json.loads(line)["id"] for line in folder.read("recovered.jsonl").splitlines()]
    assert sorted(written) == [0, 2, 3, 4, 5]


KILLED = """
    import os, signal, sys
    from millstream.cli import main
    from millstream.engine.letter_file import Replacement

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.argv[1] == "before":
        Replacement.put = die
    else:
        fsync = os.fsync
        os.fsync = die
    sys.argv[1:2] = []
    main.main()
"""


@pytest.mark.parametrize("moment", ["before", "while"])
def test_killed_while_it_marks_the_file_is_as_it_was(folder: Folder, moment: str) -> None:
    before = letters(folder, 6)
    folder.file("killed.py", KILLED)
    command = [sys.executable, "killed.py", moment, "replay", "dead-letters.jsonl", "h.py:same"]

    ended = subprocess.run(command, cwd=folder.path, capture_output=True, check=False)

    assert ended.returncode == -signal.SIGKILL
    assert folder.read("dead-letters.jsonl") == before
    assert replay(folder, handler="h.py:same")[0] == 0
    assert states(folder) == ["replayed"] * 6
    assert folder.names == {"h.py", "in.jsonl", "killed.py", "dead-letters.jsonl"}


@pytest.mark.parametrize("output", [(), ("--output", "recovered.jsonl")])
def test_an_interrupted_replay_marks_what_was_handled(
    folder: Folder, output: tuple[str, ...]
) -> None:
    letters(folder, 5000)

    with folder.start(
        "dead-letters.jsonl", "h.py:await_it", *output, command="replay"
    ) as replaying:
        wait_for((folder.path / "reached").exists, "the handler")
        replaying.signal(signal.SIGINT)
        replaying.error_line("SIGINT: finishing what is in flight")
        folder.file("go", b"")
        ended = replaying.end()

    assert ended.code == 130
    partial = folder.path / "recovered.jsonl.partial"
    written = partial.read_bytes().splitlines() if output else ended.lines
    done = {json.loads(line)["id"] for line in written}
    became = states(folder)
    assert became[1] == "again"
    assert {n for n, state in enumerate(became) if state == "replayed"} == done
    assert 0 < became.count("left") < 5000
    folder.command("replay", "dead-letters.jsonl", "h.py:await_it", "--output", "rest.jsonl")
    rest = {json.loads(line)["id"] for line in folder.read("rest.jsonl").splitlines()}
    assert (done & rest, done | rest) == (set(), set(range(5000)) - {1})


def test_results_that_nobody_read_are_not_marked(folder: Folder) -> None:
    before = letters(folder, 20000)
    shell = f"{shlex.quote(COMMAND)} replay dead-letters.jsonl h.py:same | head -n 1"

    ended = subprocess.run(["bash", "-c", shell], cwd=folder.path, capture_output=True, check=False)

    assert ended.stdout == b'{"id":0,"key":"k0"}\n'
    assert folder.read("dead-letters.jsonl") == before
    assert b"since nobody read the results to their end" in ended.stderr


# --- as large as it comes


def peak_of(folder: Folder, count: int) -> int:
    """The most memory that a replay of so many letters used."""
    name = f"{count}.jsonl"
    with (folder.path / name).open("w") as file:
        for number in range(count):
            file.write(json.dumps(letter(count - number, number)) + "\n")
    command = [COMMAND, "replay", name, "h.py:same", "--output", f"{count}.out", "--quiet"]

    done = subprocess.run(
        [sys.executable, peak.__file__, "peak", *command], cwd=folder.path, check=False
    )

    assert done.returncode == 0
    assert (folder.path / name).read_bytes().count(b'"replayed":') == count
    assert (folder.path / f"{count}.out").read_bytes().count(b"\n") == count
    return int((folder.path / "peak").read_text())


@pytest.mark.slow
def test_a_letter_takes_some_bytes_of_memory_however_large_it_is(folder: Folder) -> None:
    few, many = peak_of(folder, 50_000), peak_of(folder, 200_000)

    size = (folder.path / "200000.jsonl").stat().st_size / 200_000
    assert size > 250
    assert (many - few) / 150_000 < 100
