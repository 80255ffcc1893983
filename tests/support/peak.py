"""Run a command and write its peak resident memory (bytes) to a file: `peak.py FILE COMMAND...`

A process of its own stands between, since a process's peak begins at that of the one that made it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(file: str, *command: str) -> int:
    child = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    Path(file).write_text(str(usage.ru_maxrss * 1024))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
