"""What is kept of a run, and whether another sitting may go on with it.

Pure: facts in, a refusal in words or None out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from msgspec import Struct

from .dedupe import DedupeState
from .faults import KeptFault
from .fingerprint import Mark
from .histogram import HistogramState
from .ledger import Row
from .outlet import OutletState
from .promises import PromiseReport
from .reading import Known

Phase = Literal["running", "finishing", "complete"]

BOUND_OPTIONS: Final = (
    "order",
    "emit",
    "key",
    "sequence",
    "id",
    "type",
    "time",
    "format",
    "delimiter",
    "partitions",
    "limit",
    "output",
    "output_format",
    "dead_letter",
    "on_error",
    "dedupe",
    "dedupe_window",
)
"""What decides which events there are, what becomes of them, and where it goes."""


class StageFacts(Struct, frozen=True):
    """What makes a stage the same one; how it is executed may change."""

    name: str
    batch: int | None = None
    handler: str = ""
    """Module and name."""
    keeps_state: bool = False
    types: str | None = None


class InputFacts(Struct, frozen=True):
    """An input as it was found; None where there is no such thing, as of a pipe."""

    name: str
    size: int | None = None
    mtime_ns: int | None = None
    file_id: tuple[int, int] | None = None
    """Device and inode."""
    place: str = ""
    """Where it lies, however it was named."""


class RunFacts(Struct, frozen=True):
    """What does not change while a run goes on, however many sittings it needs."""

    run: str
    started_at: str
    options: dict[str, Any]
    inputs: list[InputFacts]
    stages: list[StageFacts]
    follow: bool = False
    """Whether the inputs may grow."""
    seed: int = 0
    places: dict[str, str] = {}
    """Where the files of options lie, however they were named, if at all."""


class ReaderState(Struct, frozen=True):
    """How far an input was read."""

    known: Known
    bytes_read: int
    marks: list[Mark] = []


class StageState(Struct, frozen=True):
    """The figures of a stage."""

    handled: int
    retried: int
    service: HistogramState
    queue_wait: HistogramState
    audit: PromiseReport


class RunState(Struct, frozen=True):
    """How far a run has come: all that changes."""

    sittings: int
    elapsed_ns: int
    read: int
    dead: int
    """Dead letters of events that are done."""
    length: int
    """Bytes of the output."""
    output_format: str | None
    outlet: OutletState
    rows: list[Row]
    ended: list[int]
    readers: list[ReaderState]
    stages: list[StageState]
    lag: HistogramState
    series: dict[str, Any]
    cpu_ns: int
    rss_peak: int
    parent_rss_peak: int
    blocked: dict[str, int]
    dedupe: DedupeState | None = None
    faults: list[KeptFault] = []
    unattributed: int = 0
    """What faults on purpose did, and what was broken at other times."""


def refusal(
    before: RunFacts,
    now: RunFacts,
    found: Mapping[str, str | None] | None = None,
    *,
    has_ended: bool = False,
) -> str | None:
    """Why a run that was begun as `before` can't go on as `now`; None: it can.

    Following may end, so that a run that followed its inputs can be completed. `found`: what
    options that were left to the run came to; `has_ended`: whether an input was read to its end,
    which is where nothing more is known of it.
    """
    return (
        _other_options(before, now, found or {})
        or _other_seed(before.seed, now.options.get("seed"))
        or _other_stages(before.stages, now.stages)
        or _other_inputs(before.inputs, now.inputs, follow=before.follow)
        or _followed_too_late(before, now, has_ended=has_ended)
    )


def _other_options(before: RunFacts, now: RunFacts, found: Mapping[str, str | None]) -> str | None:
    for name in BOUND_OPTIONS:
        old, new = before.options.get(name), now.options.get(name)
        is_found = old == "auto" and new == found.get(name)
        is_same_file = name in before.places and before.places[name] == now.places.get(name)
        if old != new and not is_found and not is_same_file:
            flag = "--" + name.replace("_", "-")
            return (
                f"it was begun {_given(flag, old)}, and this is {_given(flag, new)}; "
                "give the options as before"
            )
    return None


def _other_seed(before: int, now: int | None) -> str | None:
    """Not given, it is the one that was drawn or given at first."""
    if now in (None, before):
        return None
    return f"it was begun with the seed {before}, and this is with --seed {now}; leave --seed out"


def _given(flag: str, value: Any) -> str:
    if value is None or value is False:
        return f"without {flag}"
    return f"with {flag}" if value is True else f"with {flag} {value}"


def _other_stages(before: Sequence[StageFacts], now: Sequence[StageFacts]) -> str | None:
    if [(each.name, each.batch) for each in before] != [(each.name, each.batch) for each in now]:
        return (
            f"its stages were {_stages_in_words(before)}, and now they are "
            f"{_stages_in_words(now)}; run the same pipeline"
        )
    for old, new in zip(before, now, strict=True):
        was = _stage_in_words(old, new)
        if was is not None:
            return f"its stage {old.name!r} {was}; run the same pipeline"
    return None


def _stages_in_words(stages: Sequence[StageFacts]) -> str:
    return ", ".join(
        each.name + (f" (batches of {each.batch})" if each.batch else "") for each in stages
    )


def _stage_in_words(old: StageFacts, new: StageFacts) -> str | None:
    """What a stage was and is no more; None: it is the same."""
    if old.handler != new.handler:
        return f"was {old.handler}, and now it is {new.handler}"
    if old.keeps_state != new.keeps_state:
        kept = ["state by key" if each.keeps_state else "none" for each in (old, new)]
        return f"kept {kept[0]}, and now it keeps {kept[1]}"
    if old.types != new.types:
        types = [each.types or "all" for each in (old, new)]
        return f"was for events of type {types[0]}, and now it is for {types[1]}"
    return None


def _other_inputs(
    before: Sequence[InputFacts], now: Sequence[InputFacts], *, follow: bool
) -> str | None:
    names = [[each.name for each in inputs] for inputs in (before, now)]
    places = [[each.place or each.name for each in inputs] for inputs in (before, now)]
    if names[0] != names[1] and places[0] != places[1]:
        return (
            f"its inputs were {_few(names[0])}, and now they are {_few(names[1])}; "
            "name the same ones, in the same order"
        )
    for old, new in zip(before, now, strict=True):
        change = _change(old, new, follow=follow)
        if change is not None:
            return f"input {old.name!r} has changed: {change}; put it back as it was"
    return None


def _followed_too_late(before: RunFacts, now: RunFacts, *, has_ended: bool) -> str | None:
    if has_ended and now.follow and not before.follow:
        return (
            "its inputs were read to their end already, and can't be followed: leave --follow out"
        )
    return None


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join("standard input" if name == "-" else name for name in names[:5]) + more


def _change(old: InputFacts, new: InputFacts, *, follow: bool) -> str | None:
    if (old.size is None) != (new.size is None):
        kinds = ["a pipe or a device" if each.size is None else "a file" for each in (old, new)]
        return f"it was {kinds[0]}, and now it is {kinds[1]}"
    if old.size is None or new.size is None:
        return None
    if follow:
        if old.file_id != new.file_id:
            return "it is another file under the same name"
        if new.size < old.size:
            return f"it had {old.size:,} bytes, and now it has {new.size:,}"
        return None
    if old.size != new.size:
        return f"it had {old.size:,} bytes, and now it has {new.size:,}"
    if old.mtime_ns != new.mtime_ns:
        return f"it was last written to {_moment(old.mtime_ns)}, and now {_moment(new.mtime_ns)}"
    return None


def _moment(ns: int | None) -> str:
    at = datetime.fromtimestamp((ns or 0) // 1_000_000_000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{(ns or 0) % 1_000_000_000:09d} UTC"
