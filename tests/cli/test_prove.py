"""`millstream prove` as a user would use it: good jobs, bad ones, interrupts, and what is left."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from millstream.engine.guard import GUARD
from tests.cli.support import Ended, Folder, folder_with, lines_of, wait_for

COUNT = 120
HANDLERS = """
    import asyncio, itertools, os, time, uuid

    def results(event):
        n = event.data["n"]
        if n % 10 == 4:
            raise ValueError(f"no {n}")
        return None if n % 10 == 5 else {"of": n, "key": event.key}

    def plain(event):
        return results(event)

    async def coroutine(event):
        await asyncio.sleep(0.001 * (event.data["n"] * 7919 % 13))
        return results(event)

    numbers = itertools.count()

    def number(event):
        return {"of": event.data["n"], "at": next(numbers)}

    def stamp(event):
        return {"of": event.data["n"], "id": str(uuid.uuid4())}

    def gate(event):
        while event.data["n"] == 60:
            open("reached", "w").close()
            time.sleep(0.005)
        return event

    def remember(event, state):
        return event

    def store(events):
        return None

    from millstream.engine import Pipeline, stage
    batched = Pipeline(stage(remember, state=dict), stage(store, batch=10))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    events = lines_of(*({"n": n, "key": f"k{n % 3}"} for n in range(COUNT)))
    files = {"h.py": HANDLERS, "in.jsonl": events}
    home = Folder(tmp_path / "home", {"TMPDIR": str(temporary)})
    return folder_with(home.path, files) and home


def prove(folder: Folder, handler: str, *arguments: str, **more: Any) -> tuple[Ended, Any]:
    """The proof, with what it says as JSON (None: nothing)."""
    inputs = () if "stdin" in more else ("in.jsonl",)
    ended = folder.command("prove", f"h.py:{handler}", *inputs, "--json", *arguments, **more)
    return ended, json.loads(ended.out) if ended.out else None


def is_left_clean(folder: Folder) -> bool:
    """Whether nothing runs there any more, and no file was left."""
    return (
        not processes_in(folder)
        and not list((folder.path.parent / "tmp").iterdir())
        and folder.names <= {"h.py", "in.jsonl", "reached"}
    )


def processes_in(folder: Folder) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder.path):
                found.append(process)
        except psutil.Error:  # another user's, or gone
            pass
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("plain", "--kills", "4"),
        ("coroutine", "--emit", "input"),
        ("coroutine", "--order", "global", "--kills", "1"),
        ("plain", "--executor", "process", "--workers", "2"),
    ],
    ids="-".join,
)
def test_a_good_job_is_proved(folder: Folder, arguments: tuple[str, ...]) -> None:
    ended, proof = prove(folder, *arguments, "--seed", "3")

    assert ended.code == proof["exit_code"] == 0, ended.err
    assert (proof["schema"], proof["verdict"]) == ("millstream.prove/1", "proved")
    assert proof["counts"] == {"events": COUNT, "results": 96, "dead_letters": 12}
    assert proof["calls"]["undisturbed"] == COUNT
    assert proof["calls"]["disturbed"] == COUNT + proof["calls"]["repeated"]
    assert proof["calls"]["most_by_one_kill"] <= proof["calls"]["repeated"]
    assert proof["findings"] == []
    assert sum(kill["made"] for kill in proof["kills"]) >= proof["sittings"] - 1
    assert is_left_clean(folder)


def test_the_proof_is_told_on_standard_error_with_what_repeats_it(folder: Folder) -> None:
    ended = folder.command("prove", "h.py:plain", "in.jsonl", "--kills", "2", "--limit", "50")

    assert (ended.code, ended.out) == (0, b"")
    assert "proved: nothing was lost, nothing came twice, and the order held" in ended.err
    assert "  events       50, the run killed 2 times on its way" in ended.err
    assert "  order        held: per key, as in the input" in ended.err
    found = re.search(r"again +millstream (.*)", ended.err)
    assert found is not None
    again = folder.command(*shlex.split(found[1]), "--json", "--quiet")
    assert (again.code, again.err) == (0, "")
    planned = [kill["words"] for kill in json.loads(again.out)["kills"]]
    assert len(planned) == 2
    assert all(f"{words}: " in ended.err for words in planned)


