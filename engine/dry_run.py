"""A look before the run: what would run, and what the first events look like. Changes nothing."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

import msgspec

from .conditions import parse_condition
from .connectors.base import Source
from .dead_letters import Place
from .event import Event
from .places import refuse_shared_files
from .plan import RunPlan, describe
from .reading import Reader
from .runner import open_sources

CHECKED = 1_000
SHOWN = 5


async def look(plan: RunPlan, inputs: Sequence[str]) -> list[str]:
    """Lines for people. Raises ConditionError, and what opening and reading the inputs raises."""
    lines = ["stages:"]
    lines += [f"  {line}" for line in describe(plan)]
    options = plan.options
    lines.append(f"order: {options.order}, emit: {options.emit}")
    for text in options.fail_if:
        parse_condition(text)
    # What a followed file has by now is enough for a look.
    sources = open_sources(inputs, msgspec.structs.replace(options, follow=False))
    refuse_shared_files(options, [source.name for source in sources])
    lines.append(f"inputs: {', '.join(_named(source) for source in sources)}")
    if options.inject:
        lines.append(f"injected: {', '.join(options.inject)}")
    lines.append(f"output: {options.output or 'standard output'}")
    for number, source in enumerate(sources):
        lines += await _look_into(plan, source, number)
    lines.append("dry run: nothing was handled, nothing was written")
    return lines


async def _look_into(plan: RunPlan, source: Source, number: int) -> list[str]:
    options = plan.options
    reader = Reader(
        source,
        plan.mapping,
        "events",
        format=plan.input_format,
        delimiter=options.delimiter,
        partition=number,
        chosen_key=options.key if options.order == "key" else None,
        cloud_events=plan.cloud_events,
    )
    most = min(CHECKED, options.limit or CHECKED)
    shown: list[str] = []
    bad: list[str] = []
    seen = keyed = 0
    async for block in reader.blocks():
        decoded = reader.decode(block)
        numbers = block.line_numbers or range(block.first_line, block.first_line + block.count)
        for place, event in enumerate((decoded.events or [])[: most - seen]):
            at = Place(source.name, numbers[place])
            if place in decoded.bad:
                bad.append(f"  {at.source} line {at.line}: {decoded.bad[place].message}")
                continue
            keyed += event.key is not None
            if len(shown) < SHOWN:
                shown.append(f"  {_shown(event)}")
        seen = min(most, seen + block.count)
        if seen >= most:
            source.stop()
            break
    malformed = f", {len(bad)} malformed" if bad else ""
    what = f"{reader.format or 'empty'}, first {seen:,} events"
    head = f"{source.name}: {what}: {keyed:,} keyed{malformed}"
    return [head, *shown, *bad[:SHOWN]]


def _named(source: Source) -> str:
    return "standard input" if source.name == "-" else source.name


def _shown(event: Event) -> str:
    parts = [
        f"{name}={value!r}"
        for name, value in (("key", event.key), ("type", event.type), ("id", event.id))
        if value is not None
    ]
    try:
        data = reprlib.repr(event.data)
    except ValueError as error:  # such as base64 that is none: a handler would see the same
        data = f"({error})"
    return f"{' '.join(parts)} data={data}"
