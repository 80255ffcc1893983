"""`millstream bench`: a named load scenario, measured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .flags import FAILURE_FLAGS, given, takes
from .outputs import check_outputs, write_outputs
from .run import (
    command_line,
    complain,
    exit_code_of,
    make_observer,
    open_endpoint,
    print_lines,
    use_color,
    wants_live_view,
    wrong_usage,
)

if TYPE_CHECKING:
    from millstream.engine.result import RunResult
    from millstream.workloads.experiments import Experiment, Fact
    from millstream.workloads.options import BenchOptions, BenchPlan
    from millstream.workloads.trial import Trial

    from .metrics import Endpoint

_FLAGS = (
    *("rate", "closed", "arrivals", "duration", "events", "warmup"),
    *("set", "store", "seed"),
    *("order", "emit", "executor", "workers", "concurrency"),
    *("objective", "find_max", "precision", "sweep", "repeat"),
    *("inject", *(name for name in FAILURE_FLAGS if name != "seed")),
    *("result", "report", "record", "hdr", "fail_if", "keep", "runs", "list_runs"),
    *("name", "config", "live", "metrics", "quiet"),
)


@takes(_FLAGS)
def bench_command(
    scenario: Annotated[
        str | None, typer.Argument(help="Its name, or a FILE.py that defines one.")
    ] = None,
    **flags: Any,
) -> None:
    """Offer the load of a scenario, and measure how it is borne.

    Example: millstream bench passthrough --rate 5000 --duration 3s
    """

    def start() -> int:
        from millstream.workloads.options import BenchOptions

        from .options import merge_as, read_config

        config = flags["config"]
        if flags["order"] == "all":
            if flags["sweep"] is not None:
                wrong_usage("--order all is a sweep, and --sweep another one; keep one of them")
            flags.update(order=None, sweep="order=all")
        from_file = read_config(config, BenchOptions) if config else {}
        options = merge_as(BenchOptions, from_file, given(flags), config)
        if options.list_runs:
            return _list_runs(options)
        if scenario is None:
            wrong_usage("no scenario: name one (millstream scenarios lists them)")
        return _start(scenario, options)

    raise SystemExit(exit_code_of(start))


def _list_runs(options: BenchOptions) -> int:
    from millstream.reports.bench import run_line
    from millstream.workloads.runs import kept_runs, runs_folder

    folder = runs_folder(options.runs)
    lines = [run_line(path, data) for path, data in kept_runs(folder)]
    if lines:
        print_lines(lines)
    else:
        complain(f"no runs in {folder}")
    return 0


def _start(name: str, options: BenchOptions) -> int:
    from millstream.engine.conditions import parse_condition
    from millstream.workloads.options import plan_bench
    from millstream.workloads.registry import scenario_class
    from millstream.workloads.runs import keep_run, runs_folder
    from millstream.workloads.trace import read_trace

    for text in options.fail_if:
        parse_condition(text)
    check_outputs(options, writes_output=False)
    plan = plan_bench(name, scenario_class(name), options, read_trace)
    made = _Trials(options, plan)
    made.endpoint = open_endpoint(options)
    try:
        result, experiment = made.all()
    finally:
        if made.endpoint is not None:
            made.endpoint.close()
    data = result.data
    if experiment is not None:
        data["experiment"] = experiment
    data["options"] = made.shown_options()
    data["argv"] = command_line()
    if options.hdr is not None:
        made.write_hdr(options.hdr)
    write_outputs(result, options, "the benchmark itself is over")
    made.tell(result)
    if options.runs != "":
        kept = keep_run(runs_folder(options.runs), result)
        if not options.quiet:
            sys.stderr.write(f"  kept in {kept}\n")
    return result.exit_code


class _Trials:
    """Makes the trials of one command, and tells of them."""

    def __init__(self, options: BenchOptions, plan: BenchPlan) -> None:
        self.options, self.plan = options, plan
        self._trials: list[Trial] = []
        self._chosen: RunResult | None = None
        self.endpoint: Endpoint | None = None
        """Told of all trials."""
        self.has_live_view = wants_live_view(options, results_on_stdout=False)

    def all(self) -> tuple[RunResult, dict[str, Any] | None]:
        """The result that stands for all, and the experiment that it is of, if of any."""
        import msgspec

        from millstream.workloads.experiments import Experiment, find_max, repeated, sweep
        from millstream.workloads.options import precision_of

        options, plan = self.options, self.plan
        if options.find_max:
            found, best = find_max(plan, precision_of(options), self._make, self._tell_fact)
            result = self._chosen = (best or self._trials[-1]).result
            result.data["exit_code"] = _code_of_search(found)
            result.data["verdict"] = {0: "pass", 7: "invalid"}.get(result.exit_code, "fail")
            experiment: Experiment | None = found
        elif options.sweep is not None:
            experiment, trials = sweep(
                plan, options.sweep, options.repeat, self._make, self._tell_fact
            )
            result = _representative(trials, best=True)
        elif options.repeat > 1:
            facts, trials = repeated([("", plan)], options.repeat, self._make, self._tell_fact)
            experiment = Experiment("repeat", None, facts)
            result = _representative(trials, best=False)
        else:
            return self._make(plan).result, None
        return result, msgspec.to_builtins(experiment)

    def _make(self, plan: BenchPlan) -> Trial:
        import signal

        import uvloop

        from millstream.workloads.trial import run_trial

        observer = make_observer(
            quiet=self.options.quiet,
            live_title=_title(plan) if self.has_live_view else None,
            endpoint=self.endpoint,
        )

        async def make() -> Trial:
            return await run_trial(plan, observer, keeps_windows=self.options.hdr is not None)

        # Until the run takes its own signals, one is to tidy up what there is by then.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            trial = uvloop.run(make())
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            observer.close()
        self._trials.append(trial)
        return trial

    def _tell_fact(self, fact: Fact) -> None:
        if not self.options.quiet:
            from millstream.reports.bench import fact_line

            sys.stderr.write(f"  {fact_line(_plain(fact))}\n")
            sys.stderr.flush()

    def shown_options(self) -> dict[str, Any]:
        """The options as the result shows them: without what nobody else should see."""
        import msgspec

        from millstream.engine.addresses import without_credentials

        shown = msgspec.to_builtins(self.options)
        if self.options.store is not None:
            shown["store"] = without_credentials(self.options.store)
        shown["set"] = [
            f"{name}={without_credentials(value)}"
            for name, _, value in (text.partition("=") for text in self.options.set)
        ]
        if self.options.sweep is not None:
            name, _, values = self.options.sweep.partition("=")
            shown["sweep"] = f"{name}={','.join(map(without_credentials, values.split(',')))}"
        return dict(shown)

    def write_hdr(self, path: str) -> None:
        """The response times of all trials together, for HdrHistogram's tools; of a search, those
        of the trial that stands for it: the others are of other rates."""
        from millstream.engine.connectors.base import ConnectorError
        from millstream.engine.histogram import Histogram
        from millstream.reports.hdr import IntervalHistogram, hgrm, hlog

        if self.options.find_max:
            self._trials = [each for each in self._trials if each.result is self._chosen]
        if path.endswith(".hlog"):
            first = self._trials[0].result.data["started_at"]
            text = hlog(self._intervals(IntervalHistogram), _epoch_s(first), "response time")
        else:
            whole = Histogram()
            for trial in self._trials:
                whole.merge(trial.response)
            text = hgrm(whole)
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConnectorError(f"--hdr {path} can't be written: {error.strerror}") from error

    def _intervals(self, make: Any) -> list[Any]:
        from millstream.engine.histogram import Histogram

        intervals = []
        since_s = 0.0
        for trial in self._trials:
            for window in trial.windows:
                histogram = Histogram()
                histogram.restore(window.response)
                start_s = since_s + window.start_ns / 1e9
                intervals.append(make(start_s, window.length_ns / 1e9, histogram))
            since_s += trial.result.duration_ns / 1e9
        return intervals

    def tell(self, result: RunResult) -> None:
        """The summary for people."""
        if self.options.quiet:
            for note in result.notes:
                complain(note)
            return
        from millstream.reports.terminal import write_summary

        write_summary(result.data, result.notes, sys.stderr, color=use_color())
        for path in self.options.report:
            complain(f"report in {path}")


def _title(plan: BenchPlan) -> str:
    """What a trial is, for who watches it."""
    from millstream.reports.units import rate

    return plan.scenario if plan.rate is None else f"{plan.scenario} at {rate(plan.rate)}"


def _plain(fact: Fact) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(fact)
    return plain


def _representative(trials: list[Trial], *, best: bool) -> RunResult:
    """The result of the trial with the median throughput, or the best one, with the code of all."""
    from millstream.engine.result import BROKEN, CONDITION, DEAD_LETTERS, INVALID, OK

    ranked = sorted(trials, key=lambda each: each.result.throughput)
    chosen = ranked[-1 if best else (len(ranked) - 1) // 2].result
    codes = {each.result.exit_code for each in trials}
    known = (BROKEN, INVALID, CONDITION, DEAD_LETTERS, OK)
    other = [code for code in codes if code not in known]
    code = other[0] if other else next(code for code in known if code in codes)
    chosen.data["exit_code"] = code
    chosen.data["verdict"] = "invalid" if code == INVALID else "pass" if code in (OK, 4) else "fail"
    return chosen


def _code_of_search(found: Experiment) -> int:
    from millstream.engine.result import BROKEN, CONDITION, FROM_SIGNALS, INVALID, OK

    last = found.facts[-1].exit_code
    if last >= FROM_SIGNALS or last in (1, 3):
        return last
    assert found.search is not None
    if found.search.best is None:
        broken = any(fact.exit_code == BROKEN for fact in found.facts)
        invalid = all(fact.verdict == "invalid" for fact in found.facts)
        return INVALID if invalid else BROKEN if broken else CONDITION
    return INVALID if found.search.upper_verdict == "invalid" else OK


def _epoch_s(started_at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(started_at.replace("Z", "+00:00")).timestamp()
