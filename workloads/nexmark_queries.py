"""The handlers of Nexmark's queries, as the SQL files of nexmark-flink have them; a pipeline each.

What goes by one key (an auction, a person) is in the state of that key, in a stage that worker
processes may run; what goes across keys is in an inline stage behind it. The SQL that all this is
checked against stands in nexmark_oracle.py. Imported by worker processes: nothing heavy here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, Reject, Stage, stage

# Results are a stream of updates: whatever the order in which keys are handled and results are
# written, the rows themselves tell which of them count (by `update`, or by the largest value of a
# window). A window is not closed, since a run has no timers: its rows stand for what came so far.
#
# State is dropped by event time. In a key's state the newest event of that key tells the time: no
# event is older than the newest before it by more than `disorder_ms`, which follows from the
# generator's settings, so what is dropped can't be needed again.

State = dict[str, Any]
Row = dict[str, Any]

QUERIES: Final = ("q0", "q1", "q2", "q3", "q4", "q5", "q7", "q8", "q11")
BY_PERSON: Final = frozenset(("q3", "q8", "q11"))
"""Those whose events have the key of a person: their own, a seller's, a bidder's."""


class Times(Struct, frozen=True):
    """What the queries have to know of the settings, in ms of event time."""

    size_ms: int
    """The length of a window (q5, q7, q8), and the gap that ends a session (q11)."""
    period_ms: int
    """How far sliding windows are apart (q5)."""
    pane_ms: int
    """Of so long panes every window of q5 is made; what is counted is counted once a pane."""
    disorder_ms: int
    """No event is older than the newest before it in the stream by more than this."""
    reach_ms: int
    """No auction and its seller are further apart than this (q3)."""
    behind_ms: int
    """How far one key may be handled behind another: the inline stages keep windows so long."""


# --- q0, q1, q2: one bid at a time


def pass_bid(event: Event) -> Event | None:
    """q0: each bid, as it came."""
    return event if event.type == "bid" else None


def convert_price(event: Event) -> Event | None:
    """q1: each bid, with its price in euros instead of dollars."""
    if event.type != "bid":
        return None
    bid = event.data
    # One division of whole numbers: the number nearest to the price, which is then written with
    # its three decimals.
    bid["price"] = bid["price"] * 908 / 1000
    del bid["channel"], bid["url"]
    return event


def select_auction(event: Event) -> Row | None:
    """q2: the bids for every 123rd auction."""
    if event.type != "bid":
        return None
    bid = event.data
    if bid["auction"] % 123:
        return None
    return {"auction": bid["auction"], "price": bid["price"]}


# --- what all states have


def _is_new(event: Event, state: State) -> bool:
    """Whether the event did not come before; it counts as come from now on.

    Events of a key are handled in the order of their places in the stream, so one number tells.
    """
    place: Any = event.sequence
    if place <= state.get("place", -1):
        return False
    state["place"] = place
    return True


def _horizon(state: State, time_ms: int, times: Times) -> int:
    """No event of this key, after one of that time, is older than this."""
    newest = state["newest"] = max(time_ms, state.get("newest", time_ms))
    return int(newest) - times.disorder_ms


def _window(state: State, start: int, horizon: int, times: Times) -> dict[int, Any]:
    """What a state has of the window that begins there; old ones are dropped as new ones come."""
    windows: dict[int, dict[int, Any]] = state.setdefault("windows", {})
    found = windows.get(start)
    if found is None:
        for old in [each for each in windows if each + times.size_ms <= horizon]:
            del windows[old]
        found = windows[start] = {}
    return found


# --- q3: who sells in three states, in one category


def local_items(event: Event, state: State, *, times: Times) -> Any:
    """q3: auctions of category 10 with their sellers from Oregon, Idaho or California.

    The join has no window. A person is forgotten when no auction can be theirs any more, and an
    auction that waits for its seller when no such person can come.
    """
    if event.type == "bid" or not _is_new(event, state):
        return None
    row = event.data
    time_ms = row["dateTime"]
    horizon = _horizon(state, time_ms, times)
    people, waiting = state.setdefault("people", {}), state.setdefault("waiting", {})
    for kept in (people, waiting):
        for person in [each for each, (at, _) in kept.items() if at + times.reach_ms < horizon]:
            del kept[person]
    if event.type == "person":
        _, auctions = waiting.pop(row["id"], (0, ()))
        if row["state"] not in ("OR", "ID", "CA"):
            return None
        place = {"name": row["name"], "city": row["city"], "state": row["state"]}
        people[row["id"]] = (time_ms, place)
        return [{**place, "id": auction} for auction in auctions]
    if row["category"] != 10:
        return None
    seller = row["seller"]
    if seller in people:
        return {**people[seller][1], "id": row["id"]}
    at, auctions = waiting.get(seller, (time_ms, []))
    waiting[seller] = (max(at, time_ms), [*auctions, row["id"]])
    return None


# --- q4: the average of winning bids


def raise_winning(event: Event, state: State, *, times: Times) -> Row | None:
    """q4, by auction: by how much a bid raises what its auction brings.

    A bid counts from the auction's time to its end, both included. Of an auction that is still
    open when the stream ends, the highest bid so far counts, as SQL over the same events says.
    """
    if event.type == "person" or not _is_new(event, state):
        return None
    row = event.data
    time_ms = row["dateTime"]
    horizon = _horizon(state, time_ms, times)
    auctions, early = state.setdefault("auctions", {}), state.setdefault("early", {})
    for auction in [each for each, found in auctions.items() if found[2] < horizon]:
        del auctions[auction]
    # Bids that came before their auction: it would have come by now, if it had begun by then.
    for auction in [each for each, bids in early.items() if max(bids)[0] < horizon]:
        del early[auction]
    if event.type == "auction":
        auction, bids = row["id"], early.pop(row["id"], ())
        # Category, begin, end, and the highest bid so far.
        auctions[auction] = [row["category"], time_ms, row["expires"], None]
    else:
        auction, bids = row["auction"], ((time_ms, row["price"]),)
        if auction not in auctions:
            early.setdefault(auction, []).extend(bids)
            return None
    return _raised(auctions[auction], bids)


def _raised(auction: list[Any], bids: Any) -> Row | None:
    category, begin, end, highest = auction
    valid = [price for time_ms, price in bids if begin <= time_ms <= end]
    if not valid or (highest is not None and max(valid) <= highest):
        return None
    auction[3] = max(valid)
    return {
        "category": category,
        "gain": auction[3] - (highest or 0),
        "auctions": int(highest is None),
    }


class Averages:
    """What the auctions of each category brought, and how many they are."""

    def __init__(self) -> None:
        self._of: dict[int, list[int]] = {}

    def add(self, category: int, gain: int, auctions: int) -> tuple[int, int, int]:
        """Sum, number of auctions, and the how manieth change this is."""
        found = self._of.setdefault(category, [0, 0, 0])
        found[0] += gain
        found[1] += auctions
        found[2] += 1
        return found[0], found[1], found[2]


def average(event: Event, resource: Averages) -> Row:
    """q4, across auctions: the average of a category, after each change."""
    change = event.data
    category = change["category"]
    total, auctions, update = resource.add(category, change["gain"], change["auctions"])
    return {
        "id": category,
        "final": total // auctions,
        "total": total,
        "auctions": auctions,
        "update": update,
    }


# --- q5, q7: the largest of a window


class Largest:
    """The largest value of each window so far. Windows that began `behind_ms` before the newest
    one are dropped; what belongs to one of them comes too late."""

    def __init__(self, behind_ms: int) -> None:
        self._behind_ms = behind_ms
        self._values: dict[int, int] = {}
        self._newest = 0

    def admit(self, start: int) -> None:
        """Refuse what belongs to a window that may have been dropped. Raises Reject."""
        if start < self._newest - self._behind_ms:
            raise Reject(
                f"a window that began {self._newest - start} ms before the newest one is gone"
            )

    def reached(self, found: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Which values, by the begin of their windows, none was larger than so far: they are the
        largest now."""
        values = self._values
        reached = [each for each in found if each[1] >= values.get(each[0], 0)]
        for start, value in reached:
            if start > self._newest:
                self._newest = start
                oldest = start - self._behind_ms
                for old in [each for each in values if each < oldest]:
                    del values[old]
            values[start] = value
        return reached


