"""The work of the bare loop as a bytewax dataflow, in one process or as two workers.

bytewax calls `one` or `two`; the paths come in the environment, as its command line takes none.
One worker uses bytewax's own file connectors. They would leave the second worker idle, or send it
each line pickled; so with two, each reads its half of the file and appends to the output.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from orjson import dumps, loads
from typing_extensions import override

INPUT = Path(os.environ["MILLSTREAM_BENCH_INPUT"])
OUTPUT = Path(os.environ["MILLSTREAM_BENCH_OUTPUT"])
# FileSink calls fsync for each batch: large ones are in its favour.
LINES_A_BATCH = 10_000
PARTS = 2


def change(line: str | bytes) -> bytes:
    """The work that every contender does to an event."""
    event = loads(line)
    event["data"]["paid"] = True
    return dumps(event)


def change_text(lines: list[str]) -> list[tuple[str, str]]:
    """A batch in the shape that FileSink takes."""
    return [("all", change(line).decode()) for line in lines]


def change_bytes(lines: list[bytes]) -> list[bytes]:
    """A batch as bytes."""
    return [change(line) for line in lines]


class HalfPartition(StatefulSourcePartition[bytes, int]):
    """The lines that begin between two positions of the file."""

    def __init__(self, start: int, end: int) -> None:
        self._lines = self._read(start, end)

    @staticmethod
    def _read(start: int, end: int) -> Iterator[bytes]:
        with INPUT.open("rb") as source:
            position = start
            if start:
                source.seek(start - 1)
                position += len(source.readline()) - 1
            for line in source:
                if position >= end:
                    return
                position += len(line)
                yield line

    @override
    def next_batch(self) -> list[bytes]:
        batch = list(islice(self._lines, LINES_A_BATCH))
        if not batch:
            raise StopIteration
        return batch

    @override
    def snapshot(self) -> int:
        return 0


class HalvesSource(FixedPartitionedSource[bytes, int]):
    """Each worker reads its part of the file."""

    @override
    def list_parts(self) -> list[str]:
        return [str(part) for part in range(PARTS)]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> HalfPartition:
        size, part = INPUT.stat().st_size, int(for_part)
        return HalfPartition(size * part // PARTS, size * (part + 1) // PARTS)


class AppendPartition(StatelessSinkPartition[bytes]):
    """A batch is one write in append mode, so that workers do not cut each other's lines."""

    def __init__(self) -> None:
        self._file = OUTPUT.open("ab", buffering=0)

    @override
    def write_batch(self, items: list[bytes]) -> None:
        self._file.write(b"\n".join(items) + b"\n")

    @override
    def close(self) -> None:
        self._file.close()


class AppendSink(DynamicSink[bytes]):
    """All workers append to one file."""

    @override
    def build(self, step_id: str, worker_index: int, worker_count: int) -> AppendPartition:
        return AppendPartition()


def one() -> Dataflow:
    """One worker, with bytewax's own connectors."""
    flow = Dataflow("one")
    lines = op.input("lines", flow, FileSource(INPUT, batch_size=LINES_A_BATCH))
    op.output("output", op.flat_map_batch("change", lines, change_text), FileSink(OUTPUT))
    return flow


def two() -> Dataflow:
    """Two workers, each on its half."""
    flow = Dataflow("two")
    lines = op.input("lines", flow, HalvesSource())
    op.output("output", op.flat_map_batch("change", lines, change_bytes), AppendSink())
    return flow
