"""How late the event loop is, and who holds it: measured, and named by stage.

A heartbeat in the loop measures its lag. A thread looks at the heartbeat from outside; when it has
stopped, the loop's current task tells the stage, and the stack tells the user's line.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvloop

from .histogram import Histogram

BEAT_S = 0.05
BLOCKED_NS = 100_000_000
"""A coroutine handler that holds the loop this long is named in a warning."""

_ENGINE: Final = os.path.dirname(os.path.abspath(__file__))
_EXECUTORS: Final = os.path.join(_ENGINE, "executors")
_OWN: Final = (_ENGINE, os.path.dirname(asyncio.__file__), os.path.dirname(uvloop.__file__))
"""Where code is that is not the user's."""

Blocked = Callable[[str, int, str], None]
"""Called with the stage, for how long (ns), and where."""


class LoopWatch:
    """Watches the running loop between start() and stop()."""

    def __init__(self, on_blocked: Blocked) -> None:
        self.lag = Histogram()
        self._worst_ns = 0
        self._on_blocked = on_blocked
        self._beat_ns = time.monotonic_ns()
        self._stopped = threading.Event()
        self._seen: tuple[str, str] | None = None
        self._thread = threading.Thread(target=self._look, name="millstream-watch", daemon=True)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._task = asyncio.ensure_future(self._beat())
        self._thread.start()

    async def stop(self) -> None:
        """End, after one more beat."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def holder(self) -> tuple[str, str] | None:
        """Which stage's handler the loop is in right now, and where. For other threads."""
        call = handler_call(sys._current_frames().get(self._loop_thread))
        stage = self._current_stage()
        if stage is None or call is None:
            return None
        return stage, f"{call.f_code.co_filename}:{call.f_lineno} in {call.f_code.co_name}"

    def take_worst(self) -> int:
        """The largest lag since it was last asked for (ns)."""
        worst_ns, self._worst_ns = self._worst_ns, 0
        return worst_ns

    async def _beat(self) -> None:
        while True:
            due = time.monotonic_ns() + int(BEAT_S * 1e9)
            await asyncio.sleep(BEAT_S)
            now = time.monotonic_ns()
            late_ns = max(0, now - due)
            self.lag.record([late_ns])
            self._worst_ns = max(self._worst_ns, late_ns)
            seen, self._seen = self._seen, None
            # What was seen just after the beat before belongs to that one.
            if seen is not None and now - self._beat_ns > BLOCKED_NS:
                stage, where = seen
                self._on_blocked(stage, now - self._beat_ns, where)
            self._beat_ns = now

    def _look(self) -> None:
        suspect: FrameType | None = None
        while not self._stopped.wait(BEAT_S):
            age = time.monotonic_ns() - self._beat_ns
            frame = sys._current_frames().get(self._loop_thread) if age > BEAT_S * 1e9 else None
            call = handler_call(frame)
            # The same call, looked at twice: many short ones, or a busy machine, block nothing.
            if call is not None and call is suspect and age > BLOCKED_NS and self._seen is None:
                stage = self._current_stage()
                if stage is not None:
                    self._seen = stage, _where(frame)
            suspect = call

    def _current_stage(self) -> str | None:
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            return None
        name = task.get_name() if task is not None else ""
        return name.removeprefix("stage:") if name.startswith("stage:") else None


def handler_call(frame: FrameType | None) -> FrameType | None:
    """The call of a user's handler that is under way in `frame`, if there is one."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    by_executor = False
    for each in reversed(frames):
        name = each.f_code.co_filename
        if name.startswith(_EXECUTORS):
            by_executor = True
        elif by_executor and not name.startswith(_OWN):
            return each
    return None


def _where(frame: FrameType | None) -> str:
    outer = traceback.extract_stack(frame)
    own = [each for each in outer if not each.filename.startswith(_OWN)]
    at = own[-1] if own else outer[-1]
    return f"{at.filename}:{at.lineno} in {at.name}"


__all__ = ["LoopWatch"]
