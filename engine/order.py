"""Order: which lane an event takes, and the resequencer that restores the input's order.

Pure. Events of one lane are handled one at a time, in order of arrival; lanes do not wait for
each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Generic, Literal, TypeVar

Order = Literal["none", "key", "partition", "global"]
Emit = Literal["completion", "input"]

ORDERS: Final[tuple[Order, ...]] = ("none", "key", "partition", "global")
EMITS: Final[tuple[Emit, ...]] = ("completion", "input")

T = TypeVar("T")

Lane = Hashable
"""None: unordered."""


def lanes_of(
    order: Order, keys: Sequence[Lane] | None, partition: int, count: int
) -> list[Lane] | None:
    """The lane of each of `count` events of one partition; None when all are unordered."""
    match order:
        case "key":
            assert keys is not None, "order 'key' needs the keys"
            return list(keys) if not isinstance(keys, list) else keys
        case "partition":
            return [partition] * count
        case "global":
            return [0] * count
    return None


class Resequencer(Generic[T]):
    """Holds what is done early until all before it is done.

    What bounds it is the window that the runner grants to events in flight.
    """

    def __init__(self, first: int = 0) -> None:
        self.next = first
        self._held: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self._held)

    def push(self, positions: Sequence[int], payloads: Iterable[T]) -> list[T]:
        """Take the payloads of `positions`; give back, in order, all that can go on now."""
        held = self._held
        if not held and isinstance(positions, range) and positions.start == self.next:
            self.next = positions.stop
            return list(payloads)
        held.update(zip(positions, payloads, strict=True))
        released = []
        while self.next in held:
            released.append(held.pop(self.next))
            self.next += 1
        return released

    def rest(self) -> list[T]:
        """All that still waits, in order, when what it waits for will not come."""
        held, self._held = self._held, {}
        return [held[position] for position in sorted(held)]
