"""The result of a run: one object, written as JSON under a schema, read by everything else.

Facts are recorded here; figures for people are derived from it in reports/.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from .event import decode_json, encode_indented
from .whole_file import write_whole

SCHEMA = "millstream.result/1"
SCHEMA_FILE = Path(__file__).with_name("result.schema.json")

Verdict = Literal["pass", "fail", "invalid"]

OK, UNEXPECTED, USAGE, UNUSABLE, DEAD_LETTERS, BROKEN, CONDITION, INVALID = range(8)
"""Exit codes (contract)."""
FROM_SIGNALS = 128
"""Exit codes from here on are those of signals: this, and the signal's number."""


def verdict_for(exit_code: int) -> Verdict:
    """What an exit code says of a run that came to an end."""
    if exit_code == INVALID:
        return "invalid"
    return "fail" if exit_code in (BROKEN, CONDITION, UNUSABLE) else "pass"


class RunResult:
    """What a run came to. Attributes name what scripts need most; `data` is the whole object."""

    def __init__(self, data: dict[str, Any], examples: list[str] | None = None) -> None:
        self.data = data
        self.notes = examples or []
        """Sentences for people: broken promises, and where the output is."""

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    @property
    def exit_code(self) -> int:
        return int(self.data["exit_code"])

    @property
    def verdict(self) -> Verdict:
        verdict: Verdict = self.data["verdict"]
        return verdict

    @property
    def counts(self) -> dict[str, int]:
        """read, handled, filtered, emitted, retried, dead_lettered."""
        counts: dict[str, int] = self.data["counts"]
        return counts

    @property
    def throughput(self) -> float:
        """Events per second, over the whole run."""
        return float(self.data["throughput"])

    @property
    def duration_ns(self) -> int:
        return int(self.data["duration_ns"])

    def to_json(self) -> bytes:
        """The whole object, indented."""
        return encode_indented(self.data)

    def write(self, path: str) -> None:
        """Write the object to a file, whole or not at all. Raises OSError."""
        write_whole(path, self.to_json())

    def __repr__(self) -> str:
        counts = self.counts
        return (
            f"RunResult(exit_code={self.exit_code}, read={counts['read']}, "
            f"handled={counts['handled']}, dead_lettered={counts['dead_lettered']}, "
            f"throughput={self.throughput:.0f})"
        )


class ResultError(ValueError):
    """A file is no result that can be read; the message says why, and what to do."""


def read_result(path: str) -> RunResult:
    """A result from its file. Raises OSError, and ResultError when it is none."""
    return RunResult(parse_report(Path(path).read_bytes(), path, (SCHEMA,)))


def parse_report(raw: bytes, name: str, schemas: Sequence[str]) -> dict[str, Any]:
    """The object in `raw`: of one of `schemas`, with everything that reports read in place.

    `name` is what messages call it. Raises ResultError.
    """
    if not raw.strip():
        raise ResultError(f"{name} is empty: whatever was to write it did not come to its end")
    try:
        data = decode_json(raw)
    except (ValueError, RecursionError) as error:
        is_torn = raw.lstrip()[:1] == b"{" and not raw.rstrip().endswith(b"}")
        why = "it ends too early" if is_torn else f"it is not JSON ({error})"
        raise ResultError(f"{name} is no result file: {why}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema not in schemas:
        raise ResultError(_other_schema(name, schema, schemas))
    from .shapes import check_audit, check_result  # only where results are read

    try:
        (check_result if schema == SCHEMA else check_audit)(data)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        what = what.replace("`", "").replace("Expected", "expected").replace("Object", "the object")
        raise ResultError(
            f"{name} is a damaged result file, or not millstream's: "
            f"{f'{place.rstrip(chr(96))}: ' if place else ''}{what}"
        ) from None
    return dict(data)


def _other_schema(name: str, schema: object, known: Sequence[str]) -> str:
    if isinstance(schema, str):
        for each in known:
            kind, _, number = each.rpartition("/")
            of_kind, _, other = schema.rpartition("/")
            if kind == of_kind and other.isdecimal() and int(other) > int(number):
                return f"{name} was written by a newer millstream ({schema}); upgrade to read it"
    return f"{name} is no result file: its schema is not {' or '.join(known)}"


def host() -> dict[str, Any]:
    """What a figure depends on, of this machine."""
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "event_loop": f"uvloop {version_of('uvloop')}",
    }


def version_of(distribution: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
