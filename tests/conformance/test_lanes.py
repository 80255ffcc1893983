"""A lane holds up itself and nothing else, and costs nothing when it is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Event, stage
from millstream.engine.executors.base import Executor
from millstream.engine.executors.coroutine import CoroutineExecutor
from millstream.engine.executors.process import ProcessExecutor
from millstream.engine.runner import Run
from tests.support import handlers
from tests.support.running import numbered, run_over

MERSENNE = 2**61 - 1  # hash(n) == hash(n + MERSENNE)


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Executor]]:
    """The executors of the runs in a test, as they were left."""
    made: list[Executor] = []
    original = Run._executor

    def noting(self: Run, *args: Any, **kwargs: Any) -> Executor:
        made.append(original(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(Run, "_executor", noting)
    yield made


def waits_for_the_others(slow: Any, others: int) -> Any:
    """A handler that ends with the first event of `slow` only when all other keys are done."""
    done = 0
    all_done = asyncio.Event()

    async def handler(event: Event) -> Event:
        nonlocal done
        if event.key == slow:
            await all_done.wait()
        else:
            await asyncio.sleep(0)
            done += 1
            if done == others:
                all_done.set()
        return event

    return handler


@pytest.mark.parametrize("concurrency", [2, 100])
def test_a_hot_key_blocks_only_itself(tmp_path: Path, concurrency: int) -> None:
    events = numbered(300, ["hot", "hot", "b", "hot", "c", None])

    ran = run_over(
        tmp_path,
        stage(waits_for_the_others("hot", others=150), concurrency=concurrency),
        events,
    )

    hot = [each["id"] for each in ran.outputs if each["key"] == "hot"]
    assert [each["key"] for each in ran.outputs[-150:]] == ["hot"] * 150
    assert hot == sorted(hot)
    assert ran.exit_code == 0


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1 + MERSENNE), (0, MERSENNE), (1, "1"), (-1, -2)], ids=str
)
def test_keys_with_one_hash_do_not_wait_for_each_other(
    tmp_path: Path, one: object, other: object
) -> None:
    ran = run_over(tmp_path, waits_for_the_others(one, others=50), numbered(100, [one, other]))

    assert [each["key"] for each in ran.outputs] == [other] * 50 + [one] * 50
    assert ran.violations == 0


def test_a_hot_partition_blocks_only_itself(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def handler(event: Event) -> Event:
        if event.data["id"] == 1000:
            done.set()
        elif event.data["id"] == 0:
            await done.wait()
        return event

    ran = run_over(tmp_path, handler, numbered(10), [{"id": 1000, "key": "a"}], order="partition")

    assert [each["id"] for each in ran.outputs] == [1000, *range(10)]
    assert ran.violations == 0


def test_idle_keys_cost_nothing_in_coroutines(tmp_path: Path, executors: list[Executor]) -> None:
    run_over(tmp_path, handlers.aecho, numbered(20_000, [f"k{n}" for n in range(20_000)]))

    (executor,) = executors
    assert isinstance(executor, CoroutineExecutor)
    assert not executor._busy
    assert not executor._ready
    assert not executor._coming
    assert not executor._tasks


def test_idle_keys_cost_little_in_processes(tmp_path: Path, executors: list[Executor]) -> None:
    run_over(
        tmp_path,
        stage(handlers.echo, executor="process", workers=1),
        numbered(60_000, [f"k{n}" for n in range(60_000)]),
    )

    (executor,) = executors
    assert isinstance(executor, ProcessExecutor)
    assert len(executor._owners) <= 3 * executor._limit
    assert not executor._states


@pytest.mark.parametrize("where", ["inline", "coroutine", "process"])
def test_empty_states_are_dropped(tmp_path: Path, executors: list[Executor], where: str) -> None:
    handler = handlers.atoggle if where == "coroutine" else handlers.toggle

    ran = run_over(
        tmp_path,
        stage(handler, executor=where, workers=1 if where == "process" else None, state=dict),  # type: ignore[arg-type]
        numbered(200, [f"k{n}" for n in range(50)]),
    )

    (executor,) = executors
    held = executor._states if isinstance(executor, ProcessExecutor) else executor.caller.states  # type: ignore[attr-defined]
    assert sum(each["found"] for each in ran.outputs) == 100
    assert not held


def test_events_that_are_released_on_time_keep_their_lanes(tmp_path: Path) -> None:
    async def slower_first(event: Event) -> Event:
        for _ in range(20 - event.data["id"] % 20):
            await asyncio.sleep(0)
        return event

    ran = run_over(tmp_path, slower_first, numbered(400, ["a", "b", "c"]), rate=20_000.0)

    by_key = {key: [e["id"] for e in ran.outputs if e["key"] == key] for key in "abc"}
    assert by_key == {key: list(range(place, 400, 3)) for place, key in enumerate("abc")}
