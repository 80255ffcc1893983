"""Events: attributes, payloads, and what is written of those that were changed or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.engine.codecs import Block, CsvDecoder, JsonDecoder
from millstream.engine.event import (
    Event,
    FieldMapping,
    UnreadableTime,
    derive,
    encode_printable,
    time_to_ns,
)
from millstream.engine.executors.line_loop import decoded, handle_lines
from tests.engine.drawn import dumps, json_objects, json_values, spellings

MAPPING = FieldMapping.of()


def one(line: bytes, mapping: FieldMapping = MAPPING) -> Event:
    """The event of a line, decoded as a block is."""
    events = JsonDecoder(mapping, keys=True, events=True).decode(Block(1, 1, data=line)).events
    assert events is not None
    return events[0]


def row(line: bytes, header: tuple[str, ...]) -> Event:
    decoder = CsvDecoder(MAPPING, header=header, delimiter=",", keys=True, events=True)
    events = decoder.decode(Block(1, 1, data=line)).events
    assert events is not None
    return events[0]


Way = Callable[[bytes, Callable[[Event], Any]], bytes]
"""Decodes a line, hands its event to a handler, and gives the line that leaves."""


def as_a_block(line: bytes, handle: Callable[[Event], Any]) -> bytes:
    event = one(line)
    handle(event)
    return event.to_line()


def _decoder(learned: tuple[str, ...]) -> JsonDecoder:
    decoder = JsonDecoder(MAPPING, keys=True, events=True)
    decoder.wanted.update(learned)
    return decoder


def in_the_hot_loop(*learned: str) -> Way:
    def way(line: bytes, handle: Callable[[Event], Any]) -> bytes:
        def call(event: Event) -> Event:
            handle(event)
            return event

        done = handle_lines(
            [line], _decoder(learned), call, lambda value, _: value, encode=True, turn_ns=10**9
        )
        assert not done.failures, done.failures
        value = done.values[0]
        assert isinstance(value, bytes)
        return value

    return way


def one_by_one(*learned: str) -> Way:
    def way(line: bytes, handle: Callable[[Event], Any]) -> bytes:
        (event,) = decoded([line], _decoder(learned), is_utf8=True)
        assert isinstance(event, Event), event
        handle(event)
        return event.to_line()

    return way


WAYS: dict[str, Way] = {
    "block": as_a_block,
    "hot loop": in_the_hot_loop(),
    "hot loop, two parts": in_the_hot_loop("data"),
    "hot loop, all learned": in_the_hot_loop("data", "type", "id", "time", "sequence"),
    "lanes": one_by_one(),
    "lanes, two parts": one_by_one("data"),
}

ways = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


# --- written again


@ways
@given(value=json_objects, spelling=spellings)
def test_an_untouched_event_leaves_byte_for_byte(way: Way, value: Any, spelling: Any) -> None:
    line = dumps(value, spelling)

    assert way(line, lambda event: (event.key, event.type, event.id, event.sequence)) == line
    assert way(line, lambda event: None) == line


@ways
@pytest.mark.parametrize(
    "line",
    [
        b'{"key":"a" , "n":1.0e5,"n":1e5,\t"u":"\\u0041\\/","big":1234567890123456789012345}',
        b' {"a" : 1 } \r',
        b'{"key":"a","data":{"x":1.50} }',
        b'"text"',
        b"[1,  2]",
        b"17",
        b"null",
    ],
)
def test_an_untouched_line_keeps_its_spelling(way: Way, line: bytes) -> None:
    assert way(line, lambda event: event.key) == line


@ways
@given(value=json_objects, new=json_values, spelling=spellings)
@example(value={"data": ":"}, new=1, spelling=0)
@example(value={"data": ": "}, new=1, spelling=1)
@example(value={"a": {"x": 1}, "data": {"x": 1}}, new={"x": 2}, spelling=0)
@example(value={"data": {"x": 1}, "a": {"x": 1}}, new={"x": 2}, spelling=1)
@example(value={"data": {"x": 1}, "a": {"x": 1}}, new={"x": 2}, spelling=0)
@example(value={"a": {"data": 1}, "data": 1}, new=2, spelling=0)
@example(value={'x"data': 1, "data": 1}, new=2, spelling=1)
@example(value={"xdata": {}, "data": {}}, new=2, spelling=1)
@example(value={"data": {"a": 1}, 'x"data': {"a": 1}}, new=2, spelling=0)
@example(value={"data": {"a": 1}, 'x"data': {"a": 1}}, new=2, spelling=1)
@example(value={"a": "b", "xdata": {}}, new=2, spelling=1)
@example(value={"a": ',"data":{}', "data": {}}, new=2, spelling=0)
@example(value={"a": '","data":{}', "data": {}}, new=2, spelling=0)
@example(value={}, new=2, spelling=0)
@example(value={"data": None}, new=None, spelling=0)
def test_a_new_payload_stands_where_the_old_one_stood(
    way: Way, value: dict[str, Any], new: Any, spelling: int
) -> None:
    def assign(event: Event) -> None:
        event.data = new

    def look_and_assign(event: Event) -> None:
        assert event.data == value.get("data", value)
        event.data = new

    expected = {**value, "data": new} if "data" in value else new

    for handle in (assign, look_and_assign):
        written = json.loads(way(dumps(value, spelling), handle))

        assert written == expected
        assert type(written) is not dict or list(written) == list(expected)


@ways
@given(value=json_objects, payload=json_objects, spelling=spellings, last=st.booleans())
def test_a_payload_changed_in_place_is_written_and_nothing_else_changes(
    way: Way, value: dict[str, Any], payload: dict[str, Any], spelling: int, last: bool
) -> None:
    value = {**value, "twin": payload, "data": payload}
    if not last:
        value["after"] = payload

    def mark(event: Event) -> None:
        event.data["marked"] = True

    written = json.loads(way(dumps(value, spelling), mark))

    assert written == {**value, "data": {**payload, "marked": True}}


@ways
@given(value=json_objects.filter(lambda value: "data" not in value), spelling=spellings)
def test_without_a_data_field_the_whole_object_is_the_payload(
    way: Way, value: dict[str, Any], spelling: int
) -> None:
    def mark(event: Event) -> None:
        event.data["marked"] = True

    assert json.loads(way(dumps(value, spelling), mark)) == {**value, "marked": True}


@ways
def test_what_was_not_changed_keeps_its_digits(way: Way) -> None:
    big = 10**39 + 7
    line = b'{"key":"a","n":%d,"f":1.0e5,"data":{"n":-%d,"m":0}}' % (big, big)

    def change(event: Event) -> None:
        event.data["m"] = 1

    assert json.loads(way(line, change)) == {
        "key": "a", "n": big, "f": 100000.0, "data": {"n": -big, "m": 1}
    }  # fmt: skip
    assert b'"f":1.0e5' in way(line, change)


@ways
@pytest.mark.parametrize(
    "line",
    [
        b'{"data":{"n":1},"data":{"n":2}}',
        b'{"key":"a","data":[],"b":{"data":{"n":9}},"data":{"n":2}}',
        b'{"data":{"n":2},"data" : {"n":2}}',
    ],
)
def test_of_two_payloads_the_last_one_counts(way: Way, line: bytes) -> None:
    def change(event: Event) -> None:
        assert event.data == {"n": 2}
        event.data["n"] = 3

    assert json.loads(way(line, change))["data"] == {"n": 3}


@ways
@pytest.mark.parametrize("tail", [b" ", b"\r", b"\t \r"])
def test_white_space_after_the_object_does_no_harm(way: Way, tail: bytes) -> None:
    def change(event: Event) -> None:
        event.data["n"] += 1

    for line in (b'{"key":"a","data":{"n":1}}', b'{"key":"a", "data": {"n":1} }', b'{"n":1}'):
        written = json.loads(way(line + tail, change))

        assert written.get("data", written)["n"] == 2


def test_to_object_gives_the_whole_event() -> None:
    event = one(b'{"key":"a","data":{"n":1}}')
    event.data["n"] = 2

    assert event.to_object() == {"key": "a", "data": {"n": 2}}


def test_what_json_lacks_is_refused_with_its_type() -> None:
    event = one(b'{"key":"a"}')
    event.data["when"] = {1, 2}.__iter__

    with pytest.raises(TypeError, match="method-wrapper"):
        event.to_line()


# --- attributes


@pytest.mark.parametrize(
    ("line", "attributes"),
    [
        (b'{"partitionkey":"p","key":"k","seq":3,"id":9,"type":"t"}', ("p", 3, 9, "t")),
        (b'{"partitionkey":null,"key":"k","sequence":1,"seq":2}', ("k", 1, None, None)),
        (b'{"sequence":null,"seq":2}', (None, 2, None, None)),
        (b'{"key":"","type":""}', ("", None, None, "")),
        (b'{"key":{"a":[1]},"id":[true]}', ('{"a":[1]}', None, "[true]", None)),
        (b'{"key":1.5,"sequence":true}', (1.5, True, None, None)),
        (b'{"key":1,"key":2}', (2, None, None, None)),
        (b'{"data":{"key":"inner"}}', (None, None, None, None)),
        (b"[]", (None, None, None, None)),
        (b'"key"', (None, None, None, None)),
    ],
)
@pytest.mark.parametrize("learned", [(), ("key",), ("key", "sequence", "id", "type", "data")])
def test_attributes_stand_in_their_fields_first_match_wins(
    line: bytes, attributes: tuple[Any, ...], learned: tuple[str, ...]
) -> None:
    decoder = JsonDecoder(MAPPING, keys=True, events=True)
    decoder.wanted.update(learned)
    events = decoder.decode(Block(1, 1, data=line)).events
    assert events is not None

    assert (events[0].key, events[0].sequence, events[0].id, events[0].type) == attributes


@given(
    value=json_objects,
    path=st.lists(st.sampled_from(["a", "b", "data", "key"]), min_size=1, max_size=3),
    spelling=spellings,
)
def test_a_dotted_path_finds_what_a_walk_finds(
    value: dict[str, Any], path: list[str], spelling: int
) -> None:
    at: Any = value
    for part in path:
        at = at.get(part) if type(at) is dict else None
    expected = at if at is None or isinstance(at, str | int | float) else ...
    line = dumps(value, spelling)
    mapping = FieldMapping.of({"key": ".".join(path), "type": ".".join(path)})
    decoder = JsonDecoder(mapping, keys=True, events=True)

    def look(event: Event) -> Event:
        seen.append((event.key, event.type, event.data))
        return event

    seen: list[tuple[Any, Any, Any]] = []
    for _ in range(3):  # by then it has learned what is asked for
        handle_lines([line], decoder, look, lambda v, _: v, encode=True, turn_ns=10**9)

    assert len(seen) == 3
    for key, type_, data in seen:
        assert key == type_
        assert data == value.get("data", value)
        if expected is not ...:
            assert key == expected and type(key) is type(expected)
        else:
            assert json.loads(key) == at


def test_attributes_are_read_only_and_unknown_names_are_refused() -> None:
    event = one(b'{"key":"a"}')

    with pytest.raises(AttributeError):
        event.key = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        event.kee = "b"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="kee"):
        event.replace(kee="b")


def test_repr_names_the_event() -> None:
    assert repr(one(b'{"key":"a","id":7}')) == "Event(key='a', type=None, id=7)"


# --- replace, new, derive


@given(value=json_objects, spelling=spellings)
def test_replace_changes_a_copy_alone(value: dict[str, Any], spelling: int) -> None:
    line = dumps(value, spelling)
    event = one(line)

    changed = event.replace(key="new", data={"n": 1})

    assert event.to_line() == line
    assert (changed.key, changed.data) == ("new", {"n": 1})
    if "data" in value:
        name = "partitionkey" if "partitionkey" in value else "key"
        assert changed.to_object() == {**value, name: "new", "data": {"n": 1}}
    else:
        assert changed.to_object() == {"n": 1}


def test_replace_keeps_what_was_changed_before() -> None:
    event = one(b'{"key":"a","type":"t","data":{"n":1}}')
    event.data["n"] = 2

    changed = event.replace(type="u")

    assert changed.to_object() == {"key": "a", "type": "u", "data": {"n": 2}}
    assert changed.replace(type="v").to_object() == {"key": "a", "type": "v", "data": {"n": 2}}


def test_replace_on_what_is_no_object_says_so() -> None:
    with pytest.raises(TypeError, match="no object"):
        one(b"[1]").replace(key="a")

    assert one(b"[1]").replace(data=[2]).to_line() == b"[2]"


def test_a_new_event_is_written_with_what_it_was_given() -> None:
    event = Event.new({"n": 1}, key="k", type="t", time=5)

    assert event.to_object() == {"key": "k", "type": "t", "time": 5, "data": {"n": 1}}
    assert (event.id, event.sequence) == (None, None)
    assert Event.new().to_object() == {"data": None}


def test_a_result_has_what_it_does_not_say_from_its_parent() -> None:
    parent = one(b'{"key":"k","id":7,"type":"t","time":"2024-01-01T00:00:00Z","seq":2}')

    made = derive({"type": "u", "n": 1}, parent, MAPPING)
    text = derive('{"n": 1}\n', parent, MAPPING)

    assert (made.key, made.id, made.type, made.sequence) == ("k", 7, "u", 2)
    assert made.to_line() == b'{"type":"u","n":1}'
    assert made.time == text.time == datetime(2024, 1, 1, tzinfo=UTC)
    assert (text.key, text.to_line(), text.data) == ("k", b'{"n": 1}', {"n": 1})


def test_a_text_of_several_lines_is_no_result() -> None:
    with pytest.raises(ValueError, match="as a list"):
        derive("a\nb", one(b"{}"), MAPPING)


@pytest.mark.parametrize("data", [{"data": {"n": 1}, "key": "k"}, {"n": 1, "key": "k"}])
def test_a_dict_result_goes_on_as_an_event_does(data: dict[str, Any]) -> None:
    made = derive(data, one(b"{}"), MAPPING)

    made.data["n"] = 2

    expected = {**data, "data": {"n": 2}} if "data" in data else {**data, "n": 2}
    assert made.to_object() == expected


# --- CloudEvents and CSV


def test_binary_data_of_a_cloud_event_is_bytes_and_stays_base64() -> None:
    event = one(b'{"specversion":"1.0","id":"1","data_base64":"AAEC"}')
    assert event.data == b"\0\1\2"

    event.data = b"\xff"

    assert event.to_object() == {"specversion": "1.0", "id": "1", "data_base64": "/w=="}


def test_what_is_no_base64_is_named() -> None:
    with pytest.raises(ValueError, match="data_base64 is not base64"):
        _ = one(b'{"specversion":"1.0","data_base64":"?"}').data


def test_a_row_of_csv_is_an_object_of_texts() -> None:
    event = row(b"k,,7", ("key", "type", "n"))

    assert (event.key, event.type, event.data) == ("k", None, {"key": "k", "type": "", "n": "7"})
    assert event.replace(key="j", type="t").to_object() == {"key": "j", "type": "t", "n": "7"}
    assert event.to_object() == {"key": "k", "type": "", "n": "7"}


# --- time

MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
MOMENT_NS = 1714979289123456000


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-06T07:08:09.123456Z",
        "2024-05-06t07:08:09.123456z",
        "2024-05-06 09:08:09.123456+02:00",
        "2024-05-06T07:08:09.123456",
        " 2024-05-06T07:08:09.123456Z ",
        1714979289123456,
        1714979289123456000,
        "1714979289123456",
        "1714979289123456000",
    ],
)
def test_the_same_moment_in_many_spellings(value: Any) -> None:
    assert time_to_ns(value) == MOMENT_NS
    assert one(json.dumps({"ts": value}).encode()).time == MOMENT


@given(
    ns=st.integers(10**17, 4 * 10**18), unit=st.sampled_from([1, 1_000, 1_000_000, 1_000_000_000])
)
def test_an_epoch_number_tells_its_unit_by_its_size(ns: int, unit: int) -> None:
    count = ns // unit

    assert time_to_ns(count) == count * unit


@pytest.mark.parametrize(
    ("value", "ns"),
    [(0, 0), (1.5, 1_500_000_000), (-1, -1_000_000_000), ("1.5e0", 1_500_000_000), (None, None)],
)
def test_small_numbers_are_seconds(value: Any, ns: int | None) -> None:
    assert time_to_ns(value) == ns


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),
       st.integers(-23, 23))  # fmt: skip
def test_rfc_3339_text_is_read_exactly(moment: datetime, hours: int) -> None:
    there = moment.replace(tzinfo=timezone(timedelta(hours=hours)))

    ns = time_to_ns(there.isoformat())

    assert ns is not None
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000) == there


@pytest.mark.parametrize(
    "value", ["yesterday", "", "2024-13-01T00:00:00Z", True, float("inf"), "nan", "inf", "1e999"]
)
def test_what_is_no_time_is_named(value: Any) -> None:
    with pytest.raises(UnreadableTime, match="neither RFC 3339 nor an epoch number"):
        time_to_ns(value)


def test_a_time_beyond_the_calendar_is_named() -> None:
    event = one(b'{"time":99999999999999999999999}')

    assert event.time_ns == 99999999999999999999999
    with pytest.raises(UnreadableTime, match="beyond the years"):
        _ = event.time


def test_half_a_surrogate_pair_can_be_printed() -> None:
    assert json.loads(encode_printable({"a\udcff": ["\udcff"]})) == {"a\\udcff": ["\\udcff"]}
