"""What moves between the parts of a run: input events by column, with their results so far.

Pure. A batch keeps the identity of its input events (number, lane, line) whatever the stages make
of them, so that each is accounted for once, and its results stay together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from msgspec import Struct

from .codecs import Bad, Block
from .order import Lane


class _Dead:
    """The value of an event that became a dead letter."""

    def __repr__(self) -> str:
        return "DEAD"


DEAD: Final[Any] = _Dead()


Value = Any
"""What has become of one input event: an Event, a list of them, None (filtered), or DEAD."""

DEAD_COUNT: Final = -1


class Batch(Struct, gc=False):
    """Input events on their way; all columns have one length, and `indexes` is their identity.

    The results so far stand in `values`; when that is None they are the lines themselves as they
    came, or, after a stage of processes, packed in `out`: lines joined by newlines, `counts` of
    them an event (None: one each).
    """

    indexes: Sequence[int]
    ready_ns: int | Sequence[int]
    """When the stage before ended with them, or when they were admitted."""
    lanes: list[Lane] | None = None
    values: list[Value] | None = None
    roots: list[bytes] | None = None
    block: Block | None = None
    singles: bool = False
    """Whether every value is known to be one event."""
    partition: int = 0
    out: bytes | None = None
    counts: list[int] | None = None
    encoded: bool = False
    """Whether values are output lines already (bytes) in place of events."""
    bad: dict[int, Bad] | None = None
    """Number -> why it is no event, of those that came malformed."""
    partitions: list[int] | None = None
    """Of each event, where a batch was joined of several partitions."""

    def __len__(self) -> int:
        return len(self.indexes)

    def lines(self) -> list[bytes]:
        """The input events as they came."""
        if self.roots is None:
            assert self.block is not None
            self.roots = self.block.lines()
        return self.roots

    def part(self, start: int, stop: int) -> Batch:
        """The events start..stop; all of them: the batch itself."""
        assert self.out is None, "a packed batch can't be cut"
        if start == 0 and stop == len(self):
            return self
        ready = self.ready_ns
        return Batch(
            self.indexes[start:stop],
            ready if isinstance(ready, int) else ready[start:stop],
            None if self.lanes is None else self.lanes[start:stop],
            None if self.values is None else self.values[start:stop],
            self.lines()[start:stop],
            singles=self.singles,
            partition=self.partition,
            encoded=self.encoded,
            bad=self.bad,
        )

    def at(self, places: Sequence[int]) -> Batch:
        """The events at some places, in that order; lines that nobody has decoded stay a block.

        Of a batch that is on its way to the first stage.
        """
        lines, values, ready, block = self.lines(), self.values, self.ready_ns, self.block
        roots = [lines[place] for place in places]
        if values is None and block is not None:
            data = None if block.data is None else b"\n".join(roots)
            block = Block(len(roots), block.first_line, data, roots)
        return Batch(
            [self.indexes[place] for place in places],
            ready if isinstance(ready, int) else [ready[place] for place in places],
            None if self.lanes is None else [self.lanes[place] for place in places],
            None if values is None else [values[place] for place in places],
            roots,
            block if values is None else None,
            singles=self.singles,
            partition=self.partition,
            bad=self.bad,
        )


def by_partition(batch: Batch) -> Iterator[Batch]:
    """The batch itself, or, where it was joined of several partitions, each run of one of them."""
    if batch.partitions is None:
        yield batch
        return
    start = 0
    for partition, run in groupby(batch.partitions):
        stop = start + len(list(run))
        part = batch.part(start, stop)
        part.partition = partition
        yield part
        start = stop


def pack_lines(values: Sequence[Value]) -> tuple[bytes, list[int] | None]:
    """Encoded values joined, and how many lines each has (None: one each)."""
    try:
        return b"\n".join(values), None
    except TypeError:
        pass
    lines: list[bytes] = []
    counts: list[int] = []
    for value in values:
        if type(value) is bytes:
            lines.append(value)
            counts.append(1)
        elif type(value) is list:
            lines += value
            counts.append(len(value))
        else:
            counts.append(0 if value is None else DEAD_COUNT)
    return b"\n".join(lines), counts


def split_out(out: bytes, counts: Sequence[int] | None) -> list[list[bytes] | None]:
    """The packed lines of each event; None for a dead one, [] for a filtered one."""
    lines = out.split(b"\n")
    if counts is None:
        return [[line] for line in lines]
    at = 0
    split: list[list[bytes] | None] = []
    for count in counts:
        if count < 0:
            split.append(None)
        else:
            split.append(lines[at : at + count])
            at += count
    return split


def is_nothing(value: Value) -> bool:
    """Whether there is nothing to handle: filtered out, or dead."""
    return value is None or value is DEAD
