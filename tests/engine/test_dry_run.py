"""A dry run: what would run and what the first events are, with nothing changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Event, Pipeline, RunOptions, stage
from millstream.engine.conditions import ConditionError
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.dry_run import CHECKED, SHOWN, look
from millstream.engine.plan import make_plan
from tests.support.running import json_lines, numbered


def refuse(event: Event) -> Event:
    raise AssertionError("a dry run handles nothing")


async def later(event: Event) -> Event:
    raise AssertionError("a dry run handles nothing")


JOB = Pipeline(refuse, stage(later, concurrency=7), stage(refuse, executor="process", workers=3))


def look_at(folder: Path, content: bytes, **options: Any) -> list[str]:
    (folder / "in").write_bytes(content)
    return asyncio.run(look(make_plan(JOB, RunOptions(**options)), [str(folder / "in")]))


def test_the_stages_are_shown_with_the_reasons_for_their_executors(tmp_path: Path) -> None:
    lines = look_at(tmp_path, b"", order="global", output="out.jsonl")

    assert lines[:4] == [
        "stages:",
        "  refuse-1: inline (its handler is a plain function)",
        "  later: coroutine, up to 7 in flight (its handler is a coroutine)",
        "  refuse-2: process, 3 workers (it was asked for)",
    ]
    assert "order: global, emit: completion" in lines
    assert "output: out.jsonl" in lines
    assert lines[-1] == "dry run: nothing was handled, nothing was written"


def test_the_first_events_are_shown_and_more_are_checked(tmp_path: Path) -> None:
    lines = look_at(tmp_path, json_lines(numbered(CHECKED + 500, ("a", None))))

    assert f"jsonl, first {CHECKED:,} events: {CHECKED // 2:,} keyed" in "\n".join(lines)
    assert sum("data={" in line for line in lines) == SHOWN
    assert "  key='a' id=0 data={'id': 0, 'key': 'a'}" in lines


def test_a_limit_is_a_limit_here_too(tmp_path: Path) -> None:
    lines = look_at(tmp_path, json_lines(numbered(9)), limit=2)

    assert "jsonl, first 2 events: 2 keyed" in "\n".join(lines)
    assert sum("data={" in line for line in lines) == 2


def test_malformed_events_are_named_by_line(tmp_path: Path) -> None:
    lines = look_at(tmp_path, b'{"key":1}\n\nnope\n{"key":2}\n[\n')

    text = "\n".join(lines)
    assert "first 4 events: 2 keyed, 2 malformed" in text
    assert f"  {tmp_path}/in line 3: " in text
    assert f"  {tmp_path}/in line 5: " in text


def test_an_event_whose_data_can_not_be_had_says_why(tmp_path: Path) -> None:
    lines = look_at(tmp_path, b'{"specversion":"1.0","key":1,"data_base64":"!"}\n')

    assert any("data_base64 is not base64" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"key,n\n1,2\n", "csv, first 1 events: 1 keyed"),
        (b'[{"key":1},\n{"key":2}]', "json, first 2 events: 2 keyed"),
        (b"", "first 0 events"),
    ],
)
def test_the_format_is_told(tmp_path: Path, content: bytes, shown: str) -> None:
    assert shown in "\n".join(look_at(tmp_path, content))


def test_a_followed_file_is_looked_at_as_it_is(tmp_path: Path) -> None:
    lines = look_at(tmp_path, json_lines(numbered(2)), follow=True)

    assert "first 2 events" in "\n".join(lines)


def test_what_the_run_would_refuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConditionError):
        look_at(tmp_path, b"", fail_if=("nonsense",))
    with pytest.raises(ConnectorError):
        asyncio.run(look(make_plan(JOB, RunOptions()), [str(tmp_path / "absent")]))


def test_nothing_is_written(tmp_path: Path) -> None:
    names = ("out", "dead", "result")
    files = dict(
        zip(("output", "dead_letter", "result"), (str(tmp_path / n) for n in names), strict=True)
    )

    look_at(tmp_path, b'{"key":1}\nnope\n', **files)

    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_faults_are_named(tmp_path: Path) -> None:
    lines = look_at(tmp_path, b"", inject=("error:5%", "kill-worker@5s"))

    assert "injected: error:5%, kill-worker@5s" in lines
