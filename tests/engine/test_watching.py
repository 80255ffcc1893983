"""What a run tells whoever watches it in full, on the real loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Pipeline, run_async, stage
from millstream.engine.observer import Details, Silent, Watcher
from tests.support.handlers import aecho, echo
from tests.support.running import json_lines, numbered


class Watched(Silent):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[Details] = []
        self.was_told = asyncio.Event()

    def on_details(self, details: Details) -> None:
        self.told.append(details)
        self.was_told.set()

    @property
    def last(self) -> Details:
        return self.told[-1]


def watch(folder: Path, job: Any, events: list[Any], **options: Any) -> tuple[Watched, Any]:
    """What was told of a run, and its result."""
    (folder / "in.jsonl").write_bytes(json_lines(events))
    watched = Watched()
    options = {"dead_letter": str(folder / "dead.jsonl"), **options}
    result = asyncio.run(run_async(job, folder / "in.jsonl", observer=watched, **options))
    return watched, result


def test_what_is_told_last_is_what_the_result_says(tmp_path: Path) -> None:
    def some(event: Any) -> Any:
        if event.data["id"] % 5 == 0:
            raise ValueError("no")
        return None if event.data["id"] % 5 == 1 else event

    watched, result = watch(tmp_path, Pipeline(some, stage(aecho)), numbered(50, "ab"))

    last = watched.last
    assert last.is_last
    assert last.counts == result.counts
    assert (last.backlog, last.violations, last.duplicated) == (0, 0, 0)
    assert [(each.stage, each.error, each.count) for each in last.deaths] == [
        ("some", "ValueError", 10)
    ]
    assert [(each.name, each.handled) for each in last.stages] == [
        (each["name"], each["handled"]) for each in result["stages"]
    ]
    assert [each.service.count for each in last.stages] == [
        each["service"]["count"] for each in result["stages"]
    ]


def test_a_run_is_told_of_while_it_goes_on(tmp_path: Path) -> None:
    watched = Watched()

    async def until_watched(event: Any) -> Any:
        await watched.was_told.wait()
        return event

    (tmp_path / "in.jsonl").write_bytes(json_lines(numbered(20)))
    asyncio.run(run_async(until_watched, tmp_path / "in.jsonl", observer=watched))

    first, last = watched.told[0], watched.last
    assert (first.counts["read"], first.backlog, first.is_last) == (20, 20, False)
    assert first.stages[0].waiting + first.stages[0].in_flight == 20
    assert first.run == last.run
    assert first.rss > 0


def test_only_a_run_with_a_schedule_has_response_times(tmp_path: Path) -> None:
    closed, _ = watch(tmp_path, echo, numbered(20))
    paced, result = watch(tmp_path, echo, numbered(20), rate=10_000)

    assert closed.last.response is None
    assert paced.last.response is not None
    assert paced.last.response.count == result["response"]["count"] == 20


@pytest.mark.parametrize("options", [{}, {"limit": 10}])
def test_how_much_is_done_is_known_by_bytes_or_by_a_limit(
    tmp_path: Path, options: dict[str, int]
) -> None:
    watched, _ = watch(tmp_path, echo, numbered(20), **options)

    assert watched.last.share == 1.0


def test_an_observer_that_wants_no_details_is_no_watcher() -> None:
    assert isinstance(Watched(), Watcher)
    assert not isinstance(Silent(), Watcher)


def test_the_last_word_is_told_of_a_run_that_fails(tmp_path: Path) -> None:
    def interrupted(event: Any) -> Any:
        raise ValueError("no")

    watched, result = watch(tmp_path, interrupted, numbered(9), on_error="halt")

    assert result.exit_code == 3
    assert watched.last.is_last
    assert watched.last.counts == result.counts
