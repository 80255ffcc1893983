"""`millstream prove`: the user's own job under kills, and what lies on the disk after them."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .flags import FAILURE_FLAGS, given, takes
from .run import UNUSABLE, complain, exit_code_of, print_json, wrong_usage

if TYPE_CHECKING:
    from millstream.engine.plan import RunOptions
    from millstream.engine.prover import Proof

_FLAGS = (
    *("order", "emit", "executor", "workers", "concurrency"),
    *("key", "sequence", "id", "type", "time"),
    *("format", "delimiter", "partitions", "limit", "rate", "pace", "speed"),
    *("output_format", "checkpoint_every"),
    *("dedupe", "dedupe_window", "inject"),
    *FAILURE_FLAGS,
    *("config", "quiet"),
)


_BLOCK_BYTES = 1 << 20


@takes(_FLAGS)
def prove_command(
    handler: Annotated[
        str, typer.Argument(help="FILE.py, FILE.py:name or package.module:name.", metavar="HANDLER")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, globs, or - for standard input.", metavar="[INPUT]..."),
    ] = None,
    kills: Annotated[int, typer.Option(help="How often the run is killed.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="The proof as JSON on stdout.")] = False,
    keep: Annotated[
        str | None, typer.Option(help="Folder, new or empty, for all files of the runs.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Field of results, or column, that is not compared; repeatable."),
    ] = None,
    **flags: Any,
) -> None:
    """Run a job, kill it again and again, go on with it, and prove that nothing was lost.

    HANDLER is really called, with all that it does elsewhere: two or three times for most events,
    more often for those in flight at a kill. Where that does harm, give it a place to try.

    Example: millstream prove handlers.py:charge events.jsonl --kills 3 --seed 1
    """
    from .options import merge, read_config

    def start() -> int:
        config = flags["config"]
        options = merge(read_config(config) if config else {}, given(flags), config)
        test = _Test(kills, tuple(ignore or ()), keep, json)
        return _start(handler, list(inputs or ()), options, test)

    with _stops_at_signals():
        try:
            code = exit_code_of(start)
        except _Interrupted as interrupted:
            _kill_what_is_left()
            complain(f"{interrupted.signal.name}: stopped; nothing runs any more")
            code = 128 + interrupted.signal
    raise SystemExit(code)


@dataclass(frozen=True)
class _Test:
    """What is asked of prove itself."""

    kills: int
    ignore: tuple[str, ...]
    keep: str | None
    as_json: bool


class _Interrupted(BaseException):
    """A signal came: what was begun is undone on the way out."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)


def _kill_what_is_left() -> None:
    """A run that was just being started when the signal came."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


@contextmanager
def _stops_at_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise _Interrupted, once: the way out is not disturbed."""
    # What is ignored from the start stays so: nohup means that a hang-up is no reason to stop.
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    def stop(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _Interrupted(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(handler: str, inputs: list[str], options: RunOptions, test: _Test) -> int:
    if test.kills < 1:
        wrong_usage(f"--kills is {test.kills}; give it 1 or more")
    if "" in test.ignore:
        wrong_usage("--ignore names no field; give it a path such as paid.at, or a column")
    if not inputs:
        if sys.stdin is None or sys.stdin.isatty():
            wrong_usage("no input: name files, or pipe events in (… | millstream prove HANDLER)")
        inputs = ["-"]
    if inputs.count("-") > 1:
        wrong_usage("standard input is named twice; it can be read once")
    with _folder(test.keep) as folder:
        from millstream.engine.prover import ROOM_ADVICE, ProofFailed

        try:
            return _prove(handler, inputs, options, test, folder)
        except ProofFailed as failed:
            complain(failed)
            return failed.code
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(f"prove can't go on in {folder}: {error.strerror}; {ROOM_ADVICE}")
            return UNUSABLE


def _prove(handler: str, inputs: list[str], options: RunOptions, test: _Test, folder: Path) -> int:
    from millstream.engine.loading import load_job
    from millstream.engine.prover import Prover, command_line

    seed = options.seed if options.seed is not None else secrets.randbits(32)
    job = load_job(handler)
    files = [_copied(folder) if name == "-" else name for name in inputs]
    say = (lambda text: None) if options.quiet else complain
    asked: dict[str, Any] = {"kills": test.kills, "seed": seed, "ignore": test.ignore}
    proof = Prover(handler, job, files, options, folder, say=say, **asked).prove()
    named = files if test.keep else inputs
    command = command_line(handler, named, options, **asked)
    data = _as_object(proof, handler, named, command, test.keep)
    if test.as_json:
        print_json(data, "the proof")
    if not options.quiet:
        from millstream.reports.proof import proof_lines

        sys.stderr.write("\n".join(proof_lines(data)) + "\n")
    return proof.exit_code


@contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    """Where the runs write: a folder that stays, or one that goes. Raises ConnectorError."""
    from millstream.engine.connectors.base import ConnectorError

    if keep is None:
        try:
            made = Path(tempfile.mkdtemp(prefix="millstream-prove-"))
        except OSError as error:
            raise ConnectorError(
                f"prove has nowhere to write: {error.strerror}; name a folder: TMPDIR, or "
                "--keep FOLDER"
            ) from error
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    folder = Path(keep)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        raise ConnectorError(f"--keep {keep}: {error.strerror}") from error
    if not is_empty:
        raise ConnectorError(f"--keep {keep} holds something already; name a new or empty folder")
    yield folder.resolve()


def _copied(folder: Path) -> str:
    """Standard input in a file: it is read several times."""
    path = folder / "standard-input"
    with path.open("wb") as file:
        while block := _read_block():
            file.write(block)
    return str(path)


def _read_block() -> bytes:
    """The next of standard input. Raises ConnectorError."""
    from millstream.engine.connectors.base import ConnectorError

    try:
        return sys.stdin.buffer.read(_BLOCK_BYTES)
    except OSError as error:
        raise ConnectorError(f"standard input can't be read: {error.strerror}") from error


def _as_object(
    proof: Proof, handler: str, inputs: list[str], command: str, keep: str | None
) -> dict[str, Any]:
    import msgspec

    from millstream.engine.prover import SCHEMA
    from millstream.engine.result import version_of

    whole = msgspec.to_builtins(proof)
    comparison = whole.pop("comparison")
    return {
        "schema": SCHEMA,
        "version": version_of("millstream"),
        "exit_code": proof.exit_code,
        "handler": handler,
        "inputs": inputs,
        "command": command,
        "folder": keep,
        **whole,
        "calls": {
            "undisturbed": comparison["base_calls"],
            "disturbed": comparison["calls"],
            "repeated": comparison["repeated"],
            "most_by_one_kill": comparison["most_by_one_kill"],
            "first_stage_only": comparison["first_stage_only"],
        },
        "differences": comparison["counts"],
        "findings": [
            {**msgspec.to_builtins(found), "words": found.words}
            for found in proof.comparison.findings
        ],
    }
