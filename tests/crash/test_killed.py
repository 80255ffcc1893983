"""Killed at any point and gone on with, a run comes to what an undisturbed one comes to.

A few points by default; MILLSTREAM_CRASH=all kills some hundred times.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.cli.support import Folder

from .harness import DEDUPE, Case, Crashing

CASES = [
    Case("inline", "none"),
    Case("inline", "key", "input"),
    Case("coroutine", "none"),
    Case("coroutine", "key"),
    Case("coroutine", "key", "input"),
    Case("coroutine", "global"),
    Case("process", "none"),
    Case("process", "key"),
    Case("process", "none", "input"),
    Case("inline", "global", inputs="gz"),
    Case("coroutine", "key", inputs="gz", output="out.jsonl.gz"),
    Case("inline", "key", inputs="json"),
    Case("coroutine", "none", inputs="csv"),
    Case("process", "key", inputs="csv"),
    Case("coroutine", "key", inputs="several"),
    Case("process", "key", "input", inputs="several"),
    Case("coroutine", "key", inputs="partitions"),
    Case("process", "partition", inputs="partitions"),
    Case("coroutine", "key", "input", inputs="partitions"),
    Case("coroutine", "key", inputs="stdin"),
    Case("inline", "none", inputs="stdin", output="out.jsonl.zst"),
    Case("inline", "key", more=DEDUPE),
    Case("coroutine", "key", "input", more=DEDUPE),
    Case("process", "key", more=DEDUPE),
    Case("coroutine", "none", inputs="gz", more=DEDUPE),
    Case("process", "none", inputs="stdin", more=DEDUPE),
]
FEW = {0: 1, 2: 1, 4: 2, 7: 1, 10: 1, 13: 1, 15: 1, 16: 1, 19: 1, 21: 1, 22: 2, 23: 1}
"""Place of a case -> how many seeds, when only a few points are wanted."""
MANY = 5

POINTS = [
    pytest.param(case, seed, id=f"{case}-{seed}")
    for place, case in enumerate(CASES)
    for seed in range(MANY if os.environ.get("MILLSTREAM_CRASH") == "all" else FEW.get(place, 0))
]


@pytest.mark.parametrize(("case", "seed"), POINTS)
def test_a_run_that_is_killed_comes_to_the_same(tmp_path: Path, case: Case, seed: int) -> None:
    run = Crashing(Folder(tmp_path), case)
    dice = random.Random(f"{case} {seed}")

    for _ in range(dice.randrange(1, 4)):
        run.kill_somewhere(dice)
    code = run.finish()

    run.check(code)
