"""The load generator as a process: it is on time, loses nothing, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from millstream.engine.arrivals import Closed, parse_arrivals
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.load import LoadReport, Release
from millstream.workloads import generator as generator_module
from millstream.workloads.generator import Generator
from millstream.workloads.load import LocalLoad, ProcessLoad
from millstream.workloads.passthrough import Passthrough
from millstream.workloads.supply import Supply
from millstream.workloads.wire import HEAD, ORIGIN, STOP, Ended, Start, decode_message

MS = 1_000_000
PATIENCE_S = 60.0


def start(**more: Any) -> Start:
    given = {
        **{"scenario": "passthrough", "settings": {}, "seed": 1, "arrivals": "constant"},
        **{"rate": 5000.0, "events": 1000, "duration_ns": None},
    }
    return Start(**{**given, **more})


def schedule(asked: Start, events: int) -> list[int]:
    return (
        parse_arrivals(
            asked.arrivals, rate=asked.rate, seed=asked.seed, duration_s=None, read_trace=list
        )
        .take(events)
        .tolist()
    )


def stream(events: int, **settings: Any) -> list[bytes]:
    return list(islice(Passthrough(settings, 1).lines(), events))


def lines_of(releases: list[Release]) -> list[bytes]:
    return [line for each in releases for line in each.data.split(b"\n")]


def intended(releases: list[Release], origin_ns: int) -> list[int]:
    return [
        int(at) - origin_ns
        for each in releases
        if each.times is not None
        for at in each.times.intended_ns
    ]


def run_to_end(
    asked: Start, each: Callable[[ProcessLoad, Release], None] = lambda load, release: None
) -> tuple[list[Release], LoadReport, int]:
    """All that a load releases, what it says at the end, and when its schedule began."""

    async def run() -> tuple[list[Release], LoadReport, int]:
        load = ProcessLoad(asked)
        releases = []
        try:
            await load.open()
            origin_ns = time.monotonic_ns() + 5 * MS
            load.begin(origin_ns)
            async for release in load.releases():
                releases.append(release)
                each(load, release)
            report = await load.close()
            assert load.released == report.released
        finally:
            load.kill()
        return releases, report, origin_ns

    return asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for is in another process
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "burst:64", "sine:90%:100ms"])
def test_all_events_come_once_in_order_with_the_times_of_the_schedule(arrivals: str) -> None:
    asked = start(arrivals=arrivals, events=1500)

    releases, report, origin_ns = run_to_end(asked)

    assert lines_of(releases) == stream(1500)
    assert intended(releases, origin_ns) == schedule(asked, 1500)
    assert sum(each.count for each in releases) == report.released == 1500
    assert report.dropped == 0
    assert report.elapsed_ns >= schedule(asked, 1500)[-1]


def test_nothing_is_released_before_it_is_due() -> None:
    taken_at: list[int] = []

    releases, _, _ = run_to_end(start(), lambda load, each: taken_at.append(time.monotonic_ns()))

    for release, at_ns in zip(releases, taken_at, strict=True):
        assert release.times is not None
        assert (release.times.released_ns >= release.times.intended_ns).all()
        assert (release.times.released_ns <= at_ns).all()


def test_what_is_released_is_known_before_it_is_taken() -> None:
    taken = 0

    def compare(load: ProcessLoad, release: Release) -> None:
        nonlocal taken
        taken += release.count
        assert load.released >= taken

    run_to_end(start(), compare)

    assert taken == 1000


def test_a_load_ends_with_its_duration() -> None:
    asked = start(events=None, duration_ns=200 * MS)

    releases, report, origin_ns = run_to_end(asked)

    assert report.released == 1000
    assert intended(releases, origin_ns) == schedule(asked, 1000)


def test_a_closed_load_has_no_times() -> None:
    releases, report, _ = run_to_end(start(arrivals="closed", rate=None, events=50_000))

    assert lines_of(releases) == stream(50_000)
    assert all(each.times is None for each in releases)
    assert (report.released, report.dropped) == (50_000, 0)


def test_settings_and_seed_are_those_of_the_scenario() -> None:
    releases, _, _ = run_to_end(start(settings={"payload": 3, "keys": 2}, seed=9, events=50))

    assert lines_of(releases) == list(islice(Passthrough({"payload": 3, "keys": 2}, 9).lines(), 50))


def _stopped_at_once(asked: Start) -> tuple[list[Release], LoadReport]:
    releases, report, _ = run_to_end(asked, lambda load, release: load.stop())
    return releases, report


def test_stop_ends_it_and_what_was_due_comes() -> None:
    """Its end would come in hours."""
    releases, report = _stopped_at_once(start(events=10**9))

    taken = sum(each.count for each in releases)
    assert taken == report.released < 10**9
    assert lines_of(releases) == stream(taken)


def test_stop_ends_a_closed_load_and_nothing_more_comes() -> None:
    releases, report = _stopped_at_once(start(arrivals="closed", events=10**9))

    assert len(releases) == 1
    assert releases[0].count <= report.released < 10**9


def test_stop_ends_also_one_that_can_not_keep_up() -> None:
    """So many events a second nobody can make."""
    asked = start(rate=1e9, events=None, duration_ns=10_000_000 * MS)

    _, report, _ = run_to_end(asked, lambda load, release: load.stop())

    assert report.released < 10**9


def test_one_that_is_stopped_before_it_begins_releases_nothing() -> None:
    async def run() -> LoadReport:
        load = await _opened(start())
        load.stop()
        load.begin(time.monotonic_ns())
        assert [each async for each in load.releases()] == []
        report = await load.close()
        load.kill()
        return report

    report = asyncio.run(asyncio.wait_for(run(), PATIENCE_S))

    assert (report.released, report.dropped) == (0, 0)


def test_closing_stops_it_and_takes_what_was_released() -> None:
    async def run() -> tuple[int, LoadReport]:
        load = ProcessLoad(start(events=10**9))
        await load.open()
        load.begin(time.monotonic_ns())
        releases = load.releases()
        first = await anext(releases)
        report = await load.close()
        load.kill()
        return first.count, report

    first, report = asyncio.run(run())

    assert first <= report.released < 10**9


def test_a_consumer_that_takes_nothing_for_a_while_gets_all_with_their_times() -> None:
    asked = start(rate=100_000.0, events=20_000, settings={"payload": 500})

    async def run() -> tuple[list[Release], LoadReport, int]:
        load = ProcessLoad(asked)
        await load.open()
        origin_ns = time.monotonic_ns()
        load.begin(origin_ns)
        # More than any socket holds is released before the first is taken.
        await until(lambda: load.released == 20_000)
        releases = [each async for each in load.releases()]
        report = await load.close()
        load.kill()
        return releases, report, origin_ns

    releases, report, origin_ns = asyncio.run(asyncio.wait_for(run(), PATIENCE_S))

    assert lines_of(releases) == stream(20_000, payload=500)
    assert intended(releases, origin_ns) == schedule(asked, 20_000)
    assert (report.released, report.dropped) == (20_000, 0)


# --- what goes wrong


async def _opened(asked: Start) -> ProcessLoad:
    load = ProcessLoad(asked)
    try:
        await load.open()
    except BaseException:
        load.kill()
        raise
    return load


def pid_of(load: ProcessLoad) -> int:
    assert load._process is not None
    return load._process.pid


def test_a_generator_that_dies_is_told_of() -> None:
    async def run() -> None:
        load = await _opened(start(events=10**9))
        load.begin(time.monotonic_ns())
        try:
            async for _ in load.releases():
                os.kill(pid_of(load), signal.SIGKILL)
        finally:
            load.kill()

    with pytest.raises(ConnectorError, match=r"ended before its load did \(killed by SIGKILL\)"):
        asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_a_generator_that_dies_at_the_close_is_told_of() -> None:
    async def run() -> None:
        load = await _opened(start(events=10**9))
        load.begin(time.monotonic_ns())
        os.kill(pid_of(load), signal.SIGKILL)
        try:
            await load.close()
        finally:
            load.kill()

    with pytest.raises(ConnectorError, match="ended before its load did"):
        asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


FILE = """
    from millstream.workloads.passthrough import Passthrough

    class Own(Passthrough):
        name = "own"

        def lines(self):
            {what}
            yield from super().lines()
