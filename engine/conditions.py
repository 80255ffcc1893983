"""Conditions on a result: `--fail-if 'response.p99 > 50ms'`.

Pure. A condition is parsed before the run, so that a wrong one is refused at once, and evaluated
on the finished result.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from .units import SIZES, TIMES

_PATTERN: Final = re.compile(
    r"\s*([a-z_][\w.\-]*)\s*(<=|>=|==|!=|<|>)\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([^\s]*)\s*"
)
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_PERCENTILES: Final = ("p50", "p90", "p99", "p999", "max", "mean", "min")
_DISTRIBUTIONS: Final = ("response", "slip", "service", "queue_wait")
_COUNTS: Final = (
    "dead_letters",
    "ordering.violations",
    "delivery.lost",
    "delivery.duplicated",
    "filtered",
    "read",
    "emitted",
)


class ConditionError(ValueError):
    """The condition can't be understood; the message says how to write it."""


class Condition(Struct, frozen=True):
    """`figure operator value`; the value in the unit of the figure (ns, bytes, events per s)."""

    text: str
    figure: str
    operator: str
    value: float
    of_read: bool = False
    """The value is a percentage of the events read."""

    def evaluate(self, result: Mapping[str, Any]) -> tuple[float | None, bool]:
        """What was observed (None: nothing of the kind), and whether the condition held."""
        observed = figure_of(result, self.figure)
        if observed is not None and self.of_read:
            read = result["counts"]["read"]
            observed = 100 * observed / read if read else 0.0
        held = observed is not None and _OPERATORS[self.operator](observed, self.value)
        return observed, held


def parse_condition(text: str, flag: str = "--fail-if") -> Condition:
    """`flag` is what it was given by. Raises ConditionError."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConditionError(
            f"{flag} {text!r} can't be understood; write it like 'response.p99 > 50ms'"
        )
    figure, comparison, number, unit = match.groups()
    kind = _kind_of(figure)
    if kind is None:
        raise ConditionError(
            f"{flag} {text!r}: there is no figure {figure!r}; there are throughput, rss_peak, "
            f"{', '.join(_COUNTS)}, and {', '.join(_DISTRIBUTIONS)} with .p50 .p90 .p99 .p999 .max"
        )
    units: Mapping[str, float] = {
        "time": TIMES,
        "size": SIZES,
        "rate": {"": 1.0, "/s": 1.0},
        "count": {"": 1.0, "%": 1.0},
    }[kind]
    if unit not in units:
        allowed = ", ".join(each or "no unit" for each in units)
        raise ConditionError(f"{flag} {text!r}: {figure} is a {kind}; its unit is {allowed}")
    value = float(number.replace("_", "")) * units[unit]
    return Condition(text, figure, comparison, value, of_read=unit == "%")


def _kind_of(figure: str) -> str | None:
    if figure == "throughput":
        return "rate"
    if figure == "rss_peak":
        return "size"
    if figure in _COUNTS:
        return "count"
    name, _, percentile = figure.rpartition(".")
    kind, _, stage = name.partition(".")
    # Response and slip are of the whole run, the others of a stage too.
    known = (kind in _DISTRIBUTIONS[:2] and not stage) or kind in _DISTRIBUTIONS[2:]
    known = known and percentile in _PERCENTILES
    return "time" if known else None


def figure_of(result: Mapping[str, Any], figure: str) -> float | None:
    """A figure of the result; for `service` and `queue_wait` the worst stage, or a named one."""
    counts = result["counts"]
    plain = {
        "throughput": result["throughput"],
        "rss_peak": result["resources"]["rss_peak"],
        "dead_letters": counts["dead_lettered"],
        "ordering.violations": result["ordering"]["violations"],
        "delivery.lost": result["delivery"]["lost"],
        "delivery.duplicated": result["delivery"]["duplicated"],
        "filtered": counts["filtered"],
        "read": counts["read"],
        "emitted": counts["emitted"],
    }
    if figure in plain:
        value: float | None = plain[figure]
        return value
    name, _, percentile = figure.rpartition(".")
    kind, _, stage = name.partition(".")
    if kind in ("response", "slip"):
        distributions = [result[kind]]
    else:
        stages = [each for each in result["stages"] if not stage or each["name"] == stage]
        distributions = [each[kind] for each in stages]
    values = [each[percentile] for each in distributions if each is not None]
    return max(values) if values else None


def stage_of(condition: Condition) -> str | None:
    """The stage that the figure is named after; None when it is of no stage, or of the worst."""
    kind, _, stage = condition.figure.rpartition(".")[0].partition(".")
    return stage if stage and kind in ("service", "queue_wait") else None


def needs_schedule(condition: Condition) -> bool:
    """Whether the figure exists only in a run with a schedule (--rate, --pace time)."""
    return condition.figure.split(".", 1)[0] in ("response", "slip")
