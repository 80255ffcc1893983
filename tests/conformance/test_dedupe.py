"""--dedupe: an event whose id came before never reaches a handler, whatever runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import PlanError, run, stage
from tests.support import handlers
from tests.support.running import json_lines, run_over

JOBS: dict[str, Any] = {
    "inline": handlers.echo,
    "coroutine": handlers.aecho,
    "process": stage(handlers.echo, executor="process", workers=2),
    "async process": stage(handlers.aecho, executor="process", workers=2),
    "batch": stage(handlers.echo_batch, batch=7),
    "coroutine batch": stage(handlers.aecho_batch, batch=7),
    "process batch": stage(handlers.echo_batch, batch=7, executor="process", workers=2),
    "two stages": [handlers.aecho, stage(handlers.echo, executor="process", workers=1)],
}
EVENTS = [{"id": n * 7 % 40 if n % 3 else None, "key": f"k{n % 4}", "n": n} for n in range(120)]


def first_ones(events: list[dict[str, Any]], window: int = 10**9) -> list[int]:
    """The `n` of the events that a window of ids lets through."""
    seen: list[Any] = []
    through = []
    for each in events:
        if each["id"] is None or each["id"] not in seen:
            through.append(each["n"])
            if each["id"] is not None:
                seen = [*seen, each["id"]][-window:]
    return through


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("order", ["none", "key", "global"])
@pytest.mark.parametrize("job", JOBS)
def test_no_handler_sees_an_id_twice(tmp_path: Path, job: str, order: str, emit: str) -> None:
    ran = run_over(tmp_path, JOBS[job], EVENTS, order=order, emit=emit, dedupe=True)

    through = first_ones(EVENTS)
    got = [each["n"] for each in ran.outputs]
    assert (got if emit == "input" else sorted(got)) == through
    assert ran.counts["read"] == ran.counts["handled"] == 120
    assert ran.counts["deduplicated"] == ran.counts["filtered"] == 120 - len(through)
    assert (ran.exit_code, ran.violations) == (0, 0)


@pytest.mark.parametrize("window", [1, 5, 39, 40])
def test_the_window_is_exact(tmp_path: Path, window: int) -> None:
    ran = run_over(
        tmp_path, handlers.echo, EVENTS, order="global", dedupe=True, dedupe_window=window
    )

    assert [each["n"] for each in ran.outputs] == first_ones(EVENTS, window)


def as_csv(events: list[dict[str, Any]]) -> bytes:
    rows = [f"{e['id'] if e['id'] is not None else ''},{e['key']},{e['n']}\n" for e in events]
    return ("id,key,n\n" + "".join(rows)).encode()


def as_cloud_events(events: list[dict[str, Any]]) -> bytes:
    context = {"specversion": "1.0", "source": "s", "type": "t"}
    told = [e for e in events if e["id"] is not None]
    return json_lines({**context, "id": str(e["id"]), "data": e} for e in told)


@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize("format", ["csv", "json", "cloudevents"])
def test_in_every_format(tmp_path: Path, job: str, order: str, format: str) -> None:
    events = [e for e in EVENTS if e["id"] is not None] if format == "cloudevents" else EVENTS
    made = {
        "csv": as_csv(events),
        "json": json.dumps(events, indent=1).encode(),
        "cloudevents": as_cloud_events(events),
    }[format]

    ran = run_over(
        tmp_path, JOBS[job], made, order=order, dedupe=True, format=format, output_format="jsonl"
    )

    got = sorted(int((e["data"] if format == "cloudevents" else e)["n"]) for e in ran.outputs)
    assert got == first_ones(events)
    assert ran.exit_code == 0


@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
def test_of_several_partitions_one_has_it(tmp_path: Path, job: str) -> None:
    ran = run_over(tmp_path, JOBS[job], EVENTS, EVENTS, partitions=True, dedupe=True)

    ids = [each["id"] for each in ran.outputs if each["id"] is not None]
    assert sorted(ids) == sorted({e["id"] for e in EVENTS} - {None})
    assert ran.counts["deduplicated"] == 240 - len(ran.outputs)


def test_the_limit_counts_what_is_read(tmp_path: Path) -> None:
    ran = run_over(tmp_path, handlers.echo, EVENTS, dedupe=True, limit=50)

    assert ran.counts["read"] == 50
    assert [each["n"] for each in ran.outputs] == first_ones(EVENTS[:50])


@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
def test_with_a_schedule(tmp_path: Path, job: str) -> None:
    ran = run_over(tmp_path, JOBS[job], EVENTS, dedupe=True, rate=20_000.0)

    assert sorted(each["n"] for each in ran.outputs) == first_ones(EVENTS)
    assert ran.result["response"]["count"] == 120


@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
def test_what_is_no_event_makes_no_later_one_a_duplicate(
    tmp_path: Path, job: str, order: str
) -> None:
    event = b'{"id": 1, "key": "a"}\n'
    lines = b'{"id": 1, "key": \n{"id": 1, "key": "\xff"}\n' + event + event

    ran = run_over(tmp_path, JOBS[job], lines, dedupe=True, order=order)

    assert (ran.counts["dead_lettered"], ran.counts["deduplicated"]) == (2, 1)
    assert len(ran.outputs) == 1


def test_the_field_of_the_id_can_be_named(tmp_path: Path) -> None:
    ran = run_over(tmp_path, handlers.echo, EVENTS, dedupe=True, id="key")

    assert [each["n"] for each in ran.outputs] == [0, 1, 2, 3]


def test_without_the_flag_nothing_is_said_of_duplicates(tmp_path: Path) -> None:
    ran = run_over(tmp_path, handlers.echo, EVENTS)

    assert "deduplicated" not in ran.counts
    assert len(ran.outputs) == 120


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dedupe": True, "dedupe_window": 0}, "--dedupe-window is 0; give it 1 or more"),
        ({"dedupe_window": 5}, "--dedupe-window says how far back --dedupe looks; give that too"),
    ],
)
def test_a_window_that_means_nothing_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as refused:
        run(handlers.echo, [], **options)

    assert str(refused.value) == said


@pytest.mark.parametrize("job", JOBS)
def test_an_id_that_no_float_can_hold_is_none(tmp_path: Path, job: str) -> None:
    lines = b'{"id": 1e400, "n": 0}\n{"id": 1, "n": 1}\n{"id": 1e400, "n": 2}\n{"id": 1, "n": 3}\n'

    ran = run_over(tmp_path, JOBS[job], lines, dedupe=True)
    without = run_over(tmp_path, JOBS[job], lines)

    assert sorted(e["n"] for e in without.outputs) in ([0, 1, 2, 3], [1, 3])
    assert sorted(e["n"] for e in ran.outputs) == sorted(
        e["n"] for e in without.outputs if e["n"] != 3
    )
    assert len(ran.dead) == len(without.dead)


@pytest.mark.parametrize("order", ["key", "global"])
@pytest.mark.parametrize("executor", ["inline", "coroutine", "process", "async process"])
def test_a_checkpoint_of_stages_with_state_breaks_no_order(
    tmp_path: Path, executor: str, order: str
) -> None:
    handler = handlers.acount if executor in ("coroutine", "async process") else handlers.count
    job = stage(handler, state=dict, executor=executor.split()[-1], workers=2)
    events = [{"id": n if n % 5 else 0, "key": f"k{n % 3}", "n": n} for n in range(200)]

    ran = run_over(tmp_path, job, events, order=order, dedupe=True, checkpoint=str(tmp_path / "c"))

    assert (ran.exit_code, ran.violations) == (0, 0), ran.result.notes
    assert ran.result["stages"][0]["handled"] == len(first_ones(events)) == len(ran.outputs)
