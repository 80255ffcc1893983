"""Dead letters run again: a run whose events come from a file of them, and which marks them there.

What succeeds is marked, what fails again gets its new error beside the former ones; the file is
put in place whole, after the output.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np

from .codecs import BLOCK_BYTES, Block
from .connectors.base import ConnectorError, Sink
from .connectors.files import FileSink, FileSource
from .dead_letters import DeadLetters, DeadLetterUnwritable, Halted, Place, moment
from .event import ATTRIBUTES
from .letter_file import (
    FAILED,
    LEFT,
    SUCCEEDED,
    Decoding,
    LetterFile,
    Replacement,
    recorded_fields,
)
from .observer import Observer, RunWarning
from .pipeline import Job, Pipeline, Stage, as_pipeline
from .plan import PlanError, RunOptions, RunPlan, describe
from .reading import Reader, Stream
from .result import RunResult
from .runner import Run

BLOCK_LETTERS: Final = 512


class ReplayRun(Run):
    """Replays what is chosen of a LetterFile, which stays open: whoever opened it closes it."""

    def __init__(self, plan: RunPlan, letters: LetterFile, sink: Sink, observer: Observer) -> None:
        self.letters = letters
        self._source = FileSource(letters.path)
        self._source.size = None  # what is read of the file tells little of how far it is
        self._states = letters.no_states()
        super().__init__(plan, [self._source], sink, observer)
        if letters.left_behind:
            observer.on_warning(RunWarning("left-behind", _left_behind(letters.left_behind)))

    # --- what differs from another run

    def share(self, now: int) -> float | None:
        return min(1.0, self.intake.read / len(self.letters)) if len(self.letters) else None

    def _open_dead_letters(self) -> Outcomes:
        self.outcomes = Outcomes(
            self.letters.path, self.positions.place_of, self.id, self._too_many
        )
        return self.outcomes

    def _open_readers(self) -> list[Reader]:
        kinds = self.letters.kinds or [Decoding()]
        return [self._reader_of(kind, number) for number, kind in enumerate(kinds)]

    def _reader_of(self, kind: Decoding, number: int) -> Reader:
        options = self.options
        reader = Reader(
            self._source,
            self.plan.mapping,
            self._need(),
            format="csv" if kind.header else "jsonl",
            delimiter=kind.delimiter,
            partition=number,
            chosen_key=options.key if options.order == "key" and self._check_keys() else None,
            cloud_events=kind.cloud_events,
        )
        reader.adopt(kind.header)
        return reader

    def _check_keys(self) -> bool:
        """Only for a key that the runs did not go by: letters may well be those that lack it."""
        key = self.options.key
        return key is not None and key not in recorded_fields(self.letters.kinds, "key")

    def _reads_rows(self) -> bool:
        kinds = self.letters.chosen_kinds()
        return bool(kinds) and all(kind.header for kind in kinds)

    async def _blocks(
        self, streams: Sequence[Stream]
    ) -> AsyncIterator[tuple[Reader, Block | None]]:
        turn = 0
        while turn < len(self.letters):
            kind, block = await asyncio.to_thread(self._block, turn)
            turn += block.count
            yield self.readers[kind], block

    def _block(self, turn: int) -> tuple[int, Block]:
        """The letters of one kind from `turn` on, as far as they stand together."""
        letters = self.letters
        lines: list[bytes] = []
        numbers: list[int] = []
        cut: dict[int, str] = {}
        size = 0
        _, kind = letters.row(turn)
        while size < BLOCK_BYTES and len(lines) < BLOCK_LETTERS and turn < len(letters):
            number, next_kind = letters.row(turn)
            if next_kind != kind:
                break
            letter, stored = letters.letter(turn)
            if letter.cut is not None:
                cut[len(lines)] = letter.cut
            lines.append(letter.line)
            numbers.append(number)
            size += len(lines[-1])
            self._source.bytes_read += stored
            turn += 1
        whole = None if any(b"\n" in line for line in lines) else b"\n".join(lines)
        return kind, Block(len(lines), numbers[0], whole, lines, numbers, cut or None)

    # --- the end

    async def run(self) -> RunResult:
        """Replay to the end. Raises what Run.run() raises; then the file is as it was."""
        try:
            return await super().run()
        finally:
            self.outcomes.end()

    def _keeps_results(self, error: BaseException) -> bool:
        return False  # their letters are not marked, and will give them again

    async def _close_sink(self) -> str | None:
        why = self._why_unmarked()
        if why is not None:
            note = await super()._close_sink()
            return "; ".join(filter(None, (why, note)))
        self._judge_letters()
        replacement = Replacement(self.letters.path)
        try:
            await asyncio.to_thread(self._write, replacement)
        except BaseException:
            await self.sink.abandon(keep=False)
            raise
        try:
            note = await super()._close_sink()
        except BaseException:
            replacement.discard()
            raise
        if note is None and self._lost_results():
            replacement.discard()
            self._states[:] = LEFT
            return f"the results so far could not be kept, so that {self.letters.path} is as it was"
        replacement.put()
        return note

    def _why_unmarked(self) -> str | None:
        if not len(self.letters):
            return ""
        if self.torn:
            return f"{self.letters.path} is as it was, since the stage did not end well"
        if self.outlet.closed_early:
            return f"{self.letters.path} is as it was, since nobody read the results to their end"
        return None

    def _lost_results(self) -> bool:
        """Whether results were written to a file that is not there."""
        if not (self.outlet.counts.emitted and isinstance(self.sink, FileSink)):
            return False
        name = self.sink.name
        return not os.path.exists(name) or (os.path.isfile(name) and not os.path.getsize(name))

    def _judge_letters(self) -> None:
        read = range(self.intake.read)
        states, letters = self._states, self.letters
        letters.states(np.arange(len(read)), SUCCEEDED, states)
        letters.states(self.outlet.frontier.undone(read), LEFT, states)
        letters.states(self.outcomes.numbers, FAILED, states)

    def _write(self, replacement: Replacement) -> None:
        mark = {"at": moment(time.time_ns()), "run": self.id}
        outcomes = self.outcomes.by_row(self.letters)
        replacement.write(self.letters.rewritten(self._states, mark, outcomes.__getitem__))

    def _result(self, notes: list[str]) -> RunResult:
        result = super()._result(notes)
        counts = {state: int((self._states == state).sum()) for state in (SUCCEEDED, FAILED)}
        result.data["command"] = "replay"
        result.data["replay"] = {
            "letters": self.letters.letters,
            "replayed_before": self.letters.replayed_before,
            "succeeded": counts[SUCCEEDED],
            "failed_again": counts[FAILED],
            "left": self.letters.letters - self.letters.replayed_before - sum(counts.values()),
        }
        return result


TooMany = Callable[[int], str | None]
"""Why so many letters stop the run, if they do."""


class Outcomes(DeadLetters):
    """How letters failed again, by the numbers of their events, in a file that has no name."""

    def __init__(self, path: str, place_of: Any, run: str, too_many: TooMany) -> None:
        super().__init__(path, place_of, lambda line, source: {}, run, too_many)
        self.numbers = array("q")
        self._ends = array("q", [0])
        self._folder = os.path.dirname(os.path.realpath(path))

    def _record(
        self, index: int, line: bytes, place: Place, column: int | None, failure: dict[str, Any]
    ) -> dict[str, Any]:
        self.numbers.append(index)
        return failure

    def claim(self) -> None:
        """Make the file: where that can't be done, the letters can't be marked either."""
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise DeadLetterUnwritable(
                f"{self.path} can't be marked: nothing can be written beside it: {error.strerror}"
            ) from error

    def write(self) -> Halted | None:
        sizes = [len(record) + 1 for record in self._pending]
        try:
            return super().write()
        finally:
            if not self._pending:  # they are written, whatever came after
                for size in sizes:
                    self._ends.append(self._ends[-1] + size)

    def close(self) -> None:
        """Nothing more comes; what came is still to be read."""
        self.write()

    def end(self) -> None:
        """All is read."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def by_row(self, letters: LetterFile) -> OutcomesByRow:
        """The outcomes by the rows of a file."""
        assert self._file is not None
        return OutcomesByRow(self._file, letters.turns[self.numbers], self._ends)


