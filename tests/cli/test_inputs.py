"""`millstream run`: what it reads, in which formats, and what it says of what it can't read."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.cli.support import (
    HANDLERS,
    Folder,
    folder_with,
    lines_of,
    numbered,
    on_terminal,
    wait_for,
)

EVENTS = numbered(5)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path, {"h.py": HANDLERS})


def same(folder: Folder, *arguments: str, stdin: bytes | None = None) -> Any:
    return folder.run("h.py:same", *arguments, stdin=stdin)


# --- where events come from


def test_files_globs_and_standard_input_are_read_in_the_order_given(folder: Folder) -> None:
    for name in ("b1", "b2", "a"):
        folder.file(f"{name}.jsonl", lines_of({"key": name}))

    ended = same(folder, "b?.jsonl", "-", "a.jsonl", stdin=lines_of({"key": "piped"}))

    assert [event["key"] for event in ended.events] == ["b1", "b2", "piped", "a"]
    assert ended.code == 0


def test_piped_events_need_no_dash(folder: Folder) -> None:
    ended = same(folder, stdin=EVENTS)

    assert (ended.code, ended.out) == (0, EVENTS)


def test_a_file_put_in_the_place_of_standard_input_is_read(folder: Folder) -> None:
    with folder.file("in.jsonl", EVENTS).open("rb") as file:
        ended = folder.run("h.py:same", stdin=file.fileno())

    assert (ended.code, ended.out) == (0, EVENTS)


def test_nothing_to_read_is_no_error(folder: Folder) -> None:
    folder.file("empty.jsonl", b"")
    folder.file("blank.jsonl", b"\n \n\r\n")

    ended = same(folder, "empty.jsonl", "blank.jsonl", "-", stdin=b"")

    assert (ended.code, ended.out) == (0, b"")


def test_no_input_on_a_terminal_is_wrong_usage(folder: Folder) -> None:
    screen = on_terminal(folder, "h.py:same", stdin=None)

    assert screen.code == 2
    assert "no input" in screen.text
    assert "pipe events in" in screen.text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.jsonl", "no such file"),
        ("*.absent", "no file matches '*.absent'"),
        ("folder", "'folder/*'"),
    ],
)
def test_an_input_that_is_none_ends_with_advice(folder: Folder, name: str, said: str) -> None:
    (folder.path / "folder").mkdir()

    ended = same(folder, name)

    assert ended.code == 3
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_closed_standard_streams_are_named(folder: Folder) -> None:
    folder.file("in.jsonl", EVENTS)

    no_input = _shell(folder, "run h.py:same - <&-")
    no_output = _shell(folder, "run h.py:same in.jsonl >&-")
    no_errors = _shell(folder, "run h.py:same in.jsonl 2>&-")

    assert (no_input.returncode, no_output.returncode) == (3, 3)
    assert b"standard input is closed" in no_input.stderr
    assert b"standard output is closed" in no_output.stderr
    assert (no_errors.returncode, no_errors.stdout) == (0, EVENTS)


def _shell(folder: Folder, command: str) -> subprocess.CompletedProcess[bytes]:
    from tests.cli.support import COMMAND

    return subprocess.run(
        f"exec {COMMAND} {command}",
        shell=True,
        cwd=folder.path,
        capture_output=True,
        timeout=60,
        check=False,
    )


# --- formats and compression, told by content


def test_compression_is_told_by_content_and_not_by_name(folder: Folder) -> None:
    packed = zstandard.ZstdCompressor().compress
    folder.file("1.jsonl", gzip.compress(lines_of({"key": 1})))
    folder.file("2.gz", packed(lines_of({"key": 2})))
    folder.file("3.zst", lines_of({"key": 3}))
    folder.file("4.csv", gzip.compress(b'{"ke') + gzip.compress(b'y": 4}\n{"key": 5}\n'))
    folder.file("5", packed(b'{"ke') + packed(b'y": 6}\n') + packed(b""))
    folder.file("6", gzip.compress(b"") + b"\0\0" + gzip.compress(b'{"key": 7}') + b"\0" * 512)

    ended = same(folder, "1.jsonl", "2.gz", "3.zst", "4.csv", "5", "6")

    assert [event["key"] for event in ended.events] == [1, 2, 3, 4, 5, 6, 7]
    assert ended.code == 0


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_data_cut_short_leaves_no_output_and_is_named(folder: Folder, kind: str) -> None:
    text = lines_of(*({"key": n, "noise": os.urandom(20).hex()} for n in range(20_000)))
    packed = gzip.compress(text) if kind == "gzip" else zstandard.ZstdCompressor().compress(text)
    folder.file("cut.jsonl", packed[:-9])

    ended = same(folder, "cut.jsonl", "--output", "out.jsonl")

    assert ended.code == 3
    assert "cut.jsonl" in ended.err
    assert "cut short" in ended.err
    assert folder.names == {"h.py", "cut.jsonl"}


def test_damaged_compressed_data_is_named(folder: Folder) -> None:
    packed = bytearray(gzip.compress(numbered(2000)))
    packed[40] ^= 0xFF
    folder.file("torn.gz", bytes(packed))

    ended = same(folder, "torn.gz", "--output", "out.jsonl")

    assert ended.code == 3
    assert "torn.gz" in ended.err
    assert "damaged" in ended.err
    assert folder.names == {"h.py", "torn.gz"}


CLOUD_EVENTS: list[dict[str, Any]] = [
    {
        "specversion": "1.0",
        "id": f"e{n}",
        "source": "/shop",
        "type": "order.placed",
        "partitionkey": f"p{n % 2}",
        "time": "2024-05-01T10:00:00Z",
        "data": {"n": n, "text": '} ] " \\ {'},
    }
    for n in range(4)
]


@pytest.mark.parametrize(
    "text",
    [
        lines_of(*CLOUD_EVENTS),
        json.dumps(CLOUD_EVENTS).encode(),
        json.dumps(CLOUD_EVENTS, indent=2).encode(),
        json.dumps(CLOUD_EVENTS, indent=2).replace("\n", "\r\n").encode(),
        b"\n".join(json.dumps(event, indent=4).encode() for event in CLOUD_EVENTS),
        b"\xef\xbb\xbf" + json.dumps(CLOUD_EVENTS, indent="\t").encode() + b"\n\n",
    ],
    ids=["structured", "batch", "pretty batch", "CRLF", "pretty one by one", "BOM and tabs"],
)
def test_cloud_events_in_every_dress(folder: Folder, text: bytes) -> None:
    folder.file("in", text)
    folder.file(
        "c.py",
        """
        def show(event):
            return {"key": event.key, "id": event.id, "type": event.type, "n": event.data["n"],
                    "year": event.time.year}
        """,
    )

    ended = folder.run("c.py:show", "in")

    assert ended.code == 0
    assert ended.events == [
        {"key": f"p{n % 2}", "id": f"e{n}", "type": "order.placed", "n": n, "year": 2024}
        for n in range(4)
    ]


def test_batches_may_follow_one_another(folder: Folder) -> None:
    folder.file("in", b'[{"key": 1}, {"key": 2}]\n[]\n[{"key": 3}]\n{"key": 4}\n')

    ended = same(folder, "in")

    assert (ended.code, [event["key"] for event in ended.events]) == (0, [1, 2, 3, 4])


def test_files_of_several_formats_are_told_apart_by_worker_processes(folder: Folder) -> None:
    folder.file("1", lines_of({"key": "a", "n": 1}))
    folder.file("2", b"key,n\na,2\n")
    folder.file("3", b'[\n{"key": "a", "n": 3}]')

    ended = same(folder, "1", "2", "3", "--workers", "2", "--output-format", "jsonl")

    assert [(event["key"], int(event["n"])) for event in ended.events] == [
        ("a", 1), ("a", 2), ("a", 3),
    ]  # fmt: skip


def test_a_pretty_printed_event_keeps_its_values_on_one_line(folder: Folder) -> None:
    big = 10**40 + 1
    folder.file("in", b'[\n  {\n    "key": "a",\n    "n": %d,\n    "f": 1.0e5\n  }\n]\n' % big)

    ended = same(folder, "in")

    assert ended.lines == [b'{ "key": "a", "n": %d, "f": 1.0e5 }' % big]


def test_binary_cloud_event_data_is_bytes_for_the_handler(folder: Folder) -> None:
    folder.file("in", lines_of({"specversion": "1.0", "partitionkey": "a", "data_base64": "AP8="}))
    folder.file("c.py", "def turn(event):\n    event.data = event.data[::-1]\n    return event\n")

    ended = folder.run("c.py", "in")

    assert ended.events == [{"specversion": "1.0", "partitionkey": "a", "data_base64": "/wA="}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'[\n{"key": 1},\n5\n]', "line 3 of the JSON document has '5'"),
        (b'[\n{"key": 1},\nnull,\n{"key": 2}]', "line 3 of the JSON document has 'null'"),
        (b'[\n{"key": 1},\n{"key": 2', "ends in the middle of a value that begins on line 3"),
        (b'{\n"key": 1\n}\nmore', "ends in the middle"),
    ],
)
def test_a_broken_json_document_is_refused_whole(folder: Folder, text: bytes, said: str) -> None:
    folder.file("in.json", text)

    ended = same(folder, "in.json", "--output", "out.jsonl")

    assert ended.code == 3
    assert "in.json" in ended.err
    assert said in ended.err
    assert not (folder.path / "out.jsonl").exists()


# --- CSV

CSV = (
    b'id,key,"what, really"\n1,a,"5,0 ""inch"""\n2,b,"over\ntwo\r\nlines"\n3,a,plain 5" pipe\n4,,\n'
)


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_csv_rows_reach_the_handler_whole_and_leave_as_they_came(
    folder: Folder, executor: str
) -> None:
    folder.file("in.csv", CSV)
    folder.file(
        "c.py",
        """
        import json
        def keep(event):
            with open("seen.jsonl", "a") as file:
                file.write(json.dumps([event.key, event.id, event.data]) + "\\n")
            return event
        """,
    )

    workers = ("--workers", "1") if executor == "process" else ()
    ended = folder.run("c.py", "in.csv", "--executor", executor, *workers, "--emit", "input")

    seen = [json.loads(line) for line in folder.read("seen.jsonl").splitlines()]
    texts = ['5,0 "inch"', "over\ntwo\r\nlines", 'plain 5" pipe', ""]
    assert [(key, row["what, really"]) for key, _, row in seen] == list(
        zip(["a", "b", "a", None], texts, strict=True)
    )
    assert (ended.code, ended.out) == (0, CSV)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_the_delimiter_of_csv_is_told_by_the_header(folder: Folder, mark: str) -> None:
    text = f"key{mark}n\r\na{mark}1,5\r\nb{mark}2".encode()
    folder.file("in.csv", text)

    ended = folder.run("h.py:same", "in.csv", "--output-format", "jsonl")

    assert ended.events == [{"key": "a", "n": "1,5"}, {"key": "b", "n": "2"}]


