"""Orders: the shape of the stream, what an event does, and what the oracle catches."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millstream.engine import Pipeline, stage
from millstream.engine.event import Event
from millstream.workloads import orders_oracle as oracle
from millstream.workloads.orders import Orders, answer, apply, receive
from millstream.workloads.orders_oracle import Simulation
from millstream.workloads.orders_rules import Items, Note, apply_event, items_touched
from millstream.workloads.orders_rules import Orders as Known
from millstream.workloads.orders_store import (
    DATABASE,
    SqliteBeside,
    Store,
    View,
    close_store,
    open_sqlite,
)
from millstream.workloads.scenario import Outcome, ScenarioError, stream
from tests.support.scenarios import broken, run_scenario

EVENTS = 4000
FEW_OPEN = {"open": 50, "repeats": 0.05}


def events_of(scenario: Orders, count: int) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in islice(scenario.lines(), count)]


def pipeline_with(
    folder: Path, handler: Callable[..., Any], receiver: Callable[..., Any] = receive
) -> Pipeline:
    """The scenario's pipeline with another handler in a place."""
    opener = partial(open_sqlite, str(folder / "scenario" / DATABASE), durable=False)
    return Pipeline(
        stage(receiver, state=list),
        stage(handler, setup=opener, teardown=close_store, batch=10),
    )


# --- the stream


def test_the_steps_of_an_order_come_in_order_among_those_of_others() -> None:
    seen: dict[int, int] = {}
    apart = []
    last_place: dict[int, int] = {}
    for place, event in enumerate(events_of(Orders({"repeats": 0.0}), 30_000)):
        order, step = event["data"]["order"], event["data"]["step"]
        assert event["id"] == f"{event['key']}-{step}" == f"o{order}-{step}"
        assert step == seen.get(order, -1) + 1
        seen[order] = step
        if order in last_place:
            apart.append(place - last_place[order])
        last_place[order] = place

    assert 500 < sum(apart) / len(apart) < 2000


def test_no_more_orders_are_open_than_was_said() -> None:
    ended = {"order.ship", "stock.release"}
    open_orders: set[int] = set()
    for event in events_of(Orders({"open": 20, "repeats": 0.0, "cancels": 0.0}), 20_000):
        order = event["data"]["order"]
        wrong = event["type"] == "order.place" and event["data"]["total"] != sum(
            quantity * price for _, quantity, price in event["data"]["lines"]
        )
        (open_orders.discard if event["type"] in ended or wrong else open_orders.add)(order)

        assert len(open_orders) <= 20


def test_the_events_have_the_shares_that_were_asked_for() -> None:
    scenario = Orders({"declines": 0.2, "cancels": 0.3, "repeats": 0.1, "open": 100})
    lines = list(islice(scenario.lines(), 100_000))
    events = [msgspec.json.decode(line) for line in dict.fromkeys(lines)]
    types = Counter(event["type"] for event in events)
    payments = [e["data"]["approved"] for e in events if e["type"] == "payment.authorise"]

    assert 0.09 < 1 - len(events) / len(lines) < 0.11
    assert 0.18 < payments.count(False) / len(payments) < 0.22
    assert 0.25 < types["order.cancel"] / types["order.place"] < 0.3
    assert types["stock.release"] > types["order.cancel"] / 2
    assert min(types["payment.void"], types["payment.refund"]) > 0
    assert 1.1 < types["payment.capture"] / (types["order.ship"] + types["payment.refund"]) < 1.3


def test_some_items_are_bought_more_than_others() -> None:
    bought = Counter(
        item
        for event in events_of(Orders({"items": 100}), 20_000)
        for item, _, _ in event["data"].get("lines", ())
    )

    assert set(bought) == set(range(100))
    assert bought[0] > 5 * bought[99]


@pytest.mark.parametrize(
    "settings",
    [
        {"store": "mysql://root:secret@host/shop"},
        {"batch": 0},
        {"open": 0},
        {"items": 0},
        {"stock": -1},
        {"declines": 1.5},
        {"cancels": -0.1},
        {"repeats": 0.9},
    ],
    ids=str,
)
def test_parameters_refuse_what_makes_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError) as refusal:
        Orders(settings)

    assert "secret" not in str(refusal.value)


# --- handlers and store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = str(tmp_path / DATABASE)
    with SqliteBeside(path, 3, 10):
        opened = open_sqlite(path, durable=False)
        yield opened
        opened.close()


