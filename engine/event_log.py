"""Event logs of any origin, by column: what an audit needs of each event, and where it stands.

Pure. A block of records becomes columns (sequence numbers, keys, times, ids), decoding no more than
what was asked for; what is no event is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Struct, defstruct, field

from .codecs import Bad, Block, CsvDecoder, check_cloud_event, describe_bad, nested_type
from .event import (
    FieldMapping,
    Row,
    Scalar,
    UnreadableTime,
    decode_json,
    lookup,
    lookup_attribute,
    time_to_ns,
    to_scalar,
)
from .lanes import NO_KEY, hashes_of

Attribute = Literal["sequence", "key", "time", "id"]
Values = list[Any] | npt.NDArray[np.int64]


class Keys(Struct):
    """The keys of events, as their hashes (see lanes.py), and by place for those who ask."""

    hashes: npt.NDArray[np.int64]
    at: Callable[[int], Any]

    @classmethod
    def of(cls, keys: list[Any]) -> Keys:
        """Keys as they are; null is no key."""
        return cls(hashes_of(keys), keys.__getitem__)

    def present(self) -> npt.NDArray[np.bool_] | None:
        """Which of the events have a key; None: all."""
        present = self.hashes != NO_KEY
        return None if present.all() else present


class Columns(Struct):
    """The events of a block; values are there of what was asked for."""

    lines: Sequence[int]
    """Where each stands: the number of its first line, from 1."""
    values: dict[Attribute, Values]
    """By attribute, but for the key."""
    bad: dict[int, Bad]
    """Line -> why what stands there is no event."""
    keys: Keys | None = None

    @classmethod
    def of(
        cls, lines: Sequence[int], values: dict[Attribute, list[Any]], bad: dict[int, Bad]
    ) -> Columns:
        """Columns of values as they came, the keys among them."""
        keys = values.pop("key", None)
        return cls(lines, dict(values), bad, None if keys is None else Keys.of(keys))

    def __len__(self) -> int:
        return len(self.lines)


class ColumnDecoder(Protocol):
    """Blocks to columns."""

    def decode(self, block: Block) -> Columns:
        """The columns of a block."""
        ...

    def fields_of(self, block: Block) -> list[str]:
        """The names of the fields of its first event, to be offered in a message."""
        ...


def lines_of(block: Block) -> Sequence[int]:
    """The line numbers of a block's records."""
    if block.line_numbers is not None:
        return block.line_numbers
    return range(block.first_line, block.first_line + block.count)


# --- JSON


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class JsonColumns:
    """Records of JSON. What is asked for is decoded, the rest is passed over."""

    def __init__(
        self, mapping: FieldMapping, wanted: Sequence[Attribute], *, cloud_events: bool = False
    ) -> None:
        """`cloud_events`: what lacks an attribute that CloudEvents 1.0 requires is no event."""
        self._mapping, self._wanted, self._cloud_events = mapping, wanted, cloud_events
        turns = [*range(len(mapping.paths["sequence"])), None]
        self._bounds = [_Bound(mapping, wanted, turn) for turn in turns]
        """Those that decode no more than is usual first; the last one takes whatever comes."""
        self._any = self._bounds[-1]

    def decode(self, block: Block) -> Columns:
        """The columns of a block."""
        for bound in [] if block.bad else list(self._bounds):
            with suppress(*_UNREADABLE, TypeError, OverflowError):
                columns = self._together(bound, block)
                if bound is not self._bounds[0]:
                    # One that is right for some blocks in a row comes to be the first.
                    at = self._bounds.index(bound)
                    self._bounds.insert(at - 1, self._bounds.pop(at))
                return columns
        return self._one_by_one(block)

    def _together(self, bound: _Bound, block: Block) -> Columns:
        """All records at once. Raises DecodeError, TypeError and OverflowError when one is not as
        it should be."""
        if self._cloud_events:
            for line in block.lines():
                check_cloud_event(line)
        records: list[Any] = []
        if block.data is not None and _are_objects(block):
            records = bound.decode_lines(block.data)
        # No object ends on another line than it begins: so as many as there are lines, each is one.
        if len(records) != block.count:
            records = list(map(bound.decode, block.lines()))
        columns = Columns(lines_of(block), {}, {})
        for name in self._wanted:
            if name == "key":
                columns.keys = self._keys(bound, records, block)
            else:
                columns.values[name] = bound.column(name, records)
        return columns

    def _keys(self, bound: _Bound, records: list[Any], block: Block) -> Keys:
        hashes = bound.hashes(records)
        if hashes is None:
            return Keys.of(bound.listed("key", records))

        def again(place: int) -> Any:
            # For the few that somebody asks for; to keep all would cost more.
            return bound.listed("key", [bound.decode(block.lines()[place])])[0]

        return Keys(hashes, again)

    def _one_by_one(self, block: Block) -> Columns:
        bad: dict[int, Bad] = {}
        good: list[int] = []
        rows: list[list[Scalar]] = []
        why = block.bad or {}
        for place, (number, line) in enumerate(zip(lines_of(block), block.lines(), strict=True)):
            if place in why:
                bad[number] = Bad(why[place])
                continue
            try:
                rows.append(self._row(line))
                good.append(number)
            except _UNREADABLE as error:
                bad[number] = describe_bad(error, line)
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in self._wanted]
        named = zip(self._wanted, columns, strict=True)
        return Columns.of(good, dict(named), bad)

    def _row(self, line: bytes) -> list[Scalar]:
        """What is wanted of one line. Raises what is in _UNREADABLE."""
        if self._cloud_events:
            check_cloud_event(line)
        any_ = self._any
        try:
            record = any_.decode(line)
        except msgspec.ValidationError:
            # Valid JSON of another shape: an object for an id, no object.
            whole = decode_json(line)
            return [_attribute(whole, self._mapping, name) for name in self._wanted]
        return [to_scalar(any_.listed(name, [record])[0]) for name in self._wanted]

    def fields_of(self, block: Block) -> list[str]:
        """The names of the fields of its first event."""
        with suppress(*_UNREADABLE, IndexError):
            whole = decode_json(block.lines()[0])
            return list(whole) if isinstance(whole, dict) else []
        return []


