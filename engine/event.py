"""Events: attributes decoded, payload left raw until a handler asks for it.

Pure: no clock, no loop, no files. What turns bytes into these objects lives in codecs.py.
An event that nobody touched is its own line; `to_line()` gives that line back byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

Scalar = str | int | float | bool | None
"""What an attribute may hold: JSON's text, numbers, booleans and null."""

ATTRIBUTES: Final = ("key", "sequence", "id", "type", "time")

DEFAULT_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "key": ("partitionkey", "key"),
    "sequence": ("sequence", "seq"),
    "id": ("id",),
    "type": ("type",),
    "time": ("time", "timestamp", "ts"),
}
"""The fields that are recognised without flags, first match wins (contract: Events)."""

encode_json: Final = msgspec.json.Encoder().encode
decode_json: Final = msgspec.json.Decoder().decode


def encode_printable(value: Any) -> bytes:
    """JSON also of texts with half a surrogate pair (the name of a file may have one): escaped."""
    try:
        return encode_json(value)
    except UnicodeEncodeError:
        return encode_json(printable(value))


def encode_indented(value: Any) -> bytes:
    """The same for people: a document of several lines, the last one ended."""
    return msgspec.json.format(encode_printable(value), indent=2) + b"\n"


def printable(value: Any) -> Any:
    """JSON values in whose texts halves of surrogate pairs are escaped."""
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable(each) for each in value]
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode


def decode_members(line: bytes) -> dict[str, Any]:
    """The members of an object, each still raw; none for JSON that is no object."""
    try:
        return _decode_members(line)
    except msgspec.ValidationError:
        return {}


class UnreadableTime(ValueError):
    """The event's time attribute is no RFC 3339 text and no epoch number."""


class FieldMapping(Struct, frozen=True):
    """Where an event's attributes stand in its object: attribute -> dotted paths, in turn."""

    paths: dict[str, tuple[tuple[str, ...], ...]]

    @classmethod
    def of(cls, chosen: Mapping[str, str | None] | None = None) -> FieldMapping:
        """The default fields, with `chosen` (attribute -> dotted path) in their place."""
        paths = {}
        for name in ATTRIBUTES:
            path = (chosen or {}).get(name)
            names = (path,) if path else DEFAULT_FIELDS[name]
            paths[name] = tuple(tuple(p.split(".")) for p in names)
        return cls(paths)


def lookup(obj: Any, paths: tuple[tuple[str, ...], ...]) -> Any:
    """The value at the first path that `obj` has, else UNSET."""
    for path in paths:
        at = obj
        for part in path:
            if type(at) is not dict or part not in at:
                break
            at = at[part]
        else:
            return at
    return UNSET


def lookup_attribute(obj: Any, paths: tuple[tuple[str, ...], ...]) -> Scalar:
    """An attribute's value: the first of `paths` that holds more than null decides."""
    for path in paths:
        value = lookup(obj, (path,))
        if value is not UNSET and value is not None:
            return to_scalar(value)
    return None


def to_scalar(value: Any) -> Scalar:
    """An attribute's value; an object or a list stands for its JSON text."""
    if value is UNSET:
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return encode_json(value).decode()


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# An epoch number tells its unit by its size: 1e11 s is the year 5138, 1e11 ms is 1973.
_EPOCH_UNITS: Final = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000))


def time_to_ns(value: Scalar) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 text, or of an epoch number in s, ms, us or ns.

    Numbers are told apart by size; text that holds a number counts as that number. Raises
    UnreadableTime.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        try:
            return time_to_ns(float(text) if "." in text or "e" in text else int(text))
        except ValueError:
            return _rfc3339_to_ns(text)
    if isinstance(value, bool):
        raise UnreadableTime(f"time {value!r} is neither RFC 3339 nor an epoch number")
    size = abs(value)
    for limit, factor in _EPOCH_UNITS:
        if size < limit:
            return value * factor if isinstance(value, int) else round(value * factor)
    if not size < math.inf:
        raise UnreadableTime(f"time {value!r} is neither RFC 3339 nor an epoch number")
    return int(value)


def _rfc3339_to_ns(text: str) -> int:
    try:
        stamp = datetime.fromisoformat(text.upper())  # RFC 3339 allows a small t and z
    except ValueError:
        message = f"time {text!r} is neither RFC 3339 nor an epoch number"
        raise UnreadableTime(message) from None
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    since = stamp - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


