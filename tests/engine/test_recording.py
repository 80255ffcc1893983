"""A record has a row an event, whatever ran it; and what it costs in memory has a bound."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from millstream.engine import (
    Event,
    Pipeline,
    RunOptions,
    record_file,
    recording,
    run,
    run_async,
    runner,
    stage,
)
from millstream.engine.connectors.base import OutputError
from millstream.engine.observer import Progress, Silent
from millstream.engine.plan import PlanError, make_plan
from millstream.engine.record_file import RecordError, RecordFile
from millstream.engine.runner import Run, open_sink, open_sources
from tests.support import handlers
from tests.support.records import check_stamps, facts_of, rows_of, stages_of
from tests.support.running import json_lines, numbered, read_lines, run_over
from tests.support.streams import Spec, Stream, outcome, seeded_stream

KINDS: dict[str, Callable[[int], Any]] = {
    "inline": lambda place: stage(partial(handlers.act, place=place), name=f"s{place}"),
    "coroutine": lambda place: stage(
        partial(handlers.aact, place=place), name=f"s{place}", concurrency=16
    ),
    "process": lambda place: stage(
        partial(handlers.act, place=place), name=f"s{place}", executor="process", workers=2
    ),
    "async-process": lambda place: stage(
        partial(handlers.aact, place=place),
        name=f"s{place}",
        executor="process",
        workers=2,
        concurrency=8,
    ),
}


def pipeline(kinds: str) -> Pipeline:
    return Pipeline(*[KINDS[kind](place) for place, kind in enumerate(kinds.split())])


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.parquet"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(json_lines(numbered(20_000, ["a", "b"])))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Row groups of 64 events; gives how far reading may be ahead."""
    monkeypatch.setattr(record_file, "ROWS", 64)
    monkeypatch.setattr(recording, "ROWS", 64)
    monkeypatch.setattr(runner, "RECORD_WINDOW", 512)
    return 512


# --- what is in it


def text_of(key: Any) -> str | None:
    return key if key is None or isinstance(key, str) else json.dumps(key)


def fate(number: int, spec: Spec, stages: int) -> tuple[str, int]:
    """What becomes of an event, and how many stages handle it."""
    current = [spec.data(number)]
    for place in range(stages):
        try:
            current = [out for each in current for out in outcome(each, place)]
        except Exception:
            return "dead", place + 1
        if not current:
            return "filtered", place + 1
    return "emitted", stages


def check_record(path: Path, streams: list[Stream], stages: int) -> None:
    check_stamps(path)
    rows = rows_of(path)
    events = [
        (partition, number, spec)
        for partition, stream in enumerate(streams)
        for number, spec in stream.numbered()
        if not spec.is_blank
    ]
    assert len(rows) == len(events)
    for row, (partition, number, spec) in zip(rows, events, strict=True):
        became = ("dead", 0) if spec.is_malformed else fate(number, spec, stages)
        handled = sum(row[f"started_ns:s{place}"] is not None for place in range(stages))
        assert (row["outcome"], handled) == became, (row, spec)
        assert row["key"] == text_of(None if spec.is_malformed else spec.key), row
        assert row["partition"] == partition
        assert row["admitted_ns"] is not None
        assert row["intended_ns"] is None


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("order", ["none", "key", "partition", "global"])
@pytest.mark.parametrize(
    "kinds",
    ["inline", "coroutine", "process", "async-process", "inline coroutine inline",
     "process inline", "coroutine process"],
)  # fmt: skip
def test_each_event_has_a_row_whatever_ran_it(
    tmp_path: Path, record: Path, kinds: str, order: str, emit: str
) -> None:
    streams = [seeded_stream(1, count=300), seeded_stream(2, count=200, first=300)]

    texts = [stream.text() for stream in streams]
    ran = run_over(tmp_path, pipeline(kinds), *texts, order=order, emit=emit, record=str(record))

    check_record(record, streams, len(kinds.split()))
    assert len(rows_of(record)) == ran.counts["read"]


