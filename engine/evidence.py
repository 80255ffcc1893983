"""What lies on the disk after two runs, read line by line and set against each other.

Reads and writes files in the folders of the runs, and starts nothing. Outputs may be larger than
memory: a line becomes 64 bits in a column on the disk, and proving.py compares columns.
"""

from __future__ import annotations

import csv
import gzip
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice, pairwise, zip_longest
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from .codecs import guess_delimiter
from .event import decode_json, encode_json, lookup_attribute
from .journal import Entry
from .order import Order
from .proving import (
    NONE,
    Column,
    Differences,
    Repeats,
    differences,
    matches,
    repeats,
    swaps,
    together,
)
from .tracing import CALL_BYTES, MADE, digest_of

OUTPUT: Final = "output"
LETTERS: Final = "dead-letters.jsonl"
TRACE: Final = "calls.trace"
JOURNAL: Final = "journal.jsonl"
RESULT: Final = "result.json"
_BLOCK: Final = 1 << 16
_MOST_TEXT: Final = 60
_MOST_FIELDS: Final = 50
_MASK: Final = 2**64 - 1

Mask = Callable[[bytes], bytes]
"""What of a line is compared."""
Field = tuple[str, ...]
"""A path in a result; in CSV, the name of a column."""


class Finding(msgspec.Struct, frozen=True):
    """One event that is not as it should be."""

    kind: str
    """lost, duplicated, unexpected, order, letter-lost, letter-duplicated, letter-unexpected,
    never-handled, bytes, promise or stuck."""
    what: str
    source: str | None = None
    line: int | None = None
    key: Any = None

    @property
    def words(self) -> str:
        """The finding in one line."""
        where = "" if self.source is None else f"{self.source} line {self.line}"
        key = "" if self.key is None else f" (key {self.key!r})"
        return f"{where}{key}: {self.what}" if where else self.what


class Shape(msgspec.Struct, frozen=True):
    """What of a job decides how its outputs compare."""

    order: Order
    in_order: bool
    """Whether the output has the order of the input: --emit input."""
    apart: bool
    """Whether inputs are read side by side, so that their order among each other is chance."""
    first_stage: str
    inputs: tuple[str, ...]
    key: tuple[tuple[str, ...], ...]
    """Where keys are found."""


class Comparison(msgspec.Struct, frozen=True):
    """What was found, in counts by kind, and the first events of each."""

    counts: dict[str, int]
    findings: list[Finding]
    calls: int
    base_calls: int
    repeated: int
    most_by_one_kill: int
    reached: list[int]
    """Calls by the end of each sitting."""
    kept: list[int]
    """Of these, those that were not made again later."""
    first_stage_only: bool = False
    """Whether the calls of later stages were left out."""

    @property
    def is_clean(self) -> bool:
        return not any(self.counts.values())


class Letter(msgspec.Struct, frozen=True):
    """What of a dead letter is compared, and named."""

    source: str
    position: dict[str, int]
    stage: str
    error: dict[str, Any]
    key: Any = None
    event: msgspec.Raw = msgspec.Raw(b"")
    event_text: str = ""
    event_base64: str = ""

    def identity(self, *, with_index: bool) -> bytes:
        """The event that it is of."""
        index = self.position["index"] if with_index else None
        place = [self.source, index, self.position["line"], self.event_text, self.event_base64]
        return msgspec.json.encode(place) + bytes(self.event)


class Columns(msgspec.Struct, frozen=True):
    """The head of CSV."""

    names: list[str]
    delimiter: str

    @classmethod
    def of(cls, head: bytes) -> Columns | None:
        """None: it is no row of names."""
        delimiter = guess_delimiter(head) or ","
        names = _row(head, delimiter)
        return cls(names, delimiter) if names and len(set(names)) == len(names) else None

    def object_of(self, line: bytes) -> dict[str, Any] | None:
        """A row's cells by name; None: it is no whole row."""
        cells = _row(line, self.delimiter)
        return dict(zip(self.names, cells, strict=True)) if len(cells) == len(self.names) else None


def _row(line: bytes, delimiter: str) -> list[str]:
    """The cells of a row that is one line; none when it is not."""
    try:
        (row,) = csv.reader([line.decode().rstrip("\r\n")], delimiter=delimiter, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError):
        return []
    return row


