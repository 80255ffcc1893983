"""A file of dead letters: checked whole, put in order, chosen from, and rewritten."""

from __future__ import annotations

import errno
import gzip
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine import locking
from millstream.engine.codecs import CsvCutter, LineCutter
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.dead_letters import DeadLetterUnwritable, event_as_it_came
from millstream.engine.event import encode_json
from millstream.engine.letter_file import (
    FAILED,
    LEFT,
    MOST_HISTORY,
    SUCCEEDED,
    LetterFile,
    Replacement,
    Selection,
    choose,
    failed_again,
)
from tests.support.letters import AT, letter, write_letters

MARK = {"at": AT, "run": "replay-1"}


def opened(path: Path, *letters: Any, **selected: tuple[str, ...]) -> LetterFile:
    return LetterFile(str(write_letters(path, *letters)), Selection(**selected))


def events_in(letters: LetterFile) -> list[tuple[str | None, int]]:
    """Run and number of each letter, in the order of replay."""
    turns = [letters.letter(turn)[0] for turn in range(len(letters))]
    letters.close()
    return [(each.run, each.position.index) for each in turns]


# --- order


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 2**61)), max_size=30, unique=True
    )
)
def test_the_order_is_that_of_the_events_run_by_run(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("letters") / "dead.jsonl"
    letters = opened(path, *(letter(index, run=run) for run, index in places))

    runs = list(dict.fromkeys(run for run, _ in places))
    expected = sorted(places, key=lambda place: (runs.index(place[0]), place[1]))
    assert events_in(letters) == expected


def test_letters_of_no_run_are_a_run_too(tmp_path: Path) -> None:
    old = letter(3)
    del old["run"]

    letters = opened(tmp_path / "d", old, letter(1), {**old, "position": {"index": 2, "line": 3}})

    assert events_in(letters) == [(None, 2), (None, 3), ("r1", 1)]


def test_an_event_that_died_twice_in_a_run_comes_once(tmp_path: Path) -> None:
    letters = opened(tmp_path / "d", letter(1), letter(0), letter(1), letter(1), letter(1, run="x"))

    assert events_in(letters) == [("r1", 0), ("r1", 1), ("x", 1)]


def test_letters_that_are_replayed_do_not_come_again(tmp_path: Path) -> None:
    letters = opened(tmp_path / "d", letter(1, replayed=MARK), letter(0), b"", b"  ")

    assert (letters.letters, letters.replayed_before) == (2, 1)
    assert events_in(letters) == [("r1", 0)]


# --- what is no letter


def broken(**changes: Any) -> dict[str, Any]:
    made = letter(0)
    for name, value in changes.items():
        if value is None:
            del made[name]
        else:
            made[name] = value
    return made


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nope", "malformed"),
        (b'{"event": 1', "truncated"),
        (b"[]", "expected object"),
        (b"{}", "missing required field"),
        (b'{"id": 1, "key": "a"}', "missing required field"),
        (broken(event=None), "no event, event_text or event_base64"),
        (broken(event_text="x"), "or several"),
        (broken(position={"line": 1}), "index"),
        (broken(position={"index": -1}), "position.index"),
        (broken(position={"index": 2**70}), "position.index"),
        (broken(event=None, event_base64="?"), "base64"),
        (broken(attempts="many"), "attempts"),
        (broken(fields={"colour": "x"}), "colour"),
        (broken(error="no"), "error"),
        (broken(replayed=True), "replayed"),
    ],
)
def test_a_line_that_is_no_letter_is_named_and_all_is_refused(
    tmp_path: Path, line: Any, said: str
) -> None:
    path = write_letters(tmp_path / "dead.jsonl", letter(0), b"", line, letter(1))
    before = path.read_bytes()

    with pytest.raises(ConnectorError) as refused:
        LetterFile(str(path), Selection())

    message = str(refused.value)
    assert f"{path} line 3 is no dead letter: " in message
    assert said.lower() in message.lower()
    assert "mend the line or take it out. Nothing was replayed" in message
    assert path.read_bytes() == before
    write_letters(path, letter(0))
    LetterFile(str(path), Selection()).close()  # the lock is not held any more


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'\n{"id": 1, "key": "a"}\n', "line 2: Object missing required field "),
        (b"id,name\n", "line 1: JSON is malformed"),
        (
            gzip.compress(b"{}\n", mtime=0),
            "it is packed (gzip); letters are marked where they stand, so ",
        ),
        (zstandard.ZstdCompressor().compress(b"{}\n"), "it is packed (zstd)"),
    ],
)
def test_another_file_is_told_as_such(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)

    with pytest.raises(ConnectorError) as refused:
        LetterFile(str(path), Selection())

    assert str(refused.value).startswith(f"{path} is no file of dead letters: {said}")
    assert "mend" not in str(refused.value)


def died(index: int, stage: str, **how: Any) -> dict[str, Any]:
    error = {"type": "WorkerDied", "message": "it died", "traceback": None, **how}
    return {**letter(index, stage=stage), "error": error}