"""


def own_scenario(folder: Path, what: str) -> str:
    path = folder / "own.py"
    path.write_text(textwrap.dedent(FILE).format(what=what))
    return str(path)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import os; os._exit(3)", r"ended before its load did \(exit code 3\)"),
        ("import sys; sys.exit(4)", r"ended before its load did \(exit code 4\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL"),
    ],
)
def test_a_broken_scenario_says_why(tmp_path: Path, what: str, reason: str) -> None:
    with pytest.raises(ConnectorError, match=reason):
        asyncio.run(_opened(start(scenario=own_scenario(tmp_path, what))))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"scenario": "passthru"}, "there is no scenario 'passthru'; did you mean 'passthrough'"),
        ({"scenario": "no/such.py"}, "no/such.py"),
        ({"settings": {"kees": 3}}, "did you mean 'keys'"),
        ({"arrivals": "often"}, "--arrivals is 'often'"),
        ({"arrivals": "trace:/no/such/file"}, "No such file"),
    ],
)
def test_what_can_not_be_generated_says_why(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConnectorError, match=f"the load can't be generated: .*{reason}"):
        asyncio.run(_opened(start(**asked)))


def test_a_stream_that_breaks_at_once_says_why(tmp_path: Path) -> None:
    what = "yield from (b'{}' for _ in range(5000)); raise ValueError('dry')"
    asked = start(scenario=own_scenario(tmp_path, what), events=None, duration_ns=10**15)

    with pytest.raises(ConnectorError, match=r"can't be generated: ValueError: dry"):
        run_to_end(asked)


def test_a_stream_that_breaks_on_its_way_ends_the_load(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is longer than what is made ahead."""
    what = "yield from (b' ' * 2000 for _ in range(40_000)); raise ValueError('dry')"
    asked = start(scenario=own_scenario(tmp_path, what), events=None, rate=1e6, duration_ns=10**15)

    with pytest.raises(ConnectorError, match=r"ended before its load did \(exit code 1\)"):
        run_to_end(asked)

    assert "ValueError: dry" in capfd.readouterr().err