def test_what_repeats_a_proof_is_understood_whatever_was_asked_for(folder: Folder) -> None:
    folder.file("c.toml", 'name = "a run"\noutput = "o"\ndedupe = true\nfail-if = ["read > 9"]\n')
    asked = ("--config", "c.toml", "--dedupe-window", "50", "--id", "n", "--ignore", "no such")
    inject = ("--inject", "error:key=k1", "--seed", "4")

    ended, proof = prove(folder, "plain", "--kills", "1", *asked, *inject)

    assert ended.code == 0, ended.err
    assert proof["counts"] == {"events": COUNT, "results": 64, "dead_letters": 48}
    again = folder.command(*shlex.split(proof["command"])[1:], "--json", "--quiet")
    assert again.code == 0, again.err
    assert json.loads(again.out)["command"] == proof["command"]
    assert "o" not in folder.names


def test_a_job_that_does_not_survive_kills_is_broken(folder: Folder) -> None:
    ended, proof = prove(folder, "number", "--kills", "2", "--seed", "3")

    assert ended.code == proof["exit_code"] == 5
    assert "broken: some events have other results" in ended.err
    assert "does the handler remember something from one event to the next?" in ended.err
    first = proof["findings"][0]
    assert (first["kind"], first["source"]) == ("lost", "in.jsonl")
    n = first["line"] - 1
    assert first["key"] == f"k{n % 3}"
    assert (
        f"in.jsonl line {n + 1} (key 'k{n % 3}'): its result is not in the output: {{\"of\":{n}"
        in (ended.err)
    )
    assert proof["differences"]["lost"] == proof["differences"]["unexpected"]
    assert is_left_clean(folder)


def test_a_handler_that_is_not_deterministic_is_not_called_broken(folder: Folder) -> None:
    ended, proof = prove(folder, "stamp", "--kills", "1")

    assert ended.code == 3
    assert "can't be proved: the handler gives other results for the same event, in id" in ended.err
    assert (proof["verdict"], proof["varying_fields"]) == ("unproved", ["id"])


def test_standard_input_is_read_once_and_a_folder_keeps_all_files(folder: Folder) -> None:
    events = folder.read("in.jsonl")

    ended, proof = prove(folder, "plain", "--kills", "1", "--keep", "kept", stdin=events)

    assert ended.code == 0, ended.err
    assert proof["folder"] == "kept"
    kept = folder.path / "kept"
    assert (kept / "standard-input").read_bytes() == events
    outputs = [(kept / name / "output").read_bytes() for name in ("baseline", "disturbed")]
    assert sorted(outputs[0].splitlines()) == sorted(outputs[1].splitlines())
    assert {"calls.trace", "dead-letters.jsonl", "result.json"} <= {
        each.name for each in (kept / "disturbed").iterdir()
    }
    refused = folder.command("prove", "h.py:plain", "in.jsonl", "--keep", "kept")
    assert refused.code == 3
    assert "--keep kept holds something already" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("h.py:nothing", "in.jsonl"), 3, "there is no 'nothing' in it"),
        (("h.py:plain", "absent.jsonl"), 3, "no input 'absent.jsonl'"),
        (("h.py:plain", "in.jsonl", "--kills", "0"), 2, "--kills is 0; give it 1 or more"),
        (("h.py:plain", "in.jsonl", "--order", "some"), 2, "it can be none, key"),
        (
            ("h.py:batched", "in.jsonl"),
            2,
            "this job can't have: stage 'store' is batched in a pipeline that keeps state, which a "
            "checkpoint can't follow event by event; give it one event at a time\n",
        ),
        (
            ("h.py:plain", "in.jsonl", "--inject", "duplicate:1%"),
            2,
            "'duplicate:1%': which events came twice is not kept in a checkpoint; leave that out\n",
        ),
        (
            ("h.py:plain", "in.jsonl", "--inject", "disk-full@1MiB"),
            2,
            "'disk-full@1MiB' ends the undisturbed run too, so it can't be proved; leave it out\n",
        ),
        (("h.py:plain", "in.jsonl", "--config", "dry.toml"), 2, "--dry-run calls no handler"),
        (
            ("h.py:plain", "in.jsonl", "--config", "inject.toml"),
            2,
            "'disk-full@1MiB' ends the undisturbed run too",
        ),
        (("h.py:plain", "-", "-"), 2, "standard input is named twice"),
        (
            ("h.py:plain", "in.jsonl", "--max-dead-letters", "3"),
            3,
            "more than --max-dead-letters 3",
        ),
        (("h.py:plain", "in.jsonl", "--config", "c.toml"), 2, "--follow never ends"),
    ],
)
def test_what_can_not_be_proved_is_refused_with_the_reason(
    folder: Folder, arguments: tuple[str, ...], code: int, said: str
) -> None:
    folder.file("c.toml", "follow = true\n")
    folder.file("dry.toml", "dry-run = true\n")
    folder.file("inject.toml", 'inject = ["disk-full@1MiB"]\n')

    ended = folder.command("prove", *arguments)

    assert ended.code == code
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert list((folder.path.parent / "tmp").iterdir()) == []


