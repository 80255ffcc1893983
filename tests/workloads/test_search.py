"""The search for a sustainable rate finds it, claims no more than it saw, and always ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf, nan
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.workloads.search import (
    RateSearch,
    SearchOutcome,
    Trial,
    Verdict,
    trials_needed,
)

_rates = st.floats(1.0, 1e7)
_precisions = st.floats(1e-4, 1.0)
_verdicts = st.sampled_from(get_args(Verdict))


def searched(search: RateSearch, judge: Callable[[float], Verdict]) -> SearchOutcome:
    """Tell the judge's verdict on each rate until the search has ended."""
    for _ in range(1000):
        rate = search.next_rate()
        if rate is None:
            return search.outcome()
        assert search.next_rate() == rate
        search.tell(rate, judge(rate))
    raise AssertionError("the search does not end")


def up_to(capacity: float, beyond: Verdict = "fail") -> Callable[[float], Verdict]:
    """A monotone system."""
    return lambda rate: "pass" if rate <= capacity else beyond


def rates(outcome: SearchOutcome) -> list[float]:
    return [trial.rate for trial in outcome.trials]


@given(_rates, _rates, _precisions)
@example(1.0, 1e7, 0.02)
@example(1e7, 1.0, 0.02)
@example(1000.0, 1000.0, 0.02)
def test_a_system_s_capacity_is_found_within_the_precision(
    capacity: float, start: float, precision: float
) -> None:
    outcome = searched(RateSearch(precision, start), up_to(capacity))

    assert outcome.best is not None
    assert outcome.upper is not None
    assert outcome.best <= capacity < outcome.upper
    assert (outcome.upper - outcome.best) / outcome.best <= precision * (1 + 1e-6) + 1e-8
    assert (outcome.limited_by, outcome.upper_verdict) == ("fail", "fail")


@given(_rates, _rates, st.floats(1.0, 1e7))
def test_the_generator_s_limit_is_never_the_system_s(
    capacity: float, start: float, generator: float
) -> None:
    outcome = searched(
        RateSearch(start=start),
        lambda rate: "invalid" if rate > generator else up_to(capacity)(rate),
    )

    assert outcome.best is not None
    assert outcome.best <= min(capacity, generator) <= outcome.best * 1.03
    if generator < capacity:
        assert outcome.limited_by == outcome.upper_verdict == "invalid"
        assert outcome.words.startswith("at least ")
        assert "the generator could not keep up" in outcome.words
    elif generator > capacity * 1.021:  # else the last step may lead beyond both
        assert outcome.limited_by == outcome.upper_verdict == "fail"
        assert "at least" not in outcome.words


@given(
    st.lists(_verdicts, min_size=0, max_size=60),
    _verdicts,
    _rates,
    _precisions,
    st.integers(1, 60),
)
def test_it_ends_whatever_the_verdicts_are(
    verdicts: list[Verdict], always: Verdict, start: float, precision: float, most: int
) -> None:
    search = RateSearch(precision, start, most)
    told = iter(verdicts)
    outcome = searched(search, lambda _: next(told, always))

    assert len(outcome.trials) <= min(most, search.trials_needed)
    passed = [trial.rate for trial in outcome.trials if trial.verdict == "pass"]
    others = [trial.rate for trial in outcome.trials if trial.verdict != "pass"]
    assert outcome.best == max(passed, default=None)
    assert outcome.upper == min(others, default=None)
    assert max(passed, default=0.0) < min(others, default=inf)
    assert all(1 <= rate <= 1e9 for rate in rates(outcome))
    assert len(set(rates(outcome))) == len(outcome.trials)
    if len(outcome.trials) < most:
        assert outcome.limited_by != "trials"


@given(st.integers(0, 2**32), _rates, st.floats(0.01, 0.5))
def test_a_noisy_system_is_searched_to_an_end(seed: int, capacity: float, noise: float) -> None:
    chance = random.Random(seed)
    outcome = searched(
        RateSearch(), lambda rate: up_to(capacity * chance.lognormvariate(0, noise))(rate)
    )

    assert outcome.limited_by == "fail" or outcome.best is None
    if outcome.best is not None and outcome.upper is not None:
        assert outcome.upper <= outcome.best * 1.021


