"""`millstream run`: which handlers it takes, what they give back, errors in a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import HANDLERS, Folder, folder_with, lines_of

FORMS = """
    from millstream.engine import Pipeline, on, stage

    def one(event):
        return {"by": "one"}

    def two(event):
        return {"by": "two"}

    two_stage = stage(two, name="second")
    both = Pipeline(one, stage(lambda event: {"by": event.data["by"] + "+lambda"}))
    routed = Pipeline(on("a.*", one), on("b", two))

    class Object:
        def method(self, event):
            return {"by": "method"}

    thing = Object()
    number = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(
        tmp_path,
        {
            "h.py": HANDLERS,
            "forms.py": FORMS,
            "shop/__init__.py": "",
            "shop/orders.py": FORMS,
            "in.jsonl": lines_of({"key": "k"}),
        },
    )


@pytest.mark.parametrize(
    ("handler", "by"),
    [
        ("forms.py:one", "one"),
        ("./forms.py:two", "two"),
        ("forms.py:two_stage", "two"),
        ("forms.py:both", "one+lambda"),
        ("forms.py:thing.method", "method"),
        ("shop.orders:two", "two"),
        ("shop/orders.py:one", "one"),
        ("shop.orders:thing.method", "method"),
    ],
)
def test_a_handler_is_named_in_every_form(folder: Folder, handler: str, by: str) -> None:
    ended = folder.run(handler, "in.jsonl")

    assert (ended.code, ended.events) == (0, [{"by": by}])


@pytest.mark.parametrize("name", ["json.py", "one.py", "select.py"])
def test_a_file_alone_is_enough_when_it_holds_one_handler(folder: Folder, name: str) -> None:
    folder.file(name, "from json import dumps\ndef _own(): pass\ndef f(event): return {'by': 1}\n")

    ended = folder.run(name, "in.jsonl")

    assert (ended.code, ended.events) == (0, [{"by": 1}])


