"""The oracle of the scenario `feed`: the network in one place, one event after another.

A reader's timeline is drawn from all posts of whom the reader follows: no post is sent anywhere.
Beside it stands what takes the results as servers would. No code is shared with the handlers.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from heapq import nlargest
from itertools import chain, islice
from typing import Final
from zlib import crc32

import msgspec

from .scenario import (
    MOST_NAMED,
    Invariant,
    Outcome,
    ParameterValue,
    Promise,
    Scenario,
    judged,
    survivors,
)

FOLLOWS = Promise("follows", "Each account is followed by whom it should, since the right post.")
FAN_OUT = Promise(
    "fan-out",
    "Each post is written once to each follower, or once to the outbox of a large account.",
)
TIMELINES = Promise(
    "timelines",
    "Each timeline shows the newest posts since the reader followed their authors, in order.",
)
NOTIFICATIONS = Promise(
    "notifications", "Each notification comes once, to whom it should, and says what it should."
)
COUNTERS = Promise("counters", "Each post has its likes and comments, each account its followers.")

_ONE: Final = 1 << 128
_HASH: Final = (1 << 64) - 1

Post = tuple[int, int]
"""Time and number: the order of timelines."""


class _Event(msgspec.Struct, gc=False):
    id: int
    key: int
    type: str
    time: int
    by: int = 0
    post: int = 0
    text: str = ""


class _Entry(msgspec.Struct, gc=False, tag_field="type", tag="entry"):
    reader: int
    author: int
    post: int
    time: int


class _Outbox(msgspec.Struct, gc=False, tag_field="type", tag="outbox"):
    author: int
    nth: int
    post: int
    time: int


class _Following(msgspec.Struct, gc=False, tag_field="type", tag="following"):
    reader: int
    author: int
    since: int
    followers: int


class _Unfollowed(msgspec.Struct, gc=False, tag_field="type", tag="unfollowed"):
    reader: int
    author: int
    followers: int


class _Counters(msgspec.Struct, gc=False, tag_field="type", tag="counters"):
    post: int
    likes: int
    comments: int


class _Addition(msgspec.Struct, gc=False, tag_field="type", tag="addition"):
    post: int
    likes: int
    comments: int


class _Notification(msgspec.Struct, gc=False, tag_field="type", tag="notification"):
    to: int
    event: int
    text: str
    total: int | None


_Result = _Entry | _Outbox | _Following | _Unfollowed | _Counters | _Addition | _Notification


class _Wrong:
    """What is wrong with one promise: the first few of it, and how many."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < MOST_NAMED:
            self.first.append(text)

    def judge(self, promise: Promise, fine: str) -> Invariant:
        return judged(promise, self.first, fine, self.count)


