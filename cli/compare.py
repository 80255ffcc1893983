"""`millstream compare`: two sets of results, with uncertainty; a gate for CI."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .run import complain, exit_code_of, print_bytes, print_json, use_color, wrong_usage

if TYPE_CHECKING:
    from millstream.reports.comparison import Comparison
    from millstream.reports.run_sets import RunSet

OK, CONDITION = 0, 6
_MAGIC = frozenset("*?[")


def compare_command(
    base: Annotated[
        str, typer.Argument(help="Result files, before: a file, folder, glob, or several by comma.")
    ],
    candidate: Annotated[str, typer.Argument(help="The same, after.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help="Exit 6 when it holds: 'throughput worse by 5%'.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 6 also when a --fail-if can't be told.")
    ] = False,
    noise: Annotated[
        str | None, typer.Option(help="What is less makes no difference: 2%; 1%.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare though the work or the machine differs.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The comparison as JSON.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The comparison as Markdown, for a pull request.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Compare two sets of results: what differs, by how much, and how sure that is.

    Example: millstream compare before.json after.json --fail-if 'throughput worse by 5%'
    """

    def start() -> int:
        from millstream.reports.comparison import NOISE, compare
        from millstream.reports.gates import parse_gate

        if json and markdown:
            wrong_usage("--json and --markdown can't share standard output; keep one of them")
        gates = [parse_gate(text) for text in fail_if or ()]
        share = NOISE if noise is None else _share(noise)
        before, after = (_read_set(text, quiet=quiet) for text in (base, candidate))
        comparison = compare(before, after, noise=share, gates=gates)
        if comparison.differences and not anyway:
            _refuse(comparison)
        code = _code(comparison, strict=strict)
        _show(comparison, code, as_json=json, as_markdown=markdown, quiet=quiet)
        return code

    raise SystemExit(exit_code_of(start))


def _share(text: str) -> float:
    from millstream.engine.units import parse_share

    if text.strip() in ("0", "0%"):
        return 0.0
    try:
        return parse_share(text)
    except ValueError as error:
        wrong_usage(f"--noise: {error}")


def _code(comparison: Comparison, *, strict: bool) -> int:
    failing = ("held", "undecided") if strict else ("held",)
    return CONDITION if any(gate.state in failing for gate in comparison.gates) else OK


def _show(
    comparison: Comparison, code: int, *, as_json: bool, as_markdown: bool, quiet: bool
) -> None:
    if as_json:
        from millstream.reports.comparison_json import json_of

        print_json({**json_of(comparison), "exit_code": code}, "the comparison")
    elif as_markdown:
        from millstream.reports.comparison_markdown import markdown_of

        text = markdown_of(comparison)
        print_bytes(text.encode(errors="backslashreplace"), "the comparison")
    elif not quiet:
        from millstream.reports.comparison_text import write_comparison

        write_comparison(comparison, sys.stderr, color=use_color())
    if as_json or as_markdown or quiet:
        from millstream.reports.comparison_words import gate_line
        from millstream.reports.texts import plain

        for gate in comparison.gates:
            if gate.state != "not held":
                complain(plain(gate_line(gate)))


def _refuse(comparison: Comparison) -> NoReturn:
    """Say side by side in what the sets differ, and end."""
    from millstream.reports.texts import aligned, plain, shortened

    rows = [("", "base", "candidate")]
    rows += [(each.what, each.base, each.candidate) for each in comparison.differences]
    table = aligned([[shortened(plain(cell), 200) for cell in row] for row in rows])
    wrong_usage(
        "these runs did not do the same work, or not on the same machine:\n"
        + "".join(f"  {line}\n" for line in table)
        + "millstream: run both alike; or compare them as they are: --anyway"
    )


# --- reading


def _read_set(text: str, *, quiet: bool) -> RunSet:
    """The runs of the results that an argument names. Raises ConnectorError."""
    from millstream.engine.connectors.base import ConnectorError
    from millstream.reports.run_sets import NotComparable, run_set
    from millstream.reports.texts import plain

    try:
        return run_set(text, _results(text, quiet=quiet))
    except NotComparable as error:
        raise ConnectorError(plain(str(error))) from error


def _results(text: str, *, quiet: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The results that an argument names, one by one, each once. In a folder what is no result is
    passed over; a file that is named has to be one. Raises ConnectorError."""
    import os

    from millstream.engine.connectors.base import ConnectorError
    from millstream.reports.texts import plain

    seen: set[str] = set()
    for path, is_named in _paths(text):
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        found = _read(path)
        if isinstance(found, str):
            if is_named:
                raise ConnectorError(plain(found))
            if not quiet:
                complain(f"passed over: {plain(found)}")
        else:
            yield path, found


def _read(path: str) -> dict[str, Any] | str:
    """A result, or why it is none."""
    from millstream.engine.result import ResultError, read_result

    try:
        return read_result(path).data
    except OSError as error:
        return f"{path} can't be read: {error.strerror}; name result files (run --result FILE)"
    except ResultError as error:
        return str(error)


def _paths(text: str) -> Iterator[tuple[str, bool]]:
    """The files that an argument names, and whether each was named, not only its folder. Raises
    ConnectorError."""
    import glob
    import os

    from millstream.engine.connectors.base import ConnectorError
    from millstream.reports.texts import plain

    parts: Sequence[str] = [text] if os.path.exists(text) else text.split(",")
    for part in filter(None, map(str.strip, parts)):
        if os.path.isdir(part):
            names = sorted(os.listdir(part))
            yield from ((os.path.join(part, n), False) for n in names if n.endswith(".json"))
        elif os.path.exists(part) or not _MAGIC & set(part):
            yield part, True
        else:
            matches = sorted(glob.glob(part))
            if not matches:
                raise ConnectorError(f"no file matches {plain(part)}")
            yield from ((match, True) for match in matches)
