"""Arrival processes: when each event of an open load is due, however slowly it is handled.

Pure. Times are ns since the start of the schedule and never decrease; what is drawn by chance
follows from the seed alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np

from .histogram import Floats, Ints
from .units import parse_duration

NS: Final = 1_000_000_000
FORMS: Final = (
    *("constant", "poisson", "burst", "burst:100", "ramp", "ramp:1000"),
    *("sine", "sine:50%:10s", "trace:FILE"),
)
_KINDS: Final = ("constant", "poisson", "burst", "ramp", "sine")
_BISECTIONS: Final = 60
_BLOCK: Final = 256


class ArrivalsError(ValueError):
    """The arrivals can't be understood, or lack something; the message says what."""


class Arrivals(Protocol):
    """Gives intended times, one event after the other."""

    def take(self, count: int) -> Ints:
        """The next `count` of them; fewer when there are no more."""
        ...


class Constant:
    """Event i is due at i / rate."""

    def __init__(self, rate: float) -> None:
        self.rate, self._first = rate, 0

    def take(self, count: int) -> Ints:
        numbers = np.arange(self._first, self._first + count, dtype=np.float64)
        self._first += count
        return (numbers * NS / self.rate).astype(np.int64)


class Poisson:
    """Independent arrivals: gaps between them are exponential, of mean 1 / rate."""

    def __init__(self, rate: float, seed: int) -> None:
        self._gap_ns, self._last_ns = NS / rate, 0.0
        self._random = np.random.default_rng(seed)

    def take(self, count: int) -> Ints:
        gaps = self._random.exponential(self._gap_ns, count)
        # The last time is summed up with the gaps: so pieces round as the whole does.
        times = np.cumsum(np.concatenate(([self._last_ns], gaps)))
        self._last_ns = float(times[-1])
        return times[1:].astype(np.int64)


