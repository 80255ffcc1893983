"""The scenario `feed`: a social network; posts go to timelines by fan-out on write and on read.

What comes in, and the handlers. The oracle is in feed_oracle.py.
"""

from __future__ import annotations

from array import array
from bisect import bisect, bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from millstream.engine.event import Event
from millstream.engine.pipeline import Pipeline, stage

from .feed_oracle import COUNTERS, FAN_OUT, FOLLOWS, NOTIFICATIONS, TIMELINES, check_feed
from .scenario import Invariant, Outcome, Parameter, Scenario

SHARES: Final = {"like": 53, "follow": 16, "post": 15, "comment": 10, "unfollow": 6}
"""What happens, in percent: reactions outnumber posts, and most of those who follow stay."""

_EPOCH_MS: Final = 1_767_225_600_000
"""2026-01-01, when the first event happens."""
_EVERY_MS: Final = 20
_LATE: Final = 1 / 16
"""Of the posts: written while there was no network, so their time lies before that of others."""
_LATE_MS: Final = 60_000
_OLD: Final = 1 / 20
"""Of the reactions: to any post, not to a new one."""
_SELF_FOLLOWS: Final = 1 / 200
_TEXTS: Final = 400
"""So many texts there are; the first two of them are refused, being blank and too long."""
_KNOWN_POSTS: Final = 32_768
_KNOWN_FOLLOWS: Final = 32_768
_NEW_POSTS: Final = 48
"""Of an account, that reactions go to: more than it has at hand, by default."""
_TEXT: Final = (
    "the of and to in is new old day night sun rain coffee train code music photo friend city sea "
    "läuft über straße heute wieder mañana señor café niño été 東京 ночь good bad never always"
)
"""What words are drawn from."""

LONGEST_TEXT: Final = 280
"""Characters of a post or a comment; longer ones are refused."""
_EXCERPT: Final = 40
_NOTICES: Final = (
    {
        "follow": "@{by} follows you",
        "like": "@{by} likes your post {post}",
        "comment": "@{by} on your post {post}: {text}",
    },
    {
        "follow": "@{by} folgt dir",
        "like": "@{by} gefällt dein Beitrag {post}",
        "comment": "@{by} zu deinem Beitrag {post}: {text}",
    },
    {
        "follow": "@{by} te sigue",
        "like": "A @{by} le gusta tu publicación {post}",
        "comment": "@{by} sobre tu publicación {post}: {text}",
    },
)
"""How notifications are worded, by the language of who gets them: account number modulo 3."""


class Feed(Scenario):
    """Posts, follows and reactions, for timelines, notifications and counters."""

    name: ClassVar = "feed"
    summary: ClassVar = "A social network: posts go to the timelines of a power-law follow graph."
    description: ClassVar = (
        "Accounts post, follow and unfollow each other, like and comment; who is followed and "
        "liked goes by a power law. An event's key is the account whose state it changes: the "
        "author, or who is followed. A first stage validates, tidies texts and words "
        "notifications; a second one keeps each account's followers and the counters of its "
        "recent posts. A post of an account with up to `threshold` followers is written to each "
        "follower's timeline, which bounds what one event may become; one of a larger account "
        "goes to its outbox, which is merged when a timeline is read. Reactions change counters "
        "and notify the author. What is hard: hot accounts, results many times the events, and "
        "order, since who gets a post depends on every follow before it. So the orders are key and "
        "global: without one (none) a follow and a post would change places, and with none and "
        "partition the engine keeps no state by key. "
        "The stage with state is the last one, so an event that died has changed nothing. Ids "
        "rise within a key, so each account knows by the last one whether an event came twice. "
        "A state is bounded by the number of accounts (4 bytes a follower) and by `recent` posts; "
        "reactions to older posts are counted as additions."
    )
    parameters: ClassVar = (
        Parameter("accounts", 2000, "How many accounts there are.", least=2, most=1_000_000),
        Parameter(
            "skew",
            1.0,
            "How unequal they are: account n is followed and liked by 1 / n to this power.",
            least=0,
            most=3,
        ),
        Parameter(
            "threshold",
            100,
            "Up to so many followers a post is written to each of them.",
            "followers",
            least=0,
            most=50_000,
        ),
        Parameter("timeline", 100, "How many posts a timeline shows.", "posts", least=1),
        Parameter(
            "recent", 32, "Of how many posts an account has counters at hand.", "posts", least=1
        ),
    )
    promises: ClassVar = (FOLLOWS, FAN_OUT, TIMELINES, NOTIFICATIONS, COUNTERS)
    orders: ClassVar = ("key", "global")
    withstands: ClassVar = Scenario.withstands | {"duplicate"}

    def lines(self) -> Iterator[bytes]:
        """The events."""
        network = _Network(self)
        makers = [network.maker(kind) for kind, share in SHARES.items() for _ in range(share)]
        draw = self.random("kinds").random
        for number in count(1):
            yield makers[int(draw() * 100)](number, _EPOCH_MS + number * _EVERY_MS)

    def pipeline(self, folder: Path) -> Pipeline:
        """Two stages, the second one with the accounts' states."""
        accounts, threshold, recent = (
            int(self.settings[name]) for name in ("accounts", "threshold", "recent")
        )
        return Pipeline(
            stage(partial(ingest, accounts=accounts)),
            stage(partial(spread, threshold=threshold, recent=recent), state=account_state),
        )

    def check(self, outcome: Outcome) -> list[Invariant]:
        """Compare what came out with what a network does that keeps everything in one place."""
        return check_feed(self, outcome)


