"""The account of delivery, by event id, of logs that may be larger than memory.

Keeps a table while it fits, and puts it away on the disk, in parts by the hashes of ids, whenever
it does not; tallying.py counts.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np

from .event import Scalar
from .tallying import (
    ACKNOWLEDGED,
    ATTEMPTED,
    DELIVERED,
    Counts,
    DeliveryExample,
    DeliveryReport,
    Ints,
    Place,
    Table,
    dealt,
    most_levels,
    places_of,
    tally,
    texts_of,
    together,
)

__all__ = [
    "Counts",
    "DeliveryAccount",
    "DeliveryExample",
    "DeliveryReport",
    "NoRoomForIds",
    "Origin",
    "Place",
]

DEFAULT_MEMORY: Final = 64 * 1024 * 1024
DEFAULT_PARTITIONS: Final = 256
"""Parts of 30,000,000 ids that are short still fit into a table of half the default memory."""
_MOST_PARTITIONS: Final = 1 << 16
_PIECE: Final = 8192
"""Ids of a batch that are counted at once."""
_BLOCKS: Final = 16
"""A table is put away in so many blocks at least, also where all its ids are of one part: a block
that is read is in memory beside the table that it goes to."""


class NoRoomForIds(Exception):
    """Ids do not fit into memory, and not on the disk either."""


class Origin(msgspec.Struct, frozen=True):
    """Where a batch of ids is from: the number of a file, and the line of each id."""

    file: int
    lines: Sequence[int] | Ints


class DeliveryAccount:
    """What became of events, by their ids: told what logs say of them, it reports.

    Logs may come in any order, also by turns. Memory: `memory` bytes, and once more what the texts
    of a batch take. What does not fit goes to a file without a name in `folder` (None: the one for
    temporary files), of which nothing stays, however this ends; where it can't be written, methods
    raise NoRoomForIds. An account that failed is closed, and gives no figures.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        memory: int = DEFAULT_MEMORY,
        partitions: int = DEFAULT_PARTITIONS,
    ) -> None:
        if not 2 <= partitions <= _MOST_PARTITIONS:
            raise ValueError(f"{partitions} partitions; give it 2 to {_MOST_PARTITIONS}")
        self._share = _Share(_Room(folder, memory, partitions), 0)
        self._without_id = [0, 0, 0]
        self._has_acknowledged = False
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory and disk. May be called again."""
        self._is_closed = True
        self._share.close()

    def attempted(self, ids: Sequence[Scalar], origin: Origin) -> None:
        """What the producer tried: what is expected."""
        self._add(ATTEMPTED, ids, origin)

    def acknowledged(self, ids: Sequence[Scalar], origin: Origin) -> None:
        """What the system accepted. If never called, all that was attempted; so call it, with no
        ids, for a log that has none."""
        self._has_acknowledged = True
        self._add(ACKNOWLEDGED, ids, origin)

    def delivered(self, ids: Sequence[Scalar], origin: Origin) -> None:
        """What came out."""
        self._add(DELIVERED, ids, origin)

    def report(self) -> DeliveryReport:
        """What all of it comes to. More may be added after that."""
        with self._closed_by_errors():
            found = self._share.report(acknowledged=self._has_acknowledged)
        return msgspec.structs.replace(found, without_id=Counts(*self._without_id))

    def _add(self, role: int, ids: Sequence[Scalar], origin: Origin) -> None:
        places = places_of(origin.file, origin.lines)
        if len(places) != len(ids):
            raise ValueError(f"{len(ids)} ids on {len(places)} lines; give the line of each id")
        with self._closed_by_errors():
            for start in range(0, len(ids), _PIECE):
                part, at = ids[start : start + _PIECE], places[start : start + _PIECE]
                texts, have_id = texts_of(part)
                if have_id is not None:
                    self._without_id[role] += len(part) - len(texts)
                    at = at[have_id]
                self._share.table.add(role, texts, at)
                self._share.relieve()

    @contextmanager
    def _closed_by_errors(self) -> Iterator[None]:
        """What was broken off may have counted some ids and not others, or twice."""
        if self._is_closed:
            raise ValueError("the account is closed: it was left, or has failed; make another")
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Room(msgspec.Struct, frozen=True):
    """What an account may use."""

    folder: str | None
    memory: int
    partitions: int

    @property
    def table_bytes(self) -> int:
        """A table that grows has its old and its new self in memory for a moment."""
        return self.memory // 2


class _Share:
    """Ids that are counted together: all of them, or a part of a share that was too large.

    `level`: how often they were parted.
    """

    def __init__(self, room: _Room, level: int) -> None:
        self.table = Table()
        self._room, self._level = room, level
        self._parts: _Parts | None = None

    def close(self) -> None:
        self.table = Table()
        if self._parts is not None:
            self._parts.close()

    def relieve(self) -> None:
        """Put the table away when it is too large, unless that is of no use: an id may be larger
        than memory, and ids whose hashes are alike can't be parted."""
        is_too_large = self.table.bytes > self._room.table_bytes and len(self.table) > 1
        if is_too_large and self._level < most_levels(self._room.partitions):
            self._put_away()

    def report(self, *, acknowledged: bool) -> DeliveryReport:
        """Count what is in the table, or part by part what was put away."""
        if self._parts is None:
            return tally(*self.table.content(), acknowledged=acknowledged)
        self._put_away()
        found = DeliveryReport()
        for part in range(self._room.partitions):
            with closing(_Share(self._room, self._level + 1)) as share:
                for ids, columns in self._parts.blocks(part):
                    share.table.merge(ids, columns)
                    share.relieve()
                found = together(found, share.report(acknowledged=acknowledged))
        return found

    def _put_away(self) -> None:
        if self._parts is None:
            self._parts = _Parts(self._room)
        ids, columns = self.table.content()
        if not ids:
            return
        self.table = Table()
        # Of most columns all numbers are alike: nothing came more than once, or from another role.
        alike = [_Column.alike(numbers) for numbers in columns]
        texts = np.array(ids, object)  # which are gathered in a fourth of the time
        piece = max(1, len(ids) // _BLOCKS)
        for part, places in enumerate(dealt(ids, self._level, self._room.partitions)):
            for start in range(0, len(places), piece):
                at = places[start : start + piece]
                pairs = zip(alike, columns, strict=True)
                packed = [same or _Column.of(numbers[at]) for same, numbers in pairs]
                self._parts.write(part, _Block(texts[at].tolist(), packed))
        self._parts.flush()


# --- the disk


class _Column(msgspec.Struct, frozen=True, array_like=True):
    """Numbers, as what they are above the lowest of them, in as few bytes as the highest needs."""

    lowest: int
    kind: str
    data: bytes

    @classmethod
    def alike(cls, numbers: Ints) -> _Column | None:
        """None: they are not all alike."""
        return cls(int(numbers[0]), "", b"") if numbers.min() == numbers.max() else None

    @classmethod
    def of(cls, numbers: Ints) -> _Column:
        lowest = int(numbers.min())
        width = (int(numbers.max()) - lowest).bit_length()
        for kind, bits in (("u1", 8), ("u2", 16), ("u4", 32)):
            if width <= bits:
                return cls(lowest, kind, (numbers - lowest).astype(kind).tobytes())
        return cls(0, "i8", numbers.tobytes())

    def numbers(self, count: int) -> Ints:
        if not self.kind:
            return np.full(count, self.lowest)
        return np.frombuffer(self.data, self.kind).astype(np.int64) + self.lowest


class _Block(msgspec.Struct, frozen=True, array_like=True):
    """Distinct ids with their columns."""

    ids: list[str]
    columns: list[_Column]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Block).decode
