"""Which files a run reads and writes: no two of them may be one, or one would destroy the other.

Looks at the disk, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import combinations

from .plan import PlanError, RunOptions


def dead_letter_path(options: RunOptions) -> str:
    """Where dead letters go: `dead-letters.jsonl` beside the output, unless told otherwise."""
    if options.dead_letter is not None:
        return options.dead_letter
    folder = os.path.dirname(options.output or "") if options.output not in (None, "-") else ""
    return os.path.join(folder, "dead-letters.jsonl")


def refuse_shared_files(options: RunOptions, inputs: Sequence[str]) -> None:
    """Raises PlanError when two of the files of a run are one. Pipes and devices may be shared.

    An output may take the place of its input at the end, but for a run that may be gone on with.
    """
    allowed = [{"an input"}]
    if options.checkpoint is None:
        allowed.append({"an input", "--output"})
    files = [(what, path) for what, path in _files(options, inputs) if _is_file(path)]
    for (one, path), (other, second) in combinations(files, 2):
        if {one, other} not in allowed and _are_one(path, second):
            raise PlanError(f"{one} and {other} name the same file, {second}; give each its own")


def _files(options: RunOptions, inputs: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in inputs:
        yield "an input", path
    for name in ("checkpoint", "output", "result", "record"):
        path = getattr(options, name)
        if path is not None:
            yield f"--{name}", path
    for path in options.report:
        yield "--report", path
    default = "" if options.dead_letter is not None else " (where they go by default)"
    yield f"--dead-letter{default}", dead_letter_path(options)


def _is_file(path: str) -> bool:
    """Whether it is a regular file, or would be made one."""
    return path != "-" and (os.path.isfile(path) or not os.path.exists(path))


def _are_one(path: str, other: str) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)
