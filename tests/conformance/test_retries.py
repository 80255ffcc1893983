"""Retries in every executor: tried again as told, in order, and nothing waits for another key."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Breaker, Event, Pipeline, Retry, run, stage
from millstream.engine.executors.process import FRAME_EVENTS
from tests.support import handlers
from tests.support.running import Ran, json_lines, numbered, read_lines, run_over

from .test_stages import EXECUTORS, in_executor

ORDERS = ("none", "key", "partition", "global")
SOON = Retry(attempts=3, first=0.001, ceiling=0.002)


pytestmark = pytest.mark.usefixtures("tries")


def log_of(tmp_path: Path) -> list[Any]:
    return read_lines(tmp_path / "log.jsonl")


def flaky(executor: str, **options: Any) -> Any:
    options.setdefault("retry", SOON)
    return in_executor(executor, handlers.flaky, handlers.aflaky, **options)


def failing(count: int, keys: list[Any], fails: dict[int, int], **more: Any) -> list[Any]:
    """Events of which some fail at first."""
    events = numbered(count, keys)
    for number, times in fails.items():
        events[number] |= {"fails": times, **more}
    return events


def ids(ran: Ran, key: str | None = None) -> list[int]:
    return [each["id"] for each in ran.outputs if key in (None, each["key"])]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_fails_for_a_while_succeeds_in_order(
    tmp_path: Path, executor: str, order: str
) -> None:
    draw = random.Random(f"{executor} {order}")
    fails = {number: draw.randint(1, 2) for number in draw.sample(range(300), 40)}

    ran = run_over(tmp_path, flaky(executor), failing(300, ["a", "b", "c"], fails), order=order)

    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    assert sorted(ids(ran)) == list(range(300))
    assert ran.counts["retried"] == sum(fails.values())
    assert handlers.all_tries() == {n: fails.get(n, 0) + 1 for n in range(300)}
    assert {each["touched"] for each in ran.outputs} == {1}
    if order in ("partition", "global"):
        assert ids(ran) == list(range(300))
    if order == "key":
        assert all(ids(ran, key) == sorted(ids(ran, key)) for key in "abc")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_while_an_event_waits_only_its_key_does(tmp_path: Path, executor: str) -> None:
    job = in_executor(
        executor,
        handlers.wait_for_others,
        handlers.await_others,
        retry=Retry(attempts=10**6, budget=None),
    )
    events = numbered(60, ["a", "b", "c"])
    events[0]["others"] = 40

    ran = run_over(tmp_path, job, events)

    done = [number for name, number, _ in log_of(tmp_path) if name == "done"]
    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    assert set(done[:40]) == {n for n in range(60) if n % 3}
    assert [n for n in done if n % 3 == 0] == list(range(0, 60, 3))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_goes_on_failing_is_a_dead_letter_that_says_how_often(
    tmp_path: Path, executor: str
) -> None:
    events = failing(20, ["a", "b"], {4: 99})

    ran = run_over(tmp_path, flaky(executor), events)

    (letter,) = ran.dead
    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes
    assert (letter["event"], letter["attempts"]) == (events[4], 3)
    assert letter["error"]["type"] == "ConnectionError"
    assert letter["first_at"] < letter["last_at"]
    assert sorted(ids(ran)) == [n for n in range(20) if n != 4]


@pytest.mark.parametrize(
    ("error", "retry", "times"),
    [
        ("value", None, 1),
        ("reject", Retry(on=Exception, first=0.001), 1),
        ("timeout", Retry(first=0.001), 3),
        ("value", Retry(on=ValueError, first=0.001), 3),
        ("value", Retry(on="ValueError", first=0.001, attempts=2), 2),
        ("connection", Retry(never=ConnectionError, first=0.001), 1),
        ("connection", Retry(attempts=1), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_which_errors_are_tried_again(
    tmp_path: Path, executor: str, error: str, retry: Retry | None, times: int
) -> None:
    events = failing(3, ["a"], {1: 99}, error=error)

    ran = run_over(tmp_path, flaky(executor, retry=retry), events)

    assert handlers.all_tries() == {0: 1, 1: times, 2: 1}
    assert [letter["attempts"] for letter in ran.dead] == [times]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_second_stage_gets_the_event_as_it_came_to_it(tmp_path: Path, executor: str) -> None:
    first = in_executor(executor, handlers.touch, handlers.atouch)
    events = failing(30, ["a", "b"], {3: 2, 8: 1})

    ran = run_over(tmp_path, Pipeline(first, flaky(executor)), events)

    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    assert {(each["first"], each["touched"]) for each in ran.outputs} == {(True, 1)}
    assert ran.counts["retried"] == 3


@pytest.mark.parametrize("executor", EXECUTORS)
def test_csv_rows_are_tried_again(tmp_path: Path, executor: str) -> None:
    rows = b"id,key,fails\n" + b"".join(b"%d,%s,\n" % (n, b"ab"[n % 2 :][:1]) for n in range(9))
    job = in_executor(
        executor, handlers.flaky_row, handlers.aflaky_row, retry=SOON, **_one_worker(executor)
    )

    ran = run(
        job, [_written(tmp_path / "in.csv", rows)], output=str(tmp_path / "out.csv"), quiet=True
    )

    assert ran.exit_code == 0
    assert handlers.all_tries() == {n: 2 if n == 4 else 1 for n in range(9)}
    assert sorted((tmp_path / "out.csv").read_bytes().splitlines()) == sorted(rows.splitlines())


def _one_worker(executor: str) -> dict[str, Any]:
    return {"workers": 1} if executor.endswith("process") else {}


def _written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("retry", [SOON, Retry(attempts=1)])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failed_attempt_leaves_the_state_as_it_was(
    tmp_path: Path, executor: str, retry: Retry
) -> None:
    job = in_executor(executor, handlers.sum_up, handlers.asum_up, state=dict, retry=retry)
    events = [{**each, "n": 1} for each in failing(40, ["a", "b"], {0: 1, 7: 2, 20: 9})]

    ran = run_over(tmp_path, job, events)

    sums = {key: [e["sum"] for e in ran.outputs if e["key"] == key] for key in "ab"}
    dead = [20] if retry is SOON else [0, 7, 20]
    assert sorted(ran.dead_ids) == dead
    for key, parity in (("a", 0), ("b", 1)):
        good = [number for number in range(parity, 40, 2) if number not in dead]
        assert sums[key] == list(range(1, len(good) + 1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_batch_is_tried_again_together_and_at_last_one_by_one(
    tmp_path: Path, executor: str
) -> None:
    job = in_executor(
        executor, handlers.flaky_batch, handlers.aflaky_batch, batch=5, batch_wait=60, retry=SOON
    )
    events = failing(20, list("abcdefghijklmnopqrst"), {7: 1, 12: 99})

    ran = run_over(tmp_path, job, events)

    calls = [called for name, called in log_of(tmp_path) if name == "batch"]
    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes
    assert ran.dead_ids == [12]
    assert sorted(ids(ran)) == [n for n in range(20) if n != 12]
    assert [12] in calls
    # At its second attempt it may be together with the one that never succeeds.
    assert 2 <= sum(7 in called for called in calls) <= 4


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_key_of_a_dead_letter_is_parked(tmp_path: Path, executor: str) -> None:
    events = failing(60, ["a", "b", "c"], {6: 99, 10: 1}, error="value")
    events[10]["error"] = "connection"

    ran = run_over(tmp_path, flaky(executor), events, on_error="park")

    behind = [n for n in range(60) if n % 3 == 0 and n > 6]
    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes
    assert ran.dead_ids == [6, *behind]
    assert [letter["error"]["type"] for letter in ran.dead] == ["ValueError"] + ["Parked"] * 17
    assert {letter["attempts"] for letter in ran.dead[1:]} == {0}
    assert set(handlers.all_tries()).isdisjoint(behind)
    assert sorted(ids(ran)) == sorted(set(range(60)) - {6, *behind})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_events_that_are_in_a_later_stage_are_not_parked(tmp_path: Path, executor: str) -> None:
    later = in_executor(executor, handlers.touch_slowly, handlers.atouch_slowly)
    events = failing(60, ["a", "b"], {40: 99}, error="value")

    ran = run_over(tmp_path, Pipeline(flaky(executor), later), events, on_error="park")

    behind = list(range(42, 60, 2))
    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes
    assert ran.dead_ids == [40, *behind]
    assert sorted(ids(ran)) == sorted(set(range(60)) - {40, *behind})


@pytest.mark.parametrize("shape", ["alone", "first", "last", "batch", "batch first"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_result_that_can_not_be_written_parks_its_key(
    tmp_path: Path, executor: str, shape: str
) -> None:
    plain, coroutine = handlers.not_to_be_written, handlers.anot_to_be_written
    own: Any = in_executor(executor, plain, coroutine, name="own")
    if "batch" in shape:
        batches = handlers.not_to_be_written_batch, handlers.anot_to_be_written_batch
        own = in_executor(executor, *batches, name="own", batch=4, batch_wait=0.01)
    other = in_executor(executor, handlers.echo, handlers.aecho, name="other")
    jobs = {"first": (own, other), "batch first": (own, other), "last": (other, own)}

    ran = run_over(
        tmp_path, Pipeline(*jobs.get(shape, (own,))), numbered(60, list("abcde")), on_error="park"
    )

    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes
    assert sorted(ran.dead_ids) == list(range(5, 60, 5))  # they are parked at two stages
    assert sorted([*ids(ran), *ran.dead_ids]) == list(range(60))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_event_without_a_key_parks_nothing(tmp_path: Path, executor: str) -> None:
    events = failing(6, [None], {1: 99, 5: 99}, error="value")

    ran = run_over(tmp_path, flaky(executor), events, on_error="park")

    assert (ran.exit_code, ran.violations) == (4, 0), ran.result.notes
    assert sorted(ran.dead_ids) == [1, 5]
    assert sorted(ids(ran)) == [0, 2, 3, 4]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_circuit_breaker_waits_rather_than_to_bury(tmp_path: Path, executor: str) -> None:
    events = [{**each, "down": 40} for each in numbered(60, list("abcdefghij"))]
    breaker = Breaker(ratio=0.5, calls=4, pause=0.005, probes=1)
    retry = Retry(attempts=4, first=0.001, budget=None)
    job = in_executor(executor, handlers.outage, handlers.aoutage, breaker=breaker, retry=retry)

    ran = run_over(tmp_path, job, events)

    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    assert sorted(ids(ran)) == list(range(60))
    assert sum(handlers.all_tries().values()) == 100
    assert max(handlers.all_tries().values()) > 4


@pytest.mark.parametrize("executor", EXECUTORS)
def test_halt_stops_at_the_first_dead_letter(tmp_path: Path, executor: str) -> None:
    events = failing(20_000, list("abcdef"), {50: 99}, error="value")

    ran = run_over_unfinished(tmp_path, flaky(executor), events, on_error="halt")

    (letter,) = read_lines(tmp_path / "dead.jsonl")
    assert (ran.exit_code, letter["event"]["id"]) == (3, 50)
    assert ran.counts["read"] == ran.counts["handled"] + 1
    assert ran["unfinished"] > 0
    assert any("input-0.jsonl line 51 at stage 'flaky'" in note for note in ran.notes) or any(
        "line 51 at stage" in note for note in ran.notes
    )


def not_every_seventh(event: Event) -> Event | None:
    return event if event.data["id"] % 7 else None


def test_batches_stay_in_order_while_others_of_many_keys_wait(tmp_path: Path) -> None:
    draw = random.Random(3)
    keys = [f"k{draw.randrange(80)}" for _ in range(4000)]
    events = failing(4000, keys, dict.fromkeys(range(0, 4000, 37), 1))
    retry = Retry(attempts=5, first=0.01, ceiling=0.05, budget=None)
    job = stage(handlers.AFailsOnce(), name="flaky", batch=8, concurrency=3, retry=retry)

    ran = run_over(tmp_path, job, events)

    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    assert sorted(ids(ran)) == list(range(4000))


@pytest.mark.parametrize("limit", [{"on_error": "halt"}, {"max_dead_letters": "2"}])
@pytest.mark.parametrize("breaks", ["call", "line"])
@pytest.mark.parametrize("way", ["lines", "second", "filtered", "one by one", "coroutine"])
def test_nothing_is_begun_after_the_failure_that_stops_the_run(
    tmp_path: Path, limit: dict[str, Any], breaks: str, way: str
) -> None:
    letters = [300] if "on_error" in limit else [100, 200, 300]
    events = failing(2000, ["a", "b", None], dict.fromkeys(letters, 99), error="value")
    lines = json_lines(events).splitlines(keepends=True)
    for number in letters if breaks == "line" else ():
        lines[number] = b'{"id": %d, "key"\n' % number
    (tmp_path / "input.jsonl").write_bytes(b"".join(lines))
    breaker = Breaker(calls=100_000) if way == "one by one" else None
    job = flaky("inline", breaker=breaker)
    if way == "coroutine":
        job = flaky("coroutine", concurrency=1)
    elif way in ("second", "filtered"):
        job = Pipeline(handlers.echo if way == "second" else not_every_seventh, job)
    output, dead = str(tmp_path / "output.jsonl"), str(tmp_path / "dead.jsonl")

    ran = run(job, tmp_path / "input.jsonl", output=output, dead_letter=dead, order="none", **limit)

    good = [number for number in range(300) if number not in letters]
    wanted = [number for number in good if way != "filtered" or number % 7]
    tried = {entry[1] for entry in log_of(tmp_path)}
    assert ran.exit_code == 3
    assert len(read_lines(tmp_path / "dead.jsonl")) == len(letters)
    if breaks == "call":
        written = [event["id"] for event in read_lines(tmp_path / "output.jsonl.partial")]
        assert tried == {*wanted, *letters}
        assert written == wanted
        assert ran.counts["handled"] == len(good)
    elif way in ("second", "filtered"):
        assert tried <= set(wanted)
    else:
        assert tried == set(wanted)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_was_handled_before_a_run_halts_is_written(tmp_path: Path, executor: str) -> None:
    events = failing(5000, ["a", "b", None], {1500: 99}, error="value")

    ran = run_over_unfinished(tmp_path, flaky(executor), events, on_error="halt")

    written = {event["id"] for event in read_lines(tmp_path / "output.jsonl.partial")}
    handled = {entry[1] for entry in log_of(tmp_path)} - {1500}
    assert len(written) == ran.counts["handled"]
    assert written <= handled
    # What workers had in their hands, and what async handlers had begun, ends without being kept.
    most = {"process": 2 * 2 * FRAME_EVENTS, "async-process": 2 * 2 * FRAME_EVENTS}
    assert len(handled - written) <= most.get(executor, 64)


@pytest.mark.parametrize(("most", "stops"), [("4", True), ("5", False), ("1%", True)])
def test_too_many_dead_letters_stop_the_run(tmp_path: Path, most: str, stops: bool) -> None:
    events = failing(400, ["a"], dict.fromkeys(range(200, 205), 99), error="value")

    ran = run_over_unfinished(tmp_path, flaky("inline"), events, max_dead_letters=most)

    assert ran.exit_code == (3 if stops else 4)
    assert any("--max-dead-letters" in note for note in ran.notes) == stops


def run_over_unfinished(folder: Path, job: Any, events: list[Any], **options: Any) -> Any:
    """A run whose output may not be complete."""
    name = _written(folder / "input-0.jsonl", json_lines(events))
    output, dead = str(folder / "output.jsonl"), str(folder / "dead.jsonl")
    return run(job, name, output=output, dead_letter=dead, **options)


def test_flags_set_the_policy_of_stages_that_have_none(tmp_path: Path) -> None:
    events = failing(3, ["a"], {1: 3}, error="value")

    ran = run_over(
        tmp_path,
        stage(handlers.flaky),
        events,
        attempts=4,
        retry_on=("ValueError",),
        backoff="1ms..2ms",
    )

    assert ran.exit_code == 0
    assert handlers.all_tries() == {0: 1, 1: 4, 2: 1}