def _attribute(whole: Any, mapping: FieldMapping, name: Attribute) -> Scalar:
    """An attribute's value; an object or a list is no sequence, though it may be a key or an id."""
    if name == "sequence":
        for path in mapping.paths[name]:
            value = lookup(whole, (path,))
            if value is not UNSET and value is not None:
                return None if isinstance(value, dict | list) else to_scalar(value)
    return lookup_attribute(whole, mapping.paths[name])


class _Bound:
    """A decoder of some attributes, and how to get each."""

    def __init__(
        self, mapping: FieldMapping, wanted: Sequence[Attribute], turn: int | None
    ) -> None:
        """`turn`: which of its fields holds the sequence, a whole number; a key, when it has one
        field only, is a text. None: anything may be anywhere."""
        tops: dict[str, list[tuple[str, ...]]] = {}
        for name in wanted:
            for path in mapping.paths[name]:
                tops.setdefault(path[0], []).append(path[1:])
        kinds = {} if turn is None else _strict_kinds(mapping, turn)
        fields: list[tuple[str, Any, Any]] = []
        slots: dict[str, str] = {}
        for top, rests in tops.items():
            slot = slots[top] = f"x{len(fields)}"
            kind: Any = Any
            if all(rests):
                kind = nested_type(rests)
            elif not any(rests):
                kind = kinds.get(top, Scalar) if len(rests) == 1 else Scalar
            fields.append((slot, kind, field(default=None, name=top)))
        record = defstruct("Record", fields, gc=False, eq=False)
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)
        self.decode, self.decode_lines = decoder.decode, decoder.decode_lines
        self._ways: dict[str, list[Callable[[Any], Any]]] = {
            name: [_way(slots[path[0]], path[1:]) for path in mapping.paths[name]]
            for name in wanted
        }
        self._turn = turn
        typed = {slot: kind for slot, kind, _ in fields}
        self._are_texts = _alone(mapping, "key", 0, slots, typed) == str | None
        if turn is not None and "sequence" in wanted:
            self._are_whole = _alone(mapping, "sequence", turn, slots, typed) == int | None
        else:
            self._are_whole = False

    def column(self, name: Attribute, records: list[Any]) -> Values:
        """An attribute of each record: the first of its fields that holds more than null.

        Raises TypeError or OverflowError: it is not where, and not what, it was thought to be.
        """
        if name == "sequence" and self._are_whole:
            assert self._turn is not None
            return np.fromiter(map(self._ways[name][self._turn], records), np.int64, len(records))
        return self.listed(name, records)

    def hashes(self, records: list[Any]) -> npt.NDArray[np.int64] | None:
        """The hashes of keys that are all texts, or null; None: they may be something else."""
        if not self._are_texts:
            return None
        return np.fromiter(map(hash, map(self._ways["key"][0], records)), np.int64, len(records))

    def listed(self, name: Attribute, records: list[Any]) -> list[Any]:
        """An attribute of each record, as it is."""
        first, *others = self._ways[name]
        values = list(map(first, records))
        for way in others:
            if set(values) == {None}:
                values = list(map(way, records))
            elif None in values:
                values = [
                    way(record) if value is None else value
                    for value, record in zip(values, records, strict=True)
                ]
        return values


