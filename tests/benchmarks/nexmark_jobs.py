"""The queries of Nexmark as Millstream's rows run them: those of the scenario, as they are."""

from __future__ import annotations

from pathlib import Path

from millstream.engine import Pipeline
from millstream.workloads.nexmark import Nexmark


def _pipeline(query: str) -> Pipeline:
    return Nexmark({"query": query}).pipeline(Path())


q0, q1, q2, q5 = (_pipeline(query) for query in ("q0", "q1", "q2", "q5"))
