"""The oracle of the scenario `orders`: one event after another, in memory, beside the database.

It shares nothing with the handlers but the names of tables. Which order gets the last item follows
from the order of the events only where they are handled one by one; elsewhere it asks the database
which reservations failed, and whether they had to, and comes to all else by itself.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from struct import Struct as Packing
from typing import Final

import msgspec

from .scenario import (
    MOST_NAMED,
    Invariant,
    Outcome,
    Promise,
    Scenario,
    ScenarioError,
    judged,
    survivors,
)

STOCK: Final = Promise(
    "stock kept", "Of each item, what is left, reserved and shipped is what there was; none is < 0."
)
MONEY: Final = Promise(
    "money kept", "What was captured, less what was paid back, is the money of orders not undone."
)
STATES: Final = Promise("states", "Each order is in the one state that its events lead to.")
ONCE: Final = Promise("effects once", "Each event was applied once, with the effect that it has.")
ANSWERS: Final = Promise("answers once", "Each event that was applied has one result, and its own.")
IN_ORDER: Final = Promise("in order", "The results of an order come in the order of its events.")
PROMISES: Final = (STOCK, MONEY, STATES, ONCE, ANSWERS, IN_ORDER)

_NEXT: Final = {
    ("placed", "stock.reserve"): "reserved",
    ("reserved", "payment.authorise"): "authorised",
    ("authorised", "payment.capture"): "captured",
    ("captured", "order.ship"): "shipped",
}
_OUTCOMES: Final = ("done", "ignored", "refused", "short", "declined")
_STATUSES: Final = (
    "",
    *("placed", "reserved", "authorised", "captured", "shipped", "refused", "short"),
    *("declining", "declined", "cancelling", "cancelled"),
)
_OUTCOME_NUMBER: Final = {name: number for number, name in enumerate(_OUTCOMES)}
_STATUS_NUMBER: Final = {name: number for number, name in enumerate(_STATUSES)}
_ENDED: Final = frozenset({"shipped", "refused", "short", "declined", "cancelled"})
_UNPAID: Final = frozenset({"refused", "short", "declined", "cancelled"})

_ENTRY: Final = Packing("<HBBq")
"""Step, outcome, status, amount: what an event came to, in 12 bytes."""


class _Data(msgspec.Struct):
    order: int
    step: int
    total: int = 0
    lines: tuple[tuple[int, int, int], ...] = ()
    approved: bool = True
    amount: int = 0


class _Step(msgspec.Struct):
    type: str
    data: _Data


class _Answer(msgspec.Struct):
    key: str
    order: int
    step: int
    outcome: str
    status: str
    amount: int


class Life(msgspec.Struct, gc=False):
    """One order in the simulation; masks have a bit a step."""

    status: str = ""
    total: int = 0
    bought: tuple[int, ...] = ()
    """Item, quantity, item, quantity…"""
    owed: str = ""
    """What has to be given back before it has ended: a letter each, of s(tock), v(oid), r(efund).
    """
    open: int = 0
    """Authorised and not captured."""
    paid: int = 0
    entries: bytes = b""
    is_there: bool = False
    """Whether the database has it."""
    seen: int = 0
    noted: int = 0
    answered: int = 0
    last: int = -1
    """The place in `entries` of the last answer."""

    def entry(self, step: int) -> int:
        """The place of a step in `entries`; -1: it was not applied."""
        for place, (number, *_) in enumerate(_ENTRY.iter_unpack(self.entries)):
            if number == step:
                return place
        return -1


class Simulation:
    """All orders and the stock, after each event in its turn.

    `short`: the orders whose reservation failed, when that is known; else it follows from the
    stock.
    """

    def __init__(self, items: int, stock: int, short: frozenset[int] | None = None) -> None:
        self.lives: dict[int, Life] = {}
        self.left = [stock] * items
        self.reserved = [0] * items
        self.shipped = [0] * items
        self.wanted = [0] * items
        """What all reservations together asked for."""
        self._short = short

    def event(self, step: _Step) -> None:
        """The next one."""
        data = step.data
        life = self.lives.setdefault(data.order, Life())
        if life.seen >> data.step & 1:
            return
        life.seen |= 1 << data.step
        outcome, amount = self._outcome(life, step.type, data)
        life.entries += _ENTRY.pack(
            data.step, _OUTCOME_NUMBER[outcome], _STATUS_NUMBER[life.status], amount
        )

    def _outcome(self, life: Life, kind: str, data: _Data) -> tuple[str, int]:
        if kind == "order.place":
            return (self._placed(life, data), 0) if not life.status else ("ignored", 0)
        if kind == "order.cancel":
            return self._cancelled(life), 0
        if kind in ("stock.release", "payment.void", "payment.refund"):
            return self._given_back(life, kind)
        following = _NEXT.get((life.status, kind))
        if following is None or (kind == "payment.capture" and data.amount > life.open):
            return "ignored", 0
        if kind == "payment.authorise" and not data.approved:
            life.status, life.owed = "declining", "s"
            return "declined", 0
        if kind == "stock.reserve" and not self._reserves(life, data.order):
            life.status = "short"
            return "short", 0
        if kind == "payment.authorise":
            life.open = life.total
        elif kind == "payment.capture":
            life.open, life.paid = life.open - data.amount, life.paid + data.amount
            following = "authorised" if life.open else "captured"
        elif kind == "order.ship":
            self._move(life, self.reserved, self.shipped)
        life.status = following
        return "done", data.amount if kind == "payment.capture" else 0

    def _placed(self, life: Life, data: _Data) -> str:
        life.total = data.total
        life.bought = tuple(part for item, quantity, _ in data.lines for part in (item, quantity))
        is_right = data.total == sum(quantity * price for _, quantity, price in data.lines)
        life.status = "placed" if is_right else "refused"
        return "done" if is_right else "refused"

    def _reserves(self, life: Life, order: int) -> bool:
        pairs = list(zip(life.bought[::2], life.bought[1::2], strict=True))
        for item, quantity in pairs:
            self.wanted[item] += quantity
        if self._short is None:
            if not all(self.left[item] >= quantity for item, quantity in pairs):
                return False
        elif order in self._short:
            return False
        self._move(life, self.left, self.reserved)
        return True

    def _cancelled(self, life: Life) -> str:
        owed = {
            "placed": "",
            "reserved": "s",
            "authorised": "sv" if not life.paid else "svr",
            "captured": "sr",
        }.get(life.status)
        if owed is None:
            return "ignored"
        life.owed = owed
        life.status = "cancelling" if owed else "cancelled"
        return "done"

    def _given_back(self, life: Life, kind: str) -> tuple[str, int]:
        letter = {"stock.release": "s", "payment.void": "v", "payment.refund": "r"}[kind]
        if letter not in life.owed:
            return "ignored", 0
        life.owed = life.owed.replace(letter, "")
        amount = 0
        if letter == "s":
            self._move(life, self.reserved, self.left)
        elif letter == "v":
            life.open = 0
        else:
            amount, life.paid = -life.paid, 0
        if not life.owed:
            life.status = {"declining": "declined", "cancelling": "cancelled"}[life.status]
        return "done", amount

    @staticmethod
    def _move(life: Life, source: list[int], target: list[int]) -> None:
        for item, quantity in zip(life.bought[::2], life.bought[1::2], strict=True):
            source[item] -= quantity
            target[item] += quantity


class Findings:
    """What is wrong, by promise: the first few in words, and how many."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {each.name: [] for each in PROMISES}
        self._counts: Counter[str] = Counter()

    def add(self, promise: Promise, text: str) -> None:
        """One more."""
        self._counts[promise.name] += 1
        if len(self._texts[promise.name]) < MOST_NAMED:
            self._texts[promise.name].append(text)

    def judged(self, promise: Promise, fine: str) -> Invariant:
        """The invariant."""
        return judged(promise, self._texts[promise.name], fine, self._counts[promise.name])