class OutcomesByRow:
    """Reads outcomes; of several for one row, the last."""

    def __init__(self, fd: int, rows: Any, ends: array[int]) -> None:
        self._fd, self._ends = fd, ends
        self._turns = np.argsort(rows, kind="stable")
        self._rows = rows[self._turns]

    def __getitem__(self, row: int) -> dict[str, Any]:
        number = self._turns[np.searchsorted(self._rows, row, side="right") - 1]
        at, end = self._ends[number], self._ends[number + 1]
        outcome: dict[str, Any] = msgspec.json.decode(os.pread(self._fd, end - at, at))
        return outcome


def replay_options(options: RunOptions, letters: LetterFile) -> RunOptions:
    """The options of a replay: attributes stand where the runs found them. Raises PlanError."""
    kinds = letters.chosen_kinds()
    found: dict[str, Any] = {}
    for name in ATTRIBUTES:
        paths = recorded_fields(kinds, name) or {None}
        if getattr(options, name) is None and len(paths) > 1:
            named = " and ".join(sorted(path or "the usual field" for path in paths))
            raise PlanError(
                f"{letters.path} has letters of runs that found the {name} in {named}: replay "
                f"run by run (--run RUN; --dry-run lists them), or say --{name} FIELD"
            )
        found[name] = getattr(options, name) or next(iter(paths))
    return msgspec.structs.replace(
        options,
        **found,
        dead_letter=letters.path,
        # What is said of a run's input; that of a replay is known.
        format="auto",
        delimiter=None,
        partitions=False,
        follow=False,
        pace="none",
        speed=1.0,
        inject=(),
        dedupe=False,
        dedupe_window=None,
        checkpoint=None,
        resume=False,
        record=None,
    )


