"""Runs a command with its standard error on a terminal that is read, and its metrics scraped.

python -m tests.benchmarks.watched COMMAND [ARGUMENT...]: exits as the command does. Where it says
that it has metrics, they are asked for once a second.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import urllib.request
from contextlib import suppress

COLUMNS, ROWS = 100, 30
SCRAPE_S = 1.0
_KEPT = 4096
_METRICS = re.compile(rb"metrics at (http://\S+)")


def main(command: list[str]) -> int:
    """Run it to its end; its standard error is read as a terminal would."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stderr=theirs, env=environment)
    os.close(theirs)
    over = threading.Event()
    seen = b""
    scrapes = None
    with suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 65536):
            seen = (seen + chunk)[-_KEPT:]
            found = _METRICS.search(seen)
            if scrapes is None and found is not None:
                url = found[1].decode()
                scrapes = threading.Thread(target=scrape, args=(url, over), daemon=True)
                scrapes.start()
    code = process.wait()
    over.set()
    os.close(ours)
    if code:
        sys.stderr.buffer.write(seen)
    return code


def scrape(url: str, over: threading.Event) -> None:
    """Ask for the metrics until the command is over."""
    while not over.wait(SCRAPE_S):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            answer.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
