"""Results of each kind as the real command makes them within seconds, to make reports of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

HANDLERS: Final = '''"""Handlers of a shop: one computes, one waits, some events are refused."""
import asyncio
import time

from millstream.engine import Pipeline, Reject, stage


def price(event):
    time.sleep(0.0002)
    if event.data["n"] % 50 == 7:
        raise Reject(f"no price for {event.data['n'] % 100}")
    if event.data["n"] % 90 == 5:
        raise ValueError("amount <b>missing</b>")
    event.data["total"] = event.data["n"] * 2
    return event


async def enrich(event):
    await asyncio.sleep(0.001 * (1 + event.data["n"] % 7))
    return event


pipeline = Pipeline(stage(price), stage(enrich, concurrency=50))
'''

_JOB: Final = ("run", "shop.py:pipeline", "events.jsonl", "-o", "out.jsonl", "--dead-letter")

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "job": (*_JOB, "dead.jsonl", "--limit", "5000", "--fail-if", "dead_letters > 90%"),
    "unordered": ("run", "shop.py:enrich", "events.jsonl", "-o", "out2.jsonl", "--order", "none",
                  "--rate", "2000", "--limit", "3000"),
    "load": ("bench", "feed", "--rate", "800", "--duration", "5s", "--warmup", "1s",
             "--workers", "2", "--executor", "process", "--inject", "kill-worker@2500ms",
             "--inject", "error:1%", "--objective", "response.p99 < 50ms",
             "--fail-if", "rss_peak > 64GiB"),
    "closed": ("bench", "cpu", "--closed", "--duration", "1500ms"),
    "rates": ("bench", "passthrough", "--sweep", "rate=500,1000,2000,4000", "--duration", "1s"),
    "scaling": ("bench", "io", "--sweep", "concurrency=1,2,4,8,16", "--events", "200"),
    "orders": ("bench", "cpu", "--order", "all", "--events", "1000"),
    "search": ("bench", "passthrough", "--find-max", "--objective", "response.p99 < 50ms",
               "--duration", "1s", "--precision", "50%"),
    "repeats": ("bench", "cpu", "--repeat", "5", "--events", "500"),
}  # fmt: skip
"""By kind, what makes a result of it."""

KINDS: Final = (*COMMANDS, "audit", "several", "old")
"""Of pages: one of several of these results, and one with what an old result has, among them."""

_DONE: Final = (0, 4, 5, 6, 7)
"""Exit codes with which a result is there. On a busy machine a benchmark may be invalid."""


def make_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Run the commands in `folder`: a result of each kind, and an audit of what came out."""
    (folder / "shop.py").write_text(HANDLERS, "utf-8")
    with (folder / "events.jsonl").open("w") as lines:
        for n in range(6000):
            event = {"key": f"k{n % 8}", "sequence": n // 8 + 1, "id": n, "data": {"n": n}}
            lines.write(json.dumps(event) + "\n")
    with ThreadPoolExecutor(2) as pool:
        made = dict(
            zip(COMMANDS, pool.map(lambda kind: _result(folder, kind), COMMANDS), strict=True)
        )
    said = _millstream(folder, "audit", "out2.jsonl", "--key", "key", "--json", "--quiet")
    return {**made, "audit": json.loads(said)}


def _result(folder: Path, kind: str) -> dict[str, Any]:
    kept = folder / f"{kind}.json"
    _millstream(folder, *COMMANDS[kind], "--quiet", "--result", str(kept))
    found: dict[str, Any] = json.loads(kept.read_bytes())
    return found


def _millstream(folder: Path, *arguments: str) -> bytes:
    command = [str(Path(sys.executable).with_name("millstream")), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=90, check=False)
    assert done.returncode in _DONE, f"{command}: {done.stderr.decode()}"
    return done.stdout
