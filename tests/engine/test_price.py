"""The price of order, against a direct transcription of what is said of it, and by hand."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine import Pipeline, price, record_file, recording, stage
from millstream.engine.histogram import bucket_of, highest_in
from millstream.engine.price import (
    BlockingEvent,
    BlockingKey,
    Completions,
    PriceReport,
    Simulation,
    price_of_order,
)
from millstream.engine.record_file import RecordError
from millstream.engine.recording import read_record
from tests.support import handlers
from tests.support.records import Row, rows_of, stages_of
from tests.support.running import numbered, run_over
from tests.support.streams import seeded_stream


class Seen(NamedTuple):
    """An event of a record."""

    sequence: int
    key: str | None
    admitted: int
    completed: int
    """0: never."""


# --- the slow way


def slow_price(events: Sequence[Seen], order: str) -> dict[str, Any]:
    done = [event for event in events if event.completed]
    released: list[int] = []
    blame: dict[Seen, list[int]] = defaultdict(list)
    for place, event in enumerate(done):
        before = [each for each in done[:place] if is_held_by(event, each, order)]
        release = max([event.completed, *(each.completed for each in before)])
        released.append(release)
        if release > event.completed:
            blocker = next(each for each in before if each.completed == release)
            blame[blocker].append(release - event.completed)
    waits = [release - event.completed for release, event in zip(released, done, strict=True)]
    held = [
        sum(
            each.completed <= event.completed < release
            for each, release in zip(done, released, strict=True)
        )
        for event in done
    ]
    return {
        "order": order,
        "events": len(done),
        "waited": sum(wait > 0 for wait in waits),
        "p50_ns": percentile(waits, 50),
        "p99_ns": percentile(waits, 99),
        "max_ns": max(waits, default=0),
        "buffer": places_for_most(held),
        "buffer_max": max(held, default=0),
        "blocking_events": worst_events(blame),
        "blocking_keys": worst_keys(blame),
        "keys_missing_ns": 0,
    }


def is_held_by(event: Seen, other: Seen, order: str) -> bool:
    if order == "key":
        return event.key is not None and event.key == other.key
    return order == "global"


def percentile(waits: list[int], percent: int) -> int:
    if not waits:
        return 0
    exact = sorted(waits)[max(1, int(percent / 100 * len(waits) + 0.5)) - 1]
    return min(highest_in(int(bucket_of(np.array([exact]))[0])), max(waits))


def places_for_most(held: list[int]) -> int:
    enough = 0
    while sum(each <= enough for each in held) * 1000 < len(held) * 999:
        enough += 1
    return enough


def worst_events(blame: dict[Seen, list[int]]) -> list[BlockingEvent]:
    order = sorted(blame.items(), key=lambda each: (-sum(each[1]), each[0].sequence))
    return [
        BlockingEvent(event.sequence, event.key, len(waits), sum(waits))
        for event, waits in order[:10]
    ]


def worst_keys(blame: dict[Seen, list[int]]) -> list[BlockingKey]:
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for event, waits in blame.items():
        by_key[event.key] += waits
    order = sorted(by_key.items(), key=lambda each: (-sum(each[1]), each[0] is None, each[0] or ""))
    return [BlockingKey(key, len(waits), sum(waits)) for key, waits in order[:10]]


def as_dict(report: PriceReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


# --- the fast way, in chunks


def chunk_of(events: Sequence[Seen], names: Sequence[str] | None = None) -> Completions:
    names = names or sorted({event.key for event in events if event.key is not None})
    columns = (
        [event.sequence for event in events],
        [-1 if event.key is None else names.index(event.key) for event in events],
        [event.admitted for event in events],
        [event.completed for event in events],
    )
    sequence, key, admitted, completed = (np.array(column, dtype=np.int64) for column in columns)
    return Completions(sequence, key.astype(np.int32), list(names), admitted, completed)


def cut(events: Sequence[Seen], ends: Sequence[int]) -> Iterator[Completions]:
    """In chunks that end there, each with its keys in another order, and some that it lacks."""
    start = 0
    for number, end in enumerate([*ends, len(events)]):
        part = events[start:end]
        own = sorted({"zz", *(event.key for event in part if event.key is not None)})
        yield chunk_of(part, own[:: -1 if number % 2 else 1])
        start = end


@st.composite
def streams(draw: st.DrawFn) -> list[Seen]:
    keys = draw(st.sampled_from([["a"], ["a", "b", None], [*map(str, range(25)), None]]))
    longest = draw(st.sampled_from([3, 30, 3000]))
    events: list[Seen] = []
    now = 1
    for number in range(draw(st.integers(0, 70))):
        now += draw(st.integers(0, 3))
        took = draw(st.one_of(st.none(), st.integers(0, longest), st.integers(0, longest)))
        completed = 0 if took is None else now + took
        events.append(Seen(number * 2, draw(st.sampled_from(keys)), now, completed))
        if took is None and draw(st.booleans()):
            events[-1] = events[-1]._replace(admitted=0)  # it never was
    return events


@given(streams(), st.lists(st.integers(0, 70), max_size=8))
def test_in_chunks_of_any_size_it_is_what_it_is_said_to_be(
    events: list[Seen], ends: list[int]
) -> None:
    reports = price.price(cut(events, sorted(min(end, len(events)) for end in ends)))

    assert list(reports) == ["none", "key", "global"]
    for order, report in reports.items():
        assert as_dict(report) == slow_price(events, order)


@given(streams())
def test_one_event_at_a_time(events: list[Seen]) -> None:
    reports = price.price(cut(events, range(1, len(events))))

    for order, report in reports.items():
        assert as_dict(report) == slow_price(events, order)


def test_by_hand() -> None:
    events = [
        Seen(0, "a", 10, 100),
        Seen(1, "b", 11, 20),  # all: waits 80 for 0
        Seen(2, "a", 12, 30),  # all and key: waits 70 for 0
        Seen(3, "b", 13, 90),  # all: waits 10 for 0
        Seen(4, "a", 14, 0),  # never done
        Seen(5, None, 15, 120),
        Seen(6, None, 16, 110),  # all: waits 10 for 5
    ]

    none, key, all_ = price.price([chunk_of(events)]).values()

    assert (none.events, none.waited, none.max_ns, none.buffer_max) == (6, 0, 0, 0)
    assert (key.waited, key.max_ns, key.buffer, key.buffer_max) == (1, 70, 1, 1)
    assert key.blocking_events == [BlockingEvent(0, "a", 1, 70)]
    assert key.blocking_keys == [BlockingKey("a", 1, 70)]
    assert (all_.waited, all_.max_ns, all_.buffer, all_.buffer_max) == (4, 80, 3, 3)
    assert all_.blocking_events == [BlockingEvent(0, "a", 3, 160), BlockingEvent(5, None, 1, 10)]
    assert all_.blocking_keys == [BlockingKey("a", 3, 160), BlockingKey(None, 1, 10)]


@pytest.mark.parametrize(("others", "places"), [(1, 1), (2, 2)])
def test_one_event_in_a_thousand_may_find_no_place(others: int, places: int) -> None:
    """Two are held from 4000 to 5000; the second of them, and so many others, find two held."""
    times = [*range(3100, 3200), *range(4100, 4100 + others)]
    times += range(6000, 6000 + 1997 - len(times))
    late = [Seen(0, "a", 1, 5000), Seen(1, "a", 2, 3000), Seen(2, "a", 3, 4000)]
    on_time = [Seen(3 + number, "b", at, at) for number, at in enumerate(times)]

    report = price.price([chunk_of([*late, *on_time])])["key"]

    assert (report.events, report.waited) == (2000, 2)
    assert (report.buffer, report.buffer_max) == (places, 2)


def test_without_events() -> None:
    for report in price.price([]).values():
        assert (report.events, report.p99_ns, report.buffer, report.blocking_keys) == (0, 0, 0, [])


# --- memory has a bound


def test_what_can_hold_up_nothing_more_is_forgotten() -> None:
    simulation = Simulation("key")
    for start in range(0, 50_000, 500):
        events = [
            Seen(number, f"k{number}", 100 * number + 1, 100 * number + 950)
            for number in range(start, start + 500)
        ]
        simulation.feed(chunk_of(events, [f"k{number}" for number in range(start, start + 500)]))

        assert len(simulation._lanes) <= 10
        assert len(simulation._buffer._completed) <= 11

    assert simulation.report().events == 50_000


def test_of_too_many_keys_those_that_cost_least_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Seen] = []
    for number in range(60):
        key, at = f"k{number % 30}", 1000 * number + 1
        events += [
            Seen(2 * number, key, at, at + 100 + number),
            Seen(2 * number + 1, key, at, at + 50),
        ]
    exact = {each.key: each for each in worst_of_all(events)}
    monkeypatch.setattr(price, "MOST_KEYS", 12)

    report = price.price(cut(events, range(4, len(events), 4)))["key"]

    assert report.keys_missing_ns > 0
    assert len(report.blocking_keys) == 10
    for each in report.blocking_keys:
        assert exact[each.key].waited_ns - report.keys_missing_ns <= each.waited_ns
        assert each.waited_ns <= exact[each.key].waited_ns
    assert report.blocking_events == slow_price(events, "key")["blocking_events"]


def worst_of_all(events: Sequence[Seen]) -> list[BlockingKey]:
    return [
        each
        for key in {event.key for event in events}
        for each in slow_price([event for event in events if event.key == key], "key")[
            "blocking_keys"
        ]
    ]


# --- of a record


def seen_in(path: Path) -> list[Seen]:
    finished = [each["finished"] for each in stages_of(path)]

    def completed(row: Row) -> int:
        stamps = [row[finished[-1]], row["emitted_ns"], *(row[name] for name in finished[::-1])]
        return next((stamp for stamp in stamps if stamp is not None), 0)

    return [
        Seen(row["sequence"], row["key"], row["admitted_ns"] or 0, completed(row))
        for row in rows_of(path)
    ]


@pytest.mark.parametrize("order", ["none", "key"])
def test_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(record_file, "ROWS", 64)
    monkeypatch.setattr(recording, "ROWS", 64)
    path = tmp_path / "record.parquet"
    job = Pipeline(stage(handlers.aact, concurrency=20), stage(handlers.act, name="last"))
    run_over(tmp_path, job, seeded_stream(6, count=500).text(), order=order, record=str(path))

    reports = price_of_order(str(path))

    events = seen_in(path)
    assert reports["global"].waited > 0
    assert reports["none"].events == sum(event.completed > 0 for event in events)
    for name, report in reports.items():
        assert as_dict(report) == slow_price(events, name)


def test_pandas_is_not_needed_to_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.parquet"
    run_over(tmp_path, handlers.echo, numbered(5), record=str(path))
    monkeypatch.setitem(sys.modules, "pandas", None)

    chunks = list(read_record(str(path)))

    assert [chunk.sequence.tolist() for chunk in chunks] == [[0, 1, 2, 3, 4]]
    assert chunks[0].keys == ["a"]
    assert chunks[0].key.tolist() == [0] * 5
    assert (chunks[0].completed_ns >= chunks[0].admitted_ns).all()


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "it names no schema"),
        ({"schema": "millstream.record/9"}, "it says 'millstream.record/9'"),
    ],
)
def test_other_parquet_files_are_refused(
    tmp_path: Path, metadata: dict[str, str], said: str
) -> None:
    path = tmp_path / "other.parquet"
    schema = pa.schema([("sequence", pa.int64()), ("key", pa.string())], metadata=metadata)
    parquet.write_table(schema.empty_table(), path)

    with pytest.raises(RecordError, match=f"other.parquet .*no millstream.record/1: {said}"):
        read_record(str(path))


@pytest.mark.parametrize("content", [b"", b'{"id": 1}\n', b"PAR1 nothing of the kind PAR1"])
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.parquet"
    path.write_bytes(content)

    with pytest.raises(RecordError, match=r"other.parquet' can't be read: .*; name a whole record"):
        read_record(str(path))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="absent' can't be read: No such file or directory"):
        price_of_order(str(tmp_path / "absent"))


def test_a_record_that_is_damaged_is_told(tmp_path: Path) -> None:
    path = tmp_path / "record.parquet"
    run_over(
        tmp_path, handlers.echo, numbered(500, [f"k{n}" for n in range(500)]), record=str(path)
    )
    data = bytearray(path.read_bytes())
    data[8:1200] = bytes(1192)
    path.write_bytes(data)

    with pytest.raises(RecordError, match=r"record\.parquet' can't be read: "):
        price_of_order(str(path))
