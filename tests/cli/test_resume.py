"""`--checkpoint` and `--resume`: interrupted and gone on with; what is refused, and why."""

from __future__ import annotations

import gzip
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Ended, Folder, folder_with, lines_of, wait_for

HANDLERS = """
    import os, time
    from pathlib import Path

    def _wait_at_the_gate(event):
        with open("trace", "a") as trace:
            trace.write(f"{event.id}\\n")
        # From number `gate` on, nothing passes while there is a gate.
        while os.path.exists("gate") and event.id >= int(Path("gate").read_text()):
            time.sleep(0.005)

    def gated(event):
        _wait_at_the_gate(event)
        if event.id == 3:
            raise ValueError("three")
        return event

    async def agated(event):
        import asyncio
        with open("trace", "a") as trace:
            trace.write(f"{event.id}\\n")
        while os.path.exists("gate") and event.id >= int(Path("gate").read_text()):
            await asyncio.sleep(0.005)
        if event.id == 3:
            raise ValueError("three")
        return event

    def other(event):
        return event
"""
COUNTING = """
    from millstream.engine import stage

    async def agated(event, state):
        state["n"] = 1
        return event

    job = stage(agated, state=dict)
"""
COUNT = 40
KEPT = ("--checkpoint", "c", "--checkpoint-every", "10ms")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": events()})


def events(count: int = COUNT) -> bytes:
    return lines_of(*({"id": n, "key": f"k{n % 3}", "pad": "x" * 9000} for n in range(count)))


def parts(folder: Folder) -> list[Path]:
    return list(folder.path.glob(".out*.part"))


def kill(
    folder: Folder,
    *more: str,
    handler: str = "agated",
    at: int = 20,
    inputs: tuple[str, ...] = ("in.jsonl",),
    stdin: bytes | None = None,
) -> None:
    """Run, and kill it while the handler of event `at` is under way; what is done has been kept."""
    folder.file("gate", str(at))
    with folder.start(
        f"h.py:{handler}", *inputs, *KEPT, "-o", "out.jsonl", *more, **_fed(folder, stdin)
    ) as run:
        wait_for(lambda: str(at) in traced(folder), "the handler at the gate")
        wait_for(lambda: is_kept(folder, without_three(events(at))), "a checkpoint")
        run.signal(signal.SIGKILL)
        run.process.wait()
    (folder.path / "gate").unlink()


def is_kept(folder: Folder, written: bytes) -> bool:
    """Whether so much was written, and the checkpoint was renewed since."""
    log = folder.path / "c-wal"
    for part in parts(folder):
        facts = part.stat()
        return facts.st_size == len(written) and log.stat().st_mtime_ns >= facts.st_mtime_ns
    return False


def _fed(folder: Folder, stdin: bytes | None) -> dict[str, Any]:
    return {} if stdin is None else {"stdin": os.open(folder.file("fed", stdin), os.O_RDONLY)}


def traced(folder: Folder) -> list[str]:
    path = folder.path / "trace"
    return path.read_text().split() if path.exists() else []


def resume(folder: Folder, *more: str, handler: str = "agated", **streams: Any) -> Ended:
    inputs = () if "stdin" in streams else ("in.jsonl",)
    given = (f"h.py:{handler}", *inputs, *KEPT, "--resume", "-o", "out.jsonl", "--result", "r.json")
    return folder.run(*given, *more, **streams)


# --- interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("handler", ["gated", "agated"])
def test_an_interrupted_run_can_be_gone_on_with(
    folder: Folder, number: int, code: int, handler: str
) -> None:
    folder.file("gate", "20")
    with folder.start(
        f"h.py:{handler}", "in.jsonl", *KEPT, "-o", "out.jsonl", "--order", "global"
    ) as run:
        wait_for(lambda: "20" in traced(folder), "the handler at the gate")
        run.signal(number)
        if handler == "agated":  # the other one holds the loop, which takes the signal after it
            run.error_line("finishing what is in flight")
        (folder.path / "gate").unlink()
        interrupted = run.end()
    handled = len(traced(folder))
    between = folder.names

    ended = resume(folder, "--order", "global", handler=handler)

    assert interrupted.code == code
    assert "interrupted: go on with it by --resume" in interrupted.err
    assert "out.jsonl" not in between
    assert not [name for name in between if name.endswith(".partial")]
    assert folder.read("out.jsonl") == without_three(events())
    assert ended.code == 4
    result = folder.json("r.json")
    assert (result["sittings"], result["counts"]["read"]) == (2, COUNT)
    assert handled <= len(traced(folder)) == COUNT  # drained: nothing was handled twice


