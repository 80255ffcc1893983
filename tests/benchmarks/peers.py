"""The work of the bare loop done with the tools one would otherwise reach for, each used well.

`python -m tests.benchmarks.peers pool|mpire|aiostream|aiostream-io INPUT OUTPUT`.
bytewax has a file of its own, and GNU parallel runs bare.py.
"""

from __future__ import annotations

import sys

from orjson import dumps, loads

# Each program imports what it alone needs, when it runs: start-up counts, for it as for the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from aiostream.core import Stream

PROCESSES = 2
CHUNK = 300
TASKS = 5_000


def change(line: bytes, *_: bytes) -> bytes:
    """The work that every contender does to an event; aiostream's types ask for the rest."""
    event = loads(line)
    event["data"]["paid"] = True
    return dumps(event) + b"\n"


def pool(source: IO[bytes], sink: IO[bytes]) -> None:
    """`multiprocessing.Pool.imap`: results in the order of the input, unbounded memory."""
    from multiprocessing import Pool

    with Pool(PROCESSES) as workers:
        sink.writelines(workers.imap(change, source, chunksize=CHUNK))


def mpire(source: IO[bytes], sink: IO[bytes]) -> None:
    """`mpire.WorkerPool.imap`: results in the order of the input."""
    from mpire.pool import WorkerPool

    with WorkerPool(n_jobs=PROCESSES) as workers:
        sink.writelines(workers.imap(change, source, chunk_size=CHUNK))


def aiostream(source: IO[bytes], sink: IO[bytes]) -> None:
    """`aiostream.stream.map` with a plain function: twice as fast as with a coroutine."""
    from aiostream import stream

    _drain(stream.map(stream.iterate(source), change), sink)


def aiostream_io(source: IO[bytes], sink: IO[bytes]) -> None:
    """`aiostream.stream.map` with 5 ms of waiting, in the order of the input.

    In order, because `ordered=False` took twice as long.
    """
    from asyncio import sleep

    from aiostream import stream

    from tests.benchmarks.handlers import SLEEP_SECONDS

    async def wait_and_change(line: bytes, *_: bytes) -> bytes:
        await sleep(SLEEP_SECONDS)
        return change(line)

    lines = stream.iterate(source)
    _drain(stream.map(lines, wait_and_change, ordered=True, task_limit=TASKS), sink)


def _drain(results: Stream[bytes], sink: IO[bytes]) -> None:
    import uvloop

    async def main() -> None:
        async with results.stream() as streamer:
            async for result in streamer:
                sink.write(result)

    uvloop.run(main())


PROGRAMS: dict[str, Callable[[IO[bytes], IO[bytes]], None]] = {
    "pool": pool,
    "mpire": mpire,
    "aiostream": aiostream,
    "aiostream-io": aiostream_io,
}


def main() -> None:
    """Run the program that is named, from a file to a file."""
    name, source_path, sink_path = sys.argv[1:]
    with open(source_path, "rb") as source, open(sink_path, "wb") as sink:
        PROGRAMS[name](source, sink)


if __name__ == "__main__":
    main()
