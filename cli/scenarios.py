"""`millstream scenarios`: what can be benchmarked. `millstream generate`: a scenario's stream."""

from __future__ import annotations

import os
import sys
from io import FileIO
from typing import TYPE_CHECKING, Annotated

import typer

from .run import exit_code_of, print_lines

if TYPE_CHECKING:
    from millstream.workloads.scenario import Scenario

_BATCH = 1000


def scenarios_command(
    name: Annotated[str | None, typer.Argument(help="The one to be described.")] = None,
) -> None:
    """List the load scenarios, or describe one: its events, parameters and promises.

    Example: millstream scenarios passthrough
    """

    def start() -> int:
        from millstream.workloads.registry import SCENARIOS, scenario_class

        if name is None:
            width = max(map(len, SCENARIOS))
            lines = [f"{each:<{width}}  {scenario_class(each).summary}" for each in SCENARIOS]
        else:
            lines = _described(scenario_class(name))
        print_lines(lines)
        return 0

    raise SystemExit(exit_code_of(start))


def _described(scenario: type[Scenario]) -> list[str]:
    import textwrap

    lines = [f"{scenario.name}: {scenario.summary}", ""]
    lines += textwrap.wrap(scenario.description, 88)
    lines += ["", f"orders: {', '.join(scenario.orders)} (default: {scenario.orders[0]})"]
    lines += ["", "promises, checked after every run:"]
    lines += [f"  {each.name}: {each.text}" for each in scenario.promises]
    if scenario.parameters:
        lines += ["", "parameters (--set NAME=VALUE):"]
        for each in scenario.parameters:
            unit = f" {each.unit}" if each.unit else ""
            choices = f" One of {', '.join(each.choices)}." if each.choices else ""
            shown = str(each.default) or "''"
            lines.append(f"  {each.name} = {shown}{unit}: {each.help}{choices}")
    return lines


def generate_command(
    scenario: Annotated[str, typer.Argument(help="Its name, or a FILE.py that defines one.")],
    events: Annotated[int, typer.Option(help="How many events.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    set: Annotated[list[str] | None, typer.Option(help="Parameter: NAME=VALUE.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File; else standard output.")
    ] = None,
) -> None:
    """Write a scenario's event stream.

    Example: millstream generate passthrough --events 3 --seed 1
    """

    def start() -> int:
        from millstream.engine.plan import PlanError
        from millstream.workloads.registry import scenario_class
        from millstream.workloads.scenario import parse_settings

        if events < 0:
            raise PlanError(f"--events is {events}; give it 0 or more")
        kind = scenario_class(scenario)
        made = kind(parse_settings(kind, set or ()), seed)
        return _write(made, events, output)

    raise SystemExit(exit_code_of(start))


def _write(scenario: Scenario, events: int, output: str | None) -> int:
    from itertools import islice

    from millstream.engine.connectors.base import ConnectorError
    from millstream.workloads.scenario import stream

    if output is None and sys.__stdout__ is None:
        raise ConnectorError("standard output is closed; name a file: --output FILE")
    lines = stream(scenario, events)
    try:
        with _opened(output) as file:
            while some := b"".join(line + b"\n" for line in islice(lines, _BATCH)):
                rest = memoryview(some)
                while rest:
                    rest = rest[file.write(rest) :]
    except BrokenPipeError:
        return 0
    except OSError as error:
        where = output or "standard output"
        raise ConnectorError(f"{where} can't be written: {error.strerror}") from error
    return 0


def _opened(output: str | None) -> FileIO:
    """The file; standard output as it was before what handlers print was put elsewhere."""
    if output is not None:
        return FileIO(output, "wb")
    assert sys.__stdout__ is not None
    return FileIO(os.dup(sys.__stdout__.fileno()), "wb")