def test_a_row_of_empty_cells_is_no_blank_line(folder: Folder) -> None:
    folder.file("in.tsv", b"key\tn\n\n\t\na\t1\n")

    ended = folder.run("h.py:same", "in.tsv", "--output-format", "jsonl")

    assert ended.events == [{"key": "", "n": ""}, {"key": "a", "n": "1"}]


def test_a_delimiter_that_is_given_wins_over_the_guess(folder: Folder) -> None:
    folder.file("in.csv", b"key:a,b\n1:x,y\n")

    ended = folder.run("h.py:same", "in.csv", "--delimiter", ":", "--output-format", "jsonl")

    assert ended.events == [{"key": "1", "a,b": "x,y"}]


def test_csv_by_name_of_the_output_and_json_lines_by_name(folder: Folder) -> None:
    folder.file("in.csv", b"key,n\na,1\n")

    to_json = folder.run("h.py:touch", "in.csv", "--output", "out.jsonl")
    to_csv = folder.run("h.py:touch", "in.csv", "--output", "out.csv.gz")

    assert (to_json.code, to_csv.code) == (0, 0)
    assert folder.read("out.jsonl") == b'{"key":"a","n":"1","touched":true}\n'
    assert gzip.decompress(folder.read("out.csv.gz")) == b"key,n,touched\na,1,true\n"


