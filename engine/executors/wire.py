"""What crosses between the run and its worker processes: framed msgpack over a socket pair.

Lines cross as they are. A result that is no line of the source crosses as its line and its
attributes. Imported by worker processes: neither numpy nor asyncio is imported here.
"""

from __future__ import annotations

import signal
import struct
from typing import Any, Final

import msgspec

from ..batch import DEAD, DEAD_COUNT, Value
from ..codecs import JsonDecoder
from ..dead_letters import ErrorInfo
from ..event import ATTRIBUTES, Event, Made, Record, Row, decode_json, inherited
from ..loading import Reference

HEADER: Final = struct.Struct("<I")
LEFT_TO_THE_RUN: Final = (signal.SIGINT, signal.SIGTERM)
"""What ends a run reaches its workers too; they go on until the run ends them."""

SOURCE, WHOLE, ENVELOPE, TEXT = range(4)


class WireEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event: its line, what kind of line that is, and its attributes (None: in the line)."""

    line: bytes
    kind: int = SOURCE
    attributes: list[Any] | None = None


WireValue = list[WireEvent] | int
"""The events of one input event, or DEAD_COUNT."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message to a worker: what it will run."""

    name: str
    handler: Reference
    kind: str
    batch: int | None
    concurrency: int
    types: str | None
    max_outputs: int
    injected: tuple[str, ...]
    setup: Reference | None
    teardown: Reference | None
    state: Reference | None
    mapping: dict[str, tuple[tuple[str, ...], ...]]
    path: list[str]
    order: str
    attempts: int = 1
    retry_on: tuple[Reference | str, ...] | None = None
    retry_never: tuple[Reference | str, ...] = ()
    holds_all: bool = False
    """Whether every failure holds up its lane until the run says what becomes of it."""
    keeps_states: bool = False
    """Whether the state of a key is wanted after each of its events."""
    guards: bool = False
    """Whether a circuit breaker wants to know of failures that are worth another attempt."""
    timeout_s: float | None = None
    memory: int | None = None
    """Bytes that the process may use."""
    inject: tuple[str, ...] = ()
    """The faults that calls are to suffer, drawn with the seed."""
    seed: int = 0
    under_way: int | None = None
    """File descriptor of the memory in which it says what it is working on."""


class Partition(msgspec.Struct, frozen=True, tag=True):
    """How the lines of a partition are to be decoded; sent before the first of them."""

    number: int
    header: tuple[str, ...] = ()
    """Of CSV; JSON has none."""
    delimiter: str | None = None
    encodes: bool = False
    """Whether results are wanted as output lines: this is the last stage."""
    cloud_events: bool = False


