"""The channel between two parts of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.channel import Channel, ClosedChannel, EndOfStream

Payload = tuple[int, ...]


async def until(condition: Callable[[], bool]) -> None:
    """Give the other tasks turns until `condition` holds; it must within a few."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the others came to rest in another state")


async def drain(channel: Channel[Payload]) -> list[Payload]:
    received = []
    while True:
        try:
            received.append(await channel.receive())
        except EndOfStream:
            return received


@given(
    capacity=st.integers(1, 4),
    senders=st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=4),
    pauses=st.lists(st.integers(0, 5), max_size=60),
)
def test_all_that_is_sent_arrives_once_and_each_senders_in_order(
    capacity: int, senders: list[list[int]], pauses: list[int]
) -> None:
    async def scenario() -> list[Payload]:
        channel: Channel[Payload] = Channel(capacity)
        fullest = 0

        async def send(sender: int) -> None:
            nonlocal fullest
            for number, turns in enumerate(senders[sender]):
                for _ in range(turns):
                    await asyncio.sleep(0)
                await channel.send((sender, number))
                fullest = max(fullest, channel.statistics().batches)

        async def receive() -> list[Payload]:
            received = []
            for turns in pauses:
                for _ in range(turns):
                    await asyncio.sleep(0)
                batch = channel.receive_now()
                if batch is not None:
                    received.append(batch)
            return received + await drain(channel)

        async with asyncio.TaskGroup() as tasks:
            receiving = tasks.create_task(receive())
            async with asyncio.TaskGroup() as sending:
                for sender in range(len(senders)):
                    sending.create_task(send(sender))
            channel.close()
        assert fullest <= capacity
        return receiving.result()

    received = asyncio.run(scenario())

    for sender, sent in enumerate(senders):
        own = [number for who, number in received if who == sender]
        assert own == list(range(len(sent)))
    assert len(received) == sum(map(len, senders))


def test_a_sender_waits_while_the_channel_is_full() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(2)
        await channel.send((1,))
        await channel.send((2, 2))
        third = asyncio.create_task(channel.send((3,)))
        await until(lambda: channel.statistics().senders_waiting == 1)
        assert not third.done()
        full = channel.statistics()
        assert (full.batches, full.events, full.capacity) == (2, 3, 2)

        assert await channel.receive() == (1,)
        await third
        assert channel.statistics().senders_waiting == 0
        assert channel.statistics().batches == 2

    asyncio.run(scenario())


def test_what_was_sent_before_the_end_is_still_received() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(3)
        await channel.send((1,))
        await channel.send((2,))
        channel.close()
        assert channel.statistics().closed
        assert await drain(channel) == [(1,), (2,)]
        for _ in range(2):  # and it stays ended
            with pytest.raises(EndOfStream):
                await channel.receive()
        assert channel.receive_now() is None

    asyncio.run(scenario())


def test_a_receiver_that_waits_learns_of_the_end() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(1)
        waiting = asyncio.create_task(drain(channel))
        await until(lambda: channel.statistics().receiver_waiting)
        channel.close()
        assert await waiting == []

    asyncio.run(scenario())


def test_sending_after_the_end_is_refused_also_to_who_waited() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(1)
        await channel.send((1,))
        waiting = [asyncio.create_task(channel.send((n,))) for n in (2, 3)]
        await until(lambda: channel.statistics().senders_waiting == 2)
        channel.close()
        for each in waiting:
            with pytest.raises(ClosedChannel):
                await each
        with pytest.raises(ClosedChannel):
            await channel.send((4,))
        assert await drain(channel) == [(1,)]

    asyncio.run(scenario())


def test_a_cancelled_sender_sends_nothing_and_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(1)
        await channel.send((1,))
        gone, next_one = (asyncio.create_task(channel.send((n,))) for n in (2, 3))
        await until(lambda: channel.statistics().senders_waiting == 2)
        gone.cancel()
        await asyncio.wait([gone])
        assert channel.statistics().senders_waiting == 1

        assert await channel.receive() == (1,)
        await until(next_one.done)
        assert await channel.receive() == (3,)

    asyncio.run(scenario())


def test_a_sender_that_is_cancelled_when_it_is_its_turn_passes_the_place_on() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(1)
        await channel.send((1,))
        gone, next_one = (asyncio.create_task(channel.send((n,))) for n in (2, 3))
        await until(lambda: channel.statistics().senders_waiting == 2)
        assert channel.receive_now() == (1,)  # wakes the first of them
        gone.cancel()
        await asyncio.wait([gone])
        assert gone.cancelled()

        await until(next_one.done)
        assert channel.receive_now() == (3,)

    asyncio.run(scenario())


def test_a_cancelled_receiver_loses_nothing() -> None:
    async def scenario() -> None:
        channel: Channel[Payload] = Channel(1)
        gone = asyncio.create_task(channel.receive())
        await until(lambda: channel.statistics().receiver_waiting)
        await channel.send((1,))  # wakes it
        gone.cancel()
        await asyncio.wait([gone])
        assert gone.cancelled()
        assert not channel.statistics().receiver_waiting
        assert await channel.receive() == (1,)

    asyncio.run(scenario())


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_channel_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity of 1 or more"):
        Channel[Payload](capacity)