def test_a_folder_without_room_is_told_with_what_to_do(folder: Folder) -> None:
    def leave_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    with folder.start(
        "h.py:plain", command="prove", stdin=subprocess.PIPE, preexec_fn=leave_little_room
    ) as started:
        started.write(lines_of("a" * (1 << 17)))
        ended = started.end()

    assert ended.code == 3
    assert f"prove can't go on in {folder.path.parent / 'tmp'}/" in ended.err
    assert "make room there, or name another folder: TMPDIR, or --keep FOLDER" in ended.err
    assert "Traceback" not in ended.err
    assert is_left_clean(folder)


def test_a_proof_that_can_not_be_written_is_told(folder: Folder) -> None:
    with (
        open("/dev/full", "wb") as full,
        folder.start(
            *("h.py:plain", "in.jsonl", "--kills", "1", "--json", "--quiet"),
            command="prove",
            stdout=full,
        ) as started,
    ):
        ended = started.end()

    assert (ended.code, ended.err) == (
        3,
        "millstream: the proof can't be written: No space left on device\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("executor", ["inline", "process"])
def test_an_interrupt_leaves_nothing_behind(
    folder: Folder, number: signal.Signals, executor: str
) -> None:
    arguments = ("h.py:gate", "in.jsonl", "--executor", executor, "--workers", "2")
    with folder.start(*arguments, command="prove") as started:
        wait_for(lambda: "reached" in folder.names, "the handler")
        started.signal(number)
        ended = started.end()

    assert ended.code == 128 + number
    assert f"{number.name}: stopped; nothing runs any more" in ended.err
    assert is_left_clean(folder)


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_kill_takes_the_run_with_it(folder: Folder, executor: str) -> None:
    arguments = ("h.py:gate", "in.jsonl", "--executor", executor, "--workers", "2")
    with folder.start(*arguments, command="prove") as started:
        wait_for(lambda: "reached" in folder.names, "the handler")
        assert len(processes_in(folder)) > 1
        started.signal(signal.SIGKILL)
        started.end()

    wait_for(lambda: not processes_in(folder), "the end of the run")


@pytest.mark.parametrize(("alone", "code"), [(True, -signal.SIGKILL), (False, 4)])
def test_a_run_in_its_own_session_ends_at_once_when_its_starter_is_gone_already(
    folder: Folder, alone: bool, code: int
) -> None:
    arguments = ("h.py:gate" if alone else "h.py:plain", "in.jsonl")
    read, write = os.pipe()
    os.close(write)
    home = Folder(folder.path, {GUARD: str(read)})

    with home.start(*arguments, pass_fds=(read,), start_new_session=alone) as started:
        os.close(read)
        assert started.end().code == code


def test_the_example_of_its_help_runs_as_printed(folder: Folder) -> None:
    shown = folder.command("prove", "--help").out.decode()
    found = re.search(r"Example:\s+millstream (.*?)\n\s*\n", shown, re.DOTALL)
    assert found is not None
    folder.file("handlers.py", "def charge(event):\n    return event\n")
    folder.file("events.jsonl", lines_of({"id": 1, "key": "a"}, {"id": 2}))

    ended = folder.command(*shlex.split(found.group(1)))

    assert ended.code == 0, ended.err
    assert "proved: " in ended.err