@pytest.mark.parametrize("kinds", ["inline", "coroutine", "process"])
def test_without_the_record_nothing_else_differs(tmp_path: Path, record: Path, kinds: str) -> None:
    text = seeded_stream(3, count=300).text()
    plain = run_over(tmp_path, pipeline(kinds), text, emit="input")

    recorded = run_over(tmp_path, pipeline(kinds), text, emit="input", record=str(record))

    assert recorded.text == plain.text
    assert recorded.counts == plain.counts


def test_what_it_says_of_its_run_and_its_columns(tmp_path: Path, record: Path) -> None:
    job = Pipeline(
        stage(handlers.echo, name="charge"),
        stage(handlers.echo, name="Charge"),
        stage(handlers.echo, name="charge#2"),
    )

    result = run_over(tmp_path, job, numbered(3), order="none", record=str(record)).result

    facts = facts_of(record)
    schema = pa.parquet.read_schema(record)
    assert facts["schema"] == "millstream.record/1"
    assert (facts["order"], facts["emit"]) == ("none", "completion")
    assert facts["started_at"] == result["started_at"]
    assert len(facts["run"]) == 32
    assert [each["name"] for each in stages_of(record)] == ["charge", "Charge", "charge#2"]
    assert schema.names == [
        *("sequence", "key", "partition", "outcome", "intended_ns", "admitted_ns"),
        *("started_ns:charge", "finished_ns:charge"),
        *("started_ns:Charge#2", "finished_ns:Charge#2"),
        *("started_ns:charge#2#2", "finished_ns:charge#2#2"),
        "emitted_ns",
    ]
    assert schema.field("outcome").type == pa.dictionary(pa.int8(), pa.string())
    assert schema.field("key").type == pa.string()
    assert schema.field("sequence").type == pa.int64()


def test_duckdb_and_pandas_read_it(tmp_path: Path, record: Path) -> None:
    import pandas

    stream = seeded_stream(4, count=300)
    run_over(tmp_path, pipeline("inline"), stream.text(), record=str(record))

    query = f"""select outcome, count(*) n, count(key) keyed, count("started_ns:s0") handled
        from '{record}' group by outcome order by outcome"""
    found = duckdb.sql(query).fetchall()
    frame = pandas.read_parquet(record)
    rows = rows_of(record)

    by_outcome = {each: [row for row in rows if row["outcome"] == each] for each, *_ in found}
    assert [each for each, *_ in found] == ["dead", "emitted", "filtered"]
    for each, count, keyed, handled in found:
        own = by_outcome[each]
        assert count == len(own) == (frame["outcome"] == each).sum()
        assert keyed == sum(row["key"] is not None for row in own)
        assert handled == sum(row["started_ns:s0"] is not None for row in own)
    assert frame["sequence"].tolist() == list(range(len(rows)))


def test_keys_that_are_no_text_stand_as_json(tmp_path: Path, record: Path) -> None:
    keys = ["a", 7, 1.5, True, None, "ж", "", {"of": [1]}, 10**30]
    lines = [{"id": number, "key": key} for number, key in enumerate(keys)]

    for order in ("none", "key"):
        run_over(tmp_path, handlers.echo, lines, order=order, record=str(record))

        assert [row["key"] for row in rows_of(record)] == [
            *("a", "7", "1.5", "true", None, "ж", "", '{"of":[1]}', str(10**30))
        ]


@pytest.mark.parametrize("order", ["none", "key", "global"])
@pytest.mark.parametrize("workers", [1, 2])
def test_rows_of_csv_have_keys_too(tmp_path: Path, record: Path, order: str, workers: int) -> None:
    text = b"key,n\n" + b"".join(b"k%d,%d\n" % (n % 3, n) for n in range(50))

    run_over(tmp_path, handlers.echo, text, order=order, workers=workers, record=str(record))

    assert [row["key"] for row in rows_of(record)] == [f"k{n % 3}" for n in range(50)]