def without_three(data: bytes) -> bytes:
    return b"".join(line for line in data.splitlines(True) if json.loads(line)["id"] != 3)


def test_the_second_signal_leaves_the_last_checkpoint_valid(folder: Folder) -> None:
    folder.file("gate", "20")
    with folder.start("h.py:agated", "in.jsonl", *KEPT, "-o", "out.jsonl") as run:
        wait_for(lambda: "20" in traced(folder), "the handler at the gate")
        run.signal(signal.SIGINT)
        run.error_line("finishing what is in flight")
        run.signal(signal.SIGINT)
        interrupted = run.end()
    (folder.path / "gate").unlink()
    left = parts(folder)

    ended = resume(folder)

    assert (interrupted.code, len(left)) == (130, 1)
    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events())
    assert not parts(folder)


def test_a_run_that_was_killed_writes_each_result_and_dead_letter_once(folder: Folder) -> None:
    kill(folder)

    ended = resume(folder)

    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events())
    assert [letter["event"]["id"] for letter in folder.dead_letters()] == [3]
    counts = folder.json("r.json")["counts"]
    assert (counts["read"], counts["handled"], counts["dead_lettered"]) == (COUNT, COUNT - 1, 1)
    told = folder.json("r.json")["dead_letters"]
    assert [each["count"] for each in told["reasons"]] == [1]
    assert (told["reasons"][0]["line"], told["others"]) == (
        folder.dead_letters()[0]["position"]["line"],
        0,
    )


def test_letters_of_other_runs_in_the_same_file_stay(folder: Folder) -> None:
    folder.file("dead-letters.jsonl", b'{"run": "before"}\n')
    kill(folder)
    with (folder.path / "dead-letters.jsonl").open("ab") as file:
        file.write(b'{"run": "other"}\n')
    run = folder.dead_letters()[1]["run"]
    again = {"run": run, "event": {"id": 25}, "position": {"index": 25}}
    with (folder.path / "dead-letters.jsonl").open("ab") as file:
        file.write(json.dumps(again).encode() + b'\n{"run": "cut o')

    resume(folder)

    letters = folder.dead_letters()
    assert sorted(letter["run"] for letter in letters if "event" not in letter) == [
        "before",
        "other",
    ]
    assert [letter["event"]["id"] for letter in letters if "event" in letter] == [3]


def test_the_limit_counts_over_all_sittings(folder: Folder) -> None:
    kill(folder, "--limit", "30")

    resume(folder, "--limit", "30")

    assert folder.json("r.json")["counts"]["read"] == 30
    assert folder.read("out.jsonl") == without_three(events(30))


@pytest.mark.parametrize("pace", [("--rate", "2000"), ("--pace", "time", "--time", "id")])
def test_a_schedule_begins_anew(folder: Folder, pace: tuple[str, ...]) -> None:
    kill(folder, *pace)

    ended = resume(folder, *pace)

    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events())
    result = folder.json("r.json")
    assert result["response"]["count"] >= COUNT - 1
    assert result["counts"]["read"] == COUNT


def test_a_run_that_is_interrupted_while_it_reads_again_loses_nothing(folder: Folder) -> None:
    kill(folder)

    arguments = ("h.py:agated", "in.jsonl", *KEPT, "--resume", "-o", "out.jsonl")
    with folder.start(*arguments, "--rate", "1", "--result", "r.json") as run:
        wait_for(lambda: traced(folder).count("20") == 2, "the first event again")
        run.signal(signal.SIGINT)
        interrupted = run.end()
    counts = folder.json("r.json")["counts"]
    ended = resume(folder)

    assert (interrupted.code, ended.code) == (130, 4)
    assert 20 < counts["read"] == counts["handled"] + counts["dead_lettered"] < COUNT
    assert folder.read("out.jsonl") == without_three(events())
    result = folder.json("r.json")
    assert (result["counts"]["read"], result["sittings"]) == (COUNT, 3)


