"""The scenario `clicks`: the shape of its stream, and that its oracle finds what goes wrong."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine import Pipeline
from millstream.engine.event import Event
from millstream.engine.pipeline import Reject, stage
from millstream.workloads.clicks import Clicks
from millstream.workloads.clicks_aggregate import Analytics, State, aggregate, new_user
from millstream.workloads.clicks_ingest import Geo, Malformed, ingest, read_click
from millstream.workloads.clicks_stream import EPOCH_MS, GeoRange, geo_ranges
from millstream.workloads.clicks_tables import Table, table_path
from millstream.workloads.clicks_windows import MOST_CORRECTED, SliceStore, Windows
from millstream.workloads.scenario import Outcome, ScenarioError, stream
from tests.support.scenarios import broken, run_scenario

EVENTS = 6000
SMALL = {"users": 100, "pages": 40, "per-second": 20.0, "window": 10, "lateness": 15, "gap": 15}
"""6,000 events are 300 s, and most users have sessions that end."""
Doing = Callable[..., Any]
U1 = "a07d40dd6cb02cdb"
"""What the user u1 is called in the tables: sha256("clicks:u1"), its first 16 digits."""


def events(scenario: Clicks, many: int) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in stream(scenario, many)]


def otherwise(scenario: Clicks, folder: Path, **handlers: Doing) -> Pipeline:
    """The scenario's pipeline with another handler in a stage."""
    stages = [
        stage(
            handlers.get(each.name, each.handler),
            name=each.name,
            executor=each.executor,
            state=each.state,
            setup=each.setup,
            teardown=each.teardown,
        )
        for each in scenario.pipeline(folder).stages
    ]
    return Pipeline(*stages)


def broken_by(folder: Path, settings: Mapping[str, Any] | None = None, **doing: Doing) -> set[str]:
    """The promises that handlers break which do something else."""
    scenario = Clicks({**SMALL, **(settings or {})}, 1)
    pipeline = otherwise(scenario, folder / "scenario", **doing)
    _, invariants = run_scenario(folder, scenario, EVENTS, pipeline=pipeline)
    return set(broken(invariants))


# --- the stream


def test_the_stream_has_the_shares_that_were_asked_for() -> None:
    shares = {"malformed": 0.05, "duplicates": 0.1, "late": 0.04}
    scenario = Clicks({**SMALL, **shares, "within": 50}, 3)
    seen: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for event in events(scenario, 20_000):
        try:
            click = read_click(event["line"], event["key"], event["received"], Geo([]))
        except Malformed:
            counts["malformed"] += 1
            continue
        if click["id"] in seen:
            assert 1 <= event["seq"] - seen[click["id"]] <= 50
            counts["duplicates"] += 1
            continue
        seen[click["id"]] = event["seq"]
        counts["late"] += event["received"] - click["time"] > 15_000

    # Copies take places of their own, and are made of sound lines only.
    assert 0.8 < counts["malformed"] / 20_000 / 0.05 < 1.1
    assert 0.8 < counts["duplicates"] / 20_000 / 0.1 < 1.1
    assert 0.8 < counts["late"] / 20_000 / 0.04 < 1.1


def test_received_never_falls_and_numbers_count_from_nought() -> None:
    found = events(Clicks(SMALL, 1), 2000)

    assert [event["seq"] for event in found] == list(range(2000))
    assert found[0]["received"] >= EPOCH_MS
    assert all(a["received"] <= b["received"] for a, b in pairwise(found))
    assert 80 < (found[-1]["received"] - EPOCH_MS) / 1000 < 120  # 20 a second


def test_events_of_most_users_are_out_of_order_within_the_bound() -> None:
    scenario = Clicks({**SMALL, "late": 0.0, "malformed": 0.0, "duplicates": 0.0}, 1)
    delays = [
        event["received"]
        - read_click(event["line"], event["key"], event["received"], Geo([]))["time"]
        for event in events(scenario, 2000)
    ]

    assert min(delays) >= 0 and 14_000 < max(delays) <= 15_000
    assert sum(a > b + 50 for a, b in pairwise(delays)) > 400