def test_each_csv_file_has_its_own_header(folder: Folder) -> None:
    folder.file("1.csv", b"key,n\na,1\nb,2\n")
    folder.file("2.csv", b"w,key\n9,a\n8,c\n")
    expected = [
        {"key": "a", "n": "1"},
        {"key": "b", "n": "2"},
        {"w": "9", "key": "a"},
        {"w": "8", "key": "c"},
    ]

    for executor in ("inline", "process"):
        ended = folder.run(
            "h.py:same", "1.csv", "2.csv", "--executor", executor, "--workers", "2",
            "--output-format", "jsonl", "--emit", "input",
        )  # fmt: skip

        assert ended.events == expected


def test_rows_that_do_not_fit_become_dead_letters_with_their_place(folder: Folder) -> None:
    folder.file("in.csv", b'key,n\na,1\nb\nc,"x"y\nd,1,2\ne,\xff\nf,"never closed\n')

    ended = same(folder, "in.csv")

    letters = folder.dead_letters()
    assert ended.code == 4
    assert ended.lines == [b"key,n", b"a,1"]
    assert [letter["position"]["line"] for letter in letters] == [3, 4, 5, 6, 7]
    messages = [letter["error"]["message"] for letter in letters]
    assert messages[0] == "the row has 1 fields, the header 2"
    assert messages[2] == "the row has 3 fields, the header 2"
    assert "not UTF-8: byte 0xff" in messages[3]
    assert messages[4] == "a quote is opened and never closed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"key,n,key\na,1,2\n", "names 'key' twice"),
        (b"key,\xff\na,1\n", "header can't be read"),
        (b'key,"n\na,1\n', "header can't be read"),
    ],
)
def test_a_csv_header_that_means_nothing_is_refused(folder: Folder, text: bytes, said: str) -> None:
    folder.file("in.csv", text)

    ended = same(folder, "in.csv", "--output", "out.csv")

    assert ended.code == 3
    assert "in.csv" in ended.err
    assert said in ended.err
    assert not (folder.path / "out.csv").exists()


