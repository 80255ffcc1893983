"""Audits of event logs: reads them, block by block, and tells the audit of order what they say.

What is judged, and how, is in audit.py and delivery.py; what a log looks like in event_log.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from .audit import THRESHOLD, WINDOW, Audit, Example, Scope
from .codecs import Bad, CsvDecoder, Format, UnreadableInput, sniff_format
from .connectors.base import ConnectorError
from .connectors.files import FileSource, find_inputs
from .connectors.stdio import StdinSource
from .delivery import DeliveryAccount, Origin
from .event import FieldMapping
from .event_log import (
    Attribute,
    ColumnDecoder,
    Columns,
    CsvColumns,
    JsonColumns,
    KafkaColumns,
    Keys,
    TextSequence,
    Values,
    as_numbers,
    as_texts,
    as_times,
    is_kafka_output,
    is_number,
)
from .histogram import Ints
from .plan import PlanError
from .reading import Reader, closing
from .record_audit import audit_record, is_record
from .tallying import DeliveryExample, DeliveryReport

SCHEMA: Final = "millstream.audit/1"
TOGETHER: Final = 65_536
"""So many events are audited at once: numpy costs by the call."""
_LINE_BITS: Final = 40
_MOST_NAMED: Final = 3

LogFormat = Literal["auto", "jsonl", "csv", "json", "cloudevents", "kafka"]
SequenceType = Literal["auto", "number", "text"]


class AuditOptions(msgspec.Struct, frozen=True):
    """What an audit is asked for; names are those of the flags."""

    inputs: tuple[str, ...]
    key: str | None = None
    sequence: str | None = None
    time: str | None = None
    id: str | None = None
    format: LogFormat = "auto"
    delimiter: str | None = None
    sequence_type: SequenceType = "auto"
    threshold: int = THRESHOLD
    window: int = WINDOW
    expected: str | None = None
    acknowledged: str | None = None
    price: bool = False


class AuditResult(msgspec.Struct, frozen=True):
    """The report, as `audit --json` gives it, and sentences for people."""

    report: dict[str, Any]
    is_broken: bool
    """Whether anything is out of order, doubled, lost or unexpected."""
    malformed: int
    notes: list[str]


def check_options(options: AuditOptions) -> None:
    """Raises PlanError for what can't be meant."""
    for name, least, most in (("threshold", 1, 1_000), ("window", 1, 1_000_000_000)):
        value = getattr(options, name)
        if not least <= value <= most:
            raise PlanError(f"--{name} is {value}; give it {least:,} to {most:,}")
    if options.delimiter is not None and len(options.delimiter) != 1:
        raise PlanError(f"--delimiter is {options.delimiter!r}; it is one character")
    if options.acknowledged is not None and options.expected is None:
        raise PlanError("--acknowledged says which of the expected were accepted: give --expected")
    if [*options.inputs, options.expected, options.acknowledged].count("-") > 1:
        raise PlanError("standard input can be read only once")
    if options.price and len(options.inputs) > 1:
        raise PlanError("--price is that of one run: name one record")
    if options.price and options.expected is not None:
        raise PlanError("--price reads a record, which has no ids: --expected is for logs")


async def audit_logs(options: AuditOptions) -> AuditResult:
    """Audit the logs of `options`, one after another.

    Raises ConnectorError (also for a log in which no event has a sequence) and UnreadableInput.
    """
    names = find_inputs(options.inputs)
    if options.price or any(map(is_record, names)):
        return _audit_of_record(options, names)
    try:
        return await _LogAudit(options, names, is_text=options.sequence_type == "text").run()
    except TextSequence as found:
        if found.among_numbers:
            raise ConnectorError(
                f"{found.where} is no number, but others are numbers: say how to compare them, "
                "by --sequence-type text, or number, which leaves it out"
            ) from None
        others = [name for name in (options.expected, options.acknowledged) if name is not None]
        if not all(map(_can_be_read_again, [*names, *find_inputs(others)])):
            raise ConnectorError(
                f"{found.where} is no number, but those before are: say how to compare them, "
                "by --sequence-type text or number"
            ) from None
        first_text = found.where
    return await _LogAudit(options, names, is_text=True, first_text=first_text).run()


