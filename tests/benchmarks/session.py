"""The rounds: every row once in each, interleaved; a row's first output is checked."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.check import output_fault, result_fault
from tests.benchmarks.handlers import SPIN_VARIABLE
from tests.benchmarks.inputs import KEYS, LOG_KEYS, ensure_input, ensure_nexmark
from tests.benchmarks.measure import Sample, run_once
from tests.benchmarks.rows import Input, Row

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("build", "bench")
ZIPF = 1.1


@dataclass(frozen=True)
class Sizes:
    """How many events each input holds."""

    events: int
    io_events: int
    zipf_events: int
    log_events: int
    nexmark_events: int

    def of(self, source: Input) -> int:
        """The number of events of one input."""
        sizes: dict[Input, int] = {
            "events": self.events,
            "io": self.io_events,
            "zipf": self.zipf_events,
            "log": self.log_events,
            "nexmark": self.nexmark_events,
            "one": 1,
            "none": 0,
        }
        return sizes[source]


@dataclass
class Record:
    """A row, what was measured of it, and why it was not, if so."""

    row: Row
    samples: list[Sample] = field(default_factory=list)
    # "not installed", or what was wrong; a row with a fault is out of the later rounds.
    fault: str | None = None


def millstream_path() -> str:
    """The command as installed beside this interpreter, relative to the project where it can be."""
    return _relative(Path(sys.executable).parent / "millstream")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def missing(row: Row) -> bool:
    """Whether what the row runs is not installed."""
    if row.is_a_run or row.group == "audit":
        return shutil.which(ROOT / millstream_path()) is None
    if row.needs == "parallel":
        return shutil.which("parallel") is None
    return row.needs is not None and find_spec(row.needs) is None


def make_inputs(rows: Sequence[Row], sizes: Sizes) -> dict[Input, Path]:
    """The files that the rows read, relative to the project, made where they are missing."""
    paths: dict[Input, Path] = {"none": Path(os.devnull)}
    for source in {row.input for row in rows} - {"none"}:
        if source == "nexmark":
            path = ensure_nexmark(ROOT / FOLDER, sizes.of(source))
            paths[source] = path.relative_to(ROOT)
            continue
        law = ZIPF if source in ("io", "zipf") else None
        keys = LOG_KEYS if source == "log" else KEYS
        path = ensure_input(ROOT / FOLDER, sizes.of(source), law, keys)
        paths[source] = path.relative_to(ROOT)
    return paths


def measure_rounds(
    rows: Sequence[Row],
    *,
    rounds: int,
    sizes: Sizes,
    spin_turns: int,
    timeout_seconds: float,
    say: Callable[[str], None],
) -> list[Record]:
    """Run every row once in each round; every other round goes through them backwards."""
    records = [Record(row, fault="not installed" if missing(row) else None) for row in rows]
    inputs = make_inputs(rows, sizes)
    (ROOT / FOLDER / "out").mkdir(parents=True, exist_ok=True)
    for number in range(rounds):
        for record in records if number % 2 == 0 else reversed(records):
            if record.fault is not None:
                continue
            turn = _Turn(record.row, inputs[record.row.input], spin_turns, timeout_seconds)
            for _ in range(record.row.repeats):
                _take(record, turn, sizes)
            say(f"round {number + 1} of {rounds}  {record.row.name:22} {_outcome(record)}")
    return records


def _outcome(record: Record) -> str:
    return record.fault or f"{record.samples[-1].wall_ns / 1e9:.3f} s"


def _take(record: Record, turn: _Turn, sizes: Sizes) -> None:
    """Measure once more; the first time, see whether the work was done."""
    if record.fault is not None:
        return
    sample = turn.run()
    record.fault = turn.fault(sample, sizes.of(record.row.input), thorough=not record.samples)
    if record.fault is None:
        record.samples.append(sample)
    turn.output.unlink(missing_ok=True)


class _Turn:
    """One row with its paths filled in."""

    def __init__(self, row: Row, source: Path, spin_turns: int, timeout_seconds: float) -> None:
        stem = row.name.replace("/", "-")
        self._row, self._source, self._timeout_seconds = row, source, timeout_seconds
        self._spin_turns = spin_turns
        self._out = FOLDER / "out" / f"{stem}.jsonl"
        self._result = FOLDER / "out" / f"{stem}.result.json"
        self._checkpoint = FOLDER / "out" / f"{stem}.checkpoint"
        self._stderr = ROOT / FOLDER / "out" / f"{stem}.stderr"
        self.output = ROOT / self._out

    def run(self) -> Sample:
        """Run the command once; what an earlier run left is out of its way."""
        self.output.unlink(missing_ok=True)
        (ROOT / self._result).unlink(missing_ok=True)
        for ending in ("", "-wal"):
            (ROOT / f"{self._checkpoint}{ending}").unlink(missing_ok=True)
        return run_once(
            self._command(),
            folder=ROOT,
            environment=self._environment(),
            stdout=self.output if self._row.stdout else None,
            stderr=self._stderr,
            timeout_seconds=self._timeout_seconds,
        )

    def _command(self) -> list[str]:
        words = {
            "python": _relative(Path(sys.executable)),
            "millstream": millstream_path(),
            "input": str(self._source),
            "output": str(self._out),
            "result": str(self._result),
            "checkpoint": str(self._checkpoint),
        }
        return [word.format_map(words) for word in self._row.command]

    def _environment(self) -> Mapping[str, str]:
        return os.environ | {
            SPIN_VARIABLE: str(self._spin_turns),
            "MILLSTREAM_BENCH_INPUT": str(self._source),
            "MILLSTREAM_BENCH_OUTPUT": str(self._out),
        }

    def fault(self, sample: Sample, events: int, *, thorough: bool) -> str | None:
        """Why the sample does not count, or None; `thorough` reads the output as well."""
        if sample.exit_code == -signal.SIGKILL and sample.wall_ns >= self._timeout_seconds * 1e9:
            return f"killed after {self._timeout_seconds:g} s; --timeout gives it longer"
        if sample.exit_code != 0:
            text = self._stderr.read_text(errors="replace").strip()
            return f"exit code {sample.exit_code}: {text.splitlines()[-1][:200] if text else ''}"
        if not thorough:
            return None
        fault = output_fault(self._row, ROOT / self._source, self.output)
        if fault is None and self._row.is_a_run:
            fault = result_fault(ROOT / self._result, events)
        return fault
