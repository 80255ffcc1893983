"""Markdown: what matters is there, and nothing from elsewhere becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from millstream.reports.markdown import escaped, markdown_report
from millstream.reports.texts import plain
from tests.support.results import bench, counted, experiment, fact, result, stage


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name != "style"], (tag, attrs)
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.cells[-1] += data


def rendered(*results: dict[str, Any], names: tuple[str, ...] = ("run",)) -> Page:
    """As GitHub has it: CommonMark with HTML, tables and strike-through."""
    text = markdown_report(results, names).decode()
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Page(reader.render(text))


def full(text: str, **changes: Any) -> dict[str, Any]:
    """A result in which `text` stands wherever one can stand."""
    reason = {"stage": text, "error": text, "message": text, "source": text}
    made: dict[str, Any] = {
        **{"name": text, "version": text, "started_at": text, "argv": ["millstream", text]},
        "stages": [stage(text, executor=text)],
        "host": {"cpus": 2, "python": text, "platform": text},
        "invariants": [{"name": text, "held": False, "detail": text}],
        "conditions": [{"text": text, "observed": 1.0, "held": True}],
        "objectives": [{"text": text, "observed": None, "met": False}],
        "counts": counted(handled=12344, dead_lettered=1),
        "dead_letters": {"reasons": [{**reason, "line": 1, "count": 1}], "others": 0},
        "invalid": [text],
        "experiment": experiment([fact(1.0, text)], "sweep", parameter=text),
        **{"exit_code": 5, "verdict": "fail"},
    }
    return bench(**{**made, **changes})


def test_the_verdict_stands_on_top_then_the_figures_with_what_was_asked() -> None:
    objective = {"text": "response.p99 < 50ms", "observed": 1_130_000, "met": True}
    condition = {"text": "response.p99 > 1ms", "observed": 1_130_000, "held": True}
    made = bench(exit_code=6, verdict="fail", objectives=[objective], conditions=[condition])

    lines = markdown_report([made], ["feed"]).decode().splitlines()

    assert lines[0] == "### feed: FAIL"
    told = "**FAIL**: \\--fail-if 'response.p99 \\> 1ms' held\\: it was 1.13 ms"
    assert lines[2].startswith(told)
    assert "| response p99 | 1.13 ms | `response.p99 < 50ms` | met |" in lines
    assert "|  |  | fail if `response.p99 > 1ms` | **HELD** |" in lines
    assert "| order violations | 0 | order per key | held |" in lines
    assert "The invariant held: timelines." in lines


def test_there_are_stages_dead_letters_invariants_and_experiments() -> None:
    page = rendered(full("abc"))

    for cells in (
        ["abc", "abc", "12,345", "300 µs / 1.13 ms", "1.5 µs / 1.13 ms"],
        ["1", "abc", "abc", "abc", "abc line 1"],
        ["abc", "BROKEN", "abc"],
        ["abc", "1/s", "-", "-", "pass"],
    ):
        at = [place for place, cell in enumerate(page.cells) if cell == cells[0]]
        assert any(page.cells[place : place + len(cells)] == cells for place in at), cells
    assert "millstream abc, 2 cores, Python abc, seed 7, abc: millstream abc" in page.text


def test_of_an_interrupted_run_it_is_said() -> None:
    text = markdown_report([result(exit_code=130)], ["run"]).decode()

    assert text.startswith("### run: interrupted\n\n**interrupted**: 12,345 events in 2 s")


def test_several_results_stand_in_one_table_with_their_verdicts() -> None:
    page = rendered(result(), bench(), names=("a|b", "c"))

    assert page.cells[:3] == ["result", "verdict", "throughput"]
    assert page.cells[9:12] == ["a|b", "pass", "6,172/s"]
    assert page.tags.count("table") == 1
    assert "c: pass: 12,345 events in 2 s, 6,172/s, order per key held, nothing lost" in page.text


OURS = {"h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li"}
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil/x.png)",
    "[click](javascript:alert(1))",
    "[x]: http://evil",
    "http://evil.example www.evil.example a@evil.example",
    "@maintainer see #1",
    "a | b || c",
    "`code` ``` ~~~",
    "**bold** __bold__ ~~gone~~ *em* _em_",
    "line\n\n# heading\n- item\n> quote\n1. one\n---\n",
    "    indented",
    "1. one",
    "2) two",
    "- item",
    "+ item",
    "---",
    "===",
    "# heading",
    "> quote",
    "&lt;b&gt; &#60;b&#62;",
    "\\",
    "\\|",
    "|",
    "`",
    "```",
    ":tada: $x$ $$y$$",
    "<!-- comment",
    "\x1b[2J\u202e\ud800",
    "",
    " ",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts_wherever_they_stand(text: str) -> None:
    page, harmless = rendered(full(text), names=(text,)), rendered(full("abc"), names=("abc",))

    assert set(page.tags) <= OURS
    assert [tag for tag in page.tags if tag != "code"] == [
        tag for tag in harmless.tags if tag != "code"
    ]
    assert len(page.cells) == len(harmless.cells)
    several = rendered(full(text), full(text), names=(text, f"{text}2"))
    assert set(several.tags) <= OURS


@given(st.text(max_size=40))
@example("a\\|b")
def test_an_escaped_text_is_shown_as_it_is(text: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = Page(reader.render(f"| head |\n| --- |\n| {escaped(text)} |\n"))

    assert page.tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
    shown = page.cells[1].replace("@\u200b", "@").replace("#\u200b", "#")
    assert shown == plain(text).strip().replace("\u0000", "\ufffd")


def test_nothing_would_notify_somebody_or_become_a_link() -> None:
    shown = escaped("@maintainer #12 http://evil www.evil.example WWW.evil")

    assert not re.search(r"@[A-Za-z0-9]|#[0-9]|https?:|(?i:www)\.", shown)