def check_orders(scenario: Scenario, outcome: Outcome, path: Path) -> list[Invariant]:
    """Judge a run by the database that it left, and its results."""
    if not path.exists():
        raise ScenarioError(f"there is no {path}; the run has left no database to judge")
    findings = Findings()
    items, stock = int(scenario.settings["items"]), int(scenario.settings["stock"])
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        short = None if outcome.order == "global" else frozenset(_short_orders(database))
        simulation = Simulation(items, stock, short)
        decode = msgspec.json.Decoder(_Step).decode
        for line in survivors(scenario, outcome):
            simulation.event(decode(line))
        _check_stock(database, simulation, stock, findings)
        money = _check_money(database, simulation, findings)
        _check_states(database, simulation, stock, findings)
        _check_applied(database, simulation, findings)
    answers = _check_answers(outcome, simulation, findings)
    events = sum(len(life.entries) for life in simulation.lives.values()) // _ENTRY.size
    lives = Counter(life.status for life in simulation.lives.values() if life.status)
    ended = sum(count for status, count in lives.items() if status in _ENDED)
    return [
        findings.judged(STOCK, f"{items:,} items, {sum(simulation.shipped):,} pieces shipped"),
        findings.judged(MONEY, f"{money / 100:,.2f} captured and not paid back"),
        findings.judged(
            STATES,
            f"{lives.total():,} orders: {lives['shipped']:,} shipped, "
            f"{ended - lives['shipped']:,} ended otherwise, {lives.total() - ended:,} open",
        ),
        findings.judged(ONCE, f"{events:,} events, each applied once"),
        findings.judged(ANSWERS, f"{answers:,} results"),
        findings.judged(IN_ORDER, f"{answers:,} results of {len(simulation.lives):,} orders"),
    ]


