"""Orders over PostgreSQL: the promises hold, nothing stays on the server, no secret gets out."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from millstream.engine.event import Event
from millstream.workloads.orders import Orders, apply
from millstream.workloads.orders_postgres import (
    PostgresBeside,
    PostgresStore,
    StoreLost,
    Target,
    open_postgres,
    schema_of,
)
from millstream.workloads.orders_store import DATABASE, View
from millstream.workloads.scenario import ScenarioError
from tests.support.postgres import PASSWORD, USER, binaries, postgres_server
from tests.support.scenarios import broken, run_scenario

pytestmark = pytest.mark.xdist_group("postgres")  # one server for all of them

EVENTS = 3000
FEW_OPEN = {"open": 50, "repeats": 0.05}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two workers": {"executor": "process", "workers": 2},
    "errors": {"inject": ("error:1%",), "attempts": 10, "backoff": "1ms..1ms"},
    "duplicates": {"inject": ("duplicate:1%",)},
    "killed workers": {
        "executor": "process",
        "workers": 2,
        "inject": ("kill-worker@200ms", "kill-worker@400ms"),
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    programs = binaries()
    if programs is None:
        pytest.skip("there are no programs of a PostgreSQL server here (postgres, initdb)")
    with postgres_server(programs) as url:
        yield url


@pytest.fixture
def target(server: str, tmp_path: Path) -> Iterator[Target]:
    with PostgresBeside(tmp_path, Target(server), 3, 1000):
        yield Target(server, schema_of(tmp_path))


def schemas(url: str) -> list[str]:
    with closing(psycopg.connect(url)) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mill%'")
        return [name for (name,) in found]


def placed(order: int) -> Event:
    data = {"order": order, "step": 0, "delivery": 1, "total": 100, "lines": [[0, 1, 100]]}
    return Event.new(data, key=f"o{order}", id=f"o{order}-0", type="order.place")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", Orders.orders)
def test_the_oracle_agrees_with_the_run(server: str, tmp_path: Path, order: str, way: str) -> None:
    scenario = Orders({**FEW_OPEN, "store": server})

    result, invariants = run_scenario(tmp_path, scenario, EVENTS, order=order, **WAYS[way])

    assert result.exit_code == 0, result.notes
    assert broken(invariants) == {}
    assert schemas(server) == []


def test_the_oracle_agrees_where_stock_is_short(server: str, tmp_path: Path) -> None:
    scenario = Orders({**FEW_OPEN, "store": server, "stock": 20, "items": 20})

    _, invariants = run_scenario(tmp_path, scenario, EVENTS, executor="process", workers=2)

    assert broken(invariants) == {}
    with closing(sqlite3.connect(tmp_path / "scenario" / DATABASE)) as database:
        query = "SELECT count(*) FROM orders WHERE status = 'short'"
        assert database.execute(query).fetchone()[0] > 20


def test_what_a_run_that_was_killed_has_left_is_dropped_by_the_next(
    server: str, tmp_path: Path
) -> None:
    PostgresBeside(tmp_path, Target(server), 3, 10).__enter__()
    (left,) = schemas(server)

    with PostgresBeside(tmp_path, Target(server), 3, 10):
        assert schemas(server) == [schema_of(tmp_path)] != [left]

    assert schemas(server) == []


def test_a_run_that_breaks_off_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(KeyError), PostgresBeside(tmp_path, Target(server), 3, 10):
        raise KeyError

    assert schemas(server) == []


def test_an_event_that_a_dead_workers_transaction_commits_late_is_not_applied_again(
    server: str, target: Target
) -> None:
    late = psycopg.connect(server)
    late.execute(f"INSERT INTO {target.schema}.applied VALUES (7, 0, 'done', 'placed', 0, 1)")
    with closing(late), closing(open_postgres(target)) as store, ThreadPoolExecutor(1) as thread:
        answers = thread.submit(apply, [placed(7)], store)
        wait_until_blocked(server)

        late.commit()

        assert [each and each["outcome"] for each in answers.result()] == ["done"]
        view = store.transact([(7, 0)], lambda view: [], lambda view: None)
        assert view.orders == {}


def wait_until_blocked(url: str) -> None:
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        while connection.execute(blocked).fetchone() != (1,):
            time.sleep(0.01)


def test_transactions_that_need_the_same_items_do_not_lock_each_other_out(target: Target) -> None:
    def add(store: PostgresStore, items: list[int]) -> None:
        def work(view: View) -> None:
            for item in view.items.values():
                item.left -= 1
                item.reserved += 1

        for _ in range(100):
            store.transact([], lambda view: items, work)

    stores = [open_postgres(target) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(add, stores, [[0, 1, 2], [2, 1, 0], [1, 0], [2, 0]]):
            pass

    view = stores[0].transact([], lambda view: [0, 1, 2], lambda view: None)
    for store in stores:
        store.close()
    assert [item.left for item in view.items.values()] == [600, 700, 700]


def test_a_connection_that_broke_is_made_again_at_the_next_attempt(
    server: str, target: Target
) -> None:
    with closing(open_postgres(target)) as store:
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'millstream'"
            )
        with pytest.raises(StoreLost) as lost:
            apply([placed(1)], store)

        assert USER not in str(lost.value)
        assert apply([placed(1)], store)[0] is not None


def test_what_can_not_be_reached_is_named_without_secrets(server: str, tmp_path: Path) -> None:
    folder = server.partition("host=")[2]
    for url, part in {
        f"postgresql://{USER}:sesame-shut@/postgres?host={folder}": "authentication failed",
        f"postgresql://{USER}:sesame-shut@/shop?host={folder}": "authentication failed",
        server.replace("/postgres?", "/sh0p?"): "does not exist",
        f"postgresql://{USER}:sesame-shut@/postgres?host={tmp_path}": "No such file",
        f"postgresql://{USER}:sesame%shut@host/shop": "can't be understood",
        f"postgresql://{USER}:sesame-shut@host/shop?wrong-{PASSWORD}": "can't be understood",
    }.items():
        with (
            pytest.raises(ScenarioError, match=part) as refusal,
            Orders({"store": url}).running(tmp_path),
        ):
            pass

        said = str(refusal.value)
        assert not any(secret in said for secret in (USER, PASSWORD, "sesame", url))


def test_a_url_does_not_stay_in_what_is_shown(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Orders({"store": server})
    with scenario.running(tmp_path):
        pipeline = scenario.pipeline(tmp_path)
    shown = f"{scenario.settings} {vars(scenario)} {pipeline} {pipeline.stages}"

    assert scenario.settings["store"] == "postgresql"
    assert PASSWORD not in shown and USER not in shown


def test_the_environment_may_say_where_the_server_is(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", server.partition("host=")[2])
    monkeypatch.setenv("PGUSER", USER)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("PGDATABASE", "postgres")

    _, invariants = run_scenario(tmp_path, Orders({"store": "postgresql", "open": 5}), 50)

    assert broken(invariants) == {}


def test_without_psycopg_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(ScenarioError, match=r"millstream\[scenarios\]"):
        Orders({"store": "postgresql://host/shop"}).running(tmp_path)


def test_nothing_of_psycopg_is_imported_for_sqlite() -> None:
    script = (
        "import sys, millstream.workloads.orders\n"
        "sys.exit(any(name in sys.modules for name in ('psycopg', 'aiohttp', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)

    assert done.returncode == 0
