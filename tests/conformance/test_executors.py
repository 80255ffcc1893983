"""What every executor, and every mix of them, must hold to under every order and emit mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine import Pipeline, Stage, stage
from tests.support import handlers
from tests.support.checks import check_run
from tests.support.running import Ran, run_over
from tests.support.streams import Stream, seeded_stream, streams

KINDS: dict[str, Callable[[int], Stage]] = {
    "inline": lambda place: stage(partial(handlers.act, place=place), executor="inline"),
    "generator": lambda place: stage(partial(handlers.generate, place=place), executor="inline"),
    "coroutine": lambda place: stage(partial(handlers.aact, place=place), concurrency=16),
    "async-generator": lambda place: stage(partial(handlers.agenerate, place=place), concurrency=8),
    "process": lambda place: stage(
        partial(handlers.act, place=place), executor="process", workers=2
    ),
    "async-process": lambda place: stage(
        partial(handlers.aact, place=place), executor="process", workers=2, concurrency=8
    ),
}

IN_LOOP = (
    "inline",
    "generator",
    "coroutine",
    "async-generator",
    "coroutine inline",
    "inline coroutine generator",
    "coroutine async-generator coroutine",
)
WITH_PROCESSES = (
    "process",
    "async-process",
    "process inline",
    "coroutine process",
    "inline process coroutine",
)
ORDERS = ("none", "key", "partition", "global")
EMITS = ("completion", "input")


def pipeline(kinds: str) -> Pipeline:
    return Pipeline(*[KINDS[kind](place) for place, kind in enumerate(kinds.split())])


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv(handlers.LOG_VARIABLE, str(path))
    return path


def run_streams(log: Path, kinds: str, order: str, emit: str, *inputs: Stream) -> Ran:
    log.unlink(missing_ok=True)
    handlers.forget_logs()
    texts = [each.text() for each in inputs]
    return run_over(log.parent, pipeline(kinds), *texts, order=order, emit=emit)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kinds", IN_LOOP)
@settings(max_examples=max(5, settings.default.max_examples // 5))
@given(emit=st.sampled_from(EMITS), stream=streams)
def test_drawn_streams(log: Path, kinds: str, order: str, emit: str, stream: Stream) -> None:
    ran = run_streams(log, kinds, order, emit, stream)

    check_run(ran, [stream], len(kinds.split()), order, emit, log)


@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kinds", (*IN_LOOP, *WITH_PROCESSES))
def test_large_streams(log: Path, kinds: str, order: str, emit: str) -> None:
    stream = seeded_stream(seed=len(kinds), count=1000)

    ran = run_streams(log, kinds, order, emit, stream)

    check_run(ran, [stream], len(kinds.split()), order, emit, log)


@pytest.mark.parametrize("order", ["key", "partition"])
@pytest.mark.parametrize("kinds", ["inline", "coroutine inline", "process coroutine"])
def test_several_inputs(log: Path, kinds: str, order: str) -> None:
    inputs = [seeded_stream(seed, count=400, first=400 * seed) for seed in range(3)]

    ran = run_streams(log, kinds, order, "completion", *inputs)

    check_run(ran, inputs, len(kinds.split()), order, "completion", log)