class Work(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Events to handle: lines joined by newlines, or `values`; and states of keys by place."""

    id: int
    partition: int
    seen: int = 0
    """The last work whose answer the run had seen: lanes held by then hold nothing here."""
    lines: bytes | None = None
    values: list[WireValue] | None = None
    lanes: list[Any] | None = None
    states: list[tuple[Any, bytes | None]] | None = None
    """Key and pickled state of keys that this worker does not hold (None: a new key)."""
    indexes: list[int] | None = None
    """The numbers of the events, when faults are injected."""
    attempts: list[int] | None = None
    """Which attempt this is of each event, from 1; None: the first of all."""


class End(msgspec.Struct, frozen=True, tag=True):
    """No more work: tear down and leave."""


Request = Start | Partition | Work | End


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker has imported its handler and set up."""

    pid: int


class Broken(msgspec.Struct, frozen=True, tag=True):
    """The handler can't be imported, or set-up failed; or, at the end, tear-down did."""

    message: str


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """An event that failed: its place, why, and whether it never was an event."""

    place: int
    error: ErrorInfo
    malformed: bool = False
    held: bool = False
    """Whether the run has to decide what becomes of it; its lane waits meanwhile."""
    retriable: bool = False
    after_ns: int | None = None
    together: bool = False
    """Whether it was one of several in a call of a batch handler."""


class Done(msgspec.Struct, frozen=True, tag=True, gc=False):
    """What became of the events of one Work."""

    id: int
    stamps: bytes
    """When the first began, and when each ended; with `starts`, when each ended."""
    starts: bytes | None = None
    out: bytes | None = None
    counts: list[int] | None = None
    values: list[WireValue] | None = None
    failures: list[Failed] = []
    noted: list[tuple[int, Any, bytes | None]] = []
    """Place, key, and pickled state of the key after that event (None: it is empty)."""
    skipped: list[int] = []
    """Places that were not handled: an event of their lane is held."""
    states: list[tuple[Any, bytes | None]] | None = None
    """Pickled state of the keys after this work; None: it is empty and dropped."""
    fired: list[tuple[int, int]] = []
    """Injected faults: number, and when it fired (ns, monotonic)."""


Reply = Ready | Broken | Done

_encode: Final = msgspec.msgpack.Encoder().encode
_BIG_INT: Final = 1


def encode(message: Request | Reply) -> bytes:
    """Raises what msgspec raises."""
    try:
        return _encode(message)
    except OverflowError:
        return _encode(_portable(message))


def _portable(value: Any) -> Any:
    """The same with integers of more than 64 bits, which msgpack lacks, as extensions."""
    if isinstance(value, msgspec.Struct):
        fields = value.__struct_fields__
        return type(value)(*[_portable(getattr(value, name)) for name in fields])
    if isinstance(value, list | tuple):
        return type(value)([_portable(each) for each in value])
    is_big = type(value) is int and not -(2**63) <= value < 2**64
    return msgspec.msgpack.Ext(_BIG_INT, b"%d" % value) if is_big else value


def _from_extension(code: int, data: memoryview) -> int:
    return int(bytes(data))


decode_request: Final = msgspec.msgpack.Decoder(Request, ext_hook=_from_extension).decode
decode_reply: Final = msgspec.msgpack.Decoder(Reply, ext_hook=_from_extension).decode


def to_wire(event: Event) -> WireEvent:
    """Raises what Event.to_line() raises."""
    if isinstance(event, Record):
        return WireEvent(event.to_line())
    if isinstance(event, Row) and event.is_as_it_came:
        return WireEvent(event._line)
    attributes = [inherited(event, name) for name in ATTRIBUTES]
    kind = WHOLE
    if isinstance(event, Made) and event.whole is msgspec.UNSET:
        kind = ENVELOPE if event.text is None else TEXT
    return WireEvent(event.to_line(), kind, attributes)


def value_to_wire(value: Value) -> WireValue:
    """Raises what Event.to_line() raises."""
    if value is None:
        return []
    if value is DEAD:
        return DEAD_COUNT
    return [to_wire(event) for event in (value if type(value) is list else (value,))]


def from_wire(event: WireEvent, decoder: Any) -> Event:
    """The event again; `decoder` is that of its partition."""
    if event.kind == SOURCE:
        return event_of_line(event.line, decoder)
    slots = dict(zip(("_" + name for name in ATTRIBUTES), event.attributes or (), strict=False))
    if event.kind == TEXT:
        return Made(**slots, text=event.line)
    whole = decode_json(event.line)
    if event.kind == ENVELOPE:
        return Made(**slots, _obj=whole.get("data"))
    payload = msgspec.UNSET if type(whole) is dict else whole
    return Made(**slots, _obj=payload, whole=whole, mapping=decoder.mapping)


def event_of_line(line: bytes, decoder: Any) -> Event:
    """A line of the source decoded. Raises what its decoder raises."""
    if isinstance(decoder, JsonDecoder):
        try:
            event, fix = decoder.bound()[0](line), decoder.bound()[1]
        except msgspec.DecodeError:
            return decoder.decode_unusual(line)
        event._line = line
        if event._first_key is not None:
            event._key = event._first_key
        if fix is not None:
            fix([event])
        return event
    from ..codecs import Block

    return decoder.decode(Block(1, 0, records=[line])).events[0]  # type: ignore[no-any-return]


def value_from_wire(value: WireValue, decoder: Any) -> Value:
    """The value again: an event, a list, None, or DEAD."""
    if isinstance(value, int):
        return DEAD
    events = [from_wire(each, decoder) for each in value]
    return events[0] if len(events) == 1 else events or None