def test_events_are_routed_by_type_and_others_pass(folder: Folder) -> None:
    folder.file("t.jsonl", lines_of(*({"key": 1, "type": t} for t in ("a.x", "b", "c", None))))

    ended = folder.run("forms.py:routed", "t.jsonl")

    assert ended.events == [
        {"by": "one"}, {"by": "two"}, {"key": 1, "type": "c"}, {"key": 1, "type": None},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("absent.py", "no file 'absent.py'"),
        ("form.py", "did you mean forms.py?"),
        ("forms.py:routd", "did you mean routed?"),
        ("forms.py", "has several candidates; name one: forms.py:one"),
        ("forms.py:number", "is a int, no function, stage or pipeline"),
        ("forms.py:Object", "is a class; name a function"),
        ("forms", "name a file, FILE.py:name, or package.module:name"),
        ("shop.absent:one", "No module named 'shop.absent'"),
        ("shop.orders:three", "there is no 'three' in it"),
        (":one", "can't be imported"),
    ],
)
def test_a_handler_that_is_not_there_ends_with_advice(
    folder: Folder, handler: str, said: str
) -> None:
    ended = folder.run(handler, "in.jsonl", "--output", "out.jsonl")

    assert ended.code == 3
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (folder.path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(event):\n    return event\n\ndef (:\n", ["SyntaxError", "u.py:4", "def (:"]),
        ("\nimport nothing_of_the_kind\n", ["ModuleNotFoundError", "u.py:2", "import nothing"]),
        ("x = 1\ny = x / 0\n", ["ZeroDivisionError", "u.py:2", "y = x / 0"]),
        ("import json\n\njson.loads('x')\n", ["JSONDecodeError", "u.py:3", "json.loads('x')"]),
        ("import sys\nsys.exit(0)\n", ["SystemExit", "u.py:2", "sys.exit(0)"]),
        ("import broken\n", ["ValueError", "u.py:1", "broken.py:1: raise ValueError"]),
    ],
)
def test_an_error_in_the_users_file_points_to_its_line(
    folder: Folder, text: str, said: list[str]
) -> None:
    folder.file("u.py", text)
    folder.file("broken.py", "raise ValueError('in another file')\n")

    ended = folder.run("u.py:f", "in.jsonl")

    assert ended.code == 3
    for part in said:
        assert part in ended.err
    assert "/cli/" not in ended.err


RESULTS = """
    from millstream.engine import Event

    def results(event):
        kind = event.data["kind"]
        if kind == "none": return None
        if kind == "dict": return {"d": [1, {"n": 2**80}]}
        if kind == "event": return event
        if kind == "new":
            return Event.new({"n": 1}, key="nk", type="t", id=7, time="2024", sequence=3)
        if kind == "replace": return event.replace(key="rk").replace(type="rt", data={"x": 1})
        if kind == "str": return "text as it is"
        if kind == "line": return "with its end\\n"
        if kind == "bytes": return b'{"b":  1}'
        if kind == "list": return [{"l": 1}, None, "l2", event]
        if kind == "empty": return []
        if kind == "generator": return ({"g": n} for n in range(2))
        if kind == "map": return map(str, [1, 2])
        if kind == "number": return 5
        if kind == "set": return {"s": {1, 2}, "o": object()}
        if kind == "lines": return "two\\nlines"
        if kind == "changed":
            event.data = [1, 2]
            return event

    def generate(event):
        yield from results(event) or ()

    async def later(event):
        return results(event)
"""

GOOD = {
    "none": [],
    "dict": [b'{"d":[1,{"n":1208925819614629174706176}]}'],
    "event": [b'{"kind": "event", "key": "k"}'],
    "new": [b'{"id":7,"key":"nk","type":"t","time":"2024","sequence":3,"data":{"n":1}}'],
    "replace": [b'{"kind":"replace","key":"rk","data":{"x":1},"type":"rt"}'],
    "str": [b"text as it is"],
    "line": [b"with its end"],
    "bytes": [b'{"b":  1}'],
    "list": [b'{"l":1}', b"l2", b'{"kind":"list","key":"k"}'],
    "empty": [],
    "generator": [b'{"g":0}', b'{"g":1}'],
    "map": [b"1", b"2"],
    "changed": [b"[1,2]"],
}
BAD = {
    "number": "gave back a int",
    "set": "can't be written",
    "lines": "give them back as a list",
}


@pytest.mark.parametrize("executor", ["inline", "coroutine", "process"])
@pytest.mark.parametrize("emit", ["completion", "input"])
def test_every_kind_of_result_is_written(folder: Folder, executor: str, emit: str) -> None:
    folder.file("r.py", RESULTS)
    events: list[dict[str, Any]] = [{"kind": kind, "key": "k"} for kind in (*GOOD, *BAD)]
    for event in events:
        if event["kind"] == "replace":
            event["data"] = {"kind": "replace"}
    folder.file("kinds.jsonl", lines_of(*events))
    handler = "r.py:later" if executor == "coroutine" else "r.py:results"

    ended = folder.run(
        handler, "kinds.jsonl", "--executor", executor, "--emit", emit, "--result", "r.json"
    )

    letters = {letter["event"]["kind"]: letter["error"] for letter in folder.dead_letters()}
    expected = [line for kind in GOOD for line in GOOD[kind]]
    assert ended.code == 4
    assert [line.replace(b": ", b":").replace(b", ", b",") for line in ended.lines] == [
        line.replace(b": ", b":").replace(b", ", b",") for line in expected
    ]
    assert sorted(letters) == sorted(BAD)
    for kind, said in BAD.items():
        assert said in letters[kind]["message"] or letters[kind]["type"] == "TypeError"
    counts = folder.json("r.json")["counts"]
    assert (counts["emitted"], counts["filtered"]) == (len(expected), 2)


def test_a_later_stage_sees_what_the_one_before_gave(folder: Folder) -> None:
    folder.file("in.jsonl", lines_of({"key": "k", "type": "t", "extra": 1, "data": {"n": 1}}))
    for executor in ("inline", "process"):
        folder.file(
            "p.py",
            f"""
            from millstream.engine import Pipeline, stage
            def rekey(event): return event.replace(key="new")
            def fresh(event): return {{"was": [event.key, event.type, event.data]}}
            def show(event): return {{**event.data, "now": [event.key, event.type]}}
            pipeline = Pipeline(stage(rekey, executor={executor!r}, workers=1),
                                stage(fresh, executor={executor!r}, workers=1), show)
            """,
        )

        ended = folder.run("p.py", "in.jsonl")

        assert ended.events == [{"was": ["new", "t", {"n": 1}], "now": ["new", "t"]}]


def test_process_workers_keep_the_rows_of_csv_apart(folder: Folder) -> None:
    rows = [f'{n % 7},{n},"line\n""{n}"""' for n in range(500)]
    folder.file("in.csv", "key,n,text\n" + "\n".join(rows) + "\n")
    folder.file("n.py", "def add(event):\n    event.data['n'] += '0'\n    return event\n")

    ended = folder.run("n.py", "in.csv", "--workers", "2", "--emit", "input")

    text = ended.out.decode()
    assert ended.code == 0
    assert text == "key,n,text\n" + "".join(f'{n % 7},{n}0,"line\n""{n}"""\n' for n in range(500))
