"""Handlers for tests, importable by worker processes.

act() and its kind do what a planned event (streams.py) asks for, and log every call: one line
(stage, event, key, start, end, process), appended to the file that LOG_VARIABLE names.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from millstream.engine import Event, Reject, Retry

from .streams import Planned, outcome

LOG_VARIABLE = "MILLSTREAM_TEST_LOG"

_logs: dict[str, int] = {}


def log(*fields: Any) -> None:
    """Append one JSON line, whole, whichever process it comes from."""
    path = os.environ.get(LOG_VARIABLE)
    if path is None:
        return
    if path not in _logs:
        _logs[path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(_logs[path], json.dumps(fields).encode() + b"\n")


def forget_logs() -> None:
    """Close the files of log(): the next call opens what the variable names then."""
    while _logs:
        os.close(_logs.popitem()[1])


class _Logged:
    """Logs a call when its block ends, however it ends."""

    def __init__(self, event: Event, place: int) -> None:
        self._data, self._place = event.data, place

    def __enter__(self) -> None:
        self._start = time.monotonic_ns()

    def __exit__(self, *exc: object) -> None:
        data = self._data
        log(self._place, data["id"], data["key"], self._start, time.monotonic_ns(), os.getpid())


def _results(event: Event, place: int) -> Any:
    data = event.data
    try:
        made = outcome(data, place)
    except Planned as error:
        if data["plan"][place] == "reject":
            raise Reject(str(error)) from None
        raise
    match data["plan"][place]:
        case "pass":
            return event
        case "filter":
            return None
        case "change":
            event.data["path"] = made[0]["path"]
            return event
        case "dict":
            return made[0]
        case "text":
            return json.dumps(made[0])
        case "generator":
            return (each for each in made)
    return [event.replace(data=made[0]), made[1], json.dumps(made[2]).encode()]


def act(event: Event, place: int = 0) -> Any:
    with _Logged(event, place):
        for _ in range(event.data["wait"] * 2_000):
            pass
        return _results(event, place)


def generate(event: Event, place: int = 0) -> Iterator[Any]:
    with _Logged(event, place):
        results = _results(event, place)
        if results is not None:
            yield from results if not isinstance(results, Event | dict | str) else [results]


async def aact(event: Event, place: int = 0) -> Any:
    with _Logged(event, place):
        for _ in range(event.data["wait"]):
            await asyncio.sleep(0)
        if event.data["wait"] > 2:
            await asyncio.sleep(0.001)
        return _results(event, place)


async def agenerate(event: Event, place: int = 0) -> AsyncIterator[Any]:
    with _Logged(event, place):
        results = _results(event, place)
        if results is not None:
            for each in results if not isinstance(results, Event | dict | str) else [results]:
                await asyncio.sleep(0)
                yield each


# --- plain ones


def echo(event: Event) -> Event:
    return event


def slow_echo(event: Event) -> Event:
    time.sleep(0.002)
    return event


async def aecho(event: Event) -> Event:
    return event


def nothing(event: Event) -> None:
    return None


def explode(event: Event) -> Event:
    raise ValueError("on this line")  # the user's line


async def aexplode(event: Event) -> Event:
    await asyncio.sleep(0)
    raise ValueError("on this line")  # the user's line


def mark(event: Event) -> Event:
    event.data["marked"] = True
    return event


# --- batches


def echo_batch(events: list[Event]) -> list[Any]:
    log("batch", len(events), [each.data["id"] for each in events])
    return [{**each.data, "size": len(events)} for each in events]


async def aecho_batch(events: list[Event]) -> list[Any]:
    await asyncio.sleep(0)
    return echo_batch(events)


def picky_batch(events: list[Event]) -> list[Any]:
    """Fails for what ends in 3, filters what ends in 4, doubles what ends in 5."""
    if any(each.data["id"] % 10 == 3 for each in events):
        raise ValueError("a three")
    doubled = {5: lambda each: [each, each]}
    return [
        None if each.data["id"] % 10 == 4 else doubled.get(each.data["id"] % 10, lambda e: e)(each)
        for each in events
    ]


async def apicky_batch(events: list[Event]) -> list[Any]:
    await asyncio.sleep(0)
    return picky_batch(events)


def short_batch(events: list[Event]) -> list[Any]:
    """One entry too few."""
    return list(events)[1:]


# --- state


def count(event: Event, state: dict[str, int]) -> dict[str, Any]:
    state["n"] = state.get("n", 0) + 1
    return {"id": event.data["id"], "key": event.key, "n": state["n"]}


async def acount(event: Event, state: dict[str, int]) -> dict[str, Any]:
    before = state.get("n", 0)
    await asyncio.sleep(0)
    state["n"] = before + 1
    return {"id": event.data["id"], "key": event.key, "n": state["n"]}


def toggle(event: Event, state: dict[str, int]) -> dict[str, Any]:
    """Every second event of a key finds its state, and empties it."""
    found = bool(state)
    if found:
        state.clear()
    else:
        state["here"] = 1
    return {"id": event.data["id"], "key": event.key, "found": found}


async def atoggle(event: Event, state: dict[str, int]) -> dict[str, Any]:
    await asyncio.sleep(0)
    return toggle(event, state)


# --- resources


def open_resource() -> Counter[str]:
    log("open", os.getpid())
    return Counter()


def close_resource(resource: Counter[str]) -> None:
    log("close", os.getpid(), resource["used"])


async def aopen_resource() -> Counter[str]:
    await asyncio.sleep(0)
    return open_resource()


async def aclose_resource(resource: Counter[str]) -> None:
    await asyncio.sleep(0)
    close_resource(resource)


def broken_teardown(resource: object) -> None:
    raise RuntimeError("the database is gone")


async def abroken_teardown(resource: object) -> None:
    broken_teardown(resource)


async def cancelled_setup() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def cancelled_teardown(resource: object) -> None:
    await cancelled_setup()


def use(event: Event, resource: Counter[str]) -> Event:
    resource["used"] += 1
    return event


async def ause(event: Event, resource: Counter[str]) -> Event:
    resource["used"] += 1
    return event


def broken_setup() -> None:
    raise RuntimeError("no database")


# --- worse ones


def poison(event: Event) -> Event:
    """Dies of an event in the way that it asks for."""
    data = event.data
    match data.get("end"):
        case "exit":
            os._exit(data.get("code", 7))
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "SIGSEGV":
            import ctypes

            ctypes.string_at(0)
        case "memory":
            data["hoard"] = [bytes(1 << 20) for _ in range(4096)]
        case "hang":
            while True:
                time.sleep(3600)
        case "kill once" if tries_of(event) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop once" if tries_of(event) == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
    log("handled", data["id"], data["key"])
    return event


def hang_six_times(event: Event) -> Event:
    """Hangs for each of the first six calls of all events."""
    if tries_of(event, "all") <= 6:
        time.sleep(3600)
    return event


async def apoison(event: Event) -> Event:
    await asyncio.sleep(0)
    return poison(event)


def keep_first_six(event: Event) -> Event | None:
    return event if event.data["id"] < 6 else None


def count_all(event: Event, state: dict[str, int]) -> Event:
    state["count"] = state.get("count", 0) + 1
    return event


class PanicError(BaseException):
    """What libraries raise that do not want to be caught."""


BASE_ERRORS: dict[str, type[BaseException]] = {
    "panic": PanicError,
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "exit": SystemExit,
}


def panic(event: Event) -> Event:
    if "raise" in event.data:
        raise BASE_ERRORS[event.data["raise"]]("here")
    return event


async def apanic(event: Event) -> Event:
    return panic(event)


def not_to_be_written(event: Event) -> Event:
    if event.data["id"] == 5:
        event.data["pad"] = object()
    return event


async def anot_to_be_written(event: Event) -> Event:
    return not_to_be_written(event)


def not_to_be_written_batch(events: list[Event]) -> list[Event]:
    return list(map(not_to_be_written, events))


async def anot_to_be_written_batch(events: list[Event]) -> list[Event]:
    return not_to_be_written_batch(events)


def idle_until_it_dies() -> None:
    """A set-up that ends its process once that waits for work."""
    import sys
    import threading

    main = threading.main_thread().ident
    assert main is not None

    def end() -> None:
        before = None
        while (at := _place(sys._current_frames()[main])) != before or "recv" not in at:
            before = at
            time.sleep(0.02)
        os._exit(9)

    threading.Thread(target=end, daemon=True).start()


def _place(frame: Any) -> str:
    """Where in the code a frame is: its file, line and text."""
    import linecache

    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno)
    return f"{code.co_filename}:{frame.f_lineno}: {line}"


def end_badly(how: Any) -> None:
    """A tear-down that does not come to its end."""
    match os.environ["MILLSTREAM_TEST_END"]:
        case "exit":
            os._exit(3)
        case "SIGSEGV":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(3600)


def exit_at_three(event: Event) -> Event:
    if event.data["id"] == 3:
        os._exit(7)
    return event


def kill_at_three(event: Event) -> Event:
    if event.data["id"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return event


def die_often(event: Event) -> Event:
    if event.data["id"] % 50 == 49:
        os._exit(7)
    return event


def set_up_nothing() -> None:
    pass


def set_up_once() -> None:
    """Only the first worker can set up."""
    path = Path(os.environ[TRIES_VARIABLE]).with_name("was-set-up")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))


def leave(event: Event) -> Event:
    raise SystemExit(0)


async def aleave(event: Event) -> Event:
    raise SystemExit(0)


async def await_cancelled(event: Event) -> Event:
    """As when a handler waits for something that somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future
    return event


