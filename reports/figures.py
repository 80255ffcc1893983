"""The figures that matter of a result, each with the promises and conditions that it was held to.

What the terminal, HTML, Markdown and JUnit show comes from here.

Pure. Texts of conditions are the user's: whoever shows one escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from millstream.engine.conditions import ConditionError, figure_of, parse_condition

from .units import duration, rate, size

Unit = Literal["time", "rate", "size", "count", "percent"]
CheckKind = Literal["promise", "objective", "condition"]

NOTHING: Final = "-"
"""The text of a figure of which nothing was observed."""

_RESPONSE: Final = ("p50", "p99", "p999", "max")
_LABELS: Final[Mapping[str, str]] = {
    "ordering.violations": "order violations",
    "delivery.lost": "lost",
    "delivery.duplicated": "duplicated",
    "dead_letters": "dead letters",
    "rss_peak": "memory at most",
}
_ORDERS: Final[Mapping[str, str]] = {
    "key": "order per key",
    "partition": "order per partition",
    "global": "global order",
}


class Check(Struct, frozen=True):
    """Something that was asked of a figure."""

    kind: CheckKind
    text: str
    """What was asked, in words or as the user wrote it; untrusted."""
    ok: bool
    """Whether it came out well: of a condition (`--fail-if`), that it did not hold."""
    said: str
    """How it came out: held or BROKEN, met or MISSED, "did not hold" or HELD."""
    observed: str
    """What was seen, with its unit."""


class Figure(Struct, frozen=True):
    """A figure of a result."""

    name: str
    """As `--fail-if` has it, such as response.p99; of a condition that can't be read its text."""
    label: str
    """For people, such as "response p99"; may hold a stage's name, or untrusted text."""
    unit: Unit
    value: float | None
    """ns, events per second, bytes, or a count; None: nothing of the kind was observed."""
    text: str
    """The value with its unit."""
    checks: list[Check]

    @property
    def ok(self) -> bool | None:
        """Whether all that was asked of it came out well; None: nothing was asked."""
        return all(check.ok for check in self.checks) if self.checks else None


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """Throughput, response (with a schedule), order, delivery, dead letters; then whatever else a
    condition or an objective asks about."""
    asked = _asked(result)
    names = ["throughput"]
    if result["response"] is not None:
        names += [f"response.{each}" for each in _RESPONSE]
    names += ["ordering.violations", "delivery.lost", "delivery.duplicated", "dead_letters"]
    names += [name for name in asked if name not in names]
    return [_figure(result, name, asked.get(name, ())) for name in names]


def checks_of(result: Mapping[str, Any]) -> list[Check]:
    """All that was asked of the figures, in the order of the figures."""
    return [check for figure in figures(result) for check in figure.checks]


def in_words(value: float | None, unit: Unit) -> str:
    """A figure with its unit."""
    match unit:
        case _ if value is None:
            return NOTHING
        case "time":
            return duration(round(value))
        case "rate":
            return rate(value)
        case "size":
            return size(value)
        case "percent":
            return f"{value:.3g} %"
        case "count":
            return f"{value:,.0f}" if value == int(value) else f"{value:,g}"


def unit_of(name: str) -> Unit:
    """The unit of a figure, by its name."""
    kind = name.partition(".")[0]
    if kind in ("response", "slip", "service", "queue_wait"):
        return "time"
    if name == "throughput":
        return "rate"
    return "size" if name == "rss_peak" else "count"


def _figure(result: Mapping[str, Any], name: str, asked: Sequence[Check]) -> Figure:
    promise = _promise(result, name)
    checks = [*([] if promise is None else [promise]), *asked]
    unit = unit_of(name)
    value = _value(result, name)
    return Figure(name, _label(name), unit, value, in_words(value, unit), checks)


def _value(result: Mapping[str, Any], name: str) -> float | None:
    try:
        return figure_of(result, name)
    except (KeyError, TypeError):  # of a newer version, or none at all
        return None


def _label(name: str) -> str:
    if name in _LABELS:
        return _LABELS[name]
    kind, _, rest = name.partition(".")
    if unit_of(name) == "time":
        stage, _, percentile = rest.rpartition(".")
        what = "p99.9" if percentile == "p999" else percentile
        return f"{kind.replace('_', ' ')} {what}{f' of {stage}' if stage else ''}"
    return name


def _promise(result: Mapping[str, Any], name: str) -> Check | None:
    """What the run promised of a figure, whatever was asked."""
    if name == "ordering.violations":
        order, count = result["ordering"]["order"], result["ordering"]["violations"]
        if order == "none" and not count and result["options"].get("emit") != "input":
            return None
        return _kept(_ORDERS.get(order, "order of the output"), count, "times")
    if name == "delivery.lost":
        return _kept("nothing lost", result["delivery"]["lost"], "lost")
    if name == "delivery.duplicated":
        return _kept("no duplicates", result["delivery"]["duplicated"], "duplicated")
    return None


def _kept(promise: str, count: int, what: str) -> Check:
    said = "BROKEN" if count else "held"
    times = "once" if what == "times" and count == 1 else f"{count:,} {what}"
    return Check("promise", promise, not count, said, times)


def _asked(result: Mapping[str, Any]) -> dict[str, list[Check]]:
    """Conditions and objectives, by the figure that they are of."""
    found: dict[str, list[Check]] = {}
    for name, check in (*_objectives(result), *_conditions(result)):
        found.setdefault(name, []).append(check)
    return found


def _objectives(result: Mapping[str, Any]) -> Iterable[tuple[str, Check]]:
    for each in result.get("objectives", ()):
        name, unit = _parsed(each["text"])
        ok = bool(each["met"])
        said, observed = "met" if ok else "MISSED", in_words(each["observed"], unit)
        yield name, Check("objective", each["text"], ok, said, observed)


def _conditions(result: Mapping[str, Any]) -> Iterable[tuple[str, Check]]:
    for each in result["conditions"]:
        name, unit = _parsed(each["text"])
        ok = not each["held"]
        said, observed = "did not hold" if ok else "HELD", in_words(each["observed"], unit)
        yield name, Check("condition", each["text"], ok, said, observed)


def _parsed(text: str) -> tuple[str, Unit]:
    """The figure that a condition asks about, and the unit of what it saw."""
    try:
        condition = parse_condition(text)
    except ConditionError:  # a newer version knew more of them
        return text, "count"
    unit: Unit = "percent" if condition.of_read else unit_of(condition.figure)
    return condition.figure, unit
