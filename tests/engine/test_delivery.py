"""Delivery by event id is counted exactly, whether the ids fit into memory or not."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine import delivery
from millstream.engine.delivery import (
    Counts,
    DeliveryAccount,
    DeliveryExample,
    DeliveryReport,
    NoRoomForIds,
    Origin,
    Place,
)
from tests.support import peak

ROLES: Final = ("attempted", "acknowledged", "delivered")
KINDS: Final = ("lost", "duplicated", "unexpected", "recovered")
LARGE: Final = 10**10_000
Batch = tuple[str, int, list[tuple[Any, int]]]
"""A role, a file, and ids with their lines."""


def report(*batches: Batch, folder: str | None = None, **room: int) -> DeliveryReport:
    with DeliveryAccount(folder, **room) as account:
        tell(account, *batches)
        return account.report()


def tell(account: DeliveryAccount, *batches: Batch) -> None:
    for role, file, rows in batches:
        origin = Origin(file, [line for _, line in rows])
        getattr(account, role)([id for id, _ in rows], origin)


def rows(*ids: Any) -> list[tuple[Any, int]]:
    """Ids on the lines of a file from 1 on."""
    return [(id, line) for line, id in enumerate(ids, 1)]


def examples(found: DeliveryReport) -> list[tuple[str, str, list[tuple[int, int]]]]:
    return [
        (each.kind, each.id, [(place.file, place.line) for place in each.places])
        for each in found.examples
    ]


def figures(found: DeliveryReport) -> dict[str, int]:
    return {kind: getattr(found, kind) for kind in KINDS if getattr(found, kind)}


@pytest.fixture
def spills(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The folders in which files for ids were made, one a file."""
    made, make = [], tempfile.TemporaryFile

    def noted(dir: str | None) -> Any:
        made.append(dir)
        return make(dir=dir)

    monkeypatch.setattr(delivery.tempfile, "TemporaryFile", noted)
    return made


# --- against a plain transcription of Jepsen's total-queue


def expected(batches: Sequence[Batch]) -> DeliveryReport:
    places: dict[str, dict[str, list[Place]]] = {role: defaultdict(list) for role in ROLES}
    without = Counter[str]()
    for role, file, ids in batches:
        for id, line in ids:
            if isinstance(id, bool) or not isinstance(id, str | int):
                without[role] += 1
            else:
                places[role][text_of(id)].append(Place(file, line))
    given = any(role == "acknowledged" for role, *_ in batches)
    accepted = places["acknowledged" if given else "attempted"]
    totals, found = Counter[str](), defaultdict[str, list[DeliveryExample]](list)
    for id in set().union(*places.values()):
        tried, came = sorted(places["attempted"][id]), sorted(places["delivered"][id])
        accept = sorted(accepted[id])
        a, k, d = len(tried), len(accept), len(came)
        for kind, amount, at in (
            ("lost", max(0, k - d), accept[:1]),
            (
                "duplicated",
                max(0, d - a) if a else 0,
                [*came[:1], came[1 if a == 1 else -1]] if came[1:] else [],
            ),
            ("unexpected", d if a == 0 else 0, came[:1]),
            ("recovered", max(0, min(d, a) - k), came[:1]),
        ):
            totals[kind] += amount
            if amount:
                found[kind].append(DeliveryExample(kind, id, tuple(at), a, k, d))
        totals.update(attempted=a, acknowledged=k, delivered=d)
    return DeliveryReport(
        **totals,
        without_id=Counts(**without),
        examples=tuple(
            each
            for kind in KINDS
            for each in sorted(found[kind], key=lambda e: (e.places[-1], e.id))[:10]
        ),
    )


def text_of(id: str | int) -> str:
    return id if isinstance(id, str) else "1" + "0" * 10_000 if id == LARGE else str(id)


