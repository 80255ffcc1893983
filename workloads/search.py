"""The search for the highest sustainable rate: which rate to try next, and what came of it.

Pure: it is told how each trial ended, and knows neither the clock nor what is tried.
"""

from __future__ import annotations

from math import ceil, isfinite, log, log2, sqrt
from typing import Final, Literal, get_args

from msgspec import Struct

Verdict = Literal["pass", "fail", "invalid"]
"""`invalid`: the load generator could not keep its schedule; that says nothing of the system."""

Limit = Literal["fail", "invalid", "ceiling", "trials"]

FACTORS: Final = (2.0, 4.0, 16.0)
"""By how much the first steps without a bound go up or down; all later ones as the last."""

LEAST_PRECISION: Final = 1e-4
_ROUNDING: Final = 1e-9


class Trial(Struct, frozen=True):
    """A rate that was tried, in events per second, and how it ended."""

    rate: float
    verdict: Verdict


class SearchOutcome(Struct, frozen=True):
    """What a search has come to."""

    best: float | None
    """The highest rate that passed; None: none did."""
    upper: float | None
    """The lowest rate that did not pass; None: each one did."""
    limited_by: Limit
    """What stands above `best`: a rate at which the system failed, or at which the trial was not
    valid, within the precision; the ceiling, which passed; or nothing yet, since there were no
    more trials."""
    upper_verdict: Verdict | None
    """How the trial at `upper` ended."""
    trials: tuple[Trial, ...]
    """All of them, in the order in which they were made."""

    @property
    def words(self) -> str:
        """A sentence that claims no more than was seen."""
        if self.best is None:
            return self._nothing_passed()
        best = _rate(self.best)
        if self.limited_by == "ceiling":
            return f"at least {best}, the highest rate that was to be tried"
        if self.upper is None:
            return f"at least {best}; the trials ended before a rate failed"
        upper = _rate(self.upper)
        if self.upper_verdict == "invalid":
            text = f"at least {best}; beyond {upper} the generator could not keep up"
        elif self.limited_by == "trials":
            text = f"between {best} and {upper}"
        else:
            text = f"{best}; at {upper} it failed"
        ended = ", and the trials ended before it was known more closely"
        return text + ended if self.limited_by == "trials" else text

    def _nothing_passed(self) -> str:
        if self.upper is None:
            return "nothing was tried"
        failed = [trial.rate for trial in self.trials if trial.verdict == "fail"]
        if not failed:
            return f"unknown: not even at {_rate(self.upper)} the generator could keep up"
        return f"no rate passed; the lowest that failed was {_rate(min(failed))}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"


class RateSearch:
    """Finds the highest rate that passes, between bounds that it finds itself.

    The first rate is `start`. While trials pass the rate grows, while they do not it shrinks, by
    FACTORS; then the geometric mean of both bounds is tried, since what is asked for is a relative
    precision: until (upper − lower) / lower is at most `precision`. An invalid trial is an upper
    bound as a failed one is, but never the system's.

    Each rate that is tried lies between the highest that passed and the lowest that did not, so no
    verdict can contradict another, and each one makes the bounds narrower: whatever they are, the
    search ends after `trials_needed` or `most_trials`, whichever is less. The price: a trial that
    failed by chance is believed.

    Rates lie between `floor` and `ceiling`, which both may be tried; when the floor does not pass
    nothing does, and when the ceiling passes it is the answer.
    """

    def __init__(
        self,
        precision: float = 0.02,
        start: float = 1000.0,
        most_trials: int = 40,
        floor: float = 1.0,
        ceiling: float = 1e9,
    ) -> None:
        """Rates are in events per second. Raises ValueError for what can't be searched."""
        if not LEAST_PRECISION <= precision <= 1:
            raise ValueError(f"the precision is {precision}; give it {LEAST_PRECISION} to 1")
        if most_trials < 1:
            raise ValueError(f"there are {most_trials} trials at most; give it 1 or more")
        if not (0 < floor <= ceiling and isfinite(ceiling)):
            raise ValueError(
                f"rates lie between {floor} and {ceiling}; give it 0 < floor ≤ ceiling"
            )
        if not floor <= start <= ceiling:
            raise ValueError(f"the search starts at {start}; give it {floor} to {ceiling}")
        self._precision, self._most_trials = precision, most_trials
        self._floor, self._ceiling = floor, ceiling
        self._trials: list[Trial] = []
        self._lower: float | None = None
        self._upper: Trial | None = None
        self._rate: float | None = float(start)
        self.trials_needed = trials_needed(precision, start, floor, ceiling)
        """After so many trials it has ended, however they ended."""

    def next_rate(self) -> float | None:
        """The rate to try now, the same until its verdict is told; None: the search has ended."""
        return self._rate

    def tell(self, rate: float, verdict: Verdict) -> None:
        """How the trial at next_rate() ended. Raises ValueError, and changes nothing, for another
        rate or after the end."""
        if self._rate is None:
            raise ValueError(f"a trial at {rate}/s, but the search has ended")
        if rate != self._rate:
            raise ValueError(f"a trial at {rate}/s, but {self._rate}/s was to be tried")
        if verdict not in get_args(Verdict):
            raise ValueError(f"a trial ended as {verdict!r}; it can be pass, fail or invalid")
        trial = Trial(rate, verdict)
        self._trials.append(trial)
        if verdict == "pass":
            self._lower = rate
        else:
            self._upper = trial
        self._rate = None if len(self._trials) >= self._most_trials else self._next()

    def _next(self) -> float | None:
        if self._is_settled():
            return None
        lower, upper = self._lower, self._upper
        if lower is not None and upper is not None:
            return sqrt(lower) * sqrt(upper.rate)
        factor = FACTORS[min(len(self._trials), len(FACTORS)) - 1]
        if lower is not None:
            return min(lower * factor, self._ceiling)
        assert upper is not None, "a trial gives one bound or the other"
        return max(upper.rate / factor, self._floor)

    def _is_settled(self) -> bool:
        """Whether the bounds are as near as they are to come."""
        if self._upper is None:
            return self._lower is not None and self._lower >= self._ceiling
        if self._lower is None:
            return self._upper.rate <= self._floor
        return self._upper.rate <= self._lower * (1 + self._precision) * (1 + _ROUNDING)

    def outcome(self) -> SearchOutcome:
        """What is known by now."""
        upper = self._upper
        limit: Limit = "trials"
        if self._is_settled():
            limit = (
                "ceiling" if upper is None else ("fail" if upper.verdict == "fail" else "invalid")
            )
        return SearchOutcome(
            self._lower,
            None if upper is None else upper.rate,
            limit,
            None if upper is None else upper.verdict,
            tuple(self._trials),
        )


def trials_needed(precision: float, start: float, floor: float, ceiling: float) -> int:
    """The most trials that a search makes: 1 + steps + ⌈log₂(ln 16 / ln(1 + precision))⌉.

    The steps are those by 2, 4, 16, 16, … that it takes from the start to the floor or the ceiling,
    whichever is farther. Between bounds that are a factor r apart, each trial leaves √r.
    """
    steps, reached = 0, 1.0
    while reached * (1 + _ROUNDING) < max(ceiling / start, start / floor):
        reached *= FACTORS[min(steps, len(FACTORS) - 1)]
        steps += 1
    halvings = ceil(log2(log(FACTORS[-1]) / log(1 + precision)) - _ROUNDING)
    return 1 + steps + max(halvings, 0)
