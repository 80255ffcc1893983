"""Records that are read again get the numbers they had: whatever the blocks, format, packing."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.codecs import START, Block, Start, UnreadableInput
from millstream.engine.event import FieldMapping
from millstream.engine.frontier import Frontier
from millstream.engine.ledger import Ledger, Row, read_again, streams_of
from millstream.engine.reading import Known, Reader, Stream


class Stored:
    """An input in memory, given in chunks of some sizes, the last one over and over."""

    def __init__(self, content: bytes, sizes: Sequence[int], *, can_seek: bool) -> None:
        self.name, self.size, self.can_seek = "in", len(content), can_seek
        self.bytes_read = 0
        self._content, self._sizes = content, sizes

    def seek(self, offset: int) -> None:
        assert self.can_seek
        self.bytes_read = offset

    async def chunks(self) -> AsyncIterator[bytes]:
        turn = 0
        while self.bytes_read < len(self._content):
            size = self._sizes[min(turn, len(self._sizes) - 1)]
            chunk = self._content[self.bytes_read : self.bytes_read + size]
            self.bytes_read += len(chunk)
            turn += 1
            yield chunk

    def stop(self) -> None:
        raise AssertionError("nobody stops it")


@dataclass
class Input:
    """An input and the records that are in it."""

    content: bytes
    records: list[bytes]
    can_seek: bool


@dataclass
class Kept:
    """What a sitting leaves to the next."""

    known: list[Known]
    read: int = 0
    rows: list[Row] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    done: Frontier = field(default_factory=Frontier)
    numbers: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    """Number -> reader and record."""


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    """JSON Lines with blank lines, CSV with line ends in it, or a JSON document; packed or not."""
    count = draw(st.integers(0, 12))
    kind = draw(st.sampled_from(["jsonl", "csv", "json"]))
    lengths = draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))
    if kind == "csv":
        ends = draw(
            st.lists(st.sampled_from([b"", b"\nx", b"\n\ny"]), min_size=count, max_size=count)
        )
        records = [
            b'%d,"%s"' % (n, b"z" * length + end)
            for n, (length, end) in enumerate(zip(lengths, ends, strict=True))
        ]
        text = b"n,text\n" + b"".join(record + b"\n" for record in records)
    else:
        records = [b'{"n": %d, "p": "%s"}' % (n, b"z" * size) for n, size in enumerate(lengths)]
        blanks = st.sampled_from([b"", b"\n", b"  \n"])
        text = b"".join(draw(blanks) + record + b"\n" for record in records)
        if kind == "json":
            text = b"[" + b",\n".join(records) + b"]"
    if draw(st.booleans()) and kind != "json":
        text = b"\xef\xbb\xbf" + text
    packed = draw(st.booleans())
    return Input(gzip.compress(text) if packed else text, records, draw(st.booleans()))


async def sit(all_inputs: Sequence[Input], kept: Kept, data: st.DataObject) -> None:
    """Read on from what is kept, for a while, and do some of it."""
    sizes = st.lists(st.integers(1, 60), min_size=1, max_size=5)
    readers = [
        Reader(
            Stored(each.content, data.draw(sizes), can_seek=each.can_seek),
            FieldMapping.of(),
            "nothing",
            format=None,
            delimiter=None,
            partition=place,
        )
        for place, each in enumerate(all_inputs)
    ]
    streams = streams_of(readers, kept.known, kept.rows, kept.ended)
    ledger = Ledger(kept.rows, kept.read)
    await check_again(kept, streams)
    await number_more(kept, ledger, streams, data)
    floor = data.draw(st.integers(0, kept.read))
    undone = [n for n in range(kept.read) if not kept.done.has(n)]
    kept.done.add([n for n in undone if n < floor or data.draw(st.booleans())])
    ledger.prune(kept.done.floor)
    kept.rows = carried(ledger.rows(kept.ended))
    check_all_are_known(kept)
    kept.known = [
        reader.known if reader.format is not None else before
        for reader, before in zip(readers, kept.known, strict=True)
    ]


def check_all_are_known(kept: Kept) -> None:
    """That of each reader that may have more, a row says how many of its records have numbers."""
    of_reader = [reader for reader, _ in kept.numbers.values()]
    ends = {row.reader: row.at + row.count for row in kept.rows}
    for reader in set(of_reader) - kept.ended:
        assert ends[reader] == of_reader.count(reader)


async def check_again(kept: Kept, streams: Sequence[Stream]) -> None:
    """That all that is not done comes again, once, in order, under its number."""
    seen: dict[int, tuple[int, bytes]] = {}
    async for reader, block, first in read_again(kept.rows, streams):
        for place, line in enumerate(block.lines()):
            assert first + place > max(seen, default=-1)
            seen[first + place] = reader.partition, line

    assert seen == {n: kept.numbers[n] for n in seen}
    assert {n for n in range(kept.read) if not kept.done.has(n)} <= set(seen)


async def number_more(
    kept: Kept, ledger: Ledger, streams: Sequence[Stream], data: st.DataObject
) -> None:
    """Number blocks of streams in any order."""
    left = [stream for stream in streams if stream.reader.partition not in kept.ended]
    while left and data.draw(st.integers(0, 9)):
        stream = data.draw(st.sampled_from(left))
        block = await stream.next()
        if block is None:
            kept.ended.add(stream.reader.partition)
            left.remove(stream)
            continue
        stream.reader.decode(block)  # takes out the blank lines of CSV
        if block.count:
            ledger.add(kept.read, stream.reader.partition, block)
        for line in block.lines():
            kept.numbers[kept.read] = stream.reader.partition, line
            kept.read += 1


def carried(rows: list[Row]) -> list[Row]:
    """As they come out of a checkpoint."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(rows), type=list[Row])


