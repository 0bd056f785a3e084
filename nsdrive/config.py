"""Typed configs: the defaults live beside the code as frozen dataclasses, a YAML file holds only the differences.

    config = load_config(TrainConfig, "train/qwen3_5_4b_sft", ["learning_rate=2e-5", "lora.rank=32"])

A name is looked up as a path first, then in `configs/` (of the checkout, or inside the wheel). Later wins: defaults, the
YAML file, the `key=value` overrides. A field whose type is `Any` and that is named in `choices` takes a section with a
`name:` key that picks the dataclass: `planner: {name: idm, headway_s: 2.0}`, or just `planner: idm`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
VERB_OF = {"data": "generate", "train": "train", "simulate": "simulate", "ablation": "ablation"}  # of configs' folders
Choices = Mapping[str, Mapping[str, type]]  # field name -> name -> the dataclass it picks


def load_config(
    kind: type[T], name: str | Path | None, overrides: Sequence[str] = (), choices: Choices | None = None
) -> T:
    """A `kind` from a YAML file (a path or the name of a config that comes with nsdrive) and `key=value` overrides.

    Raises ValueError with the nearest known name for an unknown config, key or choice, and for a value of a wrong type.
    """
    values: dict[str, Any] = {}
    if name is not None:
        path = find_config(name)
        values = _read_yaml(path)
        _refuse_other_verb(kind, path, values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"'{override}' is not key=value")
        _put(values, key.strip().split("."), _parse_value(text), override)
    return build(kind, values, choices or {})


def build(kind: type[T], values: Mapping[str, Any], choices: Choices | None = None, where: str = "") -> T:
    """A frozen dataclass `kind` from plain values, every key and type checked. `where` prefixes error messages."""
    choices = choices or {}
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}{key}"
        if key not in known:
            raise ValueError(f"No setting '{path}'. {did_you_mean(str(key), known)}")
        if key in choices:
            arguments[key] = _choose(value, choices[key], path)
        else:
            arguments[key] = _convert(value, hints[key], path)
    for key in choices:
        if key in known and key not in arguments:
            field = next(f for f in dataclasses.fields(kind) if f.name == key)  # type: ignore[arg-type]
            if field.default is not dataclasses.MISSING and isinstance(field.default, str):
                arguments[key] = _choose(field.default, choices[key], f"{where}{key}")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{where or kind.__name__}: {error}") from None


def to_plain(config: Any) -> Any:
    """A config as plain JSON values, every default written out; `build` reads it back. Choices carry their `name`."""
    if isinstance(config, Chosen):
        return {"name": config.name, **to_plain(config.config)}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_plain(v) for v in config]
    if isinstance(config, Mapping):
        return {k: to_plain(v) for k, v in config.items()}
    return str(config) if isinstance(config, Path) else config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The value of a choice: which one, and its config."""

    name: str
    config: Any


def find_config(name: str | Path) -> Path:
    """The YAML file for a path or a named config. Raises FileNotFoundError with "did you mean" and the list."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        inside = config_folder() / path
        stripped = [*path.parts][1:] if path.parts[:1] == ("configs",) else None
        if stripped and (config_folder() / Path(*stripped)).is_file():
            return config_folder() / Path(*stripped)
        if inside.is_file():
            return inside
    files = sorted(p for folder in VERB_OF for p in (config_folder() / folder).rglob("*.yaml"))
    known = {str(p.relative_to(config_folder()).with_suffix("")): p for p in files}
    short = str(path.with_suffix("")) if path.suffix in (".yaml", ".yml") else str(path)
    short = short.removeprefix("configs/")
    matches = [p for key, p in known.items() if key == short or key.split("/")[-1] == short]
    if len(matches) == 1:
        return matches[0]
    if len(matches) > 1:
        raise ValueError(f"Config '{name}' is ambiguous: {', '.join(k for k, p in known.items() if p in matches)}")
    raise FileNotFoundError(f"No config '{name}'. {did_you_mean(short, known)}")


def config_folder() -> Path:
    """`configs/` of the checkout, or the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "configs"
    return checkout if checkout.is_dir() else package / "configs"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'Did you mean 'idm'? Known: idm, ...', to finish the sentence of an error."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or [
        n
        for n in names
        if n.split("/")[-1] in difflib.get_close_matches(name.split("/")[-1], [n.split("/")[-1]], cutoff=0.6)
    ]
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}"


def _refuse_other_verb(kind: type, path: Path, values: Mapping[str, Any]) -> None:
    """ValueError where a config that is not a `kind` is one for another verb: by its folder, else by those that come along."""
    known = {f.name for f in dataclasses.fields(kind)}
    strange = [str(key) for key in values if key not in known]
    if not strange:
        return
    verb = VERB_OF.get(path.parent.name) if path.is_relative_to(config_folder()) else None
    if verb is None:
        shared = {name: _keys_of(name) for name in VERB_OF}
        best = max(shared, key=lambda name: len(shared[name] & values.keys()))
        is_better = len(shared[best] & values.keys()) > len(values) - len(strange)
        verb = VERB_OF[best] if is_better else None
    if verb is not None:
        raise ValueError(f"{path} is a config for `nsdrive {verb}`: '{strange[0]}' is no setting here")


def _keys_of(folder: str) -> set[str]:
    """What the configs of a folder set, all together."""
    return {str(key) for path in sorted((config_folder() / folder).glob("*.yaml")) for key in _read_yaml(path)}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold key: value settings, not a {type(values).__name__}")
    return values


def _parse_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, str) or hasattr(value, "isoformat") else value


def _put(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        section = values.get(key)
        if isinstance(section, str):  # `planner: idm` and then planner.headway_s=2: the string was the choice's name
            section = {"name": section}
        elif section is None:
            section = {}
        elif not isinstance(section, dict):
            raise ValueError(f"'{override}': '{key}' is a value, not a section")
        values[key] = section
        values = section
    last = keys[-1]
    if isinstance(values.get(last), dict) and isinstance(value, str):
        values[last] = {"name": value}
    else:
        values[last] = value


def _choose(value: Any, table: Mapping[str, type], where: str) -> Chosen:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"'{where}' must be a name or a section with a 'name', got {value!r}")
    rest = dict(value)
    name = rest.pop("name", None)
    if name is None:
        if len(table) != 1:
            raise ValueError(f"'{where}' lacks a 'name'. Known: {', '.join(sorted(table))}")
        name = next(iter(table))
    if name not in table:
        raise ValueError(f"No {where} '{name}'. {did_you_mean(str(name), table)}")
    return Chosen(name=name, config=build(table[name], rest, where=f"{where}."))


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint`, or ValueError. Knows None, bool, int, float, str, Path, Literal, unions, tuples, dicts, dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        problems = []
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _convert(value, option, where)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError(problems[0])
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"'{where}' must be one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, Sequence):
            raise ValueError(f"'{where}' must be a list, got {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(v, arguments[0], f"{where}[{i}]") for i, v in enumerate(items))
        if len(items) != len(arguments):
            raise ValueError(f"'{where}' must have {len(arguments)} values, got {len(items)}")
        return tuple(_convert(v, a, f"{where}[{i}]") for i, (v, a) in enumerate(zip(items, arguments, strict=True)))
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            raise ValueError(f"'{where}' must be a section, got {value!r}")
        return dict(value)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"'{where}' must be a section, got {value!r}")
        return build(typing.cast(type, hint), value, where=f"{where}.")
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    if hint is str and isinstance(value, str | int | float):
        return str(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    name = getattr(hint, "__name__", str(hint))
    raise ValueError(f"'{where}' must be {'an' if name == 'int' else 'a'} {name}, got {value!r}")