def _strict_kinds(mapping: FieldMapping, turn: int) -> dict[str, Any]:
    """What stands in the fields when the sequence is a whole number in one of its fields."""
    paths = mapping.paths["sequence"]
    kinds: dict[str, Any] = {path[0]: None for path in paths[:turn]}
    kinds[paths[turn][0]] = int | None
    if len(mapping.paths["key"]) == 1:
        kinds[mapping.paths["key"][0][0]] = str | None
    return kinds


def _alone(
    mapping: FieldMapping, name: str, turn: int, slots: dict[str, str], typed: dict[str, Any]
) -> Any:
    """The type of the field that holds an attribute; None when that is inside another one."""
    path = mapping.paths[name][turn]
    return typed[slots[path[0]]] if len(path) == 1 and path[0] in slots else None


def _way(slot: str, rest: tuple[str, ...]) -> Callable[[Any], Any]:
    if not rest:
        return attrgetter(slot)
    get = attrgetter(".".join([slot, *(f"f_{part}" for part in rest)]))

    def nested(record: Any) -> Any:
        try:
            return get(record)
        except AttributeError:  # an object on the way is missing
            at = getattr(record, slot)
            return lookup_attribute(at, (rest,)) if type(at) is dict else None

    return nested


def _are_objects(block: Block) -> bool:
    """Whether each line of a block is known to begin as an object does, and to end so."""
    ends = block.ends
    if ends is None or not block.data:
        return False
    text = np.frombuffer(block.data, dtype=np.uint8)
    if text[0] != 0x7B or text[-1] != 0x7D:
        return False
    return bool((text[ends - 1] == 0x7D).all() and (text[ends + 1] == 0x7B).all())


# --- CSV


class CsvColumns:
    """Rows of CSV: all values are texts."""

    def __init__(self, decoder: CsvDecoder, wanted: Sequence[Attribute]) -> None:
        self._decoder, self._wanted = decoder, wanted

    def decode(self, block: Block) -> Columns:
        """The columns of a block."""
        decoded = self._decoder.decode(block)
        lines, bad = lines_of(block), decoded.bad
        rows: list[Any] = list(decoded.events or ())
        if bad:
            good = [place for place in range(len(rows)) if place not in bad]
            bad = {lines[place]: why for place, why in bad.items()}
            rows, lines = [rows[place] for place in good], [lines[place] for place in good]
        return Columns.of(lines, {name: self._column(name, rows) for name in self._wanted}, bad)

    def _column(self, name: Attribute, rows: list[Row]) -> list[Any]:
        at = rows[0].columns[name] if rows else None
        return [None] * len(rows) if at is None else [row._row[at] or None for row in rows]

    def fields_of(self, block: Block) -> list[str]:
        """The names of the columns."""
        return list(self._decoder.header)


# --- Kafka's console consumer

KAFKA_LINE: Final = re.compile(
    rb"(?:(?:(?:CreateTime|LogAppendTime):(-?\d+)|NO_TIMESTAMP)[^\w:]{1,3}?(?=Partition:|Offset:))?"
    rb"(?:Partition:(\d+)[^\w:]{1,3}?(?=Offset:))?"
    rb"Offset:(\d+)(?:([^\w:]).*)?",
    re.DOTALL,
)
"""What it prints with print.offset, and whatever else: timestamp, partition, offset, headers, key,
value, with key.separator (a tab) between. Headers, key and value have no label."""

_SEPARATOR: Final = re.compile(
    rb"(?:Partition|CreateTime|LogAppendTime):-?\d+([^\w:]{1,3}?)[PO]\w+:"
)