def _short_orders(database: sqlite3.Connection) -> Iterator[int]:
    for (number,) in database.execute("SELECT order_id FROM applied WHERE outcome = 'short'"):
        yield number


def _check_stock(
    database: sqlite3.Connection, simulation: Simulation, stock: int, findings: Findings
) -> None:
    expected = zip(simulation.left, simulation.reserved, simulation.shipped, strict=True)
    wanted = dict(enumerate(expected))
    for item, initial, *counts in database.execute(
        "SELECT id, initial, available, reserved, shipped FROM stock ORDER BY id"
    ):
        left, reserved, shipped = counts
        should = wanted.pop(item, None)
        is_kept = min(counts) >= 0 and sum(counts) == initial == stock
        if not is_kept or tuple(counts) != should:
            findings.add(
                STOCK,
                f"item {item}, of which there were {stock}: {left} left, {reserved} reserved, "
                f"{shipped} shipped; it should be {should}",
            )
    for item in wanted:
        findings.add(STOCK, f"there is no item {item} any more")
    # The same by sums of the orders: what they hold and have got.
    held, shipped = database.execute(
        "SELECT coalesce(sum(reserved), 0), coalesce(sum(shipped), 0) FROM stock"
    ).fetchone()
    for name, there, condition in (
        ("reserved", held, "holds = 1"),
        ("shipped", shipped, "status = 'shipped'"),
    ):
        (ordered,) = database.execute(
            "SELECT coalesce(sum(json_extract(line.value, '$[1]')), 0) "
            f"FROM orders, json_each(orders.lines) AS line WHERE {condition}"
        ).fetchone()
        if ordered != there:
            findings.add(STOCK, f"{there} pieces are {name}, and the orders have {ordered}")


def _check_money(database: sqlite3.Connection, simulation: Simulation, findings: Findings) -> int:
    """Gives the cents that were captured and not paid back."""
    (moved,) = database.execute("SELECT coalesce(sum(amount), 0) FROM applied").fetchone()
    (held,) = database.execute("SELECT coalesce(sum(captured), 0) FROM orders").fetchone()
    should = sum(life.paid for life in simulation.lives.values())
    if not moved == held == should:
        findings.add(
            MONEY,
            f"{moved} cents were captured less what was paid back, and the orders have {held}; "
            f"it should be {should}",
        )
    unpaid = ", ".join(f"'{status}'" for status in sorted(_UNPAID))
    for number, status, total, captured in database.execute(
        "SELECT id, status, total, captured FROM orders WHERE "
        "(status = 'shipped' AND captured <> total) "
        f"OR (status IN ({unpaid}) AND captured + authorised <> 0) ORDER BY id"
    ):
        findings.add(MONEY, f"order {number}, {status}, of {total} cents has {captured} captured")
    return int(held)


