"""Real runs, killed and gone on with; what is damaged between them is found."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millstream.engine.evidence import Comparison, Left
from millstream.engine.kill_points import Point
from millstream.engine.loading import load_job
from millstream.engine.plan import PlanError, RunOptions
from millstream.engine.prover import (
    Kill,
    Meddle,
    Proof,
    ProofFailed,
    Prover,
    arguments_of,
    command_line,
    failure_of,
    with_kept,
)
from tests.cli.support import lines_of

COUNT = 90
HANDLERS = """
    import errno, itertools, os, signal, time
    from millstream.engine import Pipeline, stage

    def charge(event):
        n = event.data["n"]
        if n % 10 == 4:
            raise ValueError(f"no {n}")
        return None if n % 10 == 5 else {"of": n, "key": event.key}

    def store(event):
        with open("stored", "a") as file:
            print(event.data["n"], file=file)

    numbers = itertools.count()

    def number(event):
        return {"of": event.data["n"], "at": next(numbers)}

    def stamp(event):
        return {"of": event.data["n"], "at": {"ns": time.time_ns()}}

    def row(event):
        return {"of": event.data["n"], "ns": time.time_ns()}

    def also(event):
        return event

    def drop(event):
        return {"of": event.data["of"]}

    rows = stage(row)
    stamps = Pipeline(stage(stamp), stage(also))
    dropped = Pipeline(stage(stamp), stage(drop))

    def some(event):
        return ["{}"] * (os.urandom(1)[0] % 4)

    def exits(event):
        if event.data["n"] == 60 and os.path.exists("killed"):
            os._exit(7)
        return event

    def leaves(event):
        os._exit(7)

    def killed(event):
        if event.data["n"] == 60 and os.path.exists("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return event

    def fails(event):
        if event.data["n"] == 60 and os.path.exists("killed"):
            raise ValueError("no connection")
        return event

    def size(events):
        return [{"of": event.data["n"], "with": len(events)} for event in events]

    sized = stage(size, batch=10, batch_wait=0.05)

    def same(event):
        return event

    def lock():
        os.mkdir("lock")

    def fill():
        if os.path.exists("killed"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def fail():
        raise ValueError("no such thing")

    locked = stage(same, setup=lock, teardown=lambda resource: os.rmdir("lock"))
    once = stage(same, setup=lock)
    full = stage(same, setup=fill)
    cannot = stage(same, setup=fail)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    name = f"proved_{tmp_path.name}.py"  # handlers are imported once a name
    (tmp_path / name).write_text(textwrap.dedent(HANDLERS))
    (tmp_path / "h.py").symlink_to(name)
    events = ({"n": n, "key": f"k{n % 3}"} for n in range(COUNT))
    (tmp_path / "in.jsonl").write_bytes(lines_of(*events))
    return tmp_path


def nothing(folder: Path, sitting: int) -> None:
    pass


def proved(
    folder: Path,
    handler: str,
    *,
    meddle: Meddle = nothing,
    kills: int = 2,
    ignore: tuple[str, ...] = (),
    **options: Any,
) -> Proof:
    name = f"{(folder / 'h.py').resolve()}:{handler}"
    work = folder / "work"
    work.mkdir()
    prover = Prover(
        name,
        load_job(name),
        ["in.jsonl"],
        RunOptions(**options),
        work,
        kills=kills,
        seed=5,
        ignore=ignore,
        meddle=meddle,
    )
    return prover.prove()


def at_the_end(change: Callable[[list[bytes]], list[bytes]], name: str = "output") -> Meddle:
    """Damage a file once the run is complete."""

    def meddle(folder: Path, sitting: int) -> None:
        path = folder / name
        if (folder / "output").exists():
            path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return meddle


def place_of(lines: list[bytes], n: int) -> int:
    return next(at for at, line in enumerate(lines) if b'"of":%d,' % n in line)


def without_30(lines: list[bytes]) -> list[bytes]:
    at = place_of(lines, 30)
    return lines[:at] + lines[at + 1 :]


def with_30_again(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[place_of(lines, 30)]]


def with_30_and_33_swapped(lines: list[bytes]) -> list[bytes]:
    one, two = place_of(lines, 30), place_of(lines, 33)
    lines[one], lines[two] = lines[two], lines[one]
    return lines


def with_30_and_31_swapped(lines: list[bytes]) -> list[bytes]:
    one, two = place_of(lines, 30), place_of(lines, 31)
    lines[one], lines[two] = lines[two], lines[one]
    return lines


def test_a_good_job_is_proved(folder: Path) -> None:
    proof = proved(folder, "charge", kills=4)

    assert (proof.verdict, proof.exit_code) == ("proved", 0)
    assert [check.held for check in proof.checks] == [True] * 4
    assert proof.counts == {"events": COUNT, "results": 72, "dead_letters": 9}
    assert all(kill.made for kill in proof.kills)
    assert proof.sittings == 5
    assert proof.comparison.base_calls == COUNT
    assert proof.comparison.calls == COUNT + proof.comparison.repeated
    assert any(kill.kept for kill in proof.kills)
    assert not list((folder / "work" / "disturbed").glob(".output.*.part"))


@pytest.mark.parametrize(
    ("change", "kind"),
    [(with_30_again, "duplicated"), (with_30_and_33_swapped, "order")],
)
def test_what_is_damaged_is_found_and_named(
    folder: Path, change: Callable[[list[bytes]], list[bytes]], kind: str
) -> None:
    proof = proved(folder, "charge", meddle=at_the_end(change))

    assert (proof.verdict, proof.exit_code) == ("broken", 5)
    (found,) = proof.comparison.findings
    assert (found.kind, found.source, found.line, found.key) == (kind, "in.jsonl", 31, "k0")
    assert [check.held for check in proof.checks].count(False) == 1


@pytest.mark.parametrize(("emit", "verdict"), [("completion", "proved"), ("input", "broken")])
def test_a_swap_between_keys_breaks_what_promises_more_than_keys(
    folder: Path, emit: str, verdict: str
) -> None:
    meddle = at_the_end(with_30_and_31_swapped)

    assert proved(folder, "charge", meddle=meddle, kills=1, emit=emit).verdict == verdict


def test_a_handler_that_remembers_is_broken_and_the_proof_says_why(folder: Path) -> None:
    proof = proved(folder, "number")

    assert proof.verdict == "broken"
    assert "does the handler remember something" in proof.why
    counts = proof.comparison.counts
    assert set(counts) == {"lost", "unexpected"}
    assert (folder / "work" / "baseline-2").exists()


def test_what_depends_on_the_pace_is_not_put_down_to_kills(folder: Path) -> None:
    proof = proved(folder, "sized")

    assert proof.verdict == "unproved"
    assert proof.varying_fields == ["with"]


def test_an_event_that_fails_in_one_run_only_is_told_as_such(folder: Path) -> None:
    def meddle(work: Path, sitting: int) -> None:
        (folder / "killed").touch()
        if (work / "output").exists():
            (folder / "killed").unlink()

    proof = proved(folder, "fails", meddle=meddle, kills=1)

    assert (proof.verdict, proof.comparison.counts) == (
        "broken",
        {"lost": 1, "letter-unexpected": 1},
    )
    assert proof.why == (
        "the handler failed for 1 event in one of the runs only: at random, or since it was "
        "called again after a kill?"
    )


def test_results_that_vary_in_a_field_can_not_be_proved_but_are_compared_without(
    folder: Path,
) -> None:
    proof = proved(folder, "stamp")

    assert (proof.verdict, proof.exit_code) == ("unproved", 3)
    assert proof.varying_fields == ["at.ns"]
    assert "other results for the same event, in at.ns" in proof.why
    assert [check.held for check in proof.checks] == [True] * 4


@pytest.mark.parametrize(
    ("handler", "field"), [("stamp", "at"), ("stamps", "at.ns"), ("rows", "ns")]
)
def test_a_job_with_a_time_in_its_results_is_proved_without_it(
    folder: Path, handler: str, field: str
) -> None:
    format = "csv" if handler == "rows" else "auto"

    proof = proved(folder, handler, ignore=(field,), output_format=format)

    assert (proof.verdict, proof.exit_code) == ("proved", 0), proof.why
    assert f"the order held (compared without {field})" in proof.why
    assert (proof.ignored_fields, proof.varying_fields) == ([field], [])


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_results_that_are_alike_without_a_field_tell_nothing(folder: Path, format: str) -> None:
    proof = proved(folder, "row", ignore=("of", "ns"), output_format=format)

    assert (proof.verdict, proof.exit_code) == ("unproved", 3)
    assert "without of, ns all results are alike" in proof.why
    assert [check.held for check in proof.checks] == [None] * 4


def test_a_field_that_is_not_all_that_varies_does_not_do(folder: Path) -> None:
    proof = proved(folder, "rows", ignore=("of",), output_format="csv")

    assert (proof.verdict, proof.varying_fields) == ("unproved", ["ns"])


def test_what_is_lost_is_found_also_with_fields_that_are_ignored(folder: Path) -> None:
    proof = proved(folder, "stamp", ignore=("at",), meddle=at_the_end(without_30))

    assert (proof.verdict, proof.comparison.counts) == ("broken", {"lost": 1})
    assert proof.why.endswith("(compared without at)")


def test_a_pipeline_whose_later_stages_get_a_time_is_compared_without_it(folder: Path) -> None:
    proof = proved(folder, "stamps")

    assert (proof.verdict, proof.varying_fields) == ("unproved", ["at.ns"])
    assert proof.comparison.first_stage_only
    assert (proof.comparison.base_calls, proof.comparison.counts) == (COUNT, {})
    assert [check.held for check in proof.checks] == [True] * 4


def test_a_time_that_only_a_later_stage_sees_is_no_hindrance(folder: Path) -> None:
    proof = proved(folder, "dropped")

    assert (proof.verdict, proof.comparison.first_stage_only) == ("proved", True)


def test_what_is_lost_of_results_that_vary_in_a_field_is_found(folder: Path) -> None:
    proof = proved(folder, "stamp", meddle=at_the_end(without_30))

    assert proof.verdict == "broken"
    assert proof.comparison.counts == {"lost": 1}
    assert [found.line for found in proof.comparison.findings] == [31]


def test_results_that_vary_in_number_can_not_be_told_at_all(folder: Path) -> None:
    proof = proved(folder, "some")

    assert (proof.verdict, proof.exit_code) == ("unproved", 3)
    assert "lines of output" in proof.why
    assert [check.held for check in proof.checks] == [None] * 4
    assert proof.comparison.findings == []


def test_a_job_that_can_not_go_on_after_a_kill_is_broken(folder: Path) -> None:
    def meddle(work: Path, sitting: int) -> None:
        (work / "checkpoint").write_bytes(b"no database " * 1000)

    proof = proved(folder, "charge", meddle=meddle, kills=1)

    assert (proof.verdict, proof.exit_code) == ("broken", 5)
    assert "after kill 1 the run could not go on: " in proof.why
    assert "is no checkpoint, and stays as it is" in proof.why
    assert [check.held for check in proof.checks] == [False, None, None, None]
    assert [(kill.made, kill.kept) for kill in proof.kills] == [(True, 0)]


def test_a_set_up_that_can_not_run_after_a_kill_is_broken(folder: Path) -> None:
    proof = proved(folder, "locked", kills=1)

    assert proof.verdict == "broken"
    assert "after kill 1 the run could not go on: FileExistsError" in proof.why
    assert "in lock" in proof.comparison.findings[0].what


def test_a_run_that_just_disappears_after_a_kill_is_broken(folder: Path) -> None:
    def meddle(work: Path, sitting: int) -> None:
        (folder / "killed").touch()

    proof = proved(folder, "exits", meddle=meddle, kills=1)

    assert "could not go on: a run ended with exit code 7, and said nothing" in proof.why


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("killed", "a run was killed by SIGKILL, not by this command"),
        ("full", "No space left on device(.|\\n)* MiB of room left; make room there"),
    ],
)
def test_what_others_did_to_a_run_is_not_put_down_to_the_job(
    folder: Path, handler: str, said: str
) -> None:
    def meddle(work: Path, sitting: int) -> None:
        (folder / "killed").touch()

    said = {
        "killed": "a run was killed by SIGKILL, not by this command",
        "full": "No space left on device",
    }[handler]
    with pytest.raises(ProofFailed, match=said):
        proved(folder, handler, meddle=meddle, kills=1)


