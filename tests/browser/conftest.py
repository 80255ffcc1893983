"""A headless Chromium, pages of each kind of report, and a watch on all that a page does.

Without Chromium (`make services`) or playwright (`make browser`) these tests are left out.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

from millstream.reports.html import html_report
from tests.support.browser import ARGUMENTS, CHROMIUM, Open, Seen, watched
from tests.support.reported import make_results
from tests.support.results import result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(300))  # the first of them makes the results


def leave_out(why: str) -> NoReturn:
    """Skips, or fails where the browser is what is asked for."""
    if os.environ.get("MILLSTREAM_BROWSER") == "needed":
        pytest.fail(f"tests in a browser can't run: {why}")
    pytest.skip(f"tests in a browser are left out: {why}")


@pytest.fixture(scope="session")
def at_hand() -> None:
    """All that the tests here need; asked before anything is made for them."""
    if shutil.which(CHROMIUM) is None:
        leave_out(f"{CHROMIUM} is missing: run `make services`")
    for name in ("playwright", "axe_playwright_python", "pypdfium2"):
        if find_spec(name) is None:
            leave_out(f"the package {name} is missing: run `make browser`")


# Of a module, not of the session: while it is there, its loop counts as running in this thread, and
# tests of other folders that come after could start none.
@pytest.fixture(scope="module")
def chromium(at_hand: None) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def results(at_hand: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By kind; made once, by whichever process of the session comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reported"
    folder.mkdir(exist_ok=True)
    kept = folder / "all.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            made = make_results(folder)
            kept.write_text(json.dumps(made), "utf-8")
    found: dict[str, dict[str, Any]] = json.loads(kept.read_bytes())
    return {**found, "old": result()}


@pytest.fixture(scope="session")
def pages(
    results: Mapping[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A report of each kind, and one of several results, as files."""
    folder = tmp_path_factory.mktemp("pages")
    sets = {kind: [kind] for kind in results}
    sets["several"] = ["load", "unordered", "audit"]
    for name, kinds in sets.items():
        page = html_report([results[kind] for kind in kinds], [f"{kind}.json" for kind in kinds])
        (folder / f"{name}.html").write_bytes(page)
    return {name: folder / f"{name}.html" for name in sets}


@pytest.fixture
def opened(chromium: Any) -> Iterator[Open]:
    """Opens a file with the network off, waits until all is drawn, and says what was seen."""
    contexts = []

    def open_(path: Path, *, width: int = 1280, **options: Any) -> Seen:
        options.setdefault("viewport", {"width": width, "height": 800})
        context = chromium.new_context(offline=True, reduced_motion="reduce", **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        return watched(context, path, script=options.get("java_script_enabled", True))

    yield open_
    for context in contexts:
        context.close()