@given(st.lists(inputs(), min_size=1, max_size=3), st.data())
def test_records_keep_their_numbers_over_any_sittings(
    all_inputs: list[Input], data: st.DataObject
) -> None:
    kept = Kept([Known() for _ in all_inputs])

    async def all_sittings() -> None:
        for _ in range(data.draw(st.integers(1, 4))):
            await sit(all_inputs, kept, data)

    asyncio.run(all_sittings())

    for place, each in enumerate(all_inputs):
        own = [line for reader, line in kept.numbers.values() if reader == place]
        assert own == each.records[: len(own)]
        assert place not in kept.ended or own == each.records


def block_of(count: int, offset: int) -> Block:
    return Block(count, 1, b"\n".join([b"1"] * count), start=Start(offset, 1))


def test_small_blocks_that_follow_one_another_are_one_row() -> None:
    ledger = Ledger()
    for number in range(10_000):
        ledger.add(number, 0, block_of(1, number * 2))

    assert len(ledger) == 3
    assert sum(row.count for row in ledger.rows()) == 10_000


def test_of_a_reader_that_may_have_more_the_last_row_stays() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger.add(number, 0, block_of(1, number * 100_000))
    ledger.prune(2)

    assert [(row.first, row.at) for row in ledger.rows()] == [(2, 2)]
    ledger.prune(3)
    assert [(row.first, row.at) for row in ledger.rows()] == [(2, 2)]


def test_of_a_reader_that_has_ended_and_is_done_nothing_is_kept() -> None:
    ledger = Ledger()
    for reader in (0, 1):
        ledger.add(reader * 5, reader, block_of(5, 0))
    ledger.prune(10)

    assert (len(ledger), ledger.rows({0, 1})) == (0, [])
    assert [row.reader for row in ledger.rows({0})] == [1]


def test_the_start_of_an_input_is_read_from_its_very_beginning() -> None:
    row = Row(first=7, reader=0, at=3, count=4, offset=100, line=9, before=3)

    assert row.restart == (0, START)


@pytest.mark.parametrize(
    ("text", "kind", "row"),
    [
        (b"[" + b",".join(b'{"n": %d}' % n for n in range(9)) + b"]", "json", (3, 0, 1, 0)),
        (b"".join(b'{"n": %d}\n' % n for n in range(9)), "jsonl", (3, 9, 2, 2)),
        (b"n,m\n" + b"".join(b"%d,0\n" % n for n in range(9)), "csv", (3, 8, 3, 2)),
    ],
)
def test_a_row_may_begin_and_end_within_a_block(
    text: bytes, kind: Any, row: tuple[int, int, int, int]
) -> None:
    rows = [Row(70, 0, row[0], 2, *row[1:])]
    known = Known(kind, ("n", "m") if kind == "csv" else (), "," if kind == "csv" else None)
    source = Stored(text, [1000], can_seek=True)
    one = Reader(source, FieldMapping.of(), "nothing", format=None, delimiter=None, partition=0)

    async def again() -> tuple[list[tuple[int, list[bytes]]], list[bytes]]:
        (stream,) = streams_of([one], [known], rows, set())
        seen = [(first, block.lines()) async for _, block, first in read_again(rows, [stream])]
        rest = await stream.next()
        return seen, rest.lines() if rest is not None else []

    seen, rest = asyncio.run(again())
    records = [b"%d,0" % n if kind == "csv" else b'{"n": %d}' % n for n in range(9)]
    assert seen == [(70, records[3:5])]
    assert rest == records[5:]


def test_an_input_that_has_become_shorter_is_refused() -> None:
    async def again() -> None:
        source = Stored(b'{"n": 0}\n', [100], can_seek=False)
        one = Reader(source, FieldMapping.of(), "nothing", format=None, delimiter=None, partition=0)
        rows = [Row(0, 0, 0, 5, 0, 1, 0)]
        async for _ in read_again(rows, streams_of([one], [Known()], rows, set())):
            pass

    with pytest.raises(UnreadableInput, match="it has 1 events, but 5 were read of it before"):
        asyncio.run(again())


def test_rows_cross_as_arrays() -> None:
    row = Row(1, 2, 3, 4, 5, 6, 7)

    whole: Any = msgspec.json.decode(msgspec.json.encode(row))
    assert whole == [1, 2, 3, 4, 5, 6, 7]
    assert json.dumps(whole)
