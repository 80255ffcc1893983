"""The entry point: what has to be in place before anything else is even imported."""

from __future__ import annotations

import os
import signal
from types import FrameType

_INTERRUPTED = 130


def main() -> None:
    """Run the command. Until a run takes its own signals, Ctrl-C ends it at once, quietly.

    An exception would break off an import somewhere, and whoever imports that next fails of it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from .main import main as run

    run()


def _end(number: int, frame: FrameType | None) -> None:
    shown = b"\x1b[?25h" if os.isatty(2) else b""  # a progress line may have hidden the cursor
    os.write(2, shown + b"millstream: interrupted\n")
    os._exit(_INTERRUPTED)
