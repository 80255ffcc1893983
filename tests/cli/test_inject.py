"""`--inject` and `--dedupe` as a user gives them: what is said, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.support import HANDLERS, Folder, folder_with, numbered


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": numbered(200)})


def test_the_summary_says_in_a_line_what_was_injected(folder: Folder) -> None:
    done = folder.run(
        *("h.py:same", "in.jsonl", "--output", "out.jsonl", "--seed", "5"),
        *("--inject", "drop:5%", "--inject", "error:key=nobody", "--result", "r.json"),
    )

    lost = folder.json("r.json")["delivery"]["lost"]
    (line,) = [each for each in done.err.splitlines() if "injected" in each]
    assert done.code == 5
    assert line == (
        f"  injected     drop:5% {lost} times, error:key=nobody never (seed 5); "
        f"{lost} violations fall to them, 0 to none"
    )


def test_a_fault_that_can_not_be_is_wrong_usage(folder: Folder) -> None:
    done = folder.run("h.py:same", "in.jsonl", "--inject", "kill-worker@1s")

    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "millstream: --inject 'kill-worker@1s': no stage runs in worker processes; give it one "
        "(--executor process)\n"
    )


def test_a_full_disk_is_said_and_gone_on_from(folder: Folder) -> None:
    kept = ("h.py:same", "in.jsonl", "-o", "out.jsonl", "--checkpoint", "c", "--resume", "--quiet")

    full = folder.run(*kept, "--inject", "disk-full@1KiB")
    done = folder.run(*kept)

    assert full.code == 3
    assert full.err.startswith(
        "millstream: output 'out.jsonl' can't be written: No space left on device "
        "(--inject disk-full@1KiB); what was written stays in "
    )
    assert (done.code, done.err) == (0, "")
    assert folder.read("out.jsonl") == folder.read("in.jsonl")


def test_faults_may_stand_in_a_file(folder: Folder) -> None:
    folder.file("m.toml", 'inject = ["drop:100%"]\n')

    done = folder.run("h.py:same", "in.jsonl", "--config", "m.toml", "--quiet")

    assert (done.code, done.out) == (5, b"")


def test_duplicates_are_filtered_and_told(folder: Folder) -> None:
    folder.file("twice.jsonl", b'{"id": 1}\n{"id": 2}\n{"id": 1}\n')

    done = folder.run("h.py:same", "twice.jsonl", "--dedupe", "--result", "r.json", "-o", "out")

    assert folder.read("out") == b'{"id": 1}\n{"id": 2}\n'
    assert json.loads(folder.read("r.json"))["counts"]["deduplicated"] == 1
    assert "3 handled, 1 of them filtered out, 1 duplicates, 2 results written" in done.err


def test_a_resumed_run_must_look_for_duplicates_as_before(folder: Folder) -> None:
    kept = ("h.py:same", "in.jsonl", "-o", "out", "--checkpoint", "c", "--resume", "--quiet")
    folder.run(*kept, "--inject", "disk-full@1KiB")

    done = folder.run(*kept, "--dedupe")

    assert done.code == 3
    assert "it was begun without --dedupe, and this is with --dedupe" in done.err
