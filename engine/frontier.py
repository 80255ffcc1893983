"""The frontier: how far all is done, without a gap, and what is done above it.

Pure. Completions come in any order; memory follows the span of what is unfinished (a bit more
than a byte an event, far less where a whole stretch is done), never the length of the run.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

_SHIFT: Final = 12
_CHUNK: Final = 1 << _SHIFT
_ONES: Final = b"\1" * _CHUNK
_MANY: Final = 64
"""From here on numpy is faster than one by one."""
_MOST_CHUNKS: Final = 8
_PACKED: Final = _CHUNK // 8
_PACKED_NONE: Final = bytes(_PACKED)
_PACKED_ALL: Final = b"\xff" * _PACKED


class Frontier:
    """Which of the positions 0, 1, 2, … are done; each is to be done once."""

    def __init__(self) -> None:
        self.floor = 0
        """All positions below it are done."""
        self.done = 0
        """How many positions are done, those above the floor included."""
        self._chunks: dict[int, bytearray | None] = {}  # None: all of the chunk is done

    def add(self, positions: Sequence[int]) -> list[int]:
        """Mark as done; gives back those that were done before (their second time)."""
        if isinstance(positions, range) and positions.step == 1:
            again = self._add_range(positions.start, positions.stop)
        elif len(positions) < _MANY or not self._add_many(positions):
            again = self._add_each(positions)
        else:
            again = []
        self.done += len(positions) - len(again)
        if self._chunks:
            self._advance()
        return again

    def missing_below(self, end: int, most: int = 10) -> tuple[int, list[int]]:
        """How many positions below `end` are not done, and the first few of them."""
        first: list[int] = []
        at = self.floor
        while at < end and len(first) < most:
            number = at >> _SHIFT
            chunk = self._chunks.get(number, b"")
            stop = min(end, (number + 1) << _SHIFT)
            if chunk is not None:
                base = number << _SHIFT
                first += [p for p in range(at, stop) if not chunk or not chunk[p - base]]
            at = stop
        return end - self.done, first[:most]

    def has(self, position: int) -> bool:
        """Whether it is done."""
        if position < self.floor:
            return True
        chunk = self._chunks.get(position >> _SHIFT, b"")
        return chunk is None or (bool(chunk) and chunk[position & (_CHUNK - 1)] == 1)

    def undone(self, positions: Sequence[int]) -> list[int]:
        """The places in `positions` (0, 1, 2, …) of those that are not done, in order."""
        if isinstance(positions, range) and positions.step == 1:
            return self._undone_in(positions)
        if not positions or max(positions) < self.floor:
            return []
        top = (max(self._chunks) + 1) << _SHIFT if self._chunks else self.floor
        if min(positions) >= top:
            return list(range(len(positions)))
        return [place for place, position in enumerate(positions) if not self.has(position)]

    def snapshot(self) -> tuple[int, bytes]:
        """The floor, and what is done above it, for restore(): b"" when nothing is.

        That is a bitmap, a position a bit, the highest bit of a byte first, its trailing zero bytes
        cut, compressed by zlib. It begins with the byte that the floor is in, at the last multiple
        of 8 that is not above the floor; the bits below the floor are 0.
        """
        bitmap = b"".join(self._packed())
        return self.floor, zlib.compress(bitmap, 1) if bitmap else b""

    @classmethod
    def restore(cls, floor: int, above: bytes) -> Frontier:
        """The frontier that snapshot() was taken of. Raises ValueError when it can't be one."""
        if floor < 0:
            raise ValueError(f"a frontier's floor is 0 or more, not {floor}")
        frontier = cls()
        frontier.floor = frontier.done = floor
        if above:
            frontier._unpack(_decompressed(above))
        return frontier

    def _packed(self) -> Iterator[bytes]:
        """The bitmap of snapshot(), a chunk at a time."""
        first = self.floor >> _SHIFT
        last = max(self._chunks, default=-1)
        for number in range(first, last + 1):
            chunk = self._chunks.get(number, b"")
            if chunk is None:
                packed = _PACKED_ALL
            elif chunk:
                packed = np.packbits(np.frombuffer(chunk, dtype=np.uint8)).tobytes()
            else:
                packed = _PACKED_NONE
            if number == first:  # what it says below the floor is not to be relied on
                at = (self.floor & (_CHUNK - 1)) >> 3
                packed = bytes([packed[at] & (0xFF >> (self.floor & 7))]) + packed[at + 1 :]
            yield packed.rstrip(b"\0") if number == last else packed

    def _unpack(self, bitmap: bytes) -> None:
        up_to_the_floor = 0xFF ^ (0x7F >> (self.floor & 7))
        if not bitmap or not bitmap[-1] or bitmap[0] & up_to_the_floor:
            raise ValueError(
                "what is done above a frontier's floor is no bitmap that belongs to it"
            )
        number = self.floor >> _SHIFT
        padded = bytes((self.floor & (_CHUNK - 1)) >> 3) + bitmap
        for at in range(0, len(padded), _PACKED):
            packed = padded[at : at + _PACKED].ljust(_PACKED, b"\0")
            if packed == _PACKED_ALL:
                self._chunks[number] = None
                self.done += _CHUNK
            elif packed != _PACKED_NONE:
                marks = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
                self._chunks[number] = bytearray(marks.tobytes())
                self.done += int(np.count_nonzero(marks))
            number += 1

    def _undone_in(self, positions: range) -> list[int]:
        places: list[int] = []
        at = max(positions.start, self.floor)
        while at < positions.stop:
            number = at >> _SHIFT
            base = number << _SHIFT
            stop = min(positions.stop, base + _CHUNK)
            chunk = self._chunks.get(number, b"")
            if chunk:
                marks = np.frombuffer(chunk, dtype=np.uint8)[at - base : stop - base]
                places += (np.flatnonzero(marks == 0) + (at - positions.start)).tolist()
            elif chunk is not None:
                places += range(at - positions.start, stop - positions.start)
            at = stop
        return places

    def _add_range(self, start: int, stop: int) -> list[int]:
        if stop <= start:
            return []
        if start == self.floor and not self._chunks:
            self.floor = stop
            return []
        again = list(range(start, min(stop, self.floor)))
        start = max(start, self.floor)
        while start < stop:
            number = start >> _SHIFT
            base = number << _SHIFT
            low, high = start - base, min(stop - base, _CHUNK)
            chunk = self._chunks.setdefault(number, bytearray(_CHUNK))
            if chunk is None:
                again += range(start, base + high)
            else:
                if any(chunk[low:high]):
                    again += [base + p for p in range(low, high) if chunk[p]]
                chunk[low:high] = _ONES[low:high]
                self._close_if_full(number, chunk)
            start = base + high
        return again

    def _add_many(self, positions: Sequence[int]) -> bool:
        """Mark many at once; leaves all as it was when some were done before."""
        many = np.asarray(positions, dtype=np.int64)
        first, last = int(many.min()) >> _SHIFT, int(many.max()) >> _SHIFT
        if first < self.floor >> _SHIFT or last - first > _MOST_CHUNKS:
            return False
        marked: dict[int, bytearray] = {}
        for number in range(first, last + 1):
            own = many[many >> _SHIFT == number] if first != last else many
            chunk = self._chunks.get(number, b"")
            if chunk is None or (number == first and int(own.min()) < self.floor):
                return False
            marked[number] = fresh = bytearray(chunk) or bytearray(_CHUNK)
            seen = np.frombuffer(fresh, dtype=np.uint8)
            before = np.count_nonzero(seen)
            seen[own & (_CHUNK - 1)] = 1
            if np.count_nonzero(seen) - before != len(own):
                return False
        for number, fresh in marked.items():
            self._chunks[number] = fresh
            self._close_if_full(number, fresh)
        return True

    def _add_each(self, positions: Sequence[int]) -> list[int]:
        again = []
        floor = self.floor
        chunks = self._chunks
        touched = set()
        for position in positions:
            number = position >> _SHIFT
            chunk = chunks.get(number, b"")
            if position < floor or chunk is None:
                again.append(position)
                continue
            if not chunk:
                chunk = chunks[number] = bytearray(_CHUNK)
            at = position & (_CHUNK - 1)
            if chunk[at]:
                again.append(position)
            else:
                chunk[at] = 1  # type: ignore[index]  # b"" was replaced by a bytearray
                touched.add(number)
        for number in touched:
            chunk = chunks[number]
            if isinstance(chunk, bytearray):
                self._close_if_full(number, chunk)
        return again

    def _close_if_full(self, number: int, chunk: bytearray) -> None:
        if chunk.find(0) < 0:
            self._chunks[number] = None

    def _advance(self) -> None:
        while True:
            number = self.floor >> _SHIFT
            chunk = self._chunks.get(number, b"")
            if chunk is not None:
                if not chunk:
                    return
                at = chunk.find(0, self.floor & (_CHUNK - 1))
                if at >= 0:
                    self.floor = (number << _SHIFT) + at
                    return
            self._chunks.pop(number, None)
            self.floor = (number + 1) << _SHIFT


def _decompressed(data: bytes) -> bytes:
    unpack = zlib.decompressobj()
    try:
        bitmap = unpack.decompress(data)
    except zlib.error as error:
        raise ValueError(
            f"what is done above a frontier's floor can't be unpacked: {error}"
        ) from error
    if not unpack.eof or unpack.unused_data:
        raise ValueError("what is done above a frontier's floor is cut off, or more follows it")
    return bitmap
