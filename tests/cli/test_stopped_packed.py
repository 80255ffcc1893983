"""An interrupt in the middle of packed input is an interrupt, not damaged input."""

from __future__ import annotations

import gzip
import random
import signal
import subprocess
from pathlib import Path

from tests.cli.support import COMMAND, wait_for


def test_an_interrupt_within_gzip_input_ends_as_interrupted(tmp_path: Path) -> None:
    drawn = random.Random(1)
    lines = [b'{"key":"k","data":{"n":"%d"}}\n' % drawn.getrandbits(400) for _ in range(40_000)]
    packed = gzip.compress(b"".join(lines), compresslevel=1)
    (tmp_path / "h.py").write_text("def same(event):\n    return event\n")
    out = tmp_path / "out"
    with out.open("wb") as results:
        run = subprocess.Popen(
            [COMMAND, "run", "h.py:same", "-"], stdin=subprocess.PIPE, stdout=results, cwd=tmp_path
        )
    assert run.stdin is not None
    run.stdin.write(packed[: len(packed) // 2])
    run.stdin.flush()

    wait_for(lambda: out.stat().st_size, "the first results")
    run.send_signal(signal.SIGINT)
    code = run.wait(timeout=60)  # the other half never comes
    run.stdin.close()

    assert code == 130
