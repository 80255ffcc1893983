"""`--result`: the file that everything else reads, held to its JSON Schema, run by run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from millstream.engine.histogram_codec import decoded
from millstream.engine.result import SCHEMA_FILE
from tests.cli.support import Folder, numbered

SCHEMA = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))

HANDLERS = """
    import asyncio
    from millstream.engine import Pipeline, stage

    def fail_some(event):
        if event.data["id"] % 10 == 3:
            raise ValueError("a three")
        return event if event.data["id"] % 10 else None

    async def wait(event):
        await asyncio.sleep(0)
        return event

    def double(event):
        return [event, event]

    mixed = Pipeline(fail_some, stage(double, executor="process", workers=2), wait)
"""

Result = dict[str, Any]


def with_dead_letters(result: Result) -> None:
    assert result["counts"] == {
        "read": 100, "handled": 90, "filtered": 10, "emitted": 80, "retried": 0,
        "dead_lettered": 10,
    }  # fmt: skip
    assert (result["verdict"], result["dead_letter_file"]) == ("pass", "dead.jsonl")
    assert (result["inputs"], result["output"]) == (["in.jsonl"], "out.jsonl")
    assert result["bytes_read"] == len(numbered(100))
    assert result["ordering"]["order"] == "key"
    assert (result["response"], result["slip"]) == (None, None)
    assert (result["command"], result["name"]) == ("run", "fail_some")
    (reason,) = result["dead_letters"]["reasons"]
    assert (reason["stage"], reason["error"], reason["message"], reason["count"]) == (
        *("fail_some", "ValueError", "a three", 10),
    )
    assert (reason["source"], reason["line"], result["dead_letters"]["others"]) == (
        "in.jsonl",
        4,
        0,
    )
    assert result["argv"][:3] == ["millstream", "run", "h.py:fail_some"]


def many_in_flight(result: Result) -> None:
    (stage,) = result["stages"]
    assert (stage["executor"], stage["concurrency"], stage["handled"]) == ("coroutine", 7, 100)
    assert result["options"]["concurrency"] == 7


def in_processes(result: Result) -> None:
    options = result["options"]
    assert (options["emit"], options["workers"]) == ("input", 2)
    assert options["dead-letter"] == "dead.jsonl"
    assert "fail-if" in options and "fail_if" not in options
    assert result["counts"]["emitted"] == 200
    assert result["dead_letter_file"] is None


def through_every_executor(result: Result) -> None:
    shown = [(s["name"], s["executor"], s["workers"], s["handled"]) for s in result["stages"]]
    assert shown == [
        ("fail_some", "inline", 1, 200),
        ("double", "process", 2, 160),
        ("wait", "coroutine", 1, 160),  # input events, each with its two results
    ]
    assert all(stage["service"]["count"] == stage["handled"] for stage in result["stages"])
    places = [each["place"] for each in result["ordering"]["audit"]["places"]]
    assert places == ["fail_some", "double", "wait", "output"]
    assert result["counts"]["emitted"] == 320


def on_schedule(result: Result) -> None:
    assert result["response"]["count"] == result["slip"]["count"] == 100
    assert result["response"]["max"] >= result["response"]["p50"] >= result["response"]["min"] > 0
    assert result["options"]["rate"] == 100000.0
    assert decoded(result["histograms"]["response"]).count == 100
    assert decoded(result["histograms"]["stages"][0]["service"]).count == 100


def with_a_condition_that_held(result: Result) -> None:
    assert result["verdict"] == "fail"
    assert result["conditions"] == [
        {"text": "dead_letters > 1%", "observed": 10.0, "held": True},
        {
            "text": "service.p99 > 1000s",
            "observed": result["stages"][0]["service"]["p99"],
            "held": False,
        },
    ]


def over_nothing(result: Result) -> None:
    assert (result["name"], result["throughput"]) == ("nothing at all", 0.0)
    assert result["stages"][0]["service"] is None


MIXED = "h.py:mixed in.jsonl in.jsonl --partitions --order partition"
CONDITIONS = ("--fail-if", "dead_letters > 1%", "--fail-if", "service.p99 > 1000s")

RUNS: list[tuple[list[str], int, int, Callable[[Result], None]]] = [
    (["h.py:fail_some", "in.jsonl"], 4, 100, with_dead_letters),
    (["h.py:wait", "in.jsonl", "--order", "none", "--concurrency", "7"], 0, 100, many_in_flight),
    (["h.py:double", "in.jsonl", "--workers", "2", "--emit", "input"], 0, 100, in_processes),
    (MIXED.split(), 4, 200, through_every_executor),
    (["h.py:wait", "in.jsonl", "--rate", "100000", "--order", "global"], 0, 100, on_schedule),
    (["h.py:fail_some", "in.jsonl", *CONDITIONS], 6, 100, with_a_condition_that_held),
    (["h.py:wait", "empty.jsonl", "--name", "nothing at all"], 0, 0, over_nothing),
]


@pytest.mark.parametrize(
    ("arguments", "code", "read", "check"), RUNS, ids=[run[3].__name__ for run in RUNS]
)
def test_the_result_of_a_run(
    tmp_path: Path, arguments: list[str], code: int, read: int, check: Callable[[Result], None]
) -> None:
    folder = Folder(tmp_path)
    folder.file("h.py", HANDLERS)
    folder.file("in.jsonl", numbered(100))
    folder.file("empty.jsonl", b"")

    ended = folder.run(
        *arguments, "--output", "out.jsonl", "--dead-letter", "dead.jsonl", "--result", "r.json"
    )

    result = folder.json("r.json")
    SCHEMA.validate(result)
    assert ended.code == result["exit_code"] == code, ended.err
    counts = result["counts"]
    assert counts["read"] == counts["handled"] + counts["dead_lettered"] == read
    assert result["delivery"] == {"lost": 0, "duplicated": 0, "unexpected": 0, "recovered": 0}
    check(result)


def test_the_result_may_go_to_standard_output_when_the_results_do_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.file("h.py", HANDLERS)
    folder.file("in.jsonl", numbered(100))

    ended = folder.run("h.py:wait", "in.jsonl", "--output", "out.jsonl", "--result", "-")
    refused = folder.run("h.py:wait", "in.jsonl", "--result", "-")

    SCHEMA.validate(json.loads(ended.out))
    assert (ended.code, refused.code, refused.out) == (0, 2, b"")
    assert "name a file: --output FILE" in refused.err
    assert folder.names == {"h.py", "in.jsonl", "out.jsonl"}