class _Network:
    """What the stream knows of its past: bounded, however long it is."""

    def __init__(self, scenario: Scenario) -> None:
        accounts, skew = int(scenario.settings["accounts"]), float(scenario.settings["skew"])
        self._draw = scenario.random("network").random
        self._accounts = accounts
        self._popular = _shares(accounts, skew)
        self._authors = _shares(accounts, skew / 2)
        """Popular accounts post more than others, but not as much as they are followed."""
        self._follows: list[tuple[int, int]] = []
        self._posts: list[tuple[int, int]] = []
        self._new_posts: dict[int, list[int]] = {}
        self._texts = _texts(scenario)

    def maker(self, kind: str) -> Callable[[int, int], bytes]:
        """What makes the event of a number and a time."""
        return {
            "post": self._post,
            "follow": self._follow,
            "unfollow": self._unfollow,
            "like": self._like,
            "comment": self._comment,
        }[kind]

    def _post(self, number: int, time: int) -> bytes:
        draw = self._draw
        author = 1 + bisect(self._authors, draw())
        chosen = int(draw() * _TEXTS)
        if chosen > 1:  # it will not be refused
            _keep(self._posts, (author, number), _KNOWN_POSTS, number)
            new = self._new_posts.setdefault(author, [])
            new.append(number)
            if len(new) > _NEW_POSTS:
                del new[0]
        late = draw()
        if late < _LATE:
            time -= int(late / _LATE * _LATE_MS)
        return b'{"id":%d,"key":%d,"type":"post","time":%d,"text":%b}' % (
            number,
            author,
            time,
            self._texts[chosen],
        )

    def _follow(self, number: int, time: int) -> bytes:
        draw = self._draw
        followed = 1 + bisect(self._popular, draw())
        by = 1 + int(draw() * self._accounts)
        if draw() < _SELF_FOLLOWS:
            by = followed
        if by != followed:
            _keep(self._follows, (followed, by), _KNOWN_FOLLOWS, number)
        return b'{"id":%d,"key":%d,"type":"follow","time":%d,"by":%d}' % (
            number,
            followed,
            time,
            by,
        )

    def _unfollow(self, number: int, time: int) -> bytes:
        follows = self._follows
        if not follows:
            return self._follow(number, time)
        chosen = int(self._draw() * len(follows))
        followed, by = follows[chosen]
        follows[chosen] = follows[-1]
        follows.pop()
        return b'{"id":%d,"key":%d,"type":"unfollow","time":%d,"by":%d}' % (
            number,
            followed,
            time,
            by,
        )

    def _like(self, number: int, time: int) -> bytes:
        if not self._posts:
            return self._post(number, time)
        author, post = self._liked()
        by = 1 + int(self._draw() * self._accounts)
        return b'{"id":%d,"key":%d,"type":"like","time":%d,"by":%d,"post":%d}' % (
            number,
            author,
            time,
            by,
            post,
        )

    def _comment(self, number: int, time: int) -> bytes:
        if not self._posts:
            return self._post(number, time)
        author, post = self._liked()
        draw = self._draw
        by = 1 + int(draw() * self._accounts)
        return b'{"id":%d,"key":%d,"type":"comment","time":%d,"by":%d,"post":%d,"text":%b}' % (
            number,
            author,
            time,
            by,
            post,
            self._texts[int(draw() * _TEXTS)],
        )

    def _liked(self) -> tuple[int, int]:
        """Author and number of a post: one of the newest of a popular account, or any."""
        draw = self._draw
        if draw() >= _OLD:
            author = 1 + bisect(self._popular, draw())
            new = self._new_posts.get(author)
            if new is not None:
                age = draw()
                return author, new[-1 - int(age * age * len(new))]
        return self._posts[int(draw() * len(self._posts))]


def _shares(accounts: int, skew: float) -> list[float]:
    """Up to which number from 0 to 1 each account is drawn."""
    sums = list(accumulate(rank**-skew for rank in range(1, accounts + 1)))
    return [each / sums[-1] for each in sums[:-1]]