@given(_precisions, st.floats(1e-3, 1.0), st.floats(1.0, 1e6), st.floats(1.0, 1e6))
def test_the_formula_bounds_each_side(
    precision: float, floor: float, below: float, above: float
) -> None:
    start = floor * below
    ceiling = start * above
    needed = trials_needed(precision, start, floor, ceiling)
    for judge in (up_to(0), up_to(inf), up_to(start), up_to(floor), up_to(ceiling * (1 - 1e-9))):
        search = RateSearch(precision, start, 1000, floor, ceiling)

        assert len(searched(search, judge).trials) <= needed == search.trials_needed


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        # ln 16 / ln 1.02 is 140, which is halved 8 times; 10⁶ is 2 · 4 · 16⁴ and some more.
        ({}, 1 + 7 + 8),
        ({"precision": 1.0, "start": 2.0, "ceiling": 4.0}, 1 + 1 + 2),
        ({"precision": 1.0, "start": 1.0, "ceiling": 1.0}, 1 + 0 + 2),
    ],
)
def test_the_formula_by_hand(settings: dict[str, float], needed: int) -> None:
    assert RateSearch(**settings).trials_needed == needed  # type: ignore[arg-type]  # most_trials


def test_rates_grow_and_shrink_faster_and_faster() -> None:
    up = searched(RateSearch(start=1, ceiling=2000), up_to(inf))
    down = searched(RateSearch(start=2000), up_to(0))

    assert rates(up) == [1, 2, 8, 128, 2000]
    assert rates(down) == [2000, 1000, 250, 15.625, 1]


def test_bounds_are_halved_geometrically() -> None:
    outcome = searched(RateSearch(0.1, start=100), up_to(150))

    assert rates(outcome) == pytest.approx([100, 200, 2**0.5 * 100, 2**0.75 * 100, 2**0.625 * 100])
    assert [trial.verdict for trial in outcome.trials] == ["pass", "fail", "pass", "fail", "fail"]
    assert (outcome.best, outcome.upper) == pytest.approx((2**0.5 * 100, 2**0.625 * 100))


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        (up_to(inf), "at least 1,000/s, the highest rate that was to be tried"),
        (up_to(0), "no rate passed; the lowest that failed was 1/s"),
        (up_to(0, "invalid"), "unknown: not even at 1/s the generator could keep up"),
        (up_to(250), "200/s; at 400/s it failed"),
        (up_to(250, "invalid"), "at least 200/s; beyond 400/s the generator could not keep up"),
        (up_to(7), "6.25/s; at 12.5/s it failed"),
        (
            lambda rate: "fail" if rate > 20 else "invalid",
            "no rate passed; the lowest that failed was 25/s",
        ),
    ],
)
def test_no_more_is_said_than_was_seen(judge: Callable[[float], Verdict], words: str) -> None:
    assert searched(RateSearch(1.0, start=200, ceiling=1000), judge).words == words


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ([], "nothing was tried"),
        (["pass"], "at least 200/s; the trials ended before a rate failed"),
        (["fail"], "no rate passed; the lowest that failed was 200/s"),
        (
            ["pass", "fail"],
            "between 200/s and 400/s, and the trials ended before it was known more closely",
        ),
        (
            ["pass", "invalid"],
            "at least 200/s; beyond 400/s the generator could not keep up, and the trials ended "
            "before it was known more closely",
        ),
    ],
)
def test_trials_that_ended_too_early_are_told(verdicts: list[Verdict], words: str) -> None:
    search = RateSearch(start=200, most_trials=max(1, len(verdicts)))
    for verdict in verdicts:
        rate = search.next_rate()
        assert rate is not None
        search.tell(rate, verdict)

    assert search.outcome().limited_by == "trials"
    assert search.outcome().words == words


def test_all_trials_are_told_in_order() -> None:
    outcome = searched(RateSearch(1.0, start=100), up_to(50))

    assert outcome.trials == (
        Trial(100, "fail"),
        Trial(50, "pass"),
    )


def test_another_rate_than_the_one_to_be_tried_is_refused() -> None:
    search = RateSearch(start=100)

    with pytest.raises(ValueError, match=r"at 99/s, but 100\.0/s was to be tried"):
        search.tell(99, "pass")
    with pytest.raises(ValueError, match="it can be pass, fail or invalid"):
        search.tell(100, "maybe")  # type: ignore[arg-type]  # nonsense on purpose
    assert (search.next_rate(), search.outcome().trials) == (100, ())


def test_after_the_end_nothing_is_taken() -> None:
    search = RateSearch(start=100, most_trials=1)
    search.tell(100, "pass")

    assert search.next_rate() is None
    with pytest.raises(ValueError, match="the search has ended"):
        search.tell(100, "pass")
    assert len(search.outcome().trials) == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"precision": 0.0}, "give it 0.0001 to 1"),
        ({"precision": nan}, "give it 0.0001 to 1"),
        ({"most_trials": 0}, "give it 1 or more"),
        ({"start": 0.5}, r"give it 1\.0 to"),
        ({"start": nan}, "the search starts at nan"),
        ({"floor": 0.0}, "give it 0 < floor"),
        ({"ceiling": inf}, "give it 0 < floor"),
        ({"floor": 10.0, "ceiling": 5.0}, "give it 0 < floor"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RateSearch(**settings)  # type: ignore[arg-type]  # most_trials
