"""Regrouping for batch handlers: batches of the size that a stage asked for.

A group is sent on when it is full, when its first event has waited long enough, or at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ..batch import Batch
from ..channel import Channel, EndOfStream


async def groups(
    inbox: Channel[Batch],
    size: int,
    wait_s: float,
    unpack: Callable[[Batch], None],
    held: list[Batch],
    *,
    alarm: Callable[[], float | None] = lambda: None,
) -> AsyncIterator[Batch | None]:
    """Batches of up to `size` events; a batch that is open waits at most `wait_s` seconds.

    What waits stands in `held`, for others to see. `alarm` gives when (loop time) whoever takes
    the groups has something else to do: then None comes.
    """
    count = 0
    loop = asyncio.get_running_loop()
    deadline = 0.0
    ended = False
    while not ended or held:
        batch = None
        try:
            if not ended:
                batch = await receive_until(inbox, _earlier(deadline if held else None, alarm()))
        except EndOfStream:
            ended = True
        if batch is not None:
            unpack(batch)
            if not held:
                deadline = loop.time() + wait_s
            held.append(batch)
            count += len(batch)
        while count >= size:
            yield _take(held, size)
            count -= size
        if held and (ended or loop.time() >= deadline):
            yield _take(held, count)
            count = 0
        elif batch is None and not ended:
            yield None


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


async def receive_until(inbox: Channel[Batch], deadline: float | None) -> Batch | None:
    """The next batch, or None at the deadline (loop time). Raises EndOfStream."""
    batch = inbox.receive_now()
    if batch is not None or deadline is None:
        return batch or await inbox.receive()
    try:
        async with asyncio.timeout_at(deadline):
            return await inbox.receive()
    except TimeoutError:
        return None


def _take(held: list[Batch], size: int) -> Batch:
    """The first `size` events of `held` as one batch."""
    taken: list[Batch] = []
    while size > 0:
        batch = held[0]
        if len(batch) <= size:
            taken.append(held.pop(0))
        else:
            taken.append(batch.part(0, size))
            held[0] = batch.part(size, len(batch))
        size -= len(taken[-1])
    return join(taken)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch with the events of several, in order."""
    if len(batches) == 1:
        return batches[0]
    ready: list[int] = []
    for each in batches:
        stamps = each.ready_ns
        ready += [stamps] * len(each) if isinstance(stamps, int) else stamps
    lanes = [lane for each in batches for lane in each.lanes or ()]
    partition = batches[0].partition
    mixed = any(each.partition != partition for each in batches)
    return Batch(
        [index for each in batches for index in each.indexes],
        ready,
        lanes if batches[0].lanes is not None else None,
        [value for each in batches for value in each.values or ()],
        [line for each in batches for line in each.lines()],
        partition=partition,
        partitions=[each.partition for each in batches for _ in each.indexes] if mixed else None,
    )
