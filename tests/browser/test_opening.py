"""A report opens from a file, on its own: nothing is fetched, nothing goes wrong, with or without
scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.browser import PLOTS, Open
from tests.support.reported import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_for_and_nothing_goes_wrong(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind])

    assert seen.requests == []
    assert seen.errors == []
    assert seen.ask("Number(document.documentElement.dataset.drawn)") == len(seen.ask(PLOTS))
    assert seen.page.title().endswith("– Millstream")


@pytest.mark.parametrize("kind", KINDS)
def test_without_scripts_the_page_can_be_read(
    opened: Open, pages: Mapping[str, Path], kind: str
) -> None:
    seen = opened(pages[kind], java_script_enabled=False)

    page = seen.page
    assert page.locator(".verdict").first.is_visible()
    plots = page.locator(".plot, .plot + .legend").all()
    assert not any(plot.is_visible() for plot in plots)
    assert page.locator("noscript p").is_visible() == bool(plots)
    for figure in page.locator("figure").all():
        figure.locator("summary").click()
        assert figure.locator("table").is_visible()
    assert seen.errors == []
