"""The window of ids: exact within its bound, and the same after any interruption."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.dedupe import Dedupe, DedupeState

ids = st.one_of(st.none(), st.integers(0, 6), st.sampled_from(["", "0", "1", "2"]))
streams = st.lists(ids, max_size=60)
windows = st.integers(1, 6)


def expected(stream: list[Any], window: int) -> list[bool]:
    """By the definition: ids in a list, oldest first, cut to the window."""
    seen: list[tuple[type, Any]] = []
    told = []
    for id in stream:
        own = type(id), id
        told.append(id not in (None, "") and own in seen)
        if id not in (None, "") and own not in seen:
            seen = [*seen, own][-window:]
    return told


@given(streams, windows)
def test_an_id_is_known_while_it_is_one_of_the_last_distinct_ones(
    stream: list[Any], window: int
) -> None:
    dedupe = Dedupe(window)

    told = [dedupe.is_duplicate(number, id) for number, id in enumerate(stream)]

    assert told == expected(stream, window)
    assert dedupe.found == sum(told)
    assert len(dedupe) <= window


@given(streams, windows, st.data())
def test_what_is_kept_tells_of_every_number_the_same(
    stream: list[Any], window: int, data: st.DataObject
) -> None:
    """Killed after any snapshot, with any of the numbers before it unfinished."""
    dedupe = Dedupe(window)
    dedupe.keep()
    rows: dict[bytes, bytes] = {}
    state = DedupeState(0, 0, [])
    unfinished: set[int] = set()
    kept_at = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=4)))
    last = max(kept_at, default=0)
    for number in range(len(stream) + 1):
        if number in kept_at:
            may_be = sorted(unfinished | set(range(state.decided, number)))
            unfinished = data.draw(st.sets(st.sampled_from(may_be))) if may_be else set()
            places = [p for p, n in enumerate(dedupe.duplicates()) if n in unfinished]
            state = dedupe.snapshot(places)
            for key, row in dedupe.changes():
                rows.pop(key, None)
                if row is not None:
                    rows[key] = row
        if number < len(stream):
            dedupe.is_duplicate(number, stream[number])

    resumed = Dedupe(window)
    resumed.go_on_from(state, rows.items())
    again = [*sorted(unfinished), *range(last, len(stream))]
    told = [resumed.is_duplicate(number, stream[number]) for number in again]

    of_all = expected(stream, window)
    wrong = [n for n, is_known in zip(again, told, strict=True) if is_known != of_all[n]]
    assert wrong == []
    assert len(rows) <= window
    assert resumed.found == sum(of_all)


def test_an_event_that_is_handled_again_is_no_duplicate_of_itself() -> None:
    dedupe = Dedupe(10)

    assert [dedupe.is_duplicate(0, "a") for _ in range(2)] == [False, False]


def test_ids_of_different_types_differ() -> None:
    dedupe = Dedupe(10)

    assert not any(dedupe.is_duplicate(n, id) for n, id in enumerate([1, "1", 1.0, True, 2**80]))
