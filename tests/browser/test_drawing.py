"""What is painted: each line and drawing is there, in light, dark and print; nothing is cut off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from millstream.reports.html import html_report
from tests.support.browser import (
    CUT_OFF,
    FRAMES,
    LINES_SHOWN,
    OVERLAPPING,
    PLOTS,
    TOO_WIDE,
    Open,
    Seen,
    contrast,
)
from tests.support.reported import KINDS
from tests.support.results import bench

COLORS = """() => {
  const style = getComputedStyle(document.documentElement);
  const names = ['page', 'card', 'ink', 'dim', 'good', 'bad', 'link',
    'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7'];
  const color = (name) => style.getPropertyValue('--' + name).trim();
  return Object.fromEntries(names.map((name) => [name, color(name)]));
}"""

INK = f"""(dark) => {PLOTS}.every((spec) => {{
  const canvas = document.getElementById(spec.id).querySelector('canvas');
  const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let light = 0, black = 0;
  for (let at = 0; at < all.length; at += 4) {{
    if (all[at + 3] < 200) continue;
    if (Math.min(all[at], all[at + 1], all[at + 2]) > 200) light++;
    if (Math.max(all[at], all[at + 1], all[at + 2]) < 60) black++;
  }}
  return dark ? light > 20 && black === 0 : black > 20;
}})"""
"""Whether the axes' labels of all plots are light (for a dark page), or dark."""


AS_WIDE_AS_THEIR_PLACES = """[...document.querySelectorAll('.plot')].every((place) => Math.abs(
  place.querySelector('canvas').getBoundingClientRect().width - place.clientWidth) < 2)"""


def lines_missing(seen: Seen) -> list[dict[str, Any]]:
    """Lines with values of which nothing is painted, and plots without axes."""
    told = seen.ask(LINES_SHOWN)
    return [each for each in told if (each.get("known", 1) and each.get("shown", 9) < 4)
            or each.get("axes", 99) < 20]  # fmt: skip


def pixels_of_marks(seen: Seen, drawing: Any) -> int:
    """How many pixels of a drawing change when all but its axes and texts is taken away."""
    show = """(svg, visibility) => svg.querySelectorAll(
      '.line, .thin, .fill, .dot, .between, .middle, .grid-picture').forEach((each) => {
        each.style.visibility = visibility; })"""
    with_marks = drawing.screenshot(animations="disabled")
    drawing.evaluate(show, "hidden")
    without = drawing.screenshot(animations="disabled")
    drawing.evaluate(show, "visible")
    differing: int = seen.ask(
        """async (pictures) => {
          const pixels = async (bytes) => {
            const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
            const context = new OffscreenCanvas(image.width, image.height).getContext('2d');
            context.drawImage(image, 0, 0);
            return context.getImageData(0, 0, image.width, image.height).data;
          };
          const [one, other] = [await pixels(pictures[0]), await pixels(pictures[1])];
          let count = 0;
          for (let at = 0; at < one.length; at += 4)
            if ([0, 1, 2].some((part) => Math.abs(one[at + part] - other[at + part]) > 20)) count++;
          return count;
        }""",
        [list(with_marks), list(without)],
    )
    return differing


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_painted(opened: Open, pages: Mapping[str, Path], kind: str) -> None:
    seen = opened(pages[kind])

    assert lines_missing(seen) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_drawing_takes_up_room_and_shows_something(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind])

    for drawing in seen.page.locator("svg.drawing").all():
        box = drawing.bounding_box()
        assert box is not None and box["width"] > 200 and box["height"] > 30
        assert pixels_of_marks(seen, drawing) > 30


def test_a_line_of_a_single_value_is_painted(opened: Open, tmp_path: Path) -> None:
    single = bench()
    single["series"] |= {"response_p50": [None, 300_000], "response_p99": [1_000_000, None]}
    (tmp_path / "single.html").write_bytes(html_report([single], ["single.json"]))

    seen = opened(tmp_path / "single.html")

    assert lines_missing(seen) == []


