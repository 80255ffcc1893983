"""Run a job over lines as a user's program would, and read back all that it left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.engine import Pipeline, run
from millstream.engine.result import RunResult


@dataclass(frozen=True)
class Ran:
    """A run that is over."""

    result: RunResult
    outputs: list[Any]
    """Output lines, decoded."""
    dead: list[dict[str, Any]]
    """Dead letters."""
    text: bytes
    """The output as it was written."""

    @property
    def exit_code(self) -> int:
        return self.result.exit_code

    @property
    def counts(self) -> dict[str, int]:
        return self.result.counts

    @property
    def violations(self) -> int:
        return int(self.result["ordering"]["violations"])

    @property
    def dead_ids(self) -> list[int]:
        return [letter["event"]["id"] for letter in self.dead]

    @property
    def error_types(self) -> set[str]:
        return {letter["error"]["type"] for letter in self.dead}


def run_over(
    folder: Path, job: Any, *inputs: bytes | Sequence[Any], stages: Any = None, **options: Any
) -> Ran:
    """Run `job` over inputs: bytes as they are, or objects to be written as JSON Lines.

    Output, dead letters and inputs stand in `folder`, which may be used again.
    """
    names = []
    for number, each in enumerate(inputs):
        name = folder / f"input-{number}.jsonl"
        name.write_bytes(each if isinstance(each, bytes) else json_lines(each))
        names.append(str(name))
    output, dead = folder / "output.jsonl", folder / "dead.jsonl"
    output.unlink(missing_ok=True)
    dead.unlink(missing_ok=True)
    result = run(job, names, output=str(output), dead_letter=str(dead), **options)
    return Ran(result, read_lines(output), read_lines(dead), output.read_bytes())


def json_lines(objects: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def read_lines(path: Path) -> list[Any]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def numbered(count: int, keys: Sequence[Any] = ("a",)) -> list[dict[str, Any]]:
    """Events with an id, with the keys in turn."""
    return [{"id": number, "key": keys[number % len(keys)]} for number in range(count)]


__all__ = ["Pipeline", "Ran", "json_lines", "numbered", "read_lines", "run_over"]
