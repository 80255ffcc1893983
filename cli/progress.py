"""What a person sees while a run goes on: one line on standard error, and warnings."""

from __future__ import annotations

import sys
from typing import Any

from millstream.engine.observer import Details, Progress, RunWarning, Watcher
from millstream.reports.units import duration, rate, size


class Plain:
    """Standard error is no terminal: warnings alone, as plain lines."""

    def on_progress(self, progress: Progress) -> None:
        pass

    def on_warning(self, warning: RunWarning) -> None:
        sys.stderr.write(f"millstream: warning: {warning.message}\n")
        sys.stderr.flush()

    def close(self) -> None:
        pass


class Quiet(Plain):
    """Asked to be quiet."""

    def on_warning(self, warning: RunWarning) -> None:
        pass


class OneLine(Plain):
    """A terminal: one line that is drawn again, at most four times a second."""

    def __init__(self, *, color: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, no_color=not color, highlight=False)
        self._live: Any = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._live.start()

    def on_progress(self, progress: Progress) -> None:
        from rich.text import Text

        line = Text(progress_line(progress), no_wrap=True, overflow="ellipsis")
        self._live.update(line, refresh=True)

    def on_warning(self, warning: RunWarning) -> None:
        from rich.text import Text

        self._console.print(Text(f"millstream: warning: {warning.message}", style="yellow"))

    def close(self) -> None:
        self._live.stop()


class Both:
    """What people see, and an endpoint, which only takes part in what it wants to know."""

    def __init__(self, shown: Any, endpoint: Any) -> None:
        self._shown, self._endpoint = shown, endpoint
        self.on_progress, self.on_warning = shown.on_progress, shown.on_warning
        self.close = shown.close

    def on_details(self, details: Details) -> None:
        self._endpoint.on_details(details)
        if isinstance(self._shown, Watcher):
            self._shown.on_details(details)


def progress_line(progress: Progress) -> str:
    """The state of a run in one line."""
    parts = [f"{progress.done:,} events", rate(progress.rate)]
    total = progress.bytes_total
    if total and progress.bytes_read:
        share = min(1.0, progress.bytes_read / total)
        parts.append(f"{share:.0%} of {size(total)}")
        left_ns = int(progress.elapsed_ns * (1 - share) / share)
        parts.append(f"ETA {duration(left_ns)}")
    else:
        parts.append(size(progress.bytes_read))
    parts.append(f"backlog {progress.backlog:,}")
    if progress.worst_stage is not None:
        parts.append(f"most at {progress.worst_stage} ({progress.worst_stage_backlog:,})")
    if progress.dead_lettered:
        parts.append(f"{progress.dead_lettered:,} dead letters")
    return "  ".join(parts)
