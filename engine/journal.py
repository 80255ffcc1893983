"""A journal of the output: which lines are of which event. `millstream prove` asks for it.

One JSON array a line, in the order of the output: source, line in it, key, and how many lines of
output. Only under --emit input, and only of an undisturbed run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from .dead_letters import Place
from .event import encode_printable
from .order import Lane

JOURNAL: Final = "MILLSTREAM_JOURNAL"
"""Environment: the file that the journal is written to."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An event that has results."""

    source: str
    line: int
    key: Any
    lines: int


class Journal:
    """Writes the journal of one run."""

    def __init__(self, path: str, place_of: Callable[[int], Place]) -> None:
        self._file = open(path, "wb")  # noqa: SIM115  (closed when the run ends)
        self._place_of = place_of
        self._keys: dict[int, Lane] = {}  # of what the resequencer holds

    @classmethod
    def asked_for(cls, place_of: Callable[[int], Place]) -> Journal | None:
        """The journal, when the environment names one. Raises OSError."""
        path = os.environ.get(JOURNAL)
        return None if path is None else cls(path, place_of)

    def came(self, numbers: Sequence[int], lanes: Sequence[Lane] | None) -> None:
        """Note the keys of events that came to the output."""
        if lanes is not None:
            self._keys.update(zip(numbers, lanes, strict=True))

    def left(self, number: int, lines: Sequence[bytes] | None) -> None:
        """Note that an event's lines have gone into the output; a record may have several."""
        key = self._keys.pop(number, None)
        if lines:
            place = self._place_of(number)
            count = len(lines) + sum(line.count(b"\n") for line in lines)
            self._file.write(encode_printable([place.source, place.line, key, count]) + b"\n")

    def close(self) -> None:
        """All has gone into the output."""
        self._file.close()
