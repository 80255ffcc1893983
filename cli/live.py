"""`--live`: draws how a run goes, four times a second at most, on the terminal of standard error.

A thread of its own draws what was told last: a slow terminal holds up nothing else. The cursor is
never hidden, so that whatever ends the process leaves the terminal as it should be.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from millstream.engine.observer import Details, Progress, RunWarning
from millstream.reports.live import Course, Line, lines_of, safe, slots_of, width_of

DRAW_S: Final = 0.25
_MOST_WARNINGS: Final = 100
_SGR: Final = {
    **{"title": "1", "strong": "1", "label": "36", "good": "32"},
    **{"bad": "1;31", "dim": "2", "warning": "33"},
}
_ERASE_TO_END_OF_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"


class Canvas:
    """What stands on a terminal, drawn anew in place. Pure: gives text to be written."""

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._widths: list[int] = []  # of the lines that stand there; the cursor is below them

    def frame(self, lines: Sequence[Line], columns: int) -> str:
        """Put `lines` in the place of those that stand there, on a terminal so wide."""
        drawn = "".join(f"{self._text(line)}{_ERASE_TO_END_OF_LINE}\n" for line in lines)
        text = f"{self._to_top(columns)}{drawn}{_ERASE_BELOW}"
        self._widths = [sum(width_of(piece) for piece, _ in line) for line in lines]
        return text

    def clear(self, columns: int) -> str:
        """Take away all that stands there."""
        text = f"{self._to_top(columns)}{_ERASE_BELOW}" if self._widths else ""
        self._widths = []
        return text

    def _to_top(self, columns: int) -> str:
        """A terminal that has become narrower wraps what stood on it."""
        rows = sum(max(1, -(-width // max(1, columns))) for width in self._widths)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _text(self, line: Line) -> str:
        return "".join(self.styled(piece, style) for piece, style in line)

    def styled(self, text: str, style: str) -> str:
        """A piece in its colour, where there are colours."""
        sgr = _SGR.get(style) if self._color else None
        return text if sgr is None else f"\x1b[{sgr}m{text}\x1b[0m"


class LiveView:
    """What people see of a run, on a terminal; close() leaves nothing of it."""

    def __init__(self, title: str, *, color: bool) -> None:
        self._title, self._course, self._canvas = title, Course(), Canvas(color=color)
        self._details: Details | None = None  # the latest that is not drawn
        self._warnings: deque[RunWarning] = deque(maxlen=_MOST_WARNINGS)
        self._news, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._draw_all, name="millstream-live", daemon=True)
        self._thread.start()

    # --- told by the run

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_details(self, details: Details) -> None:
        self._details = details
        self._news.set()

    def on_warning(self, warning: RunWarning) -> None:
        self._warnings.append(warning)
        self._news.set()

    def close(self) -> None:
        """Say what is left to be said, and give the terminal back."""
        self._closing.set()
        self._news.set()
        self._thread.join()

    # --- drawn by the thread

    def _draw_all(self) -> None:
        with suppress(OSError):  # the terminal is gone: nobody looks any more
            while not self._closing.is_set():
                self._news.wait()
                self._news.clear()
                self._draw()
                self._closing.wait(DRAW_S)
            columns, _ = terminal_size()
            self._write(self._canvas.clear(columns) + self._said())

    def _draw(self) -> None:
        columns, rows = terminal_size()
        said = self._said()
        text = f"{self._canvas.clear(columns)}{said}" if said else ""
        details, self._details = self._details, None
        if details is not None:
            # The last column and the last row stay free: what is drawn there wraps, or scrolls.
            figures = self._course.tell(details, slots_of(columns))
            lines = lines_of(self._title, figures, max(1, columns - 1), max(1, rows - 1))
            text += self._canvas.frame(lines, columns)
        self._write(text)

    def _said(self) -> str:
        """The warnings that have come, as lines that stay."""
        said = ""
        while self._warnings:
            text = f"millstream: warning: {safe(self._warnings.popleft().message)}"
            said += f"{self._canvas.styled(text, 'warning')}\n"
        return said

    def _write(self, text: str) -> None:
        if text:
            sys.stderr.write(text)
            sys.stderr.flush()


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal; 80 and 24 where it does not say."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        columns, rows = 0, 0
    return columns or 80, rows or 24
