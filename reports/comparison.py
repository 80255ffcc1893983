"""Two sets of runs compared: by how much each figure differs, and how sure that is.

Pure. Compares what it is given, whatever the work was: in what that differs is part of what it
gives back, and whether to go on is up to who asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from millstream.engine.conditions import ConditionError

from .gates import Gate, GateOutcome, judge
from .intervals import Interval, Median, Shift, median_of, shift_of
from .run_figures import FIGURES, Figure
from .run_sets import RunSet
from .work import Difference, differences

LEVEL: Final = 0.95
NOISE: Final = 0.01
"""The noise threshold, unless told otherwise."""

PRIMARY_CLOSED: Final = ("throughput", "service", "cpu_per_event")
PRIMARY_OPEN: Final = ("response.p50", "response.p99", "cpu_per_event")
"""The figures that make the verdict, of runs without and with a schedule. They are few, since each
one more makes all less certain. With a schedule throughput is what was offered, and says little."""

FASTER, SLOWER, MORE, LESS = "faster", "slower", "more", "less"
BETTER, WORSE, MIXED = "better", "worse", "mixed"
NO_DIFFERENCE: Final = "no difference shown"
WITHIN_NOISE: Final = "within the noise threshold"
TOO_FEW: Final = "too few runs"
OFFERED: Final = "by schedule: what was offered"

Direction = Literal["better", "worse", ""]


class Compared(Struct, frozen=True):
    """One figure of two sets of runs."""

    figure: Figure
    is_primary: bool
    level: float
    """Of the shift's interval: of primary figures higher, so that all of them together are 95 %."""
    base: Median
    candidate: Median
    shift: Shift
    """In the figure's own unit (run_figures.UNITS), from the base to the candidate."""
    word: str
    """faster, slower, more, less; or why none of them."""
    direction: Direction
    """Whether what is shown is good; empty where nothing is shown."""
    note: str = ""
    """Why this figure says less than one might think."""

    @property
    def percent(self) -> tuple[float, Interval | None] | None:
        """The shift and its interval in percent of the base's median; None where that is 0."""
        whole = self.base.value
        if whole <= 0:
            return None
        interval = self.shift.interval
        return 100 * self.shift.value / whole, (
            None
            if interval is None
            else Interval(100 * interval.low / whole, 100 * interval.high / whole)
        )


class Comparison(Struct, frozen=True):
    """What comparing two sets of runs came to."""

    base: RunSet
    candidate: RunSet
    verdict: str
    """faster, slower (better, worse: where neither rate nor time differs), mixed; or why none."""
    noise: float
    figures: tuple[Compared, ...]
    """Primary ones first."""
    gates: tuple[GateOutcome, ...]
    differences: tuple[Difference, ...]
    """In the work, and within a set, that make the comparison doubtful; empty: none."""
    notes: tuple[str, ...]

    @property
    def primary(self) -> tuple[Compared, ...]:
        return tuple(each for each in self.figures if each.is_primary)

    @property
    def additional(self) -> tuple[Compared, ...]:
        return tuple(each for each in self.figures if not each.is_primary)


def compare(
    base: RunSet, candidate: RunSet, *, noise: float = NOISE, gates: Sequence[Gate] = ()
) -> Comparison:
    """Compare each figure that all runs of both sets have, by the medians of runs and the
    Hodges–Lehmann shift between them.

    A difference counts when the whole interval of the shift lies beyond zero, and beyond the noise
    threshold: a share `noise` of the smaller one of the two medians (so that it is the same seen
    from either side; the rule is that of B. Heisler's Criterion.rs).

    The primary figures (PRIMARY_CLOSED or PRIMARY_OPEN, and those that gates name) are one family:
    each of k has an interval at 1 − 5 %/k, so that in 95 % of all comparisons of runs that are
    alike none of them shows a difference (C. E. Bonferroni). Bonferroni and not Holm, whose
    rejections have no intervals to go with them. All other figures are additional, at 95 % each: of
    twenty, one shows a difference by chance, and the verdict does not ask them.

    Raises ConditionError when a gate names a figure that not all runs have.
    """
    shared = [figure for figure in FIGURES if _in_all(figure.name, base, candidate)]
    _check_gates(gates, shared)
    chosen = {*_usual_primary(base, candidate), *(gate.figure.name for gate in gates)}
    primary = [figure for figure in shared if figure.name in chosen]
    additional = [
        figure for figure in shared if figure.name not in chosen and _tells(figure, base, candidate)
    ]
    level = 1 - (1 - LEVEL) / max(1, len(primary))
    figures = [_compared(each, base, candidate, noise, level, is_primary=True) for each in primary]
    judged = {each.figure.name: each for each in figures}
    outcomes = [
        judge(gate, judged[gate.figure.name].shift, judged[gate.figure.name].base.value)
        for gate in gates
    ]
    return Comparison(
        base=base,
        candidate=candidate,
        verdict=_verdict(figures),
        noise=noise,
        figures=(
            *figures,
            *(
                _compared(each, base, candidate, noise, LEVEL, is_primary=False)
                for each in additional
            ),
        ),
        gates=tuple(outcomes),
        differences=tuple(_differences(base, candidate)),
        notes=tuple(_notes(base, candidate)),
    )


