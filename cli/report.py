"""`millstream report`: results that were kept, as a page, a summary, or a file for other tools."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from .run import complain, exit_code_of, print_bytes, wrong_usage

if TYPE_CHECKING:
    from millstream.reports.formats import Format

MOST_BYTES: Final = 64 * 2**20
"""Of a result: it is of a megabyte or so, however long the run was."""
MOST_RESULTS: Final = 1000


def report_command(
    results: Annotated[
        list[str] | None,
        typer.Argument(
            help="Result files, folders of them, globs, or - for standard input.",
            metavar="RESULT...",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="File whose suffix says the format: .html, .md, .xml (JUnit), .json "
            "(pytest-benchmark), .hgrm, .hlog, .txt; repeatable.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="html, markdown, junit, pytest-benchmark, hgrm, hlog or text; without -o to "
            "standard output.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Show results that were kept (run --result, bench --result), or make reports of them.

    Example: millstream report result.json -o report.html -o summary.md
    """

    def start() -> int:
        names = list(results or ())
        if not names:
            if sys.stdin is None or sys.stdin.isatty():
                wrong_usage("no result: name files, or pipe one in (… | millstream report)")
            names = ["-"]
        return _start(names, _outputs(list(output or ()), format), quiet=quiet)

    raise SystemExit(exit_code_of(start))


def _outputs(paths: list[str], asked_for: str | None) -> list[tuple[str, Format]]:
    """Where to, and as what; nothing: the summary, for people."""
    from millstream.reports.formats import ReportError, format_of

    if asked_for is not None and len(paths) > 1:
        wrong_usage("--format says one format, and there are several files; leave it out")
    if len(set(map(os.path.realpath, paths))) < len(paths):
        wrong_usage("two reports can't be written to one file; give each its own")
    if "-" in paths and asked_for is None:
        wrong_usage("-o - says no format; add one, such as --format markdown")
    if asked_for is not None and not paths:
        paths = ["-"]
    try:
        return [(path, format_of(path, asked_for)) for path in paths]
    except ReportError as error:
        wrong_usage(str(error))


def _start(names: list[str], outputs: Sequence[tuple[str, Format]], *, quiet: bool) -> int:
    paths = list(dict.fromkeys(path for name in names for path in _found(name)))
    if len(paths) > MOST_RESULTS:
        wrong_usage(f"these are {len(paths):,} results; name {MOST_RESULTS:,} at most")
    for path, _ in outputs:
        if path != "-" and any(_are_one(path, each) for each in paths):
            wrong_usage(f"-o {path} would replace a result; name another file")
    results = {path: data for path in paths if (data := _read(path, names)) is not None}
    if not results:
        from millstream.engine.result import ResultError

        raise ResultError(f"there is no result in {', '.join(names)}")
    shown = _names(list(results), list(results.values()))
    if not outputs:
        _show(list(results.values()), shown)
        return 0
    from millstream.reports.formats import write_report

    # All are made before the first one is written: when one can't be, none is.
    contents = [write_report(format, list(results.values()), shown) for _, format in outputs]
    for (path, _), content in zip(outputs, contents, strict=True):
        _write(path, content, quiet=quiet)
    return 0


def _found(name: str) -> Iterator[str]:
    """The files of a name: itself, those in a folder and below, or those of a pattern."""
    from millstream.engine.connectors.base import ConnectorError

    if name == "-" or os.path.isfile(name):
        yield name
    elif os.path.isdir(name):
        yield from sorted(
            glob.glob(os.path.join(glob.escape(name), "**", "*.json"), recursive=True)
        )
    elif os.path.exists(name):  # a pipe
        yield name
    elif glob.has_magic(name):
        matches = sorted(each for each in glob.glob(name, recursive=True) if os.path.isfile(each))
        if not matches:
            raise ConnectorError(f"no file matches {name}")
        yield from matches
    else:
        raise ConnectorError(
            f"there is no file {name}; a result is written by run --result FILE, and a benchmark's "
            "are listed by bench --list-runs"
        )


def _read(path: str, names: Sequence[str]) -> dict[str, Any] | None:
    """A result, or an audit; what is none is told and passed over where only its folder was named.

    Raises ResultError, ConnectorError.
    """
    from millstream.engine.connectors.base import ConnectorError
    from millstream.engine.result import SCHEMA, ResultError, parse_report
    from millstream.reports.formats import AUDIT
    from millstream.reports.texts import plain

    name = "standard input" if path == "-" else path
    try:
        raw = _bytes_of(path)
        if len(raw) > MOST_BYTES:
            raise ResultError(f"{name} is no result file: it is larger than 64 MiB")
        return parse_report(raw, name, (SCHEMA, AUDIT))
    except OSError as error:
        raise ConnectorError(f"{name} can't be read: {error.strerror}") from error
    except ResultError as error:
        if path in names or not any(os.path.isdir(each) for each in names):
            raise ResultError(plain(str(error))) from None
        complain(f"passed over: {plain(str(error))}")
        return None


def _bytes_of(path: str) -> bytes:
    if path == "-":
        return b"" if sys.stdin is None else sys.stdin.buffer.read(MOST_BYTES + 1)
    with open(path, "rb") as file:
        return file.read(MOST_BYTES + 1)


def _names(paths: Sequence[str], results: Sequence[dict[str, Any]]) -> list[str]:
    """What tells the results apart: their own names, else the files', else the paths."""
    files = ["standard input" if path == "-" else os.path.basename(path) for path in paths]
    stems = [file.removesuffix(".json") for file in files]
    own = [str(each.get("name", stem)) for each, stem in zip(results, stems, strict=True)]
    for names in (own, stems):
        if len(set(names)) == len(names):
            return names
    return ["standard input" if path == "-" else path for path in paths]


def _show(results: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """The summaries, for people: they were asked for, so they go to standard output."""
    from millstream.reports.text import write_summaries

    stream = sys.__stdout__
    if stream is not None:
        color = stream.isatty() and not os.environ.get("NO_COLOR")
        with suppress(BrokenPipeError):
            write_summaries(results, names, stream, color=color)


def _write(path: str, content: bytes, *, quiet: bool) -> None:
    from millstream.engine.connectors.base import ConnectorError
    from millstream.engine.whole_file import write_whole

    if path == "-":
        print_bytes(content, "the report")
        return
    try:
        write_whole(path, content)
    except OSError as error:
        raise ConnectorError(f"the report can't be written to {path}: {error.strerror}") from error
    if not quiet:
        complain(f"report in {path}")


def _are_one(path: str, other: str) -> bool:
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)
