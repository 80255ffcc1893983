"""Bytes to events and back: compression, record cutting, JSON Lines, CSV, JSON documents.

Pure: nothing here opens a file or waits. A cutter is fed chunks of any size and gives blocks of
whole records; a decoder turns a block into columns (lines, keys, events) and names what it can't
read, with its place.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, defstruct, field

from .event import (
    ATTRIBUTES,
    Event,
    FieldMapping,
    Guarded,
    Made,
    Record,
    Row,
    Scalar,
    decode_json,
    decode_members,
    encode_json,
    lookup_attribute,
    to_scalar,
)

BLOCK_BYTES: Final = 64 * 1024
"""What a block aims at: larger ones are slower, since they are mapped afresh every time."""

MAX_RECORD_BYTES: Final = 256 * 1024 * 1024
"""A longer line or element is malformed input; what is kept of it is its start."""

KEPT_OF_OVERSIZED: Final = 1024

Format = Literal["jsonl", "csv", "json", "kafka"]
"""`kafka`: what its console consumer prints; only audits read it."""


class UnreadableInput(Exception):
    """The input as a whole can't be read: cut short, or in an encoding that is not UTF-8."""


# --- compression ---------------------------------------------------------------------------


PIECE_BYTES: Final = 256 * 1024
_ZSTD_BYTES: Final = 512
"""So many stored bytes are unpacked at a time: 16 MiB at most, since 4 may hold 128 KiB."""


class Decompressor(Protocol):
    """Fed stored chunks; gives plain pieces, to be taken before the next chunk.

    A piece has about PIECE_BYTES, whatever the chunk unpacks to. `finish()` raises UnreadableInput
    when the data was cut short.
    """

    def feed(self, chunk: bytes) -> Iterator[bytes]: ...
    def finish(self) -> None: ...


