"""A user's file type-checks under mypy --strict, and one that is wrong is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKS = ROOT / "build" / "typing" / "millstream"

USERS_FILE = """
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from millstream.engine import (
    Event, Pipeline, Reject, RunOptions, RunResult, Stage, on, run, run_async, stage
)


def charge(event: Event) -> Event | None:
    if event.type == "test":
        return None
    if not event.data:
        raise Reject("nothing to charge")
    event.data["paid"] = True
    when: datetime | None = event.time
    at_ns: int | None = event.time_ns
    event.data["late"] = when is None or at_ns is None
    return event.replace(key=str(event.key), data=event.data)


def split(event: Event) -> Iterator[dict[str, Any]]:
    for item in event.data["items"]:
        yield {"item": item, "key": event.key}


async def enrich(event: Event) -> AsyncIterator[Event]:
    yield Event.new({"of": event.id}, key=event.key, type="enriched")


def count(event: Event, state: dict[str, int]) -> Event:
    state["n"] = state.get("n", 0) + 1
    return event


def store(events: list[Event]) -> list[Event | None]:
    return [each if each.key is not None else None for each in events]


first: Stage = stage(charge, executor="process", workers=4)
pipeline = Pipeline(
    first,
    split,
    stage(count, state=dict),
    on("order.*", enrich, concurrency=200, timeout=2.0),
    stage(store, batch=500, batch_wait=0.1, name="store"),
)


def program() -> int:
    result: RunResult = run(pipeline, "events.jsonl", output="out.jsonl", order="key")
    counts: dict[str, int] = result.counts
    return result.exit_code + counts["read"] + len(pipeline.stages)


async def notebook() -> float:
    result = await run_async(charge, ["a.jsonl"], options=RunOptions(emit="input"))
    return result.throughput
"""

WRONG = {
    'stage(print, executor="thread")': "Literal",
    "stage(print, workers='two')": "incompatible type",
    "stage(print, color='red')": "Unexpected keyword argument",
    "stage('charge')": "incompatible type",
    "Event.new({}, colour='red')": "Unexpected keyword argument",
    "print(Event.new({}).kee)": "has no attribute",
    "Event.new({}).key = 1": "read-only",
    "number: int = run(print, 'events.jsonl')": "Incompatible types in assignment",
    "RunOptions(order='sideways')": "incompatible type",
}


def make_links() -> None:
    """What `make typing-links` makes."""
    LINKS.mkdir(parents=True, exist_ok=True)
    for package in ("cli", "engine", "reports", "workloads"):
        if not (LINKS / package).exists():
            try:
                (LINKS / package).symlink_to(f"../../../{package}")
            except FileExistsError:  # another test process was quicker
                pass


def test_a_users_file_is_checked_right_and_wrong(tmp_path: Path) -> None:
    make_links()
    (tmp_path / "right.py").write_text(USERS_FILE)
    wrong = ["from millstream.engine import Event, RunOptions, run, stage", *WRONG]
    (tmp_path / "wrong.py").write_text("\n".join(wrong) + "\n")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file="),
            *("--namespace-packages", "--explicit-package-bases"),
            *(f"--cache-dir={ROOT / 'build' / 'mypy-users'}", "right.py", "wrong.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(LINKS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert done.returncode == 1, done.stdout + done.stderr
    for number, (text, said) in enumerate(WRONG.items(), start=2):
        own = [line for line in errors if line.startswith(f"wrong.py:{number}: ")]
        assert any(said in line for line in own), f"{text}: {own}"
    assert [line for line in errors if not line.startswith("wrong.py")] == []
