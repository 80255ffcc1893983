"""What a run did, and where: whatever has to be the same for two runs to be comparable.

Pure. Names of files count without their folders: a base and its candidate mostly lie in two
checkouts of one project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from millstream.engine.plan import RunOptions
from millstream.engine.units import parse_duration

from .run_figures import at, is_number, items
from .units import rate

Work = dict[str, str]
"""What is compared, in the words of the command line -> what it was, for people."""

HOST: Final = ("cpus", "machine", "platform", "implementation", "python", "event_loop")

_ELSEWHERE: Final = ("order", "executor", "workers", "concurrency", "set", "store")
"""Options that are found with what they came to: the order, the stages, the settings."""
_OF_THE_LOAD: Final = ("rate", "closed", "arrivals", "warmup")
"""The same, of a benchmark."""
_NOT_WORK: Final = frozenset(
    (
        *(
            "result",
            "report",
            "junit",
            "markdown",
            "json",
            "hdr",
            "hlog",
            "hgrm",
            "pytest-benchmark",
        ),
        *("dead-letter", "keep", "runs", "list-runs", "name", "quiet", "live", "metrics", "config"),
        *("fail-if", "objective", "repeat", "sweep", "find-max", "precision", "dry-run", "resume"),
        "seed",
    )
)
"""Options that say what is kept, shown or demanded, not what is done."""
_WHETHER: Final = ("record", "checkpoint")
"""Options that name a file: what matters is whether there is one."""


class Difference(Struct, frozen=True):
    """Something in which two runs, or two sets of runs, are not alike."""

    what: str
    base: str
    candidate: str


def differences(base: Mapping[str, str], candidate: Mapping[str, str]) -> list[Difference]:
    """Where two runs did not do the same, on the same kind of machine. What one of them does not
    say is as usual there; of the handler and the machine it is unknown, and no difference."""
    names = dict.fromkeys((*base, *candidate))
    return [
        Difference(name, base.get(name, "-"), candidate.get(name, "-"))
        for name in names
        if base.get(name) != candidate.get(name)
        and not (_may_be_unknown(name) and (name not in base or name not in candidate))
    ]


def _may_be_unknown(name: str) -> bool:
    """Whether older results lack it."""
    return name == "handler" or name.startswith("host ")


def work_of(result: Mapping[str, Any]) -> Work:
    """What a run did, and on what; only what is known, and nothing that is as usual."""
    options = result.get("options")
    options = options if isinstance(options, Mapping) else {}
    is_bench = result.get("command") == "bench"
    work = {"command": str(result.get("command"))}
    if is_bench:
        work |= _scenario(result)
    else:
        work |= _job(result, options)
    work["--order"] = str(at(result, "ordering", "order"))
    work["stages"] = "; ".join(_stage(stage) for stage in items(result.get("stages")))
    left_out = {*_NOT_WORK, *_ELSEWHERE, *(_OF_THE_LOAD if is_bench else ())}
    work |= _options({name: value for name, value in options.items() if name not in left_out})
    for name in HOST:
        known = at(result, "host", name)
        work[f"host {name}"] = "" if known is None else str(known)
    return {name: text for name, text in work.items() if text}


def _scenario(result: Mapping[str, Any]) -> Work:
    work = {"scenario": _base_name(str(at(result, "scenario", "name")))}
    settings = at(result, "scenario", "settings")
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        work[f"--set {name}"] = str(value)
    load = result.get("load")
    if at(load, "open"):
        asked = at(load, "rate")
        work["load"] = f"{at(load, 'arrivals')}{f' at {rate(asked)}' if is_number(asked) else ''}"
    else:
        work["load"] = "as fast as it can"
    warmup_ns = at(load, "warmup_ns")
    work["--warmup"] = f"{warmup_ns / 1e9:g} s" if is_number(warmup_ns) else ""
    return work


def _job(result: Mapping[str, Any], options: Mapping[str, Any]) -> Work:
    """The handler, the input by its names and size; what grows meanwhile has no size."""
    work = {
        "handler": _handler(result.get("argv"), options),
        "inputs": ", ".join(_base_name(str(name)) for name in items(result.get("inputs"))),
    }
    if not options.get("follow"):
        work["events read"] = f"{at(result, 'counts', 'read')}"
        work["bytes read"] = f"{result.get('bytes_read')}"
    return work


def _handler(argv: Any, options: Mapping[str, Any]) -> str:
    """The argument that names the handler: `FILE.py:name`, without folders; else empty."""
    arguments = list(map(str, items(argv)))
    place = 1 if arguments[1:2] == ["replay"] else 0
    positional = _positional(arguments[2:], options)
    return _base_name(positional[place]) if len(positional) > place else ""


def _positional(arguments: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Those that are neither options nor values of options."""
    found: list[str] = []
    takes_value = False
    for place, argument in enumerate(arguments):
        if takes_value:
            takes_value = False
        elif argument == "--":
            return [*found, *arguments[place + 1 :]]
        elif argument.startswith("--"):
            is_switch = isinstance(options.get(argument[2:]), bool)
            takes_value = "=" not in argument and not is_switch
        elif argument.startswith("-") and argument != "-":
            takes_value = argument == "-o"
        else:
            found.append(argument)
    return found


def _stage(stage: Any) -> str:
    """A stage, and how it was run."""
    text = f"{at(stage, 'name')}: {at(stage, 'executor')}"
    if at(stage, "executor") == "process":
        text += f" × {at(stage, 'workers')}"
    elif at(stage, "executor") == "coroutine":
        text += f" × {at(stage, 'concurrency')}"
    return text


def _options(options: Mapping[str, Any]) -> Work:
    usual = msgspec.to_builtins(RunOptions())
    work = {}
    for name, value in options.items():
        if name in _WHETHER:
            text = "yes" if value else ""
        elif name == "output":
            text = _kind_of_output(value)
        elif value in (None, False, "", [], usual.get(name)):
            text = ""
        else:
            text = _value(name, value)
        work[f"--{name}"] = text
    return work


def _kind_of_output(path: Any) -> str:
    """Standard output, or a file, packed or not: that is what costs."""
    if not isinstance(path, str) or path == "-":
        return "standard output"
    name = _base_name(path)
    return f"a file *{name[name.index('.') :]}" if "." in name else "a file"


def _value(name: str, value: Any) -> str:
    if name == "duration":
        try:
            return f"{parse_duration(str(value)) / 1e9:g} s"
        except ValueError:
            return str(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _base_name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]
