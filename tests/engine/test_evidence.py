"""What lies on the disk after two runs is compared, and what is wrong is named by its event."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.evidence import (
    JOURNAL,
    LETTERS,
    OUTPUT,
    TRACE,
    Comparison,
    Left,
    Shape,
    Varying,
    compare,
    fields_of,
    varying,
    without,
)
from millstream.engine.order import Order
from millstream.engine.tracing import digest_of

COUNT = 12
KEYS = 3
DEAD = (4, 9)
FILTERED = (5,)
Lines = list[bytes]
LIVE = [n for n in range(COUNT) if n not in (*DEAD, *FILTERED)]


def event(n: int) -> bytes:
    return json.dumps({"n": n, "key": f"k{n % KEYS}"}).encode()


def result(n: int) -> bytes:
    return json.dumps({"of": n}).encode() + b"\n"


def letter(n: int, **more: Any) -> bytes:
    whole = {
        "event": {"n": n},
        "source": "in",
        "position": {"index": n, "line": n + 1},
        "key": f"k{n % KEYS}",
        "stage": "charge",
        "error": {"type": "ValueError", "message": f"no {n}"},
        "first_at": f"2026-01-01T00:00:{n:02}Z",
    }
    return json.dumps({**whole, **more}).encode() + b"\n"


def run_in(
    folder: Path,
    lines: Lines | None = None,
    letters: Lines | None = None,
    called: Sequence[int] = range(COUNT),
) -> Left:
    """What a run leaves in a folder; as an undisturbed one when nothing else is said."""
    folder.mkdir(exist_ok=True)
    left, digest = Left(folder), digest_of("charge")
    left.path(OUTPUT).write_bytes(b"".join([result(n) for n in LIVE] if lines is None else lines))
    left.path(LETTERS).write_bytes(b"".join(map(letter, DEAD) if letters is None else letters))
    left.path(TRACE).write_bytes(b"".join(digest(event(n)) for n in called))
    rows = [json.dumps(["in", n + 1, f"k{n % KEYS}", 1]).encode() + b"\n" for n in LIVE]
    left.path(JOURNAL).write_bytes(b"".join(rows))
    return left


def shape(
    order: Order = "key",
    *,
    in_order: bool = False,
    apart: bool = False,
    inputs: tuple[str, ...] = (),
) -> Shape:
    return Shape(order, in_order, apart, "charge", inputs, (("key",),))


def compared(folder: Path, other: Left, how: Shape | None = None) -> Comparison:
    return compare(run_in(folder / "base"), other, how or shape(), [other.calls])


def named(comparison: Comparison) -> list[tuple[str, int | None, Any]]:
    return [(found.kind, found.line, found.key) for found in comparison.findings]


def lines(numbers: Sequence[int] = LIVE) -> Lines:
    return [result(n) for n in numbers]


def swapped(one: int, two: int) -> Lines:
    made = {one: two, two: one}
    return lines([made.get(n, n) for n in LIVE])


def test_the_same_is_no_finding(tmp_path: Path) -> None:
    comparison = compared(tmp_path, run_in(tmp_path / "other"))

    assert comparison.is_clean
    assert comparison.findings == []
    assert (comparison.calls, comparison.repeated) == (COUNT, 0)


def test_letters_may_come_in_another_order_at_another_time(tmp_path: Path) -> None:
    letters = [letter(n, first_at="later", run="x", attempts=2) for n in reversed(DEAD)]

    assert compared(tmp_path, run_in(tmp_path / "other", letters=letters)).is_clean


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ({"lines": lines([n for n in LIVE if n != 7])}, [("lost", 8, "k1")]),
        ({"lines": [*lines(), result(7)]}, [("duplicated", 8, "k1")]),
        ({"lines": [*lines(), b"{}\n"]}, [("unexpected", None, None)]),
        ({"lines": swapped(0, 3)}, [("order", 1, "k0")]),
        ({"letters": [letter(4)]}, [("letter-lost", 10, "k0")]),
        ({"letters": [letter(4), letter(9), letter(9)]}, [("letter-duplicated", 10, "k0")]),
        ({"letters": [letter(4), letter(9), letter(2)]}, [("letter-unexpected", 3, "k2")]),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, left: dict[str, Lines], found: list[tuple[str, int | None, Any]]
) -> None:
    comparison = compared(tmp_path, run_in(tmp_path / "other", **left))

    assert named(comparison) == found
    assert comparison.counts == {kind: 1 for kind, _, _ in found}


def test_what_is_wrong_is_told_in_words(tmp_path: Path) -> None:
    other = run_in(tmp_path / "other", [*lines([n for n in LIVE if n != 7]), b"{}\n", result(0)])

    assert [found.words for found in compared(tmp_path, other).findings] == [
        "in line 8 (key 'k1'): its result is not in the output: {\"of\": 7}",
        "in line 1 (key 'k0'): its result stands in the output again, in line 10",
        "line 9 of the output is foreign to the undisturbed run: {}",
    ]


@settings(max_examples=30)
@given(st.permutations(LIVE))
def test_a_mere_swap_between_keys_is_no_finding(
    tmp_path_factory: pytest.TempPathFactory, shuffled: list[int]
) -> None:
    own = {key: [n for n in LIVE if n % KEYS == key] for key in range(KEYS)}
    other = run_in(
        tmp_path_factory.mktemp("other"), lines([own[n % KEYS].pop(0) for n in shuffled])
    )

    assert compared(tmp_path_factory.mktemp("base"), other).is_clean


@pytest.mark.parametrize(
    ("how", "is_broken"),
    [
        (shape("none"), False),
        (shape("key"), False),
        (shape("global"), True),
        (shape("partition"), True),
        (shape("key", in_order=True), True),
        (shape("none", in_order=True), True),
    ],
)
def test_what_a_swap_between_keys_breaks_is_up_to_the_order(
    tmp_path: Path, how: Shape, is_broken: bool
) -> None:
    comparison = compared(tmp_path, run_in(tmp_path / "other", swapped(0, 1)), how)

    assert ("order" in comparison.counts) is is_broken


def test_inputs_that_are_read_side_by_side_have_no_order_among_each_other(tmp_path: Path) -> None:
    base = run_in(tmp_path / "base")
    rows = [[f"p{n % 2}", n + 1, "same key", 1] for n in LIVE]
    base.path(JOURNAL).write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    other = run_in(tmp_path / "other", swapped(0, 1))
    within = run_in(tmp_path / "within", swapped(0, 2))

    for order in ("key", "partition", "global"):
        assert compare(base, other, shape(order, apart=True), [COUNT]).is_clean
        found = compare(base, within, shape(order, apart=True), [COUNT])
        assert [(each.source, each.line) for each in found.findings] == [("p0", 1)]


def test_results_of_one_event_have_an_order_even_where_none_is_promised(tmp_path: Path) -> None:
    base = run_in(tmp_path / "base", [b"a\n", b"b\n", b"c\n"])
    base.path(JOURNAL).write_bytes(b'["in",1,null,2]\n["in",2,null,1]\n')
    apart = run_in(tmp_path / "apart", [b"c\n", b"a\n", b"b\n"])
    turned = run_in(tmp_path / "turned", [b"b\n", b"a\n", b"c\n"])

    assert compare(base, apart, shape("none"), [COUNT]).is_clean
    assert compare(base, turned, shape("none"), [COUNT]).counts == {"order": 1}


def test_the_head_of_csv_and_records_of_several_lines_are_seen(tmp_path: Path) -> None:
    base = run_in(tmp_path / "base", [b"id,text\n", b'1,"a\n', b'b"\n', b"2,c\n"])
    base.path(JOURNAL).write_bytes(b'["in",2,"k",2]\n["in",4,"j",1]\n')
    other = run_in(tmp_path / "other", [b"id,text\n", b'1,"a\n', b'b"\n', b"2,c\n", b"id,text\n"])
    less = run_in(tmp_path / "less", [b"id,text\n", b'1,"a\n', b'b"\n'])

    again = compare(base, other, shape(), [COUNT]).findings
    assert [(each.kind, each.source) for each in again] == [("duplicated", None)]
    lost = compare(base, less, shape(), [COUNT]).findings
    assert [(each.kind, each.line, each.key) for each in lost] == [("lost", 4, "j")]


def test_bytes_count_where_the_order_is_that_of_the_input(tmp_path: Path) -> None:
    other = run_in(tmp_path / "other")
    other.path(OUTPUT).write_bytes(b"".join(lines())[:-1])

    found = compared(tmp_path, other, shape(in_order=True)).counts

    assert found == {"lost": 1, "unexpected": 1}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_filtered_event_that_no_handler_saw_is_named(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    source = tmp_path / "in"
    source.write_bytes(pack(b"".join(event(n) + b"\r\n" for n in range(COUNT))))
    other = run_in(tmp_path / "other", called=[n for n in range(COUNT) if n != 5])

    found = compared(tmp_path, other, shape(inputs=(str(source),))).findings

    assert [(each.kind, each.source, each.line, each.key) for each in found] == [
        ("never-handled", str(source), 6, "k2")
    ]


def test_a_call_that_is_of_no_line_is_told_all_the_same(tmp_path: Path) -> None:
    other = run_in(tmp_path / "other", called=range(1, COUNT))

    assert [found.words for found in compared(tmp_path, other).findings] == [
        "a call that the undisturbed run makes of a handler was never made"
    ]


def test_calls_that_came_again_are_put_down_to_the_kill_before(tmp_path: Path) -> None:
    base = run_in(tmp_path / "base")
    other = run_in(tmp_path / "other", called=[*range(6), *range(4, 9), *range(3, COUNT)])

    found = compare(base, other, shape(), [6, 11, 20])

    assert found.is_clean
    assert (found.calls, found.base_calls, found.repeated) == (20, COUNT, 8)
    assert found.most_by_one_kill == 6


# --- handlers that give other results for the same event


def stamped(at: int, n: int) -> bytes:
    return json.dumps({"of": n, "at": at + n, "in": {"host": "h", "pid": at}}).encode() + b"\n"


def test_fields_that_vary_are_found_and_left_out(tmp_path: Path) -> None:
    one, two = (run_in(tmp_path / f"{at}", [stamped(at, n) for n in LIVE]) for at in (10, 20))
    other = run_in(tmp_path / "other", [stamped(30, n) for n in LIVE if n != 7])

    varied = varying(one, two, shape())

    assert varied.names == ["at", "in.pid"]
    found = compare(one, other, shape(), [COUNT], without(varied.fields))
    assert named(found) == [("lost", 8, "k1")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lines": [*lines(LIVE[:-1]), b'{"other": 1}\n']}, "in more than some fields"),
        ({"lines": [*lines(LIVE[:-1]), b"text\n"]}, "in more than some fields"),
        ({"lines": lines(LIVE[:-1])}, "in more than some fields"),
        ({"letters": [letter(4)]}, "it fails for 1 event in one of two undisturbed runs only"),
        ({"called": range(COUNT - 1)}, "called for other events"),
        ({"called": range(COUNT + 1)}, "called for other events"),
    ],
)
def test_runs_that_differ_in_more_than_fields_can_not_be_compared(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    one, two = run_in(tmp_path / "one"), run_in(tmp_path / "two", **change)

    assert said in varying(one, two, shape()).otherwise


def test_undisturbed_runs_that_are_alike_vary_in_nothing(tmp_path: Path) -> None:
    assert varying(run_in(tmp_path / "1"), run_in(tmp_path / "2"), shape()) == Varying()


def test_other_counts_of_results_can_not_be_compared(tmp_path: Path) -> None:
    one, two = run_in(tmp_path / "one"), run_in(tmp_path / "two")
    two.path(JOURNAL).write_bytes(msgspec.json.encode(["in", 1, "k0", 2]) + b"\n")

    assert "more results, or fewer" in varying(one, two, shape()).otherwise


def test_fields_that_are_ignored_may_vary_in_any_way(tmp_path: Path) -> None:
    rows = [[b'{"of":1,"in":{"a":1}}\n', b'{"of":2}\n'], [b'{"of":1,"in":7}\n', b'{"of":3}\n']]
    one, two = (run_in(tmp_path / f"{at}", lines) for at, lines in enumerate(rows))

    assert varying(one, two, shape(), fields_of(["in"])).names == ["of"]
    assert varying(one, two, shape(), fields_of(["in", "of"])) == Varying()


def later_calls(left: Left, *lines: bytes) -> Left:
    """With calls of a later stage, that carry what a handler made."""
    digest = digest_of("store", is_first=False)
    with left.path(TRACE).open("ab") as file:
        file.write(b"".join(map(digest, lines)))
    return left


def test_calls_with_what_a_handler_made_may_vary_and_are_left_out(tmp_path: Path) -> None:
    one, two, other, less = (
        later_calls(run_in(tmp_path / name, called=called), name.encode())
        for name, called in (
            *((name, range(COUNT)) for name in ("one", "two")),
            ("other", [*range(6), *range(4, COUNT)]),
            ("less", range(COUNT - 1)),
        )
    )

    assert varying(one, two, shape()) == Varying(calls=True)
    assert compare(one, other, shape(), [15]).counts == {"never-handled": 1}
    found = compare(one, other, shape(), [6, 15], first_stage_only=True)
    assert (found.counts, found.reached, found.kept) == ({}, [6, 14], [4, 12])
    assert (found.calls, found.base_calls, found.repeated) == (14, COUNT, 2)
    lost = compare(one, less, shape(), [COUNT], first_stage_only=True)
    assert lost.counts == {"never-handled": 1}


# --- CSV


def csv_run(folder: Path, rows: Lines, head: bytes = b"of;at;text\n") -> Left:
    left = run_in(folder, [head, *rows])
    entries = [json.dumps(["in", n + 2, "k", 1]).encode() + b"\n" for n in range(len(rows))]
    left.path(JOURNAL).write_bytes(b"".join(entries))
    return left


def test_columns_that_vary_are_found_by_name_and_left_out(tmp_path: Path) -> None:
    one, two, other = (
        csv_run(tmp_path / at, [b'%d;%b;"a;b"\n' % (n, at.encode()) for n in numbers])
        for at, numbers in (("1", range(5)), ("2", range(5)), ("3", [0, 1, 3, 4]))
    )

    found = varying(one, two, shape())

    assert found.names == ["at"]
    assert one.columns() is not None
    mask = without(found.fields, one.columns())
    assert compare(one, other, shape(), [COUNT], mask).counts == {"lost": 1}


@pytest.mark.parametrize(
    ("rows", "head"),
    [
        ([b'1;AT;"a\n', b'b;2;c"\n'], b"of;at;text\n"),
        ([b"1;AT\n"], b"of;at;text\n"),
        ([b"1;AT;\n"], b"of;at;at\n"),
        ([b"1;AT;\n"], b'of;at;"text\n'),
    ],
)
def test_rows_that_are_no_plain_lines_can_not_be_compared_by_column(
    tmp_path: Path, rows: Lines, head: bytes
) -> None:
    one, two = (
        csv_run(tmp_path / at, [row.replace(b"AT", at.encode()) for row in rows], head)
        for at in "12"
    )

    assert varying(one, two, shape()).otherwise


def test_a_head_that_stands_elsewhere_is_seen_where_bytes_count(tmp_path: Path) -> None:
    base = run_in(tmp_path / "base", [b"of\n", b"1\n"])
    base.path(JOURNAL).write_bytes(b'["in",2,"k",1]\n')
    other = run_in(tmp_path / "other", [b"1\n", b"of\n"])

    assert compare(base, other, shape(in_order=True), [COUNT]).counts == {"bytes": 1}
    assert compare(base, other, shape(), [COUNT]).is_clean
