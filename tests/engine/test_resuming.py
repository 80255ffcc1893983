"""Going on with a run: who may, from where, and what the ends of a sitting leave behind."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine import Event, Pipeline, dedupe, run, runner
from millstream.engine.checkpoint import CheckpointError, CheckpointStore
from millstream.engine.codecs import UnreadableInput
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.connectors.files import FileSink
from millstream.engine.dead_letters import DeadLetters, DeadLetterUnwritable, ErrorInfo, Place
from millstream.engine.faults import FaultPlan
from millstream.engine.fingerprint import Fingerprint, Mark
from millstream.engine.histogram import Histogram, HistogramState
from millstream.engine.pipeline import stage
from millstream.engine.plan import PlanError, RunOptions, make_plan
from millstream.engine.progress_keeper import ProgressKeeper
from millstream.engine.promises import OrderAudit, PromiseReport
from millstream.engine.resuming import InputFacts, RunFacts, StageFacts, refusal
from tests.support.handlers import aecho, echo, explode
from tests.support.running import json_lines, numbered, read_lines

# --- who may go on


def facts(**changes: Any) -> RunFacts:
    before = RunFacts(
        "id",
        "2026-01-01T00:00:00+00:00",
        {"order": "key", "key": None, "partitions": False, "limit": None},
        [InputFacts("a", 10, 1, (1, 2)), InputFacts("-")],
        [StageFacts("parse"), StageFacts("score", 50)],
    )
    return msgspec.structs.replace(before, **changes)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (facts(), None),
        (facts(run="other"), None),
        (
            facts(options={**facts().options, "order": "none"}),
            "it was begun with --order key, and this is with --order none; give the options as "
            "before",
        ),
        (facts(options={**facts().options, "partitions": True}), "without --partitions, and"),
        (facts(options={**facts().options, "limit": 5}), "without --limit, and this is with --l"),
        (
            facts(stages=[StageFacts("parse"), StageFacts("score", 60)]),
            "its stages were parse, score (batches of 50), and now they are parse, score (batches "
            "of 60); run the same pipeline",
        ),
        (facts(stages=[StageFacts("parse")]), "and now they are parse; run the same pipeline"),
        (
            facts(inputs=facts().inputs[::-1]),
            "its inputs were a, standard input, and now they are standard input, a; name the same",
        ),
        (
            facts(inputs=[InputFacts("a", 11, 1, (1, 2)), InputFacts("-")]),
            "input 'a' has changed: it had 10 bytes, and now it has 11; put it back as it was",
        ),
        (
            facts(inputs=[InputFacts("a", 10, 2, (1, 2)), InputFacts("-")]),
            "it was last written to 1970-01-01 00:00:00.000000001 UTC, and now 1970-01-01 "
            "00:00:00.000000002 UTC",
        ),
        (
            facts(inputs=[InputFacts("a"), InputFacts("-")]),
            "it was a file, and now it is a pipe or a device",
        ),
        (facts(inputs=[InputFacts("a", 10, 1, (1, 3)), InputFacts("-")]), None),
    ],
)
def test_what_may_not_change_is_named_with_both_values(now: RunFacts, said: str | None) -> None:
    why = refusal(facts(), now)

    assert (why is None) if said is None else (why is not None and said in why)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (StageFacts("s", None, "h.f", True, "order.*"), None),
        (
            StageFacts("s", None, "v.f", True, "order.*"),
            "its stage 's' was h.f, and now it is v.f; run the same pipeline",
        ),
        (
            StageFacts("s", None, "h.f", False, "order.*"),
            "its stage 's' kept state by key, and now it keeps none",
        ),
        (
            StageFacts("s", None, "h.f", True),
            "its stage 's' was for events of type order.*, and now it is for all",
        ),
    ],
)
def test_a_stage_of_the_same_name_may_be_another(now: StageFacts, said: str | None) -> None:
    before = facts(stages=[StageFacts("s", None, "h.f", True, "order.*")])

    why = refusal(before, facts(stages=[now]))

    assert (why is None) if said is None else (why is not None and said in why)


@pytest.mark.parametrize(
    ("before", "now", "found", "is_refused"),
    [
        ("auto", "jsonl", "jsonl", False),
        ("auto", "jsonl", None, True),
        ("auto", "csv", "jsonl", True),
        ("jsonl", "auto", "jsonl", True),
    ],
)
def test_a_format_may_be_named_that_was_found(
    before: str, now: str, found: str | None, is_refused: bool
) -> None:
    formats = [{**facts().options, "format": each} for each in (before, now)]

    why = refusal(facts(options=formats[0]), facts(options=formats[1]), {"format": found})

    assert (why is not None) is is_refused


@pytest.mark.parametrize(
    ("size", "mtime", "file_id", "said"),
    [
        (10, 9, (1, 2), None),
        (99, 9, (1, 2), None),
        (9, 9, (1, 2), "it had 10 bytes, and now it has 9"),
        (10, 1, (1, 9), "it is another file under the same name"),
    ],
)
def test_a_file_that_is_followed_may_grow(
    size: int, mtime: int, file_id: tuple[int, int], said: str | None
) -> None:
    now = facts(inputs=[InputFacts("a", size, mtime, file_id), InputFacts("-")])

    why = refusal(facts(follow=True), now)

    assert (why is None) if said is None else (why is not None and said in why)


def test_of_many_inputs_a_few_are_named() -> None:
    many = facts(inputs=[InputFacts(str(n)) for n in range(1000)])

    why = refusal(many, facts())

    assert why is not None
    assert "its inputs were 0, 1, 2, 3, 4 and 995 more, and now they are a, standard" in why


def test_state_by_key_and_batches_do_not_go_together() -> None:
    def counting(event: Event, state: Any) -> Event:
        return event

    def many(events: list[Event]) -> list[Event]:
        return events

    job = Pipeline(stage(counting, state=dict), stage(many, batch=2))

    with pytest.raises(PlanError, match="stage 'many' is batched in a pipeline that keeps state"):
        make_plan(job, RunOptions(checkpoint="c"))


# --- streams


def chunks_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]:
        yield data[at:cut]
        at = cut


@given(
    st.binary(max_size=300), st.lists(st.integers(0, 300)), st.lists(st.integers(0, 300)), st.data()
)
def test_the_same_stream_is_known_again_however_it_comes(
    stream: bytes, cuts: list[int], others: list[int], data: st.DataObject
) -> None:
    first = Fingerprint()
    for chunk in chunks_of(stream, cuts):
        first.feed(chunk)
        first.unpacked(first.marks(0)[-1].stored)
    marks = first.marks(data.draw(st.integers(0, len(stream))))

    again = Fingerprint(msgspec.msgpack.decode(msgspec.msgpack.encode(marks), type=list[Mark]))
    for chunk in chunks_of(stream + b"more", others):
        again.feed(chunk)
    again.finish()

    assert marks[-1].crc == zlib.crc32(stream)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 299), st.lists(st.integers(0, 300)))
def test_another_stream_is_refused(stream: bytes, place: int, cuts: list[int]) -> None:
    place %= len(stream)
    other = stream[:place] + bytes([stream[place] ^ 1]) + stream[place + 1 :]
    first = Fingerprint()
    first.feed(stream)

    again = Fingerprint(first.marks(0))
    with pytest.raises(UnreadableInput, match=f"its first {len(stream)} bytes differ"):
        for chunk in chunks_of(other, cuts):
            again.feed(chunk)


def test_a_stream_that_ends_too_early_is_refused() -> None:
    again = Fingerprint([Mark(10, 0, 10)])
    again.feed(b"12345")

    with pytest.raises(UnreadableInput, match="it ends after 5 bytes, but 10 were read of it"):
        again.finish()


def test_what_was_not_compared_yet_is_kept_for_the_next_sitting() -> None:
    expected = [Mark(5, zlib.crc32(b"12345"), 5), Mark(9, 7, 9)]
    again = Fingerprint(expected)

    before = again.marks(0)
    again.feed(b"123456")
    after = again.marks(0)

    assert before == expected
    assert after == expected[1:]


# --- outputs


def written(path: Path, *sittings: list[bytes | None], id: str = "id") -> None:
    """Pieces to write and marks (None) to make; each sitting goes on from the last mark."""

    async def write() -> None:
        length: int | None = None
        for number, pieces in enumerate(sittings):
            sink = FileSink(str(path))
            sink.keep(id, length)
            await sink.open()
            for piece in pieces:
                if piece is None:
                    length = await sink.mark()
                    sink.sync()
                else:
                    await sink.write(piece)
            if number == len(sittings) - 1:
                await sink.commit()
            else:
                await sink.abandon(keep=False)

    asyncio.run(write())


@pytest.mark.parametrize("name", ["out", "out.gz", "out.zst"])
def test_an_output_goes_on_from_its_last_mark(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    written(path, [b"one\n", None, b"lost\n"], [None, b"two\n", None, None, b"lost"], [b"three\n"])

    data = path.read_bytes()
    if name.endswith("gz"):
        data = gzip.decompress(data)
    elif name.endswith("zst"):
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as plain:
            data = plain.read()
    assert data == b"one\ntwo\nthree\n"
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.gz", "out.zst"])
def test_packed_nothing_is_packed_all_the_same(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, [None], [None])

    assert (tmp_path / name).stat().st_size > 0


def test_an_output_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConnectorError, match=r"first 1,000 bytes, is not there; put it back"):
        asyncio.run(_open(tmp_path / "out", 1000))


async def _open(path: Path, length: int) -> None:
    sink = FileSink(str(path))
    sink.keep("id", length)
    await sink.open()


# --- dead letters


def letters(path: Path, run_id: str, *indexes: int) -> DeadLetters:
    made = DeadLetters(str(path), lambda index: Place("in", index), lambda line, source: {}, run_id)
    for index in indexes:
        made.add(index, b"{}", "stage", ErrorInfo("E", "m"))
    made.flush()
    return made


def test_letters_are_cut_back_to_where_the_run_stood(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    ours = letters(path, "ours", 1, 2)
    letters(path, "ours", 3).close()

    ours.close()
    ours.cut_back(2, {1, 2}.__contains__)

    assert [each["position"]["index"] for each in read_lines(path)] == [1, 2]


def test_letters_that_were_replayed_meanwhile_are_known_again(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    ours = letters(path, "ours", 1, 2, 3)
    ours.close()
    marked = [{**each, "replayed": {"at": "x" * 500}} for each in read_lines(path)]
    path.write_bytes(json_lines(marked))

    ours.cut_back(2, {1, 2}.__contains__)

    assert read_lines(path) == marked[:2]


def test_letters_are_not_cut_back_while_others_add_to_them(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    ours = letters(path, "ours", 1, 2)
    ours.close()
    other = letters(path, "other", 7)

    with pytest.raises(DeadLetterUnwritable, match="is used by another run"):
        ours.cut_back(1, {1}.__contains__)
    other.close()


def test_the_letters_of_others_are_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    ours = letters(path, "ours", 1)
    letters(path, "other", 7).close()
    letters(path, "ours", 2).close()
    letters(path, "other", 8).close()
    path.chmod(0o640)

    ours.close()
    ours.cut_back(1, {1}.__contains__)

    assert [each["position"]["index"] for each in read_lines(path)] == [1, 7, 8]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["dead.jsonl"]


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (None, "is not there; put it back"),
        (b"", "has 0 of them only; put it back"),
        (b'{"run": "ours", "position": {"index": 2}}\n' * 9, "has 0 of them only; put it back"),
    ],
)
def test_letters_that_are_gone_are_refused(tmp_path: Path, left: bytes | None, said: str) -> None:
    path = tmp_path / "dead.jsonl"
    ours = letters(path, "ours", 1)
    ours.close()
    path.unlink() if left is None else path.write_bytes(left)

    with pytest.raises(DeadLetterUnwritable, match=said):
        ours.cut_back(1, {1}.__contains__)


def test_a_file_of_letters_that_is_shorter_by_the_letters_of_others_is_gone_on_with(
    tmp_path: Path,
) -> None:
    path = tmp_path / "dead.jsonl"
    letters(path, "other", *range(9)).close()
    ours = letters(path, "ours", 1, 2)
    ours.close()
    other = letters(path, "other")
    other.close()
    other.cut_back(0, {0}.__contains__)

    ours.cut_back(2, {1, 2}.__contains__)

    assert [each["position"]["index"] for each in read_lines(path)] == [0, 1, 2]


# --- figures


@given(st.lists(st.integers(-5, 2**45), max_size=200), st.lists(st.integers(0, 10**6), max_size=50))
def test_a_histogram_goes_on(before: list[int], after: list[int]) -> None:
    first, whole = Histogram(), Histogram()
    first.record(np.array(before, dtype=np.int64))
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(first.snapshot()), type=HistogramState)

    again = Histogram()
    again.restore(kept)
    again.record(np.array(after, dtype=np.int64))
    whole.record(np.array(before + after, dtype=np.int64))

    assert again.summary() == whole.summary()
    assert again.counts() == whole.counts()


def test_an_audit_goes_on_counting() -> None:
    first, again = OrderAudit("here"), OrderAudit("here")
    first.observe([2**99, 2**99], [5, 3])
    seen = msgspec.msgpack.decode(msgspec.msgpack.encode(first.kept()), type=PromiseReport)

    again.go_on_from(seen)
    again.observe(["a", "a"], [9, 8])

    assert (again.events, again.reordered) == (4, 2)
    assert [example.key for example in again.examples] == [str(2**99), "a"]


# --- the ends of a sitting


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines(numbered(50, ["a", "b"])))
    return path


def kept(folder: Path, **more: Any) -> dict[str, Any]:
    given = {"checkpoint": folder / "c", "output": folder / "out.jsonl", "resume": True}
    return {**given, "result": folder / "r.json", **more}


def test_a_result_is_given_again_as_it_was(events: Path, tmp_path: Path) -> None:
    first = run(echo, events, **kept(tmp_path))
    (tmp_path / "r.json").unlink()

    again = run(echo, events, **kept(tmp_path))

    assert again.data == json.loads(first.to_json())
    assert json.loads((tmp_path / "r.json").read_bytes()) == again.data


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_died_while_its_output_got_its_name_is_completed(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    real = FileSink.commit

    calls: list[int] = []

    def counted(event: Event) -> Event:
        calls.append(1)
        return event

    async def dies(sink: FileSink) -> None:
        if after:
            await real(sink)
        raise ConnectorError("died")

    monkeypatch.setattr(FileSink, "commit", dies)
    with pytest.raises(ConnectorError, match="died"):
        run(counted, events, **kept(tmp_path))
    monkeypatch.undo()
    calls.clear()
    result = run(counted, events, **kept(tmp_path))

    assert (tmp_path / "out.jsonl").read_bytes() == events.read_bytes()
    assert (result.counts["read"], result["sittings"], calls) == (50, 1, [])
    assert {each.name for each in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "c", "r.json"}


def run_until_it_names_its_output(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies when all is done but that."""

    async def dies(sink: FileSink) -> None:
        raise ConnectorError("died")

    monkeypatch.setattr(FileSink, "commit", dies)
    with pytest.raises(ConnectorError):
        run(echo, events, **kept(tmp_path))
    monkeypatch.undo()