@pytest.mark.parametrize("order", ["none", "key"])
def test_a_duplicate_is_filtered_and_has_its_key(tmp_path: Path, record: Path, order: str) -> None:
    lines = [{"id": n % 6, "key": f"k{n % 6}"} for n in range(12)]

    run_over(tmp_path, handlers.echo, lines, order=order, dedupe=True, record=str(record))

    rows = rows_of(record)
    assert [row["outcome"] for row in rows] == ["emitted"] * 6 + ["filtered"] * 6
    assert [row["key"] for row in rows] == [f"k{n % 6}" for n in range(12)]
    assert all(row["started_ns:echo"] is None for row in rows[6:])


def test_with_a_schedule_it_has_intended_times(tmp_path: Path, record: Path) -> None:
    ran = run_over(tmp_path, handlers.echo, numbered(40), rate=4000.0, record=str(record))

    check_stamps(record)
    rows = rows_of(record)
    intended = [row["intended_ns"] for row in rows]
    assert [at - intended[0] for at in intended] == [n * 250_000 for n in range(40)]
    slowest = max(row["emitted_ns"] - row["intended_ns"] for row in rows)
    assert ran.result["response"]["max"] == slowest


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize(
    "job",
    [
        stage(handlers.flaky, name="f"),
        stage(handlers.aflaky, name="f", concurrency=4),
        stage(handlers.flaky, name="f", executor="process", workers=2),
    ],
    ids=["inline", "coroutine", "process"],
)
def test_events_that_wait_for_another_attempt_have_the_stamps_of_their_last(
    tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch, job: Any, emit: str
) -> None:
    (tmp_path / "tries").mkdir()
    monkeypatch.setenv(handlers.TRIES_VARIABLE, str(tmp_path / "tries"))
    monkeypatch.setenv(handlers.LOG_VARIABLE, str(tmp_path / "log"))
    handlers.forget_logs()
    fails = {0: 1, 4: 2, 9: 9}
    lines = [{**each, "fails": fails.get(each["id"], 0)} for each in numbered(20, "abc")]

    run_over(
        tmp_path,
        job,
        lines,
        emit=emit,
        attempts=3,
        backoff="1ms",
        record=str(record),
        on_error="park",
    )

    check_stamps(record)
    rows = rows_of(record)
    calls = read_lines(tmp_path / "log")
    begun = {(number, attempt): start for _, number, _, start, _, attempt in calls}
    parked = {n for n in range(10, 20) if n % 3 == 0}
    assert {row["sequence"] for row in rows if row["outcome"] == "dead"} == {9} | parked
    for row in rows:
        number = row["sequence"]
        if number in parked:
            assert row["started_ns:f"] is None
        else:
            last = begun[number, min(fails.get(number, 0) + 1, 3)]
            assert row["started_ns:f"] <= last <= row["finished_ns:f"]


def test_a_result_that_can_not_be_written_is_dead(
    tmp_path: Path, events: Path, record: Path
) -> None:
    job = Pipeline(handlers.echo, handlers.not_to_be_written)  # gives a column that is not there

    for emit in ("completion", "input"):
        run(
            job, events, limit=10, emit=emit, output=tmp_path / "out.csv",
            dead_letter=tmp_path / "dead", record=record,
        )  # fmt: skip

        outcomes = [row["outcome"] for row in rows_of(record)]
        assert outcomes == ["emitted"] * 5 + ["dead"] + ["emitted"] * 4


@pytest.mark.parametrize("emit", ["completion", "input"])
def test_what_is_dropped_on_purpose_keeps_its_row_and_has_no_outcome(
    tmp_path: Path, record: Path, emit: str, small: int
) -> None:
    ran = run_over(
        tmp_path, handlers.echo, numbered(2000), inject=("drop:5%",), seed=1, emit=emit,
        record=str(record),
    )  # fmt: skip

    rows = rows_of(record)
    lost = [row for row in rows if row["outcome"] is None]
    assert [row["sequence"] for row in rows] == list(range(2000))
    assert len(lost) == ran.result["delivery"]["lost"] > 0
    assert all(row["admitted_ns"] is None and row["partition"] is None for row in lost)