# --- text, line by line


@pytest.mark.parametrize("order", ["none", "key"])
@pytest.mark.parametrize("executor", ["inline", "process"])
def test_blank_lines_have_no_number(folder: Folder, executor: str, order: str) -> None:
    folder.file("in.jsonl", b'\n{"key": 1}\n \t\n\r\n{"key": 2}\r\n{"key": 3}\n\n')

    ended = folder.run(
        "h.py:fail", "in.jsonl", "--executor", executor, "--workers", "1", "--order", order
    )

    places = [letter["position"] for letter in folder.dead_letters()]
    assert ended.code == 4
    assert [(place["index"], place["line"]) for place in places] == [(0, 2), (1, 5), (2, 6)]


def test_line_ends_blank_lines_and_a_byte_order_mark(folder: Folder) -> None:
    folder.file("in.jsonl", b'\xef\xbb\xbf{"key": 1}\r\n\r\n\n   \n{"key": 2}\n\t\r\n{"key": 3}')

    ended = same(folder, "in.jsonl", "--result", "r.json")

    assert ended.out == b'{"key": 1}\r\n{"key": 2}\n{"key": 3}\n'
    assert folder.json("r.json")["counts"]["read"] == 3
    assert ended.code == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_is_refused_with_advice(folder: Folder, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    folder.file("in.jsonl", (mark + '{"key": 1}\n').encode(encoding))

    ended = same(folder, "in.jsonl", "--output", "out.jsonl")

    assert ended.code == 3
    assert "in.jsonl" in ended.err
    assert "iconv" in ended.err
    assert not (folder.path / "out.jsonl").exists()


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_malformed_lines_become_dead_letters_with_file_line_and_column(
    folder: Folder, executor: str
) -> None:
    good = lines_of({"key": "ok"}).strip()
    folder.file("a.jsonl", b"\n".join([good, b'{"key": ?}', b"", b'{"key": "x', b"]"]))
    folder.file("b.jsonl", b'{"key":"\xff","n":1}\n{"key":"k","data":"\xfe"}\n{,"data":{}}\n')

    ended = same(folder, "a.jsonl", "b.jsonl", "--executor", executor)

    letters = {(d["source"], d["position"]["line"]): d for d in folder.dead_letters()}
    assert (ended.code, ended.lines) == (4, [good])
    assert sorted(letters) == [
        ("a.jsonl", 2), ("a.jsonl", 4), ("a.jsonl", 5), ("b.jsonl", 1), ("b.jsonl", 2),
        ("b.jsonl", 3),
    ]  # fmt: skip
    assert letters["a.jsonl", 2]["position"]["column"] == 9
    assert letters["a.jsonl", 4]["position"]["column"] == 11
    assert letters["a.jsonl", 2]["event_text"] == '{"key": ?}'
    assert letters["b.jsonl", 1]["event_base64"] == "eyJrZXkiOiL/IiwibiI6MX0="
    assert "event_base64" in letters["b.jsonl", 2]
    assert {d["error"]["type"] for d in letters.values()} == {"MalformedEvent"}
    assert {d["stage"] for d in letters.values()} == {"input"}


def test_a_line_of_50_mb_passes_whole(folder: Folder) -> None:
    long = b'{"key": "a", "text": "' + b"x" * 50_000_000 + b'"}'
    folder.file("in.jsonl", lines_of({"key": "a"}) + long + b"\n" + lines_of({"key": "b"}))

    ended = same(folder, "in.jsonl", "--output", "out.jsonl")

    assert ended.code == 0
    assert folder.read("out.jsonl").splitlines()[1] == long


def test_a_name_that_is_no_text_does_no_harm(folder: Folder) -> None:
    name = os.fsdecode(b"in\xff.jsonl")
    folder.file(name, lines_of({"key": "a"}, b"nope"))

    ended = same(folder, "in*.jsonl", "--result", "r.json")

    assert (ended.code, ended.events) == (4, [{"key": "a"}])
    assert folder.json("r.json")["inputs"] == ["in\\udcff.jsonl"]
    assert [letter["source"] for letter in folder.dead_letters()] == ["in\\udcff.jsonl"]


# --- which field is the key


def test_a_dotted_path_names_the_key(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"user": {"id": 7}}, {"user": {"id": None}}, {"user": 3}))
    folder.file("k.py", "def key(event):\n    return {'got': event.key}\n")

    ended = folder.run("k.py", "in.jsonl", "--key", "user.id")

    assert [event["got"] for event in ended.events] == [7, None, None]


