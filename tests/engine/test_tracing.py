"""The trace of handler calls: one entry a call, the same for the same event, none unasked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, stage
from millstream.engine.plan import RunOptions, StagePlan, make_plan
from millstream.engine.tracing import (
    CALL_BYTES,
    FIRST_STAGE,
    KILL_AT,
    MADE,
    TRACE,
    digest_of,
    traced,
)


def same(event: Event) -> Event:
    return event


def twice(event: Event) -> Any:
    yield event
    yield event


async def later(event: Event) -> Event:
    return event


def planned(handler: Any, **options: Any) -> StagePlan:
    return make_plan(Pipeline(stage(handler, name="s", **options)), RunOptions()).stages[0]


def calls(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + CALL_BYTES] for at in range(0, len(data), CALL_BYTES)]


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(TRACE, str(tmp_path / "trace"))
    return tmp_path / "trace"


def test_unasked_a_stage_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACE, raising=False)
    plan = planned(same)

    assert traced(plan) is plan


def test_a_call_is_noted_before_it_is_made_and_gives_what_the_handler_gives(trace: Path) -> None:
    event = Event.new({"n": 1})
    line = event.to_line()

    assert traced(planned(same)).handler(event) is event
    assert list(traced(planned(twice)).handler(event)) == [event, event]
    assert asyncio.run(traced(planned(later)).handler(event)) is event
    assert calls(trace) == [digest_of("s")(line)] * 3


def test_each_event_of_a_batch_is_noted(trace: Path) -> None:
    events = [Event.new({"n": n}) for n in range(3)]

    traced(planned(lambda events: None, batch=3)).handler(events)

    assert calls(trace) == [digest_of("s")(event.to_line()) for event in events]


def test_a_handler_that_fails_was_called(trace: Path) -> None:
    def fail(event: Event) -> None:
        event.data["n"] = "changed"
        raise ValueError

    event = Event.new({"n": 1})
    line = event.to_line()

    with pytest.raises(ValueError):
        traced(planned(fail)).handler(event)
    assert calls(trace) == [digest_of("s")(line)]


def test_stages_are_told_apart_and_what_json_lacks_is_noted_all_the_same(trace: Path) -> None:
    traced(planned(same)).handler(Event.new({"n": {1, 2}}))

    assert len(calls(trace)) == 1
    assert digest_of("a")(b"{}") != digest_of("b")(b"{}")


def test_calls_of_later_stages_are_told_by_their_lowest_bit(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = Event.new({"n": 1})

    for first in ("s", "another"):
        monkeypatch.setenv(FIRST_STAGE, first)
        traced(planned(same)).handler(event)

    found = [int.from_bytes(call, "little") for call in calls(trace)]
    assert [call & MADE for call in found] == [0, 1]
    assert found[0] | MADE == found[1]


def test_in_a_session_that_others_share_nobody_is_killed(
    trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KILL_AT, "1")
    monkeypatch.setattr("os.getsid", lambda pid: -1)

    traced(planned(same)).handler(Event.new({}))

    assert len(calls(trace)) == 1