def test_no_events_make_a_record_without_rows(tmp_path: Path, record: Path) -> None:
    run_over(tmp_path, handlers.echo, b"", record=str(record))

    assert rows_of(record) == []
    assert facts_of(record)["schema"] == "millstream.record/1"


# --- rows are written while the run goes on, and memory has a bound


@pytest.mark.parametrize("kinds", ["inline", "coroutine inline", "process"])
@pytest.mark.parametrize("order", ["none", "key"])
def test_row_groups_follow_one_another(
    tmp_path: Path, record: Path, small: int, kinds: str, order: str
) -> None:
    stream = seeded_stream(5, count=3000)

    run_over(tmp_path, pipeline(kinds), stream.text(), order=order, record=str(record))

    check_record(record, [stream], len(kinds.split()))
    groups = pa.parquet.ParquetFile(record).metadata
    sizes = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    assert set(sizes[:-1]) == {64}


class Watched(Silent):
    """Counts how often the run told how it stands."""

    def __init__(self) -> None:
        self.told = 0

    def on_progress(self, progress: Progress) -> None:
        self.told += 1


def make_run(job: Any, source: Path, **options: Any) -> Run:
    given = RunOptions(**options)
    sources = open_sources([str(source)], given)
    return Run(make_plan(job, given), sources, open_sink(None), Watched())


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """4,000 events, some 30 to a block."""
    path = tmp_path / "wide.jsonl"
    path.write_bytes(json_lines({"id": n, "key": n, "pad": "x" * 2000} for n in range(4000)))
    return path


def test_a_slow_event_holds_reading_back(record: Path, small: int, wide: Path) -> None:
    ahead: list[int] = []

    async def slow(event: Event) -> Event:
        recorder = the_run.recorder
        assert recorder is not None
        ahead.append(the_run.intake.reached - recorder.first)
        while event.data["id"] == 5 and the_run._gate is None:  # noqa: ASYNC110  (nobody sets one)
            await asyncio.sleep(0.001)
        return event

    async def go() -> Any:
        nonlocal the_run
        the_run = make_run(slow, wide, order="none", record=str(record))
        return await the_run.run()

    the_run: Run = None  # type: ignore[assignment]  # until it is made
    result = asyncio.run(go())

    assert result.counts["read"] == 4000
    assert small <= max(ahead) <= small + 100
    check_stamps(record)