class KafkaColumns:
    """The output of kafka-console-consumer: fields `offset`, `partition`, `timestamp`, `key`.

    Whether it printed headers shows in records that have none.
    """

    FIELDS: Final = ("offset", "partition", "timestamp", "key")

    def __init__(self, mapping: FieldMapping, wanted: Sequence[Attribute]) -> None:
        self._mapping, self._wanted = mapping, wanted
        self._has_headers = False
        self._partition: int | None = None
        self.has_partitions = False
        """Whether there were several: then offsets count by partition."""

    def decode(self, block: Block) -> Columns:
        """The columns of a block."""
        lines = block.lines()
        self._has_headers = self._has_headers or any(b"NO_HEADERS" in line for line in lines)
        bad: dict[int, Bad] = {}
        good: list[int] = []
        records: list[dict[str, Any]] = []
        for number, line in zip(lines_of(block), lines, strict=True):
            record = self._record(line)
            if record is None:
                bad[number] = Bad("the line has no Offset: where the consumer prints it")
            else:
                good.append(number)
                records.append(record)
        return Columns.of(good, {n: self._column(n, records) for n in self._wanted}, bad)

    def _record(self, line: bytes) -> dict[str, Any] | None:
        found = KAFKA_LINE.fullmatch(line)
        if found is None:
            return None
        time, partition, offset, mark = found.groups()
        record: dict[str, Any] = {"offset": int(offset)}
        if time is not None:
            record["timestamp"] = int(time)
        if partition is not None:
            record["partition"] = number = int(partition)
            if self._partition is None:
                self._partition = number
            self.has_partitions = self.has_partitions or number != self._partition
        separated = _SEPARATOR.match(line)
        separator = separated[1] if separated else mark or b"\t"
        parts = line[found.end(3) :].removeprefix(separator).split(separator)
        parts = parts[1:] if self._has_headers else parts
        if len(parts) > 1 and parts[0] != b"null":
            record["key"] = parts[0].decode(errors="backslashreplace")
        return record

    def _column(self, name: Attribute, records: list[dict[str, Any]]) -> list[Any]:
        paths = self._mapping.paths[name]
        return [lookup_attribute(record, paths) for record in records]

    def fields_of(self, block: Block) -> list[str]:
        """The names of the fields."""
        return list(self.FIELDS)


def is_kafka_output(first_line: bytes) -> bool:
    """Whether a log that begins so was printed by kafka-console-consumer."""
    return KAFKA_LINE.fullmatch(first_line.rstrip(b"\r")) is not None


# --- values


class TextSequence(Exception):
    """A sequence that is text, where numbers were looked for."""

    where = ""
    among_numbers = False
    """Whether others are numbers, not texts of digits."""


_NUMERIC: Final = re.compile(r"-?[0-9]{1,4000}")
"""Of more digits Python makes no number."""


def is_number(value: Any) -> bool:
    """Whether a sequence compares as a number: numbers do, and texts of digits."""
    if type(value) is str:
        return _NUMERIC.fullmatch(value) is not None
    return type(value) is int or type(value) is float


def as_numbers(values: Values) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Sequences as numbers: int64, or objects when some are no whole numbers or too large.

    Also which of them there are, None: all. Raises TextSequence.
    """
    if isinstance(values, np.ndarray):
        return values, None
    kinds = set(map(type, values))
    if kinds == {str}:
        with suppress(ValueError):
            joined = "".join(values)
            longest = max(map(len, values))
            if joined.isascii() and joined.isdigit() and all(values) and longest <= 4000:
                return _packed(list(map(int, values))), None
    if kinds == {int}:
        return _packed(values), None
    present = np.array([type(v) in (int, float, str) for v in values], dtype=bool)
    numbers: list[Any] = []
    for value in values:
        if type(value) is str:
            if not is_number(value):
                raise TextSequence(value)
            numbers.append(int(value))
        elif type(value) is float:
            numbers.append(int(value) if value.is_integer() else value)
        elif type(value) is int:
            numbers.append(value)
    return _packed(numbers), None if present.all() else present


def _packed(numbers: list[Any]) -> npt.NDArray[Any]:
    if float in set(map(type, numbers)):
        return np.array(numbers, dtype=object)
    try:
        return np.fromiter(numbers, dtype=np.int64, count=len(numbers))
    except OverflowError:
        return np.array(numbers, dtype=object)


def as_texts(values: Values) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Sequences as texts, compared by code point; also which of them there are, None: all."""
    texts = [v if type(v) is str else str(v) for v in _listed(values) if type(v) in _COMPARABLE]
    present = np.array([type(v) in _COMPARABLE for v in _listed(values)], dtype=bool)
    column = np.empty(len(texts), dtype=object)
    column[:] = texts
    return column, None if present.all() else present


_COMPARABLE: Final = (int, float, str)


def _listed(values: Values) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()


def as_times(values: Values) -> npt.NDArray[np.float64] | npt.NDArray[np.int64]:
    """Times: numbers as they are, RFC 3339 texts in ns since 1970; NaN where there is none."""
    if isinstance(values, np.ndarray):
        return values
    times = [_as_time(value) for value in values]
    kinds = set(map(type, times))
    if kinds == {int}:
        with suppress(OverflowError):
            return np.fromiter(times, dtype=np.int64, count=len(times))
    return np.array(times, dtype=np.float64)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _as_time(value: Any) -> int | float:
    if type(value) is int:
        return value
    if type(value) is float:
        return _finite(value)
    if type(value) is str:
        if _NUMERIC.fullmatch(value):
            return int(value)
        with suppress(ValueError):
            return _finite(float(value))
        with suppress(UnreadableTime):
            ns = time_to_ns(value)
            return float("nan") if ns is None else ns
    return float("nan")
