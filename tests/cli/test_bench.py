"""`millstream bench`: what a user sees of it, and what scripts rely on.

On a busy machine the generator may be late: then a trial is invalid, and says so (exit code 7).
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from millstream.engine.result import SCHEMA_FILE
from tests.cli.support import Ended, Folder, Started, wait_for

SCHEMA = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))
PASSED = (0, 7)
"""As it went well, on a machine that may be busy."""
SHORT = ("--rate", "500", "--events", "300")

OWN = """
    from millstream.engine import Pipeline, stage
    from millstream.workloads.scenario import Invariant, Parameter, Promise, Scenario

    def handle(event):
        {handle}
        return event

    class Own(Scenario):
        name = "own"
        summary = "Numbers."
        description = "Numbers, as they came."
        parameters = (Parameter("store", "memory", "Where they are kept."),)
        promises = (Promise("each once", "Each number comes out once."),)

        def lines(self):
            n = 0
            while True:
                yield b'{{"key":"k","n":%d}}' % n
                n += 1

        def pipeline(self, folder):
            {pipeline}
            return Pipeline(stage(handle))

        def check(self, outcome):
            with open(outcome.output) as output:
                found = sum(1 for line in output)
            wanted = outcome.events - len(outcome.dead)
            return [Invariant("each once", found == wanted, f"{{found}} of {{wanted}}")]
"""


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the command has its temporary folders."""
    path = tmp_path / "tmp"
    path.mkdir()
    return path


@pytest.fixture
def folder(tmp_path: Path, temporary: Path) -> Folder:
    own = tmp_path / "folder"
    own.mkdir()
    return Folder(own, {"TMPDIR": str(temporary), "MILLSTREAM_RUNS": str(tmp_path / "runs")})


def own(handle: str = "pass", pipeline: str = "pass") -> str:
    return OWN.format(handle=handle, pipeline=pipeline)


def checked(result: dict[str, Any], ended: Ended) -> dict[str, Any]:
    """A result, held to the schema, and to what the command said."""
    SCHEMA.validate(result)
    assert result["command"] == "bench"
    assert result["exit_code"] == ended.code
    wanted = {0: "pass", 4: "pass", 7: "invalid"}.get(ended.code, "fail")
    assert result["verdict"] == wanted
    assert bool(result["invalid"]) <= (ended.code in (5, 7))
    return result


def benched(folder: Folder, *arguments: str, **more: Any) -> tuple[Ended, dict[str, Any]]:
    """The command with its result; no matter how it went."""
    ended = folder.command("bench", *arguments, "--result", "result.json", **more)
    assert (folder.path / "result.json").exists(), ended.err
    return ended, checked(folder.json("result.json"), ended)


# --- one trial


def test_an_open_load(folder: Folder, temporary: Path) -> None:
    ended, result = benched(folder, "passthrough", *SHORT, "--warmup", "100ms")

    assert ended.code in PASSED
    assert result["counts"]["read"] == result["counts"]["handled"] == 300
    assert result["response"]["count"] == result["slip"]["count"] == 250
    assert result["tail"]["all_events"] == 250
    load = result["load"]
    assert (load["open"], load["arrivals"], load["rate"]) == (True, "constant", 500.0)
    assert (load["released"], load["taken"], load["dropped"]) == (300, 300, 0)
    assert [each["held"] for each in result["invariants"]] == [True, True]
    assert (result["name"], result["seed"]) == ("passthrough", 1)
    assert ended.out == b""
    assert "constant 500/s: " in ended.err
    assert "all 2 held: each once, in order" in ended.err
    assert list(temporary.iterdir()) == []


def test_a_closed_load_has_no_response_times(folder: Folder) -> None:
    ended, result = benched(folder, "passthrough", "--events", "2000")

    assert ended.code in PASSED
    assert result["response"] is result["slip"] is result["tail"] is None
    assert result["counts"]["handled"] == 2000
    assert not result["load"]["open"]
    assert "as fast as it can" in ended.err
    assert "response " not in ended.err


