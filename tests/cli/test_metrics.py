"""`--metrics`: scraped while a run goes on; what its clients do, and where it listens."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from millstream.cli.metrics import MOST_CONNECTIONS, Address, Endpoint, parse_address
from millstream.engine.connectors.base import ConnectorError
from millstream.engine.plan import PlanError
from tests.cli.support import AWAITING, HANDLERS, Folder, Started, folder_with, numbered, wait_for
from tests.support.details import counts, details

READ = "messaging_client_consumed_messages_total"
SENT = "messaging_client_sent_messages_total"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "w.py": AWAITING, "in.jsonl": numbered(4)})


@contextmanager
def endpoint(text: str = "0") -> Iterator[Endpoint]:
    made = Endpoint(text)
    try:
        yield made
    finally:
        made.close()


def get(url: str, **headers: str) -> tuple[str, str]:
    """The body of an answer, and what kind it is."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as got:
        return got.read().decode(), got.headers["Content-Type"]


def scrape(url: str) -> dict[str, float]:
    """The sum of all series of each name."""
    found: dict[str, float] = {}
    for family in parse_plain(get(url)[0]):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def url_of(started: Started) -> str:
    """Where a command says that its endpoint is."""
    line = started.error_line("metrics at")
    found = re.search(r"metrics at (http://\S+)", line)
    assert found is not None
    return found[1]


def test_a_run_is_scraped_while_it_goes_on_and_says_what_its_result_says(folder: Folder) -> None:
    arguments = ("w.py:wait", "in.jsonl", "-o", "o.jsonl", "--metrics", "0", "--result", "r.json")
    with folder.start(*arguments) as started:
        url = url_of(started)
        wait_for(lambda: scrape(url).get("millstream_stage_handled_total") == 3, "3 handled")
        found = scrape(url)
        folder.file("go", b"")
        ended = started.end()

    result = folder.json("r.json")
    assert ended.code == 4
    assert url.startswith("http://127.0.0.1:")
    assert found["millstream_backlog_events"] == 1
    assert (found[READ], found[SENT]) == (result["counts"]["read"], 2)
    assert found["millstream_dead_letters_total"] == result["counts"]["dead_lettered"] == 1
    assert result["options"]["metrics"] == "0"


def test_a_benchmark_has_one_endpoint_for_all_its_trials(folder: Folder) -> None:
    bench = ("passthrough", "--rate", "400", "--duration", "1s", "--repeat", "3", "--runs", "")
    with folder.start(*bench, "--metrics", "0", command="bench") as started:
        url = url_of(started)
        wait_for(lambda: scrape(url).get("millstream_runs_total") == 3, "the third trial")
        found = scrape(url)
        ended = started.end()

    assert ended.code in (0, 7)
    assert found["millstream_events_offered_total"] >= found[READ] >= 800
    assert found["millstream_response_time_seconds_count"] > 0


def test_a_port_in_use_is_told_before_anything_is_read(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = folder.run("h.py:same", "in.jsonl", "-o", "o.jsonl", "--metrics", str(port))

    assert ended.code == 3
    assert f"--metrics {port}: can't listen there: Address already in use" in ended.err
    assert "o.jsonl" not in folder.names


@pytest.mark.parametrize("command", ["run", "bench"])
def test_what_is_no_address_is_wrong_usage(folder: Folder, command: str) -> None:
    what = ("h.py:same", "in.jsonl") if command == "run" else ("passthrough",)

    ended = folder.command(command, *what, "--metrics", "here:there")

    assert ended.code == 2
    assert "--metrics is 'here:there'; give it HOST:PORT" in ended.err


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", Address("127.0.0.1", 9464)),
        (":9464", Address("127.0.0.1", 9464)),
        ("0", Address("127.0.0.1", 0)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),
        ("[::1]:9464", Address("::1", 9464)),
        ("metrics.example:65535", Address("metrics.example", 65535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "a", "a:", "a:b", "::1:80", "[]:80", "a:-1", "a:65536", "h st:1", "1:²", "a/b:1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="--metrics is"):
        parse_address(text)


def test_an_address_of_another_machine_can_not_be_used() -> None:
    with pytest.raises(ConnectorError, match="can't listen there"):
        Endpoint("192.0.2.1:0")


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    with endpoint() as here:
        here.on_details(details(counts=counts(read=5)))
        text, kind = get(here.url, Accept="application/openmetrics-text; version=1.0.0")

    families = {family.name: family for family in parse_openmetrics(text)}
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert families["messaging_client_consumed_messages"].samples[0].value == 5


@pytest.mark.parametrize(
    "accept", ["text/plain; version=x", "application/openmetrics-text; version=", "\xff"]
)
def test_whatever_is_asked_for_the_next_scrape_is_answered(accept: str) -> None:
    with endpoint() as here:
        host, port = re.findall(r"//(.*):(\d+)/", here.url)[0]
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(f"GET / HTTP/1.0\r\nAccept: {accept}\r\n\r\n".encode("latin-1"))
            client.recv(1)
        found = scrape(here.url)

    assert found == {"millstream_build_info": 1.0}


def test_clients_that_say_nothing_hold_up_nobody() -> None:
    with endpoint() as here:
        host, port = re.findall(r"//(.*):(\d+)/", here.url)[0]
        silent = [socket.create_connection((host, int(port))) for _ in range(3 * MOST_CONNECTIONS)]
        found = scrape(here.url)
        for each in silent:
            each.close()

    assert found == {"millstream_build_info": 1.0}


def test_an_endpoint_that_is_closed_listens_no_more_and_lets_go_of_its_clients() -> None:
    with endpoint() as here:
        host, port = re.findall(r"//(.*):(\d+)/", here.url)[0]
        client = socket.create_connection((host, int(port)), timeout=30)
        client.sendall(b"GET / HT")
        scrape(here.url)

    assert client.recv(1) == b""
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=30)
    with endpoint(f":{port}") as again:
        assert again.url.endswith(f":{port}/metrics")


def test_prometheus_client_is_imported_with_the_flag_alone(folder: Folder) -> None:
    folder.file(
        "see.py",
        """
        import sys

        def see(event):
            return {"loaded": "prometheus_client" in sys.modules}
        """,
    )

    without = folder.run("see.py:see", "in.jsonl")
    beside = folder.run("see.py:see", "in.jsonl", "--metrics", "0")

    assert {event["loaded"] for event in without.events} == {False}
    assert {event["loaded"] for event in beside.events} == {True}
