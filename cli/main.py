"""The command `millstream`: its table of contents. One file a command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

# Numbers are crunched on one core here; a pool of idle BLAS threads only costs start-up time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer

from .audit import audit_command
from .bench import bench_command
from .compare import compare_command
from .prove import prove_command
from .replay import replay_command
from .report import report_command
from .run import run_command
from .scenarios import generate_command, scenarios_command

app = typer.Typer(
    name="millstream",
    help="Run event handlers over a stream of events, and prove how well it went.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"millstream {version('millstream')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("run", no_args_is_help=True)(run_command)
app.command("bench")(bench_command)
app.command("scenarios")(scenarios_command)
app.command("generate", no_args_is_help=True)(generate_command)
app.command("audit")(audit_command)
app.command("compare", no_args_is_help=True)(compare_command)
app.command("replay", no_args_is_help=True)(replay_command)
app.command("report")(report_command)
app.command("prove", no_args_is_help=True)(prove_command)


def _fill_standard_descriptors() -> None:
    """Where 0, 1 or 2 came closed, no file or socket of ours may take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def main() -> None:
    """The entry point."""
    _fill_standard_descriptors()
    app(prog_name="millstream")


if __name__ == "__main__":
    main()
