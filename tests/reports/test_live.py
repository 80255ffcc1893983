"""The lines of a live view: what they say, and that they fit any terminal and any names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from millstream.engine.observer import Details
from millstream.reports.live import Course, Figures, lines_of, safe, slots_of
from tests.support.details import S, counted, counts, details, stage_details


def figures(*told: Details, slots: int = 30) -> Figures:
    """What a course says of the last of them."""
    course = Course()
    for each in told:
        found = course.tell(each, slots)
    return found


def shown(found: Figures, width: int = 100, height: int = 24, title: str = "job") -> list[str]:
    """The lines as plain text."""
    return ["".join(text for text, _ in line) for line in lines_of(title, found, width, height)]


def busy(**changes: Any) -> Details:
    """A run with something of everything, in the middle."""
    facts: dict[str, Any] = {
        "done": 20_000,
        "backlog": 266,
        "share": 0.25,
        "counts": counts(read=20_266, handled=20_000, filtered=500, emitted=19_497, retried=12,
                         dead_lettered=3),
        "response": counted([2_000_000] * 99 + [50_000_000]),
        "loop_lag": counted([1_200_000]),
        "bytes_read": 2**20,
        "offered": 20_300,
        "stages": [
            stage_details("check", handled=20_200, service=counted([1_000] * 10)),
            stage_details("score", executor="process", workers=4, alive=4, waiting=200,
                          in_flight=66, handled=20_000, service=counted([30_000] * 10)),
        ],
    }  # fmt: skip
    return details(**{**facts, **changes})


def test_a_wide_terminal_shows_all() -> None:
    lines = shown(figures(busy()))

    assert lines == [
        "job   ━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌   0:10   25%   0:30 left",
        "rate      2,000/s now   2,030/s offered   2,000/s on average   1 MiB read",
        lines[2],
        "events    20,266 read   20,000 handled   500 filtered out   19,497 written   12 retried",
        "response  p50 2 ms   p99 2 ms   max 50 ms",
        "backlog   266   3 dead letters",
        "machine   50 MiB   4 workers   loop lag 1.2 ms",
        "stage  executor     waiting  in flight  handled  service p50    p99",
        "check  inline             0          0   20,200         1 µs   1 µs",
        "score  process × 4      200         66   20,000        30 µs  30 µs",
    ]
    assert lines[2].endswith("a minute")


def test_a_narrow_and_low_terminal_shows_what_matters_most() -> None:
    lines = shown(figures(busy()), width=59, height=11)

    assert lines[0].startswith("job   ━━")
    assert "backlog   266   3 dead letters" in lines
    assert lines[-2:] == [
        "check        0          0   20,200         1 µs   1 µs",
        "score      200         66   20,000        30 µs  30 µs",
    ]


@given(
    width=st.integers(1, 160),
    height=st.integers(1, 40),
    names=st.lists(st.text(max_size=30), min_size=1, max_size=12),
    title=st.text(max_size=60),
)
def test_whatever_the_terminal_and_the_names_the_view_fits(
    width: int, height: int, names: list[str], title: str
) -> None:
    stages = [stage_details(name, waiting=9**7, handled=10**9) for name in names]
    found = figures(busy(stages=stages), slots=slots_of(width))

    lines = shown(found, width, height, title)

    assert 1 <= len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)


def test_where_stages_do_not_fit_the_busiest_are_shown() -> None:
    stages = [stage_details(f"s{number}", waiting=number % 7) for number in range(20)]

    lines = shown(figures(details(stages=stages)), height=12)

    assert [line.split()[0] for line in lines[-5:-1]] == ["s5", "s6", "s12", "s13"]
    assert lines[-1] == "and 16 more stages"


@pytest.mark.parametrize("name", ["\x1b[2Jgone", "a\rb", "a\nb", "\u202egnp.exe", "\x9b31m"])
def test_no_name_can_steer_the_terminal(name: str) -> None:
    lines = shown(figures(busy(stages=[stage_details(name)])), title=name)

    assert all(line.isprintable() for line in lines)
    assert safe(name) in lines[-1]


def test_figures_are_those_of_the_last_interval() -> None:
    before = busy(
        at_ns=100 * S,
        done=1_000,
        response=counted([1_000]),
        stages=[stage_details("score", service=counted([1_000] * 100))],
    )
    now = busy(
        at_ns=102 * S,
        done=1_500,
        response=counted([1_000, 3_000_000]),
        stages=[stage_details("score", service=counted([1_000] * 100 + [40_000]))],
    )

    found = figures(before, now)

    assert (found.rate, found.average) == (250.0, 150.0)
    assert found.stages[0].p50 == found.stages[0].p99 == pytest.approx(40_000, rel=1e-3)
    assert found.response == (pytest.approx(3_000_000, rel=1e-3),) * 3


def test_an_interval_in_which_nothing_was_handled_has_no_percentiles() -> None:
    lines = shown(figures(busy(at_ns=100 * S), busy(at_ns=101 * S)))

    assert "response  p50 –   p99 –   max –" in lines
    assert re.search(r"^score .* –\s+–$", lines[-1])


def test_the_last_minute_is_drawn_by_its_seconds() -> None:
    course = Course()
    done = 0
    for second in range(90):
        done += 100 if second < 60 else 400
        found = course.tell(details(at_ns=1000 * S + second * S, done=done), 60)

    assert found.bars[-29:-1] == pytest.approx([400.0] * 28)
    assert found.bars[:28] == pytest.approx([100.0] * 28)


def test_before_the_run_began_there_is_nothing_to_be_drawn() -> None:
    found = figures(*(details(at_ns=1000 * S + n * S, done=n) for n in range(5)), slots=60)

    assert found.bars[:55] == [None] * 55
    assert re.fullmatch(r" {10}█+   a minute", shown(found)[2])


def test_a_warm_up_is_told_of() -> None:
    (title, *_) = shown(figures(busy(warmup_left_ns=2 * S)))

    assert "warm-up, 2 s left" in title


def test_cores_are_those_used_since_memory_was_last_looked_at() -> None:
    told = [busy(at_ns=100 * S, cpu_ns=5 * S), busy(at_ns=102 * S, cpu_ns=8 * S)]

    assert any("1.5 cores" in line for line in shown(figures(*told)))
