"""A comparison in words: its headline, the cells of its table, its gates and doubts.

Pure, and the same for all formats. Texts of others come out as they are: each format makes them
harmless in its own way.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from .comparison import NO_DIFFERENCE, TOO_FEW, Compared, Comparison
from .gates import GateOutcome
from .intervals import Interval, runs_needed
from .run_figures import in_words, percent_in_words

HEADINGS: Final = ("figure", "base", "candidate", "difference", "interval", "")
TOGETHER: Final = "all of these intervals together are at 95 %"
EACH: Final = "more figures, each at 95 % by itself: one in twenty differs by chance"


class Row(Struct, frozen=True):
    """A figure, in cells."""

    name: str
    base: str
    candidate: str
    difference: str
    interval: str
    word: str
    direction: str
    """better, worse, or empty."""

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.name, self.base, self.candidate, self.difference, self.interval, self.word)


def headline(comparison: Comparison) -> str:
    """The verdict, and what it rests on, in one line."""
    old, new = len(comparison.base.runs), len(comparison.candidate.runs)
    runs = f"{old:,} {'run' if old == 1 else 'runs'} against {new:,}"
    shown = [each for each in comparison.primary if each.direction]
    if shown:
        told = ", ".join(f"{each.figure.name} {difference(each)}" for each in shown)
        return f"{comparison.verdict}: {told}; {runs}"
    if comparison.verdict == TOO_FEW:
        needed = runs_needed(comparison.primary[0].level)
        return f"{comparison.verdict}: {runs}, and {needed} of each are needed"
    names = ", ".join(
        each.figure.name for each in comparison.primary if each.word == comparison.verdict
    )
    joint = " in" if comparison.verdict == NO_DIFFERENCE else ":"
    return f"{comparison.verdict}{joint} {names}; {runs}"


def row_of(compared: Compared) -> Row:
    """One line of the table."""
    kind = compared.figure.kind
    return Row(
        name=compared.figure.name,
        base=in_words(kind, compared.base.value),
        candidate=in_words(kind, compared.candidate.value),
        difference=difference(compared),
        interval=_interval(compared),
        word=f"{compared.word} ({compared.note})" if compared.note else compared.word,
        direction=compared.direction,
    )


def difference(compared: Compared) -> str:
    """The shift in percent of the base's median, or, where that is 0, as it is."""
    percent = compared.percent
    if percent is None:
        return _signed(in_words(compared.figure.kind, compared.shift.value))
    return _signed(percent_in_words(percent[0]))


def _interval(compared: Compared) -> str:
    percent = compared.percent
    interval = compared.shift.interval if percent is None else percent[1]
    if interval is None:
        return "-"
    low, high = (_end(compared, end, percent is not None) for end in _ends(interval))
    return f"{low.removesuffix(' %')} to {high}" if percent is not None else f"{low} to {high}"


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _end(compared: Compared, value: float, is_percent: bool) -> str:
    return _signed(percent_in_words(value) if is_percent else in_words(compared.figure.kind, value))


def _signed(text: str) -> str:
    return text if text[0] in "−0" and not text.startswith("0.") else f"+{text}"


def gate_line(outcome: GateOutcome) -> str:
    """A gate, and what became of it."""
    return f"{outcome.gate.text}: {outcome_words(outcome)}"


def outcome_words(outcome: GateOutcome) -> str:
    """What became of a gate."""
    return f"FAILED, it is {outcome.said}" if outcome.state == "held" else outcome.said


def doubts(comparison: Comparison) -> list[str]:
    """In what the sets are not alike, and what else should be known, as sentences."""
    return [*difference_lines(comparison), *comparison.notes]


def difference_lines(comparison: Comparison) -> list[str]:
    """What differs between the work of the two sets, side by side."""
    return [
        f"different {each.what}: {each.base} against {each.candidate}"
        for each in comparison.differences
    ]
