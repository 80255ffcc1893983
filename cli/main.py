"""The command `millstream`: its table of contents. One file a command."""

from __future__ import annotations

import os
from typing import Annotated

# Numbers are crunched on one core here; a pool of idle BLAS threads only costs start-up time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import typer

from .run import run_command

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


def main() -> None:
    """The entry point."""
    app(prog_name="millstream")


if __name__ == "__main__":
    main()
