"""`millstream run`: signals that nobody heeds, full disks, and files that go away under it.

Whatever happens: a message, its exit code, no worker left behind, and nothing lost.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.cli.support import COMMAND, Ended, Folder, Started, folder_with, lines_of, wait_for

HANDLERS = """
    import asyncio, os, time
    from pathlib import Path

    def _is_closed(event):
        # From number `gate` on, nothing passes while there is a gate.
        try:
            return event.id >= int(Path("gate").read_text())
        except FileNotFoundError:
            return False

    def _note(event):
        with open("trace", "a") as trace:
            trace.write(f"{event.id}\\n")

    def gated(event):
        _note(event)
        while _is_closed(event):
            time.sleep(0.005)
        return event

    def spinning(event):
        _note(event)
        while _is_closed(event):
            pass
        return event

    def asleep(event):
        _note(event)
        if _is_closed(event):
            time.sleep(3600)
        return event

    def deaf(event):
        import ctypes
        _note(event)
        if _is_closed(event):
            ctypes.PyDLL(None).sleep(3600)  # keeps all other threads of the process waiting
        return event

    async def agated(event):
        _note(event)
        while _is_closed(event):
            await asyncio.sleep(0.005)
        return event

    async def stubborn(event):
        _note(event)
        while _is_closed(event):
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                pass
        return event

    def every_other_fails(event):
        if event.id % 2:
            raise ValueError("odd " + "x" * 300)
        return event
"""
KEPT = ("--checkpoint", "c", "--checkpoint-every", "10ms", "--resume")
OUT = ("-o", "out.jsonl")
WORKERS = ("--executor", "process", "--workers", "2")
MIB = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS, "in.jsonl": events(40)})


@pytest.fixture
def disk(folder: Folder) -> Iterator[Path]:
    """A disk of 1 MiB, in the folder."""
    path = folder.path / "disk"
    path.mkdir()
    if not _mount("-t", "tmpfs", "-o", "size=1m", "none", str(path)):
        pytest.skip("only root can mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _mount(*arguments: str) -> bool:
    try:
        return not subprocess.run(["mount", *arguments], capture_output=True).returncode
    except FileNotFoundError:
        return False


def make_room(disk: Path) -> None:
    assert _mount("-o", "remount,size=64m", str(disk))


def fill(disk: Path) -> Path:
    """Leave no room on a disk; gives the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def names_in(disk: Path) -> list[str]:
    return [path.name for path in disk.iterdir()]


def events(count: int, size: int = 9000) -> bytes:
    return lines_of(*({"id": n, "key": f"k{n % 3}", "pad": "x" * size} for n in range(count)))


def traced(folder: Folder) -> list[str]:
    path = folder.path / "trace"
    return path.read_text().split() if path.exists() else []


def close_gate(folder: Folder, at: int = 20) -> None:
    folder.file("gate", str(at))


def open_gate(folder: Folder) -> None:
    (folder.path / "gate").unlink()


def at_the_gate(folder: Folder, run: Started, at: int = 20) -> list[psutil.Process]:
    """Wait until the handler of event `at` is under way; gives the workers."""
    wait_for(lambda: str(at) in traced(folder), "the handler at the gate")
    return psutil.Process(run.process.pid).children(recursive=True)


def are_gone(workers: Sequence[psutil.Process]) -> bool:
    """Waits for it."""
    wait_for(lambda: not any(map(is_alive, workers)), "the end of the workers")
    return True


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def parts(folder: Folder) -> list[Path]:
    return list(folder.path.rglob(".out*.part"))


def ordered(data: bytes) -> list[bytes]:
    return sorted(data.splitlines(True))


# --- signals


