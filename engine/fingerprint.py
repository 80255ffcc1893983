"""Whether a stream that can't be rewound is the one that was read before: checksums at marks.

Pure. A mark a 64 KiB that were read, from the oldest unfinished event on; the older ones go.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from .codecs import UnreadableInput

_APART: Final = 64 * 1024


class Mark(NamedTuple):
    """How far a stream was read, and the CRC-32 of all up to there."""

    stored: int
    """Bytes as they came."""
    crc: int
    plain: int
    """Bytes of text that these were unpacked to; more may be under way."""


class Fingerprint:
    """Fed all that is read of a stream; compares it with the marks of an earlier reading."""

    def __init__(self, expected: Sequence[Mark] = ()) -> None:
        self._at = Mark(0, 0, 0)
        self._marks: deque[Mark] = deque()
        self._expected = deque(expected)

    def feed(self, chunk: bytes) -> None:
        """Raises UnreadableInput when it is another stream."""
        at = self._at
        done = 0
        while self._expected and self._expected[0].stored <= at.stored + len(chunk):
            expected = self._expected.popleft()
            until = expected.stored - at.stored
            crc = zlib.crc32(chunk[done:until], self._at.crc)
            self._at, done = Mark(expected.stored, crc, at.plain), until
            if crc != expected.crc:
                raise UnreadableInput(
                    f"this is not the stream that was read before: its first {expected.stored:,} "
                    "bytes differ; give it the same one again, or begin anew with another "
                    "checkpoint"
                )
        crc = zlib.crc32(chunk[done:] if done else chunk, self._at.crc)
        self._at = Mark(at.stored + len(chunk), crc, at.plain)

    def unpacked(self, plain: int) -> None:
        """All that was fed came to `plain` bytes of text so far."""
        self._at = self._at._replace(plain=plain)
        if not self._marks or self._at.stored - self._marks[-1].stored >= _APART:
            self._marks.append(self._at)

    def finish(self) -> None:
        """The stream has ended. Raises UnreadableInput when more of it was read before."""
        if self._expected:
            raise UnreadableInput(
                f"it ends after {self._at.stored:,} bytes, but {self._expected[-1].stored:,} were "
                "read of it before; give it the same stream again, or begin anew with another "
                "checkpoint"
            )

    def marks(self, offset: int) -> list[Mark]:
        """What to expect when it is read again, and goes on from `offset` in its text."""
        marks = self._marks
        while len(marks) > 1 and marks[1].plain <= offset:
            marks.popleft()
        first = [marks[0]] if marks and marks[0].plain <= offset else []
        return [*first, *(self._expected or [self._at])]
