"""What a person sees on a terminal: the progress line, the summary, colour when wanted."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from millstream.cli.progress import progress_line
from millstream.engine.observer import Progress
from tests.cli.support import HANDLERS, Folder, folder_with, numbered, on_terminal, opener

WAITING = """
    import os, time

    def wait(event):
        while event.id == 2 and not os.path.exists("go"):
            time.sleep(0.005)
        return event

    async def await_it(event):
        import asyncio
        while event.id == 2 and not os.path.exists("go"):
            await asyncio.sleep(0.005)
        if event.id == 1:
            raise ValueError("no")
        return event
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "w.py": WAITING, "in.jsonl": numbered(4)})


def test_a_progress_line_is_drawn_while_the_run_goes_on(folder: Folder) -> None:
    screen = on_terminal(
        folder, "w.py:await_it", "in.jsonl", until="most at await_it", then=opener(folder)
    )

    assert screen.code == 4
    line = next(part for part in re.split(r"[\r\n]", screen.text) if "most at await_it" in part)
    for part in (r"3 events", r"/s", r"100% of \d+ B", r"ETA 0 ns", r"backlog 1", "1 dead letters"):
        assert re.search(part, line), (part, line)


def test_the_summary_stays_on_the_terminal_in_colour(folder: Folder) -> None:
    screen = on_terminal(folder, "h.py:same", "in.jsonl")

    assert screen.code == 0
    assert screen.is_coloured
    for part in ("pass: 4 events", "4 handled, 4 results written", "per key: held", "inline"):
        assert part in screen.text


def test_no_color_means_plain_text(folder: Folder) -> None:
    screen = on_terminal(folder, "h.py:same", "in.jsonl", NO_COLOR="1")

    assert screen.code == 0
    assert not screen.is_coloured
    assert "pass: 4 events" in screen.text


def test_quiet_means_nothing_at_all(folder: Folder) -> None:
    screen = on_terminal(folder, "h.py:same", "in.jsonl", "--quiet")

    assert (screen.code, screen.raw) == (0, "")


def test_an_interrupt_is_said_once_and_the_summary_follows(folder: Folder) -> None:
    def interrupt(pid: int) -> None:
        os.kill(pid, signal.SIGINT)

    screen = on_terminal(
        *(folder, "w.py:await_it", "in.jsonl"),
        until="most at await_it",
        then=interrupt,
        later=("finishing what is in flight", opener(folder)),
    )

    assert screen.code == 130
    assert screen.text.count("finishing what is in flight") == 1
    assert "interrupted: 4 events" in screen.text


def progress(**changes: object) -> Progress:
    facts: dict[str, object] = {
        "elapsed_ns": 2_000_000_000, "read": 1500, "done": 1234, "dead_lettered": 0, "rate": 617.0,
        "backlog": 266, "bytes_read": 2**20, "bytes_total": 2**22, "worst_stage": None,
        "worst_stage_backlog": 0,
    }  # fmt: skip
    return Progress(**{**facts, **changes})  # type: ignore[arg-type]


def test_the_progress_line_gives_the_time_left_when_the_size_is_known() -> None:
    line = progress_line(progress(worst_stage="score", worst_stage_backlog=200))

    assert line == "1,234 events  617/s  25% of 4 MiB  ETA 6 s  backlog 266  most at score (200)"


def test_the_progress_line_of_a_pipe_gives_what_was_read() -> None:
    line = progress_line(progress(bytes_total=None, dead_lettered=3))

    assert line == "1,234 events  617/s  1 MiB  backlog 266  3 dead letters"


def test_a_file_that_grew_is_never_more_than_whole() -> None:
    line = progress_line(progress(bytes_read=2**23))

    assert "100% of 4 MiB  ETA 0 ns" in line
