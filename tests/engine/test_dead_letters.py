"""Dead letters: all that is needed to run an event again, appended and never lost."""

from __future__ import annotations

import base64
import json
import resource
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.codecs import Bad
from millstream.engine.dead_letters import (
    DeadLetters,
    DeadLetterUnwritable,
    ErrorInfo,
    Place,
    event_as_it_came,
)
from tests.support.handlers import explode
from tests.support.running import run_over

ERROR = ErrorInfo("ValueError", "no", "Traceback …")


def letters_to(path: Path) -> DeadLetters:
    return DeadLetters(
        str(path),
        lambda index: Place("in.jsonl", index + 1),
        lambda line, source: {"key": len(line)},
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def error_of(raiser: Any) -> ErrorInfo:
    try:
        raiser()
    except BaseException as error:
        return ErrorInfo.of(error)
    raise AssertionError("nothing was raised")


def test_a_letter_holds_the_event_its_place_and_its_error(tmp_path: Path) -> None:
    letters = letters_to(tmp_path / "dead.jsonl")

    letters.add(4, b'{"key": "a",  "n": 1e5}', "score", ERROR)
    letters.close()

    (letter,) = read(tmp_path / "dead.jsonl")
    assert b'{"key": "a",  "n": 1e5}' in (tmp_path / "dead.jsonl").read_bytes()
    assert letter["event"] == {"key": "a", "n": 1e5}
    assert letter["position"] == {"index": 4, "line": 5}
    assert (letter["source"], letter["key"], letter["stage"]) == ("in.jsonl", 23, "score")
    assert letter["attempts"] == 1
    assert letter["first_at"] == letter["last_at"]
    assert letter["first_at"].endswith("Z")
    assert letter["error"] == {"type": "ValueError", "message": "no", "traceback": "Traceback …"}


def test_a_malformed_line_has_a_column_and_no_attempts(tmp_path: Path) -> None:
    letters = letters_to(tmp_path / "dead.jsonl")

    letters.add(0, b"nope", "input", ErrorInfo.of_bad(Bad("JSON is malformed", 2)))
    letters.close()

    (letter,) = read(tmp_path / "dead.jsonl")
    assert letter["position"] == {"index": 0, "line": 1, "column": 2}
    assert (letter["attempts"], letter["event_text"]) == (0, "nope")
    assert letter["error"]["type"] == "MalformedEvent"


def test_letters_that_found_no_room_come_once_when_there_is_some(tmp_path: Path) -> None:
    letters = letters_to(tmp_path / "dead.jsonl")
    letters.add(0, b'{"n": 0}', "score", ERROR)
    letters.flush()
    size = (tmp_path / "dead.jsonl").stat().st_size
    for number in range(1, 10):
        letters.add(number, b'{"n": %d}' % number, "score", ERROR)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(3.5 * size), hard))
    try:
        with pytest.raises(DeadLetterUnwritable, match="File too large"):
            letters.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    whole = read(tmp_path / "dead.jsonl")
    letters.close()

    assert [each["event"]["n"] for each in whole] == [0, 1, 2]
    assert [each["event"]["n"] for each in read(tmp_path / "dead.jsonl")] == list(range(10))


def test_no_letters_make_no_file(tmp_path: Path) -> None:
    letters = letters_to(tmp_path / "dead.jsonl")

    letters.flush()
    letters.close()

    assert list(tmp_path.iterdir()) == []


def test_letters_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.write_bytes(b'{"old": 1}\n')

    for index in range(2):
        letters = letters_to(path)
        letters.add(index, b"1", "s", ERROR)
        letters.close()

    assert [letter.get("position", {}).get("index") for letter in read(path)] == [None, 0, 1]


def test_letters_are_pending_until_they_are_written(tmp_path: Path) -> None:
    letters = letters_to(tmp_path / "dead.jsonl")
    seen = [letters.has_pending]

    letters.add(0, b"1", "s", ERROR)
    seen.append(letters.has_pending)
    letters.flush()
    seen.append(letters.has_pending)

    assert seen == [False, True, False]
    assert (letters.count, len(read(tmp_path / "dead.jsonl"))) == (1, 1)


