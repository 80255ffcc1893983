"""The figures by which runs are compared: their names, units, and which way is better.

Pure. A figure has the same name and meaning whether it is taken from a whole result or from the
fact that an experiment keeps of a trial; facts have fewer of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from .units import duration, rate, size

Kind = Literal["rate", "time", "size", "count"]

UNITS: Final[Mapping[Kind, str]] = {"rate": "/s", "time": "ns", "size": "B", "count": ""}
"""What the values of each kind are in: events per second, nanoseconds, bytes, a number."""


class Figure(Struct, frozen=True):
    """One figure of a run."""

    name: str
    kind: Kind
    meaning: str
    higher_is_better: bool = False
    is_speed: bool = True
    """A rate or a time: a run is faster or slower by it. Of all others it has more or less."""


FIGURES: Final = (
    Figure("throughput", "rate", "events per second", higher_is_better=True),
    *(
        Figure(f"response.{name}", "time", f"response time, {words}")
        for name, words in (
            ("p50", "the median"),
            ("p90", "90th percentile"),
            ("p99", "99th percentile"),
            ("p999", "99.9th percentile"),
            ("max", "the longest"),
            ("mean", "on average"),
        )
    ),
    Figure("service", "time", "time in handlers that an event takes, over all stages"),
    Figure("cpu_per_event", "time", "CPU time of all processes, by events read"),
    Figure("service.p50", "time", "service time, the median of the slowest stage"),
    Figure("service.p99", "time", "service time, 99th percentile of the slowest stage"),
    Figure("queue_wait.p50", "time", "queue wait, the median of the stage with the longest"),
    Figure("queue_wait.p99", "time", "queue wait, 99th percentile of the stage with the longest"),
    Figure("rss_peak", "size", "memory at most, all processes", is_speed=False),
    Figure("slip.p99", "time", "lateness of the load generator, 99th percentile", is_speed=False),
    Figure("loop_lag.p99", "time", "lag of the event loop, 99th percentile", is_speed=False),
    Figure("dead_letters", "count", "events that became dead letters", is_speed=False),
)
BY_NAME: Final[Mapping[str, Figure]] = {each.name: each for each in FIGURES}

_TOO_LARGE: Final = 1e300

_OF_RESPONSE: Final = ("p50", "p90", "p99", "p999", "max", "mean")


def figures_of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures that a result has; what it lacks, or what is no number, is left out."""
    stages = items(result.get("stages"))
    services = [at(stage, "service", "mean") for stage in stages]
    found: dict[str, Any] = {
        **_common(result.get("throughput"), result.get("response")),
        "service": sum(each for each in services if is_number(each)) if services else None,
        "cpu_per_event": _ratio(at(result, "resources", "cpu_ns"), at(result, "counts", "read")),
        "rss_peak": at(result, "resources", "rss_peak"),
        "slip.p99": at(result, "slip", "p99"),
        "loop_lag.p99": at(result, "resources", "loop_lag_p99"),
        "dead_letters": at(result, "counts", "dead_lettered"),
    }
    for kind in ("service", "queue_wait"):
        for name in ("p50", "p99"):
            values = [at(stage, kind, name) for stage in stages]
            found[f"{kind}.{name}"] = max(filter(is_number, values), default=None)
    return _numbers(found)


def figures_of_fact(fact: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one trial of an experiment, likewise."""
    return _numbers(
        {
            **_common(fact.get("throughput"), fact.get("response")),
            "service": fact.get("service_ns"),
            "cpu_per_event": _ratio(fact.get("cpu_ns"), fact.get("read")),
            "rss_peak": fact.get("rss_peak"),
            "dead_letters": fact.get("dead_lettered"),
        }
    )


def _common(throughput: Any, response: Any) -> dict[str, Any]:
    return {
        "throughput": throughput,
        **{f"response.{name}": at(response, name) for name in _OF_RESPONSE},
    }


def _ratio(whole: Any, by: Any) -> float | None:
    return whole / by if is_number(whole) and is_number(by) and by else None


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if is_number(value)}


def at(data: Any, *names: str) -> Any:
    """What stands at a path of names; None where it leads nowhere: result files are read as they
    come, and older ones have less."""
    for name in names:
        if not isinstance(data, Mapping):
            return None
        data = data.get(name)
    return data


def items(data: Any) -> list[Any]:
    """What a list holds; nothing where it is none."""
    return data if isinstance(data, list) else []


def is_number(value: Any) -> bool:
    """Whether it is a figure: no truth value, and not so large that sums would be infinite."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
    )


def in_words(kind: Kind, value: float) -> str:
    """A value of a figure, for people; below zero with a minus."""
    if value < 0:
        return f"−{in_words(kind, -value)}"
    if kind == "rate":
        return rate(value)
    if kind == "time":
        return duration(round(value))
    return size(value) if kind == "size" else f"{value:,.6g}"


def percent_in_words(percent: float) -> str:
    """Two significant digits, or all that stand before the point; below zero with a minus."""
    if percent < 0:
        return f"−{percent_in_words(-percent)}"
    if percent < 0.005:
        return "0 %"
    return f"{percent:.2g} %" if percent < 9.95 else f"{percent:,.0f} %"
