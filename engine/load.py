"""A load: events that somebody else releases, on a schedule, into a run that does not pace itself.

The protocol that load generators keep, and the reader that makes blocks of what they release.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol

from msgspec import Struct

from .codecs import Block, Times
from .event import FieldMapping
from .reading import Need, Reader

_LOOK_S: Final = 0.001


class Release(Struct, frozen=True, gc=False):
    """Events that a generator gave out at a moment, or one after another."""

    count: int
    data: bytes
    """Their lines, joined by newlines."""
    times: Times | None
    """When each was due and was released; None: there is no schedule."""


class LoadReport(Struct, frozen=True):
    """What a generator says of itself at the end."""

    released: int
    dropped: int = 0
    """Events that were due and never released, since what was not taken had become too much."""
    cpu_ns: int = 0
    elapsed_ns: int = 0
    """From the beginning of the schedule to its end."""
    loop_lag_p99_ns: int = 0
    """How late its own loop came to look at the schedule."""
    starved_ns: int = 0
    """Without a schedule: how long nothing was there to be given out though it was wanted."""


class Load(Protocol):
    """Releases events when they are due, also when nobody takes them."""

    name: str
    is_open: bool
    """Whether there is a schedule."""

    @property
    def released(self) -> int:
        """How many events have been released by now."""
        ...

    async def open(self) -> None:
        """Be ready to begin. Raises ConnectorError."""
        ...

    def begin(self, origin_ns: int) -> None:
        """The schedule begins at `origin_ns` (monotonic)."""
        ...

    def releases(self) -> AsyncIterator[Release]:
        """All that is released, in order, from begin() on. Raises ConnectorError."""
        ...

    def stop(self) -> None:
        """Release nothing more."""
        ...

    async def close(self) -> LoadReport:
        """End; what it has to say of itself."""
        ...

    def kill(self) -> None:
        """The process ends at once: leave nothing behind. Called by any thread."""
        ...


class Window:
    """How many events of a load without a schedule may be in hand at once, found as it goes.

    As many as are done in some tenths of a second: more would only wait, and would all have to be
    handled when the load is to end; fewer would leave somebody without work.
    """

    LEAST: Final = 64
    MOST: Final = 1 << 20
    SHORT_NS: Final = 100_000_000
    LONG_NS: Final = 500_000_000

    def __init__(self) -> None:
        self.size = self.LEAST

    def drained(self, took_ns: int) -> None:
        """Half of it was done in so long."""
        if took_ns < self.SHORT_NS:
            self.size = min(self.MOST, 2 * self.size)
        elif took_ns > self.LONG_NS:
            self.size = max(self.LEAST, self.size // 2)


class LoadSource:
    """What a run takes for its source: the load by name. Its reader never asks it for bytes."""

    can_seek = False
    size: int | None = None

    def __init__(self, load: Load) -> None:
        self.name = load.name
        self.bytes_read = 0
        self._load = load

    def seek(self, offset: int) -> None:
        raise AssertionError("a load can't be rewound")

    def chunks(self) -> AsyncIterator[bytes]:
        raise AssertionError("a load gives releases, not bytes")

    def stop(self) -> None:
        self._load.stop()


class LoadReader(Reader):
    """Blocks of what a load releases: a line an event, numbered from 1."""

    def __init__(
        self,
        source: LoadSource,
        load: Load,
        mapping: FieldMapping,
        need: Need,
        begin: Callable[[], Awaitable[Any]],
        on_end: Callable[[], None],
        settled: Callable[[], int],
    ) -> None:
        """`begin` is awaited before the first one; `on_end` is told when all were released;
        `settled` says how many events have come to their end."""
        super().__init__(
            source, mapping, need, format="jsonl", delimiter=None, partition=0, chosen_key=None
        )
        self._load, self._begin, self._on_end = load, begin, on_end
        self._settled, self._window = settled, Window()
        self.taken = 0
        """How many events of the load came here."""
        self.is_stopped = False
        """Without a schedule: no more is wanted, not even of what was released."""
        self.adopt(())

    async def blocks(self) -> AsyncIterator[Block]:
        await self._begin()
        async for release in self._load.releases():
            self.source.bytes_read += len(release.data) + 1
            if self._load.is_open:
                yield self._block(release.count, release.data, release.times)
                continue
            lines = release.data.split(b"\n")
            while lines and not self.is_stopped:
                room = max(1, min(len(lines), await self._room()))
                some, lines = lines[:room], lines[room:]
                yield self._block(room, b"\n".join(some), None)
        self._on_end()

    def _block(self, count: int, data: bytes, times: Times | None) -> Block:
        first = self.taken + 1
        self.taken += count
        return Block(count, first, data, times=times)

    async def _room(self) -> int:
        """How many events more may be in hand, once it is half of the window or more."""
        window, since_ns = self._window, time.monotonic_ns()
        in_hand = self.taken - self._settled()
        if in_hand < window.size:
            return window.size - in_hand
        while (in_hand := self.taken - self._settled()) > window.size // 2:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)  # nobody tells of single events
        window.drained(time.monotonic_ns() - since_ns)
        return window.size - in_hand
