"""Reading: the same records whatever the chunks, the format and the packing."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.codecs import UnreadableInput
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.event import FieldMapping
from millstream.engine.reading import Reader, Stream, one_by_one, side_by_side


class Chunks:
    """A source of given chunks."""

    def __init__(self, *chunks: bytes, name: str = "in") -> None:
        self.name, self.bytes_read = name, 0
        self.size: int | None = None
        self._chunks, self.stopped = chunks, False

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            if self.stopped:
                return
            await asyncio.sleep(0)
            yield chunk

    def stop(self) -> None:
        self.stopped = True


class Broken(Chunks):
    """A source that fails after its chunks."""

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in super().chunks():
            yield chunk
        raise ConnectorError(f"{self.name} broke")


def reader(source: Chunks, *, partition: int = 0, **options: Any) -> Reader:
    given: dict[str, Any] = {"format": None, "delimiter": None, "chosen_key": None, **options}
    return Reader(source, FieldMapping.of(), "events", partition=partition, **given)


def read(source: Chunks, **options: Any) -> list[tuple[int, Any]]:
    """Line number and data (or why there is none) of each record."""

    async def all_of() -> list[tuple[int, Any]]:
        one = reader(source, **options)
        got: list[tuple[int, Any]] = []
        async for block in one.blocks():
            decoded = one.decode(block)
            numbers = block.line_numbers or range(block.first_line, block.first_line + block.count)
            for place, number in enumerate(numbers):
                bad = decoded.bad.get(place)
                assert decoded.events is not None
                got.append((number, bad.message if bad else decoded.events[place].data))
        return got

    return asyncio.run(all_of())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip members": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "zstd": zstandard.ZstdCompressor().compress,
}
OBJECTS = [{"key": "a", "t": 'ü "\\ ]}\n'}, {"key": 2, "data": [1, {}]}, {"key": None}]
LINES = b"\xef\xbb\xbf" + b"\r\n\n".join(json.dumps(each).encode() for each in OBJECTS)
DOCUMENT = b"\xef\xbb\xbf\n" + json.dumps(OBJECTS, indent=2, ensure_ascii=False).encode()
TABLE = b'\xef\xbb\xbfkey;"a;b"\r\n1;"x\r\n""y"""\r\n\r\n2;5" z\r\n3'


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("text", [LINES, DOCUMENT, TABLE], ids=["lines", "document", "table"])
@given(places=st.lists(st.integers(0, 10**6), max_size=12), every_byte=st.booleans())
def test_chunks_of_any_size_give_the_records_of_the_whole(
    text: bytes, packing: str, places: list[int], every_byte: bool
) -> None:
    stored = PACKINGS[packing](text)
    expected = {
        LINES: [(1, OBJECTS[0]), (3, [1, {}]), (5, OBJECTS[2])],
        DOCUMENT: [(3, OBJECTS[0]), (7, [1, {}]), (14, OBJECTS[2])],
        TABLE: [
            (2, {"key": "1", "a;b": 'x\r\n"y"'}),
            (5, {"key": "2", "a;b": '5" z'}),
            (6, "the row has 1 fields, the header 2"),
        ],
    }[text]

    got = read(Chunks(*cut(stored, range(len(stored)) if every_byte else places)))

    assert got == expected


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"\xef\xbb\xbf", b" \r\n\t\n", gzip.compress(b"", mtime=0)]
)
def test_nothing_is_no_record(text: bytes) -> None:
    assert read(Chunks(text)) == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_less_than_can_tell_the_packing_is_read_all_the_same(size: int) -> None:
    assert read(Chunks(b"123"[:size])) == [(1, int(b"123"[:size]))]


def test_a_first_line_longer_than_a_look_is_told_by_its_start() -> None:
    long = "x" * 100_000

    got = read(Chunks(*cut(json.dumps({"key": long}).encode() + b"\n", range(0, 100_000, 999))))

    assert got == [(1, {"key": long})]


@pytest.mark.parametrize("name", ["in", "-"])
def test_what_can_not_be_read_names_its_source(name: str) -> None:
    source = Chunks(gzip.compress(b"1\n")[:-1], name=name)

    with pytest.raises(UnreadableInput, match=r"^(in|standard input): the gzip data is cut short"):
        read(source)


def test_a_key_column_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConnectorError, match="did you mean 'tailnum'"):
        read(Chunks(b"tailnum,n\n1,2\n"), chosen_key="tail_num")


# --- several at once


def gather(many: Callable[[Sequence[Stream]], AsyncIterator[Any]], *sources: Chunks) -> list[Any]:
    async def all_of() -> list[Any]:
        streams = [Stream(reader(source, partition=n)) for n, source in enumerate(sources)]
        return [
            (one.partition, line)
            async for one, block in many(streams)
            if block is not None
            for line in block.lines()
        ]

    return asyncio.run(all_of())


def test_one_by_one_keeps_the_order_of_the_inputs() -> None:
    got = gather(one_by_one, Chunks(b"1\n2\n"), Chunks(b"3\n"), Chunks(b""), Chunks(b"4"))

    assert got == [(0, b"1"), (0, b"2"), (1, b"3"), (3, b"4")]


def test_side_by_side_keeps_the_order_of_each() -> None:
    got = gather(side_by_side, *(Chunks(*[b"%d\n" % n for n in range(9)]) for _ in range(4)))

    for partition in range(4):
        own = [line for at, line in got if at == partition]
        assert own == [b"%d" % n for n in range(9)]
    assert len(got) == 36


def test_side_by_side_fails_when_one_does() -> None:
    with pytest.raises(ConnectorError, match="second broke"):
        gather(side_by_side, Chunks(b"1\n"), Broken(b"2\n", name="second"))