def cancelled(event: Event) -> Event:
    raise asyncio.CancelledError


async def forever(event: Event) -> Event:
    await asyncio.Event().wait()
    return event


async def hold_loop(event: Event) -> Event:
    time.sleep(0.3)  # noqa: ASYNC251  (that is the point)
    return event


async def amark(event: Event) -> Event:
    return mark(event)


MEETING_PLACE = "MILLSTREAM_TEST_MEETING_PLACE"
"""Environment variable: the folder where worker processes meet."""


def meet(event: Event) -> Event:
    """Go on only when another worker process is at work, too."""
    folder = Path(os.environ[MEETING_PLACE])
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + 20
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise RuntimeError("nobody else came")
        time.sleep(0.001)
    return event


# --- handlers that fail for a while; what they count, they count across processes


TRIES_VARIABLE = "MILLSTREAM_TEST_TRIES"


def tries_of(event: Event, name: str | None = None) -> int:
    """Count an attempt at `event`, or at all that share a name; gives its number (1, 2, …)."""
    path = Path(os.environ[TRIES_VARIABLE]) / (name or f"{event.data['id']}")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, b".")
        return os.fstat(file).st_size
    finally:
        os.close(file)


def all_tries() -> dict[int, int]:
    """The attempts at each event that there were."""
    folder = Path(os.environ[TRIES_VARIABLE])
    return {int(path.name): path.stat().st_size for path in folder.iterdir()}


