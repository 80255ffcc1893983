"""The file of a record: its columns, how rows are written a row group at a time, and read again.

Blocks; nothing here knows of a run or of the loop. pyarrow is imported only when there is a record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from .connectors.base import ConnectorError
from .connectors.files import keep_mode, remedy
from .event import Scalar, decode_json, encode_json
from .histogram import Ints
from .price import Completions

SCHEMA: Final = "millstream.record/1"
ROWS: Final = 1 << 17
"""Rows of a row group; the last one has fewer."""
INTENDED, ADMITTED, EMITTED_AT = 0, 1, 2
"""Columns of stamps; those of stages follow, two each."""
_INSTALL: Final = "install it: pip install 'millstream[record]'"
_KEYS_AT_ONCE: Final = 4096
_MOST_TEXT: Final = 1 << 31
"""Bytes that the keys of a row group must stay below."""


class Outcome:
    """The codes of what became of an event; 0: nothing yet."""

    EMITTED: Final = 1
    FILTERED: Final = 2
    DEAD: Final = 3
    NAMES: Final = ("emitted", "filtered", "dead")


class RecordError(ConnectorError):
    """A record can't be written or read; the message says why, and what to do."""


def import_pyarrow(what: str) -> tuple[Any, Any]:
    """pyarrow and its Parquet module; `what` needs them. Raises RecordError."""
    try:
        import pyarrow  # type: ignore[import-untyped]  # it comes without types
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # likewise
    except ImportError as error:
        raise RecordError(f"{what} needs pyarrow, which can't be imported; {_INSTALL}") from error
    return pyarrow, parquet


class Rows:
    """The events `first` … `first` + ROWS − 1, by column; a stamp that is 0 was never taken."""

    __slots__ = ("first", "keys", "outcomes", "partitions", "stamps")

    def __init__(self, first: int, stages: int, more: int = 0) -> None:
        """`more` columns of stamps, behind those of the stages."""
        self.first = first
        # The memory comes as it is touched: a short run has no use for most of it.
        self.stamps: Ints = np.zeros((stage_column(stages) + more, ROWS), dtype=np.int64)
        self.partitions: npt.NDArray[np.int32] = np.zeros(ROWS, dtype=np.int32)
        self.outcomes: npt.NDArray[np.uint8] = np.zeros(ROWS, dtype=np.uint8)
        self.keys: npt.NDArray[np.object_] = np.empty(ROWS, dtype=np.object_)


def stage_column(stage: int) -> int:
    """The column of stamps in which stage number `stage` began; the next one: ended."""
    return EMITTED_AT + 1 + 2 * stage


def stage_names(stages: Sequence[str]) -> list[tuple[str, str]]:
    """The names of each stage's columns: when it began, when it ended.

    No two are the same, whether or not upper and lower case are told apart.
    """
    names: list[tuple[str, str]] = []
    taken: set[str] = set()
    for stage in stages:
        name, again = stage, 1
        while name.lower() in taken:
            again += 1
            name = f"{stage}#{again}"
        taken.add(name.lower())
        names.append((f"started_ns:{name}", f"finished_ns:{name}"))
    return names


