"""Whether a contender's rows of a query of Nexmark are what SQL gives; says what differs.

`python -m tests.benchmarks.nexmark_check QUERY INPUT OUTPUT`: a process of its own, since what
the harness itself takes is counted with the memory of the commands that it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from millstream.workloads.nexmark import Nexmark
from millstream.workloads.nexmark_oracle import judge


def main() -> int:
    """1 when rows differ."""
    query, source, output = sys.argv[1:]
    times = Nexmark({"query": query}).times
    with open(source, "rb") as lines:
        found = judge(
            query,
            (line[:-1] for line in lines),
            output,
            str(Path(output).parent),
            size_ms=times.size_ms,
            period_ms=times.period_ms,
        )
    if not found.wrong:
        return 0
    print(f"{found.differences} rows differ: {found.wrong[0]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
