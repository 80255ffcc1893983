"""Sets of runs to be compared: which runs of some results count, and which are left out and why.

Pure. An invalid measurement, and a run that did not come to a good end, is never compared as if it
were one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from millstream.engine.result import BROKEN, CONDITION, DEAD_LETTERS, FROM_SIGNALS, INVALID, OK

from .run_figures import at, figures_of_fact, figures_of_result, is_number, items
from .work import Difference, Work, differences, work_of

MOST_RUNS: Final = 1_000
"""Of a set. More tell no more, and each set is compared with each run of the other."""

_GOOD: Final = (OK, DEAD_LETTERS, CONDITION)
"""What was measured is sound, whatever was demanded of it."""


class NotComparable(ValueError):
    """The results can't be compared at all; the message says why, and what to do."""


class Run(Struct, frozen=True):
    """One run: the unit of a comparison, however many events it had."""

    source: str
    """The result file."""
    trial: int | None
    """Its number in the experiment of the file, from 1; None: the file is one run."""
    figures: dict[str, float]


class LeftOut(Struct, frozen=True):
    """A run that is not compared."""

    source: str
    trial: int | None
    why: str


class RunSet(Struct, frozen=True):
    """The runs of one side, and what they have in common."""

    label: str
    """As it was named."""
    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...]
    work: Work
    """What the first of its results did."""
    differences: tuple[Difference, ...]
    """In what others of its results are not like the first one."""
    versions: tuple[str, ...]
    """Of millstream, each once."""
    seeds: tuple[str, ...]
    unsteady: int
    """How many of the runs were not steady, as far as that is known."""


def run_set(label: str, results: Iterable[tuple[str, Mapping[str, Any]]]) -> RunSet:
    """The runs of results, given as pairs of a file's name and its object; they are looked at one
    by one, and only their figures are kept.

    Repeats (`bench --repeat`) count as all of their trials. Raises NotComparable for a sweep or a
    search, for more than MOST_RUNS runs, and when there is none that can be compared.
    """
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    works: dict[str, Work] = {}
    versions: dict[str, None] = {}
    seeds: dict[str, None] = {}
    unsteady = 0
    for source, result in results:
        own, not_own, trends = _runs_of(source, result)
        runs += own
        left_out += not_own
        unsteady += trends
        if len(runs) > MOST_RUNS:
            raise NotComparable(f"{label} has more than {MOST_RUNS:,} runs; name fewer")
        if own:
            work = work_of(result)
            works.setdefault(repr(work), work)
            versions[str(result.get("version"))] = None
            seeds[str(result.get("seed"))] = None
    if not runs:
        raise NotComparable(_nothing(label, left_out))
    first, *others = works.values()
    unlike = {each.what: each for other in others for each in differences(first, other)}
    return RunSet(
        label=label,
        runs=tuple(runs),
        left_out=tuple(left_out),
        work=first,
        differences=tuple(unlike.values()),
        versions=tuple(versions),
        seeds=tuple(seeds),
        unsteady=unsteady,
    )


def _nothing(label: str, left_out: list[LeftOut]) -> str:
    if not left_out:
        return f"{label}: there are no runs in it; name result files (run --result FILE)"
    reasons = "; ".join(dict.fromkeys(each.why for each in left_out))
    return f"{label}: no run is left that can be compared ({reasons}); measure again"


def _runs_of(source: str, result: Mapping[str, Any]) -> tuple[list[Run], list[LeftOut], int]:
    """The runs of one result, those that are left out, and how many were not steady."""
    kind = at(result, "experiment", "kind")
    if kind in ("sweep", "search"):
        what = f"sweep over {at(result, 'experiment', 'parameter')}" if kind == "sweep" else kind
        raise NotComparable(
            f"{source} is a {what}: its trials do different work; compare single runs, or repeats "
            "of one load (bench --repeat 10)"
        )
    if kind != "repeat":
        why = _why_not(result)
        if why:
            return [], [LeftOut(source, None, why)], 0
        return [Run(source, None, figures_of_result(result))], [], int(_has_trend(result))
    runs, left_out, unsteady = [], [], 0
    for trial, fact in enumerate(items(at(result, "experiment", "facts")), 1):
        why = _why_not(fact)
        if why:
            left_out.append(LeftOut(source, trial, why))
        else:
            runs.append(Run(source, trial, figures_of_fact(fact)))
            unsteady += at(fact, "steady") is False
    return runs, left_out, unsteady


def _has_trend(result: Mapping[str, Any]) -> bool:
    """Whether it is known not to have been steady."""
    return at(result, "steady", "steady") is False and (
        at(result, "steady", "backlog_slope") is not None
    )


def _why_not(run: Any) -> str:
    """Why a result, or a fact, is not compared; empty when it is."""
    code = at(run, "exit_code")
    if not isinstance(code, int) or isinstance(code, bool):
        return "it has no exit code"
    reasons = items(at(run, "invalid"))
    if code == INVALID or at(run, "verdict") == "invalid" or reasons:
        return f"invalid: {reasons[0] if reasons else 'the generator could not keep up'}"
    if code == BROKEN:
        return "a promise or an invariant was broken"
    if code >= FROM_SIGNALS:
        return "it was interrupted"
    if code not in _GOOD:
        return f"it did not come to a good end (exit code {code})"
    unfinished = at(run, "unfinished")
    if is_number(unfinished) and unfinished > 0:
        return f"it stopped early, with {unfinished:,} events unfinished"
    return ""
