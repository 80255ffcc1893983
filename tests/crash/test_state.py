"""State by key, and parked keys, over kills: as if there had been none."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Folder

from .harness import EVENTS, KEYS, Case, Crashing

HANDLERS = """
    import asyncio, os, time
    from millstream.engine import Pipeline, stage

    TRACE = os.open("trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def tally(event, state):
        n = int(event.data["n"])
        os.write(TRACE, b"%d\\n" % n)
        state["seen"] = state.get("seen", 0) + 1
        if n % 7 == 3:
            return None
        if n % 11 == 5:
            raise ValueError("no %d" % n)
        return {"n": n, "key": event.key, "nth": state["seen"]}

    async def atally(event, state):
        await asyncio.sleep(0.0002)
        return tally(event, state)

    async def slow(event):
        await asyncio.sleep(0.0005 * (1 + event.data["n"] * 7919 % 13))
        return event

    def pace(event):
        time.sleep(0.0005)
        return event

    inline = Pipeline(stage(tally, state=dict), stage(slow))
    coroutine = Pipeline(stage(atally, state=dict), stage(slow))
    process = Pipeline(stage(tally, state=dict, executor="process", workers=2), stage(slow))
    async_process = Pipeline(stage(atally, state=dict, executor="process", workers=2), stage(slow))
    behind = Pipeline(stage(pace), stage(atally, state=dict), stage(pace, executor="process"))
"""
JOBS = ["inline", "coroutine", "process", "async_process", "behind"]
SEEDS = range(6 if os.environ.get("MILLSTREAM_CRASH") == "all" else 1)


class Stateful(Crashing):
    """A pipeline of which a stage counts the events of each key."""

    def __init__(self, folder: Folder, job: str, emit: str, *more: str) -> None:
        super().__init__(folder, Case(emit=emit))
        folder.file("h.py", HANDLERS)
        self.park = "park" in more
        places = [place for place, word in enumerate(self.arguments) if word == "--executor"]
        self.arguments[places[0] : places[0] + 2] = [*more]
        self.arguments[1] = f"h.py:{job}"

    def expected(self) -> tuple[list[dict[str, Any]], list[int]]:
        """The results, and the numbers of the dead letters."""
        seen: dict[str, int] = defaultdict(int)
        results, dead, parked = [], [], set()
        for n in range(EVENTS):
            key = f"k{n % KEYS}"
            if n % 60 == 31 or key in parked:  # malformed: it has no key
                dead.append(n)
            elif n % 7 != 3 and n % 11 == 5:
                dead.append(n)
                if self.park:
                    parked.add(key)
            else:
                seen[key] += 1
                if n % 7 != 3:
                    results.append({"n": n, "key": key, "nth": seen[key]})
        return results, dead

    def check(self, code: int) -> None:
        results, dead = self.expected()
        got = self.output()
        letters = [int(self._number(letter)) for letter in self.folder.dead_letters("dead.jsonl")]
        counts = self.folder.json("result.json")["counts"]
        assert code == 4
        assert sorted(got, key=lambda each: int(each["n"])) == results
        for key in {each["key"] for each in got}:
            own = [each["n"] for each in got if each["key"] == key]
            assert own == sorted(own)
        if self.case.emit == "input":
            assert got == results
        assert sorted(letters) == dead
        assert counts["read"] == EVENTS == counts["handled"] + counts["dead_lettered"]
        assert counts["dead_lettered"] == len(dead)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("emit", ["completion", "input"])
@pytest.mark.parametrize("job", JOBS)
def test_states_go_on_where_they_stood(tmp_path: Path, job: str, emit: str, seed: int) -> None:
    run = Stateful(Folder(tmp_path), job, emit)
    dice = random.Random(f"{job} {emit} {seed}")

    for _ in range(dice.randrange(1, 4)):
        run.kill_somewhere(dice)
    code = run.finish()

    run.check(code)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", ["inline", "coroutine", "process"])
def test_parked_keys_stay_parked(tmp_path: Path, job: str, seed: int) -> None:
    run = Stateful(Folder(tmp_path), job, "completion", "--on-error", "park")
    dice = random.Random(f"{job} {seed}")

    for _ in range(dice.randrange(1, 4)):
        run.kill_somewhere(dice)
    code = run.finish()

    run.check(code)
