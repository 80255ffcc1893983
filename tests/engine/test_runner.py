"""A run from Python: in a program, in a loop, in a notebook; what it takes and gives back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Event, Pipeline, RunOptions, run, run_async, stage
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.dead_letters import DeadLetterUnwritable
from millstream.engine.observer import RunWarning, Silent
from millstream.engine.result import read_result
from tests.support.handlers import aecho, cancelled, echo, explode
from tests.support.running import json_lines, numbered, read_lines


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(json_lines(numbered(20, ["a", "b"])))
    return path


def test_without_an_output_results_are_counted(events: Path) -> None:
    result = run(echo, events)

    assert (result.counts["read"], result.counts["emitted"]) == (20, 20)
    assert [each.name for each in events.parent.iterdir()] == ["events.jsonl"]


def test_the_result_is_kept_as_it_was_given(events: Path, tmp_path: Path) -> None:
    result = run(echo, events, result=str(tmp_path / "result.json"), name="nightly")

    assert read_result(str(tmp_path / "result.json")).to_json() == result.to_json()
    assert result["name"] == "nightly"


def test_options_can_be_made_beforehand(events: Path) -> None:
    options = RunOptions(order="global", limit=7)

    result = run(echo, [events], options=options, emit="input")

    assert result.counts["read"] == 7
    assert (result["options"]["order"], result["options"]["emit"]) == ("global", "input")


def test_a_run_in_a_loop_leaves_the_loop_free(events: Path) -> None:
    async def both() -> list[Any]:
        runs = (run_async(aecho, events), run_async(Pipeline(echo, aecho), events))
        return await asyncio.gather(*runs)

    results = asyncio.run(both())

    assert [each.counts["emitted"] for each in results] == [20, 20]


def test_runs_leave_the_signals_as_they_were(events: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    test_a_run_in_a_loop_leaves_the_loop_free(events)
    run(echo, events)

    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before
    assert not [each for each in threading.enumerate() if each.name == "millstream-signals"]


class Interrupted(Silent):
    """Tells when the run has taken a signal."""

    def __init__(self) -> None:
        self.is_told = asyncio.Event()

    def on_warning(self, warning: RunWarning) -> None:
        if warning.kind == "interrupted":
            self.is_told.set()


def test_a_signal_reaches_all_runs_of_a_loop(events: Path) -> None:
    async def all_runs() -> list[Any]:
        observers = [Interrupted() for _ in range(3)]
        at_work = asyncio.Semaphore(0)

        def waiting_for(observer: Interrupted) -> Any:
            async def wait(event: Event) -> Event:
                at_work.release()
                await observer.is_told.wait()
                return event

            return wait

        runs = [
            asyncio.ensure_future(run_async(waiting_for(each), events, observer=each))
            for each in observers
        ]
        for _ in range(2 * len(runs)):  # one of each key
            await at_work.acquire()
        os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.gather(*runs)

    results = asyncio.run(all_runs())

    assert [each.exit_code for each in results] == [143, 143, 143]
    assert [each.counts["handled"] for each in results] == [20, 20, 20]


def test_run_waits_also_where_a_loop_runs_already(events: Path) -> None:
    async def notebook() -> Any:
        return run(echo, events)

    result = asyncio.run(notebook())

    assert result.exit_code == 0


def test_a_run_outside_the_main_thread_ends_too(events: Path) -> None:
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(run(aecho, events)))
    thread.start()
    thread.join()

    assert box[0].counts["handled"] == 20


def test_an_error_in_a_loop_of_its_own_reaches_the_caller(tmp_path: Path) -> None:
    async def notebook() -> Any:
        return run(echo, tmp_path / "missing.jsonl")

    with pytest.raises(ConnectorError, match="no such file"):
        asyncio.run(notebook())


def test_a_dead_letter_that_can_not_be_kept_ends_the_run(events: Path, tmp_path: Path) -> None:
    with pytest.raises(DeadLetterUnwritable, match="the run stops"):
        run(
            explode,
            events,
            output=str(tmp_path / "output.jsonl"),
            dead_letter=str(tmp_path / "missing" / "dead.jsonl"),
        )

    assert not (tmp_path / "output.jsonl").exists()


def test_dead_letters_stand_beside_the_output(events: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    run(explode, events, output=str(tmp_path / "out" / "output.jsonl"))

    assert len(read_lines(tmp_path / "out" / "dead-letters.jsonl")) == 20


def test_a_condition_that_holds_is_told(events: Path) -> None:
    result = run(echo, events, fail_if=("read > 19", "dead_letters > 0"))

    assert [each["held"] for each in result["conditions"]] == [True, False]
    assert (result.exit_code, result.verdict) == (6, "fail")


def test_a_rate_gives_response_times_and_slip(events: Path) -> None:
    result = run(stage(echo), events, rate=10_000.0)

    assert result["response"]["count"] == result["slip"]["count"] == 20
    assert result["response"]["min"] >= 0


def test_without_a_schedule_there_is_no_response_time(events: Path) -> None:
    result = run(echo, events)

    assert result["response"] is None
    assert result["slip"] is None


def test_stages_are_measured_apart(events: Path) -> None:
    def odd(event: Event) -> Event | None:
        return event if event.data["id"] % 2 else None

    result = run(Pipeline(odd, stage(echo, name="last")), events)

    assert [(each["name"], each["handled"]) for each in result["stages"]] == [
        ("odd", 20),
        ("last", 10),
    ]
    assert [each["service"]["count"] for each in result["stages"]] == [20, 10]


def test_a_plain_handler_that_raises_cancelled_error_fails(events: Path, tmp_path: Path) -> None:
    result = run(cancelled, events, dead_letter=str(tmp_path / "dead.jsonl"))

    assert (result.exit_code, result.counts["dead_lettered"]) == (4, result.counts["read"])
