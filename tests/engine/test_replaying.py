"""Dead letters run again: each key in order, byte for byte, marked whole or not at all."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from millstream.engine import Event, Reject, run, stage
from millstream.engine.batch import Batch
from millstream.engine.channel import Channel
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.connectors.files import FileSink
from millstream.engine.dead_letters import DeadLetters, DeadLetterUnwritable, ErrorInfo, Place
from millstream.engine.executors.inline import InlineExecutor
from millstream.engine.letter_file import LetterFile, Replacement, Selection
from millstream.engine.loading import HandlerNotFound
from millstream.engine.observer import Progress, Silent
from millstream.engine.plan import PlanError, RunOptions, make_plan
from millstream.engine.replaying import Outcomes, ReplayRun, replay_options
from millstream.engine.result import SCHEMA_FILE, RunResult
from millstream.engine.runner import NoSink
from tests.support.handlers import (
    aecho,
    broken_setup,
    broken_teardown,
    echo,
    explode,
    kill_at_three,
)
from tests.support.letters import (
    AT,
    Heard,
    base64_of,
    letter,
    read_letters,
    replay,
    state_of,
    write_letters,
)
from tests.support.running import json_lines, numbered, read_lines

EXECUTORS = {
    "inline": echo,
    "coroutine": aecho,
    "process": stage(echo, executor="process", workers=2),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dead.jsonl"


def fail_odd(event: Event) -> Event:
    if event.data["id"] % 2:
        raise ValueError(f"odd {event.id}")
    return event


# --- what becomes of letters


@pytest.mark.parametrize("name", EXECUTORS)
def test_what_succeeds_is_written_and_marked(path: Path, tmp_path: Path, name: str) -> None:
    made = [letter(n, "ab"[n % 2]) for n in range(6)]
    write_letters(path, *made)

    result = replay(path, EXECUTORS[name], output=str(tmp_path / "out.jsonl"))

    assert sorted(each["id"] for each in read_lines(tmp_path / "out.jsonl")) == list(range(6))
    assert (result.exit_code, result["command"]) == (0, "replay")
    assert result["replay"] == {
        "letters": 6, "replayed_before": 0, "succeeded": 6, "failed_again": 0, "left": 0,
    }  # fmt: skip
    for before, after in zip(made, read_letters(path), strict=True):
        mark = after.pop("replayed")
        assert after == before
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", mark["at"])
        assert re.fullmatch(r"[0-9a-f]{32}", mark["run"])


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_what_fails_again_keeps_its_place_and_its_history(path: Path, executor: str) -> None:
    write_letters(path, *(letter(n, "k", stage="former") for n in range(4)))

    result = replay(path, stage(fail_odd, executor=executor, workers=1), on_error="continue")

    assert (result.exit_code, result.counts["dead_lettered"]) == (4, 2)
    assert result["dead_letter_file"] == str(path)
    assert state_of(path) == ["replayed", "again", "replayed", "again"]
    again = read_letters(path)[1]
    assert (again["attempts"], again["stage"], again["run"]) == (2, "fail_odd", "r1")
    assert again["error"]["message"] == "odd 1"
    assert (again["first_at"], again["source"]) == (AT, "in.jsonl")
    assert again["last_at"] > AT
    assert again["history"][0]["error"]["message"] == "no"


def test_a_filtered_event_succeeded(path: Path) -> None:
    write_letters(path, letter(0))

    result = replay(path, lambda event: None)

    assert (result.counts["filtered"], state_of(path)) == (1, ["replayed"])


def test_the_second_replay_has_nothing_to_do(path: Path) -> None:
    write_letters(path, letter(0), letter(1))
    replay(path, echo)
    once = path.read_bytes()

    result = replay(path, explode)

    assert result.counts["read"] == 0
    assert path.read_bytes() == once


def test_a_replay_that_failed_can_be_repeated_with_another_handler(path: Path) -> None:
    write_letters(path, letter(0), letter(1))
    for _ in range(2):
        replay(path, explode)

    result = replay(path, echo)

    assert (result.exit_code, state_of(path)) == (0, ["replayed", "replayed"])
    assert [len(each["history"]) for each in read_letters(path)] == [2, 2]


def test_a_limit_leaves_the_rest(path: Path) -> None:
    write_letters(path, *(letter(n) for n in (3, 0, 2, 1)))

    result = replay(path, echo, limit=2)

    assert state_of(path) == ["left", "replayed", "left", "replayed"]
    assert result["replay"]["left"] == 2


def test_every_result_of_a_replay_is_what_the_schema_accepts(path: Path) -> None:
    write_letters(path, *(letter(n) for n in range(3)))

    result = replay(path, fail_odd)

    Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes())).validate(
        json.loads(result.to_json())
    )
    assert result["inputs"] == [str(path)]


def test_a_worker_that_dies_leaves_its_mark_in_the_letter(path: Path) -> None:
    write_letters(path, *(letter(n) for n in range(4)))

    result = replay(path, stage(kill_at_three, executor="process", workers=1))

    assert result.exit_code == 4
    assert state_of(path)[3] == "again"
    assert read_letters(path)[3]["attempts"] >= 2


def flaky() -> Any:
    """A handler that fails for outside reasons twice."""
    calls: list[int] = []

    def handler(event: Event) -> Event:
        calls.append(event.data["id"])
        if len(calls) < 3:
            raise TimeoutError
        return event

    return handler


@pytest.mark.parametrize(("attempts", "state"), [(3, "replayed"), (2, "again")])
def test_a_letter_is_tried_as_often_as_an_event(path: Path, attempts: int, state: str) -> None:
    write_letters(path, letter(0))

    replay(path, flaky(), attempts=attempts, backoff="1ms")

    (after,) = read_letters(path)
    assert (state_of(path), after["attempts"]) == ([state], 1 if state == "replayed" else 3)


# --- parked


async def afail_one(event: Event) -> Event:
    return fail_one(event)


def fail_one(event: Event) -> Event:
    if event.data["id"] == 1:
        raise ValueError("one")
    return event


def parked(folder: Path, handler: Any) -> Path:
    """The letters of a run in which event 1 failed: 1, and 3, 5 and 7 of its key, parked."""
    (folder / "input").write_bytes(json_lines(numbered(8, ("a", "b"))))
    run(handler, folder / "input", dead_letter=folder / "dead.jsonl", on_error="park")
    return folder / "dead.jsonl"


@pytest.mark.parametrize("handler", [fail_one, afail_one])
def test_siblings_stay_behind_their_first_when_it_fails_again(tmp_path: Path, handler: Any) -> None:
    dead = parked(tmp_path, handler)

    replay(dead, handler, on_error="park")

    assert [
        (each["event"]["id"], each["error"]["type"], each["attempts"], len(each.get("history", ())))
        for each in read_letters(dead)
    ] == [(1, "ValueError", 2, 1), (3, "Parked", 0, 0), (5, "Parked", 0, 0), (7, "Parked", 0, 0)]
    assert state_of(dead) == ["again"] * 4


@pytest.mark.parametrize("handler", [fail_one, afail_one])
def test_siblings_follow_their_first_when_it_is_selected(tmp_path: Path, handler: Any) -> None:
    dead = parked(tmp_path, handler)

    replay(dead, aecho, Selection(errors=("ValueError",)), output=str(tmp_path / "out"))

    assert [each["id"] for each in read_lines(tmp_path / "out")] == [1, 3, 5, 7]
    assert state_of(dead) == ["replayed"] * 4


@pytest.mark.parametrize("options", [{"on_error": "halt"}, {"max_dead_letters": "0"}])
def test_a_replay_that_is_stopped_marks_what_it_came_to(
    path: Path, options: dict[str, str]
) -> None:
    write_letters(path, *(letter(n, n) for n in range(5)))
    output = path.with_name("out.jsonl")

    result = replay(path, fail_one, output=str(output), **options)

    states = state_of(path)
    assert (result.exit_code, states[1], states[4]) == (3, "again", "left")
    written = read_lines(Path(f"{output}.partial"))
    assert [n for n, state in enumerate(states) if state == "replayed"] == [
        each["id"] for each in written
    ]


# --- order

_letters = st.lists(
    st.tuples(
        st.sampled_from(["r1", "r2"]),
        st.integers(0, 40),
        st.sampled_from(["a", "b", None]),
        st.booleans(),  # a row of CSV
    ),
    max_size=40,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=15)
@given(_letters, st.sampled_from(sorted(EXECUTORS)))
def test_keys_keep_their_order_whatever_the_file_and_the_format(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, Any, bool]], name: str
) -> None:
    folder = tmp_path_factory.mktemp("replay")
    made = []
    for run_id, index, key, is_row in rows:
        more: dict[str, Any] = {"run": run_id}
        if is_row:
            more |= {"header": ["id", "key"], "delimiter": ";"}
            more["event_text"] = f"{index};{'' if key is None else key}"
        made.append(letter(index, key, **more))
    write_letters(folder / "d", *made)

    result = replay(folder / "d", EXECUTORS[name], output=str(folder / "o"), output_format="jsonl")

    assert result["ordering"]["violations"] == 0
    runs = list(dict.fromkeys(row[0] for row in rows))
    expected, came = defaultdict(list), defaultdict(list)
    for _, index, key, _ in sorted(rows, key=lambda row: (runs.index(row[0]), row[1])):
        expected[key].append(index)
    for event in read_lines(folder / "o"):
        came[event["key"] or None].append(int(event["id"]))
    assert sorted(came[None]) == sorted(expected[None])
    assert {key: came[key] for key in "ab"} == {key: expected[key] for key in "ab"}
    assert set(state_of(folder / "d")) <= {"replayed"}


def test_the_whole_order_can_be_asked_for(path: Path, tmp_path: Path) -> None:
    write_letters(path, *(letter(n, n) for n in (5, 1, 4)))

    replay(path, aecho, order="global", emit="input", output=str(tmp_path / "o"))

    assert [each["id"] for each in read_lines(tmp_path / "o")] == [1, 4, 5]


def test_sources_are_partitions_where_that_is_the_order(path: Path, tmp_path: Path) -> None:
    def where(event: Event) -> dict[str, Any]:
        return {"id": event.data["id"], "partition": event.partition}

    made = [letter(n, source=f"{'xy'[n % 2]}.jsonl") for n in range(4)]
    write_letters(path, *made)

    replay(path, where, order="partition", output=str(tmp_path / "o"))

    assert [each["partition"] for each in read_lines(tmp_path / "o")] == [0, 1, 0, 1]


# --- events as they came


def failed(folder: Path, content: bytes, **options: Any) -> Path:
    """The dead letters of a run in which every event failed."""
    (folder / "input").write_bytes(content)
    dead = folder / "dead.jsonl"
    run(explode, folder / "input", dead_letter=dead, **options)
    return dead


CONTENTS = {
    "json": b'{"key":  "a", "n": 1.50}\n{"key":"b","n":1e400,"x":[ ]}\n"text"\n7\n',
    "csv": b'key,n\r\na,1\r\n"b ""q"" ",  2\r\n"two\nlines",3\r\n',
    "csv that looks like JSON": b"key\n1.50\n  7\n[1]\n",
    "other marks": b"key;n\na;1\nb;2\n",
    "not ASCII": '{"key": "ключ", "n": "é"}\n"ключ"\n'.encode(),
}


@pytest.mark.parametrize("executor", ["inline", "process"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_replay_writes_what_the_run_would_have_written(
    tmp_path: Path, content: str, executor: str
) -> None:
    job = stage(echo, executor=executor, workers=1)
    options = {"format": "csv"} if content.startswith("csv") else {}
    dead = failed(tmp_path, CONTENTS[content], **options)
    run(job, tmp_path / "input", output=str(tmp_path / "run"), **options)

    replay(dead, job, output=str(tmp_path / "replay"))

    assert (tmp_path / "replay").read_bytes() == (tmp_path / "run").read_bytes() != b""


def test_columns_reach_the_handler_under_their_names(tmp_path: Path) -> None:
    seen: list[Any] = []
    dead = failed(tmp_path, b"id|key|n\n1|a|5\n")

    replay(dead, lambda event: seen.append((event.key, event.id, event.data)))

    assert seen == [("a", "1", {"id": "1", "key": "a", "n": "5"})]


def test_bytes_that_are_no_text_fail_again_as_they_did(path: Path) -> None:
    line = b'{"key": "\xff\xfe"}'
    made = letter(
        0, event_base64=base64_of(line), stage="input", error="MalformedEvent", attempts=0
    )
    write_letters(path, made)

    result = replay(path, echo)

    (again,) = read_letters(path)
    assert result.exit_code == 4
    assert again["event_base64"] == made["event_base64"]
    assert (again["error"]["type"], again["attempts"]) == ("MalformedEvent", 0)
    assert len(again["history"]) == 1
    replay(path, echo)
    assert len(read_letters(path)[0]["history"]) == 1  # it is as malformed as before
    assert "not UTF-8" in again["error"]["message"]


@pytest.mark.parametrize(
    ("rows", "format"), [((True, True), "csv"), ((True, False), "jsonl"), ((False, True), "jsonl")]
)
def test_results_are_rows_where_all_events_are(
    path: Path, tmp_path: Path, rows: tuple[bool, ...], format: str
) -> None:
    row = {"header": ["id", "key"], "delimiter": ","}
    made = [
        letter(n, "a", event_text=f"{n},a", **row) if is_row else letter(n, "a")
        for n, is_row in enumerate(rows)
    ]
    write_letters(path, *made, letter(9, error="KeyError"))

    replay(path, echo, Selection(errors=("ValueError",)), output=str(tmp_path / "out"))

    first = (tmp_path / "out").read_bytes().splitlines()[0]
    assert first == b"id,key" if format == "csv" else json.loads(first)["key"] == "a"
    assert state_of(path) == ["replayed", "replayed", "left"]


def test_the_start_of_a_line_is_not_taken_for_the_line(path: Path) -> None:
    why = "the line is longer than 268435456 bytes; its first 1024 are kept"
    write_letters(path, letter(0, error="MalformedEvent", message=why), letter(1))

    replay(path, echo)

    assert state_of(path) == ["again", "replayed"]
    assert read_letters(path)[0]["error"]["message"] == why


def test_what_was_malformed_may_be_an_event_now(path: Path) -> None:
    write_letters(path, letter(0, event_text='{"id":\n1}', error="MalformedEvent"))

    replay(path, echo)

    assert state_of(path) == ["replayed"]


def test_cloud_events_are_held_to_their_format_again(tmp_path: Path) -> None:
    dead = failed(tmp_path, b'{"key": "a"}\n', format="cloudevents")
    before = read_letters(dead)[0]["error"]

    replay(dead, echo)

    assert (state_of(dead), read_letters(dead)[0]["error"]) == (["again"], before)


# --- where attributes stand


def test_keys_are_found_where_the_run_found_them(tmp_path: Path) -> None:
    seen: list[Any] = []
    content = b'{"user": {"id": "u1"}, "at": 5}\n{"n": 1}\n'
    dead = failed(tmp_path, content, key="user.id", time="at")
    heard = Heard()

    replay(dead, lambda event: seen.append((event.key, event.time_ns)), None, heard)

    assert seen == [("u1", 5_000_000_000), (None, None)]
    assert heard.warnings == []


def test_letters_without_the_key_of_their_run_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b'{"user": {"id": 1}}\n' + b'{"n": 1}\n' * 3)
    dead = tmp_path / "dead.jsonl"

    def fail_keyless(event: Event) -> Event:
        if event.key is None:
            raise Reject("whose is it?")
        return event

    run(fail_keyless, tmp_path / "input", dead_letter=dead, key="user.id")

    assert replay(dead, echo).exit_code == 0


def test_a_flag_says_otherwise(tmp_path: Path) -> None:
    seen: list[Any] = []
    dead = failed(tmp_path, b'{"user": {"id": "u1"}, "k": 2}\n', key="user.id")

    replay(dead, lambda event: seen.append(event.key), key="k")

    assert seen == [2]


def test_a_key_that_no_letter_has_is_refused(path: Path) -> None:
    write_letters(path, letter(0, "a"))
    before = path.read_bytes()

    with pytest.raises(ConnectorError, match="no event of the first block has the key 'user'"):
        replay(path, echo, key="user")

    assert path.read_bytes() == before


def test_runs_that_found_their_keys_elsewhere_are_not_mixed(path: Path) -> None:
    made = [letter(0, "a"), letter(0, "a", run="r2", fields={"key": "id"})]
    write_letters(path, *made)
    with pytest.raises(PlanError, match=r"the key in id and the usual field: replay run by run"):
        replay(path, echo)

    replay(path, echo, Selection(runs=("r2",)))
    assert state_of(path) == ["left", "replayed"]
    replay(path, echo)

    assert state_of(path) == ["replayed", "replayed"]


def test_columns_are_held_to_a_key_that_is_named_now_and_to_no_other(tmp_path: Path) -> None:
    dead = failed(tmp_path, b"id,n\n1,2\n", key="user", order="none")
    with pytest.raises(ConnectorError, match="has no column 'name'"):
        replay(dead, echo, key="name")

    assert replay(dead, echo).exit_code == 0


# --- selection


def test_only_what_is_selected_runs_and_what_it_holds_up_is_told(path: Path) -> None:
    made = [
        letter(0, "a", error="KeyError"),
        letter(1, "b"),
        letter(2, "a"),
        letter(3, "b", error="Parked"),
    ]
    write_letters(path, *made)
    heard = Heard()

    result = replay(path, echo, Selection(errors=("ValueError",)), heard)

    assert state_of(path) == ["left", "replayed", "left", "replayed"]
    assert result["replay"]["left"] == 2
    (warning,) = heard.warnings
    assert warning.startswith("1 letter is left out, since an earlier one of the same key is not")


# --- when a replay does not end well


class FullSink(FileSink):
    async def write(self, data: bytes) -> None:
        raise ConnectorError("no space")


class LateSink(FileSink):
    async def commit(self) -> None:
        await self.abandon(keep=False)
        raise ConnectorError("it can't be put in place")


@pytest.mark.parametrize("kind", [FullSink, LateSink])
def test_without_its_output_a_replay_marks_nothing(
    path: Path, tmp_path: Path, kind: type[FileSink]
) -> None:
    write_letters(path, letter(0))
    before = path.read_bytes()

    with pytest.raises(ConnectorError):
        replay(path, echo, sink=kind(str(tmp_path / "out.jsonl")))

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_its_marks_a_replay_leaves_no_output(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_letters(path, letter(0))
    before = path.read_bytes()

    def full(self: Replacement, lines: Any) -> None:
        raise DeadLetterUnwritable("no space")

    monkeypatch.setattr(Replacement, "write", full)
    with pytest.raises(DeadLetterUnwritable):
        replay(path, echo, output=str(tmp_path / "out.jsonl"))

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class ForgetfulSink(FileSink):
    """Can't keep what an unfinished replay has written."""

    async def abandon(self, *, keep: bool) -> str | None:
        return await super().abandon(keep=False)