_HEAD: Final = struct.Struct("<qq")
"""Where the last block before it of the same part is (-1: there is none), and its own size."""


class _Parts:
    """A file of blocks, each of one part. Memory: one number a part, however many blocks.

    The file has no name, so that the system removes it even if the process is killed.
    """

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._last = [-1] * room.partitions
        self._end = 0
        with self._told("written"):
            self._file = tempfile.TemporaryFile(dir=room.folder)  # noqa: SIM115  # close() closes it

    def close(self) -> None:
        try:
            self._file.close()
        except OSError:  # what could not be written still can't
            pass

    def write(self, part: int, content: _Block) -> None:
        block = _encode(content)
        with self._told("written"):
            self._file.seek(self._end)
            self._file.write(_HEAD.pack(self._last[part], len(block)))
            self._file.write(block)
        self._last[part] = self._end
        self._end += _HEAD.size + len(block)

    def flush(self) -> None:
        """Let a disk that is full say so now."""
        with self._told("written"):
            self._file.flush()

    def blocks(self, part: int) -> Iterator[tuple[list[str], Ints]]:
        """The ids of a part, and their columns. The last block comes first."""
        at = self._last[part]
        while at >= 0:
            with self._told("read again"):
                self._file.seek(at)
                at, size = _HEAD.unpack(self._file.read(_HEAD.size))
                block = _decode(self._file.read(size))
            count = len(block.ids)
            yield block.ids, np.stack([column.numbers(count) for column in block.columns])

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = self._room.folder or tempfile.tempdir or "the folder for temporary files"
            advice = "give another one" if self._room.folder else "set TMPDIR to another folder"
            raise NoRoomForIds(
                f"the ids of the logs do not fit into {self._room.memory:,} bytes of memory, and "
                f"in {folder} they can't be {what}: {error.strerror}; make room there, or {advice}"
            ) from error
