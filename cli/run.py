"""`millstream run`: events of files or standard input through the user's handlers."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .flags import FAILURE_FLAGS, given, takes

if TYPE_CHECKING:
    from millstream.engine.connectors.base import Sink
    from millstream.engine.observer import Observer
    from millstream.engine.plan import RunOptions, RunPlan
    from millstream.engine.result import RunResult
    from millstream.engine.runner import Run

    from .metrics import Endpoint

UNEXPECTED, USAGE, UNUSABLE, INTERRUPTED = 1, 2, 3, 130


_FLAGS = (
    *("order", "emit", "executor", "workers", "concurrency"),
    *("key", "sequence", "id", "type", "time"),
    *("format", "delimiter", "partitions", "follow", "limit", "rate", "pace", "speed"),
    *("output", "output_format", "dead_letter", "result", "report", "record", "fail_if"),
    *("checkpoint", "resume", "checkpoint_every"),
    *("dedupe", "dedupe_window", "inject"),
    *FAILURE_FLAGS,
    *("name", "config", "dry_run", "live", "metrics", "quiet"),
)


@takes(_FLAGS)
def run_command(
    handler: Annotated[
        str, typer.Argument(help="FILE.py, FILE.py:name or package.module:name.", metavar="HANDLER")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, globs, or - for standard input.", metavar="[INPUT]..."),
    ] = None,
    **flags: Any,
) -> None:
    """Push events through handlers, in order, measured.

    Example: millstream run handlers.py:charge events.jsonl --output charged.jsonl
    """
    from millstream.engine.guard import watch_when_asked

    from .options import merge, read_config

    def start() -> int:
        config = flags["config"]
        options = merge(read_config(config) if config else {}, given(flags), config)
        return _start(handler, list(inputs or ()), options)

    watch_when_asked()

    raise SystemExit(exit_code_of(start))


def exit_code_of(start: Callable[[], int]) -> int:
    """The exit code of a command; all that goes wrong becomes a message and a code here."""
    from millstream.engine.conditions import ConditionError
    from millstream.engine.plan import PlanError

    _keep_stdout_for_results()
    try:
        return start()
    except _unusable() as error:  # before the others: what a scenario needs is of both kinds
        complain(error)
        return UNUSABLE
    except (PlanError, ConditionError) as error:
        complain(error)
        return USAGE
    except SystemExit:
        raise
    except KeyboardInterrupt:  # before there was anything to be drained, or after it
        complain("interrupted")
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        complain("this is a bug in millstream: the traceback above says where")
        return UNEXPECTED


def _unusable() -> tuple[type[Exception], ...]:
    """What says that something can't be used; only asked for once something went wrong."""
    from millstream.engine.checkpoint import CheckpointError
    from millstream.engine.codecs import UnreadableInput
    from millstream.engine.connectors.base import ConnectorError
    from millstream.engine.dead_letters import DeadLetterUnwritable
    from millstream.engine.delivery import NoRoomForIds
    from millstream.engine.loading import HandlerNotFound
    from millstream.engine.result import ResultError
    from millstream.reports.formats import ReportError

    from .options import ConfigError

    return (
        HandlerNotFound,
        ConnectorError,
        UnreadableInput,
        DeadLetterUnwritable,
        NoRoomForIds,
        CheckpointError,
        ConfigError,
        ResultError,
        ReportError,
    )


def _keep_stdout_for_results() -> None:
    """What handlers print, and what the programs that they start print, goes to standard error."""
    if sys.__stdout__ is not None:
        results = os.dup(1)
        os.dup2(2, 1)
        sys.__stdout__ = os.fdopen(results, "w")  # type: ignore[misc]  # where StdoutSink looks
    sys.stdout = sys.stderr


def _start(handler: str, inputs: list[str], options: RunOptions) -> int:
    from millstream.engine.loading import load_job
    from millstream.engine.plan import make_plan

    from .outputs import check_outputs

    if not inputs:
        if sys.stdin is None or sys.stdin.isatty():
            wrong_usage("no input: name files, or pipe events in (… | millstream run HANDLER)")
        inputs = ["-"]
    check_outputs(options)
    plan = make_plan(load_job(handler), options)
    if options.dry_run:
        return _dry_run(plan, inputs)
    from millstream.engine.runner import Run, open_sources

    def make_run(sink: Sink, observer: Observer) -> Run:
        return Run(plan, open_sources(inputs, options), sink, observer)

    return go(plan, make_run).exit_code


