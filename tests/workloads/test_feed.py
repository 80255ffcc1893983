"""The scenario `feed`: its stream, its handlers, and an oracle that finds what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millstream.engine import Pipeline, stage
from millstream.engine.event import Event
from millstream.workloads import feed
from millstream.workloads.feed import SHARES, Feed, account_state, ingest, spread
from millstream.workloads.scenario import Outcome, ScenarioError, stream
from tests.support.running import json_lines, read_lines
from tests.support.scenarios import broken, run_scenario

EVENTS = 6000
SMALL = {"accounts": 60, "threshold": 8, "timeline": 20, "recent": 4}
"""Few accounts, so that all there is to happen happens within few events."""

Result = dict[str, Any]
Spread = Callable[[Event, dict[str, Any]], Any]


class Told(Feed):
    """A feed whose events are told, not drawn."""

    events: Sequence[Result] = ()

    def lines(self) -> Iterator[bytes]:
        return map(msgspec.json.encode, self.events)


def told(*events: Result, **settings: Any) -> Told:
    scenario = Told({"accounts": 9, "threshold": 1, "timeline": 2, "recent": 1, **settings})
    scenario.events = events
    return scenario


def event(number: int, kind: str, key: int, by: int = 0, **more: Any) -> Result:
    members = {"id": number, "key": key, "type": kind, "time": 1000 + number, **more}
    return {**members, "by": by} if by else members


def judged(folder: Path, scenario: Told, results: Sequence[Result]) -> dict[str, str]:
    """What the oracle finds wrong with results."""
    output = folder / "results.jsonl"
    output.write_bytes(json_lines(results))
    outcome = Outcome(len(scenario.events), str(output), str(folder), "key")
    return dict(broken(scenario.check(outcome)))


# --- worked by hand


def by_hand() -> Told:
    return told(
        event(1, "follow", 1, by=2),
        event(2, "post", 1, text=" hello \n  there "),
        event(3, "follow", 1, by=3),
        event(4, "post", 1, text="now by outbox"),
        event(5, "unfollow", 1, by=2),
        event(6, "post", 1, text="and back", time=900),
        event(7, "like", 1, by=3, post=2),
        event(8, "like", 1, by=1, post=6),
        event(9, "comment", 1, by=2, post=6, text="0123456789  " * 4),
        event(10, "post", 1, text="  "),
        event(11, "follow", 1, by=1),
        event(12, "follow", 1, by=3),
        event(13, "unfollow", 1, by=9),
        event(14, "like", 1, by=2, post=10),
    )


RESULTS: tuple[Result, ...] = (
    {"type": "following", "reader": 2, "author": 1, "since": 0, "followers": 1},
    {"type": "notification", "to": 1, "event": 1, "text": "@2 folgt dir", "total": 1},
    {"type": "entry", "reader": 2, "author": 1, "post": 2, "time": 1002},
    {"type": "following", "reader": 3, "author": 1, "since": 1, "followers": 2},
    {"type": "notification", "to": 1, "event": 3, "text": "@3 folgt dir", "total": 2},
    {"type": "outbox", "author": 1, "nth": 2, "post": 4, "time": 1004},
    {"type": "unfollowed", "reader": 2, "author": 1, "followers": 1},
    {"type": "entry", "reader": 3, "author": 1, "post": 6, "time": 900},
    {"type": "addition", "post": 2, "likes": 1, "comments": 0},
    {
        "type": "notification",
        "to": 1,
        "event": 7,
        "text": "@3 gefällt dein Beitrag 2",
        "total": None,
    },
    {"type": "counters", "post": 6, "likes": 1, "comments": 0},
    {"type": "counters", "post": 6, "likes": 1, "comments": 1},
    {
        "type": "notification",
        "to": 1,
        "event": 9,
        "text": "@2 zu deinem Beitrag 6: 0123456789 0123456789 0123456789 012345…",
        "total": 1,
    },
)
"""What the events by_hand() become: post 4 falls in the time in which the account is a large one;
post 2 is an old one by event 7; events 8 and 10 to 14 tell nobody anything."""


def without(place: int) -> list[Result]:
    return [each for at, each in enumerate(RESULTS) if at != place]


def twice(place: int) -> list[Result]:
    return [*RESULTS[: place + 1], *RESULTS[place:]]


def changed(place: int, **members: Any) -> list[Result]:
    return [{**each, **members} if at == place else each for at, each in enumerate(RESULTS)]


def test_the_handlers_come_to_what_was_worked_out_by_hand(tmp_path: Path) -> None:
    scenario = by_hand()

    _, invariants = run_scenario(tmp_path, scenario, len(scenario.events))

    assert read_lines(tmp_path / "out.jsonl") == list(RESULTS)
    assert broken(invariants) == {}


def test_the_oracle_agrees_with_what_was_worked_out_by_hand(tmp_path: Path) -> None:
    assert judged(tmp_path, by_hand(), RESULTS) == {}


@pytest.mark.parametrize(
    ("results", "promise", "detail"),
    [
        (without(0), "follows", "account 2 stops following 1, and did not follow it"),
        (twice(0), "follows", "account 2 follows 1, and does so already"),
        (without(3), "follows", "account 3 does not follow 1, and should"),
        (without(6), "follows", "account 2 follows 1, and should not"),
        (changed(3, since=0), "follows", "account 3 follows 1 from after post no. 0, not 1"),
        (changed(3, since=2), "timelines", "the timeline of 3 has post 6 in place 1, not post 4"),
        (without(2), "fan-out", "posts written to the timeline of 2: 0, not 1"),
        (twice(7), "fan-out", "posts written to the timeline of 3: 2, not 1"),
        (
            changed(7, post=7),
            "fan-out",
            "posts written to the timeline of 3: 1, but not the right ones",
        ),
        (changed(7, post=7), "timelines", "the timeline of 3 has post 7 in place 2, not post 6"),
        (changed(7, time=1006), "timelines", "the timeline of 3 has post 6 in place 1, not post 4"),
        (without(5), "fan-out", "posts written to the outbox of 1: 0, not 1"),
        (without(5), "timelines", "the timeline of 3 has post 6 in place 1, not post 4"),
        (without(7), "timelines", "the timeline of 3 has nothing in place 2, not post 6"),
        (without(6), "timelines", "the timeline of 2 has post 4 in place 1, not nothing"),
        (without(1), "notifications", "the notification of event 1 did not come"),
        (twice(9), "notifications", "notifications of event 7: 1 too many"),
        (
            changed(4, total=1),
            "notifications",
            "the notification of event 3 is not the one for account 1: '@3 folgt dir', 2 in total",
        ),
        (
            changed(9, to=2),
            "notifications",
            "the notification of event 7 is not the one for account 1: "
            "'@3 gefällt dein Beitrag 2', no total",
        ),
        (
            changed(1, event=99),
            "notifications",
            "a notification of event 99, which was never put in; "
            "the notification of event 1 did not come",
        ),
        (twice(8), "counters", "likes of post 2: 2, not 1"),
        (without(11), "counters", "comments of post 6: 0, not 1"),
        (without(6), "counters", "followers of account 1: 2, not 1"),
        (changed(10, post=99), "counters", "counters of post 99, which there is not"),
        ([*RESULTS, {"type": "poke"}], "counters", None),
    ],
)
def test_the_oracle_names_what_differs(
    tmp_path: Path, results: list[Result], promise: str, detail: str | None
) -> None:
    found = judged(tmp_path, by_hand(), results)

    assert promise in found
    assert detail is None or found[promise] == detail


def test_what_became_a_dead_letter_has_no_effect_on_what_is_due(tmp_path: Path) -> None:
    scenario = told(event(1, "follow", 1, by=2), event(2, "post", 1, text="nobody reads this"))
    (tmp_path / "none.jsonl").touch()

    outcome = Outcome(2, str(tmp_path / "none.jsonl"), str(tmp_path), "key", frozenset({0}))

    assert broken(scenario.check(outcome)) == {}


def test_who_follows_again_begins_anew(tmp_path: Path) -> None:
    scenario = told(
        event(1, "follow", 1, by=2),
        event(2, "post", 1, text="seen, then taken away"),
        event(3, "unfollow", 1, by=2),
        event(4, "post", 1, text="not seen"),
        event(5, "follow", 1, by=2),
        event(6, "post", 1, text="seen"),
    )

    _, invariants = run_scenario(tmp_path, scenario, 6)

    assert broken(invariants) == {}
    assert invariants[2].detail == "1 timelines show 1 posts"


def test_no_more_than_the_newest_posts_are_shown(tmp_path: Path) -> None:
    posts = [event(number, "post", 1, text="one of many") for number in range(3, 30)]
    scenario = told(event(1, "follow", 1, by=2), event(2, "follow", 3, by=2), *posts, timeline=3)

    _, invariants = run_scenario(tmp_path, scenario, 29)

    assert broken(invariants) == {}
    assert invariants[1].detail == "27 timeline entries, 0 posts in outboxes"
    assert invariants[2].detail == "1 timelines show 3 posts"


# --- bugs


def small_pipeline(handler: Spread | None = None, first: Any = None) -> Pipeline:
    """The pipeline of a small feed, with other handlers in it."""
    right = partial(spread, threshold=SMALL["threshold"], recent=SMALL["recent"])
    return Pipeline(
        stage(first or partial(ingest, accounts=SMALL["accounts"]), name="ingest"),
        stage(handler or right, name="spread", state=account_state),
    )


def right(event: Event, state: dict[str, Any], threshold: int = SMALL["threshold"]) -> list[Result]:
    return spread(event, state, threshold=threshold, recent=SMALL["recent"])


def changes(
    kind: str,
    change: Callable[[Result], list[Result]],
    chosen: range = range(0, 1_000_000, 10),
) -> Spread:
    """A handler that gives something else for the chosen ones among all results of a kind."""
    seen = -1

    def handler(event: Event, state: dict[str, Any]) -> list[Result]:
        nonlocal seen
        results: list[Result] = []
        for each in right(event, state):
            if each["type"] == kind:
                seen += 1
            results += change(each) if each["type"] == kind and seen in chosen else [each]
        return results

    return handler


def lost(result: Result) -> list[Result]:
    return []


def doubled(result: Result) -> list[Result]:
    return [result, result]


def with_more(name: str, more: Any = 1) -> Callable[[Result], list[Result]]:
    return lambda result: [{**result, name: (result[name] or 0) + more if more else None}]


def skips(kind: str) -> Spread:
    """A handler that does not handle every 20th event of a kind."""

    def handler(event: Event, state: dict[str, Any]) -> list[Result]:
        data = event.data
        return [] if data["type"] == kind and data["id"] % 20 == 0 else right(event, state)

    return handler


def handles_twice(event: Event, state: dict[str, Any]) -> list[Result]:
    results = right(event, state)
    if event.data["id"] % 100 == 0:
        state["seen"] = 0
        results += right(event, state)
    return results


def forgets(event: Event, state: dict[str, Any]) -> list[Result]:
    if event.data["id"] % 20 == 0:
        state.update({**account_state(), "seen": state["seen"]})
    return right(event, state)


def swaps(event: Event, state: dict[str, Any]) -> list[Result]:
    """Handle some events after the next one of their key."""
    held = state.pop("held", None)
    if held is None and event.data["type"] in ("follow", "post") and event.data["id"] % 5 == 0:
        state["held"] = event.replace()
        return []
    results = right(event, state)
    if held is not None:
        state["seen"] = 0
        results += right(held, state)
        state["seen"] = event.data["id"]
    return results


def ignores_unfollows(event: Event, state: dict[str, Any]) -> list[Result]:
    followers = state["followers"][:]
    results = right(event, state)
    if event.data["type"] == "unfollow":
        state["followers"] = followers
    return results


def one_too_many(event: Event, state: dict[str, Any]) -> list[Result]:
    return right(event, state, SMALL["threshold"] + 1)


def counts_wrong(event: Event, state: dict[str, Any]) -> list[Result]:
    if event.data["type"] == "comment" and event.data["id"] % 10 == 0:
        event.data["type"] = "like"
    return right(event, state)


def takes_all_for_new(event: Event, state: dict[str, Any]) -> list[Result]:
    if event.data["type"] == "like":
        state["counters"].setdefault(event.data["post"], [0, 0])
    return right(event, state)


ALL = {"follows", "fan-out", "timelines", "notifications", "counters"}
BUGS: dict[str, tuple[Callable[[], Spread], set[str]]] = {
    "posts are skipped": (lambda: skips("post"), ALL),
    "likes are skipped": (lambda: skips("like"), {"notifications", "counters"}),
    "follows are skipped": (lambda: skips("follow"), ALL),
    "unfollows are skipped": (lambda: skips("unfollow"), ALL),
    "events are handled twice": (lambda: handles_twice, ALL),
    "state is lost": (lambda: forgets, ALL),
    "events change places": (lambda: swaps, ALL),
    "unfollows change nothing": (lambda: ignores_unfollows, ALL),
    "the threshold is one too high": (lambda: one_too_many, {"fan-out"}),
    "comments count as likes": (lambda: counts_wrong, {"notifications", "counters"}),
    "old posts count from nought": (lambda: takes_all_for_new, {"notifications", "counters"}),
    "an early entry is lost": (lambda: changes("entry", lost, range(99, 100)), {"fan-out"}),
    "entries are lost": (lambda: changes("entry", lost), {"fan-out", "timelines"}),
    "entries are written twice": (lambda: changes("entry", doubled), {"fan-out", "timelines"}),
    "entries go to another": (
        lambda: changes("entry", with_more("reader")),
        {"fan-out", "timelines"},
    ),
    "entries have another time": (
        lambda: changes("entry", with_more("time", -60_000)),
        {"fan-out", "timelines"},
    ),
    "posts are not in the outbox": (lambda: changes("outbox", lost), {"fan-out", "timelines"}),
    "posts are in the outbox twice": (
        lambda: changes("outbox", doubled),
        {"fan-out", "timelines"},
    ),
    "follows are not told": (
        lambda: changes("following", lost),
        {"follows", "timelines", "counters"},
    ),
    "unfollows are not told": (
        lambda: changes("unfollowed", lost),
        {"follows", "timelines", "counters"},
    ),
    "notifications are lost": (lambda: changes("notification", lost), {"notifications"}),
    "notifications come twice": (lambda: changes("notification", doubled), {"notifications"}),
    "notifications go to another": (
        lambda: changes("notification", with_more("to")),
        {"notifications"},
    ),
    "notifications say another number": (
        lambda: changes("notification", with_more("total")),
        {"notifications"},
    ),
    "notifications say something else": (
        lambda: changes("notification", with_more("text", "!")),
        {"notifications"},
    ),
    "counters are not told": (lambda: changes("counters", lost), {"counters"}),
    "additions are told twice": (lambda: changes("addition", doubled), {"counters"}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_breaks_the_promises_that_it_should(tmp_path: Path, bug: str) -> None:
    make, promises = BUGS[bug]

    _, invariants = run_scenario(tmp_path, Feed(SMALL), EVENTS, pipeline=small_pipeline(make()))

    assert set(broken(invariants)) == promises


def test_refusing_what_is_valid_breaks_promises(tmp_path: Path) -> None:
    def refuses(event: Event) -> Event | None:
        made = ingest(event, accounts=SMALL["accounts"])
        return None if len(event.data.get("text", "")) > 100 else made

    _, invariants = run_scenario(
        tmp_path, Feed(SMALL), EVENTS, pipeline=small_pipeline(first=refuses)
    )

    assert set(broken(invariants)) == ALL


def test_without_its_memory_of_ids_duplicates_break_promises(tmp_path: Path) -> None:
    def handler(event: Event, state: dict[str, Any]) -> list[Result]:
        state["seen"] = 0
        return right(event, state)

    _, invariants = run_scenario(
        tmp_path,
        Feed(SMALL),
        EVENTS,
        pipeline=small_pipeline(handler),
        inject=("duplicate:5%",),
        seed=1,
    )

    assert set(broken(invariants)) == ALL


@pytest.mark.parametrize("fault", ["drop:5%", "reorder:500"])
def test_what_the_engine_loses_or_puts_out_of_order_breaks_promises(
    tmp_path: Path, fault: str
) -> None:
    _, invariants = run_scenario(tmp_path, Feed(SMALL), EVENTS, inject=(fault,), seed=1)

    assert not Feed.bears((fault,))
    assert set(broken(invariants)) == ALL


# --- settings


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0},
        {"threshold": 50_000},
        {"timeline": 1},
        {"recent": 1},
        {"recent": 1000},
        {"accounts": 2},
        {"skew": 0.0},
        {"skew": 3.0},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()),
)
def test_the_oracle_agrees_at_the_ends_of_the_parameters(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _, invariants = run_scenario(tmp_path, Feed({**SMALL, **settings}, 3), EVENTS)

    assert broken(invariants) == {}


def test_timelines_are_the_same_whichever_way_posts_go(tmp_path: Path) -> None:
    details = []
    for threshold in (0, 8, 50_000):
        folder = tmp_path / str(threshold)
        folder.mkdir()
        _, invariants = run_scenario(folder, Feed({**SMALL, "threshold": threshold}), EVENTS)
        details.append([each.detail for each in invariants if each.name != "fan-out"])

    assert details[0] == details[1] == details[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"accounts": 1},
        {"accounts": 2_000_000},
        {"accounts": 10.5},
        {"skew": -0.1},
        {"skew": float("nan")},
        {"skew": 4.0},
        {"threshold": -1},
        {"threshold": 60_000},
        {"timeline": 0},
        {"recent": 0},
        {"followers": 5},
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError):
        Feed(settings)


# --- the handlers


@pytest.mark.parametrize(
    "members",
    [
        event(1, "post", 1, text=" \n "),
        event(1, "post", 1, text="x" * 281),
        event(1, "comment", 1, by=2, post=1, text=""),
        event(1, "follow", 1, by=1),
        event(1, "follow", 1, by=10),
        event(1, "like", 1, by=-1, post=1),
    ],
)
def test_what_is_not_valid_goes_no_further(tmp_path: Path, members: Result) -> None:
    scenario = told(members)

    result, invariants = run_scenario(tmp_path, scenario, 1)

    assert result.counts["filtered"] == 1
    assert broken(invariants) == {}


def test_a_state_is_bounded_by_accounts_and_recent_posts() -> None:
    state = account_state()
    for number in range(1, 3000):
        kind, by = ("post", 0) if number % 3 else ("follow", 2 + number % 50)
        made = Event.new(event(number, kind, 1, by, text="text", notice="notice"))
        spread(made, state, threshold=5, recent=7)

    assert len(state["counters"]) == 7
    assert len(state["followers"]) == 50
    assert set(state) == set(account_state())


# --- the stream


def drawn(count: int, **settings: Any) -> list[Result]:
    return [msgspec.json.decode(line) for line in stream(Feed(settings), count)]


def test_events_come_in_the_shares_that_are_told() -> None:
    kinds = Counter(each["type"] for each in drawn(20_000))

    assert sum(SHARES.values()) == 100
    for kind, share in SHARES.items():
        assert kinds[kind] / 200 == pytest.approx(share, abs=1.5)


def test_ids_rise_and_only_posts_are_late() -> None:
    events = drawn(20_000)
    late = [each for each in events if each["time"] != events[0]["time"] + 20 * (each["id"] - 1)]

    assert [each["id"] for each in events] == list(range(1, 20_001))
    assert {each["type"] for each in late} == {"post"}
    assert 0.03 < len(late) / sum(each["type"] == "post" for each in events) < 0.1


def test_who_is_followed_and_liked_goes_by_a_power_law() -> None:
    events = drawn(50_000)
    for kind in ("follow", "like"):
        keys = Counter(each["key"] for each in events if each["type"] == kind)
        first, tenth, total = keys[1], keys[10], sum(keys.values())

        assert 0.08 < first / total < 0.2
        assert 5 < first / tenth < 20


def test_accounts_cross_the_threshold_up_and_down() -> None:
    followers: defaultdict[int, set[int]] = defaultdict(set)
    crossings: Counter[bool] = Counter()
    doubled = effective = 0
    for each in drawn(50_000):
        mine, by = followers[each["key"]], each.get("by", 0)
        before = len(mine)
        if each["type"] == "follow" and by != each["key"]:
            doubled += by in mine
            mine.add(by)
        elif each["type"] == "unfollow":
            effective += by in mine
            mine.discard(by)
        if (before > 30) != (len(mine) > 30):
            crossings[before > 30] += 1

    assert crossings[False] > crossings[True] > 5
    assert doubled > 100
    assert effective > 2000


def test_reactions_go_to_posts_of_their_key_new_ones_and_old_ones() -> None:
    authors: dict[int, int] = {}
    newer: defaultdict[int, list[int]] = defaultdict(list)
    new = old = 0
    for each in drawn(50_000, accounts=200):
        if each["type"] == "post":
            authors[each["id"]] = each["key"]
            newer[each["key"]].append(each["id"])
        elif "post" in each:
            assert authors[each["post"]] == each["key"]
            is_new = each["post"] in newer[each["key"]][-32:]
            new, old = new + is_new, old + (not is_new)

    assert 0.02 < old / (new + old) < 0.3


def test_what_the_stream_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[list[Any]] = []

    def keep(entries: list[Any], entry: Any, most: int, number: int) -> None:
        known.append(entries)
        original(entries, entry, 100, number)

    original = feed._keep
    monkeypatch.setattr(feed, "_keep", keep)
    drawn(5000)

    assert {len(entries) for entries in known} <= {*range(101)}
    assert max(len(entries) for entries in known) == 100