@pytest.mark.parametrize("path", ["absent/dead.jsonl", "/dev/full", "."])
def test_a_letter_that_can_not_be_written_stops_and_stays_pending(
    tmp_path: Path, path: str
) -> None:
    letters = letters_to(tmp_path / path)
    letters.add(0, b"1", "s", ERROR)

    with pytest.raises(DeadLetterUnwritable, match="the run stops, since it would be lost"):
        letters.flush()

    assert letters.has_pending


def test_half_a_surrogate_pair_is_written_escaped(tmp_path: Path) -> None:
    letters = DeadLetters(
        str(tmp_path / "dead.jsonl"), lambda index: Place("in\udcff", 1), lambda line, source: {}
    )

    letters.add(0, b"1", "s", ErrorInfo("E", "m\ud800"))
    letters.close()

    (letter,) = read(tmp_path / "dead.jsonl")
    assert (letter["source"], letter["error"]["message"]) == ("in\\udcff", "m\\ud800")


@given(st.binary(max_size=40))
def test_every_line_comes_back_from_its_letter(line: bytes) -> None:
    (kind, content), *more = event_as_it_came(line).items()

    assert more == []
    if kind == "event":
        assert bytes(msgspec.Raw(content)) == line.strip()
        json.loads(bytes(msgspec.Raw(content)))
    elif kind == "event_text":
        assert content.encode() == line
    else:
        assert (kind, base64.b64decode(content)) == ("event_base64", line)


@given(st.binary(max_size=40))
def test_a_row_comes_back_byte_for_byte_also_when_it_looks_like_json(line: bytes) -> None:
    ((kind, content),) = event_as_it_came(line, is_row=True).items()

    assert (content.encode() if kind == "event_text" else base64.b64decode(content)) == line


@pytest.mark.parametrize(
    ("content", "options", "recorded"),
    [
        (b'{"key": 1}\n', {}, {}),
        (b'{"user": {"id": 1}}\n', {"key": "user.id"}, {"fields": {"key": "user.id"}}),
        (
            b'{"k": 1}\n',
            {"key": "k", "time": "at", "order": "global"},
            {"fields": {"key": "k", "time": "at"}},
        ),
        (b"key;n\n1;2\n", {}, {"header": ["key", "n"], "delimiter": ";"}),
        (b"key\n1\n", {"format": "csv"}, {"header": ["key"], "delimiter": ","}),
        (b'{"key": 1}\n', {"format": "cloudevents"}, {"format": "cloudevents"}),
    ],
)
def test_a_letter_says_how_its_event_was_decoded(
    tmp_path: Path, content: bytes, options: dict[str, Any], recorded: dict[str, Any]
) -> None:
    (letter,) = run_over(tmp_path, explode, content, **options).dead

    known = ("fields", "header", "delimiter", "format")
    assert {name: letter[name] for name in known if name in letter} == recorded


# --- errors


def test_an_error_is_told_from_the_users_own_code_on() -> None:
    def users_code() -> None:
        msgspec.json.decode(b"{")

    info = error_of(users_code)

    assert info.type == "DecodeError"
    assert info.traceback is not None
    assert "in users_code" in info.traceback
    assert info.traceback.endswith(f"{info.message}\n")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("can't say")


def test_an_error_that_can_not_say_its_message_is_told_anyway() -> None:
    def users_code() -> None:
        raise Mute

    info = error_of(users_code)

    assert info.type == "Mute"
    assert "RuntimeError" in info.message


def test_the_text_of_an_error_can_cross_to_another_process() -> None:
    def users_code() -> None:
        raise ValueError("\ud800")

    info = error_of(users_code)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(info), type=ErrorInfo) == info


def test_a_traceback_is_kept_to_its_end() -> None:
    def users_code(depth: int = 0) -> None:
        if depth == 300:
            raise ValueError("x" * 20_000)
        users_code(depth + 1)

    info = error_of(users_code)

    assert info.traceback is not None
    assert len(info.traceback) == 16 * 1024
    assert info.traceback.endswith("xxx\n")
