"""The Parquet files of the scenario `clicks`: their columns, and how rows come into them.

Not what the rows say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from millstream.engine.record_file import RecordError, import_pyarrow

from .scenario import ScenarioUnusable

ROWS: Final = 4096
"""Rows of a row group; the last one has fewer. Whoever adds the last of them writes them all: of
the widest table in some 6 ms, for which the loop stands still."""

TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "clicks": {
        "seq": "int64",
        "id": "string",
        "user": "string",
        "time": "int64",
        "page": "string",
        "category": "string",
        "campaign": "string",
        "referrer": "string",
        "country": "string",
        "browser": "string",
        "system": "string",
        "method": "string",
        "status": "int16",
        "bytes": "int64",
    },
    "refused": {"seq": "int64", "what": "string", "reason": "string"},
    "sessions": {
        "user": "string",
        "start": "int64",
        "seq": "int64",
        "end": "int64",
        "clicks": "int64",
        "bytes": "int64",
        "gone": "bool_",
    },
    "windows": {
        "kind": "string",
        "start": "int64",
        "end": "int64",
        "name": "string",
        "firing": "int64",
        "clicks": "int64",
        "bytes": "int64",
    },
    "top": {
        "start": "int64",
        "rank": "int64",
        "page": "string",
        "firing": "int64",
        "clicks": "int64",
    },
}
"""Table -> column -> its type in Arrow. Times are in ms since 1970."""


def table_path(folder: Path, name: str) -> Path:
    """Where a table stands."""
    return folder / f"{name}.parquet"


def import_parquet() -> tuple[Any, Any]:
    """pyarrow and its Parquet module. Raises ScenarioUnusable when they are not installed."""
    try:
        return import_pyarrow("the scenario clicks")
    except RecordError:
        raise ScenarioUnusable(
            "the scenario clicks writes its tables by pyarrow, which can't be imported; "
            "install it: pip install 'millstream[scenarios]'"
        ) from None


class Table:
    """A Parquet file that is being written, a row group at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises ScenarioUnusable when pyarrow is not installed."""
        self._arrow, parquet = import_parquet()
        fields = [(each, getattr(self._arrow, kind)()) for each, kind in TABLES[name].items()]
        self._schema = self._arrow.schema(fields)
        self._writer = parquet.ParquetWriter(table_path(folder, name), self._schema)
        self._rows: list[tuple[Any, ...]] = []
        # The first array imports pandas, where that is installed: not in the midst of the stream.
        self._arrow.array(())

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row; its values are in the order of the columns."""
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and end the file."""
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [
            self._arrow.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows.clear()
