"""The measures of RFC 4737 and RFC 5236 as they are defined: slow, one function a definition.

The oracle for audits that are fast. Indexes count from 1, as in the RFCs, over first copies only.
Nothing here may import the engine. Below: arrivals as Hypothesis draws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise
from typing import Any, Literal, TypeVar

from hypothesis import strategies as st

Number = int | str
Item = TypeVar("Item")


@dataclass(frozen=True)
class Arrival:
    """One event as it came in. Numbers that are text compare by code point."""

    key: Hashable
    number: Number
    time: int | float | None = None


# --- which arrivals are looked at


def sequences_of(
    arrivals: Sequence[Arrival], scope: Literal["global", "key"]
) -> list[list[Arrival]]:
    """The arrivals of each key, or all as one; none when nothing arrived."""
    sequences: dict[Hashable, list[Arrival]] = {}
    for arrival in arrivals:
        sequences.setdefault(arrival.key if scope == "key" else None, []).append(arrival)
    return list(sequences.values())


def first_copies(sequence: Sequence[Arrival]) -> list[Arrival]:
    """Without those whose number came before: RFC 4737, section 3.6; RFC 5236, section 3.1."""
    return [
        arrival
        for place, arrival in enumerate(sequence)
        if all(arrival.number != before.number for before in sequence[:place])
    ]


# --- RFC 4737. `numbers` are those of the first copies of one sequence, in order of arrival.


def reordered_indexes(numbers: Sequence[Number]) -> list[int]:
    """Each i with s < NextExp: section 3.3; the first arrival is in order: section 3.6."""
    reordered = []
    # NextExp - 1, since text has no + 1: s >= NextExp is s > NextExp - 1.
    before_expected: Any = None
    for i, s in enumerate(numbers, 1):
        if before_expected is None or s > before_expected:
            before_expected = s
        else:
            reordered.append(i)
    return reordered


def discontinuity_sizes(numbers: Sequence[int]) -> list[int]:
    """s - NextExp of each arrival with s > NextExp: section 3.4."""
    sizes = []
    next_expected: int | None = None
    for s in numbers:
        if next_expected is not None and s > next_expected:
            sizes.append(s - next_expected)
        if next_expected is None or s >= next_expected:
            next_expected = s + 1
    return sizes


def discontinuities(numbers: Sequence[Number]) -> dict[int, int]:
    """Reordered i -> its reordering discontinuity, the smallest j with s[j] > s[i]: section 4.5.3.

    An arrival below NextExp has such a j: NextExp - 1 came before.
    """
    s: list[Any] = [None, *numbers]
    return {i: min(j for j in range(1, i) if s[j] > s[i]) for i in reordered_indexes(numbers)}


def extents(numbers: Sequence[Number]) -> dict[int, int]:
    """Reordered i -> e = i - j: section 4.2.3."""
    return {i: i - j for i, j in discontinuities(numbers).items()}


def late_times(firsts: Sequence[Arrival]) -> dict[int, int | float]:
    """Reordered i -> time(i) - time(j), where both have one: section 4.3.3."""
    time = {i: arrival.time for i, arrival in enumerate(firsts, 1)}
    found = {}
    for i, j in discontinuities([arrival.number for arrival in firsts]).items():
        end, start = time[i], time[j]
        if end is not None and start is not None:
            found[i] = end - start
    return found


def gaps(numbers: Sequence[Number]) -> list[int]:
    """j' - j of successive reordering discontinuities, by their place, not by when they were
    found: section 4.5.4, without its condition i' > i."""
    return [after - j for j, after in pairwise(sorted(set(discontinuities(numbers).values())))]


def free_runs(numbers: Sequence[Number]) -> dict[str, int]:
    """x, a, p and q: section 4.6.3. The open run at the end is in a, and not in q."""
    reordered = reordered_indexes(numbers)
    r = x = a = p = q = 0
    for i in range(1, len(numbers) + 1):
        p += 1
        if i not in reordered:
            r += 1
            a += 1
        else:
            q += r * r
            r = 0
            x += 1
    return {"reordered": x, "accepted": a, "arrivals": p, "q": q}


