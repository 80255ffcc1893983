"""The scenario nexmark: its stream, each of its queries, and the oracle that tells them wrong."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Event, Pipeline, Reject
from millstream.engine.order import Order
from millstream.engine.pipeline import Handler
from millstream.workloads.nexmark import Nexmark
from millstream.workloads.nexmark_generator import BASE_TIME_MS
from millstream.workloads.nexmark_oracle import judge
from millstream.workloads.nexmark_queries import QUERIES, Largest
from millstream.workloads.scenario import ScenarioError, stream
from tests.support.scenarios import broken, run_scenario

EVENTS = 20_000
FEW = 6_000
STATEFUL = ("q3", "q4", "q5", "q7", "q8", "q11")
# Many windows, and much out of order in them: 40 s of events, groups of a quarter of a second.
HARD = {"first-event-rate": 500, "out-of-order-group-size": 128, "window-size-sec": 3}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "workers and errors": {
        **{"executor": "process", "workers": 2},
        **{"inject": ("error:1%",), "attempts": 10, "backoff": "1ms..1ms"},
    },
}


def scenario(query: str = "q5", **settings: Any) -> Nexmark:
    named = {name.replace("_", "-"): value for name, value in settings.items()}
    return Nexmark({"query": query, **named}, 1)


def hard(query: str, **settings: Any) -> Nexmark:
    return Nexmark({"query": query, **HARD, **settings}, 1)


def events_of(made: Nexmark, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream(made, count)]


# --- the queries


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", Nexmark.orders)
@pytest.mark.parametrize("query", QUERIES)
def test_each_query_gives_what_sql_says(tmp_path: Path, query: str, order: Order, way: str) -> None:
    events = FEW if WAYS[way] and order == "global" else EVENTS

    result, invariants = run_scenario(tmp_path, hard(query), events, order=order, **WAYS[way])

    assert result.exit_code == 0, result.notes
    assert result.counts["emitted"] > 0
    assert broken(invariants) == {}


@pytest.mark.parametrize("query", STATEFUL)
def test_queries_with_state_take_an_event_once(tmp_path: Path, query: str) -> None:
    _, invariants = run_scenario(tmp_path, hard(query), FEW, inject=("duplicate:5%",))

    assert broken(invariants) == {}


@pytest.mark.parametrize("query", QUERIES)
def test_what_died_had_no_effect(tmp_path: Path, query: str) -> None:
    result, invariants = run_scenario(tmp_path, hard(query), FEW, inject=("error:5%",), attempts=1)

    assert result.counts["dead_lettered"] > 0
    assert broken(invariants) == {}


@pytest.mark.parametrize("query", ["q4", "q5", "q7"])
def test_the_order_in_which_updates_are_written_does_not_matter(tmp_path: Path, query: str) -> None:
    options = {"executor": "process", "workers": 2, "emit": "input"}

    _, invariants = run_scenario(tmp_path, hard(query), FEW, **options)

    assert broken(invariants) == {}


@pytest.mark.parametrize("query", STATEFUL)
def test_the_state_of_keys_stays_small(query: str) -> None:
    made = hard(query, **{"key-groups": 200, "num-active-people": 100})
    first = made.pipeline(Path()).stages[0]
    states: dict[str, dict[str, Any]] = {}
    for event in events_of(made, 30_000):
        named = Event.new(event["data"], type=event["type"], sequence=event["seq"])
        first.handler(named, state=states.setdefault(event["key"], {}))
    sizes = [sum(map(_leaves, state.values())) for state in states.values()]

    assert len(states) <= 400
    assert max(sizes) < 1000 and statistics.mean(sizes) < 60


def _leaves(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_leaves, value.values()))
    return sum(map(_leaves, value)) if isinstance(value, list | tuple) else 1


def test_what_comes_after_its_window_is_gone_is_refused() -> None:
    largest = Largest(behind_ms=100)
    for start in (0, 50, 150):
        largest.reached([(start, 1)])

    largest.admit(50)
    with pytest.raises(Reject, match="150 ms before"):
        largest.admit(0)


# --- bugs


def bugged(made: Nexmark, place: int, bug: Callable[[Handler], Handler]) -> Pipeline:
    """The scenario's pipeline, with a bug in one of its stages."""
    stages = list(made.pipeline(Path()).stages)
    stages[place] = replace(stages[place], handler=bug(stages[place].handler))
    return Pipeline(*stages)