def test_a_load_that_is_killed_leaves_no_process() -> None:
    async def run() -> tuple[int, int]:
        ready = await _opened(start())
        begun = await _opened(start(events=10**9))
        begun.begin(time.monotonic_ns())
        pids = pid_of(ready), pid_of(begun)
        for load in (ready, begun):
            load.kill()
            load.kill()
        return pids

    assert not any(psutil.pid_exists(pid) for pid in asyncio.run(run()))


def test_a_load_whose_opening_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    what = f"import pathlib, time; pathlib.Path({str(tmp_path / 'on')!r}).touch(); time.sleep(999)"
    load = ProcessLoad(start(scenario=own_scenario(tmp_path, what)))

    async def run() -> int:
        opening = asyncio.ensure_future(load.open())
        await until((tmp_path / "on").exists)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        return pid_of(load)

    assert not psutil.pid_exists(asyncio.run(run()))


PARENT = """
    import asyncio, sys, time
    from millstream.workloads.load import ProcessLoad
    from millstream.workloads.wire import Start

    async def run():
        load = ProcessLoad(Start("passthrough", {}, 1, sys.argv[1], 100.0, 10**9, None))
        await load.open()
        if sys.argv[2] == "begun":
            load.begin(time.monotonic_ns())
        print(load._process.pid, flush=True)
        async for release in load.releases():
            if sys.argv[2] == "stuck":
                time.sleep(999)
    asyncio.run(run())
"""


