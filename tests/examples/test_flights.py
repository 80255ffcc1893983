"""The flights of New York through the installed command, against an independent computation.

The computation reads the CSV with the csv module and keeps plain dicts; nothing of the engine.
"""

from __future__ import annotations

import bisect
import csv
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "flights"
MILLSTREAM = Path(sys.executable).with_name("millstream")

# The run over all flights is made once, by one worker.
pytestmark = pytest.mark.xdist_group("flights")

Entry = dict[str, Any]


@dataclass
class Logbook:
    """What a run over all flights gave, and what it should have given, by aircraft."""

    entries: list[Entry]
    expected: dict[str, list[Entry]]
    unknown: list[Entry]
    """What should come of the rows whose aircraft is not known."""
    rows: int
    cancelled: int
    result: dict[str, Any]


@pytest.fixture(scope="module")
def logbook(tmp_path_factory: pytest.TempPathFactory) -> Logbook:
    folder = tmp_path_factory.mktemp("flights")
    flights, out, result = folder / "flights.csv", folder / "out.jsonl", folder / "result.json"
    subprocess.run([sys.executable, EXAMPLES / "unpack.py", flights], check=True)
    subprocess.run(
        [
            *(MILLSTREAM, "run", f"{EXAMPLES / 'handlers.py'}:logbook", flights),
            *("--key", "tailnum", "--output", out, "--result", result),
        ],
        check=True,
        cwd=folder,
    )
    made = Logbook([], defaultdict(list), [], 0, 0, json.loads(result.read_text()))
    with out.open(encoding="utf-8") as lines:
        made.entries = [json.loads(line) for line in lines]
    _compute(flights, made)
    return made


def _compute(flights: Path, made: Logbook) -> None:
    miles: dict[str, int] = defaultdict(int)
    with flights.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            made.rows += 1
            if row["dep_time"] == "NA":
                made.cancelled += 1
                continue
            tail = row["tailnum"]
            entry: Entry = {
                "tailnum": tail,
                "date": f"{row['year']}-{row['month']:0>2}-{row['day']:0>2}",
                "flight": row["carrier"] + row["flight"],
                "route": f"{row['origin']}-{row['dest']}",
                "miles": int(row["distance"]),
            }
            if tail == "NA":
                made.unknown.append({**entry, "tailnum": None})
                continue
            before = miles[tail]
            miles[tail] += entry["miles"]
            entry["leg"] = len(made.expected[tail]) + 1
            entry["total_miles"] = miles[tail]
            if before // 100_000 != miles[tail] // 100_000:
                entry["milestone"] = miles[tail] // 100_000 * 100_000
            made.expected[tail].append(entry)


def test_the_flights_are_all_there(logbook: Logbook) -> None:
    assert logbook.rows == 336_776
    assert logbook.cancelled == 8_255
    assert len(logbook.expected) == 4_037


def test_every_row_is_accounted_for(logbook: Logbook) -> None:
    counts = logbook.result["counts"]

    assert counts == {
        "read": logbook.rows,
        "handled": logbook.rows,
        "filtered": logbook.cancelled,
        "emitted": logbook.rows - logbook.cancelled,
        "retried": 0,
        "dead_lettered": 0,
    }


def test_each_aircraft_has_its_flights_in_order_with_the_right_sums(logbook: Logbook) -> None:
    written: dict[str, list[Entry]] = defaultdict(list)
    for entry in logbook.entries:
        if entry["tailnum"] is not None:
            written[entry["tailnum"]].append(entry)

    assert written == logbook.expected


def test_flights_of_no_known_aircraft_keep_their_order_and_get_no_numbers(
    logbook: Logbook,
) -> None:
    # All have the key NA, which is a key like any other: they are in order, too.
    written = [entry for entry in logbook.entries if entry["tailnum"] is None]

    assert written == logbook.unknown


def test_the_run_proves_the_order_of_all_places(logbook: Logbook) -> None:
    ordering = logbook.result["ordering"]

    assert ordering["order"] == "key"
    assert ordering["violations"] == 0
    assert [place["place"] for place in ordering["audit"]["places"]] == [
        "log",
        "mark_milestone",
        "output",
    ]
    assert logbook.result["delivery"]["lost"] == 0
    assert logbook.result["delivery"]["duplicated"] == 0


def test_events_keep_their_order_per_aircraft_and_late_arrivals_give_notices(
    tmp_path: Path,
) -> None:
    events = _make_events(tmp_path, flights=3_000)
    subprocess.run(
        [MILLSTREAM, "run", f"{EXAMPLES / 'handlers.py'}:board", events, "--output", "out.jsonl"],
        check=True,
        cwd=tmp_path,
    )

    came = _read(events)
    written = _read(tmp_path / "out.jsonl")
    hours_late = sum(
        event["type"] == "flight.arrived" and event["data"]["delay"] >= 60 for event in came
    )
    passed = _by_aircraft((e["key"], e["id"]) for e in written if "to" not in e)
    assert passed == _by_aircraft(
        (e["key"], e["id"]) for e in came if e["type"] != "flight.arrived"
    )
    assert sum("to" in event for event in written) == 2 * hours_late > 0


def test_an_event_that_is_older_than_one_before_it_of_its_aircraft_is_marked(
    tmp_path: Path,
) -> None:
    events = _make_events(tmp_path, flights=20_000)
    subprocess.run(
        [MILLSTREAM, "run", f"{EXAMPLES / 'handlers.py'}:lateness", events, "-o", "out"],
        check=True,
        cwd=tmp_path,
    )

    newest: dict[str, str] = {}
    late = set()
    for event in _read(events):
        key, time = event["key"], event["time"]
        if key is not None and time < newest.get(key, ""):
            late.add(event["id"])
        newest[key] = max(time, newest.get(key, ""))
    marked = {e["id"] for e in _read(tmp_path / "out") if "out_of_order_by" in e["data"]}
    assert marked == late
    assert marked


def _make_events(folder: Path, *, flights: int) -> Path:
    for script, *arguments in (["unpack.py"], ["make_events.py", str(flights)]):
        subprocess.run([sys.executable, EXAMPLES / script, *arguments], check=True, cwd=folder)
    return folder / "build" / "flights" / "events.jsonl"


def _read(path: Path) -> list[Entry]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _by_aircraft(events: Iterable[tuple[str | None, str]]) -> dict[str, list[str]]:
    """The ids of each aircraft in order; events of no known aircraft are unordered."""
    ids: dict[str, list[str]] = defaultdict(list)
    for key, id in events:
        if key is None:
            bisect.insort(ids["unordered"], id)
        else:
            ids[key].append(id)
    return ids