class Left:
    """What one run left in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def size(self, name: str) -> int:
        """Bytes; 0 when there is no such file."""
        path = self.path(name)
        return path.stat().st_size if path.exists() else 0

    @property
    def calls(self) -> int:
        """Handler calls so far."""
        return self.size(TRACE) // CALL_BYTES

    def trace(self) -> Column:
        return _mapped(self.path(TRACE), self.calls)

    def first_stage_trace(self, ends: Sequence[int]) -> tuple[Column, list[int]]:
        """The calls with a source's line, and how many of them came before each of `ends`."""
        trace, path = self.trace(), self.path(f".{TRACE}.first")
        counts, total = list[int](), 0
        with path.open("wb") as file:
            for start, end in pairwise((0, *ends)):
                for at in range(start, end, _BLOCK):
                    part = trace[at : min(end, at + _BLOCK)]
                    part = part[part & np.uint64(MADE) == 0]
                    part.tofile(file)
                    total += len(part)
                counts.append(total)
        return _mapped(path, total), counts

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, with their ends; none when it is not there."""
        if self.path(name).exists():
            with self.path(name).open("rb") as file:
                yield from file

    def count(self, name: str) -> int:
        """How many lines a file has."""
        return sum(1 for _ in self.lines(name))

    def output_column(self, mask: Mask | None = None) -> Column:
        """A hash a line of output."""
        lines = self.lines(OUTPUT)
        return self._column(OUTPUT, lines if mask is None else map(mask, lines))

    def letter_column(self, *, with_index: bool) -> Column:
        """A hash a dead letter."""
        decode = msgspec.json.Decoder(Letter).decode
        letters = (decode(line).identity(with_index=with_index) for line in self.lines(LETTERS))
        return self._column(LETTERS, letters)

    def lane_column(self, shape: Shape, lines: int) -> Column:
        """The lane of each line of output, by the journal."""
        path = self.path(f".{OUTPUT}.lanes")
        with path.open("wb") as file:
            array("Q", [hash(("head", n)) & _MASK for n in range(self.head(lines))]).tofile(file)
            for number, entry in enumerate(self.entries()):
                lane = hash(lane_of(entry, shape, number)) & _MASK
                file.write(array("Q", [lane]).tobytes() * entry.lines)
        return _mapped(path, min(path.stat().st_size // 8, lines))

    def entries(self) -> Iterator[Entry]:
        decode = msgspec.json.Decoder(Entry).decode
        return map(decode, self.lines(JOURNAL))

    def head(self, lines: int) -> int:
        """How many lines of output are of no event: the head of CSV."""
        return max(0, lines - sum(entry.lines for entry in self.entries()))

    def are_alike(self, mask: Mask) -> bool:
        """Whether all of several lines of output are the same, by the journal; not the head."""
        count = self.count(OUTPUT)
        head = self.head(count)
        lines = map(mask, islice(self.lines(OUTPUT), head, None))
        first = next(lines, b"")
        return count - head > 1 and all(line == first for line in lines)

    def columns(self) -> Columns | None:
        """How rows of CSV are read, by the journal; None: it is no CSV, or not a line a row."""
        head = next(self.lines(OUTPUT), None)
        if head is None or self.head(self.count(OUTPUT)) != 1:
            return None
        columns = Columns.of(head)
        are_rows = columns and all(columns.object_of(line) for line in self.lines(OUTPUT))
        return columns if are_rows else None

    def _column(self, name: str, parts: Iterable[bytes]) -> Column:
        path = self.path(f".{name}.hashes")
        column = array("Q")
        with path.open("wb") as file:
            for part in parts:
                column.append(int.from_bytes(blake2b(part, digest_size=8).digest(), "little"))
                if len(column) >= _BLOCK:
                    column.tofile(file)
                    column = array("Q")
            column.tofile(file)
        return _mapped(path, path.stat().st_size // 8)


def lane_of(entry: Entry, shape: Shape, number: int) -> tuple[Any, ...]:
    """Lines of one lane have an order; the results of an event, the `number`-th, always have."""
    source = entry.source if shape.apart else ""
    if shape.in_order or shape.order == "global":
        return ("all", source)
    if shape.order == "partition":
        return ("partition", entry.source)
    if shape.order == "key" and entry.key is not None:
        return ("key", entry.key, source)
    return ("event", number)


def _mapped(path: Path, count: int) -> Column:
    if not count:
        return np.empty(0, np.uint64)
    return cast(Column, np.memmap(path, np.uint64, "r", shape=(count,)))


# --- the comparison


def compare(
    base: Left,
    other: Left,
    shape: Shape,
    ends: Sequence[int],
    mask: Mask | None = None,
    *,
    first_stage_only: bool = False,
) -> Comparison:
    """Set a disturbed run against an undisturbed one. `ends`: its calls after each sitting.

    `first_stage_only`: leave out the calls of later stages.
    """
    counts: dict[str, int] = {}
    findings: list[Finding] = []

    def note(kind: str, count: int, found: Callable[[], Iterable[Finding]]) -> None:
        if count:
            counts[kind] = count
            findings.extend(found())

    _compare_outputs(base, other, shape, mask, note)
    _compare_letters(base, other, shape, note)
    trace, others, reached = base.trace(), other.trace(), list(ends)
    if first_stage_only:
        trace, _ = base.first_stage_trace([base.calls])
        others, reached = other.first_stage_trace(ends)
    calls = repeats(trace, others, reached)
    wanted = {bytes(trace[at].tobytes()) for at in calls.never_at}
    note("never-handled", calls.never, lambda: _never_handled(wanted, shape))
    return _with_calls(counts, findings, calls, reached, first_stage_only=first_stage_only)


def _with_calls(
    counts: dict[str, int],
    findings: list[Finding],
    calls: Repeats,
    reached: list[int],
    *,
    first_stage_only: bool = False,
) -> Comparison:
    return Comparison(
        counts=counts,
        findings=findings,
        calls=calls.calls,
        base_calls=calls.base_calls,
        repeated=calls.repeated,
        most_by_one_kill=calls.most,
        reached=reached,
        kept=calls.kept,
        first_stage_only=first_stage_only,
    )


def only_calls(base: Left, other: Left, ends: Sequence[int]) -> Comparison:
    """Of a run that did not come to its end: how many calls it made. None was made for good."""
    calls = repeats(base.trace(), other.trace(), ends)
    none = msgspec.structs.replace(calls, kept=[0] * len(ends))
    return _with_calls({}, [], none, list(ends))


Note = Callable[[str, int, Callable[[], Iterable[Finding]]], None]


def _compare_outputs(base: Left, other: Left, shape: Shape, mask: Mask | None, note: Note) -> None:
    base_lines, other_lines = base.output_column(mask), other.output_column(mask)
    lanes = base.lane_column(shape, len(base_lines))
    if len(lanes) < len(base_lines):  # the journal is of another output: no order can be told
        lanes = np.zeros(len(base_lines), np.uint64)
    stands_for = _places(other.path(f".{OUTPUT}.places"), len(other_lines))
    found = Differences()
    for each in matches(base_lines, other_lines, lanes):
        found = together(found, each.differences)
        stands_for[each.others] = np.where(each.ambiguous, NONE, each.bases)
    swapped, first = swaps(lanes, stands_for)
    namer = _Namer(base, other, len(base_lines))
    note("lost", found.missing, lambda: namer.lost(found.missing_at))
    note("duplicated", found.repeated, lambda: namer.duplicated(found.repeated_at))
    note("unexpected", found.foreign, lambda: namer.unexpected(found.foreign_at))
    note("order", swapped, lambda: namer.swapped([(s.place, s.base, s.after) for s in first]))
    same = shape.in_order and not shape.apart and mask is None
    if same and not (found or swapped) and not _same_bytes(base.path(OUTPUT), other.path(OUTPUT)):
        note("bytes", 1, lambda: [Finding("bytes", "the output differs, though its lines do not")])


def _places(path: Path, count: int) -> NDArray[np.int64]:
    if not count:
        return np.empty(0, np.int64)
    column = np.memmap(path, np.int64, "w+", shape=(count,))
    column[:] = NONE
    return cast(NDArray[np.int64], column)


def _same_bytes(one: Path, two: Path) -> bool:
    with one.open("rb") as first, two.open("rb") as second:
        while True:
            a, b = first.read(1 << 20), second.read(1 << 20)
            if a != b:
                return False
            if not a:
                return True


class _Namer:
    """Says which event a line of output is of. Walks through the files once a question."""

    def __init__(self, base: Left, other: Left, lines: int) -> None:
        self._base, self._other, self._lines = base, other, lines

    def _entries(self, places: Iterable[int]) -> dict[int, Entry]:
        """The events of lines of the undisturbed output."""
        wanted, found = sorted(set(places)), dict[int, Entry]()
        end = self._base.head(self._lines)
        wanted = [place for place in wanted if place >= end]
        entries = self._base.entries()
        for entry in entries if wanted else ():
            end += entry.lines
            while wanted and wanted[0] < end:
                found[wanted.pop(0)] = entry
            if not wanted:
                break
        return found

    def _event(self, entries: dict[int, Entry], place: int) -> dict[str, Any]:
        entry = entries.get(place)
        if entry is None:
            return {}
        return {"source": entry.source, "line": entry.line, "key": entry.key}

    def lost(self, places: Sequence[int]) -> Iterator[Finding]:
        entries, texts = self._entries(places), lines_at(self._base, OUTPUT, places)
        for place in places:
            what = f"its result is not in the output: {texts[place]}"
            yield Finding("lost", what, **self._event(entries, place))

    def duplicated(self, places: Sequence[tuple[int, int]]) -> Iterator[Finding]:
        entries = self._entries(base for _, base in places)
        for place, base in places:
            what = f"its result stands in the output again, in line {place + 1:,}"
            yield Finding("duplicated", what, **self._event(entries, base))

    def unexpected(self, places: Sequence[int]) -> Iterator[Finding]:
        texts = lines_at(self._other, OUTPUT, places)
        for place in places:
            what = f"foreign to the undisturbed run: {texts[place]}"
            yield Finding("unexpected", f"line {place + 1:,} of the output is {what}")

    def swapped(self, found: Sequence[tuple[int, int, int]]) -> Iterator[Finding]:
        entries = self._entries(place for _, *bases in found for place in bases)
        for place, base, after in found:
            then = entries.get(after)
            later = "" if then is None else f" (of {then.source} line {then.line})"
            what = f"its result, line {place + 1:,} of the output, came after a later one{later}"
            yield Finding("order", what, **self._event(entries, base))


def lines_at(left: Left, name: str, places: Iterable[int]) -> dict[int, str]:
    """The beginnings of some lines of a file, by place from 0."""
    wanted = set(places)
    found: dict[int, str] = {}
    for place, line in enumerate(left.lines(name) if wanted else ()):
        if place in wanted:
            found[place] = _beginning(line)
            if len(found) == len(wanted):
                break
    return found


def _beginning(line: bytes) -> str:
    text = line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


# --- dead letters


def _compare_letters(base: Left, other: Left, shape: Shape, note: Note) -> None:
    columns = [each.letter_column(with_index=not shape.apart) for each in (base, other)]
    found = Differences()
    for each in matches(columns[0], columns[1], None):
        found = together(found, each.differences)
    again = [place for place, _ in found.repeated_at]
    note(
        "letter-lost",
        found.missing,
        lambda: _letters(base, found.missing_at, "letter-lost", "its dead letter is missing"),
    )
    note(
        "letter-duplicated",
        found.repeated,
        lambda: _letters(other, again, "letter-duplicated", "it has a dead letter too many"),
    )
    note(
        "letter-unexpected",
        found.foreign,
        lambda: _letters(
            other, found.foreign_at, "letter-unexpected", "it became a dead letter only here"
        ),
    )


def _letters(left: Left, places: Sequence[int], kind: str, what: str) -> Iterator[Finding]:
    wanted = set(places)
    for place, line in enumerate(left.lines(LETTERS)):
        if place in wanted:
            letter = msgspec.json.decode(line, type=Letter)
            why = f"{what} ({letter.error.get('type')}: {letter.error.get('message')})"
            yield Finding(kind, why, letter.source, letter.position["line"], letter.key)


# --- calls


def _never_handled(wanted: set[bytes], shape: Shape) -> Iterator[Finding]:
    """Name the events that no handler was called for; those of later stages have no line."""
    digest, left = digest_of(shape.first_stage), set(wanted)
    for name in shape.inputs:
        for number, line in enumerate(_plain_lines(name), 1):
            if not left:
                return
            found = digest(line.rstrip(b"\r\n"))
            if found in left:
                left.discard(found)
                what = f"no handler was called for it: {_beginning(line)}"
                yield Finding("never-handled", what, name, number, _key_of(line, shape))
    for _ in left:
        what = "a call that the undisturbed run makes of a handler was never made"
        yield Finding("never-handled", what)


def _plain_lines(name: str) -> Iterator[bytes]:
    with open(name, "rb") as file:
        start = file.read(4)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(file) as plain:
                yield from plain
        elif start == b"\x28\xb5\x2f\xfd":
            unpack = zstandard.ZstdDecompressor()
            with unpack.stream_reader(file, read_across_frames=True) as raw:
                yield from io.BufferedReader(cast(io.RawIOBase, raw))
        else:
            yield from file


def _key_of(line: bytes, shape: Shape) -> Any:
    try:
        return lookup_attribute(decode_json(line), shape.key)
    except (ValueError, RecursionError):  # a row of CSV
        return None


# --- handlers that give other results for the same event


class Varying(msgspec.Struct, frozen=True):
    """In what two undisturbed runs differ."""

    fields: frozenset[Field] = frozenset()
    """Fields of the results whose values differ."""
    calls: bool = False
    """Whether later stages are called with other events: with what handlers made."""
    otherwise: str = ""
    """What else differs, so that no result can be told from another one."""

    @property
    def names(self) -> list[str]:
        """The fields as people name them."""
        return sorted(".".join(field) for field in self.fields)


def varying(one: Left, two: Left, shape: Shape, ignored: frozenset[Field] = frozenset()) -> Varying:
    """In what the two differ; fields that are ignored may."""
    failed = differences(*(left.letter_column(with_index=not shape.apart) for left in (one, two)))
    if failed:
        count = failed.missing + failed.repeated + failed.foreign
        events = "1 event" if count == 1 else f"{count:,} events"
        return Varying(otherwise=f"it fails for {events} in one of two undisturbed runs only")
    sources = [left.first_stage_trace([left.calls])[0] for left in (one, two)]
    if _calls_differ(*sources):
        return Varying(otherwise="undisturbed, too, it is called for other events")
    if not _same_bytes(one.path(JOURNAL), two.path(JOURNAL)):
        return Varying(otherwise="undisturbed, too, some events have more results, or fewer")
    columns, fields = one.columns(), set[Field]()
    for a, b in zip_longest(one.lines(OUTPUT), two.lines(OUTPUT)):
        if a != b and not (a and b and _note_varying((a, b), columns, ignored, fields)):
            return Varying(otherwise="undisturbed, too, results differ in more than some fields")
    return Varying(frozenset(fields), _calls_differ(one.trace(), two.trace()))


def _calls_differ(one: Column, two: Column) -> bool:
    return any(repeats(a, b, [len(b)]).never for a, b in ((one, two), (two, one)))


def _note_varying(
    lines: Iterable[bytes],
    columns: Columns | None,
    ignored: frozenset[Field],
    fields: set[Field],
) -> bool:
    """Add where two lines differ; False when they are not objects with the same members."""
    one, two = (_object_of(line, columns) for line in lines)
    if one is None or two is None:
        return False
    for each in (one, two):
        _prune(each, ignored)
    return _differ_at(one, two, (), fields)


def _object_of(line: bytes, columns: Columns | None) -> dict[str, Any] | None:
    """A line of output by its members, or its columns; None: it has none."""
    if columns is not None:
        return columns.object_of(line)
    try:
        value = decode_json(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _prune(value: dict[str, Any], fields: frozenset[Field]) -> None:
    for *parents, name in fields:
        at: Any = value
        for parent in parents:
            at = at.get(parent) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at.pop(name, None)


def _differ_at(
    one: dict[str, Any], two: dict[str, Any], at: tuple[str, ...], fields: set[tuple[str, ...]]
) -> bool:
    if one.keys() != two.keys():
        return False
    for name, value in one.items():
        path = (*at, name)
        if isinstance(value, dict) and isinstance(two[name], dict):
            if not _differ_at(value, two[name], path, fields):
                return False
        elif value != two[name]:
            fields.add(path)
    return len(fields) <= _MOST_FIELDS


def fields_of(names: Iterable[str]) -> frozenset[Field]:
    """Fields by their names: a dotted path, or a name that has dots in it."""
    return frozenset(field for name in names for field in (tuple(name.split(".")), (name,)))


def without(fields: frozenset[Field], columns: Columns | None = None) -> Mask:
    """What is left of a line without some fields."""

    def mask(line: bytes) -> bytes:
        value = _object_of(line, columns)
        if value is None:
            return line
        _prune(value, fields)
        return encode_json(value)

    return mask
