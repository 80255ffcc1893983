"""The oracle of the scenario `io`: each event came out once, in order, with the answer to it."""

from __future__ import annotations

from array import array
from typing import Final

import msgspec

from .echo import check_echo
from .passthrough import EACH_ONCE, IN_ORDER
from .scenario import MOST_NAMED, Invariant, Outcome, Promise, Scenario, judged, stream

ANSWERED: Final = Promise("answered", "Each result has what the server answers to its event.")
PROMISES: Final = (EACH_ONCE, IN_ORDER, ANSWERED)

_MODULUS: Final = 2**32
_MULTIPLIER: Final = 2_654_435_761


class _Asked(msgspec.Struct, gc=False):
    key: str
    seq: int


class _Answer(msgspec.Struct, gc=False):
    key: str = ""
    seq: int = -1
    value: int = -1


class _Answered(msgspec.Struct, gc=False):
    key: str
    seq: int
    answer: _Answer = msgspec.field(default_factory=_Answer)


def check_answers(scenario: Scenario, outcome: Outcome) -> list[Invariant]:
    """Compare results with the stream."""
    return [
        *check_echo(scenario, outcome, EACH_ONCE, IN_ORDER),
        _check_answers(outcome, _keys(scenario, outcome.events)),
    ]


def _keys(scenario: Scenario, events: int) -> array[int]:
    """The number in the key of each event."""
    decode = msgspec.json.Decoder(_Asked).decode
    return array("I", (int(decode(line).key[1:]) for line in stream(scenario, events)))


def _check_answers(outcome: Outcome, keys: array[int]) -> Invariant:
    decode = msgspec.json.Decoder(_Answered).decode
    wrong: list[str] = []
    count = wrongs = 0
    with open(outcome.output, "rb") as output:
        for line in output:
            result = decode(line)
            count += 1
            key = f"k{keys[result.seq]}" if 0 <= result.seq < len(keys) else ""
            value = divmod(result.seq * _MULTIPLIER + 1, _MODULUS)[1]
            if result.key == key and result.answer == _Answer(key, result.seq, value):
                continue
            wrongs += 1
            if len(wrong) < MOST_NAMED:
                got = msgspec.json.encode(result.answer).decode()
                wrong.append(f"event {result.seq} of {result.key} has the answer {got}")
    return judged(ANSWERED, wrong, f"{count:,} answers, each to its event", wrongs)
