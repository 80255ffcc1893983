"""What a comparison comes to: a verdict with its sentence, and what was to be proved item by item.

Pure: comparisons and counts in, words out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from .evidence import Comparison, Finding, Shape

Verdict = Literal["proved", "broken", "unproved"]


class Check(msgspec.Struct, frozen=True):
    """One of the things to be proved."""

    name: str
    held: bool | None
    """None: it could not be told, or was not promised."""
    detail: str


class Judgement(msgspec.Struct, frozen=True):
    """What a comparison comes to."""

    verdict: Verdict
    why: str
    comparison: Comparison
    fields: list[str] = []
    untold: str = ""
    """Why what was not found broken can't be told to have held; empty: it held."""


CANT: Final = "the handler gives other results for the same event"
WHY: Final = {
    "proved": "nothing was lost, nothing came twice, and the order held",
    "broken": "the job does not come to the same when it is killed and gone on with",
}
_NO_RESULTS: Final = (
    "the handler gives no results, so what it does elsewhere could not be compared; each event did "
    "reach it. Give back one result per event (its id, say) to have that compared"
)


def as_far_as_it_goes(
    judged: Judgement, *, events: int, results: int, kept: list[int]
) -> Judgement:
    """What is proved at most by so many events, lines of results, and kills.

    `kept`: how many calls were made for good by each of the kills that were made.
    """
    if not (events and kept):
        ended = "the run had ended before each kill" if events else "there are no events"
        why = f"there was nothing to kill: {ended}"
        return msgspec.structs.replace(judged, verdict="unproved", why=why)
    if judged.verdict != "proved":
        return judged
    if not results:
        untold = "can't be told, there are no results"
        return msgspec.structs.replace(judged, verdict="unproved", why=_NO_RESULTS, untold=untold)
    if judged.comparison.calls and not any(kept):
        why = f"{judged.why}, but no kill came when anything was kept: more events prove more"
        return msgspec.structs.replace(judged, why=why)
    return judged


def compared_without(judged: Judgement, ignored: Sequence[str], *, alike: bool) -> Judgement:
    """Says what was not compared, as asked. `alike`: whether all results are alike without it."""
    told = ", ".join(ignored)
    if not ignored or judged.verdict == "unproved":
        return judged
    if alike and judged.verdict == "proved":
        why = f"without {told} all results are alike; have one field that tells them apart compared"
        untold = "can't be told, the results are alike"
        return msgspec.structs.replace(judged, verdict="unproved", why=why, untold=untold)
    return msgspec.structs.replace(judged, why=f"{judged.why} (compared without {told})")


def undistinguished(comparison: Comparison, otherwise: str, lines: Sequence[int]) -> Judgement:
    """No result can be told from another. `lines` of output: two undisturbed runs, the other."""
    told = f"undisturbed it wrote {lines[0]:,} and {lines[1]:,} lines of output"
    why = f"{CANT}: {otherwise}; {told}, and disturbed {lines[2]:,}"
    return Judgement("unproved", why, only_calls(comparison), untold="can't be told")


def varying(masked: Comparison, names: list[str]) -> Judgement:
    """Some fields vary undisturbed too, and what is left was compared."""
    told = ", ".join(names)
    if not masked.is_clean:
        without = f" (compared without {told}, which differs undisturbed too)" if names else ""
        return Judgement("broken", why_broken(masked) + without, masked, names)
    if not names:
        return Judgement("proved", WHY["proved"], masked)
    flags = " ".join(f"--ignore {name}" for name in names)
    why = (
        f"{CANT}, in {told}; without that, all that was to be proved held ({flags} compares so "
        "from the start)"
    )
    return Judgement("unproved", why, masked, names)


def stuck(comparison: Comparison, kills: int, text: str) -> Judgement:
    """A run that a kill left unable to go on; `text`: what it said."""
    lines = [line for line in text.splitlines() if line.strip()]
    comparison = msgspec.structs.replace(
        comparison,
        counts={"stuck": 1},
        findings=[Finding("stuck", f"the run said: {text.strip()}")] if lines[1:] else [],
    )
    why = f"after kill {kills} the run could not go on: {lines[-1].strip()}"
    return Judgement("broken", why, comparison, untold="can't be told")


def why_broken(comparison: Comparison) -> str:
    """With advice, when the job differs only in what its results are, or in what failed."""
    counts = comparison.counts
    failed = _failed_in_one_run(counts)
    if failed:
        return (
            f"the handler failed for {_events(failed)} in one of the runs only: at random, or "
            "since it was called again after a kill?"
        )
    if counts.keys() == {"lost", "unexpected"} and counts["lost"] == counts["unexpected"]:
        return (
            "some events have other results once the run was killed and gone on with: does the "
            "handler remember something from one event to the next?"
        )
    return WHY["broken"]


def _failed_in_one_run(counts: dict[str, int]) -> int:
    """For how many events, when nothing else differs: their results are missing in the other."""
    here, there = counts.get("letter-unexpected", 0), counts.get("letter-lost", 0)
    results = counts.get("lost", 0) <= here and counts.get("unexpected", 0) <= there
    others = counts.keys() - {"letter-unexpected", "letter-lost", "lost", "unexpected"}
    return here + there if results and not others else 0


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def with_promise(comparison: Comparison, text: str) -> Comparison:
    found = [Finding("promise", f"the run itself says: {line}") for line in text.splitlines()]
    return msgspec.structs.replace(
        comparison,
        counts={**comparison.counts, "promise": max(1, len(found))},
        findings=[*comparison.findings, *found[:10]],
    )


def only_calls(comparison: Comparison) -> Comparison:
    """What is left when results can't be told from one another."""
    return msgspec.structs.replace(comparison, counts={}, findings=[])


def checks_of(judged: Judgement, shape: Shape, counts: dict[str, int]) -> list[Check]:
    """What was to be proved, item by item."""
    differences = judged.comparison.counts

    def check(name: str, kinds: Sequence[str], fine: str) -> Check:
        found = {kind: differences[kind] for kind in kinds if kind in differences}
        if found:
            detail = ", ".join(f"{count:,} {_KINDS[kind]}" for kind, count in found.items())
            return Check(name, False, detail)
        return Check(name, None, judged.untold) if judged.untold else Check(name, True, fine)

    order = _ORDERS[shape.order]
    if shape.in_order:
        order = "as in each input" if shape.apart else "the output is the same, byte for byte"
    results, letters = counts["results"], counts["dead_letters"]
    return [
        check(
            "nothing lost",
            ("lost", "letter-lost", "never-handled", "stuck"),
            f"{results:,} lines of output and {letters:,} dead letters of {counts['events']:,} "
            "events are there",
        ),
        check("exactly once", ("duplicated", "letter-duplicated"), "each stands there once"),
        check("nothing else", ("unexpected", "letter-unexpected", "bytes"), "nothing else does"),
        check("order", ("order", "promise"), order),
    ]


_KINDS: Final = {
    "lost": "lines of output missing",
    "letter-lost": "dead letters missing",
    "never-handled": "events never handled",
    "stuck": "run that could not go on",
    "duplicated": "lines of output too many",
    "letter-duplicated": "dead letters too many",
    "unexpected": "lines of output that no undisturbed run writes",
    "letter-unexpected": "dead letters that no undisturbed run writes",
    "bytes": "output that differs in its bytes",
    "order": "lines of output came after a later one",
    "promise": "promises broken, says the run",
}
_ORDERS: Final = {
    "none": "none was promised; the results of each event stand in order",
    "key": "per key, as in the input",
    "partition": "per partition, as in the input",
    "global": "as in the input",
}
