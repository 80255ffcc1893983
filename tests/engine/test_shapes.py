"""Files that are no results, or damaged ones, are refused with the place; old ones are read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.engine.auditing import AuditOptions, audit_logs
from millstream.engine.result import ResultError, parse_report, read_result
from tests.support.results import bench, experiment, fact, result

OLD = Path(__file__).parents[1] / "data" / "results"
RESULT, AUDIT = "millstream.result/1", "millstream.audit/1"


def read(data: Any) -> dict[str, Any]:
    return parse_report(json.dumps(data).encode(), "r.json", (RESULT, AUDIT))


def message(raw: bytes) -> str:
    with pytest.raises(ResultError) as caught:
        parse_report(raw, "r.json", (RESULT, AUDIT))
    return str(caught.value)


@pytest.mark.parametrize("made", [result(), bench(), bench(experiment=experiment([fact(1.0)]))])
def test_what_the_engine_writes_is_read(made: dict[str, Any]) -> None:
    assert read(made) == made


@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda path: str(path.name))
def test_results_of_earlier_versions_are_read(path: Path) -> None:
    data = read_result(str(path)).data

    assert "histograms" not in data
    assert data == json.loads(path.read_bytes())


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "r.json is empty: whatever was to write it did not come to its end"),
        (b" \n", "r.json is empty: whatever was to write it did not come to its end"),
        (b'{"schema": "millstream.resu', "r.json is no result file: it ends too early"),
        (b"hello", "r.json is no result file: it is not JSON (JSON is malformed: "),
        (b"[" * 100_000, "r.json is no result file: it is not JSON ("),
        (b"[]", "r.json is no result file: its schema is not millstream.result/1 or "),
        (b'{"schema": 7}', "r.json is no result file: its schema is not millstream.result/1 or "),
        (
            b'{"schema": "millstream.result/2"}',
            "r.json was written by a newer millstream (millstream.result/2); upgrade to read it",
        ),
        (
            b'{"schema": "millstream.audit/12"}',
            "r.json was written by a newer millstream (millstream.audit/12); upgrade to read it",
        ),
        (b'{"schema": "millstream.proof/1"}', "r.json is no result file: its schema is not "),
    ],
)
def test_what_is_no_result_is_refused_with_the_reason(raw: bytes, told: str) -> None:
    assert message(raw).startswith(told)


def having(value: Any, *path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for name in path[:-1]:
            data = data[name]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (having("x", "counts", "read"), "counts.read: expected int, got str"),
        (having(-1, "counts", "read"), "counts.read: expected int >= 0"),
        (having(0, "duration_ns"), "duration_ns: expected int >= 1"),
        (having(None, "stages"), "stages: expected array, got null"),
        (having(5, "stages", 0, "name"), "stages[0].name: expected str, got int"),
        (having(["a"], "series", "throughput"), "series.throughput[0]: expected float, got str"),
        (having({}, "load"), "load: the object missing required field open"),
        (having("sideways", "ordering", "order"), "ordering.order: Invalid enum value 'sideways'"),
        (having([{}], "objectives"), "objectives[0]: the object missing required field text"),
    ],
)
def test_a_damaged_result_is_refused_with_the_place(
    change: Callable[[dict[str, Any]], None], told: str
) -> None:
    made = bench()
    change(made)

    assert message(json.dumps(made).encode()) == (
        f"r.json is a damaged result file, or not millstream's: {told}"
    )


def test_of_a_benchmark_more_is_asked_than_of_a_run() -> None:
    made = bench()
    del made["steady"]

    assert message(json.dumps(made).encode()).endswith("the object missing required field steady")
    assert read({**made, "command": "run"})


def test_the_report_of_an_audit_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"seq":1}\n{"seq":3}\n{"seq":2}\n{"seq":2}\n')
    made = asyncio.run(audit_logs(AuditOptions(inputs=[str(log)]))).report

    assert read(made)["reordered"] == 1
    with pytest.raises(ResultError, match=r"its schema is not millstream\.result/1$"):
        parse_report(json.dumps(made).encode(), "audit.json", (RESULT,))