def _check_states(
    database: sqlite3.Connection, simulation: Simulation, stock: int, findings: Findings
) -> None:
    for number, status, total, lines, holds, authorised, captured in database.execute(
        "SELECT id, status, total, lines, holds, authorised, captured FROM orders ORDER BY id"
    ):
        life = simulation.lives.get(number)
        if life is None or not life.status:
            findings.add(STATES, f"order {number} was never placed, and is {status}")
            continue
        life.is_there = True
        bought = tuple(part for line in msgspec.json.decode(lines) for part in line)
        holds_stock = life.status in ("reserved", "authorised", "captured") or "s" in life.owed
        seen = (status, total, bought, bool(holds), authorised, captured)
        should = (life.status, life.total, life.bought, holds_stock, life.open, life.paid)
        if seen != should:
            findings.add(STATES, f"order {number} is {seen}; it should be {should}")
        elif status == "short" and not _is_short(life, simulation, stock):
            findings.add(STATES, f"order {number} was refused, and there was enough for all")
    for number, life in simulation.lives.items():
        if life.status and not life.is_there:
            findings.add(STATES, f"order {number} is not there; it should be {life.status}")


def _is_short(life: Life, simulation: Simulation, stock: int) -> bool:
    return any(simulation.wanted[item] > stock for item in life.bought[::2])


def _check_applied(
    database: sqlite3.Connection, simulation: Simulation, findings: Findings
) -> None:
    for number, step, *row in database.execute(
        "SELECT order_id, step, outcome, status, amount FROM applied ORDER BY order_id, step"
    ):
        life = simulation.lives.get(number)
        place = -1 if life is None else life.entry(step)
        if life is None or place < 0:
            findings.add(ONCE, f"event o{number}-{step} was applied, and never put in")
            continue
        if life.noted >> step & 1:
            findings.add(ONCE, f"event o{number}-{step} was applied twice")
        life.noted |= 1 << step
        should = _told(life, place)
        if tuple(row) != should:
            findings.add(ONCE, f"event o{number}-{step} came to {tuple(row)}, not {should}")
    for number, life in simulation.lives.items():
        for step in _steps(life.seen & ~life.noted):
            findings.add(ONCE, f"event o{number}-{step} was not applied")


def _check_answers(outcome: Outcome, simulation: Simulation, findings: Findings) -> int:
    """Gives how many results there are."""
    decode = msgspec.json.Decoder(_Answer).decode
    count = 0
    with open(outcome.output, "rb") as output:
        for line in output:
            answer = decode(line)
            count += 1
            name = f"o{answer.order}-{answer.step}"
            life = simulation.lives.get(answer.order)
            place = -1 if life is None else life.entry(answer.step)
            if life is None or place < 0:
                findings.add(ANSWERS, f"event {name} has a result, and was never put in")
                continue
            if life.answered >> answer.step & 1:
                findings.add(ANSWERS, f"event {name} has two results")
                continue
            life.answered |= 1 << answer.step
            told, should = (answer.outcome, answer.status, answer.amount), _told(life, place)
            if told != should or answer.key != f"o{answer.order}":
                findings.add(ANSWERS, f"event {name} of {answer.key} has {told}, not {should}")
            if place < life.last:
                findings.add(IN_ORDER, f"event {name} has its result after one that came later")
            life.last = max(life.last, place)
    for number, life in simulation.lives.items():
        for step in _steps(life.seen & ~life.answered):
            findings.add(ANSWERS, f"event o{number}-{step} has no result")
    return count


def _told(life: Life, place: int) -> tuple[str, str, int]:
    _, outcome, status, amount = _ENTRY.unpack_from(life.entries, place * _ENTRY.size)
    return _OUTCOMES[outcome], _STATUSES[status], amount


def _steps(mask: int) -> Sequence[int]:
    return [step for step in range(mask.bit_length()) if mask >> step & 1]