def test_a_run_that_is_interrupted_before_a_block_is_due_reads_nothing_twice(
    folder: Folder,
) -> None:
    data = lines_of(*({"id": n, "pad": "x" * 100_000} for n in (0, 1, 2, 4, 5)))
    folder.file("in.jsonl", data)  # a block each
    arguments = ("h.py:agated", "in.jsonl", *KEPT, "-o", "out.jsonl", "--order", "none")
    with folder.start(*arguments, "--rate", "2") as run:
        wait_for(lambda: "1" in traced(folder), "the second event")
        run.signal(signal.SIGTERM)
        assert run.end().code == 143

    ended = resume(folder, "--order", "none")

    assert ended.code == 0
    assert folder.read("out.jsonl") == data
    assert folder.json("r.json")["counts"]["read"] == 5


def test_a_file_that_is_followed_may_grow_between_sittings(folder: Folder) -> None:
    followed = ("h.py:agated", "in.jsonl", *KEPT, "--resume", "-o", "out.jsonl", "--follow")
    for count in (COUNT, COUNT + 10):
        folder.file("in.jsonl", events(count)) if count == COUNT else append(folder, count)
        with folder.start(*followed) as run:
            wait_for(lambda last=count - 1: str(last) in traced(folder), "all that is there")
            run.signal(signal.SIGINT)
            assert run.end().code == 130

    ended = resume(folder)

    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events(COUNT + 10))
    assert len(traced(folder)) == COUNT + 10


def append(folder: Folder, count: int) -> None:
    with (folder.path / "in.jsonl").open("ab") as file:
        file.write(events(count)[len(events()) :])


def test_one_command_line_is_enough(folder: Folder) -> None:
    first = resume(folder)
    trace = traced(folder)
    again = resume(folder)

    assert (first.code, again.code) == (4, 4)
    assert "was complete; its result is given again" in again.err
    assert traced(folder) == trace
    assert folder.json("r.json")["counts"]["read"] == COUNT


def test_a_complete_checkpoint_can_be_used_for_another_run(folder: Folder) -> None:
    resume(folder)
    folder.file("in.jsonl", events(5))

    ended = folder.run("h.py:other", "in.jsonl", *KEPT, "-o", "out.jsonl")

    assert ended.code == 0
    assert folder.read("out.jsonl") == events(5)


def test_csv_has_its_head_once_and_packed_output_is_one_file(folder: Folder) -> None:
    rows = "".join(f'{n},"{"y" * 3000}\nz"\n' for n in range(COUNT))
    folder.file("in.csv", "id,text\n" + rows)
    folder.file(
        "n.py",
        """
        import os, time
        def number(event):
            n = int(event.id)
            with open("trace", "a") as trace:
                trace.write(f"{n}\\n")
            while os.path.exists("gate") and n >= 20:
                time.sleep(0.005)
            return event
        """,
    )
    folder.file("gate", b"20")
    arguments = ("n.py", "in.csv", *KEPT, "--order", "none", "--output", "out.csv.gz")
    with folder.start(*arguments) as run:
        wait_for(lambda: "20" in traced(folder), "the handler at the gate")
        run.signal(signal.SIGKILL)
        run.process.wait()
    (folder.path / "gate").unlink()

    ended = folder.run(*arguments, "--resume")

    assert ended.code == 0
    assert gzip.decompress(folder.read("out.csv.gz")).decode() == "id,text\n" + rows


def test_standard_output_can_not_be_cut_back_and_says_so(folder: Folder) -> None:
    ended = folder.run("h.py:other", "in.jsonl", *KEPT)

    assert ended.code == 0
    assert "standard output can't be cut back" in ended.err
    assert ended.out == events()


# --- refused


def change_content(folder: Folder) -> None:
    folder.file("in.jsonl", events(COUNT + 1))


def change_time(folder: Folder) -> None:
    os.utime(folder.path / "in.jsonl", ns=(1, 1_000_000_001))