HANGING = [
    pytest.param("agated", (), id="coroutine"),
    pytest.param("gated", WORKERS, id="process"),
    pytest.param("spinning", WORKERS, id="spinning process"),
    pytest.param("agated", WORKERS, id="coroutines in processes"),
    pytest.param("stubborn", WORKERS, id="stubborn coroutines in processes"),
]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("handler", "how"), HANGING)
def test_handlers_that_hang_are_let_go_of_at_the_deadline(
    folder: Folder, handler: str, how: tuple[str, ...], number: int, code: int
) -> None:
    arguments = (f"h.py:{handler}", "in.jsonl", *OUT, *how, *KEPT)
    close_gate(folder)
    with folder.start(*arguments, "--drain-timeout", "0.5s") as run:
        workers = at_the_gate(folder, run)
        run.signal(number)
        interrupted = run.end()
    open_gate(folder)

    ended = folder.run(*arguments, "--result", "r.json")

    assert interrupted.code == code
    assert "was not done within 0.5 s (--drain-timeout): " in interrupted.err
    assert "events that were read are left" in interrupted.err
    assert "go on with it by --resume" in interrupted.err
    assert are_gone(workers)
    assert ended.code == 0
    assert ordered(folder.read("out.jsonl")) == ordered(events(40))
    assert folder.json("r.json")["counts"]["read"] == 40


def test_without_a_checkpoint_what_was_done_by_the_deadline_is_kept(folder: Folder) -> None:
    close_gate(folder)
    arguments = ("h.py:agated", "in.jsonl", *OUT, "--order", "global", "--drain-timeout", "0.5s")
    with folder.start(*arguments) as run:
        at_the_gate(folder, run)
        run.signal(signal.SIGTERM)
        interrupted = run.end()

    assert interrupted.code == 143
    assert "20 events that were read are left" in interrupted.err
    assert "the results so far are in" in interrupted.err
    assert folder.read("out.jsonl.partial") == events(20)


@pytest.mark.parametrize("handler", ["spinning", "asleep", "gated"])
def test_a_handler_that_holds_the_loop_can_not_hold_up_the_second_signal(
    folder: Folder, handler: str
) -> None:
    arguments = (f"h.py:{handler}", "in.jsonl", *OUT, *KEPT)
    close_gate(folder)
    with folder.start(*arguments) as run:
        at_the_gate(folder, run)
        run.signal(signal.SIGINT)
        said = run.error_line("holds the event loop")
        run.signal(signal.SIGINT)
        interrupted = run.end()
    open_gate(folder)

    ended = folder.run(*arguments)

    assert f"SIGINT: stage '{handler}' (at " in said
    assert "h.py:" in said
    assert interrupted.code == 130
    assert ended.code == 0
    assert folder.read("out.jsonl") == events(40)


def test_two_signals_at_once_end_a_run_whose_loop_is_held(folder: Folder) -> None:
    close_gate(folder, 0)
    with folder.start("h.py:asleep", "in.jsonl", *OUT) as run:
        at_the_gate(folder, run, 0)
        run.signal(signal.SIGTERM)
        run.signal(signal.SIGINT)
        interrupted = run.end()

    assert interrupted.code in (130, 143)  # whichever the system gave first
    assert "Traceback" not in interrupted.err
    assert not parts(folder)


@pytest.mark.parametrize("handler", ["asleep", "stubborn"])
def test_what_can_not_be_interrupted_is_ended_after_the_deadline(
    folder: Folder, handler: str
) -> None:
    arguments = (f"h.py:{handler}", "in.jsonl", *OUT, *KEPT)
    close_gate(folder)
    with folder.start(*arguments, "--drain-timeout", "0.1s") as run:
        at_the_gate(folder, run)
        run.signal(signal.SIGTERM)
        interrupted = run.end()
    open_gate(folder)

    ended = folder.run(*arguments)

    assert interrupted.code == 143
    assert "could not be interrupted: " in interrupted.err
    assert "events that were read are left; go on with it by --resume" in interrupted.err
    assert ended.code == 0
    assert ordered(folder.read("out.jsonl")) == ordered(events(40))


