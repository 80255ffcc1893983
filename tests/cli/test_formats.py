"""`millstream run`: every input format through every executor comes to the same results."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.cli.support import Folder, lines_of

COUNT = 400
TEXT = 'a "quoted",\ntext }]'


def events(name: str) -> list[dict[str, Any]]:
    """A file's events, with keys of its own."""
    return [
        {
            "specversion": "1.0",
            "id": str(n),
            "source": "/shop",
            "type": ("placed", "paid", "sent")[n % 3],
            "partitionkey": f"{name}-{n % 7}",
            "time": f"2024-05-01T10:{n // 60 % 60:02}:{n % 60:02}Z",
            "data": {"n": n, "text": TEXT},
        }
        for n in range(COUNT)
    ]


HANDLERS = """
    from millstream.engine import Pipeline, stage

    def show(event):
        data = event.data
        return {"key": event.key, "id": int(event.id), "type": event.type,
                "second": event.time.minute * 60 + event.time.second,
                "text": data["text"], "n": int(data["n"])}

    async def ashow(event):
        return show(event)

    inline = Pipeline(show)
    coroutine = Pipeline(ashow)
    process = Pipeline(stage(show, executor="process", workers=2))
    async_process = Pipeline(stage(ashow, executor="process", workers=2, concurrency=4))
"""


def as_csv(events: list[dict[str, Any]], mark: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=mark)
    writer.writerow(["id", "type", "partitionkey", "time", "n", "text"])
    for each in events:
        row = [each[name] for name in ("id", "type", "partitionkey", "time")]
        writer.writerow([*row, each["data"]["n"], each["data"]["text"]])
    return text.getvalue().encode()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "json-lines": lambda made: lines_of(*made),
    "json-lines-gzip": lambda made: gzip.compress(lines_of(*made)),
    "csv": lambda made: as_csv(made, ","),
    "tabs-zstd": lambda made: zstd(as_csv(made, "\t")),
    "batch": lambda made: json.dumps(made).encode(),
    "pretty-batch-gzip": lambda made: gzip.compress(json.dumps(made, indent=2).encode()),
    "pretty": lambda made: "\n".join(json.dumps(each, indent=1) for each in made).encode(),
}


@pytest.mark.parametrize("together", [False, True], ids=["in turn", "side by side"])
@pytest.mark.parametrize("executor", ["inline", "coroutine", "process", "async_process"])
def test_every_format_comes_to_the_same_results_in_every_executor(
    tmp_path: Path, executor: str, together: bool
) -> None:
    folder = Folder(tmp_path)
    folder.file("h.py", HANDLERS)
    for name, write in FORMATS.items():
        folder.file(name, write(events(name)))

    ended = folder.run(
        f"h.py:{executor}", *FORMATS, "--output-format", "jsonl",
        *(["--partitions"] if together else []),
    )  # fmt: skip

    by_key: dict[str, list[Any]] = defaultdict(list)
    for event in ended.events:
        by_key[event["key"]].append(event)
    assert ended.code == 0, ended.err
    assert len(ended.events) == COUNT * len(FORMATS)
    for name in FORMATS:
        for part in range(7):
            key = f"{name}-{part}"
            assert by_key[key] == [
                {"key": key, "id": n, "type": each["type"], "second": n, "text": TEXT, "n": n}
                for n, each in enumerate(events(name))
                if each["partitionkey"] == key
            ]


def test_results_need_not_be_cloud_events(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.file(
        "h.py",
        """
        from millstream.engine import Pipeline, stage

        def replace(event):
            event.data = {"seen": event.type}
            return event

        def same(event):
            return event

        job = Pipeline(stage(replace), stage(same, executor="process", workers=1))
        """,
    )
    bare = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "placed"}
    folder.file("in.jsonl", lines_of(*[bare] * 5))

    ended = folder.run("h.py:job", "in.jsonl", "--format", "cloudevents")

    assert (ended.code, ended.events) == (0, [{"seen": "placed"}] * 5), ended.err


NO_CLOUD_EVENTS = {
    "no source": ({"source": None}, "missing required field `source`"),
    "an empty id": ({"id": ""}, "length >= 1 - at `$.id`"),
    "a number as id": ({"id": 5}, "got `int` - at `$.id`"),
    "an old version": ({"specversion": "0.3"}, "Invalid enum value '0.3' - at `$.specversion`"),
}


@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize("executor", ["inline", "coroutine", "process", "async_process"])
def test_with_cloud_events_asked_for_nothing_else_is_an_event(
    tmp_path: Path, executor: str, order: str
) -> None:
    folder = Folder(tmp_path)
    folder.file("h.py", HANDLERS)
    good = events("in")[:8]
    bad = []
    for change, _ in NO_CLOUD_EVENTS.values():
        changed = {**good[0], **change}
        bad.append({name: value for name, value in changed.items() if value is not None})
    mixed = [each for pair in zip(good, bad, strict=False) for each in pair] + good[4:]
    folder.file("in.jsonl", lines_of(*mixed))
    folder.file("table.csv", b"key,n\na,1\n")

    ended = folder.run(
        f"h.py:{executor}", "in.jsonl", "table.csv", "--format", "cloudevents", "--order", order
    )

    letters = sorted(folder.dead_letters(), key=lambda letter: letter["position"]["line"])
    assert ended.code == 4
    assert sorted(event["id"] for event in ended.events) == list(range(8))
    of_json = [each for each in letters if each["source"] == "in.jsonl"]
    assert [each["event"] for each in of_json] == bad
    for letter, (_, said) in zip(of_json, NO_CLOUD_EVENTS.values(), strict=True):
        assert letter["error"]["message"].startswith("it is no CloudEvent 1.0: ")
        assert said in letter["error"]["message"]
    of_csv = [each["event_text"] for each in letters if each["source"] == "table.csv"]
    assert of_csv == ["key,n", "a,1"]


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_partitions_are_read_side_by_side_each_in_its_order(tmp_path: Path, executor: str) -> None:
    folder = Folder(tmp_path)
    folder.file("h.py", "def show(event):\n    return {'at': event.partition, **event.data}\n")
    for part in range(3):
        lines = lines_of(*({"part": part, "n": n} for n in range(200)))
        folder.file(f"{part}.jsonl", gzip.compress(lines) if part == 1 else lines)

    ended = folder.run(
        "h.py:show", "?.jsonl", "--order", "partition", "--executor", executor, "--workers", "2"
    )

    by_part: dict[int, list[int]] = defaultdict(list)
    for event in ended.events:
        assert event["at"] == event["part"]
        by_part[event["part"]].append(event["n"])
    assert ended.code == 0, ended.err
    assert by_part == {part: list(range(200)) for part in range(3)}


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_inputs_of_several_formats_are_one_stream(tmp_path: Path, executor: str) -> None:
    folder = Folder(tmp_path)
    folder.file(
        "h.py", "def show(event):\n    return {'k': event.key, 'n': int(event.data['n'])}\n"
    )
    folder.file("1", b"key,n\na,1\n")
    folder.file("2", b'{"key":"b","n":2}\n')
    folder.file("3", b'[\n  {"key": "c",\n "n": 3}\n]')
    folder.file("4", gzip.compress(b"n;key\n4;d\n"))

    ended = folder.run(
        "h.py", "1", "2", "3", "4", "--executor", executor, "--workers", "2",
        "--emit", "input", "--output-format", "jsonl",
    )  # fmt: skip

    assert ended.code == 0, ended.err
    assert ended.events == [{"k": k, "n": n} for n, k in enumerate("abcd", 1)]
