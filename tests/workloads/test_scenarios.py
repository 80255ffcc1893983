"""What every scenario keeps: its stream follows from the seed, its oracle agrees with the run."""

from __future__ import annotations

import hashlib
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millstream.engine.order import Order
from millstream.workloads.registry import SCENARIOS, scenario_class
from millstream.workloads.scenario import Scenario, stream
from tests.support.scenarios import broken, run_scenario

EVENTS = int(os.environ.get("MILLSTREAM_SCENARIO_EVENTS", "20000"))
# Where events wait for something one after another, under some orders, they are few and wait less.
EVENTS_OF = {"io": 2_000}
SETTINGS_OF: dict[str, dict[str, Any]] = {"io": {"latency": 1.0}}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two workers": {"executor": "process", "workers": 2},
    "errors": {"inject": ("error:1%",), "attempts": 10, "backoff": "1ms..1ms"},
    "duplicates": {"inject": ("duplicate:1%",)},
    "a killed worker": {"executor": "process", "workers": 2, "inject": ("kill-worker@200ms",)},
}
BY_NAME = {name: scenario_class(name) for name in SCENARIOS}
MODES = [(name, order) for name, found in BY_NAME.items() for order in found.orders]


def digest(scenario: Scenario, events: int = 2000) -> str:
    return hashlib.sha256(b"\n".join(stream(scenario, events))).hexdigest()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    made = BY_NAME[name]

    assert digest(made({}, 7)) == digest(made({}, 7)) != digest(made({}, 8))


@pytest.mark.parametrize("name", SCENARIOS)
def test_events_are_objects_on_a_line_with_a_key(name: str) -> None:
    for line in islice(BY_NAME[name]({}, 1).lines(), 500):
        event = msgspec.json.decode(line)

        assert b"\n" not in line
        assert event.get("partitionkey", event.get("key")) is not None


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_told_of_it_is_whole(name: str) -> None:
    made = BY_NAME[name]

    assert made.name == name
    assert made.summary.endswith(".") and made.description.endswith(".")
    assert made.promises and all(promise.text.endswith(".") for promise in made.promises)
    assert all(re.fullmatch("[a-z][a-z-]*", each.name) for each in made.parameters)
    assert all(each.help.endswith(".") for each in made.parameters)
    assert all(each.checked(each.default) == each.default for each in made.parameters)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "order"), MODES)
def test_the_oracle_agrees_with_the_run(tmp_path: Path, name: str, order: Order, way: str) -> None:
    scenario = BY_NAME[name](SETTINGS_OF.get(name, {}), 1)
    if not scenario.bears(WAYS[way].get("inject", ())):
        pytest.skip("its promises do not survive that, as it says")

    events = EVENTS_OF.get(name, EVENTS)
    result, invariants = run_scenario(tmp_path, scenario, events, order=order, **WAYS[way])

    assert result.exit_code == 0, result.notes
    assert broken(invariants) == {}
    assert [each.name for each in invariants] == [each.name for each in scenario.promises]
