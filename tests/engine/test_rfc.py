"""The oracle of audits, held to the examples that RFC 4737 and RFC 5236 work out themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests.support.rfc import (
    Arrival,
    Number,
    audit_slowly,
    buffer_occupancies,
    discontinuities,
    displacements,
    extents,
    first_copies,
    free_runs,
    gaps,
    is_n_reordered,
    late_times,
    n_reordered,
    receive_indexes,
    reordered_indexes,
    streams,
)

TABLE_1 = [1, 2, 3, 5, 6, 7, 8, 4, 9, 10]
TIMES_1 = [68, 88, 108, 148, 168, 188, 208, 210, 228, 248]
TABLE_2 = [1, 2, 3, 4, 7, 5, 6, 8, 9, 10]
TIMES_2 = [68, 88, 108, 128, 188, 189, 190, 208, 228, 248]
TABLE_3 = [1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 11]
TIMES_3 = [68, 88, 108, 188, 208, 228, 248, 250, 252, 256, 268]
TABLE_4 = [1, 2, 3, 6, 7, 4, 5, 8, 9, 10, 12, 13, 11, 14, 15, 16]

NOTHING_REORDERED: dict[str, Any] = {
    "reordered": 0,
    "reordered_ratio": 0.0,
    "extent": {"max": 0, "counts": {}},
    "late_time": {"max": None, "mean": None},
    "n_reordering": {},
    "gaps": {"max": 0, "counts": {}},
}


def arrived(
    numbers: Sequence[Number], times: Sequence[int | None] | None = None, key: str = "a"
) -> list[Arrival]:
    times = times or [None] * len(numbers)
    return [Arrival(key, number, time) for number, time in zip(numbers, times, strict=True)]


def uncopied(numbers: Sequence[int]) -> list[int]:
    return [int(arrival.number) for arrival in first_copies(arrived(numbers))]


def by_number(numbers: Sequence[int], by_index: dict[int, Any]) -> dict[int, Any]:
    return {numbers[i - 1]: value for i, value in by_index.items()}


def n_of(numbers: Sequence[int]) -> dict[int, int]:
    """Each n-reordered number, and the largest n."""
    largest = {
        i: max((n for n in range(1, i) if is_n_reordered(numbers, i, n)), default=0)
        for i in range(1, len(numbers) + 1)
    }
    return by_number(numbers, {i: n for i, n in largest.items() if n})


# --- RFC 4737


def test_table_1_has_one_reordered_arrival():
    assert by_number(TABLE_1, extents(TABLE_1)) == {4: 4}
    assert by_number(TABLE_1, late_times(arrived(TABLE_1, TIMES_1))) == {4: 62}
    assert n_of(TABLE_1) == {4: 4}


def test_table_2_has_two_reordered_arrivals_with_one_discontinuity():
    assert by_number(TABLE_2, extents(TABLE_2)) == {5: 1, 6: 2}
    assert by_number(TABLE_2, late_times(arrived(TABLE_2, TIMES_2))) == {5: 1, 6: 2}
    assert by_number(TABLE_2, discontinuities(TABLE_2)) == {5: 5, 6: 5}
    assert n_of(TABLE_2) == {5: 1}


def test_table_3_has_three_reordered_arrivals_of_which_one_is_n_reordered():
    assert by_number(TABLE_3, extents(TABLE_3)) == {4: 4, 5: 5, 6: 6}
    assert by_number(TABLE_3, late_times(arrived(TABLE_3, TIMES_3))) == {4: 62, 5: 64, 6: 68}
    assert by_number(TABLE_3, discontinuities(TABLE_3)) == {4: 4, 5: 4, 6: 4}
    assert n_of(TABLE_3) == {4: 4}


def test_table_4_has_a_gap_between_two_discontinuities():
    assert by_number(TABLE_4, extents(TABLE_4)) == {4: 2, 5: 3, 11: 2}
    assert by_number(TABLE_4, discontinuities(TABLE_4)) == {4: 4, 5: 4, 11: 11}
    assert gaps(TABLE_4) == [7]
    # Runs of 5, 0 and 5; the run of 3 at the end is open.
    assert free_runs(TABLE_4) == {"reordered": 3, "accepted": 13, "arrivals": 16, "q": 50}


def test_three_runs_of_eleven():
    """Section 4.6.4, the first illustration."""
    numbers = [*range(2, 13), 1, *range(14, 25), 13, *range(26, 37), 25]

    assert free_runs(numbers) == {"reordered": 3, "accepted": 33, "arrivals": 36, "q": 363}


def test_two_short_runs_and_a_long_one():
    """Section 4.6.4, the second illustration."""
    numbers = [2, 1, 4, 3, *range(6, 37), 5]

    assert free_runs(numbers) == {"reordered": 3, "accepted": 33, "arrivals": 36, "q": 963}


def test_of_a_reordered_block_only_the_first_is_n_reordered():
    """Section 5.3, the note on definition 1."""
    numbers = [1, 2, 3, 7, 8, 9, 4, 5, 6]

    assert by_number(numbers, extents(numbers)).keys() == {4, 5, 6}
    assert n_of(numbers) == {4: 3}
    assert n_reordered(numbers) == {1: 1, 2: 1, 3: 1}


def test_lost_ones_alone_reorder_nothing():
    """Section 6; the arrivals of RFC 5236, section 2 b."""
    audit = audit_slowly(arrived([1, 3, 4, 5, 6]), scope="global", threshold=4)

    assert audit.items() >= NOTHING_REORDERED.items()
    assert audit["discontinuities"] == {"count": 1, "missing": 1}


def test_the_first_arrival_is_in_order_and_no_discontinuity():
    """Section 3.6: NextExp is not defined yet."""
    audit = audit_slowly(arrived([1000, 1001, 1002]), scope="global", threshold=4)

    assert audit.items() >= NOTHING_REORDERED.items()
    assert audit["discontinuities"] == {"count": 0, "missing": 0}


def test_a_discontinuity_is_as_large_as_what_is_missing_when_it_comes():
    """Section 3.4; the arrivals of section 4.3.4, of which one comes after all."""
    audit = audit_slowly(arrived([1, 10, 5, 13]), scope="global", threshold=4)

    assert audit["discontinuities"] == {"count": 2, "missing": 8 + 2}


def test_discontinuities_have_a_gap_whichever_was_found_first():
    numbers = [1, 3, 6, 5, 2]  # 5 finds 6 first, and then 2 finds 3

    assert by_number(numbers, discontinuities(numbers)) == {5: 3, 2: 2}
    assert gaps(numbers) == [1]


# --- RFC 5236


@pytest.mark.parametrize(
    ("numbers", "indexes"),
    [
        ([2, 1, 4, 5, 3], [1, 2, 3, 4, 5]),
        ([1, 4, 3, 5, 3], [1, 3, 4, 5]),
        ([1, 4, 3, 5, 3, 8, 7, 6], [1, 3, 4, 5, 6, 7, 8]),
        ([1, 2, 3, 5, 4, 6], [1, 2, 3, 4, 5, 6]),
        ([1, 2, 5, 3, 6, 2], [1, 2, 3, 5, 6]),
    ],
    ids=["1", "2", "3", "4", "5"],
)
@pytest.mark.parametrize("threshold", [2, 3, 4, 100])
def test_receive_indexes_of_the_examples(numbers: list[int], indexes: list[int], threshold: int):
    """Sections 3.1, 3.3 and 4, which name no threshold."""
    found = receive_indexes(uncopied(numbers), threshold)

    assert found == list(zip(uncopied(numbers), indexes, strict=True))


def test_displacements_of_example_3():
    numbers = uncopied([1, 4, 3, 5, 3, 8, 7, 6])

    assert displacements(numbers, 4) == [0, -1, 1, 0, -2, 0, 2]


def test_displacements_of_examples_4_and_5():
    assert displacements([1, 2, 3, 5, 4, 6], 4) == [0, 0, 0, -1, 1, 0]
    assert displacements(uncopied([1, 2, 5, 3, 6, 2]), 4) == [0, 0, -2, 2, 0]


def test_the_buffer_empties_when_the_missing_one_comes():
    """Section 3.8."""
    assert buffer_occupancies([1, 2, 4, 5, 3], 4) == [0, 0, 1, 2, 0]


def test_scenario_a_has_no_loss():
    """Section 8 a, tables 1 and 3."""
    numbers = [1, 4, 2, 5, 3, 6, 7, 8]

    assert [index for _, index in receive_indexes(numbers, 4)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert displacements(numbers, 4) == [0, -2, 1, -1, 2, 0, 0, 0]
    assert buffer_occupancies(numbers, 4) == [0, 1, 1, 2, 0, 0, 0, 0]


def test_scenario_b_has_a_loss():
    """Section 8 b, tables 5 and 6."""
    numbers = [1, 2, 4, 5, 6, 7]

    assert [index for _, index in receive_indexes(numbers, 3)] == [1, 2, 4, 5, 6, 7]
    assert displacements(numbers, 3) == [0, 0, 0, 0, 0, 0]
    assert buffer_occupancies(numbers, 3) == [0, 0, 1, 2, 3, 0]


def test_scenario_c_has_a_duplicate():
    """Section 8 c, tables 7 and 8."""
    numbers = uncopied([1, 3, 2, 3, 4, 5])

    assert receive_indexes(numbers, 2) == [(1, 1), (3, 2), (2, 3), (4, 4), (5, 5)]
    assert displacements(numbers, 2) == [0, -1, 1, 0, 0]
    assert buffer_occupancies(numbers, 2) == [0, 1, 0, 0, 0]


def test_a_number_far_off_has_no_displacement_and_displaces_no_other():
    """Section 6: (1, 5430, 2, 3, ...)."""
    assert receive_indexes([1, 5430, 2, 3, 4, 5], 3) == [(n, n) for n in [1, 2, 3, 4, 5]]


def test_what_comes_later_than_the_threshold_is_lost():
    """Section 6."""
    numbers = [1, 3, 4, 5, 6, 2, 7]

    assert displacements(numbers, 3) == [0, 0, 0, 0, 0, 0]
    assert displacements(numbers, 4) == [0, -1, -1, -1, -1, 4, 0]
    assert buffer_occupancies(numbers, 3) == [0, 1, 2, 3, 0, 0]
    assert buffer_occupancies(numbers, 4) == [0, 1, 2, 3, 4, 0, 0]


def test_a_full_buffer_stores_what_comes_in_the_place_of_what_it_releases():
    """Section 3.8; by the letter of section 7.2 it would be forgotten: [0, 1, 2, 1, 0, 0]."""
    assert buffer_occupancies([1, 3, 5, 9, 4, 6], 2) == [0, 1, 2, 2, 1, 1]


@pytest.mark.parametrize("start", [-1000, -1, 0, 1, 7, 1000])
def test_densities_do_not_depend_on_where_a_sequence_begins(start: int):
    numbers = [start - 1 + number for number in [1, 4, 2, 5, 3, 6, 7, 8]]

    assert displacements(numbers, 4) == [0, -2, 1, -1, 2, 0, 0, 0]
    # From 2 to BT + 1 the first arrival counts as early.
    assert buffer_occupancies(numbers, 4) == [0, 1, 1, 2, 0, 0, 0, 0]


def test_the_first_arrival_may_be_early():
    assert receive_indexes([3, 1, 2, 4], 2) == [(3, 1), (1, 2), (2, 3), (4, 4)]
    assert buffer_occupancies([3, 1, 2, 4], 2) == [1, 1, 0, 0]


def test_the_first_arrival_is_expected_when_it_is_beyond_the_threshold():
    assert buffer_occupancies([4, 5, 3, 6], 2) == [0, 0, 0]


# --- the whole audit


def test_one_reordered_arrival_with_times():
    audit = audit_slowly(arrived(TABLE_1, TIMES_1), scope="global", threshold=4)

    assert audit == {
        "events": 10,
        "keys": 1,
        "reordered": 1,
        "reordered_ratio": 0.1,
        "duplicates": 0,
        "discontinuities": {"count": 1, "missing": 1},
        "extent": {"max": 4, "counts": {4: 1}},
        "late_time": {"max": 62, "mean": 62.0},
        "n_reordering": {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1},
        "free_runs": {"reordered": 1, "accepted": 9, "arrivals": 10, "q": 49},
        "gaps": {"max": 0, "counts": {}},
        "reorder_density": {"threshold": 4, "counts": {0: 5, -1: 4, 4: 1}},
        "buffer_occupancy": {"threshold": 4, "counts": {0: 6, 1: 1, 2: 1, 3: 1, 4: 1}},
    }


def test_densities_of_early_and_late_ones():
    audit = audit_slowly(arrived([1, 4, 2, 5, 3, 6, 7, 8]), scope="global", threshold=4)

    assert audit["reorder_density"] == {"threshold": 4, "counts": {-2: 1, -1: 1, 0: 4, 1: 1, 2: 1}}
    assert audit["buffer_occupancy"] == {"threshold": 4, "counts": {0: 5, 1: 2, 2: 1}}


@pytest.mark.parametrize("scope", ["global", "key"])
def test_nothing_arrived(scope: Any):
    audit = audit_slowly([], scope=scope, threshold=4)

    assert audit == {
        **NOTHING_REORDERED,
        "events": 0,
        "keys": 0,
        "duplicates": 0,
        "discontinuities": {"count": 0, "missing": 0},
        "free_runs": {"reordered": 0, "accepted": 0, "arrivals": 0, "q": 0},
        "reorder_density": {"threshold": 4, "counts": {}},
        "buffer_occupancy": {"threshold": 4, "counts": {}},
    }


def test_keys_are_audited_apart_and_added_up():
    one, other = arrived(TABLE_1, TIMES_1, "a"), arrived(TABLE_3, TIMES_3, "b")

    audit = audit_slowly([*one, *other, one[3]], scope="key", threshold=4)

    assert audit["events"] == 22
    assert audit["keys"] == 2
    assert audit["duplicates"] == 1
    assert audit["reordered"] == 4
    assert audit["reordered_ratio"] == 4 / 21
    assert audit["discontinuities"] == {"count": 2, "missing": 1 + 3}
    assert audit["extent"] == {"max": 6, "counts": {4: 2, 5: 1, 6: 1}}
    assert audit["late_time"] == {"max": 68, "mean": (62 + 62 + 64 + 68) / 4}
    assert audit["n_reordering"] == {1: 2 / 21, 2: 2 / 21, 3: 2 / 21, 4: 2 / 21}
    assert audit["free_runs"] == {"reordered": 4, "accepted": 17, "arrivals": 21, "q": 98}


def test_a_number_that_two_keys_have_is_a_duplicate_when_there_is_one_sequence():
    arrivals = [*arrived([1, 2], key="a"), *arrived([1, 2], key="b")]

    assert audit_slowly(arrivals, scope="global", threshold=4)["duplicates"] == 2
    assert audit_slowly(arrivals, scope="key", threshold=4)["duplicates"] == 0


def test_late_times_need_both_times():
    arrivals = arrived([2, 1, 4, 3, 6, 5], [None, 10, 20, None, 30, 25])

    assert late_times(arrivals) == {6: -5}


def test_text_is_compared_and_never_counted():
    audit = audit_slowly(arrived(["a1", "a9", "a10", "b"]), scope="global", threshold=4)

    assert audit["reordered"] == 1
    assert audit["extent"] == {"max": 1, "counts": {1: 1}}
    assert audit["discontinuities"] == {"count": None, "missing": None}
    assert audit["reorder_density"] == {"threshold": 4, "counts": None}
    assert audit["buffer_occupancy"] == {"threshold": 4, "counts": None}


def test_text_is_compared_by_code_point():
    assert reordered_indexes(["\uffff", "\U00010000"]) == []  # UTF-16 has it the other way round


# --- what is drawn


@given(st.booleans().flatmap(lambda text: streams(text=text)), st.sampled_from(["global", "key"]))
def test_measures_agree_with_each_other(arrivals: list[Arrival], scope: Any):
    audit = audit_slowly(arrivals, scope=scope, threshold=len(arrivals))
    runs, received = audit["free_runs"], audit["events"] - audit["duplicates"]

    assert runs["reordered"] == audit["reordered"] == sum(audit["extent"]["counts"].values())
    assert runs["reordered"] + runs["accepted"] == runs["arrivals"] == received
    assert audit["extent"]["max"] >= max(audit["n_reordering"], default=0)
    assert sorted(audit["n_reordering"].values(), reverse=True) == [*audit["n_reordering"].values()]


@given(streams(), st.integers(0, 10))
def test_densities_count_no_arrival_twice_and_stay_within_the_threshold(
    arrivals: list[Arrival], threshold: int
):
    audit = audit_slowly(arrivals, scope="global", threshold=threshold)
    received = audit["events"] - audit["duplicates"]

    for name, lowest in (("reorder_density", -threshold), ("buffer_occupancy", 0)):
        counts = audit[name]["counts"]
        assert sum(counts.values()) <= received
        assert all(lowest <= value <= threshold for value in counts)


@given(st.permutations(range(1, 31)))
def test_displacements_are_places_when_nothing_is_lost(numbers: list[int]):
    """RFC 5236, section 5: a threshold as long as the sequence shows all of it."""
    assert displacements(numbers, 30) == [i - s for i, s in enumerate(numbers, 1)]


def _audit(arrivals: list[Arrival], scope: Any = "key") -> dict[str, Any]:
    return audit_slowly(arrivals, scope=scope, threshold=4)


SHOWN: dict[str, Callable[[list[Arrival]], bool]] = {
    "nothing": lambda arrivals: not arrivals,
    "order": lambda arrivals: len(arrivals) > 20 and _audit(arrivals)["reordered"] == 0,
    "keys": lambda arrivals: _audit(arrivals)["keys"] == 4,
    "dense keys": lambda arrivals: _audit(arrivals, "global")["duplicates"] > 4,
    "copies": lambda arrivals: _audit(arrivals)["duplicates"] == 2,
    "a number far off": lambda arrivals: _audit(arrivals)["discontinuities"]["missing"] > 200,
    "late ones": lambda arrivals: max(_audit(arrivals)["n_reordering"], default=0) > 4,
    "gaps": lambda arrivals: _audit(arrivals)["gaps"]["max"] > 4,
    "displacement": lambda arrivals: 4 in _audit(arrivals)["reorder_density"]["counts"],
    "a full buffer": lambda arrivals: 4 in _audit(arrivals)["buffer_occupancy"]["counts"],
    "clocks": lambda arrivals: (_audit(arrivals)["late_time"]["max"] or 0) < 0,
    "no times": lambda arrivals: len(arrivals) > 20 and all(each.time is None for each in arrivals),
    "a negative number": lambda arrivals: any(arrival.number == -3 for arrival in arrivals),
    "a large number": lambda arrivals: any(arrival.number == 1000 for arrival in arrivals),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_what_is_drawn_shows_all_kinds_of_disorder(kind: str):
    looking = settings(max_examples=2000, database=None, phases=[Phase.generate])

    find(streams(), SHOWN[kind], settings=looking, random=Random(0))
