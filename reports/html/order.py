"""Order and delivery: where it held, how far events were reordered, what that costs.

Pure: a result or an audit in, sections out. The measures are those of RFC 4737 and RFC 5236.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..units import duration
from . import svg
from .axes import linear_axis
from .model import Chart, Section, Table, Verdict

_MOST_BARS: Final = 60
_MOST_EXAMPLES: Final = 10
_ORDERS: Final[Mapping[str, str]] = {
    "none": "No order was promised; what is measured is how far events came out of it.",
    "key": "Promised: events of one key are handled one at a time, in order of arrival.",
    "partition": "Promised: those of one partition are handled one at a time, in order of arrival.",
    "global": "Promised: events are handled one at a time, in order of arrival.",
}


def order_section(result: Mapping[str, Any], prefix: str = "") -> Section:
    """What a run says of order and delivery."""
    ordering = result["ordering"]
    audit = ordering["audit"]
    tables = [
        ("Where order was audited", _places(ordering)),
        ("Delivery", _delivery(result["delivery"])),
        *_measures(audit),
        *_examples(audit.get("examples", ())),
    ]
    return Section(
        f"{prefix}order",
        "Order and delivery",
        charts=_charts(audit, prefix),
        columns=3,
        tables=tables,
        notes=[_ORDERS.get(ordering["order"], "")],
    )


def audit_section(audit: Mapping[str, Any], prefix: str = "") -> Section:
    """What an audit of a log says of them."""
    tables = [*_measures(audit), *_examples(audit.get("examples", ()))]
    if "delivery" in audit:
        tables.insert(0, ("Delivery", _delivery(audit["delivery"])))
    scope = "by key" if audit["scope"] == "key" else "of all events together"
    charts = [*_charts(audit, prefix), *_price_charts(audit.get("price"), prefix)]
    tables += blocking_keys(audit.get("price"))
    note = f"Order {scope}, as the sequence numbers of the log have it."
    return Section(f"{prefix}order", "Order and delivery", charts, tables, [note], columns=3)


def _places(ordering: Mapping[str, Any]) -> Table:
    promised = ordering["order"] != "none"
    rows: list[list[str | Verdict]] = []
    for place in ordering["audit"].get("places", ()):
        bad = place.get("reordered", 0) + place.get("overlaps", 0)
        word = Verdict("held", True) if not bad else Verdict("BROKEN", False)
        if not promised:
            word = Verdict("not promised", None)
        counts = (place.get(name) for name in ("events", "reordered", "overlaps", "unknown"))
        rows.append([place["place"], word, *("–" if n is None else f"{n:,}" for n in counts)])
    head = ["place", "order", "events", "reordered", "overlapping", "beyond the window"]
    return Table(head, rows, left=2)


def _delivery(delivery: Mapping[str, int]) -> Table:
    meaning = (
        ("lost", "acknowledged, never delivered"),
        ("duplicated", "delivered more often than attempted"),
        ("unexpected", "delivered, never attempted"),
        ("recovered", "delivered though never acknowledged"),
    )
    rows: list[list[str | Verdict]] = []
    for name, means in meaning:
        number = delivery[name]
        ok = None if name == "recovered" else not number
        rows.append([name, means, Verdict("none" if not number else f"{number:,}", ok)])
    return Table(["", "meaning", "events"], rows, left=2)


def _measures(audit: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """The RFCs' figures, when there is anything to tell."""
    if not audit.get("reordered"):
        return []
    extent, late, runs = audit["extent"], audit["late_time"], audit["free_runs"]
    rows = [
        ["reordered ratio", f"{audit['reordered_ratio']:.2%} of {audit['events']:,} arrivals"],
        ["largest reordering extent", f"{extent['max']:,} arrivals"],
        ["reordering-free runs", f"{runs['accepted']:,} in order, {runs['reordered']:,} reordered"],
    ]
    if late["max"] is not None:
        told = f"{_time(late['max'])} at most, {_time(late['mean'])} on average"
        rows.append(["late time offset", told])
    if audit["n_reordering"]:
        by_n = list(audit["n_reordering"].items())[:5]
        rows.append(["n-reordering", ", ".join(f"n = {n}: {share:.2%}" for n, share in by_n)])
    return [("Reordering (RFC 4737)", Table(["measure", "value"], rows, left=2))]


def _time(value: float) -> str:
    return duration(round(value))


