"""Dead letters: what could not be handled, kept with all that is needed to run it again.

One JSON object a line (contract: Failures), appended, never overwritten. A dead letter that can't
be written stops the run.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec

from .codecs import Bad
from .durable import sync_folder_of
from .event import decode_json, encode_printable, printable
from .locking import alone, open_alone, open_shared
from .reasons import Reasons

_MOST_TRACEBACK = 16 * 1024
_TAIL_BYTES = 64 * 1024


class DeadLetterUnwritable(Exception):
    """A dead letter could not be kept; the run must stop."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an event is dead: also what crosses from a worker process."""

    type: str
    message: str
    traceback: str | None = None
    column: int | None = None
    signal: str | None = None
    exit_code: int | None = None
    peak_rss: int | None = None
    """Of a worker process that died: how, and the most memory it had (bytes)."""

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """From an exception; the traceback begins at the user's own code."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not _is_engine(f.filename)]
        lines = traceback.format_list(own or frames)
        lines += traceback.format_exception_only(error)
        text = "".join(["Traceback (most recent call last):\n", *lines])
        try:
            message = str(error)
        except Exception as failed:
            message = f"its message can't be had: {failed!r}"
        return cls(type(error).__name__, printable(message), printable(text[-_MOST_TRACEBACK:]))

    @classmethod
    def of_bad(cls, bad: Bad) -> ErrorInfo:
        """From a record that is no event."""
        return cls("MalformedEvent", bad.message, None, bad.column)


_ENGINE_FOLDER = os.path.dirname(os.path.abspath(__file__))


def _is_engine(filename: str) -> bool:
    return filename.startswith(_ENGINE_FOLDER) or filename.startswith("<frozen")


class Place(msgspec.Struct, frozen=True):
    """Where an input event stood."""

    source: str
    line: int


class Halted(Exception):
    """The run stops here, as it was told to; the message says why."""


class DeadLetters:
    """Collects the dead letters of a run and appends them to a file, made at the first one."""

    def __init__(
        self,
        path: str,
        place_of: Callable[[int], Place],
        describe: Callable[[bytes, str], dict[str, Any]],
        run: str | None = None,
        too_many: Callable[[int], str | None] = lambda count: None,
    ) -> None:
        """`run` names the run in its letters, so that several may share a file. `too_many` says
        why so many letters stop it.

        `describe` gives an event's key and how it is to be decoded, from its line and its source.
        """
        self.path, self.run, self._too_many = path, run, too_many
        self.count = 0
        self.first: list[tuple[Place, str, ErrorInfo]] = []
        """The first few, for the summary."""
        self.reasons = Reasons()
        self._place_of, self._describe = place_of, describe
        self.on_add: Callable[[ErrorInfo], None] | None = None
        """Told of each one as it comes."""
        self.ahead: set[int] | None = None
        """Numbers of those whose event is still on its way to the outlet, when a checkpoint is
        kept: as many as may be in flight."""
        self._pending: list[bytes] = []
        self._halted: Halted | None = None
        self._file: int | None = None
        self._is_placed = False  # whether its name in the folder is on the disk

    @property
    def has_pending(self) -> bool:
        """Whether write() has something to do or to say.

        Letters must be written before their events count as done."""
        return bool(self._pending) or self._halted is not None

    def would_stop(self, more: int) -> bool:
        """Whether so many more stop the run: nothing is to be begun after them."""
        return self._too_many(self.count + more) is not None

    @property
    def is_last(self) -> bool:
        """Whether there are so many that the next flush() stops the run."""
        return self.has_pending and self._too_many(self.count) is not None

    def add(
        self,
        index: int,
        line: bytes,
        stage: str,
        error: ErrorInfo,
        *,
        attempts: int = 1,
        first_ns: int = 0,
    ) -> None:
        """Note one; flush() writes it. `first_ns`: when its first attempt began, since 1970."""
        place = self._place_of(index)
        self.count += 1
        if self.on_add is not None:
            self.on_add(error)
        if self.ahead is not None:
            self.ahead.add(index)
        if len(self.first) < 3:
            self.first.append((place, stage, error))
        self.reasons.add(stage, error.type, error.message, place.source, place.line)
        now = time.time_ns()
        failure = {
            "stage": stage,
            "attempts": 0 if error.type == "MalformedEvent" else attempts,
            "first_at": moment(first_ns or now),
            "last_at": moment(now),
            "error": _error_record(error),
        }
        record = self._record(index, line, place, error.column, failure)
        self._pending.append(encode_printable(record))

    def _record(
        self, index: int, line: bytes, place: Place, column: int | None, failure: dict[str, Any]
    ) -> dict[str, Any]:
        """The letter: the event and all that is known of it, then how it failed."""
        position: dict[str, Any] = {"index": index, "line": place.line}
        if column is not None:
            position["column"] = column
        details = self._describe(line, place.source)
        return {
            **event_as_it_came(line, is_row="header" in details),
            **({} if self.run is None else {"run": self.run}),
            "source": place.source,
            "position": position,
            **details,
            **failure,
        }

    def flush(self) -> None:
        """write(), and raises Halted too."""
        halted = self.write()
        if halted is not None:
            raise halted

    def write(self) -> Halted | None:
        """Append what is pending; gives why the run has to stop once there are too many.

        Raises DeadLetterUnwritable.
        """
        if not self._pending:
            return self._halted
        data = b"\n".join(self._pending) + b"\n"
        written = 0
        try:
            if self._file is None:
                self._file = self._open()
            while written < len(data):
                written += os.write(self._file, memoryview(data)[written:])
        except OSError as error:
            if written and self._file is not None:
                self._keep_whole(self._file, data[:written])
            raise DeadLetterUnwritable(
                f"a dead letter can't be written to {self.path}: {error.strerror}; "
                f"the run stops, since it would be lost: {self._advice()}"
            ) from error
        self._pending = []
        why = self._too_many(self.count)
        if why is not None:
            self._halted = Halted(why)
        return self._halted

    def _keep_whole(self, file: int, written: bytes) -> None:
        """After a write that came to so much only: no torn record stays at the end of the file."""
        whole = written.count(b"\n")
        del self._pending[:whole]
        torn = len(written) - (written.rfind(b"\n") + 1)
        end = os.lseek(file, 0, os.SEEK_CUR)  # where this write ended
        with suppress(OSError), alone(file) as is_alone:
            if torn and is_alone and os.fstat(file).st_size == end:
                os.ftruncate(file, end - torn)

    def _advice(self) -> str:
        again = "run it again" if self.ahead is None else "go on with --resume"
        return f"see to it that it can be written, and has room, then {again}"

    def claim(self) -> None:
        """Hold the file, if it is there, against a replay. Raises DeadLetterUnwritable."""
        if self._file is None and os.path.isfile(self.path):
            try:
                self._file = self._open()
            except OSError:
                pass  # said when there is a dead letter to write

    def _open(self) -> int:
        try:
            file = open_shared(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._end_last_line(file)
        except BlockingIOError:
            raise DeadLetterUnwritable(
                f"{self.path} is being replayed; let that end first, or name another file for "
                "the dead letters of this run: --dead-letter FILE"
            ) from None
        return file

    def _end_last_line(self, file: int) -> None:
        """No letter goes on where a killed run, or an editor, left a line without an end."""
        if not _length_of(self.path):
            return
        try:
            with open(self.path, "rb") as there:
                there.seek(-1, os.SEEK_END)
                if there.read() == b"\n":
                    return
        except PermissionError:  # it can be written, which is enough
            return
        with alone(file) as is_alone:
            if is_alone:
                _end_last_line(self.path, file)

    def sync(self) -> None:
        """Wait until all that was written is on the disk. Blocks. Raises DeadLetterUnwritable."""
        if self._file is None or not _length_of(self.path):
            return
        try:
            os.fsync(self._file)
            if not self._is_placed:
                sync_folder_of(self.path)
                self._is_placed = True
        except OSError as error:
            raise DeadLetterUnwritable(
                f"dead letters can't be kept in {self.path}: {error.strerror}; the run stops, "
                "since they would be lost"
            ) from error

    def cut_back(self, kept: int, is_done: Callable[[int], bool]) -> None:
        """Take back the letters of this run whose events are not done; those of other runs stay.

        Of those that are done `kept` must be there. Not by the length that the file had: other
        runs may have cut it back too, and a replay may have marked letters. Raises
        DeadLetterUnwritable.
        """
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            return
        if not _length_of(self.path):
            self._refuse_missing(0, kept)
            return
        run = (self.run or "").encode()
        try:
            with os.fdopen(open_alone(self.path), "rb") as file:
                self._refuse_missing(self._count_again(file, run, is_done), kept)
                file.seek(0)
                _take_out(file, self.path, lambda line: _stays(line, run, is_done))
        except BlockingIOError:
            raise DeadLetterUnwritable(
                f"{self.path} is used by another run, or is being replayed, and has to be cut back "
                "to where this run stood: let that end first"
            ) from None
        except OSError as error:
            raise DeadLetterUnwritable(
                f"{self.path} can't be cut back to where the run stood: {error.strerror}"
            ) from error

    def _count_again(self, file: BinaryIO, run: bytes, is_done: Callable[[int], bool]) -> int:
        """How many letters of this run are of events that are done; their reasons are noted."""
        found = 0
        for line in file:
            letter = _letter_in(line, run)
            if letter is not None and is_done(letter.position.index):
                found += 1
                error, position = letter.error, letter.position
                self.reasons.add(
                    *(letter.stage, error.type, error.message, letter.source, position.line)
                )
        return found

    def _refuse_missing(self, found: int, kept: int) -> None:
        if found >= kept:
            return
        what = "is not there" if not os.path.exists(self.path) else f"has {found:,} of them only"
        raise DeadLetterUnwritable(
            f"the dead letters of this run can't be gone on with: {self.path}, to which it had "
            f"written {kept:,}, {what}; put it back, or begin anew with another checkpoint"
        )

    def close(self) -> None:
        """Write the rest and close."""
        try:
            self.write()
        finally:
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _end_last_line(path: str, file: int) -> None:
    """Cut off a torn record; a whole one gets its end. `file` is open to append."""
    with open(path, "rb") as there:
        size = there.seek(0, os.SEEK_END)
        start = size
        tail = b""
        while start and b"\n" not in tail:
            start = max(0, start - _TAIL_BYTES)
            there.seek(start)
            tail = there.read(size - start)
    last = tail[tail.rfind(b"\n") + 1 :]
    try:
        decode_json(last)
    except (msgspec.DecodeError, UnicodeDecodeError):
        os.ftruncate(file, size - len(last))
    else:
        os.write(file, b"\n")


def _length_of(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _take_out(file: BinaryIO, path: str, stays: Callable[[bytes], bool]) -> None:
    """Remove the lines that do not stay, by the end of the file or by another one in its place."""
    start = 0
    for line in file:
        if not stays(line):
            break
        start += len(line)
    else:
        return
    if not any(map(stays, file)):
        os.truncate(path, start)
        return
    real = os.path.realpath(path)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(real), prefix=f".{os.path.basename(real)}.")
    try:
        file.seek(0)
        with os.fdopen(handle, "wb") as copy:
            copy.writelines(line for line in file if stays(line))
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copymode(real, name)
        os.replace(name, real)
        sync_folder_of(real)
    except BaseException:
        os.unlink(name)
        raise


class _PositionOf(msgspec.Struct):
    index: int = -1
    line: int = 0


class _ErrorOf(msgspec.Struct):
    type: str = ""
    message: str = ""


class _LetterOf(msgspec.Struct):
    run: str | None = None
    source: str = ""
    position: _PositionOf = msgspec.field(default_factory=_PositionOf)
    stage: str = ""
    error: _ErrorOf = msgspec.field(default_factory=_ErrorOf)


def _letter_in(line: bytes, run: bytes) -> _LetterOf | None:
    """The letter of `run` that a whole line is."""
    if run not in line or not line.endswith(b"\n"):
        return None
    try:
        letter = msgspec.json.decode(line, type=_LetterOf)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return letter if letter.run == run.decode() else None


def _stays(line: bytes, run: bytes, is_done: Callable[[int], bool]) -> bool:
    """Whether it is a whole line, and no letter of `run` for an event that is not done."""
    letter = _letter_in(line, run)
    return line.endswith(b"\n") and (letter is None or is_done(letter.position.index))


def moment(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339, to the microsecond."""
    at = datetime.fromtimestamp(ns // 1_000_000_000, UTC).replace(microsecond=ns // 1000 % 10**6)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _error_record(error: ErrorInfo) -> dict[str, Any]:
    record = {"type": error.type, "message": error.message, "traceback": error.traceback}
    died = {
        "signal": error.signal,
        "exit_code": error.exit_code,
        "peak_rss": error.peak_rss,
    }
    return record | {name: value for name, value in died.items() if value is not None}


def event_as_it_came(line: bytes, *, is_row: bool = False) -> dict[str, Any]:
    """The event itself: JSON as it is, other text as `event_text`, other bytes as base64.

    A row of CSV is text, even one that could be read as JSON.
    """
    try:
        if is_row:
            raise msgspec.DecodeError
        decode_json(line)
        str(line, "utf-8")
        return {"event": msgspec.Raw(line.strip())}
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return {"event_text": str(line, "utf-8")}
    except UnicodeDecodeError:
        return {"event_base64": base64.b64encode(line).decode()}
