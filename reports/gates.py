"""Gates: `--fail-if 'response.p99 worse by 5%'`, parsed, and judged by the shift between two sets.

Pure. A gate has three outcomes: what is uncertain is said to be so, with the number of runs that
would tell, and never passed off as a yes or a no.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from math import ceil, isfinite
from typing import Final, Literal

from msgspec import Struct

from millstream.engine.conditions import ConditionError
from millstream.engine.units import SIZES, TIMES

from .intervals import Interval, Shift
from .run_figures import BY_NAME, Figure, Kind, in_words, percent_in_words

Direction = Literal["worse", "better"]
State = Literal["held", "not held", "undecided"]

EXAMPLE: Final = "'response.p99 worse by 5%'"
MOST_RUNS_TOLD: Final = 1_000

_GATE: Final = re.compile(
    r"\s*([A-Za-z_][\w.\-]*)\s+(worse|better)\s+by\s+([0-9][0-9_]*(?:\.[0-9]+)?)\s*(\S*)\s*"
)
_PLAIN: Final = re.compile(r"\s*[\w.\-]+\s*(<=|>=|==|!=|<|>)")
_UNITS: Final[Mapping[Kind, Mapping[str, float]]] = {
    "rate": {"": 1.0, "/s": 1.0},
    "time": TIMES,
    "size": SIZES,
    "count": {"": 1.0},
}


class Gate(Struct, frozen=True):
    """`FIGURE worse|better by AMOUNT`."""

    text: str
    figure: Figure
    direction: Direction
    amount: float
    """In percent of the base's median, or in the figure's unit."""
    is_percent: bool


class GateOutcome(Struct, frozen=True):
    """What became of a gate."""

    gate: Gate
    state: State
    observed: float | None
    """The shift in the gate's direction, in the unit of its amount."""
    interval: Interval | None
    """Of that shift."""
    said: str
    """The outcome in words."""
    runs_needed: int | None
    """Where it is undecided: how many runs of each set would tell, at the spread of these."""


def parse_gate(text: str) -> Gate:
    """Raises ConditionError, which says how to write it."""
    match = _GATE.fullmatch(text)
    if match is None:
        hint = f"write it like {EXAMPLE}"
        if _PLAIN.match(text):
            hint = f"that is asked of one run (run --fail-if, bench --fail-if); here, {hint}"
        raise ConditionError(f"--fail-if {text!r} can't be understood; {hint}")
    name, direction, number, unit = match.groups()
    figure = BY_NAME.get(name)
    if figure is None:
        near = get_close_matches(name, BY_NAME, n=3, cutoff=0.5) or list(BY_NAME)
        raise ConditionError(
            f"--fail-if {text!r}: there is no figure {name!r}; there is {', '.join(near)}"
        )
    units = {"%": 1.0, **_UNITS[figure.kind]}
    if unit not in units:
        allowed = ", ".join(each or "no unit" for each in units)
        raise ConditionError(
            f"--fail-if {text!r}: {name} is a {figure.kind}; the unit of an amount is {allowed}"
        )
    amount = float(number.replace("_", "")) * units[unit]
    if not (amount > 0 and isfinite(amount)):
        raise ConditionError(f"--fail-if {text!r}: the amount has to be more than 0")
    is_worse: Direction = "worse" if direction == "worse" else "better"
    return Gate(text, figure, is_worse, amount, is_percent=unit == "%")


def judge(gate: Gate, shift: Shift, base: float) -> GateOutcome:
    """Whether a gate holds, by the shift of its figure and the median of the base.

    It holds when a difference in its direction is shown (the whole interval lies beyond zero) and
    the shift is at least its amount. It does not hold when the whole interval lies below its
    amount. All else is undecided.
    """
    unit = 1.0
    if gate.is_percent:
        if base <= 0:
            return _undecided(gate, None, None, "the base's median is 0: name an amount, no share")
        unit = base / 100
    sign = -1.0 if gate.figure.higher_is_better else 1.0
    sign = sign if gate.direction == "worse" else -sign
    observed = sign * shift.value / unit
    if shift.interval is None:
        return _undecided(gate, observed, None, shift.why)
    ends = sorted((sign * shift.interval.low / unit, sign * shift.interval.high / unit))
    interval = Interval(*ends)
    if interval.low > 0 and observed >= gate.amount:
        said = f"{gate.direction} by {_amount(gate, observed)} ({_between(gate, interval)})"
        return GateOutcome(gate, "held", observed, interval, said, None)
    if interval.high < gate.amount:
        said = f"no, it is {_between(gate, interval)}"
        return GateOutcome(gate, "not held", observed, interval, said, None)
    runs = _runs_needed(gate, observed, interval, shift.runs)
    why = f"somewhere {_between(gate, interval)}; {_runs(runs)}"
    return _undecided(gate, observed, interval, why, runs)


def _undecided(
    gate: Gate, observed: float | None, interval: Interval | None, why: str, runs: int | None = None
) -> GateOutcome:
    return GateOutcome(gate, "undecided", observed, interval, f"can't be told: {why}", runs)


def _runs_needed(
    gate: Gate, observed: float, interval: Interval, runs: tuple[int, int]
) -> int | None:
    """How many runs each set needs, since intervals get narrower with the root of the runs: until
    the interval can't hold both nothing and the amount; when it is that narrow, until it ends short
    of the amount or begins there."""
    width = interval.high - interval.low
    wanted = gate.amount if width >= gate.amount else 2 * abs(gate.amount - observed)
    if wanted * MOST_RUNS_TOLD**0.5 <= width:
        return None
    each = 2 * runs[0] * runs[1] / (runs[0] + runs[1])
    needed = max(ceil(each * (width / wanted) ** 2), ceil(each) + 1)
    return needed if needed <= MOST_RUNS_TOLD else None


def _runs(needed: int | None) -> str:
    if needed is None:
        return f"not even {MOST_RUNS_TOLD:,} runs each would tell"
    return f"some {needed:,} runs each would tell"


def _between(gate: Gate, interval: Interval) -> str:
    """An interval in words: `between 3 % better and 9 % worse`."""
    other = "better" if gate.direction == "worse" else "worse"
    low, high = _amount(gate, abs(interval.low)), _amount(gate, abs(interval.high))
    if interval.low >= 0:
        return f"between {low} and {high} {gate.direction}"
    if interval.high <= 0:
        return f"between {high} and {low} {other}"
    return f"between {low} {other} and {high} {gate.direction}"


def _amount(gate: Gate, value: float) -> str:
    return percent_in_words(value) if gate.is_percent else in_words(gate.figure.kind, value)
