"""The layout holds: imports run one way, and every module says what lives in it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "engine", "reports", "workloads")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_DOCSTRING_LINES = 12


def test_imports_run_one_way() -> None:
    command = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run(
        [command, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_what_lives_in_it(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))

    assert docstring, f"{path.relative_to(ROOT)} opens with no docstring"
    assert docstring.splitlines()[0].endswith((".", ":", "?", "!"))
    assert len(docstring.splitlines()) <= LONGEST_DOCSTRING_LINES


def test_every_folder_with_modules_is_packaged_with_its_types() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in MODULES}
    names = {"millstream." + ".".join(folder.parts) for folder in folders}

    assert names == set(declared["packages"]) == set(declared["package-data"])
    assert {folder for folder in folders if not (ROOT / folder / "py.typed").exists()} == set()


def test_a_worker_or_a_users_file_imports_no_more_than_it_needs() -> None:
    script = (
        "import json, sys\n"
        "import millstream.engine\n"
        "from millstream.engine import Event, Pipeline, Reject, on, stage\n"
        "print(json.dumps(sorted(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    loaded = set(json.loads(done.stdout))
    assert not {"numpy", "asyncio", "uvloop", "rich", "typer", "psutil"} & loaded
