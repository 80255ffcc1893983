"""Handlers that fail, hang, leave or kill their worker: nothing is lost, and the run ends."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Pipeline, PlanError, Reject, run, run_async, stage
from millstream.engine.loading import HandlerNotFound
from millstream.engine.observer import Progress, RunWarning
from tests.support import handlers
from tests.support.running import json_lines, numbered, read_lines, run_over

from .test_stages import EXECUTORS, in_executor

# --- errors


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_dead_letter_shows_the_users_line(tmp_path: Path, executor: str) -> None:
    job = in_executor(executor, handlers.explode, handlers.aexplode, name="boom")

    ran = run_over(tmp_path, job, numbered(3))

    handler = handlers.explode if executor in ("inline", "process") else handlers.aexplode
    lines, first = inspect.getsourcelines(handler)
    at = first + next(n for n, line in enumerate(lines) if "the user's line" in line)
    assert (ran.exit_code, ran.dead_ids) == (4, [0, 1, 2])
    for letter in ran.dead:
        assert letter["stage"] == "boom"
        assert letter["key"] == "a"
        assert letter["error"]["type"] == "ValueError"
        assert letter["error"]["message"] == "on this line"
        text = letter["error"]["traceback"]
        assert f'File "{handlers.__file__}", line {at}, in {handler.__name__}' in text
        assert "/engine/" not in text


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_handler_that_leaves_is_a_handler_that_fails(tmp_path: Path, executor: str) -> None:
    job = in_executor(executor, handlers.leave, handlers.aleave)

    ran = run_over(tmp_path, job, numbered(5))

    assert (ran.exit_code, sorted(ran.dead_ids)) == (4, [0, 1, 2, 3, 4])
    assert ran.error_types == {"SystemExit"}


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("error", ["panic", "generator", "cancelled", "exit"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_no_exception_is_a_failure_too(
    tmp_path: Path, executor: str, error: str, stages: int
) -> None:
    if error == "generator" and executor in ("coroutine", "async-process"):
        pytest.skip("it ends a coroutine, whoever raises it")
    events = numbered(30)
    events[7]["raise"] = error
    own = in_executor(executor, handlers.panic, handlers.apanic, name="own")

    ran = run_over(
        tmp_path, Pipeline(own) if stages == 1 else Pipeline(handlers.touch, own), events
    )

    assert (ran.exit_code, ran.dead_ids) == (4, [7]), ran.result.notes
    assert ran.error_types == {handlers.BASE_ERRORS[error].__name__}
    assert ran.counts["handled"] == 29


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("executor", ["coroutine", "async-process"])
def test_a_handler_that_waits_for_something_cancelled_fails(
    tmp_path: Path, executor: str, batch: int | None
) -> None:
    job = in_executor(executor, None, handlers.await_cancelled, batch=batch)

    ran = run_over(tmp_path, job, numbered(5))

    assert (ran.exit_code, sorted(ran.dead_ids)) == (4, [0, 1, 2, 3, 4])
    assert ran.error_types == {"CancelledError"}
    assert ran.outputs == []


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (7, "gave back a int"),
        ({1, 2}, "gave back a set"),
        ([{"a": 1}, 7], "gave back a int"),
        ({"a": object()}, "can't be written"),
        (lambda: None, "gave back a function"),
    ],
    ids=["int", "set", "list", "unserializable", "function"],
)
def test_what_is_no_result_is_the_handlers_error(tmp_path: Path, result: Any, says: str) -> None:
    ran = run_over(tmp_path, lambda event: result, numbered(2))

    assert ran.exit_code == 4
    assert all(
        says in each["error"]["message"] or "object" in each["error"]["message"]
        for each in ran.dead
    )


def test_more_results_than_allowed_are_the_handlers_error(tmp_path: Path) -> None:
    def endless(event: Any) -> Any:
        while True:
            yield {"id": event.data["id"]}

    ran = run_over(tmp_path, stage(endless, max_outputs=100), numbered(2))

    assert (ran.exit_code, ran.outputs) == (4, [])
    assert all("raise max_outputs" in each["error"]["message"] for each in ran.dead)


def test_a_failure_in_a_later_stage_writes_none_of_the_results(tmp_path: Path) -> None:
    def two(event: Any) -> list[Any]:
        return [{**event.data, "n": n} for n in range(2)]

    def picky(event: Any) -> Any:
        if event.data["n"] == 1 and event.data["id"] % 2:
            raise Reject("odd")
        return event

    ran = run_over(tmp_path, Pipeline(two, picky), numbered(4))

    assert [(each["id"], each["n"]) for each in ran.outputs] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert ran.dead_ids == [1, 3]


# --- time


def test_what_takes_too_long_is_a_dead_letter(tmp_path: Path) -> None:
    async def picky(event: Any) -> Any:
        return await handlers.forever(event) if event.data["id"] == 1 else event

    ran = run_over(tmp_path, stage(picky, name="slow", timeout=0.05), numbered(4))

    assert [each["id"] for each in ran.outputs] == [0, 2, 3]
    assert ran.dead_ids == [1]
    assert ran.dead[0]["error"]["type"] == "TimeoutError"
    assert ran.dead[0]["error"]["message"] == "stage 'slow' took longer than 0.05 s"


def test_a_batch_that_takes_too_long_is_dead_letters(tmp_path: Path) -> None:
    async def hang(events: list[Any]) -> Any:
        await handlers.forever(events[0])

    ran = run_over(tmp_path, stage(hang, timeout=0.02, batch=3), numbered(3))

    assert sorted(ran.dead_ids) == [0, 1, 2]
    assert ran.error_types == {"TimeoutError"}


class Warnings:
    """An observer that keeps warnings."""

    def __init__(self) -> None:
        self.all: list[RunWarning] = []

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_warning(self, warning: RunWarning) -> None:
        self.all.append(warning)


async def _watched(folder: Path, job: Any, events: list[Any]) -> tuple[Any, list[RunWarning]]:
    (folder / "in.jsonl").write_bytes(json_lines(events))
    warnings = Warnings()
    result = await run_async(job, folder / "in.jsonl", observer=warnings)
    return result, warnings.all


def test_a_coroutine_that_holds_the_loop_is_named(tmp_path: Path) -> None:
    import uvloop

    job = stage(handlers.hold_loop, name="holds")

    result, warnings = uvloop.run(_watched(tmp_path, job, numbered(2)))

    lines, first = inspect.getsourcelines(handlers.hold_loop)
    at = first + next(n for n, line in enumerate(lines) if "time.sleep" in line)
    (warning,) = [each for each in warnings if each.kind == "blocked-loop"]
    assert "stage 'holds' held the event loop for" in warning.message
    assert " ms at " in warning.message
    assert f"{handlers.__file__}:{at} in hold_loop" in warning.message
    assert result["resources"]["loop_blocked"]["holds"] >= 1


# --- processes


@pytest.mark.parametrize(
    "handler",
    [lambda event: event, partial(lambda event: event)],
    ids=["lambda", "partial of a lambda"],
)
def test_what_a_worker_cannot_import_is_refused(tmp_path: Path, handler: Any) -> None:
    with pytest.raises(HandlerNotFound, match=r"stage .* runs in processes.* top level"):
        run_over(tmp_path, stage(handler, executor="process", workers=1), numbered(1))


def test_a_function_inside_a_function_is_refused(tmp_path: Path) -> None:
    def closure(event: Any) -> Any:
        return event

    with pytest.raises(HandlerNotFound, match=r"'closure'.*defined inside a function.* top level"):
        run_over(tmp_path, stage(closure, executor="process", workers=1), numbered(1))


@pytest.mark.parametrize("what", ["setup", "teardown", "state"])
def test_set_up_that_a_worker_cannot_import_is_refused(tmp_path: Path, what: str) -> None:
    handler = handlers.count if what == "state" else handlers.echo
    options: dict[str, Any] = {what: lambda *_: {}}

    with pytest.raises(HandlerNotFound, match="runs in processes"):
        run_over(tmp_path, stage(handler, executor="process", workers=1, **options), numbered(1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_set_up_that_fails_ends_the_run_at_once(tmp_path: Path, executor: str) -> None:
    job = in_executor(executor, handlers.echo, handlers.aecho, setup=handlers.broken_setup)

    with pytest.raises(HandlerNotFound, match="no database"):
        run_over(tmp_path, job, numbered(1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_tear_down_that_fails_fails_the_run_and_keeps_its_results(
    tmp_path: Path, executor: str
) -> None:
    is_async = executor in ("coroutine", "async-process")
    teardown = handlers.abroken_teardown if is_async else handlers.broken_teardown
    job = in_executor(executor, handlers.echo, handlers.aecho, teardown=teardown)
    (tmp_path / "input.jsonl").write_bytes(json_lines(numbered(600)))

    result = run(job, tmp_path / "input.jsonl", output=tmp_path / "output.jsonl")

    kept = read_lines(tmp_path / "output.jsonl.partial")
    assert sorted(each["id"] for each in kept) == list(range(600))
    assert not (tmp_path / "output.jsonl").exists()
    assert (result.exit_code, result["verdict"]) == (3, "fail")
    assert result.counts["handled"] == 600
    assert "the database is gone" in result.notes[0]


@pytest.mark.parametrize("what", ["setup", "teardown"])
@pytest.mark.parametrize("executor", ["coroutine", "async-process"])
def test_set_up_and_tear_down_may_meet_what_was_cancelled(
    tmp_path: Path, executor: str, what: str
) -> None:
    hook = handlers.cancelled_setup if what == "setup" else handlers.cancelled_teardown
    job = in_executor(executor, handlers.echo, handlers.aecho, **{what: hook})
    (tmp_path / "input.jsonl").write_bytes(json_lines(numbered(10)))

    if what == "setup":
        with pytest.raises(HandlerNotFound, match=r"(?s)set-up of stage.*CancelledError"):
            run(job, tmp_path / "input.jsonl")
    else:
        result = run(job, tmp_path / "input.jsonl")
        assert result.exit_code == 3
        assert "CancelledError" in result.notes[0]


# --- refused before anything runs


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (lambda: Pipeline(), "no stages"),
        (lambda: stage(handlers.aecho, executor="inline"), "async handler"),
        (lambda: stage(handlers.echo, executor="coroutine"), "make it async def"),
        (lambda: stage(handlers.echo, timeout=1.0), "runs inline, where nothing can interrupt it"),
        (lambda: stage(handlers.count), "say what makes it"),
        (lambda: stage(handlers.echo, workers=0), "0 workers; give it 1 or more"),
        (lambda: stage(handlers.echo_batch, batch=0), "0 batch"),
        (lambda: stage(lambda: None), "takes no event"),
        (lambda: stage(lambda event, database: None), "'database' that nothing fills"),
    ],
    ids=range(9),
)
def test_what_can_not_work_is_refused(tmp_path: Path, job: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        run_over(tmp_path, job(), numbered(1))
