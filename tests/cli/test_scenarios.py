"""`millstream scenarios` and `millstream generate`: what can be benchmarked, and its events."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from millstream.workloads.registry import SCENARIOS, scenario_class
from millstream.workloads.scenario import stream
from tests.cli.support import COMMAND, Ended, Folder

OWN = """
    from millstream.engine import Pipeline, stage
    from millstream.workloads.scenario import Parameter, Promise, Scenario

    class Own(Scenario):
        name = "mine"
        summary = "What is mine."
        description = "All of it is mine."
        parameters = (Parameter("size", 3, "How large.", "bytes"),)
        promises = (Promise("stays", "It stays mine."),)
        orders = ("global", "key")

        def lines(self):
            while True:
                yield b'{"a":%d,"seed":%d}' % (self.settings["size"], self.seed)

        def pipeline(self, folder):
            return Pipeline(stage(print))

        def check(self, outcome):
            return []
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def generated(folder: Folder, *arguments: str) -> Ended:
    ended = folder.command("generate", *arguments)
    assert (ended.code, ended.err) == (0, "")
    return ended


# --- scenarios


def test_all_are_listed_with_what_they_model(folder: Folder) -> None:
    ended = folder.command("scenarios")

    assert (ended.code, ended.err) == (0, "")
    listed = [line.decode().split(maxsplit=1) for line in ended.lines]
    assert listed == [[name, scenario_class(name).summary] for name in SCENARIOS]


@pytest.mark.parametrize("name", ["passthrough", "cpu"])
def test_one_is_described_with_all_that_can_be_set(folder: Folder, name: str) -> None:
    ended = folder.command("scenarios", name)

    scenario, told = scenario_class(name), ended.out.decode()
    assert (ended.code, ended.err) == (0, "")
    assert told.startswith(f"{name}: {scenario.summary}\n")
    assert all(f"  {each.name}: {each.text}" in told for each in scenario.promises)
    assert all(f"  {each.name} = {each.default}" in told for each in scenario.parameters)
    assert f"orders: {', '.join(scenario.orders)} (default: {scenario.orders[0]})" in told


def test_ones_own_is_described(folder: Folder) -> None:
    folder.file("own.py", OWN)

    ended = folder.command("scenarios", "own.py")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.decode() == (
        "mine: What is mine.\n\nAll of it is mine.\n\norders: global, key (default: global)\n\n"
        "promises, checked after every run:\n  stays: It stays mine.\n\n"
        "parameters (--set NAME=VALUE):\n  size = 3 bytes: How large.\n"
    )


@pytest.mark.parametrize("command", [("scenarios",), ("generate",)])
def test_an_unknown_one_is_refused_with_the_nearest_name(
    folder: Folder, command: tuple[str, ...]
) -> None:
    near = folder.command(*command, "pasthrough")
    far = folder.command(*command, "zzzzzz")

    assert near.code == far.code == 2
    assert near.err == (
        "millstream: there is no scenario 'pasthrough'; did you mean 'passthrough'?\n"
    )
    assert f"there are {', '.join(SCENARIOS)}" in far.err
    assert near.out == far.out == b""


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("x = 1\n", 2, "own.py is to define one subclass of"),
        (OWN + "\n    class Other(Own): pass\n", 2, "it has Own, Other: name it, FILE.py:Name"),
        ("this is no Python\n", 3, "own.py"),
        ("raise RuntimeError('no luck')\n", 3, "no luck"),
    ],
)
def test_a_file_without_a_scenario_is_refused(
    folder: Folder, content: str, code: int, message: str
) -> None:
    folder.file("own.py", content)

    for command in ("scenarios", "generate"):
        ended = folder.command(command, "own.py")
        assert ended.code == code
        assert message in ended.err


def test_one_of_several_in_a_file_is_named(folder: Folder) -> None:
    folder.file("own.py", OWN + "\n    class Other(Own):\n        name = 'other'\n")

    ended = folder.command("scenarios", "own.py:Other")

    assert ended.code == 0
    assert ended.out.startswith(b"other: ")