def flaky(event: Event) -> Event:
    """Fails as often as the event says; changes it before it does."""
    data = event.data
    start = time.monotonic_ns()
    number = tries_of(event)
    data["touched"] = data.get("touched", 0) + 1
    log("flaky", data["id"], data["key"], start, time.monotonic_ns(), number)
    if number <= data.get("fails", 0):
        if "after" in data:
            raise Retry(after=data["after"])
        raise _ERRORS[data.get("error", "connection")]("not yet")
    return event


_ERRORS: dict[str, type[Exception]] = {
    "connection": ConnectionError,
    "timeout": TimeoutError,
    "value": ValueError,
    "reject": Reject,
}


async def aflaky(event: Event) -> Event:
    await asyncio.sleep(0)
    return flaky(event)


def touch(event: Event) -> Event:
    event.data["first"] = True
    return event


async def atouch(event: Event) -> Event:
    return touch(event)


def flaky_batch(events: list[Event]) -> list[Event]:
    """Counts its calls by the first event; fails for as long as any event says so."""
    log("batch", [event.data["id"] for event in events])
    tries = [(event, tries_of(event)) for event in events]
    if any(number <= event.data.get("fails", 0) for event, number in tries):
        raise ConnectionError("not yet")
    return events


async def aflaky_batch(events: list[Event]) -> list[Event]:
    await asyncio.sleep(0)
    return flaky_batch(events)