@pytest.mark.parametrize("older", [b"", b"something older\n" * 500])
def test_an_older_output_is_not_taken_for_that_of_a_run_that_died_before_it_had_its_name(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bytes
) -> None:
    (tmp_path / "out.jsonl").write_bytes(older)
    run_until_it_names_its_output(events, tmp_path, monkeypatch)
    next(tmp_path.glob(".out*.part")).unlink()

    with pytest.raises(ConnectorError, match="can't be gone on with"):
        run(echo, events, **kept(tmp_path))
    assert (tmp_path / "out.jsonl").read_bytes() == older


def test_a_complete_run_whose_output_is_gone_says_so(events: Path, tmp_path: Path) -> None:
    run(echo, events, **kept(tmp_path))
    (tmp_path / "out.jsonl").unlink()

    with pytest.raises(CheckpointError, match=r"output '.*out\.jsonl' is not there any more; put"):
        run(echo, events, **kept(tmp_path))


def test_a_result_that_is_given_again_is_judged_anew(events: Path, tmp_path: Path) -> None:
    asked = ("dead_letters >= 0", "throughput < 0")
    results = [run(echo, events, **kept(tmp_path, fail_if=asked[:n])) for n in (0, 1, 2, 0)]

    assert [result.exit_code for result in results] == [0, 6, 6, 0]
    assert [result["verdict"] for result in results] == ["pass", "fail", "fail", "pass"]
    assert [each["held"] for each in results[2]["conditions"]] == [True, False]


