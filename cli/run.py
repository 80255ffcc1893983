"""`millstream run`: events of files or standard input through the user's handlers."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from millstream.engine.plan import RunOptions, RunPlan
    from millstream.engine.result import RunResult

UNEXPECTED, USAGE, UNUSABLE = 1, 2, 3


def run_command(
    handler: Annotated[
        str, typer.Argument(help="FILE.py, FILE.py:name or package.module:name.", metavar="HANDLER")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, globs, or - for standard input.", metavar="[INPUT]..."),
    ] = None,
    order: Annotated[str | None, typer.Option(help="none, key, partition or global.")] = None,
    emit: Annotated[str | None, typer.Option(help="completion or input.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="auto, inline, coroutine or process.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes of a process stage.")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Events in flight in a coroutine stage.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Field of the key, such as user.id.")] = None,
    sequence: Annotated[str | None, typer.Option(help="Field of the sequence number.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Field of the event's id.")] = None,
    type: Annotated[str | None, typer.Option("--type", help="Field of the type.")] = None,
    time: Annotated[str | None, typer.Option(help="Field of the time.")] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="auto, jsonl, csv, json or cloudevents.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Delimiter of CSV input.")] = None,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="Each input is a partition, read side by side.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on as files grow.")] = False,
    limit: Annotated[int | None, typer.Option(help="Stop after so many events.")] = None,
    rate: Annotated[float | None, typer.Option(help="Events per second, released on time.")] = None,
    pace: Annotated[str | None, typer.Option(help="time: replay at the events' own pace.")] = None,
    speed: Annotated[float | None, typer.Option(help="With --pace time: times as fast.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File for the results; .gz and .zst pack.")
    ] = None,
    output_format: Annotated[str | None, typer.Option(help="auto, jsonl or csv.")] = None,
    dead_letter: Annotated[str | None, typer.Option(help="File for dead letters.")] = None,
    result: Annotated[str | None, typer.Option(help="Result as JSON: a file, or -.")] = None,
    fail_if: Annotated[
        list[str] | None, typer.Option(help="Exit 6 when it holds: 'service.p99 > 5ms'.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run in its result.")] = None,
    config: Annotated[str | None, typer.Option(help="TOML file with these options.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run; change nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Push events through handlers, in order, measured.

    Example: millstream run handlers.py:charge events.jsonl --output charged.jsonl
    """
    flags = {
        "order": order,
        "emit": emit,
        "executor": executor,
        "workers": workers,
        "concurrency": concurrency,
        "key": key,
        "sequence": sequence,
        "id": id,
        "type": type,
        "time": time,
        "format": format,
        "delimiter": delimiter,
        "partitions": partitions,
        "follow": follow,
        "limit": limit,
        "rate": rate,
        "pace": pace,
        "speed": speed,
        "output": output,
        "output_format": output_format,
        "dead_letter": dead_letter,
        "result": result,
        "fail_if": tuple(fail_if or ()),
        "name": name,
        "dry_run": dry_run,
        "quiet": quiet,
    }
    raise SystemExit(_run(handler, list(inputs or ()), flags, config))


def _run(handler: str, inputs: list[str], flags: dict[str, Any], config: str | None) -> int:
    """The exit code; all that goes wrong becomes a message and a code here."""
    from millstream.engine.codecs import UnreadableInput
    from millstream.engine.conditions import ConditionError
    from millstream.engine.connectors.base import ConnectorError
    from millstream.engine.dead_letters import DeadLetterUnwritable
    from millstream.engine.loading import HandlerNotFound
    from millstream.engine.plan import PlanError

    from .options import ConfigError, merge, read_config

    unusable = (HandlerNotFound, ConnectorError, UnreadableInput, DeadLetterUnwritable, ConfigError)
    _keep_stdout_for_results()
    try:
        options = merge(read_config(config) if config else {}, flags, config)
        return _start(handler, inputs, options)
    except (PlanError, ConditionError) as error:
        _complain(error)
        return USAGE
    except unusable as error:
        _complain(error)
        return UNUSABLE
    except SystemExit:
        raise
    except Exception:
        traceback.print_exc()
        _complain("this is a bug in millstream: the traceback above says where")
        return UNEXPECTED


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

    if not inputs:
        if sys.stdin is None or sys.stdin.isatty():
            _usage("no input: name files, or pipe events in (… | millstream run HANDLER)")
        inputs = ["-"]
    if options.result == "-" and options.output in (None, "-"):
        _usage("--result - and the results can't share standard output; name a file: --output FILE")
    plan = make_plan(load_job(handler), options)
    if options.dry_run:
        return _dry_run(plan, inputs)
    result = _go(plan, inputs)
    return result.exit_code


def _go(plan: RunPlan, inputs: list[str]) -> RunResult:
    import gc

    import uvloop

    from millstream.engine.connectors.base import ConnectorError
    from millstream.engine.connectors.stdio import StdoutSink
    from millstream.engine.runner import Run, open_sink, open_sources

    options = plan.options
    observer = _observer(plan)
    gc.freeze()  # what is imported by now stays: the collector need not walk it

    async def run() -> tuple[RunResult, bool]:
        sink = open_sink(options.output, default=StdoutSink)
        the_run = Run(plan, open_sources(inputs, options), sink, observer)
        return await the_run.run(), the_run.outlet.closed_early

    try:
        result, closed_early = uvloop.run(run())
    finally:
        observer.close()
    if options.result is not None:
        try:
            _write_result(result, options.result)
        except OSError as error:
            message = f"the result can't be written to {options.result}: {error.strerror}"
            raise ConnectorError(message) from error
    if not (options.quiet or closed_early):
        from millstream.reports.terminal import write_summary

        write_summary(result.data, result.notes, sys.stderr, color=_color())
    elif result.notes:
        for note in result.notes:
            _complain(note)
    return result


def _write_result(result: RunResult, path: str) -> None:
    """To a file, or, as `-`, to standard output. Raises OSError."""
    if path != "-":
        result.write(path)
    elif sys.__stdout__ is not None:
        with suppress(BrokenPipeError):
            sys.__stdout__.buffer.write(result.to_json())
            sys.__stdout__.buffer.flush()


def _observer(plan: RunPlan) -> Any:
    from .progress import Live, Plain, Quiet

    if plan.options.quiet:
        return Quiet()
    if plan.options.executor == "auto":
        from millstream.engine.plan import describe

        sys.stderr.write(f"millstream: {'; '.join(describe(plan))}\n")
    return Live(color=_color()) if sys.stderr.isatty() else Plain()


def _dry_run(plan: RunPlan, inputs: list[str]) -> int:
    import uvloop

    from millstream.engine.dry_run import look

    report = uvloop.run(look(plan, inputs))
    sys.stderr.write("\n".join(report) + "\n")
    return 0


def _color() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _complain(what: object) -> None:
    sys.stderr.write(f"millstream: {what}\n")
    sys.stderr.flush()


def _usage(message: str) -> NoReturn:
    _complain(message)
    raise SystemExit(USAGE)
