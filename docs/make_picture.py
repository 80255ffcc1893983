"""Makes docs/run.svg: what a terminal shows of the demo, from a real run of it.

.venv/bin/python docs/make_picture.py        (after `make demo`, which makes the events)
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = (
    "millstream run examples/demo/handlers.py:pipeline build/demo/events.jsonl "
    "--order key --output build/demo/out.jsonl --dead-letter build/demo/dead-letters.jsonl"
)
COLUMNS = 96
UP_AND_ERASE = "\x1b[1A\x1b[2K"
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def run_in_terminal(command: str) -> str:
    """All that `command` writes to a terminal of COLUMNS columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {
        "COLUMNS": str(COLUMNS),
        "LINES": "40",
        "TERM": "xterm-256color",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        command.split(), stdout=theirs, stderr=theirs, stdin=theirs, env=environment, cwd=ROOT
    )
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    process.wait()
    return written.decode().replace("\r\n", "\n")


def screen_of(written: str) -> Text:
    """What stays on the screen: of lines that were drawn again or erased, their last state."""
    lines: list[str] = []
    for line in written.split("\n"):
        while UP_AND_ERASE in line:
            line = line.replace(UP_AND_ERASE, "", 1)
            lines = lines[:-1]
        lines.append(line.rsplit("\r", 1)[-1])
    shown = [text for text in map(Text.from_ansi, lines) if text.plain.strip()]
    return Text("\n").join(shown)


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    (ROOT / "build/demo/dead-letters.jsonl").unlink(missing_ok=True)
    screen = screen_of(run_in_terminal(COMMAND))
    # As one would type it: cut where the shell lets one.
    command = COMMAND.replace(" --order", " \\\n    --order")
    console.print(Text(f"$ {command}", style="bold"), highlight=False)
    console.print(screen, highlight=False)
    picture = console.export_svg(title="millstream run", unique_id="run")
    # Without fonts from elsewhere: the picture is complete as it is.
    picture = FONT_FACES.sub("", picture).replace("Fira Code, monospace", "monospace")
    (ROOT / "docs" / "run.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
