"""The events of an auction house, as Nexmark defines them: people, auctions, bids.

Nothing of the queries here. Ids, ratios, times, prices and sizes follow the generator (its
GeneratorConfig, and those of people, auctions and bids) of Apache Beam's Nexmark suite, and of
nexmark-flink, which took it over; channels and urls are nexmark-flink's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from random import Random
from typing import Final

from msgspec import Struct

# What differs from the standard. Chance is Python's, drawn in turn from one seed, where Beam seeds
# it anew for each event and nexmark-flink not at all; letters are cut from a text that is made
# once. Events are held back in the time of events, not by the clock, which Beam does where it is
# told to keep a rate, and nexmark-flink nowhere. A bidder's id is offset once, as in Beam; some
# versions of nexmark-flink do it twice. Names and cities are others.

BASE_TIME_MS: Final = 1_436_918_400_000
"""When the first event happens, 2015-07-15T00:00:00Z, as in Beam."""
FIRST_AUCTION_ID: Final = 1000
FIRST_PERSON_ID: Final = 1000
FIRST_CATEGORY_ID: Final = 10
CATEGORIES: Final = 5
HOT: Final = 100
"""One of so many auctions, and one of so many people, is hot."""
LEAD: Final = 10
"""So many auctions, and people, are spoken of before they are there."""
OUT_OF_ORDER_STEP: Final = 953
"""By so many an event is moved on within its group; prime."""
CHANNELS: Final = 10_000
STATES: Final = (b"AZ", b"CA", b"ID", b"OR", b"WA", b"WY")
_CITIES: Final = tuple(
    b"Tucson,Fresno,Oakland,Twin Falls,Salem,Eugene,Spokane,Tacoma,Olympia,Laramie".split(b",")
)
_FIRST_NAMES: Final = tuple(b"Ada,Bo,Carl,Dora,Emil,Finn,Grace,Hugo,Ines,Jan,Kim".split(b","))
_LAST_NAMES: Final = tuple(
    b"Archer,Baker,Cooper,Dyer,Fisher,Glover,Mason,Potter,Wright".split(b",")
)
_HOT_CHANNELS: Final = (b"Google", b"Facebook", b"Baidu", b"Apple")
_LEAST_TEXT: Final = 3
_POOL: Final = 65_536


class Config(Struct, frozen=True):
    """The generator's settings, named as in the standard's configuration."""

    person_proportion: int
    auction_proportion: int
    bid_proportion: int
    hot_auction_ratio: int
    hot_sellers_ratio: int
    hot_bidders_ratio: int
    num_in_flight_auctions: int
    num_active_people: int
    out_of_order_group_size: int
    first_event_rate: int
    occasional_delay_sec: int
    prob_delayed_event: float
    avg_person_byte_size: int
    avg_auction_byte_size: int
    avg_bid_byte_size: int
    key_groups: int

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Config:
        """Those among a scenario's settings, where words are parted by dashes."""
        names = cls.__struct_fields__
        return cls(**{name: settings[name.replace("_", "-")] for name in names})  # type: ignore[arg-type]  # checked by the scenario

    @property
    def total_proportion(self) -> int:
        """How many events make an epoch, in which each kind comes as often as its proportion."""
        return self.person_proportion + self.auction_proportion + self.bid_proportion

    def time_ms(self, number: int) -> int:
        """When an event happens, in ms since 1970."""
        return BASE_TIME_MS + number * 1000 // self.first_event_rate

    def adjusted(self, number: int) -> int:
        """The number in whose place an event is made: another one of its group."""
        size = self.out_of_order_group_size
        return number - number % size + number * OUT_OF_ORDER_STEP % size

    @property
    def disorder_ms(self) -> int:
        """No event is older than the newest one before it by more than this."""
        group_ms = self._span_ms(self.out_of_order_group_size - 1)
        return 2 * group_ms + (self.occasional_delay_sec * 1000 if self.prob_delayed_event else 0)

    @property
    def reach_ms(self) -> int:
        """No person and auction of theirs are further apart than this."""
        people = max(self.num_active_people, HOT, LEAD) + 1
        epochs = people // self.person_proportion + 2
        return self._span_ms(epochs * self.total_proportion)

    def _span_ms(self, events: int) -> int:
        """At least the time in which so many events happen."""
        return events * 1000 // self.first_event_rate + 1 if events else 0


