"""The scenario `io`: its server ends with whoever started it, its oracle sees what is wrong."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from millstream.engine import Pipeline, stage
from millstream.engine.event import Event
from millstream.workloads import io_oracle as oracle
from millstream.workloads.io_bound import PORT, Io, Server, ask, close_client, open_client
from millstream.workloads.io_server import answer_to, delay_s
from millstream.workloads.passthrough import EACH_ONCE, IN_ORDER
from millstream.workloads.scenario import Outcome, ScenarioError, stream
from tests.support.scenarios import broken, run_scenario

EVENTS = 500
QUICK = {"latency": 0.0, "keys": 20, "payload": 10}


class FromPort(Io):
    """The scenario with another handler."""

    handler: Callable[..., Any] = staticmethod(ask)

    def pipeline(self, folder: Path) -> Pipeline:
        opener = partial(open_client, int((folder / PORT).read_text()), 10)
        return Pipeline(stage(type(self).handler, setup=opener, teardown=close_client, state=list))


async def skipping(event: Event, resource: Any, state: list[Any]) -> Event | None:
    return None if event.data["seq"] == 7 else await ask(event, resource)


async def asking_twice(event: Event, resource: Any, state: list[Any]) -> Any:
    answered = await ask(event, resource)
    return [answered, answered] if event.data["seq"] == 7 else answered


async def swapping(event: Event, resource: Any, state: list[Any]) -> Any:
    """The first event of each key after the second."""
    answered = await ask(event, resource)
    state.append(answered.data)
    return {1: None, 2: state[::-1]}.get(len(state), answered)


async def mixing_up(event: Event, resource: Any, state: list[Any]) -> Event:
    """Each event with the answer to the one before."""
    answered = await ask(event, resource)
    state.append(answered.data["answer"])
    answered.data["answer"] = state[-2] if len(state) > 1 else state[0]
    return answered


async def miscounting(event: Event, resource: Any, state: list[Any]) -> Event:
    answered = await ask(event, resource)
    answered.data["answer"]["value"] += 1
    return answered


async def not_asking(event: Event, resource: Any, state: list[Any]) -> Event:
    return event


BUGS = {
    "an event skipped": (skipping, {EACH_ONCE.name}),
    "an event asked twice": (asking_twice, {EACH_ONCE.name}),
    "out of order": (swapping, {IN_ORDER.name}),
    "answers mixed up": (mixing_up, {oracle.ANSWERED.name}),
    "wrong answers": (miscounting, {oracle.ANSWERED.name}),
    "nobody asked": (not_asking, {oracle.ANSWERED.name}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_breaks_its_promise(tmp_path: Path, bug: str) -> None:
    handler, promises = BUGS[bug]
    scenario = type("Buggy", (FromPort,), {"handler": staticmethod(handler)})(QUICK)

    _, invariants = run_scenario(tmp_path, scenario, EVENTS)

    assert set(broken(invariants)) == promises


@pytest.mark.parametrize(
    "options", [{"executor": "process", "workers": 2}, {"concurrency": 3}, {"order": "none"}]
)
def test_the_promises_hold_with_few_connections(tmp_path: Path, options: dict[str, Any]) -> None:
    scenario = Io({**QUICK, "connections": 2, "jitter": 2.0})

    result, invariants = run_scenario(tmp_path, scenario, EVENTS, **options)

    assert result.exit_code == 0
    assert broken(invariants) == {}


def test_the_oracle_on_a_small_case_by_hand(tmp_path: Path) -> None:
    scenario = Io(QUICK)
    values = [1, 2_654_435_762, 1_013_904_227]  # n * 2,654,435,761 + 1, below 2**32
    made = [msgspec.json.decode(line) for line in stream(scenario, 3)]
    right = [
        {**event, "answer": {"key": event["key"], "seq": seq, "value": values[seq]}}
        for seq, event in enumerate(made)
    ]
    foreign = {**right[1], "answer": right[0]["answer"]}

    assert judge(scenario, tmp_path, right) == set()
    assert judge(scenario, tmp_path, [right[0], foreign, right[2]]) == {"answered"}
    assert judge(scenario, tmp_path, right[:2]) == {"each once"}
    assert judge(scenario, tmp_path, [*right, {**right[0], "seq": 3}]) == {"each once", "answered"}


def judge(scenario: Io, folder: Path, results: list[dict[str, Any]]) -> set[str]:
    output = folder / "out.jsonl"
    output.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in results))
    return set(broken(scenario.check(Outcome(3, str(output), str(folder), "none"))))


def test_events_have_as_many_keys_as_were_asked_for() -> None:
    events = [msgspec.json.decode(line) for line in islice(Io(QUICK).lines(), 2000)]

    assert [event["seq"] for event in events] == list(range(2000))
    assert {event["key"] for event in events} == {f"k{number}" for number in range(20)}


# --- the server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / PORT, 0.0, 0.0) as started:
        yield started


def test_the_server_answers_with_what_follows_from_the_number(
    server: Server, tmp_path: Path
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int((tmp_path / PORT).read_text()))
    connection.request("GET", "/k5/2")
    answer = msgspec.json.decode(connection.getresponse().read())
    connection.close()

    assert answer == {"key": "k5", "seq": 2, "value": answer_to(2)}


def test_the_delay_is_within_what_was_asked_for_and_follows_from_the_number() -> None:
    delays = [delay_s(number, 5.0, 10.0) for number in range(10_000)]

    assert delays == [delay_s(number, 5.0, 10.0) for number in range(10_000)]
    assert min(delays) >= 0.005 and max(delays) < 0.015
    assert 0.0099 < sum(delays) / len(delays) < 0.0101
    assert {delay_s(number, 5.0, 0.0) for number in range(100)} == {0.005}


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    with Server(tmp_path / PORT, 0.0, 0.0) as server:
        assert server.process is not None and server.process.poll() is None

    assert server.process.returncode == 0
    assert not (tmp_path / PORT).exists()


def test_the_server_ends_with_a_block_that_fails(tmp_path: Path) -> None:
    server = Server(tmp_path / PORT, 0.0, 0.0)
    with pytest.raises(KeyError), server:
        raise KeyError

    assert server.process is not None and server.process.returncode == 0


def test_the_server_ends_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from millstream.workloads.io_bound import Server\n"
        "with Server(Path(sys.argv[1]), 0.0, 0.0) as server:\n"
        "    print(server.process.pid, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        parent.send_signal(signal.SIGKILL)

    gone, alive = psutil.wait_procs([server], timeout=30)

    assert (gone, alive) == ([server], [])


def test_a_server_that_does_not_start_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path / PORT, 0.0, 0.0)
    server._times = ["soon", "later"]

    with pytest.raises(ScenarioError, match="did not start"), server:
        pass

    assert server.process is not None and server.process.returncode is not None
    assert not (tmp_path / PORT).exists()


def test_a_pipeline_needs_its_server(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"enter running\(\)"):
        Io().pipeline(tmp_path)


def test_without_aiohttp_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    with pytest.raises(ScenarioError, match=r"millstream\[scenarios\]"):
        Io().running(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"latency": -1.0},
        {"latency": float("nan")},
        {"jitter": -0.5},
        {"connections": 0},
        {"keys": 0},
        {"payload": -1},
    ],
    ids=str,
)
def test_parameters_refuse_what_makes_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match="or more"):
        Io(settings)
