"""Locks on dead-letter files: runs share one, a replay has it alone, nobody holds a stale one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from millstream.engine import locking
from millstream.engine.dead_letters import DeadLetters, DeadLetterUnwritable, ErrorInfo, Place
from millstream.engine.locking import alone, open_alone, open_shared

APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "dead.jsonl").write_bytes(b'{"old": 1}\n')
    return str(tmp_path / "dead.jsonl")


def letters_to(path: str) -> DeadLetters:
    return DeadLetters(path, lambda index: Place("in", 1), lambda line, source: {"key": None})


def test_runs_share_a_file(path: str) -> None:
    descriptors = [open_shared(path, APPENDING) for _ in range(3)]
    for each in descriptors:
        os.write(each, b"more\n")
        os.close(each)

    assert Path(path).read_bytes() == b'{"old": 1}\n' + 3 * b"more\n"
    os.close(open_alone(path))


def test_a_replay_and_a_run_exclude_each_other(path: str) -> None:
    shared = open_shared(path, APPENDING)
    with pytest.raises(BlockingIOError):
        open_alone(path)
    os.close(shared)
    alone = open_alone(path)

    for refused in (lambda: open_alone(path), lambda: open_shared(path, APPENDING)):
        with pytest.raises(BlockingIOError):
            refused()
    os.close(alone)


def test_one_of_those_that_share_is_alone_when_no_other_is_there(path: str) -> None:
    one = open_shared(path, APPENDING)
    with alone(one) as is_alone, pytest.raises(BlockingIOError):
        open_shared(path, APPENDING)
    other = open_shared(path, APPENDING)
    with alone(one) as is_still_alone:
        pass
    os.close(other)

    assert (is_alone, is_still_alone) == (True, False)
    with pytest.raises(BlockingIOError):
        open_alone(path)  # what was shared before is shared after
    os.close(one)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_torn_end_is_cut_off_unless_others_may_be_at_it(path: str, is_shared: bool) -> None:
    Path(path).write_bytes(b'{"old": 1}\n{"torn": ')
    other = open_shared(path, APPENDING) if is_shared else None

    letters = letters_to(path)
    letters.claim()
    letters.close()

    assert Path(path).read_bytes() == b'{"old": 1}\n' + (b'{"torn": ' if is_shared else b"")
    if other is not None:
        os.close(other)


def test_a_lock_that_came_too_late_is_taken_on_the_file_that_stands_there_now(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locking._lock
    replaced = []

    def lock_late(fd: int, kind: int) -> None:
        if not replaced:
            replaced.append(Path(f"{path}.new").write_bytes(b"new\n"))
            Path(f"{path}.new").replace(path)
        lock(fd, kind)

    monkeypatch.setattr(locking, "_lock", lock_late)
    descriptor = open_shared(path, APPENDING)
    os.write(descriptor, b"more\n")
    os.close(descriptor)

    assert Path(path).read_bytes() == b"new\nmore\n"


@pytest.mark.parametrize("name", ["/dev/null"])
def test_what_is_no_file_is_opened_without_a_lock(name: str) -> None:
    descriptors = [open_shared(name, os.O_WRONLY) for _ in range(2)]

    assert [os.write(each, b"x") for each in descriptors] == [1, 1]
    for each in descriptors:
        os.close(each)


def test_where_there_are_no_locks_a_run_writes_all_the_same(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking, "_lock", refuse)
    letters = letters_to(path)
    letters.add(0, b"1", "s", ErrorInfo("E", "no"))
    letters.close()

    assert Path(path).read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("begin", ["claim", "flush"])
def test_a_run_refuses_a_file_that_is_being_replayed(path: str, begin: str) -> None:
    alone = open_alone(path)
    letters = letters_to(path)
    letters.add(0, b"1", "s", ErrorInfo("E", "no"))

    with pytest.raises(DeadLetterUnwritable, match=r"dead\.jsonl is being replayed; let that end"):
        getattr(letters, begin)()

    os.close(alone)
    assert Path(path).read_bytes() == b'{"old": 1}\n'


def test_a_run_holds_its_file_until_it_is_closed(path: str) -> None:
    letters = letters_to(path)
    letters.claim()
    with pytest.raises(BlockingIOError):
        open_alone(path)

    letters.close()

    os.close(open_alone(path))


def test_a_claim_makes_no_file_and_minds_none_that_is_odd(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    for name in ("absent", "folder", "folder/absent"):
        letters_to(str(tmp_path / name)).claim()

    assert [each.name for each in tmp_path.rglob("*")] == ["folder"]
