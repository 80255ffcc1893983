"""Makes departures and arrivals of the flights: events as an airport would see them.

python examples/flights/make_events.py [FLIGHTS [PATH]]

Reads the CSV that unpack.py wrote (its first FLIGHTS rows; all, if not given).

Each flight gives `flight.departed` and `flight.arrived`, keyed by aircraft, or `flight.cancelled`.
Their `time` is the actual one, in UTC, but they stand in the order of the timetable: by the time
at which the timetable expected them. So a late flight's events come before others that
happened earlier, and the times within the stream, also those of one aircraft, are out of order:
as real events come. A flight whose arrival delay is not known (it was diverted, mostly) has no
arrival. An aircraft that is not known (NA) gives the key null: those events are unordered.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

from unpack import PATH as FLIGHTS
from unpack import data_folder

PATH = Path("build/flights/events.jsonl")
ZONES = {
    # What airports.csv lacks.
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}

encode = json.JSONEncoder(separators=(",", ":")).encode

Timed = tuple[datetime, str]
"""When the timetable expects an event, and its line."""


def zones() -> dict[str, ZoneInfo]:
    """The time zone of each airport."""
    with (data_folder() / "airports.csv").open(encoding="utf-8", newline="") as file:
        named = {row["faa"]: row["tzone"] for row in csv.DictReader(file)}
    return {code: ZoneInfo(name) for code, name in (named | ZONES).items() if name != "NA"}


def scheduled_arrival(departure: datetime, hhmm: int, zone: ZoneInfo) -> datetime:
    """The first time after `departure` at which the clocks of `zone` show `hhmm`."""
    local = departure.astimezone(zone)
    arrival = local.replace(hour=hhmm // 100 % 24, minute=hhmm % 100)
    if arrival <= local:
        arrival += timedelta(days=1)
    return arrival.astimezone(UTC)


def text(at: datetime) -> str:
    """A time in UTC, as RFC 3339."""
    return f"{at.isoformat()[:19]}Z"


def line(number: int, kind: str, row: dict[str, str], due: datetime, delay: str | None) -> str:
    """One event as JSON."""
    data: dict[str, object] = {
        "flight": f"{row['carrier']}{row['flight']}",
        "origin": row["origin"],
        "dest": row["dest"],
        "scheduled": text(due),
    }
    at = due
    if delay is not None:
        data["delay"] = int(delay)
        at += timedelta(minutes=int(delay))
    if kind == "arrived":
        data["miles"] = int(row["distance"])
    event = {
        "id": f"{number:06}-{kind}",
        "type": f"flight.{kind}",
        "key": None if row["tailnum"] == "NA" else row["tailnum"],
        "time": text(at),
        "data": data,
    }
    return encode(event) + "\n"


def events(rows: Iterator[dict[str, str]]) -> Iterator[Timed]:
    """The events of each flight."""
    zone_of = zones()
    for number, row in enumerate(rows, 1):
        # time_hour is the UTC hour of the scheduled departure.
        due = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["minute"]))
        if row["dep_delay"] == "NA":
            yield due, line(number, "cancelled", row, due, None)
            continue
        yield due, line(number, "departed", row, due, row["dep_delay"])
        if row["arr_delay"] != "NA":
            arrival = scheduled_arrival(due, int(row["sched_arr_time"]), zone_of[row["dest"]])
            yield arrival, line(number, "arrived", row, arrival, row["arr_delay"])


def main() -> None:
    """Write the file."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else None
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else PATH
    with FLIGHTS.open(encoding="utf-8", newline="") as file:
        timed = sorted(events(islice(csv.DictReader(file), most)), key=lambda each: each[0])
    with path.open("w", encoding="ascii", newline="\n") as out:
        out.writelines(each for _, each in timed)
    print(f"{len(timed):,} events in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
