"""From a source's chunks to batches of events: unpack, tell the format, cut, decode.

One reader a source. What is held at a time: a chunk that was read, its blocks, and the start of
the record that it ends in.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

from msgspec import Struct

from .batch import DEAD, Batch
from .codecs import (
    Block,
    CsvCutter,
    Cutter,
    Decoded,
    Decoder,
    Decompressor,
    Format,
    JsonCutter,
    LineCutter,
    Start,
    UnreadableInput,
    decompressor,
    guess_delimiter,
    is_plain,
    make_decoder,
    parse_header,
    plain_text,
    sniff_format,
    strip_bom,
)
from .connectors.base import ConnectorError, Source
from .event import FieldMapping
from .fingerprint import Fingerprint
from .order import Order, lanes_of

SNIFF_BYTES = 4096

_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"

Need = Literal["nothing", "keys", "events"]

T = TypeVar("T")


class Known(Struct, frozen=True):
    """What the start of an input has told."""

    format: Format | None = None
    header: tuple[str, ...] = ()
    delimiter: str | None = None
    packed: bool = False


class Reader:
    """Blocks of one source, and the decoder that fits them once the first one is there."""

    def __init__(
        self,
        source: Source,
        mapping: FieldMapping,
        need: Need,
        *,
        format: Format | None,
        delimiter: str | None,
        partition: int,
        chosen_key: str | None = None,
        cloud_events: bool = False,
        sniff: Callable[[bytes], Format] = sniff_format,
    ) -> None:
        """`sniff` tells the format by the first bytes of the plain content."""
        self._sniff = sniff
        self.source, self.partition = source, partition
        self.format: Format | None = format
        self.header: tuple[str, ...] = ()
        self.delimiter = delimiter
        self.decoder: Decoder | None = None
        self.cloud_events = cloud_events
        self.fingerprint: Fingerprint | None = None
        """Of a stream that can't be rewound, when a checkpoint is kept."""
        self._skip = 0  # bytes of text before those that are wanted
        self._plain_bytes = 0
        self._packed = False  # what is known of it before anything is read
        self._mapping, self._need, self._chosen_key = mapping, need, chosen_key
        self._unpack: Decompressor | None = None
        self._cutter: Cutter | None = None
        self._mark = ""
        self._head = b""

    @property
    def known(self) -> Known:
        """What is known of the input so far."""
        packed = not is_plain(self._unpack) if self._unpack is not None else self._packed
        return Known(self.format, self.header, self.delimiter, packed)

    def recall(self, known: Known) -> None:
        """Take over what an earlier reading has told."""
        self.format, self.header = known.format, known.header
        self.delimiter, self._packed = known.delimiter, known.packed
        if known.format is not None:
            self.decoder = self._make_decoder()

    def go_on(self, known: Known, start: Start) -> None:
        """Take over what is known, and give the records from `start` on.

        What can't be rewound, and what is packed, is read from its beginning all the same; so is a
        JSON document, of which all records are given again.
        """
        self.recall(known)
        if known.format == "json":
            return
        if known.format == "csv":
            self._cutter = CsvCutter(delimiter=self.delimiter, start=start)
        else:
            self._cutter = LineCutter(start=start)
        if self.source.can_seek and not known.packed:
            self.source.seek(start.offset)
            self._unpack = plain_text()
        else:
            self._skip = start.offset

    async def blocks(self) -> AsyncIterator[Block]:
        """Whole records, in order. Raises ConnectorError, UnreadableInput."""
        try:
            async with closing(self._blocks()) as blocks:
                async for block in blocks:
                    yield block
        except UnreadableInput as error:
            name = "standard input" if self.source.name == "-" else self.source.name
            raise UnreadableInput(f"{name}: {error}") from None

    async def _blocks(self) -> AsyncIterator[Block]:
        stored = b""
        async with closing(self.source.chunks()) as chunks:
            async for chunk in chunks:
                if self.fingerprint is not None:
                    self.fingerprint.feed(chunk)
                if self._unpack is None:
                    stored += chunk
                    if len(stored) < 4:
                        continue
                    self._unpack, chunk = decompressor(stored), stored
                pieces = self._unpack.feed(chunk)
                while (plain := await self._next_of(pieces)) is not None:
                    for block in self._cut(self._wanted(plain)):
                        yield block
                if self.fingerprint is not None:
                    self.fingerprint.unpacked(self._plain_bytes)
        if self._unpack is None:
            self._unpack = decompressor(stored)
            for plain in self._unpack.feed(stored):
                for block in self._cut(self._wanted(plain)):
                    yield block
        for block in self._finish():
            yield block

    async def _next_of(self, pieces: Iterator[bytes]) -> bytes | None:
        assert self._unpack is not None
        if is_plain(self._unpack):
            return next(pieces, None)
        return await asyncio.to_thread(next, pieces, None)

    def _wanted(self, plain: bytes) -> bytes:
        """A piece of text without what comes before the records that are wanted."""
        self._plain_bytes += len(plain)
        if self._skip:
            skipped = min(self._skip, len(plain))
            self._skip -= skipped
            return plain[skipped:]
        return plain

    def _cut(self, plain: bytes, *, last: bool = False) -> list[Block]:
        """Feed the cutter, once the first bytes have told which one it is."""
        if self._cutter is None:
            self._head += plain
            # A whole first line tells; blank ones, and the byte order mark, tell nothing.
            enough = len(self._head) >= SNIFF_BYTES or b"\n" in self._head.lstrip(_BEFORE_TEXT)
            if not (enough or last):
                return []
            plain, bom, self._head = strip_bom(self._head), len(self._head), b""
            start = Start(bom - len(plain), 1)
            if self.format is None:
                self.format = self._sniff(plain)
                if self.cloud_events and self.format == "csv":
                    self.format = "jsonl"  # whatever it is, it is refused line by line
            if self.format == "csv":
                first_line = plain.lstrip(b"\r\n").split(b"\n", 1)[0]
                mark = self.delimiter or guess_delimiter(first_line) or ","
                self._cutter, self._mark = CsvCutter(delimiter=mark, start=start), mark
            elif self.format == "json":
                self._cutter = JsonCutter()
            else:
                self._cutter = LineCutter(start=start)
        return self._without_header(self._cutter.feed(plain))

    def _finish(self) -> list[Block]:
        assert self._unpack is not None
        if self.fingerprint is not None:
            self.fingerprint.finish()
        blocks = self._cut(b"", last=True)
        assert self._cutter is not None
        blocks += self._without_header(self._cutter.finish())
        self._unpack.finish()
        return blocks

    def _without_header(self, blocks: list[Block]) -> list[Block]:
        if self.format != "csv" or self.header or not blocks:
            if self.decoder is None and blocks:
                self.decoder = self._make_decoder()
            for block in blocks:
                if block.may_have_blanks and self.format != "csv":
                    block.drop_blanks()
            return blocks
        first = blocks[0]
        first.drop_blanks(self._mark)
        if not first.count:
            return self._without_header(blocks[1:])
        lines = first.lines()
        self.header, self.delimiter = parse_header(lines[0].removesuffix(b"\r"), self.delimiter)
        self._check_key_column()
        self.decoder = self._make_decoder()
        rest = _without_first(first)
        return [rest, *blocks[1:]] if rest.count else blocks[1:]

    def adopt(self, header: Sequence[str]) -> None:
        """Take blocks that were cut elsewhere, under `header` when they are rows of CSV.

        Raises ConnectorError.
        """
        self.header = tuple(header)
        if header:
            self._check_key_column()
        self.decoder = self._make_decoder()

    def _make_decoder(self) -> Decoder:
        return make_decoder(
            self._mapping,
            header=self.header,
            delimiter=self.delimiter,
            keys=self._need != "nothing",
            events=self._need == "events",
            partition=self.partition,
            cloud_events=self.cloud_events,
        )

    def _check_key_column(self) -> None:
        if self._chosen_key is not None and self._chosen_key not in self.header:
            near = difflib.get_close_matches(self._chosen_key, self.header, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConnectorError(
                f"{self.source.name} has no column {self._chosen_key!r}{hint} "
                f"(its columns: {', '.join(self.header)})"
            )

    def decode(self, block: Block) -> Decoded:
        """The columns of a block, as far as they are needed."""
        assert self.decoder is not None
        return self.decoder.decode(block)

    def batch(self, decoded: Decoded, indexes: Sequence[int], order: Order) -> Batch:
        """The batch that a decoded block makes; `indexes` are the numbers of its events."""
        count = len(decoded.lines)
        values = None
        if decoded.events is not None or decoded.bad:
            values = list(decoded.events or decoded.lines)
            for place in decoded.bad:
                values[place] = DEAD
        return Batch(
            indexes,
            time.monotonic_ns(),
            lanes_of(order, decoded.keys, self.partition, count),
            values,
            decoded.lines,
            singles=values is not None and not decoded.bad,
            partition=self.partition,
            bad={indexes[place]: bad for place, bad in decoded.bad.items()} or None,
        )


def _without_first(block: Block) -> Block:
    lines = block.lines()[1:]
    numbers = block.line_numbers
    next_line = numbers[1] if numbers and len(numbers) > 1 else block.first_line + 1
    bad = {place - 1: why for place, why in (block.bad or {}).items() if place}
    return Block(
        len(lines),
        next_line,
        None if block.data is None else b"\n".join(lines),
        lines,
        numbers[1:] if numbers else None,
        bad or None,
        start=block.start,
    )


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close what gives `items` when the block ends, however it ends: a file stands behind it."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


class Stream:
    """The blocks of a reader that are still to come."""

    def __init__(
        self,
        reader: Reader,
        at: int = 0,
        change: Callable[[Reader, Block], Block] | None = None,
    ) -> None:
        """`change`: what each block goes through first, when the input is disturbed on purpose."""
        self.reader = reader
        self._change = change
        self.at = at
        """How many records of the input come before the next block."""
        self._blocks = reader.blocks()
        self._back: Block | None = None

    async def next(self) -> Block | None:
        """The next block; None at the end."""
        if self._back is not None:
            block, self._back = self._back, None
            return block
        following: Block | None = await anext(self._blocks, None)
        if self._change is not None and following is not None:
            return self._change(self.reader, following)
        return following

    def put_back(self, block: Block) -> None:
        """Let it be the next one."""
        self._back = block

    async def close(self) -> None:
        """No more is wanted."""
        close = getattr(self._blocks, "aclose", None)
        if close is not None:
            await close()


async def side_by_side(streams: Sequence[Stream]) -> AsyncIterator[tuple[Reader, Block | None]]:
    """Blocks of all streams as they come, each one's in order; None when one has ended.

    Closing the streams is left to the caller.
    """
    queue: asyncio.Queue[tuple[Reader, Block | None] | BaseException]
    queue = asyncio.Queue(len(streams))

    async def pull(stream: Stream) -> None:
        try:
            while (block := await stream.next()) is not None:
                await queue.put((stream.reader, block))
            await queue.put((stream.reader, None))
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.ensure_future(pull(stream)) for stream in streams]
    try:
        left = len(streams)
        while left:
            got = await queue.get()
            if isinstance(got, BaseException):
                raise got
            left -= got[1] is None
            yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def one_by_one(streams: Sequence[Stream]) -> AsyncIterator[tuple[Reader, Block | None]]:
    """Blocks of the streams, one after another; None when one has ended."""
    for stream in streams:
        while (block := await stream.next()) is not None:
            yield stream.reader, block
        yield stream.reader, None
