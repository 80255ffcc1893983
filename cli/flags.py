"""The flags of the commands that run handlers: each declared once, taken by name.

A flag's name is that of its option (engine/plan.py), with underscores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import typer

FAILURE_FLAGS: Final = (
    *("attempts", "backoff", "retry_on", "timeout", "breaker"),
    *("on_error", "max_dead_letters", "worker_memory", "drain_timeout", "seed"),
)

FLAGS: Final[dict[str, Any]] = {
    "order": Annotated[str | None, typer.Option(help="none, key, partition or global.")],
    "emit": Annotated[str | None, typer.Option(help="completion or input.")],
    "executor": Annotated[str | None, typer.Option(help="auto, inline, coroutine or process.")],
    "workers": Annotated[int | None, typer.Option(help="Processes of a process stage.")],
    "concurrency": Annotated[
        int | None, typer.Option(help="Events in flight in a coroutine stage.")
    ],
    "key": Annotated[str | None, typer.Option(help="Field of the key, such as user.id.")],
    "sequence": Annotated[str | None, typer.Option(help="Field of the sequence number.")],
    "id": Annotated[str | None, typer.Option("--id", help="Field of the event's id.")],
    "type": Annotated[str | None, typer.Option("--type", help="Field of the type.")],
    "time": Annotated[str | None, typer.Option(help="Field of the time.")],
    "format": Annotated[
        str | None, typer.Option("--format", help="auto, jsonl, csv, json or cloudevents.")
    ],
    "delimiter": Annotated[str | None, typer.Option(help="Delimiter of CSV input.")],
    "partitions": Annotated[
        bool, typer.Option("--partitions", help="Each input is a partition, read side by side.")
    ],
    "follow": Annotated[bool, typer.Option("--follow", help="Go on as files grow.")],
    "limit": Annotated[int | None, typer.Option(help="Stop after so many events.")],
    "rate": Annotated[float | None, typer.Option(help="Events per second, released on time.")],
    "pace": Annotated[str | None, typer.Option(help="time: replay at the events' own pace.")],
    "speed": Annotated[float | None, typer.Option(help="With --pace time: times as fast.")],
    "output": Annotated[
        str | None, typer.Option("--output", "-o", help="File for the results; .gz and .zst pack.")
    ],
    "output_format": Annotated[str | None, typer.Option(help="auto, jsonl or csv.")],
    "dead_letter": Annotated[str | None, typer.Option(help="File for dead letters.")],
    "checkpoint": Annotated[
        str | None, typer.Option(help="File that keeps how far the run is, for --resume.")
    ],
    "resume": Annotated[
        bool, typer.Option("--resume", help="Go on where the run of --checkpoint stood.")
    ],
    "checkpoint_every": Annotated[
        str | None, typer.Option(help="How often it is renewed, such as 500ms; 1s.")
    ],
    "attempts": Annotated[int | None, typer.Option(help="Attempts at an event; 1: no retries.")],
    "backoff": Annotated[str | None, typer.Option(help="Wait between attempts: 100ms..30s.")],
    "retry_on": Annotated[
        list[str] | None, typer.Option(help="Error type that is worth a retry, or all.")
    ],
    "timeout": Annotated[str | None, typer.Option(help="How long an attempt may take: 2s.")],
    "breaker": Annotated[
        str | None, typer.Option(help="Pause a stage when such a share of its calls fails: 50%.")
    ],
    "worker_memory": Annotated[
        str | None, typer.Option(help="Memory of each worker process: 512MiB.")
    ],
    "drain_timeout": Annotated[
        str | None, typer.Option(help="How long an interrupted run may finish what it has: 30s.")
    ],
    "seed": Annotated[int | None, typer.Option(help="Makes what is drawn by chance repeatable.")],
    "on_error": Annotated[
        str | None, typer.Option(help="continue, park (the later events of its key) or halt.")
    ],
    "max_dead_letters": Annotated[
        str | None, typer.Option(help="Stop above so many, or such a share: 100 or 1%.")
    ],
    "dedupe": Annotated[
        bool, typer.Option("--dedupe", help="Filter out events whose id came before.")
    ],
    "dedupe_window": Annotated[
        int | None, typer.Option(help="How many distinct ids back it looks; 100000.")
    ],
    "inject": Annotated[
        list[str] | None, typer.Option(help="Fault on purpose: 'error:5%', 'kill-worker@5s'.")
    ],
    "closed": Annotated[
        bool, typer.Option("--closed", help="No schedule: as fast as it can. The default.")
    ],
    "arrivals": Annotated[
        str | None,
        typer.Option(help="constant, poisson, burst:N, ramp:FROM, sine:50%:10s or trace:FILE."),
    ],
    "duration": Annotated[str | None, typer.Option(help="How long events arrive: 30s.")],
    "events": Annotated[int | None, typer.Option(help="How many events arrive.")],
    "warmup": Annotated[str | None, typer.Option(help="Of that, what is not measured: 2s.")],
    "set": Annotated[list[str] | None, typer.Option(help="Parameter of the scenario: NAME=VALUE.")],
    "store": Annotated[
        str | None, typer.Option(help="Where the scenario keeps its state: postgresql://…")
    ],
    "objective": Annotated[
        list[str] | None, typer.Option(help="What has to be true: 'response.p99 < 50ms'.")
    ],
    "find_max": Annotated[
        bool, typer.Option("--find-max", help="Search the highest rate that is sustained.")
    ],
    "precision": Annotated[str | None, typer.Option(help="How close the search comes: 2%.")],
    "sweep": Annotated[
        str | None, typer.Option(help="A trial for each value: workers=1,2,4 or order=all.")
    ],
    "repeat": Annotated[int | None, typer.Option(help="Trials of each kind, in turn.")],
    "hdr": Annotated[
        str | None, typer.Option(help="Response times for HdrHistogram: FILE.hlog or .hgrm.")
    ],
    "keep": Annotated[
        str | None, typer.Option(help="New folder for what the run leaves: output, database.")
    ],
    "runs": Annotated[str | None, typer.Option(help="Folder in which results are kept.")],
    "list_runs": Annotated[
        bool, typer.Option("--list-runs", help="List the results that are kept.")
    ],
    "result": Annotated[str | None, typer.Option(help="Result as JSON: a file, or -.")],
    "report": Annotated[
        list[str] | None,
        typer.Option(help="Report as .html, .md, .xml (JUnit), .txt … by its suffix; repeatable."),
    ],
    "record": Annotated[
        str | None, typer.Option(help="File for what became of each event, and when: Parquet.")
    ],
    "fail_if": Annotated[
        list[str] | None, typer.Option(help="Exit 6 when it holds: 'service.p99 > 5ms'.")
    ],
    "name": Annotated[str | None, typer.Option(help="Name of the run in its result.")],
    "config": Annotated[str | None, typer.Option(help="TOML file with these options.")],
    "dry_run": Annotated[
        bool, typer.Option("--dry-run", help="Show what would run; change nothing.")
    ],
    "live": Annotated[bool, typer.Option("--live", help="Show how it goes on the whole terminal.")],
    "metrics": Annotated[
        str | None, typer.Option(help="Prometheus endpoint meanwhile: HOST:PORT, or a port.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
}

Command = TypeVar("Command", bound=Callable[..., None])


def takes(names: Sequence[str]) -> Callable[[Command], Command]:
    """Give a command, after its own parameters, the flags of these names; they reach `**flags`."""

    def declare(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if FLAGS[name].__origin__ is bool else None,
                annotation=FLAGS[name],
            )
            for name in names
        ]
        command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]  # where inspect looks
        return command

    return declare


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags as options: what may be repeated is a tuple, empty when it was not given."""
    repeated = ("retry_on", "fail_if", "inject", "set", "objective", "report")
    return {
        name: tuple(value or ()) if name in repeated else value
        for name, value in flags.items()
        if name != "config"
    }
