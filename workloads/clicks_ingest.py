"""The first stage of `clicks`: a line of an access log becomes a click, or what is wrong with it.

Nothing here depends on any other event. Imported by worker processes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from millstream.engine.event import Event

from .clicks_stream import GeoRange, geo_ranges

_LINE: Final = re.compile(
    r"(?P<address>\S+) - (?P<user>\S+) \[(?P<time>[^\] ]*) (?P<zone>[^\] ]*)\] "
    r'"(?P<method>\S+) (?P<url>\S+) (?P<protocol>\S+)" (?P<status>\S+) (?P<bytes>\S+) '
    r'"(?P<referrer>[^"]*)" "(?P<agent>[^"]*)" (?P<id>\S+)'
)
_TIME: Final = re.compile(
    r"([0-9]{2})/([A-Z][a-z]{2})/([0-9]{4}):([0-9]{2}):([0-9]{2}):([0-9]{2})\.([0-9]{3})"
)
_ZONE: Final = re.compile(r"([+-])(0[0-9]|1[0-4])([0-5][0-9])")
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
_START: Final = datetime(1970, 1, 1)
_MILLISECOND: Final = timedelta(milliseconds=1)
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_PROTOCOL: Final = re.compile(r"HTTP/(?:1\.[01]|2(?:\.0)?|3(?:\.0)?)")
_STATUS: Final = re.compile(r"[1-5][0-9]{2}")
_BYTES: Final = re.compile(r"-|[0-9]{1,15}")
_ID: Final = re.compile(r"[0-9a-f]{16}")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASHES: Final = re.compile(r"/{2,}")
_REFERRER: Final = re.compile(r"https?://(?:www\.)?([^/:?#]+)", re.IGNORECASE)
_SALT: Final = b"clicks:"

# The first that is found in an agent decides: most of them claim to be several.
_BROWSERS: Final = (
    (re.compile(r"(?i)(?:bot|crawler|spider)\b"), "Bot"),
    (re.compile(r"^(?:curl|Wget|python-requests)/([0-9]+)"), "Tool"),
    (re.compile(r"\bEdg(?:e|A|iOS)?/([0-9]+)"), "Edge"),
    (re.compile(r"\b(?:OPR|Opera)/([0-9]+)"), "Opera"),
    (re.compile(r"\bSamsungBrowser/([0-9]+)"), "Samsung"),
    (re.compile(r"\b(?:Firefox|FxiOS)/([0-9]+)"), "Firefox"),
    (re.compile(r"\b(?:Chrome|CriOS)/([0-9]+)"), "Chrome"),
    (re.compile(r"\bVersion/([0-9]+)\S* (?:Mobile/\S+ )?Safari/"), "Safari"),
)
_SYSTEMS: Final = (
    (re.compile(r"\bWindows NT [0-9.]+"), "Windows"),
    (re.compile(r"\b(?:iPhone|iPad|iPod)\b"), "iOS"),
    (re.compile(r"\bAndroid\b"), "Android"),
    (re.compile(r"\bMac OS X\b"), "macOS"),
    (re.compile(r"\bCrOS\b"), "ChromeOS"),
    (re.compile(r"\bLinux\b"), "Linux"),
)


class Malformed(ValueError):
    """The line is no click; its text is the name of the first thing that is wrong."""


class Geo:
    """Finds the country of an address."""

    def __init__(self, ranges: list[GeoRange]) -> None:
        """`ranges`: in order, and apart."""
        self._firsts = [each.first for each in ranges]
        self._ranges = ranges

    def country(self, address: int) -> str | None:
        """None: nobody's."""
        place = bisect_right(self._firsts, address) - 1
        if place < 0 or address > self._ranges[place].last:
            return None
        return self._ranges[place].country


def load_geo() -> Geo:
    """What a worker needs."""
    return Geo(geo_ranges())


def ingest(event: Event, resource: Geo) -> Event:
    """The click that a line stands for, or the line with a reason why it stands for none."""
    data = event.data
    try:
        click = read_click(data["line"], data["key"], data["received"], resource)
    except Malformed as wrong:
        data.update(kind="malformed", reason=str(wrong))
        return event
    del data["line"]
    data.update(click)
    return event


def read_click(line: str, user: str, received: int, geo: Geo) -> dict[str, Any]:
    """What is told of a click. Raises Malformed."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise Malformed("form")
    fields = match.groupdict()
    address = _address(fields["address"])
    if fields["user"] != user:
        raise Malformed("user")
    moment = _moment(fields["time"], fields["zone"])
    if moment > received:
        raise Malformed("clock")
    if fields["method"] not in _METHODS:
        raise Malformed("method")
    page, campaign = _page(fields["url"])
    for name, pattern in (
        ("protocol", _PROTOCOL),
        ("status", _STATUS),
        ("bytes", _BYTES),
        ("id", _ID),
    ):
        if pattern.fullmatch(fields[name]) is None:
            raise Malformed(name)
    referrer = _REFERRER.match(fields["referrer"])
    browser, system = _classified(fields["agent"])
    return {
        "kind": "click",
        "id": fields["id"],
        "user": sha256(_SALT + user.encode()).hexdigest()[:16],
        "time": moment,
        "page": page,
        "category": page.split("/", 2)[1] or "home",
        "campaign": campaign,
        "referrer": referrer[1].lower() if referrer else None,
        "country": geo.country(address),
        "browser": browser,
        "system": system,
        "method": fields["method"],
        "status": int(fields["status"]),
        "bytes": 0 if fields["bytes"] == "-" else int(fields["bytes"]),
    }


def _address(text: str) -> int:
    parts = text.split(".")
    number = 0
    for part in parts:
        # isdecimal() is true of more digits than ten.
        if not (part.isascii() and part.isdecimal() and part == str(int(part)) and int(part) < 256):
            raise Malformed("address")
        number = number << 8 | int(part)
    if len(parts) != 4:
        raise Malformed("address")
    return number


def _moment(text: str, zone: str) -> int:
    """ms since 1970, in UTC."""
    match, ahead = _TIME.fullmatch(text), _ZONE.fullmatch(zone)
    if match is None or ahead is None:
        raise Malformed("time")
    day, month, year, hour, minute, second, millisecond = match.groups()
    try:
        local = datetime(
            int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second)
        )  # which refuses the 30th of February
    except (KeyError, ValueError):
        raise Malformed("time") from None
    offset_ms = (int(ahead[2]) * 60 + int(ahead[3])) * 60_000
    since = (local - _START) // _MILLISECOND + int(millisecond)
    return since + offset_ms if ahead[1] == "-" else since - offset_ms


def _page(url: str) -> tuple[str, str | None]:
    """The page, whichever way its address is written, and the campaign that led to it."""
    if not url.startswith("/") or _BAD_ESCAPE.search(url):
        raise Malformed("url")
    target, _, _ = url.partition("#")
    path, _, query = target.partition("?")
    try:
        page = _SLASHES.sub("/", unquote(path, errors="strict").lower())
        found = dict(parse_qsl(query, errors="strict")) if query else {}
    except UnicodeDecodeError:
        raise Malformed("url") from None
    page = page.removesuffix("/index.html").removesuffix("/") or "/"
    return page, found.get("utm_source")


def _classified(agent: str) -> tuple[str, str]:
    """The browser with its version, and the system that it runs on."""
    browser = system = "other"
    for pattern, name in _BROWSERS:
        match = pattern.search(agent)
        if match is not None:
            browser = f"{name} {match[1]}" if pattern.groups else name
            break
    for pattern, name in _SYSTEMS:
        if pattern.search(agent):
            system = name
            break
    return browser, system
