"""The same queries of Nexmark as bytewax dataflows, for one worker.

bytewax calls `q0` and so on; the paths come in the environment, as its command line takes none.
Where it can be, a batch of lines is one call, which is bytewax's fastest way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windowing
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow
from orjson import dumps, loads

INPUT = Path(os.environ["MILLSTREAM_BENCH_INPUT"])
OUTPUT = Path(os.environ["MILLSTREAM_BENCH_OUTPUT"])
LINES_A_BATCH = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIZE, PERIOD = timedelta(seconds=10), timedelta(seconds=2)
# Events are late by three seconds at most; nexmark-flink's watermark is as far behind.
WAIT = timedelta(seconds=4)

Bid = dict[str, Any]
Keyed = tuple[str, str]


def bids(lines: list[str]) -> Iterator[Bid]:
    """What those lines hold that are bids."""
    for line in lines:
        event = loads(line)
        if event["type"] == "bid":
            yield event["data"]


def pass_bids(lines: list[str]) -> list[Keyed]:
    """q0, in the shape that FileSink takes."""
    return [("all", line) for line in lines if loads(line)["type"] == "bid"]


def convert_prices(lines: list[str]) -> list[Keyed]:
    """q1."""
    converted = []
    for line in lines:
        event = loads(line)
        if event["type"] == "bid":
            bid = event["data"]
            bid["price"] = bid["price"] * 908 / 1000
            del bid["channel"], bid["url"]
            converted.append(("all", dumps(event).decode()))
    return converted


def select_auctions(lines: list[str]) -> list[Keyed]:
    """q2."""
    return [
        ("all", dumps({"auction": bid["auction"], "price": bid["price"]}).decode())
        for bid in bids(lines)
        if bid["auction"] % 123 == 0
    ]


def _by_batch(query: str, change: Callable[[list[str]], list[Keyed]]) -> Dataflow:
    flow = Dataflow(query)
    lines = op.input("lines", flow, FileSource(INPUT, batch_size=LINES_A_BATCH))
    op.output("output", op.flat_map_batch("change", lines, change), FileSink(OUTPUT))
    return flow


def q0() -> Dataflow:
    """Pass through."""
    return _by_batch("q0", pass_bids)


def q1() -> Dataflow:
    """Currency conversion."""
    return _by_batch("q1", convert_prices)


def q2() -> Dataflow:
    """Selection."""
    return _by_batch("q2", select_auctions)


Timed = tuple[str, datetime]
Counted = tuple[int, list[str]]


def times_of_bids(lines: list[str]) -> list[Timed]:
    """Auction and time of each bid."""
    return [
        (str(bid["auction"]), EPOCH + timedelta(milliseconds=bid["dateTime"]))
        for bid in bids(lines)
    ]


def keep_most(most: Counted, counted: tuple[str, int]) -> Counted:
    """The auctions with the most bids of a window."""
    auction, count = counted
    if count > most[0]:
        return count, [auction]
    if count == most[0]:
        most[1].append(auction)
    return most


def rows(found: tuple[str, Counted]) -> list[Keyed]:
    """A row an auction."""
    window, (num, auctions) = found
    start = int(window) * PERIOD // timedelta(milliseconds=1)
    return [
        ("all", dumps({"auction": int(auction), "num": num, "starttime": start}).decode())
        for auction in auctions
    ]


def q5() -> Dataflow:
    """Hot items. Time is that of events alone, and what goes across auctions is told at the end."""
    flow = Dataflow("q5")
    lines = op.input("lines", flow, FileSource(INPUT, batch_size=LINES_A_BATCH))
    clock = windowing.EventClock(
        ts_getter=lambda timed: timed[1],
        wait_for_system_duration=WAIT,
        now_getter=lambda: EPOCH,
        to_system_utc=lambda _: None,
    )
    windower = windowing.SlidingWindower(length=SIZE, offset=PERIOD, align_to=EPOCH)
    timed = op.flat_map_batch("bids", lines, times_of_bids)
    counted = windowing.count_window("count", timed, clock, windower, lambda timed: timed[0])
    by_window = op.map(
        "window", counted.down, lambda each: (str(each[1][0]), (each[0], each[1][1]))
    )
    most = op.fold_final("most", by_window, lambda: (0, []), keep_most)
    op.output("output", op.flat_map("rows", most, rows), FileSink(OUTPUT))
    return flow
