"""The HTML report: what it says of results of each kind; nothing in them becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream.reports.html as package
from millstream.engine.histogram import Histogram
from millstream.engine.histogram_codec import encoded
from millstream.reports.html import html_report
from tests.support.results import audit, bench, distribution, result, stage

STATIC = Path(package.__file__).with_name("static")
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A page as a reader of markup has it: balanced, with its ids, texts, scripts and elements."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if "id" in dict(attrs):
            self.ids.append(str(dict(attrs)["id"]))
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        elif data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def plots(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.inside["script"][0])
        return found


def page_of(*results: dict[str, Any]) -> Page:
    names = [f"{number}.json" for number in range(len(results))]
    return Page(html_report(results, names))


def histogram(*values: int) -> str:
    made = Histogram()
    made.record(values)
    return encoded(made)


def full() -> dict[str, Any]:
    """A benchmark with all that a result may hold."""
    made = bench(stages=[stage("ingest"), stage("spread", executor="process", workers=2)])
    made["series"] |= {
        "response_p90": [400_000, None],
        "response_p999": [900_000, 2_000_000],
        "response_max": [950_000, 3_000_000],
        "loop_lag": [1000, 2000],
        "response_buckets": [[72, 5, 73, 9], [74, 2, 86, 1]],
    }
    made["histograms"] = {
        **{"response": histogram(1, 2, 3_000_000), "slip": None},
        "stages": [{"queue_wait": histogram(5), "service": histogram(6)}] * 2,
    }
    made["tail"] = {
        **{"events": 9, "from_ns": 5, "response_ns": 100, "all_events": 900},
        **{"all_response_ns": 10, "parts": {"slip": 60, "service ingest": 40}},
        "all_parts": {"slip": 6, "service ingest": 4},
        "examples": [
            {"sequence": 3, "at_ns": 7, "response_ns": 100, "parts": {"slip": 60, "service": 40}}
        ],
    }
    made["faults"] = [
        {
            **{"text": "kill-worker@1s", "fired": 1, "first_ns": 10**9, "last_ns": 10**9},
            **{"windows": [[10**9, 10**9]], "violations": 0},
        }
    ]
    made["unattributed"] = 0
    made["recovery"] = [
        {
            **{"fault": "kill-worker@1s", "at_ns": 10**9, "recovered_ns": 5 * 10**8},
            **{"response_bound_ns": 5, "backlog_bound": 5},
        }
    ]
    made["counts"]["dead_lettered"] = 3
    made["dead_letters"] = {
        "reasons": [
            {
                **{"stage": "ingest", "error": "ValueError", "message": "no price", "count": 2},
                **{"source": "in.jsonl", "line": 5},
            }
        ],
        "others": 1,
    }
    made["ordering"]["audit"] = audit(
        reordered=2,
        extent={"max": 9, "counts": {"1": 1, "9": 1}},
        buffer_occupancy={"threshold": 8, "counts": {"0": 5, "1": 3}},
        n_reordering={"1": 0.1},
        examples=[
            {
                **{"kind": "reordered", "place": "output", "key": "k1", "sequence": 4},
                "after": {"sequence": 5},
            }
        ],
        places=[
            {"place": "ingest", "events": 9, "reordered": 0, "overlaps": 0, "unknown": 0},
            {"place": "output", "events": 9, "reordered": 2, "overlaps": 0, "unknown": 0},
        ],
    )
    made["argv"] = ["millstream", "bench", "feed", "--rate", "6000"]
    return made


def fact(value: str, throughput: float, p99: int = 5_000_000, **changes: Any) -> dict[str, Any]:
    made = {
        **{"value": value, "repeat": 0, "verdict": "pass", "throughput": throughput},
        **{"offered": throughput, "response": distribution(p99=p99), "service_ns": 5},
        **{"steady": True, "violations": 0, "exit_code": 0, "invalid": []},
    }
    return {**made, **changes}


def experiment(kind: str, parameter: str | None, facts: list[dict[str, Any]]) -> dict[str, Any]:
    told = {"kind": kind, "parameter": parameter, "facts": facts, "hottest_key": None}
    return full() | {"experiment": {**told, "search": None, "said": "5,000/s"}}


RATES = [
    fact(str(rate), rate, 10**6 * (1 + (rate > 5000) * 50)) for rate in range(1000, 9000, 1000)
]
WORKERS = [fact(str(n), 1000 * n / (1 + 0.05 * (n - 1))) for n in (1, 2, 4, 8)]


def test_a_page_of_all_that_there_is_is_balanced_and_each_id_is_there_once() -> None:
    page = page_of(full())

    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    wanted = {"throughput", "latency", "heatmap", "spectrum", "stages", "backlog", "cpu", "rss"}
    wanted |= {"lag", "extent", "buffer_occupancy", "tail", "reasons", "course", "about"}
    assert wanted <= set(page.ids)


def test_the_verdict_and_each_figure_with_its_condition_come_first() -> None:
    page = page_of(full())

    for text in ("response p99", "order violations", "lost", "duplicated", "dead letters"):
        assert text in page.texts[: page.texts.index("Promises and conditions")]
    assert page.texts.index("FAIL" if full()["verdict"] == "fail" else "pass") < 12


def test_every_chart_has_a_table_and_a_description() -> None:
    page = page_of(full())

    figures = [attrs for tag, attrs in page.elements if tag == "figure"]
    described = [a for t, a in page.elements if a.get("role") == "img" and a.get("aria-label")]
    tables = [tag for tag, _ in page.elements if tag == "details"]
    assert len(figures) == len(described) == len(tables) > 10


def test_nothing_is_fetched_and_only_the_pages_own_scripts_may_run() -> None:
    page = page_of(full())

    (policy,) = [
        str(attrs["content"])
        for tag, attrs in page.elements
        if tag == "meta" and "Content-Security-Policy" in attrs.values()
    ]
    assert "default-src 'none'" in policy
    for text in (*page.inside["script"][1:], *page.inside["style"]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attrs in page.elements:
        assert not {"style", "onclick", "onload", "onerror", "src"} & set(attrs)
        href = attrs.get("href") or "#"
        assert href.startswith(("#", "data:image/png"))


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\x1b[31m${{7*7}}{{7*7}}"
)


def poisoned(value: Any, key: str = "") -> Any:
    """The same with every text, but for those that the page goes by, hostile; keys too."""
    kept = ("schema", "command", "verdict", "response", "executor", "kind", "order", "scope")
    if isinstance(value, dict):
        plain = key in ("parts", "all_parts", "options", "settings")
        return {(k + HOSTILE if plain else k): poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(each, key) for each in value]
    return (
        value
        if not isinstance(value, str) or key in (*kept, "slip", "service", "queue_wait")
        else value + HOSTILE
    )


def test_hostile_texts_become_no_markup() -> None:
    plain, hostile = page_of(full()), page_of(poisoned(full()))

    assert hostile.open == []
    assert [tag for tag, _ in hostile.elements if tag in ("script", "img", "style")] == [
        tag for tag, _ in plain.elements if tag in ("script", "img", "style")
    ]
    assert "alert(1)" in hostile.text
    assert not any("onerror" in attrs for _, attrs in hostile.elements)


@pytest.mark.parametrize(
    ("kind", "parameter", "facts", "id_"),
    [
        ("repeat", None, [fact("", 1000.0 + n) for n in range(6)], "repeats"),
        ("sweep", "rate", RATES, "curve"),
        ("search", "rate", RATES, "curve"),
        ("sweep", "workers", WORKERS, "scaling"),
        ("sweep", "order", [fact("key", 900.0), fact("none", 1000.0, response=None)], "values"),
        ("sweep", "batch", [fact("1", 0.0)], "values"),
    ],
)
def test_each_kind_of_experiment_has_its_chart(
    kind: str, parameter: str | None, facts: list[dict[str, Any]], id_: str
) -> None:
    page = page_of(experiment(kind, parameter, facts))

    assert id_ in page.ids
    assert page.open == []


def test_the_knee_and_the_law_of_scaling_are_named() -> None:
    curve, scaling = (
        page_of(experiment("sweep", "rate", RATES)),
        page_of(experiment("sweep", "workers", WORKERS)),
    )

    assert "knee at" in curve.text
    assert "Universal Scalability Law" in scaling.text


def test_an_old_result_is_reported_with_what_it_has() -> None:
    page = page_of(result())

    assert {"throughput", "cpu", "stages", "about"} <= set(page.ids)
    assert "heatmap" not in page.ids


def test_a_run_that_was_over_at_once_has_no_course() -> None:
    short = result()
    short["series"] |= {name: [] for name, v in short["series"].items() if isinstance(v, list)}

    assert "too soon for a course" in page_of(short).text


def test_several_results_are_laid_over_one_another() -> None:
    page = page_of(full(), full() | {"name": "other"}, result())

    assert {"together", "all-throughput", "all-response-p99", "all-spectrum"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert {"compared", "overlaid"} <= set(page.ids)
    (throughput,) = [p for p in page.plots()["plots"] if p["id"] == "all-throughput"]
    assert [line["label"] for line in throughput["lines"]] == ["feed", "other", "charge"]


def test_several_repeats_are_compared_with_their_intervals() -> None:
    before = experiment("repeat", None, [fact("", 1000.0 + n) for n in range(8)])
    after = experiment("repeat", None, [fact("", 500.0 + n, p99=9_000_000) for n in range(8)])

    text = page_of(before | {"name": "before"}, after | {"name": "after"}).text

    assert "after against before: slower: " in text
    assert "8 runs against 8" in text


def test_what_can_not_be_compared_says_why() -> None:
    broken = full() | {"name": "broken", "exit_code": 5, "verdict": "fail"}

    text = page_of(full(), broken).text

    assert "broken against feed: " in text


def test_an_audit_has_a_page_of_its_own() -> None:
    price = {
        "key": {
            **{"order": "key", "events": 9, "waited": 2, "p50_ns": 1, "p99_ns": 5, "max_ns": 9},
            **{"buffer": 3, "buffer_max": 4, "keys_missing_ns": 0, "blocking_events": []},
            "blocking_keys": [{"key": "k1", "held_up": 2, "waited_ns": 7}],
        }
    }
    made = audit(
        inputs=["log.jsonl"], reordered=1, extent={"max": 1, "counts": {"1": 1}}, price=price
    )

    page = page_of(made)

    assert {"extent", "price"} <= set(page.ids)
    assert "k1" in page.text


def test_the_command_that_repeats_the_run_has_its_seed() -> None:
    page = page_of(full())

    assert "millstream bench feed --rate 6000 --seed 7" in page.text


def test_an_hour_long_run_stays_below_a_mebibyte() -> None:
    long = full()
    flat = [number for bucket in range(60, 100) for number in (bucket, 12345)]
    for name, values in long["series"].items():
        if isinstance(values, list):
            long["series"][name] = [123456789 + n * 1234567 for n in range(599)]
    long["series"] |= {"response_buckets": [flat] * 599, "interval_ns": 6_010_000_000}
    long["experiment"] = experiment("sweep", "rate", RATES * 12)["experiment"]
    spread = histogram(*range(1000, 2**34, 2**22))
    long["histograms"] |= {"response": spread, "slip": spread}

    page = html_report([long], ["long.json"])

    assert len(page) < 2**20


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 2**42)), min_size=2, max_size=40),
    st.lists(st.floats(0, 1e9), min_size=2, max_size=40),
)
def test_any_course_can_be_drawn(times: list[int | None], rates: list[float]) -> None:
    made, length = full(), min(len(times), len(rates))
    for name in ("response_p50", "response_p99", "response_max", "loop_lag"):
        made["series"][name] = times[:length]
    for name in ("throughput", "backlog", "rss", "cpu", "offered"):
        made["series"][name] = rates[:length]
    made["series"]["response_buckets"] = [
        None if each is None else [each.bit_length() * 4, 1] for each in times[:length]
    ]

    page = page_of(made)

    (throughput,) = [each for each in page.plots()["plots"] if each["id"] == "throughput"]
    assert len(throughput["lines"][0]["values"]) == length
    assert "NaN" not in page.inside["script"][0] and "Infinity" not in page.inside["script"][0]


def test_the_vendored_library_is_what_its_manifest_says() -> None:
    manifest = json.loads((STATIC / "uplot" / "manifest.json").read_bytes())

    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (STATIC / "uplot").iterdir()
        if path.name != "manifest.json"
    }
    assert found == manifest["sha256"]
    version = re.search(
        r"v(\d+\.\d+\.\d+)", (STATIC / "uplot/uPlot.iife.min.js").read_text("utf-8")
    )
    assert version is not None and version[1] == manifest["version"]
