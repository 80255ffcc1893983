"""A comparison as JSON, schema `millstream.compare/1`, held by compare.schema.json. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from .comparison import LEVEL, Compared, Comparison
from .comparison_words import headline
from .gates import GateOutcome
from .intervals import Interval, Median
from .run_figures import UNITS
from .run_sets import RunSet

SCHEMA: Final = "millstream.compare/1"
SCHEMA_FILE: Final = Path(__file__).with_name("compare.schema.json")


def json_of(comparison: Comparison) -> dict[str, Any]:
    """The whole object."""
    return {
        "schema": SCHEMA,
        "verdict": comparison.verdict,
        "said": headline(comparison),
        "level": LEVEL,
        "noise": comparison.noise,
        "base": _set(comparison.base),
        "candidate": _set(comparison.candidate),
        "differences": [
            {"what": each.what, "base": each.base, "candidate": each.candidate}
            for each in comparison.differences
        ],
        "figures": [_figure(each) for each in comparison.figures],
        "conditions": [_condition(each) for each in comparison.gates],
        "notes": list(comparison.notes),
    }


def _set(runs: RunSet) -> dict[str, Any]:
    return {
        "label": runs.label,
        "runs": len(runs.runs),
        "results": list(dict.fromkeys(run.source for run in runs.runs)),
        "left_out": [
            {"source": each.source, "trial": each.trial, "why": each.why} for each in runs.left_out
        ],
        "versions": list(runs.versions),
        "seeds": list(runs.seeds),
        "work": dict(runs.work),
    }


def _figure(compared: Compared) -> dict[str, Any]:
    percent = compared.percent
    return {
        "name": compared.figure.name,
        "meaning": compared.figure.meaning,
        "unit": UNITS[compared.figure.kind],
        "better": "higher" if compared.figure.higher_is_better else "lower",
        "primary": compared.is_primary,
        "word": compared.word,
        "direction": compared.direction or None,
        "note": compared.note,
        "level": compared.level,
        "base": _median(compared.base),
        "candidate": _median(compared.candidate),
        "shift": {"value": compared.shift.value, **_ends(compared.shift.interval)},
        "percent": None if percent is None else {"value": percent[0], **_ends(percent[1])},
    }


def _median(median: Median) -> dict[str, Any]:
    return {"median": median.value, **_ends(median.interval)}


def _ends(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"low": None, "high": None}
    return {"low": interval.low, "high": interval.high}


def _condition(outcome: GateOutcome) -> dict[str, Any]:
    gate = outcome.gate
    return {
        "text": gate.text,
        "figure": gate.figure.name,
        "unit": "%" if gate.is_percent else UNITS[gate.figure.kind],
        "amount": gate.amount,
        "observed": outcome.observed,
        **_ends(outcome.interval),
        "held": {"held": True, "not held": False}.get(outcome.state),
        "said": outcome.said,
        "runs_needed": outcome.runs_needed,
    }
