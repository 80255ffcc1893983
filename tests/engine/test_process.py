"""How work is dealt to worker processes, and that none of them is left behind."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine import Retry, run, stage
from millstream.engine.batch import Batch
from millstream.engine.channel import Channel
from millstream.engine.dead_letters import DeadLetters, DeadLetterUnwritable, ErrorInfo, Place
from millstream.engine.event import FieldMapping
from millstream.engine.executors.base import StageContext, StageMeter
from millstream.engine.executors.failing import Parking, StageFailures
from millstream.engine.executors.process import IN_FLIGHT, ProcessExecutor
from millstream.engine.executors.wire import Done, Failed, Request, Work
from millstream.engine.executors.worker import Frame, WorkerProcess
from millstream.engine.loading import HandlerNotFound
from millstream.engine.order import Lane
from millstream.engine.plan import RunOptions, make_plan
from millstream.engine.promises import OrderAudit
from millstream.engine.reading import Reader
from tests.support import handlers
from tests.support.running import numbered, run_over


class Worker(WorkerProcess):
    """A worker without a process: it keeps what it gets until it is told to end with it."""

    def __init__(self, executor: ProcessExecutor) -> None:
        super().__init__(executor)
        self.works: list[Work] = []

    @property
    def is_there(self) -> bool:
        return True

    def send(self, message: Request) -> None:
        if isinstance(message, Work):
            self.works.append(message)


class _Lines:
    """As much of a reader as is looked at."""

    format, header, delimiter, cloud_events = "jsonl", (), None, False


class Dealing:
    """An executor whose workers are not there, and the order in which each lane was dealt."""

    def __init__(
        self,
        workers: int,
        handler: Any = handlers.echo,
        retry: Retry | None = None,
        parked: dict[Lane, int] | None = None,
        letters: str = "/nowhere",
    ) -> None:
        declared = stage(handler, executor="process", workers=workers, retry=retry)
        plan = make_plan(declared, RunOptions())
        meter = StageMeter(plan.stages[0], OrderAudit("stage"))
        dead = DeadLetters(letters, lambda index: Place("", index), lambda line, source: {})
        parking = Parking(on=parked is not None)
        parking.keys |= parked or {}
        failures = StageFailures(plan.stages[0], dead, parking, lambda: 0.0, is_first=True)
        context = StageContext(
            plan.stages[0],
            FieldMapping.of(),
            meter,
            failures,
            dead,
            is_first=True,
            order="key",
            encodes=lambda: True,
            by_event=False,
            decoder_of=lambda partition: pytest.fail("no block is raw"),
            event_decoder_of=lambda partition: pytest.fail("nothing is decoded anew"),
            unpack=lambda batch: None,
            torn=lambda message: pytest.fail(message),
        )
        readers = [cast(Reader, _Lines())] * 2
        self.executor = ProcessExecutor(context, readers)
        self.workers = [Worker(self.executor) for _ in range(workers)]
        self.executor._workers = list(self.workers)
        self.clock = 0

    def deal(self, lanes: list[Lane], first: int, partition: int) -> None:
        indexes = range(first, first + len(lanes))
        lines = [b'{"n":%d}' % number for number in indexes]
        self.executor._dispatch(Batch(indexes, 0, lanes, roots=lines, partition=partition))
        self.executor._pump_all()

    def finish(self, worker: Worker) -> list[int]:
        """The worker ends with the oldest work that it has."""
        work = worker.works.pop(0)
        assert work.lines is not None
        count = work.lines.count(b"\n") + 1
        stamps = array("q", range(self.clock, self.clock + count + 1))
        self.clock += count
        self.executor.on_done(worker, Done(work.id, stamps.tobytes(), out=work.lines))
        return list(self.executor._done[-1].indexes)

    def places(self) -> dict[Lane, set[int]]:
        """Which workers hold unfinished events of each lane."""
        found: dict[Lane, set[int]] = defaultdict(set)
        for number, worker in enumerate(self.executor._workers):
            opened = [] if worker.open is None else [worker.open]
            for frame in [*worker.in_flight.values(), *worker.queue, *opened]:
                for lane in frame.lanes:
                    found[lane].add(number)
        return found


_batches = st.lists(
    st.tuples(
        st.lists(
            st.sampled_from(["hot", "hot", "a", "b", "c", "d", None]), min_size=1, max_size=20
        ),
        st.integers(0, 1),
    ),
    max_size=15,
)


@given(_batches, st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_lane_is_with_one_worker_at_a_time_and_in_order(
    batches: list[tuple[list[Lane], int]], workers: int, random_: random.Random
) -> None:
    dealing = Dealing(workers)
    lanes: list[Lane] = []
    finished: list[int] = []

    def step() -> None:
        for lane, places in dealing.places().items():
            assert lane is None or len(places) == 1, f"{lane} is with the workers {places}"
        assert all(len(worker.in_flight) <= IN_FLIGHT for worker in dealing.workers)

    def finish_one() -> bool:
        busy = [worker for worker in dealing.workers if worker.works]
        if busy:
            finished.extend(dealing.finish(random_.choice(busy)))
        return bool(busy)

    for own, partition in batches:
        dealing.deal(own, len(lanes), partition)
        lanes += own
        step()
        for _ in range(random_.randrange(4)):
            finish_one()
            step()
    while finish_one():
        step()

    assert sorted(finished) == list(range(len(lanes)))
    for lane in {*lanes} - {None}:
        own_numbers = [number for number in finished if lanes[number] == lane]
        assert own_numbers == sorted(own_numbers)
    assert all(frame.done for frame in dealing.executor._owners.values())


class Failing(Dealing):
    """The same with workers that do what real ones do of failures: they hold lanes, and skip."""

    def __init__(self, workers: int, fails: dict[int, int]) -> None:
        super().__init__(workers, retry=Retry(attempts=99, first=0, budget=None))
        self.lanes: list[Lane] = []
        self.fails = dict(fails)
        self.held: dict[Worker, dict[Lane, int]] = {worker: {} for worker in self.workers}
        self.executor._set_alarm = lambda: None  # type: ignore[method-assign]  # no loop runs

    def ended(self) -> list[int]:
        return [index for batch in self.executor._done for index in batch.indexes]

    def answer(self, worker: Worker) -> None:
        work = worker.works.pop(0)
        held = {lane: at for lane, at in self.held[worker].items() if at > work.seen}
        assert work.lines is not None
        lines = work.lines.split(b"\n")
        failures, skipped, counts = [], [], []
        for place, line in enumerate(lines):
            number = int(line[5:-1])
            lane = self.lanes[number]
            if lane is not None and lane in held:
                skipped.append(place)
            elif self.fails.get(number, 0):
                self.fails[number] -= 1
                held[lane] = work.id
                failures.append(Failed(place, ErrorInfo("E", "m"), held=True, retriable=True))
            else:
                counts.append(1)
                continue
            counts.append(-1)
        self.held[worker] = held
        good = [line for line, count in zip(lines, counts, strict=True) if count > 0]
        stamps = array("q", range(self.clock, self.clock + len(lines) + 1))
        self.clock += len(lines)
        out = b"\n".join(good)
        self.executor.on_done(
            worker,
            Done(
                work.id,
                stamps.tobytes(),
                out=out,
                counts=counts,
                failures=failures,
                skipped=skipped,
            ),
        )

    def die(self, worker: Worker) -> None:
        left = [frame for _, frame in sorted(worker.in_flight.items())]
        worker.in_flight.clear()
        worker.works.clear()
        self.held[worker] = {}
        self.executor._take_back(worker, left, -9)
        self.executor._on_alarm()


@given(
    _batches,
    st.integers(1, 3),
    st.dictionaries(st.integers(0, 60), st.integers(1, 3), max_size=12),
    st.randoms(use_true_random=False),
)
def test_a_lane_stays_in_order_whatever_fails_and_whoever_dies(
    batches: list[tuple[list[Lane], int]],
    workers: int,
    fails: dict[int, int],
    random_: random.Random,
) -> None:
    dealing = Failing(workers, fails)
    deaths = 3

    def step() -> bool:
        nonlocal deaths
        busy = [worker for worker in dealing.workers if worker.works]
        if not busy:
            return False
        worker = random_.choice(busy)
        if deaths and random_.random() < 0.1:
            deaths -= 1
            dealing.die(worker)
        else:
            dealing.answer(worker)
        return True

    for own, partition in batches:
        first = len(dealing.lanes)
        dealing.lanes += own
        dealing.deal(own, first, partition)
        for _ in range(random_.randrange(4)):
            step()
    while step() or dealing.executor._returns.room:
        dealing.executor._on_alarm()

    ended = dealing.ended()
    assert sorted(ended) == list(range(len(dealing.lanes)))
    for lane in {*dealing.lanes} - {None}:
        own_numbers = [number for number in ended if dealing.lanes[number] == lane]
        assert own_numbers == sorted(own_numbers)
    assert not dealing.executor._returns._heads


def test_a_frame_holds_as_many_events_as_a_worker_may_have_in_flight() -> None:
    dealing = Dealing(1, handlers.aecho)
    concurrency = dealing.executor.context.stage.concurrency
    dealing.executor._service_ns = 1e9  # far longer than a frame of plain handlers may take

    dealing.deal([None] * concurrency, 0, 0)

    assert concurrency > 1
    assert [work.lines.count(b"\n") + 1 for work in dealing.workers[0].works if work.lines] == [
        concurrency
    ]


def test_free_lanes_go_to_the_worker_with_least_to_do() -> None:
    dealing = Dealing(2)
    dealing.deal(["hot"] * 50, 0, 0)
    dealing.deal(["a", "hot", "b"], 50, 0)

    places = dealing.places()
    assert places["a"] == places["b"] != places["hot"]


@pytest.mark.parametrize("order", ["none", "key"])
def test_the_first_few_events_are_shared_out_before_anything_is_known_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    unkeyed = [{"id": number} for number in range(8)]
    monkeypatch.setenv(handlers.MEETING_PLACE, str(place))

    ran = run_over(
        tmp_path, stage(handlers.meet, executor="process", workers=2), unkeyed, order=order
    )

    assert (ran.exit_code, ran.counts["handled"]) == (0, 8)


@pytest.mark.parametrize("order", ["none", "key"])
def test_lines_that_are_no_events_tell_nothing_of_how_long_one_takes(
    tmp_path: Path, order: str
) -> None:
    lines = b"no\n" * 50 + b'{"id":1}\n' * 50

    ran = run_over(
        tmp_path, stage(handlers.echo, executor="process", workers=2), lines, order=order
    )

    assert (ran.counts["handled"], ran.counts["dead_lettered"]) == (50, 50)


# --- nothing is left behind


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("count", [1, 4, 600])
@pytest.mark.parametrize("handler", [handlers.echo, handlers.exit_at_three, handlers.kill_at_three])
def test_no_process_outlives_its_run(tmp_path: Path, handler: Any, count: int) -> None:
    # With four events the worker dies of the last one: its successor is not waited for.
    run_over(tmp_path, stage(handler, executor="process", workers=2), numbered(count))

    assert children() == []


def test_no_process_outlives_a_run_that_could_not_start(tmp_path: Path) -> None:
    job = stage(handlers.echo, executor="process", workers=2, setup=handlers.broken_setup)
    with pytest.raises(HandlerNotFound):
        run_over(tmp_path, job, numbered(10))

    assert children() == []


def test_events_of_parked_keys_are_no_answer_to_wait_for(tmp_path: Path) -> None:
    """A run that is gone on with may begin with nothing else."""
    dealing = Dealing(1, parked={"hot": 3}, letters=str(tmp_path / "dead"))
    lanes: list[Lane] = ["hot"] * 50 + ["other"] * 6
    lines = [b'{"n":%d}' % number for number in range(56)]
    batch = Batch(range(100, 156), 0, lanes, roots=lines)

    async def probe() -> Batch:
        executor = dealing.executor
        executor._loop = asyncio.get_running_loop()
        probing = asyncio.ensure_future(executor._probe(batch))
        while not dealing.workers[0].works:  # noqa: ASYNC110
            await asyncio.sleep(0)
        dealing.finish(dealing.workers[0])
        return await probing

    rest = asyncio.run(probe())

    assert list(rest.indexes)[-1] == 155
    assert {*batch.indexes} - {*rest.indexes} >= set(range(100, 150))


def test_an_open_frame_goes_to_the_worker_that_takes_the_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also an empty one: what comes into it, and all of its lanes later, would go to the dead."""
    dealing = Dealing(1)
    executor, (dead,) = dealing.executor, dealing.workers
    fresh = Worker(executor)
    dead.open = Frame(dead, 0)

    async def fresh_worker() -> Worker:
        return fresh

    monkeypatch.setattr(executor, "_fresh_worker", fresh_worker)
    asyncio.run(executor._replace(dead))
    dealing.workers = [fresh]
    for first in (0, 1, 2):
        dealing.deal(["a"], first, 0)

    assert not dead.works
    assert [dealing.finish(fresh)[0] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 100])
@pytest.mark.parametrize("has_started", [False, True])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_process_outlives_a_stage_cancelled_twice(
    loop: Callable[[], asyncio.AbstractEventLoop], turns: int, has_started: bool
) -> None:
    async def cancelled() -> None:
        executor = Dealing(2).executor
        inbox, outbox = Channel[Batch](1), Channel[Batch](1)

        def is_under_way() -> bool:
            workers = executor._workers
            return bool(executor.pids) and all(w.is_ready or not has_started for w in workers)

        task = asyncio.ensure_future(executor.run(inbox, outbox))
        while not is_under_way():  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(cancelled())
    assert children() == []


def test_no_process_outlives_a_run_that_failed(tmp_path: Path) -> None:
    (tmp_path / "dead.jsonl" / "in-the-way").mkdir(parents=True)
    (tmp_path / "input.jsonl").write_bytes(b'{"id":1}\n' * 5000)

    with pytest.raises(DeadLetterUnwritable):
        run(
            stage(handlers.explode, executor="process", workers=2),
            tmp_path / "input.jsonl",
            dead_letter=str(tmp_path / "dead.jsonl"),
        )

    assert children() == []