@pytest.mark.parametrize("handler", ["spinning", "asleep", "deaf", "agated"])
def test_the_second_signal_takes_the_workers_with_it(folder: Folder, handler: str) -> None:
    arguments = (f"h.py:{handler}", "in.jsonl", *OUT, *KEPT, *WORKERS)
    close_gate(folder)
    with folder.start(*arguments) as run:
        workers = at_the_gate(folder, run)
        run.signal(signal.SIGTERM)
        run.error_line("finishing what is in flight")
        run.signal(signal.SIGTERM)
        interrupted = run.end()
    open_gate(folder)

    ended = folder.run(*arguments)

    assert (interrupted.code, len(workers)) == (143, 2)
    assert are_gone(workers)
    assert ended.code == 0
    assert ordered(folder.read("out.jsonl")) == ordered(events(40))


@pytest.mark.parametrize("handler", ["spinning", "asleep", "agated"])
def test_workers_do_not_outlive_a_run_that_was_killed(folder: Folder, handler: str) -> None:
    close_gate(folder)
    with folder.start(f"h.py:{handler}", "in.jsonl", *OUT, *WORKERS) as run:
        workers = at_the_gate(folder, run)
        run.signal(signal.SIGKILL)
        run.process.wait()

    assert len(workers) == 2
    assert are_gone(workers)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_drains_too(folder: Folder, number: int, code: int) -> None:
    close_gate(folder)
    arguments = ("h.py:gated", "in.jsonl", *OUT, *WORKERS, "--result", "r.json")
    with folder.start(*arguments, start_new_session=True) as run:
        workers = at_the_gate(folder, run)
        os.killpg(run.process.pid, number)
        run.error_line("finishing what is in flight")
        open_gate(folder)
        interrupted = run.end()

    assert interrupted.code == code
    assert ordered(folder.read("out.jsonl.partial")) == ordered(events(40))
    assert folder.json("r.json")["counts"]["handled"] == 40
    assert sorted(map(int, traced(folder))) == list(range(40)), "no worker died, nothing ran twice"
    assert are_gone(workers)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_while_workers_start(
    folder: Folder, number: int, code: int
) -> None:
    folder.file(
        "early/sitecustomize.py",
        """
        import os, sys, time
        if "millstream.engine.executors.child" in sys.orig_argv:
            open(f"starts-{os.getpid()}", "w").close()
            while not os.path.exists("go"):
                time.sleep(0.005)
        """,
    )
    early = Folder(folder.path, {"PYTHONPATH": str(folder.path / "early")})
    with early.start("h.py:gated", "in.jsonl", *OUT, *WORKERS, start_new_session=True) as run:
        wait_for(lambda: len(list(folder.path.glob("starts-*"))) == 2, "the workers")
        os.killpg(run.process.pid, number)
        run.error_line("finishing what is in flight")
        folder.file("go", "")
        interrupted = run.end()

    assert interrupted.code == code, interrupted.err
    assert "died" not in interrupted.err


def test_what_a_handler_forks_can_be_ended_by_signals(folder: Folder) -> None:
    folder.file(
        "forks.py",
        """
        import multiprocessing, time

        def handle(event):
            forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            forked.start()
            forked.terminate()
            forked.join(30)
            return {"code": forked.exitcode}
        """,
    )

    ended = folder.run("forks.py:handle", "in.jsonl", *WORKERS, "--limit", "1")

    assert ended.events == [{"code": -signal.SIGTERM}], ended.err


@pytest.mark.parametrize("job", ["plain", "coroutine", "process"])
def test_events_that_wait_long_do_not_hold_up_others_once_a_breaker_has_paused(
    folder: Folder, job: str
) -> None:
    folder.file("in.jsonl", lines_of(*({"id": n, "key": f"k{n}"} for n in range(60))))
    folder.file(
        "waits.py",
        """
        from millstream.engine import Breaker, Retry, stage

        def handle(event):
            if event.id < 6:
                raise Retry(after=3600)
            return event

        async def handle_async(event):
            return handle(event)

        breaker = Breaker(ratio=0.05, calls=6, pause=0.05, probes=1)
        plain = stage(handle, breaker=breaker)
        coroutine = stage(handle_async, breaker=breaker)
        process = stage(handle, executor="process", workers=2, breaker=breaker)
        """,
    )
    with folder.start(f"waits.py:{job}", "in.jsonl", "--drain-timeout", "100ms") as run:
        ids = {json.loads(run.line())["id"] for _ in range(54)}
        run.signal(signal.SIGTERM)
        ended = run.end()

    assert ids == set(range(6, 60))
    assert ended.code == 143


