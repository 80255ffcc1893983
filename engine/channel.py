"""Bounded channel of batches between two parts of a run: close, end of stream, statistics.

One state object behind both ends. What bounds it is its capacity in batches; a sender waits while
it is full, and so backpressure reaches the source.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T", bound=Sized)


class EndOfStream(Exception):
    """The sender closed the channel and everything in it was received."""


class ClosedChannel(Exception):
    """Sent to a channel after it was closed: an error of the sender."""


class ChannelStatistics(msgspec.Struct, frozen=True):
    """How full a channel is now."""

    capacity: int
    batches: int
    events: int
    senders_waiting: int
    receiver_waiting: bool
    closed: bool


class Channel(Generic[T]):
    """First in, first out, for one receiver. T has a length: its number of events."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a channel needs a capacity of 1 or more, not {capacity}")
        self.capacity = capacity
        self._batches: deque[T] = deque()
        self._receiver: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def send(self, batch: T) -> None:
        """Put `batch` in, after waiting for room. Raises ClosedChannel."""
        while len(self._batches) >= self.capacity and not self._closed:
            waiter = asyncio.get_running_loop().create_future()
            self._senders.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._forget(waiter)
                raise
        if self._closed:
            raise ClosedChannel("sent to a channel after it was closed")
        self._batches.append(batch)
        self._wake_receiver()

    async def receive(self) -> T:
        """The next batch. Raises EndOfStream when there will be none."""
        while not self._batches:
            if self._closed:
                raise EndOfStream
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        return self._take()

    def receive_now(self) -> T | None:
        """The next batch if one is there."""
        return self._take() if self._batches else None

    def _take(self) -> T:
        batch = self._batches.popleft()
        while self._senders:
            waiter = self._senders.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        return batch

    def close(self) -> None:
        """No more will be sent; what is in the channel can still be received."""
        self._closed = True
        self._wake_receiver()
        while self._senders:
            waiter = self._senders.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _wake_receiver(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        if waiter in self._senders:
            self._senders.remove(waiter)
        elif self._senders and len(self._batches) < self.capacity:
            # It was woken for a place that it will not take: pass the place on.
            nxt = self._senders.popleft()
            if not nxt.done():
                nxt.set_result(None)

    def statistics(self) -> ChannelStatistics:
        """How full it is, and who waits."""
        events = sum(len(batch) for batch in self._batches)
        waiting = self._receiver is not None
        return ChannelStatistics(
            self.capacity, len(self._batches), events, len(self._senders), waiting, self._closed
        )
