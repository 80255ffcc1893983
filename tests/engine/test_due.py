"""Due times by column come to the same as a dictionary of them, whatever comes in what order."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.due import DueTimes
from millstream.engine.frontier import Frontier

STEPS = st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 1), st.booleans()), max_size=30)


@given(STEPS, st.integers(0, 2**32))
def test_it_is_a_dictionary(steps: list[tuple[int, float, bool]], seed: int) -> None:
    random = Random(seed)
    due, known, frontier, read = DueTimes(), dict[int, tuple[int, int]](), Frontier(), 0
    for count, share, in_order in steps:
        numbers = range(read, read + count)
        read += count
        order = list(numbers)
        if not in_order:
            random.shuffle(order)
        intended = np.array(order) * 7 + 1
        due.add(numbers if in_order else order, intended, intended + 3)
        known.update((number, (number * 7 + 1, number * 7 + 4)) for number in numbers)
        some = [number for number in known if random.random() < share]

        taken = due.take(some)

        assert sorted(zip(*(column.tolist() for column in taken), strict=True)) == sorted(
            known.pop(number) for number in some
        )
        assert len(due) == len(known)
        frontier.add(sorted(some))
        due.prune(frontier.floor)
        assert [column.tolist() for column in due.take(some)] == [[], []]


def test_what_it_holds_follows_what_is_in_flight() -> None:
    due = DueTimes()
    for first in range(0, 1_000_000, 1000):
        due.add(range(first, first + 1000), np.arange(first, first + 1000), 0)
        due.take(range(first, first + 1000))
        due.prune(first + 1000)

    assert len(due._intended) <= 8192


def test_numbers_that_have_none_give_nothing() -> None:
    due = DueTimes()
    due.add(range(10, 20), np.arange(10), 5)
    due.prune(10)

    intended, released = due.take([3, 12, 99_999])

    assert (intended.tolist(), released.tolist()) == ([2], [5])