def count_bids(event: Event, state: State, *, times: Times) -> Event | None:
    """q5, by auction: how many bids it has by now in each of the windows that this one is in."""
    if event.type != "bid" or not _is_new(event, state):
        return None
    bid = event.data
    auction, time_ms = bid["auction"], bid["dateTime"]
    size, period, pane_ms = times.size_ms, times.period_ms, times.pane_ms
    horizon = _horizon(state, time_ms, times)
    mine = _window(state, time_ms - time_ms % pane_ms, horizon, times)
    mine[auction] = mine.get(auction, 0) + 1
    panes = [(pane, each[auction]) for pane, each in state["windows"].items() if auction in each]
    starts = range(time_ms - time_ms % period, time_ms - size, -period)
    if len(panes) == 1:  # most auctions have all of their bids in one, which is in each window
        counts = [(start, panes[0][1]) for start in starts]
    else:
        counts = [
            (start, sum(count for pane, count in panes if start <= pane < start + size))
            for start in starts
        ]
    if not counts:
        return None
    event.data = {"auction": auction, "counts": counts}
    return event


def hottest(event: Event, resource: Largest) -> list[Row]:
    """q5, across auctions: an auction that has as many bids as any other in a window."""
    row = event.data
    counts = row["counts"]
    resource.admit(counts[-1][0])  # the oldest one
    return [
        {"auction": row["auction"], "num": count, "starttime": start}
        for start, count in resource.reached(counts)
    ]


