"""The summary of an audit on a terminal: coloured where there is one, else plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

from .texts import encodable, plain
from .units import duration

_GREEN, _RED, _DIM, _OFF = "\x1b[1;32m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m"
_MOST_SHARES = 7
_MOST_OF_A_KIND = 3


def write_audit(
    report: Mapping[str, Any], notes: list[str], stream: TextIO, *, color: bool
) -> None:
    """Write the summary to `stream`."""
    headline = encodable(plain(headline_of(report)), stream.encoding)
    if color:
        mark = _GREEN if headline.endswith("in order") else _RED
        headline = f"{mark}{headline}{_OFF}"
    lines = [headline]
    for label, text in rows_of(report):
        padded = f"{label:<13}"
        safe = encodable(plain(text), stream.encoding)
        lines.append(f"  {_DIM + padded + _OFF if color else padded}{safe}")
    for problem in _problems(report["examples"]):
        safe = encodable(plain(problem), stream.encoding)
        lines.append(f"  {_RED if color else ''}! {safe}{_OFF if color else ''}")
    lines += [f"  ! {encodable(plain(note), stream.encoding)}" for note in notes]
    stream.write("\n".join(lines) + "\n")
    stream.flush()


def _problems(examples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The worst of each kind, in words."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for example in examples:
        by_kind.setdefault(example["kind"], []).append(example)
    return [sentence_of(each) for kind in by_kind.values() for each in kind[:_MOST_OF_A_KIND]]


def headline_of(report: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    names = ["standard input" if name == "-" else name for name in report["inputs"]]
    what = names[0] if len(names) == 1 else f"{len(names)} logs"
    faults = [
        _many(report["reordered"], "event out of order", "events out of order"),
        _many(report["duplicates"], "duplicate", "duplicates"),
        _many(report["late_unknown"], "late beyond the window", "late beyond the window"),
    ]
    delivery = report.get("delivery")
    if delivery is not None:
        faults += [
            f"{delivery[name]:,} {name}" if delivery[name] else ""
            for name in ("lost", "duplicated", "unexpected")
        ]
    found = [fault for fault in faults if fault]
    if not (found or report["events"]):
        return f"{what}: nothing to audit"
    return f"{what}: {', '.join(found) or 'in order'}"


def _many(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if count else ""


def rows_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and figures, line by line."""
    rows = [("events", _events(report))]
    if report["reordered"]:
        rows.append(("reordered", _reordered(report)))
        rows.append(("n-reordered", _n_reordered(report)))
        rows.append(("free runs", _free_runs(report)))
    missing = report["discontinuities"]
    if missing["count"]:
        count = _many(missing["count"], "discontinuity", "discontinuities")
        numbers = _many(missing["missing"], "number", "numbers")
        rows.append(("missing", f"{numbers}, in {count}"))
    density = report["reorder_density"]
    if density["counts"] is not None and set(density["counts"]) - {"0"}:
        rows.append(("displacement", _shares(density["counts"], density["threshold"])))
    occupancy = report["buffer_occupancy"]
    if occupancy["counts"] is not None and set(occupancy["counts"]) - {"0"}:
        rows.append(("buffer", _shares(occupancy["counts"], occupancy["threshold"])))
    if report["unknown"]:
        rows.append(("unknown", f"{report['unknown']:,} beyond the window of {report['window']:,}"))
    if report.get("delivery") is not None:
        rows.append(("delivery", _delivery(report["delivery"])))
    for order, price in (report.get("price") or {}).items():
        rows.append((f"order {order}", _price(price)))
        rows += [("", text) for text in _blockers(price)]
    return rows


def _price(price: Mapping[str, Any]) -> str:
    if not price["waited"]:
        return "free: no event would wait"
    added = ", ".join(f"{name} {duration(price[name + '_ns'])}" for name in ("p50", "p99", "max"))
    return (
        f"adds {added}; {price['waited']:,} of {price['events']:,} events wait; "
        f"99.9 % restored with room for {price['buffer']:,}, all with {price['buffer_max']:,}"
    )