def _texts(scenario: Scenario) -> list[bytes]:
    """Texts as JSON, with white space that wants tidying."""
    chance = scenario.random("texts")
    all_words = _TEXT.split()
    texts = ["  \n ", "x" * (LONGEST_TEXT + 1)]
    while len(texts) < _TEXTS:
        words = chance.choices(all_words, k=chance.randint(1, 24))
        gaps = chance.choices((" ", "  ", "\n"), weights=(18, 1, 1), k=len(words))
        texts.append("".join(word + gap for word, gap in zip(words, gaps, strict=True)))
    return [msgspec.json.encode(text) for text in texts]


def _keep(known: list[tuple[int, int]], entry: tuple[int, int], most: int, number: int) -> None:
    """Add an entry; one of those before makes room for it, as chance has it."""
    if len(known) < most:
        known.append(entry)
    else:
        known[number % most] = entry


def ingest(event: Event, *, accounts: int) -> Event | None:
    """Drop what is not valid, tidy texts, and word the notification that may go with the event."""
    data = event.data
    kind, account = data["type"], data["key"]
    text = data.get("text")
    if text is not None:
        text = data["text"] = " ".join(text.split())
        if not 0 < len(text) <= LONGEST_TEXT:
            return None
        if len(text) > _EXCERPT:
            text = text[: _EXCERPT - 1] + "…"
    if kind == "post":
        return event
    by = data["by"]
    if not 0 < by <= accounts or (by == account and kind == "follow"):
        return None
    if by != account and kind != "unfollow":
        wording = _NOTICES[account % len(_NOTICES)][kind]
        data["notice"] = wording.format(by=by, post=data.get("post"), text=text)
    return event


def account_state() -> dict[str, Any]:
    """The state of an account of which nothing has been heard.

    Followers stand in order of their numbers, in an array: a state is copied at each event, and so
    it costs what its bytes cost, however many they are.
    """
    return {"seen": 0, "posts": 0, "followers": array("I"), "counters": {}}


def spread(
    event: Event, state: dict[str, Any], *, threshold: int, recent: int
) -> list[dict[str, Any]]:
    """What an event of an account becomes: timeline entries, notifications, counters.

    An event that came before has no effect.
    """
    data = event.data
    if data["id"] <= state["seen"]:
        return []
    state["seen"] = data["id"]
    match data["type"]:
        case "post":
            return _publish(data, state, threshold, recent)
        case "follow":
            return _follow(data, state)
        case "unfollow":
            return _unfollow(data, state)
    return _react(data, state)


def _publish(
    data: dict[str, Any], state: dict[str, Any], threshold: int, recent: int
) -> list[dict[str, Any]]:
    author, post, time = data["key"], data["id"], data["time"]
    state["posts"] += 1
    counters = state["counters"]
    counters[post] = [0, 0]
    if len(counters) > recent:
        del counters[next(iter(counters))]
    followers = state["followers"]
    if len(followers) > threshold:
        nth = state["posts"]
        return [{"type": "outbox", "author": author, "nth": nth, "post": post, "time": time}]
    return [
        {"type": "entry", "reader": reader, "author": author, "post": post, "time": time}
        for reader in followers
    ]


def _follow(data: dict[str, Any], state: dict[str, Any]) -> list[dict[str, Any]]:
    followers, by = state["followers"], data["by"]
    at = bisect_left(followers, by)
    if at < len(followers) and followers[at] == by:
        return []
    followers.insert(at, by)
    follow = {
        "type": "following",
        "reader": by,
        "author": data["key"],
        "since": state["posts"],
        "followers": len(followers),
    }
    return [follow, _notification(data, len(followers))]


def _unfollow(data: dict[str, Any], state: dict[str, Any]) -> list[dict[str, Any]]:
    followers, by = state["followers"], data["by"]
    at = bisect_left(followers, by)
    if at == len(followers) or followers[at] != by:
        return []
    followers.pop(at)
    return [
        {
            "type": "unfollowed",
            "reader": by,
            "author": data["key"],
            "followers": len(followers),
        }
    ]


def _react(data: dict[str, Any], state: dict[str, Any]) -> list[dict[str, Any]]:
    """A like or a comment: counted, and told to the author when it is by somebody else."""
    post, counters = data["post"], state["counters"]
    place = 0 if data["type"] == "like" else 1
    known = counters.get(post)
    if known is not None:
        known[place] += 1
        kind, (likes, comments), total = "counters", known, known[place]
    elif state["posts"] > len(counters) and post < next(iter(counters)):
        # Its counters are no longer at hand: what reads them adds this.
        kind, likes, comments, total = "addition", 1 - place, place, None
    else:
        return []
    results = [{"type": kind, "post": post, "likes": likes, "comments": comments}]
    if "notice" in data:
        results.append(_notification(data, total))
    return results


def _notification(data: dict[str, Any], total: int | None) -> dict[str, Any]:
    return {
        "type": "notification",
        "to": data["key"],
        "event": data["id"],
        "text": data["notice"],
        "total": total,
    }
