"""Lanes, and the resequencer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.order import Order, Resequencer, lanes_of

_cuts = st.lists(st.integers(1, 9), max_size=20)


def pieces(positions: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """`positions` cut at `sizes`; rising runs become ranges, as batches have them."""
    cut: list[Sequence[int]] = []
    at = 0
    for size in [*sizes, len(positions)]:
        piece = positions[at : at + size]
        if len(piece):
            run = range(piece[0], piece[0] + len(piece))
            cut.append(run if list(piece) == list(run) else piece)
        at += size
    return cut


@given(st.permutations(range(40)), _cuts)
def test_what_comes_in_any_order_goes_out_in_order_as_soon_as_it_can(
    order: list[int], sizes: list[int]
) -> None:
    sequencer: Resequencer[str] = Resequencer()
    pushed: set[int] = set()
    out: list[str] = []
    for piece in pieces(order, sizes):
        pushed.update(piece)
        out += sequencer.push(piece, [f"result {position}" for position in piece])

        ready = next(position for position in range(41) if position not in pushed)
        assert out == [f"result {position}" for position in range(ready)]
        assert len(sequencer) == len(pushed) - ready
        assert sequencer.next == ready


@given(st.lists(st.integers(0, 9), max_size=30).map(sorted), _cuts)
def test_in_order_input_passes_at_once(counts: list[int], sizes: list[int]) -> None:
    sequencer: Resequencer[int] = Resequencer()
    for piece in pieces(range(len(counts)), sizes):
        assert sequencer.push(piece, iter(piece)) == list(piece)
        assert not len(sequencer)


@given(st.permutations(range(20)), st.sets(st.integers(0, 19), min_size=1))
def test_the_rest_is_in_order_when_something_never_came(order: list[int], lost: set[int]) -> None:
    sequencer: Resequencer[int] = Resequencer()
    out: list[int] = []
    for position in order:
        if position not in lost:
            out += sequencer.push([position], [position])

    assert out == list(range(min(lost)))
    assert sequencer.rest() == [p for p in range(min(lost), 20) if p not in lost]
    assert not len(sequencer)


def test_positions_and_payloads_have_one_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Resequencer[str]().push([1, 2], ["a"])


@pytest.mark.parametrize(
    ("order", "lanes"),
    [("none", None), ("key", ["a", None, 7]), ("partition", [4, 4, 4]), ("global", [0, 0, 0])],
)
def test_each_order_has_its_lanes(order: Order, lanes: list[object] | None) -> None:
    assert lanes_of(order, ["a", None, 7], 4, 3) == lanes