def _blockers(price: Mapping[str, Any]) -> list[str]:
    """The key and the event that others waited for longest."""
    texts = []
    for kind, name in (("blocking_keys", "key"), ("blocking_events", "sequence")):
        for worst in price[kind][:1]:
            who = f"event {worst[name]}" if name == "sequence" else f"key {worst[name]!r}"
            texts.append(
                f"{who} blocked most: it held up {worst['held_up']:,} for "
                f"{duration(worst['waited_ns'])} in all"
            )
    return texts


def _events(report: Mapping[str, Any]) -> str:
    text = f"{report['events']:,}"
    if report["scope"] == "key" and report["keys"] is None:
        text += " of more keys than are remembered"
    elif report["scope"] == "key":
        text += f" of {_many(report['keys'], 'key', 'keys') or 'no key'}"
    if report["malformed"]:
        text += f", and {_many(report['malformed'], 'malformed record', 'malformed records')}"
    return text


def _reordered(report: Mapping[str, Any]) -> str:
    text = f"{report['reordered']:,} ({report['reordered_ratio']:.3%})"
    text += f", extent at most {report['extent']['max']:,}"
    late = report["late_time"]
    if late["max"] is not None:
        text += f", late by at most {late['max']:,.6g}, on average {late['mean']:,.6g}"
    return text


def _n_reordered(report: Mapping[str, Any]) -> str:
    degrees = report["n_reordering"]
    shown = [f"{n}: {degrees[n]:.3%}" for n in ("1", "2", "3") if n in degrees]
    most = max(map(int, degrees), default=0)
    return f"{', '.join(shown)}; at most {most:,}" if shown else "none"


def _free_runs(report: Mapping[str, Any]) -> str:
    runs = report["free_runs"]
    mean = runs["accepted"] / max(1, runs["reordered"])
    return f"{mean:,.4g} events on average, {report['gaps']['max']:,} the largest gap"


def _shares(counts: Mapping[str, int], threshold: int) -> str:
    """A density: the largest shares, by value."""
    total = sum(counts.values())
    largest = sorted(counts, key=lambda value: -counts[value])[:_MOST_SHARES]
    shown = sorted(largest, key=int)
    text = ", ".join(f"{value}: {_share(counts[value] / total)}" for value in shown)
    rest = len(counts) - len(shown)
    return f"{text}{f', {rest} more' if rest else ''} (threshold {threshold})"


def _share(share: float) -> str:
    return f"{share:.3%}" if share < 0.001 else f"{share:.1%}"


def _delivery(delivery: Mapping[str, int]) -> str:
    names = ("lost", "duplicated", "unexpected", "recovered")
    return ", ".join(f"{delivery[name]:,} {name}" for name in names)


def sentence_of(example: Mapping[str, Any]) -> str:
    """One offender: both events, and where they stand."""
    who = (
        f"{example['sequence']}" if example.get("sequence") is not None else repr(example.get("id"))
    )
    if example.get("key") is not None:
        who += f" of key {example['key']!r}"
    who += _at(example)
    after = example.get("after") or {}
    match example["kind"]:
        case "reordered":
            places = _many(example.get("extent", 0), "place", "places")
            return f"{who} came after {after.get('sequence')}{_at(after)}, {places} late"
        case "duplicate":
            return f"{who} is a copy of {after.get('sequence')}{_at(after)}"
        case "unknown":
            return f"{who} is late by more than the window: reordered, or a copy"
        case "duplicated":
            return f"{who} was delivered again, after {_where(after)}"
        case kind:
            return f"{who} {_DELIVERIES.get(kind, kind)}"


_DELIVERIES: Final = {
    "lost": "was never delivered",
    "unexpected": "was delivered, but never sent",
    "recovered": "was delivered, though it was not acknowledged",
}


def _at(event: Mapping[str, Any]) -> str:
    return f" ({_where(event)})" if event.get("line") is not None else ""


def _where(event: Mapping[str, Any]) -> str:
    source = "standard input" if event.get("source") == "-" else event.get("source")
    return f"{source} line {event.get('line')}"
