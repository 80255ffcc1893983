"""Windows over the clicks of all users: tumbling by page, sliding by category, and the top pages.

They are cut into slices of one length; a tumbling window is one slice, a sliding one is several. No
clicks are read or refused here, and no sessions kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from .clicks_tables import Table

Slice = dict[str, list[Any]]
"""Page -> clicks, bytes, and the page's category."""

MOST_CORRECTED: Final = 64
"""Slices that may wait for the next firing with clicks that came after their window had fired."""


class SliceStore:
    """Slices that no window waits for any more, on the disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "slices.db"
        self._path.unlink(missing_ok=True)
        self._slices = sqlite3.connect(self._path, isolation_level=None)
        # Nobody reads it once this process is gone, so it need not survive anything.
        for pragma in ("journal_mode = OFF", "synchronous = OFF"):
            self._slices.execute(f"PRAGMA {pragma}")
        self._slices.execute("CREATE TABLE slices (number INTEGER PRIMARY KEY, pages BLOB)")

    def load(self, number: int) -> Slice | None:
        """The slice as it was last put."""
        found = self._slices.execute("SELECT pages FROM slices WHERE number = ?", (number,))
        row = found.fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=Slice)

    def put(self, number: int, pages: Slice) -> None:
        """Keep a slice, in the place of what is there."""
        encoded = msgspec.msgpack.encode(pages)
        self._slices.execute("INSERT OR REPLACE INTO slices VALUES (?, ?)", (number, encoded))

    def close(self) -> None:
        """Remove it."""
        self._slices.close()
        self._path.unlink()


class Windows:
    """The windows, wherever they are: open, fired, or waiting on the disk for a straggler.

    Under order key nothing is said of how far the clicks of one user may lag behind those of all
    others: one that waits for another attempt may be overtaken by any number of them. So no moment
    is late enough to know that a window is complete. It fires when all its clicks should be there,
    and again, in full, when one comes nevertheless; of a window the last firing counts. When a
    click comes makes no difference to what it adds, so any order ends in the same last firings.
    """

    def __init__(
        self,
        store: SliceStore,
        windows: Table,
        top: Table,
        *,
        size_ms: int,
        slices: int,
        lateness_ms: int,
        best: int,
    ) -> None:
        """A sliding window has so many slices; of a tumbling one the `best` pages are told."""
        self._store, self._windows, self._top = store, windows, top
        self._size_ms, self._slices, self._best = size_ms, slices, best
        # A window's length more: by so much users may usually be apart.
        self._patience_ms = lateness_ms + size_ms
        self._open: dict[int, Slice] = {}
        """Those of windows that have not fired, and those that were corrected."""
        self._fired = -1
        """The last slice with which windows ended that have fired."""
        self._corrected: set[int] = set()
        self._firing = 0

    def add(self, moment_ms: int, page: str, category: str, size: int) -> None:
        """Count a click, in the one slice that it falls into."""
        number = moment_ms // self._size_ms
        pages = self._open.get(number)
        if pages is None:
            pages = self._open[number] = self._store.load(number) or {}
        if number <= self._fired:
            self._corrected.add(number)
        cell = pages.get(page)
        if cell is None:
            pages[page] = [1, size, category]
        else:
            cell[0] += 1
            cell[1] += size

    def advance(self, received_ms: int) -> list[dict[str, Any]]:
        """An event was received at a moment: fire what is complete, as far as that tells."""
        complete = (received_ms - self._patience_ms) // self._size_ms - 1
        if complete > self._fired:
            return self._fire(complete)
        if len(self._corrected) > MOST_CORRECTED:
            return self._fire(self._fired)
        return []

    def finish(self) -> None:
        """No click comes any more: fire all that is left."""
        last = max((*self._open, self._fired)) + self._slices
        self._fire(last)

    def _fire(self, last: int) -> list[dict[str, Any]]:
        """Fire the windows that end with a slice up to `last`, and those that were corrected."""
        fired, before = [], self._fired
        self._firing += 1
        for number in sorted(self._open):
            if before < number <= last or number in self._corrected:
                fired.append(self._fire_tumbling(number, self._open[number]))
        ends = {
            end
            for number in self._open
            for end in range(number, number + self._slices)
            if before < end <= last or (number in self._corrected and end <= last)
        }
        fired += [self._fire_sliding(end) for end in sorted(ends)]
        self._fired = last
        self._corrected.clear()
        for number in [each for each in self._open if each + self._slices - 1 <= last]:
            self._store.put(number, self._open.pop(number))
        return fired

    def _fire_tumbling(self, number: int, pages: Slice) -> dict[str, Any]:
        start, end = number * self._size_ms, (number + 1) * self._size_ms
        for page, (clicks, size, _) in pages.items():
            self._windows.add(("tumbling", start, end, page, self._firing, clicks, size))
        best = sorted((-clicks, page) for page, (clicks, _, _) in pages.items())[: self._best]
        for rank, (clicks, page) in enumerate(best, 1):
            self._top.add((start, rank, page, self._firing, -clicks))
        return {
            **self._told("tumbling", start, end, pages.values()),
            "top": [{"page": page, "clicks": -clicks} for clicks, page in best],
        }

    def _fire_sliding(self, last: int) -> dict[str, Any]:
        """The window that ends with slice number `last`."""
        first = last - self._slices + 1
        totals: dict[str, list[int]] = {}
        for number in range(first, last + 1):
            for clicks, size, category in self._cells(number):
                total = totals.setdefault(category, [0, 0])
                total[0] += clicks
                total[1] += size
        start, end = first * self._size_ms, (last + 1) * self._size_ms
        for category, (clicks, size) in totals.items():
            self._windows.add(("sliding", start, end, category, self._firing, clicks, size))
        return {
            **self._told("sliding", start, end, totals.values()),
            "categories": {category: total[0] for category, total in totals.items()},
        }

    def _cells(self, number: int) -> Iterable[list[Any]]:
        pages = self._open.get(number)
        if pages is None and number <= self._fired:
            pages = self._store.load(number)
        return pages.values() if pages else ()

    def _told(self, kind: str, start: int, end: int, cells: Iterable[list[Any]]) -> dict[str, Any]:
        clicks = size = 0
        for cell in cells:
            clicks += cell[0]
            size += cell[1]
        return {
            "kind": kind,
            "start": start,
            "end": end,
            "firing": self._firing,
            "clicks": clicks,
            "bytes": size,
        }
