"""What has to be done so that files outlast a power cut. Blocks: for threads alone."""

from __future__ import annotations

import os


def sync_folder_of(path: str | os.PathLike[str]) -> None:
    """Wait until the name of a file is on the disk. Raises OSError."""
    folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
