"""Results that are kept: a folder for each name, a file for each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.connectors.base import ConnectorError
from millstream.engine.result import RunResult
from millstream.workloads.runs import DEFAULT, ENVIRONMENT, keep_run, kept_runs, runs_folder
from tests.support.results import bench

AT = "2026-11-27T10:00:00.123456Z"


def result(**changes: Any) -> RunResult:
    return RunResult(bench(**{"name": "feed", "started_at": AT, **changes}))


def test_the_folder_is_as_asked_for_else_as_the_environment_says_else_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert runs_folder(None) == DEFAULT
    monkeypatch.setenv(ENVIRONMENT, "/elsewhere")
    assert runs_folder(None) == Path("/elsewhere")
    assert runs_folder("asked") == Path("asked")


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = keep_run(tmp_path / "a" / "b", result(figure=5))

    assert path == str(tmp_path / "a" / "b" / "feed" / "2026-11-27T10-00-00.123456Z.json")
    ((found, data),) = kept_runs(tmp_path / "a" / "b")
    assert (found, data["figure"]) == (path, 5)


def test_nothing_is_ever_replaced(tmp_path: Path) -> None:
    paths = [keep_run(tmp_path, result(turn=turn)) for turn in range(3)]

    assert len(set(paths)) == 3
    assert sorted(data["turn"] for _, data in kept_runs(tmp_path)) == [0, 1, 2]


def test_runs_are_told_by_name_and_time(tmp_path: Path) -> None:
    for name, day in (("feed", 3), ("cpu", 2), ("feed", 1)):
        keep_run(tmp_path, result(name=name, started_at=f"2026-11-0{day}T00:00:00Z"))

    told = [(data["name"], data["started_at"][9]) for _, data in kept_runs(tmp_path)]

    assert told == [("cpu", "2"), ("feed", "1"), ("feed", "3")]


@given(st.text(max_size=40))
def test_any_name_stays_within_the_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.mktemp("runs") / "own"

    path = Path(keep_run(folder, result(name=name)))

    assert path.resolve().parent.parent == folder.resolve()
    assert path.parent.name not in ("", ".", "..")
    assert [data["name"] for _, data in kept_runs(folder)] == [name]


@pytest.mark.parametrize("name", ["../../etc", "..", "/etc/passwd", "a/b", ".hidden", "ä b"])
def test_a_name_that_is_a_path_is_no_path(tmp_path: Path, name: str) -> None:
    keep_run(tmp_path, result(name=name))

    (own,) = tmp_path.iterdir()
    assert own.is_dir() and not own.name.startswith(".")


def test_what_is_no_result_is_passed_over(tmp_path: Path) -> None:
    kept = keep_run(tmp_path, result())
    for name, content in {
        "text.json": b"no JSON",
        "list.json": b"[]",
        "other.json": b'{"schema":"other/1"}',
        "bytes.json": b"\xff\xfe",
        "notes.txt": b"notes",
    }.items():
        (tmp_path / "feed" / name).write_bytes(content)
    (tmp_path / "feed" / "folder.json").mkdir()

    assert [path for path, _ in kept_runs(tmp_path)] == [kept]


def test_a_folder_that_is_not_there_has_no_runs(tmp_path: Path) -> None:
    assert list(kept_runs(tmp_path / "no")) == []


def test_a_folder_that_can_not_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConnectorError, match=r"the result can't be kept in .*file: .*--runs"):
        keep_run(tmp_path / "file", result())
