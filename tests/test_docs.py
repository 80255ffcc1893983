"""What the documents show is run, and their links lead somewhere.

In README.md and the other documents (those in docs/, too),

- a `python`, `toml` or `json` block is a file: its name stands in the first line's comment, or
  before the block in `<!-- file: NAME -->`. After `<!-- from: NAME -->` it is an excerpt of that
  file;
- each line of an `sh` block is run, and must end well; `make TARGET` must be a target;
- in a `console` block, lines after `$ ` are run, and must write what follows. After
  `<!-- figures differ -->` numbers and their units may be others.

All of a document runs in one folder, in order, with the examples beside it.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
)

# A document's blocks follow one another, so one worker takes them all.
pytestmark = pytest.mark.xdist_group("docs")

_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FIGURE = re.compile(r"\d[\d,.]*(?: ?(?:ns|µs|ms|s|KiB|MiB|GiB|%)\b)?")
_SPARK = re.compile("[▁▂▃▄▅▆▇█]")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
_MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b(?= |$|`|\n)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    kind: str
    note: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that the block is."""
        if self.note.startswith("file: "):
            return self.note.removeprefix("file: ")
        named = re.match(r"# (\S+\.\w+)\n", self.text)
        return named[1] if named and self.kind in ("python", "toml") else None

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a console block, and what it writes."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, written = part.partition("\n")
            yield command, written


def blocks_of(document: str) -> list[Block]:
    text = (ROOT / document).read_text("utf-8")
    return [
        Block(m["kind"], m["note"] or "", m["text"], text.count("\n", 0, m.start()) + 1)
        for m in _BLOCK.finditer(text)
    ]


class Shell:
    """Runs commands as a user would, in one folder, with the project's command at hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._status = 0
        shutil.copytree(
            ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__")
        )

    def run(self, command: str) -> str:
        """What it writes, to standard output and error."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ended = subprocess.run(
            ["bash", "-c", f"(exit {self._status}); {command}"],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )
        self._status = ended.returncode
        return ended.stdout

    @property
    def status(self) -> int:
        """The exit code of the last command."""
        return self._status


def without_figures(text: str) -> list[str]:
    """Lines in which figures, and the space that lines them up, are left out.

    Cores and sparklines, too: whether they are told is up to how long a run took.
    """
    told = [line for line in text.splitlines() if not _SPARK.search(line)]
    lines = [_FIGURE.sub("#", line).replace(", # cores", "") for line in told]
    return [re.sub(r"\s+", " ", line).rstrip() for line in lines]


@pytest.mark.timeout(900)  # of some many commands are run, each with a limit of its own
@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_shows_runs_and_writes_what_it_says(document: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for block in blocks_of(document):
        at = f"{document} line {block.line}"
        if block.note.startswith("from: "):
            source = (ROOT / block.note.removeprefix("from: ")).read_text("utf-8")
            assert block.text in source, f"{at} is not in the file that it names"
        elif block.file is not None:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.kind == "sh":
            for command in block.text.splitlines():
                if not command.startswith("make "):
                    written = shell.run(command)
                    assert shell.status == 0, f"{at}: {command}\n{written}"
        elif block.kind == "console":
            for command, shown in block.commands():
                written = shell.run(command)
                if block.note == "figures differ":
                    assert without_figures(written) == without_figures(shown), f"{at}: {command}"
                else:
                    assert written == shown, f"{at}: {command}"
        else:
            assert block.kind == "text", f"{at}: nobody runs this block; name its file"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_make_targets_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")

    links = [link for link in _LINK.findall(text) if "://" not in link]
    folder = (ROOT / document).parent
    assert [link for link in links if not (folder / link).exists()] == []
    shown = re.findall(r"^ {4}.*$|`[^`\n]*`|^```sh\n(?:.*\n)*?```$", text, re.MULTILINE)
    targets = set(_TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    assert {name for part in shown for name in _MAKE.findall(part)} <= targets


def promises() -> list[tuple[str, list[str]]]:
    """What README guarantees, and the tests that hold it."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## What is guaranteed\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", section, re.MULTILINE)[1:]
    return [(promise, re.findall(r"`(\S+)`", tests)) for promise, tests in rows if promise != "---"]


def names_in(path: Path) -> set[str]:
    """The names of a file's tests."""
    body = ast.parse(path.read_text("utf-8")).body
    return {each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_promise_is_held_by_tests_that_exist() -> None:
    assert len(promises()) > 15
    for promise, tests in promises():
        assert tests, f"nothing holds: {promise}"
        for test in tests:
            path, _, name = test.partition("::")
            assert name.startswith("test_"), test
            assert name in names_in(ROOT / path), f"{test} is not there, to hold: {promise}"


def demo_commands() -> list[str]:
    """What `make demo` runs, without setting up."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", " ")
    lines = [line.strip() for line in recipe.splitlines()]
    return [line for line in lines if "examples/demo" in line or "bench feed" in line]


def test_the_demo_runs_ends_well_and_has_something_to_show(tmp_path: Path) -> None:
    make_events, run, bench = demo_commands()
    shell = Shell(tmp_path)

    shell.run(f"{make_events} 20000 build/demo/events.jsonl")
    assert shell.status == 0
    summary = shell.run(run)
    assert shell.status == 0, summary
    assert "20,000 events in" in summary
    assert "per key: held (4 places audited)" in summary
    verdict = shell.run(bench)
    assert shell.status == 0, verdict
    assert "all 5 held: follows, fan-out, timelines" in verdict
    assert "dead letters 2 in build/demo/dead-letters.jsonl" in summary
    for stage in ("check   inline", "score   process x 2", "enrich  coroutine x 200"):
        assert stage in summary


def test_the_demo_makes_the_same_events_each_time(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for name in ("a", "b"):
        shell.run(f"python examples/demo/make_events.py 2000 {name}.jsonl")

    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 2000
