"""Which runs of which results count, and in what the work of two sets differs."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.reports.run_figures import figures_of_fact, figures_of_result
from millstream.reports.run_sets import MOST_RUNS, NotComparable, run_set
from millstream.reports.work import Difference, differences, work_of
from tests.support.run_sets import a_result


def a_fact(**changes: Any) -> dict[str, Any]:
    return {
        **{"value": "", "repeat": 0, "verdict": "pass", "throughput": 50.0, "offered": 50.0},
        **{"response": None, "service_ns": 7, "steady": True, "violations": 0, "exit_code": 0},
        **{"invalid": [], "read": 10, "dead_lettered": 1, "cpu_ns": 200, "rss_peak": 4096},
        **changes,
    }


def an_experiment(kind: str, *facts: dict[str, Any]) -> dict[str, Any]:
    parameter = "workers" if kind == "sweep" else None
    return a_result(experiment={"kind": kind, "parameter": parameter, "facts": list(facts)})


# --- figures


def test_the_figures_of_a_result() -> None:
    response = {"p50": 1, "p90": 2, "p99": 3, "p999": 4, "max": 5, "mean": 6, "min": 0, "count": 9}
    slow = {"service": {"mean": 7, "p50": 3, "p99": 30}, "queue_wait": None}
    fast = {"service": {"mean": 2, "p50": 9, "p99": 10}, "queue_wait": {"p50": 1, "p99": 2}}

    found = figures_of_result(a_result(response=response, slip=response, stages=[slow, fast]))

    assert found == {
        **{"throughput": 100.0, "response.p50": 1, "response.p90": 2, "response.p99": 3},
        **{"response.p999": 4, "response.max": 5, "response.mean": 6, "service": 9},
        **{"service.p50": 9, "service.p99": 30, "queue_wait.p50": 1, "queue_wait.p99": 2},
        **{"cpu_per_event": 50, "rss_peak": 2**20, "slip.p99": 3, "loop_lag.p99": 7},
        **{"dead_letters": 0},
    }


def test_a_fact_has_the_same_figures_by_the_same_names() -> None:
    response = {"p50": 1, "p90": 2, "p99": 3, "p999": 4, "max": 5, "mean": 6}
    result = a_result(
        throughput=50.0,
        response=response,
        stages=[{"service": {"mean": 7}}],
        counts={"read": 10, "dead_lettered": 1},
        resources={"cpu_ns": 200, "rss_peak": 4096},
    )

    assert figures_of_fact(a_fact(response=response)) == figures_of_result(result)


@pytest.mark.parametrize(
    "nonsense", ["fast", None, [], {}, True, float("nan"), float("inf"), 1e308, 10**400]
)
def test_what_is_no_number_is_no_figure(nonsense: Any) -> None:
    result = a_result(throughput=nonsense, resources=nonsense, response=nonsense, stages=nonsense)

    assert figures_of_result(result) == {"dead_letters": 0}


# --- sets


def test_each_result_is_a_run() -> None:
    runs = run_set("before", [("a.json", a_result()), ("b.json", a_result(throughput=7.0))])

    assert [(each.source, each.trial) for each in runs.runs] == [("a.json", None), ("b.json", None)]
    assert [each.figures["throughput"] for each in runs.runs] == [100.0, 7.0]


def test_repeats_count_as_all_of_their_trials() -> None:
    repeats = an_experiment("repeat", a_fact(), a_fact(throughput=60.0))

    runs = run_set("before", [("r.json", repeats)])

    assert [(each.source, each.trial) for each in runs.runs] == [("r.json", 1), ("r.json", 2)]
    assert [each.figures["throughput"] for each in runs.runs] == [50.0, 60.0]


@pytest.mark.parametrize("kind", ["sweep", "search"])
def test_a_sweep_and_a_search_are_refused(kind: str) -> None:
    with pytest.raises(NotComparable, match=rf"x\.json is a {kind}.*compare single runs"):
        run_set("before", [("x.json", an_experiment(kind, a_fact()))])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"exit_code": 7, "verdict": "invalid", "invalid": ["it was late"]},
            "invalid: it was late",
        ),
        ({"exit_code": 7, "verdict": "invalid"}, "invalid: the generator could not keep up"),
        ({"exit_code": 5, "verdict": "fail"}, "a promise or an invariant was broken"),
        ({"exit_code": 130}, "it was interrupted"),
        ({"exit_code": 3}, "it did not come to a good end (exit code 3)"),
        ({"exit_code": "0"}, "it has no exit code"),
    ],
)
def test_what_did_not_come_to_a_good_end_is_left_out(changes: dict[str, Any], why: str) -> None:
    bad = a_result(**changes)
    bad_fact = a_fact(**changes)

    runs = run_set(
        "x",
        [("good", a_result()), ("bad", bad), ("r", an_experiment("repeat", bad_fact, a_fact()))],
    )

    assert [(each.source, each.trial, each.why) for each in runs.left_out] == [
        ("bad", None, why),
        ("r", 1, why),
    ]
    assert [each.source for each in runs.runs] == ["good", "r"]


def test_a_run_that_stopped_early_is_left_out() -> None:
    runs = run_set("x", [("a", a_result()), ("b", a_result(exit_code=4, unfinished=1200))])

    assert [each.why for each in runs.left_out] == [
        "it stopped early, with 1,200 events unfinished"
    ]


@pytest.mark.parametrize("code", [0, 4, 6])
def test_dead_letters_and_conditions_make_no_measurement_worthless(code: int) -> None:
    assert len(run_set("x", [("a", a_result(exit_code=code))]).runs) == 1


def test_a_set_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(NotComparable, match=r"x: no run is left .*\(it was interrupted\)"):
        run_set("x", [("a", a_result(exit_code=130)), ("b", a_result(exit_code=130))])
    with pytest.raises(NotComparable, match="there are no runs in it"):
        run_set("x", [])


def test_a_set_has_an_end() -> None:
    with pytest.raises(NotComparable, match="more than 1,000 runs"):
        run_set("x", [("r", an_experiment("repeat", *[a_fact()] * (MOST_RUNS + 1)))])


def test_runs_that_were_not_steady_are_counted() -> None:
    drifting = a_result(steady={"steady": False, "backlog_slope": 3.0})
    unknown = a_result(steady={"steady": False, "backlog_slope": None})
    repeats = an_experiment("repeat", a_fact(steady=False), a_fact())

    assert run_set("x", [("a", drifting), ("b", unknown), ("r", repeats)]).unsteady == 2


# --- work


def test_a_set_tells_in_what_its_own_runs_differ() -> None:
    runs = run_set("x", [("a", a_result()), ("b", a_result(ordering__order="none"))])

    assert runs.differences == (Difference("--order", "key", "none"),)


_RUN = ["millstream", "run", "--order", "none", "--quiet", "dir/h.py:charge", "events.jsonl"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"command": "replay"}, "command"),
        ({"inputs": ["others.jsonl"]}, "inputs"),
        ({"counts__read": 99}, "events read"),
        ({"bytes_read": 99}, "bytes read"),
        ({"ordering__order": "none"}, "--order"),
        ({"stages": []}, "stages"),
        ({"options": {"rate": 5.0}}, "--rate"),
        ({"options": {"emit": "input"}}, "--emit"),
        ({"options": {"inject": ["error:5%"]}}, "--inject"),
        ({"options": {"checkpoint": "c.db"}}, "--checkpoint"),
        ({"options": {"record": "r.parquet"}}, "--record"),
        ({"options": {"output": "out.jsonl.zst"}}, "--output"),
        ({"options": {"of-the-future": 3}}, "--of-the-future"),
        ({"host__cpus": 4}, "host cpus"),
        ({"host__python": "3.13.0"}, "host python"),
    ],
)
def test_work_that_differs_is_found(changes: dict[str, Any], what: str) -> None:
    base, candidate = work_of(a_result()), work_of(a_result(**changes))

    assert what in [each.what for each in differences(base, candidate)]


@pytest.mark.parametrize(
    "options",
    [
        {"result": "r.json", "name": "n", "quiet": True, "seed": 3, "fail-if": ["read > 1"]},
        {"dead-letter": "d.jsonl", "objective": ["throughput > 5/s"], "runs": "", "hdr": "h.hgrm"},
        {"report": "r.html", "junit": "j.xml", "live": True, "metrics": "localhost:1"},
        {"emit": "completion", "executor": "auto", "workers": None, "retry-on": [], "speed": 1.0},
    ],
)
def test_what_is_no_work_or_as_usual_makes_no_difference(options: dict[str, Any]) -> None:
    assert work_of(a_result(options=options)) == work_of(a_result())


def test_folders_of_handlers_and_inputs_make_no_difference() -> None:
    options = {"order": "none", "quiet": True}
    here = a_result(argv=_RUN, options=options, inputs=["events.jsonl"])
    argv = [*_RUN[:2], "else/where/h.py:charge", "x/events.jsonl", "--quiet", "--order=none"]
    there = a_result(argv=argv, options=options, inputs=["x/events.jsonl"])

    assert work_of(here)["handler"] == "h.py:charge"
    assert work_of(there) == work_of(here)


def test_another_handler_is_other_work() -> None:
    other = [*_RUN[:5], "h.py:refund", "events.jsonl"]
    options = {"quiet": True}

    base, candidate = (work_of(a_result(argv=argv, options=options)) for argv in (_RUN, other))

    assert differences(base, candidate) == [Difference("handler", "h.py:charge", "h.py:refund")]


def test_what_an_older_result_does_not_say_makes_no_difference() -> None:
    newer = work_of(a_result(argv=_RUN, options={"quiet": True}, host__event_loop="uvloop 1"))

    assert newer["handler"] == "h.py:charge"
    assert differences(newer, work_of(a_result())) == []
    assert differences(work_of(a_result()), newer) == []


def test_a_benchmark_is_its_scenario_its_settings_and_its_load() -> None:
    def bench(**changes: Any) -> dict[str, Any]:
        load = {"open": True, "arrivals": "poisson", "rate": 50.0, "warmup_ns": 10**9}
        scenario = {"name": "cpu", "settings": {"rounds": 100}}
        options = {"duration": "1500ms", "rate": 50.0, "arrivals": "poisson", "set": []}
        made = a_result(command="bench", scenario=scenario, load=load, options=options)
        for path, value in changes.items():
            first, last = path.split("__")
            made[first][last] = value
        return made

    work = work_of(bench())

    assert work["load"] == "poisson at 50/s"
    assert (work["scenario"], work["--set rounds"]) == ("cpu", "100")
    assert work_of(bench(options__duration="1.5s")) == work
    assert work_of(bench(options__rate=None, options__closed=True)) == work
    for change in ({"load__rate": 60.0}, {"load__open": False}, {"options__duration": "2s"}):
        assert differences(work, work_of(bench(**change)))
    assert differences(work, work_of(bench(scenario__settings={"rounds": 200}))) == [
        Difference("--set rounds", "100", "200")
    ]


@pytest.mark.parametrize("nonsense", [None, "text", -5, [], {"name": {"deep": []}}])
def test_odd_result_files_are_read_as_far_as_they_go(nonsense: Any) -> None:
    odd = a_result(options=nonsense, host=nonsense, stages=nonsense, argv=nonsense)
    odd |= {"inputs": nonsense, "scenario": nonsense, "load": nonsense}

    odd |= {"counts": nonsense, "resources": nonsense, "invalid": nonsense, "unfinished": nonsense}

    for command in ("run", "bench"):
        (run,) = run_set("x", [("odd", {**odd, "command": command})]).runs
        assert run.figures["throughput"] == 100