def _audit_of_record(options: AuditOptions, names: Sequence[str]) -> AuditResult:
    if len(names) > 1:
        record = next(name for name in names if is_record(name))
        raise ConnectorError(f"{record} is a record of a run: it is audited alone")
    given = ("sequence", "time", "id", "delimiter", "expected")
    for name in given:
        if getattr(options, name) is not None and is_record(names[0]):
            raise ConnectorError(
                f"{names[0]} is a record of a run, which has its own columns: leave out --{name}"
            )
    if not is_record(names[0]):
        raise ConnectorError(
            f"{names[0]} is no record; --price is that of a run, which keeps one by "
            "millstream run --record FILE"
        )
    if options.key not in (None, "key"):
        raise ConnectorError(f"{names[0]} is a record of a run, which has its keys: --key key")
    scope: Scope = "global" if options.key is None else "key"
    # Of a run's numbers only those of all events leave none out.
    audit = Audit(
        scope,
        threshold=options.threshold,
        window=options.window,
        ordinal=scope == "key",
        distinct=True,
    )
    price = audit_record(names[0], audit, price=options.price)
    figures = audit.figures
    report = {"schema": SCHEMA, "inputs": list(names), **figures.report(), "malformed": 0}
    report["examples"] = [_example_of(example, lambda _: {}) for example in figures.examples]
    if price:
        report["price"] = price
    notes = []
    if scope == "global" and not options.price and not figures.is_clean:
        notes.append("a run by key keeps the order of each key: that is audited by --key key")
    return AuditResult(report, not figures.is_clean, 0, notes)


def _can_be_read_again(name: str) -> bool:
    return name != "-" and stat.S_ISREG(os.stat(name).st_mode)