Made = tuple[bytes, bytes]
"""An event: its key, and its line from the type on."""


class Generator:
    """Makes the events of one stream, in turn. Its memory is what is held back, and the urls."""

    def __init__(
        self, config: Config, random: Callable[[str], Random], *, by_person: bool = False
    ) -> None:
        """`random`: a source of chance by purpose. `by_person`: keys are those of people (a
        person's own, an auction's seller, a bidder), else of auctions where there is one."""
        self._config = config
        self._total = config.total_proportion
        self._by_person = by_person
        self._draw = random("events").random
        self._urls: dict[int, tuple[bytes, bytes]] = {}
        texts = random("texts")
        largest = max(config.avg_person_byte_size, config.avg_auction_byte_size)
        size = _POOL + 2 * max(largest, config.avg_bid_byte_size)
        letters = b"abcdefghijklmnopqrstuvwxyz"
        self._letters = bytes(texts.choices(letters, k=size))
        # Every 13th character of a name or a description is a space.
        weights = [12 / 13 / 26] * 26 + [1 / 13]
        self._words = bytes(texts.choices(letters + b" ", weights, k=_POOL))
        self._hot_urls = tuple((each, self._url()) for each in _HOT_CHANNELS)

    def lines(self) -> Iterator[bytes]:
        """The events as lines, in the order of their arrival. Endless."""
        config, draw, make = self._config, self._draw, self._make
        share, delay_ms = config.prob_delayed_event, config.occasional_delay_sec * 1000
        share = share if delay_ms else 0.0
        is_grouped = config.out_of_order_group_size > 1
        held: list[tuple[int, int, Made]] = []
        place = number = 0
        while True:
            now = config.time_ms(number)
            while held and held[0][0] <= now:
                key, rest = heappop(held)[2]
                yield b'{"key":"%b","seq":%d,%b' % (key, place, rest)
                place += 1
            if is_grouped:
                other = config.adjusted(number)
                made = make(other, config.time_ms(other))
            else:
                made = make(number, now)
            if share and draw() < share:
                heappush(held, (now + 1 + int(draw() * delay_ms), number, made))
            else:
                yield b'{"key":"%b","seq":%d,%b' % (made[0], place, made[1])
                place += 1
            number += 1

    def _make(self, number: int, at_ms: int) -> Made:
        """The event of a number: of which kind it is follows from its place in the epoch."""
        config = self._config
        people, auctions = config.person_proportion, config.auction_proportion
        epoch, place = divmod(number, self._total)
        if place < people:
            return self._person(epoch * people + place, at_ms)
        last_person = epoch * people + people - 1
        place -= people
        if place < auctions:
            return self._auction(number, epoch * auctions + place, last_person, at_ms)
        return self._bid(epoch * auctions + auctions - 1, last_person, at_ms)

    def _person(self, base: int, at_ms: int) -> Made:
        draw = self._draw
        person = FIRST_PERSON_ID + base
        name = b"%b %b" % (_one_of(_FIRST_NAMES, draw()), _one_of(_LAST_NAMES, draw()))
        email = b"%b@%b.com" % (self._text(7), self._text(5))
        card = b"%04d %04d %04d %04d" % tuple([int(draw() * 10_000) for _ in range(4)])
        city, state = _one_of(_CITIES, draw()), _one_of(STATES, draw())
        size = 8 + len(name) + len(email) + len(card) + len(city) + len(state)
        return b"p%d" % (person % self._config.key_groups), (
            b'"type":"person","time":%d,"data":{"id":%d,"name":"%b","emailAddress":"%b",'
            b'"creditCard":"%b","city":"%b","state":"%b","dateTime":%d,"extra":"%b"}}'
        ) % (
            *(at_ms, person, name, email, card, city, state, at_ms),
            self._extra(size, self._config.avg_person_byte_size),
        )

    def _auction(self, number: int, base: int, last_person: int, at_ms: int) -> Made:
        config, draw = self._config, self._draw
        auction = FIRST_AUCTION_ID + base
        if int(draw() * config.hot_sellers_ratio):
            seller = last_person // HOT * HOT
        else:
            seller = self._active_person(last_person)
        seller += FIRST_PERSON_ID
        category = FIRST_CATEGORY_ID + int(draw() * CATEGORIES)
        initial, more = self._price(), self._price()
        # Until as many more auctions are there as are in flight, on the average.
        ahead = config.num_in_flight_auctions * config.total_proportion // config.auction_proportion
        horizon_ms = config.time_ms(number + ahead) - at_ms
        expires = at_ms + 1 + int(draw() * max(2 * horizon_ms, 1))
        name, description = self._text(20), self._text(100)
        size = 8 + len(name) + len(description) + 40
        key = b"p%d" % (seller % config.key_groups)
        if not self._by_person:
            key = b"a%d" % (auction % config.key_groups)
        return key, (
            b'"type":"auction","time":%d,"data":{"id":%d,"itemName":"%b","description":"%b",'
            b'"initialBid":%d,"reserve":%d,"dateTime":%d,"expires":%d,"seller":%d,"category":%d,'
            b'"extra":"%b"}}'
        ) % (
            *(at_ms, auction, name, description, initial, initial + more, at_ms, expires, seller),
            *(category, self._extra(size, config.avg_auction_byte_size)),
        )

    def _bid(self, last_auction: int, last_person: int, at_ms: int) -> Made:
        config, draw = self._config, self._draw
        if int(draw() * config.hot_auction_ratio):
            auction = last_auction // HOT * HOT
        else:
            least = max(last_auction - config.num_in_flight_auctions, 0)
            auction = least + int(draw() * (last_auction - least + 1 + LEAD))
        auction += FIRST_AUCTION_ID
        if int(draw() * config.hot_bidders_ratio):
            # Not the first one, who is the hot seller.
            bidder = last_person // HOT * HOT + 1
        else:
            bidder = self._active_person(last_person)
        bidder += FIRST_PERSON_ID
        price = self._price()
        # Every other bid comes by a hot channel.
        if draw() < 0.5:
            channel, url = self._hot_urls[int(draw() * 4)]
        else:
            number = int(draw() * CHANNELS)
            channel, url = self._urls.get(number) or self._channel(number)
        if self._by_person:
            key = b"p%d" % (bidder % config.key_groups)
        else:
            key = b"a%d" % (auction % config.key_groups)
        return key, (
            b'"type":"bid","time":%d,"data":{"auction":%d,"bidder":%d,"price":%d,"channel":"%b",'
            b'"url":"%b","dateTime":%d,"extra":"%b"}}'
        ) % (
            *(at_ms, auction, bidder, price, channel, url, at_ms),
            self._extra(32, config.avg_bid_byte_size),
        )

    def _active_person(self, last: int) -> int:
        """One of those who came last, or are about to come (from 0)."""
        active = min(last + 1, self._config.num_active_people)
        return last + 1 - active + int(self._draw() * (active + LEAD))

    def _price(self) -> int:
        """In cents, between 1 and 1,000,000 dollars: its logarithm is spread evenly."""
        return int(10.0 ** (self._draw() * 6) * 100 + 0.5)

    def _text(self, most: int) -> bytes:
        """Words of up to so many letters."""
        draw = self._draw
        size = _LEAST_TEXT + int(draw() * (most - _LEAST_TEXT))
        at = int(draw() * (_POOL - most))
        return self._words[at : at + size].strip()

    def _extra(self, size: int, average: int) -> bytes:
        """What brings an event of such a size to the average, give or take a fifth."""
        missing = average - size
        if missing <= 0:
            return b""
        draw = self._draw
        spread = int(missing * 0.2 + 0.5)
        length = missing - spread + int(draw() * 2 * spread)
        at = int(draw() * _POOL)
        return self._letters[at : at + length]

    def _channel(self, number: int) -> tuple[bytes, bytes]:
        """A channel at its first bid, and its url from then on; nine of ten name the channel."""
        url = self._url()
        if self._draw() < 0.9:
            url += b"&channel_id=%d" % _reversed(number)
        made = self._urls[number] = b"channel-%d" % number, url
        return made

    def _url(self) -> bytes:
        words = [self._text(5).replace(b" ", b"_") for _ in range(3)]
        return b"https://www.nexmark.com/%b/item.htm?query=1" % b"/".join(words)


def _one_of(words: tuple[bytes, ...], drawn: float) -> bytes:
    return words[int(drawn * len(words))]


def _reversed(number: int) -> int:
    """The size of the 32-bit number whose bits stand the other way round."""
    turned = int(f"{number:032b}"[::-1], 2)
    return abs(turned - (1 << 32) if turned >> 31 else turned)