@pytest.mark.parametrize(
    ("free", "said"),
    [(4096, "0.0 MiB of room left; make room there"), (1 << 30, "and said nothing$")],
)
def test_a_run_that_says_nothing_may_lack_the_room_to_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    (tmp_path / "run.log").touch()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))

    failed = failure_of(1, Left(tmp_path), "run")

    assert re.search(said, str(failed))
    assert failed is not None
    assert failed.is_foreign is (free == 4096)


@pytest.mark.parametrize(
    ("handler", "when"),
    [
        ("cannot", "already the undisturbed run failed: .*set-up of stage"),
        ("leaves", "already the undisturbed run failed: .*exit code 7, and said nothing"),
        ("once", "run again and not killed yet, failed: .*set-up of stage"),
    ],
)
def test_a_job_that_fails_undisturbed_is_no_proof(folder: Path, handler: str, when: str) -> None:
    with pytest.raises(ProofFailed, match=when) as failed:
        proved(folder, handler)
    assert failed.value.code == 3


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (b"", "there was nothing to kill: there are no events"),
        (b"no event\n", "there was nothing to kill: the run had ended before each kill"),
    ],
)
def test_a_job_that_nothing_was_killed_of_is_not_proved(
    folder: Path, events: bytes, why: str
) -> None:
    (folder / "in.jsonl").write_bytes(events)

    proof = proved(folder, "charge", kills=1)

    assert (proof.verdict, proof.exit_code, proof.why) == ("unproved", 3, why)


