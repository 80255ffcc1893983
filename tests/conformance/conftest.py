"""What several suites here ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import handlers


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Handlers count their attempts in this folder, and log their calls to `log.jsonl` beside."""
    handlers.forget_logs()
    folder = tmp_path / "tries"
    folder.mkdir()
    monkeypatch.setenv(handlers.TRIES_VARIABLE, str(folder))
    monkeypatch.setenv(handlers.LOG_VARIABLE, str(tmp_path / "log.jsonl"))
    return folder
