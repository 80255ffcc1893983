"""Bytes to records to events and back: whatever the chunks, the records are the same."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.engine.codecs import (
    PIECE_BYTES,
    Bad,
    Block,
    CsvCutter,
    CsvDecoder,
    CsvEncoder,
    Cutter,
    JsonCutter,
    JsonDecoder,
    LineCutter,
    UnreadableInput,
    UnwritableResult,
    compression_of,
    compressor_for,
    decompressor,
    guess_delimiter,
    parse_header,
    sniff_format,
    strip_bom,
)
from millstream.engine.event import Event, FieldMapping, derive
from tests.engine.drawn import dumps, json_objects, spellings

MAPPING = FieldMapping.of()
cuts = st.lists(st.integers(1, 40), max_size=12)


def chunked(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """`data` in pieces of these sizes, in turn; in one piece without them."""
    if not sizes:
        return [data]
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def cut(cutter: Cutter, data: bytes, sizes: Sequence[int]) -> list[Block]:
    blocks = [block for piece in chunked(data, sizes) for block in cutter.feed(piece)]
    return blocks + cutter.finish()


def records(blocks: Sequence[Block], mark: str = "") -> list[tuple[int, bytes]]:
    """Line number and record of all that is no blank line."""
    found: list[tuple[int, bytes]] = []
    for block in blocks:
        block.drop_blanks(mark)
        lines = block.lines()
        numbers = block.line_numbers or range(block.first_line, block.first_line + len(lines))
        assert len(lines) == block.count == len(numbers)
        found += zip(numbers, lines, strict=True)
    return found


# --- lines


@given(text=st.text("ab \t\r\n\n", max_size=80).map(str.encode), sizes=cuts)
def test_lines_are_the_same_however_they_arrive(text: bytes, sizes: list[int]) -> None:
    expected = [(number, line) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]

    blocks = cut(LineCutter(), text, sizes)
    for block in blocks:
        assert block.may_have_blanks or all(line.strip() for line in block.lines())
    assert records(blocks) == expected


@given(
    count=st.integers(0, 400),
    width=st.integers(1, 2000),
    sizes=st.lists(st.integers(1, 200_000), min_size=1, max_size=4),
)
def test_large_blocks_hold_each_line_once(count: int, width: int, sizes: list[int]) -> None:
    lines = [str(n).rjust(width, "x").encode() for n in range(count)]

    blocks = cut(LineCutter(), b"".join(line + b"\n" for line in lines), sizes)

    assert records(blocks) == list(enumerate(lines, 1))


@given(sizes=cuts, length=st.integers(11, 60))
def test_an_oversized_line_is_named_and_the_next_one_is_whole(
    sizes: list[int], length: int
) -> None:
    text = b"ok\n" + b"x" * length + b"\nafter\n"

    blocks = cut(LineCutter(max_record_bytes=10), text, sizes or [5])

    found = records(blocks)
    bad = [block for block in blocks if block.bad]
    if bad:
        assert "longer than 10 bytes" in (bad[0].bad or {})[0]
        assert [bad[0].first_line] == [2]
    assert [number for number, _ in found] == [1, 2, 3]
    assert (found[0][1], found[2][1]) == (b"ok", b"after")


def test_what_is_kept_of_an_oversized_line_is_bounded() -> None:
    cutter = LineCutter(max_record_bytes=10_000)

    blocks = cut(cutter, b"x" * 1_000_000, [4096])

    assert [len(block.lines()[0]) for block in blocks] == [1024]


# --- CSV

cells = st.text("ab\",;\n\r '", max_size=6)
rows_of = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), max_size=8)
)


@given(rows=rows_of, mark=st.sampled_from(",;\t|"), sizes=cuts, all_quoted=st.booleans())
@example(rows=[["", ""]], mark="\t", sizes=[], all_quoted=False)
def test_csv_records_are_those_of_the_csv_module(
    rows: list[list[str]], mark: str, sizes: list[int], all_quoted: bool
) -> None:
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    text = io.StringIO()
    csv.writer(text, delimiter=mark, quoting=quoting, lineterminator="\r\n").writerows(rows)

    blocks = cut(CsvCutter(delimiter=mark), text.getvalue().encode(), sizes)

    found = []
    for _, record in records(blocks, mark):
        (cells_,) = csv.reader(io.StringIO(record.decode(), newline=""), delimiter=mark)
        found.append(cells_)
    # A row whose only cell is white space is a blank line, unless it is quoted.
    assert found == [row for row in rows if all_quoted or not _is_blank(row)]


def _is_blank(row: list[str]) -> bool:
    return len(row) == 1 and row[0].isspace() and not set(row[0]) & set("\r\n")


@given(
    lines=st.lists(st.text("a\",' ", min_size=1, max_size=8).filter(str.strip), max_size=6),
    sizes=cuts,
)
def test_stray_quotes_count_as_the_csv_module_counts_them(
    lines: list[str], sizes: list[int]
) -> None:
    text = "".join(line + "\n" for line in lines)

    blocks = cut(CsvCutter(delimiter=","), text.encode(), sizes)

    if not any(block.bad for block in blocks):
        expected = list(csv.reader(io.StringIO(text, newline="")))
        parsed = [
            next(csv.reader(io.StringIO(record.decode(), newline="")))
            for _, record in records(blocks)
        ]
        assert parsed == expected


def test_csv_records_have_the_number_of_their_first_line() -> None:
    text = b'a,b\n1,"x\ny\nz"\n\n2,"\n"\n3,c\n'

    assert [number for number, _ in records(cut(CsvCutter(delimiter=","), text, [3]))] == [
        1,
        2,
        6,
        8,
    ]


def test_a_quote_that_is_never_closed_is_named_with_its_line() -> None:
    (*_, last) = cut(CsvCutter(delimiter=","), b'a,b\n1,2\n3,"x\n4,5\n', [7])

    assert last.bad == {0: "a quote is opened and never closed"}
    assert (last.first_line, last.lines()) == (3, [b'3,"x\n4,5'])


def test_a_quoted_record_that_never_ends_is_bounded() -> None:
    text = b'a\n"' + b"xxxxxxxxx\n" * 1000

    blocks = cut(CsvCutter(max_record_bytes=200, delimiter=","), text, [50])

    named = [why for block in blocks for why in (block.bad or {}).values()]
    assert "the record is longer than 200 bytes" in named[0]


@pytest.mark.parametrize(
    ("line", "mark"),
    [(b"a,b", ","), (b"a;b,c;d", ";"), (b"a\tb", "\t"), (b"a|b|c,d", "|"), (b"abc", None)],
)
def test_the_commonest_mark_of_a_header_is_the_delimiter(line: bytes, mark: str | None) -> None:
    assert guess_delimiter(line) == mark


def test_a_header_gives_names_and_delimiter() -> None:
    assert parse_header(b'key;"a;b";n') == (("key", "a;b", "n"), ";")
    assert parse_header(b"a:b,c", ":") == (("a", "b,c"), ":")


@pytest.mark.parametrize("header", [b"a,b,a", b"a,\xff", b'a,"b', b'a,"b"c'])
def test_a_header_that_means_nothing_is_refused(header: bytes) -> None:
    with pytest.raises(UnreadableInput, match="CSV header"):
        parse_header(header)


# --- JSON documents


@given(
    values=st.lists(json_objects, max_size=5),
    sizes=cuts,
    indent=st.sampled_from([None, 0, 2, "\t"]),
    batch=st.booleans(),
)
def test_json_records_are_those_of_the_json_module(
    values: list[dict[str, Any]], sizes: list[int], indent: Any, batch: bool
) -> None:
    if batch:
        text = json.dumps(values, indent=indent)
    else:
        text = "\n".join(json.dumps(value, indent=indent) for value in values)

    found = records(cut(JsonCutter(), text.encode(), sizes))

    assert [json.loads(record) for _, record in found] == values
    assert all(b"\n" not in record for _, record in found)
    decoder = json.JSONDecoder()
    for (number, _), value in zip(found, values, strict=True):
        # On the line that is named, the value itself begins.
        rest = "\n".join(text.split("\n")[number - 1 :])
        starts = [at for at, mark in enumerate(rest.split("\n")[0] + " ") if mark == "{"]
        assert any(_value_at(decoder, rest, at) == value for at in starts)


def _value_at(decoder: json.JSONDecoder, text: str, at: int) -> Any:
    try:
        return decoder.raw_decode(text, at)[0]
    except json.JSONDecodeError:
        return None


def test_nested_arrays_in_a_batch_stay_whole() -> None:
    text = b'[{"a":[[1],{"b":"]"}]},{"c":"\\"}"}]'

    assert [record for _, record in records(cut(JsonCutter(), text, [1]))] == [
        b'{"a":[[1],{"b":"]"}]}',
        b'{"c":"\\"}"}',
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'[{"a":1},\n2]', "line 2 of the JSON document has '2'"),
        (b'[{"a":1}\nnull]', "line 2 of the JSON document has 'null'"),
        (b'{\n"a":1\n}\nmore', "begins on line"),
        (b'[\n{"a":1},\n{"b":', "begins on line"),
        (b'{"a":"never', "in the middle of a value"),
    ],
)
@pytest.mark.parametrize("sizes", [[], [1], [3]])
def test_a_document_that_is_broken_is_refused_with_the_line(
    text: bytes, said: str, sizes: list[int]
) -> None:
    with pytest.raises(UnreadableInput) as refused:
        cut(JsonCutter(), text, sizes)

    assert said in str(refused.value)


def test_a_value_that_never_ends_is_bounded() -> None:
    with pytest.raises(UnreadableInput, match="longer than 100 bytes"):
        cut(JsonCutter(max_record_bytes=100), b'{"a":"' + b"x" * 10_000, [64])


# --- what it is


@pytest.mark.parametrize(
    ("head", "format"),
    [
        (b'{"a":1}\n{"a":2}\n', "jsonl"),
        (b'{"a":1}', "jsonl"),
        (b'{"a":\n1}', "jsonl"),
        (b"{\n", "json"),
        (b'{ "a": [\n 1]}', "json"),
        (b'{"a": 1,\n"b": 2}', "json"),
        (b'[{"a":1}]', "json"),
        (b'[\n{"a":1}\n]', "json"),
        (b'[{"a":1}]\n', "json"),
        (b"[1,2]\n[3,4]\n", "jsonl"),
        (b"", "jsonl"),
        (b"\r\n\n", "jsonl"),
        (b"17\n18\n", "jsonl"),
        (b'"text, with comma"\n', "jsonl"),
        (b"null\n", "jsonl"),
        (b"a,b\n1,2\n", "csv"),
        (b'"a","b"\n1,2\n', "csv"),
        (b"1;2\n", "csv"),
        (b"true,false\n", "csv"),
        (b"plain words\n", "jsonl"),
    ],
)
def test_the_format_is_told_by_the_content(head: bytes, format: str) -> None:
    assert sniff_format(head) == format


def test_a_mark_at_the_start_is_taken_off_or_refused() -> None:
    assert strip_bom(b"\xef\xbb\xbf{}") == strip_bom(b"{}") == b"{}"
    for mark in (b"\xff\xfe", b"\xfe\xff"):
        with pytest.raises(UnreadableInput, match="UTF-16"):
            strip_bom(mark + b"\0{")


@given(
    parts=st.lists(st.binary(max_size=60), min_size=1, max_size=3),
    sizes=cuts,
    kind=st.sampled_from(["gzip", "zstd"]),
)
@example(parts=[b"", b"x"], sizes=[1], kind="zstd")
def test_members_one_after_another_are_one_text(
    parts: list[bytes], sizes: list[int], kind: str
) -> None:
    pack = gzip.compress if kind == "gzip" else zstandard.ZstdCompressor().compress
    stored = b"".join(map(pack, parts))
    unpack = decompressor(stored[:4])

    plain = b"".join(piece for chunk in chunked(stored, sizes) for piece in unpack.feed(chunk))
    unpack.finish()

    assert compression_of(stored) == kind
    assert plain == b"".join(parts)


@given(
    text=st.binary(min_size=1, max_size=60), kind=st.sampled_from(["gzip", "zstd"]), data=st.data()
)
def test_packed_data_that_is_cut_short_is_never_taken_for_whole(
    text: bytes, kind: str, data: st.DataObject
) -> None:
    stored = gzip.compress(text) if kind == "gzip" else zstandard.ZstdCompressor().compress(text)
    short = stored[: data.draw(st.integers(4, len(stored) - 1))]
    unpack = decompressor(short)

    with pytest.raises(UnreadableInput, match=f"the {kind} data is cut short"):
        list(unpack.feed(short))
        unpack.finish()


@pytest.mark.parametrize(("kind", "most"), [("gzip", PIECE_BYTES), ("zstd", 17 * 1024 * 1024)])
def test_what_unpacks_a_thousandfold_comes_in_pieces(kind: str, most: int) -> None:
    zeros = bytes(100 * 1024 * 1024)
    pack = gzip.compress if kind == "gzip" else zstandard.ZstdCompressor().compress
    stored = pack(zeros)
    unpack = decompressor(stored[:4])

    sizes = [len(piece) for piece in unpack.feed(stored)]
    unpack.finish()

    assert sum(sizes) == len(zeros)
    assert max(sizes) <= most


def test_plain_text_needs_no_unpacking() -> None:
    assert compression_of(b'{"a"') is None
    plain = decompressor(b'{"a"')
    assert list(plain.feed(b"abc")) == [b"abc"]
    plain.finish()


def test_the_name_of_an_output_says_how_it_is_packed() -> None:
    text = b"some text " * 100
    for name, unpack in (
        ("a.jsonl.gz", lambda data: zlib.decompress(data, wbits=31)),
        ("a.zst", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
        ("a.csv.zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ):
        packer = compressor_for(name)
        assert packer is not None
        packed = packer.compress(text) + packer.flush()
        assert unpack(packed) == text
    assert compressor_for("a.jsonl") is None


# --- decoding

GOOD = b'{"key":"a","n":1}'


def decode(
    *lines: bytes, key: str | None = None, first_line: int = 1
) -> tuple[list[bytes], list[Any], list[Event], dict[int, Bad]]:
    decoder = JsonDecoder(FieldMapping.of({"key": key}), keys=True, events=True)
    made = decoder.decode(Block(len(lines), first_line, data=b"\n".join(lines)))
    assert made.keys is not None and made.events is not None
    return made.lines, made.keys, made.events, made.bad


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        (b'{"key": ?}', 9, "malformed"),
        (b'{"key": "x', 11, "ends in the middle"),
        (b'{"key": 01}', 10, "invalid number"),
        (b'{"key":"a"} {}', 13, "trailing"),
        (b'{"key":"\xff"}', 9, "not UTF-8: byte 0xff"),
        (b'{"key":"k","data":"\xc3("}', 20, "not UTF-8: byte 0xc3"),
        (b"]", 1, "invalid character"),
    ],
)
def test_a_malformed_line_says_where(line: bytes, column: int, said: str) -> None:
    lines, keys, _, bad = decode(GOOD, line, GOOD)

    assert lines == [GOOD, line, GOOD]
    assert (keys[0], keys[2], sorted(bad)) == ("a", "a", [1])
    assert said in bad[1].message
    assert "(byte" not in bad[1].message
    assert bad[1].column == column


def test_a_line_nested_too_deep_is_malformed_and_no_crash() -> None:
    deep = b'{"key":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    _, keys, _, bad = decode(GOOD, deep, GOOD)

    assert (keys[0], keys[2], sorted(bad)) == ("a", "a", [1])


@given(values=st.lists(json_objects, min_size=1, max_size=6), spelling=spellings)
def test_keys_are_those_of_the_json_module(values: list[dict[str, Any]], spelling: int) -> None:
    expected = []
    for value in values:
        found = next((v for n in ("partitionkey", "key") if (v := value.get(n)) is not None), None)
        expected.append(found if not isinstance(found, list | dict) else ...)

    lines, keys, events, bad = decode(*[dumps(value, spelling) for value in values])

    assert bad == {}
    for number, key in enumerate(expected):
        if key is ...:
            assert isinstance(keys[number], str)
        else:
            assert keys[number] == key and type(keys[number]) is type(key)
        assert events[number].to_line() == lines[number]


@pytest.mark.parametrize("name", ["key", "first_key", "data", "line", "obj", "head", "type"])
def test_a_name_that_the_engine_keeps_for_itself_does_no_harm(name: str) -> None:
    line = json.dumps({"key": "a", f"\ue000{name}": [1]}, ensure_ascii=False).encode()

    _, keys, events, bad = decode(line)

    assert (keys, bad) == (["a"], {})
    assert events[0].to_line() == line
    assert events[0].data == {"key": "a", f"\ue000{name}": [1]}


def decode_csv(
    header: str, *lines: bytes, key: str | None = None
) -> tuple[list[Any], list[Event], dict[int, Bad]]:
    names, mark = parse_header(header.encode())
    decoder = CsvDecoder(
        FieldMapping.of({"key": key}), header=names, delimiter=mark, keys=True, events=True
    )
    made = decoder.decode(Block(len(lines), 2, records=list(lines)))
    assert made.keys is not None and made.events is not None
    return made.keys, made.events, made.bad


def test_csv_columns_become_attributes_and_an_empty_key_is_none() -> None:
    keys, events, _ = decode_csv("partitionkey,key,ts", b"p,k,5", b",k,")

    assert keys == ["p", None]
    assert (events[0].key, events[0].time_ns, events[1].time_ns) == ("p", 5 * 10**9, None)


def test_a_dotted_name_may_be_a_column_of_its_own() -> None:
    keys, _, _ = decode_csv("user.id;key", b"u;k", key="user.id")

    assert keys == ["u"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"a", "1 fields, the header 2"),
        (b"a,b,c", "3 fields, the header 2"),
        (b"a,\xff", "not UTF-8"),
        (b'a,"b"c', "expected"),
    ],
)
def test_a_row_that_does_not_fit_is_named(line: bytes, said: str) -> None:
    keys, _, bad = decode_csv("key,n", b"a,1", line, b"b,2")

    assert (keys[0], keys[2], sorted(bad)) == ("a", "b", [1])
    assert said in bad[1].message


# --- CSV written


def written(encoder: CsvEncoder, *events: Event) -> list[list[str]]:
    lines = [encoder.encode(event) for event in events]
    text = (encoder.head() + b"".join(line + b"\n" for line in lines)).decode()
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def made(value: Any) -> Event:
    return derive(value, Event.new(), MAPPING)


@given(
    names=st.lists(st.text('ab",\n;', min_size=1, max_size=4), min_size=2, max_size=3, unique=True),
    texts=st.lists(cells, min_size=3, max_size=3),
)
def test_what_is_written_as_csv_is_read_back_the_same(names: list[str], texts: list[str]) -> None:
    value = dict(zip(names, texts, strict=False))

    assert written(CsvEncoder(), made(value)) == [names, list(value.values())]


def test_other_values_become_json_and_null_becomes_nothing() -> None:
    rows = written(CsvEncoder(), made({"a": None, "b": 1.5, "c": [1, "x"], "d": True, "e": "t"}))

    assert rows[1] == ["", "1.5", '[1,"x"]', "true", "t"]


def test_the_first_result_adds_columns_and_a_later_one_may_not() -> None:
    encoder = CsvEncoder(("key", "n"))

    assert encoder.encode(made({"n": 1, "more": 2})) == b",1,2"
    with pytest.raises(UnwritableResult, match="no column 'late'"):
        encoder.encode(made({"late": 1}))
    assert encoder.head() == b"key,n,more\n"


@pytest.mark.parametrize("value", ["text", b"bytes"])
def test_a_text_has_no_columns(value: Any) -> None:
    with pytest.raises(UnwritableResult, match="has no columns"):
        CsvEncoder().encode(made(value))


def test_an_untouched_row_is_written_as_it_came() -> None:
    _, (event, touched), _ = decode_csv("key,n", b'"a",  "1"'.replace(b"  ", b""), b'"a","1"')
    touched.data["n"] = "2"
    encoder = CsvEncoder(("key", "n"))

    assert encoder.encode(event) == b'"a","1"'
    assert encoder.encode(touched) == b"a,2"