def test_whoever_closes_the_list_wants_no_more(folder: Folder) -> None:
    assert closed_early(folder, "scenarios", "passthrough") == (0, b"")


# --- generate


@pytest.mark.parametrize("name", ["passthrough", "cpu", "feed"])
def test_the_same_seed_gives_the_same_bytes(folder: Folder, name: str) -> None:
    one = generated(folder, name, "--events", "500", "--seed", "7")
    two = generated(folder, name, "--events", "500", "--seed", "7")
    other = generated(folder, name, "--events", "500", "--seed", "8")

    assert one.out == two.out != other.out
    assert one.lines == list(stream(scenario_class(name)({}, 7), 500))
    assert all(isinstance(each, dict) for each in one.events)


def test_as_many_as_asked_for_and_1000_unless_told(folder: Folder) -> None:
    assert len(generated(folder, "passthrough").lines) == 1000
    assert len(generated(folder, "passthrough", "--events", "2501").lines) == 2501
    assert generated(folder, "passthrough", "--events", "0").out == b""


def test_fewer_events_are_the_first_of_more(folder: Folder) -> None:
    few = generated(folder, "feed", "--events", "100")
    many = generated(folder, "feed", "--events", "300")

    assert many.out.startswith(few.out)


def test_parameters_are_set(folder: Folder) -> None:
    made = generated(
        folder, "passthrough", "--events", "50", "--set", "keys=1", "--set", "payload=3"
    )

    assert {(each["key"], len(each["payload"])) for each in made.events} == {("k0", 3)}


def test_ones_own_stream(folder: Folder) -> None:
    folder.file("own.py", OWN)

    made = generated(folder, "own.py", "--events", "2", "--set", "size=5", "--seed", "9")

    assert made.out == b'{"a":5,"seed":9}\n' * 2


def test_to_a_file(folder: Folder) -> None:
    ended = generated(folder, "passthrough", "--events", "1500", "-o", "events.jsonl")

    assert ended.out == b""
    assert folder.read("events.jsonl") == generated(folder, "passthrough", "--events", "1500").out


def test_what_is_generated_can_be_run(folder: Folder) -> None:
    generated(folder, "passthrough", "--events", "300", "-o", "events.jsonl")
    folder.file("handler.py", "def same(event):\n    return event\n")

    ended = folder.run("handler.py", "events.jsonl")

    assert ended.code == 0
    assert ended.out == folder.read("events.jsonl")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("passthrough", "--events", "-1"), 2, "--events is -1; give it 0 or more"),
        (("passthrough", "--set", "kees=3"), 2, "did you mean 'keys'?"),
        (("passthrough", "--set", "keys"), 2, "write it like NAME=VALUE"),
        (("passthrough", "-o", "no/where"), 3, "no/where can't be written: No such file"),
        (("none.py",), 3, "none.py"),
    ],
)
def test_what_makes_no_sense_is_refused(
    folder: Folder, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = folder.command("generate", *arguments)

    assert (ended.code, ended.out) == (code, b"")
    assert message in ended.err
    assert "Traceback" not in ended.err


def closed_early(folder: Folder, *arguments: str) -> tuple[int, bytes]:
    """The code, and what was said, when the other end of standard output is closed after a line."""
    with subprocess.Popen(
        [COMMAND, *arguments],
        cwd=folder.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    return process.returncode, said


def test_whoever_closes_the_stream_wants_no_more(folder: Folder) -> None:
    assert closed_early(folder, "generate", "passthrough", "--events", "1000000000") == (0, b"")


def test_a_full_disk_is_told_of(folder: Folder) -> None:
    ended = folder.command("generate", "passthrough", "-o", "/dev/full")

    assert ended.code == 3
    assert "/dev/full can't be written: No space left on device" in ended.err


def test_events_are_json_on_a_line_each(folder: Folder) -> None:
    made = generated(folder, "passthrough", "--events", "20")

    assert [json.loads(line)["seq"] for line in made.lines] == list(range(20))
