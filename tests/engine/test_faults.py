"""`--inject`: what is understood, what is refused, whom it hits, and what the log keeps of it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.faults import (
    AFTERMATH_NS,
    MOST_WINDOWS,
    NEAR_NS,
    Action,
    Fault,
    FaultError,
    FaultLog,
    FaultPlan,
    InjectedError,
    draw,
    parse_fault,
)

MANY = 20_000
MS, S = 10**6, 10**9
UNITS = {"ns": 1, "us": 10**3, "ms": MS, "s": S}
SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
FORMS = {
    "error:5%": Fault("error:5%", "error", ratio=0.05),
    "error:key=K": Fault("error:key=K", "error", key="K"),
    "delay:10ms:1%": Fault("delay:10ms:1%", "delay", delay_ns=10 * MS, ratio=0.01),
    "hang": Fault("hang", "hang"),
    "hang:0.1%": Fault("hang:0.1%", "hang", ratio=0.001),
    "kill-worker@5s": Fault("kill-worker@5s", "kill-worker", at_ns=5 * S),
    "kill-worker:every=2s": Fault("kill-worker:every=2s", "kill-worker", every_ns=2 * S),
    "stop-worker@5s": Fault("stop-worker@5s", "stop-worker", at_ns=5 * S),
    "stop-worker:every=2s": Fault("stop-worker:every=2s", "stop-worker", every_ns=2 * S),
    "duplicate:1%": Fault("duplicate:1%", "duplicate", ratio=0.01),
    "drop:1%": Fault("drop:1%", "drop", ratio=0.01),
    "reorder:5": Fault("reorder:5", "reorder", width=5),
    "disk-full@10MiB": Fault("disk-full@10MiB", "disk-full", size=10 * 2**20),
}
KINDS = {fault.kind for fault in FORMS.values()}

seeds = st.integers(-(2**63), 2**64)
kinds_with_a_ratio = st.sampled_from(["error", "hang", "duplicate", "drop"])
thousandths = st.integers(1, 100_000)


def plan(*texts: str, seed: int = 7) -> FaultPlan:
    return FaultPlan.of(texts, seed)


def hit(made: FaultPlan, fault: int = 0, attempt: int = 1) -> set[int]:
    """The events whose call suffers the fault, of MANY."""
    return {
        index
        for index in range(MANY)
        if any(action.fault == fault for action in made.before_call(index, attempt, None))
    }


def is_near(count: int, ratio: float) -> bool:
    """Whether so many of MANY is what independent draws give, within 5 sigma."""
    return abs(count - MANY * ratio) <= 5 * sqrt(MANY * ratio * (1 - ratio))


def log(*texts: str) -> FaultLog:
    return FaultLog([parse_fault(text) for text in texts or ("hang",)])


def noted(moments: Sequence[int]) -> FaultLog:
    made = log()
    for at_ns in moments:
        made.note(0, at_ns)
    return made


def windows(made: FaultLog, origin_ns: int = 0) -> Any:
    return made.report(origin_ns)[0]["windows"]


@pytest.mark.parametrize("text", FORMS)
def test_every_form_is_understood(text: str) -> None:
    assert parse_fault(text) == FORMS[text]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("error:100%", Fault("error:100%", "error", ratio=1.0)),
        ("error:key=a:b", Fault("error:key=a:b", "error", key="a:b")),
        ("error:key=key=5%", Fault("error:key=key=5%", "error", key="key=5%")),
        ("error:key= a\nb@", Fault("error:key= a\nb@", "error", key=" a\nb@")),
        ("delay:1.5us:50%", Fault("delay:1.5us:50%", "delay", delay_ns=1500, ratio=0.5)),
        ("kill-worker@0s", Fault("kill-worker@0s", "kill-worker", at_ns=0)),
        ("reorder:2", Fault("reorder:2", "reorder", width=2)),
        ("disk-full@0B", Fault("disk-full@0B", "disk-full", size=0)),
        ("disk-full@1.5KiB", Fault("disk-full@1.5KiB", "disk-full", size=1536)),
    ],
)
def test_the_ends_of_what_is_possible_are_understood(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@given(kind=kinds_with_a_ratio, part=thousandths)
def test_a_ratio_comes_back_as_it_was_written(kind: str, part: int) -> None:
    fault = parse_fault(f"{kind}:{part // 1000}.{part % 1000:03}%")

    assert fault.kind == kind
    assert fault.ratio == pytest.approx(part / 100_000, rel=1e-12)


@given(kind=st.sampled_from(["kill-worker", "stop-worker"]), count=st.integers(1, 10**12))
def test_a_time_comes_back_to_the_nanosecond_in_any_unit(kind: str, count: int) -> None:
    texts = [
        f"{kind}@{count // factor}.{count % factor:0{len(str(factor)) - 1 or 1}}{unit}"
        for unit, factor in UNITS.items()
        if factor > 1
    ]

    assert {parse_fault(text).at_ns for text in (*texts, f"{kind}@{count}ns")} == {count}
    assert {parse_fault(text.replace("@", ":every=")).every_ns for text in texts} == {count}
    assert {parse_fault(f"delay:{text.split('@')[1]}:1%").delay_ns for text in texts} == {count}


@given(count=st.integers(0, 10**9), unit=st.sampled_from(list(SIZES)))
def test_a_size_comes_back_in_bytes(count: int, unit: str) -> None:
    assert parse_fault(f"disk-full@{count}{unit}").size == count * SIZES[unit]


@given(key=st.text(min_size=1), width=st.integers(2, 10**12))
def test_a_key_and_a_width_come_back_as_they_are(key: str, width: int) -> None:
    assert parse_fault(f"error:key={key}").key == key
    assert parse_fault(f"reorder:{width}").width == width


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        *[
            (text, ("error:5%", "error:key=K"))
            for text in (
                "error",
                "error:",
                "error:5",
                "error:%",
                "error:0%",
                "error:0.000%",
                "error:100.1%",
                "error:-5%",
                "error:+5%",
                "error:.5%",
                "error:5.%",
                "error:5e0%",
                "error:nan%",
                "error:inf%",
                "error:1_0%",
                "error:\u0665%",
                "error: 5%",
                "error:5 %",
                "error:5% ",
                "error:5%\n",
                "error:5%:5%",
                "error@5%",
                "error@5s",
                "error:key",
                "error:key=",
                "error:Key=K",
                "error:" + "9" * 5000 + "%",
            )
        ],
        *[
            (text, ("delay:10ms:1%",))
            for text in (
                "delay",
                "delay:10ms",
                "delay:1%",
                "delay:1%:10ms",
                "delay:10:1%",
                "delay:10m:1%",
                "delay:10MS:1%",
                "delay:10 ms:1%",
                "delay:-10ms:1%",
                "delay:0ms:1%",
                "delay:0.1ns:1%",
                "delay:10ms:0%",
                "delay:10ms:101%",
                "delay:10ms:1",
                "delay:10ms@1%",
                "delay@10ms:1%",
            )
        ],
        *[
            (text, ("hang", "hang:0.1%"))
            for text in ("hang:", "hang:0%", "hang:101%", "hang:1", "hang@5s", "hang:every=2s")
        ],
        *[
            (f"{kind}{rest}", (f"{kind}@5s", f"{kind}:every=2s"))
            for kind in ("kill-worker", "stop-worker")
            for rest in (
                "",
                "@",
                "@5",
                "@5min",
                "@5s:1%",
                "@-5s",
                ":5s",
                ":1%",
                ":every",
                ":every=",
                ":every=2",
                ":every=0s",
                ":every=0.5ns",
                "@every=2s",
                "@5s:every=2s",
            )
        ],
        *[
            (f"{kind}{rest}", (f"{kind}:1%",))
            for kind in ("duplicate", "drop")
            for rest in ("", ":", ":1", ":0%", ":100.5%", "@1%", ":key=K", ":1%:2%")
        ],
        *[
            (text, ("reorder:5",))
            for text in (
                "reorder",
                "reorder:",
                "reorder:0",
                "reorder:1",
                "reorder:-2",
                "reorder:2.0",
                "reorder:5%",
                "reorder:two",
                "reorder@5",
                "reorder:" + "9" * 5000,
            )
        ],
        *[
            (text, ("disk-full@10MiB",))
            for text in (
                "disk-full",
                "disk-full@",
                "disk-full@10",
                "disk-full@10MB",
                "disk-full@10mib",
                "disk-full@-1B",
                "disk-full:10MiB",
                "disk-full@10MiB:1%",
                "disk-full@5s",
            )
        ],
    ],
)
def test_a_malformed_fault_is_refused_with_all_its_forms(text: str, forms: Sequence[str]) -> None:
    with pytest.raises(FaultError) as refused:
        parse_fault(text)

    assert repr(text) in str(refused.value)
    assert f"write it like {' or '.join(forms)} (" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("error:5", "above 0% and at most 100%"),
        ("error:key=", "a key is not empty"),
        ("delay:10m:1%", "in ns, us, ms, s, and above 0"),
        ("stop-worker:every=0s", "every above 0"),
        ("reorder:1", "2 or more"),
        ("disk-full@10MB", "in B, KiB, MiB, GiB"),
    ],
)
def test_a_refusal_says_what_the_parameters_may_be(text: str, said: str) -> None:
    with pytest.raises(FaultError, match=said):
        parse_fault(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("eror:5%", "error"),
        ("ERROR:5%", "error"),
        (" error:5%", "error"),
        ("delays:10ms:1%", "delay"),
        ("hang 0.1%", "hang"),
        ("kill_worker@5s", "kill-worker"),
        ("kill:every=2s", "kill-worker"),
        ("stop@5s", "stop-worker"),
        ("duplicates:1%", "duplicate"),
        ("dorp:1%", "drop"),
        ("re-order:3", "reorder"),
        ("diskfull@1B", "disk-full"),
        ("crash@1s", None),
        ("", None),
        (":", None),
        ("@5s", None),
    ],
)
def test_an_unknown_kind_is_refused_with_what_there_is(text: str, meant: str | None) -> None:
    with pytest.raises(FaultError) as refused:
        parse_fault(text)

    assert f"{text!r}: there is no fault" in str(refused.value)
    assert ("did you mean" in str(refused.value)) is (meant is not None)
    assert meant is None or f"did you mean {meant!r}?" in str(refused.value)
    assert str(refused.value).endswith(f" There are {', '.join(FORMS)}")


@given(st.one_of(st.text(), st.builds("".join, st.lists(st.sampled_from([*KINDS, *":@=%5s"])))))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        fault = parse_fault(text)
    except FaultError as refused:
        assert repr(text) in str(refused)
    else:
        assert fault.text == text


def test_a_plan_is_refused_with_its_wrong_fault() -> None:
    with pytest.raises(FaultError, match="'drop:1'"):
        plan("error:5%", "drop:1")


def test_draws_are_the_same_everywhere() -> None:
    drawn = [draw(0, 0, 0, 1), draw(7, 2, 12345, 1), draw(7, 2, 12345, 2), draw(-1, 0, 10**12, 3)]

    assert drawn == [
        0.16526896395580137,
        0.5937796551341593,
        0.8855744704212631,
        0.5975487620954164,
    ]


@given(seed=seeds, fault=st.integers(0, 9), index=st.integers(0, 2**63), attempt=st.integers(1, 9))
def test_a_draw_is_in_the_unit_interval_and_what_the_plan_goes_by(
    seed: int, fault: int, index: int, attempt: int
) -> None:
    drawn = draw(seed, fault, index, attempt)
    made = FaultPlan.of(["error:50%"] * 10, seed)

    numbers = {action.fault for action in made.before_call(index, attempt, None)}

    assert 0 <= drawn < 1
    assert (fault in numbers) is (drawn < 0.5)


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("percent", [0.1, 1, 10, 50, 99, 100])
@pytest.mark.parametrize("kind", ["error", "delay:1ms", "hang"])
def test_as_many_calls_suffer_as_the_ratio_says(kind: str, percent: float, seed: int) -> None:
    made = plan(f"{kind}:{percent}%", seed=seed)

    assert is_near(len(hit(made)), percent / 100)


@pytest.mark.parametrize("percent", [0.1, 1, 10, 50, 99, 100])
def test_as_many_events_are_dropped_or_doubled_as_the_ratio_says(percent: float) -> None:
    made = plan(f"drop:{percent}%", f"duplicate:{percent}%")

    assert is_near(sum(map(made.drops, range(MANY))), percent / 100)
    assert is_near(sum(made.duplicates(3, each) for each in range(MANY)), percent / 100)
    assert is_near(sum(made.duplicates(each, 3) for each in range(MANY)), percent / 100)


def test_equal_faults_hit_independently() -> None:
    made = plan("error:10%", "error:10%", "drop:10%", "drop:10%")

    assert is_near(len(hit(made, 0) & hit(made, 1)), 0.01)
    assert is_near(sum(map(made.drops, range(MANY))), 0.19)


def test_seeds_attempts_and_sources_hit_independently() -> None:
    made, other = plan("error:10%", "duplicate:10%"), plan("error:10%", seed=8)
    doubled = [{i for i in range(MANY) if made.duplicates(source, i)} for source in (0, 1)]

    assert is_near(len(hit(made) & hit(other)), 0.01)
    assert is_near(len(hit(made) & hit(made, attempt=2)), 0.01)
    assert is_near(len(doubled[0] & doubled[1]), 0.01)


def test_neighbours_are_hit_independently() -> None:
    events = hit(plan("error:10%"))

    assert is_near(len(events & {event + 1 for event in events}), 0.01)


@given(seed=seeds, text=st.sampled_from(list(FORMS)), index=st.integers(0, 10**9))
def test_equal_seeds_make_equal_plans(seed: int, text: str, index: int) -> None:
    one, other = FaultPlan.of([text], seed), FaultPlan([parse_fault(text)], seed)

    assert one.before_call(index, 1, "K") == other.before_call(index, 1, "K")
    assert one.drops(index) == other.drops(index)
    assert one.duplicates(0, index) == other.duplicates(0, index)
    assert one.order_of(range(index, index + 20)) == other.order_of(range(index, index + 20))


@pytest.mark.parametrize("text", FORMS)
def test_some_faults_are_for_handlers(text: str) -> None:
    made = plan(text)

    assert made.for_handlers is (FORMS[text].kind in ("error", "delay", "hang"))
    assert made.for_handlers or made.before_call(0, 1, "K") == []


def test_a_plan_without_faults_does_nothing() -> None:
    made = plan()

    assert made.for_handlers is False
    assert made.before_call(0, 1, "K") == []
    assert (made.drops(0), made.duplicates(0, 0)) == (False, False)
    assert (made.dropped_by(0), made.duplicated_by(0, 0)) == (None, None)
    assert (made.reorder_fault, made.order_of(range(5))) == (None, None)
    assert (made.timed(), made.timed_faults) == ([], ())
    assert (made.disk_fault, made.disk_bytes) == (None, None)


def test_a_call_is_delayed_then_hangs_then_fails() -> None:
    made = plan(
        "error:100%", "drop:100%", "hang:100%", "delay:2ms:100%", "error:key=K", "delay:1s:100%"
    )

    assert made.before_call(3, 1, "K") == [
        Action(3, "delay", 2 * MS),
        Action(5, "delay", S),
        Action(2, "hang"),
        Action(0, "error"),
        Action(4, "error"),
    ]
    assert made.before_call(3, 2, "K") == [Action(0, "error"), Action(4, "error")]


def test_another_attempt_may_succeed() -> None:
    made = plan("error:50%")

    assert 0 < len(hit(made) - hit(made, attempt=2)) < len(hit(made))


@pytest.mark.parametrize(
    ("key", "fails"),
    [("12", True), (12, True), ("012", False), (12.0, False), (None, False), ("1", False)],
)
def test_an_error_by_key_hits_every_attempt_of_its_events(key: Any, fails: bool) -> None:
    made = plan("error:key=12")

    calls = [made.before_call(index, attempt, key) for index in range(9) for attempt in range(1, 9)]

    assert calls == [[Action(0, "error")] if fails else []] * 72


@given(seed=seeds, number=st.integers(0, 3))
def test_a_hang_without_a_ratio_hits_one_early_event_once(seed: int, number: int) -> None:
    made = FaultPlan.of([*["drop:1%"] * number, "hang"], seed)

    hung = [i for i in range(1000) if made.before_call(i, 1, None) == [Action(number, "hang")]]

    assert len(hung) == 1
    assert 0 <= hung[0] < 100
    assert made.before_call(hung[0], 2, None) == []


def test_any_early_event_may_be_the_one_that_hangs() -> None:
    hung = {
        next(i for i in range(100) if plan("hang", seed=seed).before_call(i, 1, None))
        for seed in range(2000)
    }

    assert hung == set(range(100))


def test_the_plan_says_which_fault_dropped_or_doubled() -> None:
    made = plan("hang", "drop:0.1%", "drop:100%", "duplicate:0.1%", "duplicate:100%")

    dropped = [made.dropped_by(index) for index in range(MANY)]
    doubled = [made.duplicated_by(0, index) for index in range(MANY)]

    assert is_near(dropped.count(1), 0.001)
    assert is_near(doubled.count(3), 0.001)
    assert (set(dropped), set(doubled)) == ({1, 2}, {3, 4})


@given(seed=seeds, first=st.integers(0, 10**9), count=st.integers(0, 60), width=st.integers(2, 20))
def test_events_change_places_within_their_windows(
    seed: int, first: int, count: int, width: int
) -> None:
    numbers = range(first, first + count)
    order = FaultPlan.of([f"reorder:{width}"], seed).order_of(numbers)

    assert order is not None
    assert len(order) == count
    for window in {number // width for number in numbers}:
        places = [place for place, number in enumerate(numbers) if number // width == window]
        made = order[places[0] : places[-1] + 1]
        assert sorted(made) == places
        assert (made != places) is (len(places) > 1)


def test_each_window_and_each_fault_has_its_own_order() -> None:
    orders = [
        plan("reorder:10", seed=seed).order_of(range(first, first + 10))
        for seed in (1, 2)
        for first in (0, 10)
    ]

    assert len({tuple(order or ()) for order in orders}) == 4
    assert plan("reorder:10").order_of(range(10)) != plan("hang", "reorder:10").order_of(range(10))


def test_every_other_order_of_a_window_comes_up() -> None:
    made = plan("reorder:4")

    orders = {tuple(made.order_of(range(first, first + 4)) or ()) for first in range(0, 8000, 4)}

    assert len(orders) == 4 * 3 * 2 * 1 - 1


def test_orders_are_the_same_everywhere() -> None:
    assert plan("reorder:4", seed=1).order_of(range(11)) == [2, 3, 1, 0, 7, 5, 4, 6, 10, 8, 9]


def test_of_several_reorders_the_widest_counts() -> None:
    made = plan("reorder:2", "reorder:9", "reorder:9")

    assert made.reorder_fault == 1
    assert made.order_of(range(9)) == FaultPlan.of(["hang", "reorder:9"], 7).order_of(range(9))


def test_timed_faults_are_known_by_their_numbers() -> None:
    made = plan("hang", "kill-worker:every=2s", "drop:1%", "stop-worker@5s")

    assert made.timed_faults == (1, 3)
    assert made.timed() == [FORMS["kill-worker:every=2s"], FORMS["stop-worker@5s"]]


@pytest.mark.parametrize(
    ("text", "since_start_ns", "fired", "due"),
    [
        ("kill-worker@5s", 0, 0, False),
        ("kill-worker@5s", 5 * S - 1, 0, False),
        ("kill-worker@5s", 5 * S, 0, True),
        ("kill-worker@5s", 5 * S, 1, False),
        ("kill-worker@5s", 500 * S, 1, False),
        ("stop-worker@0s", 0, 0, True),
        ("stop-worker:every=2s", 0, 0, False),
        ("stop-worker:every=2s", 2 * S - 1, 0, False),
        ("stop-worker:every=2s", 2 * S, 0, True),
        ("stop-worker:every=2s", 2 * S, 1, False),
        ("stop-worker:every=2s", 4 * S - 1, 1, False),
        ("stop-worker:every=2s", 4 * S, 1, True),
        ("stop-worker:every=2s", 7 * S, 2, True),
        ("stop-worker:every=2s", 7 * S, 3, False),
        ("hang", 10 * S, 0, False),
        ("delay:1s:1%", 10 * S, 0, False),
    ],
)
def test_a_timed_fault_is_due_or_not(text: str, since_start_ns: int, fired: int, due: bool) -> None:
    assert plan("drop:1%", text).due(1, since_start_ns, fired) is due


@given(every_ns=st.integers(1, 10 * S), moments=st.lists(st.integers(0, 60 * S), max_size=20))
def test_what_comes_every_so_often_fires_as_often_as_it_fits(
    every_ns: int, moments: list[int]
) -> None:
    made, fired = plan(f"kill-worker:every={every_ns}ns"), 0

    for now_ns in sorted(moments):
        if made.due(0, now_ns, fired):
            fired += 1
            assert fired * every_ns <= now_ns

    assert made.due(0, (fired + 1) * every_ns, fired)
    assert not made.due(0, (fired + 1) * every_ns - 1, fired)


def test_the_smallest_disk_counts() -> None:
    made = plan("disk-full@1GiB", "disk-full@2KiB", "hang", "disk-full@2KiB")

    assert (made.disk_bytes, made.disk_fault) == (2048, 1)
    assert plan("disk-full@0B").disk_bytes == 0


def test_an_injected_error_names_its_fault_and_can_cross_to_another_process() -> None:
    error = InjectedError("error:5%")

    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(error, ConnectionError)
    assert str(copy) == str(error) == "injected by --inject error:5%"
    assert copy.text == "error:5%"


def test_a_plan_can_cross_to_another_process() -> None:
    made = plan(*FORMS)

    copy = pickle.loads(pickle.dumps(made))

    assert (copy.faults, copy.seed) == (tuple(FORMS.values()), 7)
    assert hit(copy) == hit(made)


def test_a_worker_that_imports_faults_imports_little_else() -> None:
    script = "import sys, millstream.engine.faults; print(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert not {"numpy", "asyncio", "random", "difflib"} & set(done.stdout.split())


def test_what_never_fired_is_reported_too() -> None:
    made = log("hang", "drop:1%")
    made.note(0, 5 * S, count=0)

    assert made.report(S) == [
        {"text": text, "fired": 0, "first_ns": None, "last_ns": None, "windows": []}
        for text in ("hang", "drop:1%")
    ]
    assert made.at(5 * S) is None


def test_what_fired_is_reported_since_the_origin() -> None:
    made = log("hang", "drop:1%")
    made.note(1, 10 * S)
    made.note(1, 10 * S + 5, count=20)
    made.note(1, 30 * S, count=3)

    assert made.report(8 * S)[0]["fired"] == 0
    assert made.report(8 * S)[1] == {
        "text": "drop:1%",
        "fired": 24,
        "first_ns": 2 * S,
        "last_ns": 22 * S,
        "windows": [[2 * S, 2 * S + 5], [22 * S, 22 * S]],
    }


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ([5], [[5, 5]]),
        ([5, NEAR_NS + 4], [[5, NEAR_NS + 4]]),
        ([5, NEAR_NS + 5], [[5, 5], [NEAR_NS + 5, NEAR_NS + 5]]),
        ([NEAR_NS + 4, 5], [[5, NEAR_NS + 4]]),
        ([NEAR_NS + 5, 5], [[5, 5], [NEAR_NS + 5, NEAR_NS + 5]]),
        ([0, NEAR_NS, NEAR_NS // 2], [[0, NEAR_NS]]),
        ([0, NEAR_NS - 1, 2 * NEAR_NS - 2, 50], [[0, 2 * NEAR_NS - 2]]),
        ([-NEAR_NS, 0, 9 * NEAR_NS, 1], [[-NEAR_NS] * 2, [0, 1], [9 * NEAR_NS] * 2]),
    ],
)
def test_windows_closer_than_a_second_are_one(
    moments: list[int], expected: list[list[int]]
) -> None:
    assert windows(noted(moments)) == expected


@given(st.lists(st.integers(-30 * S, 30 * S), min_size=1, max_size=60))
def test_the_order_of_notes_does_not_matter(moments: list[int]) -> None:
    made = noted(moments)

    assert windows(made) == windows(noted(sorted(moments)))
    assert all(any(low <= at <= high for low, high in windows(made)) for at in moments)
    assert {edge for window in windows(made) for edge in window} <= set(moments)
    assert all(
        late[0] - early[1] >= NEAR_NS
        for early, late in zip(windows(made), windows(made)[1:], strict=False)
    )


def test_beyond_the_bound_the_two_closest_windows_become_one() -> None:
    moments = [number * 10 * S for number in range(MOST_WINDOWS)]
    made = noted([*moments, 502 * S])

    assert len(windows(made)) == MOST_WINDOWS
    assert [each for each in windows(made) if each[0] != each[1]] == [[500 * S, 502 * S]]


@given(st.lists(st.integers(0, 2000 * S), min_size=200, max_size=600))
def test_the_log_is_bounded_and_forgets_no_moment(moments: list[int]) -> None:
    made = noted(moments)

    report = made.report(0)[0]

    assert len(report["windows"]) <= MOST_WINDOWS
    assert report["windows"] == sorted(report["windows"])
    assert all(any(low <= at <= high for low, high in report["windows"]) for at in moments)
    assert (report["fired"], report["first_ns"], report["last_ns"]) == (
        len(moments),
        min(moments),
        max(moments),
    )


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (10 * S - 1, None),
        (10 * S, "hang"),
        (10 * S + 5, "hang"),
        (10 * S + 5 + AFTERMATH_NS, "hang"),
        (10 * S + 6 + AFTERMATH_NS, None),
        (20 * S, "hang"),
        (21 * S - 1, "hang"),
        (21 * S, "drop:1%"),
        (21 * S + AFTERMATH_NS, "drop:1%"),
        (21 * S + AFTERMATH_NS + 1, "hang"),
        (22 * S + AFTERMATH_NS, "hang"),
        (22 * S + AFTERMATH_NS + 1, None),
    ],
)
def test_a_moment_falls_to_the_fault_that_began_last(time_ns: int, text: str | None) -> None:
    made = log("drop:1%", "hang")
    for at_ns in (10 * S, 10 * S + 5, 20 * S, 20 * S + S // 2, 21 * S, 21 * S + S // 2, 22 * S):
        made.note(1, at_ns)
    made.note(0, 21 * S)

    assert made.at(time_ns) == text


@given(
    notes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40 * S)), max_size=30),
    time_ns=st.integers(0, 45 * S),
)
def test_a_moment_falls_to_a_window_of_the_report(
    notes: list[tuple[int, int]], time_ns: int
) -> None:
    made = log("error:1%", "error:2%", "error:3%")
    for number, at_ns in notes:
        made.note(number, at_ns)

    began = {
        max(low for low, high in each["windows"] if low <= time_ns <= high + AFTERMATH_NS): each[
            "text"
        ]
        for each in reversed(made.report(0))
        if any(low <= time_ns <= high + AFTERMATH_NS for low, high in each["windows"])
    }

    assert made.at(time_ns) == (began[max(began)] if began else None)