TEXTS: Final = (
    "",
    "\n",
    "\r\n",
    "a\nb",
    "a",
    "b",
    "é",
    "e\u0301",
    "😀",
    "\0",
    "1",
    "01",
    "-1",
    "1.0",
)
NUMBERS: Final = (0, 1, -1, 10**30, 2**64)
NO_IDS: Final = (None, True, False, 1.0, 1.5)
IDS: Final = st.one_of(
    st.sampled_from((*TEXTS, *NUMBERS, *NO_IDS, str(10**30))),
    st.integers(0, 50),
    st.integers(0, 50).map(str),
    st.text(max_size=3),
)
BATCHES: Final = st.lists(
    st.tuples(
        st.sampled_from(ROLES),
        st.integers(0, 2),
        st.lists(st.tuples(IDS, st.integers(1, 12)), max_size=30),
    ),
    max_size=12,
)
MEMORY: Final = st.sampled_from((1, 12_000, 30_000, 1 << 20))


@given(batches=BATCHES, memory=MEMORY, partitions=st.sampled_from((2, 3, 256)))
def test_it_is_what_a_plain_count_says(batches: list[Batch], memory: int, partitions: int) -> None:
    assert report(*batches, memory=memory, partitions=partitions) == expected(batches)


@given(batches=BATCHES, more=BATCHES, memory=MEMORY)
def test_more_may_come_after_a_report(batches: list[Batch], more: list[Batch], memory: int) -> None:
    with DeliveryAccount(memory=memory, partitions=2) as account:
        for told, so_far in ((batches, batches), (more, batches + more), ([], batches + more)):
            tell(account, *told)

            assert account.report() == expected(so_far)


@pytest.mark.parametrize("partitions", [2, 5, 256])
def test_thousands_of_ids_on_the_disk_are_what_a_plain_count_says(
    partitions: int, spills: list[str | None]
) -> None:
    random = Random(partitions)
    batches: list[Batch] = []
    for _ in range(30):
        lines, names = 10 ** random.randint(1, 12), 10 ** random.randint(1, 4)
        ids = [(random.randrange(names), random.randint(1, lines)) for _ in range(400)]
        batches.append((random.choice(ROLES), random.randrange(2), ids))

    found = report(*batches, memory=150_000, partitions=partitions)

    assert found == expected(batches)
    assert spills


# --- what counts as what


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_each_kind_is_counted_and_named_with_its_places(memory: int) -> None:
    found = report(
        ("attempted", 0, rows("kept", "gone", "twice", "unsure")),
        ("acknowledged", 1, rows("gone", "kept", "twice")),
        ("delivered", 2, rows("kept", "twice", "foreign")),
        ("delivered", 3, rows("unsure", "twice", "foreign")),
        memory=memory,
    )

    assert figures(found) == {"lost": 1, "duplicated": 1, "unexpected": 2, "recovered": 1}
    assert (found.attempted, found.acknowledged, found.delivered) == (4, 3, 6)
    assert examples(found) == [
        ("lost", "gone", [(1, 1)]),
        ("duplicated", "twice", [(2, 2), (3, 2)]),
        ("unexpected", "foreign", [(2, 3)]),
        ("recovered", "unsure", [(3, 1)]),
    ]


def test_all_that_was_attempted_counts_as_acknowledged_unless_a_log_of_that_is_given() -> None:
    tried, came = ("attempted", 0, rows("a", "b")), ("delivered", 1, rows("a"))

    assert figures(report(tried, came)) == {"lost": 1}
    assert figures(report(tried, came, ("acknowledged", 2, []))) == {"recovered": 1}


def test_an_id_that_was_attempted_twice_may_come_twice() -> None:
    tried = ("attempted", 0, rows("a", "a", "b"))

    assert report(tried, ("delivered", 1, rows("a", "b", "a"))).is_clean
    found = report(tried, ("delivered", 1, rows("a", "b", "a", "a")))
    assert examples(found) == [("duplicated", "a", [(1, 1), (1, 4)])]
    assert (found.examples[0].attempted, found.examples[0].delivered) == (2, 3)


@pytest.mark.parametrize("number", [0, -7, 12, 10**30, LARGE], ids=["0", "-7", "12", "30", "10000"])
def test_a_number_and_its_decimal_text_are_the_same_id(number: int) -> None:
    texts = [text_of(number), f"0{text_of(number)}", f"{text_of(number)}.0"]

    found = report(("attempted", 0, rows(number)), ("delivered", 1, rows(*texts)))

    assert figures(found) == {"unexpected": 2}
    assert [each.id for each in found.examples] == texts[1:]


