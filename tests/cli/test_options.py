"""`millstream run`: options from flags and from a file; help that runs as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.support import HANDLERS, Folder, folder_with, lines_of, numbered


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": numbered(4)})


def test_options_may_stand_in_a_file_and_flags_win(folder: Folder) -> None:
    folder.file(
        "run.toml",
        """
        limit = 3
        output = "from-file.jsonl"
        fail-if = ["dead_letters > 99"]
        dead-letter = "dead.jsonl"
        name = "from the file"
        rate = 100000
        """,
    )

    ended = folder.run(
        "h.py:same", "in.jsonl", "--config", "run.toml", "--limit", "2", "--result", "r.json"
    )

    result = folder.json("r.json")
    assert ended.code == 0
    assert len(folder.read("from-file.jsonl").splitlines()) == 2
    assert (result["name"], result["options"]["rate"]) == ("from the file", 100000.0)
    assert [each["text"] for each in result["conditions"]] == ["dead_letters > 99"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("ouput = 'x'", 2, "no option 'ouput'; did you mean 'output'?"),
        ("dead_letter = 'x'", 2, "did you mean 'dead-letter'?"),
        ("xyzzy = 1", 2, "it can be order"),
        ("[run]\nlimit = 1", 2, "no option 'run'"),
        ("limit = 'many'", 2, "limit: expected int"),
        ("order = 'random'", 2, "run.toml: order is 'random'; it can be none, key"),
        ("limit = 0", 2, "--limit is 0; give it 1 or more"),
        ("limit = ", 3, "is not TOML"),
    ],
)
def test_a_file_of_options_is_checked(folder: Folder, text: str, code: int, said: str) -> None:
    folder.file("run.toml", text)

    ended = folder.run("h.py:same", "in.jsonl", "--config", "run.toml")

    assert ended.code == code
    assert said in ended.err
    assert ended.out == b""


def test_a_file_of_options_that_is_not_there(folder: Folder) -> None:
    ended = folder.run("h.py:same", "in.jsonl", "--config", "absent.toml")

    assert ended.code == 3
    assert "absent.toml" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--order random", "--order is 'random'; it can be none, key, partition, global"),
        ("--emit never", "--emit is 'never'; it can be completion, input"),
        ("--executor threads", "it can be auto, inline, coroutine, process"),
        ("--executor coroutine", "make it async def, or use inline or process"),
        ("--format xml", "it can be auto, jsonl, csv, json, cloudevents"),
        ("--output-format xml", "--output-format is 'xml'; it can be auto, jsonl, csv"),
        ("--pace slow", "--pace is 'slow'; it can be none, time"),
        ("--workers 0", "--workers is 0; give it 1 or more"),
        ("--concurrency 0", "--concurrency is 0; give it 1 or more"),
        ("--limit 0", "--limit is 0; give it 1 or more"),
        ("--limit -5", "--limit is -5; give it 1 or more"),
        ("--limit many", "--limit"),
        ("--rate 0", "--rate is 0.0; give it more than 0"),
        ("--rate nan", "--rate is nan; give it more than 0"),
        ("--speed 0", "--speed is 0.0; give it more than 0"),
        ("--rate 5 --pace time", "keep one"),
        ("--delimiter ::", "give it one character"),
        ("--no-such-flag", "No such option"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_to_change(
    folder: Folder, arguments: str, said: str
) -> None:
    ended = folder.run("h.py:same", "in.jsonl", *arguments.split(), "--output", "out.jsonl")

    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (folder.path / "out.jsonl").exists()


def test_the_example_of_the_help_runs_as_printed(folder: Folder) -> None:
    shown = folder.command("run", "--help").out.decode()
    found = re.search(r"Example:\s+millstream (.*?)\n\s*\n", shown, re.DOTALL)
    assert found is not None
    folder.file("handlers.py", "def charge(event):\n    return event\n")
    folder.file("events.jsonl", lines_of({"key": "a"}))

    ended = folder.command(*shlex.split(found.group(1)))

    assert ended.code == 0
    assert folder.read("charged.jsonl") == lines_of({"key": "a"})


def test_the_version_is_printed_alone(folder: Folder) -> None:
    ended = folder.command("--version")

    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(rb"millstream \d+\.\d+\.\d+\n", ended.out)
