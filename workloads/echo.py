"""What the plain scenarios share: a stream of numbered events, and the check that each came out.

The results of their handlers are the events, with more members or without.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from .scenario import Invariant, Outcome, Promise, Scenario, judged, survivors


class _Numbered(msgspec.Struct, gc=False):
    key: str
    seq: int


def keyed_lines(scenario: Scenario, keys: int, payload: int) -> Iterator[bytes]:
    """Endless events with a key drawn from so many, a number from 0 on, and so many bytes."""
    draw = scenario.random("keys").random
    # Text that does not repeat within an event, so that packing it is no easier than real data.
    letters = scenario.random("payload").choices("abcdefghijklmnopqrstuvwxyz0123456789", k=payload)
    text = "".join(letters).encode()
    number = 0
    while True:
        yield b'{"key":"k%d","seq":%d,"payload":"%b"}' % (int(draw() * keys), number, text)
        number += 1


def check_echo(
    scenario: Scenario, outcome: Outcome, each_once: Promise, in_order: Promise
) -> list[Invariant]:
    """Whether each event came out once, and where that was promised, in order."""
    decode = msgspec.json.Decoder(_Numbered).decode
    seen = bytearray(outcome.events)
    last: dict[str, int] = {}
    twice: list[str] = []
    foreign: list[str] = []
    late: list[str] = []
    count = lates = 0
    with open(outcome.output, "rb") as output:
        for line in output:
            event = decode(line)
            count += 1
            if not 0 <= event.seq < outcome.events:
                foreign.append(f"event {event.seq} was never put in")
                continue
            if seen[event.seq] and len(twice) < 4:
                twice.append(f"event {event.seq} came out twice")
            seen[event.seq] = 1
            lane = "" if outcome.order in ("global", "partition") else event.key
            if last.get(lane, -1) > event.seq:
                lates += 1
                if len(late) < 4:
                    late.append(f"event {event.seq} of {event.key} came after {last[lane]}")
            else:
                last[lane] = event.seq
    wrong = [*_changed(scenario, outcome, seen), *twice, *foreign]
    fine = f"{count:,} events came out, each once"
    invariants = [judged(each_once, wrong, fine)]
    if outcome.order == "none":
        invariants.append(Invariant(in_order.name, True, "none was promised"))
    else:
        invariants.append(judged(in_order, late, f"{count:,} events in {len(last):,} lanes", lates))
    return invariants


def _changed(scenario: Scenario, outcome: Outcome, seen: bytearray) -> list[str]:
    """The events that should have come out and did not."""
    decode = msgspec.json.Decoder(_Numbered).decode
    missing = [
        decode(line).seq for line in survivors(scenario, outcome) if not seen[decode(line).seq]
    ]
    return [f"event {number} did not come out" for number in missing[:4]]
