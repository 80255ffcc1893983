"""`millstream replay`: dead letters run again, and marked where they stand."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .flags import FAILURE_FLAGS, given, takes
from .outputs import check_outputs, files_of
from .run import complain, exit_code_of, go, wrong_usage

if TYPE_CHECKING:
    from millstream.engine.connectors.base import Sink
    from millstream.engine.letter_file import LetterFile, Selection
    from millstream.engine.observer import Observer
    from millstream.engine.plan import RunOptions, RunPlan
    from millstream.engine.runner import Run

_FLAGS = (
    *("order", "emit", "executor", "workers", "concurrency"),
    *("key", "sequence", "id", "type", "time", "limit", "rate"),
    *FAILURE_FLAGS,
    *("output", "output_format", "result", "report", "fail_if"),
    *("name", "config", "dry_run", "live", "metrics", "quiet"),
)


@takes(_FLAGS)
def replay_command(
    dead_letters: Annotated[
        str, typer.Argument(help="The file of a run's dead letters.", metavar="DEAD_LETTERS")
    ],
    handler: Annotated[
        str, typer.Argument(help="FILE.py, FILE.py:name or package.module:name.", metavar="HANDLER")
    ],
    error: Annotated[
        list[str] | None, typer.Option(help="Only letters with this type of error; repeatable.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only letters of this stage; repeatable.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="Only letters of this run; repeatable.")
    ] = None,
    **flags: Any,
) -> None:
    """Run dead letters again, each key in its original order, and mark what succeeds.

    Example: millstream replay dead-letters.jsonl handlers.py:charge --output recovered.jsonl
    """
    from millstream.engine.letter_file import Selection

    selection = Selection(tuple(error or ()), tuple(stage or ()), tuple(run or ()))
    raise SystemExit(exit_code_of(lambda: _start(dead_letters, handler, selection, flags)))


def _start(path: str, handler: str, selection: Selection, flags: dict[str, Any]) -> int:
    from millstream.engine.letter_file import LetterFile
    from millstream.engine.loading import load_job
    from millstream.engine.plan import check_options, make_plan
    from millstream.engine.replaying import away_from_here, nothing_to_do, replay_options

    if path == "-":
        wrong_usage(
            "dead letters are marked where they stand, so they can't be piped in: name a file"
        )
    options = _options(flags)
    check_options(options)
    check_outputs(options)
    job = load_job(handler)
    letters = LetterFile(path, selection, options.order)
    try:
        plan = make_plan(job, replay_options(options, letters))
        job, moved = away_from_here(job, plan, letters)
        if moved:
            plan = make_plan(job, plan.options)
            if not options.quiet:
                complain(_told_of_deaths(moved))
        if options.dry_run:
            return _dry_run(plan, letters)
        if not len(letters):
            if not options.quiet:
                complain(nothing_to_do(letters))
            return _replay(plan, letters) if files_of(options) else 0
        return _replay(plan, letters)
    finally:
        letters.close()


def _told_of_deaths(stages: list[str]) -> str:
    which = " and ".join(map(repr, stages))
    one = len(stages) == 1
    return (
        f"stage{'' if one else 's'} {which} run{'s' if one else ''} in worker processes: an event "
        "that ended one would end this command; --executor inline says otherwise"
    )


def _options(flags: dict[str, Any]) -> RunOptions:
    """What is said by flags and the file; what is parked is replayed in order, so park again."""
    import msgspec

    from .options import merge, read_config

    config = read_config(flags["config"]) if flags["config"] else {}
    options = merge(config, given(flags), flags["config"])
    if flags["on_error"] is None and "on-error" not in config and options.order == "key":
        options = msgspec.structs.replace(options, on_error="park")
    return options


def _replay(plan: RunPlan, letters: LetterFile) -> int:
    from millstream.engine.connectors.stdio import NoSink
    from millstream.engine.replaying import ReplayRun, refuse_to_replace

    def make_run(sink: Sink, observer: Observer) -> Run:
        return ReplayRun(plan, letters, sink, observer)

    options = plan.options
    if not len(letters):
        refuse_to_replace(None, files_of(options), letters)
        return go(plan, make_run, NoSink()).exit_code
    refuse_to_replace(options.output, files_of(options), letters)
    return go(plan, make_run).exit_code


def _dry_run(plan: RunPlan, letters: LetterFile) -> int:
    from millstream.engine.replaying import look_at_letters

    sys.stderr.write("\n".join(look_at_letters(plan, letters)) + "\n")
    return 0
