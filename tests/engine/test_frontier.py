"""The frontier, and one restored from its snapshot, against a set of all that are done."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest
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
_lengths = st.sampled_from([0, 1, 2, 5, 100, CHUNK, CHUNK + 1, 2 * CHUNK])


class AgainstASet(RuleBasedStateMachine):
    """Whatever is added in whatever order, frontier and set agree; so does a restored frontier."""

    def __init__(self) -> None:
        super().__init__()
        self.frontier = Frontier()
        self.restored = Frontier()
        """Restored at some step; from then on, what is added to the other is added to it too."""
        self.done: set[int] = set()
        self.floor = 0

    @property
    def both(self) -> tuple[Frontier, Frontier]:
        return self.frontier, self.restored

    def _added(self, positions: Sequence[int]) -> None:
        again = []
        for position in positions:
            if position in self.done:
                again.append(position)
            self.done.add(position)
        before = self.floor
        while self.floor in self.done:
            self.floor += 1
        for frontier in self.both:
            assert frontier.floor == before
            assert sorted(frontier.add(positions)) == sorted(again)

    @rule(start=_positions, length=_lengths)
    def add_range(self, start: int, length: int) -> None:
        self._added(range(start, start + length))

    @rule(length=st.sampled_from([1, 7, CHUNK - 1, CHUNK, 9000]))
    def add_what_comes_next(self, length: int) -> None:
        self._added(range(self.floor, self.floor + length))

    @rule(positions=st.lists(_positions, max_size=20))
    def add_some(self, positions: list[int]) -> None:
        self._added(positions)

    @rule(start=_positions, step=st.sampled_from([1, 3, 64, 200]), twice=st.booleans())
    def add_many_at_once(self, start: int, step: int, twice: bool) -> None:
        stop = start + 100 * step
        self._added([*range(start, stop, step), *([start] if twice else [])])

    @rule(back=st.integers(0, 9), apart=st.sampled_from([2, 50]))
    def add_many_some_of_them_below_the_floor(self, back: int, apart: int) -> None:
        below = range(max(0, self.floor - back), self.floor)
        self._added([*below, *range(self.floor + 1, self.floor + 100 * apart, apart)])

    @rule(end=_positions)
    def fill_gaps_from_the_back(self, end: int) -> None:
        self._added([p for p in range(end, -1, -1) if p not in self.done][:200])

    @rule()
    def fill_the_first_gap(self) -> None:
        _, first = self.frontier.missing_below(max(self.done, default=0) + 2, 1)
        self._added(first)

    @rule()
    def restore(self) -> None:
        self.restored = Frontier.restore(*self.frontier.snapshot())

    @rule()
    def restore_what_was_restored(self) -> None:
        self.restored = Frontier.restore(*self.restored.snapshot())

    @rule(positions=st.lists(_positions, max_size=20))
    def ask_for_some(self, positions: list[int]) -> None:
        undone = [place for place, p in enumerate(positions) if p not in self.done]
        for frontier in self.both:
            assert frontier.undone(positions) == undone
            assert [p for p in positions if not frontier.has(p)] == [positions[i] for i in undone]

    @rule(start=_positions, length=_lengths, step=st.sampled_from([1, 1, 2, -1]))
    def ask_for_a_range(self, start: int, length: int, step: int) -> None:
        positions = range(start, start + length, abs(step))[:: 1 if step > 0 else -1]
        undone = [place for place, p in enumerate(positions) if p not in self.done]
        for frontier in self.both:
            assert frontier.undone(positions) == undone

    @invariant()
    def floor_is_the_first_that_is_not_done(self) -> None:
        for frontier in self.both:
            assert (frontier.floor, frontier.done) == (self.floor, len(self.done))

    @invariant()
    def what_is_done_is_known_around_the_floor_and_the_end(self) -> None:
        last = max(self.done, default=0)
        for middle in (self.floor, last, last - last % CHUNK + CHUNK):
            for position in range(max(0, middle - 9), middle + 9):
                done = position in self.done
                for frontier in self.both:
                    assert frontier.has(position) == done
                    assert frontier.undone([position]) == ([] if done else [0])

    @invariant()
    def missing_ones_are_named(self) -> None:
        end = max(self.done, default=0) + 3
        missing = [position for position in range(end) if position not in self.done]
        for frontier in self.both:
            assert frontier.missing_below(end) == (len(missing), missing[:10])

    @invariant()
    def snapshots_hold_what_is_done_and_nothing_else(self) -> None:
        base = self.floor - self.floor % 8
        above = {position - base for position in self.done if position > self.floor}
        marks = bytearray(max(above, default=-8) // 8 + 1)
        for at in above:
            marks[at // 8] |= 0x80 >> at % 8
        for frontier in self.both:
            floor, bitmap = frontier.snapshot()
            assert floor == self.floor
            assert (zlib.decompress(bitmap) if bitmap else b"") == marks

    @invariant()
    def memory_follows_what_is_unfinished(self) -> None:
        span = max(self.done, default=0) - self.floor
        for frontier in self.both:
            assert len(frontier._chunks) <= max(0, span // CHUNK + 2)


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


# --- kept and restored


def test_the_format_of_a_snapshot_stays() -> None:
    frontier = Frontier()
    frontier.add([*range(11), 12, 17, 23])

    floor, above = frontier.snapshot()

    assert floor == 11
    assert zlib.decompress(above) == bytes([0b0000_1000, 0b0100_0001])
    assert Frontier().snapshot() == (0, b"")


def test_a_restored_frontier_costs_as_little_as_the_one_it_was_taken_of() -> None:
    frontier = Frontier()
    frontier.add(range(1, 1_000_000))

    floor, above = frontier.snapshot()
    restored = Frontier.restore(floor, above)

    assert len(above) < 2000
    assert [n for n, chunk in restored._chunks.items() if chunk is not None] == [0, 244]
    assert restored.done == 999_999


_long_bitmaps = [b"\x01" * 600, b"\x01" + b"\xff" * 1600, b"\x01" + bytes(1023) + b"\x80"]
_bitmaps = st.binary(max_size=700) | st.sampled_from(_long_bitmaps)


@given(_positions, _bitmaps, st.sampled_from([b"", b"", b"\0"]))
def test_a_bitmap_is_restored_as_it_is_or_refused(floor: int, bitmap: bytes, end: bytes) -> None:
    bitmap += end
    base = floor - floor % 8
    done = [base + at for at in range(8 * len(bitmap)) if bitmap[at // 8] & (0x80 >> at % 8)]
    packed = zlib.compress(bitmap, 1)

    if bitmap.endswith(b"\0") or not bitmap or done[0] <= floor:
        with pytest.raises(ValueError, match="is no bitmap that belongs to it"):
            Frontier.restore(floor, packed)
        return
    frontier = Frontier.restore(floor, packed)

    assert frontier.snapshot() == (floor, packed)
    assert frontier.done == floor + len(done)
    undone = sorted(set(range(floor, done[-1] + 9)).difference(done))
    assert frontier.undone(range(floor, done[-1] + 9)) == [p - floor for p in undone]


@pytest.mark.parametrize("more", [range(20, 21), range(20, 400, 2)])  # one by one, at once
def test_a_restored_frontier_tells_what_was_done_before(more: Sequence[int]) -> None:
    frontier = Frontier()
    frontier.add(range(15))

    restored = Frontier.restore(*frontier.snapshot())

    assert restored.add([5, *more]) == [5]
    assert restored.add(range(12, 21)) == [12, 13, 14, 20]
    assert (restored.floor, restored.done) == (21, 20 + len(more))


@given(st.integers(0, 2**60), st.binary(min_size=1))
def test_what_is_no_snapshot_is_refused(floor: int, above: bytes) -> None:
    with pytest.raises(ValueError, match="what is done above a frontier's floor"):
        Frontier.restore(floor, above)


@given(st.sets(st.integers(1, 300), min_size=1), st.data())
def test_a_damaged_snapshot_is_refused_or_does_no_harm(done: set[int], data: st.DataObject) -> None:
    frontier = Frontier()
    frontier.add(sorted(done))
    floor, above = frontier.snapshot()
    bit = data.draw(st.integers(0, 8 * len(above) - 1))
    damaged = bytearray(above)
    damaged[bit // 8] ^= 1 << bit % 8

    try:
        restored = Frontier.restore(floor, bytes(damaged))
    except ValueError:
        return

    assert restored.snapshot() == (floor, above)  # it was a bit that zlib makes no use of


@given(st.sets(st.integers(1, 300), min_size=1), st.data())
def test_a_snapshot_that_is_cut_off_or_goes_on_is_refused(
    done: set[int], data: st.DataObject
) -> None:
    frontier = Frontier()
    frontier.add(sorted(done))
    floor, above = frontier.snapshot()
    cut = above[: data.draw(st.integers(1, len(above) - 1))]
    longer = above + data.draw(st.binary(min_size=1))

    for wrong in (cut, longer):
        with pytest.raises(ValueError, match="is cut off, or more follows it"):
            Frontier.restore(floor, wrong)


def test_a_floor_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="a frontier's floor is 0 or more, not -1"):
        Frontier.restore(-1, b"")
