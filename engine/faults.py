"""Faults on purpose: `--inject 'error:5%'`. What they are, whom they hit, what they did.

Pure: no clock, no loop, no I/O. What a fault hits follows from the seed alone, on every machine;
who performs it tells the log. Imported by worker processes: neither numpy nor asyncio here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal

from msgspec import Struct

Kind = Literal[
    "error",
    "delay",
    "hang",
    "kill-worker",
    "stop-worker",
    "duplicate",
    "drop",
    "reorder",
    "disk-full",
]
ActionKind = Literal["delay", "hang", "error"]

_TIMES: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_SIZES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_RATIO: Final = rf":(?P<ratio>{_NUMBER})%"
_TIME: Final = rf"{_NUMBER}(?:{'|'.join(_TIMES)})"
_SIZE: Final = rf"{_NUMBER}(?:{'|'.join(_SIZES)})"
_AT: Final = rf"@(?P<at_ns>{_TIME})"
_EVERY: Final = rf":every=(?P<every_ns>{_TIME})"

# How each is written, and the pattern of what follows its kind: groups are named like the fields.
# Compiled when they are needed: a worker's start does not wait for them.
_FORMS: Final[Mapping[Kind, Mapping[str, str]]] = {
    "error": {"error:5%": _RATIO, "error:key=K": r":key=(?P<key>.+)"},
    "delay": {"delay:10ms:1%": rf":(?P<delay_ns>{_TIME}){_RATIO}"},
    "hang": {"hang": "", "hang:0.1%": _RATIO},
    "kill-worker": {"kill-worker@5s": _AT, "kill-worker:every=2s": _EVERY},
    "stop-worker": {"stop-worker@5s": _AT, "stop-worker:every=2s": _EVERY},
    "duplicate": {"duplicate:1%": _RATIO},
    "drop": {"drop:1%": _RATIO},
    "reorder": {"reorder:5": r":(?P<width>[0-9]{1,15})"},
    "disk-full": {"disk-full@10MiB": rf"@(?P<size>{_SIZE})"},
}
_RATIO_NOTE: Final = "a ratio is above 0% and at most 100%"
_TIME_NOTE: Final = f"a time is in {', '.join(_TIMES)}"
_NOTES: Final[Mapping[Kind, str]] = {
    "error": f"{_RATIO_NOTE}, a key is not empty",
    "delay": f"{_TIME_NOTE}, and above 0; {_RATIO_NOTE}",
    "hang": _RATIO_NOTE,
    "kill-worker": f"{_TIME_NOTE}; every above 0",
    "stop-worker": f"{_TIME_NOTE}; every above 0",
    "duplicate": _RATIO_NOTE,
    "drop": _RATIO_NOTE,
    "reorder": "events change places within windows of so many, 2 or more",
    "disk-full": f"a size is in {', '.join(_SIZES)}",
}

ONE_HANG_WITHIN: Final = 100
"""`hang` without a ratio hits one of so many first events."""


class FaultError(ValueError):
    """The fault can't be understood; the message says how to write it."""


class InjectedError(ConnectionError):
    """An error on purpose, of a kind that is worth another attempt."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        """The fault as it was given."""

    def __str__(self) -> str:
        return f"injected by --inject {self.text}"


class Fault(Struct, frozen=True):
    """One fault: its text as given, its kind, and the parameters that its kind has."""

    text: str
    kind: Kind
    ratio: float = 0.0
    """Of the events, above 0 and at most 1; 0: the kind or the form has none."""
    key: str | None = None
    delay_ns: int = 0
    at_ns: int | None = None
    """Once, so long after the start."""
    every_ns: int | None = None
    """Again and again, so far apart; the first time so long after the start."""
    size: int = 0
    """Bytes that can be written before the disk is full."""
    width: int = 0
    """How many events stand in a window of `reorder`."""


class Action(Struct, frozen=True):
    """What a handler's call is to suffer before it is made."""

    fault: int
    """The number of the fault in the list, from 0."""
    kind: ActionKind
    delay_ns: int = 0


