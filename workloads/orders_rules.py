"""What each event of the scenario `orders` does to its order and to the stock.

Pure: orders and items are changed in memory; orders_store.py has them from a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

Line = tuple[int, int]
"""An item, and how many of it."""


class Order(Struct):
    """An order as the database has it; money in cents."""

    number: int
    status: str
    total: int
    lines: list[Line]
    holds: bool = False
    """Whether stock is reserved for it."""
    authorised: int = 0
    """What may still be captured."""
    captured: int = 0
    """What was captured and not paid back."""


class Item(Struct):
    """How many there are of an item."""

    number: int
    left: int
    reserved: int
    shipped: int


class Note(Struct, frozen=True):
    """That an event was applied, and what came of it."""

    order: int
    step: int
    outcome: str
    status: str
    """The order's, after it; empty when there is no such order."""
    amount: int
    """Cents captured, or paid back (below 0)."""
    delivery: int
    """Which of the event's deliveries it was, from 1."""


Orders = dict[int, Order]
Items = Mapping[int, Item]
Effect = tuple[str, int]
"""The outcome, and the amount of a note."""

IGNORED: Final = ("ignored", 0)
"""The event does not fit its order as it stands: one before it was lost, or the stock was short."""
DONE: Final = ("done", 0)
_ENDED_AS: Final = {"cancelling": "cancelled", "declining": "declined"}
"""What an order becomes when all that it had is given back."""


def apply_event(orders: Orders, items: Items, kind: str, data: Mapping[str, Any]) -> Note:
    """Change the order, and the items of it, as an event says; gives the note of it."""
    number = data["order"]
    outcome, amount = _RULES[kind](orders, items, data)
    status = orders[number].status if number in orders else ""
    return Note(number, data["step"], outcome, status, amount, data["delivery"])


def items_touched(orders: Orders, events: Iterable[tuple[str, Mapping[str, Any]]]) -> set[int]:
    """The items that events, in this order, may change, before any of them was applied."""
    placed: dict[int, list[tuple[int, int, int]]] = {}
    items: set[int] = set()
    for kind, data in events:
        number = data["order"]
        if kind == "order.place":
            placed[number] = data["lines"]
        elif kind in _TOUCHES_STOCK:
            known = orders.get(number)
            lines = placed.get(number, ()) if known is None else known.lines
            items.update(line[0] for line in lines)
    return items


def place(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """A new order, unless the total was found wrong."""
    number = data["order"]
    if number in orders:
        return IGNORED
    status = "refused" if data.get("refused") else "placed"
    lines = [(item, quantity) for item, quantity, _ in data["lines"]]
    orders[number] = Order(number, status, data["total"], lines)
    return ("refused", 0) if status == "refused" else DONE


def reserve(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """All that was ordered, or nothing of it."""
    order = orders.get(data["order"])
    if order is None or order.status != "placed":
        return IGNORED
    if any(items[item].left < quantity for item, quantity in order.lines):
        order.status = "short"
        return "short", 0
    for item, quantity in order.lines:
        items[item].left -= quantity
        items[item].reserved += quantity
    order.status, order.holds = "reserved", True
    return DONE


def authorise(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """The whole total, or the payment is declined: then the stock is to be released."""
    order = orders.get(data["order"])
    if order is None or order.status != "reserved":
        return IGNORED
    if not data["approved"]:
        order.status = "declining"
        return "declined", 0
    order.status, order.authorised = "authorised", order.total
    return DONE


def capture(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """A part of what was authorised, or all of it."""
    order, amount = orders.get(data["order"]), data["amount"]
    if order is None or order.status != "authorised" or order.authorised < amount:
        return IGNORED
    order.authorised -= amount
    order.captured += amount
    if not order.authorised:
        order.status = "captured"
    return "done", amount


def ship(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """What was paid for."""
    order = orders.get(data["order"])
    if order is None or order.status != "captured":
        return IGNORED
    for item, quantity in order.lines:
        items[item].reserved -= quantity
        items[item].shipped += quantity
    order.status, order.holds = "shipped", False
    return DONE


def cancel(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """From now on all that the order has is given back, each by an event of its own."""
    order = orders.get(data["order"])
    if order is None or order.status not in ("placed", "reserved", "authorised", "captured"):
        return IGNORED
    order.status = "cancelling"
    _settle(order)
    return DONE


def void(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """Give up what was authorised and not captured."""
    order = orders.get(data["order"])
    if order is None or order.status != "cancelling" or not order.authorised:
        return IGNORED
    order.authorised = 0
    _settle(order)
    return DONE


def refund(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """Pay back what was captured."""
    order = orders.get(data["order"])
    if order is None or order.status != "cancelling" or not order.captured:
        return IGNORED
    amount, order.captured = order.captured, 0
    _settle(order)
    return "done", -amount


def release(orders: Orders, items: Items, data: Mapping[str, Any]) -> Effect:
    """Put back what was reserved."""
    order = orders.get(data["order"])
    if order is None or order.status not in _ENDED_AS or not order.holds:
        return IGNORED
    for item, quantity in order.lines:
        items[item].reserved -= quantity
        items[item].left += quantity
    order.holds = False
    _settle(order)
    return DONE


def _settle(order: Order) -> None:
    if not (order.holds or order.authorised or order.captured):
        order.status = _ENDED_AS[order.status]


_RULES: Final[Mapping[str, Callable[[Orders, Items, Mapping[str, Any]], Effect]]] = {
    "order.place": place,
    "stock.reserve": reserve,
    "payment.authorise": authorise,
    "payment.capture": capture,
    "order.ship": ship,
    "order.cancel": cancel,
    "payment.void": void,
    "payment.refund": refund,
    "stock.release": release,
}
_TOUCHES_STOCK: Final = frozenset({"stock.reserve", "order.ship", "stock.release"})
