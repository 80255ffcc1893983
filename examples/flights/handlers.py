"""Two pipelines over the flights: a logbook per aircraft, and how late its events are.

millstream run examples/flights/handlers.py:logbook build/flights/flights.csv --key tailnum
millstream run examples/flights/handlers.py:board build/flights/events.jsonl
"""

from __future__ import annotations

from datetime import date
from typing import Any

from millstream.engine import Event, Pipeline, on, stage

MILESTONE = 100_000


def log(event: Event, state: dict[str, int]) -> dict[str, Any] | None:
    """A row of texts to an entry of its aircraft's logbook: numbered, with the miles so far.

    A flight that was cancelled did not fly and is dropped. Rows whose aircraft is not known all
    have the key NA: that is no aircraft, so their entries get no numbers.
    """
    row = event.data
    if row["dep_time"] == "NA":
        return None
    entry: dict[str, Any] = {
        "tailnum": row["tailnum"],
        "date": date(int(row["year"]), int(row["month"]), int(row["day"])).isoformat(),
        "flight": f"{row['carrier']}{row['flight']}",
        "route": f"{row['origin']}-{row['dest']}",
        "miles": int(row["distance"]),
    }
    if event.key == "NA":
        return entry | {"tailnum": None}
    state["legs"] = state.get("legs", 0) + 1
    state["miles"] = state.get("miles", 0) + entry["miles"]
    return entry | {"leg": state["legs"], "total_miles": state["miles"]}


def mark_milestone(event: Event) -> Event:
    """The entry with which an aircraft comes to another 100,000 miles says so."""
    entry = event.data
    total = entry.get("total_miles", 0)
    if total // MILESTONE > (total - entry["miles"]) // MILESTONE:
        entry["milestone"] = total // MILESTONE * MILESTONE
    return event


logbook = Pipeline(
    stage(log, executor="process", workers=2, state=dict),
    stage(mark_milestone),
)


def note_lateness(event: Event, state: dict[str, int]) -> Event:
    """Say by how many minutes an event is older than the newest before it of its aircraft."""
    now = event.time_ns or 0
    newest = state.get("newest", now)
    if now < newest and event.key is not None:
        event.data["out_of_order_by"] = (newest - now) // 60_000_000_000
    state["newest"] = max(now, newest)
    return event


async def announce(event: Event) -> list[dict[str, Any]] | None:
    """An arrival that is an hour late or more gives two notices, all others none."""
    flight = event.data
    if flight["delay"] < 60:
        return None
    text = f"{flight['flight']} from {flight['origin']} arrived {flight['delay']} minutes late"
    return [{"to": "gate", "text": text}, {"to": "crew", "aircraft": event.key, "text": text}]


lateness = stage(note_lateness, state=dict)

board = Pipeline(
    lateness,
    on("flight.arrived", announce, concurrency=100),
)
