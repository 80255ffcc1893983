"""Reading the times of a trace: one a line, as a number or a time, or in JSON events."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from millstream.engine.arrivals import ArrivalsError
from millstream.engine.event import (
    FieldMapping,
    UnreadableTime,
    decode_json,
    lookup_attribute,
    time_to_ns,
)


def read_trace(path: str) -> Sequence[int]:
    """The times of a file's lines, in ns; eight bytes each. Raises ArrivalsError.

    A line is an epoch number (s, ms, µs or ns by its size), an RFC 3339 time, or an event in JSON
    with such a time where events have theirs.
    """
    times = array("q")
    paths = FieldMapping.of().paths["time"]
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text:
                    times.append(_time_of(text, paths, path, number))
    except OSError as error:
        raise ArrivalsError(f"--arrivals trace:{path}: {error.strerror}") from error
    return times


def _time_of(text: bytes, paths: tuple[tuple[str, ...], ...], path: str, number: int) -> int:
    try:
        if text.startswith(b"{"):
            value = lookup_attribute(decode_json(text), paths)
        else:
            value = text.decode()
        found = time_to_ns(value)
    except (UnreadableTime, ValueError):
        found = None
    if found is None:
        raise ArrivalsError(
            f"--arrivals trace:{path}: line {number} has no time; give it an epoch number, an "
            "RFC 3339 time, or an event with one of time, timestamp or ts"
        )
    return found
