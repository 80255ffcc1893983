"""A user's handlers are found by what was named, and errors point to the user's own lines."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.engine import Pipeline, Stage
from millstream.engine.loading import (
    HandlerNotFound,
    Reference,
    load_file,
    load_job,
    reference_to,
    resolve,
)

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file into the working directory; what it makes Python import is forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return path

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


HANDLE = "def handle(event):\n    return event\n"


def name_of(job: Any) -> str:
    return job.name if isinstance(job, Stage) else job.__name__


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def charge(event): ...", "charge"),
        ("def _helper(event): ...\ndef charge(event): ...", "charge"),
        ("def other(event): ...\ndef handle(event): ...", "handle"),
        ("def handle(event): ...\ndef handler(event): ...", "handler"),
        ("from json import dumps\ndef charge(event): ...", "charge"),
        ("from millstream.engine import *\ndef charge(event): ...", "charge"),
        (
            "from millstream.engine import stage\n"
            "def a(event): ...\ndef b(event): ...\nscore = stage(a, name='score')",
            "score",
        ),
    ],
)
def test_a_file_alone_means_the_one_thing_in_it(write: Write, text: str, found: str) -> None:
    write("job_alone.py", text)

    assert name_of(load_job("job_alone.py")) == found


def test_a_pipeline_is_preferred_to_its_parts(write: Write) -> None:
    write(
        "job_pipeline.py",
        """
        from millstream.engine import Pipeline, stage
        def parse(event): ...
        score = stage(parse, name="score")
        pipeline = Pipeline(parse, score)
        """,
    )

    job = load_job("job_pipeline.py")

    assert isinstance(job, Pipeline)
    assert [each.name for each in job.stages] == ["parse", "score"]


def test_a_name_may_be_dotted_and_hold_any_callable(write: Write) -> None:
    write(
        "job_named.py",
        """
        import functools
        class Shop:
            @staticmethod
            def charge(event): return "charged"
        class Counter:
            def __call__(self, event): return "counted"
        count = Counter()
        partly = functools.partial(lambda event, n: n, n=3)
        """,
    )

    assert load_job("job_named.py:Shop.charge")(None) == "charged"  # type: ignore[operator]
    assert load_job("job_named.py:count")(None) == "counted"  # type: ignore[operator]
    assert load_job("job_named.py:partly")(None) == 3  # type: ignore[operator]


def test_a_module_is_found_from_the_working_directory(write: Write) -> None:
    write("job_package/__init__.py", "")
    write("job_package/inner.py", "from . import __name__ as above\n" + HANDLE)

    job = load_job("job_package.inner:handle")

    assert job.__module__ == "job_package.inner"  # type: ignore[union-attr]


def test_a_file_imports_its_neighbours(write: Write) -> None:
    write("job_folder/job_neighbour.py", "VALUE = 5\n")
    write("job_folder/job_main.py", "from job_neighbour import VALUE\ndef get(event): return VALUE")

    assert load_job("job_folder/job_main.py")(None) == 5  # type: ignore[operator]


def test_a_file_whose_name_is_taken_is_still_its_own(write: Write) -> None:
    write("json.py", HANDLE)

    job = load_job("json.py")

    assert name_of(job) == "handle"
    assert not hasattr(sys.modules["json"], "handle")
    assert load_file("json.py") is load_file("json.py")


def test_a_file_is_imported_once(write: Write) -> None:
    write("job_once.py", "calls = []\n" + HANDLE)

    assert load_file("job_once.py") is load_file("./job_once.py")


# --- what can't be found


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("job_missing.py", "no file 'job_missing.py'; did you mean job_mising.py?"),
        ("job_mising.py:handel", "there is no 'handel' in it; did you mean handle?"),
        ("job_mising.py:zzz", "it has handle"),
        ("job_mising.py:handle.deeper", "no 'deeper'"),
        ("job_mising.py:NUMBER", "is a int, no function, stage or pipeline"),
        ("job_mising.py:Kind", "is a class; name a function, or an object of it"),
        ("job_mising", "name a file, FILE.py:name, or package.module:name"),
        ("no.such.module:handle", "No module named 'no'"),
        ("folder/", "no file"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(write: Write, target: str, said: str) -> None:
    write("job_mising.py", HANDLE + "NUMBER = 1\nclass Kind: ...\n")

    with pytest.raises(HandlerNotFound) as refused:
        load_job(target)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no function, stage or pipeline in it"),
        ("from json import dumps", "has no function, stage or pipeline in it"),
        ("def a(event): ...\ndef b(event): ...", "job_bad.py:a, job_bad.py:b"),
    ],
)
def test_a_file_with_none_or_several_says_what_to_name(write: Write, text: str, said: str) -> None:
    write("job_bad.py", text)

    with pytest.raises(HandlerNotFound) as refused:
        load_job("job_bad.py")

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import os\n\nvalue = 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("import os\nimport no_such_thing\n", 2, "No module named 'no_such_thing'"),
        ("def handle(event)\n    return event\n", 1, "SyntaxError"),
        ("raise SystemExit('no')\n", 1, "SystemExit: no"),
    ],
)
def test_an_error_in_a_file_points_to_its_line(
    write: Write, text: str, line: int, said: str
) -> None:
    path = write("job_broken.py", text)

    with pytest.raises(HandlerNotFound) as refused:
        load_job("job_broken.py")

    assert f"{path}:{line}: {text.splitlines()[line - 1]}" in str(refused.value)
    assert said in str(refused.value)
    assert "importlib" not in str(refused.value)


def test_an_error_further_down_shows_the_way_there(write: Write) -> None:
    inner = write("job_inner.py", "def fall():\n    raise KeyError('deep')\n")
    outer = write("job_outer.py", "import job_inner\njob_inner.fall()\n")

    with pytest.raises(HandlerNotFound) as refused:
        load_job("job_outer.py")

    text = str(refused.value)
    assert text.index(f"{outer}:2: job_inner.fall()") < text.index(f"{inner}:2: raise KeyError")


# --- for a worker process


def test_what_has_an_import_path_is_found_by_it_again(write: Write) -> None:
    path = write("job_worker.py", HANDLE)
    write("job_package2/__init__.py", HANDLE)
    of_file: Any = load_job("job_worker.py")
    of_module: Any = load_job("job_package2:handle")

    assert reference_to(of_file, "s") == Reference(file=str(path), name="handle")
    assert reference_to(of_module, "s") == Reference(module="job_package2", name="handle")
    for handler in (of_file, of_module):
        assert resolve(reference_to(handler, "s")) is handler


def test_a_partial_goes_as_it_is() -> None:
    made = resolve(reference_to(functools.partial(max, 3), "s"))

    assert made(2) == 3


def test_what_a_worker_can_not_find_is_refused_with_what_to_do() -> None:
    def inner(event: Any) -> Any:
        return event

    class Unpicklable:
        def __call__(self, event: Any) -> Any: ...

        def __reduce__(self) -> Any:
            raise TypeError("not this one")

    for handler, said in (
        (lambda event: event, "is a lambda"),
        (inner, "is defined inside a function"),
        (Unpicklable(), "not this one"),
        (functools.partial(lambda event: event), "can't be pickled"),
    ):
        with pytest.raises(HandlerNotFound) as refused:
            reference_to(handler, "score")

        assert said in str(refused.value)
        assert "stage 'score' runs in processes" in str(refused.value)
        assert "at the top level of a module" in str(refused.value)
