"""Memory does not grow with the length of a run: ten times the events, the same peak.

The shorter run has filled already all that has a bound: channels, the audit's windows (twice
32,768 keys at each place), the table of the keys that are in flight.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import peak

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("millstream")
MiB = 1024 * 1024

EXECUTORS = {
    "inline": ("echo",),
    "coroutine": ("aecho",),
    "process": ("echo", "--workers", "2"),
}
READ_BYTES = 64 * 1024

# The coroutine lets others pass now and then: in perfect order the audit has little to remember.
HANDLERS = """\
import asyncio


def echo(event):
    return event


async def aecho(event):
    if event.key % 25 == 0:
        await asyncio.sleep(0)
    return event
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "handlers.py").write_text(HANDLERS)
    return folder


def events(folder: Path, count: int, keys: int) -> Path:
    """A file of tiny events, each key as far apart as can be."""
    path = folder / f"{count}-{keys}.jsonl"
    if not path.exists():
        with path.open("w") as file:
            file.writelines(f'{{"key":{number % keys}}}\n' for number in range(count))
    return path


class Measured:
    """A run of the command under way; what it peaked at, once it is over."""

    def __init__(self, folder: Path, executor: str, source: Path, *options: str) -> None:
        self._peak, self._result = folder / "peak", folder / "result.json"
        handler, *more = EXECUTORS[executor]
        run = [COMMAND, "run", f"handlers.py:{handler}", *more, source, "--quiet"]
        command = [*run, "--result", self._result, *options]
        self.process = subprocess.Popen(
            [sys.executable, peak.__file__, self._peak, *command],
            cwd=folder,
            stdout=subprocess.PIPE,
        )

    def finish(self) -> tuple[int, int]:
        """The peak of the largest process, and that of the run's own as it saw it itself."""
        with self.process:
            assert self.process.wait() == 0
        resources = json.loads(self._result.read_bytes())["resources"]
        return int(self._peak.read_text()), resources["rss_peak_parent"]


def assert_same(short: tuple[int, int], long: tuple[int, int]) -> None:
    for before, after in zip(short, long, strict=True):
        assert after < 1.1 * before, f"{before / MiB:.1f} MiB grew to {after / MiB:.1f} MiB"


@pytest.mark.parametrize(
    ("executor", "count", "repeats"),
    [("inline", 80_000, 1), ("coroutine", 160_000, 1), ("process", 160_000, 2)],
)
def test_ten_times_the_events_and_keys(
    folder: Path, executor: str, count: int, repeats: int
) -> None:
    def peak_of(count: int) -> tuple[int, int]:
        source = events(folder, count, keys=count)
        return Measured(folder, executor, source, "--output", "output.jsonl").finish()

    # How many frames meet in memory is chance with workers: one short run may miss the bound
    # that a longer one comes to, so that the shorter side is the peak of several.
    shorter = [peak_of(count) for _ in range(repeats)]

    # Growth with the number of events shows every time, chance does not: the longer side is the
    # lower of two.
    longer = [peak_of(10 * count) for _ in range(2 if repeats > 1 else 1)]

    before = (max(p for p, _ in shorter), max(p for _, p in shorter))
    assert_same(before, (min(p for p, _ in longer), min(p for _, p in longer)))


def slowly(pipe: int) -> Iterator[bytes]:
    """What comes through a pipe, read at a pace below the run's own."""
    while chunk := os.read(pipe, READ_BYTES):
        yield chunk
        time.sleep(len(chunk) / (3 * MiB))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ten_times_the_events_for_a_slow_reader(folder: Path, executor: str) -> None:
    peaks = []
    for count in (80_000, 800_000):
        source = events(folder, count, keys=50)
        run = Measured(folder, executor, source)
        assert run.process.stdout is not None
        size = sum(map(len, slowly(run.process.stdout.fileno())))
        peaks.append(run.finish())
        assert size == source.stat().st_size

    assert_same(*peaks)
