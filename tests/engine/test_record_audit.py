"""Events of a record by completion: against a plain sort, in chunks of all sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.price import Completions
from millstream.engine.record_audit import by_completion


@st.composite
def events(draw: st.DrawFn) -> list[tuple[int, str, int, int]]:
    """Sequence, key ("": none), admitted and completed (0: never), in order of arrival."""
    now, found = 1, []
    for sequence in range(draw(st.integers(0, 40))):
        now += draw(st.integers(0, 3))
        never = draw(st.integers(0, 9)) == 0
        completed = 0 if never else now + draw(st.integers(0, 20))
        found.append((sequence, draw(st.sampled_from(["", "a", "b", "c"])), now, completed))
    return found


def chunks(
    rows: Sequence[tuple[int, str, int, int]], sizes: Sequence[int]
) -> Iterator[Completions]:
    at = 0
    for size in [*sizes, len(rows)]:
        part = rows[at : at + size]
        at += size
        if part:
            keys = sorted({key for _, key, _, _ in part if key})
            yield Completions(
                np.array([row[0] for row in part]),
                np.array([keys.index(row[1]) if row[1] else -1 for row in part]),
                keys,
                np.array([row[2] for row in part]),
                np.array([row[3] for row in part]),
            )


@settings(max_examples=200)
@given(events(), st.lists(st.integers(1, 9), max_size=10))
def test_events_come_by_completion(rows: list[tuple[int, str, int, int]], sizes: list[int]) -> None:
    came = [
        (int(sequence), chunk.keys[key] if key >= 0 else "", int(completed))
        for chunk in by_completion(chunks(rows, sizes))
        for sequence, key, completed in zip(
            chunk.sequence, chunk.key, chunk.completed_ns, strict=True
        )
    ]

    expected = sorted((row for row in rows if row[3]), key=lambda row: row[3])
    assert [completed for *_, completed in came] == [row[3] for row in expected]
    assert sorted(came) == sorted((row[0], row[1], row[3]) for row in expected)