class Burst:
    """So many at one moment, as far apart as the rate leaves on average."""

    def __init__(self, rate: float, size: int) -> None:
        self._rate, self._size, self._first = rate, size, 0

    def take(self, count: int) -> Ints:
        numbers = np.arange(self._first, self._first + count)
        self._first += count
        starts = (numbers // self._size * self._size).astype(np.float64)
        return (starts * NS / self._rate).astype(np.int64)


class Varying:
    """A rate that changes: event i is due when `expected` (events by a time in s) comes to i."""

    def __init__(
        self,
        expected: Callable[[Floats], Floats],
        earliest: Callable[[float], float],
        latest: Callable[[float], float],
    ) -> None:
        """`earliest`, `latest`: bounds, in s, of the time of event i; they rise with it."""
        self._expected, self._earliest, self._latest = expected, earliest, latest
        self._first, self._last_ns = 0, 0
        self._block: Ints = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> Ints:
        parts, wanted = [self._block[:count]], count - len(self._block)
        self._block = self._block[count:]
        while wanted > 0:
            block = self._next_block()
            parts.append(block[:wanted])
            self._block = block[wanted:]
            wanted -= len(block)
        return np.concatenate(parts)

    def _next_block(self) -> Ints:
        """Always as many: how many are asked for changes no time, not even by its rounding."""
        numbers = np.arange(self._first, self._first + _BLOCK, dtype=np.float64)
        self._first += _BLOCK
        low = np.full(_BLOCK, self._earliest(float(numbers[0])))
        high = np.full(_BLOCK, self._latest(float(numbers[-1])))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            is_early = self._expected(middle) < numbers
            low, high = np.where(is_early, middle, low), np.where(is_early, high, middle)
        times = np.maximum((high * NS).astype(np.int64), self._last_ns)
        times = np.maximum.accumulate(times)
        self._last_ns = int(times[-1])
        return times


def ramp(start: float, end: float, duration_s: float) -> Varying:
    """A rate that rises, or falls, evenly from `start` to `end`, and then stays."""
    growth = (end - start) / duration_s
    whole = (start + end) / 2 * duration_s

    def expected(at_s: Floats) -> Floats:
        inside = np.minimum(at_s, duration_s)
        after = np.maximum(at_s - duration_s, 0.0)
        return start * inside + growth * inside * inside / 2 + end * after

    def latest(number: float) -> float:
        return duration_s + max(0.0, number - whole) / end + 1e-9

    return Varying(expected, lambda number: 0.0, latest)


def sine(rate: float, amplitude: float, period_s: float) -> Varying:
    """A rate that swings about `rate` by a share `amplitude` of it, from a rising middle on."""
    swing = rate * amplitude * period_s / math.tau

    def expected(at_s: Floats) -> Floats:
        return rate * at_s + swing * (1 - np.cos(math.tau * at_s / period_s))

    def earliest(number: float) -> float:
        return max(0.0, (number - 2 * swing) / rate)

    return Varying(expected, earliest, lambda number: number / rate + 1e-9)


class Trace:
    """Times that were recorded, from the first one on."""

    def __init__(self, times_ns: Sequence[int], rate: float | None) -> None:
        """`rate`: stretch them so that this is their mean. Raises ArrivalsError."""
        times = np.asarray(times_ns, dtype=np.int64)
        if not len(times):
            raise ArrivalsError("--arrivals trace: the file has no times in it")
        times = times - times[0]
        if (np.diff(times) < 0).any():
            at = int(np.flatnonzero(np.diff(times) < 0)[0]) + 2
            raise ArrivalsError(
                f"--arrivals trace: time {at} of the file is before the one above it; sort them"
            )
        if rate is not None and times[-1]:
            wanted = (len(times) - 1) * NS / rate
            times = (times * (wanted / int(times[-1]))).astype(np.int64)
        self._times, self._first = times, 0

    def take(self, count: int) -> Ints:
        taken: Ints = self._times[self._first : self._first + count]
        self._first += len(taken)
        return taken


class Closed:
    """No schedule: each event is due as soon as it is wanted."""

    def take(self, count: int) -> Ints:
        return np.zeros(count, dtype=np.int64)


def parse_arrivals(
    text: str,
    *,
    rate: float | None,
    seed: int,
    duration_s: float | None,
    read_trace: Callable[[str], Sequence[int]],
) -> Arrivals:
    """The arrivals that `--arrivals TEXT` stands for. Raises ArrivalsError."""
    kind, mark, rest = text.partition(":")
    if kind == "trace" and rest:
        return Trace(read_trace(rest), rate)
    if kind not in _KINDS or text.endswith(":"):
        raise _misread(text)
    if rate is None:
        raise ArrivalsError(f"--arrivals {text} needs a rate; give it one: --rate 1000")
    match kind:
        case "constant" if not mark:
            return Constant(rate)
        case "poisson" if not mark:
            return Poisson(rate, seed)
        case "burst":
            return Burst(rate, _count(text, rest or "100"))
        case "ramp":
            if duration_s is None:
                raise ArrivalsError("--arrivals ramp needs to know how long: give it --duration")
            start = _number(text, rest) if rest else rate / 10
            return ramp(start, rate, duration_s)
        case "sine":
            return _sine(text, rest, rate)
    raise _misread(text)


def _sine(text: str, rest: str, rate: float) -> Varying:
    share, _, period = (rest or "50%:10s").partition(":")
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", share)
    if match is None or not 0 < float(match[1]) <= 100:
        raise _misread(text, "the share is above 0% and at most 100%")
    try:
        period_s = parse_duration(period or "10s") / 1e9
    except ValueError as error:
        raise _misread(text, str(error)) from None
    if not period_s > 0:
        raise _misread(text, "the period is above 0")
    return sine(rate, float(match[1]) / 100, period_s)


def _count(text: str, digits: str) -> int:
    if not digits.isdecimal() or int(digits) < 1:
        raise _misread(text, "a burst has 1 event or more")
    return int(digits)


def _number(text: str, digits: str) -> float:
    try:
        value = float(digits)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise _misread(text, "a ramp begins at 0 events per second or more")
    return value


def _misread(text: str, why: str = "") -> ArrivalsError:
    more = f" ({why})" if why else ""
    return ArrivalsError(f"--arrivals is {text!r}; it can be {', '.join(FORMS)}{more}")
