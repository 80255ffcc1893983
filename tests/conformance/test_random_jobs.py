"""Jobs drawn at random, with failures of all kinds: nothing is lost or doubled, order holds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Breaker, Pipeline, Retry, stage
from tests.support import handlers
from tests.support.running import Ran, run_over

from .test_stages import EXECUTORS, ORDERS

SEEDS = range(60)


@pytest.fixture(autouse=True)
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tries").mkdir()
    monkeypatch.setenv(handlers.TRIES_VARIABLE, str(tmp_path / "tries"))


def drawn_stage(draw: random.Random, name: str) -> Any:
    where = draw.choice(EXECUTORS)
    plain = where in ("inline", "process")
    options: dict[str, Any] = {"name": name, "retry": drawn_retry(draw)}
    if draw.random() < 0.4:
        calls, probes = draw.choice([2, 8]), draw.choice([1, 3])
        ratio = draw.choice([0.1, 0.3, 0.6])
        options["breaker"] = Breaker(ratio, calls, pause=0.005, probes=probes, patience=0.5)
    if where == "coroutine":
        options["concurrency"] = draw.choice([1, 3, 64])
    if where.endswith("process"):
        options |= {"executor": "process", "workers": draw.choice([1, 2])}
    kind = "plain" if plain else "coroutine"
    if draw.random() < 0.25:
        options |= {"batch": draw.choice([2, 8]), "batch_wait": draw.choice([0.001, 0.02])}
        kind = "batch" if plain else "coroutine_batch"
    return stage(getattr(handlers, f"fateful_{kind}_{name}"), **options)


def drawn_retry(draw: random.Random) -> Retry:
    attempts, budget = draw.choice([1, 2, 4]), draw.choice([None, 0.2])
    return Retry(attempts=attempts, first=0.001, ceiling=0.02, on=(ConnectionError,), budget=budget)


def drawn_events(draw: random.Random, stages: list[Any]) -> list[dict[str, Any]]:
    keys = [*(f"k{number}" for number in range(draw.choice([2, 10, 80]))), None]
    events = []
    for number in range(draw.choice([100, 600])):
        event: dict[str, Any] = {"id": number, "key": draw.choice(keys), "fates": {}}
        for each in stages:
            kinds = ["once", "always", "value", "none"]
            weights = [30, 5, 5, 15]
            if each.executor == "process":
                kinds, weights = [*kinds, "exit"], [*weights, 2]
            if draw.random() < sum(weights) / 1000:
                event["fates"][each.name] = draw.choices(kinds, weights)[0]
        events.append(event)
    return events


def check(ran: Ran, events: list[dict[str, Any]], order: str) -> None:
    ids = [event["id"] for event in ran.outputs]
    assert ran.exit_code in (0, 4), ran.result.notes
    assert ran.violations == 0, ran.result.notes
    assert len(set(ids)) == len(ids)
    assert len(set(ran.dead_ids)) == len(ran.dead_ids)
    assert not set(ids) & set(ran.dead_ids)
    filtered = {event["id"] for event in events if "none" in event["fates"].values()}
    assert set(range(len(events))) - set(ids) - set(ran.dead_ids) <= filtered
    if order in ("global", "partition"):
        assert ids == sorted(ids)
    for key in {event["key"] for event in events} - {None} if order == "key" else ():
        own = [event["id"] for event in ran.outputs if event["key"] == key]
        assert own == sorted(own)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_job_loses_nothing_and_keeps_its_order(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    stages = [drawn_stage(draw, f"s{number}") for number in range(draw.choice([1, 1, 2, 3]))]
    order = draw.choice(["key", *ORDERS])
    on_error = draw.choice(["continue", "park"]) if order == "key" else "continue"
    emit = draw.choice(["completion", "input"])
    events = drawn_events(draw, stages)

    ran = run_over(tmp_path, Pipeline(*stages), events, order=order, on_error=on_error, emit=emit)

    check(ran, events, order)
