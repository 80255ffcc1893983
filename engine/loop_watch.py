"""How late the event loop is, and who holds it: measured, and named by stage.

A heartbeat in the loop measures its lag. A thread looks at the heartbeat from outside; when it has
stopped, the loop's current task tells the stage, and the stack tells the user's line.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from .histogram import Histogram

BEAT_S = 0.05
BLOCKED_NS = 100_000_000
"""A coroutine handler that holds the loop this long is named in a warning."""

Blocked = Callable[[str, int, str], None]
"""Called with the stage, for how long (ns), and where."""


class LoopWatch:
    """Watches the running loop between start() and stop()."""

    def __init__(self, on_blocked: Blocked) -> None:
        self.lag = Histogram()
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

    async def _beat(self) -> None:
        while True:
            due = time.monotonic_ns() + int(BEAT_S * 1e9)
            await asyncio.sleep(BEAT_S)
            now = time.monotonic_ns()
            self.lag.record([max(0, now - due)])
            seen, self._seen = self._seen, None
            # What was seen just after the beat before belongs to that one.
            if seen is not None and now - self._beat_ns > BLOCKED_NS:
                stage, where = seen
                self._on_blocked(stage, now - self._beat_ns, where)
            self._beat_ns = now

    def _look(self) -> None:
        while not self._stopped.wait(BEAT_S):
            if self._seen is None and time.monotonic_ns() - self._beat_ns > BLOCKED_NS:
                stage = self._current_stage()
                if stage is not None:
                    self._seen = stage, self._where()

    def _current_stage(self) -> str | None:
        try:
            task = asyncio.current_task(self._loop)
        except RuntimeError:
            return None
        name = task.get_name() if task is not None else ""
        return name.removeprefix("stage:") if name.startswith("stage:") else None

    def _where(self) -> str:
        frame: FrameType | None = sys._current_frames().get(self._loop_thread)
        outer = traceback.extract_stack(frame)
        own = [f for f in outer if "/engine/" not in f.filename and "asyncio" not in f.filename]
        at = own[-1] if own else outer[-1]
        return f"{at.filename}:{at.lineno} in {at.name}"


__all__ = ["LoopWatch"]