def test_every_defect_comes_and_every_sound_line_is_sound() -> None:
    reasons: Counter[str] = Counter()
    for event in events(Clicks({**SMALL, "malformed": 0.5}, 1), 4000):
        try:
            read_click(event["line"], event["key"], event["received"], Geo([]))
        except Malformed as wrong:
            reasons[str(wrong)] += 1

    assert set(reasons) == {
        *("form", "address", "user", "time", "clock", "method", "url"),
        *("protocol", "status", "bytes", "id"),
    }
    assert 1800 < reasons.total() < 2100


def test_pages_that_are_written_in_many_ways_are_few() -> None:
    scenario = Clicks({**SMALL, "malformed": 0.0}, 1)
    pages: Counter[str] = Counter()
    written: set[str] = set()
    for event in events(scenario, 4000):
        click = read_click(event["line"], event["key"], event["received"], Geo([]))
        pages[click["page"]] += 1
        written.add(event["line"].split('"')[1].split(" ")[1])

    assert len(pages) == 40 and len(written) > 400
    assert pages.most_common(1)[0][0] == "/"


# --- parsing and enriching

SOUND = (
    '9.8.7.6 - u1 [01/Mar/2026:02:00:01.250 +0100] "GET //Shop/Caf%c3%a9%2D7/?a=1&utm_source=x+y#z '
    'HTTP/1.1" 200 17 "https://WWW.Example.org:80/a" '
    '"Mozilla/5.0 (iPad; CPU OS 17_3 like Mac OS X) CriOS/120.0 Mobile/1 Safari/604.1" '
    "0123456789abcdef"
)


def test_a_line_becomes_a_click() -> None:
    geo = Geo([GeoRange(0x09000000, 0x09000005, "AA"), GeoRange(0x09080000, 0x0908FFFF, "BB")])

    click = read_click(SOUND, "u1", EPOCH_MS + 3_700_000, geo)

    assert click == {
        "kind": "click",
        "id": "0123456789abcdef",
        "user": U1,
        "time": EPOCH_MS + 3_601_250,
        "page": "/shop/café-7",
        "category": "shop",
        "campaign": "x y",
        "referrer": "example.org",
        "country": "BB",
        "browser": "Chrome 120",
        "system": "iOS",
        "method": "GET",
        "status": 200,
        "bytes": 17,
    }


@pytest.mark.parametrize(
    ("right", "wrong", "reason"),
    [
        ("9.8.7.6", "9.8.7.06", "address"),
        ("9.8.7.6", "9.8.7.٦", "address"),
        ("01/Mar", "29/Feb", "time"),
        (":02:00", ":02:60", "time"),
        ("+0100", "+1500", "time"),
        ("02:00:01", "04:00:01", "clock"),
        ("GET", "GETT", "method"),
        ("%c3%a9", "%c3%29", "url"),
        ("HTTP/1.1", "HTTP/1.2", "protocol"),
        (" 200 ", " 2000 ", "status"),
        (" 17 ", " +17 ", "bytes"),
        ("abcdef", "ABCDEF", "id"),
        ("u1", "u2", "user"),
        ('" 200', " 200", "form"),
        ("0123456789abcdef", "0123456789abcdef\n", "form"),
    ],
)
def test_a_line_is_refused_for_its_reason(right: str, wrong: str, reason: str) -> None:
    line = SOUND.replace(right, wrong, 1)

    with pytest.raises(Malformed, match=f"^{reason}$"):
        read_click(line, "u1", EPOCH_MS + 3_700_000, Geo([]))


@pytest.mark.parametrize(("address", "country"), [(9, None), (10, "A"), (19, "A"), (20, None)])
def test_addresses_between_ranges_are_nobodys(address: int, country: str | None) -> None:
    geo = Geo([GeoRange(10, 19, "A"), GeoRange(25, 30, "B")])

    assert geo.country(address) == country