class _Deliveries:
    """How many posts came to each place, and which, as a sum of hashes: whatever their order."""

    def __init__(self) -> None:
        self.sums: defaultdict[int, int] = defaultdict(int)

    @staticmethod
    def mark(*post: int) -> int:
        """What a post adds: one, and its hash."""
        return _ONE + (hash(post) & _HASH)

    def compare(self, due: _Deliveries, place: str, wrong: _Wrong) -> int:
        """Name the accounts whose `place` has not what was due. Gives back how much was due."""
        for account in sorted(self.sums.keys() | due.sums.keys()):
            came, wanted = self.sums.get(account, 0), due.sums.get(account, 0)
            if came == wanted:
                continue
            copies, right = came // _ONE, wanted // _ONE
            what = f"not {right:,}" if copies != right else "but not the right ones"
            wrong.add(f"posts written to the {place} of {account}: {copies:,}, {what}")
        return sum(each // _ONE for each in due.sums.values())


class _Counts:
    """Likes and comments by post, followers by account."""

    def __init__(self, events: int) -> None:
        self.likes = array("q", bytes(8 * (events + 1)))
        self.comments = array("q", bytes(8 * (events + 1)))
        self.followers: dict[int, int] = {}

    def compare(self, due: _Counts, wrong: _Wrong) -> None:
        for name, came, wanted in (
            ("likes", self.likes, due.likes),
            ("comments", self.comments, due.comments),
        ):
            if came == wanted:
                continue
            for post, (each, right) in enumerate(zip(came, wanted, strict=True)):
                if each != right:
                    wrong.add(f"{name} of post {post}: {each:,}, not {right:,}")
        for account in sorted(self.followers.keys() | due.followers.keys()):
            each, right = self.followers.get(account, 0), due.followers.get(account, 0)
            if each != right:
                wrong.add(f"followers of account {account}: {each:,}, not {right:,}")


class _Notices:
    """Notifications by the number of their event, as checksums."""

    def __init__(self, events: int) -> None:
        self._copies = array("q", bytes(8 * (events + 1)))
        self._sums = array("I", bytes(4 * (events + 1)))
        self.wrong = _Wrong()
        self.right = 0

    @staticmethod
    def _sum(to: int, text: str, total: int | None) -> int:
        return crc32(f"{to} {total} {text}".encode())

    def came(self, notice: _Notification) -> None:
        """One that came out."""
        if not 0 < notice.event < len(self._copies):
            self.wrong.add(f"a notification of event {notice.event}, which was never put in")
            return
        self._copies[notice.event] += 1
        self._sums[notice.event] = self._sum(notice.to, notice.text, notice.total)

    def due(self, notice: _Notification) -> None:
        """One that should have come."""
        event = notice.event
        if not self._copies[event]:
            self.wrong.add(f"the notification of event {event} did not come")
            return
        if self._sums[event] != self._sum(notice.to, notice.text, notice.total):
            total = "no total" if notice.total is None else f"{notice.total:,} in total"
            what = f"account {notice.to}: {notice.text!r}, {total}"
            self.wrong.add(f"the notification of event {event} is not the one for {what}")
        else:
            self.right += 1
        self._copies[event] -= 1

    def close(self) -> None:
        """All that were due are told."""
        for event, copies in enumerate(self._copies):
            if copies:
                self.wrong.add(f"notifications of event {event}: {copies:,} too many")


class _Network:
    """What should be: all accounts and posts, as they are after each event."""

    def __init__(self, events: int, settings: Mapping[str, ParameterValue]) -> None:
        self._accounts, self._threshold, self._recent, self._shown = (
            int(settings[name]) for name in ("accounts", "threshold", "recent", "timeline")
        )
        self.followers: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """Account -> follower -> how many posts the account had by then."""
        self.posts: defaultdict[int, list[Post]] = defaultdict(list)
        self._numbers: defaultdict[int, list[int]] = defaultdict(list)
        self.counts = _Counts(events)
        self.written = _Deliveries()
        self.outboxes = _Deliveries()

    def handle(self, event: _Event) -> _Notification | None:
        """Let an event happen; gives back the notification that is due."""
        text = re.sub(r"\s+", " ", event.text).strip()
        if event.type in ("post", "comment") and not 1 <= len(text) <= 280:
            return None
        if event.type == "post":
            self._post(event)
            return None
        if not 1 <= event.by <= self._accounts:
            return None
        if event.type in ("like", "comment"):
            return self._react(event, text)
        followers = self.followers[event.key]
        if event.type == "unfollow":
            followers.pop(event.by, None)
        elif event.by not in followers and event.by != event.key:
            followers[event.by] = len(self.posts[event.key])
            return _wording(event, "", len(followers))
        return None

    def _post(self, event: _Event) -> None:
        posts, followers = self.posts[event.key], self.followers[event.key]
        posts.append((event.time, event.id))
        self._numbers[event.key].append(event.id)
        if len(followers) > self._threshold:
            mark = _Deliveries.mark(event.key, event.id, event.time, len(posts))
            self.outboxes.sums[event.key] += mark
            return
        mark = _Deliveries.mark(event.key, event.id, event.time)
        for follower in followers:
            self.written.sums[follower] += mark

    def _react(self, event: _Event, text: str) -> _Notification | None:
        """Posts before the recent ones are taken at their word; of others, those that exist."""
        numbers = self._numbers[event.key]
        is_recent = len(numbers) <= self._recent or event.post >= numbers[-self._recent]
        at = bisect_left(numbers, event.post)
        if is_recent and numbers[at : at + 1] != [event.post]:
            return None
        counter = self.counts.likes if event.type == "like" else self.counts.comments
        counter[event.post] += 1
        if event.by == event.key:
            return None
        return _wording(event, text, counter[event.post] if is_recent else None)

    def timelines(self) -> dict[int, list[Post]]:
        """By reader: the newest posts of all whom the reader follows, from the follow on."""
        parts: defaultdict[int, list[list[Post]]] = defaultdict(list)
        for account, followers in self.followers.items():
            posts = self.posts[account]
            newest = sorted(range(len(posts)), key=posts.__getitem__, reverse=True)
            for follower, since in followers.items():
                after = (posts[place] for place in newest if place >= since)
                parts[follower].append(list(islice(after, self._shown)))
        return {
            reader: nlargest(self._shown, chain.from_iterable(each))
            for reader, each in parts.items()
        }


def _wording(event: _Event, text: str, total: int | None) -> _Notification:
    """A notification, in the language of who gets it: English, German, Spanish by number."""
    who, post = f"@{event.by}", event.post
    if len(text) > 40:
        text = f"{text[:39]}…"
    match event.type, event.key % 3:
        case "follow", 0:
            words = f"{who} follows you"
        case "follow", 1:
            words = f"{who} folgt dir"
        case "follow", _:
            words = f"{who} te sigue"
        case "like", 0:
            words = f"{who} likes your post {post}"
        case "like", 1:
            words = f"{who} gefällt dein Beitrag {post}"
        case "like", _:
            words = f"A {who} le gusta tu publicación {post}"
        case _, 0:
            words = f"{who} on your post {post}: {text}"
        case _, 1:
            words = f"{who} zu deinem Beitrag {post}: {text}"
        case _:
            words = f"{who} sobre tu publicación {post}: {text}"
    return _Notification(event.key, event.id, words, total)


class _Servers:
    """What came out, as the network's servers take it: one result after another, in order."""

    def __init__(self, events: int, shown: int) -> None:
        self._shown = shown
        self.entries: defaultdict[tuple[int, int], list[Post]] = defaultdict(list)
        """What was written to a reader's timeline, by reader and author."""
        self.since: dict[tuple[int, int], int] = {}
        """Who follows whom, and how many posts there were by then."""
        self.outbox: defaultdict[int, list[tuple[Post, int]]] = defaultdict(list)
        self.counts = _Counts(events)
        self.written = _Deliveries()
        self.outboxes = _Deliveries()
        self.notices = _Notices(events)
        self.odd_follows = _Wrong()
        self.foreign = _Wrong()
        self._last = (0, 0, 0)
        self._mark = 0
        self._post: Post = (0, 0)

    def take(self, result: _Result) -> None:
        """Do what a result says."""
        match result:
            case _Entry():
                self._write(result)
            case _Notification():
                self.notices.came(result)
            case _Counters() | _Addition():
                self._count(result)
            case _Outbox(author, nth, post, time):
                self.outboxes.sums[author] += _Deliveries.mark(author, post, time, nth)
                self.outbox[author].append(((time, post), nth))
            case _Following() | _Unfollowed():
                self._connect(result)

    def _write(self, entry: _Entry) -> None:
        post = (entry.author, entry.post, entry.time)
        if post != self._last:  # one post's entries share what is kept of it
            self._last, self._mark = post, _Deliveries.mark(*post)
            self._post = (entry.time, entry.post)
        self.written.sums[entry.reader] += self._mark
        entries = self.entries[entry.reader, entry.author]
        entries.append(self._post)
        if len(entries) > 2 * self._shown:
            # What lies behind so many newer ones of the same author is shown to nobody.
            entries.sort(reverse=True)
            del entries[self._shown :]

    def _connect(self, result: _Following | _Unfollowed) -> None:
        pair = reader, author = result.reader, result.author
        if isinstance(result, _Following):
            if pair in self.since:
                self.odd_follows.add(f"account {reader} follows {author}, and does so already")
            self.since[pair] = result.since
        else:
            if self.since.pop(pair, None) is None:
                what = f"stops following {author}, and did not follow it"
                self.odd_follows.add(f"account {reader} {what}")
            self.entries.pop(pair, None)
        self.counts.followers[author] = result.followers

    def _count(self, result: _Counters | _Addition) -> None:
        counts, post = self.counts, result.post
        if not 0 < post < len(counts.likes):
            self.foreign.add(f"counters of post {post}, which there is not")
        elif isinstance(result, _Counters):
            counts.likes[post], counts.comments[post] = result.likes, result.comments
        else:
            counts.likes[post] += result.likes
            counts.comments[post] += result.comments

    def timelines(self) -> dict[int, list[Post]]:
        """By reader: what was written, merged with the outboxes of whom the reader follows."""
        merged: defaultdict[int, list[Post]] = defaultdict(list)
        for (reader, _), entries in self.entries.items():
            merged[reader] += entries
        for outbox in self.outbox.values():
            outbox.sort(reverse=True)
        for (reader, author), since in self.since.items():
            left = self._shown
            for post, nth in self.outbox.get(author, ()):
                if nth > since:
                    merged[reader].append(post)
                    left -= 1
                    if not left:
                        break
        for posts in merged.values():
            posts.sort(reverse=True)
            del posts[self._shown :]
        return merged


def check_feed(scenario: Scenario, outcome: Outcome) -> list[Invariant]:
    """Whether each promise held."""
    servers = _Servers(outcome.events, int(scenario.settings["timeline"]))
    for result in _results(outcome, servers.foreign):
        servers.take(result)
    network = _Network(outcome.events, scenario.settings)
    decode = msgspec.json.Decoder(_Event).decode
    for line in survivors(scenario, outcome):
        notice = network.handle(decode(line))
        if notice is not None:
            servers.notices.due(notice)
    return _compare(servers, network)


def _results(outcome: Outcome, foreign: _Wrong) -> Iterator[_Result]:
    """What came out, in order."""
    decode = msgspec.json.Decoder(_Result).decode
    with open(outcome.output, "rb") as output:
        for number, line in enumerate(output, 1):
            try:
                yield decode(line)
            except msgspec.DecodeError as error:
                foreign.add(f"line {number} of the output is no result of a feed: {error}")


def _compare(servers: _Servers, network: _Network) -> list[Invariant]:
    fan_out, counters = _Wrong(), servers.foreign
    written = servers.written.compare(network.written, "timeline", fan_out)
    fetched = servers.outboxes.compare(network.outboxes, "outbox", fan_out)
    network.counts.followers = {
        account: len(followers) for account, followers in network.followers.items()
    }
    servers.counts.compare(network.counts, counters)
    notices = servers.notices
    notices.close()
    reactions = sum(network.counts.likes) + sum(network.counts.comments)
    return [
        _compare_follows(servers, network),
        fan_out.judge(FAN_OUT, f"{written:,} timeline entries, {fetched:,} posts in outboxes"),
        _compare_timelines(servers.timelines(), network.timelines()),
        notices.wrong.judge(NOTIFICATIONS, f"{notices.right:,} notifications, each once"),
        counters.judge(COUNTERS, f"{reactions:,} likes and comments are counted"),
    ]


def _compare_follows(servers: _Servers, network: _Network) -> Invariant:
    wrong = servers.odd_follows
    due = {
        (reader, author): since
        for author, followers in network.followers.items()
        for reader, since in followers.items()
    }
    if servers.since != due:
        for pair in sorted(servers.since.keys() | due.keys()):
            came, wanted = servers.since.get(pair), due.get(pair)
            if came == wanted:
                continue
            reader, author = pair
            if wanted is None:
                wrong.add(f"account {reader} follows {author}, and should not")
            elif came is None:
                wrong.add(f"account {reader} does not follow {author}, and should")
            else:
                since = f"after post no. {came:,}, not {wanted:,}"
                wrong.add(f"account {reader} follows {author} from {since}")
    return wrong.judge(FOLLOWS, f"{len(due):,} follows stand")


def _compare_timelines(came: dict[int, list[Post]], due: dict[int, list[Post]]) -> Invariant:
    wrong = _Wrong()
    for reader in sorted(came.keys() | due.keys()):
        mine, right = came.get(reader, []), due.get(reader, [])
        if mine == right:
            continue
        at = next(
            (place for place, (a, b) in enumerate(zip(mine, right, strict=False)) if a != b),
            min(len(mine), len(right)),
        )
        has, wants = (
            f"post {posts[at][1]}" if at < len(posts) else "nothing" for posts in (mine, right)
        )
        wrong.add(f"the timeline of {reader} has {has} in place {at + 1}, not {wants}")
    shown = sum(len(posts) for posts in due.values())
    return wrong.judge(TIMELINES, f"{len(due):,} timelines show {shown:,} posts")
