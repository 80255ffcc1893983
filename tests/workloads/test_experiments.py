"""Experiments of many trials: which trials are made, in which order, and what is kept of each.

The trials are made up: no load, no clock.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.engine.histogram import Histogram
from millstream.engine.plan import PlanError, RunOptions
from millstream.engine.result import RunResult
from millstream.workloads.experiments import (
    GIVES_UP_AFTER_S,
    MOST_RATE,
    SEARCH_SHARE,
    Fact,
    HottestKey,
    at_rate,
    fact_of,
    find_max,
    hottest_key,
    parse_sweep,
    repeated,
    sweep,
    swept,
    without_schedule,
)
from millstream.workloads.options import BenchPlan
from millstream.workloads.trial import Trial, without_credentials
from millstream.workloads.verdict import TrialVerdict

NS = 1_000_000_000


def plan(**changes: Any) -> BenchPlan:
    options = {**{"order": "key"}, **changes.pop("options", {})}
    given: dict[str, Any] = {
        **{"scenario": "passthrough", "settings": {"keys": 7}, "seed": 1, "arrivals": "closed"},
        **{"rate": None, "events": 1000, "duration_ns": None, "warmup_ns": 0},
    }
    return BenchPlan(**{**given, **changes}, options=RunOptions(**options))


def trial(verdict: TrialVerdict = "pass", **changes: Any) -> Trial:
    """What is left of one."""
    data: dict[str, Any] = {
        "exit_code": 0,
        "throughput": 100.0,
        "load": {"offered": 110.0},
        "response": {"p50": 1, "p99": 2},
        "stages": [{"service": {"mean": 30}}, {"service": None}, {"service": {"mean": 12}}],
        "steady": {"steady": True},
        "ordering": {"violations": 0},
        "invalid": [],
        "counts": {"read": 1000, "dead_lettered": 3},
        "resources": {"cpu_ns": 7_000, "rss_peak": 8_000},
    }
    return Trial(RunResult(data | changes), verdict, Histogram(), [])


class Lab:
    """Makes trials up, and notes what was asked for and told."""

    def __init__(self, answer: Callable[[BenchPlan], Trial] = lambda plan: trial()) -> None:
        self._answer = answer
        self.asked: list[BenchPlan] = []
        self.made: list[Trial] = []
        self.told: list[Fact] = []

    def make(self, plan: BenchPlan) -> Trial:
        self.asked.append(plan)
        self.made.append(self._answer(plan))
        return self.made[-1]

    @property
    def rates(self) -> list[float | None]:
        return [each.rate for each in self.asked]


def interrupted_at(number: int) -> Callable[[BenchPlan], Trial]:
    """Trials of which one is interrupted."""
    made = 0

    def answer(plan: BenchPlan) -> Trial:
        nonlocal made
        made += 1
        return trial("fail", exit_code=130) if made == number else trial()

    return answer


# --- repeats


def test_a_fact_is_what_its_trial_came_to() -> None:
    made = trial("invalid", exit_code=7, invalid=["late"], ordering={"violations": 2})

    assert fact_of(made, "5", 3) == Fact(
        value="5",
        repeat=3,
        verdict="invalid",
        throughput=100.0,
        offered=110.0,
        response={"p50": 1, "p99": 2},
        service_ns=42,
        steady=True,
        violations=2,
        exit_code=7,
        invalid=["late"],
        read=1000,
        dead_lettered=3,
        cpu_ns=7_000,
        rss_peak=8_000,
    )


def test_repeats_are_in_turn() -> None:
    lab = Lab()
    plans = [("A", plan(seed=1)), ("B", plan(seed=2)), ("C", plan(seed=3))]

    facts, trials = repeated(plans, 2, lab.make, lab.told.append)

    assert [fact.value for fact in facts] == ["A", "B", "C", "A", "B", "C"]
    assert [fact.repeat for fact in facts] == [0, 0, 0, 1, 1, 1]
    assert [each.seed for each in lab.asked] == [1, 2, 3, 1, 2, 3]
    assert (facts, trials) == (lab.told, lab.made)


def test_an_interrupt_ends_the_repeats() -> None:
    lab = Lab(interrupted_at(3))

    facts, trials = repeated([("A", plan()), ("B", plan())], 5, lab.make, lab.told.append)

    assert [fact.exit_code for fact in facts] == [0, 0, 130]
    assert len(trials) == len(lab.asked) == len(lab.told) == 3


# --- sweeps


def test_a_sweep_makes_a_trial_for_each_value_in_turn() -> None:
    lab = Lab()

    found, trials = sweep(plan(), "keys=1,20,3", 2, lab.make, lab.told.append)

    assert (found.kind, found.parameter, found.hottest_key) == ("sweep", "keys", None)
    assert [each.settings["keys"] for each in lab.asked] == [1, 20, 3, 1, 20, 3]
    assert [fact.value for fact in found.facts] == ["1", "20", "3"] * 2
    assert trials == lab.made


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("keys=1,2", "keys", ["1", "2"]),
        ("payload= 5 , 6 ,", "payload", ["5", "6"]),
        ("rate=100,2.5,1e3", "rate", ["100", "2.5", "1e3"]),
        ("workers=1,2,4", "workers", ["1", "2", "4"]),
        ("concurrency=10", "concurrency", ["10"]),
        ("order=none,global", "order", ["none", "global"]),
        ("order=all", "order", ["key", "none", "partition", "global"]),
    ],
)
def test_what_is_swept(text: str, name: str, values: list[str]) -> None:
    assert parse_sweep(plan(), text) == (name, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--sweep is ''; write it like workers=1,2,4"),
        ("workers", "--sweep is 'workers'; write it like workers=1,2,4"),
        ("workers=", "write it like workers=1,2,4"),
        ("workers=,,", "write it like workers=1,2,4"),
        (
            "wrkers=1",
            "it can sweep workers, concurrency, rate, order, keys, payload, batch, not 'wrkers'",
        ),
        ("keys=1,2,1", "a value stands there twice; repeat trials by --repeat"),
        ("workers=0", "--sweep workers=0: give it a whole number above 0"),
        ("workers=1,-2", "--sweep workers=-2: give it a whole number above 0"),
        ("workers=1.5", "--sweep workers=1.5: give it a whole number above 0"),
        ("concurrency=x", "--sweep concurrency=x: give it a whole number above 0"),
        ("rate=x", "--sweep rate=x: give it a number above 0"),
        ("rate=0", "--sweep rate=0: give it a number above 0"),
        ("rate=nan", "--sweep rate=nan: give it a number above 0"),
        ("rate=inf", "--sweep rate=inf: give it a number above 0"),
        ("rate=1e999", "--sweep rate=1e999: give it a number above 0"),
        ("order=sorted", "--sweep order=sorted: the scenario passthrough keeps its promises under"),
        ("order=all,none", "--sweep order=all: the scenario passthrough keeps its promises under"),
        ("keys=x", "--sweep keys=x: give it a whole number"),
        ("keys=0", "--sweep keys=0: give it 1 or more"),
    ],
)
def test_what_can_not_be_swept_is_refused_before_any_trial(text: str, message: str) -> None:
    lab = Lab()

    with pytest.raises(PlanError) as error:
        sweep(plan(), text, 1, lab.make, lab.told.append)

    assert message in str(error.value)
    assert lab.asked == []


def test_workers_are_processes_unless_told_also_one() -> None:
    assert swept(plan(), "workers", "1").options.executor == "process"
    assert swept(plan(), "workers", "1").options.workers == 1
    told = swept(plan(options={"executor": "inline"}), "workers", "2")
    assert (told.options.executor, told.options.workers) == ("inline", 2)


def test_a_sweep_changes_nothing_but_its_parameter() -> None:
    before = plan(settings={"keys": 5, "payload": 9})

    assert swept(before, "keys", "1_000").settings == {"keys": 1000, "payload": 9}
    assert swept(before, "order", "none").options.order == "none"
    assert swept(before, "concurrency", "3").options.concurrency == 3
    assert before == plan(settings={"keys": 5, "payload": 9})


def test_orders_are_swept_with_the_hottest_key_beside() -> None:
    lab = Lab()

    found, _ = sweep(plan(), "order=all", 1, lab.make, lab.told.append)

    assert [each.options.order for each in lab.asked] == ["key", "none", "partition", "global"]
    assert found.hottest_key == hottest_key(plan())


def test_credentials_in_a_swept_address_are_in_no_fact(tmp_path: Path) -> None:
    file = scenario_file(tmp_path, "yield b'{}'", parameters="Parameter('store', 'memory', 'W.')")
    lab = Lab()

    found, _ = sweep(
        plan(scenario=file, settings={}),
        "store=redis://ann:secret@one/1,redis://two?password=secret",
        *(1, lab.make, lab.told.append),
    )

    assert [each.settings["store"] for each in lab.asked] == [
        "redis://ann:secret@one/1",
        "redis://two?password=secret",
    ]
    assert [fact.value for fact in found.facts] == ["redis://one/1", "redis://two"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("memory", "memory"),
        ("redis://host", "redis://host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host/0", "redis://host/0"),
        ("postgresql://ann:secret@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://ann:secret@host/db?sslmode=off&password=secret", "postgresql://host/db"),
        ("postgresql://host?user=ann&password=secret", "postgresql://host"),
        ("postgresql://ann:secret/secret@host/db", "postgresql://host/db"),
        ("postgresql://ann:secret?secret@host/db", "postgresql://host/db"),
        ("postgresql://ann:sec@secret@host/db", "postgresql://host/db"),
        ("sqlite:///file.db", "sqlite:///file.db"),
    ],
)
def test_an_address_is_shown_without_credentials(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


# --- the hottest key


def scenario_file(folder: Path, lines: str, parameters: str = "") -> str:
    """A scenario whose stream is what `lines` yields."""
    path = folder / "own.py"
    path.write_text(
        textwrap.dedent(f"""
            from millstream.engine import Pipeline, stage
            from millstream.workloads.scenario import Parameter, Scenario

            class Own(Scenario):
                name = "own"
                parameters = ({parameters or ""}{"," if parameters else ""})

                def lines(self):
                    {lines}

                def pipeline(self, folder):
                    return Pipeline(stage(print))

                def check(self, outcome):
                    return []
        """)
    )
    return str(path)


def hottest_of(folder: Path, keys: list[Any], **changes: Any) -> HottestKey | None:
    import json

    events = [json.dumps({} if key is None else {"key": key}).encode() for key in keys]
    file = scenario_file(folder, f"yield from {events!r}")
    return hottest_key(plan(scenario=file, settings={}, **changes))


def test_the_hottest_key_is_the_most_frequent(tmp_path: Path) -> None:
    assert hottest_of(tmp_path, ["a", "b", "b", "c", "b"]) == HottestKey("b", 3, 5)


def test_only_what_is_offered_counts(tmp_path: Path) -> None:
    keys = ["a", "a", "b", "b", "b"]

    assert hottest_of(tmp_path, keys, events=3) == HottestKey("a", 2, 3)
    assert hottest_of(tmp_path, keys, events=None) == HottestKey("b", 3, 5)


def test_events_without_a_key_wait_for_nobody(tmp_path: Path) -> None:
    assert hottest_of(tmp_path, [None, None, None, "a", 7, 7]) == HottestKey("7", 2, 6)
    (tmp_path / "none").mkdir()
    assert hottest_of(tmp_path / "none", [None, None]) is None


# --- at a rate


def test_a_trial_at_a_rate_is_short_and_gives_up() -> None:
    made = at_rate(plan(), 250.0)

    assert (made.arrivals, made.rate, made.events) == ("constant", 250.0, None)
    assert (made.duration_ns, made.warmup_ns) == (5 * NS, NS // 2)
    assert made.gives_up_after_s == GIVES_UP_AFTER_S


def test_a_trial_at_a_rate_keeps_what_was_asked_for() -> None:
    asked = plan(arrivals="poisson", rate=5.0, duration_ns=60 * NS, warmup_ns=7 * NS)

    made = at_rate(asked, 250.0)

    assert (made.arrivals, made.rate) == ("poisson", 250.0)
    assert (made.duration_ns, made.warmup_ns) == (60 * NS, 7 * NS)
    assert at_rate(plan(duration_ns=NS // 2), 1.0).warmup_ns == NS // 4, "half of it, at most"


# --- the search


def sustains(most: float, **more: Any) -> Callable[[BenchPlan], Trial]:
    """A system that bears so many events a second."""

    def answer(plan: BenchPlan) -> Trial:
        if plan.rate is None:
            return trial(throughput=most)
        return trial("pass" if plan.rate <= most else "fail", throughput=plan.rate, **more)

    return answer


def test_a_search_begins_at_a_share_of_what_it_can_without_a_schedule() -> None:
    lab = Lab(sustains(1000))

    found, best = find_max(plan(), 0.02, lab.make, lab.told.append)

    first, *others = lab.asked
    assert (first.arrivals, first.rate, first.objectives) == ("closed", None, ())
    assert others[0].rate == pytest.approx(SEARCH_SHARE * 1000)
    assert found.search is not None and found.search.best is not None
    assert 1000 / 1.02 <= found.search.best <= 1000
    assert found.said == found.search.words
    assert (found.kind, found.parameter) == ("search", "rate")
    assert best is not None and best.result["throughput"] == found.search.best


def test_the_estimate_of_a_search_lasts_longer_than_its_warm_up_however_fast_the_system() -> None:
    estimate = without_schedule(plan(events=1000))

    assert estimate.events is None
    assert estimate.duration_ns is not None and estimate.warmup_ns < estimate.duration_ns


def test_a_search_begins_at_the_rate_that_was_given() -> None:
    lab = Lab(sustains(1000))

    find_max(plan(rate=40.0, arrivals="constant"), 0.1, lab.make, lab.told.append)

    assert lab.rates[0] == 40.0
    assert None not in lab.rates


def test_a_search_has_a_fact_for_each_rate_and_none_for_its_estimate() -> None:
    lab = Lab(sustains(1000))

    found, _ = find_max(plan(), 0.1, lab.make, lab.told.append)

    assert found.facts == lab.told
    assert [fact.value for fact in found.facts] == [f"{rate:g}" for rate in lab.rates[1:]]  # type: ignore[str-format]  # those have one
    assert [fact.verdict for fact in found.facts] == [each.verdict for each in lab.made[1:]]
    assert [fact.repeat for fact in found.facts] == list(range(len(found.facts)))


def test_when_nothing_is_sustained_there_is_no_best_trial() -> None:
    lab = Lab(lambda plan: trial("fail"))

    found, best = find_max(plan(), 0.02, lab.make, lab.told.append)

    assert best is None
    assert found.search is not None and found.search.best is None
    assert found.said.startswith("no rate passed")


def test_an_invalid_trial_is_never_the_systems_limit() -> None:
    def answer(plan: BenchPlan) -> Trial:
        return trial("invalid" if (plan.rate or 0) > 500 else "pass", throughput=400.0)

    found, _ = find_max(plan(), 0.02, Lab(answer).make, lambda fact: None)

    assert found.search is not None
    assert found.search.limited_by == "invalid"
    assert "the generator could not keep up" in found.said


def test_an_interrupt_ends_the_search_with_what_is_known() -> None:
    lab = Lab(interrupted_at(3))

    found, best = find_max(plan(), 0.02, lab.make, lab.told.append)

    assert len(lab.asked) == 3
    assert [fact.exit_code for fact in found.facts] == [0, 130]
    assert best is lab.made[1]


def test_an_interrupt_of_the_estimate_ends_the_search() -> None:
    lab = Lab(interrupted_at(1))

    found, best = find_max(plan(), 0.02, lab.make, lab.told.append)

    assert len(lab.asked) == 1
    assert [fact.exit_code for fact in found.facts] == [130]
    assert (best, found.said) == (None, "nothing was tried")
    assert found.search is not None and found.search.best is None


@pytest.mark.parametrize(
    ("throughput", "first"), [(0.0, 1.0), (0.1, 1.0), (1e12, MOST_RATE), (float("inf"), MOST_RATE)]
)
def test_whatever_the_estimate_the_search_begins_within_its_bounds(
    throughput: float, first: float
) -> None:
    def answer(plan: BenchPlan) -> Trial:
        return trial(throughput=throughput) if plan.rate is None else trial("fail")

    lab = Lab(answer)
    find_max(plan(), 0.5, lab.make, lab.told.append)

    assert lab.rates[1] == first
