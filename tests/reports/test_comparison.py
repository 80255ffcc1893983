"""Comparisons say nothing of runs that are alike, find what differs, and are the same from both
sides; on real repeats, on drawn ones, and by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.conditions import ConditionError
from millstream.reports.comparison import Comparison, compare
from millstream.reports.gates import parse_gate
from millstream.reports.intervals import Interval
from tests.support.run_sets import measured, runs_with, set_of

PAIRS, RUNS = 1_000, 10

Figures = Mapping[str, Sequence[float]]

_values = st.floats(1.0, 1e12)
_OPPOSITE = {
    **{"faster": "slower", "slower": "faster", "more": "less", "less": "more"},
    **{"better": "worse", "worse": "better"},
}


def _sets(size: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, list[float]]]:
    names = ("throughput", "service", "cpu_per_event", "rss_peak")

    def of(n: int) -> st.SearchStrategy[dict[str, list[float]]]:
        return st.fixed_dictionaries(
            {name: st.lists(_values, min_size=n, max_size=n) for name in names}
        )

    return size.flatmap(of)


_any_set = _sets(st.integers(5, 9))


def words_of(comparison: Comparison) -> list[str]:
    return [comparison.verdict, *(each.word for each in comparison.figures)]


# --- properties


@given(_sets(st.integers(1, 9)))
def test_a_set_does_not_differ_from_itself(figures: Figures) -> None:
    same = compare(set_of(figures), set_of(figures))

    assert {each.direction for each in same.figures} == {""}
    assert same.verdict in ("no difference shown", "too few runs")


@given(_any_set, _any_set, st.floats(0, 0.2))
def test_from_the_other_side_it_is_the_opposite(a: Figures, b: Figures, noise: float) -> None:
    there = compare(set_of(a), set_of(b), noise=noise)
    back = compare(set_of(b), set_of(a), noise=noise)

    assert words_of(back) == [_OPPOSITE.get(word, word) for word in words_of(there)]


@given(_any_set, _any_set, st.integers(-20, 20))
def test_the_unit_makes_no_difference(a: Figures, b: Figures, exponent: int) -> None:
    def scaled(figures: Figures) -> Figures:
        return {name: [v * 2.0**exponent for v in values] for name, values in figures.items()}

    as_it_is = compare(set_of(a), set_of(b))
    in_another_unit = compare(set_of(scaled(a)), set_of(scaled(b)))

    assert words_of(in_another_unit) == words_of(as_it_is)
    assert [each.percent for each in in_another_unit.figures] == [
        each.percent for each in as_it_is.figures
    ]


# --- real repeats, drawn at random


def _pairs(figures: Figures, chance: np.random.Generator) -> list[tuple[Figures, Figures]]:
    """Of one set of repeats, pairs of sets that have no run in common."""
    names = list(figures)
    table = np.array([figures[name] for name in names])
    pairs = []
    for _ in range(PAIRS):
        drawn = table[:, chance.permutation(table.shape[1])[: 2 * RUNS]]
        one, other = drawn[:, :RUNS], drawn[:, RUNS:]
        pairs.append(
            (
                dict(zip(names, one.tolist(), strict=True)),
                dict(zip(names, other.tolist(), strict=True)),
            )
        )
    return pairs


def _slowed_down(figures: Figures) -> Figures:
    """All times a tenth longer, the throughput less by as much."""

    def factor(name: str) -> float:
        return 1 / 1.1 if name == "throughput" else 1.0 if name == "rss_peak" else 1.1

    return {name: [v * factor(name) for v in values] for name, values in figures.items()}


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_of_real_repeats_that_are_alike_no_difference_is_shown(kind: str) -> None:
    pairs = _pairs(measured(kind), np.random.default_rng(1))

    verdicts = Counter(compare(set_of(a), set_of(b)).verdict for a, b in pairs)

    assert verdicts["no difference shown"] >= 0.95 * PAIRS, verdicts


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_a_true_slow_down_by_a_tenth_is_found_in_real_repeats(kind: str) -> None:
    pairs = _pairs(measured(kind), np.random.default_rng(2))

    verdicts = Counter(compare(set_of(a), set_of(_slowed_down(b))).verdict for a, b in pairs)

    assert verdicts["slower"] >= 0.9 * PAIRS, verdicts


# --- synthetic repeats: log-normal, each figure on its own, so that errors add up at worst


def _drawn(chance: np.random.Generator, runs: int, spread: float) -> dict[str, list[float]]:
    middles = {"throughput": 30_000, "service": 33_000, "cpu_per_event": 35_000}
    return {
        name: (middle * chance.lognormal(0, spread, runs)).tolist()
        for name, middle in middles.items()
    }


@pytest.mark.parametrize("runs", [5, 10, 20])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_of_drawn_repeats_that_are_alike_no_difference_is_shown(runs: int, noise: float) -> None:
    chance = np.random.default_rng([3, runs])
    verdicts: Counter[str] = Counter()
    for _ in range(PAIRS):
        a, b = (set_of(_drawn(chance, runs, 0.05)) for _ in range(2))
        verdicts[compare(a, b, noise=noise).verdict] += 1

    # 95 % or more, and three deviations less by chance: 2 %.
    assert verdicts["no difference shown"] >= 0.93 * PAIRS, verdicts


def test_a_true_slow_down_by_a_tenth_is_found_in_drawn_repeats() -> None:
    chance = np.random.default_rng(4)
    verdicts: Counter[str] = Counter()
    for _ in range(PAIRS):
        a, b = (_drawn(chance, RUNS, 0.05) for _ in range(2))
        verdicts[compare(set_of(a), set_of(_slowed_down(b))).verdict] += 1

    assert verdicts["slower"] >= 0.9 * PAIRS, verdicts


# --- by hand


def around(middle: float) -> list[float]:
    """Seven runs within a thousandth."""
    return [middle * (1 + place / 3000) for place in range(-3, 4)]


def test_the_shift_of_a_figure_by_hand() -> None:
    base, candidate = (
        runs_with(service=[10, 20, 30, 40, 50]),
        runs_with(service=[61, 62, 63, 64, 65]),
    )

    (service,) = compare(base, candidate).primary

    # One figure is a family of one: 95 %, of five runs each without the two outermost differences
    # on each side, which has an error of 2 × 4/252 = 3.2 %.
    assert (service.base.value, service.candidate.value, service.shift.value) == (30, 63, 33)
    assert service.shift.interval == Interval(13, 53)
    assert service.percent == (110, Interval(100 * 13 / 30, 100 * 53 / 30))
    assert (service.word, service.direction, service.level) == ("slower", "worse", 0.95)


def test_each_figure_of_a_family_of_three_has_a_higher_level() -> None:
    figures = {name: around(100) for name in ("throughput", "service", "cpu_per_event")}

    comparison = compare(set_of(figures), set_of(figures))

    assert [each.level for each in comparison.primary] == [pytest.approx(1 - 0.05 / 3)] * 3


@pytest.mark.parametrize(
    ("base", "candidate", "verdict"),
    [
        ({"throughput": 100, "service": 10}, {"throughput": 110, "service": 10}, "faster"),
        ({"throughput": 100, "service": 10}, {"throughput": 90, "service": 10}, "slower"),
        ({"throughput": 100, "service": 10}, {"throughput": 110, "service": 12}, "mixed"),
        ({"throughput": 100, "service": 10}, {"throughput": 110, "service": 9}, "faster"),
        ({"throughput": 100, "service": 10}, {"throughput": 100.5, "service": 10}, "noise"),
        ({"throughput": 100, "service": 10}, {"throughput": 100, "service": 10}, "no difference"),
    ],
)
def test_the_primary_figures_make_the_verdict(
    base: dict[str, float], candidate: dict[str, float], verdict: str
) -> None:
    before, after = (
        set_of({name: around(middle) for name, middle in each.items()})
        for each in (base, candidate)
    )

    assert verdict in compare(before, after).verdict


def test_additional_figures_are_told_and_have_no_say_in_the_verdict() -> None:
    base = set_of({"service": around(10), "rss_peak": around(100)})
    candidate = set_of({"service": around(10), "rss_peak": around(200)})

    comparison = compare(base, candidate)

    assert [each.word for each in comparison.additional] == ["more"]
    assert comparison.verdict == "no difference shown"


def test_with_a_schedule_response_times_make_the_verdict_and_throughput_does_not() -> None:
    def load(throughput: float) -> dict[str, list[float]]:
        return {
            "throughput": around(throughput),
            **{"response.p50": around(5), "response.p99": around(9), "cpu_per_event": around(3)},
        }

    comparison = compare(set_of(load(100)), set_of(load(200)))

    assert [each.figure.name for each in comparison.primary] == [
        *("response.p50", "response.p99", "cpu_per_event")
    ]
    assert comparison.verdict == "no difference shown"
    (throughput,) = comparison.additional
    assert (throughput.word, throughput.note) == ("faster", "by schedule: what was offered")


def test_a_figure_that_a_gate_names_is_a_primary_one() -> None:
    base = set_of({"service": around(10), "rss_peak": around(100)})
    candidate = set_of({"service": around(10), "rss_peak": around(200)})

    comparison = compare(base, candidate, gates=[parse_gate("rss_peak worse by 50%")])

    assert [each.figure.name for each in comparison.primary] == ["service", "rss_peak"]
    assert comparison.verdict == "worse"
    assert [each.state for each in comparison.gates] == ["held"]


def test_a_gate_on_a_figure_that_runs_do_not_have_is_refused() -> None:
    runs = set_of({"service": around(10)})

    with pytest.raises(
        ConditionError, match=r"not all of these runs have response\.p99; they have"
    ):
        compare(runs, runs, gates=[parse_gate("response.p99 worse by 5%")])


def test_a_figure_that_one_run_lacks_is_not_compared() -> None:
    whole = set_of({"throughput": around(10), "service": around(5), "cpu_per_event": around(3)})
    older = set_of({"throughput": around(10), "service": around(5)}, "older")

    comparison = compare(whole, older)

    assert [each.figure.name for each in comparison.figures] == ["throughput", "service"]
    assert comparison.notes == ("not all runs have cpu_per_event: not compared by that",)


def test_few_runs_say_nothing_and_that_they_are_few() -> None:
    few = set_of({"service": [1, 2, 3, 4]})

    comparison = compare(few, set_of({"service": [11, 12, 13, 14]}))

    assert comparison.verdict == "too few runs"
    assert comparison.primary[0].shift.why == "4 runs, and an interval needs 5 or more"


def test_counts_that_are_nowhere_are_not_told() -> None:
    none = set_of({"service": around(5), "dead_letters": [0] * 7})
    some = set_of({"service": around(5), "dead_letters": [0, 0, 0, 0, 0, 0, 1]})

    assert [each.figure.name for each in compare(none, none).figures] == ["service"]
    assert [each.figure.name for each in compare(none, some).additional] == ["dead_letters"]


def test_of_a_median_of_nothing_there_is_no_percentage() -> None:
    none = set_of({"service": [0, 0, 0, 0, 0]})

    (service,) = compare(none, set_of({"service": [1, 2, 3, 4, 5]})).primary

    assert service.percent is None
    assert service.word == "slower"


@pytest.mark.parametrize(
    ("noise", "word"), [(0.0, "slower"), (0.01, "slower"), (0.05, "within the noise threshold")]
)
def test_a_difference_counts_beyond_the_noise_threshold(noise: float, word: str) -> None:
    comparison = compare(
        set_of({"service": around(100)}), set_of({"service": around(104)}), noise=noise
    )

    assert comparison.verdict == word
