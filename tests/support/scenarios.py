"""Run a scenario over the first events of its stream, without a schedule, and ask its oracle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millstream.engine import Pipeline, RunOptions, run
from millstream.engine.result import RunResult
from millstream.workloads.scenario import Invariant, Outcome, Scenario, stream
from millstream.workloads.trial import dead_places


def run_scenario(
    folder: Path,
    scenario: Scenario,
    events: int,
    *,
    pipeline: Pipeline | None = None,
    **options: Any,
) -> tuple[RunResult, list[Invariant]]:
    """The result, and what the oracle says. `pipeline`: another one than the scenario's own."""
    source, output, dead = (folder / name for name in ("in.jsonl", "out.jsonl", "dead.jsonl"))
    own = folder / "scenario"
    own.mkdir()
    source.write_bytes(b"".join(line + b"\n" for line in stream(scenario, events)))
    options.setdefault("order", scenario.orders[0])
    with scenario.running(own):
        job = pipeline or scenario.pipeline(own)
        result = run(job, source, output=output, dead_letter=dead, **options)
    died = dead_places(dead, RunOptions(seed=result["seed"], inject=options.get("inject", ())))
    outcome = Outcome(events, str(output), str(own), options["order"], died)
    return result, scenario.check(outcome)


def broken(invariants: list[Invariant]) -> Mapping[str, str]:
    """Those that did not hold, by name, with what was seen."""
    return {each.name: each.detail for each in invariants if not each.held}
