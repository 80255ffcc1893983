"""The hot loop: a line is decoded, handled, stamped and encoded before the next one is touched.

What one event needs is so still warm in the cache, and its memory is free for the next. Used in
the loop by inline stages and in worker processes; imports neither numpy nor asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from ..batch import DEAD, Value, pack_lines
from ..codecs import Bad, JsonDecoder, describe_bad
from ..event import DATA_MEMBER, Event, Record, decode_json
from ..order import Lane

now_ns: Final = time.monotonic_ns
CLOSING_BRACE: Final = 0x7D
NO_MEMBER_BEFORE: Final = frozenset(b"{ \t\r")
"""Before `,"data":` one of these may stand for no member at all: `{,"data":1}` is no JSON."""


class Failure(msgspec.Struct, frozen=True):
    """A place whose event is dead, and why."""

    place: int
    error: BaseException | Bad


class Handled:
    """What became of the first `len(stamps) - 1` lines of a block."""

    __slots__ = ("failures", "held", "keys", "odd", "stamps", "values")

    def __init__(self) -> None:
        self.values: list[Value] = []
        """With `encode`: the output line of an event, or a list of them, None, DEAD."""
        self.stamps: list[int] = []
        """When the first began, and when each ended (ns): one more than values."""
        self.keys: list[Lane] = []
        self.failures: list[Failure] = []
        self.held: BaseException | None = None
        """What the event after these failed with, when that is not yet its end."""
        self.odd = False
        """Whether some value is not exactly one event."""

    def put(self, value: Value) -> None:
        """Add one that ended apart from the others."""
        self.odd = self.odd or value is None or value is DEAD or type(value) is list
        self.values.append(value)

    def fail(self, error: BaseException | Bad) -> None:
        """Add one that is dead."""
        _dead(self, error)

    def packed(self) -> tuple[bytes, list[int] | None]:
        """The output lines joined, and how many each place has (None: one each)."""
        return pack_lines(self.values)


Call = Callable[[Any], Any]
Odd = Callable[[Any, Event], Value]
Holds = Callable[[BaseException, int], bool]
"""Asked with an error, and how many of the same call are dead already."""


def handle_lines(
    lines: Sequence[bytes],
    decoder: JsonDecoder,
    call: Call,
    odd: Odd,
    *,
    encode: bool,
    turn_ns: int,
    holds: Holds = lambda error, dead: False,
    stops: Callable[[int], bool] = lambda dead: False,
    is_utf8: bool = True,
) -> Handled:
    """Handle `lines` one after another, until all are done or `turn_ns` is over.

    An error that `holds` says yes to ends it before that event; a line that is no event ends it
    behind that when `stops` says yes to so many dead.

    `call` gets each event; a result that is neither the event nor None goes through `odd`, which
    gives an event, a list of them, or None. With `encode`, values are output lines.
    """
    done = Handled()
    decode, fix = decoder.bound()
    two_parts = decoder.in_two_parts and is_utf8
    put, stamp, put_key = done.values.append, done.stamps.append, done.keys.append
    unusual = 0
    at = now_ns()
    stamp(at)
    until = at + turn_ns
    for line in lines:
        try:
            if two_parts:
                head, _, tail = line.partition(DATA_MEMBER)
                if tail[-1] != CLOSING_BRACE or head[-1] in NO_MEMBER_BEFORE:
                    raise IndexError
                payload = decode_json(tail[:-1])
                event = decode(head + b"}")
                event._head, event._data = head, payload
            elif is_utf8:
                event = decode(line)
            else:
                event = decode(_checked(line))
            event._line = line
            if event._first_key is not None:
                event._key = event._first_key
            if fix is not None:
                fix([event])
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError, RecursionError):
            unusual += 1
            if not _unusual(line, decoder, call, odd, done, encode, holds):
                break
            if stops(len(done.failures)):
                until = 0
        else:
            put_key(event._key)
            try:
                result = call(event)
                if result is event:
                    if not encode:
                        put(event)
                    elif event._obj is UNSET:
                        put(line)
                    else:
                        put(event.to_line())
                elif result is None:
                    done.odd = True
                    put(None)
                else:
                    put(_odd_value(odd(result, event), done, encode))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if holds(error, len(done.failures)):
                    _hold(done, error)
                    break
                _dead(done, error)
        at = now_ns()
        stamp(at)
        if at > until:
            break
    if two_parts and unusual > len(done.values) // 4:
        decoder.give_up_parts()
    return done


def _odd_value(value: Value, done: Handled, encode: bool) -> Value:
    if type(value) is list:
        done.odd = True
        return [each.to_line() for each in value] if encode else value
    if value is None:
        done.odd = True
        return None
    return value.to_line() if encode else value


def _dead(done: Handled, error: BaseException | Bad) -> None:
    done.odd = True
    done.failures.append(Failure(len(done.values), error))
    done.values.append(DEAD)


def _hold(done: Handled, error: BaseException) -> None:
    done.keys.pop()
    done.held = error


def _unusual(
    line: bytes,
    decoder: JsonDecoder,
    call: Call,
    odd: Odd,
    done: Handled,
    encode: bool,
    holds: Holds,
) -> bool:
    """Whether to go on."""
    event = _unusual_event(line, decoder)
    if isinstance(event, Bad):
        done.keys.append(None)
        _dead(done, event)
        return True
    done.keys.append(event._key)
    try:
        result = call(event)
        value = result if result is event or result is None else odd(result, event)
        done.values.append(_odd_value(value, done, encode))
    except KeyboardInterrupt:
        raise
    except BaseException as failed:
        if holds(failed, len(done.failures)):
            _hold(done, failed)
            return False
        _dead(done, failed)
    return True


def decoded(
    lines: Sequence[bytes], decoder: JsonDecoder, *, is_utf8: bool
) -> Iterator[Record | Bad]:
    """The event of each line, decoded as it is asked for."""
    decode, fix = decoder.bound()
    two_parts = decoder.in_two_parts and is_utf8
    unusual = 0
    for line in lines:
        try:
            if two_parts:
                head, _, tail = line.partition(DATA_MEMBER)
                if tail[-1] != CLOSING_BRACE or head[-1] in NO_MEMBER_BEFORE:
                    raise IndexError
                payload = decode_json(tail[:-1])
                event = decode(head + b"}")
                event._head, event._data = head, payload
            else:
                event = decode(line if is_utf8 else _checked(line))
            event._line = line
            if event._first_key is not None:
                event._key = event._first_key
            if fix is not None:
                fix([event])
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError, RecursionError):
            unusual += 1
            yield _unusual_event(line, decoder)
        else:
            yield event
    if two_parts and unusual > len(lines) // 4:
        decoder.give_up_parts()


def _unusual_event(line: bytes, decoder: JsonDecoder) -> Record | Bad:
    try:
        return decoder.decode_unusual(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return describe_bad(error, line)


def _checked(line: bytes) -> bytes:
    str(line, "utf-8")
    return line


def is_utf8(lines: Sequence[bytes], data: bytes | None) -> bool:
    """Whether all text is UTF-8. Payloads stay raw when decoded, so it is looked at here."""
    if data is None:
        data = b"\n".join(lines)
    if data.isascii():
        return True
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
