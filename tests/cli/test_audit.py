"""`millstream audit`: what a user sees of it, and what scripts rely on."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from millstream.engine.result import SCHEMA_FILE
from tests.cli.support import COMMAND, Ended, Folder

_RESULT_SCHEMA = json.loads(SCHEMA_FILE.read_bytes())
SCHEMA = jsonschema.Draft202012Validator(
    {"$ref": "#/$defs/audit", "$defs": _RESULT_SCHEMA["$defs"]}
)

PEAK = str(Path(__file__).parents[1] / "support" / "peak.py")

LATE = (1, 2, 3, 5, 6, 7, 8, 4, 9, 10)
TIMES = (68, 88, 108, 148, 168, 188, 208, 210, 228, 248)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def lines(*numbers: Any, **more: Any) -> bytes:
    """A log of events with these sequence numbers."""
    return b"".join(json.dumps({"seq": n, **more}).encode() + b"\n" for n in numbers)


def report(ended: Ended) -> dict[str, Any]:
    """What was printed, held to the schema."""
    (told,) = [json.loads(ended.out)]
    SCHEMA.validate(told)
    assert told["exit_code"] == ended.code
    return dict(told)


def test_a_log_in_order_ends_well(folder: Folder) -> None:
    folder.file("log.jsonl", lines(1, 2, 3))

    ended = folder.command("audit", "log.jsonl")

    assert (ended.code, ended.out) == (0, b"")
    assert ended.err == "log.jsonl: in order\n  events       3\n"


def test_both_events_of_a_pair_are_named_with_file_and_line(folder: Folder) -> None:
    folder.file("a.jsonl", lines(1, 2, 4))
    folder.file("b.jsonl", lines(5, 3, 5))

    ended = folder.command("audit", "a.jsonl", "b.jsonl")

    assert ended.code == 5
    assert ended.err.startswith("2 logs: 1 event out of order, 1 duplicate\n")
    assert "! 3 (b.jsonl line 2) came after 4 (a.jsonl line 3), 2 places late\n" in ended.err
    assert "! 5 (b.jsonl line 3) is a copy of 5 (b.jsonl line 1)\n" in ended.err


def test_the_standard_example_in_json(folder: Folder) -> None:
    events = [{"seq": n, "at": t} for n, t in zip(LATE, TIMES, strict=True)]
    folder.file("log.jsonl", b"".join(json.dumps(each).encode() + b"\n" for each in events))

    told = report(folder.command("audit", "log.jsonl", "--time", "at", "--json"))

    assert told["schema"] == "millstream.audit/1"
    assert (told["scope"], told["events"], told["keys"]) == ("global", 10, 1)
    assert (told["reordered"], told["reordered_ratio"], told["duplicates"]) == (1, 0.1, 0)
    assert told["discontinuities"] == {"count": 1, "missing": 1}
    assert told["extent"] == {"max": 4, "counts": {"4": 1}}
    assert told["late_time"] == {"max": 62, "mean": 62}
    assert told["n_reordering"] == {"1": 0.1, "2": 0.1, "3": 0.1, "4": 0.1}
    assert told["free_runs"] == {"reordered": 1, "accepted": 9, "arrivals": 10, "q": 49}
    assert told["exit_code"] == 5
    (example,) = told["examples"]
    assert example == {
        **{"kind": "reordered", "key": None, "sequence": 4, "position": 8, "extent": 4},
        **{"source": "log.jsonl", "line": 8},
        "after": {"sequence": 5, "source": "log.jsonl", "line": 4},
    }


def test_thresholds_of_the_densities(folder: Folder) -> None:
    folder.file("log.jsonl", lines(1, 4, 2, 5, 3, 6, 7, 8))

    told = report(folder.command("audit", "log.jsonl", "--threshold", "4", "--json"))

    assert told["reorder_density"] == {
        "threshold": 4,
        "counts": {"-2": 1, "-1": 1, "0": 4, "1": 1, "2": 1},
    }
    assert told["buffer_occupancy"] == {"threshold": 4, "counts": {"0": 5, "1": 2, "2": 1}}


def test_each_key_is_a_sequence_of_its_own(folder: Folder) -> None:
    folder.file("log.jsonl", lines(5, user="ann") + lines(1, 2, 2, user="bob"))

    whole = report(folder.command("audit", "log.jsonl", "--json"))
    by_key = report(folder.command("audit", "log.jsonl", "--json", "--key", "user"))

    assert (whole["reordered"], whole["duplicates"]) == (2, 1)
    assert (by_key["scope"], by_key["keys"]) == ("key", 2)
    assert (by_key["reordered"], by_key["duplicates"]) == (0, 1)
    assert by_key["examples"][0]["key"] == "bob"


CLOUD_EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def _csv() -> bytes:
    return b"user;nr\n" + b"".join(b"ann;%d\n" % number for number in LATE)


def _document() -> bytes:
    return json.dumps([{"user": "ann", "nr": n} for n in LATE], indent=1).encode()


def _nested() -> bytes:
    return b"".join(b'{"user":"ann","meta":{"nr":%d}}\n' % number for number in LATE)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"".join(b'{"user":"ann","nr":%d}\n' % n for n in LATE), "nr"),
        (b"".join(b'{"user":"ann","nr":%d}\r\n' % n for n in LATE), "nr"),
        (gzip.compress(_document()), "nr"),
        (zstandard.compress(_csv()), "nr"),
        (_csv(), "nr"),
        (_document(), "nr"),
        (_nested(), "meta.nr"),
    ],
    ids=["lines", "crlf", "gzip", "zstd", "csv", "document", "nested"],
)
@pytest.mark.parametrize("piped", [False, True])
def test_all_formats_are_told_by_their_content(
    folder: Folder, content: bytes, field: str, piped: bool
) -> None:
    folder.file("log", content)
    source = ["-"] if piped else ["log"]

    ended = folder.command(
        "audit", *source, "--sequence", field, "--key", "user", "--json",
        stdin=content if piped else None,
    )  # fmt: skip

    told = report(ended)
    assert (told["events"], told["keys"], told["reordered"]) == (10, 1, 1)
    assert told["examples"][0]["key"] == "ann"
    assert told["examples"][0]["sequence"] == 4


def test_cloudevents_with_text_sequences_that_are_numbers(folder: Folder) -> None:
    batch = [{**CLOUD_EVENT, "sequence": str(n), "partitionkey": "k"} for n in (8, 9, 10, 11)]
    folder.file("batch.json", json.dumps(batch))

    told = report(
        folder.command(
            "audit", "batch.json", "--format", "cloudevents", "--key", "partitionkey", "--json"
        )
    )

    assert (told["events"], told["reordered"], told["malformed"]) == (4, 0, 0)
    assert told["discontinuities"] == {"count": 0, "missing": 0}


def test_what_is_no_cloudevent_is_told(folder: Folder) -> None:
    events = [{**CLOUD_EVENT, "sequence": "1"}, {"id": "2", "sequence": "2"}]
    folder.file("log.jsonl", "".join(json.dumps(each) + "\n" for each in events))

    ended = folder.command("audit", "log.jsonl", "--format", "cloudevents", "--json")

    assert (report(ended)["events"], report(ended)["malformed"], ended.code) == (1, 1, 3)
    assert "log.jsonl line 2 is no event: it is no CloudEvent 1.0" in ended.err


def test_cloudevents_with_other_texts_compare_by_code_point(folder: Folder) -> None:
    sequences = ["0008", "0009", "000a", "000b", "0010", "000c"]
    events = [{**CLOUD_EVENT, "sequence": each} for each in sequences]
    folder.file("log.jsonl", "".join(json.dumps(each) + "\n" for each in events))

    told = report(folder.command("audit", "log.jsonl", "--json"))

    assert told["reordered"] == 1
    assert told["examples"][0]["sequence"] == "000c"
    assert told["discontinuities"] == {"count": None, "missing": None}


def test_texts_behind_many_numbers_begin_anew(folder: Folder) -> None:
    """They are fixed-width hexadecimal numbers, of which the first have no letter."""
    folder.file(
        "log.jsonl", lines(*(f"{n:06x}" for n in range(300_000) if n % 16 < 10 or n > 9999))
    )

    told = report(folder.command("audit", "log.jsonl", "--json"))

    assert told["reordered"] == 0
    assert told["discontinuities"]["count"] is None


def test_texts_behind_many_numbers_that_can_not_be_read_again(folder: Folder) -> None:
    content = lines(*range(100_000), "x")

    refused = folder.command("audit", stdin=content)
    as_text = folder.command("audit", "--sequence-type", "text", stdin=content)
    as_number = folder.command("audit", "--sequence-type", "number", "--json", stdin=content)

    assert refused.code == 3
    assert "the sequence 'x' in standard input line 100001 is no number, but others" in refused.err
    assert "--sequence-type" in refused.err
    assert as_text.code == 5
    assert (as_number.code, report(as_number)["unnumbered"]) == (0, 1)


@pytest.mark.parametrize(
    "content",
    [
        lines(*range(20), "n/a"),
        lines(*map(str, range(20)), "n/a"),
        b"seq;a\n" + b"".join(b"%d;x\n" % n for n in range(20)) + b"n/a;x\n",
    ],
    ids=["numbers", "texts", "csv"],
)
def test_one_text_among_numbers_does_not_make_them_texts(folder: Folder, content: bytes) -> None:
    folder.file("log", content)

    refused = folder.command("audit", "log")
    left_out = folder.command("audit", "log", "--sequence-type", "number", "--json")

    assert refused.code == 3
    assert "the sequence 'n/a' in log line 2" in refused.err
    told = report(left_out)
    assert (left_out.code, told["reordered"], told["unnumbered"]) == (0, 0, 1)


def test_an_object_is_no_sequence(folder: Folder) -> None:
    folder.file("log.jsonl", lines(1, {"a": 1}, [2], 3))

    told = report(folder.command("audit", "log.jsonl", "--json"))

    assert (told["exit_code"], told["events"], told["unnumbered"]) == (0, 4, 2)


def test_texts_are_told_to_be_compared_as_such(folder: Folder) -> None:
    folder.file("log.jsonl", lines("0b", "0a"))

    ended = folder.command("audit", "log.jsonl")

    assert ended.code == 5
    assert "! sequences were compared as texts: the sequence '0b' in log.jsonl line 1" in ended.err


CAPTURED = Path(__file__).parents[1] / "data" / "kafka-console"


@pytest.mark.parametrize("name", ["a", "b", "c", "f"])
def test_the_output_of_a_kafka_console_consumer(folder: Folder, name: str) -> None:
    content = (CAPTURED / f"{name}.txt").read_bytes()

    by_partition = folder.command("audit", "--key", "partition", "--json", stdin=content)
    by_key = folder.command("audit", "--key", "key", "--json", stdin=content)
    whole = folder.command("audit", stdin=content)

    assert (by_partition.code, by_key.code) == (0, 0)
    assert (report(by_partition)["events"], report(by_partition)["keys"]) == (60, 3)
    assert report(by_partition)["discontinuities"] == {"count": 0, "missing": 0}
    assert (report(by_key)["keys"], report(by_key)["unkeyed"]) == (10, 6)
    assert whole.code == 5
    assert "! offsets count by partition, and there are several: --key partition\n" in whole.err


def test_kafka_messages_that_were_delivered_again(folder: Folder) -> None:
    content = (CAPTURED / "redelivered.txt").read_bytes()

    ended = folder.command("audit", "--key", "partition", "--json", stdin=content)

    told = report(ended)
    assert (ended.code, told["duplicates"], told["reordered"]) == (5, 19, 0)
    assert told["examples"][0] == {
        **{"kind": "duplicate", "key": 1, "sequence": 3, "position": 61},
        **{"source": "-", "line": 61},
        "after": {"sequence": 3, "source": "-", "line": 10},
    }


def test_messages_as_kcat_prints_them(folder: Folder) -> None:
    messages = [{"topic": "t", "partition": n % 2, "offset": n // 2, "key": "k"} for n in range(9)]
    folder.file("log.jsonl", "".join(json.dumps(each) + "\n" for each in messages))

    told = report(
        folder.command("audit", "log.jsonl", "--key", "partition", "--sequence", "offset", "--json")
    )

    assert (told["keys"], told["reordered"], told["duplicates"]) == (2, 0, 0)


def test_numbers_are_exact_whatever_their_size(folder: Folder) -> None:
    folder.file("log.jsonl", lines(2**70, 2**70 + 2, 2**70 + 1, 1.0))

    told = report(folder.command("audit", "log.jsonl", "--json"))

    assert told["reordered"] == 2
    assert told["discontinuities"] == {"count": 1, "missing": 1}


def test_rfc_3339_times_make_late_times_in_ns(folder: Folder) -> None:
    stamps = ("2026-11-27T10:00:00Z", "2026-11-27T10:00:02.5Z", "2026-11-27T11:00:03+01:00")
    events = [{"seq": n, "t": t} for n, t in zip((1, 3, 2), stamps, strict=True)]
    folder.file("log.jsonl", "".join(json.dumps(each) + "\n" for each in events))

    told = report(folder.command("audit", "log.jsonl", "--time", "t", "--json"))

    assert told["late_time"] == {"max": 500_000_000, "mean": 500_000_000}


def test_times_may_be_of_any_size(folder: Folder) -> None:
    times = (1, 2**63 - 1, -(2**63))
    events = [{"seq": n, "t": t} for n, t in zip((1, 3, 2), times, strict=True)]
    folder.file("log.jsonl", "".join(json.dumps(each) + "\n" for each in events))

    told = report(folder.command("audit", "log.jsonl", "--time", "t", "--json"))

    assert told["late_time"]["max"] == -(2**64) + 1


def test_beyond_the_window_nothing_is_said(folder: Folder) -> None:
    folder.file("log.jsonl", lines(*range(1, 200_001), 5))

    ended = folder.command("audit", "log.jsonl", "--window", "1000", "--json")

    told = report(ended)
    assert (told["reordered"], told["duplicates"]) == (0, 0)
    assert (told["window"], told["unknown"], told["late_unknown"]) == (1000, 1, 1)
    assert ended.code == 5, "it is one or the other"


@pytest.mark.parametrize("keyed", [False, True], ids=["out of order", "each its own key"])
def test_memory_is_bounded_by_the_window(folder: Folder, keyed: bool) -> None:
    """A million events, of which the window holds a tenth."""
    random = Random(1)
    with (folder.path / "log.jsonl").open("wb") as log:
        for first in range(0, 1_000_000, 1000):
            numbers = range(first, first + 1000)
            if not keyed:
                numbers = random.sample(range(1_000_000), 1000)
            log.writelines(b'{"seq":%d,"key":"user-%d"}\n' % (n, n) for n in numbers)
    words = ["log.jsonl", "--window", "100000", "--json", *(["--key", "key"] if keyed else [])]
    command = [sys.executable, PEAK, "peak", COMMAND, "audit", *words]

    done = subprocess.run(command, cwd=folder.path, capture_output=True, check=False)

    told = json.loads(done.stdout)
    assert told["events"] == 1_000_000
    assert (told["reordered"] > 100_000) != keyed
    assert int((folder.path / "peak").read_text()) < 120 * 1024 * 1024


# --- delivery


def ids(*names: str) -> str:
    return "".join(json.dumps({"id": name}) + "\n" for name in names)


def test_what_is_lost_doubled_and_unexpected(folder: Folder) -> None:
    folder.file("sent.jsonl", ids("a", "b", "c", "d", "e"))
    folder.file("accepted.jsonl", ids("a", "b", "c", "d"))
    folder.file("got.jsonl", ids("a", "c", "c", "e", "x"))
    told = folder.command(
        "audit", "got.jsonl", "--expected", "sent.jsonl", "--acknowledged", "accepted.jsonl",
    )  # fmt: skip
    data = report(
        folder.command(
            "audit", "got.jsonl", "--expected", "sent.jsonl", "--acknowledged", "accepted.jsonl",
            "--json",
        )
    )  # fmt: skip

    assert told.code == 5
    assert data["delivery"] == {
        **{"lost": 2, "duplicated": 1, "unexpected": 1, "recovered": 1},
        **{"attempted": 5, "acknowledged": 4, "delivered": 5, "without_id": 0},
    }
    assert "! 'b' (accepted.jsonl line 2) was never delivered\n" in told.err
    assert "! 'c' (got.jsonl line 3) was delivered again, after got.jsonl line 2\n" in told.err
    assert "! 'x' (got.jsonl line 5) was delivered, but never sent\n" in told.err


def test_a_delivery_that_is_complete(folder: Folder) -> None:
    folder.file("sent.csv", "id,name\n1,a\n2,b\n")
    folder.file("got.jsonl", '{"id": 2}\n{"id": 1}\n')

    ended = folder.command("audit", "got.jsonl", "--expected", "sent.csv", "--json")

    assert ended.code == 0
    assert report(ended)["delivery"]["lost"] == 0


def test_nothing_delivered_at_all(folder: Folder) -> None:
    folder.file("sent.jsonl", ids("a", "b"))
    folder.file("got.jsonl", "")

    ended = folder.command("audit", "got.jsonl", "--expected", "sent.jsonl", "--json")

    assert (ended.code, report(ended)["delivery"]["lost"]) == (5, 2)


# --- what goes wrong


def test_malformed_records_are_told_and_the_rest_is_audited(folder: Folder) -> None:
    folder.file("log.jsonl", b'{"seq":1}\noops\n{"seq":2}{"seq":3}\n{"seq":4}\n{"se')

    ended = folder.command("audit", "log.jsonl")

    assert ended.code == 3
    assert "  events       2, and 3 malformed records\n" in ended.err
    assert "! log.jsonl line 2 is no event: JSON is malformed" in ended.err
    assert "! log.jsonl line 3 is no event: " in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.jsonl"], 3, "none.jsonl"),
        (["log.jsonl", "--sequence", "nr"], 3, "have no 'nr' (their fields: offset, user)"),
        (["log.jsonl"], 3, "no sequence number (such as sequence, seq); name the field with"),
        (["log.jsonl", "--sequence", "offset", "--key", "usr"], 3, "have no 'usr'"),
        (["log.jsonl", "--format", "xml"], 2, "--format is 'xml'; it can be auto, jsonl, csv"),
        (["log.jsonl", "--threshold", "0"], 2, "--threshold is 0; give it 1 to 1,000"),
        (["log.jsonl", "--window", "0"], 2, "--window is 0"),
        (["log.jsonl", "--acknowledged", "log.jsonl"], 2, "give --expected"),
        (["log.jsonl", "--expected", "log.jsonl"], 3, "have no id; name the field with --id"),
        (["log.jsonl", "--price"], 3, "log.jsonl is no record"),
        (["log.jsonl", "log.jsonl", "--price"], 2, "name one record"),
        (["-", "-"], 2, "only once"),
        (["log.jsonl", "--delimiter", ";;"], 2, "--delimiter is ';;'; it is one character"),
        (["log.jsonl", "other.parquet"], 3, "other.parquet is a record of a run"),
        (["other.parquet"], 3, "no millstream.record/1: it names no schema"),
        (["other.parquet", "--time", "t"], 3, "leave out --time"),
    ],
)
def test_what_can_not_be_used_is_told(
    folder: Folder, arguments: list[str], code: int, says: str
) -> None:
    folder.file("log.jsonl", '{"offset": 1, "user": "a"}\n')
    parquet.write_table(pyarrow.table({"sequence": [1]}), folder.path / "other.parquet")

    ended = folder.command("audit", *arguments)

    assert (ended.code, ended.out) == (code, b"")
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_a_report_that_can_not_be_written_is_told(folder: Folder) -> None:
    folder.file("log.jsonl", lines(1))

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [COMMAND, "audit", "log.jsonl", "--json"],
            cwd=folder.path,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.returncode == 3
    assert done.stderr == b"millstream: the report can't be written: No space left on device\n"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"oops\n"])
def test_where_there_is_nothing_to_audit_none_is_called_in_order(
    folder: Folder, content: bytes
) -> None:
    folder.file("log.jsonl", content)

    assert folder.command("audit", "log.jsonl").err.startswith("log.jsonl: nothing to audit\n")


def test_quiet_says_only_what_is_wrong_with_the_log(folder: Folder) -> None:
    folder.file("log.jsonl", lines(2, 1))

    ended = folder.command("audit", "log.jsonl", "--quiet")

    assert (ended.code, ended.out, ended.err) == (5, b"", "")


def test_the_example_in_the_help_runs_as_printed(folder: Folder) -> None:
    folder.file("delivered.jsonl", lines(1, 2, user="ann"))
    shown = folder.command("audit", "--help").out.decode()
    (example,) = [line.split(": ", 1)[1] for line in shown.splitlines() if "Example: " in line]

    ended = folder.command(*example.split()[1:])

    assert ended.code == 0


# --- records


def test_a_record_of_a_run_is_audited_and_priced(folder: Folder) -> None:
    folder.file(
        "handlers.py",
        """
        import asyncio

        async def swap(event):
            if event.data["n"] % 10 == 0:
                await asyncio.sleep(0.02)
            return event
        """,
    )
    events = [{"key": f"k{n % 3}", "n": n} for n in range(100)]
    folder.file("in.jsonl", "".join(json.dumps(each) + "\n" for each in events))
    folder.run(
        "handlers.py", "in.jsonl", "--order", "none", "--record", "run.parquet", "-o", "out.jsonl"
    )

    told = report(folder.command("audit", "run.parquet", "--price", "--json"))
    by_key = report(folder.command("audit", "run.parquet", "--key", "key", "--json"))
    shown = folder.command("audit", "run.parquet", "--price")

    assert told["events"] == by_key["events"] == 100
    assert told["reordered"] > 0
    assert told["price"]["none"]["waited"] == 0
    assert 0 < told["price"]["key"]["waited"] <= told["price"]["global"]["waited"]
    assert told["price"]["global"]["buffer"] > 0
    assert "order global adds p50 " in shown.err
    assert "blocked most: it held up" in shown.err


# --- faults on purpose


def _job(folder: Folder, *faults: str, **more: str) -> Ended:
    """A run with faults over numbered events, from in.jsonl to out.jsonl."""
    events = [{"id": n, "seq": n, "key": f"k{n % 7}"} for n in range(2000)]
    folder.file("in.jsonl", "".join(json.dumps(each) + "\n" for each in events))
    folder.file("handlers.py", "def same(event):\n    return event\n")
    inject = [part for fault in faults for part in ("--inject", fault)]
    return folder.run(
        "handlers.py", "in.jsonl", "-o", "out.jsonl", "--seed", "3", *inject,
        "--result", "result.json",
    )  # fmt: skip


def test_events_that_a_run_reordered_are_found_by_both(folder: Folder) -> None:
    ran = _job(folder, "reorder:20")

    told = report(folder.command("audit", "out.jsonl", "--key", "key", "--json"))

    result = folder.json("result.json")
    SCHEMA.validate(result["ordering"]["audit"])
    assert (ran.code, told["exit_code"]) == (5, 5)
    assert "came after event" in ran.err
    assert told["reordered"] == result["ordering"]["audit"]["reordered"] > 0
    assert told["extent"] == result["ordering"]["audit"]["extent"]
    assert told["n_reordering"] == result["ordering"]["audit"]["n_reordering"]
    assert told["free_runs"] == result["ordering"]["audit"]["free_runs"]
    assert told["gaps"] == result["ordering"]["audit"]["gaps"]


def test_events_that_a_run_dropped_are_found_by_both(folder: Folder) -> None:
    ran = _job(folder, "drop:1%")

    ended = folder.command("audit", "out.jsonl", "--expected", "in.jsonl", "--json")

    lost = folder.json("result.json")["delivery"]["lost"]
    assert (ran.code, ended.code) == (5, 5)
    assert f"{lost} events were lost: in.jsonl line " in ran.err
    assert report(ended)["delivery"]["lost"] == lost > 0
    assert report(ended)["discontinuities"]["missing"] == lost


def test_events_that_a_source_gave_twice_are_found_in_the_output(folder: Folder) -> None:
    _job(folder, "duplicate:1%")

    ended = folder.command("audit", "out.jsonl", "--expected", "in.jsonl", "--json")

    told = report(ended)
    (fault,) = folder.json("result.json")["faults"]
    assert ended.code == 5
    assert told["delivery"]["duplicated"] == told["duplicates"] == fault["fired"] > 0
    assert {example["kind"] for example in told["examples"]} == {"duplicate", "duplicated"}