class RecordFile:
    """A Parquet file that appears under its name only once it is whole."""

    def __init__(self, path: str, stages: Sequence[str]) -> None:
        """Raises RecordError when pyarrow is not installed."""
        self._pa, self._parquet = import_pyarrow("--record")
        self.path = path
        self._stages = list(stages)
        self._target = self._writing = Path(path)
        self._special = False
        self._file: Any = None
        self._writer: Any = None
        self._schema: Any = None

    def open(self, about: Mapping[str, str]) -> None:
        """Begin it, with what is to be said `about` the run. Raises RecordError."""
        try:
            self._target = self._writing = Path(os.path.realpath(self.path))
            if self._target.is_dir():
                raise RecordError(f"record {self.path!r} is a folder; name a file in it")
            self._special = self._target.exists() and not self._target.is_file()
            if not self._special:
                name = f".{self._target.name}.{os.getpid()}.part"
                self._writing = self._target.with_name(name)
            self._file = self._writing.open("wb")
            self._schema = self._make_schema(about)
            self._writer = self._open_writer()
        except OSError as error:
            self.discard()
            raise self._failed(error) from error

    def _make_schema(self, about: Mapping[str, str]) -> Any:
        pa = self._pa
        columns = [
            pa.field("sequence", pa.int64(), nullable=False),
            pa.field("key", pa.string()),
            pa.field("partition", pa.int32()),
            pa.field("outcome", pa.dictionary(pa.int8(), pa.string())),
            pa.field("intended_ns", pa.int64()),
            pa.field("admitted_ns", pa.int64()),
            *(pa.field(name, pa.int64()) for name in chain(*stage_names(self._stages))),
            pa.field("emitted_ns", pa.int64()),
        ]
        stages = [
            {"name": stage, "started": started, "finished": finished}
            for stage, (started, finished) in zip(
                self._stages, stage_names(self._stages), strict=True
            )
        ]
        facts = {"schema": SCHEMA, **about, "stages": encode_json(stages).decode()}
        return pa.schema(columns, metadata=facts)

    def _open_writer(self) -> Any:
        packed = ("key", "partition", "outcome")
        deltas = [name for name in self._schema.names if name not in packed]
        return self._parquet.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=list(packed),
            column_encoding=dict.fromkeys(deltas, "DELTA_BINARY_PACKED"),
        )

    # --- rows

    def write(self, rows: Rows, count: int) -> None:
        """Add the first `count` of `rows` as a row group. Raises RecordError."""
        text, ends = _joined(rows.keys[:count].tolist())
        try:
            self._write(rows, slice(0, count), text, ends)
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, rows: Rows, span: slice, text: memoryview, ends: Ints) -> None:
        start, stop = span.start, span.stop
        if stop - start > 1 and ends[stop] - ends[start] >= _MOST_TEXT:
            middle = (start + stop) // 2
            self._write(rows, slice(start, middle), text, ends)
            self._write(rows, slice(middle, stop), text, ends)
            return
        text, ends = text[ends[start] : ends[stop]], ends[start : stop + 1] - ends[start]
        table = self._pa.Table.from_arrays(
            self._columns(rows, span, text, ends), schema=self._schema
        )
        self._writer.write_table(table)

    def _columns(self, rows: Rows, span: slice, text: memoryview, ends: Ints) -> list[Any]:
        pa, stamps = self._pa, rows.stamps[:, span]
        sequence = np.arange(rows.first + span.start, rows.first + span.stop, dtype=np.int64)
        admitted, outcomes, keys = stamps[ADMITTED], rows.outcomes[span], rows.keys[span]
        codes = self._array(pa.int8(), (outcomes - 1).view(np.int8), outcomes > 0)
        names, name_ends = _joined(Outcome.NAMES)
        return [
            self._array(pa.int64(), sequence),
            self._strings(text, ends, keys != None),  # noqa: E711  # of each element
            self._array(pa.int32(), rows.partitions[span], admitted > 0),
            pa.DictionaryArray.from_arrays(codes, self._strings(names, name_ends)),
            self._stamps(stamps[INTENDED]),
            self._stamps(admitted),
            *map(self._stamps, stamps[stage_column(0) : stage_column(len(self._stages))]),
            self._stamps(stamps[EMITTED_AT]),
        ]

    def _stamps(self, stamps: Ints) -> Any:
        return self._array(self._pa.int64(), stamps, stamps > 0)

    def _array(self, kind: Any, values: Any, valid: Any = None) -> Any:
        """An Arrow array over `values` as they lie there.

        pyarrow.array() would import pandas first, where that is installed: half a second.
        """
        bits, nulls = self._validity(valid)
        buffers = [bits, self._pa.py_buffer(values)]
        return self._pa.Array.from_buffers(kind, len(values), buffers, nulls)

    def _strings(self, text: memoryview, ends: Ints, valid: Any = None) -> Any:
        bits, nulls = self._validity(valid)
        buffers = [bits, self._pa.py_buffer(ends.astype(np.int32)), self._pa.py_buffer(text)]
        return self._pa.Array.from_buffers(self._pa.string(), len(ends) - 1, buffers, nulls)

    def _validity(self, valid: Any) -> tuple[Any, int]:
        nulls = 0 if valid is None else len(valid) - int(np.count_nonzero(valid))
        if not nulls:
            return None, 0
        return self._pa.py_buffer(np.packbits(valid, bitorder="little")), nulls

    # --- the end

    def commit(self) -> None:
        """All is written: put it in its place. Raises RecordError."""
        try:
            self._writer.close()
            self._file.close()
            if not self._special:
                keep_mode(self._target, self._writing)
                os.replace(self._writing, self._target)
        except OSError as error:
            self.discard()
            raise self._failed(error) from error

    def discard(self) -> None:
        """It will not be whole: leave nothing behind."""
        if self._writer is not None:
            self._writer.is_open = False  # it would try to end the file when it is collected
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self.drop()

    def drop(self) -> None:
        """Take away what was written so far. By any thread: when the process ends at once."""
        if not self._special and self._file is not None:
            with suppress(OSError):
                self._writing.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> RecordError:
        return RecordError(
            f"record {self.path!r} can't be written: {error.strerror or error}; nothing was put "
            f"in its place: {remedy(error)}, then run it again"
        )


