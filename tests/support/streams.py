"""Event streams for tests, and what must become of them: a sequential computation, no engine.

A planned event carries an action for each stage ("plan"). What a stage makes of it is computed
by outcome(), which the handlers in handlers.py call too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

ACTIONS = ("pass", "change", "filter", "dict", "text", "list", "generator", "fail", "reject")
WAITS = (0, 0, 0, 1, 3)

Data = dict[str, Any]


class Planned(Exception):
    """The error that a planned event's handler raises."""


@dataclass(frozen=True)
class Spec:
    """One line of a stream; an event unless it is malformed or blank."""

    key: Any = None
    plan: tuple[str, ...] = ("pass", "pass", "pass")
    wait: int = 0
    """How much slower than the fastest the handlers are with it."""
    raw: bytes | None = None
    """The line itself, when it is no event."""

    @property
    def is_blank(self) -> bool:
        return self.raw is not None and not self.raw.strip()

    @property
    def is_malformed(self) -> bool:
        return self.raw is not None and not self.is_blank

    def data(self, number: int) -> Data:
        return {
            "id": number,
            "key": self.key,
            "plan": list(self.plan),
            "wait": self.wait,
            "path": [],
        }


@dataclass(frozen=True)
class Stream:
    """Lines, their identity being their place (blank and malformed ones count)."""

    specs: tuple[Spec, ...] = field(default_factory=tuple)
    first: int = 0
    """The number of the first line, when the stream is one of several."""

    def lines(self) -> Iterator[bytes]:
        for number, spec in self.numbered():
            yield spec.raw if spec.raw is not None else json.dumps(spec.data(number)).encode()

    def text(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines())

    def numbered(self) -> Iterator[tuple[int, Spec]]:
        return enumerate(self.specs, self.first)

    @property
    def events(self) -> int:
        """Lines that count as read."""
        return sum(not spec.is_blank for spec in self.specs)

    def key_of(self, number: int) -> Any:
        return self.specs[number - self.first].key

    def expected(self, stages: int) -> dict[int, list[Data] | None]:
        """Number -> the outputs of each event; None for a dead one."""
        return {
            number: None if spec.is_malformed else _through(spec.data(number), stages)
            for number, spec in self.numbered()
            if not spec.is_blank
        }


def _through(data: Data, stages: int) -> list[Data] | None:
    current = [data]
    for place in range(stages):
        try:
            current = [out for each in current for out in outcome(each, place)]
        except Planned:
            return None
    return current


def outcome(data: Data, place: int) -> list[Data]:
    """What stage number `place` makes of an event. Raises Planned."""
    action = data["plan"][place]
    match action:
        case "pass":
            return [data]
        case "filter":
            return []
        case "fail" | "reject":
            raise Planned(f"planned for event {data['id']} at stage {place}")
    copies = 3 if action in ("list", "generator") else 1
    return [{**data, "path": [*data["path"], [place, copy]]} for copy in range(copies)]


# --- drawn by Hypothesis

_keys = st.one_of(
    st.none(),
    st.sampled_from(["a", "a", "a", "a", "b", "b", "c", "ключ", "", 'quote"d']),
    st.integers(0, 5),
)
_actions = st.sampled_from(("pass", "change", *ACTIONS))
_malformed = st.sampled_from(
    [b'{"id": 1', b"nope", b'{"id": "\xff\xfe"}', b"]", b'{"a": 1} {"b": 2}']
)
_blank = st.sampled_from([b"", b"  ", b"\t"])

specs: st.SearchStrategy[Spec] = st.one_of(
    *[
        st.builds(
            Spec,
            key=_keys,
            plan=st.tuples(_actions, _actions, _actions),
            wait=st.sampled_from(WAITS),
        )
    ]
    * 6,
    st.builds(Spec, raw=_malformed),
    st.builds(Spec, raw=_blank),
)

streams: st.SearchStrategy[Stream] = st.lists(specs, max_size=60).map(lambda s: Stream(tuple(s)))


# --- made from a seed, large


def zipf_keys(random_: random.Random, keys: int, count: int, exponent: float = 1.1) -> list[str]:
    weights = [1 / rank**exponent for rank in range(1, keys + 1)]
    names = [f"k{rank}" for rank in range(keys)]
    return random_.choices(names, weights, k=count)


def seeded_stream(seed: int, count: int = 1000, keys: int = 40, first: int = 0) -> Stream:
    """A stream with everything in it: hot keys, events without one, all actions, bad lines."""
    random_ = random.Random(seed)
    made: list[Spec] = []
    for key in zipf_keys(random_, keys, count):
        chance = random_.random()
        if chance < 0.01:
            made.append(Spec(raw=random_.choice([b"{", b"nope", b'{"id": "\xff"}'])))
        elif chance < 0.02:
            made.append(Spec(raw=b""))
        else:
            plan = random_.choices(("pass", "change", *ACTIONS), (8, 8, *[1] * len(ACTIONS)), k=3)
            made.append(
                Spec(None if chance < 0.1 else key, tuple(plan), wait=random_.choice(WAITS))
            )
    return Stream(tuple(made), first)


def plain_stream(count: int, keys: Sequence[Any] = ("a",)) -> Stream:
    """Events that pass, with the keys in turn."""
    return Stream(tuple(Spec(keys[number % len(keys)]) for number in range(count)))
