"""What every executor, and every mix of them, must hold to under every order and emit mode."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from millstream.engine import Pipeline, stage
from tests.support import handlers
from tests.support.checks import check_run
from tests.support.running import Ran, run_over
from tests.support.streams import Stream, seeded_stream, streams

KINDS: dict[str, Callable[[int], object]] = {
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

IN_LOOP = ("inline", "coroutine", "async-generator", "coroutine inline", "inline coroutine generator",
           "coroutine coroutine", "inline inline coroutine")
WITH_PROCESSES = ("process", "async-process", "inline process coroutine", "process inline",
                  "coroutine process")
ORDERS = ("none", "key", "partition", "global")
EMITS = ("completion", "input")

SHORT = settings(parent=settings.get_profile("default"), max_examples=4)


def pipeline(kinds: str) -> Pipeline:
    return Pipeline(*[KINDS[kind](place) for place, kind in enumerate(kinds.split())])  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv(handlers.LOG_VARIABLE, str(path))
    return path


def run_streams(log: Path, kinds: str, order: str, emit: str, *inputs: Stream) -> Ran:
    log.unlink(missing_ok=True)
    handlers._logs.clear()
    texts = [each.text() for each in inputs]
    return run_over(log.parent, pipeline(kinds), *texts, order=order, emit=emit)


@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kinds", IN_LOOP)
@settings(max_examples=6)
@given(stream=streams)
def test_drawn_streams(log: Path, kinds: str, order: str, emit: str, stream: Stream) -> None:
    ran = run_streams(log, kinds, order, emit, stream)

    check_run(ran, [stream], len(kinds.split()), order, emit, log)


@pytest.mark.parametrize("emit", EMITS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kinds", (*IN_LOOP, *WITH_PROCESSES))
def test_large_streams(log: Path, kinds: str, order: str, emit: str) -> None:
    stream = seeded_stream(seed=len(kinds), count=1200)

    ran = run_streams(log, kinds, order, emit, stream)

    check_run(ran, [stream], len(kinds.split()), order, emit, log)