def test_results_that_could_not_be_kept_are_not_marked(path: Path, tmp_path: Path) -> None:
    write_letters(path, *(letter(n) for n in range(9)))
    before = path.read_bytes()

    def interrupted(event: Event) -> Event:
        if event.id == 0:
            signal.raise_signal(signal.SIGINT)
        return event

    result = replay(path, interrupted, sink=ForgetfulSink(str(tmp_path / "out.jsonl")))

    assert result.exit_code == 130
    assert any("could not be kept" in note for note in result.notes)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Losing(InlineExecutor):
    """An engine that loses the third event."""

    async def run(self, inbox: Channel[Batch], outbox: Channel[Batch]) -> None:
        inner: Channel[Batch] = Channel(1000)
        await super().run(inbox, inner)
        while (batch := inner.receive_now()) is not None:
            await outbox.send(batch.part(0, 2))
        outbox.close()


def test_what_the_engine_has_lost_is_not_marked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millstream.engine.executors.inline.InlineExecutor", Losing)
    write_letters(path, *(letter(n) for n in range(3)))

    # The results go to CSV, for which batches stay apart.
    result = replay(path, echo, output=str(tmp_path / "out.csv"))

    assert (result.exit_code, result["delivery"]["lost"]) == (5, 1)
    assert state_of(path) == ["replayed", "replayed", "left"]


