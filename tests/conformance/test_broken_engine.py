"""The run's own audit catches an engine that breaks its promises: each test breaks one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Event, Retry, stage
from millstream.engine.batch import Batch
from millstream.engine.channel import Channel
from millstream.engine.executors.base import StageContext
from millstream.engine.executors.coroutine import CoroutineExecutor
from millstream.engine.executors.inline import InlineExecutor
from millstream.engine.executors.process import ProcessExecutor
from millstream.engine.failure import WaitingRoom
from millstream.engine.order import Resequencer
from tests.support.handlers import echo, slow_echo
from tests.support.running import numbered, run_over


class _NeverBusy(dict[Any, Any]):
    """Lanes of which none is ever in flight."""

    def __contains__(self, lane: object) -> bool:
        return False

    def __missing__(self, lane: object) -> None:
        return None

    def __delitem__(self, lane: object) -> None:
        pass


class _IgnoresLanes(CoroutineExecutor):
    """Hands out every event at once, whatever its lane is doing."""

    def __init__(self, context: StageContext) -> None:
        super().__init__(context)
        self._busy = _NeverBusy()


@pytest.fixture
def broken_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.engine.executors.coroutine.CoroutineExecutor", _IgnoresLanes)


def swapping() -> Callable[[Event], Awaitable[Event]]:
    """A handler that ends with each even event only after the odd one behind it."""
    ended: dict[int, asyncio.Event] = {}

    async def handler(event: Event) -> Event:
        number = event.data["id"]
        if number % 2 == 0:
            await ended.setdefault(number + 1, asyncio.Event()).wait()
        else:
            await asyncio.sleep(0)
        ended.setdefault(number, asyncio.Event()).set()
        return event

    return handler


def overlapping() -> Callable[[Event], Awaitable[Event]]:
    """A handler that ends in order, but only when the one behind has begun."""
    began: dict[int, asyncio.Event] = {}
    ended: dict[int, asyncio.Event] = {-1: asyncio.Event()}
    ended[-1].set()

    async def handler(event: Event) -> Event:
        number = event.data["id"]
        began.setdefault(number, asyncio.Event()).set()
        if number < 9:
            await began.setdefault(number + 1, asyncio.Event()).wait()
        await ended.setdefault(number - 1, asyncio.Event()).wait()
        ended.setdefault(number, asyncio.Event()).set()
        return event

    return handler


@pytest.mark.usefixtures("broken_lanes")
@pytest.mark.parametrize("order", ["key", "partition", "global"])
def test_reordered_events_are_named(tmp_path: Path, order: str) -> None:
    ran = run_over(tmp_path, stage(swapping(), name="swap"), numbered(10, ["hot"]), order=order)

    assert ran.exit_code == 5
    assert ran.violations >= 5
    assert any("stage 'swap': event 0" in note and "event 1" in note for note in ran.result.notes)


@pytest.mark.usefixtures("broken_lanes")
def test_overlapping_events_are_named_with_their_key(tmp_path: Path) -> None:
    ran = run_over(tmp_path, stage(overlapping(), name="both"), numbered(10, ["hot"]))

    assert ran.exit_code == 5
    assert ran.result["ordering"]["audit"]["overlaps"] == 9
    assert ran.result["ordering"]["audit"]["reordered"] == 0
    note = "stage 'both': event 1 of key 'hot' began before event 0 of the same key had ended"
    assert note in ran.result.notes


@pytest.mark.usefixtures("broken_lanes")
def test_events_of_different_keys_may_overlap(tmp_path: Path) -> None:
    ran = run_over(tmp_path, overlapping(), numbered(10, list("abcdefghij")))

    assert ran.exit_code == 0
    assert ran.violations == 0


@pytest.mark.parametrize("order", ["none", "key"])
def test_output_that_is_not_put_in_order_again_breaks_emit_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(Resequencer, "push", lambda self, positions, payloads: list(payloads))

    ran = run_over(tmp_path, swapping(), numbered(10, ["even", "odd"]), emit="input", order=order)

    assert [each["id"] for each in ran.outputs] != list(range(10))
    assert ran.exit_code == 5
    assert "output: event 0 came after event 1" in ran.result.notes


def _tampering(change: Callable[[Batch], Sequence[Batch]]) -> type[InlineExecutor]:
    class Tampering(InlineExecutor):
        async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
            inner: Channel[Batch] = Channel(1000)
            await super().run(inbox, inner)
            while (batch := inner.receive_now()) is not None:
                self.context.unpack(batch)
                for each in change(batch):
                    await outbox.send(each)
            outbox.close()

    return Tampering


def _broken_inline(monkeypatch: pytest.MonkeyPatch, change: Callable[[Batch], Any]) -> None:
    monkeypatch.setattr("millstream.engine.executors.inline.InlineExecutor", _tampering(change))


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("order", ["none", "key", "partition", "global"])
def test_a_lost_event_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, emit: str
) -> None:
    _broken_inline(monkeypatch, lambda batch: [batch.part(0, 3), batch.part(4, len(batch))])

    # The results go to CSV, for which batches stay apart.
    ran = _to_csv(tmp_path, order, emit)

    assert ran.exit_code == 5
    assert ran["delivery"]["lost"] == 1
    assert any("input-0.jsonl line 4" in note for note in ran.notes)
    assert any("not every event is accounted for" in note for note in ran.notes)


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("order", ["none", "key", "partition", "global"])
def test_a_duplicated_event_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, emit: str
) -> None:
    _broken_inline(monkeypatch, lambda batch: [batch, batch.part(2, 3)])

    ran = _to_csv(tmp_path, order, emit)

    assert ran.exit_code == 5
    assert ran["delivery"] == {"lost": 0, "duplicated": 1, "unexpected": 0, "recovered": 0}
    assert any("twice, such as number 2" in note for note in ran.notes)


def _to_csv(folder: Path, order: str, emit: str) -> Any:
    from millstream.engine import run
    from tests.support.running import json_lines

    (folder / "input-0.jsonl").write_bytes(json_lines(numbered(10)))
    return run(echo, folder / "input-0.jsonl", order=order, emit=emit, output=folder / "output.csv")


@pytest.mark.parametrize("order", ["none", "key"])
def test_a_batch_that_is_lost_before_the_end_of_the_input_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr("millstream.engine.runner.RESEQUENCE_WINDOW", 1000)
    sent: list[Batch] = []
    send = Channel.send

    async def lose_the_first(channel: Channel[Batch], batch: Batch) -> None:
        if batch.values is not None or batch.out is not None:  # it comes from the stage
            sent.append(batch)
            if len(sent) == 1:
                return
        await send(channel, batch)

    monkeypatch.setattr(Channel, "send", lose_the_first)

    ran = run_over(tmp_path, echo, numbered(30_000), emit="input", order=order)

    lost = len(sent[0])
    assert ran.exit_code == 5
    assert ran.result["delivery"]["lost"] == lost
    assert ran.counts["read"] - ran.counts["handled"] == lost
    assert len(ran.outputs) == ran.counts["handled"] < 30_000 - lost


def _fail_once(event: Event) -> Event:
    """Fails on the first event, the first time."""
    if event.data["id"] == 0 and not _failed:
        _failed.append(True)
        raise Retry(after=0.05)
    return event


_failed: list[bool] = []


async def _fail_once_later(event: Event) -> Event:
    await asyncio.sleep(0)
    return _fail_once(event)


@pytest.mark.parametrize("handler", [_fail_once, _fail_once_later], ids=["inline", "coroutine"])
@pytest.mark.parametrize("order", ["key", "partition", "global"])
def test_a_retry_out_of_turn_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, handler: Any
) -> None:
    """The events behind one that waits for its next attempt are not held back."""
    wait = WaitingRoom.wait
    monkeypatch.setattr(WaitingRoom, "wait", lambda self, _, *event: wait(self, None, *event))
    monkeypatch.setattr("millstream.engine.executors.coroutine.CoroutineExecutor", _IgnoresLanes)
    _failed.clear()

    ran = run_over(
        tmp_path,
        stage(handler, name="again", retry=Retry(attempts=2)),
        numbered(10, ["hot"]),
        order=order,
    )

    assert ran.exit_code == 5
    assert ran.violations >= 1
    assert any(note.startswith("stage 'again': event ") for note in ran.result.notes)
    (late,) = [
        example
        for example in ran.result["ordering"]["audit"]["examples"]
        if (example["place"], example["kind"]) == ("stage 'again'", "reordered")
    ]
    assert late["sequence"] == 0


@pytest.mark.parametrize("order", ["key", "partition", "global"])
def test_worker_processes_that_share_a_lane_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(ProcessExecutor, "_dispatch_lanes", ProcessExecutor._dispatch_unordered)

    ran = run_over(
        tmp_path,
        stage(slow_echo, name="shared", executor="process", workers=2),
        numbered(200, ["hot"]),
        order=order,
    )

    assert ran.exit_code == 5
    assert ran.violations >= 1
    assert any(note.startswith("stage 'shared': event ") for note in ran.result.notes)


def test_the_result_has_the_whole_audit_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Resequencer, "push", lambda self, positions, payloads: list(payloads))

    ran = run_over(tmp_path, swapping(), numbered(10, ["even", "odd"]), emit="input", order="none")

    audit = ran.result["ordering"]["audit"]
    assert (audit["scope"], audit["events"], audit["reordered"]) == ("global", 10, 5)
    assert audit["extent"]["max"] >= 1
    assert sum(audit["extent"]["counts"].values()) == 5
    assert sum(audit["reorder_density"]["counts"].values()) == 10
    assert set(audit["buffer_occupancy"]["counts"]) > {"0", "1"}
    assert audit["late_time"]["max"] >= 0
    assert (audit["free_runs"]["reordered"], audit["free_runs"]["accepted"]) == (5, 5)