def test_what_is_no_id_is_counted_apart() -> None:
    found = report(
        ("attempted", 0, rows(None, "a", 1)), ("delivered", 1, rows("a", True, 1.0, 1, None))
    )

    assert found == DeliveryReport(
        attempted=2, acknowledged=2, delivered=2, without_id=Counts(attempted=1, delivered=3)
    )


def test_nothing_comes_to_nothing() -> None:
    assert report() == DeliveryReport()


# --- examples


@pytest.mark.parametrize("memory", [1, 20_000, 1 << 20])
def test_the_first_ten_of_a_kind_are_named_by_file_and_line(memory: int) -> None:
    ids = [f"id {n}" for n in range(200)]
    late = ("delivered", 7, [(id, 300 - n) for n, id in enumerate(ids[100:])])
    early = ("delivered", 3, [(id, 2_000_000_000_000 + n) for n, id in enumerate(ids[:5])])

    found = report(late, early, memory=memory)

    assert figures(found) == {"unexpected": 105}
    assert examples(found) == [
        *(("unexpected", ids[n], [(3, 2_000_000_000_000 + n)]) for n in range(5)),
        *(("unexpected", ids[199 - n], [(7, 201 + n)]) for n in range(5)),
    ]


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_events_that_share_a_line_are_named_in_the_order_of_their_ids(memory: int) -> None:
    ids = [f"{n:03}" for n in range(100)]

    found = report(("delivered", 0, [(id, 1) for id in reversed(ids)]), memory=memory)

    assert [each.id for each in found.examples] == ids[:10]


def test_copies_are_named_wherever_the_first_of_them_was_told_of() -> None:
    found = report(
        ("delivered", 5, [("a", 1)]),
        ("delivered", 4, [("a", 9), ("b", 1), ("a", 3)]),
        ("attempted", 0, rows("a", "b")),
        ("delivered", 4, [("b", 1)]),
        memory=1,
    )

    assert examples(found) == [
        ("duplicated", "b", [(4, 1), (4, 1)]),
        ("duplicated", "a", [(4, 3), (4, 9)]),
    ]


# --- memory


def test_what_fits_does_not_touch_the_disk(spills: list[str | None]) -> None:
    ids = [f"{n}" for n in range(1000)]

    report(("attempted", 0, rows(*ids)), ("delivered", 1, rows(*ids)), memory=1 << 20)

    assert spills == []


def test_many_copies_of_an_id_take_no_more_than_one(spills: list[str | None]) -> None:
    tried = ("attempted", 0, rows("a", "b"))
    copies = [
        ("delivered", 1, [("a", line + at) for at in range(5000)])
        for line in range(1, 200_000, 5000)
    ]

    found = report(tried, *copies, memory=100_000)

    assert spills == []
    assert examples(found) == [("lost", "b", [(0, 2)]), ("duplicated", "a", [(1, 1), (1, 2)])]
    assert found.duplicated == 199_999


def test_parts_that_are_too_large_are_parted_again(spills: list[str | None]) -> None:
    ids = [f"event {n}" for n in range(3000)]
    told = [("attempted", 0, [(id, 1) for id in ids[at : at + 100]]) for at in range(0, 3000, 100)]

    found = report(*told, ("delivered", 1, rows(*ids[1:])), memory=60_000, partitions=4)

    assert 5 < len(spills) < 60  # of about 21; were all levels alike, there would be 125
    assert examples(found) == [("lost", ids[0], [(0, 1)])]
    assert (found.attempted, found.delivered) == (3000, 2999)


def test_ids_that_no_hash_parts_are_counted_all_the_same(
    monkeypatch: pytest.MonkeyPatch, spills: list[str | None]
) -> None:
    dealt = delivery.dealt
    monkeypatch.setattr(
        delivery, "dealt", lambda ids, level, parts: dealt([""] * len(ids), level, parts)
    )

    found = report(
        ("attempted", 0, rows("a", "b", "c")),
        ("delivered", 1, rows("b", "a")),
        memory=1,
        partitions=64,
    )

    assert len(spills) == 10  # so many digits to the base 64 a hash has
    assert examples(found) == [("lost", "c", [(0, 3)])]


def test_an_id_that_is_larger_than_memory_is_not_parted(spills: list[str | None]) -> None:
    long = "x" * 100_000

    assert figures(report(("attempted", 0, rows(long)), memory=10_000)) == {"lost": 1}
    assert spills == []


