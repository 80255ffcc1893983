"""`--live` on a terminal: what is seen, what is left of it, and that nothing else is touched."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from millstream.cli.live import Canvas
from tests.cli.support import (
    AWAITING,
    HANDLERS,
    Folder,
    Screen,
    folder_with,
    numbered,
    on_terminal,
    opener,
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "w.py": AWAITING, "in.jsonl": numbered(4)})


def frames(screen: Screen) -> list[list[str]]:
    """The lines of each drawing of the view, as text."""
    drawn = re.findall(r"((?:[^\n]*\x1b\[K\n)+)\x1b\[J", screen.raw.replace("\r\n", "\n"))
    return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", each).splitlines() for each in drawn]


def watch(folder: Folder, *more: str, **options: object) -> Screen:
    """A run that waits until its view tells of the one event that is left."""
    return on_terminal(
        *(folder, "w.py:wait", "in.jsonl", "--live", "-o", "out.jsonl", *more),
        until="backlog",
        then=opener(folder),
        **options,  # type: ignore[arg-type]
    )


def test_the_view_shows_how_it_stands_and_is_gone_at_the_end(folder: Folder) -> None:
    screen = watch(folder)

    assert screen.code == 4
    lines = next(each for each in frames(screen) if any("backlog   1" in line for line in each))
    text = "\n".join(lines)
    for part in ("wait   ━", "4 read   2 handled", "1 dead letter", "coroutine × 100", "loop lag"):
        assert part in text, (part, text)
    _, after = screen.raw.rsplit("on average", 1)
    assert re.search(r"\x1b\[\d+A\x1b\[J", after), "the view is taken away"
    assert "4 events in" in after


@pytest.mark.parametrize("size", [(60, 12), (40, 8), (200, 50), (20, 3)])
def test_the_view_fits_the_terminal(folder: Folder, size: tuple[int, int]) -> None:
    columns, rows = size

    screen = on_terminal(
        *(folder, "w.py:wait", "in.jsonl", "--live", "-o", "out.jsonl"),
        until="\x1b[J",
        then=opener(folder),
        size=size,
    )

    assert screen.code == 4
    assert frames(screen)
    for lines in frames(screen):
        assert len(lines) < rows
        assert max(map(len, lines)) < columns


def test_no_color_means_no_colour(folder: Folder) -> None:
    screen = watch(folder, NO_COLOR="1")

    assert frames(screen)
    assert not screen.is_coloured


def test_results_that_are_piped_on_are_whole(folder: Folder) -> None:
    out = folder.path / "piped.jsonl"
    with out.open("wb") as piped:
        screen = on_terminal(
            *(folder, "w.py:wait", "in.jsonl", "--live", "-o", "-"),
            until="backlog",
            then=opener(folder),
            stdout=piped,
        )

    assert frames(screen)
    assert sorted(json.loads(line)["id"] for line in out.read_bytes().splitlines()) == [0, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_said_above_the_view_and_the_terminal_is_given_back(
    folder: Folder, number: signal.Signals
) -> None:
    def interrupt(pid: int) -> None:
        os.kill(pid, number)

    screen = on_terminal(
        *(folder, "w.py:wait", "in.jsonl", "--live", "-o", "out.jsonl"),
        until="backlog",
        then=interrupt,
        later=("finishing what is in flight", opener(folder)),
    )

    assert screen.code == 128 + number
    assert screen.text.count(f"warning: {number.name}: finishing what is in flight") == 1
    assert "4 events in" in screen.text.rpartition("on average")[2]


def test_a_killed_run_leaves_the_terminal_as_it_was(folder: Folder) -> None:
    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    screen = on_terminal(
        *(folder, "w.py:wait", "in.jsonl", "--live", "-o", "out.jsonl"),
        until="on average",
        then=kill,
    )

    assert screen.code == -signal.SIGKILL
    assert "\x1b[?" not in screen.raw, "no mode of the terminal is changed: no hidden cursor"


def test_a_name_of_a_stage_can_not_steer_the_terminal(folder: Folder) -> None:
    folder.file(
        "named.py",
        """
        from millstream.engine import stage
        from w import wait

        job = stage(wait, name="a\\x1b]0;title\\x07\\x1b[2Jb")
        """,
    )

    screen = on_terminal(
        *(folder, "named.py:job", "in.jsonl", "--live", "-o", "out.jsonl", "--executor", "auto"),
        until="backlog",
        then=opener(folder),
    )

    view = re.findall(r"[^\n]*\x1b\[K\r\n", screen.raw)
    assert any("a�]0;title��[2Jb" in line for line in view)
    assert not any("\x1b]" in line or "\x1b[2J" in line for line in view)


def test_without_a_terminal_it_is_said_once_and_the_run_goes_on(folder: Folder) -> None:
    ended = folder.run("h.py:same", "in.jsonl", "--live", "-o", "out.jsonl")

    assert ended.code == 0
    assert ended.err.count("no live view (--live): standard error is no terminal") == 1
    assert "4 events in" in ended.err


def test_results_and_view_do_not_share_a_terminal(folder: Folder) -> None:
    screen = on_terminal(folder, "h.py:same", "in.jsonl", "--live", stdout=None)

    assert screen.code == 0
    assert "the results go to the terminal; name a file for them: --output FILE" in screen.text
    assert screen.text.count('"id": 3') == 1
    assert not frames(screen)


def test_live_and_quiet_exclude_each_other(folder: Folder) -> None:
    ended = folder.run("h.py:same", "in.jsonl", "--live", "--quiet")

    assert ended.code == 2
    assert "keep one of them" in ended.err


def test_a_benchmark_shows_what_is_offered(folder: Folder) -> None:
    arguments = ("passthrough", "--rate", "500", "--duration", "2s", "--warmup", "1s", "--live")
    screen = on_terminal(folder, *arguments, "--runs", "", command="bench")

    text = "\n".join(line for frame in frames(screen) for line in frame)
    assert screen.code in (0, 7)
    for part in ("passthrough at 500/s", "offered", "response  p50", "left", "warm-up"):
        assert part in text, part


def test_a_replay_has_a_live_view_too(folder: Folder) -> None:
    folder.file("go", b"")
    assert folder.run("w.py:wait", "in.jsonl", "-o", "out.jsonl").code == 4

    ended = folder.command(
        "replay", "dead-letters.jsonl", "h.py:same", "--live", "-o", "again.jsonl"
    )

    assert ended.code == 0
    assert "no live view" in ended.err


def test_a_frame_is_drawn_over_the_one_before_also_where_that_was_wrapped() -> None:
    canvas = Canvas(color=False)
    canvas.frame([[("x" * 90, "")], [("y" * 10, "")]], columns=100)

    text = canvas.frame([[("z", "good")]], columns=40)

    assert text == "\r\x1b[4Az\x1b[K\n\x1b[J"
    assert canvas.clear(40) == "\r\x1b[1A\x1b[J"
    assert canvas.clear(40) == ""
