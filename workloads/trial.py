"""One trial: a load, a run under it, the oracle's word on what it left, and the verdicts.

Where the parts meet; what is decided is decided in verdict.py, steady.py and recovery.py.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.engine.addresses import without_credentials
from millstream.engine.connectors.base import ConnectorError, Sink
from millstream.engine.histogram import Histogram
from millstream.engine.load import Load
from millstream.engine.load_run import LoadRun, Window
from millstream.engine.observer import Observer
from millstream.engine.plan import RunOptions, RunPlan, fault_plan, make_plan
from millstream.engine.result import BROKEN, DEAD_LETTERS, FROM_SIGNALS, OK, RunResult, verdict_for
from millstream.engine.runner import open_sink

from .load import ProcessLoad
from .options import BenchPlan, objectives_of
from .recovery import recoveries
from .registry import scenario_class
from .scenario import Invariant, Outcome, ParameterValue, Scenario
from .steady import Series, steadiness
from .verdict import TrialVerdict, exit_code_of, met, verdict_of, why_invalid
from .wire import Start

LEAST_BEHIND: Final = 1000
"""At low rates, events that may wait before a load that is to be borne is given up."""

MakeLoad = Callable[[BenchPlan], Load]


class Trial:
    """A trial that is over."""

    def __init__(
        self, result: RunResult, verdict: TrialVerdict, response: Histogram, windows: list[Window]
    ) -> None:
        self.result, self.verdict = result, verdict
        self.response = response
        """Of the whole trial, after the warm-up."""
        self.windows = windows
        """The same by interval, when that was asked for."""


def generated(plan: BenchPlan) -> Load:
    """The load of a plan, from a process of its own."""
    return ProcessLoad(
        Start(
            scenario=plan.scenario,
            settings=dict(plan.settings),
            seed=plan.seed,
            arrivals=plan.arrivals,
            rate=plan.rate,
            events=plan.events,
            duration_ns=plan.duration_ns,
        )
    )


async def run_trial(
    plan: BenchPlan,
    observer: Observer,
    *,
    make_load: MakeLoad = generated,
    scenario: Scenario | None = None,
    keeps_windows: bool = False,
) -> Trial:
    """Offer the load of `plan`, and judge what came of it.

    `scenario` stands in for the one that the plan names. Raises ScenarioError, PlanError,
    ConnectorError, and what Run.run() raises.
    """
    scenario = scenario or scenario_class(plan.scenario)(plan.settings, plan.seed)
    folder = _folder(plan)
    try:
        own = folder / "scenario"
        own.mkdir()
        with scenario.running(own):
            output, letters = folder / "output.jsonl", folder / "dead-letters.jsonl"
            options = msgspec.structs.replace(
                plan.options, output=str(output), dead_letter=str(letters)
            )
            run_plan = make_plan(scenario.pipeline(own), options)
            run = _run(run_plan, plan, make_load(plan), open_sink(str(output)), observer)
            run.keeps_windows = keeps_windows
            run.expected = plan.events, plan.duration_ns
            if plan.gives_up_after_s is not None and plan.rate is not None:
                run.gives_up_at = int(plan.gives_up_after_s * plan.rate) + LEAST_BEHIND
            result = await run.run()
        invariants = await asyncio.to_thread(_check, scenario, result, folder, options)
        return _judged(plan, scenario, run, result, invariants)
    finally:
        if plan.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _folder(plan: BenchPlan) -> Path:
    if plan.keep is None:
        return Path(tempfile.mkdtemp(prefix="millstream-bench-"))
    folder = Path(plan.keep)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConnectorError(f"--keep {plan.keep} is there already; name a new folder") from None
    except OSError as error:
        raise ConnectorError(f"--keep {plan.keep} can't be made: {error.strerror}") from error
    return folder


def _run(run_plan: RunPlan, plan: BenchPlan, load: Load, sink: Sink, observer: Observer) -> LoadRun:
    stop_ns = None if plan.is_open else plan.duration_ns
    return LoadRun(run_plan, load, sink, observer, warmup_ns=plan.warmup_ns, stop_after_ns=stop_ns)


def _check(
    scenario: Scenario, result: RunResult, folder: Path, options: RunOptions
) -> list[Invariant] | None:
    """What the oracle says; None: the run did not come to its end, so that it can say nothing."""
    code = result.exit_code
    if (code not in (OK, BROKEN) and code < DEAD_LETTERS) or code >= FROM_SIGNALS:
        return None
    dead = dead_places(folder / "dead-letters.jsonl", options)
    outcome = Outcome(
        events=int(result["load"]["taken"]),
        output=str(folder / "output.jsonl"),
        folder=str(folder / "scenario"),
        order=options.order,
        dead=dead,
    )
    return scenario.check(outcome)


class _Position(msgspec.Struct):
    line: int


class _Letter(msgspec.Struct):
    position: _Position


def dead_places(letters: Path, options: RunOptions) -> frozenset[int]:
    """Which events of the stream became dead letters: all copies of them, where there are more."""
    if not letters.exists():
        return frozenset()
    decode = msgspec.json.Decoder(_Letter).decode
    with letters.open("rb") as lines:
        deaths = Counter(decode(line).position.line - 1 for line in lines)
    plan = fault_plan(options, options.seed or 0)
    doubles = plan is not None and any(fault.kind == "duplicate" for fault in plan.faults)
    if not doubles:
        return frozenset(deaths)
    assert plan is not None
    return frozenset(
        place
        for place, count in deaths.items()
        if count > (plan.duplicated_by(0, place) is not None)
    )


def _judged(
    plan: BenchPlan,
    scenario: Scenario,
    run: LoadRun,
    result: RunResult,
    invariants: list[Invariant] | None,
) -> Trial:
    data, objectives = result.data, objectives_of(plan.objectives)
    course = series_of(data)
    data["name"] = plan.options.name or scenario.name
    data["inputs"], data["output"] = [], None
    if plan.keep is None:
        data["dead_letter_file"] = None
    data["scenario"] = {"name": plan.scenario, "settings": _safe(scenario.settings)}
    data["load"] |= {
        "arrivals": plan.arrivals,
        "rate": plan.rate,
        "offered": _offered(data),
    }
    data["invariants"] = msgspec.to_builtins(invariants or [])
    data["objectives"] = msgspec.to_builtins(met(objectives, data))
    data["steady"] = msgspec.to_builtins(steadiness(course))
    data["invalid"] = why_invalid(data, objectives)
    if plan.options.inject and plan.is_open:
        bound = [o.value for o in objectives if o.figure == "response.p99"]
        found = recoveries(data, int(bound[0]) if bound else None)
        data["recovery"] = msgspec.to_builtins(found)
    verdict = verdict_of(data, course)
    data["exit_code"] = exit_code_of(data)
    data["verdict"] = verdict_for(data["exit_code"])
    result.notes += [f"invalid: {why}" for why in data["invalid"]]
    if invariants is None:
        result.notes.append("the run did not come to its end: the oracle was not asked")
        verdict = "fail"
    return Trial(result, verdict, run.outlet.response, run.windows)


def _offered(data: dict[str, Any]) -> float:
    """Events released per second, over the whole schedule."""
    load = data["load"]
    return float(load["released"] * 1e9 / max(1, load["elapsed_ns"]))


def series_of(data: dict[str, Any]) -> Series:
    """The course of a trial, from its warm-up to the end of its load."""
    load, series = data["load"], data["series"]
    interval_ns = series["interval_ns"]
    first = -(-load["warmup_ns"] // interval_ns)
    # What is drained after a schedule is no part of it.
    length_ns = load["elapsed_ns"] if load["open"] else data["duration_ns"]
    last = min(len(series["rss"]), max(first, length_ns // interval_ns))
    seconds = interval_ns / 1e9
    done = [round(rate * seconds) for rate in series["throughput"][first:last]]
    offered, backlog = done, [0] * len(done)
    if load["open"]:
        offered = [round(rate * seconds) for rate in series["offered"][first:last]]
        backlog = series["backlog"][first:last]
    return Series(
        start_ns=first * interval_ns,
        ends_ns=[(place + 1) * interval_ns for place in range(first, last)],
        offered=offered,
        done=done,
        backlog=backlog,
        response_ns=series["response_p50"][first:last],
    )


def _safe(settings: dict[str, ParameterValue]) -> dict[str, ParameterValue]:
    """Settings without what nobody else should see: the credentials in addresses."""
    return {
        name: without_credentials(value) if isinstance(value, str) else value
        for name, value in settings.items()
    }