def away_from_here(job: Job, plan: RunPlan, letters: LetterFile) -> tuple[Job, list[str]]:
    """The job with worker processes for the stages that a process ended of, and their names.

    Nothing changes where the executor is chosen, or it is a process already.
    """
    deaths = letters.stages_of_deaths()
    if not deaths or plan.options.executor != "auto":
        return job, []
    if deaths.isdisjoint(stage.name for stage in plan.stages):
        deaths = {stage.name for stage in plan.stages}  # they have other names now
    away, moved = list[Stage](), list[str]()
    for declared, planned in zip(as_pipeline(job).stages, plan.stages, strict=True):
        is_free = declared.executor is None and planned.executor != "process"
        if is_free and planned.name in deaths:
            moved.append(planned.name)
            away.append(replace(declared, executor="process"))
        else:
            away.append(declared)
    return Pipeline(*away), moved


def refuse_to_replace(
    output: str | None, others: Sequence[tuple[str, str]], letters: LetterFile
) -> None:
    """A replay replaces no letters, and no results of a run or of a replay before; `others` are
    further files that it is to write: flag and path.

    Raises ConnectorError.
    """
    for flag, path in others:
        if os.path.exists(path) and os.path.samefile(path, letters.path):
            raise ConnectorError(f"{flag} {path} is the file of dead letters; name another one")
    if output in (None, "-"):
        return
    for name in (str(output), f"{output}.partial"):
        if os.path.isfile(name) and os.path.getsize(name):
            raise ConnectorError(
                f"{name} holds results already, which a replay would replace; name another file "
                "for its results: --output FILE"
            )


def nothing_to_do(letters: LetterFile) -> str:
    """Why there is nothing to be replayed."""
    left = letters.letters - letters.replayed_before
    if not letters.letters:
        return f"{letters.path} holds no dead letters"
    if not left:
        return f"{letters.path}: all letters ({letters.letters:,}) are replayed already"
    if letters.left_behind:
        return f"{letters.path}: {_left_behind(letters.left_behind)}"
    what = "the letter that is left is not" if left == 1 else f"none of the {left:,} left is"
    return f"{letters.path}: {what} selected; see what there is: --dry-run, and nothing selected"


def look_at_letters(plan: RunPlan, letters: LetterFile) -> list[str]:
    """Lines for people: what a replay would run, and how many letters of what. Changes nothing."""
    lines = ["stages:", *(f"  {line}" for line in describe(plan))]
    lines.append(f"order: {plan.options.order}, on error: {plan.options.on_error}")
    lines.append(f"output: {plan.options.output or 'standard output'}")
    left = letters.letters - letters.replayed_before - len(letters)
    lines.append(
        f"{letters.path}: letters: {letters.letters:,}; replayed already: "
        f"{letters.replayed_before:,}; to be replayed: {len(letters):,}; left as they are: {left:,}"
    )
    counts: dict[str, Counter[str]] = {"runs": Counter(), "stages": Counter(), "errors": Counter()}
    for turn in range(len(letters)):
        letter, _ = letters.letter(turn)
        counts["runs"][letter.run or "(not named)"] += 1
        counts["stages"][letter.stage] += 1
        counts["errors"][letter.error.type] += 1
    for what, counted in counts.items():
        lines += [f"{what}:", *(f"  {name}: {n:,}" for name, n in counted.most_common())]
    lines.append("dry run: nothing was handled, nothing was written")
    return lines


def _left_behind(count: int) -> str:
    what = "1 letter is" if count == 1 else f"{count:,} letters are"
    return (
        f"{what} left out, since an earlier one of the same key is not selected; select that "
        "too, or say --order none"
    )
