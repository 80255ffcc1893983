"""Makes the pictures of docs/gallery.md: runs its commands, and takes a picture of each report.

.venv/bin/python docs/make_gallery.py [NAME...]     (after `make browser`, which brings the browser)

All commands are run; with NAMEs, pictures are taken of these reports alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
FILE = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"\(gallery/(\w+)\.png\)")
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
WIDTH, HEIGHT = 1180, 1500
STARTS_AT = {"schedule": "#course", "unordered": "#order", "faults": "#course", "audit": "main"}
"""What a picture begins with, where that is not the top."""


def make_reports(text: str, folder: Path) -> None:
    """Run what the document shows, in `folder`."""
    for name, body in FILE.findall(text):
        (folder / name).write_text(f"# {name}\n{body}", encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in COMMANDS.findall(text):
        for command in block.splitlines():
            print(command, flush=True)
            subprocess.run(
                ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, check=True
            )


def take_pictures(folder: Path, names: list[str]) -> None:
    """One of each report, from where there is something to see."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name in names:
            page.goto((folder / f"{name}.html").as_uri())
            page.wait_for_function("document.documentElement.dataset.drawn !== undefined")
            page.evaluate(
                "at => { document.documentElement.style.scrollBehavior = 'auto';"
                " document.querySelector(at).scrollIntoView(); }",
                STARTS_AT.get(name, "body"),
            )
            page.screenshot(path=str(GALLERY / f"{name}.png"))
        browser.close()


def main() -> None:
    text = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    names = sys.argv[1:] or PICTURE.findall(text)
    with tempfile.TemporaryDirectory() as made:
        make_reports(text, Path(made))
        take_pictures(Path(made), names)


if __name__ == "__main__":
    main()
