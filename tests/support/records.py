"""The rows of a record, as others read them, and what must hold for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """All rows, in the order in which they stand."""
    rows: list[Row] = parquet.read_table(path).to_pylist()
    return rows


def facts_of(path: Path) -> dict[str, str]:
    """What the file says of its run."""
    metadata = parquet.read_schema(path).metadata
    return {name.decode(): value.decode() for name, value in metadata.items()}


def stages_of(path: Path) -> list[dict[str, str]]:
    stages: list[dict[str, str]] = json.loads(facts_of(path)["stages"])
    return stages


def check_stamps(path: Path) -> None:
    """Rows are numbered without a gap, and no stamp lies before the one that came first."""
    rows = rows_of(path)
    assert [row["sequence"] for row in rows] == list(range(len(rows)))
    columns = [name for each in stages_of(path) for name in (each["started"], each["finished"])]
    for row in rows:
        names = ["intended_ns", "admitted_ns", *columns, "emitted_ns"]
        stamps = [row[name] for name in names if row[name] is not None]
        assert stamps == sorted(stamps), row
        assert (row["emitted_ns"] is not None) == (row["outcome"] == "emitted"), row
        for each in stages_of(path):
            assert (row[each["started"]] is None) == (row[each["finished"]] is None), row
