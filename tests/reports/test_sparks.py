"""Sparklines show heights, gaps and peaks."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.reports.sparks import BLOCKS, GAP, sparkline

_values = st.lists(st.none() | st.floats(0, 1e12), max_size=200)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([0.0, 0.0], "▁▁"),
        ([1, 2, 3, 4, 5, 6, 7, 8], "▂▃▄▅▆▇██"),
        ([8, None, 1, None], "█ ▂"),
        ([-1, 4], "▁█"),
        ([None], ""),
    ],
)
def test_heights_are_shares_of_the_largest(values: list[float | None], shown: str) -> None:
    assert sparkline(values, 10, max) == shown


def test_a_long_course_is_merged_as_asked() -> None:
    values = [0.0] * 99 + [10.0]

    assert sparkline(values, 10, max) == "▁▁▁▁▁▁▁▁▁█"
    assert sparkline([4.0, 0.0, 2.0, 2.0], 2, fmean) == "██"
    assert sparkline([4.0, None, None, None], 2, fmean) == "█"


@given(_values, st.integers(1, 50))
def test_it_is_never_wider_than_asked_and_shows_the_peak(
    values: list[float | None], width: int
) -> None:
    shown = sparkline(values, width, max)

    assert len(shown) <= min(width, len(values))
    assert set(shown) <= {*BLOCKS, GAP}
    if any(values):
        assert BLOCKS[-1] in shown
