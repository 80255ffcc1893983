"""Makes the demo's stream: what the customers of a shop do, 200,000 events of it.

python examples/demo/make_events.py [COUNT [PATH]]

The same count gives the same bytes. A few customers order far more than the others, and a few
orders are wrong, as in a real shop.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

COUNT = 200_000
PATH = Path("build/demo/events.jsonl")
SEED = 7
START_S = 1_767_225_600  # 2026-01-01T00:00:00Z
WRONG_EVERY = 10_000
"""One order in so many has an item that was ordered zero times."""

SKUS = [f"sku-{number:04}" for number in range(500)]
KINDS = ("cart.viewed", "order.placed", "order.paid", "order.shipped")
WEIGHTS = (2, 5, 2, 1)


def items(draw: random.Random) -> str:
    """The items of an order, as JSON."""
    return ",".join(
        f'{{"sku":"{draw.choice(SKUS)}","quantity":{draw.randrange(1, 4)},'
        f'"cents":{draw.randrange(199, 20_000)}}}'
        for _ in range(draw.randrange(1, 5))
    )


def lines(count: int) -> Iterator[str]:
    """`count` events, a line each, keyed by customer."""
    draw = random.Random(SEED)
    kinds = draw.choices(KINDS, WEIGHTS, k=count)
    for number, kind in enumerate(kinds):
        customer = int(draw.paretovariate(1.2) * 200) % 20_000
        order = draw.randrange(1_000_000)
        payload = f'"order":"o-{order:06}"'
        if kind == "order.placed":
            bought = items(draw)
            if number % WRONG_EVERY == WRONG_EVERY - 1:
                bought += ',{"sku":"sku-0000","quantity":0,"cents":999}'
            payload += f',"country":"{draw.choice(("DE", "FR", "PL", "US"))}","items":[{bought}]'
        yield (
            f'{{"id":"e-{number:07}","key":"c-{customer:05}","type":"{kind}",'
            f'"time":{START_S + number},"data":{{{payload}}}}}\n'
        )


def main() -> None:
    """Write the file."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(lines(count))
    print(f"{count:,} events in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
