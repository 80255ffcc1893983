"""Where runs are killed: as the seed says, spread over the way, with the very start and the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.kill_points import EARLY, draw_points

LATE = ("written", "named")
seeds = st.integers(0, 2**32)
kill_counts = st.integers(1, 40)


@given(seeds, kill_counts, st.integers(0, 10**9), st.integers(0, 10**12))
def test_there_are_as_many_points_as_kills_and_the_late_ones_come_last(
    seed: int, kills: int, calls: int, size: int
) -> None:
    points = draw_points(seed, kills, calls, size)

    assert len(points) == kills
    kinds = [point.kind for point in points]
    late = [kind for kind in kinds if kind in LATE]
    assert kinds[len(kinds) - len(late) :] == late == sorted(late, reverse=True)
    early = sum(kind in EARLY for kind in kinds)
    assert early == len(late) == (max(1, kills // 5) if kills >= 3 else 0)
    assert not early or kinds[0] in EARLY


@given(seeds, kill_counts, st.integers(100, 10**9), st.integers(0, 10**12))
def test_no_sitting_is_so_long_that_the_run_ends_before_its_last_kill(
    seed: int, kills: int, calls: int, size: int
) -> None:
    points = draw_points(seed, kills, calls, size)

    between = [p.latest_call or 0 for p in points if p.kind not in (*EARLY, *LATE)]
    assert sum(between) <= calls * 0.95 + len(between)
    assert all(point.latest_call for point in points if point.kind not in LATE)


def test_the_same_seed_gives_the_same_points_and_another_one_others() -> None:
    assert draw_points(7, 9, 1000, 5000) == draw_points(7, 9, 1000, 5000)
    assert draw_points(7, 9, 1000, 5000) != draw_points(8, 9, 1000, 5000)


@given(seeds, kill_counts)
def test_without_output_nothing_waits_for_some(seed: int, kills: int) -> None:
    points = draw_points(seed, kills, 1000, 0)

    assert {point.kind for point in points} <= {*EARLY, "call", "named"}


def test_all_kinds_of_points_are_drawn() -> None:
    drawn = {point.kind for seed in range(50) for point in draw_points(seed, 5, 1000, 5000)}

    assert drawn == {*EARLY, *LATE, "call", "bytes"}
