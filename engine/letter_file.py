"""A file of dead letters, to be replayed: checked whole, put in order, chosen from, and marked.

Of each letter some 60 bytes are held (where it stands, its run, its number); the letters themselves
are read again when their turn comes. The file is not changed in place: another takes its name.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from numpy.typing import NDArray

from .connectors.base import ConnectorError
from .dead_letters import DeadLetterUnwritable
from .event import ATTRIBUTES, decode_members, encode_printable
from .locking import NO_LOCKS, open_alone

MOST_HISTORY: Final = 20
"""Former errors that a letter keeps."""
PARKED: Final = "Parked"
_PACKED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

LEFT, SUCCEEDED, FAILED = range(3)
"""What a replay came to for a letter."""

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
States = NDArray[np.int8]


class _Position(Struct):
    index: Annotated[int, Meta(ge=0, lt=2**62)]


class _Error(Struct):
    type: str
    message: str
    signal: Any = None
    exit_code: Any = None

    @property
    def is_death(self) -> bool:
        """Whether a worker process ended of it."""
        return self.signal is not None or self.exit_code is not None


class Letter(Struct, kw_only=True):
    """What a replay needs of a dead letter; what else stands in it is kept."""

    source: str
    position: _Position
    stage: str
    attempts: Annotated[int, Meta(ge=0)]
    first_at: str
    last_at: str
    error: _Error
    run: str | None = None
    key: Raw = Raw(b"null")
    event: Raw | UnsetType = UNSET
    event_text: str | UnsetType = UNSET
    event_base64: bytes | UnsetType = UNSET
    fields: dict[Literal["key", "sequence", "id", "type", "time"], str] = {}
    header: tuple[str, ...] = ()
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    format: Literal["cloudevents"] | None = None
    replayed: dict[str, Any] | None = None
    history: list[Raw] = []
    last_run: str | None = None

    @property
    def line(self) -> bytes:
        """The event as it came."""
        if self.event is not UNSET:
            return bytes(self.event)
        if self.event_text is not UNSET:
            text = self.event_text.encode(errors="surrogatepass")
            # No line of JSON has a line end in it; a row of CSV may.
            return text if self.header else text.replace(b"\n", b" ")
        assert self.event_base64 is not UNSET
        return self.event_base64

    @property
    def cut(self) -> str | None:
        """Why the event is not whole: of a line that is too long only the start is kept."""
        is_cut = self.error.type == "MalformedEvent" and " is longer than " in self.error.message
        return self.error.message if is_cut else None


_decode_letter: Final = msgspec.json.Decoder(Letter).decode
_decode_raw_list: Final = msgspec.json.Decoder(list[Raw]).decode


class Decoding(Struct, frozen=True):
    """How the events of some letters are decoded: each kind has a reader of its own."""

    fields: tuple[tuple[str, str], ...] = ()
    header: tuple[str, ...] = ()
    delimiter: str | None = None
    cloud_events: bool = False
    source: str | None = None
    """Where each source is a partition."""


class Selection(Struct, frozen=True):
    """Which letters to replay; nothing named: all."""

    errors: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def is_all(self) -> bool:
        return not (self.errors or self.stages or self.runs)

    def has(self, letter: Letter) -> bool:
        """Whether the letter is among those named."""
        return (
            (not self.errors or letter.error.type in self.errors)
            and (not self.stages or letter.stage in self.stages)
            and (not self.runs or letter.run in self.runs)
        )


class LetterFile:
    """Dead letters that are not replayed yet, in a file that nobody else writes meanwhile.

    A run's letters are numbered in the order of their events in the run, run by run, the runs in
    the order of their first letters. Opening raises ConnectorError, and changes nothing.
    """

    def __init__(self, path: str, selection: Selection, order: str = "key") -> None:
        self.path, self.selection = path, selection
        self.letters = self.replayed_before = 0
        self.left_behind = 0
        """Letters that were selected, but an earlier one of their key was not."""
        self.bytes = 0
        """What the letters that are not replayed take up."""
        self.kinds: list[Decoding] = []
        self._order = order
        self._kind_numbers: dict[Decoding, int] = {}
        self._runs: dict[str | None, int] = {}
        self._twins: dict[int, int] = {}
        self._deaths: dict[str, int] = {}
        self._rows = _Rows()
        self._file = _open(path)
        try:
            self._scan()
        except BaseException:
            self.close()
            raise
        self.turns = self._in_order()
        """The rows to be replayed, in their order: what stands at `number` is event `number`."""

    def close(self) -> None:
        """Let others write the file again."""
        self._file.close()

    def __len__(self) -> int:
        """How many are to be replayed."""
        return len(self.turns)

    # --- what there is

    def _scan(self) -> None:
        at = 0
        for number, line in enumerate(self._file, 1):
            if not at and line.startswith(tuple(_PACKED)):
                how = next(name for start, name in _PACKED.items() if line.startswith(start))
                raise ConnectorError(
                    f"{self.path} is no file of dead letters: it is packed ({how}); letters are "
                    "marked where they stand, so unpack it first"
                )
            if line.strip():
                self._note(self._checked(line, number), number, at, len(line))
            at += len(line)

    def _checked(self, line: bytes, number: int) -> Letter:
        try:
            letter = _decode_letter(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._refused(number, str(error).replace("`", "")) from None
        events = (letter.event, letter.event_text, letter.event_base64)
        if sum(each is not UNSET for each in events) != 1:
            raise self._refused(number, "it has no event, event_text or event_base64, or several")
        return letter

    def _refused(self, number: int, why: str) -> ConnectorError:
        if not self.letters:
            return ConnectorError(
                f"{self.path} is no file of dead letters: line {number}: {why}; name the file "
                "that a run wrote"
            )
        return ConnectorError(
            f"{self.path} line {number} is no dead letter: {why}; mend the line or take it out. "
            "Nothing was replayed"
        )

    def _note(self, letter: Letter, number: int, at: int, size: int) -> None:
        self.letters += 1
        if letter.replayed is not None:
            self.replayed_before += 1
            return
        self.bytes += size
        rows = self._rows
        rows.at.append(at)
        rows.size.append(size)
        rows.line.append(number)
        rows.index.append(letter.position.index)
        run = self._runs.setdefault(letter.run, len(self._runs))
        rows.run.append(run)
        rows.kind.append(self._kind_of(letter))
        is_death = letter.error.is_death
        deaths = self._deaths
        rows.death.append(deaths.setdefault(letter.stage, len(deaths) + 1) if is_death else 0)
        if not self.selection.is_all:
            rows.wanted.append(self.selection.has(letter))
            rows.parked.append(letter.error.type == PARKED)
            key = bytes(letter.key)
            rows.key.append(0 if key == b"null" else hash((run, key)) or 1)

    def _kind_of(self, letter: Letter) -> int:
        kind = Decoding(
            tuple(sorted(letter.fields.items())),
            letter.header,
            letter.delimiter,
            letter.format == "cloudevents",
            letter.source if self._order == "partition" else None,
        )
        number = self._kind_numbers.setdefault(kind, len(self.kinds))
        if number == len(self.kinds):
            self.kinds.append(kind)
        return number

    # --- which of them, and in which order

    def _in_order(self) -> Ints:
        rows = self._rows
        runs, indexes = _column(rows.run), _column(rows.index)
        turns: Ints = np.lexsort((indexes, runs)).astype(np.int64)
        turns = self._without_twins(turns, runs[turns], indexes[turns])
        if self.selection.is_all:
            return turns
        chosen: Mask = _column(rows.wanted)[turns].astype(bool)
        if self._order == "key":
            parked = _column(rows.parked)[turns].astype(bool)
            chosen, behind = choose(_column(rows.key)[turns], chosen, parked)
            self.left_behind = int(behind.sum())
        selected: Ints = turns[chosen]
        return selected

    def _without_twins(self, turns: Ints, runs: Ints, indexes: Ints) -> Ints:
        """An event that died twice in one run, which was resumed in between, is replayed once."""
        nameless = self._runs.get(None, -1)
        twin = np.zeros(len(turns), dtype=bool)
        twin[1:] = (runs[1:] == runs[:-1]) & (indexes[1:] == indexes[:-1]) & (runs[1:] != nameless)
        first = -1
        for place in np.flatnonzero(twin).tolist():
            if not twin[place - 1]:
                first = int(turns[place - 1])
            self._twins[int(turns[place])] = first
        alone: Ints = turns[~twin]
        return alone

    # --- one after another

    def row(self, turn: int) -> tuple[int, int]:
        """The number of the line in which the letter stands, and of its kind."""
        row = self.turns[turn]
        return self._rows.line[row], self._rows.kind[row]

    def letter(self, turn: int) -> tuple[Letter, int]:
        """The letter whose turn it is, and its size."""
        row = self.turns[turn]
        size = self._rows.size[row]
        # Not by the buffered file: that would read its buffer anew for letters that stand apart.
        line = os.pread(self._file.fileno(), size, self._rows.at[row])
        return _decode_letter(line), size

    def chosen_kinds(self) -> list[Decoding]:
        """The kinds of those that are to be replayed."""
        return [self.kinds[number] for number in np.unique(_column(self._rows.kind)[self.turns])]

    def stages_of_deaths(self) -> set[str]:
        """The stages in which a worker process ended of one that is to be replayed."""
        numbers = set(np.unique(_column(self._rows.death)[self.turns]).tolist())
        return {stage for stage, number in self._deaths.items() if number in numbers}

    # --- what became of them

    def states(self, turns: Sequence[int] | Ints, state: int, states: States) -> None:
        """Set the state of the rows whose turns are given."""
        states[self.turns[np.asarray(turns, dtype=np.int64)]] = state

    def no_states(self) -> States:
        """The state of every row: LEFT."""
        return np.full(len(self._rows.at), LEFT, dtype=np.int8)

    def rewritten(
        self, states: States, mark: dict[str, str], outcome_of: Callable[[int], dict[str, Any]]
    ) -> Iterator[bytes]:
        """The lines of the file with what became of them; `outcome_of` a row that FAILED."""
        for row, twin in self._twins.items():
            states[row] = states[twin]
        self._file.seek(0)
        row, rows = 0, len(states)
        for number, line in enumerate(self._file, 1):
            if row == rows or number != self._rows.line[row]:
                yield line
                continue
            if states[row] == SUCCEEDED:
                yield encode_printable({**decode_members(line), "replayed": mark}) + b"\n"
            elif states[row] == FAILED:
                yield failed_again(line, outcome_of(self._twins.get(row, row)), mark["run"])
            else:
                yield line if line.endswith(b"\n") else line + b"\n"
            row += 1


class _Rows:
    """A column for each thing that is held of a letter, in the order of the file."""

    def __init__(self) -> None:
        self.at = array("q")
        self.size = array("q")
        self.line = array("q")
        self.run = array("i")
        self.index = array("q")
        self.kind = array("i")
        self.death = array("i")
        """The number of the stage whose worker process ended of it; 0: none."""
        self.wanted = array("b")
        self.parked = array("b")
        self.key = array("q")
        """0: the event has none. Of others a hash: two that are alike hold each other back."""


def _column(values: array[int]) -> Ints:
    kind = {"q": np.int64, "i": np.int32, "b": np.int8}[values.typecode]
    column: Ints = np.frombuffer(values, dtype=kind) if values else np.zeros(0, dtype=kind)
    return column


def _open(path: str) -> BinaryIO:
    try:
        if not os.path.isfile(path):
            what = "is no file" if os.path.exists(path) else "is not there"
            raise ConnectorError(f"{path} {what}; name the file of dead letters that a run wrote")
        if not os.access(path, os.W_OK):
            raise ConnectorError(f"{path} can't be marked: permission denied")
        return os.fdopen(_locked(path), "rb", buffering=256 * 1024)
    except OSError as error:
        raise ConnectorError(f"{path} can't be read: {error.strerror}") from error


def _locked(path: str) -> int:
    try:
        return open_alone(path)
    except BlockingIOError:
        raise ConnectorError(
            f"{path} is in use: a run still appends to it, or another replay works on it; "
            "let that end first"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ConnectorError(
            f"{path} can't be locked where it is, and a run might append to it meanwhile: copy "
            "it to a local disk, and replay that"
        ) from error


def choose(keys: Ints, wanted: Mask, parked: Mask) -> tuple[Mask, Mask]:
    """Which letters to replay, and which of those that were wanted stay behind an earlier one.

    All columns are in the order of replay; key 0 is none. A parked letter goes with the first of
    its key, behind which it was parked. What follows a letter that is left out stays behind it.
    """
    by_key = np.argsort(keys, kind="stable")
    keys, selected, parked = keys[by_key], wanted[by_key], parked[by_key]
    places = np.arange(len(keys))
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = keys[1:] != keys[:-1]
    begin = np.maximum.accumulate(np.where(begins, places, 0))
    first = np.maximum.accumulate(np.where(parked, -1, places))
    selected = selected | (parked & (first >= begin) & selected[first])
    missing: Ints = np.cumsum(~selected) - ~selected  # those before
    free: Mask = missing == missing[begin]
    keyless = keys == 0
    free |= keyless
    selected = np.where(keyless, wanted[by_key], selected)
    chosen, behind = np.zeros((2, len(keys)), dtype=bool)
    chosen[by_key], behind[by_key] = selected & free, selected & ~free
    return chosen, behind


def failed_again(line: bytes, outcome: dict[str, Any], run: str) -> bytes:
    """The letter with its new error, the former one in its history.

    What was not even tried, and for the same reason as before, has no news: parked, or malformed.
    """
    letter = _decode_letter(line)
    members = decode_members(line)
    same = (letter.error.type, letter.error.message) == (
        outcome["error"]["type"],
        outcome["error"]["message"],
    )
    if outcome["attempts"] or not same:
        former = {
            "attempts": letter.attempts,
            "at": letter.last_at,
            "stage": letter.stage,
            "error": members["error"],
            "run": letter.last_run or letter.run,
        }
        members["history"] = [*letter.history, former][-MOST_HISTORY:]
    members |= {
        "stage": outcome["stage"],
        "attempts": letter.attempts + outcome["attempts"],
        "last_at": outcome["last_at"],
        "error": outcome["error"],
        "last_run": run,
    }
    return encode_printable(members) + b"\n"


class Replacement:
    """The file that takes the place of another: written whole beside it, then renamed."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        folder, name = os.path.split(self._path)
        # One name is enough: whoever writes it has the lock. So nothing is left over for long.
        self._writing = os.path.join(folder, f".{name}.replay")

    def write(self, lines: Iterator[bytes]) -> None:
        """Write it, and see to it that it is on the disk. Raises DeadLetterUnwritable."""
        try:
            old = os.stat(self._path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            fd = os.open(self._writing, flags, 0o600)
            with os.fdopen(fd, "wb", buffering=1024 * 1024) as file:
                file.writelines(lines)
                file.flush()
                _give_owner(fd, old)
                os.fchmod(fd, old.st_mode & 0o7777)
                os.fsync(fd)
        except OSError as error:
            self.discard()
            raise self._failed(error) from error

    def put(self) -> None:
        """Let it take the place. Raises DeadLetterUnwritable."""
        try:
            os.replace(self._writing, self._path)
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        """It is not wanted."""
        try:
            os.unlink(self._writing)
        except OSError:
            pass

    def _failed(self, error: OSError) -> DeadLetterUnwritable:
        return DeadLetterUnwritable(
            f"{self._path} can't be marked: {error.strerror}; it is as it was"
        )


def _give_owner(fd: int, old: os.stat_result) -> None:
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(fd, old.st_uid, old.st_gid)
        except PermissionError:  # only root may give files away
            pass


def recorded_fields(kinds: Sequence[Decoding], name: str) -> set[str | None]:
    """The fields in which the runs of these letters found an attribute; None: the usual ones."""
    assert name in ATTRIBUTES
    return {dict(kind.fields).get(name) for kind in kinds}
