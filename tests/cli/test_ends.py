"""`millstream run`: exit codes, signals, conditions, and what is said at the end."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.cli.support import HANDLERS, Folder, folder_with, lines_of, numbered, wait_for

WAITING = """
    import asyncio, os, time

    def gate(event):
        print("handling", event.id, flush=True)
        while event.id == 1 and not os.path.exists("go"):
            time.sleep(0.005)
        return event

    async def agate(event):
        print("handling", event.id, flush=True)
        while event.id == 1 and not os.path.exists("go"):
            await asyncio.sleep(0.005)
        return event
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "w.py": WAITING, "in.jsonl": numbered(4)})


# --- dead letters


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_handler_error_becomes_a_dead_letter_and_the_run_goes_on(
    folder: Folder, executor: str
) -> None:
    folder.file("in.jsonl", lines_of({"key": "a", "bad": 1}, {"key": "b"}, {"key": "a"}))

    ended = folder.run("h.py:fail_bad", "in.jsonl", "--executor", executor, "--result", "r.json")

    (letter,) = folder.dead_letters()
    assert ended.code == 4
    assert sorted(event["key"] for event in ended.events) == ["a", "b"]
    assert letter["event"] == {"key": "a", "bad": 1}
    assert (letter["source"], letter["position"]["line"]) == ("in.jsonl", 1)
    assert (letter["key"], letter["stage"], letter["attempts"]) == ("a", "fail_bad", 1)
    assert (letter["error"]["type"], letter["error"]["message"]) == ("ValueError", "bad one")
    assert 'h.py", line' in letter["error"]["traceback"]
    assert "engine" not in letter["error"]["traceback"]
    counts = folder.json("r.json")["counts"]
    assert counts["read"] == counts["handled"] + counts["dead_lettered"] == 3


def test_dead_letters_are_appended_and_stand_beside_the_output(folder: Folder) -> None:
    (folder.path / "out").mkdir()

    for _ in range(2):
        folder.run("h.py:fail", "in.jsonl", "--output", "out/results.jsonl")

    letters = folder.dead_letters("out/dead-letters.jsonl")
    assert [letter["event"]["id"] for letter in letters] == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("executor", ["inline", "coroutine", "process"])
def test_nothing_that_a_handler_raises_ends_the_run(folder: Folder, executor: str) -> None:
    mark = "async " if executor == "coroutine" else ""
    folder.file(
        "e.py",
        f"""
        import sys
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("can't say")
        {mark}def raising(event):
            if event.id == 0: sys.exit(0)
            if event.id == 1: raise ValueError("half \\ud800 a pair")
            if event.id == 2: raise Mute()
            return event
        """,
    )

    ended = folder.run("e.py:raising", "in.jsonl", "--executor", executor, "--output", "out.jsonl")

    types = {letter["event"]["id"]: letter["error"]["type"] for letter in folder.dead_letters()}
    assert ended.code == 4
    assert types == {0: "SystemExit", 1: "ValueError", 2: "Mute"}
    assert folder.read("out.jsonl") == b'{"id": 3, "key": "b"}\n'


def test_reject_is_a_dead_letter_with_its_reason(folder: Folder) -> None:
    folder.file(
        "r.py",
        """
        from millstream.engine import Reject
        def refuse(event):
            raise Reject("not ours")
        """,
    )

    ended = folder.run("r.py:refuse", "in.jsonl")

    errors = [(each["error"]["type"], each["error"]["message"]) for each in folder.dead_letters()]
    assert ended.code == 4
    assert errors == [("Reject", "not ours")] * 4


# --- conditions


HOLDING = [
    "throughput > 0",
    "throughput > 0.001/s",
    "service.p50 > 0ns",
    "service.p90 >= 0us",
    "service.fail_bad.p99 < 10s",
    "queue_wait.max < 1000s",
    "response.p99 > 0ms",
    "response.p999 != 0ns",
    "slip.max < 1e3 s",
    "dead_letters >= 1",
    "dead_letters > 24%",
    "ordering.violations == 0",
    "delivery.lost <= 0",
    "delivery.duplicated == 0",
    "rss_peak > 1MiB",
    "rss_peak < 100GiB",
    "rss_peak > 1KiB",
]


def test_conditions_that_hold_are_exit_6_and_go_before_dead_letters(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"key": "a", "bad": 1}, *({"key": n} for n in range(3))))
    conditions = [part for text in HOLDING for part in ("--fail-if", text)]

    ended = folder.run(
        "h.py:fail_bad", "in.jsonl", "--rate", "100000", *conditions, "--result", "r.json"
    )
    one = folder.run("h.py:fail_bad", "in.jsonl", "--fail-if", "dead_letters > 24%")

    result = folder.json("r.json")
    assert (ended.code, result["exit_code"], result["verdict"]) == (6, 6, "fail")
    shown = [(each["text"], each["held"]) for each in result["conditions"]]
    assert shown == [(text, True) for text in HOLDING]
    for text in HOLDING:
        assert re.search(rf"fail if +{re.escape(text)}: HELD, it was ", ended.err), text
    assert one.code == 6