class _Pending:
    """Columns of events that wait to be audited together."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.count = 0
        self.numbers: list[Any] = []
        self.times: list[Any] = []
        self.places: list[Any] = []
        self.keys: list[Keys] = []


class _LogAudit:
    def __init__(
        self,
        options: AuditOptions,
        names: Sequence[str],
        *,
        is_text: bool,
        first_text: str | None = None,
    ) -> None:
        """`first_text`: what has shown that sequences are texts."""
        self.first_text = first_text
        self.options, self.names = options, list(names)
        self.sources = list(names)
        """The logs, and behind them those of what was sent and accepted: by number, in examples."""
        self.is_text = is_text
        chosen = {"key": options.key, "sequence": options.sequence, "time": options.time}
        self.mapping = FieldMapping.of(chosen | {"id": options.id})
        self.account: DeliveryAccount | None = None
        scope: Scope = "global" if options.key is None else "key"
        self.audit = Audit(scope, threshold=options.threshold, window=options.window)
        self.unkeyed = self.unnumbered = self.read = self.malformed = 0
        self.first_bad: list[tuple[str, int, Bad]] = []
        self.has_numbers = self.has_json_numbers = False
        self.digits: set[int] = set()
        """Two of the lengths of sequences that are texts of digits, if there are several."""
        self.kafka: KafkaColumns | None = None
        self._pending = _Pending()

    async def run(self) -> AuditResult:
        options = self.options
        if options.expected is None:
            return await self._run(None)
        with DeliveryAccount() as account:
            await self._read_ids(options.expected, account.attempted)
            if options.acknowledged is not None:
                account.acknowledged([], Origin(0, []))  # also when there are none
                await self._read_ids(options.acknowledged, account.acknowledged)
            return await self._run(account)

    async def _run(self, account: DeliveryAccount | None) -> AuditResult:
        self.account = account
        for number, name in enumerate(self.names):
            async with closing(self._columns(name, self.options.key, self._wanted())) as log:
                async for columns in log:
                    self._take(number, columns)
        self._flush()
        return self._result()

    async def _read_ids(self, given: str, note: Callable[[Any, Origin], None]) -> None:
        """The ids of a log of what was sent, or accepted."""
        for name in find_inputs([given]):
            number = len(self.sources)
            self.sources.append(name)
            async with closing(self._columns(name, None, ["id"])) as log:
                async for columns in log:
                    self._note_bad(number, columns)
                    note(_ids(columns.values["id"]), Origin(number, columns.lines))

    # --- reading

    async def _columns(
        self, name: str, key: str | None, wanted: list[Attribute]
    ) -> AsyncIterator[Columns]:
        """What is wanted of a log, block by block; its first events must have it."""
        reader = self._reader(name, key)
        decoder: ColumnDecoder | None = None
        async with closing(reader.blocks()) as blocks:
            async for block in blocks:
                if not block.count:
                    continue
                is_first = decoder is None
                if decoder is None:
                    decoder = self._decoder(reader, wanted)
                columns = decoder.decode(block)
                if is_first:
                    self._check(name, columns, wanted, decoder.fields_of(block))
                yield columns

    def _reader(self, name: str, key: str | None) -> Reader:
        options = self.options
        given = options.format
        return Reader(
            StdinSource() if name == "-" else FileSource(name),
            self.mapping,
            "events",
            format=None if given == "auto" or given == "cloudevents" else given,
            delimiter=options.delimiter,
            partition=0,
            chosen_key=key,
            cloud_events=given == "cloudevents",
            sniff=_sniff,
        )

    def _wanted(self) -> list[Attribute]:
        options = self.options
        wanted: list[Attribute] = ["sequence"]
        wanted += ["key"] if options.key is not None else []
        wanted += ["time"] if options.time is not None else []
        wanted += ["id"] if options.expected is not None else []
        return wanted

    def _decoder(self, reader: Reader, wanted: list[Attribute]) -> ColumnDecoder:
        mapping = self.mapping
        if reader.format == "kafka":
            if self.options.sequence is None:
                mapping = FieldMapping(mapping.paths | {"sequence": (("offset",),)})
            self.kafka = KafkaColumns(mapping, wanted)
            return self.kafka
        if isinstance(reader.decoder, CsvDecoder):
            return CsvColumns(reader.decoder, wanted)
        return JsonColumns(mapping, wanted, cloud_events=self.options.format == "cloudevents")

    def _check(
        self, name: str, columns: Columns, wanted: list[Attribute], fields: list[str]
    ) -> None:
        """See to it that events have what is asked for. Raises ConnectorError."""
        if not len(columns):
            return
        for attribute in wanted:
            if _has_any(columns.keys if attribute == "key" else columns.values[attribute]):
                continue
            chosen = getattr(self.options, attribute)
            if attribute == "sequence" and chosen is None and self.account is not None:
                continue  # its delivery can be checked all the same
            what = repr(chosen)
            if chosen is None:
                what = "id" if attribute == "id" else "sequence number (such as sequence, seq)"
            hint = "" if chosen else f"; name the field with --{attribute}"
            raise ConnectorError(
                f"{_shown(name)}: the first {len(columns):,} events "
                f"have no {what}{hint} (their fields: {', '.join(fields) or 'none'})"
            )

    # --- taking note

    def _take(self, source: int, columns: Columns) -> None:
        """One block."""
        self._note_bad(source, columns)
        count = len(columns)
        if not count:
            return
        self.read += count
        values = columns.values
        if self.account is not None:
            self.account.delivered(_ids(values["id"]), Origin(source, columns.lines))
        numbers, present = self._numbers(source, columns)
        lines: Any = columns.lines
        keys = columns.keys
        times = as_times(values["time"]) if "time" in values else None
        keyed = None if keys is None else keys.present()
        if keyed is not None:
            self.unkeyed += int((~keyed).sum())
            numbers = numbers[keyed if present is None else keyed[present]]
            present = keyed if present is None else keyed & present
        if present is not None:
            lines = np.array(lines, dtype=np.int64)[present]
            keys = None if keys is None else _some(keys, np.flatnonzero(present))
            times = None if times is None else times[present]
        if not len(numbers):
            return
        pending = self._pending
        pending.count += len(numbers)
        pending.numbers.append(numbers)
        pending.places.append(_places(source, lines))
        if keys is not None:
            pending.keys.append(keys)
        if times is not None:
            pending.times.append(times)
        if pending.count >= TOGETHER:
            self._flush()

    def _note_bad(self, source: int, columns: Columns) -> None:
        for line, why in columns.bad.items():
            self.malformed += 1
            if len(self.first_bad) < _MOST_NAMED:
                self.first_bad.append((self.sources[source], line, why))

    def _numbers(self, source: int, columns: Columns) -> tuple[Any, Any]:
        values = columns.values["sequence"]
        if self.is_text:
            numbers, present = as_texts(values)
        else:
            try:
                numbers, present = as_numbers(values)
            except TextSequence as found:
                if self.options.sequence_type == "auto":
                    self._explain(found, source, columns)
                    if found.among_numbers or self.has_numbers:
                        raise
                    # Nothing was compared yet: from here on they are texts.
                    self.is_text, self.first_text = True, found.where
                    return self._numbers(source, columns)
                only = [v if v is None or is_number(v) else None for v in values]
                numbers, present = as_numbers(only)
        self.has_numbers = self.has_numbers or bool(len(numbers))
        self._note_kinds(values)
        if present is not None:
            self.unnumbered += int((~present).sum())
        return numbers, present

    def _note_kinds(self, values: Values) -> None:
        """Whether sequences compare as numbers only: they are some, or digits of any length."""
        if isinstance(values, np.ndarray):
            self.has_json_numbers = True
            return
        kinds = set(map(type, values))
        self.has_json_numbers = self.has_json_numbers or bool(kinds & {int, float})
        if str in kinds:
            lengths = {len(v) for v in values if type(v) is str and is_number(v)}
            self.digits = set(sorted(self.digits | lengths)[:2])

    def _explain(self, found: TextSequence, source: int, columns: Columns) -> None:
        values = _ids(columns.values["sequence"])
        self._note_kinds(values)
        line = columns.lines[values.index(str(found))]
        found.where = f"the sequence {str(found)!r} in {_shown(self.sources[source])} line {line}"
        # Digits of one length have the same order as numbers and as texts.
        found.among_numbers = self.has_json_numbers or len(self.digits) > 1

    def _flush(self) -> None:
        pending = self._pending
        if not pending.count:
            return
        ends = np.cumsum([len(each) for each in pending.numbers]).tolist()

        def key_of(place: int) -> Any:
            at = int(np.searchsorted(ends, place, side="right"))
            return pending.keys[at].at(place - (ends[at - 1] if at else 0))

        self.audit.observe(
            np.concatenate(pending.numbers),
            np.concatenate([each.hashes for each in pending.keys]) if pending.keys else None,
            np.concatenate(pending.times) if pending.times else None,
            np.concatenate(pending.places),
            key_of if pending.keys else None,
        )
        pending.clear()

    # --- telling

    def _result(self) -> AuditResult:
        figures = self.audit.figures
        figures.unkeyed, figures.unnumbered = self.unkeyed, self.unnumbered
        report = {"schema": SCHEMA, "inputs": self.names, **figures.report()}
        report["events"] = self.read
        report["malformed"] = self.malformed
        report["examples"] = [_example_of(example, self._place) for example in figures.examples]
        is_broken = not figures.is_clean
        if self.account is not None:
            delivery = self.account.report()
            report["delivery"] = _delivery_of(delivery)
            report["examples"] += [self._example_of_delivery(each) for each in delivery.examples]
            is_broken = is_broken or not delivery.is_clean
        return AuditResult(report, is_broken, self.malformed, self._notes())

    def _example_of_delivery(self, example: DeliveryExample) -> dict[str, Any]:
        places = [{"source": self.sources[p.file], "line": p.line} for p in example.places]
        told: dict[str, Any] = {"kind": example.kind, "id": example.id, **places[-1]}
        if len(places) > 1:
            told["after"] = places[0]
        return told

    def _place(self, place: int | None) -> dict[str, Any]:
        if place is None:
            return {}
        source, line = place >> _LINE_BITS, place & ((1 << _LINE_BITS) - 1)
        return {"source": self.sources[source], "line": line}

    def _notes(self) -> list[str]:
        notes = [
            f"{_shown(name)} line {line} is no event: {why.message}"
            for name, line, why in self.first_bad
        ]
        if self.first_text is not None:
            notes.append(f"sequences were compared as texts: {self.first_text} is no number")
        if self.unnumbered:
            notes.append(
                f"{self.unnumbered:,} events have no sequence number; their order was not audited"
            )
        if self.options.key is None and self.kafka is not None and self.kafka.has_partitions:
            notes.append("offsets count by partition, and there are several: --key partition")
        if self.unkeyed:
            notes.append(f"{self.unkeyed:,} events have no key; their order was not audited")
        return notes


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name


def _ids(values: Values) -> list[Any]:
    return values if isinstance(values, list) else values.tolist()


def _delivery_of(delivery: DeliveryReport) -> dict[str, int]:
    names = ("lost", "duplicated", "unexpected", "recovered")
    more = ("attempted", "acknowledged", "delivered")
    told = {name: getattr(delivery, name) for name in names + more}
    return told | {"without_id": delivery.without_id.delivered}


def _example_of(
    example: Example, place_of: Callable[[int | None], dict[str, Any]]
) -> dict[str, Any]:
    """An example as the report has it: with the source and the line of both events."""
    told: dict[str, Any] = {
        "kind": example.kind,
        "key": example.key,
        "sequence": example.sequence,
        "position": example.position,
        **place_of(example.place),
    }
    if example.extent is not None:
        told["extent"] = example.extent
    if example.after is not None:
        place = example.after.get("place")
        told["after"] = {"sequence": example.after["sequence"], **place_of(place)}
    return told


def _has_any(values: Values | Keys | None) -> bool:
    """Whether any of the values is there."""
    if isinstance(values, Keys):
        present = values.present()
        return present is None or bool(present.any())
    return isinstance(values, np.ndarray) or any(value is not None for value in values or ())


def _some(keys: Keys, places: Ints) -> Keys:
    """Those at some places."""
    return Keys(keys.hashes[places], lambda place: keys.at(int(places[place])))


def _places(source: int, lines: Any) -> Ints:
    base = source << _LINE_BITS
    if isinstance(lines, range):
        return np.arange(base + lines.start, base + lines.stop)
    return np.asarray(lines, dtype=np.int64) + base


def _sniff(head: bytes) -> Format:
    return "kafka" if is_kafka_output(head.split(b"\n", 1)[0]) else sniff_format(head)


__all__ = ["AuditOptions", "AuditResult", "UnreadableInput", "audit_logs"]
