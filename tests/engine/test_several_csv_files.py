"""CSV files with different headers in one run: each event keeps to the header of its own file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MILLSTREAM = Path(sys.executable).with_name("millstream")

HANDLERS = """
from millstream.engine import Pipeline, stage

def keep(events):
    return events

async def keep_async(events):
    return events

def show(event):
    return {"key": event.key, "partition": event.partition, "columns": list(event.data)}

def fail(event):
    raise ValueError

batch = Pipeline(stage(keep, batch=3), stage(show, executor="process", workers=1))
coroutine_batch = Pipeline(stage(keep_async, batch=3), stage(show, executor="process", workers=1))
process_batch = Pipeline(
    stage(keep, batch=3, executor="process", workers=1), stage(show, executor="process", workers=1)
)
"""


def run(folder: Path, handler: str, *options: str) -> int:
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "a.csv").write_text("key,x\na,1\nb,2\n")
    (folder / "b.csv").write_text("y,key,z\n7,c,1\n8,d,2\n9,e,3\n")
    command = [MILLSTREAM, "run", f"handlers.py:{handler}", "a.csv", "b.csv", "--quiet", *options]
    return subprocess.run(command, cwd=folder, check=False).returncode


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["batch", "coroutine_batch", "process_batch"])
def test_a_batch_over_the_end_of_a_file_mixes_no_headers(tmp_path: Path, name: str) -> None:
    code = run(tmp_path, name, "--output", "out.jsonl")

    assert code == 0
    written = sorted(read(tmp_path / "out.jsonl"), key=lambda event: str(event["key"]))
    assert written == [
        {"key": "a", "partition": 0, "columns": ["key", "x"]},
        {"key": "b", "partition": 0, "columns": ["key", "x"]},
        {"key": "c", "partition": 1, "columns": ["y", "key", "z"]},
        {"key": "d", "partition": 1, "columns": ["y", "key", "z"]},
        {"key": "e", "partition": 1, "columns": ["y", "key", "z"]},
    ]


@pytest.mark.parametrize("order", ["key", "none"])
@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_dead_letter_has_the_key_by_its_own_header(
    tmp_path: Path, executor: str, order: str
) -> None:
    code = run(tmp_path, "fail", "--executor", executor, "--order", order)

    assert code == 4
    keys = sorted(letter["key"] for letter in read(tmp_path / "dead-letters.jsonl"))
    assert keys == ["a", "b", "c", "d", "e"]