def high_bids(event: Event, state: State, *, times: Times) -> Event | None:
    """q7, by auction: a bid that is as high as any other of its key in its window."""
    if event.type != "bid" or not _is_new(event, state):
        return None
    bid = event.data
    time_ms, price = bid["dateTime"], bid["price"]
    start = time_ms - time_ms % times.size_ms
    window = _window(state, start, _horizon(state, time_ms, times), times)
    if price < window.get(0, 0):
        return None
    window[0] = price
    bid["starttime"] = start
    del bid["channel"], bid["url"]
    return event


def highest(event: Event, resource: Largest) -> Event | None:
    """q7, across auctions: a bid that is as high as any other of its window."""
    bid = event.data
    resource.admit(bid["starttime"])
    return event if resource.reached([(bid["starttime"], bid["price"])]) else None


# --- q8: who is new and sells


def new_sellers(event: Event, state: State, *, times: Times) -> Row | None:
    """q8: people who came and began an auction within the same window, once each."""
    if event.type == "bid" or not _is_new(event, state):
        return None
    row = event.data
    is_person = event.type == "person"
    time_ms, person = row["dateTime"], row["id"] if is_person else row["seller"]
    start = time_ms - time_ms % times.size_ms
    window = _window(state, start, _horizon(state, time_ms, times), times)
    # Of each person the name, once they came, and whether they sold something.
    name, has_sold = window.get(person, (None, False))
    if is_person:
        window[person] = (row["name"], has_sold)
        is_both = has_sold and name is None
    else:
        window[person] = (name, True)
        is_both = name is not None and not has_sold
    return {"id": person, "name": window[person][0], "starttime": start} if is_both else None


# --- q11: sessions


def sessions(event: Event, state: State, *, times: Times) -> list[Row] | None:
    """q11: how many bids a bidder made in each session, told anew after each bid.

    A bid within the gap of a session, or of two, joins them; a session that thus begins elsewhere
    is taken back: a row with no bids.
    """
    if event.type != "bid" or not _is_new(event, state):
        return None
    bid = event.data
    bidder, time_ms = bid["bidder"], bid["dateTime"]
    horizon = _horizon(state, time_ms, times)
    bidders = state.setdefault("bidders", {})
    gap_ms = times.size_ms
    first, last, count = time_ms, time_ms, 1
    apart, begun = [], []
    for session in bidders.pop(bidder, ()):
        if session[0] - gap_ms <= time_ms <= session[1] + gap_ms:
            begun.append(session[0])
            first, last = min(first, session[0]), max(last, session[1])
            count += session[2]
        else:
            apart.append(session)
    for old in [each for each, those in bidders.items() if max(those)[1] + gap_ms < horizon]:
        del bidders[old]
    bidders[bidder] = [each for each in apart if each[1] + gap_ms >= horizon]
    bidders[bidder].append((first, last, count))
    changes = [(start, start, 0) for start in begun if start != first]
    return [
        {
            "bidder": bidder,
            "bid_count": bids,
            "starttime": start,
            "endtime": end + gap_ms,
            "update": event.sequence,
        }
        for start, end, bids in (*changes, (first, last, count))
    ]


# --- the pipelines

# A resource is not taken back when an attempt at an event fails, nor is the state of an earlier
# stage when the event becomes a dead letter in a later one: it would have had an effect. Why
# neither happens here: handlers of these stages do all that can fail before they change anything,
# they have no timeout, and they run inline, so that none dies at work; what a killed worker had in
# its hands comes here once, when another has done it. Errors on purpose come before the handler is
# called, and are drawn by the number of the event and of the attempt alone: an event that has got
# through the stage before, which has the same attempts, gets through here. Only a run that is
# resumed from a checkpoint would find its resource empty: these queries have no use for one.


def _across(handler: Callable[..., Any], setup: Callable[[], Any]) -> Stage:
    return stage(handler, executor="inline", setup=setup)


def _by_key(handler: Callable[..., Any], times: Times) -> Stage:
    return stage(partial(handler, times=times), state=dict)


def pipeline_of(query: str, times: Times) -> Pipeline:
    """The stages of a query."""
    by_key = partial(_by_key, times=times)
    largest = partial(Largest, times.behind_ms)
    stages: dict[str, tuple[Stage, ...]] = {
        "q0": (stage(pass_bid),),
        "q1": (stage(convert_price),),
        "q2": (stage(select_auction),),
        "q3": (by_key(local_items),),
        "q4": (by_key(raise_winning), _across(average, Averages)),
        "q5": (by_key(count_bids), _across(hottest, largest)),
        "q7": (by_key(high_bids), _across(highest, largest)),
        "q8": (by_key(new_sellers),),
        "q11": (by_key(sessions),),
    }
    return Pipeline(*stages[query])