def _examples(examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, Table]]:
    rows = []
    for each in examples[:_MOST_EXAMPLES]:
        after = each.get("after") or {}
        rows.append(
            [each["kind"], str(each.get("place") or each.get("source") or ""),
             str(each["key"]) if each.get("key") is not None else "–",
             str(each.get("sequence", "–")), str(after.get("sequence", "–"))]
        )  # fmt: skip
    if not rows:
        return []
    table = Table(["kind", "place", "key", "event", "came after"], rows, left=3)
    return [("Offending events", table)]


def _charts(audit: Mapping[str, Any], prefix: str) -> list[Chart]:
    charts = []
    extents = {int(k): n for k, n in audit["extent"]["counts"].items()}
    if extents:
        charts.append(
            _counted(
                f"{prefix}extent",
                "Reordering extent",
                extents,
                "arrivals since the first one that overtook it",
                "reordered events",
            )
        )
    for name, title, what in (
        ("buffer_occupancy", "Buffer occupancy", "events that a resequencer would have held"),
        ("reorder_density", "Reorder density", "displacement; early ones are negative"),
    ):
        counts = (audit.get(name) or {}).get("counts")
        if counts and (extents or name == "buffer_occupancy"):
            numbered = {int(k): n for k, n in counts.items()}
            charts.append(_counted(f"{prefix}{name}", title, numbered, what, "arrivals"))
    return charts


def _counted(id_: str, title: str, counts: Mapping[int, int], what: str, of: str) -> Chart:
    """How often each number came, neighbours joined where there are many."""
    low, high = min(counts), max(counts)
    step = -(-(high - low + 1) // _MOST_BARS)
    joined: dict[int, int] = {}
    for number, count in counts.items():
        place = low + (number - low) // step * step
        joined[place] = joined.get(place, 0) + count
    whole = sum(counts.values())
    bars = [(place - 0.5, place + step - 0.5, count) for place, count in sorted(joined.items())]
    ends = [low - 0.5, high + 0.5] if low < 0 else [0, high + 0.5]
    x = linear_axis(ends, lambda v: f"{v:g}", title=what, ticks=6, from_zero=low >= 0, even=True)
    x = type(x)(min(x.low, low - 0.5), x.high, x.ticks, x.title)
    y = linear_axis(joined.values(), lambda v: f"{v:,.0f}", even=True)
    said = f"{title}: {what}; from {low:,} to {high:,}, of {whole:,} {of}"
    rows = [
        [f"{place:,}" if step == 1 else f"{place:,} to {place + step - 1:,}", f"{count:,}",
         f"{count / whole:.2%}"]
        for place, count in sorted(joined.items())
    ]  # fmt: skip
    return Chart(
        id=id_,
        title=title,
        said=f"{said}.",
        table=Table([what, of, "share"], rows),
        svg=svg.columns(said, x, y, bars),
    )


def _price_charts(price: Mapping[str, Any] | None, prefix: str) -> list[Chart]:
    """What resequencing would have cost, by order, of the audit of a record."""
    if not price:
        return []
    said = "The price of order: what waiting for those before it would add to an event's latency"
    bars = [
        svg.Bar(
            f"{order} order p99",
            [svg.Piece(float(each["p99_ns"]), 0, f"{order}: {duration(each['p99_ns'])}")],
            duration(each["p99_ns"]),
        )
        for order, each in price.items()
    ]
    rows = [
        [order, f"{each['waited']:,} of {each['events']:,}",
         *(duration(each[name]) for name in ("p50_ns", "p99_ns", "max_ns")),
         f"{each['buffer']:,}", f"{each['buffer_max']:,}"]
        for order, each in price.items()
    ]  # fmt: skip
    head = ["order", "events held up", "p50", "p99", "max", "buffer for 99.9 %", "buffer for all"]
    longest = max(float(each["p99_ns"]) for each in price.values())
    chart = Chart(
        id=f"{prefix}price",
        title="The price of order",
        said=f"{said}.",
        table=Table(head, rows),
        svg=svg.bars(said, bars, longest),
    )
    return [chart]


def blocking_keys(price: Mapping[str, Any] | None) -> list[tuple[str, Table]]:
    """Which keys held up most, of the audit of a record."""
    rows = [
        [order, "without a key" if key["key"] is None else str(key["key"]),
         f"{key['held_up']:,}", duration(key["waited_ns"])]
        for order, each in (price or {}).items()
        for key in each["blocking_keys"]
    ]  # fmt: skip
    head = ["order", "key", "events that it held up", "they waited, all together"]
    return [("Keys that held up most", Table(head, rows, left=2))] if rows else []