def _in_all(name: str, *sets: RunSet) -> bool:
    return all(name in run.figures for each in sets for run in each.runs)


def _is_open(*sets: RunSet) -> bool:
    """Whether runs have a schedule: all others have no response time."""
    return any("response.p50" in run.figures for each in sets for run in each.runs)


def _usual_primary(*sets: RunSet) -> tuple[str, ...]:
    return PRIMARY_OPEN if _is_open(*sets) else PRIMARY_CLOSED


def _tells(figure: Figure, *sets: RunSet) -> bool:
    """Whether there is something to be told: a count that is 0 everywhere says nothing."""
    return figure.kind != "count" or any(run.figures[figure.name] for s in sets for run in s.runs)


def _check_gates(gates: Sequence[Gate], shared: Sequence[Figure]) -> None:
    names = [figure.name for figure in shared]
    for gate in gates:
        if gate.figure.name not in names:
            raise ConditionError(
                f"--fail-if {gate.text!r}: not all of these runs have {gate.figure.name}; they "
                f"have {', '.join(names)}"
            )


def _compared(
    figure: Figure, base: RunSet, candidate: RunSet, noise: float, level: float, *, is_primary: bool
) -> Compared:
    before = [run.figures[figure.name] for run in base.runs]
    after = [run.figures[figure.name] for run in candidate.runs]
    old, new = median_of(before), median_of(after)
    shift = shift_of(before, after, level)
    word = _word(figure, shift, noise * min(abs(old.value), abs(new.value)))
    return Compared(
        figure=figure,
        is_primary=is_primary,
        level=level,
        base=old,
        candidate=new,
        shift=shift,
        word=word,
        direction=_direction(figure, shift) if word in (FASTER, SLOWER, MORE, LESS) else "",
        note=OFFERED if figure.name == "throughput" and _is_open(base, candidate) else "",
    )


def _word(figure: Figure, shift: Shift, threshold: float) -> str:
    interval = shift.interval
    if interval is None:
        return TOO_FEW
    if not shift.shows_difference:
        return NO_DIFFERENCE
    if interval.low <= threshold and interval.high >= -threshold:
        return WITHIN_NOISE
    if not figure.is_speed:
        return MORE if shift.value > 0 else LESS
    return FASTER if _direction(figure, shift) == "better" else SLOWER


def _direction(figure: Figure, shift: Shift) -> Direction:
    return "better" if (shift.value > 0) == figure.higher_is_better else "worse"


def _verdict(primary: Sequence[Compared]) -> str:
    """All primary figures in a word."""
    shown = [each for each in primary if each.direction]
    directions = {each.direction for each in shown}
    if len(directions) > 1:
        return MIXED
    if shown:
        is_better = "better" in directions
        if any(each.figure.is_speed for each in shown):
            return FASTER if is_better else SLOWER
        return BETTER if is_better else WORSE
    words = [each.word for each in primary]
    return next((word for word in (TOO_FEW, WITHIN_NOISE) if word in words), NO_DIFFERENCE)


def _differences(base: RunSet, candidate: RunSet) -> list[Difference]:
    """Between the sets; and within one of them, which then says so."""
    found = differences(base.work, candidate.work)
    for each in (base, candidate):
        found += [
            Difference(f"{one.what}, within {each.label}", one.base, one.candidate)
            for one in each.differences
        ]
    return found


def _notes(base: RunSet, candidate: RunSet) -> list[str]:
    """What whoever reads the comparison should know, as sentences."""
    notes = []
    for each in (base, candidate):
        if each.left_out:
            reasons = "; ".join(dict.fromkeys(one.why for one in each.left_out))
            notes.append(f"left out of {each.label}: {_many_runs(len(each.left_out))} ({reasons})")
        if each.unsteady:
            notes.append(f"not steady in {each.label}: {_many_runs(each.unsteady)}")
    if base.versions != candidate.versions:
        old, new = (", ".join(each.versions) for each in (base, candidate))
        notes.append(f"millstream {old} against {new}")
    if base.work.get("scenario") and set(base.seeds) != set(candidate.seeds):
        notes.append("the seeds differ, and with them the events")
    if {run.source for run in base.runs} & {run.source for run in candidate.runs}:
        notes.append("a result stands in both sets")
    usual = _usual_primary(base, candidate)
    missing = [name for name in usual if not _in_all(name, base, candidate)]
    if missing:
        notes.append(f"not all runs have {', '.join(missing)}: not compared by that")
    return notes


def _many_runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"