def events_named(*steps: tuple[str, dict[str, Any]], order: int = 0) -> list[Event]:
    return [
        Event.new(
            {"order": order, "step": step, "delivery": 1, **data},
            key=f"o{order}",
            id=f"o{order}-{step}",
            type=kind,
        )
        for step, (kind, data) in enumerate(steps)
    ]


PLACE = ("order.place", {"total": 800, "lines": [[0, 2, 100], [2, 3, 200]]})
RESERVE = ("stock.reserve", {})
AUTHORISE = ("payment.authorise", {"approved": True})
DECLINE = ("payment.authorise", {"approved": False})
HALF = ("payment.capture", {"amount": 400})
ALL = ("payment.capture", {"amount": 800})
SHIP = ("order.ship", {})
CANCEL = ("order.cancel", {})
VOID = ("payment.void", {})
REFUND = ("payment.refund", {})
RELEASE = ("stock.release", {})

LIVES: dict[str, tuple[list[tuple[str, dict[str, Any]]], str, list[int], int]] = {
    # Steps, the status in the end, what is left of the three items (of ten), cents captured.
    "shipped": ([PLACE, RESERVE, AUTHORISE, HALF, HALF, SHIP], "shipped", [8, 10, 7], 800),
    "declined": ([PLACE, RESERVE, DECLINE, RELEASE], "declined", [10, 10, 10], 0),
    "cancelled at once": ([PLACE, CANCEL], "cancelled", [10, 10, 10], 0),
    "cancelled in the middle": (
        [PLACE, RESERVE, AUTHORISE, HALF, CANCEL, VOID, REFUND, RELEASE],
        "cancelled",
        [10, 10, 10],
        0,
    ),
    "not undone yet": ([PLACE, RESERVE, AUTHORISE, ALL, CANCEL], "cancelling", [8, 10, 7], 800),
    "not authorised": ([PLACE, RESERVE, ALL, SHIP], "reserved", [8, 10, 7], 0),
    "captured too often": ([PLACE, RESERVE, AUTHORISE, HALF, ALL], "authorised", [8, 10, 7], 400),
    "refused": ([("order.place", {**PLACE[1], "total": 801}), RESERVE], "refused", [10] * 3, 0),
    "short": (
        [("order.place", {"total": 1100, "lines": [[1, 11, 100]]}), RESERVE, AUTHORISE],
        "short",
        [10, 10, 10],
        0,
    ),
    "never placed": ([RESERVE, AUTHORISE, ALL, SHIP, CANCEL, RELEASE], "", [10, 10, 10], 0),
}


@pytest.mark.parametrize("life", LIVES)
def test_an_order_comes_to_what_its_events_make_of_it(store: Store, life: str) -> None:
    steps, status, left, captured = LIVES[life]
    counts: list[int] = []
    answers = apply([receive(event, counts) for event in events_named(*steps)], resource=store)

    view = store.transact([(0, 0)], lambda view: [0, 1, 2], lambda view: None)
    assert [item.left for item in view.items.values()] == left
    assert answers[-1]["status"] == status
    assert sum(each["amount"] for each in answers) == captured
    assert (view.orders[0].captured if view.orders else 0) == captured


@pytest.mark.parametrize("life", LIVES)
def test_the_oracle_comes_to_the_same_by_hand(life: str) -> None:
    steps, status, left, captured = LIVES[life]
    simulation = Simulation(3, 10)

    for step, (kind, data) in enumerate(steps):
        for _ in range(2):
            line = {"type": kind, "data": {"order": 0, "step": step, **data}}
            simulation.event(msgspec.convert(line, oracle._Step))

    assert simulation.lives[0].status == status
    assert simulation.left == left
    assert simulation.lives[0].paid == captured


def test_an_event_that_is_tried_again_has_the_same_answer_and_no_effect(store: Store) -> None:
    events = events_named(PLACE, RESERVE, AUTHORISE, HALF)
    first = apply(events, resource=store)

    again = apply([events[3], events[1], events[3]], resource=store)

    assert again == [first[3], first[1], first[3]]
    view = store.transact([(0, 0)], lambda view: [0], lambda view: None)
    assert (view.orders[0].captured, view.items[0].reserved) == (400, 2)


def test_an_event_that_is_delivered_again_has_no_answer_and_no_effect(store: Store) -> None:
    counts: list[int] = []
    steps = [receive(event, counts) for event in events_named(PLACE, RESERVE, AUTHORISE, HALF)]
    first = apply(steps, resource=store)
    again = [receive(event, counts) for event in events_named(PLACE, RESERVE, AUTHORISE, HALF)]

    second = apply(again, resource=store)

    assert None not in first
    assert second == [None] * 4
    view = store.transact([(0, 0)], lambda view: [0], lambda view: None)
    assert (view.orders[0].captured, view.items[0].reserved) == (400, 2)


