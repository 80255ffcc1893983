"""Micro benchmarks of the hot path, one block or batch a call: `pytest tests/benchmarks`.

They tell where a change to the engine shows; the table of run.py tells whether it matters. A part
of the engine that is not there is skipped. Divide by `events` in the extra info for ns an event.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("orjson")

from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.inputs import ensure_input

BLOCK_BYTES = 64 * 1024
BATCH = 512
ROUNDS = 300
# What a handler of 2 µs leaves between one start and the next.
STEP_NS = 2_000

Ints = npt.NDArray[np.int64]
Observation = tuple[tuple[list[str], range | list[int], Ints, Ints], dict[str, Any]]


@pytest.fixture(scope="session")
def block(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """64 KiB of JSON Lines, whole lines only."""
    path: Path = ensure_input(tmp_path_factory.mktemp("bench"), 1_000)
    chunk = path.read_bytes()[:BLOCK_BYTES]
    return chunk[: chunk.rindex(b"\n") + 1]


@pytest.fixture
def codecs() -> Any:
    """The module that cuts and decodes."""
    return pytest.importorskip("millstream.engine.codecs")


@pytest.fixture
def mapping() -> Any:
    """The default fields of an event's attributes."""
    return pytest.importorskip("millstream.engine.event").FieldMapping.of()


@pytest.fixture
def lanes() -> list[str]:
    """The keys of a batch, some of them twice."""
    return [f"user-{number * 7919 % 400:05d}" for number in range(BATCH)]


def test_cut_lines(benchmark: BenchmarkFixture, codecs: Any, block: bytes) -> None:
    benchmark.extra_info["events"] = block.count(b"\n")
    cutter = codecs.LineCutter()

    blocks = benchmark(cutter.feed, block)

    assert sum(part.count for part in blocks) == block.count(b"\n")


@pytest.mark.parametrize("events", [False, True], ids=["keys", "events"])
def test_cut_and_decode(
    benchmark: BenchmarkFixture, codecs: Any, mapping: Any, block: bytes, events: bool
) -> None:
    benchmark.extra_info["events"] = block.count(b"\n")
    cutter = codecs.LineCutter()
    decoder = codecs.JsonDecoder(mapping, keys=True, events=events)

    decoded = benchmark(lambda: [decoder.decode(part) for part in cutter.feed(block)])

    assert sum(len(part.keys) for part in decoded) == block.count(b"\n")


def test_decode_change_encode(
    benchmark: BenchmarkFixture, codecs: Any, mapping: Any, block: bytes
) -> None:
    benchmark.extra_info["events"] = block.count(b"\n")
    cutter = codecs.LineCutter()
    decoder = codecs.JsonDecoder(mapping, keys=True, events=True)

    def change_all() -> list[bytes]:
        lines = []
        for part in cutter.feed(block):
            for event in decoder.decode(part).events:
                event.data["paid"] = True
                lines.append(event.to_line())
        return lines

    lines = benchmark(change_all)

    assert all(b'"paid":true' in line for line in lines)


def test_histogram_record_batch(benchmark: BenchmarkFixture) -> None:
    # It counts what it holds back at 4,096 values: a call that does so is a fair one.
    batches = 8
    benchmark.extra_info["events"] = BATCH * batches
    histogram = pytest.importorskip("millstream.engine.histogram").Histogram()
    values = np.random.default_rng(1).exponential(50_000, BATCH).astype(np.int64)

    def record_all() -> None:
        for _ in range(batches):
            histogram.record(values)

    benchmark(record_all)

    assert histogram.count % (BATCH * batches) == 0


@pytest.mark.parametrize("in_order", [True, False], ids=["in-order", "interleaved"])
def test_audit_observe_batch(benchmark: BenchmarkFixture, lanes: list[str], in_order: bool) -> None:
    benchmark.extra_info["events"] = BATCH
    audit = pytest.importorskip("millstream.engine.promises").OrderAudit("stage")
    batches = count()

    # Each round sees later events: the audit remembers, and the same ones would be reordered.
    def next_batch() -> Observation:
        first = next(batches) * BATCH
        starts = np.arange(first, first + BATCH, dtype=np.int64) * STEP_NS
        if in_order:
            return (lanes, range(first, first + BATCH), starts, starts + STEP_NS // 2), {}
        # Neighbours of different lanes end the other way round, each pair at once.
        numbers = [first + (place ^ 1) for place in range(BATCH)]
        swapped = starts.reshape(-1, 2)[:, ::-1].ravel()
        swapped_lanes = [lanes[place ^ 1] for place in range(BATCH)]
        return (swapped_lanes, numbers, swapped, swapped + STEP_NS // 2), {}

    pedantic: Any = benchmark.pedantic  # which has no types
    pedantic(audit.observe, setup=next_batch, rounds=ROUNDS)

    assert (audit.report().reordered, audit.report().overlaps) == (0, 0)
