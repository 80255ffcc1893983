"""`millstream report`, and `--report` of the commands that run something."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from millstream.engine.histogram import Histogram
from millstream.engine.histogram_codec import encoded
from tests.cli.support import COMMAND, Folder, folder_with, numbered
from tests.support.letters import letter, write_letters
from tests.support.results import bench, result

OLD = Path(__file__).parents[1] / "data" / "results"
FILES = ("r.html", "r.md", "r.xml", "r.json", "r.hgrm", "r.hlog", "r.txt")
BEGINNINGS = (
    *(b"<!DOCTYPE html>", b"### feed: pass", b"<?xml version='1.0'", b'{\n  "machine_info"'),
    *(b"       Value", b"# response time", b"pass: 12,345 events"),
)
HANDLERS = """
    def same(event):
        return event

    def fail(event):
        raise ValueError("no")
"""


def whole() -> dict[str, Any]:
    """A result with response times."""
    made = Histogram()
    made.record([10**6])
    return bench(histograms={"response": encoded(made), "slip": None, "stages": []})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = folder_with(tmp_path, {"h.py": HANDLERS})
    made.file("result.json", json.dumps(whole()))
    made.file("in.jsonl", numbered(5))
    return made


def test_a_result_is_shown_as_a_summary_on_standard_output(folder: Folder) -> None:
    ended = folder.command("report", "result.json")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(b"pass: 12,345 events in 2 s, 6,172/s, order per key held")
    assert b"  bench        feed, seed 7\n" in ended.out


def test_several_are_shown_under_their_names_and_side_by_side(folder: Folder) -> None:
    for name in ("before", "after"):
        folder.file(f"kept/deep/{name}.json", json.dumps(whole()))

    in_folder = folder.command("report", "kept")
    by_pattern = folder.command("report", "kept/*/*.json")

    assert (in_folder.code, in_folder.out) == (0, by_pattern.out)
    assert in_folder.out.startswith(b"after\npass: ")
    assert [line.split()[0] for line in in_folder.lines[-3:]] == [b"result", b"after", b"before"]


def test_a_result_is_read_from_standard_input(folder: Folder) -> None:
    raw = json.dumps(whole()).encode()

    named = folder.command("report", "-", stdin=raw)
    piped = folder.command("report", stdin=raw)

    assert named.code == piped.code == 0
    assert named.out == piped.out == folder.command("report", "result.json").out


def test_the_suffix_says_the_format_and_each_file_is_told(folder: Folder) -> None:
    outputs = [part for file in FILES for part in ("-o", file)]

    ended = folder.command("report", "result.json", *outputs)

    assert (ended.code, ended.out) == (0, b"")
    assert ended.err.splitlines() == [f"millstream: report in {file}" for file in FILES]
    for file, beginning in zip(FILES, BEGINNINGS, strict=True):
        assert folder.read(file).startswith(beginning), file


def test_a_format_that_is_asked_for_goes_to_standard_output_or_to_the_file(folder: Folder) -> None:
    bare = folder.command("report", "result.json", "--format", "markdown")
    dash = folder.command("report", "result.json", "-o", "-", "--format", "markdown")
    quiet = folder.command("report", "result.json", "-o", "x.log", "--format", "markdown", "-q")

    assert bare.code == dash.code == quiet.code == 0
    assert bare.out == dash.out == folder.read("x.log")
    assert bare.out.startswith(b"### feed: pass")
    assert bare.err == dash.err == quiet.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("result.json", "-o", "x.pdf"), "the name 'x.pdf' says no format; let it end in one of"),
        (("result.json", "-o", "-"), "-o - says no format; add one, such as --format markdown"),
        (("result.json", "--format", "pdf"), "there is no format 'pdf'; there are html, markdown"),
        (
            ("result.json", "-o", "a.md", "-o", "b.md", "--format", "text"),
            "--format says one format, and there are several files; leave it out",
        ),
        (
            ("result.json", "-o", "a.md", "-o", "./a.md"),
            "two reports can't be written to one file; give each its own",
        ),
        (("result.json", "-o", "result.json"), "-o result.json would replace a result"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(
    folder: Folder, arguments: tuple[str, ...], message: str
) -> None:
    before = sorted(folder.path.iterdir())

    ended = folder.command("report", *arguments)

    assert (ended.code, ended.out) == (2, b"")
    assert message in ended.err
    assert sorted(folder.path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json",), "there is no file none.json; a result is written by run --result FILE"),
        (("none*.json",), "no file matches none*.json"),
        (("empty",), "there is no result in empty"),
        (("torn.json",), "torn.json is no result file: it ends too early"),
        (("h.py",), "h.py is no result file: it is not JSON"),
        (("newer.json",), "was written by a newer millstream (millstream.result/2); upgrade"),
        (("wrong.json",), "wrong.json is a damaged result file, or not millstream's: counts.read"),
        (("old.json", "-o", "x.md", "-o", "x.hgrm"), "holds no histogram"),
        (("result.json", "-o", "no/x.md"), "can't be written to no/x.md: No such file"),
    ],
)
def test_what_can_not_be_used_is_exit_3_in_a_sentence(
    folder: Folder, arguments: tuple[str, ...], message: str
) -> None:
    (folder.path / "empty").mkdir()
    text = json.dumps(whole())
    folder.file("torn.json", text[:1000])
    folder.file("newer.json", text.replace("result/1", "result/2"))
    folder.file("wrong.json", text.replace('"read": 12345', '"read": "many"'))
    shutil.copy(OLD / "bench-0.1.0.json", folder.path / "old.json")

    ended = folder.command("report", *arguments)

    assert (ended.code, ended.out) == (3, b"")
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not (folder.path / "x.md").exists()


def test_what_is_no_result_in_a_folder_is_passed_over_and_told(folder: Folder) -> None:
    folder.file("kept/a.json", json.dumps(whole()))
    folder.file("kept/notes.json", "[1]")

    ended = folder.command("report", "kept")

    assert ended.code == 0
    assert ended.out.startswith(b"pass: ")
    assert "passed over: kept/notes.json is no result file" in ended.err


def test_results_of_earlier_versions_are_shown(folder: Folder) -> None:
    ended = folder.command("report", str(OLD / "run-0.1.0.json"))

    assert ended.code == 0
    assert ended.out.startswith(b"pass: 20,000 events in 528 ms, 37,898/s, order per key held")
    assert b"dead letters 2 in dead-letters.jsonl" in ended.out


def test_an_audit_is_shown_as_the_audit_itself_does(folder: Folder) -> None:
    folder.file("log.jsonl", '{"seq":1}\n{"seq":3}\n{"seq":2}\n')
    audited = folder.command("audit", "log.jsonl")
    folder.file("audit.json", folder.command("audit", "log.jsonl", "--json").out)

    shown = folder.command("report", "audit.json")
    junit = folder.command("report", "audit.json", "--format", "junit")

    assert (shown.code, shown.out.decode()) == (0, audited.err)
    assert junit.code == 3
    assert "audit.json is an audit" in junit.err or "audit is an audit" in junit.err


def test_a_closed_pipe_ends_it_quietly(folder: Folder) -> None:
    ended = subprocess.run(
        f"{COMMAND} report result.json --format html | head -c 10",
        shell=True,
        cwd=folder.path,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (ended.stdout, ended.stderr) == (b"<!DOCTYPE ", b"")


# --- --report


def test_a_run_leaves_its_reports(folder: Folder) -> None:
    ended = folder.run(
        *("h.py:fail", "in.jsonl", "--output", "out.jsonl"),
        *("--report", "run.md", "--report", "run.xml"),
    )

    assert ended.code == 4
    assert ended.err.endswith("millstream: report in run.md\nmillstream: report in run.xml\n")
    assert folder.read("run.md").startswith(b"### fail: pass\n\n**pass**: 5 events in ")
    failures = ET.fromstring(folder.read("run.xml")).findall(".//failure")
    assert [each.get("message") for each in failures] == ["5 events became dead letters"]


def test_a_benchmark_leaves_its_reports_with_the_whole_experiment(folder: Folder) -> None:
    ended = folder.command(
        *("bench", "passthrough", "--events", "2000", "--repeat", "2", "--runs", ""),
        *("--report", "b.html", "--report", "b.xml"),
    )

    assert ended.code in (0, 7)
    assert "millstream: report in b.html" in ended.err
    assert folder.read("b.html").startswith(b"<!DOCTYPE html>")
    names = [each.get("name") for each in ET.fromstring(folder.read("b.xml")).iter("testcase")]
    assert names[-2:] == ["trial 1", "trial 2"]


def test_a_replay_leaves_its_reports(folder: Folder) -> None:
    write_letters(folder.path / "dead-letters.jsonl", letter(1))

    ended = folder.command(
        *("replay", "dead-letters.jsonl", "h.py:same", "--output", "out.jsonl"),
        *("--report", "replay.txt"),
    )

    assert ended.code == 0
    assert b"  replay       same\n" in folder.read("replay.txt")


def test_reports_are_asked_for_in_a_file_too(folder: Folder) -> None:
    folder.file("options.toml", 'report = ["from-file.md"]\noutput = "out.jsonl"\n')

    ended = folder.run("h.py:same", "in.jsonl", "--config", "options.toml", "--quiet")

    assert (ended.code, ended.err) == (0, "")
    assert folder.read("from-file.md").startswith(b"### same: pass")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--report", "x.pdf"), 2, "--report: the name 'x.pdf' says no format; let it end in"),
        (("--report", "-"), 2, "--report names a file; for standard output, keep the result"),
        (("--report", "a.md", "--report", "./a.md"), 2, "--report and --report name the same"),
        (("--report", "a.txt", "--result", "a.txt"), 2, "name the same file, a.txt"),
        (("--report", "no/a.md"), 3, "--report no/a.md: there is no folder no; make it first"),
        (("--report", "sub.md"), 3, "--report sub.md is a folder; name a file in it"),
        (("--result", "no/r.json"), 3, "--result no/r.json: there is no folder no; make it first"),
    ],
)
def test_a_report_that_can_not_be_is_refused_before_anything_runs(
    folder: Folder, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (folder.path / "sub.md").mkdir()

    ended = folder.run("h.py:same", "in.jsonl", "--output", "out.jsonl", *arguments)

    assert ended.code == code
    assert message in ended.err
    assert not (folder.path / "out.jsonl").exists()


def test_a_report_that_can_not_be_written_leaves_the_run_as_it_is(folder: Folder) -> None:
    (folder.path / "full.md").symlink_to("/dev/full")

    ended = folder.run("h.py:same", "in.jsonl", "--output", "out.jsonl", "--report", "full.md")

    assert ended.code == 3
    assert "the report can't be written to full.md: No space left on device" in ended.err
    assert "the run itself is over, and its outputs are as they should be" in ended.err
    assert folder.read("out.jsonl").count(b"\n") == 5


def test_a_report_that_needs_a_schedule_says_so_after_a_run_without_one(folder: Folder) -> None:
    ended = folder.run("h.py:same", "in.jsonl", "--output", "out.jsonl", "--report", "r.hgrm")

    assert ended.code == 3
    assert "same has no response times: there was no schedule" in ended.err
    assert folder.read("out.jsonl").count(b"\n") == 5


def test_from_python_a_report_is_refused(tmp_path: Path) -> None:
    from millstream.engine import run
    from millstream.engine.plan import PlanError

    with pytest.raises(PlanError, match=r"written by the command, or by millstream\.reports alone"):
        run(lambda event: event, str(tmp_path / "in.jsonl"), report=("a.md",))


def test_of_one_and_the_same_result_all_reports_tell_the_same_verdict(folder: Folder) -> None:
    folder.file("run.json", json.dumps(result()))

    text = folder.command("report", "run.json").out.decode().splitlines()[0]
    markdown = folder.command("report", "run.json", "--format", "markdown").out.decode()
    html = folder.command("report", "run.json", "--format", "html").out.decode()

    told = text.removeprefix("pass: ")
    assert told in markdown.replace("\\", "")
    assert told in html
