"""The formats that reports come in: one line each, its writer imported when it is asked for.

Writers are pure: result objects and their names in, the bytes of a file out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import PurePath
from typing import Any, Final, Protocol

from msgspec import Struct

AUDIT: Final = "millstream.audit/1"


class ReportError(Exception):
    """No report of that format can be made; the message says why, and what to do."""


class Writer(Protocol):
    """Makes a report. Raises ReportError."""

    def __call__(self, results: Sequence[Mapping[str, Any]], names: Sequence[str], /) -> bytes: ...


class Format(Struct, frozen=True):
    """A format, and where its writer is."""

    name: str
    suffix: str
    module: str
    function: str
    takes_audits: bool = False
    """Whether it can also be made of what `audit --json` writes."""


FORMATS: Final[Mapping[str, Format]] = {
    each.name: each
    for each in (
        Format("html", ".html", "html", "html_report", takes_audits=True),
        Format("markdown", ".md", "markdown", "markdown_report"),
        Format("junit", ".xml", "junit", "junit_report"),
        Format("pytest-benchmark", ".json", "pytest_benchmark", "pytest_benchmark_report"),
        Format("hgrm", ".hgrm", "hdr_files", "hgrm_report"),
        Format("hlog", ".hlog", "hdr_files", "hlog_report"),
        Format("text", ".txt", "text", "text_report", takes_audits=True),
    )
}


def format_of(path: str, asked_for: str | None = None) -> Format:
    """The format of a file: the one asked for, else by its suffix. Raises ReportError."""
    if asked_for is not None:
        if asked_for not in FORMATS:
            known = ", ".join(FORMATS)
            raise ReportError(f"there is no format {asked_for!r}; there are {known}")
        return FORMATS[asked_for]
    suffix = PurePath(path).suffix.lower()
    for each in FORMATS.values():
        if each.suffix == suffix:
            return each
    known = ", ".join(f"{each.suffix} ({each.name})" for each in FORMATS.values())
    raise ReportError(f"the name {path!r} says no format; let it end in one of {known}")


def write_report(
    format: Format, results: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> bytes:
    """The report of one or more results; `names` tell them apart. Raises ReportError."""
    audits = [
        name for name, result in zip(names, results, strict=True) if result["schema"] == AUDIT
    ]
    if audits and not format.takes_audits:
        able = " and ".join(each.name for each in FORMATS.values() if each.takes_audits)
        raise ReportError(
            f"{audits[0]} is an audit, and the format {format.name} is for results; "
            f"audits can be had as {able}"
        )
    writer: Writer = getattr(import_module(f".{format.module}", __package__), format.function)
    return writer(results, names)