def parse_fault(text: str) -> Fault:
    """Raises FaultError."""
    name = re.split("[:@]", text, maxsplit=1)[0]
    kind = next((each for each in _FORMS if each == name), None)
    if kind is None:
        raise FaultError(_unknown(text, name))
    for pattern in _FORMS[kind].values():
        match = re.fullmatch(pattern, text[len(kind) :], re.DOTALL)
        if match is not None:
            fault = Fault(text, kind, **_parameters(match.groupdict()))
            if _is_possible(fault, match.groupdict()):
                return fault
    raise FaultError(
        f"--inject {text!r} can't be understood; write it like {' or '.join(_FORMS[kind])} "
        f"({_NOTES[kind]})"
    )


def _parameters(groups: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, written in groups.items():
        if name == "ratio":
            made[name] = float(written) / 100
        elif name == "key":
            made[name] = written
        elif name == "width":
            made[name] = int(written)
        else:
            made[name] = _scaled(written, _SIZES if name == "size" else _TIMES)
    return made


def _scaled(written: str, units: Mapping[str, int]) -> int:
    """`1.5ms` in the smallest unit, exactly; what is less than one of those is cut off."""
    unit = written.lstrip("0123456789.")
    whole, _, part = written.removesuffix(unit).partition(".")
    scale: int = 10 ** len(part)
    return int(whole + part) * units[unit] // scale


def _is_possible(fault: Fault, given: Mapping[str, str]) -> bool:
    return (
        ("ratio" not in given or 0 < fault.ratio <= 1)
        and ("width" not in given or fault.width >= 2)
        and ("delay_ns" not in given or fault.delay_ns > 0)
        and fault.every_ns != 0
    )


def _unknown(text: str, name: str) -> str:
    import difflib  # only a refusal needs it

    near = difflib.get_close_matches(name.strip().lower().replace("_", "-"), _FORMS, 1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else "."
    forms = ", ".join(form for forms in _FORMS.values() for form in forms)
    return f"--inject {text!r}: there is no fault {name!r}{hint} There are {forms}"


_WORD: Final = 2**64 - 1


def _mixed(state: int, word: int) -> int:
    """The next 64 bits after `state`, with `word` in them: splitmix64."""
    mixed = ((state ^ word) + 0x9E3779B97F4A7C15) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return mixed ^ (mixed >> 31)


def _unit(state: int) -> float:
    return (state >> 11) * 2.0**-53


def draw(seed: int, fault: int, index: int, attempt: int) -> float:
    """A number in [0, 1) that follows from the four alone; the seed counts modulo 2**64."""
    return _unit(_mixed(_mixed(_mixed(_mixed(0, seed & _WORD), fault), index), attempt))


class FaultPlan:
    """Whom the faults hit. Equal faults and an equal seed make an equal plan, in any process.

    A fault's number is its place in the list, from 0; each draws for itself.
    """

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.faults = tuple(faults)
        self.draw_from(seed)
        kinds: tuple[ActionKind, ...] = ("delay", "hang", "error")
        self._actions = [
            Action(number, kind, self.faults[number].delay_ns)
            for kind in kinds
            for number in self._numbers(kind)
        ]
        self._drops = self._numbers("drop")
        self._duplicates = self._numbers("duplicate")
        self.for_handlers = bool(self._actions)
        """Whether anything happens to the calls of handlers."""
        self.timed_faults = self._numbers("kill-worker", "stop-worker")
        """The numbers of the faults that come by time: those of timed(), in its order."""
        self.reorder_fault = max(
            self._numbers("reorder"), key=lambda n: self.faults[n].width, default=None
        )
        """The number of the `reorder` in force, the first of the widest."""
        self.disk_fault = min(
            self._numbers("disk-full"), key=lambda n: self.faults[n].size, default=None
        )
        """The number of the `disk-full` in force, the first of the smallest."""

    def draw_from(self, seed: int) -> None:
        """Take another seed, before anything was drawn."""
        self.seed = seed
        self._states = [_mixed(_mixed(0, seed & _WORD), n) for n in range(len(self.faults))]

    @classmethod
    def of(cls, texts: Sequence[str], seed: int) -> FaultPlan:
        """Raises FaultError."""
        return cls([parse_fault(text) for text in texts], seed)

    def _numbers(self, *kinds: Kind) -> tuple[int, ...]:
        return tuple(n for n, fault in enumerate(self.faults) if fault.kind in kinds)

    def before_call(self, index: int, attempt: int, key: Any) -> list[Action]:
        """What happens before a call for this event: delays, then hangs, then errors.

        Attempts count from 1. Whoever performs the actions gets no further than the first error.
        """
        return [each for each in self._actions if self._suffers(each, index, attempt, key)]

    def _suffers(self, action: Action, index: int, attempt: int, key: Any) -> bool:
        fault = self.faults[action.fault]
        if action.kind == "error" and fault.key is not None:
            return str(key) == fault.key
        if action.kind != "error" and attempt != 1:
            return False
        if action.kind == "hang" and not fault.ratio:
            return index == _mixed(self._states[action.fault], 0) * ONE_HANG_WITHIN >> 64
        return self._hits(action.fault, index, attempt)

    def _hits(self, number: int, index: int, attempt: int) -> bool:
        drawn = _unit(_mixed(_mixed(self._states[number], index), attempt))
        return drawn < self.faults[number].ratio

    def dropped_by(self, index: int) -> int | None:
        """The number of the fault that the event is dropped by; None: it is not."""
        return next((each for each in self._drops if self._hits(each, index, 0)), None)

    def drops(self, index: int) -> bool:
        """Whether the event is dropped."""
        return self.dropped_by(index) is not None

    def duplicated_by(self, source: int, ordinal: int) -> int | None:
        """The number of the fault that a source's record is doubled by; None: it is not."""
        return next((each for each in self._duplicates if self._hits(each, ordinal, source)), None)

    def duplicates(self, source: int, ordinal: int) -> bool:
        """Whether a source's record, the `ordinal`-th from 0, comes twice."""
        return self.duplicated_by(source, ordinal) is not None

    def order_of(self, numbers: Sequence[int]) -> list[int] | None:
        """The places of events, whose numbers rise, in the order they are to have; None: as they
        are.

        A window is so many numbers, from 0 on; what is there of one, if 2 or more events, is never
        left as it is.
        """
        if self.reorder_fault is None:
            return None
        state, width = self._states[self.reorder_fault], self.faults[self.reorder_fault].width
        order: list[int] = []
        for window, places in groupby(range(len(numbers)), lambda place: numbers[place] // width):
            order += _shuffled(list(places), _mixed(state, window * width))
        return order

    def timed(self) -> list[Fault]:
        """The faults that come by time; their numbers are `timed_faults`."""
        return [self.faults[number] for number in self.timed_faults]

    def due(self, fault_number: int, since_start_ns: int, fired: int) -> bool:
        """Whether a fault that fired so many times is to fire (again); none is skipped."""
        fault = self.faults[fault_number]
        if fault.at_ns is not None:
            return fired == 0 and since_start_ns >= fault.at_ns
        return fault.every_ns is not None and since_start_ns >= fault.every_ns * (fired + 1)

    @property
    def disk_bytes(self) -> int | None:
        """How many bytes can be written before the disk is full; None: as many as there is room."""
        return None if self.disk_fault is None else self.faults[self.disk_fault].size


def _shuffled(places: list[int], state: int) -> list[int]:
    """In another order (Fisher-Yates); when that would be the same one, turned by one place."""
    made = places.copy()
    for last in range(len(made) - 1, 0, -1):
        other = _mixed(state, last) * (last + 1) >> 64
        made[last], made[other] = made[other], made[last]
    return made if made != places else places[1:] + places[:1]


class KeptFault(Struct, frozen=True):
    """What a fault did by now, for a later sitting; times in ns since the start of the run."""

    text: str
    fired: int
    windows: list[tuple[int, int]]
    violations: int


MOST_WINDOWS: Final = 100
"""Of one fault; beyond it, the two that are closest become one."""
NEAR_NS: Final = 10**9
"""Windows closer than this are one."""
AFTERMATH_NS: Final = 2 * 10**9
"""So long after the end of a window, what happens is still put down to the fault."""


class FaultLog:
    """What fired, how often and when, in bounded memory; moments may come in any order."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._records = [_Record() for _ in self._faults]

    def note(self, fault_number: int, at_ns: int, count: int = 1) -> None:
        """The fault fired `count` times at a moment; 0 times is nothing."""
        if count > 0:
            self._records[fault_number].note(at_ns, count)

    def at(self, time_ns: int) -> str | None:
        """The text of the fault that a moment falls to, or to its aftermath: the latest begun."""
        latest: int | None = None
        text = None
        for fault, record in zip(self._faults, self._records, strict=True):
            began_ns = record.began_ns(time_ns)
            if began_ns is not None and (latest is None or began_ns > latest):
                latest, text = began_ns, fault.text
        return text

    def go_on_from(self, fault_number: int, kept: KeptFault, origin_ns: int) -> None:
        """What the fault did in earlier sittings, before it does anything in this one."""
        self._records[fault_number].go_on_from(kept, origin_ns)

    def report(self, origin_ns: int) -> list[dict[str, Any]]:
        """One entry a fault, times in ns since `origin_ns`; None and no windows: never fired."""
        return [
            {"text": fault.text, **record.report(origin_ns)}
            for fault, record in zip(self._faults, self._records, strict=True)
        ]


class _Record:
    """When one fault fired: windows in order, NEAR_NS or more apart."""

    __slots__ = ("_ends_ns", "_fired", "_starts_ns")

    def __init__(self) -> None:
        self._fired = 0
        self._starts_ns: list[int] = []
        self._ends_ns: list[int] = []

    def note(self, at_ns: int, count: int) -> None:
        self._fired += count
        starts, ends = self._starts_ns, self._ends_ns
        low = high = bisect_right(starts, at_ns)
        if low and at_ns - ends[low - 1] < NEAR_NS:
            low -= 1
        if high < len(starts) and starts[high] - at_ns < NEAR_NS:
            high += 1
        starts[low:high] = [min([at_ns, *starts[low:high]])]
        ends[low:high] = [max([at_ns, *ends[low:high]])]
        if len(starts) > MOST_WINDOWS:
            close = min(range(1, len(starts)), key=lambda place: starts[place] - ends[place - 1])
            del starts[close], ends[close - 1]

    def go_on_from(self, kept: KeptFault, origin_ns: int) -> None:
        self._fired = kept.fired
        self._starts_ns = [start + origin_ns for start, _ in kept.windows]
        self._ends_ns = [end + origin_ns for _, end in kept.windows]

    def began_ns(self, time_ns: int) -> int | None:
        """When the window began that a moment falls into or comes soon after."""
        place = bisect_right(self._starts_ns, time_ns) - 1
        if place < 0 or time_ns > self._ends_ns[place] + AFTERMATH_NS:
            return None
        return self._starts_ns[place]

    def report(self, origin_ns: int) -> dict[str, Any]:
        windows = [
            [start - origin_ns, end - origin_ns]
            for start, end in zip(self._starts_ns, self._ends_ns, strict=True)
        ]
        return {
            "fired": self._fired,
            "first_ns": windows[0][0] if windows else None,
            "last_ns": windows[-1][1] if windows else None,
            "windows": windows,
        }