@pytest.mark.parametrize(
    ("arrivals", "state"),
    [("constant", "ready"), ("constant", "begun"), ("closed", "begun"), ("closed", "ready")],
)
def test_a_killed_parent_takes_its_generator_along(
    tmp_path: Path, arrivals: str, state: str
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    parent = subprocess.Popen(
        [sys.executable, str(script), arrivals, state], stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        generator = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()

        _gone, alive = psutil.wait_procs([generator], timeout=PATIENCE_S)
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()

    assert alive == [] or alive[0].status() == psutil.STATUS_ZOMBIE


# --- the generator itself, in a thread


class Consumer:
    """The other end of a generator's socket."""

    def __init__(self, supply: Supply) -> None:
        self.socket, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.socket.settimeout(PATIENCE_S)
        self._theirs = theirs
        self.counter = mmap.mmap(-1, mmap.PAGESIZE)
        self.generator = Generator(supply, theirs, self.counter)

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()
        self._theirs.close()

    def begin(self, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def frames(self) -> Iterator[tuple[int, bytes] | Ended]:
        file = self.socket.makefile("rb")
        with file:
            while True:
                count, size, released_ns = HEAD.unpack(file.read(HEAD.size))
                if not count:
                    message = decode_message(file.read(size))
                    assert isinstance(message, Ended)
                    yield message
                    return
                file.read(8 * count if released_ns else 0)
                yield count, file.read(size)

    @property
    def released(self) -> int:
        return int(ORIGIN.unpack_from(self.counter, 0)[0])


def a_supply(arrivals: Any, events: int | None, size: int = 100) -> Supply:
    return Supply((b"%*d" % (size, n) for n in count()), arrivals, events=events, duration_ns=None)


def at_rate(rate: float) -> Any:
    return parse_arrivals("constant", rate=rate, seed=1, duration_s=None, read_trace=list)


def test_what_is_due_while_too_much_waits_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator_module, "MOST_WAITING_BYTES", 1_000_000)
    with Consumer(a_supply(at_rate(1e6), 10_000, size=1000)) as consumer:
        thread = consumer.begin(lambda: consumer.generator.run_open(time.monotonic_ns()))
        while not consumer.generator._dropped:  # nothing is taken before
            assert thread.is_alive()
            time.sleep(0.001)

        *frames, ended = consumer.frames()
        thread.join(PATIENCE_S)

    assert isinstance(ended, Ended)
    taken = [line for _, data in frames for line in data.split(b"\n")]  # type: ignore[misc]  # Ended is the last
    numbers = [int(line) for line in taken]
    assert ended.dropped > 0
    assert ended.released == consumer.released == len(taken)
    assert ended.released + ended.dropped == 10_000
    assert numbers == sorted(set(numbers))
    assert numbers[:500] == list(range(500))


@pytest.mark.parametrize("kind", ["open", "closed"])
def test_a_stop_is_seen_whatever_is_in_stock(kind: str) -> None:
    """A generator that is slower than its consumer, and than its schedule, never sleeps."""
    with Consumer(a_supply(at_rate(1e9) if kind == "open" else Closed(), None)) as consumer:
        run = consumer.generator.run_closed
        if kind == "open":
            run = lambda: consumer.generator.run_open(time.monotonic_ns())  # noqa: E731  # as short
        thread = consumer.begin(run)
        frames = consumer.frames()
        next(frames)

        consumer.socket.send(STOP)
        *_, ended = frames
        thread.join(PATIENCE_S)

    assert isinstance(ended, Ended)
    assert ended.released == consumer.released
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["open", "closed"])
def test_a_consumer_that_is_gone_ends_it(kind: str) -> None:
    died: list[type[BaseException]] = []
    with Consumer(a_supply(at_rate(1000) if kind == "open" else Closed(), None)) as consumer:

        def run() -> None:
            try:
                if kind == "open":
                    consumer.generator.run_open(time.monotonic_ns())
                else:
                    consumer.generator.run_closed()
            except (BrokenPipeError, ConnectionResetError) as error:
                died.append(type(error))

        thread = consumer.begin(run)
        next(consumer.frames())
        consumer.socket.close()
        thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert len(died) == 1


# --- in the loop


def test_a_load_in_the_loop_is_the_same_stream() -> None:
    asked = start(rate=20_000.0)
    supply = Supply(
        iter(stream(1000)),
        parse_arrivals("constant", rate=20_000.0, seed=1, duration_s=None, read_trace=list),
        events=1000,
        duration_ns=None,
    )

    async def run() -> tuple[list[Release], LoadReport, int]:
        load = LocalLoad(supply)
        await load.open()
        origin_ns = time.monotonic_ns()
        load.begin(origin_ns)
        releases = [each async for each in load.releases()]
        return releases, await load.close(), origin_ns

    releases, report, origin_ns = asyncio.run(run())

    assert lines_of(releases) == stream(1000)
    assert intended(releases, origin_ns) == schedule(asked, 1000)
    assert msgspec.structs.asdict(report)["released"] == 1000
    assert all(
        each.times is not None and np.all(each.times.released_ns >= each.times.intended_ns)
        for each in releases
    )
