"""A recorder whose rows go to the tail's attribution, and to a record as well when one is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from .histogram import Ints
from .record_file import RecordFile, Rows, stage_column
from .recording import Recorder
from .tail import CAME_OUT, DONE, MORE, RELEASED, TailFold


class FoldedRows:
    """Takes final rows: adds them up, and passes them to a file, if there is one."""

    def __init__(self, fold: TailFold, file: RecordFile | None) -> None:
        self.fold, self._file = fold, file
        self.measured_from_ns = self.origin_ns = 0
        """When measuring began, and the schedule (monotonic)."""

    def open(self, about: Mapping[str, str]) -> None:
        if self._file is not None:
            self._file.open(about)

    def write(self, rows: Rows, count: int) -> None:
        stamps = rows.stamps[:, :count]
        self.fold.feed(rows.first, stamps, self.measured_from_ns, self.origin_ns)
        if self._file is not None:
            self._file.write(rows, count)

    def commit(self) -> None:
        if self._file is not None:
            self._file.commit()

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def drop(self) -> None:
        if self._file is not None:
            self._file.drop()


class TailRecorder(Recorder):
    """Also notes when events were released, when they came out, and when they were done."""

    def __init__(self, rows: FoldedRows, stages: int, late_keys: bool, *, wants_keys: bool) -> None:
        super().__init__(rows, stages, late_keys)
        self.rows = rows
        self.wants_keys = wants_keys
        self._base = stage_column(stages)

    def _make_rows(self, first: int) -> Rows:
        return Rows(first, self._stages, MORE)

    def released(self, numbers: Sequence[int], at_ns: Ints) -> None:
        for rows, at, which in self._places(numbers):
            rows.stamps[self._base + RELEASED][at] = at_ns[which]

    def came_out(self, numbers: Sequence[int]) -> None:
        self._stamp(CAME_OUT, numbers, time.monotonic_ns())

    def responded(self, numbers: Sequence[int], at_ns: int) -> None:
        self._stamp(DONE, numbers, at_ns)

    def _stamp(self, column: int, numbers: Sequence[int], at_ns: int) -> None:
        for rows, at, _ in self._places(numbers):
            rows.stamps[self._base + column][at] = at_ns