def test_without_a_key_the_fields_seen_are_named(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"user_id": 1, "user": {"id": 2}, "what": "x"}))

    ended = same(folder, "in.jsonl")

    assert ended.code == 0
    for said in ("user_id, user.id, what", "--key user_id", "--order none"):
        assert said in ended.err


def test_order_none_needs_no_key(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"user_id": 1}))

    ended = same(folder, "in.jsonl", "--order", "none")

    assert ended.code == 0
    assert "no key found" not in ended.err


def test_a_key_that_no_event_has_is_refused(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"user": {"id": 2}}))
    folder.file("in.csv", b"tailnum,n\na,1\n")

    jsonl = same(folder, "in.jsonl", "--key", "usr.id", "--output", "out.jsonl")
    csv = same(folder, "in.csv", "--key", "tailnumber", "--output", "out.csv")

    assert (jsonl.code, csv.code) == (3, 3)
    assert "user.id" in jsonl.err
    assert "did you mean 'tailnum'" in csv.err
    assert not {"out.jsonl", "out.csv"} & folder.names


# --- how much, how fast


def test_limit_counts_events_and_not_lines(folder: Folder) -> None:
    folder.file("in.jsonl", b"\n\n" + EVENTS + b"\n")

    ended = same(folder, "in.jsonl", "in.jsonl", "--limit", "7", "--result", "r.json")

    assert [event["id"] for event in ended.events] == [0, 1, 2, 3, 4, 0, 1]
    assert folder.json("r.json")["counts"]["read"] == 7


def test_a_rate_makes_a_schedule_with_response_times(folder: Folder) -> None:
    folder.file("in.jsonl", EVENTS)

    ended = same(folder, "in.jsonl", "--rate", "1000", "--result", "r.json")

    result = folder.json("r.json")
    assert (ended.code, ended.out) == (0, EVENTS)
    assert result["response"]["count"] == result["slip"]["count"] == 5
    assert result["response"]["min"] >= 0


