"""Results that are kept: a folder, in it one for each name, in it a file for each time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from millstream.engine.connectors.base import ConnectorError
from millstream.engine.result import RunResult, read_result

ENVIRONMENT: Final = "MILLSTREAM_RUNS"
DEFAULT: Final = Path(".millstream") / "runs"


def runs_folder(asked_for: str | None) -> Path:
    """Where results are kept: as asked for, else as the environment says, else here."""
    return Path(asked_for or os.environ.get(ENVIRONMENT) or DEFAULT)


def keep_run(folder: Path, result: RunResult) -> str:
    """Keep a result; where. Raises ConnectorError."""
    own = folder / _as_name(result["name"])
    began = _as_name(result["started_at"])
    try:
        own.mkdir(parents=True, exist_ok=True)
        path, again = own / f"{began}.json", 1
        while path.exists():
            again += 1
            path = own / f"{began}-{again}.json"
        result.write(str(path))
    except OSError as error:
        raise ConnectorError(
            f"the result can't be kept in {folder}: {error.strerror}; name another folder (--runs)"
        ) from error
    return str(path)


def _as_name(text: str) -> str:
    """A text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", text).lstrip(".") or "run"


def kept_runs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All results in a folder, by name and time; what is no result is passed over."""
    for path in sorted(folder.glob("*/*.json")):
        try:
            yield str(path), read_result(str(path)).data
        except (OSError, ValueError):
            continue
