"""`make bench`: measures Millstream beside bare loops and peers, whole commands, file to file.

Prints one table; README.md beside this file says what each row is and how to read it.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Run as a file, Python would look for the modules in this folder and not in the project's.
sys.path[0] = str(Path(__file__).resolve().parents[2])

try:
    from tests.benchmarks.measure import turns_of_20_us
    from tests.benchmarks.rows import ROWS, Row
    from tests.benchmarks.session import FOLDER, ROOT, Record, Sizes, measure_rounds, missing
    from tests.benchmarks.table import derive, render
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is missing: `make bench` installs what is needed and measures")

DEFAULTS = {
    **{"events": 1_000_000, "io_events": 100_000, "zipf_events": 20_000},
    **{"log_events": 10_000_000, "nexmark_events": 200_000, "rounds": 5},
}
SIZES = ("events", "io_events", "zipf_events", "log_events", "nexmark_events")
FIGURES = Path("tests", "benchmarks", "RESULTS.md")
PEERS = ("orjson", "mpire", "bytewax", "aiostream", "uvloop", "msgspec")


def main() -> int:
    """Measure and report; 1 when a row failed or did other work than it should."""
    options = parse_options(sys.argv[1:])
    rows = select(options.rows)
    if options.list:
        print_list(rows)
        return 0
    about = describe(options)
    compile_packages()
    records = measure_rounds(
        rows,
        rounds=options.rounds,
        sizes=Sizes(*(getattr(options, name) for name in SIZES)),
        spin_turns=about["spin_turns"],
        timeout_seconds=options.timeout,
        say=say,
    )
    table = render(records)
    print(table)
    write_results(about, records)
    write_figures(about, table, options)
    return 1 if any(r.fault not in (None, "not installed") for r in records) else 0


def compile_packages() -> None:
    """Compile Millstream and the handlers, as pip does with what it installs.

    The peers are compiled; an editable installation is not, where Python may not write bytecode.
    """
    for folder in ("cli", "engine", "reports", "workloads", "tests/benchmarks"):
        compileall.compile_dir(ROOT / folder, quiet=1)


def say(text: str) -> None:
    """One line of progress, for people."""
    print(text, file=sys.stderr, flush=True)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line, with all sizes 1 or more."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default, help in (
        ("events", DEFAULTS["events"], "events of the main file"),
        ("rounds", DEFAULTS["rounds"], "runs of each row; the median counts"),
        ("io-events", DEFAULTS["io_events"], "events of the rows that wait 5 ms, without order"),
        (
            "zipf-events",
            DEFAULTS["zipf_events"],
            "events of the rows whose hottest key is the bound",
        ),
        ("log-events", DEFAULTS["log_events"], "events of the log that is audited"),
        ("nexmark-events", DEFAULTS["nexmark_events"], "events of the queries of Nexmark"),
        ("timeout", 900, "seconds after which one run is killed"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help} (%(default)s)")
    parser.add_argument(
        "--rows", type=pattern_of, metavar="REGEX", help="only rows whose name has it"
    )
    parser.add_argument("--list", action="store_true", help="list the rows and measure nothing")
    options = parser.parse_args(arguments)
    if min(getattr(options, name) for name in DEFAULTS) < 1:
        parser.error("events and rounds must be 1 or more")
    return options


def pattern_of(text: str) -> re.Pattern[str]:
    """A regular expression, or an error in argparse's words."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def select(pattern: re.Pattern[str] | None) -> list[Row]:
    """The rows whose name matches, and their yardsticks."""
    chosen = [row for row in ROWS if pattern is None or pattern.search(row.name)]
    if not chosen:
        sys.exit(
            f"no row's name has {pattern.pattern if pattern else ''!r}; --list shows the names"
        )
    names = {row.name for row in chosen} | {row.against for row in chosen}
    return [row for row in ROWS if row.name in names]


def print_list(rows: Sequence[Row]) -> None:
    """Name, work and availability of each row."""
    for row in rows:
        print(f"{row.name:22} {row.about}{' (not installed)' if missing(row) else ''}")


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on: the commit, the machine, the versions, the sizes."""
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"warning: this machine is busy (load {load:.1f}); measure on an idle one")
    return {
        "schema": "millstream.benchmarks/1",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": shlex.join([".venv/bin/python", "tests/benchmarks/run.py", *sys.argv[1:]]),
        "cpus": os.cpu_count(),
        "load": round(load, 2),
        "python": platform.python_version(),
        "versions": {name: found for name in PEERS if (found := version_of(name))},
        "spin_turns": turns_of_20_us(),
        **{name: getattr(options, name) for name in (*SIZES, "rounds")},
    }


def version_of(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The short id of the commit, and whether the working tree differs from it."""
    name = git("rev-parse", "--short", "HEAD")
    if not name:
        return "none"
    changed = git("status", "--porcelain", "--", ".", f":!{FIGURES}")
    return f"{name} with changes" if changed else name


def git(*words: str) -> str:
    """What git says about the project; nothing when it cannot."""
    command = ("git", "-C", str(ROOT), *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def write_results(about: dict[str, Any], records: Sequence[Record]) -> None:
    """The raw rounds and what was derived from them, as JSON."""
    rows = [
        {
            "name": record.row.name,
            "about": record.row.about,
            "command": shlex.join(record.row.command),
            "work": record.row.work,
            "input": record.row.input,
            "against": record.row.against,
            "goal": record.row.goal,
            "fault": record.fault,
            "median_seconds": line.wall_seconds,
            "ratio": line.ratio,
            "met": line.met,
            "ahead": line.ahead,
            "samples": [asdict(sample) for sample in record.samples],
        }
        for record, line in zip(records, derive(records), strict=True)
    ]
    path = ROOT / FOLDER / "results.json"
    path.write_text(json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    say(f"raw rounds: {path.relative_to(ROOT)}")


def write_figures(about: dict[str, Any], table: str, options: argparse.Namespace) -> None:
    """The page of figures; the one in the project only after a whole run, not after a try."""
    whole = options.rows is None and all(
        getattr(options, name) >= default for name, default in DEFAULTS.items()
    )
    path = FIGURES if whole else FOLDER / FIGURES.name
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items())
    page = f"""\
# Figures

Whole commands, file to file, interleaved; medians of {about["rounds"]} rounds. README.md says what
each row is and how to read it.

- date: {about["date"]}, commit: {about["commit"]}
- machine: {about["cpus"]} processors, load {about["load"]} at the start, Python {about["python"]}
- versions: {versions}
- events: {about["events"]:,}; where each waits 5 ms {about["io_events"]:,}, and with the hottest
  key as the bound {about["zipf_events"]:,}, where a log is audited {about["log_events"]:,}, of
  Nexmark {about["nexmark_events"]:,}
- command: `{about["command"]}`

{table}"""
    (ROOT / path).write_text(page)
    say(f"figures: {path}")


if __name__ == "__main__":
    sys.exit(main())
