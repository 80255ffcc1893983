"""Durations, sizes and shares as people write them: `500ms`, `2s`, `512MiB`, `5%`.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from typing import Final

TIMES: Final[Mapping[str, float]] = {
    "ns": 1.0,
    "us": 1e3,
    "µs": 1e3,
    "ms": 1e6,
    "s": 1e9,
    "min": 60e9,
    "h": 3600e9,
}
SIZES: Final[Mapping[str, float]] = {
    "B": 1.0,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}

_QUANTITY: Final = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([a-zA-Zµ%]*)\s*")


def parse_duration(text: str) -> int:
    """Nanoseconds; a number without a unit counts as seconds. Raises ValueError."""
    return _quantity(text, TIMES, "s", "a duration", "500ms, 2s or 1min")


def parse_size(text: str) -> int:
    """Bytes; a number without a unit counts as bytes. Raises ValueError."""
    return _quantity(text, SIZES, "B", "a size", "512MiB or 2GiB")


def parse_share(text: str) -> float:
    """`5%` or `0.05` as 0.05. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in ("", "%"):
        raise ValueError(f"{text!r} is no share; write it like 5%")
    share = float(match[1].replace("_", "")) / (100 if match[2] else 1)
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is no share; it is more than 0% and at most 100%")
    return share


def _quantity(text: str, units: Mapping[str, float], plain: str, what: str, like: str) -> int:
    match = _QUANTITY.fullmatch(text)
    value = inf  # so is a number with more digits than a float has room for
    if match is not None and (match[2] or plain) in units:
        value = float(match[1].replace("_", "")) * units[match[2] or plain]
    if value == inf:
        raise ValueError(f"{text!r} is not {what}; write it like {like}")
    return round(value)