def test_a_closed_load_ends_with_its_duration(folder: Folder) -> None:
    """Each event takes half a millisecond, and more of them wait than are handled."""
    slow = ("--set", "rounds=1000", "--set", "payload=4000")

    ended, result = benched(folder, "cpu", *slow, "--duration", "300ms", "--warmup", "0s")

    assert ended.code in PASSED
    assert 0 < result["load"]["taken"] == result["counts"]["handled"]
    assert result["load"]["taken"] < result["load"]["released"]
    assert all(each["held"] for each in result["invariants"])


def test_a_trace_gives_its_times(folder: Folder) -> None:
    folder.file("times.txt", "".join(f"2026-01-01T00:00:00.{n}00Z\n" for n in range(5)))

    ended, result = benched(folder, "passthrough", "--arrivals", "trace:times.txt")

    assert ended.code in PASSED
    assert result["counts"]["handled"] == result["response"]["count"] == 5
    assert result["load"]["elapsed_ns"] >= 400_000_000


def test_the_result_on_standard_output(folder: Folder) -> None:
    ended = folder.command("bench", "passthrough", *SHORT, "--result", "-", "--quiet")

    result = checked(json.loads(ended.out), ended)
    assert result["counts"]["handled"] == 300
    assert ended.code == 7 or ended.err == ""


def test_what_is_kept_when_that_is_asked_for(folder: Folder, temporary: Path) -> None:
    ended, result = benched(folder, "passthrough", *SHORT, "--keep", "kept")

    assert ended.code in PASSED
    assert len(folder.read("kept/output.jsonl").splitlines()) == 300
    assert list(temporary.iterdir()) == []
    again = folder.command("bench", "passthrough", *SHORT, "--keep", "kept")
    assert again.code == 3
    assert "--keep kept is there already; name a new folder" in again.err
    assert result["counts"]["emitted"] == 300


def test_options_from_a_file_with_flags_that_win(folder: Folder) -> None:
    folder.file(
        "bench.toml", 'rate = 400\nevents = 100\nset = ["keys=3"]\nwarmup = "50ms"\nname = "mine"\n'
    )

    ended, result = benched(folder, "passthrough", "--config", "bench.toml", "--events", "200")

    assert ended.code in PASSED
    assert (result["counts"]["handled"], result["name"]) == (200, "mine")
    assert result["load"]["rate"] == 400
    assert result["load"]["warmup_ns"] == 50_000_000
    assert result["scenario"] == {
        "name": "passthrough",
        "settings": {**result["scenario"]["settings"], "keys": 3},
    }
    assert (result["options"]["events"], result["options"]["set"]) == (200, ["keys=3"])


# --- for HdrHistogram's tools


def test_an_interval_log_is_read_back(folder: Folder) -> None:
    _, result = benched(folder, "passthrough", *SHORT, "--warmup", "100ms", "--hdr", "times.hlog")

    reader = HistogramLogReader(
        str(folder.path / "times.hlog"), HdrHistogram(1, 3_600_000_000_000, 3)
    )
    whole = HdrHistogram(1, 3_600_000_000_000, 3)
    while (interval := reader.get_next_interval_histogram()) is not None:
        whole.add(interval)
    reader.close()
    assert whole.get_total_count() == result["response"]["count"] == 250
    assert whole.get_value_at_percentile(50) == pytest.approx(result["response"]["p50"], rel=2e-3)
    assert whole.get_max_value() == pytest.approx(result["response"]["max"], rel=2e-3)


def test_percentile_text_is_of_all_that_was_measured(folder: Folder) -> None:
    _, result = benched(folder, "passthrough", *SHORT, "--warmup", "100ms", "--hdr", "times.hgrm")

    lines = folder.read("times.hgrm").decode().splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    value, share, count = lines[-4].split()
    assert (float(share), int(count)) == (1.0, 250)
    assert float(value) == pytest.approx(result["response"]["max"] / 1e6, rel=2e-3, abs=1e-3)