def remove_part(folder: Folder) -> None:
    (part,) = parts(folder)
    part.unlink()


def shorten_part(folder: Folder) -> None:
    (part,) = parts(folder)
    os.truncate(part, 5)


def remove_letters(folder: Folder) -> None:
    (folder.path / "dead-letters.jsonl").unlink()


def damage(folder: Folder) -> None:
    folder.file("c", b"no database " * 1000)


def later_version(folder: Folder) -> None:
    with sqlite3.connect(folder.path / "c") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_content, ["input 'in.jsonl' has changed: it had 361,", "bytes, and now it has"]),
        (change_time, ["input 'in.jsonl' has changed: it was last written to", "put it back"]),
        (remove_part, ["output 'out.jsonl' can't be gone on with", "is not there"]),
        (shorten_part, ["output 'out.jsonl' can't be gone on with", "has 5 bytes only"]),
        (remove_letters, ["dead-letters.jsonl, to which it had written 1, is not there; put it"]),
        (damage, ["c is no checkpoint, and stays as it is"]),
        (later_version, ["c was written by a later version of Millstream"]),
    ],
)
def test_what_has_changed_is_refused(
    folder: Folder, change: Callable[[Folder], None], said: list[str]
) -> None:
    kill(folder)
    change(folder)
    calls = len(traced(folder))

    ended = resume(folder)

    assert ended.code == 3
    for part in said:
        assert part in ended.err
    assert "Traceback" not in ended.err
    assert (len(traced(folder)), "out.jsonl" in folder.names) == (calls, False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--order", "none"), "begun with --order key, and this is with --order none"),
        (("--emit", "input"), "begun with --emit completion, and this is with --emit input"),
        (("--key", "id"), "begun without --key, and this is with --key id"),
        (("--partitions",), "begun without --partitions, and this is with --partitions"),
        (("--limit", "9"), "begun without --limit, and this is with --limit 9"),
        (("-o", "two.jsonl"), "with --output out.jsonl, and this is with --output two.jsonl"),
        (("--dead-letter", "d"), "begun without --dead-letter, and this is with --dead-letter d"),
        (("in.jsonl",), "its inputs were in.jsonl, and now they are in.jsonl, in.jsonl"),
    ],
)
def test_other_options_are_refused(folder: Folder, more: tuple[str, ...], said: str) -> None:
    kill(folder)

    ended = resume(folder, *more)

    assert ended.code == 3
    assert said in ended.err
    assert "remove the checkpoint to begin anew" in ended.err


def test_another_pipeline_is_refused(folder: Folder) -> None:
    kill(folder)

    ended = resume(folder, handler="other")

    assert ended.code == 3
    assert "its stages were agated, and now they are other" in ended.err


def test_another_handler_of_the_same_name_is_refused(folder: Folder) -> None:
    kill(folder)
    folder.file("v.py", folder.read("h.py"))
    folder.file("w/h.py", COUNTING)
    given = ("in.jsonl", *KEPT, "--resume", "-o", "out.jsonl")

    other, keeping = (folder.run(handler, *given) for handler in ("v.py:agated", "w/h.py:job"))

    assert (other.code, keeping.code) == (3, 3)
    assert "its stage 'agated' was h.agated, and now it is v.agated; run the same" in other.err
    assert "its stage 'agated' kept none, and now it keeps state by key" in keeping.err


@pytest.mark.parametrize(
    "given",
    [
        ("./in.jsonl", "-o", "out.jsonl"),
        ("link", "-o", "out.jsonl"),
        ("in.jsonl", "-o", "./out.jsonl"),
        ("in.jsonl", "-o", "out.jsonl", "--dead-letter", "dead-letters.jsonl"),
        ("in.jsonl", "-o", "out.jsonl", "--format", "jsonl"),
        ("in.jsonl", "-o", "out.jsonl", "--output-format", "jsonl"),
    ],
)
def test_the_same_may_be_said_otherwise(folder: Folder, given: tuple[str, ...]) -> None:
    (folder.path / "link").symlink_to("in.jsonl")
    kill(folder)

    ended = folder.run("h.py:agated", *given, *KEPT, "--resume")

    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events())


