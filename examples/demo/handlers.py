"""The demo's pipeline: check what customers do, score their orders, add who they are.

millstream run examples/demo/handlers.py:pipeline build/demo/events.jsonl
"""

from __future__ import annotations

import asyncio
import math
import zlib
from typing import Any

from millstream.engine import Event, Pipeline, Reject, on, stage

BUCKETS = 1024
WEIGHTS = [math.sin(bucket) for bucket in range(BUCKETS)]
LOOKUP_S = 0.002


def check(event: Event) -> Event | None:
    """Views of a cart are dropped; an order must have items that were ordered."""
    if event.type == "cart.viewed":
        return None
    if event.type == "order.placed":
        order = event.data
        for item in order["items"]:
            if item["quantity"] < 1:
                raise Reject(f"order {order['order']} has {item['quantity']} of {item['sku']}")
        order["cents"] = sum(item["quantity"] * item["cents"] for item in order["items"])
    return event


def score(event: Event) -> Event:
    """How likely an order is a fraud: hashed features under a logistic model."""
    order = event.data
    words = [order["country"], str(order["cents"] // 5_000)]
    for item in order["items"]:
        words += (item["sku"], f"{item['sku']}/{order['country']}", f"{item['cents'] // 1_000}")
    features = [*words, *(f"{a}&{b}" for a in words for b in words if a < b)]
    total = sum(WEIGHTS[zlib.crc32(feature.encode()) % BUCKETS] for feature in features)
    order["risk"] = round(1 / (1 + math.exp(-total / math.sqrt(len(features)))), 4)
    return event


class Directory:
    """Stands in for a remote directory of customers: slow at first, then remembered."""

    def __init__(self) -> None:
        self._known: dict[Any, str] = {}

    async def tier_of(self, customer: Any) -> str:
        """The customer's tier."""
        if customer not in self._known:
            await asyncio.sleep(LOOKUP_S)
            self._known[customer] = "gold" if zlib.crc32(customer.encode()) % 10 == 0 else "basic"
        return self._known[customer]


async def enrich(event: Event, resource: Directory) -> Event:
    """Every event gets its customer's tier."""
    event.data["tier"] = await resource.tier_of(event.key)
    return event


pipeline = Pipeline(
    stage(check),
    on("order.placed", score, executor="process", workers=2),
    stage(enrich, concurrency=200, setup=Directory),
)