def test_the_ranges_of_addresses_are_in_order_and_apart() -> None:
    ranges = geo_ranges()

    assert all(each.first <= each.last for each in ranges)
    assert all(a.last < b.first for a, b in pairwise(ranges))


# --- windows


def last_firings(folder: Path, clicks: list[tuple[int, str, int]]) -> list[Any]:
    """What counts in the tables when clicks (second, page, bytes) come in that order."""
    folder.mkdir()
    windows, top, store = Table(folder, "windows"), Table(folder, "top"), SliceStore(folder)
    operator = Windows(store, windows, top, size_ms=10_000, slices=3, lateness_ms=0, best=2)
    for second, page, size in clicks:
        operator.advance(second * 1000)
        operator.add(second * 1000, page, page[:1], size)
    operator.finish()
    for each in (windows, top, store):
        each.close()
    found = []
    for name, group in (("windows", "kind, start"), ("top", "start")):
        path = table_path(folder, name)
        found += duckdb.sql(
            f"SELECT * EXCLUDE (firing) FROM '{path}' "
            f"QUALIFY firing = max(firing) OVER (PARTITION BY {group}) ORDER BY ALL"
        ).fetchall()
    return found


@given(
    clicks=st.lists(
        st.tuples(st.integers(100, 3000), st.sampled_from(["a1", "a2", "b1"]), st.integers(0, 9)),
        min_size=1,
        max_size=60,
    ),
    shuffle=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_order_of_clicks_the_last_firings_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, clicks: list[Any], shuffle: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    shuffled = clicks.copy()
    shuffle.shuffle(shuffled)

    assert last_firings(folder / "a", sorted(clicks)) == last_firings(folder / "b", shuffled)


def test_slices_that_no_window_waits_for_are_not_kept_in_memory(tmp_path: Path) -> None:
    windows, top, store = Table(tmp_path, "windows"), Table(tmp_path, "top"), SliceStore(tmp_path)
    operator = Windows(store, windows, top, size_ms=1000, slices=3, lateness_ms=0, best=1)
    for second in range(2000):
        operator.add(second * 1000, "/", "home", 1)
        operator.add(second * 7 % (second + 1) * 1000, "/", "home", 1)
        operator.advance(second * 1000)

        assert len(operator._open) <= MOST_CORRECTED + 8
    operator.finish()
    for each in (windows, top, store):
        each.close()


# --- runs


def dying(event: Event, state: State, resource: Analytics) -> Any:
    if event.data["seq"] % 20 == 0:
        raise Reject("on purpose")
    return aggregate(event, state, resource)


@pytest.mark.parametrize("options", [{}, {"inject": ("error:5%",), "attempts": 1}], ids=str)
def test_dead_letters_have_no_effect(tmp_path: Path, options: dict[str, Any]) -> None:
    scenario = Clicks({**SMALL, "duplicates": 0.2}, 1)
    own = tmp_path / "scenario"
    pipeline = otherwise(scenario, own, aggregate=dying)

    result, invariants = run_scenario(tmp_path, scenario, EVENTS, pipeline=pipeline, **options)

    # In either stage; some of them have copies, which count in their stead.
    assert result.counts["dead_lettered"] >= (500 if options else 300)
    assert broken(invariants) == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"users": 1},
        {"pages": 1, "top": 1},
        {"malformed": 0.5, "late": 0.5, "duplicates": 0.5, "within": 1},
        {"disorder": 120},  # most of it is late
        {"lateness": 0, "disorder": 0, "late": 0.0},
        {"per-second": 0.05, "window": 1, "sliding": 1, "gap": 1},
        {"per-second": 5000.0},
    ],
    ids=str,
)
def test_other_settings_keep_the_promises(tmp_path: Path, settings: dict[str, Any]) -> None:
    scenario = Clicks({**SMALL, **settings}, 5)

    _, invariants = run_scenario(tmp_path, scenario, 3000)

    assert broken(invariants) == {}


def test_nothing_at_all_keeps_the_promises(tmp_path: Path) -> None:
    _, invariants = run_scenario(tmp_path, Clicks({}, 1), 0)

    assert broken(invariants) == {}