class _Plain:
    def feed(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def finish(self) -> None:
        pass


class _Unpacking(Protocol):
    """What unpacks one gzip member or zstd frame."""

    @property
    def is_over(self) -> bool: ...
    @property
    def after(self) -> bytes: ...
    def pieces(self, chunk: bytes) -> Iterator[bytes]: ...


class _GzipMember:
    def __init__(self) -> None:
        self._at = zlib.decompressobj(wbits=31)

    @property
    def is_over(self) -> bool:
        return self._at.eof

    @property
    def after(self) -> bytes:
        """What was fed beyond the end."""
        return self._at.unused_data

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        while chunk and not self._at.eof:
            yield self._at.decompress(chunk, PIECE_BYTES)
            chunk = self._at.unconsumed_tail


class _ZstdFrame:
    def __init__(self) -> None:
        import zstandard

        self._at = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        self._rest = b""

    @property
    def is_over(self) -> bool:
        return self._at.eof

    @property
    def after(self) -> bytes:
        """What was fed beyond the end."""
        return self._at.unused_data + self._rest

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        pieces: list[bytes] = []
        size = at = 0
        while at < len(chunk) and not self._at.eof:
            pieces.append(self._at.decompress(chunk[at : at + _ZSTD_BYTES]))
            at += _ZSTD_BYTES
            size += len(pieces[-1])
            if size >= PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        self._rest = chunk[at:]
        yield b"".join(pieces)


class _Members:
    """A stream of concatenated gzip members or zstd frames."""

    def __init__(self, name: str, new: Callable[[], _Unpacking], error: type[Exception]) -> None:
        self._name, self._new, self._error = name, new, error
        self._at: _Unpacking | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        while chunk:
            if self._at is None:
                chunk = chunk.lstrip(b"\0")  # gzip allows zero padding between members
                if not chunk:
                    return
                self._at = self._new()
            try:
                yield from self._at.pieces(chunk)
            except self._error as error:
                raise UnreadableInput(f"the {self._name} data is damaged: {error}") from None
            chunk = b""
            if self._at.is_over:
                chunk, self._at = self._at.after, None

    def finish(self) -> None:
        if self._at is not None:
            raise UnreadableInput(
                f"the {self._name} data is cut short; fetch the file again, or unpack what is there"
            )


def compression_of(head: bytes) -> Literal["gzip", "zstd"] | None:
    """Told by the first four bytes of the content, never by a name."""
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if head[:4] == b"\x28\xb5\x2f\xfd" else None


def decompressor(head: bytes) -> Decompressor:
    """The one that fits content that begins with `head` (four bytes or more)."""
    match compression_of(head):
        case "gzip":
            return _Members("gzip", _GzipMember, zlib.error)
        case "zstd":
            import zstandard

            return _Members("zstd", _ZstdFrame, zstandard.ZstdError)
    return _Plain()


def plain_text() -> Decompressor:
    """For content that is known not to be packed."""
    return _Plain()


def is_plain(unpack: Decompressor) -> bool:
    """Whether nothing needs to be unpacked."""
    return isinstance(unpack, _Plain)


class Compressor(Protocol):
    """Fed plain chunks; `flush()` ends the stream."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor_for(name: str) -> Compressor | None:
    """By the name of the output: `.gz` or `.zst`, else None."""
    if name.endswith(".gz"):
        return zlib.compressobj(level=6, wbits=31)
    if name.endswith((".zst", ".zstd")):
        import zstandard

        return cast(Compressor, zstandard.ZstdCompressor(level=3).compressobj())
    return None


# --- blocks of whole records ---------------------------------------------------------------


class Start(NamedTuple):
    """A place where a record begins."""

    offset: int
    """Bytes of plain text before it."""
    line: int
    """The number of its first line, from 1."""


START: Final = Start(0, 1)


class Times(Struct, frozen=True, gc=False):
    """When events were due and when they were released, by column (numpy; ns, monotonic)."""

    intended_ns: Any
    released_ns: Any

    def at(self, places: Any) -> Times:
        """Those at some places."""
        return Times(self.intended_ns[places], self.released_ns[places])


class Block(Struct, gc=False):
    """Whole records, in order; drop_blanks() takes out the blank lines among them.

    `data` holds them joined by newlines when no record has a newline in it, else `records` holds
    them. `line_numbers` is None when they follow one another from `first_line`.
    """

    count: int
    first_line: int
    data: bytes | None = None
    records: list[bytes] | None = None
    line_numbers: list[int] | None = None
    bad: dict[int, str] | None = None
    """Place in the block -> why this record can't be one."""
    may_have_blanks: bool = False
    """Whether some line is blank, or begins with white space."""
    start: Start = START
    """Where in the plain text to cut again to come to these records."""
    before: int = 0
    """How many records come before these from there on."""
    ends: Any = None
    """Where in `data` the newlines stand (numpy), when that is known."""
    times: Times | None = None
    """Of records that a load generator has released."""

    def lines(self) -> list[bytes]:
        """The records, each as its own bytes."""
        if self.records is None:
            assert self.data is not None
            self.records = self.data.split(b"\n")
        return self.records

    def drop_blanks(self, delimiter: str = "") -> None:
        """Take blank lines out. A row of empty cells is none."""
        lines = self.lines()
        mark = delimiter.encode() or b"\n\n"  # which no blank line has in it
        kept = [place for place, line in enumerate(lines) if line.strip() or mark in line]
        if len(kept) == len(lines):
            return
        numbers = self.line_numbers or range(self.first_line, self.first_line + len(lines))
        places = {old: new for new, old in enumerate(kept)}
        self.records = [lines[place] for place in kept]
        self.line_numbers = [numbers[place] for place in kept]
        self.bad = {places[old]: why for old, why in (self.bad or {}).items() if old in places}
        self.count, self.may_have_blanks, self.ends = len(kept), False, None
        if self.data is not None:
            self.data = b"\n".join(self.records)

    def only(self, places: Sequence[int]) -> Block:
        """The records at some places, which rise, as a block of their own."""
        if len(places) == self.count:
            return self
        lines, numbers, bad = self.lines(), self.line_numbers, self.bad or {}
        records = [lines[place] for place in places]
        return Block(
            len(places),
            self.first_line,
            None if self.data is None else b"\n".join(records),
            records,
            [numbers[p] if numbers else self.first_line + p for p in places],
            {new: bad[old] for new, old in enumerate(places) if old in bad} or None,
            start=self.start,
            before=self.before + (places[0] if places else 0),
            times=None if self.times is None else self.times.at(list(places)),
        )


class Cutter(Protocol):
    """Fed chunks of plain bytes; gives blocks of whole records, the last one at `finish()`."""

    def feed(self, chunk: bytes) -> list[Block]: ...
    def finish(self) -> list[Block]: ...


class LineCutter:
    """Cuts at newlines; the last line needs none. `start`: where the first chunk is from."""

    def __init__(self, max_record_bytes: int = MAX_RECORD_BYTES, *, start: Start = START) -> None:
        self._max = max_record_bytes
        self._rest: list[bytes] = []  # the start of a line whose end has not come; bounded by _max
        self._rest_bytes = 0  # of the line so far, also of what is not kept
        self._offset, self._line = start  # where the line begins that has not ended
        self._skipping = False

    def feed(self, chunk: bytes) -> list[Block]:
        end = chunk.rfind(b"\n")
        if end < 0:
            self._keep(chunk)
            return []
        blocks: list[Block] = []
        start = 0
        if self._skipping or self._rest_bytes > BLOCK_BYTES:
            start = chunk.index(b"\n") + 1
            self._keep(chunk[: start - 1])
            blocks += self._whole_rest()
        elif self._rest:
            rest = b"".join(self._rest)
            self._rest, self._rest_bytes = [], 0
            chunk, end = rest + chunk, end + len(rest)
        aim = -(
            -(end - start) // max(1, round((end - start) / BLOCK_BYTES))
        )  # blocks alike in size
        while start <= end:
            stop = end if end - start <= aim else chunk.rfind(b"\n", start, start + aim)
            if stop < start:
                stop = chunk.index(b"\n", start)
            blocks += self._block(chunk[start:stop])
            start = stop + 1
        self._keep(chunk[end + 1 :])
        return blocks

    def finish(self) -> list[Block]:
        return self._whole_rest() if self._rest or self._skipping else []

    def _keep(self, piece: bytes) -> None:
        self._rest_bytes += len(piece)
        if self._skipping or not piece:
            return
        self._rest.append(piece)
        if self._rest_bytes > self._max:
            self._rest = [b"".join(self._rest)[:KEPT_OF_OVERSIZED]]
            self._skipping = True

    def _whole_rest(self) -> list[Block]:
        line, size = b"".join(self._rest), self._rest_bytes
        oversized = self._skipping
        self._rest, self._rest_bytes, self._skipping = [], 0, False
        if oversized:
            why = f"the line is longer than {self._max} bytes; its first {len(line)} are kept"
            start = self._advance(size, 1)
            return [Block(1, start.line, data=line, bad={0: why}, start=start)]
        return self._block(line)

    def _block(self, data: bytes) -> list[Block]:
        ends, has_blanks = _look_at_lines(data)
        start = self._advance(len(data), len(ends) + 1)
        block = Block(len(ends) + 1, start.line, data, may_have_blanks=has_blanks, start=start)
        block.ends = ends
        return [block]

    def _advance(self, size: int, lines: int) -> Start:
        """Go on behind a block, and the line end after it; gives where the block began."""
        start = Start(self._offset, self._line)
        self._offset += size + 1
        self._line += lines
        return start


def _look_at_lines(data: bytes) -> tuple[Any, bool]:
    """Where the newlines stand, and whether a line is blank or begins with white space.

    Numpy finds both at a tenth of the cost of looking for each.
    """
    import numpy as np

    text = np.frombuffer(data, dtype=np.uint8)
    ends = (text == 0x0A).nonzero()[0]
    begins_blank = not data or text[0] <= 0x20 or text[-1] == 0x0A
    return ends, bool(begins_blank or (text[ends + 1] <= 0x20).any())


class CsvCutter:
    """Cuts at newlines that stand outside quotes.

    As in the csv module, a quote opens only at the start of a field: `5" pipe` is a text.
    """

    def __init__(
        self,
        max_record_bytes: int = MAX_RECORD_BYTES,
        *,
        delimiter: str | None = None,
        start: Start = START,
    ) -> None:
        self._closed = None if delimiter is None else _closed_row(delimiter)
        self._lines = LineCutter(max_record_bytes, start=start)
        self._max = max_record_bytes
        self._open: list[bytes] = []  # lines of a record whose quote is still open
        self._open_bytes = 0
        self._open_start = start

    def feed(self, chunk: bytes) -> list[Block]:
        return [done for block in self._lines.feed(chunk) for done in self._join(block)]

    def finish(self) -> list[Block]:
        blocks = [done for block in self._lines.finish() for done in self._join(block)]
        if self._open:
            records = [b"\n".join(self._open)]
            self._open = []
            why = "a quote is opened and never closed"
            start = self._open_start
            blocks.append(Block(1, start.line, records=records, bad={0: why}, start=start))
        return blocks

    def _turns(self, line: bytes) -> bool:
        """Whether a line with quotes ends inside one after beginning outside, or the reverse."""
        if self._closed is None:
            self._closed = _closed_row(guess_delimiter(line) or ",")
        ends_closed = self._closed.fullmatch(b'"' + line if self._open else line) is not None
        return ends_closed == bool(self._open)

    def _join(self, block: Block) -> list[Block]:
        if not self._open and block.data is not None and b'"' not in block.data:
            return [block]
        records: list[bytes] = []
        numbers: list[int] = []
        bad: dict[int, str] = dict(block.bad or {})
        start = self._open_start if self._open else block.start
        at = block.start.offset
        # A cutter of lines gives lines that follow one another.
        for number, line in enumerate(block.lines(), block.first_line):
            odd = b'"' in line and self._turns(line)
            if self._open:
                self._open.append(line)
                self._open_bytes += len(line) + 1
                if self._open_bytes > self._max:
                    bad[len(records)] = f"the record is longer than {self._max} bytes"
                    self._open = [b"\n".join(self._open)[:KEPT_OF_OVERSIZED]]
                elif not odd:
                    at += len(line) + 1
                    continue
                records.append(b"\n".join(self._open))
                numbers.append(self._open_start.line)
                self._open = []
            elif odd and not bad:
                self._open, self._open_bytes = [line], len(line)
                self._open_start = Start(at, number)
            else:
                records.append(line)
                numbers.append(number)
            at += len(line) + 1
        if not records:
            return []
        return [Block(len(records), numbers[0], None, records, numbers, bad or None, start=start)]


def _closed_row(delimiter: str) -> re.Pattern[bytes]:
    """Matches a line at whose end no quote is open."""
    mark = re.escape(delimiter.encode())
    field = rb'(?:"(?:[^"]++|"")*+"(?:(?!%b).)*+|(?!")(?:(?!%b).)*+)' % (mark, mark)
    return re.compile(rb"(?:%b(?:%b|\Z))*+" % (field, mark), re.DOTALL)


# A string whose end has not come yet leaves group 1 empty; _STRING_REST goes on with it.
# Possessive, since a long string would be remembered byte for byte otherwise.
_JSON_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[{}\[\]]', re.DOTALL)
_STRING_REST: Final = re.compile(rb'(?:[^"\\]++|\\.)*+("?)', re.DOTALL)


class JsonCutter:
    """Cuts a JSON document into records: the elements of an array, or values one after another.

    Serves CloudEvents batches and objects that stretch over several lines.
    """

    def __init__(self, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        self._max = max_record_bytes
        self._rest = b""  # from the end of the last record; bounded by _max
        self._scanned = 0  # how far in _rest the tokens were seen
        self._begin = 0  # where in _rest the open record begins
        self._in_string = False
        self._depth = 0
        self._base = 0  # the depth at which a record begins: 1 in an array
        self._line = 1
        self._first = True

    def feed(self, chunk: bytes) -> list[Block]:
        data = self._rest + chunk if self._rest else chunk
        records: list[bytes] = []
        numbers: list[int] = []
        scanned, consumed = self._scanned, 0
        if self._in_string:
            rest = _STRING_REST.match(data, scanned)
            assert rest is not None  # it matches nothing, too
            self._in_string, scanned = not rest.group(1), rest.end()
        tokens = () if self._in_string else _JSON_TOKEN.finditer(data, scanned)
        for token in tokens:
            mark = data[token.start()]
            if mark == 0x22:
                self._in_string = not token.group(1)
            elif mark in b"{[":
                if self._opens_array(mark):
                    self._check_between(data[consumed : token.start()])
                    consumed = token.end()
                elif self._depth == self._base:
                    self._begin = token.start()
                    self._check_between(data[consumed : self._begin])
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == self._base:
                    numbers.append(self._line)
                    record = data[self._begin : token.end()]
                    self._line += record.count(b"\n")
                    records.append(_one_line(record))
                    consumed = token.end()
                elif self._depth < self._base:
                    self._check_between(data[consumed : token.start()])
                    # What follows may be another batch.
                    self._base, consumed, self._first = 0, token.end(), True
            scanned = token.end()
        self._rest = data[consumed:]
        self._scanned = scanned - consumed
        self._begin -= consumed
        if len(self._rest) > self._max:
            raise UnreadableInput(f"a JSON value is longer than {self._max} bytes")
        return _numbered(records, numbers)

    def _opens_array(self, mark: int) -> bool:
        first, self._first = self._first, False
        if first and mark == 0x5B:
            self._base = 1
            return True
        return False

    def _check_between(self, between: bytes) -> None:
        if between.strip(b" \t\r\n,"):
            before = between[: len(between) - len(between.lstrip(b" \t\r\n,"))]
            raise UnreadableInput(_stray(between, self._line + before.count(b"\n")))
        self._line += between.count(b"\n")

    def finish(self) -> list[Block]:
        if self._depth or self._rest.strip(b" \t\r\n,"):
            raise UnreadableInput(
                f"the JSON document ends in the middle of a value that begins on line {self._line}"
            )
        return []


def _stray(between: bytes, line: int) -> str:
    text = between.strip(b" \t\r\n,")[:40].decode(errors="replace")
    return f"line {line} of the JSON document has {text!r} where an object should stand"


def _one_line(record: bytes) -> bytes:
    # JSON strings hold no raw newline, so each one here is white space between tokens.
    return re.sub(rb"[ \t\r]*\n[ \t\r\n]*", b" ", record) if b"\n" in record else record


def _numbered(records: list[bytes], numbers: list[int]) -> list[Block]:
    blocks = []
    start = 0
    size = 0
    for i, record in enumerate(records):
        size += len(record)
        if size >= BLOCK_BYTES or i == len(records) - 1:
            part = records[start : i + 1]
            lines = numbers[start : i + 1]
            blocks.append(Block(len(part), lines[0], b"\n".join(part), part, lines))
            start, size = i + 1, 0
    return blocks


def strip_bom(head: bytes) -> bytes:
    """The start of a text without its UTF-8 mark. Raises UnreadableInput for UTF-16 or UTF-32."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UnreadableInput("the text is UTF-16 or UTF-32; convert it to UTF-8, such as by iconv")
    return head.removeprefix(b"\xef\xbb\xbf")


def sniff_format(head: bytes) -> Format:
    """JSON Lines, CSV or a JSON document, told by the first bytes of the plain content."""
    text = head.lstrip(b" \t\r\n")
    if text[:1] == b"[":
        first = text.split(b"\n", 1)[0].strip()
        return "jsonl" if _is_json(first) and b"\n" in text and not _is_objects(first) else "json"
    if text[:1] == b"{":
        first, *more = text.split(b"\n", 1)
        # An object that breaks off at the end of its line, where a token ends, is a document.
        ends = first.rstrip()[-1:]
        return "json" if more and ends in b"{[," and not _is_json(first) else "jsonl"
    if not text or (text[:1] in b'"-0123456789tfn' and _is_json(text.split(b"\n", 1)[0].strip())):
        return "jsonl"
    first_line = text.split(b"\n", 1)[0]
    return "csv" if guess_delimiter(first_line) else "jsonl"


def _is_json(line: bytes) -> bool:
    try:
        decode_json(line)
    except msgspec.DecodeError:
        return False
    return True


def _is_objects(line: bytes) -> bool:
    value = decode_json(line)
    return bool(value) and all(type(item) is dict for item in value)


def guess_delimiter(first_line: bytes) -> str | None:
    """The commonest of comma, semicolon, tab and bar in a header line, None when it has none."""
    best = max(",;\t|", key=lambda mark: first_line.count(mark.encode()))
    return best if best.encode() in first_line else None


# --- decoding ------------------------------------------------------------------------------


class Bad(Struct, frozen=True):
    """A record that can't be an event: why, and the column (from 1) where that shows."""

    message: str
    column: int | None = None


class Decoded(Struct, gc=False):
    """A block by columns, all of one length; at the places in `bad`, None stands in them."""

    lines: list[bytes]
    keys: list[Scalar] | None
    events: list[Event] | None
    bad: dict[int, Bad]


_BYTE: Final = re.compile(r" \(byte (\d+)\)")


def describe_bad(error: Exception, line: bytes) -> Bad:
    """What a decoding error says, in words that fit a dead letter."""
    text = str(error)
    found = _BYTE.search(text)
    if found:
        # msgspec has read the first of them when it says that they are there.
        read = 1 if "trailing characters" in text else 0
        return Bad(_BYTE.sub("", text), int(found.group(1)) + 1 - read)
    if isinstance(error, UnicodeDecodeError):
        return Bad(f"the text is not UTF-8: byte 0x{line[error.start]:02x}", error.start + 1)
    if "truncated" in text:
        return Bad("JSON is malformed: it ends in the middle of a value", len(line) + 1)
    return Bad(text)


_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _CloudEvent(Struct, gc=False):
    """What CloudEvents 1.0 requires of every event."""

    specversion: Literal["1.0"]
    id: _Text
    source: _Text
    type: _Text


_decode_cloud_event: Final = msgspec.json.Decoder(_CloudEvent).decode


def check_cloud_event(line: bytes) -> None:
    """Raises DecodeError when a required attribute is missing or empty."""
    try:
        _decode_cloud_event(line)
    except msgspec.ValidationError as error:
        raise msgspec.DecodeError(f"it is no CloudEvent 1.0: {error}") from None


class JsonDecoder:
    """Blocks of JSON values to columns, decoding no more than was asked for.

    With `events`, the attributes that handlers come to ask for are decoded along from then on.
    With `cloud_events`, what lacks an attribute that CloudEvents 1.0 requires is no event.
    """

    def __init__(
        self,
        mapping: FieldMapping,
        *,
        keys: bool,
        events: bool,
        partition: int = 0,
        cloud_events: bool = False,
    ) -> None:
        self._cloud_events = cloud_events
        self.mapping = self._mapping = mapping
        self._keys, self._events, self._partition = keys, events, partition
        self.wanted: set[str] = {"key"} if keys else set()
        self._splits = all(path[0] != "data" for paths in mapping.paths.values() for path in paths)
        self._bind()

    def _bind(self) -> None:
        bound = bind_record(
            self._mapping,
            frozenset(self.wanted - {"data"}),
            payload=self._events,
            partition=self._partition,
        )
        self._class, self._fix = bound
        self._first_key = "key" in self.wanted and len(self._mapping.paths["key"]) == 2
        self._class.wanted = self.wanted
        decode: Callable[[bytes], Record] = msgspec.json.Decoder(self._class).decode
        self._decode_one = _checking(decode) if self._cloud_events else decode
        self._bound = frozenset(self.wanted)

    def decode(self, block: Block) -> Decoded:
        """The columns of `block`: keys and events where they were asked for."""
        if self.wanted != self._bound:
            self._bind()
        bad: dict[int, Bad] = {}
        try:
            if block.bad:
                raise msgspec.DecodeError
            if block.data is not None:
                str(block.data, "utf-8")  # payloads stay raw, so nobody else looks at their text
            events = list(map(self._decode_one, block.lines()))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            bad = {place: Bad(why) for place, why in (block.bad or {}).items()}
            events = self._one_by_one(block.lines(), bad)
        lines = block.lines()
        if self._events:
            _consume(map(_SET_LINE, events, lines))
        if self._first_key:
            _take_first_key(events)
        if self._fix is not None:
            self._fix(events)
        keys = list(map(_GET_KEY, events)) if self._keys else None
        return Decoded(lines, keys, cast(list[Event], events) if self._events else None, bad)

    def bound(self) -> tuple[Callable[[bytes], Record], Fix | None]:
        """What decodes one line, and the step that must follow; attributes learned so far."""
        if self.wanted != self._bound:
            self._bind()
        return self._decode_one, self._fix

    @property
    def in_two_parts(self) -> bool:
        """Whether to decode what stands before the payload, and the payload, each on its own.

        When `head}` is an object, and what follows `,"data":` up to the closing brace is a value,
        then the line is that object with that value as its member "data": there is no other way
        to read it. A handler that asks for the payload anyway gets it so in one pass.
        """
        return self._splits and "data" in self.wanted

    def give_up_parts(self) -> None:
        """Too many lines have no payload at their end: decode them whole from now on."""
        self._splits = False

    def decode_unusual(self, line: bytes) -> Record:
        """A line that bound() refused. Raises DecodeError or UnicodeDecodeError: no event."""
        str(line, "utf-8")
        event = self._one(line)
        event._line = line
        _take_first_key((event,))
        if self._fix is not None:
            self._fix([event])
        return event

    def _one_by_one(self, lines: list[bytes], bad: dict[int, Bad]) -> list[Record]:
        events = []
        for place, line in enumerate(lines):
            event = None
            if place not in bad:
                try:
                    str(line, "utf-8")
                    event = self._one(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    bad[place] = describe_bad(error, line)
            events.append(event or self._class())
        return events

    def _one(self, line: bytes) -> Record:
        if self._cloud_events:
            check_cloud_event(line)
        try:
            return self._decode_one(line)
        except msgspec.ValidationError:
            # Valid JSON of another shape: a number for a name, an object for a key, no object.
            whole = decode_json(line)
            event = self._class()
            for name in self._class.decoded:
                value = lookup_attribute(whole, self._mapping.paths[name])
                setattr(event, "_" + name, value)
            if self._class.has_payload_slot and type(whole) is dict and "data" in whole:
                event._data = decode_members(line)["data"]
            return event


def _checking(decode: Callable[[bytes], Record]) -> Callable[[bytes], Record]:
    def checked(line: bytes) -> Record:
        check_cloud_event(line)
        return decode(line)

    return checked


_SET_LINE: Final = cast(Any, Record._line).__set__
_GET_KEY: Final = attrgetter("_key")


def _take_first_key(events: Iterable[Any]) -> None:
    for event in events:
        if event._first_key is not None:
            event._key = event._first_key


def _consume(iterator: Iterable[Any]) -> None:
    deque(iterator, maxlen=0)


Fix = Callable[[list[Any]], None]


def bind_record(
    mapping: FieldMapping, attributes: frozenset[str], *, payload: bool, partition: int = 0
) -> tuple[type[Record], Fix | None]:
    """The Record subclass that decodes `attributes` (and the raw payload) from their fields.

    Also gives the step, if one is needed, that moves what was found in second-choice or nested
    fields into the attributes' slots.
    """
    tops: dict[str, list[tuple[str, int, tuple[str, ...]]]] = {}
    for name in sorted(attributes):
        for turn, path in enumerate(mapping.paths[name]):
            tops.setdefault(path[0], []).append((name, turn, path[1:]))
    fields: list[tuple[str, Any, Any]] = []
    found: dict[tuple[str, int], str] = {}  # (attribute, turn) -> where to get it
    for top, uses in tops.items():
        rests = [rest for _, _, rest in uses]
        name, turn, rest = uses[0]
        last = len(mapping.paths[name]) - 1
        if len(uses) == 1 and not rest and turn == last:
            fields.append(("_" + name, Scalar, field(default=None, name=top)))
            continue
        if len(uses) == 1 and not rest and name == "key" and turn == 0 and last == 1:
            fields.append(("_first_key", Scalar, field(default=None, name=top)))
            continue
        slot = f"x{len(fields)}"
        if all(not rest for rest in rests):
            fields.append((slot, Scalar | UnsetType, field(default=None, name=top)))
        elif all(rests):
            fields.append((slot, nested_type(rests), field(default=None, name=top)))
        else:
            fields.append((slot, Any, field(default=None, name=top)))
        for name, turn, rest in uses:
            found[name, turn] = ".".join([slot, *(f"f_{part}" for part in rest)])
    payload = payload and "data" not in tops
    if payload:
        fields.append(("_data", Raw | UnsetType, field(default=UNSET, name="data")))
    for name in attributes - {n[1:] for n, _, _ in fields if n[0] == "_"}:
        fields.append(("_" + name, Guarded, field(default=None, name=f"\ue000{name}")))
    bound = cast(
        type[Record],
        defstruct("Record", fields, bases=(Record,), gc=False, eq=False, module=__name__),
    )
    bound.mapping, bound.decoded, bound.partition = mapping, attributes, partition
    bound.has_payload_slot, bound.wanted = payload, set()
    return bound, _fixer(mapping, attributes, found)


def nested_type(rests: Sequence[tuple[str, ...]]) -> Any:
    """The type that decodes what stands at paths inside an object, each as `f_` and its name."""
    below: dict[str, list[tuple[str, ...]]] = {}
    for rest in rests:
        below.setdefault(rest[0], []).append(rest[1:])
    fields: list[tuple[str, Any, Any]] = []
    for part, more in below.items():
        kind = nested_type(more) if all(more) else (Scalar if not any(more) else Any)
        fields.append((f"f_{part}", kind, field(default=None, name=part)))
    return defstruct("Nested", fields, gc=False, eq=False) | None


def _fixer(
    mapping: FieldMapping, attributes: frozenset[str], found: dict[tuple[str, int], str]
) -> Fix | None:
    steps: list[tuple[Any, Any]] = []
    for name in sorted(attributes):
        # From the last choice to the first, so that the first that is there wins.
        for turn in reversed(range(len(mapping.paths[name]))):
            if (name, turn) in found:
                steps.append((attrgetter(found[name, turn]), "_" + name))
    if not steps:
        return None

    def fix(events: list[Any]) -> None:
        for get, slot in steps:
            for event in events:
                try:
                    value = get(event)
                except AttributeError:  # an object on the way is missing
                    continue
                if value is not None:
                    setattr(event, slot, to_scalar(value))

    return fix


class CsvDecoder:
    """Blocks of CSV records to columns. The header is the first record, or is given."""

    def __init__(
        self,
        mapping: FieldMapping,
        *,
        header: Sequence[str],
        delimiter: str,
        keys: bool,
        events: bool,
        partition: int = 0,
    ) -> None:
        csv.field_size_limit(MAX_RECORD_BYTES)
        self.header, self.delimiter = tuple(header), delimiter
        self._keys, self._events = keys, events
        at = {name: place for place, name in reversed(list(enumerate(header)))}
        columns: dict[str, int | None] = {}
        for name in ATTRIBUTES:
            names = [".".join(path) for path in mapping.paths[name]]
            columns[name] = next((at[n] for n in names if n in at), None)
        self._key_column = columns["key"]
        self._class = cast(type[Row], defstruct("Row", [], bases=(Row,), gc=False, eq=False))
        self._class.header, self._class.columns = self.header, columns
        own = {name: ((header[at],),) for name, at in columns.items() if at is not None}
        self.mapping = self._class.mapping = FieldMapping({**mapping.paths, **own})
        self._class.partition = partition

    def decode(self, block: Block) -> Decoded:
        """The columns of `block`: keys and events where they were asked for."""
        rows = self._good_rows(block)
        bad: dict[int, Bad] = {}
        if rows is None:
            block.drop_blanks(self.delimiter)
            bad = {place: Bad(why) for place, why in (block.bad or {}).items()}
            rows = [self._row(place, line, bad) for place, line in enumerate(block.lines())]
        lines = block.lines()
        keys: list[Scalar] | None = None
        if self._keys:
            at = self._key_column
            keys = [row[at] or None if row else None for row in rows] if at is not None else None
            keys = keys if keys is not None else [None] * len(rows)
        events: list[Event] | None = None
        if self._events:
            events = [self._class(line, row) for line, row in zip(lines, rows, strict=True)]
        return Decoded(lines, keys, events, bad)

    def _good_rows(self, block: Block) -> list[list[str]] | None:
        """The rows of a block in which all is well, else None."""
        if block.bad:
            return None
        lines = block.lines()
        width = len(self.header)
        if width == 1 and not all(map(bytes.strip, lines)):
            return None  # blank lines are no records, wherever blocks are cut
        try:
            rows = list(self._parse([str(line, "utf-8") for line in lines]))
        except (UnicodeDecodeError, csv.Error):
            return None
        good = len(rows) == len(lines) and all(len(row) == width for row in rows)
        return rows if good else None

    def _row(self, place: int, line: bytes, bad: dict[int, Bad]) -> list[str]:
        if place in bad:
            return []
        try:
            (row,) = self._parse([str(line, "utf-8")])
        except (UnicodeDecodeError, csv.Error, ValueError) as error:
            bad[place] = describe_bad(error, line)
            return []
        if len(row) != len(self.header):
            bad[place] = Bad(f"the row has {len(row)} fields, the header {len(self.header)}")
            return []
        return row

    def _parse(self, texts: list[str]) -> Iterator[list[str]]:
        return csv.reader(texts, delimiter=self.delimiter, strict=True)


Decoder = JsonDecoder | CsvDecoder


def make_decoder(
    mapping: FieldMapping,
    *,
    header: Sequence[str],
    delimiter: str | None,
    keys: bool,
    events: bool,
    partition: int = 0,
    cloud_events: bool = False,
) -> Decoder:
    """The decoder of rows under `header`, or, without one, of JSON."""
    if not header:
        return JsonDecoder(
            mapping, keys=keys, events=events, partition=partition, cloud_events=cloud_events
        )
    return CsvDecoder(
        mapping,
        header=header,
        delimiter=delimiter or ",",
        keys=keys,
        events=events,
        partition=partition,
    )


def parse_header(record: bytes, delimiter: str | None = None) -> tuple[tuple[str, ...], str]:
    """The column names of a header record and the delimiter. Raises UnreadableInput."""
    mark = delimiter or guess_delimiter(record) or ","
    try:
        (names,) = csv.reader([str(record, "utf-8")], delimiter=mark, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UnreadableInput(f"the CSV header can't be read: {error}") from None
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UnreadableInput(f"the CSV header names {', '.join(map(repr, doubled))} twice")
    return tuple(names), mark


# --- encoding ------------------------------------------------------------------------------


class UnwritableResult(Exception):
    """A result that the output's format has no place for."""


class JsonLinesEncoder:
    """Events to lines of JSON; an untouched line is itself."""

    suffix = b"\n"

    def encode(self, event: Event) -> bytes:
        return event.to_line()

    @property
    def columns(self) -> list[str] | None:
        return None

    def head(self) -> bytes:
        return b""


class CsvEncoder:
    """Events to rows of CSV under one header.

    The header is the input's, with the columns that the first changed result adds; a later
    result with another column is refused (UnwritableResult).
    """

    suffix = b"\n"

    def __init__(
        self, header: Sequence[str] = (), delimiter: str = ",", *, fixed: bool = False
    ) -> None:
        """`fixed`: the header is that of an output which was begun already."""
        self._header = list(header)
        self._delimiter = delimiter
        self._fixed = fixed

    @property
    def columns(self) -> list[str] | None:
        """The header, once it is fixed."""
        return self._header if self._fixed else None

    def encode(self, event: Event) -> bytes:
        whole = event.data if isinstance(event, Row) else self._object(event)
        if not self._fixed:
            self._header += [name for name in whole if name not in self._header]
            self._fixed = True
        if isinstance(event, Row) and self._is_as_it_came(event):
            return event._line.removesuffix(b"\r")
        unknown = [name for name in whole if name not in self._header]
        if unknown:
            raise UnwritableResult(
                f"the CSV output has no column {unknown[0]!r}: its columns are those of the input "
                "and of the first result; give every result the same, or write JSON Lines"
            )
        return self._row([self._cell(whole.get(name)) for name in self._header])

    def _is_as_it_came(self, row: Row) -> bool:
        return tuple(self._header) == row.header and row.is_as_it_came

    def head(self) -> bytes:
        """The header row, once it is known."""
        self._fixed = True
        return self._row(self._header) + b"\n" if self._header else b""

    def _object(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Made) and event.text is not None and event._obj is UNSET:
            raise UnwritableResult("a str or bytes result has no columns; give back a dict")
        whole = event.to_object()
        if type(whole) is not dict:
            raise UnwritableResult(f"a result of type {type(whole).__name__} has no columns")
        return whole

    def _cell(self, value: Any) -> str:
        if value is None:
            return ""
        return value if isinstance(value, str) else encode_json(value).decode()

    def _row(self, cells: list[str]) -> bytes:
        text = io.StringIO()
        # With a line end, so that the writer knows to quote a cell that has one in it.
        csv.writer(text, delimiter=self._delimiter, lineterminator="\r\n").writerow(cells)
        return text.getvalue().removesuffix("\r\n").encode()


Encoder = JsonLinesEncoder | CsvEncoder