def skips(handler: Handler) -> Handler:
    """Every third event that would have a result, or a state."""
    calls = itertools.count(1)

    def skipping(event: Event) -> Any:
        found = handler(event)
        return None if found and next(calls) % 3 == 0 else found

    def skipping_state(event: Event, state: Any) -> Any:
        return handler(event, state=state) if next(calls) % 3 else None

    return skipping if stateless(handler) else skipping_state


def twice(handler: Handler) -> Handler:
    """Each result, or each event's effect on the state."""

    def doubled(event: Event) -> Any:
        found = handler(event)
        return [found, found] if found else None

    def doubled_state(event: Event, state: Any) -> Any:
        other = Event.new(dict(event.data), type=event.type, sequence=event.sequence)
        found = handler(event, state=state)
        state.pop("place", None)
        return [*rows(found), *rows(handler(other, state=state))]

    return doubled if stateless(handler) else doubled_state


def forgets(handler: Handler) -> Handler:
    """What was in the state."""

    def forgetting(event: Event, state: Any) -> Any:
        return handler(event, state={})

    return forgetting


def swaps(handler: Handler) -> Handler:
    """An event is handled after the next one of its key."""

    def swapping(event: Event, state: Any) -> Any:
        if "kept" not in state:
            kept = (event.data, event.type, event.sequence)
            state["kept"] = kept
            return None
        data, type, sequence = state.pop("kept")
        late = Event.new(data, type=type, sequence=sequence)
        return [*rows(handler(event, state=state)), *rows(handler(late, state=state))]

    return swapping


def changes(name: str, by: int) -> Callable[[Handler], Handler]:
    """A number in each result."""

    def change(found: Any) -> Any:
        for each in rows(found):
            row = each.data if isinstance(each, Event) else each
            row[name] += by
        return found

    def changing(handler: Handler) -> Handler:
        def changed(event: Event) -> Any:
            return change(handler(event))

        def changed_state(event: Event, state: Any) -> Any:
            return change(handler(event, state=state))

        return changed if stateless(handler) else changed_state

    return changing


def stateless(handler: Handler) -> bool:
    return not hasattr(handler, "func")


def rows(found: Any) -> Sequence[Any]:
    return found if isinstance(found, list) else () if found is None else (found,)


BUGS = [
    *((query, skips) for query in QUERIES),
    *((query, twice) for query in ("q0", "q1", "q2", "q3", "q5", "q11")),
    *((query, forgets) for query in STATEFUL if query != "q7"),
    *((query, swaps) for query in ("q5", "q11")),
    ("q1", changes("price", 1)),
    ("q2", changes("auction", 1)),
    ("q3", changes("id", 1)),
    ("q4", changes("gain", 1)),
    ("q7", changes("price", 1)),
    ("q8", changes("starttime", 1000)),
    ("q11", changes("bid_count", 1)),
]


@pytest.mark.parametrize(("query", "bug"), BUGS)
def test_a_bug_is_found(tmp_path: Path, query: str, bug: Callable[[Handler], Handler]) -> None:
    made = hard(query)

    _, invariants = run_scenario(tmp_path, made, FEW, pipeline=bugged(made, 0, bug))

    assert list(broken(invariants)) == ["result"]
    assert "the row" in broken(invariants)["result"]


def test_a_row_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    found = judged_rows(tmp_path, "q2", [bid(0, 123, price=5)], ['{"auction": "many"}'])

    assert found.differences == 1
    assert "can't be read" in found.wrong[0]


# --- the oracle, on cases worked by hand


def line(kind: str, place: int, **data: Any) -> bytes:
    return json.dumps({"key": "k", "seq": place, "type": kind, "data": data}).encode()


def bid(at: int, auction: int = 1, bidder: int = 1, price: int = 1, extra: str = "") -> bytes:
    members = {"auction": auction, "bidder": bidder, "price": price, "dateTime": at}
    return line("bid", next(_places), **members, extra=extra)


def auction(at: int, id: int, *, expires: int = 0, seller: int = 1, category: int = 10) -> bytes:
    members = {"id": id, "dateTime": at, "expires": expires, "seller": seller}
    return line("auction", next(_places), **members, category=category)


def person(at: int, id: int, name: str = "Ada", state: str = "OR") -> bytes:
    members = {"id": id, "dateTime": at, "name": name, "city": "Salem", "state": state}
    return line("person", next(_places), **members)


_places = itertools.count()