def test_conditions_that_do_not_hold_change_nothing(folder: Folder) -> None:
    ended = folder.run(
        "h.py:same", "in.jsonl", "--fail-if", "dead_letters > 0", "--fail-if", "rss_peak > 99GiB",
        "--result", "r.json",
    )  # fmt: skip

    assert ended.code == 0
    assert [each["held"] for each in folder.json("r.json")["conditions"]] == [False, False]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("nonsense", "write it like"),
        ("speed > 1", "there is no figure 'speed'"),
        ("service.p98 > 1ms", "there is no figure"),
        ("service.p99 > 5", "its unit is ns, us"),
        ("service.p99 > 5MiB", "its unit is ns, us"),
        ("throughput > 5ms", "its unit is"),
        ("rss_peak > 5%", "its unit is B, KiB"),
        ("response.p99 > 5ms", "--rate or --pace time"),
        ("service.other.p99 > 5ms", "no stage 'other'"),
        ("dead_letters > -1", "write it like"),
    ],
)
def test_a_wrong_condition_is_refused_before_the_run(
    folder: Folder, condition: str, said: str
) -> None:
    ended = folder.run("h.py:same", "in.jsonl", "--fail-if", condition, "--output", "out.jsonl")

    assert ended.code == 2
    assert condition in ended.err
    assert said in ended.err
    assert not (folder.path / "out.jsonl").exists()


# --- signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("handler", ["gate", "agate"])
def test_a_signal_drains_what_is_in_flight(
    folder: Folder, number: int, code: int, handler: str
) -> None:
    with folder.start(
        f"w.py:{handler}", "-", "--order", "global", "--result", "r.json", stdin=-1
    ) as run:
        run.write(numbered(3))
        run.error_line("handling 1")
        run.signal(number)
        run.error_line("finishing what is in flight") if handler == "agate" else None
        folder.file("go", b"")
        assert run.process.stdout is not None
        out = run.process.stdout.read()
        run.process.wait()
        ended_code = run.process.returncode

    counts = folder.json("r.json")["counts"]
    assert ended_code == code
    assert counts["read"] == counts["handled"] == len(out.splitlines()) > 1
    assert numbered(3).startswith(out)
    assert folder.json("r.json")["exit_code"] == code


def test_an_interrupted_file_is_kept_under_another_name(folder: Folder) -> None:
    with folder.start("w.py:agate", "-", "-o", "out.jsonl", "--order", "global", stdin=-1) as run:
        run.write(numbered(2))
        run.error_line("handling 1")
        run.signal(signal.SIGINT)
        folder.file("go", b"")
        ended = run.end()

    assert ended.code == 130
    assert "out.jsonl.partial" in ended.err
    assert folder.read("out.jsonl.partial") == numbered(2)
    assert not (folder.path / "out.jsonl").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once(folder: Folder, number: int, code: int) -> None:
    with folder.start("w.py:agate", "in.jsonl", "--output", "out.jsonl") as run:
        run.error_line("handling 1")
        run.signal(number)
        run.error_line("finishing what is in flight")
        run.signal(number)
        ended = run.end()

    assert ended.code == code
    assert not [name for name in folder.names if "out.jsonl" in name]
    assert "Traceback" not in ended.err


def test_worker_processes_end_with_the_run_that_was_killed(folder: Folder) -> None:
    folder.file(
        "p.py",
        """
        import os, time
        def wait(event):
            with open("pid", "w") as file:
                file.write(str(os.getpid()))
            time.sleep(0.2)
            return event
        """,
    )

    with folder.start("p.py:wait", "in.jsonl", "--executor", "process", "--workers", "1") as run:
        pid_file = folder.path / "pid"
        wait_for(lambda: pid_file.exists() and pid_file.read_text(), "a worker at work")
        run.signal(signal.SIGKILL)
        run.process.wait()
        worker = Path("/proc") / pid_file.read_text()

        wait_for(lambda: not _is_alive(worker), "the end of the worker")


def _is_alive(process: Path) -> bool:
    try:
        return ") Z " not in (process / "stat").read_text()
    except OSError:
        return False


# --- what is said


def test_a_summary_is_said_on_standard_error_and_not_when_quiet(folder: Folder) -> None:
    loud = folder.run("h.py:same", "in.jsonl")
    quiet = folder.run("h.py:same", "in.jsonl", "--quiet", "--key", "id")
    in_error = folder.run("h.py:same", "absent.jsonl", "--quiet")

    assert "pass: 4 events" in loud.err
    assert "4 handled, 4 results written" in loud.err
    assert "\x1b" not in loud.err
    assert (quiet.code, quiet.out, quiet.err) == (0, loud.out, "")
    assert (in_error.code, "absent.jsonl" in in_error.err) == (3, True)


def test_what_auto_chose_is_said(folder: Folder) -> None:
    folder.file("a.py", "async def look(event):\n    return event\n")

    plain = folder.run("h.py:same", "in.jsonl")
    coroutine = folder.run("a.py", "in.jsonl")
    workers = folder.run("h.py:same", "in.jsonl", "--workers", "2")

    assert "same: inline (its handler is a plain function)" in plain.err
    assert "look: coroutine, up to 100 in flight (its handler is a coroutine)" in coroutine.err
    assert "same: process, 2 workers (more than one worker was asked for)" in workers.err


def test_an_interrupt_before_the_run_has_begun_ends_it_quietly(tmp_path: Path) -> None:
    interrupted = """
        import os, signal
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pass  # as what is half imported may do

        def same(event):
            return event
    """
    folder = folder_with(tmp_path, {"h.py": interrupted, "in.jsonl": lines_of({"id": 1})})

    ended = folder.run("h.py:same", "in.jsonl", "-o", "out.jsonl")

    assert (ended.code, ended.err) == (130, "millstream: interrupted\n")
    assert "out.jsonl" not in folder.names
