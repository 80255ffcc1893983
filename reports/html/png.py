"""A grid of numbers as a PNG whose opacity tells them, so that it fits any background. Pure."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

SHADES = 24


def grid_png(rows: Sequence[Sequence[float]], color: tuple[int, int, int]) -> str:
    """A picture, one pixel a number, as a data URI: 0 is clear, 1 is `color`; the first row is on
    top. The rows are of one length, and there is at least one number.

    The format is that of the PNG specification (third edition), colour type 3: a palette of one
    colour with rising opacity.
    """
    shades = b"".join(
        b"\0" + bytes(min(SHADES, max(0, round(value * SHADES))) for value in row) for row in rows
    )
    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    opacity = bytes(round(255 * shade / SHADES) for shade in range(SHADES + 1))
    parts = [
        (b"IHDR", head),
        (b"PLTE", bytes(color) * (SHADES + 1)),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(shades, 9)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
