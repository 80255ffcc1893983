"""Why events became dead letters, counted."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.reasons import MOST_REASONS, Reasons

_kinds = st.tuples(st.sampled_from("abc"), st.integers(0, 40).map(lambda n: f"Error{n}"))


@given(st.lists(_kinds, max_size=300))
def test_each_dead_letter_counts_once_under_its_reason_or_the_others(
    kinds: list[tuple[str, str]],
) -> None:
    reasons = Reasons()
    for line, (stage, error) in enumerate(kinds):
        reasons.add(stage, error, f"at {line}", "events.jsonl", line)

    report = reasons.report(len(kinds))

    wanted, counts = Counter(kinds), [each["count"] for each in report["reasons"]]
    assert sum(counts) + report["others"] == len(kinds)
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == min(len(wanted), MOST_REASONS)
    for each in report["reasons"]:
        kind = each["stage"], each["error"]
        assert each["count"] == wanted[kind]
        assert each["message"] == f"at {kinds.index(kind)}"


def test_a_long_message_is_cut_off() -> None:
    reasons = Reasons()

    reasons.add("score", "ValueError", "x" * 10_000_000, "events.jsonl", 1)

    assert len(reasons.report(1)["reasons"][0]["message"]) < 400