# --- nobody reads the output


@pytest.mark.parametrize(("every", "most"), [("1h", 0), ("1ms", 3 * 65536)])
def test_a_run_whose_pipe_was_closed_can_be_gone_on_with(
    folder: Folder, every: str, most: int
) -> None:
    """`most`: bytes that may have been kept as written, since they were in the pipe."""
    folder.file("in.jsonl", events(4000, 500))
    kept = ("--checkpoint", "c", "--checkpoint-every", every, "--resume")
    with folder.start("h.py:gated", "in.jsonl", *kept) as run:
        first = run.line()
        assert run.process.stdout is not None
        run.process.stdout.close()
        run.process.stdout = None
        closed = run.end()

    ended = folder.run("h.py:gated", "in.jsonl", *kept, "--result", "r.json")

    assert (first, closed.code) == (events(1, 500), 0)
    assert [line for line in closed.err.splitlines() if "events in" in line] == []
    assert ended.code == 0
    assert events(4000, 500).endswith(ended.out)
    assert len(events(4000, 500)) - len(ended.out) <= most  # what nobody reads is not done
    assert folder.json("r.json")["sittings"] == 2


# --- no room


@pytest.mark.parametrize(
    ("handler", "how"), [("gated", ()), ("agated", ()), ("gated", WORKERS)], ids=str
)
def test_a_full_disk_under_the_output_ends_the_run_which_goes_on_when_there_is_room(
    folder: Folder, disk: Path, handler: str, how: tuple[str, ...]
) -> None:
    folder.file("in.jsonl", events(400))
    arguments = (f"h.py:{handler}", "in.jsonl", *how, "-o", "disk/out.jsonl", *KEPT)
    arguments = (*arguments, "--emit", "input")
    full = folder.run(*arguments)
    between = names_in(disk)
    make_room(disk)

    ended = folder.run(*arguments)

    assert full.code == 3
    assert "output 'disk/out.jsonl' can't be written: No space left on device" in full.err
    assert "make room, then --resume" in full.err
    assert "Traceback" not in full.err
    assert "out.jsonl" not in between
    assert ended.code == 0
    assert folder.read("disk/out.jsonl") == events(400)
    assert names_in(disk) == ["out.jsonl"]


def test_a_full_disk_without_a_checkpoint_leaves_nothing_behind(folder: Folder, disk: Path) -> None:
    folder.file("in.jsonl", events(400))

    full = folder.run("h.py:gated", "in.jsonl", "-o", "disk/out.jsonl")

    assert full.code == 3
    assert "No space left on device; nothing was put in its place: make room" in full.err
    assert names_in(disk) == []


def test_a_packed_output_goes_on_when_there_is_room(folder: Folder, disk: Path) -> None:
    noise = [os.urandom(4000).hex() for _ in range(400)]
    data = lines_of(*({"id": n, "pad": pad} for n, pad in enumerate(noise)))
    folder.file("in.jsonl", data)
    arguments = ("h.py:gated", "in.jsonl", "--order", "none", "-o", "disk/out.jsonl.gz", *KEPT)
    full = folder.run(*arguments)
    make_room(disk)

    ended = folder.run(*arguments)

    assert (full.code, ended.code) == (3, 0)
    assert "make room" in full.err
    assert gzip.decompress(folder.read("disk/out.jsonl.gz")) == data