def test_where_there_is_nothing_to_go_on_from_a_run_says_so(folder: Folder) -> None:
    first, again = resume(folder), resume(folder)

    said = "nothing to go on from: c does not exist; the run begins at the start"
    assert (said in first.err, said in again.err) == (True, False)


def test_a_run_that_follows_from_its_second_sitting_on_may_grow(folder: Folder) -> None:
    folder.file("in.jsonl", events(200))
    kill(folder, "--order", "global", "--rate", "50")
    followed = ("h.py:agated", "in.jsonl", *KEPT, "--resume", "-o", "out.jsonl", "--follow")
    with folder.start(*followed, "--order", "global") as run:
        wait_for(lambda: "199" in traced(folder), "the last event")
        run.signal(signal.SIGINT)
        assert run.end().code == 130
    with (folder.path / "in.jsonl").open("ab") as file:
        file.write(events(210)[len(events(200)) :])

    ended = resume(folder, "--order", "global")

    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events(210))


def test_what_was_read_to_its_end_is_not_followed(folder: Folder) -> None:
    kill(folder)

    ended = resume(folder, "--follow")

    assert ended.code == 3
    assert "its inputs were read to their end already, and can't be followed" in ended.err


def test_how_it_is_executed_may_change(folder: Folder) -> None:
    kill(folder)

    ended = resume(folder, "--executor", "process", "--workers", "2")

    assert ended.code == 4
    assert folder.json("r.json")["stages"][0]["executor"] == "process"
    assert sorted(folder.read("out.jsonl").splitlines()) == sorted(
        without_three(events()).splitlines()
    )


def test_an_unfinished_run_is_not_begun_anew_by_mistake(folder: Folder) -> None:
    kill(folder)

    ended = folder.run("h.py:agated", "in.jsonl", *KEPT, "-o", "out.jsonl")

    assert ended.code == 3
    assert "holds a run that is not finished; go on with it by --resume, or remove" in ended.err


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (events().replace(b'"id": 0,', b'"id": 7,'), "this is not the stream that was read before"),
        (events(22)[:-5], "were read of it before; give it the same stream again"),
        (b"", "were read of it before"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_another_standard_input_is_refused(
    folder: Folder, stream: bytes, said: str, packed: bool
) -> None:
    pack = gzipped if packed else bytes
    kill(folder, inputs=(), stdin=pack(events()))
    calls = len(traced(folder))

    ended = resume(folder, stdin=pack(stream))

    assert ended.code == 3
    assert "standard input: " in ended.err
    if not packed:
        assert said in ended.err
        assert len(traced(folder)) - calls <= 22
    assert "out.jsonl" not in folder.names


@pytest.mark.parametrize("packed", [False, True])
def test_the_same_standard_input_goes_on(folder: Folder, packed: bool) -> None:
    pack = gzipped if packed else bytes
    kill(folder, inputs=(), stdin=pack(events()))

    ended = resume(folder, stdin=pack(events()))

    assert ended.code == 4
    assert folder.read("out.jsonl") == without_three(events())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--resume",), "--resume goes on from a checkpoint; name its file: --checkpoint FILE"),
        (("--checkpoint", "c", "--checkpoint-every", "soon"), "--checkpoint-every: 'soon' is not"),
        (("--checkpoint", "c", "--checkpoint-every", "0s"), "give it more than nothing"),
        (("--checkpoint", "o", "-o", "o"), "--checkpoint and --output name the same file"),
    ],
)
def test_wrong_usage_is_told(folder: Folder, given: tuple[str, ...], said: str) -> None:
    ended = folder.run("h.py:other", "in.jsonl", *given)

    assert ended.code == 2
    assert said in ended.err


def test_a_checkpoint_in_use_is_refused(folder: Folder) -> None:
    folder.file("gate", "0")
    with folder.start("h.py:agated", "in.jsonl", *KEPT, "-o", "out.jsonl") as run:
        wait_for(lambda: traced(folder), "the handler at the gate")

        ended = resume(folder)

        (folder.path / "gate").unlink()
        assert run.end().code == 4
    assert ended.code == 3
    assert "the checkpoint c is in use by another run" in ended.err
