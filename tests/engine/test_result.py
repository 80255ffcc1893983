"""The result: every run writes one that its JSON Schema accepts, whole or not at all."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from millstream.engine import Event, RunResult, stage
from millstream.engine.result import SCHEMA_FILE, read_result
from tests.support.running import numbered, run_over

ROOT = Path(__file__).parents[2]
VALIDATOR = Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))

CONTRACT = {
    "schema", "command", "name", "version", "started_at", "options", "seed", "host", "exit_code",
    "verdict", "counts", "duration_ns", "throughput", "bytes_read", "response", "slip", "stages",
    "ordering", "delivery", "resources", "series", "conditions", "invariants",
}  # fmt: skip
"""The keys that scripts rely on."""


def same(event: Event) -> Event:
    return event


async def later(event: Event) -> Event:
    return event


def fail(event: Event) -> Event:
    raise ValueError(f"no {event.id}")


def ran(folder: Path, handler: Any = same, **options: Any) -> RunResult:
    return run_over(folder, handler, numbered(6, ("a", None)), **options).result


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The data of a run with a schedule and a condition."""
    result = ran(tmp_path_factory.mktemp("run"), rate=1e6, fail_if=("dead_letters > 1",))
    data: dict[str, Any] = json.loads(result.to_json())
    return data


def test_the_schema_is_one_and_comes_with_the_package() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)

    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "*.json" in setup["package-data"]["millstream.engine"]
    assert SCHEMA_FILE.parent.name == "engine"


def test_the_schema_asks_for_what_the_contract_names() -> None:
    assert set(VALIDATOR.schema["required"]) == CONTRACT


@pytest.mark.parametrize(
    ("handler", "options", "code"),
    [
        (same, {}, 0),
        (same, {"order": "none"}, 0),
        (same, {"order": "global", "emit": "input"}, 0),
        (same, {"limit": 1, "name": "mine"}, 0),
        (same, {"rate": 1e5}, 0),
        (same, {"pace": "time"}, 0),
        (stage(same, batch=4), {}, 0),
        (later, {"concurrency": 3}, 0),
        (fail, {}, 4),
        (same, {"inject": ("drop:100%", "error:key=nobody"), "dedupe": True}, 5),
        (stage(same, executor="process", workers=1), {"rate": 1e6}, 0),
        (stage(fail, executor="process", workers=1), {}, 4),
        ([same, later, stage(same, name="same")], {"fail_if": ("read > 1", "throughput < 1")}, 6),
    ],
)
def test_every_run_writes_what_the_schema_accepts(
    tmp_path: Path, handler: Any, options: dict[str, Any], code: int
) -> None:
    ran(tmp_path, handler, result=str(tmp_path / "r.json"), **options)

    data = json.loads((tmp_path / "r.json").read_bytes())
    errors = [f"{list(each.path)}: {each.message}" for each in VALIDATOR.iter_errors(data)]
    assert errors == []
    assert data["exit_code"] == code
    assert (data["response"] is not None) == ("rate" in options or "pace" in options)


def test_no_events_make_a_result_too(tmp_path: Path) -> None:
    result = run_over(tmp_path, same, b"").result

    VALIDATOR.validate(json.loads(result.to_json()))
    assert result.counts["read"] == 0


def test_more_keys_may_stand_beside(good: dict[str, Any]) -> None:
    more = copy.deepcopy(good)
    more["extra"] = more["counts"]["extra"] = more["stages"][0]["extra"] = {"any": "thing"}

    assert VALIDATOR.is_valid(more)


def without(*path: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        del data[path[-1]]

    return change


def having(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize("key", sorted(CONTRACT))
def test_no_key_of_the_contract_may_be_missing(good: dict[str, Any], key: str) -> None:
    assert not VALIDATOR.is_valid({name: good[name] for name in good if name != key})


@pytest.mark.parametrize(
    "change",
    [
        having("millstream.result/2", "schema"),
        having("replay?", "command"),
        having("yesterday", "started_at"),
        having(1, "exit_code"),
        having("good", "verdict"),
        having(-1, "counts", "read"),
        having(1.5, "counts", "read"),
        without("counts", "dead_lettered"),
        having(1.5, "duration_ns"),
        having("fast", "throughput"),
        having({}, "response"),
        without("response", "p999"),
        having(1.5, "slip", "p50"),
        having("threads", "stages", 0, "executor"),
        having(0, "stages", 0, "workers"),
        without("stages", 0, "service"),
        having("lifo", "ordering", "order"),
        without("ordering", "audit"),
        without("delivery", "lost"),
        without("resources", "rss_peak"),
        without("series", "backlog"),
        having(["x"], "series", "rss"),
        without("conditions", 0, "held"),
        having("yes", "conditions", 0, "held"),
        having([{"name": "x"}], "invariants"),
    ],
)
def test_what_is_no_result_is_refused(good: dict[str, Any], change: Callable[[Any], None]) -> None:
    wrong = copy.deepcopy(good)

    change(wrong)

    assert VALIDATOR.is_valid(good)
    assert not VALIDATOR.is_valid(wrong)


# --- the object, and its file


def test_what_scripts_need_most_stands_on_the_result(tmp_path: Path) -> None:
    result = ran(tmp_path)

    assert (result.exit_code, result.verdict) == (0, "pass")
    assert result.counts == result["counts"]
    assert (result.counts["read"], result.counts["handled"]) == (6, 6)
    assert result.throughput == pytest.approx(6e9 / result.duration_ns)
    assert "read=6" in repr(result)


def test_a_result_comes_back_from_its_file(tmp_path: Path, good: dict[str, Any]) -> None:
    path = tmp_path / "r.json"

    RunResult(good).write(str(path))

    assert read_result(str(path)).data == good
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]


def test_a_result_that_can_not_be_put_in_place_leaves_nothing(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    (tmp_path / "r.json").mkdir()

    with pytest.raises(OSError, match=r"r\.json"):
        RunResult(good).write(str(tmp_path / "r.json"))

    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "change",
    [
        without("unattributed"),
        without("faults", 0, "violations"),
        having(-1, "faults", 0, "fired"),
        having([[1]], "faults", 0, "windows"),
        having("", "faults", 0, "text"),
    ],
)
def test_what_is_no_account_of_faults_is_refused(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    wrong = json.loads(ran(tmp_path, inject=("drop:100%",)).to_json())
    assert VALIDATOR.is_valid(wrong)

    change(wrong)

    assert not VALIDATOR.is_valid(wrong)


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": "millstream.audit/1"}'])
def test_another_file_is_no_result(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)

    with pytest.raises(
        ValueError, match=r"is no result file: its schema is not millstream.result/1"
    ):
        read_result(str(path))
