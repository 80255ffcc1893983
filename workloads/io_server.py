"""The server that the scenario `io` calls: a process of its own, which ends with who started it.

Started as `python -m millstream.workloads.io_server LATENCY_MS JITTER_MS`; it writes its port to
standard output, and serves until the end of its standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop
from aiohttp import web

HOST: Final = "127.0.0.1"
BACKLOG: Final = 4096
_SCATTER: Final = 2_654_435_761
"""Knuth's multiplier: what follows from a number looks like drawn."""


def answer_to(number: int) -> int:
    """What the server makes of an event's number, below 2**32."""
    return (number * _SCATTER + 1) & 0xFFFF_FFFF


def delay_s(number: int, latency_ms: float, jitter_ms: float) -> float:
    """How long an answer takes: the latency, and what the number has of the jitter."""
    return (latency_ms + jitter_ms * ((number * _SCATTER & 0xFFFF_FFFF) / 2**32)) / 1000


def responder(
    latency_ms: float, jitter_ms: float
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """What answers `GET /KEY/NUMBER`."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        _, key, text = request.raw_path.split("/")
        number = int(text)
        seconds = delay_s(number, latency_ms, jitter_ms)
        if seconds:
            await asyncio.sleep(seconds)
        body = b'{"key":"%b","seq":%d,"value":%d}' % (key.encode(), number, answer_to(number))
        return web.Response(body=body, content_type="application/json")

    return respond


async def serve(latency_ms: float, jitter_ms: float) -> None:
    """Serve on a port of its own choice until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # The other end is open as long as the process that holds it lives, however that ends; nobody
    # writes to it, so what can be read is its end.
    loop.add_reader(sys.stdin.fileno(), ended.set)
    # Without routes: to look one up costs more than all else that is done here.
    server = web.Server(responder(latency_ms, jitter_ms))
    listening = await loop.create_server(server, HOST, 0, backlog=BACKLOG)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await ended.wait()


def main() -> None:
    """Serve as the arguments say."""
    latency_ms, jitter_ms = map(float, sys.argv[1:])
    uvloop.run(serve(latency_ms, jitter_ms))
    os._exit(0)  # whoever is still answered has nobody to tell


if __name__ == "__main__":
    main()
