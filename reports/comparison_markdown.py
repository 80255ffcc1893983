"""A comparison in GitHub's Markdown, for a pull request: verdict first, details folded. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .comparison import Compared, Comparison
from .comparison_words import EACH, TOGETHER, doubts, headline, outcome_words, row_of
from .markdown import escaped
from .run_sets import RunSet
from .texts import shortened

_ALIGNED = "| --- | ---: | ---: | ---: | ---: | --- |"
_MARKS = {"held": "❌", "undecided": "⚠️", "not held": "✅"}
_MOST_LEFT_OUT = 20
_MOST = 400


def markdown_of(comparison: Comparison) -> str:
    """The whole text, ended by a newline."""
    parts = [f"### {headline(comparison)}"]
    if comparison.gates:
        parts.append("\n".join(_gate_lines(comparison)))
    doubtful = doubts(comparison)
    if doubtful:
        parts.append("\n".join(f"- ⚠️ {_shown(each)}" for each in doubtful))
    parts.append(_table(comparison.primary))
    parts.append(
        f"<sub>Medians of runs; {TOGETHER}; a difference counts beyond {_noise(comparison)}.</sub>"
    )
    if comparison.additional:
        parts.append(_folded(EACH.capitalize(), _table(comparison.additional)))
    parts.append(_folded("What was compared", _compared(comparison)))
    return "\n\n".join(parts) + "\n"


def _gate_lines(comparison: Comparison) -> list[str]:
    return [
        f"- {_MARKS[each.state]} `--fail-if` <code>{_shown(each.gate.text)}</code>: "
        f"{outcome_words(each)}"
        for each in comparison.gates
    ]


def _noise(comparison: Comparison) -> str:
    return f"{100 * comparison.noise:g} %"


def _table(figures: Sequence[Compared]) -> str:
    lines = ["| figure | base | candidate | difference | interval | |", _ALIGNED]
    for row in map(row_of, figures):
        word = f"**{row.word}**" if row.direction else row.word
        cells = (f"`{row.name}`", row.base, row.candidate, row.difference, row.interval, word)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def _compared(comparison: Comparison) -> str:
    lines = ["| | base | candidate |", "| --- | --- | --- |"]
    sets = (comparison.base, comparison.candidate)
    lines.append(_facts("results", [each.label for each in sets]))
    lines.append(_facts("runs", [f"{len(each.runs):,}" for each in sets]))
    lines.append(_facts("millstream", [", ".join(each.versions) for each in sets]))
    names = dict.fromkeys(name for each in sets for name in each.work)
    lines += [_facts(name, [each.work.get(name, "-") for each in sets]) for name in names]
    return "\n".join([*lines, *_left_out(sets)])


def _facts(name: str, texts: Sequence[str]) -> str:
    return f"| {_shown(name)} | {' | '.join(map(_shown, texts))} |"


def _left_out(sets: Sequence[RunSet]) -> list[str]:
    """Rows of runs that were left out, the first ones of them."""
    rows = []
    for place, each in enumerate(sets):
        for one in each.left_out[:_MOST_LEFT_OUT]:
            trial = "" if one.trial is None else f" trial {one.trial}"
            cells = ["", ""]
            cells[place] = f"{one.source}{trial}: {one.why}"
            rows.append(_facts("left out", cells))
    return rows


def _shown(text: str) -> str:
    """A text that holds others' in a line."""
    return escaped(shortened(text, _MOST))
