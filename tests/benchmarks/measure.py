"""Runs one command and takes its figures from the kernel; finds how many turns take 20 µs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from time import perf_counter_ns, sleep

from tests.benchmarks.handlers import spin

SPIN_NS = 20_000


@dataclass(frozen=True)
class Sample:
    """One run of one command: wall time, processor time of all its processes, largest process."""

    wall_ns: int
    cpu_ns: int
    rss_bytes: int
    exit_code: int


def run_once(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdout: Path | None,
    stderr: Path,
    timeout_seconds: float,
) -> Sample:
    """Run a command to its end, in a session of its own; kill the session after the timeout."""
    with open(stdout or os.devnull, "wb") as out, stderr.open("wb") as errors:
        started_ns = perf_counter_ns()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
        timer = Timer(timeout_seconds, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_ns = perf_counter_ns() - started_ns
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
    # ru_maxrss is in KiB on Linux.
    return Sample(wall_ns, cpu_ns, usage.ru_maxrss * 1024, process.returncode)


def turns_of_20_us() -> int:
    """How many turns of handlers.spin take 20 µs here: the quickest of many short tries counts.

    They are spread over two seconds, for shared machines have slow moments of that length.
    """
    turns = 5_000
    tries = []
    for _ in range(150):
        sleep(0.01)
        started_ns = perf_counter_ns()
        spin(turns)
        tries.append(perf_counter_ns() - started_ns)
    return max(1, round(turns * SPIN_NS / min(tries)))
