"""What a trial comes to: whether its measurement can be trusted, and whether what was asked held.

Pure: a result object in, verdicts out. A trial is invalid when the load generator could not keep
its own schedule; then no figure of it is shown as the system's limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from millstream.engine.conditions import Condition
from millstream.engine.result import BROKEN, CONDITION, DEAD_LETTERS, INVALID, OK

from .steady import Series, backlog_grows, backlog_slope

SLIP_SHARE: Final = 0.1
"""Of the latency objective, that the 99th percentile of the slip may be."""
MOST_SLIP_NS: Final = 10_000_000
"""What it may be without one."""
MOST_STARVED: Final = 0.05
"""Share of a closed run in which the generator had nothing ready though it was asked."""

LEAST_POINTS: Final = 4
"""Of the course of a load, for a slope."""
SHORT_BY: Final = 0.05

MOST_BUSY: Final = 0.95
"""Share of a core that the generator may need."""

TrialVerdict = Literal["pass", "fail", "invalid"]


class Met(Struct, frozen=True):
    """Whether an objective was met, and what was seen."""

    text: str
    observed: float | None
    met: bool


def met(objectives: Sequence[Condition], result: Mapping[str, Any]) -> list[Met]:
    """How each objective came out."""
    found = []
    for objective in objectives:
        observed, held = objective.evaluate(result)
        found.append(Met(objective.text, observed, held))
    return found


def most_slip_ns(objectives: Sequence[Condition]) -> int:
    """What the 99th percentile of the slip may be, by the strictest objective for the response."""
    bounds = [
        each.value * SLIP_SHARE
        for each in objectives
        if each.figure.startswith("response.") and each.operator in ("<", "<=")
    ]
    return int(min([MOST_SLIP_NS, *bounds]))


def why_invalid(result: Mapping[str, Any], objectives: Sequence[Condition]) -> list[str]:
    """Why its figures are the generator's, not the system's; nothing: they can be trusted."""
    load, reasons = result["load"], []
    if load["dropped"]:
        reasons.append(
            f"{load['dropped']:,} events were never offered, since too many waited already"
        )
    if not load["open"]:
        share = load["starved_ns"] / max(1, result["duration_ns"])
        if share > MOST_STARVED:
            reasons.append(
                f"the engine waited for the generator for {share:.0%} of the time: what it does is "
                "not its limit"
            )
        if not result["throughput"]:
            reasons.append("nothing was done after the warm-up")
        return reasons
    slip = result["slip"]
    if slip is None:
        return [*reasons, "nothing was due after the warm-up"]
    bound = most_slip_ns(objectives)
    busy = load["cpu_ns"] / max(1, load["elapsed_ns"])
    if busy > MOST_BUSY:
        reasons.append(f"the generator was busy for {busy:.0%} of the time; give it a lower --rate")
    if load["loop_lag_p99_ns"] > bound:
        reasons.append(
            f"the generator's loop was late: {load['loop_lag_p99_ns'] / 1e6:.3g} ms at p99, more "
            f"than {bound / 1e6:.3g} ms; give it a core of its own"
        )
    if slip["p99"] > bound:
        reasons.append(
            f"the generator was late: slip {slip['p99'] / 1e6:.3g} ms at p99, more than "
            f"{bound / 1e6:.3g} ms; give it a lower --rate, or a core of its own"
        )
    return reasons


def verdict_of(result: Mapping[str, Any], course: Series) -> TrialVerdict:
    """Whether the offered rate was sustained: for a search, and nothing else."""
    if result["invalid"]:
        return "invalid"
    lost = result["delivery"]["lost"] or result["ordering"]["violations"]
    held = all(each["held"] for each in result["invariants"])
    reached = all(each["met"] for each in result["objectives"])
    return "pass" if keeps_up(result, course) and not lost and held and reached else "fail"


def keeps_up(result: Mapping[str, Any], course: Series) -> bool:
    """Whether the backlog does not grow; of a load too short to tell, whether most was done."""
    load = result["load"]
    if load["gave_up"]:
        return False
    if not load["open"]:
        return True
    if len(course.ends_ns) < LEAST_POINTS:
        return bool(result["throughput"] >= (1 - SHORT_BY) * load["offered"])
    seconds = (course.ends_ns[-1] - course.start_ns) / 1e9
    slope = backlog_slope(course.ends_ns, course.backlog)
    return not backlog_grows(slope, sum(course.offered) / seconds, seconds)


def exit_code_of(result: Mapping[str, Any]) -> int:
    """The code with what the benchmark found beside what the run did. What ended the run, or kept
    it from ending well, stays."""
    code: int = result["exit_code"]
    if code not in (OK, BROKEN, CONDITION, DEAD_LETTERS):
        return code
    if code == BROKEN or not all(each["held"] for each in result["invariants"]):
        return BROKEN
    if result["invalid"]:
        return INVALID
    if not all(each["met"] for each in result["objectives"]):
        return CONDITION
    return code
