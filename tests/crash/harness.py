"""Runs that are killed, with all their processes, at points given by what they have done so far."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import zstandard

from tests.cli.support import COMMAND, PATIENCE_S, Folder, wait_for

EVENTS = 360
KEYS = 7

DEDUPE = ("--dedupe", "--dedupe-window", "50")

HANDLERS = '''
    import asyncio, os, time

    TRACE = os.open("trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def results(n, key):
        """What becomes of an event, whichever sitting handles it."""
        os.write(TRACE, b"%d\\n" % n)
        if n % 7 == 3:
            return None
        if n % 11 == 5:
            raise ValueError("no %d" % n)
        made = [{"n": n, "key": key, "part": part} for part in range(2 if n % 5 == 2 else 1)]
        return made

    def plain(event):
        time.sleep(0.0005)
        return results(int(event.data["n"]), event.key)

    async def coroutine(event):
        n = int(event.data["n"])
        await asyncio.sleep(0.0005 * (1 + n * 7919 % 13))
        return results(n, event.key)
'''


@dataclass(frozen=True)
class Case:
    """One shape of run."""

    executor: str = "inline"
    order: str = "key"
    emit: str = "completion"
    inputs: str = "jsonl"
    output: str = "out.jsonl"
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.executor, self.order, self.emit, self.inputs, self.output, *self.more]
        return "-".join(parts).replace("--", "")

    @property
    def dedupes(self) -> bool:
        """Whether an event with an id that came before is filtered out."""
        return "--dedupe" in self.more

    @property
    def is_in_order(self) -> bool:
        """Whether the output is the same byte for byte, whenever it is killed."""
        return self.emit == "input" or self.order == "global"


def event(n: int) -> dict[str, Any]:
    """The n-th event: long enough for several blocks of 64 KiB."""
    return {"n": n, "id": id_of(n), "key": f"k{n % KEYS}", "pad": "x" * (500 + n * 7919 % 400)}


def id_of(n: int) -> int:
    """Some have the id of the event before, and some that of one beyond the window of DEDUPE."""
    if n % 9 == 4:
        return n - 1
    return n - 100 if n % 9 == 7 and n >= 100 else n


def is_malformed(n: int, shape: str) -> bool:
    """Whether the n-th record of inputs of this shape is no event."""
    return shape in ("jsonl", "gz", "stdin") and n % 60 == 31


def is_duplicate(n: int, case: Case) -> bool:
    """Whether the n-th event never comes to a handler."""
    are_events = not any(is_malformed(each, case.inputs) for each in (n - 1, n))
    return case.dedupes and n % 9 == 4 and are_events


def expected(n: int, case: Case) -> list[dict[str, Any]] | None:
    """The results of an event; None: it is a dead letter."""
    if is_malformed(n, case.inputs):
        return None
    if is_duplicate(n, case):
        return []
    if n % 7 == 3:
        return []
    if n % 11 == 5:
        return None
    return [{"n": n, "key": f"k{n % KEYS}", "part": part} for part in range(1 + (n % 5 == 2))]


def jsonl(numbers: range, shape: str = "") -> bytes:
    lines = [json.dumps(event(n)).encode() for n in numbers]
    return b"".join(
        (line[:-5] if is_malformed(n, shape) else line) + b"\n"
        for n, line in zip(numbers, lines, strict=True)
    )


def csv(numbers: range) -> bytes:
    rows = [f'{n},k{n % KEYS},"a\nb{"x" * (n % 300)}"\n' for n in numbers]
    return ("n,key,text\n" + "".join(rows)).encode()


def write_inputs(folder: Folder, shape: str) -> list[str]:
    """Write the inputs of a shape; gives the arguments that name them."""
    thirds = [range(n, n + EVENTS // 3) for n in range(0, EVENTS, EVENTS // 3)]
    match shape:
        case "jsonl" | "stdin":
            folder.file("in.jsonl", jsonl(range(EVENTS), shape))
            return ["in.jsonl"] if shape == "jsonl" else ["-"]
        case "gz":
            folder.file("in.jsonl.gz", gzip.compress(jsonl(range(EVENTS), shape)))
            return ["in.jsonl.gz"]
        case "json":
            events = json.dumps([event(n) for n in range(EVENTS)], indent=1)
            folder.file("in.json", events.encode())
            return ["in.json"]
        case "csv":
            folder.file("in.csv", csv(range(EVENTS)))
            return ["in.csv"]
        case "several":
            first, second, third = thirds
            folder.file("a.jsonl", jsonl(first))
            folder.file("b.jsonl.gz", gzip.compress(jsonl(second)))
            folder.file("c.csv", csv(third))
            return ["a.jsonl", "b.jsonl.gz", "c.csv"]
        case "partitions":
            for place, numbers in enumerate(thirds):
                folder.file(f"p{place}.jsonl", jsonl(numbers))
            return ["p0.jsonl", "p1.jsonl", "p2.jsonl", "--partitions"]
    raise AssertionError(shape)


class Crashing:
    """A run of one shape in a folder, to be killed and gone on with."""

    def __init__(self, folder: Folder, case: Case) -> None:
        folder.file("h.py", HANDLERS)
        self.folder, self.case = folder, case
        handler = "coroutine" if case.executor == "coroutine" else "plain"
        workers = ["--workers", "2"] if case.executor == "process" else []
        self.arguments = [
            "run", f"h.py:{handler}", *write_inputs(folder, case.inputs), *case.more,
            "--executor", case.executor, *workers, "--order", case.order, "--emit", case.emit,
            "--output", case.output, "--dead-letter", "dead.jsonl", "--result", "result.json",
            "--checkpoint", "check.point", "--checkpoint-every", "20ms", "--resume",
        ]  # fmt: skip

    @contextmanager
    def sitting(self) -> Iterator[subprocess.Popen[bytes]]:
        """The run, gone on with, in a process group of its own that is killed at the end."""
        command: list[str] = [COMMAND, *self.arguments]
        if self.case.inputs == "stdin":
            command = ["sh", "-c", 'cat in.jsonl | "$@"', "sh", *command]
        process = subprocess.Popen(
            command,
            cwd=self.folder.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

    def traced(self) -> list[int]:
        """The events that handlers were called with so far, in order of the calls."""
        path = self.folder.path / "trace"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [int(line) for line in lines]

    def written(self) -> int:
        """How many bytes of output there are."""
        size = 0
        for part in self.folder.path.glob(f".{self.case.output}.*.part"):
            with suppress(FileNotFoundError):  # it has got its name
                size += part.stat().st_size
        return size

    def kill_when(self, reached: Callable[[], bool]) -> bool:
        """Go on with the run, and kill it at a point; False when it ended before."""
        with self.sitting() as process:
            deadline = time.monotonic() + PATIENCE_S
            while process.poll() is None and not reached():
                assert time.monotonic() < deadline, "the point to kill at never came"
                time.sleep(0.001)
            return process.poll() is None

    def kill_somewhere(self, dice: random.Random) -> bool:
        """Kill it when it has called handlers, or written, so much more."""
        if dice.random() < 0.5:
            calls = len(self.traced()) + dice.randrange(1, EVENTS)
            return self.kill_when(lambda: len(self.traced()) >= calls)
        size = self.written() + dice.randrange(1, 9000)
        return self.kill_when(lambda: self.written() >= size)

    def finish(self) -> int:
        """Go on to the end; gives the exit code."""
        with self.sitting() as process:
            _, said = process.communicate(timeout=PATIENCE_S)
            assert b"Traceback" not in said, said.decode()
            assert process.returncode in (0, 4), said.decode()
            return process.returncode

    def output(self) -> list[dict[str, Any]]:
        plain = _unpacked(self.folder.read(self.case.output))
        return [json.loads(line) for line in plain.splitlines()]

    def check(self, code: int) -> None:
        """That what was left behind is what an undisturbed run leaves."""
        result = self.folder.json("result.json")
        everything = {n: expected(n, self.case) for n in range(EVENTS)}
        dead = sorted(n for n, results in everything.items() if results is None)
        results = [each for n in range(EVENTS) for each in everything[n] or ()]
        self._check_output(results)
        letters = [int(self._number(letter)) for letter in self.folder.dead_letters("dead.jsonl")]
        counts = result["counts"]
        assert code == 4
        assert sorted(letters) == dead
        self._check_places()
        assert counts["read"] == EVENTS == counts["handled"] + counts["dead_lettered"]
        assert counts["dead_lettered"] == len(dead)
        assert counts["emitted"] == len(results)
        assert counts["filtered"] == sum(each == [] for each in everything.values())
        assert (result["delivery"]["lost"], result["delivery"]["duplicated"]) == (0, 0)
        assert result["ordering"]["violations"] == 0
        filtered = [n for n in range(EVENTS) if is_duplicate(n, self.case)]
        assert counts.get("deduplicated", 0) == len(filtered)
        handled = {n for n in range(EVENTS) if not is_malformed(n, self.case.inputs)}
        assert set(self.traced()) == handled - set(filtered)
        assert not [name for name in self.folder.names if name.endswith((".part", ".partial"))]

    def _check_places(self) -> None:
        """That dead letters tell where their events stood, whichever sitting wrote them."""
        lines = {"jsonl": (1, 1), "gz": (1, 1), "stdin": (1, 1), "csv": (2, 2)}
        for letter in self.folder.dead_letters("dead.jsonl"):
            n, position = int(self._number(letter)), letter["position"]
            if self.case.inputs != "partitions":
                assert position["index"] == n
            if self.case.inputs in lines:
                first, each = lines[self.case.inputs]
                assert position["line"] == first + each * n

    def _number(self, letter: dict[str, Any]) -> Any:
        if "event" in letter:
            return letter["event"]["n"]
        return re.search(r"\d+", letter["event_text"])[0]  # type: ignore[index]  # n comes first

    def _check_output(self, results: list[dict[str, Any]]) -> None:
        got = self.output()
        one_input = self.case.inputs != "partitions"
        if self.case.is_in_order and one_input:
            assert got == results
            return
        assert sorted(got, key=_place) == results
        if self.case.order == "key":
            for key in {each["key"] for each in got}:
                own = [_place(each) for each in got if each["key"] == key]
                if one_input:
                    assert own == sorted(own)


def _unpacked(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as plain:
            return plain.read()
    return data


def _place(result: dict[str, Any]) -> tuple[int, int]:
    return result["n"], result["part"]


__all__ = ["DEDUPE", "EVENTS", "Case", "Crashing", "expected", "wait_for"]
