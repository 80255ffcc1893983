"""The states of a stage's keys, event by event, as far as a checkpoint has to tell them apart.

Pure. A checkpoint holds the state of a key as it was after the last of its events that is done: an
event that is not done is handled again, and must find the state that it found at first. The events
of a key come to their end in order, whatever becomes of them.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable

from .order import Lane


class StateLedger:
    """Bounded by the events in flight, and the keys that were handled since take()."""

    def __init__(self, floor: Callable[[], int]) -> None:
        """`floor` gives the number below which all events are done."""
        self._floor = floor
        self._entries: dict[Lane, deque[tuple[int, bytes | None]]] = {}

    def note(self, key: Lane, index: int, state: bytes | None) -> None:
        """The state of a key after an event of it was handled; None: it is empty."""
        entries = self._entries.get(key)
        if entries is None:
            entries = self._entries[key] = deque()
        entries.append((index, state))
        floor = self._floor()
        while len(entries) > 1 and entries[1][0] < floor:
            entries.popleft()

    def take(self, is_done: Callable[[int], bool]) -> list[tuple[Lane, bytes | None]]:
        """What has changed since the last time, as it was after the last event that is done."""
        changed = []
        for key, entries in list(self._entries.items()):
            last: tuple[int, bytes | None] | None = None
            while entries and is_done(entries[0][0]):
                last = entries.popleft()
            if last is not None:
                changed.append((key, last[1]))
            if not entries:
                del self._entries[key]
        return changed


def key_to_bytes(key: Lane) -> bytes:
    """A key as a row of a checkpoint is named: equal keys alike (1, 1.0 and true are equal)."""
    if isinstance(key, bool) or (isinstance(key, float) and key.is_integer()):
        key = int(key)
    return pickle.dumps(key, 5)


def key_from_bytes(data: bytes) -> Lane:
    """The reverse."""
    key: Lane = pickle.loads(data)
    return key