# --- how it ends


def test_a_bug_that_breaks_a_promise_is_exit_5(folder: Folder) -> None:
    folder.file("own.py", own("if event.data['n'] == 7: return [event, event]"))

    ended, result = benched(folder, "own.py", *SHORT)

    assert ended.code == 5
    assert result["invariants"] == [{"name": "each once", "held": False, "detail": "301 of 300"}]
    assert "each once: BROKEN (301 of 300)" in ended.err


def test_a_scenario_of_ones_own(folder: Folder) -> None:
    folder.file("own.py", own())

    ended, result = benched(folder, "own.py", *SHORT)
    named = folder.command("bench", "own.py:Own", "--events", "10")
    other = folder.command("bench", "own.py:Other", "--events", "10")

    assert ended.code in PASSED
    assert (result["name"], result["counts"]["handled"]) == ("own", 300)
    assert result["invariants"][0]["detail"] == "300 of 300"
    assert named.code in PASSED
    assert other.code == 2
    assert "own.py:Other is to define one subclass" in other.err


def test_what_a_handler_prints_is_not_among_the_results(folder: Folder) -> None:
    folder.file("own.py", "    print('imported')\n" + own("print('handled')"))

    ended = folder.command("bench", "own.py", "--events", "5", "--result", "-")

    assert json.loads(ended.out)["counts"]["handled"] == 5
    assert "imported" in ended.err and "handled" in ended.err


def test_dead_letters_are_told_of(folder: Folder) -> None:
    folder.file("own.py", own("assert event.data['n'] % 10, 'no'"))

    ended, result = benched(folder, "own.py", *SHORT)

    assert ended.code in (4, 7)
    assert result["counts"]["dead_lettered"] == 30
    assert result["invariants"][0] == {"name": "each once", "held": True, "detail": "270 of 270"}


def test_a_generator_that_was_late_makes_it_invalid(folder: Folder) -> None:
    """Of this objective no generator keeps a tenth."""
    ended, result = benched(
        folder, "passthrough", *SHORT, "--objective", "response.p99 < 1ns", "--repeat", "2"
    )

    assert ended.code == 7
    assert "the generator was late: slip" in " ".join(result["invalid"])
    assert [each["met"] for each in result["objectives"]] == [False]
    assert {fact["verdict"] for fact in result["experiment"]["facts"]} == {"invalid"}
    assert "MISSED" in ended.err