# --- bugs


def skipping(event: Event, resource: Geo) -> Any:
    return None if event.sequence == 1000 else ingest(event, resource)


def forgetting_a_reason(event: Event, resource: Geo) -> Any:
    click = ingest(event, resource)
    return None if click.data.get("reason") == "protocol" else click


def confusing_reasons(event: Event, resource: Geo) -> Any:
    click = ingest(event, resource)
    if click.data.get("reason") == "bytes":
        click.data["reason"] = "status"
    return click


def moving_borders(event: Event, resource: Geo) -> Any:
    click = ingest(event, resource)
    if click.data.get("country") == "DE":
        click.data["country"] = "FR"
    return click


def losing_state(event: Event, state: State, resource: Analytics) -> Any:
    state.update(new_user())
    return aggregate(event, state, resource)


def losing_ids(event: Event, state: State, resource: Analytics) -> Any:
    state["ids"].clear()
    return aggregate(event, state, resource)


def taking_all_for_timely(event: Event, state: State, resource: Analytics) -> Any:
    resource.lateness_ms = 10**12
    return aggregate(event, state, resource)


def ending_sessions_too_soon(event: Event, state: State, resource: Analytics) -> Any:
    resource.gap_ms = 14_000
    return aggregate(event, state, resource)


def never_closing(event: Event, state: State, resource: Analytics) -> Any:
    results = aggregate(event, state, resource)
    return [each for each in results or [] if each["kind"] != "session"]


def counting_twice(event: Event, state: State, resource: Analytics) -> Any:
    click = event.data
    if click["seq"] % 500 == 0 and click["kind"] == "click":
        resource.windows.add(click["time"], click["page"], click["category"], click["bytes"])
    return aggregate(event, state, resource)


