"""Published lists of nuPlan scenarios (Val14, test14-hard, ...), as the files that their authors give away.

    chosen = read_selection(Path("val14_split.yaml"))
    chosen.tokens               # ("fa20c34947a8558d", ...)

What is read:

    .yaml, .yml   nuPlan's own scenario filter (scenario_tokens, scenario_types, log_names, map_names), or a list of tokens
    .json         the same, or what `nsdrive export --format nuplan` writes beside its logs
    any other     text: tokens between white space or commas; what follows a # is a remark

A token may stand after its log's name ("log/token", or the pair that nuPlan's filter allows). Limits and spacings that a
filter names are not applied: a published list has been through them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

TOKEN = re.compile(r"[0-9a-f]{16}")
NONE = ("", "null", "Null", "NULL", "~")  # YAML's names for nothing
MAX_BYTES = 100_000_000  # chosen by us: nuPlan's 13,180 logs have no more tokens than that


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a file names; what it does not name is empty."""

    tokens: tuple[str, ...] = ()
    scenario_types: tuple[str, ...] = ()
    log_names: tuple[str, ...] = ()
    map_names: tuple[str, ...] = ()


def read_selection(path: Path) -> Selection:
    """The file's tokens in its order, each once. ValueError, one line, where it cannot be read or names neither tokens nor logs."""
    path = path.expanduser()
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a list of scenarios ({error.strerror})") from error
    if stat.st_size > MAX_BYTES or not path.is_file():
        raise ValueError(f"{path}: is no list of scenarios; give a file of at most {MAX_BYTES // 1_000_000} MB")
    return _read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, size: int, changed_ns: int) -> Selection:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix in (".yaml", ".yml"):
            # Makes strings, lists and mappings only: a token of digits alone stays the text it is. (libyaml's twin crashes.)
            value = yaml.load(text, Loader=yaml.BaseLoader)
        elif path.suffix == ".json":
            value = json.loads(text)
        else:
            value = [word for line in text.splitlines() for word in line.partition("#")[0].replace(",", " ").split()]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as a list of scenarios ({' '.join(str(error).split())})") from error
    if isinstance(value, Mapping) and not {"scenario_tokens", "log_names", "scenarios", "tokens"} & value.keys():
        known = ", ".join(str(key) for key in list(value)[:8])
        raise ValueError(f"{path}: has no scenario_tokens (it has {known or 'nothing'}): give a list of tokens")
    if not isinstance(value, Mapping):
        value = {"scenario_tokens": value}
    listed = [value.get(key) for key in ("scenario_tokens", "tokens", "scenarios")]
    chosen = Selection(
        tokens=tuple(dict.fromkeys(token for each in listed for token in _tokens(path, each))),
        **{key: tuple(_names(value.get(key))) for key in ("scenario_types", "log_names", "map_names")},
    )
    if not chosen.tokens and not chosen.log_names:
        raise ValueError(f"{path}: names neither tokens nor logs; for types alone, give scenarios.scenario_types")
    return chosen


def _tokens(path: Path, entries: Any) -> Iterator[str]:
    for number, entry in enumerate(_listed(entries), start=1):
        token = entry
        if isinstance(token, Mapping):
            token = token.get("token")
        elif isinstance(token, list) and token:
            token = token[-1]  # ScenarioFilter: "in the form of (log_name, token)"
        token = str(token).strip().rpartition("/")[2].lower()
        if not TOKEN.fullmatch(token):
            raise ValueError(f"{path}: entry {number}, {str(entry)[:60]!r}, is no nuPlan token (16 hex digits)")
        yield token


def _names(entries: Any) -> Iterator[str]:
    """Names of a filter's list; one that hydra would fill in ("${splitter.log_splits.val}") says nothing by itself."""
    return (str(entry) for entry in _listed(entries) if not str(entry).startswith("${"))


def _listed(entries: Any) -> Iterable[Any]:
    if entries is None or (isinstance(entries, str) and entries.strip() in NONE):
        return ()
    return entries if isinstance(entries, list) else (entries,)