class Event:
    """One event, as a handler sees it.

    `key`, `type`, `id`, `sequence`, `time` and `partition` are read only (use `replace` for
    an event that differs); `data` is the payload, decoded at first access: change it in place,
    or assign it.
    """

    __slots__ = ()

    # Concrete classes give these slots.
    _key: Any
    _type: Any
    _id: Any
    _time: Any
    _sequence: Any
    _obj: Any

    partition: ClassVar[int] = 0

    @staticmethod
    def new(
        data: Any = None,
        *,
        key: Scalar = None,
        type: str | None = None,
        id: Scalar = None,
        time: Scalar = None,
        sequence: Scalar = None,
    ) -> Event:
        """An event made by a handler; it is written as an object with the given attributes."""
        return Made(_key=key, _type=type, _id=id, _time=time, _sequence=sequence, _obj=data)

    @property
    def key(self) -> Scalar:
        """The events of one key are kept in order; None: this event is unordered."""
        value: Scalar | UnsetType = self._key
        return self._missing("key") if value is UNSET else value

    @property
    def type(self) -> str | None:
        """What happened, such as "order.placed"."""
        value: str | UnsetType | None = self._type
        return self._missing("type") if value is UNSET else value

    @property
    def id(self) -> Scalar:
        """The producer's identifier of this event."""
        value: Scalar | UnsetType = self._id
        return self._missing("id") if value is UNSET else value

    @property
    def sequence(self) -> Scalar:
        """The producer's own number."""
        value: Scalar | UnsetType = self._sequence
        return self._missing("sequence") if value is UNSET else value

    @property
    def time(self) -> datetime | None:
        """When it happened, in UTC (to the microsecond). Raises UnreadableTime."""
        ns = self.time_ns
        try:
            return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1_000)
        except OverflowError:
            raise UnreadableTime(f"time {ns} ns lies beyond the years 1 to 9999") from None

    @property
    def time_ns(self) -> int | None:
        """When it happened, in ns since 1970. Raises UnreadableTime."""
        value: Any = self._time
        return time_to_ns(self._missing("time") if value is UNSET else value)

    @property
    def data(self) -> Any:
        """The payload: the `data` field when there is one, else the whole object."""
        obj = self._obj
        return self._load() if obj is UNSET else obj

    @data.setter
    def data(self, value: Any) -> None:
        if self._obj is UNSET:
            self._load()  # so that to_line() knows whether `data` is a part or the whole
        self._obj = value

    def to_object(self) -> Any:
        """The whole event as it would be written, as JSON values."""
        return decode_json(self.to_line())

    def to_line(self) -> bytes:
        """The event as one line of JSON, without its end. Raises TypeError for what JSON lacks."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Event:
        """A copy in which some of key, type, id, sequence, time and data differ."""
        raise NotImplementedError

    def _missing(self, name: str) -> Any:
        return None

    def _load(self) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"Event(key={self.key!r}, type={self.type!r}, id={self.id!r})"


def _refuse_unknown(changes: Mapping[str, Any]) -> None:
    unknown = set(changes) - {*ATTRIBUTES, "data"}
    if unknown:
        raise TypeError(
            f"event.replace() knows key, type, id, sequence, time and data, not {sorted(unknown)}"
        )


class Made(Event, Struct, gc=False, eq=False, kw_only=True):
    """An event that a handler made: by Event.new(), or as a dict, str or bytes result."""

    _key: Any = None
    _type: Any = None
    _id: Any = None
    _time: Any = None
    _sequence: Any = None
    _obj: Any = UNSET
    whole: Any = UNSET
    """The dict that the handler gave back, when `data` is a part of it or all of it."""
    text: bytes | None = None
    """What the handler gave back, when it was str or bytes."""
    mapping: FieldMapping | None = None
    """Where the attributes stand in `whole`."""

    def to_line(self) -> bytes:
        whole = self.whole
        if whole is not UNSET:
            if self._obj is not UNSET and self._obj is not whole:
                whole = {**whole, "data": self._obj} if "data" in whole else self._obj
            return encode_json(whole)
        if self.text is not None and self._obj is UNSET:
            return self.text
        if self.text is not None:
            return encode_json(self._obj)
        members = {
            "id": self._id,
            "key": self._key,
            "type": self._type,
            "time": self._time,
            "sequence": self._sequence,
        }
        envelope = {name: value for name, value in members.items() if value is not None}
        envelope["data"] = self._obj
        return encode_json(envelope)

    def _load(self) -> Any:
        if self.whole is not UNSET:
            self._obj = self.whole.get("data", self.whole)
        elif self.text is not None:
            self._obj = decode_json(self.text)
        else:
            self._obj = None
        return self._obj

    def replace(self, **changes: Any) -> Event:
        _refuse_unknown(changes)
        kept = {name: changes.get(name, getattr(self, "_" + name)) for name in ATTRIBUTES}
        if self.text is not None and not set(changes) - {"data"}:
            text_slots = {"_" + name: value for name, value in kept.items()}
            return Made(**text_slots, _obj=changes.get("data", self._obj), text=self.text)
        if type(self.whole) is not dict or self.mapping is None:
            return Event.new(changes.get("data", self.data), **kept)
        slots = {"_" + name: value for name, value in kept.items()}
        return _replaced(slots, decode_json(self.to_line()), self.mapping, changes)


if TYPE_CHECKING:
    Guarded = Any
else:

    class Guarded:
        """A type that no JSON value decodes to: it guards slots that only the engine fills."""


OPENING_BRACE: Final = 0x7B
DATA_MEMBER: Final = b',"data":'
_LAST_MEMBER: Final = frozenset((DATA_MEMBER, b'{"data":'))
_BEFORE_NAME: Final = frozenset((b"{", b",", b" "))


def _is_spaced(end: bytes, head: bytes) -> bool:
    """Whether `head` ends with the member name "data" as json.dumps() writes it."""
    return end == b'"data": ' and head[-9:-8] in _BEFORE_NAME


class Record(Event, Struct, gc=False, eq=False):
    """An event as it came in a line of JSON.

    `bind()` makes the subclass that decodes a given mapping. The names of the guarded slots
    can't be met in good faith, and a line that holds one is refused by its type.
    """

    _key: Guarded = field(default=UNSET, name="\ue000key")
    _first_key: Guarded = field(default=None, name="\ue000first_key")
    _data: Guarded = field(default=UNSET, name="\ue000data")
    """The payload: raw, or decoded already when there is a _head."""
    _line: Guarded = field(default=None, name="\ue000line")
    _obj: Guarded = field(default=UNSET, name="\ue000obj")
    """The payload once a handler has had it in its hands."""
    _head: Guarded = field(default=None, name="\ue000head")
    """What stands before `,"data":`, when the line was decoded in two parts."""

    # Bound subclasses have slots for those of them that handlers ask for.
    _type: ClassVar[Any] = UNSET  # type: ignore[misc]  # until a subclass has the slot
    _id: ClassVar[Any] = UNSET  # type: ignore[misc]
    _time: ClassVar[Any] = UNSET  # type: ignore[misc]
    _sequence: ClassVar[Any] = UNSET  # type: ignore[misc]

    mapping: ClassVar[FieldMapping]
    decoded: ClassVar[frozenset[str]]
    """The attributes that decoding fills; the others are looked up when asked for."""
    has_payload_slot: ClassVar[bool] = False
    wanted: ClassVar[set[str]]
    """Filled with the attributes that handlers asked for: the next decoder decodes them too."""

    @property
    def data(self) -> Any:
        obj = self._obj
        if obj is UNSET:
            raw = self._data
            if self._head is not None:
                self._obj = raw
                return raw
            if raw is UNSET:
                return self._load()
            self.wanted.add("data")
            obj = self._obj = decode_json(raw)
        return obj

    @data.setter
    def data(self, value: Any) -> None:
        if self._obj is UNSET and self._head is None:
            self._load()
        self._obj = value

    def to_line(self) -> bytes:
        obj = self._obj
        line: bytes = self._line
        if obj is UNSET:
            return line
        if self._head is not None:
            return b"".join((self._head, DATA_MEMBER, encode_json(obj), b"}"))
        raw = self._data
        if raw is UNSET:
            # Where decoding looks for a payload, its absence means that the object is the data.
            whole = self.has_payload_slot and type(obj) is not bytes
            return encode_json(obj) if whole else self._changed(obj)
        raw = bytes(raw)
        head = line[: -1 - len(raw)]
        end = head[-8:]
        named = end in _LAST_MEMBER or _is_spaced(end, head)
        if named and raw[0] == OPENING_BRACE and line.endswith(raw, 0, -1):
            # An object that ends the line under the name "data" is the payload itself: no other
            # reading of these bytes is JSON.
            return head + encode_json(obj) + b"}"
        # One occurrence of the payload's bytes is certainly the payload itself, too. (One that
        # overlaps it counts: in `"data":":"` the payload's bytes begin at the name's end.)
        at = line.find(raw)
        if line.find(raw, at + 1) < 0:
            return b"".join((line[:at], encode_json(obj), line[at + len(raw) :]))
        return self._changed(obj)

    def _changed(self, obj: Any) -> bytes:
        members = decode_members(self._line)
        if "data" in members:
            members["data"] = obj
        elif isinstance(obj, bytes) and "data_base64" in members:
            members["data_base64"] = base64.b64encode(obj).decode()
        else:
            return encode_json(obj)
        return encode_json(members)

    def _load(self) -> Any:
        self.wanted.add("data")
        raw = self._data
        if raw is not UNSET:
            obj = decode_json(raw)
        else:
            obj = decode_json(self._line)
            if type(obj) is dict:
                if "data" in obj:
                    obj = obj["data"]
                elif "data_base64" in obj and "specversion" in obj:
                    obj = _decode_base64(obj["data_base64"])
        self._obj = obj
        return obj

    def _missing(self, name: str) -> Any:
        if name in self.decoded:
            return None
        self.wanted.add(name)
        return lookup_attribute(decode_json(self._line), self.mapping.paths[name])

    def replace(self, **changes: Any) -> Event:
        _refuse_unknown(changes)
        kept = {"_" + name: changes.get(name, getattr(self, name)) for name in ATTRIBUTES[:4]}
        kept["_time"] = changes.get("time", inherited(self, "time"))
        return _replaced(kept, decode_json(self.to_line()), self.mapping, changes)


def _replaced(
    slots: dict[str, Any], whole: Any, mapping: FieldMapping, changes: Mapping[str, Any]
) -> Made:
    """The event with `slots` as its attributes whose object is `whole` but for `changes`."""
    named = set(changes) - {"data"}
    if named and type(whole) is not dict:
        raise TypeError(
            f"event.replace() can't set {', '.join(sorted(named))}: the event is no object"
        )
    for name in named:
        set_at(whole, mapping.paths[name], changes[name])
    if "data" in changes:
        if type(whole) is dict and "data" in whole:
            whole["data"] = changes["data"]
        else:
            whole = changes["data"]
    payload = UNSET if type(whole) is dict else whole
    return Made(**slots, _obj=payload, whole=whole, mapping=mapping)


def _decode_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"data_base64 is not base64: {error}") from None


def set_at(obj: Any, paths: tuple[tuple[str, ...], ...], value: Any) -> None:
    """Put `value` at the first of `paths` that `obj` has, or at the last one."""
    present = next((p for p in paths if lookup(obj, (p,)) is not UNSET), paths[-1])
    for part in present[:-1]:
        obj = obj.setdefault(part, {})
    obj[present[-1]] = value


class Row(Event, Struct, gc=False, eq=False):
    """An event as it came in a row of CSV: its data is an object of texts by column."""

    _line: bytes
    _row: list[str]
    _key: Any = UNSET
    _type: Any = UNSET
    _id: Any = UNSET
    _time: Any = UNSET
    _sequence: Any = UNSET
    _obj: Any = UNSET

    mapping: ClassVar[FieldMapping]
    header: ClassVar[tuple[str, ...]]
    columns: ClassVar[Mapping[str, int | None]]
    """Attribute -> the index of its column."""

    @property
    def is_as_it_came(self) -> bool:
        """Whether no handler changed it."""
        obj = self._obj
        return obj is UNSET or obj == dict(zip(self.header, self._row, strict=False))

    def to_line(self) -> bytes:
        return encode_json(self.data)

    def _load(self) -> Any:
        self._obj = dict(zip(self.header, self._row, strict=False))
        return self._obj

    def _missing(self, name: str) -> Any:
        at = self.columns[name]
        value = self._row[at] or None if at is not None else None
        setattr(self, "_" + name, value)
        return value

    def replace(self, **changes: Any) -> Event:
        _refuse_unknown(changes)
        whole = dict(changes.get("data", self.data))
        kept: dict[str, Any] = {}
        for name in ATTRIBUTES:
            kept["_" + name] = changes.get(name, self._missing(name))
            at = self.columns[name]
            if name in changes and at is not None:
                whole[self.header[at]] = changes[name]
        return Made(**kept, whole=whole, mapping=self.mapping)


def derive(result: Any, parent: Event, mapping: FieldMapping) -> Event:
    """The event that a handler's dict, str or bytes result stands for.

    What the result does not say of itself (key, id, type, time, sequence) it has from `parent`.
    """
    slots: dict[str, Any] = {}
    if type(result) is dict:
        for name in ATTRIBUTES:
            value = lookup(result, mapping.paths[name])
            slots["_" + name] = inherited(parent, name) if value is UNSET else to_scalar(value)
        return Made(**slots, whole=result, mapping=mapping)
    text = (result.encode() if isinstance(result, str) else bytes(result)).removesuffix(b"\n")
    if b"\n" in text:
        raise ValueError(
            "a str or bytes result is one line of output, and this one has several; "
            "give them back as a list"
        )
    for name in ATTRIBUTES:
        slots["_" + name] = inherited(parent, name)
    return Made(**slots, text=text)


def inherited(parent: Event, name: str) -> Any:
    """The attribute as it came (a time stays text or number)."""
    value = getattr(parent, "_" + name)
    return parent._missing(name) if value is UNSET else value