def judged_rows(
    folder: Path, query: str, events: Iterable[bytes], written: Iterable[str], size_ms: int = 10
) -> Any:
    output = folder / "out.jsonl"
    output.write_text("".join(each + "\n" for each in written))
    return judge(query, events, str(output), str(folder), size_ms=size_ms, period_ms=5)


def as_lines(names: str, *rows: Sequence[Any]) -> list[str]:
    return [json.dumps(dict(zip(names.split(), row, strict=True))) for row in rows]


def in_data(events: Sequence[bytes], rows: Sequence[str]) -> list[str]:
    """Rows as the payloads of those events."""
    places = [json.loads(event)["seq"] for event in events]
    return [f'{{"seq": {at}, "data": {row}}}' for at, row in zip(places, rows, strict=True)]


def test_q1_has_three_decimals(tmp_path: Path) -> None:
    names = "auction bidder price dateTime extra"
    events = [bid(0, price=1), bid(0, price=99_999_999, extra="x")]
    written = in_data(events, as_lines(names, (1, 1, 0.908, 0, ""), (1, 1, 90_799_999.092, 0, "x")))

    assert judged_rows(tmp_path, "q1", events, written).wrong == ()


def test_q3_joins_whoever_comes_first(tmp_path: Path) -> None:
    events = [
        *(auction(0, 5, seller=1), person(9, 1), auction(10, 6, seller=1)),
        *(auction(10, 7, seller=1, category=11), person(10, 2, state="AZ")),
        *(auction(11, 8, seller=2), auction(11, 9, seller=3)),
    ]
    written = as_lines("name city state id", ("Ada", "Salem", "OR", 6), ("Ada", "Salem", "OR", 5))

    assert judged_rows(tmp_path, "q3", events, written).wrong == ()


def test_q4_averages_the_highest_bids_within_the_time_of_auctions(tmp_path: Path) -> None:
    events = [
        # A bid at the begin, and one at the end, count; before and after that they do not.
        *(bid(9, 1, price=90), bid(10, 1, price=5), auction(10, 1, expires=20)),
        *(bid(20, 1, price=8), bid(21, 1, price=99)),
        # Still open; another without a bid in its time; one of another category.
        *(auction(12, 2, expires=99), bid(13, 2, price=11)),
        *(auction(14, 3, expires=20), bid(50, 3, price=70)),
        *(auction(14, 4, expires=20, category=11), bid(15, 4, price=3)),
    ]
    names = "id final total auctions update"
    written = as_lines(
        names, (10, 5, 5, 1, 1), (10, 9, 19, 2, 3), (10, 8, 8, 1, 2), (11, 3, 3, 1, 1)
    )

    assert judged_rows(tmp_path, "q4", events, written).wrong == ()


def test_q5_has_all_auctions_with_the_most_bids_of_a_window(tmp_path: Path) -> None:
    # Windows begin at -5, 0 and 5, and so on, and are 10 long.
    events = [bid(4, 1), bid(4, 2), bid(5, 1), bid(9, 2), bid(14, 3)]
    names = "auction num starttime"
    updates = as_lines(names, (1, 1, -5), (2, 1, -5), (1, 1, 0), (1, 2, 0), (2, 2, 0))
    more = as_lines(names, (1, 1, 5), (2, 1, 5), (3, 1, 5), (3, 1, 10))

    assert judged_rows(tmp_path, "q5", events, [*updates, *more]).wrong == ()


def test_q7_has_all_of_the_highest_bids_of_a_window(tmp_path: Path) -> None:
    events = [bid(0, 1, price=7), bid(9, 2, price=7), bid(10, 3, price=7), bid(11, 4, price=8)]
    names = "starttime auction bidder price dateTime extra"
    first = as_lines(names, (0, 1, 1, 7, 0, ""), (0, 2, 1, 7, 9, ""))
    second = as_lines(names, (10, 3, 1, 7, 10, ""), (10, 4, 1, 8, 11, ""))
    written = in_data(events, [*first, *second])

    assert judged_rows(tmp_path, "q7", events, written).wrong == ()


def test_q8_has_who_came_and_sold_in_the_same_window(tmp_path: Path) -> None:
    events = [
        *(auction(1, 1, seller=1), person(9, 1), auction(9, 2, seller=1)),
        *(person(9, 2), auction(10, 3, seller=2)),
    ]

    written = as_lines("id name starttime", (1, "Ada", 0))

    assert judged_rows(tmp_path, "q8", events, written).wrong == ()