def test_an_output_that_is_gone_while_it_got_its_name_is_refused(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until_it_names_its_output(events, tmp_path, monkeypatch)
    next(tmp_path.glob(".out*.part")).unlink()

    with pytest.raises(ConnectorError, match="can't be gone on with"):
        run(echo, events, **kept(tmp_path))


def test_a_checkpoint_that_can_not_be_renewed_stops_the_run_and_stays_valid(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CheckpointStore.commit
    commits = 0

    async def full(store: CheckpointStore, values: Any, puts: Any = ()) -> None:
        nonlocal commits
        commits += 1
        if commits > 2:
            raise CheckpointError("the checkpoint can't be written: disk full; make room")
        await real(store, values, puts)

    async def slow(event: Event) -> Event:
        await asyncio.sleep(0.01)
        return event

    monkeypatch.setattr(CheckpointStore, "commit", full)
    given = kept(tmp_path, checkpoint_every="1ms", order="global")
    with pytest.raises(CheckpointError, match="disk full; make room"):
        run(slow, events, **given)
    monkeypatch.undo()
    left = list(tmp_path.glob(".out*.part"))

    result = run(slow, events, **given)

    assert len(left) == 1
    assert (tmp_path / "out.jsonl").read_bytes() == events.read_bytes()
    assert (result.counts["read"], result["sittings"]) == (50, 2)


def test_what_went_wrong_first_is_told_when_the_checkpoint_can_not_be_closed_either(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = CheckpointStore.close

    async def fail(store: CheckpointStore) -> None:
        await close(store)
        raise CheckpointError("the log can't be brought in: disk full")

    monkeypatch.setattr(CheckpointStore, "close", fail)

    with pytest.raises(ConnectorError, match="'/dev/full' can't be written: No space left"):
        run(echo, events, **kept(tmp_path, output="/dev/full"))
    with pytest.raises(CheckpointError, match="disk full"):
        run(echo, events, checkpoint=str(tmp_path / "other"), dead_letter=str(tmp_path / "dead"))


def test_a_tear_down_that_fails_leaves_a_run_to_go_on_with(events: Path, tmp_path: Path) -> None:
    is_broken = True

    def teardown(resource: object) -> None:
        if is_broken:
            raise ValueError("no")

    work = stage(echo, setup=object, teardown=teardown)
    torn = run(work, events, **kept(tmp_path))
    is_broken = False
    result = run(work, events, **kept(tmp_path))

    assert torn.exit_code == 3
    assert any("unfinished: go on with it by --resume" in note for note in torn.notes)
    assert (result.exit_code, result.counts["read"]) == (0, 50)
    assert (tmp_path / "out.jsonl").read_bytes() == events.read_bytes()


@pytest.mark.parametrize(("bound", "most"), [("KEPT_WINDOW", 40), ("MOST_ROWS", 5)])
def test_reading_waits_for_an_event_that_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(runner, bound, most)
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines({"id": n, "pad": "x" * 9000} for n in range(300)))
    real = runner.Run._wait_for_window
    is_waiting = asyncio.Event()
    ahead: list[tuple[int, int]] = []

    def wait(self: runner.Run) -> Any:
        waiting = real(self)
        if waiting is not None and self.outlet.frontier.floor == 0:
            assert self.intake.ledger is not None
            ahead.append((self.intake.reached, len(self.intake.ledger)))
            is_waiting.set()
        return waiting

    monkeypatch.setattr(runner.Run, "_wait_for_window", wait)

    async def first_is_slow(event: Event) -> Event:
        if event.data["id"] == 0:
            await is_waiting.wait()
        return event

    result = run(stage(first_is_slow, concurrency=300), path, **kept(tmp_path, order="none"))

    events_ahead, rows = ahead[0]
    assert result.counts["read"] == 300
    assert (40 <= events_ahead < 50) if bound == "KEPT_WINDOW" else (rows == 5)


def test_a_file_may_have_any_name(events: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/odd-\xff.jsonl")
    events.rename(name)

    first = run(echo, name, **kept(tmp_path))
    again = run(echo, name, **kept(tmp_path))

    assert (first.exit_code, again.exit_code, again.counts["read"]) == (0, 0, 50)


def test_nothing_is_an_input_too(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"")

    result = run(aecho, tmp_path / "in.jsonl", **kept(tmp_path))

    assert (result.exit_code, (tmp_path / "out.jsonl").read_bytes()) == (0, b"")


# --- halted, then gone on with


@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("limit", [{"on_error": "halt"}, {"max_dead_letters": "0"}])
@pytest.mark.parametrize("handler", [echo, aecho])
def test_a_result_that_can_not_be_written_halts_the_run_and_loses_none(
    tmp_path: Path, handler: Any, limit: dict[str, Any], emit: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines({"id": n, "key": n % 9, "pad": "x" * 500} for n in range(3000)))
    is_broken = True

    def spoil(event: Event) -> Event:
        event.data["v"] = object() if is_broken and event.data["id"] == 700 else 1
        return event

    given = kept(tmp_path, output=tmp_path / "out.csv", emit=emit)
    options = {"order": "none" if handler is aecho else "key", "dead_letter": tmp_path / "dead"}
    job = Pipeline(stage(handler), stage(spoil))
    halted = run(job, path, **given, **options, **limit)
    is_broken = False
    result = run(job, path, **given, **options, **({} if "on_error" not in limit else limit))

    assert halted.exit_code == 3
    assert halted.counts["read"] == halted.counts["handled"] + 1
    assert [letter["event"]["id"] for letter in read_lines(tmp_path / "dead")] == [700]
    rows = (tmp_path / "out.csv").read_bytes().splitlines()[1:]
    assert sorted(int(row.split(b",")[0]) for row in rows) == [n for n in range(3000) if n != 700]
    assert (result.exit_code, result.counts["emitted"]) == (4, 2999)


def test_what_was_handled_by_the_end_and_can_not_be_written_halts_a_run(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines(numbered(100)))

    def spoil(event: Event) -> Event:
        event.data["v"] = object() if event.data["id"] == 70 else 1
        return event

    (tmp_path / "dead").touch()
    given = {"output": tmp_path / "out.csv", "dead_letter": tmp_path / "dead"}
    result = run(spoil, path, **given, on_error="halt")

    rows = (tmp_path / "out.csv.partial").read_bytes().splitlines()[1:]
    assert (result.exit_code, len(rows), result.counts["emitted"]) == (3, 99, 99)


def test_what_waits_for_its_turn_when_a_run_halts_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines(numbered(100)))
    never, last_came = asyncio.Event(), asyncio.Event()
    is_broken = True

    async def first_is_slow(event: Event) -> Event:
        if is_broken and event.data["id"] == 0:
            await never.wait()
        if event.data["id"] == 99:
            last_came.set()
        if event.data["id"] == 90:
            await last_came.wait()
            raise ValueError("ninety")
        return event

    more = {"order": "none", "concurrency": 1000, "rate": 100_000.0}
    given = kept(tmp_path, emit="input", max_dead_letters="0", **more)
    first = run(first_is_slow, path, **given)
    is_broken = False
    result = run(first_is_slow, path, **{**given, "max_dead_letters": None})

    expected = [n for n in range(100) if n != 90]
    assert (first.exit_code, first.counts["emitted"]) == (3, 0)
    assert [event["id"] for event in read_lines(tmp_path / "out.jsonl")] == expected
    assert result.counts["read"] == result.counts["handled"] + 1 == 100
    assert result["response"]["count"] == result["slip"]["count"] == 100


@pytest.mark.parametrize("states", [False, True])
def test_response_times_are_told_once_for_each_event(tmp_path: Path, states: bool) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines(numbered(100, list("abcdefghij"))))
    last_came = asyncio.Event()
    is_broken = True

    async def some_fail(event: Event) -> Event:
        number = event.data["id"]
        if number == 99:
            last_came.set()
        if is_broken and number in (10, 11, 12):
            await last_came.wait()
        if number % 9 == 0:
            raise ValueError("no")
        return event

    async def with_state(event: Event, state: dict[str, int]) -> Event:
        return await some_fail(event)

    job = stage(with_state, state=dict) if states else stage(some_fail)
    given = kept(tmp_path, rate=100_000.0, order="key", checkpoint_every="1ms")
    first = run(job, path, **given, max_dead_letters="3")
    is_broken = False
    result = run(job, path, **given)

    assert (first.exit_code, result.exit_code) == (3, 4)
    assert result.counts["read"] == result.counts["handled"] + 12 == 100
    assert result["response"]["count"] == result["slip"]["count"] == 100


def test_what_faults_did_is_told_of_all_sittings_and_the_seed_is_drawn_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json_lines(numbered(3000)))
    given = kept(tmp_path, attempts=1, inject=("error:10%", "delay:1us:1%"))

    first = run(echo, path, **given, max_dead_letters="20")
    second = run(echo, path, **{**given, "inject": ("error:10%",)}, max_dead_letters="100")
    third = run(echo, path, **given)

    seeds = {result["seed"] for result in (first, second, third)}
    plan = FaultPlan.of(("error:10%", "delay:1us:1%"), seeds.pop())
    struck = [n for n in range(3000) if [a for a in plan.before_call(n, 1, "a") if not a.fault]]
    assert not seeds
    assert (first.exit_code, second.exit_code, third.exit_code) == (3, 3, 4)
    assert [letter["event"]["id"] for letter in read_lines(tmp_path / "dead-letters.jsonl")] == (
        struck
    )
    errors, delays = third["faults"]
    assert (errors["text"], errors["fired"]) == ("error:10%", len(struck))
    assert delays["fired"] >= first["faults"][1]["fired"]
    assert errors["windows"][0][0] <= first["faults"][0]["windows"][0][1]
    assert sum(f["violations"] for f in third["faults"]) + third["unattributed"] == len(struck)


