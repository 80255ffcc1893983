"""The record of a run under way: what its audit sees, an event a row, until it can be written.

The parts of a run tell it what they did, batch by batch. A block of rows whose events are all done
is final; a thread writes it while the run goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from .histogram import Ints
from .order import Lane
from .record_file import (
    ADMITTED,
    EMITTED_AT,
    INTENDED,
    ROWS,
    Outcome,
    RecordError,
    Rows,
    read_record,
    stage_column,
)

__all__ = ["RECORD_WINDOW", "Codes", "RecordError", "Recorder", "read_record"]

RECORD_WINDOW: Final = 1_000_000
"""With a record, how far reading may be ahead of the first event whose row is not being written."""
_MOST_WAITING: Final = 2
"""Blocks of rows in the hands of the thread."""

Codes = npt.NDArray[np.uint8]
_Places = tuple[Rows, "slice | Ints", "slice | npt.NDArray[np.bool_] | Ints"]
"""Where some of a batch's numbers have their rows, and which of the batch they are."""


class RowWriter(Protocol):
    """What takes the rows that are final, in a thread of the recorder's."""

    def open(self, about: Mapping[str, str]) -> None: ...
    def write(self, rows: Rows, count: int) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...
    def drop(self) -> None: ...


class Recorder:
    """Keeps the rows of a run. What it is told a second time, of a row that is written, is lost."""

    wants_keys = True
    """Whether it is to be told the keys."""

    def __init__(self, file: RowWriter, stages: int, late_keys: bool) -> None:
        self.first = 0
        """All rows below it are written, or in the hands of whoever writes them."""
        self.late_keys = late_keys
        """Whether the outlet tells the keys, as the lanes of events: nobody knows them sooner."""
        self.on_room: Callable[[], None] = lambda: None
        self.on_failed: Callable[[BaseException], None] = lambda error: None
        self._file, self._stages = file, stages
        self._rows: dict[int, Rows] = {}  # bounded by RECORD_WINDOW
        self._floor = 0
        self._writing: set[asyncio.Future[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="millstream-record")
        self._tells_something = False
        self._error: BaseException | None = None

    @property
    def is_writing(self) -> bool:
        """Whether rows are in the hands of whoever writes them."""
        return bool(self._writing)

    async def open(self, about: Mapping[str, str]) -> None:
        """Make the file, with what is to be said `about` the run. Raises RecordError."""
        await self._in_thread(self._file.open, about)

    # --- what the parts of a run tell

    def admitted(self, numbers: Sequence[int], at_ns: int | Sequence[int], partition: int) -> None:
        """These came into the first channel."""
        for rows, at, which in self._places(numbers):
            own = at_ns if isinstance(at_ns, int) else np.asarray(at_ns)[which]
            rows.stamps[ADMITTED][at] = own
            rows.partitions[at] = partition

    def intended(self, numbers: Sequence[int], at_ns: Ints) -> None:
        """When these were due."""
        for rows, at, which in self._places(numbers):
            rows.stamps[INTENDED][at] = at_ns[which]

    def keyed(self, numbers: Sequence[int], keys: Sequence[Lane]) -> None:
        """The keys of these; None: it has none."""
        column = np.empty(len(keys), dtype=np.object_)
        column[:] = keys
        for rows, at, which in self._places(numbers):
            rows.keys[at] = column[which]

    def handled(self, stage: int, numbers: Sequence[int], starts: Ints, ends: Ints) -> None:
        """A stage began and ended with these."""
        self._tells_something = True
        column = stage_column(stage)
        for rows, at, which in self._places(numbers):
            rows.stamps[column][at] = starts[which]
            rows.stamps[column + 1][at] = ends[which]

    def ended(self, numbers: Sequence[int], outcomes: Codes | int) -> None:
        """What became of these."""
        self._tells_something = True
        for rows, at, which in self._places(numbers):
            rows.outcomes[at] = outcomes if isinstance(outcomes, int) else outcomes[which]

    def emitted(
        self, numbers: Sequence[int], at_ns: int, outcomes: Codes | int = Outcome.EMITTED
    ) -> None:
        """The results of these, as far as their outcome is that they have some, are written."""
        for rows, at, which in self._places(numbers):
            if isinstance(outcomes, int):
                rows.stamps[EMITTED_AT][at] = at_ns
            else:
                rows.stamps[EMITTED_AT][at] = at_ns * (outcomes[which] == Outcome.EMITTED)

    def came_out(self, numbers: Sequence[int]) -> None:
        """The last stage has sent these on, just now."""

    def released(self, numbers: Sequence[int], at_ns: Ints) -> None:
        """The load generator gave these out."""

    def responded(self, numbers: Sequence[int], at_ns: int) -> None:
        """The response to these, where they have a schedule, was complete."""

    def done_below(self, floor: int) -> None:
        """All below `floor` is done: nothing more is to come of it."""
        self._floor = floor
        if floor - self.first >= ROWS:
            self._hand_over()

    def _places(self, numbers: Sequence[int]) -> Iterator[_Places]:
        if type(numbers) is range and numbers.step == 1:
            start = max(numbers.start, self.first)
            while start < numbers.stop:
                rows = self._rows_of(start // ROWS)
                stop = min(numbers.stop, rows.first + ROWS)
                at = slice(start - rows.first, stop - rows.first)
                yield rows, at, slice(start - numbers.start, stop - numbers.start)
                start = stop
            return
        many = np.asarray(numbers, dtype=np.int64)
        for block in np.unique(many // ROWS).tolist():
            if block * ROWS >= self.first:
                own = many // ROWS == block
                yield self._rows_of(block), many[own] % ROWS, own

    def _rows_of(self, block: int) -> Rows:
        rows = self._rows.get(block)
        if rows is None:
            rows = self._rows[block] = self._make_rows(block * ROWS)
        return rows

    def _make_rows(self, first: int) -> Rows:
        return Rows(first, self._stages)

    # --- rows that are final

    def _hand_over(self) -> None:
        """Give those to the thread that are final, as far as it keeps up."""
        while self._floor - self.first >= ROWS and len(self._writing) < _MOST_WAITING:
            writing = self._write(ROWS)
            self._writing.add(writing)
            writing.add_done_callback(self._on_written)

    def _write(self, count: int) -> asyncio.Future[None]:
        block = self.first // ROWS
        rows = self._rows_of(block)
        del self._rows[block]
        self.first += count
        return self._in_thread(self._file.write, rows, count)

    def _on_written(self, writing: asyncio.Future[None]) -> None:
        self._writing.discard(writing)
        if writing.cancelled():
            return
        error = writing.exception()
        if error is None:
            self._hand_over()
            self.on_room()
        else:
            self._error = self._error or error
            self.on_failed(error)

    # --- the end

    async def finish(self, count: int) -> None:
        """Write what is left of `count` rows, and put the file in its place. Raises RecordError."""
        self._floor = self.first  # no more is handed over beside this
        try:
            await asyncio.gather(*self._writing, return_exceptions=True)
            if self._error is not None:
                raise self._error
            while self.first < count:
                await self._write(min(ROWS, count - self.first))
            await self._in_thread(self._file.commit)
        except BaseException:
            await self._in_thread(self._file.discard)
            raise
        finally:
            self._thread.shutdown(wait=False)

    async def abandon(self, count: int) -> None:
        """The run broke off: keep what was recorded of `count` events, if any was handled."""
        if self._tells_something and self._error is None:
            with suppress(RecordError):  # the run has broken off for another reason
                await self.finish(count)
            return
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._in_thread(self._file.discard)
        self._thread.shutdown(wait=False)

    def drop(self) -> None:
        """The process ends at once: leave nothing behind. Called by another thread."""
        self._file.drop()

    def _in_thread(self, call: Callable[..., None], *arguments: object) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