def limited(size: int, folder: Folder, *arguments: str) -> Ended:
    """`millstream run ...`, which may write no file larger than `size`."""
    done = subprocess.run(
        [COMMAND, "run", *arguments],
        cwd=folder.path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


def test_an_output_that_may_grow_no_further_is_told_and_goes_on(folder: Folder) -> None:
    folder.file("in.jsonl", events(4000, 2000))
    arguments = ("h.py:gated", "in.jsonl", *OUT, "--checkpoint", "c", "--resume")
    full = limited(6 * MIB, folder, *arguments)
    between = folder.names

    ended = folder.run(*arguments)

    assert full.code == 3
    assert "output 'out.jsonl' can't be written: File too large" in full.err
    assert "allow larger files, then --resume" in full.err
    assert "out.jsonl" not in between
    assert ended.code == 0
    assert folder.read("out.jsonl") == events(4000, 2000)


def whole_letters(path: Path) -> list[int]:
    """The events in a file of dead letters; fails when one of these is torn."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [letter["event"]["id"] for letter in Folder(path.parent).dead_letters(path.name)]


@pytest.mark.parametrize("how", [(), WORKERS], ids=["inline", "process"])
def test_no_torn_letter_stays_on_a_full_disk_and_none_is_lost(
    folder: Folder, disk: Path, how: tuple[str, ...]
) -> None:
    folder.file("in.jsonl", events(2000, 300))
    arguments = ("h.py:every_other_fails", "in.jsonl", *OUT, *how, *KEPT)
    arguments = (*arguments, "--dead-letter", "disk/dead.jsonl", "--emit", "input")
    full = folder.run(*arguments)
    first = whole_letters(disk / "dead.jsonl")
    make_room(disk)

    ended = folder.run(*arguments, "--result", "r.json")

    assert full.code == 3
    assert "a dead letter can't be written to disk/dead.jsonl: No space left" in full.err
    assert "has room, then go on with --resume" in full.err
    assert 0 < len(first) == len(set(first)) < 1000
    assert ended.code == 4
    assert sorted(whole_letters(disk / "dead.jsonl")) == list(range(1, 2000, 2))
    even = events(2000, 300).splitlines(True)[::2]
    assert folder.read("out.jsonl") == b"".join(even)
    assert folder.json("r.json")["counts"]["dead_lettered"] == 1000


def test_letters_of_a_run_without_a_checkpoint_stay_whole_and_its_results_are_kept(
    folder: Folder,
) -> None:
    folder.file("in.jsonl", events(4000, 10))

    full = limited(
        MIB, folder, "h.py:every_other_fails", "in.jsonl", *OUT, "--dead-letter", "dead.jsonl"
    )

    letters = whole_letters(folder.path / "dead.jsonl")
    assert full.code == 3
    assert "a dead letter can't be written to dead.jsonl: File too large" in full.err
    assert "then run it again; the results so far are in" in full.err
    assert letters == list(range(1, 2 * len(letters), 2))
    written = folder.read("out.jsonl.partial").splitlines(True)
    assert written == events(4000, 10).splitlines(True)[::2][: len(written)]
    assert len(written) > 0


def test_a_letter_that_an_earlier_run_left_torn_is_cut_off(folder: Folder) -> None:
    folder.file("dead.jsonl", b'{"run": "before"}\n{"run": "torn')
    folder.file("in.jsonl", events(2, 1))

    folder.run("h.py:every_other_fails", "in.jsonl", "--dead-letter", "dead.jsonl")

    before, own = folder.dead_letters("dead.jsonl")
    assert (before["run"], own["event"]["id"]) == ("before", 1)


def test_a_letter_that_only_lacks_its_end_stays(folder: Folder) -> None:
    folder.file("dead.jsonl", b'{"run": "before"}\n{"run": "edited"}')
    folder.file("in.jsonl", events(2, 1))

    folder.run("h.py:every_other_fails", "in.jsonl", "--dead-letter", "dead.jsonl")

    before, edited, own = folder.dead_letters("dead.jsonl")
    assert (before["run"], edited["run"], own["event"]["id"]) == ("before", "edited", 1)


@pytest.mark.parametrize("handler", ["gated", "agated"])
def test_a_full_disk_under_the_checkpoint_ends_the_run_which_goes_on_when_there_is_room(
    folder: Folder, disk: Path, handler: str
) -> None:
    kept = ("--checkpoint", "disk/c", "--checkpoint-every", "10ms", "--resume")
    arguments = (f"h.py:{handler}", "in.jsonl", *OUT, *kept, "--order", "global")
    close_gate(folder)
    with folder.start(*arguments) as run:
        at_the_gate(folder, run)
        filler = fill(disk)
        open_gate(folder)
        full = run.end()
    between = folder.names
    filler.unlink()

    ended = folder.run(*arguments)

    assert full.code == 3
    assert "the checkpoint disk/c can't be" in full.err
    assert "room, then go on from it" in full.err
    assert "Traceback" not in full.err
    assert "out.jsonl" not in between
    assert ended.code == 0
    assert folder.read("out.jsonl") == events(40)


def test_output_and_checkpoint_on_one_full_disk(folder: Folder, disk: Path) -> None:
    folder.file("in.jsonl", events(400))
    kept = ("--checkpoint", "disk/c", "--checkpoint-every", "10ms", "--resume")
    arguments = ("h.py:gated", "in.jsonl", "-o", "disk/out.jsonl", *kept)
    full = folder.run(*arguments)
    make_room(disk)

    ended = folder.run(*arguments)

    assert full.code == 3
    assert "make room" in full.err or "has room" in full.err
    assert "Traceback" not in full.err
    assert ended.code == 0
    assert folder.read("disk/out.jsonl") == events(400)


def test_a_result_for_which_there_is_no_room_can_be_had_again(folder: Folder, disk: Path) -> None:
    filler = fill(disk)
    arguments = ("h.py:gated", "in.jsonl", *OUT, *KEPT, "--result", "disk/r.json")
    full = folder.run(*arguments)
    left = names_in(disk)
    calls = len(traced(folder))
    filler.unlink()

    ended = folder.run(*arguments)

    assert full.code == 3
    assert "the result can't be written to disk/r.json: No space left on device" in full.err
    assert "outputs are as they should be; put that right, and have the result again" in full.err
    assert left == ["filler"]
    assert folder.read("out.jsonl") == events(40)
    assert (ended.code, len(traced(folder))) == (0, calls)
    assert folder.json("disk/r.json")["counts"]["read"] == 40


# --- inputs that go away


def test_an_input_that_is_cut_while_it_is_read_is_told_and_can_be_put_back(folder: Folder) -> None:
    data = events(400)
    path = folder.file("in.jsonl", data)
    facts = path.stat()
    arguments = ("h.py:gated", "in.jsonl", *OUT, *KEPT)
    close_gate(folder)
    with folder.start(*arguments) as run:
        at_the_gate(folder, run)
        os.truncate(path, 2 * MIB)
        open_gate(folder)
        cut = run.end()
    changed = folder.run(*arguments)
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    ended = folder.run(*arguments)

    assert cut.code == 3
    assert "input 'in.jsonl' was cut shorter while it was read: it had" in cut.err
    assert "put it back as it was, then go on with --resume" in cut.err
    assert (changed.code, "has changed" in changed.err) == (3, True)
    assert ended.code == 0
    assert folder.read("out.jsonl") == data


def test_what_was_read_of_an_input_that_was_cut_is_kept(folder: Folder) -> None:
    path = folder.file("in.jsonl", events(400))
    close_gate(folder)
    with folder.start("h.py:gated", "in.jsonl", *OUT) as run:
        at_the_gate(folder, run)
        os.truncate(path, 2 * MIB)
        open_gate(folder)
        cut = run.end()

    kept = folder.read("out.jsonl.partial")
    assert cut.code == 3
    assert "then run it again; the results so far are in" in cut.err
    assert kept
    assert events(400).startswith(kept)
    assert kept.endswith(b"\n")
    assert "out.jsonl" not in folder.names


def test_an_input_that_is_removed_while_it_is_read_is_read_to_its_end(folder: Folder) -> None:
    path = folder.file("in.jsonl", events(400))
    close_gate(folder)
    with folder.start("h.py:gated", "in.jsonl", *OUT) as run:
        at_the_gate(folder, run)
        path.unlink()
        open_gate(folder)
        ended = run.end()

    assert ended.code == 0
    assert folder.read("out.jsonl") == events(400)


@pytest.mark.parametrize("how", [(), WORKERS], ids=["inline", "process"])
def test_an_input_that_has_gone_before_its_turn_can_be_put_back(
    folder: Folder, how: tuple[str, ...]
) -> None:
    # So much of the first that the second is not opened while the gate is closed.
    folder.file("in.jsonl", events(400))
    second = folder.file("next.jsonl", events(5, 10))
    arguments = ("h.py:gated", "in.jsonl", "next.jsonl", *OUT, *KEPT, *how, "--emit", "input")
    close_gate(folder)
    with folder.start(*arguments, "--rate", "100") as run:
        workers = at_the_gate(folder, run)
        second.rename(folder.path / "away")
        open_gate(folder)
        gone = run.end()
    (folder.path / "away").rename(second)

    ended = folder.run(*arguments)

    assert gone.code == 3
    assert "input 'next.jsonl' can't be read: No such file or directory" in gone.err
    assert "put it right, then go on with --resume" in gone.err
    assert are_gone(workers)
    assert ended.code == 0
    assert folder.read("out.jsonl") == events(400) + events(5, 10)


# --- outputs that go away


@pytest.mark.parametrize("kept", [(), KEPT], ids=["", "checkpoint"])
def test_an_output_whose_folder_was_removed_is_told(folder: Folder, kept: tuple[str, ...]) -> None:
    out = folder.path / "out"
    out.mkdir()
    close_gate(folder)
    with folder.start("h.py:gated", "in.jsonl", "-o", "out/out.jsonl", *kept) as run:
        at_the_gate(folder, run)
        shutil.rmtree(out)
        open_gate(folder)
        ended = run.end()

    assert ended.code == 3
    assert "where its results stood, was removed during the run" in ended.err
    assert ("begin anew with another checkpoint" if kept else "run it again") in ended.err
    assert "Traceback" not in ended.err
    assert not out.exists()


def test_an_output_whose_folder_was_moved_goes_on_when_it_is_back(folder: Folder) -> None:
    out = folder.path / "out"
    out.mkdir()
    arguments = ("h.py:gated", "in.jsonl", "-o", "out/out.jsonl", *KEPT)
    close_gate(folder)
    with folder.start(*arguments, "--dead-letter", "dead.jsonl") as run:
        at_the_gate(folder, run)
        out.rename(folder.path / "moved")
        open_gate(folder)
        moved = run.end()
    (folder.path / "moved").rename(out)

    ended = folder.run(*arguments, "--dead-letter", "dead.jsonl")

    assert moved.code == 3
    assert "output 'out/out.jsonl' can't be put in its place: No such file" in moved.err
    assert "wherever its folder was moved" in moved.err
    assert "finish it by --resume" in moved.err
    assert ended.code == 0
    assert folder.read("out/out.jsonl") == events(40)
    assert len(traced(folder)) == 40


@pytest.mark.parametrize("kept", [(), KEPT], ids=["", "checkpoint"])
def test_all_results_stay_when_something_stands_where_the_output_is_to_be(
    folder: Folder, kept: tuple[str, ...]
) -> None:
    arguments = ("h.py:gated", "in.jsonl", *OUT, *kept)
    close_gate(folder)
    with folder.start(*arguments) as run:
        at_the_gate(folder, run)
        (folder.path / "out.jsonl").mkdir()
        open_gate(folder)
        ended = run.end()
    (part,) = parts(folder)
    written = part.read_bytes()
    (folder.path / "out.jsonl").rmdir()

    assert ended.code == 3
    assert "can't be put in its place: Is a directory; all results are in " in ended.err
    assert str(part) in ended.err
    assert written == events(40)
    if kept:
        again = folder.run(*arguments)
        assert again.code == 0
        assert folder.read("out.jsonl") == events(40)
        assert len(traced(folder)) == 40