def test_a_missed_objective_and_a_condition_that_held_are_exit_6(folder: Folder) -> None:
    missed, result = benched(folder, "passthrough", *SHORT, "--objective", "read > 1e9")
    held, other = benched(folder, "passthrough", *SHORT, "--fail-if", "read >= 300")

    assert missed.code in (6, 7) and held.code in (6, 7)
    assert result["objectives"] == [{"text": "read > 1e9", "observed": 300, "met": False}]
    assert other["conditions"] == [{"text": "read >= 300", "observed": 300, "held": True}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no scenario: name one (millstream scenarios lists them)"),
        (("pasthrough",), "there is no scenario 'pasthrough'; did you mean 'passthrough'?"),
        (("passthrough", "--set", "kees=3"), "no such parameter; did you mean 'keys'?"),
        (("passthrough", "--set", "keys=x"), "--set keys=x: give it a whole number"),
        (("passthrough", "--rate", "inf"), "--rate is inf; give it more than 0"),
        (("passthrough", "--arrivals", "sine"), "--arrivals sine needs a rate"),
        (("passthrough", "--rate", "5", "--arrivals", "sine:1.2.3%"), "--arrivals is 'sine:1.2.3%"),
        (("passthrough", "--rate", "5", "--arrivals", "trace:none"), "trace:none: No such file"),
        (("passthrough", "--fail-if", "response.p99 > 1s"), "response.p99"),
        (("passthrough", "--fail-if", "nonsense"), "--fail-if 'nonsense' can't be understood"),
        (("passthrough", "--objective", "nonsense"), "--objective 'nonsense' can't be"),
        (("passthrough", "--sweep", "kees=1,2"), "it can sweep workers, "),
        (("passthrough", "--find-max", "--precision", "0.001%"), "--precision is 0.001%"),
        (("passthrough", "--order", "sorted"), "order is 'sorted'; it can be none, key"),
        (("passthrough", "--config", "own.toml"), "no option 'evnts'; did you mean 'events'?"),
        (("passthrough", "--config", "run.toml"), "--limit is not for a benchmark"),
    ],
)
def test_wrong_usage_says_what_to_change(
    folder: Folder, temporary: Path, arguments: tuple[str, ...], message: str
) -> None:
    folder.file("own.toml", "evnts = 5\n")
    folder.file("run.toml", "limit = 5\n")

    ended = folder.command("bench", *arguments)

    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert folder.names == {"own.toml", "run.toml"}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.py",), "none.py"),
        (("broken.py",), "broken.py"),
        (("passthrough", "--config", "none.toml"), "--config none.toml: No such file"),
        (
            ("passthrough", *SHORT, "--result", "no/where.json"),
            "there is no folder no; make it first",
        ),
        (("passthrough", *SHORT, "--hdr", "no/where.hgrm"), "--hdr no/where.hgrm can't be written"),
        (("passthrough", *SHORT, "--runs", "broken.py"), "can't be kept in broken.py"),
        (("passthrough", *SHORT, "--keep", "broken.py/x"), "--keep broken.py/x can't be made"),
    ],
)
def test_what_can_not_be_used_is_exit_3(
    folder: Folder, arguments: tuple[str, ...], message: str
) -> None:
    folder.file("broken.py", "this is no Python\n")

    ended = folder.command("bench", *arguments)

    assert ended.code == 3
    assert message in ended.err


# --- many trials


def test_repeats_are_an_experiment(folder: Folder) -> None:
    ended, result = benched(folder, "passthrough", *SHORT, "--repeat", "2")

    assert ended.code in PASSED
    experiment = result["experiment"]
    assert (experiment["kind"], len(experiment["facts"])) == ("repeat", 2)
    assert result["throughput"] in [fact["throughput"] for fact in experiment["facts"]]


def test_a_sweep_has_a_row_a_value_and_the_worst_code(folder: Folder) -> None:
    ended, result = benched(folder, "passthrough", "--events", "500", "--sweep", "keys=1,50")

    assert ended.code in PASSED
    assert [fact["value"] for fact in result["experiment"]["facts"]] == ["1", "50"]
    rows = [line.split()[0] for line in ended.err.splitlines() if "/s" in line]
    assert rows.count("1") == rows.count("50") == 2, "as it is over, and in the table"


def test_orders_are_swept_with_the_hottest_key(folder: Folder) -> None:
    ended, result = benched(folder, "passthrough", "--events", "500", "--sweep", "order=all")

    assert ended.code in PASSED
    facts = result["experiment"]["facts"]
    assert [fact["value"] for fact in facts] == ["key", "none", "partition", "global"]
    assert result["experiment"]["hottest_key"]["of"] == 500


def test_a_search_that_can_not_be_trusted_says_so(folder: Folder) -> None:
    """Of this objective no generator keeps a tenth: every trial is invalid."""
    ended, result = benched(
        folder, "passthrough", "--find-max", "--rate", "10", "--duration", "150ms",
        "--objective", "response.p99 < 1ns", "--precision", "100%",
    )  # fmt: skip

    assert ended.code == 7
    experiment = result["experiment"]
    assert {fact["verdict"] for fact in experiment["facts"]} == {"invalid"}
    assert experiment["search"]["best"] is None
    assert "sustainable: unknown: not even at 1/s the generator could keep up" in ended.err


