"""The installed command, run as a user's shell would, in a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("millstream"))
_OF_THE_TERMINAL = ("NO_COLOR", "TERM", "COLUMNS", "LINES", "FORCE_COLOR")
PATIENCE_S = 60.0
"""How long to wait for a condition before giving up: no test passes by waiting for it."""

AWAITING = """
    import asyncio, os

    async def wait(event):
        while event.id == 2 and not os.path.exists("go"):
            await asyncio.sleep(0.005)
        if event.id == 1:
            raise ValueError("no")
        return event
"""
"""A handler that waits at event 2 until there is a file `go`, and fails at event 1."""

HANDLERS = """
    from millstream.engine import Event, Pipeline, Reject, on, stage

    def same(event):
        return event

    def touch(event):
        event.data["touched"] = True
        return event

    def nothing(event):
        return None

    def fail(event):
        raise ValueError("no " + str(event.key))

    def fail_bad(event):
        if event.data.get("bad"):
            raise ValueError("bad one")
        return event
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[bytes]:
        """The lines of standard output, without their ends."""
        return self.out.split(b"\n")[:-1] if self.out else []

    @property
    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


@dataclass(frozen=True)
class Folder:
    """A user's folder: files are written into it, commands run in it."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def file(self, name: str, content: bytes | str) -> Path:
        """Write a file; text is freed of its common indentation."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(textwrap.dedent(content).encode() if isinstance(content, str) else content)
        return path

    def run(self, *arguments: str, stdin: bytes | int | None = None, **environment: str) -> Ended:
        """`millstream run ...` to its end; stdin is bytes to pipe in, or a descriptor."""
        return self.command("run", *arguments, stdin=stdin, **environment)

    def command(
        self, *arguments: str, stdin: bytes | int | None = None, **environment: str
    ) -> Ended:
        piped = stdin if isinstance(stdin, bytes) else None
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.path,
            env=self._environment(environment),
            input=piped,
            stdin=None
            if isinstance(stdin, bytes)
            else subprocess.DEVNULL
            if stdin is None
            else stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *arguments: str, command: str = "run", **streams: Any) -> Started:
        """`millstream run ...` (or another command), still running."""
        given: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **streams,
        }
        process = subprocess.Popen(
            [COMMAND, command, *arguments], cwd=self.path, env=self._environment({}), **given
        )
        return Started(process)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def dead_letters(self, name: str = "dead-letters.jsonl") -> list[dict[str, Any]]:
        path = self.path / name
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def names(self) -> set[str]:
        """All that stands in the folder."""
        return {each.name for each in self.path.iterdir() if each.name != "__pycache__"}

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if k not in _OF_THE_TERMINAL}
        return {**inherited, "TERM": "xterm-256color", **self.environment, **more}


def folder_with(path: Path, files: Mapping[str, bytes | str]) -> Folder:
    """A user's folder that holds `files`."""
    made = Folder(path)
    for name, content in files.items():
        made.file(name, content)
    return made


@dataclass
class Started:
    """A command that is running; used as a context, it is killed at the end if it still runs."""

    process: subprocess.Popen[bytes]

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def line(self) -> bytes:
        """The next line of standard output, waited for."""
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        return line

    def error_line(self, part: str) -> str:
        """The next line of standard error that holds `part`, waited for."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if part in line.decode():
                return line.decode()
        raise AssertionError(f"standard error ended without {part!r}")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait for the end; gives what was not read before."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return Ended(self.process.returncode, out or b"", (err or b"").decode())


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until `condition` holds; fails when it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Screen:
    """What a command wrote to a terminal, and how it ended."""

    code: int
    raw: str

    @property
    def text(self) -> str:
        """Without the terminal's control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    @property
    def is_coloured(self) -> bool:
        return re.search(r"\x1b\[[0-9;]*m", self.raw) is not None


def on_terminal(
    folder: Folder,
    *arguments: str,
    stdin: bytes | None = b"",
    until: str | None = None,
    then: Callable[[int], None] | None = None,
    later: tuple[str, Callable[[int], None]] | None = None,
    command: str = "run",
    size: tuple[int, int] = (200, 50),
    stdout: Any = subprocess.DEVNULL,
    **environment: str,
) -> Screen:
    """Run with standard error (and, with stdin None, standard input) on a terminal of `size`:
    columns and rows. With stdout None, standard output is on it, too.

    When `until` appears on it, `then` is called once with the process id; after that, the same for
    `later`.
    """
    ours, theirs = pty.openpty()
    columns, rows = size
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [COMMAND, command, *arguments],
        cwd=folder.path,
        env=folder._environment(environment),
        stdin=theirs if stdin is None else subprocess.PIPE,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
    )
    os.close(theirs)
    if process.stdin is not None:
        process.stdin.write(stdin or b"")
        if then is None:
            process.stdin.close()
    written = b""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    got = os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
                if not got:
                    break
                written += got
            if then is not None and until is not None and until in written.decode(errors="replace"):
                then(process.pid)
                (until, then), later = later or (None, None), None
                if process.stdin is not None:
                    process.stdin.close()
        code = process.wait(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        os.close(ours)
    return Screen(code, written.decode(errors="replace"))


def lines_of(*objects: Any) -> bytes:
    """Objects as JSON Lines; bytes as they are."""
    return b"".join(
        (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in objects
    )


def numbered(count: int, keys: Iterable[Any] = ("a", "b")) -> bytes:
    """Events with an id, keys in turn."""
    names = list(keys)
    return lines_of(*({"id": n, "key": names[n % len(names)]} for n in range(count)))


def opener(folder: Folder) -> Callable[[int], None]:
    """Lets handlers go on that wait for a file `go`."""

    def go(pid: int) -> None:
        folder.file("go", b"")

    return go
