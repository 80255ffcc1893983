"""The same work: what a contender wrote must be the right events, in whatever order.

Digests add up hashes of lines, so that nothing is sorted or kept in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests.benchmarks.handlers import KEPT_TYPE
from tests.benchmarks.rows import Row, Work

ROOT = Path(__file__).resolve().parents[2]


class Digest(NamedTuple):
    """Of a multiset of lines; comparable within one process, as bytes hash anew in each."""

    lines: int
    total: int


def digest(lines: Iterable[bytes]) -> Digest:
    """The number of lines and the sum of their hashes."""
    count = total = 0
    for line in lines:
        count += 1
        total += hash(line)
    return Digest(count, total & 0xFFFF_FFFF_FFFF_FFFF)


def _canonical(line: bytes) -> bytes:
    """The line with its white space and its order of fields made one."""
    return orjson.dumps(orjson.loads(line), option=orjson.OPT_SORT_KEYS)


def _changed(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        event = orjson.loads(line)
        event["data"]["paid"] = True
        yield orjson.dumps(event) + b"\n"


def _kept(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if orjson.loads(line)["type"] == KEPT_TYPE)


def _expected_lines(work: Work, lines: Iterable[bytes]) -> Iterable[bytes]:
    """What the work makes of the input, computed here: no contender is asked."""
    if work == "passthrough":
        return lines
    return _kept(lines) if work == "by_type" else _changed(lines)


@cache
def _expected(work: Work, path: Path, canonical: bool) -> Digest:
    with path.open("rb") as source:
        lines = _expected_lines(work, source)
        return digest(map(_canonical, lines) if canonical else lines)


def output_fault(row: Row, source: Path, output: Path) -> str | None:
    """What is wrong with the output, or None. Other white space in the JSON is not wrong."""
    if row.work == "imports":
        return None
    if not output.exists():
        return "no output was written"
    if row.work == "audit":
        return _report_fault(source, output) if row.group == "audit" else None
    if row.group == "nexmark":
        return _query_fault(row.work, source, output)
    # The works that end in the change expect the same; this spares a reading for each.
    work: Work = row.work if row.work in ("passthrough", "by_type") else "change"
    found, expected = _digest_file(output), _expected(work, source, False)
    if found.lines != expected.lines:
        return f"{found.lines} lines written, not {expected.lines}"
    if found != expected:
        try:
            found = _digest_file(output, _canonical)
        except orjson.JSONDecodeError as error:
            return f"a line is not JSON: {error}"
        if found != _expected(work, source, True):
            return "the events written are not the ones expected"
    return None


def _query_fault(query: str, source: Path, output: Path) -> str | None:
    """What is wrong with the rows of a query, or None: SQL over the same file tells."""
    command = (sys.executable, "-m", "tests.benchmarks.nexmark_check", query, source, output)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    text = (done.stdout or done.stderr).strip()
    return text.splitlines()[-1][:200] if done.returncode else None


def _report_fault(source: Path, output: Path) -> str | None:
    """What is wrong with an audit's report on a log that is in order, or None."""
    try:
        report = json.loads(output.read_bytes())
    except ValueError as error:
        return f"the report is not JSON: {error}"
    with source.open("rb") as lines:
        events = sum(1 for _ in lines)
    found = [report[name] for name in ("events", "reordered", "duplicates", "unknown")]
    return None if found == [events, 0, 0, 0] else f"the report says {found}, of {events} events"


def _digest_file(path: Path, change: Callable[[bytes], bytes] | None = None) -> Digest:
    with path.open("rb") as lines:
        return digest(lines if change is None else map(change, lines))


def result_fault(path: Path, events: int) -> str | None:
    """What a result file of Millstream says against the run, or None."""
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        counts, violations = result["counts"], result["ordering"]["violations"]
        read, handled = counts["read"], counts["handled"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"the result file cannot be read: {error!r}"
    if (read, handled) != (events, events):
        return f"{read} events read and {handled} handled, not {events}"
    if violations:
        return f"{violations} violations of order"
    return None