def test_pace_time_keeps_the_events_own_distances(folder: Folder) -> None:
    times = ["2024-01-01T00:00:00Z", "2024-01-01T00:00:01.5Z", None, "2024-01-01T00:00:03Z"]
    folder.file("in.jsonl", lines_of(*({"key": "a", "time": at} for at in times)))

    ended = same(folder, "in.jsonl", "--pace", "time", "--speed", "100", "--result", "r.json")

    result = folder.json("r.json")
    assert (ended.code, len(ended.events)) == (0, 4)
    assert result["duration_ns"] >= 30_000_000  # three seconds at a hundred times the speed
    assert result["response"]["count"] == 4


def test_follow_reads_on_as_files_grow_and_commits_at_the_end(folder: Folder) -> None:
    first = folder.file("1.jsonl", lines_of({"key": 1}))
    second = folder.file("2.jsonl", lines_of({"key": 2}))

    with folder.start("h.py:same", "1.jsonl", "2.jsonl", "--follow", "--order", "none") as run:
        seen = {run.line(), run.line()}
        with first.open("ab") as file:
            file.write(b'{"key"')
            file.flush()
            file.write(b": 3}\n")
        seen.add(run.line())
        with second.open("ab") as file:
            file.write(lines_of({"key": 4}) + b'{"half')
        seen.add(run.line())
        run.signal(signal.SIGINT)
        ended = run.end()

    assert seen == {b'{"key": %d}\n' % n for n in (1, 2, 3, 4)}
    assert (ended.code, ended.out) == (130, b"")
    assert not folder.dead_letters()
    assert "Traceback" not in ended.err


def test_a_follow_into_a_file_is_committed_by_the_interrupt(folder: Folder) -> None:
    source = folder.file("in.jsonl", numbered(2))
    folder.file(
        "t.py",
        """
        def tell(event):
            print("handled", event.id, flush=True)
            return event
        """,
    )

    with folder.start("t.py", "in.jsonl", "--follow", "--output", "out.jsonl") as run:
        run.error_line("handled 1")
        with source.open("ab") as file:
            file.write(lines_of({"id": 2, "key": "c"}))
        run.error_line("handled 2")
        run.signal(signal.SIGINT)
        code = run.end().code

    assert code == 130
    assert folder.read("out.jsonl") == source.read_bytes()


@pytest.mark.parametrize("name", ["pipe", "/dev/stdin"])
def test_an_interrupt_drains_a_named_pipe_whose_writer_stays(folder: Folder, name: str) -> None:
    os.mkfifo(folder.path / "pipe")
    is_named = name == "pipe"
    # Opened for both: it never waits for the other end.
    end = os.open(folder.path / "pipe", os.O_RDWR)
    with folder.start("h.py:same", name, stdin=subprocess.DEVNULL if is_named else end) as run:
        os.write(end, lines_of({"key": 1}))
        assert run.line() == b'{"key": 1}\n'
        run.signal(signal.SIGINT)
        ended = run.end()
    os.close(end)

    assert (ended.code, ended.out) == (130, b"")


def test_an_interrupt_ends_the_wait_for_whoever_writes_to_a_named_pipe(folder: Folder) -> None:
    pipe = folder.path / "pipe"
    os.mkfifo(pipe)

    with folder.start("h.py:same", "pipe") as run:
        opened = Path("/proc") / str(run.process.pid) / "fd"
        wait_for(
            lambda: any(each.resolve() == pipe for each in opened.iterdir()), "the pipe to be open"
        )
        run.signal(signal.SIGINT)
        ended = run.end()

    assert (ended.code, ended.out) == (130, b"")


def test_a_named_pipe_is_followed_from_writer_to_writer(folder: Folder) -> None:
    pipe = folder.path / "pipe"
    os.mkfifo(pipe)

    with folder.start("h.py:same", "pipe", "--follow") as run:
        for number in (1, 2):
            pipe.write_bytes(lines_of({"key": number}))
            assert run.line() == b'{"key": %d}\n' % number
        run.signal(signal.SIGINT)
        ended = run.end()

    assert (ended.code, ended.out) == (130, b"")


def test_an_interrupt_ends_a_stream_of_blank_lines(folder: Folder) -> None:
    with folder.start("h.py:same", "-", stdin=subprocess.PIPE) as run:
        for _ in range(100):
            run.write(b"\n" * 65_536)  # returns when it is read, but for what a pipe holds
        run.signal(signal.SIGINT)
        with pytest.raises(BrokenPipeError):
            while True:
                run.write(b"\n" * 65_536)
        assert run.process.wait() == 130
