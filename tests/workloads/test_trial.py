"""One trial, on a clock of its own: what its result says of the load, and by interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from millstream.engine import RunOptions
from millstream.engine.histogram import Histogram
from millstream.engine.load import Load
from millstream.engine.observer import Silent
from millstream.workloads.options import BenchPlan
from millstream.workloads.trial import Trial, run_trial, series_of
from tests.support.virtual import run_virtually
from tests.workloads.test_known_answers import Waiting, local, plan

MS = 1_000_000
NS = 1_000_000_000


def offered(asked: BenchPlan, times: Callable[[int], float], concurrency: int = 1) -> Trial:
    """A trial that keeps its windows."""
    scenario = Waiting(times, concurrency)

    def make_load(plan: BenchPlan) -> Load:
        return local(plan, scenario)

    def trial() -> Any:
        return run_trial(
            asked, Silent(), make_load=make_load, scenario=scenario, keeps_windows=True
        )

    return run_virtually(trial)


def with_options(asked: BenchPlan, **options: Any) -> BenchPlan:
    return msgspec.structs.replace(asked, options=RunOptions(order="none", **options))


def together(trial: Trial) -> Histogram:
    whole = Histogram()
    for window in trial.windows:
        whole.restore(window.response)
    return whole


@pytest.mark.parametrize("warmup_ns", [0, 400 * MS, 500 * MS])
def test_the_windows_together_are_the_whole_without_its_warm_up(warmup_ns: int) -> None:
    """The last ones end between two points of the series, and some are slow to end."""
    made = offered(
        plan("constant", 100, events=110, warmup_ns=warmup_ns),
        lambda n: 0.3 if n >= 100 else 0.001,
        concurrency=20,
    )

    assert together(made).counts() == made.response.counts()
    assert made.response.count == made.result["response"]["count"] == 110 - warmup_ns // 10**7
    starts = [window.start_ns for window in made.windows]
    assert starts == sorted(set(starts))
    assert all(
        window.start_ns + window.length_ns == after
        for window, after in zip(made.windows, starts[1:], strict=False)
    )


def test_a_condition_on_the_throughput_is_asked_of_what_the_result_has() -> None:
    """In the warm-up each event takes ten times as long."""
    asked = plan("closed", None, events=300, warmup_ns=NS)

    made = offered(
        with_options(asked, fail_if=("throughput < 50",)), lambda n: 0.1 if n < 10 else 0.01
    )

    (condition,) = made.result["conditions"]
    assert made.result["throughput"] == pytest.approx(100, rel=0.02)
    assert condition["observed"] == made.result["throughput"]
    assert (condition["held"], made.result["exit_code"]) == (False, 0)


def test_the_course_of_a_trial_is_that_of_its_load_after_the_warm_up() -> None:
    made = offered(plan("constant", 100, events=300, warmup_ns=NS), lambda n: 0.001)

    course = series_of(made.result.data)

    assert course.start_ns == NS
    assert course.ends_ns[-1] <= 3 * NS
    assert set(course.offered) == {25}
    assert set(course.done) <= {24, 25, 26}
    assert max(course.backlog) <= 1


def test_a_load_far_beyond_what_is_borne_is_given_up() -> None:
    asked = plan("constant", 1000, duration_ns=60 * NS)

    made = offered(msgspec.structs.replace(asked, gives_up_after_s=1.0), lambda n: 0.01)

    load = made.result["load"]
    assert load["gave_up"]
    assert 2000 < load["released"] < 10_000, "2 s of events wait, and some more until it is seen"
    assert made.verdict == "fail"
    assert made.result["counts"]["read"] == load["released"] == load["taken"]
