"""A page in a browser: what it did and asked for, what is painted on it, and how it is laid out.

Needs no playwright to be imported: pages and contexts are handed in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

CHROMIUM: Final = "/usr/bin/chromium"
ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Seen(Struct):
    """A page that is open, and what was noticed of it since before it was loaded."""

    page: Any
    """playwright's Page."""
    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for, itself left out."""
    errors: list[str] = field(default_factory=list)
    """Errors and warnings of its scripts and on its console, and dialogs."""

    def ask(self, script: str, argument: Any = None) -> Any:
        """What a function or expression of JavaScript gives back."""
        return self.page.evaluate(script, argument)

    def wait(self, script: str, argument: Any = None) -> None:
        """Until it is true. Playwright's own waiting evaluates texts in the page, which its policy
        forbids from the second look on."""
        ends = time.monotonic() + 30
        while not self.page.evaluate(script, argument):
            assert time.monotonic() < ends, f"never became true: {script}"
            self.page.wait_for_timeout(20)

    def open_tables(self) -> None:
        self.ask("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


Open = Callable[..., Seen]
"""The fixture `opened`: opens a file, with a `width` and options of playwright's context."""


def watched(context: Any, path: Path, *, script: bool = True) -> Seen:
    """Open a file and wait until all is drawn, where scripts may run."""
    page, own = context.new_page(), path.as_uri()
    seen = Seen(page)

    def asked(route: Any) -> None:
        if route.request.url == own:
            route.continue_()
        else:
            seen.requests.append(route.request.url)
            route.abort()

    def told(message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            seen.errors.append(f"{message.type}: {message.text}")

    def dialog(shown: Any) -> None:
        seen.errors.append(f"dialog: {shown.message}")
        shown.dismiss()

    context.route("**/*", asked)
    page.on("console", told)
    page.on("pageerror", lambda error: seen.errors.append(f"page error: {error}"))
    page.on("dialog", dialog)
    page.on("popup", lambda other: seen.errors.append(f"popup: {other.url}"))
    page.goto(own)
    if script:
        seen.wait("document.documentElement.dataset.drawn !== undefined")
        seen.ask(FRAMES)
    return seen


FRAMES: Final = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Over when what was set is drawn: uPlot draws when the script that set it is over."""

PLOTS: Final = "JSON.parse(document.getElementById('plots').textContent).plots"

LINES_SHOWN: Final = f"""async () => {{
  const frames = () => {FRAMES};
  const style = getComputedStyle(document.documentElement);
  const painted = (canvas, name) => {{
    const probe = document.createElement('canvas').getContext('2d');
    probe.fillStyle = style.getPropertyValue(name).trim();
    probe.fillRect(0, 0, 1, 1);
    const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
    const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const parts = [r, g, b];
    const far = (at) => parts.reduce((sum, each, i) => sum + Math.abs(all[at + i] - each), 0);
    let count = 0;
    for (let at = 0; at < all.length; at += 4) if (all[at + 3] > 60 && far(at) < 40) count++;
    return count;
  }};
  const found = [];
  for (const spec of {PLOTS}) {{
    const figure = document.getElementById(spec.id);
    const buttons = [...figure.querySelectorAll('.legend button')];
    buttons.forEach((button) => button.click());
    await frames();
    const canvas = () => figure.querySelector('canvas');
    for (const [number, line] of spec.lines.entries()) {{
      const without = painted(canvas(), '--c' + line.color);
      buttons[number].click();
      await frames();
      const known = line.values.filter((value) => value !== null).length;
      const shown = painted(canvas(), '--c' + line.color) - without;
      found.push({{ plot: spec.id, label: line.label, known, shown }});
      buttons[number].click();
      await frames();
    }}
    buttons.forEach((button) => button.click());
    await frames();
    found.push({{ plot: spec.id, axes: painted(canvas(), '--ink') }});
  }}
  return found;
}}"""
"""For each line of each plot, how many pixels more have its colour when it alone is shown than when
none is; and for each plot how many have the colour of the axes' labels."""

CUT_OFF: Final = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg.drawing')) {
    const box = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll('text')) {
      const own = text.getBoundingClientRect();
      const out = own.left < box.left - 1 || own.right > box.right + 1
        || own.top < box.top - 1 || own.bottom > box.bottom + 1;
      if (own.width && out) found.push(svg.closest('figure').id + ': ' + text.textContent);
    }
  }
  return found;
}"""
"""Texts of drawings that reach beyond them."""

OVERLAPPING: Final = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg.drawing')) {
    const texts = [...svg.querySelectorAll('text')].filter((each) => each.getBBox().width);
    texts.forEach((one, number) => texts.slice(number + 1).forEach((other) => {
      const a = one.getBoundingClientRect(), b = other.getBoundingClientRect();
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
        found.push(`${svg.closest('figure').id}: ${one.textContent} | ${other.textContent}`);
    }));
  }
  return found;
}"""
"""Texts of drawings that stand on one another."""

TOO_WIDE: Final = """() => {
  const room = document.documentElement.clientWidth, found = [];
  if (document.scrollingElement.scrollWidth > room)
    found.push('the page: ' + document.scrollingElement.scrollWidth);
  const kinds = 'canvas, svg, .scroll, h1, h2, h3, h4, p, li, figure';
  for (const each of document.querySelectorAll(kinds)) {
    const box = each.getBoundingClientRect();
    if (box.width && !each.closest('.unseen, .skip') && (box.right > room + 1 || box.left < -1)
        && !(each.closest('.scroll') && !each.matches('.scroll')))
      found.push(each.tagName + ' ' + (each.id || each.className.baseVal || each.className));
  }
  return found;
}"""
"""What is wider than the window, tables in their boxes left out."""

_UNITS: Final = {
    **{"ns": 1.0, "µs": 1e3, "ms": 1e6, "s": 1e9, "min": 6e10, "h": 3.6e12},
    **{"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    **{"/s": 1.0, "cores": 1.0, "core": 1.0, "": 1.0},
}


def number_in(text: str) -> float:
    """A figure as it is told to people, in ns, bytes, or as it is."""
    (found,) = re.findall(r"^([\d.,e+-]+)\s*(\D*)$", text.strip())
    return float(found[0].replace(",", "")) * _UNITS[found[1].strip()]


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours, given as #rrggbb, #rgb or rgb(r, g, b)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    if color.startswith("#"):
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[at : at + 2], 16) for at in (0, 2, 4)]
    else:
        parts = [int(part) for part in re.findall(r"\d+", color)[:3]]
    linear = [
        part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4
        for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
