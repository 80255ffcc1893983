"""The stream of the scenario `orders`: the steps of many orders at once, each an event of its own.

Pure: what comes follows from the source of chance and the settings alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct

FIRST_MS: Final = 1_767_225_600_000
"""The time of the first event: the start of 2026, in UTC. The others follow, one a millisecond."""
RECENT: Final = 4096
"""What is delivered again is one of so many events that came last."""
MOST_LINES: Final = 4
WRONG: Final = 0.01
"""The share of orders whose total is not the sum of their lines."""
IN_PARTS: Final = 0.25
"""The share of payments that are captured in two parts."""

Draw = Callable[[], float]
Step = tuple[bytes, bytes]
"""An event's type, and the members that its data has beside the order and the step."""


class Shape(Struct, frozen=True):
    """What can be set of the stream."""

    open: int
    """Orders under way at once, at most."""
    items: int
    declines: float
    cancels: float
    repeats: float


def order_lines(chance: random.Random, shape: Shape) -> Iterator[bytes]:
    """Endless events, as lines of JSON; those of an order in its order, among those of others."""
    draw, most, repeats = chance.random, shape.open, shape.repeats
    open_orders: list[tuple[int, int, list[Step]]] = []
    recent = [b""] * RECENT
    count = orders = 0
    time_ms = FIRST_MS
    while True:
        if draw() < repeats and count:
            yield recent[int(draw() * min(count, RECENT))]
            continue
        place = int(draw() * most)
        if place >= len(open_orders):
            place = len(open_orders)
            steps = life(draw, shape)
            open_orders.append((orders, len(steps), steps[::-1]))
            orders += 1
        number, length, left = open_orders[place]
        kind, more = left.pop()
        step = length - 1 - len(left)
        line = (
            b'{"id":"o%d-%d","key":"o%d","type":"%b","time":%d,"data":{"order":%d,"step":%d%b}}'
            % (number, step, number, kind, time_ms, number, step, more)
        )
        if not left:
            last = open_orders.pop()
            if place < len(open_orders):
                open_orders[place] = last
        recent[count % RECENT] = line
        count += 1
        time_ms += 1
        yield line


def life(draw: Draw, shape: Shape) -> list[Step]:
    """All that happens to one order, from first to last, if nothing is out of stock."""
    bought = _bought(draw, shape.items)
    total = sum(quantity * price for quantity, price in bought.values())
    if draw() < WRONG:
        return [_place(bought, total + 1)]
    # Cancelled after it was placed, reserved, authorised, or after the first capture.
    cancelled = int(draw() * 4) if draw() < shape.cancels else None
    steps = [_place(bought, total)]
    if cancelled == 0:
        return [*steps, _CANCEL]
    steps.append((b"stock.reserve", b""))
    if cancelled == 1:
        return [*steps, _CANCEL, _RELEASE]
    is_declined = draw() < shape.declines
    steps.append((b"payment.authorise", b',"approved":%b' % (b"false" if is_declined else b"true")))
    if is_declined:
        return [*steps, _RELEASE]
    if cancelled == 2:
        return [*steps, _CANCEL, _VOID, _RELEASE]
    first = total // 2 if draw() < IN_PARTS else total
    captures = [_capture(first)]
    if first < total:
        captures.append(_capture(total - first))
    if cancelled == 3:
        voided = [_VOID] * (len(captures) - 1)
        return [*steps, captures[0], _CANCEL, *voided, (b"payment.refund", b""), _RELEASE]
    return [*steps, *captures, (b"order.ship", b"")]


_CANCEL: Final = (b"order.cancel", b"")
_RELEASE: Final = (b"stock.release", b"")
_VOID: Final = (b"payment.void", b"")


def _bought(draw: Draw, items: int) -> dict[int, tuple[int, int]]:
    """Item -> quantity and price in cents; items with low numbers are bought most."""
    bought = {}
    for _ in range(1 + int(draw() * draw() * MOST_LINES)):
        item = int(draw() ** 2 * items)
        bought[item] = (1 + int(draw() * 3), 100 + int(draw() * 9900))
    return bought


def _place(bought: dict[int, tuple[int, int]], total: int) -> Step:
    lines = b",".join([b"[%d,%d,%d]" % (item, *each) for item, each in bought.items()])
    return b"order.place", b',"total":%d,"lines":[%b]' % (total, lines)


def _capture(amount: int) -> Step:
    return b"payment.capture", b',"amount":%d' % amount