class AFailsOnce:
    """A batch handler that waits a little, and fails once for each event that says so."""

    def __init__(self) -> None:
        self._failed: set[int] = set()

    async def __call__(self, events: list[Event]) -> list[Event]:
        await asyncio.sleep(0.001)
        for event in events:
            if event.data.get("fails") and event.data["id"] not in self._failed:
                self._failed.add(event.data["id"])
                raise ConnectionError("not yet")
        return events


def sum_up(event: Event, state: dict[str, int]) -> Event:
    """Adds to the state of its key, and fails after that as often as the event says."""
    state["sum"] = state.get("sum", 0) + event.data["n"]
    if tries_of(event) <= event.data.get("fails", 0):
        raise ConnectionError("not yet")
    event.data["sum"] = state["sum"]
    return event


async def asum_up(event: Event, state: dict[str, int]) -> Event:
    await asyncio.sleep(0)
    return sum_up(event, state)


def wait_for_others(event: Event) -> Event:
    """Asks for another attempt until all events of other keys have been handled."""
    data = event.data
    if "others" in data and len(all_tries()) < data["others"]:
        raise Retry(after=0.001)
    tries_of(event)
    log("done", data["id"], data["key"])
    return event


async def await_others(event: Event) -> Event:
    await asyncio.sleep(0)
    return wait_for_others(event)


def flaky_row(event: Event) -> Event:
    """Row number 4 of a CSV file fails once, after it was changed."""
    number = tries_of(event)
    kept = event.data["key"]
    event.data["key"] = "changed"
    if event.data["id"] == "4" and number == 1:
        raise ConnectionError("not yet")
    event.data["key"] = kept
    return event


async def aflaky_row(event: Event) -> Event:
    await asyncio.sleep(0)
    return flaky_row(event)


def outage(event: Event) -> Event:
    """What it calls is down for the first calls, whatever the event."""
    tries_of(event)
    path = Path(os.environ[TRIES_VARIABLE]).with_name("calls")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(file, b".")
        calls = os.fstat(file).st_size
    finally:
        os.close(file)
    if calls <= event.data["down"]:
        raise ConnectionError("down")
    return event


async def aoutage(event: Event) -> Event:
    await asyncio.sleep(0)
    return outage(event)


def touch_slowly(event: Event) -> Event:
    time.sleep(0.002)
    return touch(event)


async def atouch_slowly(event: Event) -> Event:
    await asyncio.sleep(0.002)
    return touch(event)


# --- what an event's fate at a stage is: events say it by the stage's name


def _meet_fate(event: Event, stage: str) -> Event | None:
    fate = event.data["fates"].get(stage)
    match fate:
        case "once" if tries_of(event, f"{stage}-{event.data['id']}") == 1:
            raise ConnectionError("not yet")
        case "always":
            raise ConnectionError("never")
        case "value":
            raise ValueError("no")
        case "exit":
            os._exit(9)
        case "none":
            return None
    return event


def _fateful(name: str) -> dict[str, Any]:
    """The handlers of one stage, by their names."""

    def plain(event: Event) -> Event | None:
        return _meet_fate(event, name)

    def batch(events: list[Event]) -> list[Event | None]:
        return [_meet_fate(event, name) for event in events]

    async def coroutine(event: Event) -> Event | None:
        if event.data["id"] % 3 == 0:
            await asyncio.sleep(0.0005 * (event.data["id"] % 5))
        return _meet_fate(event, name)

    async def coroutine_batch(events: list[Event]) -> list[Event | None]:
        await asyncio.sleep(0.0005)
        return [_meet_fate(event, name) for event in events]

    named: dict[str, Any] = {}
    for handler in (plain, batch, coroutine, coroutine_batch):
        handler.__name__ = handler.__qualname__ = f"fateful_{handler.__name__}_{name}"
        named[handler.__name__] = handler
    return named


for _name in ("s0", "s1", "s2"):
    globals().update(_fateful(_name))
