"""A loop on a clock of its own: time stands still while anything can go on, then jumps to what is
next. So a run of an hour takes seconds, and its times are exact, however fast the machine is."""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

# What is imported while the clock is another one would keep it.
import millstream.engine.executors.coroutine
import millstream.engine.executors.inline
import millstream.engine.executors.process  # noqa: F401

T = TypeVar("T")

_REAL = time.monotonic_ns
_START_NS = 1_000_000_000_000


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None or self.loop.threads:
            return super().select(None if self.loop.threads else timeout)
        self.loop.now_ns += max(1, round(timeout * 1e9))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Goes on to the next timer as soon as nothing else is to be done."""

    def __init__(self) -> None:
        self.now_ns = _START_NS
        self.threads = 0
        """Calls that threads have in their hands: meanwhile the clock stands."""
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now_ns / 1e9

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: object) -> None:
        self.threads -= 1


@contextmanager
def _clock(loop: VirtualLoop) -> Iterator[None]:
    """Let all of Millstream read the loop's clock."""

    def now_ns() -> int:
        return loop.now_ns

    replaced: list[tuple[Any, str]] = [(time, "monotonic_ns")]
    for name, module in list(sys.modules.items()):
        if name.startswith("millstream."):
            replaced += [(module, each) for each, v in vars(module).items() if v is _REAL]
    for owner, name in replaced:
        setattr(owner, name, now_ns)
    try:
        yield
    finally:
        for owner, name in replaced:
            setattr(owner, name, _REAL)


def run_virtually(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end on a clock that begins anew."""
    loops: list[VirtualLoop] = []

    def factory() -> VirtualLoop:
        loops.append(VirtualLoop())
        return loops[0]

    with asyncio.Runner(loop_factory=factory) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        with _clock(loop):
            return runner.run(make())
