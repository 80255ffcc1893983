"""Events made ahead with their times: together the pieces are the stream, however they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.arrivals import Arrivals, Closed, parse_arrivals
from millstream.workloads.supply import CHUNK_EVENTS, Piece, Supply

MS = 1_000_000
FOREVER = 2**62


def lines() -> Iterator[bytes]:
    """Lines of all lengths, 0 included."""
    for n in count():
        yield b"%d" % n * (n % 7)


def arrivals(text: str = "constant") -> Arrivals:
    return parse_arrivals(
        text, rate=1000.0, seed=1, duration_s=1.0, read_trace=lambda path: [0, 5 * MS, 5 * MS]
    )


def supply(
    text: str = "constant", events: int | None = None, duration_ns: int | None = None
) -> Supply:
    return Supply(lines(), arrivals(text), events=events, duration_ns=duration_ns)


def make_all(made: Supply) -> Supply:
    while not made.is_made:
        made.make()
    return made


def told(pieces: list[Piece]) -> tuple[list[int], list[bytes]]:
    """The times, and the lines, of pieces."""
    due = [int(each) for piece in pieces for each in piece.due_ns]
    return due, [line for piece in pieces for line in piece.data.split(b"\n")]


def whole(text: str, events: int) -> tuple[list[int], list[bytes]]:
    """What is expected of all pieces together."""
    stream = lines()
    return arrivals(text).take(events).tolist(), [next(stream) for _ in range(events)]


KINDS = st.sampled_from(["constant", "poisson", "burst:10", "burst:100", "ramp", "sine:90%:50ms"])


@given(
    KINDS,
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 80 * MS)), max_size=20),
)
def test_pieces_together_are_the_stream(
    text: str, events: int, steps: list[tuple[int, int]]
) -> None:
    made, now = supply(text, events), 0
    pieces: list[Piece] = []
    for size, more_ns in steps:
        if not made.is_made:
            made.make(size)
        now += more_ns
        pieces += made.give(now)
        assert not pieces or pieces[-1].due_ns[-1] <= now
        assert made.next_due_ns is None or made.next_due_ns > now
    pieces += make_all(made).give(FOREVER)

    assert told(pieces) == whole(text, events)
    assert made.is_over and made.is_empty
    assert (made.bytes, made.next_due_ns) == (0, None)
    assert all(len(piece.due_ns) for piece in pieces)


@given(st.lists(st.integers(1, 200), max_size=10), st.integers(1, 500))
def test_without_a_schedule_all_is_given_whatever_is_due(sizes: list[int], events: int) -> None:
    made = Supply(lines(), Closed(), events=events, duration_ns=None)
    pieces: list[Piece] = []
    for size in [*sizes, events]:
        if not made.is_made:
            made.make(size)
        while (piece := made.give_any()) is not None:
            pieces.append(piece)

    assert told(pieces)[1] == whole("constant", events)[1]
    assert made.is_over


@given(KINDS, st.integers(1, 400 * MS))
def test_it_ends_with_those_that_are_due_before_its_duration(text: str, duration_ns: int) -> None:
    made = make_all(supply(text, duration_ns=duration_ns))

    pieces = list(made.give(FOREVER))

    wanted = [each for each in arrivals(text).take(5000).tolist() if each < duration_ns]
    assert told(pieces) == (wanted, whole(text, len(wanted))[1])
    assert made.is_over


@given(st.integers(1, 200), st.integers(1, 200))
def test_it_ends_with_whichever_comes_first(events: int, milliseconds: int) -> None:
    made = make_all(supply("constant", events, milliseconds * MS))

    assert len(told(list(made.give(FOREVER)))[0]) == min(events, milliseconds)


@given(st.integers(1, 3 * CHUNK_EVENTS))
def test_it_is_known_to_be_made_with_the_last_event_and_not_before(events: int) -> None:
    made, left = supply("constant", events), events
    while left:
        assert not made.is_made
        made.make()
        left = max(0, left - CHUNK_EVENTS)

    assert made.is_made and not made.is_over
    made.make()
    assert len(told(list(made.give(FOREVER)))[0]) == events


def test_a_trace_ends_with_its_last_time() -> None:
    made = supply("trace:FILE")

    made.make()

    assert made.is_made
    assert told(list(made.give(FOREVER)))[0] == [0, 2 * MS, 2 * MS], "stretched to the rate"


def test_a_stream_that_ends_ends_the_load() -> None:
    """Streams are to be endless; a user's own may not be."""
    made = make_all(Supply(iter([b"a", b"b", b"c"]), arrivals(), events=100, duration_ns=None))

    assert told(list(made.give(FOREVER))) == ([0, MS, 2 * MS], [b"a", b"b", b"c"])
    assert made.is_over


def test_a_stream_that_ends_with_a_chunk_ends_the_load() -> None:
    made = Supply(iter([b"a", b"b"]), arrivals(), events=None, duration_ns=None)

    made.make(2)
    assert not made.is_made
    made.make(2)

    assert made.is_made
    assert told(list(made.give(FOREVER)))[1] == [b"a", b"b"]


@given(st.lists(st.integers(0, 300 * MS), min_size=1, max_size=12).map(sorted))
def test_bytes_are_those_of_what_was_made_and_not_given(moments: list[int]) -> None:
    made = make_all(supply("constant", 300))
    sizes, taken = [made.bytes], 0
    for moment in moments:
        taken += sum(len(piece.data) + 1 for piece in made.give(moment))
        sizes.append(made.bytes)

    total = sum(len(line) + 1 for line in whole("constant", 300)[1])
    assert (sizes[0], sizes[-1]) == (total, total - taken)
    assert all(one >= two for one, two in pairwise(sizes))
