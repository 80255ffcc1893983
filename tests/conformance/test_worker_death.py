"""Worker processes that die, hang or stop: they are replaced, and the event that kills is found."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import RunOptions, run, stage
from millstream.engine.executors import returns
from millstream.engine.executors.base import WorkerNotReplaced
from millstream.engine.executors.holding import OUT_OF_MEMORY
from millstream.engine.executors.process import FRAME_EVENTS, ProcessExecutor
from millstream.engine.loading import HandlerNotFound
from millstream.engine.observer import Silent
from millstream.engine.plan import make_plan
from millstream.engine.runner import Run, open_sink, open_sources
from tests.support import handlers
from tests.support.running import Ran, json_lines, numbered, read_lines, run_over

PROCESSES = ("process", "async-process")
ORDERS = ("none", "key", "partition", "global")


pytestmark = pytest.mark.usefixtures("tries")


def workers(executor: str, **options: Any) -> Any:
    options.setdefault("workers", 2)
    handler = handlers.poison if executor == "process" else handlers.apoison
    return stage(handler, executor="process", **options)


def poisoned(count: int, ends: dict[int, str], keys: str = "abc") -> list[Any]:
    events = numbered(count, keys)
    for number, end in ends.items():
        events[number]["end"] = end
    return events


def check_all_but(ran: Ran, dead: list[int], order: str, count: int) -> None:
    """All is there but the dead, in the order that was promised."""
    ids = [each["id"] for each in ran.outputs]
    assert (ran.exit_code, ran.violations) == (4 if dead else 0, 0), ran.result.notes
    # Without an order, either worker may be the first to die.
    assert (sorted(ran.dead_ids) if order == "none" else ran.dead_ids) == dead
    assert sorted(ids) == [n for n in range(count) if n not in dead]
    if order in ("partition", "global"):
        assert ids == sorted(ids)
    if order == "key":
        for key in "abc":
            own = [each["id"] for each in ran.outputs if each["key"] == key]
            assert own == sorted(own)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("executor", PROCESSES)
def test_the_event_that_kills_is_found_alone(tmp_path: Path, executor: str, order: str) -> None:
    events = poisoned(600, {123: "exit", 300: "SIGKILL"})

    ran = run_over(tmp_path, workers(executor), events, order=order)

    check_all_but(ran, [123, 300], order, 600)
    errors = [letter["error"] for letter in sorted(ran.dead, key=lambda each: each["event"]["id"])]
    assert {error["type"] for error in errors} == {"WorkerDied"}
    assert [error.get("exit_code") for error in errors] == [7, None]
    assert [error.get("signal") for error in errors] == [None, "SIGKILL"]
    assert all(error["peak_rss"] > 1_000_000 for error in errors)


def test_a_segmentation_fault_is_an_end_like_others(tmp_path: Path) -> None:
    ran = run_over(tmp_path, workers("process"), poisoned(50, {20: "SIGSEGV"}))

    check_all_but(ran, [20], "key", 50)
    assert ran.dead[0]["error"]["signal"] == "SIGSEGV"


def test_a_handler_that_wants_too_much_memory_is_found(tmp_path: Path) -> None:
    ran = run_over(
        tmp_path, workers("process"), poisoned(200, {77: "memory"}), worker_memory="512MiB"
    )

    check_all_but(ran, [77], "key", 200)
    assert "out of memory: more than the 536,870,912 bytes" in ran.dead[0]["error"]["message"]
    assert 64 << 20 < ran.dead[0]["error"]["peak_rss"] < 1 << 30


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("end", ["kill once", "stop once"])
def test_a_worker_that_is_killed_or_stopped_loses_nothing(
    tmp_path: Path, end: str, order: str
) -> None:
    ran = run_over(tmp_path, workers("process"), poisoned(400, {50: end, 222: end}), order=order)

    check_all_but(ran, [], order, 400)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("executor", PROCESSES)
def test_a_worker_that_hangs_is_replaced(tmp_path: Path, executor: str, order: str) -> None:
    events = poisoned(200, {30: "hang"})

    ran = run_over(tmp_path, workers(executor), events, order=order, timeout="300ms", attempts=2)

    check_all_but(ran, [30], order, 200)
    (letter,) = ran.dead
    assert letter["error"]["type"] == "TimeoutError"
    assert "took longer than 0.3 s" in letter["error"]["message"]


def test_one_event_that_kills_among_many_repeats_no_more_than_a_frame(tmp_path: Path) -> None:
    events = poisoned(100_000, {54_321: "exit"})

    ran = run_over(tmp_path, workers("process"), events)

    check_all_but(ran, [54_321], "key", 100_000)
    calls = Counter(number for _, number, _ in read_lines(tmp_path / "log.jsonl"))
    assert set(calls) == set(range(100_000)) - {54_321}
    # A frame is open until it has so many, and what comes then is added whole.
    assert sum(count - 1 for count in calls.values()) < 2 * FRAME_EVENTS


def test_workers_that_die_again_and_again_lose_nothing(tmp_path: Path) -> None:
    job = stage(handlers.die_often, executor="process", workers=2)

    ran = run_over(tmp_path, job, numbered(400, list("abcdefg")))

    assert ran.exit_code == 4
    assert sorted(ran.dead_ids) == list(range(49, 400, 50))
    assert sorted([*ran.dead_ids, *(each["id"] for each in ran.outputs)]) == list(range(400))


def test_an_exit_code_that_stands_for_a_lack_of_memory_is_one_like_others(tmp_path: Path) -> None:
    events = poisoned(20, {5: "exit"})
    events[5]["code"] = OUT_OF_MEMORY

    ran = run_over(tmp_path, workers("process"), events)

    check_all_but(ran, [5], "key", 20)
    assert ran.dead[0]["error"]["exit_code"] == OUT_OF_MEMORY
    assert "out of memory" not in ran.dead[0]["error"]["message"]


def test_an_event_that_stops_its_worker_is_found(tmp_path: Path) -> None:
    ran = run_over(tmp_path, workers("process"), poisoned(60, {30: "stop"}))

    check_all_but(ran, [30], "key", 60)
    assert "it was found stopped, and was killed" in ran.dead[0]["error"]["message"]


@pytest.mark.parametrize("dies", ["once", "always"])
def test_a_worker_that_is_killed_while_it_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    early = tmp_path / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(
        "import os, pathlib, signal, sys\n"
        "if 'millstream.engine.executors.child' in sys.orig_argv:\n"
        f"    started = pathlib.Path({str(tmp_path)!r}, 'started')\n"
        "    with started.open('a') as file: file.write('.')\n"
        f"    if started.stat().st_size {'== 3' if dies == 'once' else '>= 3'}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(early))
    (tmp_path / "in.jsonl").write_bytes(json_lines(poisoned(400, {200: "exit"})))

    def ran() -> Any:
        return run(
            workers("process"),
            tmp_path / "in.jsonl",
            output=tmp_path / "out.jsonl",
            dead_letter=tmp_path / "dead.jsonl",
        )

    if dies == "always":
        with pytest.raises(WorkerNotReplaced, match=r"died at start \(signal SIGKILL\)") as failed:
            ran()
        assert "the results so far are in" in str(failed.value)
        assert read_lines(tmp_path / "out.jsonl.partial")
    else:
        assert ran().counts["handled"] == 399


def test_workers_that_die_idle_again_and_again_end_the_run(tmp_path: Path) -> None:
    job = workers("process", setup=handlers.idle_until_it_dies)
    (tmp_path / "in.jsonl").write_bytes(json_lines(numbered(10)))

    with pytest.raises(WorkerNotReplaced, match="without an event in their hands"):
        run(job, tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", rate=0.01)


@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "hang"])
def test_a_tear_down_that_does_not_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("MILLSTREAM_TEST_END", how)
    monkeypatch.setattr("millstream.engine.executors.process.STOP_TIMEOUT_S", 1.0)
    job = workers("process", setup=handlers.set_up_nothing, teardown=handlers.end_badly)
    (tmp_path / "in.jsonl").write_bytes(json_lines(numbered(10)))

    ran = run(job, tmp_path / "in.jsonl", output=str(tmp_path / "out.jsonl"))

    assert ran.exit_code == 3
    said = {"exit": "exit code 3", "SIGSEGV": "SIGSEGV", "hang": "took longer than 1 s"}[how]
    assert any("tear-down of stage 'poison'" in note and said in note for note in ran.notes)
    assert len(read_lines(tmp_path / "out.jsonl.partial")) == 10


def test_a_worker_that_can_not_be_replaced_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(json_lines(poisoned(100, {20: "exit"})))
    job = stage(handlers.poison, executor="process", workers=1, setup=handlers.set_up_once)

    with pytest.raises(HandlerNotFound, match="set-up of stage 'poison'"):
        run(job, tmp_path / "in.jsonl", output=tmp_path / "out.jsonl")


def frames_of(folder: Path, events: list[Any]) -> int:
    """How many frames a run sends to its workers."""
    source = folder / "input.jsonl"
    source.write_bytes(json_lines(events))
    options = RunOptions(dead_letter=str(folder / "dead.jsonl"))
    plan = make_plan(workers("process"), options)
    of_run = Run(plan, open_sources([str(source)], options), open_sink(None), Silent())
    result = asyncio.run(of_run.run())
    assert (result.exit_code, result.counts["handled"]) == (4, len(events) - 1)
    executor = of_run.executors[0]
    assert isinstance(executor, ProcessExecutor)
    return executor._next_id


def test_what_waits_after_a_death_goes_out_many_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lanes that wait would never catch up with what comes for them."""
    events = numbered(20_000, [f"k{number}" for number in range(100)])
    events[2000]["end"] = "SIGKILL"
    together = frames_of(tmp_path, events)
    monkeypatch.setattr(returns, "MOST_TOGETHER", 1)

    # How many lanes wait at the death is up to how fast the machine is.
    assert together < frames_of(tmp_path, events)
