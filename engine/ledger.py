"""Which number each record of the inputs was given: what a resumed run needs to number them alike.

Pure. A row a block from the oldest unfinished event on, and the last one of each reader; blocks
need not be cut alike the next time, since rows tell of records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence

from msgspec import Struct

from .codecs import START, Block, Start, UnreadableInput
from .reading import Known, Reader, Stream

MOST_ROWS = 65_536
_MERGED_BYTES = 64 * 1024
_MERGED_RECORDS = 4096


class Row(Struct, frozen=True, array_like=True, gc=False):
    """Records of one reader that follow one another, and whose numbers do."""

    first: int
    """The number of the first one."""
    reader: int
    at: int
    """How many records of the reader come before it."""
    count: int
    offset: int
    line: int
    """Where to cut again to come to them, and its first line."""
    before: int
    """How many records come before them from there on."""

    @property
    def stop(self) -> int:
        """The number after the last one."""
        return self.first + self.count

    @property
    def restart(self) -> tuple[int, Start]:
        """How many records come before the place to cut again, and that place."""
        at = self.at - self.before
        return (at, Start(self.offset, self.line)) if at else (0, START)


class Ledger:
    """The rows of all readers, in the order of their numbers."""

    def __init__(self, rows: Iterable[Row] = (), read: int = 0) -> None:
        """`read`: how many numbers were given before."""
        self.read = read
        """How many numbers were given: they stay given, whether their events go on or not."""
        self._rows: deque[Row] = deque()
        self._last: dict[int, Row] = {}
        for row in rows:
            self._append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, first: int, reader: int, block: Block) -> None:
        """Note that the records of `block`, a reader's next ones, are numbered from `first`."""
        assert first == self.read, f"number {first} after {self.read} were given"
        self.read = first + block.count
        last = self._last.get(reader)
        at = last.at + last.count if last is not None else 0
        row = Row(first, reader, at, block.count, *block.start, block.before)
        before = self._rows[-1] if self._rows else None
        if before is None or not _can_be_one(before, row):
            self._append(row)
            return
        self._rows.pop()
        self._append(
            Row(
                before.first,
                reader,
                before.at,
                before.count + row.count,
                before.offset,
                before.line,
                before.before,
            )
        )

    def _append(self, row: Row) -> None:
        self._rows.append(row)
        self._last[row.reader] = row

    def prune(self, floor: int) -> None:
        """Forget the rows of which all is done."""
        rows = self._rows
        while rows and rows[0].stop <= floor:
            rows.popleft()

    def rows(self, ended: Iterable[int] = ()) -> list[Row]:
        """What to keep: of readers that have not ended, all is known that is needed to read on."""
        known = {row.reader for row in self._rows} | set(ended)
        others = [row for at, row in self._last.items() if at not in known]
        return sorted([*self._rows, *others], key=lambda row: row.first)


def _can_be_one(a: Row, b: Row) -> bool:
    return (
        a.reader == b.reader
        and a.stop == b.first
        and a.count + b.count <= _MERGED_RECORDS
        and b.offset - a.offset < _MERGED_BYTES
    )


def streams_of(
    readers: Sequence[Reader], known: Sequence[Known], rows: Sequence[Row], ended: set[int]
) -> list[Stream]:
    """The streams that are still to be read, each from the oldest record that may be needed."""
    oldest: dict[int, Row] = {}
    for each in rows:
        oldest.setdefault(each.reader, each)
    streams = []
    for reader, facts in zip(readers, known, strict=True):
        row = oldest.get(reader.partition)
        if row is None and reader.partition in ended:
            reader.recall(facts)
            continue
        at, start = row.restart if row is not None else (0, START)
        if at:
            reader.go_on(facts, start)
        streams.append(Stream(reader, 0 if facts.format == "json" else at))
    return streams


async def read_again(
    rows: Sequence[Row], streams: Sequence[Stream]
) -> AsyncIterator[tuple[Reader, Block, int]]:
    """The records of `rows` once more, in the order of their numbers; each block with its first
    number. What comes behind them is left in the streams. Raises UnreadableInput."""
    by_reader = {stream.reader.partition: stream for stream in streams}
    for row in rows:
        stream = by_reader[row.reader]
        end = row.at + row.count
        while stream.at < end:
            block = await stream.next()
            if block is None:
                raise UnreadableInput(
                    f"{stream.reader.source.name}: it has {stream.at:,} events, but {end:,} were "
                    "read of it before; give it again as it was, or begin anew with another "
                    "checkpoint"
                )
            if stream.reader.format == "csv":
                block.drop_blanks(stream.reader.delimiter or ",")
            skipped = max(0, min(row.at - stream.at, block.count))
            stop = min(block.count, end - stream.at)
            if stop < block.count:
                stream.put_back(block.only(range(stop, block.count)))
            number = row.first + stream.at + skipped - row.at
            stream.at += stop
            if stop > skipped:
                yield stream.reader, block.only(range(skipped, stop)), number
