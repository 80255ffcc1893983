"""The result and the reports that a command leaves: checked first, written at its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .run import print_json, wrong_usage

if TYPE_CHECKING:
    from millstream.engine.plan import RunOptions
    from millstream.engine.result import RunResult


def files_of(options: RunOptions) -> list[tuple[str, str]]:
    """The files that are written at the end: flag and path."""
    results = [] if options.result is None else [options.result]
    return [*(("--result", path) for path in results), *(("--report", p) for p in options.report)]


def check_outputs(options: RunOptions, *, writes_output: bool = True) -> None:
    """Refuse two outputs in one place, and what can't be written whatever the run comes to.
    `writes_output`: whether results of handlers go to standard output, unless told otherwise.

    Raises ConnectorError.
    """
    from millstream.engine.connectors.base import ConnectorError

    if writes_output and options.result == "-" and options.output in (None, "-"):
        wrong_usage(
            "--result - and the results can't share standard output; name a file: --output FILE"
        )
    if options.report:
        _check_formats(options.report)
    for flag, path in files_of(options):
        folder = os.path.dirname(path) or "."
        if path != "-" and not os.path.isdir(folder):
            raise ConnectorError(f"{flag} {path}: there is no folder {folder}; make it first")
        if os.path.isdir(path):
            raise ConnectorError(f"{flag} {path} is a folder; name a file in it")


def _check_formats(paths: tuple[str, ...]) -> None:
    from millstream.reports.formats import ReportError, format_of

    for path in paths:
        if path == "-":
            wrong_usage(
                "--report names a file; for standard output, keep the result (--result FILE) and "
                "use millstream report FILE --format NAME"
            )
        try:
            format_of(path)
        except ReportError as error:
            wrong_usage(f"--report: {error}")


def write_outputs(result: RunResult, options: RunOptions, over: str) -> None:
    """Write the result, and the reports that are made of it. `over` says what is done all the same,
    when one of them can't be written. Raises ConnectorError."""
    from millstream.engine.connectors.base import ConnectorError

    if options.result == "-":
        print_json(result.data, "the result")
    elif options.result is not None:
        try:
            result.write(options.result)
        except OSError as error:
            raise ConnectorError(
                f"the result can't be written to {options.result}: {error.strerror}; {over}"
            ) from error
    for path in options.report:
        _write_report(result, path, over)


def _write_report(result: RunResult, path: str, over: str) -> None:
    from millstream.engine.connectors.base import ConnectorError
    from millstream.engine.whole_file import write_whole
    from millstream.reports.formats import ReportError, format_of, write_report

    try:
        write_whole(path, write_report(format_of(path), [result.data], [result["name"]]))
    except OSError as error:
        raise ConnectorError(
            f"the report can't be written to {path}: {error.strerror}; {over}"
        ) from error
    except ReportError as error:
        raise ConnectorError(f"--report {path}: {error}; {over}") from error
