"""JSON as Hypothesis draws it, and the ways in which it may be spelt."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_texts = st.one_of(
    st.sampled_from(["", "a", "data", '"', ":", ",", '","', '{"data":{}}', "\\", "\n", "é", "😀"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    _texts,
)
_names = st.one_of(
    st.sampled_from(
        ["a", "b", "data", "key", "partitionkey", "type", "id", "seq", "xdata", 'x"data']
    ),
    _texts,
)

json_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(_names, below, max_size=3),
    max_leaves=6,
)

json_objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(_names, json_values, max_size=5)

spellings = st.integers(0, 3)


def dumps(value: Any, spelling: int) -> bytes:
    """JSON on one line: compact or spaced, ASCII or not."""
    marks = (",", ":") if spelling % 2 == 0 else (", ", ": ")
    return json.dumps(value, separators=marks, ensure_ascii=spelling >= 2).encode()
