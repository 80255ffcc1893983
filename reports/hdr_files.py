"""The response times that results hold, for HdrHistogram's tools.

An .hgrm file has those of all results together, an .hlog file an interval for each run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from millstream.engine.histogram import Histogram
from millstream.engine.histogram_codec import decoded

from .formats import ReportError
from .hdr import IntervalHistogram, hgrm, hlog


def hgrm_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """The percentiles of the response, of all results together."""
    whole = Histogram()
    for result, name in zip(results, names, strict=True):
        whole.merge(response_of(result, name))
    return hgrm(whole).encode()


def hlog_report(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bytes:
    """An interval for each result, in the order in which they were made; of several, each has its
    name as its tag."""
    found = sorted(
        (
            (_started_s(result, name), result["duration_ns"] / 1e9, response_of(result, name), name)
            for result, name in zip(results, names, strict=True)
        ),
        key=lambda each: each[0],
    )
    first = found[0][0]
    tagged = len(found) > 1
    intervals = [
        IntervalHistogram(started - first, seconds, response, _tag(name) if tagged else None)
        for started, seconds, response, name in found
    ]
    try:
        return hlog(intervals, first, "response time").encode()
    except ValueError as error:
        raise ReportError(f"no interval log can be made: {error}") from error


def response_of(result: Mapping[str, Any], name: str) -> Histogram:
    """The response times of a result. Raises ReportError when it has none, with advice."""
    if result["response"] is None:
        raise ReportError(
            f"{name} has no response times: there was no schedule; give the run a --rate"
        )
    text = (result.get("histograms") or {}).get("response")
    if text is None:
        raise ReportError(
            f"{name} holds no histogram: it is of an earlier version (millstream "
            f"{result['version']}), which kept figures alone; make the run anew"
        )
    return decoded(text)


def _started_s(result: Mapping[str, Any], name: str) -> float:
    """When a run began, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(result["started_at"].replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError) as error:
        raise ReportError(f"{name} does not say when it began: {error}") from error


def _tag(name: str) -> str:
    """The name as the format takes it: without commas and white space."""
    return re.sub(r"[^\x21-\x2b\x2d-\x7e]+", "_", name) or "_"
