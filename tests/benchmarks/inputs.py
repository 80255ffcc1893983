"""The generated input files: the same bytes for the same arguments, kept under build/bench/."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from pathlib import Path
from random import Random

import orjson

from millstream.workloads.nexmark import Nexmark
from millstream.workloads.scenario import stream

KEYS = 10_000
LOG_KEYS = 100_000
SEED = 1
# Enters the file names, so that a change to the shape of the events makes the files anew.
VERSION = 1
START_MS = 1_767_225_600_000
# by_type keeps the first, about half of all events.
TYPES = ("order.placed", "order.picked", "order.packed", "order.shipped")
TYPE_WEIGHTS = (3, 1, 1, 1)
CITIES = ("Amsterdam", "Bergen", "Coimbra", "Dresden", "Espoo", "Fribourg", "Ghent", "Huelva")


def ensure_input(folder: Path, events: int, zipf: float | None = None, keys: int = KEYS) -> Path:
    """The path of a file of `events` JSON Lines, written unless it is there already.

    Keys are uniform over 10,000 (or `keys`), or follow Zipf's law with the exponent `zipf`.
    """
    law = "uniform" if zipf is None else f"zipf{zipf:g}"
    law += "" if keys == KEYS else f"-{keys}-keys"
    path = folder / f"events-v{VERSION}-{law}-{events}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        _write(part, events, zipf, keys)
        part.rename(path)
    return path


def ensure_nexmark(folder: Path, events: int) -> Path:
    """The path of a file with so many events of Nexmark, written unless it is there already."""
    path = folder / f"nexmark-v{VERSION}-{events}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as out:
            out.writelines(line + b"\n" for line in stream(Nexmark(), events))
        part.rename(path)
    return path


def _write(path: Path, events: int, zipf: float | None, key_count: int) -> None:
    """Write the events in chunks, so that memory stays small."""
    random = Random(SEED)
    weights = None
    if zipf is not None:
        weights = list(accumulate(rank**-zipf for rank in range(1, key_count + 1)))
    sequences: Counter[int] = Counter()
    with path.open("wb") as out:
        for first in range(0, events, 10_000):
            size = min(10_000, events - first)
            keys = random.choices(range(key_count), cum_weights=weights, k=size)
            types = random.choices(TYPES, TYPE_WEIGHTS, k=size)
            for position, (key, kind) in enumerate(zip(keys, types, strict=True), first):
                sequences[key] += 1
                out.write(_line(random, position, key, sequences[key], kind))


def _line(random: Random, position: int, key: int, sequence: int, kind: str) -> bytes:
    """One event of about 204 bytes, newline included, in compact JSON."""
    event = {
        "id": f"evt-{position:09d}",
        "key": f"user-{key:05d}",
        "sequence": sequence,
        "type": kind,
        "time": START_MS + position,
        "data": {
            "order": random.randrange(10**8),
            "amount": random.randrange(100, 100_000) / 100,
            "currency": "EUR",
            "city": random.choice(CITIES),
            "items": [random.randrange(1_000, 10_000) for _ in range(4)],
        },
    }
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