def is_n_reordered(numbers: Sequence[Number], i: int, n: int) -> bool:
    """Whether i > n, and all of the n arrivals before i have larger numbers: section 5.3."""
    s: list[Any] = [None, *numbers]
    return i > n and all(s[j] > s[i] for j in range(i - n, i))


def n_reordered(numbers: Sequence[Number]) -> Counter[int]:
    """n -> how many arrivals are n-reordered, where there are any: section 5.3."""
    received = len(numbers)
    return Counter(
        n
        for n in range(1, received)
        for i in range(1, received + 1)
        if is_n_reordered(numbers, i, n)
    )


# --- RFC 5236. Copies are gone already, so its own tests for them can't meet one.


def receive_indexes(numbers: Sequence[int], threshold: int) -> list[tuple[int, int]]:
    """(S, RI) of each arrival that is counted, in order of arrival: section 7.1 (stay-back).

    An arrival whose own number was a receive index already, and that is late beyond the threshold
    all the same, since numbers were lost meanwhile, takes the receive index with it. In the sample
    code it does not: from there on every index would be one too low, up to the first loss of more
    numbers than the threshold, and then nothing would be counted any more.
    """
    arriving = iter(numbers)
    window = list(islice(arriving, threshold + 1))
    buffer: list[int] = []
    # Where a log begins is not known. From 1 the rule for numbers that are missing leads here too,
    # unless there are numbers below 1.
    index = min(window, default=1)
    found = []
    while window:
        if index in window or index in buffer:
            number = window.pop(0)
            displacement = index - number
            if displacement >= -threshold:
                if displacement <= threshold:
                    found.append((number, index))
                if index in buffer:
                    buffer.remove(index)
                if displacement < 0:
                    buffer.append(number)
                index += 1
            window += _next_arrival(arriving, index)
        else:
            smallest = min(window + buffer)
            index = smallest if index < smallest else index + 1
    return found


def _next_arrival(arriving: Iterator[int], index: int) -> list[int]:
    """The next one that is not below RI; nothing at the end. Those below are lost: section 6."""
    return list(islice((number for number in arriving if number >= index), 1))


def displacements(numbers: Sequence[int], threshold: int) -> list[int]:
    """D = RI - S of each arrival that is counted: section 3.3."""
    return [index - number for number, index in receive_indexes(numbers, threshold)]


def buffer_occupancies(numbers: Sequence[int], threshold: int) -> list[int]:
    """B after each arrival that was not late beyond the threshold: section 7.2.

    What comes to a full buffer and can't be released at once is stored in the place that becomes
    free, as section 3.8 has it ("including the newly arrived"); the sample code forgets it.
    """
    occupancies = []
    buffer: set[int] = set()  # B is its size
    expected = _first_expected(numbers, threshold)
    for number in numbers:
        if number in buffer or number < expected:
            continue
        if number == expected:
            expected += 1
            while expected in buffer:
                buffer.remove(expected)
                expected += 1
        elif len(buffer) < threshold:
            buffer.add(number)
        else:
            buffer.add(number)
            expected += 1
            while expected not in buffer:
                expected += 1
            while expected in buffer:
                buffer.remove(expected)
                expected += 1
        occupancies.append(len(buffer))
    return occupancies


def _first_expected(numbers: Sequence[int], threshold: int) -> int:
    """1, as in section 7.2, when the first arrival can be an early one of a sequence from 1 on."""
    if not numbers or 1 <= numbers[0] <= threshold + 1:
        return 1
    return numbers[0]


# --- all of it


