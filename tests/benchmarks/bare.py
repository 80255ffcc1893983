"""What one would write by hand, the yardsticks: no order, no measurement, no failure handling.

`python -m tests.benchmarks.bare PROGRAM INPUT OUTPUT`; `-` is a standard stream.
"""

from __future__ import annotations

import sys

from orjson import dumps, loads

# Each program imports what it alone needs, when it runs: start-up counts, for it as for the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from typing import IO

LANES = 5_000


def loop(source: IO[bytes], sink: IO[bytes]) -> None:
    """The bare loop of measurement.md: the work written out, so that not even a call is added."""
    write = sink.write
    for line in source:
        event = loads(line)
        event["data"]["paid"] = True
        write(dumps(event) + b"\n")


def measured(source: IO[bytes], sink: IO[bytes]) -> None:
    """The bare loop with a Millstream run's measuring in it, and nothing else of the engine.

    Blocks of 64 KiB; attributes by a msgspec struct, the payload raw and decoded when it is asked
    for; a stamp an event, a check of the order per key, a histogram by batch. No errors, no
    batches on their way, no results but one an event: what no engine in Python can be below.
    """
    from time import monotonic_ns

    import msgspec
    import numpy as np

    attributes = msgspec.defstruct("Event", [("key", str), ("data", msgspec.Raw)], gc=False)
    decode, payload_of = msgspec.json.Decoder(attributes).decode, msgspec.json.Decoder().decode
    encode = msgspec.json.Encoder().encode
    last_of_key: dict[str, int] = {}
    counts = np.zeros(4096, dtype=np.int64)
    number, rest = 0, b""
    while block := source.read(65_536):
        *lines, rest = (rest + block).split(b"\n")
        out, stamps = [], [monotonic_ns()]
        for line in lines:
            event = decode(line)
            if last_of_key.get(event.key, -1) >= number:
                raise AssertionError("out of order")
            last_of_key[event.key] = number
            number += 1
            payload = payload_of(event.data)
            payload["paid"] = True
            out.append(b"%b%b}" % (line[: -1 - len(event.data)], encode(payload)))
            stamps.append(monotonic_ns())
        counts += np.bincount(np.minimum(np.diff(stamps) // 1_000, 4095), minlength=4096)
        out.append(b"")
        sink.write(b"\n".join(out))


def decode(source: IO[bytes], sink: IO[bytes]) -> None:
    """What an audit of a log has to do at least: the key and the number of each event, decoded."""
    import msgspec

    event = msgspec.defstruct("Event", [("key", str), ("time", int)], gc=False)
    decode = msgspec.json.Decoder(event).decode
    for line in source:
        decode(line)


def spin20(source: IO[bytes], sink: IO[bytes]) -> None:
    """The bare loop with 20 µs of computing an event."""
    from tests.benchmarks.handlers import SPIN_TURNS, spin

    write = sink.write
    for line in source:
        event = loads(line)
        spin(SPIN_TURNS)
        event["data"]["paid"] = True
        write(dumps(event) + b"\n")


def lanes(source: IO[bytes], sink: IO[bytes]) -> None:
    """5,000 coroutines share one iterator of lines, and each waits 5 ms with every event."""
    _run_all(_lane(source, sink.write) for _ in range(LANES))


def hotkey(source: IO[bytes], sink: IO[bytes]) -> None:
    """The bound that the hottest key sets: one coroutine a key, all lines read beforehand.

    The events of one key wait one after another, and nothing else holds them up: no window, no
    queue, no cap on the keys in flight. Whatever keeps order by key has this chain in it.
    """
    by_key: dict[str, list[bytes]] = {}
    for line in source:
        by_key.setdefault(loads(line)["key"], []).append(line)
    _run_all(_lane(lines, sink.write) for lines in by_key.values())


async def _lane(lines: Iterable[bytes], write: Callable[[bytes], object]) -> None:
    from asyncio import sleep

    from tests.benchmarks.handlers import SLEEP_SECONDS

    for line in lines:
        event = loads(line)
        await sleep(SLEEP_SECONDS)
        event["data"]["paid"] = True
        write(dumps(event) + b"\n")


def _run_all(coroutines: Iterator[Coroutine[None, None, None]]) -> None:
    """Run them together under uvloop."""
    import asyncio

    import uvloop

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)

    uvloop.run(main())


PROGRAMS: dict[str, Callable[[IO[bytes], IO[bytes]], None]] = {
    "loop": loop,
    "measured": measured,
    "decode": decode,
    "spin20": spin20,
    "lanes": lanes,
    "hotkey": hotkey,
}


def main() -> None:
    """Run the program that is named, from a file to a file."""
    name, source_path, sink_path = sys.argv[1:]
    # A file descriptor opens like a path, and buffers alike.
    with (
        open(0 if source_path == "-" else source_path, "rb") as source,
        open(1 if sink_path == "-" else sink_path, "wb") as sink,
    ):
        PROGRAMS[name](source, sink)


if __name__ == "__main__":
    main()
