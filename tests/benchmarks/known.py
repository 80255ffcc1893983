"""Set-ups whose figures are known, on the real loop and the real generator, and exact pacing.

    .venv/bin/python tests/benchmarks/known.py [--only REGEX]

On a machine that does nothing else. The same answers are exact, on a clock of their own, in
tests/workloads/test_known_answers.py; here it shows how near a real machine comes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from waiting import service_s

from millstream.engine.arrivals import Poisson

HERE = Path(__file__).parent
SCENARIO = str(HERE / "waiting.py")
SERVICE_MS = 20.0
"""Long, so that what the engine itself needs for an event is no part of it to speak of."""
EVENTS = 1500


def bench(*arguments: str) -> dict[str, Any]:
    """The result of a benchmark; an invalid one, too."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [str(Path(sys.executable).with_name("millstream")), "bench", *arguments]
        command += ["--result", str(result), "--quiet", "--runs", folder]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        found: dict[str, Any] = msgspec.json.decode(result.read_bytes())
        return found


def row(name: str, found: float, expected: float, unit: str, data: dict[str, Any]) -> None:
    """A line of the table."""
    note = f"  INVALID: {data['invalid'][0]}" if data["invalid"] else ""
    print(f"{name:<34} {found:12.4g} {expected:12.4g} {found / expected:8.3f}  {unit}{note}")


def capacity(slots: int, service_ms: float) -> None:
    """Concurrency by service time."""
    data = bench(
        *(SCENARIO, "--find-max", "--objective", "response.p99 < 200ms", "--duration", "5s"),
        *("--set", f"slots={slots}", "--set", f"service={service_ms}"),
    )
    best = data["experiment"]["search"]["best"] or 0.0
    took_s = data["stages"][0]["service"]["mean"] / 1e9  # a sleep is a little longer than asked for
    row(f"capacity, {slots} at once", best, slots / took_s, "/s", data)


def mean_wait_s(rate: float, service_s: float, kind: str) -> float:
    """By Pollaczek and Khinchine, for services of this mean."""
    second_moment = service_s**2 * (1 if kind == "constant" else 2)
    return rate * second_moment / (2 * (1 - rate * service_s))


def seed_near_theory(rate: float, kind: str) -> int:
    """A seed whose arrivals, by Lindley's recursion, wait about as theory says.

    Of so few events some samples wait half as long again, whatever measures them.
    """
    services = np.array([service_s(n, SERVICE_MS / 1e3, kind) for n in range(EVENTS)])
    theory = mean_wait_s(rate, float(services.mean()), kind)

    def mean_wait(seed: int) -> float:
        arrivals = Poisson(rate, seed).take(EVENTS) / 1e9
        free, waits = 0.0, 0.0
        for at, service in zip(arrivals.tolist(), services.tolist(), strict=True):
            waits += max(0.0, free - at)
            free = max(free, at) + service
        return waits / EVENTS

    return min(range(1, 201), key=lambda each: abs(mean_wait(each) - theory))


def queue(kind: str, utilisation: float) -> None:
    """Mean wait of M/D/1 and M/M/1, by Pollaczek and Khinchine."""
    rate = utilisation / (SERVICE_MS / 1e3)
    seed = seed_near_theory(rate, kind)
    data = bench(
        *(SCENARIO, "--rate", str(rate), "--arrivals", "poisson", "--events", str(EVENTS)),
        *("--seed", str(seed), "--warmup", "0s", "--set", "slots=1"),
        *("--set", f"service={SERVICE_MS}", "--set", f"distribution={kind}"),
    )
    parts = data["tail"]["all_parts"]  # means; what comes before the service is the wait
    wait_ms = sum(parts[name] for name in ("slip", "transport in", "queue wait wait")) / 1e6
    # A sleep is a little longer than asked for: theory is told how long it was.
    theory = mean_wait_s(rate, data["stages"][0]["service"]["mean"] / 1e9, kind)
    name = "M/D/1" if kind == "constant" else "M/M/1"
    row(f"mean wait, {name} at {utilisation}", wait_ms, theory * 1e3, "ms", data)


def pacing(rate: int) -> None:
    """How near the generator keeps to its schedule."""
    data = bench("passthrough", "--rate", str(rate), "--duration", "10s")
    row(f"rate achieved, {rate:,}/s", data["load"]["offered"], rate, "/s", data)
    row("  slip at p99 (2 ms allowed)", data["slip"]["p99"] / 1e6, 2.0, "ms", data)


ROWS: dict[str, Callable[[], None]] = {
    "pacing": lambda: pacing(50_000),
    "capacity-1": lambda: capacity(1, 20.0),
    "capacity-10": lambda: capacity(10, 20.0),
    "md1-0.5": lambda: queue("constant", 0.5),
    "md1-0.8": lambda: queue("constant", 0.8),
    "mm1-0.5": lambda: queue("exponential", 0.5),
    "mm1-0.8": lambda: queue("exponential", 0.8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name has this")
    only = parser.parse_args().only
    print(f"{'':<34} {'found':>12} {'expected':>12} {'ratio':>8}")
    for name, make in ROWS.items():
        if re.search(only, name):
            make()


if __name__ == "__main__":
    main()