def test_a_slow_disk_holds_reading_back_and_nothing_is_taken_for_lost(
    record: Path, small: int, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    write = RecordFile.write

    def slowly(self: RecordFile, *rows: Any) -> None:
        assert written.wait(60)
        write(self, *rows)

    class Releases(Watched):
        def on_progress(self, progress: Progress) -> None:
            self.told += the_run._gate is not None
            if self.told > 4:
                written.set()

    async def go() -> Any:
        nonlocal the_run
        the_run = make_run(handlers.echo, wide, record=str(record))
        the_run.observer = Releases()
        return await the_run.run()

    monkeypatch.setattr(RecordFile, "write", slowly)
    the_run: Run = None  # type: ignore[assignment]  # until it is made
    result = asyncio.run(go())

    assert (result.exit_code, result.counts["read"]) == (0, 4000)
    assert len(rows_of(record)) == 4000


# --- what goes wrong


def test_a_full_disk_ends_the_run_and_its_results_are_kept(
    tmp_path: Path, events: Path, small: int
) -> None:
    with pytest.raises(RecordError, match="No space left on device") as failed:
        run(handlers.echo, events, output=tmp_path / "out.jsonl", record="/dev/full")

    partial_ = tmp_path / "out.jsonl.partial"
    assert f"make room, then run it again; the results so far are in {partial_}" in str(
        failed.value
    )
    assert 0 < len(partial_.read_bytes().splitlines()) < 20_000


def test_a_full_disk_at_the_very_end_leaves_the_output_in_its_place(
    tmp_path: Path, events: Path
) -> None:
    with pytest.raises(RecordError, match="its other outputs are as they should be"):
        run(handlers.echo, events, output=tmp_path / "out.jsonl", record="/dev/full")

    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 20_000


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing/r.parquet", "can't be written: No such file or directory"),
        ("folder", "is a folder; name a file in it"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_told_before_anything_runs(
    tmp_path: Path, events: Path, name: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(RecordError, match=said):
        run(handlers.explode, events, output=tmp_path / "out", record=tmp_path / name)

    assert {path.name for path in tmp_path.iterdir()} == {"events.jsonl", "folder"}


def test_a_run_that_breaks_off_leaves_what_it_recorded(
    tmp_path: Path, events: Path, record: Path
) -> None:
    def bad(event: Event) -> Event:
        if event.data["id"] == 700:
            raise ValueError("no")
        return event

    result = run(bad, events, on_error="halt", record=record, dead_letter=tmp_path / "dead")

    check_stamps(record)
    rows = rows_of(record)
    assert result.exit_code == 3
    assert [row["outcome"] for row in rows[:701]] == ["emitted"] * 700 + ["dead"]
    assert {row["outcome"] for row in rows[701:]} == {None}


def test_a_run_that_fails_leaves_what_it_recorded(events: Path, record: Path) -> None:
    with pytest.raises(OutputError):
        run(handlers.echo, events, output="/dev/full", record=record)

    check_stamps(record)
    assert rows_of(record)[0]["outcome"] == "emitted"


def test_a_run_that_never_began_leaves_an_older_record_alone(
    tmp_path: Path, events: Path, record: Path
) -> None:
    record.write_bytes(b"older")
    job = stage(handlers.echo, setup=handlers.broken_setup)

    with pytest.raises(Exception, match="no database"):
        run(job, [str(events)], record=record)

    assert record.read_bytes() == b"older"
    assert {path.name for path in tmp_path.iterdir()} == {"events.jsonl", "record.parquet"}


def test_a_record_takes_the_place_of_an_older_one_and_keeps_its_mode(
    tmp_path: Path, record: Path
) -> None:
    record.write_bytes(b"older")
    record.chmod(0o640)

    run_over(tmp_path, handlers.echo, numbered(3), record=str(record))

    assert record.stat().st_mode & 0o777 == 0o640
    assert len(rows_of(record)) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"record": "-"}, "not to standard output; name a file"),
        ({"record": "r", "checkpoint": "c"}, "leave one of them out"),
        ({"record": "out", "output": "out"}, "--output and --record name the same file"),
        ({"record": "events.jsonl"}, "an input and --record name the same file"),
        ({"record": "r", "result": "r"}, "--result and --record name the same file"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path,
    events: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(PlanError, match=said):
        run(handlers.echo, "events.jsonl", **options)


def test_several_runs_in_one_loop_keep_their_records_apart(tmp_path: Path, events: Path) -> None:
    async def both() -> Any:
        jobs = (handlers.echo, handlers.aecho)
        runs = [
            run_async(job, events, record=tmp_path / f"{n}.parquet", limit=1000 + n)
            for n, job in enumerate(jobs)
        ]
        return await asyncio.gather(*runs)

    asyncio.run(both())

    assert [len(rows_of(tmp_path / f"{n}.parquet")) for n in (0, 1)] == [1000, 1001]


@pytest.fixture
def no_pandas(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Importing it fails."""
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    yield


def test_pandas_is_not_needed(tmp_path: Path, record: Path, no_pandas: None) -> None:
    run_over(tmp_path, handlers.echo, numbered(3), record=str(record))

    assert len(rows_of(record)) == 3