def audit_slowly(
    arrivals: Sequence[Arrival], *, scope: Literal["global", "key"], threshold: int
) -> dict[str, Any]:
    """The entries of an audit's JSON that the RFCs define, counted by whole numbers.

    All numbers are whole, or all are text. `threshold` (0 or more) is both DT and BT. Of several
    sequences, counts are summed, maxima maximised, and ratios taken of the sums.
    """
    firsts = [first_copies(sequence) for sequence in sequences_of(arrivals, scope)]
    sequences: list[list[Any]] = [[arrival.number for arrival in each] for each in firsts]
    received = sum(len(each) for each in firsts)
    is_text = any(isinstance(arrival.number, str) for arrival in arrivals)
    reordered = sum(len(reordered_indexes(numbers)) for numbers in sequences)
    late = [time for each in firsts for time in late_times(each).values()]
    degrees = sum((n_reordered(numbers) for numbers in sequences), Counter[int]())
    runs = [free_runs(numbers) for numbers in sequences]
    return {
        "events": len(arrivals),
        "keys": len(sequences),
        "reordered": reordered,
        "reordered_ratio": reordered / received if received else 0.0,
        "duplicates": len(arrivals) - received,
        "discontinuities": _discontinuities(sequences, is_text),
        "extent": _histogram(e for each in sequences for e in extents(each).values()),
        "late_time": {
            "max": max(late, default=None),
            "mean": sum(late) / len(late) if late else None,
        },
        "n_reordering": {n: degrees[n] / received for n in range(1, max(degrees, default=0) + 1)},
        "free_runs": {
            name: sum(run[name] for run in runs)
            for name in ("reordered", "accepted", "arrivals", "q")
        },
        "gaps": _histogram(gap for each in sequences for gap in gaps(each)),
        "reorder_density": _density(displacements, sequences, threshold, is_text),
        "buffer_occupancy": _density(buffer_occupancies, sequences, threshold, is_text),
    }


def _discontinuities(sequences: Sequence[Sequence[Any]], is_text: bool) -> dict[str, int | None]:
    """How many are missing can't be told of text."""
    if is_text:
        return {"count": None, "missing": None}
    sizes = [size for numbers in sequences for size in discontinuity_sizes(numbers)]
    return {"count": len(sizes), "missing": sum(sizes)}


def _histogram(values: Iterator[int]) -> dict[str, Any]:
    counts = Counter(values)
    return {"max": max(counts, default=0), "counts": dict(counts)}


def _density(
    measure: Any, sequences: Sequence[Sequence[Any]], threshold: int, is_text: bool
) -> dict[str, Any]:
    """Counts, not shares; None for text, which is not displaced by a number."""
    if is_text:
        return {"threshold": threshold, "counts": None}
    counts = Counter(chain.from_iterable(measure(numbers, threshold) for numbers in sequences))
    return {"threshold": threshold, "counts": dict(counts)}


# --- drawn by Hypothesis

Event = tuple[str, int]
"""A key and a number."""

_starts = st.one_of(st.sampled_from([1, 1, 1, 0, 1000, -3]), st.integers(-100, 100))
# Unpadded, padded, and across the end of the BMP: there the order of UTF-16 is not the order of
# code points.
_spellings = st.sampled_from([str, "{:+06}".format, lambda number: chr(0x10000 + number)])


