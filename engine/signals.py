"""SIGINT and SIGTERM: taken by a thread of their own, since a handler may hold the loop.

The first one goes to the loop; the second ends the process, and so does the deadline, when the loop
does not come to it. What there is to be done then is not known here.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

TAKEN: Final = (signal.SIGINT, signal.SIGTERM)
HELD_UP_S: Final = 1.0
"""A loop that does not take a signal for so long is held up by somebody."""
GRACE_S: Final = 5.0
"""How long after the deadline a run has to let go of what is in flight."""


class Signals:
    """Takes the signals for one run while the block runs; only the main thread has any."""

    def __init__(
        self,
        limit_s: float,
        *,
        on_first: Callable[[int, float], None],
        on_held_up: Callable[[int], None],
        end: Callable[[str | None], None],
    ) -> None:
        """`on_first` is called in the running loop, with the number and how many of the `limit_s`
        seconds are left; the others by another thread: `on_held_up` when the loop does not react,
        `end` before the process ends at once, with the reason unless it was asked for."""
        self.is_closing = False
        """Nothing is in flight any more: there is no deadline for the rest."""
        self._limit_s = limit_s
        self._on_first, self._on_held_up, self.end = on_first, on_held_up, end
        self._is_taken = self._is_said = False
        self._first: tuple[int, float] | None = None
        """The first signal, and when it came."""

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._loop = asyncio.get_running_loop()
            _taker.add(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _taker.remove(self)

    # --- in the thread

    def come(self, number: int) -> bool:
        """A signal came; gives whether it is the second one."""
        if self._first is not None:
            return True
        self._first = number, time.monotonic()
        with suppress(RuntimeError):  # the loop is closed: nothing is left to be drained
            self._loop.call_soon_threadsafe(self._tell)
        return False

    def due_s(self) -> float | None:
        """When look() has to be called, by the clock; None: there is nothing to look at."""
        if self._first is None or self.is_closing:
            return None
        _, at = self._first
        if not (self._is_taken or self._is_said):
            return at + HELD_UP_S
        return at + self._limit_s + GRACE_S

    def look(self) -> tuple[int, str] | None:
        """Whether the process has to end: by which signal, and why."""
        due = self.due_s()
        if self._first is None or due is None or time.monotonic() < due:
            return None
        number, _ = self._first
        if not (self._is_taken or self._is_said):
            self._is_said = True
            with suppress(Exception):  # it is only said
                self._on_held_up(number)
            return None
        return number, (
            f"what was in flight was not done within {self._limit_s:g} s (--drain-timeout), "
            "and could not be interrupted"
        )

    # --- in the loop

    def _tell(self) -> None:
        assert self._first is not None
        self._is_taken = True
        number, at = self._first
        self._on_first(number, max(0.0, at + self._limit_s - time.monotonic()))


class _Taker:
    """The thread, and what it takes the place of, while any run is there."""

    def __init__(self) -> None:
        self._runs: list[Signals] = []
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def add(self, run: Signals) -> None:
        self._runs.append(run)
        if len(self._runs) > 1:
            return
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _left_to_the_thread) for number in TAKEN}
        self._thread = threading.Thread(
            target=self._take, args=(reading,), name="millstream-signals", daemon=True
        )
        self._thread.start()

    def remove(self, run: Signals) -> None:
        if run not in self._runs:
            return
        self._runs.remove(run)
        if self._runs:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before, warn_on_full_buffer=False)
        os.close(self._writing)
        self._thread.join()

    def _take(self, reading: int) -> None:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        while True:
            if poll.poll(self._patience_ms()):
                numbers = os.read(reading, 512)
                if not numbers:
                    os.close(reading)
                    return
                self._pass_on(numbers)
                for number in filter(TAKEN.__contains__, numbers):
                    again = [run.come(number) for run in list(self._runs)]
                    if any(again):
                        self._end(number, None)
            for run in list(self._runs):
                over = run.look()
                if over is not None:
                    self._end(*over)

    def _patience_ms(self) -> int | None:
        """How long to wait for a signal until there is something else to look at."""
        due = [at for run in list(self._runs) if (at := run.due_s()) is not None]
        return max(0, int((min(due) - time.monotonic()) * 1000)) + 1 if due else None

    def _pass_on(self, numbers: bytes) -> None:
        """The loop had this place before: it wakes up by it for other signals."""
        if self._wakeup_before >= 0:
            with suppress(OSError):
                os.write(self._wakeup_before, numbers)

    def _end(self, number: int, why: str | None) -> NoReturn:
        for run in list(self._runs):
            with suppress(Exception):  # the end has to come
                run.end(why)
        os._exit(128 + number)


_taker: Final = _Taker()


def _left_to_the_thread(number: int, frame: object) -> None:
    """So that nothing else happens in the main thread."""
