"""What a stage can do, in every executor: batches, state, resources, routing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Pipeline, on, stage
from millstream.engine.batch import Batch
from millstream.engine.channel import Channel
from millstream.engine.executors import grouping
from millstream.engine.executors.grouping import receive_until
from tests.support import handlers
from tests.support.running import Ran, numbered, read_lines, run_over

EXECUTORS = ("inline", "coroutine", "process", "async-process")
ORDERS = ("none", "key", "partition", "global")


def in_executor(where: str, plain: Any, coroutine: Any, **options: Any) -> Any:
    """A stage in one of EXECUTORS, with the handler that fits it."""
    handler = plain if where in ("inline", "process") else coroutine
    if where.endswith("process"):
        options.setdefault("workers", 2)
        return stage(handler, executor="process", **options)
    return stage(handler, executor=where, **options)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    handlers.forget_logs()
    monkeypatch.setenv(handlers.LOG_VARIABLE, str(tmp_path / "log.jsonl"))
    return tmp_path / "log.jsonl"


# --- batches


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_batches_have_all_events_in_order(
    tmp_path: Path, log: Path, executor: str, order: str
) -> None:
    job = in_executor(executor, handlers.echo_batch, handlers.aecho_batch, batch=7)

    ran = run_over(tmp_path, job, numbered(100, ["a", "b", "c"]), order=order)

    calls = [call for call in read_lines(log) if call[0] == "batch"]
    assert sorted(number for *_, ids in calls for number in ids) == list(range(100))
    assert max(size for _, size, _ in calls) == 7
    assert all(ids == sorted(ids) for *_, ids in calls)
    assert sorted(each["id"] for each in ran.outputs) == list(range(100))
    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    if order in ("partition", "global"):
        assert [each["id"] for each in ran.outputs] == list(range(100))
    if order == "key":
        for key in "abc":
            ids = [each["id"] for each in ran.outputs if each["key"] == key]
            assert ids == sorted(ids)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_batch_that_fails_is_tried_event_by_event(tmp_path: Path, executor: str) -> None:
    job = in_executor(executor, handlers.picky_batch, handlers.apicky_batch, batch=10)

    ran = run_over(tmp_path, job, numbered(50, ["a", "b", "c"]))

    written = Counter(each["id"] for each in ran.outputs)
    assert sorted(ran.dead_ids) == [3, 13, 23, 33, 43]
    assert written == Counter(
        {n: 2 if n % 10 == 5 else 1 for n in range(50) if n % 10 not in (3, 4)}
    )
    assert ran.counts["filtered"] == 5
    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_batch_with_too_few_results_is_the_handlers_error(tmp_path: Path, executor: str) -> None:
    job = in_executor(executor, handlers.short_batch, None, batch=10)

    ran = run_over(tmp_path, job, numbered(20))

    assert sorted(ran.dead_ids) == list(range(20))
    assert ran.error_types == {"HandlerError"}


@pytest.mark.parametrize("executor", ["inline", "coroutine"])
def test_a_timer_that_rings_early_ends_no_batch_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    rings = 0

    async def early(inbox: Channel[Batch], deadline: float | None) -> Batch | None:
        nonlocal rings
        if deadline is None:
            return await receive_until(inbox, deadline)
        rings += 1
        if rings % 2:
            return None  # before the deadline, as timers of a coarse clock do
        return await receive_until(inbox, deadline)

    monkeypatch.setattr(grouping, "receive_until", early)
    job = in_executor(executor, handlers.echo_batch, handlers.aecho_batch, batch=10)

    ran = run_over(tmp_path, job, numbered(40), rate=1000.0)

    assert (ran.exit_code, ran.counts["emitted"]) == (0, 40)
    assert rings


def test_batches_after_several_outputs_keep_them_together(tmp_path: Path) -> None:
    def three(event: Any) -> list[Any]:
        return [{**event.data, "n": n} for n in range(event.data["id"] % 4)]

    job = Pipeline(three, stage(handlers.aecho_batch, batch=5))

    ran = run_over(tmp_path, job, numbered(40, ["a", "b"]), emit="input")

    assert [(each["id"], each["n"]) for each in ran.outputs] == [
        (number, n) for number in range(40) for n in range(number % 4)
    ]
    assert ran.violations == 0


# --- state


def counted(ran: Ran) -> dict[Any, list[int]]:
    by_key: dict[Any, list[tuple[int, int]]] = {}
    for each in ran.outputs:
        by_key.setdefault(each["key"], []).append((each["id"], each["n"]))
    return {key: [n for _, n in sorted(pairs)] for key, pairs in by_key.items()}


@pytest.mark.parametrize("order", ["key", "global"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_state_counts_each_key_exactly(tmp_path: Path, executor: str, order: str) -> None:
    keys = ["hot", "hot", "b", "hot", "c", "d", "hot", "e"]
    job = in_executor(executor, handlers.count, handlers.acount, state=dict)

    ran = run_over(tmp_path, job, numbered(4000, keys), order=order)

    expected = {key: list(range(1, count * 500 + 1)) for key, count in Counter(keys).items()}
    assert counted(ran) == expected
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("order", ["key", "global"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_state_that_was_emptied_is_new(tmp_path: Path, executor: str, order: str) -> None:
    job = in_executor(executor, handlers.toggle, handlers.atoggle, state=dict)

    ran = run_over(tmp_path, job, numbered(3000, ["a", "b", "a", "c"]), order=order)

    found = {key: [e["found"] for e in ran.outputs if e["key"] == key] for key in "abc"}
    assert found == {
        key: [False, True] * (count // 2)
        for key, count in zip("abc", (1500, 750, 750), strict=True)
    }


@pytest.mark.parametrize("executor", EXECUTORS)
def test_keys_of_any_kind_and_size_have_their_own_state(tmp_path: Path, executor: str) -> None:
    job = in_executor(executor, handlers.count, handlers.acount, state=dict)

    ran = run_over(tmp_path, job, numbered(30, [1, "1", 2**70]))

    assert {key: len(ns) for key, ns in counted(ran).items()} == {1: 10, "1": 10, 2**70: 10}
    assert all(ns == list(range(1, 11)) for ns in counted(ran).values())


# --- resources


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_worker_is_set_up_once_and_torn_down_once(
    tmp_path: Path, log: Path, executor: str
) -> None:
    is_async = executor in ("coroutine", "async-process")
    job = in_executor(
        executor,
        handlers.use,
        handlers.ause,
        setup=handlers.aopen_resource if is_async else handlers.open_resource,
        teardown=handlers.aclose_resource if is_async else handlers.close_resource,
    )

    run_over(tmp_path, job, numbered(2000, list("abcdefgh")), order="none")

    workers = 2 if executor.endswith("process") else 1
    opened = [call for call in read_lines(log) if call[0] == "open"]
    closed = [call for call in read_lines(log) if call[0] == "close"]
    assert len({pid for _, pid in opened}) == len(opened) == workers
    assert {pid for _, pid in opened} == {pid for _, pid, _ in closed}
    assert sum(used for *_, used in closed) == 2000


# --- routing


@pytest.mark.parametrize("executor", EXECUTORS)
def test_only_events_of_the_type_are_handled(tmp_path: Path, executor: str) -> None:
    made = in_executor(executor, handlers.mark, handlers.amark)
    types = ["order.placed", "order.paid", "user.new", None, "order"]
    events = [{"id": n, "type": types[n % 5], "key": "k"} for n in range(50)]

    ran = run_over(tmp_path, on("order.*", made.handler, executor=made.executor), events)

    assert {e["type"] for e in ran.outputs if "marked" in e} == {"order.placed", "order.paid"}
    assert [e["id"] for e in ran.outputs] == list(range(50))
    assert ran.counts["filtered"] == 0