MANY: Final = """
import sys
from millstream.engine.delivery import DeliveryAccount, Origin

count, step = int(sys.argv[1]), 5000
with DeliveryAccount(memory=16 << 20) as account:
    for at in range(0, count, step):
        ids = [f"{n:032x}" for n in range(at, at + step)]
        account.attempted(ids, Origin(0, range(at + 1, at + step + 1)))
    account.delivered([f"{7:032x}"], Origin(1, [1]))
    found = account.report()
assert (found.attempted, found.lost) == (count, count - 1)
assert [each.places[0].line for each in found.examples] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
"""


def peak_of(folder: Path, count: int) -> int:
    """The most memory that an account of so many ids used: bytes."""
    command = [sys.executable, "-c", MANY, str(count)]
    subprocess.run([sys.executable, peak.__file__, folder / "peak", *command], check=True)
    return int((folder / "peak").read_text())


def test_memory_is_bounded_however_many_ids_there_are(tmp_path: Path) -> None:
    few, many = peak_of(tmp_path, 5000), peak_of(tmp_path, 2_000_000)

    assert many - few < 16 << 20


# --- the disk


SPILLING: Final = ("attempted", 0, rows(*(f"{n}" for n in range(1000))))


def test_no_file_has_a_name_even_while_ids_are_on_the_disk(
    tmp_path: Path, spills: list[str | None]
) -> None:
    with DeliveryAccount(str(tmp_path), memory=100_000) as account:
        tell(account, SPILLING)

        assert spills == [str(tmp_path)]
        assert list(tmp_path.iterdir()) == []
        assert account.report().lost == 1000
    assert list(tmp_path.iterdir()) == []


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_nothing_stays_open_after_an_error(tmp_path: Path) -> None:
    before = open_files()

    with pytest.raises(KeyboardInterrupt), DeliveryAccount(str(tmp_path), memory=1) as account:
        tell(account, SPILLING)
        raise KeyboardInterrupt

    assert (open_files(), list(tmp_path.iterdir())) == (before, [])


def test_a_report_that_is_broken_off_leaves_nothing_and_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: Any, **__: Any) -> DeliveryReport:
        raise KeyboardInterrupt

    before = open_files()
    monkeypatch.setattr(delivery, "tally", broken_off)
    account = DeliveryAccount(str(tmp_path), memory=1)
    tell(account, SPILLING)

    with pytest.raises(KeyboardInterrupt):
        account.report()

    assert (open_files(), list(tmp_path.iterdir())) == (before, [])
    with pytest.raises(ValueError, match="the account is closed: it was left, or has failed"):
        account.report()


def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRoomForIds) as failed:
        report(SPILLING, folder=str(tmp_path / "absent"), memory=1000)

    assert str(failed.value) == (
        "the ids of the logs do not fit into 1,000 bytes of memory, and in "
        f"{tmp_path}/absent they can't be written: No such file or directory; make room there, or "
        "give another one"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(NoRoomForIds, match=f"{tmp_path} they can't be written: Permission denied"):
        report(SPILLING, folder=str(tmp_path), memory=1000)


def test_without_a_folder_the_advice_is_to_set_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))

    with pytest.raises(NoRoomForIds, match=r"absent they .* set TMPDIR to another folder"):
        report(SPILLING, memory=1000)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 10_000])
def test_a_disk_that_is_full_ends_the_account(tmp_path: Path, size: int) -> None:
    before = open_files()
    with DeliveryAccount(str(tmp_path), memory=1) as account:
        with largest_file(size), pytest.raises(NoRoomForIds, match="File too large; make room"):
            tell(account, SPILLING, SPILLING, SPILLING)

        with pytest.raises(ValueError, match="closed"):
            tell(account, SPILLING)
    assert (open_files(), list(tmp_path.iterdir())) == (before, [])


# --- what callers get wrong


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: DeliveryAccount(partitions=1), "1 partitions; give it 2 to 65536"),
        (lambda: report(("attempted", -1, rows("a"))), "file number -1 is not among 0 to"),
        (
            lambda: DeliveryAccount().attempted(["a", "b"], Origin(0, [1])),
            "2 ids on 1 lines; give the line of each id",
        ),
    ],
)
def test_a_wrong_call_is_refused(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()
