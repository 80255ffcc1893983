"""The hot loop against the json module, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.batch import DEAD, split_out
from millstream.engine.codecs import Bad, JsonDecoder
from millstream.engine.event import Event, FieldMapping
from millstream.engine.executors.calling import compact
from millstream.engine.executors.line_loop import Handled, decoded, handle_lines, is_utf8
from tests.engine.drawn import dumps, json_values, spellings

LONG = 1 << 62
MALFORMED = (b'{"a":1', b"nope", b'{"a":"\xff"}', b"]", b'{"a":1} {"b":2}', b'{,"data":1}')

_actions = st.sampled_from(["pass", "pass", "change", "filter", "fail", "two", "dict"])


@st.composite
def _events(draw: st.DrawFn) -> bytes:
    value = {"key": draw(st.sampled_from(["a", "b", 1, None])), "do": draw(_actions)}
    if draw(st.booleans()):
        value["data"] = draw(json_values)
    return dumps(value, draw(spellings))


_lines = st.lists(
    st.one_of(_events(), _events(), st.sampled_from(MALFORMED)),
    max_size=30,
)


def decoder(*wanted: str) -> JsonDecoder:
    made = JsonDecoder(FieldMapping.of(), keys=True, events=True)
    made.wanted.update(wanted)
    return made


def action_of(event: Event) -> str:
    return str(json.loads(event.to_line())["do"])


def act(event: Event) -> Any:
    match action_of(event):
        case "filter":
            return None
        case "fail":
            raise ValueError("as asked")
        case "change":
            return event.replace(data={"changed": True})
        case "two":
            return [event, event]
        case "dict":
            return {"made": event.key}
    return event


def odd(result: Any, event: Event) -> Any:
    """As an executor does it: events of what is none yet."""
    results = result if isinstance(result, list) else [result]
    return compact([r if isinstance(r, Event) else event.replace(data=r) for r in results])


def parsed(line: bytes) -> Any:
    """What the json module makes of a line; None when it is no JSON."""
    try:
        return json.loads(str(line, "utf-8"))
    except ValueError:
        return None


def expected(line: bytes) -> str | list[Any]:
    """What must become of a line: a word, or its outputs."""
    value = parsed(line)
    if value is None or value["do"] == "fail":
        return "dead"
    match value["do"]:
        case "pass":
            return [value]
        case "filter":
            return []
        case "two":
            return [value, value]
        case "change":
            return ["changed"]
    return ["dict"]


def became(value: Any) -> str | list[Any]:
    if value is DEAD:
        return "dead"
    lines = [] if value is None else value if isinstance(value, list) else [value]
    outputs = [json.loads(line if isinstance(line, bytes) else line.to_line()) for line in lines]
    return [_named(each) for each in outputs]


def _named(output: Any) -> Any:
    payload = output.get("data", output) if isinstance(output, dict) else output
    if isinstance(payload, dict) and payload.get("changed") is True:
        return "changed"
    if isinstance(payload, dict) and "made" in payload:
        return "dict"
    return output


def handled(
    lines: Sequence[bytes], made: JsonDecoder, *, encode: bool, turn: int = LONG
) -> Handled:
    return handle_lines(
        lines, made, act, odd, encode=encode, turn_ns=turn, is_utf8=is_utf8(lines, None)
    )


def equal(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """By their JSON, so that 1, 1.0 and true are apart."""
    return json.dumps(list(one)) == json.dumps(list(other))


@pytest.mark.parametrize("encode", [True, False])
@pytest.mark.parametrize("wanted", [(), ("data",), ("id", "type", "data")])
@given(lines=_lines)
def test_each_line_becomes_what_it_must(
    wanted: tuple[str, ...], encode: bool, lines: list[bytes]
) -> None:
    done = handled(lines, decoder(*wanted), encode=encode)

    assert equal(map(became, done.values), map(expected, lines))
    dead = [place for place, line in enumerate(lines) if expected(line) == "dead"]
    assert [failure.place for failure in done.failures] == dead
    malformed = [place for place in dead if parsed(lines[place]) is None]
    assert [f.place for f in done.failures if isinstance(f.error, Bad)] == malformed


@given(lines=_lines)
def test_each_line_has_its_key_and_its_stamps(lines: list[bytes]) -> None:
    done = handled(lines, decoder("data"), encode=True)

    keys = [(parsed(line) or {}).get("key") for line in lines]
    assert done.keys == keys
    assert len(done.stamps) == len(lines) + 1
    assert done.stamps == sorted(done.stamps)


@given(lines=_lines)
def test_a_turn_that_is_over_ends_with_a_whole_line(lines: list[bytes]) -> None:
    values, keys, failed = [], [], []
    at = 0
    made = decoder("data")
    while at < len(lines):
        done = handled(lines[at:], made, encode=True, turn=-1)
        assert len(done.values) == 1, "one line, and then the turn is over"
        values += done.values
        keys += done.keys
        failed += [at + failure.place for failure in done.failures]
        at += len(done.values)

    whole = handled(lines, decoder("data"), encode=True)
    assert (values, keys) == (whole.values, whole.keys)
    assert failed == [failure.place for failure in whole.failures]


@given(lines=_lines)
def test_packed_lines_are_the_values_again(lines: list[bytes]) -> None:
    done = handled(lines, decoder(), encode=True)
    if not lines:
        return

    out, counts = done.packed()
    split = split_out(out, counts)
    for value, own in zip(done.values, split, strict=True):
        if value is DEAD:
            assert own is None
        else:
            assert own == ([] if value is None else value if isinstance(value, list) else [value])
    assert done.odd or counts is None


@pytest.mark.parametrize("wanted", [(), ("data",)])
@given(lines=_lines)
def test_events_taken_one_by_one_are_the_same(wanted: tuple[str, ...], lines: list[bytes]) -> None:
    events = list(decoded(lines, decoder(*wanted), is_utf8=is_utf8(lines, None)))

    for line, event in zip(lines, events, strict=True):
        if parsed(line) is None:
            assert isinstance(event, Bad)
        else:
            assert isinstance(event, Event)
            assert event.to_line() == line
            payload = parsed(line).get("data", parsed(line))
            assert equal([event.data], [payload])


def test_lines_without_a_payload_at_their_end_are_soon_decoded_whole() -> None:
    made = decoder("data")
    assert made.in_two_parts

    handled([b'{"data":{},"do":"pass"}'] * 20, made, encode=True)

    assert not made.in_two_parts


def test_what_is_no_error_of_the_handler_goes_through() -> None:
    def call(event: Event) -> Event:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        handle_lines([b'{"a":1}'], decoder(), call, odd, encode=True, turn_ns=LONG)