def test_a_batch_that_fails_has_no_effect_at_all(store: Store) -> None:
    (odd,) = events_named(("order.lose", {}), order=1)

    with pytest.raises(KeyError):
        apply([*events_named(PLACE, RESERVE), odd], resource=store)

    view = store.transact([(0, 0)], lambda view: [0], lambda view: None)
    assert (view.orders, view.notes, view.items[0].left) == ({}, {}, 10)


def test_a_process_that_is_killed_within_a_transaction_leaves_nothing(
    store: Store, tmp_path: Path
) -> None:
    script = (
        "import os, signal, sys\n"
        "from millstream.workloads.orders_rules import Note\n"
        "from millstream.workloads.orders_store import open_sqlite\n"
        "store = open_sqlite(sys.argv[1], durable=False)\n"
        "store._connection.execute('PRAGMA cache_size = 1')\n"  # so that it writes before the end
        "def work(view):\n"
        "    put = store._connection.execute\n"
        "    for step in range(5000):\n"
        "        put('INSERT INTO applied VALUES (0, ?, ?, ?, 0, 1)', (step, 'done', 'placed'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.transact([], lambda view: [], work)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / DATABASE)], check=False)

    view = store.transact([(0, 0), (0, 4999)], lambda view: [], lambda view: None)

    assert done.returncode == -signal.SIGKILL
    assert view.notes == {}


def test_a_new_run_in_the_folder_begins_anew(tmp_path: Path) -> None:
    scenario = Orders(FEW_OPEN)
    run_scenario(tmp_path, scenario, 500)
    (tmp_path / "scenario" / DATABASE).rename(tmp_path / DATABASE)

    with scenario.running(tmp_path), closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        assert database.execute("SELECT count(*) FROM applied").fetchone() == (0,)


# --- scarce stock


@pytest.mark.parametrize("order", ["key", "global"])
def test_the_oracle_agrees_where_stock_is_short(tmp_path: Path, order: str) -> None:
    scenario = Orders({**FEW_OPEN, "stock": 20, "items": 20})

    result, invariants = run_scenario(
        tmp_path, scenario, EVENTS, order=order, executor="process", workers=2
    )

    assert result.exit_code == 0
    assert broken(invariants) == {}
    with closing(sqlite3.connect(tmp_path / "scenario" / DATABASE)) as database:
        query = "SELECT count(*) FROM orders WHERE status = 'short'"
        assert database.execute(query).fetchone()[0] > 50


def refusing_the_third(orders: Known, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    if kind == "stock.reserve" and data["order"] == 3:
        orders[3].status = "short"
        return Note(3, data["step"], "short", "short", 0, data["delivery"])
    return apply_event(orders, items, kind, data)


# --- bugs in handlers


def applying(events: list[Event], resource: Store, *, rule: Callable[..., Note]) -> Any:
    """As apply(), by another rule."""
    asked = [(str(event.type), event.data) for event in events]
    names = [(data["order"], data["step"]) for _, data in asked]

    def work(view: View) -> None:
        for name, (kind, data) in zip(names, asked, strict=True):
            if name not in view.notes and name not in view.new:
                view.new[name] = rule(view.orders, view.items, kind, data)

    view = resource.transact(names, lambda view: items_touched(view.orders, asked), work)
    known = view.notes | view.new
    return [answer(event, known[name]) for event, name in zip(events, names, strict=True)]


def skipping_a_capture(orders: Known, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    if kind == "payment.capture" and data["order"] == 3:
        return Note(3, data["step"], "done", orders[3].status, data["amount"], data["delivery"])
    return apply_event(orders, items, kind, data)


def reserving_twice(orders: Known, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    note = apply_event(orders, items, kind, data)
    if kind == "stock.reserve" and data["order"] == 3:
        item, quantity = orders[3].lines[0]
        items[item].left -= quantity
        items[item].reserved += quantity
    return note


def losing_an_item(orders: Known, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    note = apply_event(orders, items, kind, data)
    if kind == "order.ship" and data["order"] == 3:
        items[orders[3].lines[0][0]].shipped -= 1
    return note


def capturing_a_cent_more(orders: Known, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    note = apply_event(orders, items, kind, data)
    if kind == "payment.capture" and data["order"] == 3:
        orders[3].captured += 1
    return note


def never_ending(orders: Known, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    note = apply_event(orders, items, kind, data)
    if kind == "order.ship" and data["order"] == 3:
        orders[3].status = "captured"
    return note


def ignoring_a_cancellation(
    orders: Known, items: Items, kind: str, data: Mapping[str, Any]
) -> Note:
    if kind == "order.cancel":
        number = data["order"]
        return Note(number, data["step"], "ignored", orders[number].status, 0, data["delivery"])
    return apply_event(orders, items, kind, data)


def answering_without_applying(events: list[Event], resource: Store) -> Any:
    skipped = [event for event in events if event.data["order"] == 3 and event.data["step"] == 2]
    applied = iter(apply([event for event in events if event not in skipped], resource))
    note = Note(3, 2, "done", "authorised", 0, 1)
    return [answer(event, note) if event in skipped else next(applied) for event in events]


def forgetting_what_was_applied(events: list[Event], resource: Store) -> Any:
    """Each delivery of a capture has its effect."""
    for event in events:
        if event.type == "payment.capture" and event.data["delivery"] > 1:
            event.data["step"] += 100 * event.data["delivery"]
    answers = apply(events, resource)
    return [each if each is None or each["step"] < 100 else None for each in answers]


def counting_nothing(event: Event, state: list[int]) -> Event:
    return receive(event, [])


def answering_more(events: list[Event], resource: Store) -> Any:
    return [
        {**told, "amount": told["amount"] + 1} if told and told["order"] == 3 else told
        for told in apply(events, resource)
    ]


def answering_late(events: list[Event], resource: Store) -> Any:
    """Of order 3, the second result after the third."""
    event_2 = {"id": "o3-2", "key": "o3", "type": "payment.authorise", "order": 3, "step": 2}
    told_2 = {**event_2, "outcome": "done", "status": "authorised", "amount": 0}
    made: list[Any] = []
    for told in apply(events, resource):
        name = (told["order"], told["step"]) if told else None
        if name == (3, 1):
            made.append([told_2, told])
        elif name == (3, 2):
            assert told == told_2
            made.append(None)
        else:
            made.append(told)
    return made


def answering_not_all(events: list[Event], resource: Store) -> Any:
    return [told if told and told["step"] != 1 else None for told in apply(events, resource)]


BUGS: dict[str, tuple[Callable[..., Any], Callable[..., Any], oracle.Promise]] = {
    "a capture skipped": (partial(applying, rule=skipping_a_capture), receive, oracle.MONEY),
    "stock taken twice": (partial(applying, rule=reserving_twice), receive, oracle.STOCK),
    "a piece lost": (partial(applying, rule=losing_an_item), receive, oracle.STOCK),
    "a cent too much": (partial(applying, rule=capturing_a_cent_more), receive, oracle.MONEY),
    "never ended": (partial(applying, rule=never_ending), receive, oracle.STATES),
    "short without need": (partial(applying, rule=refusing_the_third), receive, oracle.STATES),
    "no cancellations": (partial(applying, rule=ignoring_a_cancellation), receive, oracle.ONCE),
    "an event not applied": (answering_without_applying, receive, oracle.ONCE),
    "repeats applied": (forgetting_what_was_applied, receive, oracle.MONEY),
    "repeats told": (apply, counting_nothing, oracle.ANSWERS),
    "wrong amounts told": (answering_more, receive, oracle.ANSWERS),
    "results left out": (answering_not_all, receive, oracle.ANSWERS),
    "results out of order": (answering_late, receive, oracle.IN_ORDER),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_breaks_its_promise(tmp_path: Path, bug: str) -> None:
    handler, receiver, promise = BUGS[bug]

    result, invariants = run_scenario(
        tmp_path,
        Orders({**FEW_OPEN, "cancels": 0.2}),
        EVENTS,
        pipeline=pipeline_with(tmp_path, handler, receiver),
    )

    assert result.counts["dead_lettered"] == 0
    assert promise.name in broken(invariants)


def test_without_a_bug_the_same_pipeline_breaks_none(tmp_path: Path) -> None:
    pipeline = pipeline_with(tmp_path, partial(applying, rule=apply_event))

    _, invariants = run_scenario(tmp_path, Orders(FEW_OPEN), EVENTS, pipeline=pipeline)

    assert broken(invariants) == {}


# --- what is wrong in the database, or in the results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orders")
    _, invariants = run_scenario(folder, Orders(FEW_OPEN), EVENTS)
    assert broken(invariants) == {}
    return folder


def judge(folder: Path, **changes: Any) -> Mapping[str, str]:
    outcome = Outcome(EVENTS, str(folder / "out.jsonl"), str(folder / "scenario"), "key")
    return broken(Orders(FEW_OPEN).check(msgspec.structs.replace(outcome, **changes)))


_SHIPPED = "(SELECT min(id) FROM orders WHERE status = 'shipped')"
TAMPERINGS = {
    "UPDATE stock SET available = available - 1 WHERE id = 7": {"stock kept"},
    "UPDATE stock SET available = available + 1, shipped = shipped - 1 WHERE id = 0": {
        "stock kept"
    },
    "DELETE FROM stock WHERE id = 7": {"stock kept"},
    f"UPDATE orders SET captured = 0 WHERE id = {_SHIPPED}": {"money kept", "states"},
    f"UPDATE orders SET holds = 1 WHERE id = {_SHIPPED}": {"states", "stock kept"},
    f"UPDATE orders SET total = total + 1 WHERE id = {_SHIPPED}": {"money kept", "states"},
    "UPDATE orders SET lines = '[[1,1]]' WHERE status = 'cancelled'": {"states"},
    f"UPDATE orders SET id = id + 100000 WHERE id = {_SHIPPED}": {"states"},
    "DELETE FROM orders WHERE status = 'declined'": {"states"},
    f"DELETE FROM applied WHERE order_id = {_SHIPPED} AND step = 0": {"effects once"},
    f"UPDATE applied SET step = 40 WHERE order_id = {_SHIPPED} AND step = 0": {"effects once"},
    f"UPDATE applied SET status = '' WHERE order_id = {_SHIPPED} AND step = 0": {"effects once"},
    "UPDATE applied SET amount = amount + 1 WHERE order_id = 3 AND step = 0": {
        "money kept",
        "effects once",
    },
}


@pytest.mark.parametrize("sql", TAMPERINGS)
def test_a_database_that_is_wrong_is_seen(finished: Path, tmp_path: Path, sql: str) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "scenario" / DATABASE)) as database:
        assert database.execute(sql).rowcount > 0
        database.commit()

    assert set(judge(tmp_path)) == TAMPERINGS[sql]


def test_what_is_wrong_is_named_three_times_and_counted(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "scenario" / DATABASE)) as database:
        count = database.execute("DELETE FROM applied WHERE step = 3").rowcount
        database.execute("UPDATE orders SET captured = captured + 1 WHERE status = 'shipped'")
        database.commit()

    found = judge(tmp_path)
    assert found["effects once"].count("was not applied") == 3
    assert found["effects once"].endswith(f"and {count - 3:,} more")
    assert found["money kept"].count("shipped, of") == 2


def test_results_that_are_wrong_are_seen(finished: Path, tmp_path: Path) -> None:
    lines = (finished / "out.jsonl").read_bytes().splitlines(keepends=True)
    of_three = [place for place, line in enumerate(lines) if b'"order":3,' in line]
    first, second = of_three[:2]
    swapped = list(lines)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    changed = {
        "left out": (lines[:first] + lines[first + 1 :], {"answers once"}),
        "twice": ([*lines, lines[-1]], {"answers once"}),
        "foreign": ([*lines, lines[0].replace(b'"step":0', b'"step":40')], {"answers once"}),
        "other key": ([lines[0].replace(b'"key":"o', b'"key":"p'), *lines[1:]], {"answers once"}),
        "swapped": (swapped, {"in order"}),
    }

    for name, (made, promises) in changed.items():
        (tmp_path / name).write_bytes(b"".join(made))
        assert set(judge(finished, output=str(tmp_path / name))) == promises, name


def test_dead_letters_had_no_effect(finished: Path) -> None:
    lines = list(stream(Orders(FEW_OPEN), EVENTS))
    dead = frozenset(place for place, line in enumerate(lines) if b'"id":"o3-0"' in line)

    assert set(judge(finished, dead=dead)) >= {"states", "effects once", "answers once"}


def test_a_run_with_dead_letters_keeps_its_promises(tmp_path: Path) -> None:
    scenario = Orders({**FEW_OPEN, "repeats": 0.2})

    result, invariants = run_scenario(
        tmp_path, scenario, EVENTS, inject=("error:5%",), attempts=2, backoff="1ms..1ms"
    )

    assert result.counts["dead_lettered"] > 10
    assert broken(invariants) == {}
