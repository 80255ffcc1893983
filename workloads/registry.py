"""The scenarios by name: one line each. They are imported only when they are asked for.

A name that ends in .py is a file of the user's own; FILE.py:Name is one of several in it.
"""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import Final

from millstream.engine.loading import load_file

from .scenario import Scenario, ScenarioError

SCENARIOS: Final = {
    "feed": "feed:Feed",
    "orders": "orders:Orders",
    "clicks": "clicks:Clicks",
    "nexmark": "nexmark:Nexmark",
    "passthrough": "passthrough:Passthrough",
    "cpu": "cpu:Cpu",
    "io": "io_bound:Io",
}
"""Name -> module and class, in the order in which they are listed."""


def scenario_class(name: str) -> type[Scenario]:
    """The scenario of a name, or in a file. Raises ScenarioError, HandlerNotFound."""
    if name.partition(":")[0].endswith(".py") or "/" in name:
        return _in_file(name)
    if name not in SCENARIOS:
        near = difflib.get_close_matches(name, SCENARIOS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SCENARIOS)}"
        raise ScenarioError(f"there is no scenario {name!r}; {hint}")
    module, _, wanted = SCENARIOS[name].partition(":")
    found: type[Scenario] = getattr(import_module(f".{module}", __package__), wanted)
    return found


def _in_file(path: str) -> type[Scenario]:
    """The one scenario that a file defines."""
    file, _, name = path.partition(":")
    module = load_file(file)
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Scenario)
        and each.__module__ == module.__name__
        and not inspect.isabstract(each)
        and (not name or each.__name__ == name)
    ]
    if len(found) != 1:
        names = ", ".join(each.__name__ for each in found) or "none"
        raise ScenarioError(
            f"{path} is to define one subclass of millstream.workloads.scenario.Scenario, with all "
            f"of its parts; it has {names}" + (": name it, FILE.py:Name" if found else "")
        )
    return found[0]