@st.composite
def streams(draw: st.DrawFn, max_size: int = 60, *, text: bool = False) -> list[Arrival]:
    """Arrivals of up to `max_size` events and some copies; with `text` their numbers are text.

    Keys share one sequence, or have their own. Sequences begin at 1 or elsewhere. Events come in
    order, shuffled near or far, or from parallel workers; some late or early, lost, doubled or with
    a number far off; with times, some times or none.
    """
    size = draw(st.integers(0, max_size))
    if size == 0:
        return []
    events = draw(_events_of_one_sequence(size) | _events_of_dense_sequences(size))
    events = _moved(events, draw(_hops(size, signs=(1, 1, -1))))
    lost = draw(st.just(set()) | st.sets(st.integers(0, size - 1), max_size=size // 2))
    events = [event for place, event in enumerate(events) if place not in lost] or events
    events = _doubled(events, draw(_hops(len(events), signs=(1,))))
    times = draw(_times(len(events)))
    spell: Any = draw(_spellings) if text else int
    return [
        Arrival(key, spell(number), time) for (key, number), time in zip(events, times, strict=True)
    ]


@st.composite
def _orders(draw: st.DrawFn, size: int) -> list[int]:
    """The numbers from 0 on, in an order of arrival."""
    numbers = list(range(size))
    match draw(st.sampled_from(["near", "workers", "far", "kept"])):
        case "near":
            delays = draw(_one_each(size, st.integers(0, draw(st.integers(1, 8)))))
            return sorted(numbers, key=lambda number: number + delays[number])
        case "workers":
            workers, run = draw(st.integers(2, 4)), draw(st.integers(1, 8))
            shares = [
                [number for number in numbers if number // run % workers == worker]
                for worker in range(workers)
            ]
            return _interleaved(shares, draw(_one_each(size, st.integers(0, workers - 1))))
        case "far":
            return draw(st.permutations(numbers))
    return numbers


@st.composite
def _numbers(draw: st.DrawFn, size: int) -> list[int]:
    """An order of arrival from any start, at times with one number far from all others."""
    start = draw(_starts)
    numbers = [start + number for number in draw(_orders(size))]
    if numbers:
        numbers[draw(st.integers(0, size - 1))] += draw(st.sampled_from([0, 0, 0, 500, -500]))
    return numbers


@st.composite
def _events_of_one_sequence(draw: st.DrawFn, size: int) -> list[Event]:
    """Numbers over all keys, so that each key has a few of them."""
    keys = draw(_one_each(size, st.sampled_from("abcd"[: draw(st.integers(1, 4))])))
    return list(zip(keys, draw(_numbers(size)), strict=True))


@st.composite
def _events_of_dense_sequences(draw: st.DrawFn, size: int) -> list[Event]:
    """Each key with numbers of its own, which other keys have too."""
    turns = draw(_one_each(size, st.integers(0, draw(st.integers(0, 3)))))
    shares = [
        [(key, number) for number in draw(_numbers(turns.count(place)))]
        for place, key in enumerate("abcd")
    ]
    return _interleaved(shares, turns)


def _one_each(size: int, values: st.SearchStrategy[Item]) -> st.SearchStrategy[list[Item]]:
    return st.lists(values, min_size=size, max_size=size)


def _hops(size: int, signs: Sequence[int]) -> st.SearchStrategy[list[tuple[int, int]]]:
    """A few places, and for each how far from there, which is near or anything."""
    hop = st.tuples(
        st.integers(0, size - 1),
        st.builds(
            lambda sign, far: sign * far,
            st.sampled_from(signs),
            st.integers(1, 4) | st.integers(1, size),
        ),
    )
    return st.lists(hop, max_size=4)


def _interleaved(shares: Sequence[Sequence[Item]], turns: Sequence[int]) -> list[Item]:
    """Each share in its order; whose turn it is without having any gives it to the next."""
    waiting = [list(share) for share in shares]
    merged = []
    for turn in turns:
        after = chain(waiting[turn:], waiting[:turn])
        merged.append(next(share for share in after if share).pop(0))
    return merged


def _moved(items: Sequence[Item], hops: Sequence[tuple[int, int]]) -> list[Item]:
    moved = list(items)
    for place, distance in hops:
        moved.insert(max(0, place + distance), moved.pop(place))
    return moved


def _doubled(items: Sequence[Item], hops: Sequence[tuple[int, int]]) -> list[Item]:
    doubled = list(items)
    for place, distance in hops:
        doubled.insert(place + distance, doubled[place])
    return doubled


@st.composite
def _times(draw: st.DrawFn, size: int) -> list[int | float | None]:
    """No times, those of one clock, those of clocks that disagree; whole or in quarters.

    Quarters are exact in binary: sums of them do not depend on their order.
    """
    kind = draw(st.sampled_from(["none", "one clock", "clocks"]))
    if kind == "none":
        return [None] * size
    times: list[Any] = list(accumulate(draw(_one_each(size, st.integers(0, 40)))))
    if kind == "clocks":
        times = draw(_one_each(size, st.integers(-100, 100)))
    if draw(st.booleans()):
        times = [time / 4 for time in times]
    without = draw(st.just(set()) | st.sets(st.integers(0, size - 1)))
    return [None if place in without else time for place, time in enumerate(times)]
