"""What crosses to a worker process and back is the same event, whatever made it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine import Event
from millstream.engine.batch import DEAD
from millstream.engine.codecs import JsonDecoder
from millstream.engine.event import FieldMapping, derive
from millstream.engine.executors.wire import (
    Done,
    Work,
    decode_reply,
    decode_request,
    encode,
    value_from_wire,
    value_to_wire,
)

MAPPING = FieldMapping.of({})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def crossed(value: Any) -> Any:
    """The value after it went to a worker and came back."""
    decoder = JsonDecoder(MAPPING, keys=True, events=True)
    there = decode_request(encode(Work(1, 0, values=[value_to_wire(value)])))
    assert isinstance(there, Work)
    assert there.values is not None
    received = value_from_wire(there.values[0], decoder)
    back = decode_reply(encode(Done(1, b"", values=[value_to_wire(received)])))
    assert isinstance(back, Done)
    assert back.values is not None
    return value_from_wire(back.values[0], decoder)


def seen(event: Event) -> tuple[Any, ...]:
    return event.key, event.type, event.id, event.sequence, event.data, event.to_line()


@given(data=json_values, key=st.none() | st.text() | st.integers(-(2**80), 2**80), id=st.text())
def test_a_new_event_crosses_whole(data: Any, key: Any, id: str) -> None:
    event = Event.new(data, key=key, id=id, type="t")

    assert seen(crossed(event)) == seen(event)


@pytest.mark.parametrize("is_read", [False, True])
@given(result=st.dictionaries(st.sampled_from(["key", "id", "data", "x"]), json_values, max_size=4))
def test_a_dict_crosses_whole(is_read: bool, result: dict[str, Any]) -> None:
    event = derive(result, Event.new({}, key="parent"), MAPPING)
    if is_read:
        _ = event.data

    assert seen(crossed(event)) == seen(event)


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '"text"', '{"data": {"b": 2}}'])
def test_a_text_crosses_whole(text: str, is_read: bool) -> None:
    event = derive(text, Event.new({}, key="parent"), MAPPING)
    if is_read:
        _ = event.data
    original = event.to_line()

    received = crossed(event)

    assert received.to_line() == original
    assert (received.key, received.data) == ("parent", event.data)


def test_a_text_that_is_no_json_crosses_as_it_is() -> None:
    event = derive("no JSON", Event.new({}), MAPPING)

    assert crossed(event).to_line() == b"no JSON"


def test_payloads_that_were_replaced_by_something_else_cross() -> None:
    event = derive({"a": 1}, Event.new({}), MAPPING)
    event.data = [1, 2]

    assert crossed(event).data == [1, 2]


def test_none_and_dead_cross_as_themselves() -> None:
    assert crossed(None) is None
    assert crossed(DEAD) is DEAD


def test_several_results_cross_in_order() -> None:
    events = [Event.new(number, key="k") for number in range(3)]

    assert [each.data for each in crossed(events)] == [0, 1, 2]


@given(lane=st.integers(-(2**100), 2**100))
def test_lanes_and_states_of_any_size_cross(lane: int) -> None:
    work = decode_request(encode(Work(1, 0, lanes=[lane, None], states=[(lane, b"s")])))

    assert isinstance(work, Work)
    assert work.lanes == [lane, None]
    assert work.states == [(lane, b"s")]
