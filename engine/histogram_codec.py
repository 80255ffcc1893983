"""HdrHistogram's V2 compressed encoding: a histogram as a line of text, and back.

Pure. The format is that of github.com/HdrHistogram/HdrHistogram; what is written follows the
reference implementation in Java where other ones differ. Result files and interval logs hold it.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from typing import Final

import numpy as np

from .histogram import BUCKETS, HIGHEST, Histogram, HistogramState, bucket_of, highest_in, lowest_in

_DIGITS: Final = 3
_LOWEST: Final = 1
_HEADER: Final = struct.Struct(">IIIIQQd")
_OUTER: Final = struct.Struct(">II")
_ENCODING_COOKIE: Final = 0x1C849303 | 0x10
_COMPRESSION_COOKIE: Final = 0x1C849304 | 0x10
_LONGEST_WORD: Final = 9
_MOST_BYTES: Final = _LONGEST_WORD * BUCKETS + _HEADER.size
"""What a histogram takes at most, unpacked: so a text that unpacks to more is none."""
_MOST_VALUES: Final = 1 << 62
"""In one bucket."""


def encoded(histogram: Histogram) -> str:
    """A histogram as the V2 compressed payload, in Base64.

    A cookie and a length, then compressed by zlib: a cookie, the length of the counts, the
    normalizing index offset (0), significant digits, lowest and highest trackable value, the
    ratio of integers to doubles (1), and the counts by bucket up to the last that holds something.
    All of it is big-endian (AbstractHistogram.encodeIntoCompressedByteBuffer of the Java version).
    """
    words = _packed_counts(histogram)
    header = _HEADER.pack(_ENCODING_COOKIE, len(words), 0, _DIGITS, _LOWEST, HIGHEST, 1.0)
    packed = zlib.compress(header + words)
    return base64.b64encode(_OUTER.pack(_COMPRESSION_COOKIE, len(packed)) + packed).decode()


def decoded(text: str) -> Histogram:
    """The histogram of a text that encoded() made.

    Its least and largest value, and its mean, are those of the buckets. Raises ValueError for a
    text that is none, and for a histogram of another layout.
    """
    try:
        raw = base64.b64decode(text, validate=True)
        cookie, length = _OUTER.unpack_from(raw)
        unpacker = zlib.decompressobj()
        words = unpacker.decompress(raw[_OUTER.size :], _MOST_BYTES)
        inner, size, offset, digits, *_ = _HEADER.unpack_from(words)
    except (binascii.Error, struct.error, zlib.error) as error:
        raise ValueError(f"this is no histogram of HdrHistogram's V2 encoding: {error}") from error
    whole = len(raw) - _OUTER.size == length and len(words) - _HEADER.size == size
    if (cookie, inner) != (_COMPRESSION_COOKIE, _ENCODING_COOKIE) or not whole or not unpacker.eof:
        raise ValueError("this is no histogram of HdrHistogram's V2 encoding, or not all of one")
    if offset or digits != _DIGITS:
        raise ValueError(f"the histogram has {digits} significant digits; only {_DIGITS} are read")
    return _of_counts(_unpacked_counts(words[_HEADER.size :]))


def _unpacked_counts(words: bytes) -> dict[int, int]:
    """Bucket -> how many values it holds."""
    counts: dict[int, int] = {}
    place = at = 0
    while at < len(words):
        number, at = _zigzag_number(words, at)
        if number <= 0:
            place += -number or 1
            continue
        if place >= BUCKETS or number > _MOST_VALUES:
            raise ValueError("the histogram holds values that are too large, or too many")
        counts[place] = number
        place += 1
    return counts


def _zigzag_number(words: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where the next one does."""
    value = 0
    for place in range(_LONGEST_WORD):
        if at >= len(words):
            raise ValueError("the histogram ends within a number")
        byte = words[at]
        at += 1
        if place == _LONGEST_WORD - 1:
            value |= byte << 7 * place
        else:
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                break
    return (value >> 1) ^ -(value & 1), at


def _of_counts(counts: dict[int, int]) -> Histogram:
    histogram = Histogram()
    if counts:
        places = sorted(counts)
        middles = (lowest_in(place) + highest_in(place) + 1 >> 1 for place in places)
        histogram.restore(
            HistogramState(
                np.array(places, dtype="<i8").tobytes(),
                np.array([counts[place] for place in places], dtype="<i8").tobytes(),
                sum(middle * counts[place] for middle, place in zip(middles, places, strict=True)),
                lowest_in(places[0]),
                highest_in(places[-1]),
            )
        )
    return histogram


def _packed_counts(histogram: Histogram) -> bytes:
    """The counts of buckets from 0 on; empty ones, all in a row at once, as their number below 0.

    A single empty one is −1, as in C; Java writes 0, which readers take for the same.
    """
    packed = bytearray()
    following = 0
    for place, count in filled(histogram):
        if place > following:
            packed += zigzag_leb128(following - place)
        packed += zigzag_leb128(count)
        following = place + 1
    return bytes(packed)


def zigzag_leb128(number: int) -> bytes:
    """A signed 64-bit integer in 1 to 9 bytes, small ones in few: LEB128-64b9B of ZigZag.

    ZigZag makes 0, −1, 1, −2, … to 0, 1, 2, 3, …; seven bits of that go into a byte, the lowest
    ones first, and the high bit says that there are more. The ninth byte has eight bits of its own.
    """
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    word = bytearray()
    while rest > 0x7F and len(word) < _LONGEST_WORD - 1:
        word.append(rest & 0x7F | 0x80)
        rest >>= 7
    word.append(rest)
    return bytes(word)


def filled(histogram: Histogram) -> list[tuple[int, int]]:
    """The buckets that hold something, in order, and how many each holds."""
    counts = histogram.counts()
    places = bucket_of(np.fromiter(counts, dtype=np.int64)).tolist()
    return list(zip(places, counts.values(), strict=True))
