"""Options from flags and from a file: flags win, unknown names are refused with the nearest one."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from millstream.engine.plan import PlanError, RunOptions

Options = TypeVar("Options", bound=RunOptions)


class ConfigError(Exception):
    """The file of options can't be used."""


def read_config(path: str, kind: type[RunOptions] = RunOptions) -> dict[str, Any]:
    """The options in a TOML file, by their names as flags. Raises ConfigError."""
    try:
        values = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not TOML: {error}") from error
    known = list(kind.__struct_encode_fields__)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it can be {', '.join(known)}"
            raise PlanError(f"--config {path}: there is no option {name!r}{hint}")
    return values


def merge(config: Mapping[str, Any], flags: Mapping[str, Any], path: str | None) -> RunOptions:
    """The options of a run; what a flag says wins. Raises PlanError."""
    return merge_as(RunOptions, config, flags, path)


def merge_as(
    kind: type[Options], config: Mapping[str, Any], flags: Mapping[str, Any], path: str | None
) -> Options:
    """The options of a run, or of a benchmark; what a flag says wins. Raises PlanError."""
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    # By identity: 0 equals False, yet it is a value that was given (and is refused later).
    given = {
        names[name]: value
        for name, value in flags.items()
        if value is not None and value is not False and value != ()
    }
    try:
        # The file is checked on its own first, so that the message can name it.
        msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"--config {path}: {_in_words(error, config, kind)}") from None
    try:
        return msgspec.convert({**config, **given}, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"--{_in_words(error, given, kind)}") from None


def _in_words(
    error: msgspec.ValidationError, values: Mapping[str, Any], kind: type[RunOptions]
) -> str:
    """`Expected `int`, got `str` - at `$.workers`` -> `workers: expected int, got str`."""
    text, _, at = str(error).partition(" - at `$.")
    text, name = text.replace("`", "").replace("Expected", "expected"), at.rstrip("`")
    if text.startswith("Invalid enum value"):
        hint = get_type_hints(kind)[name.replace("-", "_")]
        if get_origin(hint) is not Literal:  # one of its kinds is
            hint = next(each for each in get_args(hint) if get_origin(each) is Literal)
        allowed = get_args(hint)
        return f"{name} is {values[name]!r}; it can be {', '.join(allowed)}"
    return f"{name}: {text}" if at else text
