"""The states of keys, event by event, until they are done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.state_ledger import StateLedger, key_from_bytes, key_to_bytes

steps = st.lists(
    st.one_of(
        st.tuples(st.just("handle"), st.sampled_from("abc")),
        st.tuples(st.just("finish"), st.sampled_from("abc")),
        st.tuples(st.just("take"), st.just("")),
    ),
    max_size=60,
)


@given(steps)
def test_what_is_kept_is_the_state_after_the_last_event_that_is_done(
    steps: list[tuple[str, str]],
) -> None:
    done: set[int] = set()
    handled: dict[str, list[int]] = {key: [] for key in "abc"}
    kept: dict[object, bytes | None] = {}
    count = 0

    def floor() -> int:
        return next(n for n in range(count + 1) if n not in done)

    ledger = StateLedger(floor)
    for step, key in steps:
        if step == "handle":
            handled[key].append(count)
            ledger.note(key, count, b"%d" % count)
            count += 1
        elif step == "finish":
            left = [n for n in handled[key] if n not in done]
            done.update(left[:1])
        else:
            kept.update(ledger.take(done.__contains__))

            for each, numbers in handled.items():
                ended = [n for n in numbers if n in done]
                assert kept.get(each) == (b"%d" % ended[-1] if ended else None)


def test_it_forgets_what_is_done() -> None:
    ledger = StateLedger(lambda: 10**9)

    for number in range(10_000):
        ledger.note("a", number, b"x")

    assert len(ledger._entries["a"]) == 1
    assert ledger.take(lambda number: True) == [("a", b"x")]
    assert not ledger._entries


@pytest.mark.parametrize("keys", [(1, 1.0, True), (0, False, -0.0), ("a", "a"), (2**70, 2.0**70)])
def test_equal_keys_are_one_row(keys: tuple[object, ...]) -> None:
    rows = {key_to_bytes(key) for key in keys}  # type: ignore[arg-type]

    assert len(rows) == 1
    assert key_from_bytes(rows.pop()) == keys[0]