def test_another_seed_is_refused(events: Path, tmp_path: Path) -> None:
    run(explode, events, **kept(tmp_path, on_error="halt", seed=7))

    with pytest.raises(CheckpointError, match="begun with the seed 7, and this is with --seed 8"):
        run(explode, events, **kept(tmp_path, on_error="halt", seed=8))
    assert run(explode, events, **kept(tmp_path, on_error="halt", seed=7))["seed"] == 7


def test_what_a_run_left_that_died_before_its_first_snapshot_is_removed(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(keeper: ProgressKeeper) -> None:
        raise ConnectorError("died")

    monkeypatch.setattr(ProgressKeeper, "begin", dies)
    for _ in range(2):
        with pytest.raises(ConnectorError, match="died"):
            run(echo, events, **kept(tmp_path))
    monkeypatch.undo()
    left = list(tmp_path.glob(".out*.part"))
    run(echo, events, **kept(tmp_path))

    assert len(left) == 1
    assert {each.name for each in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "c", "r.json"}


def test_many_duplicates_ask_for_a_snapshot(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "MOST_NOTED", 100)
    events.write_bytes(json_lines({"id": 1, "pad": "x" * 9000} for _ in range(500)))
    taken: list[int] = []
    real = ProgressKeeper.take

    def watched(self: ProgressKeeper, length: int) -> None:
        taken.append(length)
        real(self, length)

    monkeypatch.setattr(ProgressKeeper, "take", watched)

    result = run(echo, events, **kept(tmp_path, dedupe=True, checkpoint_every="1h"))

    assert result.counts["deduplicated"] == 499
    assert taken
