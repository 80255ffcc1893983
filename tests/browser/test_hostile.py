"""Whatever stands in a result or in the name of a file, it is text and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from millstream.engine.result import parse_report
from millstream.reports.html import html_report
from tests.support.browser import FRAMES, TOO_WIDE, Open
from tests.support.hostile import HOSTILE, Poison
from tests.support.reported import COMMANDS

SCHEMA, AUDIT = "millstream.result/1", "millstream.audit/1"
ELEMENTS = "[...new Set([...document.querySelectorAll('*')].map((each) => each.tagName))].sort()"
SCRIPTS = "[...document.querySelectorAll('script, style')].length"
DANGEROUS = """() => [...document.querySelectorAll('*')].flatMap((each) => [...each.attributes]
  .filter(({ name, value }) => name.startsWith('on') || name === 'autofocus' || name === 'srcdoc'
    || /^(src|href|xlink:href|action|formaction)$/.test(name)
      && !value.startsWith('#') && !value.startsWith('data:image/png;base64,'))
  .map(({ name, value }) => each.tagName + ' ' + name + '=' + value))"""
SUBJECTS = (*(kind for kind in COMMANDS), "audit", "old")


def hostile_page(folder: Path, *results: Mapping[str, Any], alone: bool = False) -> Path:
    """A report of results with all their texts hostile, as they are read from files with such
    names."""
    poison, page = Poison(alone=alone), folder / "hostile.html"
    names = [poison.text("r.json") for _ in results]
    files = [json.dumps(poison.all_of(result)).encode() for result in results]
    read = [parse_report(raw, "r.json", (SCHEMA, AUDIT)) for raw in files]
    page.write_bytes(html_report(read, names))
    return page


@pytest.mark.parametrize("alone", [False, True], ids=["around", "alone"])
@pytest.mark.parametrize("kind", SUBJECTS)
def test_hostile_texts_run_nothing_and_leave_the_page_as_it_is(
    opened: Open,
    pages: Mapping[str, Path],
    results: Mapping[str, Any],
    tmp_path: Path,
    kind: str,
    alone: bool,
) -> None:
    plain = opened(pages[kind])
    seen = opened(hostile_page(tmp_path, results[kind], alone=alone), width=400)
    seen.open_tables()
    for each in seen.page.locator(".plot").all():
        each.focus()
        seen.page.keyboard.press("ArrowRight")
        each.hover()
    seen.ask(FRAMES)

    assert seen.requests == []
    assert seen.errors == []
    assert seen.ask("window.__owned") is None
    assert set(seen.ask(ELEMENTS)) <= {*plain.ask(ELEMENTS), "SPAN", "SVG", "P"}
    assert seen.ask(SCRIPTS) == plain.ask(SCRIPTS)
    assert seen.ask(DANGEROUS) == []
    assert seen.ask(TOO_WIDE) == []
    assert seen.page.url.startswith("file:") and seen.page.url.endswith("hostile.html")


def test_hostile_texts_of_several_results_run_nothing(
    opened: Open, results: Mapping[str, Any], tmp_path: Path
) -> None:
    kinds = ("load", "unordered", "job", "audit", "scaling")

    seen = opened(hostile_page(tmp_path, *(results[kind] for kind in kinds)), width=400)

    assert seen.requests == seen.errors == []
    assert seen.ask("window.__owned") is None
    assert seen.ask(DANGEROUS) == []
    assert seen.ask(TOO_WIDE) == []


def test_hostile_texts_are_shown_as_they_are(
    opened: Open, results: Mapping[str, Any], tmp_path: Path
) -> None:
    seen = opened(hostile_page(tmp_path, results["load"]))
    seen.open_tables()

    shown = seen.ask("document.body.innerText")
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[5], HOSTILE[10]):
        assert text in shown


def test_signs_that_turn_or_hide_text_have_no_effect(
    opened: Open, results: Mapping[str, Any], tmp_path: Path
) -> None:
    seen = opened(hostile_page(tmp_path, results["load"]))

    shown = seen.ask("document.documentElement.outerHTML")
    assert [
        sign for sign in "\u202e\u2066\u200f\u061c\x00\x07\x1b\x7f\x9b\ufeff" if sign in shown
    ] == []
    assert "\\u202e" in seen.ask("document.body.textContent")
