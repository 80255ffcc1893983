"""How long after a fault a system is as it was: from the fault until latency and backlog are back.

Pure: a result's faults and series in, times out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from msgspec import Struct

SLACK: Final = 2.0
"""Without an objective, what it may be above its median before the fault."""
STAYS_NS: Final = 1_000_000_000
"""So long it has to stay within its bounds; or to the end of the load."""


class Recovery(Struct, frozen=True):
    """After one fault."""

    fault: str
    at_ns: int
    """Since the schedule began."""
    recovered_ns: int | None
    """From then until all was within its bounds, and stayed; None: not before the load ended."""
    response_bound_ns: int
    backlog_bound: int


def recoveries(result: Mapping[str, Any], objective_ns: int | None) -> list[Recovery]:
    """After each window of each fault that ended before the load did: what goes on all the time
    leaves nothing to recover from. `objective_ns`: for the response's 99th percentile."""
    series = result["series"]
    over_ns = result["load"]["elapsed_ns"] - series["interval_ns"]
    found = []
    for fault in result.get("faults", ()):
        for at_ns, end_ns in fault["windows"]:
            if at_ns < over_ns < end_ns:
                continue
            found.append(_recovery(fault["text"], at_ns, series, objective_ns))
    return sorted(found, key=lambda each: each.at_ns)


def _recovery(
    text: str, at_ns: int, series: Mapping[str, Any], objective_ns: int | None
) -> Recovery:
    interval = series["interval_ns"]
    first = at_ns // interval
    before = slice(max(0, first - 20), first)
    usual = [each for each in series["response_p99"][before] if each is not None]
    bound = objective_ns or (int(SLACK * median(usual)) if usual else 0)
    backlogs: Sequence[int] = series["backlog"][before]
    backlog_bound = max(int(SLACK * median(backlogs)) if backlogs else 0, 1)
    wanted = max(1, STAYS_NS // interval)
    within = 0
    points = list(zip(series["response_p99"], series["backlog"], strict=True))
    for place in range(first, len(points)):
        response, backlog = points[place]
        is_back = response is not None and response <= bound and backlog <= backlog_bound
        within = within + 1 if is_back else 0
        if within == wanted or (within and place == len(points) - 1):
            back_ns = (place - within + 1) * interval
            return Recovery(text, at_ns, max(0, back_ns - at_ns), bound, backlog_bound)
    return Recovery(text, at_ns, None, bound, backlog_bound)