def test_the_heatmap_is_a_picture_with_a_cell_for_each_interval(
    opened: Open, pages: Mapping[str, Path], results: Mapping[str, Any]
) -> None:
    seen = opened(pages["load"])

    size = seen.ask(
        """async () => {
          const image = new Image();
          image.src = document.querySelector('#heatmap image').getAttribute('href');
          await image.decode();
          return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    assert size[0] == len(results["load"]["series"]["rss"])
    assert size[1] > 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out(opened: Open, pages: Mapping[str, Path], scheme: str) -> None:
    seen = opened(pages["load"], color_scheme=scheme)

    colors = seen.ask(COLORS)
    assert contrast(colors["card"], "#000") < 1.5 or scheme == "light"
    assert contrast(colors["card"], "#fff") < 1.5 or scheme == "dark"
    assert seen.ask("getComputedStyle(document.body).backgroundColor") != "rgba(0, 0, 0, 0)"
    for text in ("ink", "dim", "good", "bad", "link"):
        assert min(contrast(colors[text], colors[back]) for back in ("page", "card")) >= 4.5, text
    for line in range(8):
        assert contrast(colors[f"c{line}"], colors["card"]) >= 3, line


@pytest.mark.parametrize("kind", ["load", "several"])
def test_a_change_of_scheme_draws_all_anew_and_keeps_what_was_hidden(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind], color_scheme="light")
    seen.wait(INK, False)
    seen.page.locator(".legend button").first.click()
    back = seen.ask("getComputedStyle(document.body).backgroundColor")

    seen.page.emulate_media(color_scheme="dark")

    seen.wait(INK, True)
    assert contrast(back, seen.ask("getComputedStyle(document.body).backgroundColor")) > 10
    assert seen.ask("document.querySelectorAll('.plot').length") == len(seen.ask(PLOTS))
    seen.page.locator(".legend button").first.click()
    assert lines_missing(seen) == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_or_needs_scrolling_aside(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind], width=400)
    seen.open_tables()

    found = {400: seen.ask(TOO_WIDE) + seen.ask(CUT_OFF) + seen.ask(OVERLAPPING)}
    for width in (820, 1280):
        seen.page.set_viewport_size({"width": width, "height": 800})
        seen.wait(AS_WIDE_AS_THEIR_PLACES)
        found[width] = seen.ask(TOO_WIDE) + seen.ask(CUT_OFF) + seen.ask(OVERLAPPING)
    assert found == {400: [], 820: [], 1280: []}


def test_a_window_that_is_made_narrow_takes_the_plots_along(
    opened: Open, pages: Mapping[str, Path]
) -> None:
    seen = opened(pages["load"])

    seen.page.set_viewport_size({"width": 400, "height": 800})

    seen.wait(AS_WIDE_AS_THEIR_PLACES)
    assert seen.ask(TOO_WIDE) == []
    assert lines_missing(seen) == []


@pytest.mark.parametrize(
    ("kind", "scheme"), [*((kind, "dark") for kind in KINDS), ("load", "light")]
)
def test_print_has_every_chart_on_white_paper(
    opened: Open, pages: Mapping[str, Path], kind: str, scheme: str
) -> None:
    paper = 718  # A4 in CSS pixels, without margins of 1 cm
    seen = opened(pages[kind], width=paper, color_scheme=scheme)

    seen.page.emulate_media(media="print", color_scheme=scheme)

    seen.wait(INK, False)
    seen.ask(FRAMES)
    assert seen.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert seen.ask(TOO_WIDE) == []
    assert seen.ask(CUT_OFF) == []
    assert lines_missing(seen) == []


@pytest.mark.parametrize("kind", ["load", "rates", "several"])
def test_on_paper_each_chart_stands_with_its_title_and_its_colours(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind], color_scheme="dark")
    titles = seen.ask("[...document.querySelectorAll('figure h4')].map((each) => each.textContent)")
    used = set(seen.ask(f"{PLOTS}.flatMap((spec) => spec.lines.map((line) => line.color))"))

    sheets, text = printed(seen)

    assert [title for title in titles if title not in text] == []
    assert all(sheet[0, 0].tolist() == [255, 255, 255] for sheet in sheets)
    seen.page.emulate_media(media="print", color_scheme="dark")
    colors = seen.ask(COLORS)
    for number in used:
        red_green_blue = [int(colors[f"c{number}"][at : at + 2], 16) for at in (1, 3, 5)]
        assert sum(pixels_near(sheet, red_green_blue) for sheet in sheets) > 50, number


def printed(seen: Seen) -> tuple[list[Any], str]:
    """The page as it comes from a printer: sheets of A4 as arrays of red, green, blue; its text."""
    import pypdfium2

    margin = dict.fromkeys(("top", "right", "bottom", "left"), "1cm")
    document = pypdfium2.PdfDocument(seen.page.pdf(format="A4", margin=margin))
    try:
        sheets = [sheet.render(scale=1, rev_byteorder=True).to_numpy() for sheet in document]
        texts = [sheet.get_textpage().get_text_range() for sheet in document]
        return [sheet[..., :3].astype("int16") for sheet in sheets], " ".join(
            " ".join(texts).split()
        )
    finally:
        document.close()


def pixels_near(sheet: Any, color: list[int]) -> int:
    """How many pixels have about that colour."""
    return int((abs(sheet - color).sum(axis=2) < 60).sum())
