"""`millstream audit`: the order and the delivery of any event log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from .run import complain, exit_code_of, print_json, use_color, wrong_usage

if TYPE_CHECKING:
    from millstream.engine.auditing import AuditOptions

OK, UNUSABLE, BROKEN = 0, 3, 5


def audit_command(
    logs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, globs, or - for standard input.", metavar="FILE..."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Field of the key: each key is a sequence of its own.")
    ] = None,
    sequence: Annotated[str | None, typer.Option(help="Field of the sequence number.")] = None,
    time: Annotated[str | None, typer.Option(help="Field of the time, for late times.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Field of the event's id.")] = None,
    threshold: Annotated[
        int | None, typer.Option(help="Threshold of RFC 5236's densities (DT and BT); 8.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="How many of the last events are remembered; 2000000.")
    ] = None,
    expected: Annotated[
        str | None, typer.Option(help="Log of all events that were sent: check the delivery.")
    ] = None,
    acknowledged: Annotated[
        str | None, typer.Option(help="Log of those that were accepted, when not all were.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="auto, jsonl, csv, json, cloudevents or kafka."),
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Delimiter of CSV input.")] = None,
    sequence_type: Annotated[
        str | None, typer.Option(help="auto, number, or text (compared by code point).")
    ] = None,
    price: Annotated[
        bool, typer.Option("--price", help="What order would cost: of a record (run --record).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Check the order and the delivery of an event log, also one that another system wrote.

    Example: millstream audit delivered.jsonl --key user --sequence seq
    """
    given: dict[str, object] = {
        **{"key": key, "sequence": sequence, "time": time, "id": id},
        **{"threshold": threshold, "window": window},
        **{"expected": expected, "acknowledged": acknowledged},
        **{"format": format, "delimiter": delimiter, "sequence_type": sequence_type},
    }
    given["price"] = price or None
    named = {name: value for name, value in given.items() if value is not None}

    def start() -> int:
        inputs = list(logs or ())
        if not inputs:
            if sys.stdin is None or sys.stdin.isatty():
                wrong_usage("no log: name files, or pipe one in (… | millstream audit)")
            inputs = ["-"]
        return _start(_options(inputs, named), as_json=json, quiet=quiet)

    raise SystemExit(exit_code_of(start))


def _options(inputs: list[str], given: Mapping[str, object]) -> AuditOptions:
    import msgspec

    from millstream.engine.auditing import AuditOptions, check_options

    try:
        options = msgspec.convert({"inputs": inputs, **given}, AuditOptions)
    except msgspec.ValidationError as error:
        wrong_usage(_in_words(error, given))
    check_options(options)
    return options


def _in_words(error: object, given: Mapping[str, object]) -> str:
    text, _, name = str(error).rpartition(" - at `$.")
    name = name.rstrip("`")
    choices = {"format": "auto, jsonl, csv, json, cloudevents or kafka"}
    choices["sequence_type"] = "auto, number or text"
    flag = "--" + name.replace("_", "-")
    return f"{flag} is {given.get(name)!r}; it can be {choices.get(name, text)}"


def _start(options: AuditOptions, *, as_json: bool, quiet: bool) -> int:
    import uvloop

    from millstream.engine.auditing import audit_logs

    result = uvloop.run(audit_logs(options))
    code = BROKEN if result.is_broken else UNUSABLE if result.malformed else OK
    if as_json:
        print_json({**result.report, "exit_code": code}, "the report")
    elif not quiet:
        from millstream.reports.audit import write_audit

        write_audit(result.report, result.notes, sys.stderr, color=use_color())
    if as_json or quiet:
        for note in result.notes:
            complain(note)
    return code
