"""Logs by column: against a plain decoding of each line, and what can't be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from millstream.engine.codecs import Block, LineCutter
from millstream.engine.event import FieldMapping, lookup, lookup_attribute
from millstream.engine.event_log import (
    Attribute,
    Columns,
    JsonColumns,
    KafkaColumns,
    TextSequence,
    as_numbers,
    as_texts,
    as_times,
    is_kafka_output,
)
from millstream.engine.lanes import NO_KEY, hashes_of

_scalars = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.sampled_from([1.5, 2.0, True, False, "7", "07", "a", "", "\u00e9", "{", "}\n{"]),
)
_values = st.one_of(_scalars, _scalars, st.just({"id": 3}), st.just([1]))
_events = st.fixed_dictionaries(
    {},
    optional={
        "seq": _values,
        "sequence": _values,
        "key": _values,
        "id": _values,
        "meta": st.one_of(_scalars, st.fixed_dictionaries({}, optional={"n": _values})),
    },
)
_lines = st.one_of(
    _events.map(lambda event: json.dumps(event).encode()),
    _events.map(lambda event: json.dumps(event).encode()),
    st.sampled_from(
        [
            *(
                b'{"seq":1}{"seq":2}',
                b'{"seq":1} ',
                b' {"seq":1}',
                b"oops",
                b'{"seq":',
                b"2}",
                b"}{",
            ),
            *(b"5", b"[]", b"null", b'{"seq":1}\r', b'{"seq":"\xff"}', b'{"data":"\xff","seq":4}'),
        ]
    ),
)
MAPPINGS = (
    FieldMapping.of({"key": "key"}),
    FieldMapping.of({"key": "meta.n", "sequence": "seq"}),
    FieldMapping.of({"key": "key", "sequence": "meta.n"}),
    FieldMapping.of({"key": "seq", "sequence": "seq", "id": "seq"}),
)
WANTED: list[Attribute] = ["sequence", "key", "id"]


def block_of(lines: list[bytes]) -> Block:
    (block,) = LineCutter().feed(b"\n".join(lines) + b"\n")
    return block


def plainly(lines: list[bytes], mapping: FieldMapping) -> tuple[list[int], list[list[Any]]]:
    """The lines that are JSON, and the attributes of each."""
    good, rows = [], []
    asked = {path[0] for name in WANTED for path in mapping.paths[name]}
    for number, line in enumerate(lines, 1):
        try:
            # Texts that nobody asks for are not looked at.
            whole = json.loads(line.replace(b"\xff", b"?"))
        except ValueError:
            continue
        if b"\xff" in line and (b'"data"' not in line and "seq" in asked):
            continue
        good.append(number)
        row: list[Any] = [lookup_attribute(whole, mapping.paths[name]) for name in WANTED]
        found = (lookup(whole, (path,)) for path in mapping.paths["sequence"])
        first = next((each for each in found if each is not UNSET and each is not None), None)
        rows.append([None if isinstance(first, dict | list) else row[0], *row[1:]])
    return good, rows


def listed(columns: Columns) -> list[list[Any]]:
    assert columns.keys is not None
    keys = [columns.keys.at(place) for place in range(len(columns))]
    assert columns.keys.hashes.tolist() == hashes_of(keys).tolist()
    values = {name: list(each) for name, each in columns.values.items()}
    # What is no text and no number is none, too.
    values["sequence"] = [None if isinstance(v, dict | list) else v for v in values["sequence"]]
    return [list(row) for row in zip(values["sequence"], keys, values["id"], strict=True)]


@settings(max_examples=300)
@given(st.lists(_lines, min_size=1, max_size=8), st.sampled_from(MAPPINGS))
def test_columns_are_what_the_lines_say(lines: list[bytes], mapping: FieldMapping) -> None:
    good, rows = plainly(lines, mapping)

    columns = JsonColumns(mapping, WANTED).decode(block_of(lines))

    assert list(columns.lines) == good
    assert sorted(columns.bad) == [n for n in range(1, len(lines) + 1) if n not in good]
    assert listed(columns) == rows


@settings(max_examples=50)
@given(st.lists(st.lists(_lines, min_size=1, max_size=4), min_size=1, max_size=6))
def test_what_one_block_has_taught_does_not_mislead_in_the_next(
    blocks: list[list[bytes]],
) -> None:
    decoder = JsonColumns(MAPPINGS[0], WANTED)

    for lines in blocks:
        _, rows = plainly(lines, MAPPINGS[0])
        assert listed(decoder.decode(block_of(lines))) == rows


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([1, 2, 3], [1, 2, 3]),
        (["1", "02", "-3"], [1, 2, -3]),
        (["1", 2, 3.0], [1, 2, 3]),
        ([2**63 - 1, 2**63], [2**63 - 1, 2**63]),
        (["9" * 30], [int("9" * 30)]),
        ([1.5, 2], [1.5, 2]),
    ],
)
def test_numbers_and_texts_of_digits_are_numbers(values: list[Any], numbers: list[Any]) -> None:
    column, present = as_numbers(values)

    assert column.tolist() == numbers
    assert present is None


def test_what_has_no_sequence_is_left_out() -> None:
    column, present = as_numbers([1, None, True, "4"])

    assert column.tolist() == [1, 4]
    assert present is not None
    assert present.tolist() == [True, False, False, True]


@pytest.mark.parametrize("text", ["", "a", "1a", "1.5", "+1", "1_000", "\u0661", " 1"])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(TextSequence):
        as_numbers([1, text])
    with pytest.raises(TextSequence):
        as_numbers(["1", text])


def test_as_texts_all_are_texts() -> None:
    column, present = as_texts(["b", 10, None, 1.5])

    assert column.tolist() == ["b", "10", "1.5"]
    assert present is not None
    assert present.tolist() == [True, True, False, True]


def test_times_are_taken_as_they_are() -> None:
    assert as_times([1, 2]).tolist() == [1, 2]
    assert as_times([1, 2.5, "3", "4.5"]).tolist() == [1, 2.5, 3, 4.5]
    assert as_times(["1970-01-01T00:00:01Z"]).tolist() == [1_000_000_000]
    assert np.isnan(as_times([None, "soon", True])).all()


KAFKA = [
    (b"Partition:2\tOffset:17\tann\t{}", 17, 2, "ann"),
    (b"CreateTime:1700000000123\tPartition:0\tOffset:3\tnull\tx", 3, 0, None),
    (b"LogAppendTime:1700000000123\tPartition:1\tOffset:4\tNO_HEADERS\tbob\tx\ty", 4, 1, "bob"),
    (b"NO_TIMESTAMP|Partition:1|Offset:5|bob|", 5, 1, "bob"),
    (b"Partition:1, Offset:6, {bob}, x", 6, 1, "{bob}"),
    (b"Offset:9\tvalue alone", 9, None, None),
    (b"Offset:9", 9, None, None),
]


@pytest.mark.parametrize(("line", "offset", "partition", "key"), KAFKA)
def test_lines_of_the_console_consumer(
    line: bytes, offset: int, partition: int | None, key: str | None
) -> None:
    mapping = FieldMapping.of({"sequence": "offset", "key": "partition", "id": "key"})

    columns = KafkaColumns(mapping, WANTED).decode(block_of([line, b"no offset"]))

    assert is_kafka_output(line)
    assert listed(columns) == [[offset, partition, key]]
    assert sorted(columns.bad) == [2]


CAPTURED = Path(__file__).parents[1] / "data" / "kafka-console"


@pytest.mark.parametrize("name", ["a", "b", "c", "f"])
def test_what_the_console_consumer_has_printed(name: str) -> None:
    """Whatever it was asked for: the same events."""
    mapping = FieldMapping.of({"sequence": "offset", "key": "partition", "id": "key"})
    plain, other = (
        KafkaColumns(mapping, WANTED).decode(
            block_of((CAPTURED / f"{each}.txt").read_bytes().split(b"\n")[:-1])
        )
        for each in ("a", name)
    )

    assert len(plain) == 60
    assert not plain.bad
    assert listed(other) == listed(plain)
    assert {key for _, _, key in listed(plain)} == {None, *(f"user-{n}" for n in range(10))}


@pytest.mark.parametrize("line", [b'{"Offset:1": 2}', b"offset\tkey", b"Partition:1\tkey", b""])
def test_other_logs_are_none_of_it(line: bytes) -> None:
    assert not is_kafka_output(line)


def test_no_key_is_none() -> None:
    assert hashes_of([None, "a"]).tolist()[0] == NO_KEY
