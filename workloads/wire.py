"""What the load generator's process and the run say to each other, over one socket.

Frames: a head, then what it announces. A release has its intended times (int64) and its lines;
a message is JSON. The run sends nothing but Start, the origin of the schedule, and STOP.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

HEAD: Final = struct.Struct("<IIq")
"""Count of events, bytes of lines, time of release (ns, monotonic; 0: there is no schedule). For a
message the count is 0."""
LENGTH: Final = struct.Struct("<I")
ORIGIN: Final = struct.Struct("<q")
STOP: Final = ORIGIN.pack(-1)


class Start(msgspec.Struct, frozen=True):
    """What the generator has to know."""

    scenario: str
    """Its name, or its file."""
    settings: dict[str, Any]
    seed: int
    arrivals: str
    """As `--arrivals` has it; "closed": no schedule."""
    rate: float | None
    events: int | None
    duration_ns: int | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It can begin."""


class Broken(msgspec.Struct, frozen=True, tag=True):
    """It can't: why."""

    reason: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """All was released: what it says of itself."""

    released: int
    dropped: int
    cpu_ns: int
    elapsed_ns: int
    loop_lag_p99_ns: int


Message = Ready | Broken | Ended
decode_message: Final = msgspec.json.Decoder(Message).decode


def encode_message(message: Message) -> bytes:
    """A message as a frame."""
    body = msgspec.json.encode(message)
    return HEAD.pack(0, len(body), 0) + body
