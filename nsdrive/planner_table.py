"""Planners by name, or by import path: `idm`, or `my_planner:MyPlanner` for a class of one's own, from outside the repository.

    table = PlannerTable({"idm": "planners.idm:IdmPlanner"})
    table["my_planner:MyPlanner"]                     # the frozen dataclass of its settings, for `load_config`
    make = table.factory(chosen)                      # a picklable function without arguments: a new planner

A planner is a class with a `name`, `initialize(mission, ego)` and `plan(observation)` (`nsdrive.world.types.Planner`). Its
constructor takes nothing, or one frozen dataclass of settings, known from the parameter's annotation or a nested `Config`.
Nothing is imported that was not named: a registered planner when it is chosen, another only where its path is given.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from nsdrive.config import Chosen, did_you_mean

METHODS = {"initialize": "initialize(mission, ego)", "plan": "plan(observation)"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoSettings:
    """The config of a planner whose constructor takes nothing."""


class PlannerTable(Mapping[str, type]):
    """Name or import path -> the dataclass of the planner's settings. Iterates over the registered names.

    paths: name -> "module:Class". own: import paths that may be looked up beside them; None for any. A lookup raises
    ValueError, with one line that says why, for what is not a planner.
    """

    def __init__(self, paths: Mapping[str, str], own: frozenset[str] | None = None) -> None:
        self._paths, self._own = dict(paths), own

    def __getitem__(self, name: str) -> type:
        return settings_of(load_planner(self.path(name)), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, name: str) -> str:
        """The import path of a name; of a path, itself."""
        if name in self._paths:
            return self._paths[name]
        if ":" not in name:
            hint = did_you_mean(name, self._paths)
            raise ValueError(f"No planner '{name}'. {hint}, or module:Class for one of your own")
        if self._own is not None and name not in self._own:
            raise ValueError(
                f"Planner '{name}' is code from outside nsdrive, and is imported only if you name it: --planner {name}"
            )
        return name

    def factory(self, chosen: Chosen) -> Callable[[], Any]:
        """A picklable function without arguments that makes the chosen planner."""
        return partial(make_planner, self.path(chosen.name), chosen.config)


def make_planner(path: str, config: Any) -> Any:
    """A planner of the class at an import path; ValueError where it has no name."""
    cls = load_planner(path)
    planner = cls() if isinstance(config, NoSettings) else cls(config)
    if not isinstance(getattr(planner, "name", None), str):
        raise ValueError(f"Planner '{path}' has no name: give its class one, as in  name = \"my planner\"")
    return planner


def load_planner(path: str) -> type:
    """The class at "module:Class", the module looked for among what is installed and in the current folder."""
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name or module_name.endswith(".py") or "/" in module_name:
        raise ValueError(f"'{path}' is not an import path of a planner: give module:Class, as in my_planner:MyPlanner")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing there hides an installed module
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ValueError(
                f"No planner '{path}': there is no module '{error.name}' in {os.getcwd()} or among what is installed"
            ) from error
        raise ValueError(f"Planner '{path}' cannot be imported: {error}") from error
    except Exception as error:
        raise ValueError(f"Planner '{path}' cannot be imported: {type(error).__name__}: {error}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        planners = [n for n, c in vars(module).items() if isinstance(c, type) and all(hasattr(c, m) for m in METHODS)]
        raise ValueError(f"Module '{module_name}' has no class '{class_name}'. {did_you_mean(class_name, planners)}")
    missing = [says for method, says in METHODS.items() if not callable(getattr(cls, method, None))]
    if missing:
        raise ValueError(
            f"'{path}' is not a planner: it lacks {' and '.join(missing)}. A planner has a name, "
            f"{' and '.join(METHODS.values())}"
        )
    return cls


def settings_of(cls: type, name: str) -> type:
    """The dataclass that a planner's constructor takes, `NoSettings` where it takes nothing."""
    nested = getattr(cls, "Config", None)
    if isinstance(nested, type) and dataclasses.is_dataclass(nested):
        return nested
    parameters = [
        p for p in list(inspect.signature(cls).parameters.values()) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not parameters:
        return NoSettings
    try:
        hint = typing.get_type_hints(cls.__init__).get(parameters[0].name)  # type: ignore[misc]
    except NameError as error:
        raise ValueError(f"Planner '{name}': the annotations of its constructor cannot be read: {error}") from None
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    if needed:
        raise ValueError(
            f"Planner '{name}' wants '{needed[0]}', which nsdrive cannot give: annotate it with a frozen dataclass of "
            "settings, or give it a default"
        )
    return NoSettings