# --- keys


def _joined(keys: Sequence[Scalar]) -> tuple[memoryview, Ints]:
    """The text of all keys, one behind the other, and where each ends, from 0 on."""
    texts: list[bytes] = []
    ends = np.zeros(len(keys) + 1, dtype=np.int64)
    for at in range(0, len(keys), _KEYS_AT_ONCE):
        own = keys[at : at + _KEYS_AT_ONCE]
        text, lengths = _encoded(own)
        texts.append(text)
        ends[at + 1 : at + 1 + len(own)] = np.fromiter(lengths, dtype=np.int64, count=len(own))
        time.sleep(0)  # the loop, in its thread, need not wait for all of them
    return memoryview(b"".join(texts)), np.cumsum(ends, out=ends)


def _encoded(keys: Sequence[Any]) -> tuple[bytes, Iterable[int]]:
    try:
        text = "".join(keys)
        if text.isascii():
            return text.encode(), map(len, keys)
    except TypeError:  # not all are text
        pass
    each = [_key_text(key) for key in keys]
    return b"".join(each), map(len, each)


def _key_text(key: Scalar) -> bytes:
    if key is None:
        return b""
    return key.encode(errors="replace") if isinstance(key, str) else encode_json(key)


# --- reading it again


def read_record(path: str) -> Iterator[Completions]:
    """The events of a record, with when each was admitted and completed, ROWS of them at a time.

    An event has completed when the last stage was done with it; one that did not come there, when
    it was emitted, or else when the last stage that handled it was done. Raises RecordError, at
    once when the file is none.
    """
    pa, parquet = import_pyarrow("reading a record")
    try:
        finished = _finished_columns(path, parquet.read_schema(path), pa)
        file = parquet.ParquetFile(path, read_dictionary=["key"])
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return _completions(path, file, finished)


def _finished_columns(path: str, schema: Any, pa: Any) -> list[str]:
    """The columns that say when each stage was done. Raises RecordError when it is no record."""
    facts = schema.metadata or {}
    named = facts.get(b"schema", b"").decode(errors="replace")
    if named != SCHEMA:
        says = f"it says {named!r}" if named else "it names no schema"
        raise RecordError(
            f"{path} is a Parquet file, but no {SCHEMA}: {says}; name one that "
            "`millstream run --record` has written"
        )
    try:
        finished: list[str] = [each["finished"] for each in decode_json(facts[b"stages"])]
    except (KeyError, TypeError, msgspec.DecodeError):
        raise RecordError(f"{path} is no whole {SCHEMA}: it does not tell its stages") from None
    wanted = dict.fromkeys(["sequence", "admitted_ns", *finished, "emitted_ns"], pa.int64())
    for name, kind in {**wanted, "key": pa.string()}.items():
        if name not in schema.names or schema.field(name).type != kind:
            raise RecordError(f"{path} is no whole {SCHEMA}: it has no column {name!r} of {kind}")
    return finished


def _completions(path: str, file: Any, finished: Sequence[str]) -> Iterator[Completions]:
    pa, _ = import_pyarrow("reading a record")
    columns = ["sequence", "key", "admitted_ns", *finished, "emitted_ns"]
    try:
        with file:
            for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                yield _completions_of(batch, finished)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _completions_of(batch: Any, finished: Sequence[str]) -> Completions:
    key = batch.column("key")
    ends = np.array([_numbers(batch.column(name), np.int64, 0) for name in finished])
    completed = ends[-1]
    for others in (_numbers(batch.column("emitted_ns"), np.int64, 0), ends.max(axis=0)):
        completed = np.where(completed > 0, completed, others)
    return Completions(
        _numbers(batch.column("sequence"), np.int64, 0),
        _numbers(key.indices, np.int32, -1),
        key.dictionary.to_pylist(),
        _numbers(batch.column("admitted_ns"), np.int64, 0),
        completed,
    )


def _numbers(array: Any, kind: type[np.integer[Any]], null: int) -> Any:
    """An Arrow array of this kind as numpy sees it; its own conversions would import pandas."""
    bits, data = array.buffers()
    span = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, dtype=kind)[span]
    if not array.null_count:
        return values
    valid = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little")[span]
    return np.where(valid, values, null)


def _unreadable(path: str, error: Exception) -> RecordError:
    why = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        why = os.strerror(error.errno)
    return RecordError(f"record {path!r} can't be read: {why}; name a whole record")