def test_the_stages_in_which_a_worker_ended_are_known_of_the_letters_that_are_chosen(
    tmp_path: Path,
) -> None:
    letters = [
        *(letter(0), died(1, "a", signal="SIGKILL"), died(2, "b", exit_code=0)),
        {**died(3, "c", exit_code=1), "replayed": {}},
    ]

    def stages(*letters: Any, **selected: tuple[str, ...]) -> set[str]:
        with closing(opened(tmp_path / "dead.jsonl", *letters, **selected)) as file:
            return file.stages_of_deaths()

    assert stages(*letters) == {"a", "b"}
    assert stages(*letters, stages=("b",)) == {"b"}
    assert stages(letter(0)) == set()


@pytest.mark.parametrize("name", ["absent", "folder", "/dev/null"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(ConnectorError, match="name the file of dead letters"):
        LetterFile(str(tmp_path / name), Selection())


def test_a_file_is_read_by_one_replay_at_a_time(tmp_path: Path) -> None:
    first = opened(tmp_path / "d", letter(0))

    with pytest.raises(ConnectorError, match="is in use: a run still appends to it, or another"):
        LetterFile(first.path, Selection())

    first.close()
    LetterFile(first.path, Selection()).close()


def test_where_nothing_can_be_locked_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, kind: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(locking, "_lock", refuse)

    with pytest.raises(ConnectorError, match="can't be locked where it is"):
        opened(tmp_path / "d", letter(0))


# --- events


@given(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")), st.booleans())
def test_the_event_is_as_it_came(
    tmp_path_factory: pytest.TempPathFactory, line: bytes, is_row: bool
) -> None:
    row = {"header": ["a"], "delimiter": ","} if is_row else {}
    kept = {**letter(0), **row}
    del kept["event"]
    kept |= event_as_it_came(line, is_row=is_row)
    letters = opened(tmp_path_factory.mktemp("letters") / "d", kept)

    came = letters.letter(0)[0].line

    letters.close()
    assert came == (line.strip() if "event" in kept else line)  # JSON: without white space around


def test_a_line_that_was_too_long_is_known_to_be_cut(tmp_path: Path) -> None:
    lines = LineCutter(10)
    (line,) = lines.feed(b"x" * 20) + lines.feed(b"\n")
    (row,) = CsvCutter(10, delimiter=",").feed(b'"' + b"x\n" * 20 + b'"\n')
    assert line.bad is not None
    assert row.bad is not None
    made = [("MalformedEvent", line.bad[0]), ("MalformedEvent", row.bad[0])]
    made += [("MalformedEvent", "JSON is malformed"), ("ValueError", "it is longer than usual")]
    letters = opened(
        tmp_path / "d", *(letter(n, error=e, message=m) for n, (e, m) in enumerate(made))
    )

    cuts = [letters.letter(turn)[0].cut is not None for turn in range(len(letters))]

    letters.close()
    assert cuts == [True, True, False, False]


# --- selection

_columns = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.booleans()),  # key, wanted, parked
    max_size=25,
)


def chosen_one_by_one(rows: list[tuple[int, bool, bool]]) -> list[str]:
    """What choose() does, a letter at a time."""
    first: dict[int, bool] = {}
    held: set[int] = set()
    chosen = []
    for key, wanted, parked in rows:
        if key == 0:
            chosen.append("chosen" if wanted else "")
            continue
        selected = wanted or (parked and first.get(key, False))
        if not parked:
            first[key] = selected
        if not selected:
            held.add(key)
        chosen.append(("behind" if key in held else "chosen") if selected else "")
    return chosen


@given(_columns)
def test_no_letter_overtakes_one_of_its_key_that_is_left_out(
    rows: list[tuple[int, bool, bool]],
) -> None:
    keys, wanted, parked = (np.array([row[n] for row in rows]) for n in range(3))

    chosen, behind = choose(keys.astype(np.int64), wanted.astype(bool), parked.astype(bool))

    expected = chosen_one_by_one(rows)
    assert chosen.tolist() == [each == "chosen" for each in expected]
    assert behind.tolist() == [each == "behind" for each in expected]


def test_letters_are_selected_by_error_stage_and_run(tmp_path: Path) -> None:
    made = [
        letter(0, error="KeyError", stage="a"),
        letter(1, error="ValueError", stage="a"),
        letter(2, error="ValueError", stage="b", run="r2"),
    ]

    def numbers(**selected: tuple[str, ...]) -> list[int]:
        return [index for _, index in events_in(opened(tmp_path / "d", *made, **selected))]

    assert numbers(errors=("KeyError",)) == [0]
    assert numbers(errors=("KeyError", "ValueError")) == [0, 1, 2]
    assert numbers(errors=("ValueError",), stages=("a",)) == [1]
    assert numbers(stages=("b",)) == numbers(runs=("r2",)) == [2]
    assert numbers(runs=("r3",)) == []


def test_parked_letters_go_with_their_first(tmp_path: Path) -> None:
    made = [
        letter(0, "a", error="KeyError"),
        letter(1, "b", error="ValueError"),
        letter(2, "a", error="Parked"),
        letter(3, "b", error="Parked"),
    ]
    with_first = opened(tmp_path / "d", *made, errors=("ValueError",))
    assert with_first.left_behind == 0
    assert events_in(with_first) == [("r1", 1), ("r1", 3)]

    alone = opened(tmp_path / "d", *made, errors=("Parked",))

    assert alone.left_behind == 2
    assert events_in(alone) == []


def test_where_keys_have_no_order_nothing_is_held_back(tmp_path: Path) -> None:
    path = write_letters(tmp_path / "d", letter(0, "a", error="KeyError"), letter(1, "a"))

    letters = LetterFile(str(path), Selection(errors=("ValueError",)), "none")

    assert events_in(letters) == [("r1", 1)]


# --- what became of them


def outcome(error: str = "OSError", attempts: int = 2) -> dict[str, Any]:
    return {
        "stage": "later",
        "attempts": attempts,
        "first_at": "2026-02-02T00:00:00Z",
        "last_at": "2026-02-03T00:00:00Z",
        "error": {"type": error, "message": "again", "traceback": None},
    }


def test_a_rewritten_file_differs_in_what_became_of_its_letters(tmp_path: Path) -> None:
    event, usual = b'{"n": 1.50,  "x":1e5}', encode_json({"event": {"id": 1, "key": None}})[:-1]
    spaced = encode_json(letter(1)).replace(usual, b'{ "event": ' + event, 1)
    made = [letter(3, mine="kept"), b"", letter(2, replayed=MARK), spaced, letter(0), letter(0)]
    letters = opened(tmp_path / "d", *made)
    lines = Path(letters.path).read_bytes().splitlines(keepends=True)
    states = letters.no_states()
    letters.states([0], FAILED, states)  # number 0, in lines 5 and 6
    letters.states([1], SUCCEEDED, states)
    assert states[letters.turns[2]] == LEFT

    new = list(letters.rewritten(states, MARK, {2: outcome()}.__getitem__))

    letters.close()
    assert new[:3] == lines[:3]
    assert new[3].startswith(b'{"event":' + event + b",")
    assert json.loads(new[3]) == {**json.loads(spaced), "replayed": MARK}
    assert [json.loads(line)["error"]["type"] for line in new[4:]] == ["OSError"] * 2


def test_a_letter_that_fails_again_keeps_its_history() -> None:
    line = json.dumps(letter(4, mine="kept")).encode()

    for number in range(1, MOST_HISTORY + 5):
        line = failed_again(line, outcome(attempts=number), f"replay-{number}")

    again = json.loads(line)
    last = MOST_HISTORY + 4
    assert (again["first_at"], again["last_at"]) == (AT, "2026-02-03T00:00:00Z")
    assert again["attempts"] == 1 + sum(range(1, last + 1))
    assert (again["error"]["type"], again["stage"]) == ("OSError", "later")
    assert (again["run"], again["last_run"]) == ("r1", f"replay-{last}")
    assert {name: again[name] for name in ("event", "source", "position", "mine")} == {
        "event": {"id": 4, "key": None},
        "source": "in.jsonl",
        "position": {"index": 4, "line": 5},
        "mine": "kept",
    }
    assert len(again["history"]) == MOST_HISTORY
    assert [each["run"] for each in again["history"]] == [
        f"replay-{number}" for number in range(last - MOST_HISTORY, last)
    ]


def test_the_first_error_stands_in_the_history_with_its_run() -> None:
    made = letter(4)

    again = json.loads(failed_again(json.dumps(made).encode(), outcome(), "replay-1"))

    assert again["history"] == [
        {"attempts": 1, "at": AT, "stage": "echo", "error": made["error"], "run": "r1"}
    ]


@pytest.mark.parametrize("error", ["Parked", "MalformedEvent"])
def test_what_was_not_tried_for_the_same_reason_has_no_news(error: str) -> None:
    line = json.dumps(letter(4, error=error, message="again", attempts=0)).encode()

    again = json.loads(failed_again(line, outcome(error, 0), "replay-1"))
    then = json.loads(failed_again(line, outcome("OSError", 1), "replay-1"))

    assert ("history" in again, again["attempts"]) == (False, 0)
    assert [each["error"]["type"] for each in then["history"]] == [error]


# --- another file in its place


def test_the_file_that_takes_the_place_has_the_mode_of_the_other(tmp_path: Path) -> None:
    path = write_letters(tmp_path / "d", letter(0))
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("d")
    new = Replacement(str(tmp_path / "link"))

    new.write(iter([b"1\n", b"2\n"]))
    before = path.read_bytes()
    new.put()

    assert before != path.read_bytes() == b"1\n2\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {"d", "link"}


def test_what_can_not_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_letters(tmp_path / "d", letter(0))
    before = path.read_bytes()

    def lines() -> Any:
        yield b"1\n"
        raise OSError(28, "No space left on device")

    with pytest.raises(DeadLetterUnwritable, match="can't be marked: No space left"):
        Replacement(str(path)).write(lines())

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
