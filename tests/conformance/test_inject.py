"""--inject: each fault in each executor in which it makes sense is caught, survived or reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from millstream.engine import Pipeline, PlanError, Retry, on, run, runner, stage
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.faults import FaultPlan
from millstream.engine.result import SCHEMA_FILE, RunResult
from tests.support import handlers
from tests.support.running import Ran, numbered, read_lines, run_over

VALIDATOR = Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
SEED = 11
QUICK = Retry(attempts=3, first=0.001, ceiling=0.002, budget=None)
ONCE = Retry(attempts=1)

JOBS: dict[str, Callable[..., Any]] = {
    "inline": lambda **more: stage(handlers.echo, **more),
    "coroutine": lambda **more: stage(handlers.aecho, **more),
    "process": lambda **more: stage(handlers.echo, executor="process", workers=2, **more),
    "async process": lambda **more: stage(handlers.aecho, executor="process", workers=2, **more),
    "batch": lambda **more: stage(handlers.echo_batch, batch=3, **more),
    "coroutine batch": lambda **more: stage(handlers.aecho_batch, batch=3, **more),
    "process batch": lambda **more: stage(
        handlers.echo_batch, batch=3, executor="process", workers=2, **more
    ),
    "async process batch": lambda **more: stage(
        handlers.aecho_batch, batch=3, executor="process", workers=2, **more
    ),
}
SINGLE = ("inline", "coroutine", "process", "async process")
WITH_TIMEOUT = (
    *("coroutine", "process", "async process"),
    *("coroutine batch", "process batch", "async process batch"),
)
PROCESSES = ("process", "async process", "process batch", "async process batch")
COUNT = 300
EVENTS = numbered(COUNT, ["a", "b", "c", "d", "e"])


def injected(folder: Path, job: Any, *faults: str, events: Any = EVENTS, **options: Any) -> Ran:
    ran = run_over(folder, job, events, inject=faults, **{"seed": SEED, **options})
    VALIDATOR.validate(json.loads(ran.result.to_json()))
    assert [each["text"] for each in ran.result["faults"]] == list(faults)
    return ran


def fired(result: RunResult) -> list[int]:
    return [each["fired"] for each in result["faults"]]


def attributed(result: RunResult) -> list[int]:
    """The violations of each fault, and at last those of none."""
    return [*(each["violations"] for each in result["faults"]), result["unattributed"]]


def ids(ran: Ran) -> list[int]:
    return sorted(each["id"] for each in ran.outputs)


# --- the calls of handlers


def errors_of(attempts: int, *faults: str) -> tuple[set[int], int]:
    """Whom the errors kill, and how often they fire, by the plan."""
    plan = FaultPlan.of(faults, SEED)
    dead, times = set(), 0
    for number in range(COUNT):
        hits = [bool(plan.before_call(number, n, None)) for n in range(1, attempts + 1)]
        first_good = hits.index(False) if False in hits else attempts
        times += first_good
        if first_good == attempts:
            dead.add(number)
    return dead, times


@pytest.mark.parametrize("order", ["none", "key", "global"])
@pytest.mark.parametrize("job", SINGLE)
def test_errors_hit_whom_the_seed_says(tmp_path: Path, job: str, order: str) -> None:
    ran = injected(tmp_path, JOBS[job](retry=QUICK), "error:40%", order=order)

    dead, times = errors_of(3, "error:40%")
    assert set(ran.dead_ids) == dead
    assert ids(ran) == sorted(set(range(COUNT)) - dead)
    assert fired(ran.result) == [times]
    assert ran.counts["retried"] == times - len(dead)
    assert (ran.error_types, ran.violations, ran.exit_code) == ({"InjectedError"}, 0, 4)
    assert attributed(ran.result) == [len(dead), 0]


@pytest.mark.parametrize("job", JOBS)
def test_errors_below_the_attempts_are_survived(tmp_path: Path, job: str) -> None:
    lasting = Retry(attempts=30, first=0.001, ceiling=0.002, budget=None)

    ran = injected(tmp_path, JOBS[job](retry=lasting), "error:20%")

    assert ids(ran) == list(range(COUNT))
    assert ran.counts["retried"] > 0
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("job", SINGLE)
def test_errors_of_a_key(tmp_path: Path, job: str, emit: str) -> None:
    ran = injected(tmp_path, JOBS[job](retry=ONCE), "error:key=b", emit=emit)

    assert sorted(ran.dead_ids) == list(range(1, COUNT, 5))
    assert fired(ran.result) == [COUNT // 5]
    assert ran.dead[0]["error"]["message"] == "injected by --inject error:key=b"


@pytest.mark.parametrize(
    ("handler", "executor"),
    [
        (handlers.echo, "inline"),
        (handlers.aecho, "coroutine"),
        (handlers.echo, "process"),
        (handlers.aecho, "process"),
    ],
)
def test_events_of_other_types_suffer_nothing(tmp_path: Path, handler: Any, executor: Any) -> None:
    events = [{**e, "type": "a" if e["id"] % 2 else "b"} for e in EVENTS]
    job = on("a", handler, executor=executor, retry=ONCE)

    ran = injected(tmp_path, job, "error:100%", events=events, workers=2)

    assert sorted(ran.dead_ids) == list(range(1, COUNT, 2))


@pytest.mark.parametrize("job", SINGLE)
def test_each_stage_suffers(tmp_path: Path, job: str) -> None:
    pipeline = Pipeline(
        JOBS[job](retry=QUICK, name="first"), JOBS["coroutine"](retry=QUICK, name="second")
    )

    ran = injected(tmp_path, pipeline, "error:30%")

    dead, times = errors_of(3, "error:30%")
    of_the_dead = 3 * len(dead)
    assert set(ran.dead_ids) == dead
    assert fired(ran.result) == [of_the_dead + 2 * (times - of_the_dead)]


@pytest.mark.parametrize("job", SINGLE)
def test_rows_of_csv_suffer_as_lines_do(tmp_path: Path, job: str) -> None:
    rows = "id,key\n" + "".join(f"{e['id']},{e['key']}\n" for e in EVENTS)

    ran = injected(
        tmp_path, JOBS[job](retry=QUICK), "error:40%", events=rows.encode(), format="csv",
        output_format="jsonl",
    )  # fmt: skip

    dead, _ = errors_of(3, "error:40%")
    assert {letter["position"]["index"] for letter in ran.dead} == dead


@pytest.mark.parametrize("job", JOBS)
def test_a_delay_is_survived(tmp_path: Path, job: str) -> None:
    ran = injected(tmp_path, JOBS[job](), "delay:1ms:20%")

    plan = FaultPlan.of(["delay:1ms:20%"], SEED)
    hit = [number for number in range(COUNT) if plan.before_call(number, 1, None)]
    assert fired(ran.result) == [len(hit)]
    assert ids(ran) == list(range(COUNT))
    assert ran.result["stages"][0]["service"]["max"] >= 1_000_000
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("job", WITH_TIMEOUT)
def test_a_call_that_never_returns_is_survived_with_a_timeout(tmp_path: Path, job: str) -> None:
    ran = injected(tmp_path, JOBS[job](timeout=0.3, retry=QUICK), "hang")

    assert ids(ran) == list(range(COUNT))
    assert fired(ran.result) == [1]
    assert ran.counts["retried"] >= 1
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("job", ["coroutine", "process", "async process"])
def test_one_that_is_not_tried_again_becomes_a_dead_letter(tmp_path: Path, job: str) -> None:
    ran = injected(tmp_path, JOBS[job](timeout=0.3, retry=ONCE), "hang")

    assert (len(ran.dead), ran.error_types, ran.exit_code) == (1, {"TimeoutError"}, 4)
    assert attributed(ran.result) == [1, 0]


def test_only_stages_with_a_timeout_hang(tmp_path: Path) -> None:
    pipeline = Pipeline(JOBS["inline"](), JOBS["coroutine"](timeout=0.3, retry=QUICK, name="out"))

    ran = injected(tmp_path, pipeline, "hang")

    assert (fired(ran.result), ids(ran)) == ([1], list(range(COUNT)))


# --- workers


@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize("job", PROCESSES)
def test_a_worker_that_is_killed_is_survived(tmp_path: Path, job: str, order: str) -> None:
    slow = "delay:2ms:100%"

    ran = injected(tmp_path, JOBS[job](), slow, "kill-worker@0s", order=order)

    assert ids(ran) == list(range(COUNT))
    assert fired(ran.result)[1] == 1
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("job", ["process", "async process"])
def test_a_worker_that_is_stopped_is_survived(tmp_path: Path, job: str) -> None:
    ran = injected(tmp_path, JOBS[job](), "delay:2ms:100%", "stop-worker@0s")

    assert ids(ran) == list(range(COUNT))
    assert fired(ran.result)[1] == 1
    assert (ran.exit_code, ran.violations) == (0, 0)


def test_workers_are_killed_again_and_again(tmp_path: Path) -> None:
    ran = injected(tmp_path, JOBS["process"](), "delay:5ms:100%", "kill-worker:every=300ms")

    assert fired(ran.result)[1] >= 2
    assert sorted(ids(ran) + ran.dead_ids) == list(range(COUNT))
    assert ran.violations == 0


# --- the input


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize("job", JOBS)
def test_what_is_dropped_is_reported_as_lost(
    tmp_path: Path, job: str, order: str, emit: str
) -> None:
    ran = injected(tmp_path, JOBS[job](), "drop:3%", order=order, emit=emit)

    plan = FaultPlan.of(["drop:3%"], SEED)
    dropped = [number for number in range(COUNT) if plan.drops(number)]
    assert ids(ran) == [number for number in range(COUNT) if number not in dropped]
    assert ran.result["delivery"]["lost"] == len(dropped) == fired(ran.result)[0]
    assert attributed(ran.result) == [len(dropped), 0]
    assert ran.exit_code == 5
    (said,) = [note for note in ran.result.notes if "were lost" in note]
    assert all(f"line {number + 1}" in said for number in dropped[:10])


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("order", ["key", "global"])
def test_what_is_reordered_is_caught(tmp_path: Path, job: str, order: str) -> None:
    ran = injected(tmp_path, JOBS[job](), "reorder:20", order=order)

    assert ids(ran) == list(range(COUNT))
    assert fired(ran.result)[0] > COUNT // 2
    assert attributed(ran.result) == [ran.violations, 0]
    assert (ran.violations > 0, ran.exit_code) == (True, 5)
    assert any(" came after event " in note for note in ran.result.notes)


def test_lines_that_are_reordered_keep_their_numbers(tmp_path: Path) -> None:
    ran = injected(tmp_path, JOBS["inline"](), "reorder:20", emit="input", order="none")

    assert [each["id"] for each in ran.outputs] == list(range(COUNT))
    assert ran.exit_code == 0


@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
@pytest.mark.parametrize("order", ["none", "key"])
def test_a_source_that_delivers_twice(tmp_path: Path, job: str, order: str) -> None:
    ran = injected(tmp_path, JOBS[job](), "duplicate:5%", order=order)

    plan = FaultPlan.of(["duplicate:5%"], SEED)
    twice = [number for number in range(COUNT) if plan.duplicates(0, number)]
    assert ids(ran) == sorted([*range(COUNT), *twice])
    assert ran.counts["read"] == COUNT + len(twice)
    assert fired(ran.result) == [len(twice)]
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
def test_and_its_duplicates_are_found_by_their_ids(tmp_path: Path, job: str) -> None:
    ran = injected(tmp_path, JOBS[job](), "duplicate:5%", dedupe=True)

    assert ids(ran) == list(range(COUNT))
    assert ran.counts["deduplicated"] == fired(ran.result)[0] > 0


def test_a_duplicate_stands_where_its_first_one_stood(tmp_path: Path) -> None:
    rows = "id,key\n" + "".join(f"{n},a\n" for n in range(20))

    ran = injected(
        tmp_path, stage(handlers.explode), "duplicate:100%", events=rows.encode(), format="csv"
    )

    lines = [letter["position"]["line"] for letter in ran.dead]
    assert lines == [line for line in range(2, 22) for _ in range(2)]


@pytest.mark.parametrize("fault", ["drop:3%", "reorder:20", "duplicate:5%"])
def test_the_input_of_a_run_with_a_schedule(tmp_path: Path, fault: str) -> None:
    ran = injected(tmp_path, JOBS["coroutine"](), fault, rate=20_000.0)

    in_flight = ran.counts["handled"]
    assert ran.result["response"]["count"] == in_flight == len(ran.outputs)


@pytest.mark.parametrize("rate", [500.0, None])
def test_the_order_of_windows_is_the_same_with_a_schedule(tmp_path: Path, rate: float) -> None:
    ran = injected(tmp_path, handlers.echo, "reorder:7", order="none", rate=rate)

    assert [each["id"] for each in ran.outputs] == FaultPlan.of(["reorder:7"], SEED).order_of(
        range(COUNT)
    )
    assert fired(ran.result)[0] > COUNT // 2


def test_duplicates_are_found_among_what_is_reordered_with_a_schedule(tmp_path: Path) -> None:
    faults = ("reorder:7", "duplicate:5%")
    ran = injected(tmp_path, handlers.echo, *faults, dedupe=True, order="none", rate=20_000.0)

    assert ids(ran) == list(range(COUNT))
    assert ran.counts["deduplicated"] == fired(ran.result)[1] > 0


@pytest.mark.parametrize("more", [{"emit": "input"}, {"checkpoint": "c"}])
def test_nothing_waits_for_what_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    for window in ("RESEQUENCE_WINDOW", "KEPT_WINDOW"):
        monkeypatch.setattr(runner, window, 1000)
    if "checkpoint" in more:
        more = {"checkpoint": str(tmp_path / "c")}
    events = numbered(20_000, ["a"])
    ran = injected(tmp_path, handlers.echo, "drop:1%", events=events, **more)

    plan = FaultPlan.of(["drop:1%"], SEED)
    kept = [number for number in range(20_000) if not plan.drops(number)]
    assert [each["id"] for each in ran.outputs] == kept
    assert ran.counts["read"] == 20_000
    assert ran.result["delivery"]["lost"] == 20_000 - len(kept)
    assert ran.exit_code == 5


def test_a_dead_letter_is_put_down_to_the_error_that_it_died_of(tmp_path: Path) -> None:
    faults = ("error:5%", "delay:1us:50%", "error:key=b")
    ran = injected(tmp_path, JOBS["inline"](retry=ONCE), *faults)

    said = [letter["error"]["message"] for letter in ran.dead]
    expected = [said.count(f"injected by --inject {fault}") for fault in faults]
    assert attributed(ran.result) == [*expected, 0]
    assert expected[0] > 0 < expected[2]


# --- the output


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConnectorError) as failed:
        run_over(tmp_path, JOBS["inline"](), EVENTS, inject=("disk-full@1KiB",))

    assert "No space left on device (--inject disk-full@1KiB)" in str(failed.value)
    assert not list(tmp_path.glob("*output*"))


@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_a_run_whose_disk_was_full_can_be_gone_on_with(tmp_path: Path, job: str, name: str) -> None:
    more = {"checkpoint": str(tmp_path / "c"), "resume": True, "checkpoint_every": "1ms"}
    (tmp_path / "in.jsonl").write_bytes(b"".join(b'{"id": %d}\n' % n for n in range(COUNT)))
    whole = {"output": str(tmp_path / name), "dead_letter": str(tmp_path / "dead")}

    with pytest.raises(ConnectorError, match="what was written stays in"):
        run(
            JOBS[job](), tmp_path / "in.jsonl", **more, **whole, rate=3000.0,
            inject=("disk-full@500B",),
        )  # fmt: skip
    result = run(JOBS[job](), tmp_path / "in.jsonl", **more, **whole)

    assert (result.exit_code, result["sittings"], result.counts["handled"]) == (0, 2, COUNT)
    if name == "out.jsonl":
        assert sorted(e["id"] for e in read_lines(tmp_path / name)) == list(range(COUNT))


# --- the same again


@pytest.mark.parametrize("job", SINGLE)
def test_the_same_seed_and_faults_do_the_same(tmp_path: Path, job: str) -> None:
    faults = ("error:30%", "duplicate:5%", "drop:2%", "delay:1ms:5%", "reorder:7")

    first, second = (injected(tmp_path, JOBS[job](retry=QUICK), *faults) for _ in range(2))

    assert fired(first.result) == fired(second.result)
    assert ids(first) == ids(second)
    assert sorted(first.dead_ids) == sorted(second.dead_ids)
    assert first.counts == second.counts
    assert first.result["delivery"] == second.result["delivery"]


def test_another_seed_hits_others(tmp_path: Path) -> None:
    first, second = (
        injected(tmp_path, JOBS["inline"](retry=ONCE), "error:20%", seed=seed) for seed in (1, 2)
    )

    assert first.dead_ids != second.dead_ids


def test_without_a_seed_the_result_tells_the_one_that_was_drawn(tmp_path: Path) -> None:
    first = injected(tmp_path, JOBS["inline"](retry=ONCE), "error:20%", seed=None)

    again = injected(tmp_path, JOBS["inline"](retry=ONCE), "error:20%", seed=first.result["seed"])

    assert first.dead_ids == again.dead_ids


# --- what falls to no fault


def test_what_fails_by_itself_before_any_fault_falls_to_none(tmp_path: Path) -> None:
    ran = injected(tmp_path, stage(handlers.explode), "disk-full@1GiB")

    assert attributed(ran.result) == [0, COUNT]
    assert ran.result["faults"][0]["windows"] == []


def test_without_faults_nothing_is_said_of_them(tmp_path: Path) -> None:
    ran = run_over(tmp_path, handlers.echo, EVENTS)

    assert "faults" not in ran.result.data
    assert "unattributed" not in ran.result.data


# --- what is refused


@pytest.mark.parametrize(
    ("job", "options", "fault", "said"),
    [
        ("inline", {}, "eror:5%", "there is no fault 'eror', did you mean 'error'?"),
        ("inline", {}, "error:0%", "can't be understood; write it like error:5% or error:key=K"),
        ("inline", {}, "kill-worker@1s", "no stage runs in worker processes; give it one"),
        ("coroutine", {}, "stop-worker:every=1s", "no stage runs in worker processes"),
        ("inline", {}, "hang", "only a timeout ends a call that never returns, and no stage"),
        ("process", {}, "hang:1%", "give it --timeout, in processes or with an async handler"),
        ("inline", {}, "disk-full@1KiB", "it fills the disk of an output file; name one"),
        ("inline", {"output": "-"}, "disk-full@1KiB", "(--output FILE)"),
        ("inline", {"checkpoint": "c"}, "duplicate:1%", "leave --checkpoint out"),
        ("inline", {"checkpoint": "c", "emit": "input"}, "drop:1%", "leave one of them out"),
    ],
)
def test_a_fault_that_has_nothing_to_hit_is_refused(
    job: str, options: dict[str, Any], fault: str, said: str
) -> None:
    with pytest.raises(PlanError) as refused:
        run(JOBS[job](), [], inject=(fault,), **options)

    assert str(refused.value).startswith(f"--inject '{fault}'")
    assert said in str(refused.value)