def adding_a_byte(event: Event, state: State, resource: Analytics) -> Any:
    if event.data["seq"] == 1001:
        resource.windows.add(event.data["time"], "/", "home", 1)
        resource.windows._open[event.data["time"] // 10_000]["/"][0] -= 1
    return aggregate(event, state, resource)


def telling_too_few(event: Event, state: State, resource: Analytics) -> Any:
    resource.windows._best = 9
    return aggregate(event, state, resource)


def never_firing(event: Event, state: State, resource: Analytics) -> Any:
    resource.windows._patience_ms = 10**12
    return aggregate(event, state, resource)


def telling_nothing(event: Event, state: State, resource: Analytics) -> None:
    aggregate(event, state, resource)


@pytest.mark.parametrize(
    ("doing", "promises"),
    [
        (skipping, {"clicks", "sessions", "windows"}),
        (forgetting_a_reason, {"malformed", "told"}),
        (confusing_reasons, {"malformed", "told"}),
        (moving_borders, {"clicks"}),
        (losing_state, {"duplicates", "clicks", "sessions", "windows"}),
        (losing_ids, {"duplicates", "clicks", "windows"}),
        (taking_all_for_timely, {"late", "clicks", "sessions", "windows"}),
        (ending_sessions_too_soon, {"sessions", "told"}),
        (never_closing, {"told"}),
        (counting_twice, {"windows", "top-k"}),
        (adding_a_byte, {"windows"}),
        (telling_too_few, {"top-k"}),
        (never_firing, {"told"}),
        (telling_nothing, {"told"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bug_breaks_its_promise(tmp_path: Path, doing: Doing, promises: set[str]) -> None:
    takes_state = "state" in doing.__annotations__

    found = broken_by(tmp_path, **{"aggregate" if takes_state else "ingest": doing})

    assert promises <= found
    assert len(promises) > 2 or found == promises


def test_a_memory_of_ids_that_is_too_short_is_found(tmp_path: Path) -> None:
    def forgetful(event: Event, state: State, resource: Analytics) -> Any:
        resource.within = 5
        return aggregate(event, state, resource)

    assert {"duplicates", "clicks"} <= broken_by(tmp_path, aggregate=forgetful)


def test_a_stream_that_is_reordered_breaks_what_goes_by_order(tmp_path: Path) -> None:
    scenario = Clicks({**SMALL, "duplicates": 0.3}, 1)

    _, invariants = run_scenario(tmp_path, scenario, EVENTS, inject=("reorder:1000",))

    assert "duplicates" in broken(invariants)
    assert not scenario.bears(("reorder:1000",))


# --- the oracle, by hand

T0 = EPOCH_MS
BY_HAND = {"window": 10, "sliding": 2, "lateness": 15, "gap": 15, "top": 1}


def by_hand(seq: int, received_s: int, at_s: int, target: str, size: str, id: str) -> bytes:
    line = (
        f'230.1.1.1 - u1 [01/Mar/2026:00:00:{at_s:02d}.000 +0000] "GET {target} HTTP/1.1" 200 '
        f'{size} "-" "curl/7.1" {id * 16}'
    )
    return msgspec.json.encode(
        {"key": "u1", "seq": seq, "received": T0 + received_s * 1000, "line": line}
    )


class ByHand(Clicks):
    """Six events of one user."""

    def lines(self) -> Iterator[bytes]:
        yield by_hand(0, 1, 1, "/", "10", "a")
        yield by_hand(1, 12, 9, "/a/x", "5", "b")
        yield by_hand(2, 13, 1, "/", "10", "a")
        yield msgspec.json.encode(
            {"key": "u1", "seq": 3, "received": T0 + 14_000, "line": "-- MARK --"}
        )
        yield by_hand(4, 20, 2, "/", "1", "d")
        yield by_hand(5, 30, 30, "/a/x", "-", "e")


def click_row(seq: int, id: str, at_s: int, page: str, category: str, size: int) -> tuple[Any, ...]:
    rest = (None, None, None, "Tool 7", "other", "GET", 200)
    return seq, id * 16, U1, T0 + at_s * 1000, page, category, *rest, size


def tumbling(start_s: int, name: str, size: int, firing: int = 1) -> tuple[Any, ...]:
    return ("tumbling", *span(start_s, 10), name, firing, 1, size)


def sliding(start_s: int, name: str, size: int) -> tuple[Any, ...]:
    return ("sliding", *span(start_s, 20), name, 1, 1, size)


def span(start_s: int, length_s: int) -> tuple[int, int]:
    return T0 + start_s * 1000, T0 + (start_s + length_s) * 1000


RIGHT: dict[str, list[tuple[Any, ...]]] = {
    "clicks": [
        click_row(0, "a", 1, "/", "home", 10),
        click_row(1, "b", 9, "/a/x", "a", 5),
        click_row(5, "e", 30, "/a/x", "a", 0),
    ],
    "refused": [(2, "duplicate", None), (3, "malformed", "form"), (4, "late", None)],
    "sessions": [
        (U1, T0 + 1000, 0, T0 + 1000, 1, 10, False),
        (U1, T0 + 1000, 1, T0 + 9000, 2, 15, False),
        (U1, T0 + 30_000, 5, T0 + 30_000, 1, 0, False),
    ],
    "windows": [
        *[tumbling(0, "/", 10), tumbling(0, "/a/x", 5), tumbling(30, "/a/x", 0)],
        *[sliding(-10, "home", 10), sliding(-10, "a", 5)],
        *[sliding(0, "home", 10), sliding(0, "a", 5)],
        *[sliding(20, "a", 0), sliding(30, "a", 0)],
    ],
    "top": [(T0, 1, "/", 1, 1), (T0 + 30_000, 1, "/a/x", 1, 1)],
}
TOLD = [{"kind": "malformed", "seq": 3, "reason": "form"}, {"kind": "late", "seq": 4}]


def judged_by_hand(
    folder: Path, tables: Mapping[str, list[tuple[Any, ...]]], told: list[Any]
) -> Mapping[str, str]:
    for name, rows in tables.items():
        table = Table(folder, name)
        for row in rows:
            table.add(row)
        table.close()
    output = folder / "out.jsonl"
    output.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in told))
    outcome = Outcome(6, str(output), str(folder), "key")
    return broken(ByHand(BY_HAND).check(outcome))


def test_what_was_worked_by_hand_is_right(tmp_path: Path) -> None:
    assert judged_by_hand(tmp_path, RIGHT, TOLD) == {}


def test_the_handlers_come_to_what_was_worked_by_hand(tmp_path: Path) -> None:
    _, invariants = run_scenario(tmp_path, ByHand(BY_HAND), 6)

    assert broken(invariants) == {}
    for name in ("clicks", "refused", "sessions", "windows"):
        path = table_path(tmp_path / "scenario", name)
        found = duckdb.sql(f"FROM '{path}'").fetchall()
        # Which firing it was, is not told by hand.
        assert {(*row[:4], 1, *row[5:]) if name == "windows" else row for row in found} == set(
            RIGHT[name]
        )


@pytest.mark.parametrize(
    ("table", "place", "row", "promise", "says"),
    [
        ("clicks", 1, click_row(1, "b", 9, "/a/x", "a", 6), "clicks", "click missing: 1, bbbb"),
        ("refused", 1, (3, "malformed", "url"), "malformed", "line missing: 3, form"),
        ("refused", 0, (2, "late", None), "duplicates", "copy not refused: 2; copy counted: 2"),
        ("refused", 0, (1, "duplicate", None), "duplicates", "copy not refused: 2"),
        ("refused", 2, (1, "late", None), "late", "click missing: 4; click not expected: 1"),
        ("sessions", 1, (U1, T0 + 1000, 1, T0 + 9000, 2, 15, True), "sessions", "session missing"),
        ("windows", 1, tumbling(0, "/a/x", 5, firing=2), "windows", "window missing: tumbling"),
        ("top", 0, (T0, 1, "/a/x", 1, 1), "top-k", "place missing"),
    ],
)
def test_a_row_that_is_wrong_breaks_its_promise(
    tmp_path: Path, table: str, place: int, row: tuple[Any, ...], promise: str, says: str
) -> None:
    rows = RIGHT[table].copy()
    rows[place] = row

    found = judged_by_hand(tmp_path, {**RIGHT, table: rows}, TOLD)

    assert says in found[promise]


@pytest.mark.parametrize("name", RIGHT)
def test_a_table_that_is_missing_breaks_all_promises(tmp_path: Path, name: str) -> None:
    tables = {each: rows for each, rows in RIGHT.items() if each != name}

    found = judged_by_hand(tmp_path, tables, TOLD)

    assert len(found) == len(Clicks.promises)
    assert "can't be read" in found["clicks"]


def test_what_differs_is_named_from_both_sides_and_counted(tmp_path: Path) -> None:
    rows = [(*row[:6], "no", *row[7:]) for row in RIGHT["clicks"]]

    found = judged_by_hand(tmp_path, {**RIGHT, "clicks": rows}, TOLD)

    assert re.fullmatch(
        "click missing: 0, .*; click not expected: 0, .*; click missing: 1, .*; and 3 more",
        found["clicks"],
    )


def test_the_oracle_leaves_nothing_behind(tmp_path: Path) -> None:
    judged_by_hand(tmp_path, RIGHT, TOLD)

    assert {each.name for each in tmp_path.iterdir()} == {
        "out.jsonl",
        *(f"{name}.parquet" for name in RIGHT),
    }


# --- what is refused


@pytest.mark.parametrize(
    "settings",
    [
        {"users": 0},
        {"malformed": 0.6},
        {"duplicates": -0.1},
        {"within": 0},
        {"lateness": -1},
        {"per-second": 0.0},
        {"sliding": 0},
        {"top": 0},
    ],
    ids=str,
)
def test_nonsense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match="give it"):
        Clicks(settings)


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "pyarrow"), ("duckdb", "DuckDB")])
def test_what_is_not_installed_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ScenarioError, match=rf"{name}.*millstream\[scenarios\]"):
        Clicks().pipeline(tmp_path)
