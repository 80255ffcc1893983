"""Puts a page together: parts and sections into the template, with style and scripts inside.

The one place of this folder that reads files: its own template, style, script and chart library.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from millstream.engine.result import FROM_SIGNALS

from ..audit import headline_of
from ..figures import figures
from ..units import rate
from ..verdict import verdict_sentence
from .course import course_sections
from .experiment import experiment_section
from .latency import latency_section
from .markup import shown
from .model import Chart, Part, Tile, Verdict
from .order import audit_section, order_section
from .outcome import about_section, checks_section, failures_section
from .overlay import overlay_sections

STATIC: Final = Path(__file__).with_name("static")
UPLOT: Final = STATIC / "uplot"
_AUDIT: Final = "millstream.audit/1"


def html_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """The page for `results`; `names` tell them apart, such as the files that they come from.

    A result is one of `millstream.result/1`, or an audit (`millstream.audit/1`). Keys that older
    versions did not write may be missing.
    """
    parts = [
        _part(result, name, f"r{number}-" if len(results) > 1 else "")
        for number, (result, name) in enumerate(zip(results, names, strict=True), 1)
    ]
    runs = [(n, r) for n, r in zip(_labels(results, names), results, strict=True)
            if r.get("schema") != _AUDIT]  # fmt: skip
    together = overlay_sections(runs) if len(runs) > 1 else []
    title = parts[0].name if len(parts) == 1 else f"{len(parts)} results: {_some(parts)}"
    plots = [chart for section in (*together, *(s for p in parts for s in p.sections))
             for chart in section.charts if chart.plot is not None]  # fmt: skip
    style, scripts = _style(), _scripts()
    page = _environment().get_template("report.html").render(
        title=title,
        parts=parts,
        together=together,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(style, scripts),
        plots=_plots(plots),
    )  # fmt: skip
    return page.lstrip().encode("utf-8", "replace")


def _some(parts: Sequence[Part]) -> str:
    names = list(dict.fromkeys(part.name for part in parts))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _labels(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """What tells the results apart: their own names, else those of their files."""
    own = [str(result.get("name", name)) for result, name in zip(results, names, strict=True)]
    if len(set(own)) == len(own):
        return own
    stems = [Path(name).stem or name for name in names]
    return stems if len(set(stems)) == len(stems) else [f"{n}. {s}" for n, s in enumerate(stems, 1)]


def _part(result: Mapping[str, Any], name: str, prefix: str) -> Part:
    if result.get("schema") == _AUDIT:
        return _audit_part(result, name, prefix)
    said, _, sentence = verdict_sentence(result).partition(": ")
    good = result["verdict"] == "pass" and result["exit_code"] < FROM_SIGNALS
    word = Verdict(said, good)
    sections = [
        checks_section(result, prefix),
        experiment_section(result, prefix),
        *course_sections(result, prefix),
        latency_section(result, prefix),
        order_section(result, prefix),
        failures_section(result, prefix),
        about_section(result, prefix),
    ]
    return Part(
        id=f"{prefix}top",
        name=str(result["name"]),
        facts=_facts(result, name),
        verdict=word,
        sentence=sentence[:1].upper() + sentence[1:],
        tiles=_tiles(result),
        sections=[section for section in sections if not section.is_empty],
    )


def _facts(result: Mapping[str, Any], name: str) -> list[str]:
    kind = {"bench": "benchmark", "replay": "replay"}.get(result["command"], "run")
    load = result.get("load")
    told = [kind, str(result["started_at"])[:19].replace("T", " ") + " UTC"]
    if load is not None:
        asked = "as fast as it can" if load["rate"] is None else rate(load["rate"])
        told.append(asked if not load["open"] else f"{load['arrivals']} arrivals, {asked}")
    told.append(f"{result['host']['cpus']} cores, Python {result['host']['python']}")
    return [*told, name] if name else told


def _tiles(result: Mapping[str, Any]) -> list[Tile]:
    tiles = []
    for figure in figures(result):
        checks = [Verdict(f"{check.text}: {check.said}", check.ok) for check in figure.checks]
        tiles.append(Tile(figure.label, figure.text, checks))
    return tiles


def _audit_part(audit: Mapping[str, Any], name: str, prefix: str) -> Part:
    headline = headline_of(audit)
    good = headline.endswith("in order")
    checked = [
        ("events", audit["events"], None),
        ("reordered", audit["reordered"], not audit["reordered"]),
        ("duplicates", audit["duplicates"], not audit["duplicates"]),
        ("beyond the window", audit["unknown"], None),
    ]
    delivery = audit.get("delivery") or {}
    checked += [(kind, delivery[kind], not delivery[kind])
                for kind in ("lost", "unexpected") if kind in delivery]  # fmt: skip
    tiles = [
        Tile(label, f"{value:,}", [] if ok is None else [Verdict("none" if ok else "some", ok)])
        for label, value, ok in checked
    ]
    return Part(
        id=f"{prefix}top",
        name="Audit",
        facts=[fact for fact in ("order and delivery of a log", name) if fact],
        verdict=Verdict("in order" if good else "NOT IN ORDER", good),
        sentence=headline,
        tiles=tiles,
        sections=[audit_section(audit, prefix)],
    )


def _plots(charts: Sequence[Chart]) -> dict[str, Any]:
    """The numbers of the plots, to four digits; times and bands that several share stand once."""
    times: list[Sequence[float]] = []
    bands: list[Any] = []
    plots = []
    for chart in charts:
        plot = chart.plot
        assert plot is not None
        own = [_place(times, list(each)) for each in plot.times]
        plots.append(
            {
                "id": chart.id,
                "unit": plot.unit,
                "log": plot.log,
                "bands": _place(bands, msgspec.to_builtins(plot.bands)),
                "lines": [
                    {
                        "label": line.label,
                        "color": line.color,
                        "times": own[line.times],
                        "values": [_rounded(value) for value in line.values],
                    }
                    for line in plot.lines
                ],
            }
        )
    return {"times": times, "bands": bands, "plots": plots}


def _place(known: list[Any], item: Any) -> int:
    if item not in known:
        known.append(item)
    return known.index(item)


def _rounded(value: float | None) -> float | int | None:
    if value is None:
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(STATIC),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> str:
    return (UPLOT / "uPlot.min.css").read_text("utf-8") + (STATIC / "report.css").read_text("utf-8")


@cache
def _scripts() -> tuple[str, ...]:
    return tuple(
        path.read_text("utf-8") for path in (UPLOT / "uPlot.iife.min.js", STATIC / "report.js")
    )


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Nothing but what is in the page, by its digest, is run or fetched."""
    own = " ".join(_digest(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {own}; style-src {_digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