def test_q11_ends_a_session_after_a_gap(tmp_path: Path) -> None:
    # 10 after another is in time, 11 is too late.
    events = [bid(0), bid(10), bid(21), bid(21), bid(5, bidder=2)]
    names = "bidder bid_count starttime endtime update"
    written = as_lines(names, (1, 2, 0, 20, 1), (1, 2, 21, 31, 3), (2, 1, 5, 15, 4))

    assert judged_rows(tmp_path, "q11", events, written).wrong == ()


def test_q11_takes_back_what_was_joined(tmp_path: Path) -> None:
    events = [bid(0), bid(20), bid(10)]
    names = "bidder bid_count starttime endtime update"
    updates = as_lines(names, (1, 1, 0, 10, 0), (1, 1, 20, 30, 1), (1, 3, 0, 30, 2))
    taken_back = as_lines(names, (1, 0, 20, 30, 2))

    assert judged_rows(tmp_path, "q11", events, [*taken_back, *updates]).wrong == ()
    assert judged_rows(tmp_path, "q11", events, updates).wrong == (
        "the row bidder 1, bid_count 1, starttime 20, endtime 30 is too much",
    )


def test_rows_that_differ_are_named(tmp_path: Path) -> None:
    events = [bid(0, 123, price=price) for price in range(5)]
    written = as_lines("auction price", (123, 0), (123, 0), (123, 1))

    found = judged_rows(tmp_path, "q2", events, written)

    assert found.differences == 4
    assert found.wrong == (
        "the row auction 123, price 2 is missing",
        "the row auction 123, price 3 is missing",
        "the row auction 123, price 4 is missing",
        "the row auction 123, price 0 is too much",
    )


def test_nothing_is_left_of_the_oracle(tmp_path: Path) -> None:
    judged_rows(tmp_path, "q2", [], [])

    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.workloads.nexmark_oracle.find_spec", lambda name: None)

    with pytest.raises(ScenarioError, match=r"pip install 'millstream\[scenarios\]'"):
        scenario().running(Path())


# --- the stream


def test_an_epoch_has_each_kind_in_its_proportion() -> None:
    kinds = [event["type"] for event in events_of(scenario(prob_delayed_event=0.0), 500)]

    assert kinds == (["person"] + ["auction"] * 3 + ["bid"] * 46) * 10


def test_ids_follow_one_another() -> None:
    events = events_of(scenario(prob_delayed_event=0.0), 5000)

    for kind in ("person", "auction"):
        ids = [event["data"]["id"] for event in events if event["type"] == kind]
        assert ids == list(range(1000, 1000 + len(ids)))


def test_events_happen_at_their_rate() -> None:
    events = events_of(scenario(prob_delayed_event=0.0, first_event_rate=250), 500)

    assert [event["time"] - BASE_TIME_MS for event in events] == [4 * each for each in range(500)]
    assert all(event["time"] == event["data"]["dateTime"] for event in events)


def test_bids_and_auctions_have_their_favourites() -> None:
    events = events_of(scenario(prob_delayed_event=0.0), 100_000)
    bids = [event["data"] for event in events if event["type"] == "bid"]
    sold = [event["data"]["seller"] for event in events if event["type"] == "auction"]

    hot = sum(each["auction"] % 100 == 0 for each in bids) / len(bids)
    by_hot = sum(each["bidder"] % 100 == 1 for each in bids) / len(bids)
    of_hot = sum(each % 100 == 0 for each in sold) / len(sold)
    assert 0.49 < hot < 0.52
    assert 0.74 < by_hot < 0.77
    assert 0.72 < of_hot < 0.78


def test_bids_are_for_auctions_in_flight_and_by_active_people() -> None:
    auctions, people = 0, 0
    for event in events_of(scenario(prob_delayed_event=0.0, num_active_people=50), 50_000):
        data = event["data"]
        if event["type"] == "person":
            people = data["id"]
        elif event["type"] == "auction":
            auctions = data["id"]
            assert people - 100 < data["seller"] <= people + 10
        else:
            assert auctions - 100 <= data["auction"] <= auctions + 10
            assert people - 100 < data["bidder"] <= people + 10