def test_a_kill_that_was_not_made_kept_nothing() -> None:
    point = Point("call", 3, 3)
    kills = [Kill(point, point.words, made, 9, 0) for made in (True, True, False, False)]
    comparison = Comparison({}, [], 9, 9, 0, 0, reached=[3, 6, 9], kept=[2, 5, 9])

    told = [(kill.calls, kill.kept) for kill in with_kept(kills, comparison)]
    assert told == [(3, 2), (6, 5), (9, 0), (9, 0)]


def test_what_a_handler_without_results_does_is_not_called_proved(folder: Path) -> None:
    proof = proved(folder, "store")

    assert (proof.verdict, proof.exit_code) == ("unproved", 3)
    assert "the handler gives no results" in proof.why
    assert "Give back one result per event (its id, say)" in proof.why
    assert [check.held for check in proof.checks] == [None] * 4
    assert sum(kill.made for kill in proof.kills) == 2


def test_a_handler_without_results_that_is_not_called_for_an_event_is_broken(folder: Path) -> None:
    def meddle(work: Path, sitting: int) -> None:
        trace, whole = (work.parent / run / "calls.trace" for run in ("disturbed", "baseline"))
        last = whole.read_bytes()[-8:]
        if last in (calls := trace.read_bytes()):
            trace.write_bytes(calls.replace(last, calls[:8]))

    proof = proved(folder, "store", meddle=meddle)

    assert (proof.verdict, proof.exit_code) == ("broken", 5)
    assert proof.comparison.counts == {"never-handled": 1}
    assert proof.checks[0].held is False


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"follow": True}, "never ends, so it can't be proved"),
        ({"dry_run": True}, "calls no handler, so it can't be proved"),
    ],
)
def test_what_can_not_be_proved_is_refused_with_the_reason(
    folder: Path, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(PlanError, match=why):
        proved(folder, "charge", **options)


def test_a_job_that_parks_keys_is_proved(folder: Path) -> None:
    assert proved(folder, "charge", on_error="park", kills=2).verdict == "proved"


def test_options_become_the_flags_that_stand_for_them() -> None:
    options = RunOptions(order="none", limit=9, retry_on=("A", "B"), partitions=True, rate=1.5)

    assert arguments_of(options) == [
        *("--order=none", "--partitions", "--limit=9", "--rate=1.5"),
        *("--retry-on=A", "--retry-on=B"),
    ]


def test_the_command_line_repeats_what_was_given() -> None:
    options = RunOptions(key="user id", output="o", checkpoint="c", resume=True, quiet=True)

    line = command_line("h.py", ["a b.jsonl"], options, kills=3, seed=9, ignore=["at", "in.id"])

    assert line == (
        "millstream prove h.py 'a b.jsonl' '--key=user id' --ignore=at --ignore=in.id "
        "--kills=3 --seed=9"
    )
