"""How many events of a load without a schedule are in hand: some tenths of a second's work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.load import Window


@given(st.floats(10, 1e7))
def test_the_window_settles_at_some_tenths_of_a_second(rate: float) -> None:
    window = Window()
    for _ in range(100):
        window.drained(int(window.size / 2 / rate * 1e9))

    held_s = window.size / rate
    assert held_s >= 0.2 or window.size == Window.MOST
    assert held_s <= 1.0 or window.size == Window.LEAST