def test_prices_are_spread_evenly_over_six_powers_of_ten() -> None:
    events = events_of(scenario(), 60_000)
    digits = Counter(len(str(event["data"]["price"])) for event in events if event["type"] == "bid")

    shares = [digits[size] / digits.total() for size in range(3, 9)]
    assert all(0.15 < share < 0.18 for share in shares)


def test_auctions_last_as_long_as_others_take_their_place() -> None:
    events = events_of(scenario(prob_delayed_event=0.0), 100_000)
    lengths = [
        event["data"]["expires"] - event["time"] for event in events if event["type"] == "auction"
    ]

    # 100 auctions are 1,666 events, or 167 ms.
    assert 155 < statistics.mean(lengths) < 178
    assert min(lengths) >= 1 and max(lengths) <= 334


@pytest.mark.parametrize("kind", ["person", "auction", "bid"])
def test_events_have_about_the_size_that_was_asked_for(kind: str) -> None:
    made = scenario(**{f"avg_{kind}_byte_size": 1000})
    extras = [
        len(event["data"]["extra"]) for event in events_of(made, 20_000) if event["type"] == kind
    ]

    assert 800 < statistics.mean(extras) < 1000
    assert min(extras) < 0.9 * statistics.mean(extras) < 1.1 * statistics.mean(extras) < max(extras)


@pytest.mark.parametrize("group", [1, 3, 10, 1000])
@pytest.mark.parametrize("delay", [0, 1, 3])
def test_no_event_is_later_than_it_may_be(group: int, delay: int) -> None:
    made = scenario(out_of_order_group_size=group, occasional_delay_sec=delay, first_event_rate=700)
    newest = late = 0
    for event in events_of(made, 20_000):
        newest = max(newest, event["time"])
        late = max(late, newest - event["time"])

    assert late <= made.times.disorder_ms
    assert (late > 0) == (group > 1 or delay > 0)


def test_a_group_has_all_of_its_events() -> None:
    made = scenario(out_of_order_group_size=1000, prob_delayed_event=0.0)
    times = [event["time"] for event in events_of(made, 3000)]

    assert times != sorted(times)
    assert sorted(times) == [
        event["time"] for event in events_of(scenario(prob_delayed_event=0.0), 3000)
    ]


def test_a_tenth_of_the_events_comes_late() -> None:
    newest, late = 0, 0
    for event in events_of(scenario(), 100_000)[40_000:]:
        late += event["time"] < newest
        newest = max(newest, event["time"])

    assert 0.09 < late / 60_000 < 0.11


def test_an_auction_is_within_reach_of_its_seller() -> None:
    made = scenario(num_active_people=200)
    events = events_of(made, 50_000)
    came = {event["data"]["id"]: event["time"] for event in events if event["type"] == "person"}
    apart = [
        abs(event["time"] - came[event["data"]["seller"]])
        for event in events
        if event["type"] == "auction" and event["data"]["seller"] in came
    ]

    assert 0.5 * made.times.reach_ms < max(apart) <= made.times.reach_ms


def test_queries_differ_in_the_keys_of_events_alone() -> None:
    by_auction, by_person = (events_of(scenario(query), 3000) for query in ("q5", "q8"))

    for one, other in zip(by_auction, by_person, strict=True):
        assert one.pop("key") == own_key(one)
        assert other.pop("key") == "p{}".format(
            one["data"].get("seller", one["data"].get("bidder", one["data"].get("id")))
        )
        assert one == other


def own_key(event: dict[str, Any]) -> str:
    data = event["data"]
    return (
        f"p{data['id']}" if event["type"] == "person" else f"a{data.get('auction', data.get('id'))}"
    )


def test_keys_come_again_after_so_many_ids() -> None:
    keys = {event["key"] for event in events_of(scenario(key_groups=20), 5000)}

    assert keys == {f"{kind}{number}" for kind in "ap" for number in range(20)}


def test_places_count_the_events_as_they_come() -> None:
    assert [event["seq"] for event in events_of(scenario(), 1000)] == list(range(1000))


# --- parameters


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"query": "q6"}, "it can be q0, q1"),
        ({"out-of-order-group-size": 1906}, "a number that this does not divide"),
        ({"person-proportion": 0}, "1 or more"),
        ({"prob-delayed-event": 1.5}, "1 or less"),
        ({"prob-delayed-event": float("nan")}, "0 or more"),
        ({"first-event-rate": 0}, "1 or more"),
        ({"hot-auction-ratio": 0}, "1 or more"),
        ({"bidders": 3}, "no such parameter"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        Nexmark(settings)
