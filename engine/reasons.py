"""Why events became dead letters: how many by stage and type of error, with an example of each.

Pure. Of what comes first the kinds are kept; what is of none of them is counted with the others.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

MOST_REASONS: Final = 50
_MOST_MESSAGE: Final = 300


class Reason(Struct):
    """A kind of failure."""

    stage: str
    error: str
    """The type of the error."""
    message: str
    """Of the first one, cut off after 300 characters; and where its event stood."""
    source: str
    line: int
    count: int = 0


class Reasons:
    """Counts dead letters by reason."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], Reason] = {}

    def add(self, stage: str, error: str, message: str, source: str, line: int) -> None:
        """One more dead letter."""
        kind = stage, error
        reason = self._reasons.get(kind)
        if reason is None:
            if len(self._reasons) >= MOST_REASONS:
                return
            short = message if len(message) <= _MOST_MESSAGE else message[:_MOST_MESSAGE] + " …"
            reason = self._reasons[kind] = Reason(stage, error, short, source, line)
        reason.count += 1

    def report(self, dead_letters: int) -> dict[str, Any]:
        """The reasons, most frequent ones first, and how many of so many letters have others."""
        ranked = sorted(self._reasons.values(), key=lambda each: -each.count)
        others = dead_letters - sum(each.count for each in ranked)
        return {
            "reasons": [
                {name: getattr(each, name) for name in Reason.__struct_fields__} for each in ranked
            ],
            "others": max(0, others),
        }
