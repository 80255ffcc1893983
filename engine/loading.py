"""Finding a user's handlers: `FILE.py`, `FILE.py:name`, `package.module:name`, and back again.

A worker process finds a handler by the same path, so a handler that has none (a lambda, a
function inside a function) can't go to one. Imports the user's code; nothing else has effects.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

from .pipeline import Job, Pipeline, Stage

PREFERRED_NAMES = ("pipeline", "handler", "handle")

_loaded_files: dict[str, str] = {}
"""Module name -> file, of what load_file() imported."""


class HandlerNotFound(Exception):
    """The user's file, or the name in it, can't be used; the message says what to do."""


class Reference(msgspec.Struct, frozen=True):
    """How a worker process finds a handler: a file or a module, and a dotted name in it.

    `pickled` stands for objects that were made at import, such as a functools.partial.
    """

    file: str | None = None
    module: str | None = None
    name: str = ""
    pickled: bytes | None = None


def load_job(target: str) -> Job:
    """The function, stage or pipeline that `target` names. Raises HandlerNotFound."""
    path, colon, name = target.rpartition(":")
    if not colon:
        path, name = target, ""
    if path.endswith(".py") or "/" in path:
        module = load_file(path)
    elif not name:
        raise HandlerNotFound(
            f"{target!r} is no FILE.py; name a file, FILE.py:name, or package.module:name"
        )
    else:
        module = _load_module(path)
    found = _named(module, name, target) if name else _only_job(module, target)
    if not (callable(found) or isinstance(found, Stage | Pipeline)):
        raise HandlerNotFound(
            f"{target!r} is a {type(found).__name__}, no function, stage or pipeline"
        )
    if isinstance(found, type):
        raise HandlerNotFound(f"{target!r} is a class; name a function, or an object of it")
    return cast(Job, found)


def load_file(path: str) -> ModuleType:
    """Import a file under its own name, with its folder on the path, as Python would a script."""
    file = Path(path).resolve()
    if not file.is_file():
        near = difflib.get_close_matches(file.name, _python_files(file.parent), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise HandlerNotFound(f"no file {path!r}{hint}")
    folder = str(file.parent)
    name = file.stem
    shadows = name in sys.stdlib_module_names
    if folder not in sys.path:
        # A file called email.py must not become the email that the standard library imports.
        sys.path.insert(len(sys.path) if shadows else 0, folder)
    if shadows:
        name = f"_millstream_{name}"
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(file):
            return known
        name = f"_millstream_{name}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(file):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise HandlerNotFound(f"{path!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, Exception | SystemExit):
            raise HandlerNotFound(_import_failed(path, error)) from error
        raise
    _loaded_files[name] = str(file)
    return module


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise HandlerNotFound(_import_failed(name, error)) from error


def _import_failed(what: str, error: BaseException) -> str:
    text = f"{what} can't be imported: {type(error).__name__}: {error}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_import_machinery(f)]
    lines = [f"{each.filename}:{each.lineno}: {each.line}" for each in frames if each.line]
    if isinstance(error, SyntaxError) and error.filename is not None:
        lines.append(f"{error.filename}:{error.lineno}: {(error.text or '').strip()}")
    # From the user's own file on, down to where it failed.
    return "\n  ".join([text, *lines])


def _is_import_machinery(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith("<frozen") or frame.filename == __file__


def _python_files(folder: Path) -> list[str]:
    try:
        return [each.name for each in folder.glob("*.py")]
    except OSError:
        return []


def _named(module: ModuleType, name: str, target: str) -> Any:
    at: Any = module
    for part in name.split("."):
        if not hasattr(at, part):
            names = [n for n in vars(module) if not n.startswith("_")]
            near = difflib.get_close_matches(part, names, n=1)
            hint = (
                f"; did you mean {near[0]}?"
                if near
                else f"; it has {', '.join(_jobs(module)) or 'none'}"
            )
            raise HandlerNotFound(f"{target!r}: there is no {part!r} in it{hint}")
        at = getattr(at, part)
    return at


def _jobs(module: ModuleType) -> list[str]:
    """The names in a module that could be meant: pipelines, stages, and its own functions."""
    return [
        name
        for name, each in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(each, Pipeline | Stage)
            or (inspect.isfunction(each) and each.__module__ == module.__name__)
        )
    ]


def _only_job(module: ModuleType, target: str) -> Any:
    for name in PREFERRED_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    names = _jobs(module)
    declared = [n for n in names if isinstance(getattr(module, n), Pipeline | Stage)]
    for choice in (declared, names):
        if len(choice) == 1:
            return getattr(module, choice[0])
    if not names:
        raise HandlerNotFound(f"{target!r} has no function, stage or pipeline in it")
    raise HandlerNotFound(
        f"{target!r} has several candidates; name one: "
        + ", ".join(f"{target}:{name}" for name in names)
    )


def reference_to(handler: Callable[..., Any], stage: str) -> Reference:
    """How a worker process finds `handler`. Raises HandlerNotFound when it can't."""
    name = getattr(handler, "__qualname__", None)
    module_name = getattr(handler, "__module__", None)
    if name is None or module_name is None:
        return _pickled(handler, stage)
    if "<lambda>" in name or "<locals>" in name:
        kind = "a lambda" if "<lambda>" in name else "defined inside a function"
        raise HandlerNotFound(
            f"stage {stage!r} runs in processes, but its handler {name!r} is {kind}: a worker "
            "can't find it by its import path. Define it with def at the top level of a module"
        )
    module = sys.modules.get(module_name)
    at: Any = module
    for part in name.split("."):
        at = getattr(at, part, None)
    if at is not handler:
        return _pickled(handler, stage)
    file = getattr(module, "__file__", None)
    if module_name == "__main__" or getattr(module, "__spec__", None) is None:
        if file is None:
            raise HandlerNotFound(
                f"stage {stage!r} runs in processes, but its handler was defined interactively: "
                "a worker can't import it. Put it into a file and import it from there"
            )
        return Reference(file=str(Path(file).resolve()), name=name)
    if module_name in _loaded_files:
        return Reference(file=_loaded_files[module_name], name=name)
    return Reference(module=module_name, name=name)


def _pickled(handler: Callable[..., Any], stage: str) -> Reference:
    try:
        return Reference(pickled=pickle.dumps(handler))
    except Exception as error:
        raise HandlerNotFound(
            f"stage {stage!r} runs in processes, but its handler {handler!r} has no import path "
            f"and can't be pickled ({error}). Define it with def at the top level of a module"
        ) from None


def resolve(reference: Reference) -> Any:
    """The object that `reference` stands for. Raises HandlerNotFound."""
    if reference.pickled is not None:
        return pickle.loads(reference.pickled)
    if reference.file is not None:
        module = load_file(reference.file)
    else:
        assert reference.module is not None
        module = _load_module(reference.module)
    return _named(module, reference.name, reference.name)
