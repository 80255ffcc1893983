"""Dead letters as a run would have written them, and replays of them from Python."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from millstream.engine import RunOptions
from millstream.engine.connectors.base import Sink
from millstream.engine.event import encode_json
from millstream.engine.letter_file import LetterFile, Selection
from millstream.engine.observer import Observer, Progress, RunWarning
from millstream.engine.plan import make_plan
from millstream.engine.replaying import ReplayRun, replay_options
from millstream.engine.result import RunResult
from millstream.engine.runner import NoSink, open_sink

AT = "2026-01-01T00:00:00.000000Z"


def letter(index: int, key: Any = None, **more: Any) -> dict[str, Any]:
    """A letter of event number `index`, whose id it is too."""
    error, message = more.pop("error", "ValueError"), more.pop("message", "no")
    event = {} if {"event_text", "event_base64"} & more.keys() else {"event": event_of(index, key)}
    return {
        **event,
        "run": "r1",
        "source": "in.jsonl",
        "position": {"index": index, "line": index + 1},
        "key": key,
        "stage": "echo",
        "attempts": 0 if error == "Parked" else 1,
        "first_at": AT,
        "last_at": AT,
        "error": {"type": error, "message": message, "traceback": None},
        **more,
    }


def event_of(index: int, key: Any) -> dict[str, Any]:
    return {"id": index, "key": key}


def base64_of(line: bytes) -> str:
    return base64.b64encode(line).decode()


def write_letters(path: Path, *letters: dict[str, Any] | bytes) -> Path:
    """Letters as a file: bytes are lines as they are."""
    lines = [each if isinstance(each, bytes) else encode_json(each) for each in letters]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read_letters(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def state_of(path: Path) -> list[str]:
    """What each letter came to, in the order of the file."""
    return [
        "replayed" if "replayed" in each else "again" if "last_run" in each else "left"
        for each in read_letters(path)
    ]


class Heard(Observer):
    """Remembers the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_warning(self, warning: RunWarning) -> None:
        self.warnings.append(warning.message)


def replay(
    path: Path,
    job: Any,
    selection: Selection | None = None,
    observer: Observer | None = None,
    *,
    sink: Sink | None = None,
    **options: Any,
) -> RunResult:
    """Replay a file as the command does."""
    given = RunOptions(**options)
    letters = LetterFile(str(path), selection or Selection(), given.order)
    try:
        plan = make_plan(job, replay_options(given, letters))

        async def run() -> RunResult:
            target = sink or open_sink(given.output, default=NoSink)
            return await ReplayRun(plan, letters, target, observer or Heard()).run()

        return asyncio.run(run())
    finally:
        letters.close()
