"""The frontier against a set of all positions that are done."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from millstream.engine.frontier import Frontier

CHUNK = 4096

# Near the edges of chunks, where it matters, and anywhere.
_positions = st.one_of(
    st.integers(0, 40),
    st.builds(lambda chunk, by: max(0, chunk * CHUNK + by), st.integers(0, 3), st.integers(-3, 3)),
    st.integers(0, 4 * CHUNK),
)


class AgainstASet(RuleBasedStateMachine):
    """Whatever is added in whatever order, frontier and set agree."""

    def __init__(self) -> None:
        super().__init__()
        self.frontier = Frontier()
        self.done: set[int] = set()

    def _added(self, positions: list[int] | range) -> None:
        again = []
        for position in positions:
            if position in self.done:
                again.append(position)
            self.done.add(position)
        assert sorted(self.frontier.add(positions)) == again

    @rule(start=_positions, length=st.sampled_from([0, 1, 2, 5, 100, CHUNK, CHUNK + 1, 2 * CHUNK]))
    def add_range(self, start: int, length: int) -> None:
        self._added(range(start, start + length))

    @rule(length=st.sampled_from([1, 7, CHUNK - 1, CHUNK, 9000]))
    def add_what_comes_next(self, length: int) -> None:
        self._added(range(self.frontier.floor, self.frontier.floor + length))

    @rule(positions=st.lists(_positions, max_size=20))
    def add_some(self, positions: list[int]) -> None:
        self._added(sorted(positions))

    @rule(end=_positions)
    def fill_gaps_from_the_back(self, end: int) -> None:
        self._added([p for p in range(end, -1, -1) if p not in self.done][:200])

    @rule()
    def fill_the_first_gap(self) -> None:
        _, first = self.frontier.missing_below(max(self.done, default=0) + 2, 1)
        self._added(first)

    @invariant()
    def floor_is_the_first_that_is_not_done(self) -> None:
        floor = self.frontier.floor
        assert floor not in self.done
        assert all(position in self.done for position in range(max(0, floor - CHUNK), floor))
        assert self.frontier.done == len(self.done)

    @invariant()
    def missing_ones_are_named(self) -> None:
        end = max(self.done, default=0) + 3
        missing = [position for position in range(end) if position not in self.done]
        assert self.frontier.missing_below(end) == (len(missing), missing[:10])

    @invariant()
    def memory_follows_what_is_unfinished(self) -> None:
        span = max(self.done, default=0) - self.frontier.floor
        assert len(self.frontier._chunks) <= max(0, span // CHUNK + 2)


TestAgainstASet = AgainstASet.TestCase
TestAgainstASet.settings = settings(max_examples=20, stateful_step_count=20)


@given(st.permutations(range(30)), st.lists(st.integers(1, 7)))
def test_any_order_in_any_pieces_ends_at_the_end(order: list[int], sizes: list[int]) -> None:
    frontier = Frontier()
    at = 0
    for size in [*sizes, 30]:
        assert frontier.add(order[at : at + size]) == []
        at += size

    assert (frontier.floor, frontier.done) == (30, 30)
    assert frontier.missing_below(30) == (0, [])


def test_a_gap_at_the_start_costs_little_while_much_is_done_behind_it() -> None:
    frontier = Frontier()
    for start in range(1, 1_000_001, 1000):
        frontier.add(range(start, start + 1000))

    assert frontier.floor == 0
    open_chunks = [chunk for chunk in frontier._chunks.values() if chunk is not None]
    assert len(open_chunks) <= 2

    frontier.add([0])

    assert frontier.floor == 1_000_001
    assert len(frontier._chunks) <= 1