# --- runs that are kept


def test_each_run_is_kept_and_listed(folder: Folder) -> None:
    first = folder.command("bench", "passthrough", "--events", "50", "--runs", "mine")
    second = folder.command("bench", "passthrough", "--events", "50", "--runs", "mine")
    listed = folder.command("bench", "--list-runs", "--runs", "mine")

    assert first.code in PASSED and second.code in PASSED
    files = sorted((folder.path / "mine" / "passthrough").iterdir())
    assert len(files) == 2
    for file in files:
        SCHEMA.validate(json.loads(file.read_bytes()))
    assert f"kept in mine/passthrough/{files[-1].name}" in second.err
    assert listed.code == 0
    assert [line.split()[-1].decode() for line in listed.lines] == [
        f"mine/passthrough/{file.name}" for file in files
    ]
    assert all(b" passthrough: " in line for line in listed.lines)


def test_where_no_runs_are_none_are_listed(folder: Folder) -> None:
    ended = folder.command("bench", "--list-runs", "--runs", "none")

    assert (ended.code, ended.out, ended.err) == (0, b"", "millstream: no runs in none\n")


def test_nothing_is_kept_when_that_is_asked_for(folder: Folder, tmp_path: Path) -> None:
    ended = folder.command("bench", "passthrough", "--events", "50", "--runs", "")

    assert ended.code in PASSED
    assert not (tmp_path / "runs").exists()
    assert folder.names == set()


@pytest.mark.parametrize(
    "given",
    [
        ("--store", "redis://ann:geheim@localhost:1/0?password=geheim"),
        ("--set", "store=redis://localhost?password=geheim"),
        ("--sweep", "store=redis://ann:geheim@localhost/1,redis://ann:geh/eim@localhost/2"),
    ],
)
def test_credentials_are_in_nothing_that_stays(
    folder: Folder, tmp_path: Path, given: tuple[str, ...]
) -> None:
    folder.file("own.py", own())

    ended, result = benched(folder, "own.py", "--events", "20", *given)

    assert ended.code in PASSED
    assert "localhost" in json.dumps(result)
    kept = "".join(path.read_text() for path in (tmp_path / "runs").rglob("*.json"))
    assert "localhost" in kept
    for text in (ended.out.decode(), ended.err, json.dumps(result), kept):
        assert "geheim" not in text and "geh/eim" not in text


# --- interrupts


def processes_of(started: Started) -> list[psutil.Process]:
    return psutil.Process(started.process.pid).children(recursive=True)


def end_well(started: Started, temporary: Path, processes: list[psutil.Process]) -> Ended:
    """To its end, which leaves nothing."""
    ended = started.end()
    assert processes, "the generator was there"
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    assert list(temporary.iterdir()) == []
    return ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_drains_and_leaves_nothing(
    folder: Folder, temporary: Path, number: signal.Signals
) -> None:
    folder.file("own.py", own("open('handled', 'w')"))

    with folder.start(
        "own.py", "--rate", "200", "--duration", "1h", "--result", "result.json", command="bench"
    ) as started:
        wait_for((folder.path / "handled").exists, "the first event")
        processes = processes_of(started)
        started.signal(number)
        ended = end_well(started, temporary, processes)

    assert ended.code == 128 + number
    result = folder.json("result.json")
    SCHEMA.validate(result)
    assert result["exit_code"] == ended.code
    assert 0 < result["counts"]["handled"] == result["counts"]["read"]
    assert result["counts"]["read"] <= result["load"]["taken"] <= result["load"]["released"]
    assert "the oracle was not asked" in ended.err


