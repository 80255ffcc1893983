"""Audits of records (`run --record`): the order in which a run completed its events, its price."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from .audit import Audit
from .lanes import hashes_of
from .price import Completions, Resequencing, Simulation
from .recording import read_record

MAGIC: Final = b"PAR1"
"""What a Parquet file begins with."""


def is_record(path: str) -> bool:
    """Whether a file may be a record: it is Parquet."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # what is read of a pipe is gone
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def audit_record(path: str, audit: Audit, *, price: bool) -> dict[Resequencing, Any]:
    """Tell `audit` of a record's events in the order in which they completed.

    Gives what each order would have cost, when that is asked for.

    Raises RecordError.
    """
    simulations = [Simulation(order) for order in _MODES] if price else []
    for chunk in _watched(read_record(path), simulations):
        _observe(audit, chunk)
    return {each.order: msgspec.to_builtins(each.report()) for each in simulations}


_MODES: Final[tuple[Resequencing, ...]] = ("none", "key", "global")


def _watched(chunks: Iterator[Completions], simulations: list[Simulation]) -> Iterator[Completions]:
    """Chunks by completion, once the simulations have had them by arrival."""

    def fed() -> Iterator[Completions]:
        for chunk in chunks:
            for simulation in simulations:
                simulation.feed(chunk)
            yield chunk

    return by_completion(fed())


def by_completion(chunks: Iterator[Completions]) -> Iterator[Completions]:
    """Events in the order of their completion, of chunks in order of arrival.

    Held are those that completed after the last one was admitted: what completes before them may
    still follow. Events that came to no end are left out.
    """
    held: Completions | None = None
    for chunk in chunks:
        admitted = chunk.admitted_ns[chunk.admitted_ns > 0]
        whole = _joined(held, _ended(chunk))
        if not len(admitted):
            held = whole
            continue
        is_settled = whole.completed_ns <= admitted[-1]
        held = _only(whole, ~is_settled)
        yield _sorted(_only(whole, is_settled))
    if held is not None:
        yield _sorted(held)


def _ended(chunk: Completions) -> Completions:
    return _only(chunk, chunk.completed_ns > 0)


def _only(chunk: Completions, which: Any) -> Completions:
    """Those at some places, or in another order."""
    return Completions(
        chunk.sequence[which],
        chunk.key[which],
        chunk.keys,
        chunk.admitted_ns[which],
        chunk.completed_ns[which],
    )


def _sorted(chunk: Completions) -> Completions:
    return _only(chunk, np.argsort(chunk.completed_ns, kind="stable"))


def _joined(first: Completions | None, second: Completions) -> Completions:
    if first is None or not len(first.sequence):
        return second
    # What is held are few: their keys go behind those of the chunk.
    own, places = np.unique(first.key, return_inverse=True)
    keys = second.keys + [first.keys[at] if at >= 0 else "" for at in own.tolist()]
    moved = np.where(first.key >= 0, len(second.keys) + places, -1)
    pairs = (
        (first.sequence, second.sequence),
        (moved, second.key),
        (first.admitted_ns, second.admitted_ns),
        (first.completed_ns, second.completed_ns),
    )
    sequence, key, admitted, completed = (np.concatenate(pair) for pair in pairs)
    return Completions(sequence, key, keys, admitted, completed)


def _observe(audit: Audit, chunk: Completions) -> None:
    if audit.scope == "global":
        audit.observe(chunk.sequence, None, chunk.completed_ns, chunk.sequence)
        return
    keyed = _only(chunk, chunk.key >= 0)
    if len(keyed.sequence):
        hashes = hashes_of(keyed.keys)[keyed.key]

        def key_of(place: int) -> str:
            return keyed.keys[int(keyed.key[place])]

        audit.observe(keyed.sequence, hashes, keyed.completed_ns, keyed.sequence, key_of)
