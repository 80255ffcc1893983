"""The stream of the scenario `clicks`: lines of an access log, as a collector passes them on.

Also the world that they come from: users, pages, agents, and whose addresses are whose. No handler,
no oracle.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import count
from typing import Final, NamedTuple
from urllib.parse import quote

from .scenario import Scenario

EPOCH_MS: Final = 1_772_323_200_000
"""When the collector begins: 2026-03-01T00:00:00Z."""

CATEGORIES: Final = ("Shop", "news", "Blog", "forum", "Hilfe", "über-uns", "Médias", "docs")
COUNTRIES: Final = ("AR", "AT", "BR", "CA", "CH", "DE", "EG", "FR", "GB", "IN", "JP", "US")
ZONES: Final = (b"+0000", b"+0100", b"-0500", b"+0530", b"-0330", b"+0900")
MONTHS: Final = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

_LINE: Final = (
    b'%b%d - %b [%b.%03d %b] \\"METHOD %b%b HTTP/1.1\\" STATUS %b \\"%b\\" \\"%b\\" %016x'
)
"""As it stands in JSON."""
_REPLIES: Final = (
    *[(b"GET", b"200")] * 44,
    *[(b"GET", b"304")] * 4,
    *[(b"GET", b"404")] * 4,
    *[(b"POST", b"201")] * 5,
    *[(b"POST", b"302")] * 3,
    *[(b"HEAD", b"200")] * 2,
    (b"PUT", b"204"),
    (b"DELETE", b"503"),
)
"""64 of them: method and status."""
_EMPTY: Final = (b"204", b"304")
"""A reply without a body is logged as one of `-` bytes."""
_EVENT: Final = b'{"key":"%b","seq":%d,"received":%d,"line":"%b"}'
_WORDS: Final = ("cafe", "café", "Über", "shoes", "piñata", "crème-brûlée", "2026", "a.b")
_VARIANTS: Final = 8
"""Ways in which a page is written."""
_QUERIES: Final = (
    *[b""] * 8,
    b"?utm_source=Newsletter&utm_medium=email",
    b"?id=17&utm_source=spring+sale",
    b"?q=caf%C3%A9+cr%C3%A8me&page=2",
    b"?utm_source=M%C3%BCnchen%20Ost&x=1",
    b"?x=1&y=2&amp;z",
    b"?utm_campaign=a&utm_source=partner-7&gclid=EAIaIQobChMI",
    b"?sort=price&dir=asc",
    b"?utm_source=rss#top",
)
"""16 of them: what stands behind a page."""
_REFERRERS: Final = (
    b"-",
    b"-",
    b"https://www.google.com/",
    b"https://duckduckgo.com/?q=shoes",
    b"http://WWW.Example.org:8080/a/b?c=d",
    b"https://news.example.net/2026/03/01/story.html",
    b"https://t.co/Xy1",
    b"https://m.facebook.com/",
)
_AGENTS: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{0}.0.0.0 Safari/537.36 Edg/{0}.0.2210.91",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/{}.4 Safari/605.1.15",
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/{}.4 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (iPad; CPU OS 17_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "CriOS/{}.0.6312.52 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{}.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 (KHTML, like Gecko) "
    "SamsungBrowser/{}.0 Chrome/115.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{0}.0.0.0 Safari/537.36 OPR/{0}.0.0.0",
    "Mozilla/5.0 (compatible; Googlebot/{}.1; +http://www.google.com/bot.html)",
    "curl/{}.4.0",
    "SomethingElse/{}",
)
_VERSIONS: Final = range(100, 124, 4)

_TEMPLATES: Final = tuple(
    # What is cut to no bytes at all takes its place from the list, and shows nothing.
    _LINE.replace(b"METHOD", method)
    .replace(b"STATUS %b", b"STATUS " + body)
    .replace(b"STATUS", status)
    for method, status in _REPLIES
    for body in [b"-%.0b" if status in _EMPTY else b"%b"]
)
_SIZES: Final = tuple(b"%d" % (each * each // 16 + each) for each in range(1024))
_SOUND: Final = (
    '{address} - {user} [{time} {zone}] "{method} {url} {protocol}" {status} {bytes} "-" '
    '"{agent}" {id}'
)
_DEFECTS: Final = (
    *[("address", each) for each in ("10.256.3.7", "10.2.3", "1.2.3.4.5", "::1", "a.b.c.d")],
    *[("user", each) for each in ("nobody", "-")],
    ("time", "30/Feb/2026:12:00:00.000"),
    ("time", "01/Mar/2026:24:00:00.000"),
    ("time", "01/Foo/2026:10:00:00.000"),
    ("time", "01/Mar/2026:10:00:00"),
    ("time", "2026-03-01T10:00:00.000"),
    *[("zone", each) for each in ("+2500", "+0160", "UTC", "")],
    *[("method", each) for each in ("BREW", "get")],
    *[("url", each) for each in ("/shop/100%", "/shop/%zz", "shop/x", "/a/%ff%fe", "/a/%c3/b")],
    *[("protocol", each) for each in ("HTTP/9.9", "HTTPS")],
    *[("status", each) for each in ("099", "600", "2OO", "-")],
    *[("bytes", each) for each in ("-17", "12k", "1e3")],
    *[("id", each) for each in ("0123456789abcdeg", "0123", "0123456789abcdef0")],
)
"""What is wrong in a field of a line."""
_BROKEN: Final = ("cut", "mark", "clock")
"""What is wrong beyond a field: the line ends too soon, is none, or comes from the future."""


class _User(NamedTuple):
    name: bytes
    network: bytes
    """The first three numbers of the address, with their dots."""
    zone: bytes
    ahead_s: int
    """How far its clock is ahead of UTC."""
    agent: bytes
    shift: int
    """Where the user begins in the list of referrers."""


class GeoRange(NamedTuple):
    """Addresses `first` … `last`, as numbers, are of a country."""

    first: int
    last: int
    country: str


def geo_ranges(count: int = 4096) -> list[GeoRange]:
    """Whose addresses are whose, in order, with gaps between: the same at each call."""
    draw = random.Random("clicks/geo").random
    ranges: list[GeoRange] = []
    step = (224 << 24) // count
    for number in range(count):
        first = number * step + int(draw() * step / 8)
        last = (number + 1) * step - 1 - int(draw() * step / 8)
        ranges.append(GeoRange(first, last, COUNTRIES[int(draw() * len(COUNTRIES))]))
    return ranges


class ClickStream:
    """The events of one scenario: `{"key": USER, "seq": …, "received": ms, "line": RAW}`.

    `seq` counts from 0, `received` never falls. A copy has the line of an event before it, with a
    number and a time of its own.
    """

    def __init__(self, scenario: Scenario) -> None:
        settings = scenario.settings
        self._random = scenario.random("clicks")
        self._users = list(_users(scenario.random("users"), int(settings["users"])))
        self._urls = list(_urls(scenario.random("pages"), int(settings["pages"])))
        self._gap_ms = 2000.0 / float(settings["per-second"])
        """Twice what lies between two events on average: it is drawn from 0 up to this."""
        self._disorder_ms = int(settings["disorder"]) * 1000
        self._lateness_ms = int(settings["lateness"]) * 1000
        self._malformed = float(settings["malformed"])
        self._late = self._malformed + float(settings["late"])
        """Below this a chance makes an event late, below `_malformed` malformed."""
        self._copied = float(settings["duplicates"])
        self._within = int(settings["within"])
        self._copies: dict[int, tuple[bytes, bytes]] = {}
        """Place -> the user and the line that come again there. At most `within`."""

    def __iter__(self) -> Iterator[bytes]:
        draw, bits, seconds = self._random.random, self._random.getrandbits, _Seconds()
        users, urls, copies = self._users, self._urls, self._copies
        many, most = len(users), len(urls) // _VARIANTS
        gap, disorder, copied, late = self._gap_ms, self._disorder_ms, self._copied, self._late
        clock = float(EPOCH_MS)
        for seq in count():
            clock += draw() * gap
            received = int(clock)
            if seq in copies:
                name, line = copies.pop(seq)
                yield _EVENT % (name, seq, received, line)
                continue
            # Squares make some users and pages more popular, and long delays rare.
            at, page, delay, chance = draw(), draw(), draw(), draw()
            user = users[int(many * at * at)]
            name, network, zone, ahead_s, agent, shift = user
            moment = received - int(disorder * delay * delay)
            if chance < late:
                if chance < self._malformed:
                    yield _EVENT % (name, seq, received, self._spoiled(user, received))
                    continue
                moment = received - self._too_late(delay)
            word = bits(32)
            line = _TEMPLATES[word & 63] % (
                network,
                word >> 24,
                name,
                seconds[moment // 1000 + ahead_s],
                moment % 1000,
                zone,
                urls[int(most * page * page) * _VARIANTS + (word >> 6 & 7)],
                _QUERIES[word >> 9 & 15],
                _SIZES[word >> 13 & 1023],
                _REFERRERS[shift + (word >> 20) & 7],
                agent,
                # Numbers that differ, and look as if drawn: the multiplier is odd.
                seq * 0x9E3779B97F4A7C15 + 0x1234567 & 0xFFFFFFFFFFFFFFFF,
            )
            if draw() < copied:
                copies.setdefault(seq + 1 + int(draw() * self._within), (name, line))
            yield _EVENT % (name, seq, received, line)

    def _too_late(self, drawn: float) -> int:
        return self._lateness_ms + 1 + int(drawn * max(2 * self._lateness_ms, 60_000))

    def _spoiled(self, user: _User, received: int) -> bytes:
        """A line that is wrong in one place, as it stands in JSON."""
        chance = self._random
        moment = received // 1000 + user.ahead_s
        what, wrong = chance.choice((*_DEFECTS, *((each, "") for each in _BROKEN)))
        if what == "clock":
            moment += 1 + chance.randrange(3600)
        fields = {
            "address": f"{user.network.decode()}{chance.randrange(256)}",
            "user": user.name.decode(),
            "time": f"{_Seconds()[moment].decode()}.{received % 1000:03d}",
            "zone": user.zone.decode(),
            "method": "GET",
            "url": chance.choice(self._urls).decode(),
            "protocol": "HTTP/1.1",
            "status": "200",
            "bytes": str(chance.randrange(10_000)),
            "agent": user.agent.decode(),
            "id": f"{chance.getrandbits(64):016x}",
        }
        if what not in _BROKEN:
            fields[what] = wrong
        line = _SOUND.format(**fields)
        if what == "cut":
            line = line[: chance.randrange(len(line) - len(fields["id"]))]
        elif what == "mark":
            line = "-- MARK --"
        return line.replace('"', '\\"').encode()


class _Seconds(dict[int, bytes]):
    """Seconds since 1970 as a log writes them; those that were asked for lately."""

    def __missing__(self, second: int) -> bytes:
        if len(self) > 20_000:
            self.clear()
        when = time.gmtime(second)
        text = b"%02d/%b/%d:%02d:%02d:%02d" % (
            when.tm_mday,
            MONTHS[when.tm_mon - 1].encode(),
            when.tm_year,
            when.tm_hour,
            when.tm_min,
            when.tm_sec,
        )
        self[second] = text
        return text


def _users(chance: random.Random, many: int) -> Iterator[_User]:
    for number in range(many):
        zone = chance.choice(ZONES)
        minutes = int(zone[1:3]) * 60 + int(zone[3:])
        network = b"%d.%d.%d." % (
            chance.randrange(1, 224),
            chance.randrange(256),
            chance.randrange(256),
        )
        agent = chance.choice(_AGENTS).format(chance.choice(_VERSIONS))
        ahead_s = minutes * (-60 if zone.startswith(b"-") else 60)
        yield _User(b"u%d" % number, network, zone, ahead_s, agent.encode(), chance.randrange(8))


def _urls(chance: random.Random, many: int) -> Iterator[bytes]:
    """Each page in so many ways of writing it; the first page is the home page."""
    for each in ("/", "/", "/", "/", "//", "/index.html", "/Index.HTML", "/%69ndex.html"):
        yield each.encode()
    for number in range(1, many):
        category = chance.choice(CATEGORIES)
        path = f"/{category}/{chance.choice(_WORDS)}-{number}"
        plain = quote(path)
        for each in (
            plain,
            plain,
            plain + "/",
            plain + "/index.html",
            plain.replace("/", "//"),
            quote(path.upper()),
            plain.replace("%C3", "%c3").replace("-", "%2d"),
            plain.replace("/", "%2F").replace("%2F", "/", 1),
        ):
            yield each.encode()
