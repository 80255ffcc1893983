"""axe-core finds nothing that would keep someone from reading a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Open
from tests.support.reported import KINDS

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "small": {"width": 400},
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_violation(
    opened: Open, pages: Mapping[str, Path], kind: str, look: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    seen = opened(pages[kind], bypass_csp=True, **LOOKS[look])
    seen.open_tables()

    found = Axe().run(seen.page).response

    assert [_told(each) for each in found["violations"]] == []
    assert len(found["passes"]) > 15


def _told(violation: dict[str, Any]) -> str:
    where = [str(node["target"]) for node in violation["nodes"][:3]]
    return f"{violation['impact']} {violation['id']}: {violation['help']} {where}"
