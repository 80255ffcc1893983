"""`millstream compare`: what a user sees of it, and what scripts rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from millstream.reports.comparison_json import SCHEMA_FILE
from tests.cli.support import HANDLERS, Ended, Folder, numbered, on_terminal
from tests.support.run_sets import a_result

SCHEMA = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_bytes()))

NO_DIFFERENCE = "no difference shown in throughput, service, cpu_per_event; 6 runs against 6\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """With results of six runs in each of: base, same, slow (by a tenth)."""
    made = Folder(tmp_path)
    for name, factor in (("base", 1.0), ("same", 1.0), ("slow", 1.1)):
        results(made, name, factor)
    return made


def results(folder: Folder, name: str, factor: float = 1.0, **changes: Any) -> None:
    for place in range(6):
        slowness = factor * (1 + place / 3000)
        result = a_result(
            throughput=1e5 / slowness, resources__cpu_ns=round(1e6 * slowness), **changes
        )
        result["stages"][0]["service"]["mean"] = round(1e4 * slowness)
        folder.file(f"{name}/{place}.json", json.dumps(result))


def compare(folder: Folder, *arguments: str) -> Ended:
    return folder.command("compare", *arguments)


def told(ended: Ended) -> dict[str, Any]:
    """What was printed, held to the schema."""
    (found,) = [json.loads(ended.out)]
    SCHEMA.validate(found)
    assert found["exit_code"] == ended.code
    return dict(found)


def test_sets_that_are_alike_show_no_difference(folder: Folder) -> None:
    ended = compare(folder, "base", "same")

    assert (ended.code, ended.out) == (0, b"")
    assert ended.err.startswith(NO_DIFFERENCE)


def test_a_slower_set_is_found_and_is_no_failure_by_itself(folder: Folder) -> None:
    ended = compare(folder, "base", "slow")

    assert ended.code == 0
    assert ended.err.startswith(
        "slower: throughput −9.1 %, service +10 %, cpu_per_event +10 %; 6 runs against 6\n"
    )


@pytest.mark.parametrize(
    ("named", "runs"),
    [
        (("base/0.json",), 1),
        (("base/0.json,base/1.json",), 2),
        (("base/[0-3].json",), 4),
        (("base/*.json,base/0.json,base",), 6),
        (("with, comma/",), 6),
    ],
)
def test_a_set_is_files_folders_or_globs_and_each_file_counts_once(
    folder: Folder, named: tuple[str], runs: int
) -> None:
    results(folder, "with, comma")

    found = told(compare(folder, named[0], "same", "--json"))

    assert (found["base"]["runs"], found["candidate"]["runs"]) == (runs, 6)


def test_a_folder_may_hold_other_things_and_it_is_said(folder: Folder) -> None:
    folder.file("base/other.json", '{"schema": "x/1"}')
    folder.file("base/torn.json", '{"schema": "millstr')
    folder.file("base/notes.txt", "?")

    ended = compare(folder, "base", "same")

    assert ended.code == 0
    assert ended.err.count("passed over") == 2
    assert "passed over: base/torn.json is no result file" in ended.err
    assert NO_DIFFERENCE in ended.err


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("missing.json", "missing.json can't be read: No such file or directory"),
        ("none-*.json", "no file matches none-*.json"),
        ("other.json", "other.json is no result file"),
        ("torn.json", "torn.json is no result file"),
        ("empty", "empty: there are no runs in it"),
        ("sweep.json", "sweep.json is a sweep over workers: its trials do different work"),
        ("invalid", "invalid: no run is left that can be compared (invalid: late)"),
    ],
)
def test_what_can_t_be_used_is_named(folder: Folder, named: str, message: str) -> None:
    folder.file("other.json", '{"schema": "x/1"}')
    folder.file("torn.json", '{"schema": "millstr')
    folder.file("empty/readme.txt", "")
    sweep = a_result(experiment={"kind": "sweep", "parameter": "workers", "facts": []})
    folder.file("sweep.json", json.dumps(sweep))
    results(folder, "invalid", exit_code=7, verdict="invalid", invalid=["late"])

    ended = compare(folder, "base", named)

    assert (ended.code, ended.out) == (3, b"")
    assert ended.err.startswith(f"millstream: {message}")
    assert "Traceback" not in ended.err


def test_invalid_runs_are_left_out_and_counted(folder: Folder) -> None:
    late = a_result(exit_code=7, verdict="invalid", invalid=["late"])
    folder.file("same/late.json", json.dumps(late))

    ended = compare(folder, "base", "same")

    assert ended.err.startswith(NO_DIFFERENCE)
    assert "! left out of same: 1 run (invalid: late)\n" in ended.err
    assert told(compare(folder, "base", "same", "--json"))["candidate"]["left_out"] == [
        {"source": "same/late.json", "trial": None, "why": "invalid: late"}
    ]


# --- different work


def test_different_work_is_refused_side_by_side(folder: Folder) -> None:
    results(folder, "other", inputs=["more.jsonl"], host__cpus=64)

    ended = compare(folder, "base", "other", "--json")

    assert (ended.code, ended.out) == (2, b"")
    assert "  inputs     events.jsonl  more.jsonl\n" in ended.err
    assert "  host cpus  2             64\n" in ended.err
    assert ended.err.endswith("run both alike; or compare them as they are: --anyway\n")


def test_different_work_is_compared_when_it_is_asked_for_and_said(folder: Folder) -> None:
    results(folder, "other", inputs=["more.jsonl"])

    ended = compare(folder, "base", "other", "--anyway")

    assert ended.code == 0
    assert ended.err.startswith(NO_DIFFERENCE)
    assert "! different inputs: events.jsonl against more.jsonl\n" in ended.err
    assert told(compare(folder, "base", "other", "--anyway", "--json"))["differences"] == [
        {"what": "inputs", "base": "events.jsonl", "candidate": "more.jsonl"}
    ]
    assert b"different inputs" in compare(folder, "base", "other", "--anyway", "--markdown").out


def test_a_set_whose_runs_differ_is_refused(folder: Folder) -> None:
    folder.file("same/other.json", json.dumps(a_result(ordering__order="none")))

    ended = compare(folder, "base", "same")

    assert ended.code == 2
    assert "  --order, within same  key   none\n" in ended.err


def test_another_version_and_seed_are_what_one_compares(folder: Folder) -> None:
    results(folder, "newer", version="0.2.0", seed=7)

    ended = compare(folder, "base", "newer")

    assert ended.code == 0
    assert "! millstream 0.1.0 against 0.2.0\n" in ended.err


# --- gates


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        (("throughput worse by 5%",), 6),
        (("throughput worse by 20%",), 0),
        (("throughput better by 5%",), 0),
        (("throughput worse by 20%", "service worse by 500ns"), 6),
    ],
)
def test_a_gate_that_holds_is_exit_code_6(
    folder: Folder, gates: tuple[str, ...], code: int
) -> None:
    flags = [part for gate in gates for part in ("--fail-if", gate)]

    assert compare(folder, "base", "slow", *flags).code == code
    assert told(compare(folder, "base", "slow", *flags, "--json"))["exit_code"] == code
    assert compare(folder, "base", "slow", *flags, "--quiet").code == code


def test_what_can_t_be_told_fails_only_when_asked_to(folder: Folder) -> None:
    gate = ("base/0.json", "slow/0.json", "--fail-if", "throughput worse by 5%")

    ended = compare(folder, *gate)

    assert ended.code == 0
    assert "throughput worse by 5%: can't be told: 1 run, and an interval needs 5" in ended.err
    assert compare(folder, *gate, "--strict").code == 6
    assert compare(folder, "base", "same", *gate[2:], "--strict").code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--fail-if", "response.p99 > 50ms"), "that is asked of one run"),
        (("--fail-if", "throughputs worse by 5%"), "there is throughput"),
        (("--fail-if", "response.p99 worse by 5%"), "not all of these runs have response.p99"),
        (("--noise", "lots"), "--noise: 'lots' is no share; write it like 5%"),
        (("--json", "--markdown"), "can't share standard output"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    folder: Folder, flags: tuple[str, ...], message: str
) -> None:
    ended = compare(folder, "base", "same", *flags)

    assert (ended.code, ended.out) == (2, b"")
    assert message in ended.err


@pytest.mark.parametrize(
    ("noise", "verdict"), [("0", "slower"), ("1%", "slower"), ("20%", "within the noise threshold")]
)
def test_the_noise_threshold_can_be_set(folder: Folder, noise: str, verdict: str) -> None:
    assert told(compare(folder, "base", "slow", "--noise", noise, "--json"))["verdict"] == verdict


# --- what it looks like


def test_quiet_says_nothing_but_what_fails(folder: Folder) -> None:
    silent = compare(folder, "base", "slow", "--quiet")
    failing = compare(folder, "base", "slow", "--quiet", "--fail-if", "service worse by 5%")

    assert (silent.code, silent.out, silent.err) == (0, b"", "")
    assert failing.err.startswith("millstream: service worse by 5%: FAILED, it is worse by 10 %")
    assert failing.err.count("\n") == 1


def test_markdown_is_all_there_is_on_standard_output(folder: Folder) -> None:
    ended = compare(folder, "base", "slow", "--markdown")

    assert ended.err == ""
    assert ended.out.decode().startswith("### slower: throughput −9.1 %")


def test_a_terminal_has_colours_unless_it_wants_none(folder: Folder) -> None:
    coloured = on_terminal(folder, "base", "slow", command="compare")
    plain = on_terminal(folder, "base", "slow", command="compare", NO_COLOR="1")

    assert (coloured.is_coloured, plain.is_coloured) == (True, False)
    assert coloured.text == plain.text


def test_names_of_files_command_no_terminal(folder: Folder) -> None:
    results(folder, "\x1b[31mred\n", host__python="\x1b]0;title\x07")

    refused = compare(folder, "base", "\x1b[31mred\n")
    shown = compare(folder, "base", "\x1b[31mred\n", "--anyway", "--fail-if", "service worse by 1%")
    missing = compare(folder, "base", "\x1b[31mmissing\n")

    for ended in (refused, shown, missing):
        assert "\x1b" not in ended.err
        assert "\x07" not in ended.err


def test_results_of_real_runs_are_compared(folder: Folder) -> None:
    folder.file("h.py", HANDLERS)
    folder.file("in.jsonl", numbered(50))
    for name in ("one.json", "two.json"):
        assert folder.run("h.py:touch", "in.jsonl", "-o", "out", "--result", name).code == 0
    assert folder.run("h.py:same", "in.jsonl", "-o", "out", "--result", "other.json").code == 0

    alike, unlike = (compare(folder, "one.json", name) for name in ("two.json", "other.json"))

    assert alike.code == 0
    assert alike.err.startswith("too few runs: 1 run against 1, and 5 of each are needed\n")
    assert unlike.code == 2
    assert "  handler  h.py:touch     h.py:same\n" in unlike.err


def test_repeats_of_a_benchmark_are_so_many_runs(folder: Folder) -> None:
    load = ("cpu", "--set", "rounds=1000", "--events", "300", "--repeat", "5", "--runs", "")
    for name in ("one.json", "two.json"):
        folder.command("bench", *load, "--result", name)

    found = told(compare(folder, "one.json", "two.json", "--json"))

    # On a busy machine a trial may be invalid.
    for each in (found["base"], found["candidate"]):
        assert each["runs"] + len(each["left_out"]) == 5
    assert [each["name"] for each in found["figures"] if each["primary"]] == [
        *("throughput", "service", "cpu_per_event")
    ]
