"""Where each event in flight stood in the input: from its number to its source and line.

Pure. A row a block; rows are dropped as the frontier passes them, so memory follows what is in
flight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from .codecs import Block
from .dead_letters import Place

_Row = tuple[int, str, int, list[int] | None]  # first number, source, first line, line numbers


class Positions:
    """The places of the events that are not done yet."""

    def __init__(self) -> None:
        self._rows: deque[_Row] = deque()
        self._firsts: deque[int] = deque()

    def add(self, first: int, source: str, block: Block) -> None:
        """Note that the records of `block` are numbered from `first`."""
        self._rows.append((first, source, block.first_line, block.line_numbers))
        self._firsts.append(first)

    def place_of(self, index: int) -> Place:
        """The source and line of an event that is not done."""
        at = bisect_right(self._firsts, index) - 1
        if at < 0:
            return Place("?", 0)
        first, source, first_line, numbers = self._rows[at]
        offset = index - first
        line = numbers[offset] if numbers is not None else first_line + offset
        return Place(source, line)

    def prune(self, floor: int) -> None:
        """Drop the rows whose events are all below `floor`."""
        while len(self._firsts) > 1 and self._firsts[1] <= floor:
            self._firsts.popleft()
            self._rows.popleft()