def test_an_interrupt_ends_a_load_whose_generator_is_late(folder: Folder, temporary: Path) -> None:
    """It makes the first events ahead, and has no time to sleep with all others."""
    late = own("open('handled', 'w')").replace(
        "            n += 1",
        "            n += 1; pad = 100_000 if n < 700 else 1; n < 700 or time.sleep(0.001)",
    )
    late = late.replace("            n = 0", "            n = 0; pad = 1; import time")
    late = late.replace('"n":%d}\' % n', '"n":%d,"pad":"%b"}\' % (n, b"x" * pad)')
    folder.file("own.py", late)

    with folder.start("own.py", "--rate", "1e6", "--duration", "1h", command="bench") as started:
        wait_for((folder.path / "handled").exists, "the first event")
        processes = processes_of(started)
        started.signal(signal.SIGINT)
        ended = end_well(started, temporary, processes)

    assert ended.code == 130
    assert " events in " in ended.err


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [
        each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE
    ]


def test_an_interrupt_while_the_generator_gets_ready_leaves_nothing(
    folder: Folder, temporary: Path
) -> None:
    slow = own().replace(
        "            n = 0\n",
        "            open('making', 'w'); import time; time.sleep(999)\n            n = 0\n",
    )
    folder.file("own.py", slow)

    with folder.start("own.py", *SHORT, command="bench") as started:
        wait_for((folder.path / "making").exists, "the generator")
        processes = processes_of(started)
        started.signal(signal.SIGINT)
        ended = end_well(started, temporary, processes)

    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_an_interrupt_before_the_load_begins_ends_it(folder: Folder, temporary: Path) -> None:
    """A stage that is set up: the schedule waits for it."""
    folder.file(
        "own.py",
        own("pass", "return Pipeline(stage(handle, setup=set_up))")
        + """
    def set_up():
        import time
        open('setting-up', 'w')
        for _ in range(9999):
            time.sleep(0.01)
            import os
            if os.path.exists('go'):
                return
        """,
    )

    with folder.start(
        "own.py", *SHORT, "--executor", "process", "--workers", "1", command="bench"
    ) as started:
        wait_for((folder.path / "setting-up").exists, "the set-up")
        processes = processes_of(started)
        started.signal(signal.SIGINT)
        (folder.path / "go").touch()
        ended = end_well(started, temporary, processes)

    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_an_interrupt_ends_an_experiment(folder: Folder, temporary: Path) -> None:
    folder.file("own.py", own("open('handled', 'w')"))

    with folder.start(
        "own.py", "--rate", "200", "--duration", "1h", "--repeat", "5", "--result", "result.json",
        command="bench",
    ) as started:  # fmt: skip
        wait_for((folder.path / "handled").exists, "the first event")
        processes = processes_of(started)
        started.signal(signal.SIGINT)
        ended = end_well(started, temporary, processes)

    assert ended.code == 130
    facts = folder.json("result.json")["experiment"]["facts"]
    assert [fact["exit_code"] for fact in facts] == [130]


def test_a_killed_benchmark_leaves_no_process(folder: Folder) -> None:
    folder.file("own.py", own("open('handled', 'w')"))

    with folder.start("own.py", "--rate", "200", "--duration", "1h", command="bench") as started:
        wait_for((folder.path / "handled").exists, "the first event")
        processes = processes_of(started)
        started.process.kill()
        started.process.wait()

        wait_for(lambda: not running(processes), "the end of the generator")

    assert processes


def test_a_killed_generator_is_told_of(folder: Folder, temporary: Path) -> None:
    folder.file("own.py", own("open('handled', 'w')"))

    with folder.start("own.py", "--rate", "200", "--duration", "1h", command="bench") as started:
        wait_for((folder.path / "handled").exists, "the first event")
        processes = processes_of(started)
        (generator,) = [each for each in processes if "generator" in " ".join(each.cmdline())]
        os.kill(generator.pid, signal.SIGKILL)
        ended = end_well(started, temporary, processes)

    assert ended.code == 3
    assert "the load generator ended before its load did (killed by SIGKILL)" in ended.err
