"""What every run must hold to, whatever ran it; judged from its files and its handlers' log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from .running import Ran, read_lines
from .streams import Stream


def check_run(
    ran: Ran, streams: Sequence[Stream], stages: int, order: str, emit: str, log: Path
) -> None:
    """Delivery, results, order of handling and order of output."""
    check_delivery(ran, streams, stages)
    check_output_order(ran, streams, order, emit)
    check_handling(read_lines(log), streams, order)
    assert ran.violations == 0, ran.result.notes
    assert ran.result["ordering"]["audit"]["unknown"] == 0


def check_delivery(ran: Ran, streams: Sequence[Stream], stages: int) -> None:
    expected = {n: out for stream in streams for n, out in stream.expected(stages).items()}
    dead = [number for number, out in expected.items() if out is None]
    filtered = sum(out == [] for out in expected.values())
    emitted = sum(len(out) for out in expected.values() if out is not None)

    assert ran.counts == {
        "read": sum(stream.events for stream in streams),
        "handled": len(expected) - len(dead),
        "filtered": filtered,
        "emitted": emitted,
        "retried": 0,
        "dead_lettered": len(dead),
    }
    assert sorted(_dead_numbers(ran, streams)) == dead
    assert ran.exit_code == (4 if dead else 0), ran.result.notes
    by_event = {
        number: list(group) for number, group in groupby(ran.outputs, key=lambda each: each["id"])
    }
    assert len(by_event) == len(list(groupby(ran.outputs, key=lambda each: each["id"]))), (
        "outputs of one event are not adjacent"
    )
    wrong = [n for n, out in expected.items() if (out or []) != by_event.get(n, [])]
    assert not wrong, (wrong[0], expected[wrong[0]], by_event.get(wrong[0]))
    assert by_event.keys() <= expected.keys()


def _dead_numbers(ran: Ran, streams: Sequence[Stream]) -> list[int]:
    """The numbers of dead events: by their place in their file."""
    firsts = {f"input-{place}.jsonl": stream.first for place, stream in enumerate(streams)}
    return [
        firsts[Path(letter["source"]).name] + letter["position"]["line"] - 1 for letter in ran.dead
    ]


def check_output_order(ran: Ran, streams: Sequence[Stream], order: str, emit: str) -> None:
    numbers = [each["id"] for each in ran.outputs]
    lanes: dict[Any, list[int]] = defaultdict(list)
    for number in numbers:
        place = max(p for p, stream in enumerate(streams) if stream.first <= number)
        lane = _lane(order, place, streams[place].key_of(number))
        if lane is not None:
            lanes[lane].append(number)
    for lane, arrived in lanes.items():
        assert arrived == sorted(arrived), f"{lane} left out of order"
    if emit == "input" and len(streams) == 1:
        assert numbers == sorted(numbers)


def check_handling(calls: list[list[Any]], streams: Sequence[Stream], order: str) -> None:
    """One at a time and in order in every lane of every stage, by the handlers' own stamps."""
    by_lane: dict[Any, list[tuple[int, int, int]]] = defaultdict(list)
    for stage, number, key, start, end, _ in calls:
        place = max(p for p, stream in enumerate(streams) if stream.first <= number)
        lane = _lane(order, place, key)
        if lane is not None:
            by_lane[stage, lane].append((start, end, number))
    for lane, spans in by_lane.items():
        spans.sort()
        for (_, ended, before), (started, _, after) in pairwise(spans):
            assert started >= ended, f"{lane}: {after} began while {before} was being handled"
            assert before <= after, f"{lane}: {after} was handled after {before}"


def _lane(order: str, partition: int, key: Any) -> Any:
    """The lane as a tuple, so that keys like 1 and "1" stay apart; None: unordered."""
    match order:
        case "key":
            return None if key is None else (type(key).__name__, key)
        case "partition":
            return ("partition", partition)
        case "global":
            return ("all",)
    return None