def test_failures_that_were_written_before_a_run_was_stopped_are_found_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_letters(path, *(letter(n) for n in range(6)))
    flush = DeadLetters.flush

    def flush_and_stop(self: DeadLetters) -> None:
        flush(self)
        raise ConnectorError("stop")

    monkeypatch.setattr(DeadLetters, "flush", flush_and_stop)
    outcomes = Outcomes(str(path), lambda index: Place("in", 1), "r", lambda count: None)
    outcomes.claim()
    for number in (4, 2):
        outcomes.add(number, b"", "s", ErrorInfo(f"E{number}", "no"))
        with pytest.raises(ConnectorError):
            outcomes.flush()
    letters = LetterFile(str(path), Selection())

    by_row = outcomes.by_row(letters)

    assert [by_row[row]["error"]["type"] for row in (2, 4)] == ["E2", "E4"]
    letters.close()
    outcomes.end()


def test_a_set_up_that_fails_leaves_all_as_it_was(path: Path) -> None:
    write_letters(path, letter(0))
    before = path.read_bytes()

    with pytest.raises(HandlerNotFound):
        replay(path, stage(echo, setup=broken_setup))

    assert path.read_bytes() == before


def test_a_tear_down_that_fails_leaves_the_letters_as_they_were(path: Path, tmp_path: Path) -> None:
    write_letters(path, letter(0))
    before = path.read_bytes()
    job = stage(echo, setup=dict, teardown=broken_teardown)

    result = replay(path, job, output=str(tmp_path / "out.jsonl"))

    assert (result.exit_code, path.read_bytes()) == (3, before)
    assert any("is as it was" in note for note in result.notes)
    assert result["replay"]["left"] == 1


def test_what_was_read_of_the_file_is_not_told_as_progress(path: Path) -> None:
    seen: list[Progress] = []

    class Watched(ReplayRun):
        def _result(self, notes: list[str]) -> RunResult:
            seen.append(self.progress(self.started_ns + 1))
            return super()._result(notes)

    async def run(letters: LetterFile) -> None:
        plan = make_plan(echo, replay_options(RunOptions(), letters))
        await Watched(plan, letters, NoSink(), Silent()).run()

    write_letters(path, letter(0), letter(1))
    with closing(LetterFile(str(path), Selection())) as letters:
        asyncio.run(run(letters))

    assert [(each.done, each.bytes_total) for each in seen] == [(2, None)]


def test_a_replay_that_has_ended_lets_others_write(path: Path) -> None:
    write_letters(path, letter(0))

    replay(path, explode)
    run(explode, write_letters(path.with_name("in.jsonl"), {"key": 1}), dead_letter=path)

    assert state_of(path) == ["again", "left"]