def go(
    plan: RunPlan, make_run: Callable[[Sink, Observer], Run], sink: Sink | None = None
) -> RunResult:
    """Run to the end, with all that people see of it; `sink`: in place of the output."""
    import gc

    import uvloop

    from millstream.engine.connectors.stdio import StdoutSink
    from millstream.engine.runner import open_sink

    from .outputs import write_outputs

    options = plan.options
    if plan.options.executor == "auto" and not plan.options.quiet:
        from millstream.engine.plan import describe

        sys.stderr.write(f"millstream: {'; '.join(describe(plan))}\n")
    has_live_view = wants_live_view(
        options, results_on_stdout=sink is None and options.output in (None, "-")
    )
    title = options.name or " → ".join(stage.name for stage in plan.stages)
    endpoint = open_endpoint(options)
    observer = make_observer(
        quiet=options.quiet, live_title=title if has_live_view else None, endpoint=endpoint
    )
    gc.freeze()  # what is imported by now stays: the collector need not walk it

    async def run() -> tuple[RunResult, bool]:
        the_run = make_run(sink or open_sink(options.output, default=StdoutSink), observer)
        return await the_run.run(), the_run.outlet.closed_early

    try:
        result, closed_early = uvloop.run(run())
    finally:
        # From here on there is something to be tidied up.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        observer.close()
        if endpoint is not None:
            endpoint.close()
    result.data["argv"] = command_line()
    write_outputs(result, options, _over(options))
    if not (options.quiet or closed_early):
        from millstream.reports.terminal import write_summary

        write_summary(result.data, result.notes, sys.stderr, color=use_color())
        for path in options.report:
            complain(f"report in {path}")
    elif result.notes:
        for note in result.notes:
            complain(note)
    return result


def _over(options: RunOptions) -> str:
    """What is to be said beside that a result can't be written."""
    over = "the run itself is over, and its outputs are as they should be"
    if options.checkpoint is not None:
        over += "; put that right, and have the result again by --resume"
    return over


def make_observer(
    *, quiet: bool, live_title: str | None = None, endpoint: Endpoint | None = None
) -> Any:
    """What people see of a run under way, and an endpoint beside it.

    `live_title`: what a live view says above all, when there is to be one.
    """
    from .progress import Both, OneLine, Plain, Quiet

    shown: Any
    if quiet:
        shown = Quiet()
    elif live_title is not None:
        from .live import LiveView

        shown = LiveView(live_title, color=use_color())
    else:
        shown = OneLine(color=use_color()) if sys.stderr.isatty() else Plain()
    return shown if endpoint is None else Both(shown, endpoint)


def wants_live_view(options: RunOptions, *, results_on_stdout: bool) -> bool:
    """Whether a live view is asked for; says so when there can't be one."""
    if not options.live:
        return False
    if options.quiet:
        wrong_usage("--live shows how it goes, and --quiet nothing; keep one of them")
    why = _no_live_view(results_on_stdout=results_on_stdout)
    if why is not None:
        complain(f"warning: no live view (--live): {why}")
    return why is None


def _no_live_view(*, results_on_stdout: bool) -> str | None:
    if not sys.stderr.isatty():
        return "standard error is no terminal"
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return "the terminal can't draw anything anew (TERM)"
    if results_on_stdout and sys.__stdout__ is not None and sys.__stdout__.isatty():
        return "the results go to the terminal; name a file for them: --output FILE"
    return None


def open_endpoint(options: RunOptions) -> Endpoint | None:
    """The endpoint that is asked for. Raises PlanError, ConnectorError."""
    if options.metrics is None:
        return None
    from .metrics import Endpoint

    endpoint = Endpoint(options.metrics)
    if not options.quiet:
        complain(f"metrics at {endpoint.url}")
    return endpoint


def _dry_run(plan: RunPlan, inputs: list[str]) -> int:
    import uvloop

    from millstream.engine.dry_run import look

    report = uvloop.run(look(plan, inputs))
    sys.stderr.write("\n".join(report) + "\n")
    return 0


def command_line() -> list[str]:
    """What this command was called by, as others may see it."""
    from millstream.engine.addresses import shown_arguments

    return ["millstream", *shown_arguments(sys.argv[1:])]


def use_color() -> bool:
    """Whether what is for people may have colours."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def print_json(data: Mapping[str, Any], what: str) -> None:
    """An object to standard output. Raises OutputError, with `what` it is."""
    from millstream.engine.event import encode_indented

    print_bytes(encode_indented(data), what)


def print_bytes(data: bytes, what: str) -> None:
    """To standard output, as they are. Raises OutputError, with `what` they are."""
    from millstream.engine.connectors.base import OutputError

    if sys.__stdout__ is None:
        return
    try:
        sys.__stdout__.buffer.write(data)
        sys.__stdout__.buffer.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        sys.__stdout__ = None  # type: ignore[misc]  # what is left in it can't go anywhere
        raise OutputError(f"{what} can't be written: {error.strerror}") from error


def print_lines(lines: Sequence[str]) -> None:
    """What was asked for, to standard output; whoever closes it wants no more."""
    if sys.__stdout__ is not None:
        with suppress(BrokenPipeError):
            sys.__stdout__.write("".join(f"{line}\n" for line in lines))
            sys.__stdout__.flush()


def complain(what: object) -> None:
    """Say what is wrong."""
    sys.stderr.write(f"millstream: {what}\n")
    sys.stderr.flush()


def wrong_usage(message: str) -> NoReturn:
    """Say what is wrong with the arguments, and end."""
    complain(message)
    raise SystemExit(USAGE)
