"""Drawings: labels have room, and texts in them are texts."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from millstream.reports.html.axes import Axis
from millstream.reports.html.svg import WIDTH, Bar, Curve, Piece, bars, lines

LABEL = re.compile(r'<text x="([\d.]+)" y="268" class="(\w+)( tight)?">([^<]*)</text>')


def extents(drawing: str, character: float, *, tight: bool) -> list[tuple[float, float]]:
    """From where to where each label below the x axis reaches, from left to right."""
    found = []
    for place, side, is_tight, text in LABEL.findall(drawing):
        if tight or not is_tight:
            width, at = len(text) * character, float(place)
            found.append((at - width, at) if side == "end" else (at - width / 2, at + width / 2))
    return sorted(found)


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=20, unique=True),
    st.text("0123456789.% ", min_size=1, max_size=10),
)
def test_labels_of_the_x_axis_have_room_also_where_letters_are_large(
    places: list[int], label: str
) -> None:
    x = Axis(0.0, 1000.0, [(float(place), label) for place in sorted(places)])

    drawing = lines("said", x, Axis(0.0, 1.0, []), [Curve([(0.0, 0.0), (1.0, 1.0)], 0)])

    for character, tight in ((10, False), (10 * 13 / 16, True)):
        shown = extents(drawing, character, tight=tight)
        assert len(shown) > 0 and shown[-1][1] <= WIDTH
        assert all(one[1] <= next_[0] for one, next_ in pairwise(shown))


def test_signs_that_turn_or_hide_text_are_shown_instead_of_obeyed() -> None:
    name = "a\u202eb\x1b[31m<c>"

    drawing = bars("said", [Bar(name, [Piece(1.0, 0, name)], "1")], 1.0)

    assert r"a\u202eb\x1b[31m&lt;c&gt;" in drawing
    assert not {"\u202e", "\x1b", "<c>"} & {
        sign for sign in ("\u202e", "\x1b", "<c>") if sign in drawing
    }
