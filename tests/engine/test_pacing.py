"""When events are due."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.pacing import NS, ConstantPacer, Pacer, TimePacer, due_count

_times = st.lists(st.one_of(st.none(), st.integers(0, 10**13)), max_size=40)
_cuts = st.lists(st.integers(0, 9), max_size=10)


def in_pieces(pacer: Pacer, times: list[int | None], sizes: list[int]) -> list[int]:
    due = []
    at = 0
    for size in [*sizes, len(times)]:
        part = times[at : at + size]
        due += pacer.schedule(at, part, len(part))
        at += len(part)
    return due


@given(st.integers(0, 10**9), st.integers(0, 50), st.floats(1e-3, 1e7))
def test_a_constant_rate_is_kept_to_the_nanosecond(first: int, count: int, rate: float) -> None:
    due = ConstantPacer(rate).schedule(first, None, count)

    assert len(due) == count
    for number, at in enumerate(due, first):
        exact = Fraction(number * NS) / Fraction(rate)
        assert abs(at - exact) <= 1 + exact / 2**52
    assert due == sorted(due)


@given(_times, _cuts, st.floats(0.1, 1e6))
def test_pieces_have_the_schedule_of_the_whole(
    times: list[int | None], sizes: list[int], factor: float
) -> None:
    for make in (ConstantPacer, TimePacer):
        whole = make(factor).schedule(0, times, len(times))
        assert in_pieces(make(factor), times, sizes) == whole


@given(_times, st.sampled_from([0.5, 1.0, 2.0, 60.0]))
def test_events_are_as_far_apart_as_their_times(times: list[int | None], speed: float) -> None:
    due = TimePacer(speed).schedule(0, times, len(times))

    known = [time for time in times if time is not None]
    latest = 0
    for time, at in zip(times, due, strict=True):
        if time is not None:
            latest = max(latest, time - known[0])  # one that is late is due with the one before
        assert abs(at - Fraction(latest) / Fraction(speed)) <= 1
    assert due == sorted(due)


def test_events_without_a_time_are_due_with_the_one_before() -> None:
    assert TimePacer().schedule(0, [None, 5 * NS, None, 7 * NS, 6 * NS], 5) == [
        0,
        0,
        0,
        2 * NS,
        2 * NS,
    ]
    assert TimePacer().schedule(0, None, 3) == [0, 0, 0]


@given(st.lists(st.integers(0, 50)).map(sorted), st.data())
def test_all_that_is_due_is_released_and_no_more(due: list[int], data: st.DataObject) -> None:
    at, now, released = 0, 0, []
    while at < len(due):
        now += data.draw(st.integers(0, 10))
        count = due_count(due, at, now)
        assert all(each <= now for each in due[at : at + count])
        assert at + count == len(due) or due[at + count] > now
        released += due[at : at + count]
        at += count
        if not count:
            now = max(now, due[at])
    assert released == due


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_a_pace_that_means_nothing_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="the rate is"):
        ConstantPacer(factor)
    with pytest.raises(ValueError, match="the speed is"):
        TimePacer(factor)
