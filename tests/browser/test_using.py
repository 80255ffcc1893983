"""A report is used by keyboard and read by assistive technology: nothing hides behind a mouse, and
the tables hold what the charts show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import FRAMES, PLOTS, Open, Seen, number_in
from tests.support.reported import KINDS

TABBED = """() => {
  const each = document.activeElement;
  return each === document.body ? null : [...document.querySelectorAll('*')].indexOf(each);
}"""
WANTED = """[...document.querySelectorAll('*')].flatMap((each, index) =>
  each.matches('[data-plot], .legend button, summary, a.skip, .scroll') && each.checkVisibility()
    ? [index] : [])"""

LEGEND = """(id) => {
  const legend = document.querySelector(`[data-legend="${CSS.escape(id)}"]`);
  return [...legend.querySelectorAll('output')].map((each) => each.textContent);
}"""
"""The values beside a plot's lines, and last the time that they are of."""


def follow_to(seen: Seen, id_: str, *keys: str) -> list[str]:
    """The values that are told after such keys."""
    seen.page.locator(f'[data-plot="{id_}"]').focus()
    for key in keys:
        seen.page.keyboard.press(key)
    seen.ask(FRAMES)
    told: list[str] = seen.ask(LEGEND, id_)
    return told


def cells_of(seen: Seen, id_: str) -> list[list[str]]:
    """The rows of a chart's table."""
    rows: list[list[str]] = seen.ask(
        """(id) => [...document.getElementById(id).querySelectorAll('tbody tr')].map((row) =>
             [...row.cells].map((cell) => cell.textContent.trim()))""",
        id_,
    )
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_tab_reaches_all_that_can_be_used_in_the_order_of_the_page(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind])

    reached = []
    seen.page.keyboard.press("Tab")
    while (index := seen.ask(TABBED)) is not None and index not in reached:
        reached.append(index)
        seen.page.keyboard.press("Tab")
    assert reached == sorted(reached)
    assert set(seen.ask(WANTED)) <= set(reached)


def test_what_has_the_focus_is_seen(opened: Open, pages: Mapping[str, Path]) -> None:
    seen = opened(pages["load"])

    seen.page.keyboard.press("Tab")
    assert seen.page.locator(".skip").bounding_box()["x"] >= 0
    for each in (".plot", ".legend button", "summary", "nav a"):
        seen.page.locator(each).first.focus()
        seen.page.keyboard.press("Shift+Tab")
        seen.page.keyboard.press("Tab")
        style = seen.ask("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", each


def test_the_skip_link_leads_to_the_report(opened: Open, pages: Mapping[str, Path]) -> None:
    seen = opened(pages["several"])

    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    seen.page.keyboard.press("Tab")

    assert seen.ask("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("kind", ["job", "load", "several"])
def test_arrow_keys_tell_the_values_as_text(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind])
    times = seen.ask("JSON.parse(document.getElementById('plots').textContent).times")

    for plot in seen.ask(PLOTS):
        own = sorted({time for line in plot["lines"] for time in times[line["times"]]})
        first = follow_to(seen, plot["id"], "Home")
        second = follow_to(seen, plot["id"], "ArrowRight")
        last = follow_to(seen, plot["id"], "End")
        before = follow_to(seen, plot["id"], "ArrowLeft")
        again = follow_to(seen, plot["id"], "ArrowRight")
        told = [told[-1] for told in (first, second, last, before)]
        places = [own[0], own[1], own[-1], own[-2]]
        for text, time in zip(told, places, strict=True):
            assert float(text.removeprefix("at ").removesuffix(" s")) == pytest.approx(
                time, rel=6e-3
            )
        assert again == last
        for line, text in zip(plot["lines"], first, strict=False):
            values = dict(zip(times[line["times"]], line["values"], strict=True))
            wanted = values.get(own[0])
            assert (number_in(text) if text else None) == pytest.approx(wanted, rel=6e-3), line


def test_a_legends_button_hides_and_shows_its_line_by_keyboard(
    opened: Open, pages: Mapping[str, Path]
) -> None:
    seen = opened(pages["load"])
    button = seen.page.locator("#throughput .legend button").last
    picture = "document.querySelector('#throughput canvas').toDataURL()"
    whole = seen.ask(picture)

    button.focus()
    seen.page.keyboard.press("Enter")

    seen.wait(f"(whole) => {picture} !== whole", whole)
    assert button.get_attribute("aria-pressed") == "false"
    seen.page.keyboard.press("Space")
    seen.wait(f"(whole) => {picture} === whole", whole)
    assert button.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_tables_open_by_keyboard(opened: Open, pages: Mapping[str, Path], key: str) -> None:
    seen = opened(pages["load"])

    for figure in seen.page.locator("figure").all():
        figure.locator("summary").focus()
        seen.page.keyboard.press(key)
        assert figure.locator("table").is_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_each_chart_has_a_name_a_sentence_and_a_table_of_its_numbers(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind])
    seen.open_tables()

    for figure in seen.page.locator("figure").all():
        picture = figure.get_by_role("img")
        assert figure.locator("h4").inner_text() and figure.locator("figcaption p").inner_text()
        assert picture.count() == 1 and picture.get_attribute("aria-label")
        assert figure.get_by_role("table").get_by_role("row").count() > 1
        assert figure.get_by_role("columnheader").count() > 1


@pytest.mark.parametrize("kind", ["job", "unordered", "load", "closed", "rates", "old"])
def test_the_tables_hold_the_numbers_of_the_plots(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind])
    times = seen.ask("JSON.parse(document.getElementById('plots').textContent).times")

    for plot in seen.ask(PLOTS):
        rows = cells_of(seen, plot["id"])
        own = times[plot["lines"][0]["times"]]
        step = -(-len(own) // 24)
        assert len(rows) == -(-len(own) // step)
        assert float(rows[-1][0].removesuffix(" s")) == pytest.approx(own[-1])
        for number, line in enumerate(plot["lines"], 1):
            # Tables round to two digits and more.
            wanted = [_largest(line["values"][at : at + step]) for at in range(0, len(own), step)]
            told = [None if row[number] == "–" else number_in(row[number]) for row in rows]
            assert told == [
                None if each is None else pytest.approx(each, rel=0.051) for each in wanted
            ]


def _largest(values: list[Any]) -> float | None:
    return max((value for value in values if value is not None), default=None)
