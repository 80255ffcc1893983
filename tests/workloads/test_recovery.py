"""How long after a fault all is as it was, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.workloads.recovery import SLACK, STAYS_NS, Recovery, recoveries

MS = 1_000_000
NS = 1_000_000_000
INTERVAL = 250 * MS
OBJECTIVE = 50 * MS


def result(
    response: list[int | None],
    backlog: list[int] | None = None,
    at_ns: tuple[int, ...] = (2 * NS,),
    interval_ns: int = INTERVAL,
) -> dict[str, Any]:
    """A fault at each of `at_ns`; by interval the response at p99, in ms, and the backlog."""
    return {
        "load": {"elapsed_ns": len(response) * interval_ns},
        "series": {
            "interval_ns": interval_ns,
            "response_p99": [None if each is None else each * MS for each in response],
            "backlog": backlog or [0] * len(response),
        },
        "faults": [{"text": "kill-worker@2s", "windows": [[at, at + 1] for at in at_ns]}],
    }


def recovery(made: dict[str, Any], objective_ns: int | None = OBJECTIVE) -> Recovery:
    (found,) = recoveries(made, objective_ns)
    return found


def test_it_is_back_when_it_stays_within_its_bounds() -> None:
    """Eight intervals of calm, three of trouble, then calm: 750 ms."""
    found = recovery(result([10] * 8 + [90, 200, 51] + [50] * 8))

    assert found == Recovery("kill-worker@2s", 2 * NS, 750 * MS, OBJECTIVE, 1)


def test_a_moment_within_its_bounds_is_no_recovery() -> None:
    calm_for = int(STAYS_NS / INTERVAL)

    short = recovery(result([10] * 8 + [90] + [10] * (calm_for - 1) + [90] + [10] * 8))
    long = recovery(result([10] * 8 + [90] + [10] * calm_for + [90] + [10] * 8))

    assert short.recovered_ns == (1 + calm_for) * INTERVAL
    assert long.recovered_ns == INTERVAL


def test_a_backlog_that_is_not_worked_off_is_no_recovery() -> None:
    backlog = [4] * 8 + [500, 400, 300, 200, 100, 8, 8, 8, 8]

    found = recovery(result([10] * len(backlog), backlog))

    assert found.backlog_bound == SLACK * 4
    assert found.recovered_ns == 5 * INTERVAL


def test_what_comes_to_the_end_of_the_load_stays() -> None:
    assert recovery(result([10] * 8 + [90, 90, 10])).recovered_ns == 2 * INTERVAL
    assert recovery(result([10] * 8 + [90, 90])).recovered_ns is None
    assert recovery(result([10] * 8 + [90, 10, 90])).recovered_ns is None


def test_an_interval_in_which_nothing_was_finished_is_no_recovery() -> None:
    assert recovery(result([10] * 8 + [None, None] + [10] * 4)).recovered_ns == 2 * INTERVAL


def test_a_fault_that_changed_nothing_took_no_time() -> None:
    assert recovery(result([10] * 16)).recovered_ns == 0


def test_time_counts_from_the_fault_and_not_from_its_interval() -> None:
    found = recovery(result([10] * 8 + [90, 90] + [10] * 8, at_ns=(2 * NS + 100 * MS,)))

    assert found.at_ns == 2 * NS + 100 * MS
    assert found.recovered_ns == 400 * MS


def test_without_an_objective_the_bound_is_twice_the_median_before() -> None:
    before: list[int | None] = [10, 12, None, 14, 16, 500, 1, 13]

    found = recovery(result(before + [27, 26] + [26] * 4), None)

    assert found.response_bound_ns == 2 * 13 * MS
    assert found.recovered_ns == INTERVAL


def test_what_was_usual_is_that_of_the_last_20_intervals() -> None:
    made = result([900] * 100 + [10] * 20 + [90] + [20] * 8, at_ns=(120 * INTERVAL,))

    found = recovery(made, None)

    assert found.response_bound_ns == 20 * MS
    assert found.recovered_ns == INTERVAL


@pytest.mark.parametrize("objective_ns", [OBJECTIVE, None])
def test_a_fault_after_the_load_has_no_recovery(objective_ns: int | None) -> None:
    assert recovery(result([10] * 4, at_ns=(9 * NS,)), objective_ns).recovered_ns is None


def test_each_window_of_each_fault_has_its_own_in_order_of_time() -> None:
    made = result([10] * 4 + [90] + [10] * 7 + [90, 90] + [10] * 6, at_ns=(3 * NS, NS))
    made["faults"].append({"text": "slow@2s", "windows": [[2 * NS, 2 * NS]]})

    found = recoveries(made, OBJECTIVE)

    assert [(each.fault, each.at_ns) for each in found] == [
        ("kill-worker@2s", NS),
        ("slow@2s", 2 * NS),
        ("kill-worker@2s", 3 * NS),
    ]
    assert [each.recovered_ns for each in found] == [INTERVAL, 0, 2 * INTERVAL]


def test_no_faults_no_recoveries() -> None:
    made = result([10] * 8)
    del made["faults"]

    assert recoveries(made, None) == []


def test_long_intervals_count_for_as_long_as_they_are() -> None:
    """The series of a long trial is joined: then one of two seconds is enough."""
    found = recovery(
        result([10, 10, 90, 10, 90, 90], at_ns=(4 * NS,), interval_ns=2 * NS), OBJECTIVE
    )

    assert found.recovered_ns == 2 * NS


def test_a_fault_that_goes_on_to_the_end_leaves_nothing_to_recover_from() -> None:
    made = result([10] * 16)
    made["faults"][0]["windows"] = [[0, 16 * INTERVAL]]

    assert recoveries(made, OBJECTIVE) == []
