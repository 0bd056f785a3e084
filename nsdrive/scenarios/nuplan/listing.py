"""Which scenarios a folder of nuPlan logs has: logs by name and map, tagged rows by type, spacing and limit, or tokens.

    logs = find_logs(Path("splits/mini"), ("2021.07.16*",))          # {"<name>": path}, no file is opened
    rows = tagged_rows(path, wanted)                                 # those of one log, in the order of time

What a log is asked for is counted and packed by SQLite itself, one row a scenario type: many logs are then listed in
threads, side by side.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from nsdrive.scenarios.nuplan.sqlite import opened, select_in
from nsdrive.scenarios.nuplan.types import last_type
from nsdrive.scenarios.source import ScenarioError

THREADS = min(16, os.cpu_count() or 1)
BATCH = 64  # logs that are looked into before it is asked whether that is enough, chosen by us
# In no log's first two and last two scenes, as in the official builder: "at least 2 before and 2 after".
OFFICIAL_SCENES = "select token from scene order by name limit max((select count(*) from scene) - 4, 0) offset 2"
HAS_GOAL = " and p.scene_token in (select s.token from scene s join ego_pose e on e.token = s.goal_ego_pose_token)"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of the logs. With tokens, the rest of it is not: they are taken as they are, whatever their type."""

    scenario_types: tuple[str, ...] = ()  # empty: any
    tokens: tuple[str, ...] = ()
    map_names: tuple[str, ...] = ()  # empty: any
    needs_goal: bool = False
    min_gap_s: float = 0.0  # between rows of one type
    min_gap_any_s: float = 0.0  # between rows of any types, of those that are left


@dataclass(frozen=True, kw_only=True)
class TaggedRow:
    """A row of a log that a scenario can be named after."""

    token: str
    scenario_type: str
    timestamp_us: int


@dataclass(frozen=True, kw_only=True)
class LogRows:
    """What one log has of what is wanted; rows is None where it cannot be read."""

    name: str
    map_name: str | None
    rows: tuple[TaggedRow, ...] | None


def find_logs(root: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """Name (path below `root`, without .db) -> file, in the order of the names; files are not opened.

    names: of logs, or patterns such as "2021.07.16*"; empty: all. ValueError where there is no log, one is there twice,
    or a name fits none.
    """
    if root.is_file():
        logs = {root.stem: root}
    elif root.is_dir():
        logs = dict(sorted(_walk(root)))
    else:
        raise ValueError(f"{root} does not exist; give a nuPlan log (.db) or a folder above logs")
    if not logs:
        raise ValueError(f"{root} holds no nuPlan log: looked in it and in every folder below for files named *.db")
    by_stem: dict[str, Path] = {}
    for path in logs.values():
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"log {path.stem} is there twice, {other} and {path}; give a path with one")
    if not names:
        return logs
    chosen: set[str] = set()
    for name in names:
        fits = _fitting(logs, name.removesuffix(".db"))
        if not fits:
            raise ValueError(f"{root}: no log '{name}'. {_nearest(name, by_stem)}")
        chosen |= fits
    return {name: path for name, path in logs.items() if name in chosen}


def list_logs(logs: Mapping[str, Path], wanted: Wanted) -> Iterator[LogRows]:
    """Every log's rows, in the order of the logs; one that cannot be read is there without rows."""

    def look(name: str) -> LogRows:
        try:
            map_name, rows = tagged_rows(logs[name], wanted)
        except ScenarioError:
            return LogRows(name=name, map_name=None, rows=None)
        return LogRows(name=name, map_name=map_name, rows=rows)

    names = list(logs)
    if len(names) < BATCH or THREADS == 1:
        yield from map(look, names)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(names), BATCH):
            yield from pool.map(look, names[start : start + BATCH])


def tagged_rows(path: Path, wanted: Wanted) -> tuple[str, tuple[TaggedRow, ...]]:
    """The log's map, and its rows that are wanted in the order of time. ScenarioError.

    A row with several tags has the last of them by name, as in the official builder (of the wanted ones, where types are).
    """
    with opened(path) as log:
        about = log.execute("select map_version from log").fetchone()
        map_name = "" if about is None else str(about["map_version"]).removesuffix(".gpkg")
        if wanted.map_names and map_name not in wanted.map_names:
            return map_name, ()
        rows = _named(log, wanted) if wanted.tokens else _thinned(log, wanted)
    return map_name, tuple(sorted(rows, key=lambda row: (row.timestamp_us, row.token)))


def logs_with(logs: Mapping[str, Path], tokens: Sequence[str]) -> tuple[dict[str, Path], int]:
    """Token -> the log that has it, for those that one has; and how many logs cannot be read."""
    keys = [bytes.fromhex(token) for token in tokens]

    def look(path: Path) -> list[str] | None:
        try:
            with opened(path) as log:
                return [row[0].hex() for row in select_in(log, "select token from lidar_pc where token in ({})", keys)]
        except ScenarioError:
            return None

    found: dict[str, Path] = {}
    broken = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for path, here in zip(logs.values(), pool.map(look, logs.values()), strict=True):
            broken += here is None
            for token in here or ():
                found.setdefault(token, path)
    return found, broken


def limited(listed: Sequence[tuple[str, TaggedRow | None]], limit: int | None) -> list[tuple[str, TaggedRow | None]]:
    """At most `limit` of each type, evenly over all (nuPlan's filter_num_scenarios_per_type); broken logs stay."""
    if limit is None:
        return list(listed)
    by_type: dict[str, list[int]] = {}
    for place, (_, row) in enumerate(listed):
        if row is not None:
            by_type.setdefault(row.scenario_type, []).append(place)
    keep = {place for place, (_, row) in enumerate(listed) if row is None}
    for places in by_type.values():
        keep.update(places[:: max(len(places) // limit, 1)][:limit])
    return [listed[place] for place in sorted(keep)]


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.endswith(".db") and not name.startswith("."):
                path = Path(folder, name)
                yield path.relative_to(root).with_suffix("").as_posix(), path


def _fitting(logs: Mapping[str, Path], pattern: str) -> set[str]:
    return {name for name, path in logs.items() if fnmatchcase(path.stem, pattern) or fnmatchcase(name, pattern)}


def _nearest(name: str, stems: Mapping[str, Path]) -> str:
    """'Did you mean ...', without all of a thousand names."""
    close = get_close_matches(name, stems, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}There are {len(stems)}: {', '.join(sorted(stems)[:3])}{', ...' * (len(stems) > 3)}"


def _named(log: sqlite3.Connection, wanted: Wanted) -> list[TaggedRow]:
    """Rows with the wanted tokens."""
    found = select_in(
        log,
        "select token, timestamp from lidar_pc where token in ({})",
        [bytes.fromhex(token) for token in wanted.tokens],
    )
    rows = []
    for row in found:
        tags = log.execute("select type from scenario_tag where lidar_pc_token = ?", (row["token"],))
        kind = last_type([tag["type"] for tag in tags], wanted.scenario_types)
        rows.append(TaggedRow(token=row["token"].hex(), scenario_type=kind, timestamp_us=int(row["timestamp"])))
    return rows


def _thinned(log: sqlite3.Connection, wanted: Wanted) -> list[TaggedRow]:
    """Rows with a wanted tag, without those that follow one of their type, or then any, too closely."""
    kinds = f" and type in ({','.join('?' * len(wanted.scenario_types))})" if wanted.scenario_types else ""
    by_type = log.execute(  # "cross" keeps SQLite from walking through all of lidar_pc for every tag where a file has no indexes
        "select t.type, group_concat(p.timestamp || ' ' || hex(p.token)) as packed from lidar_pc p cross join"
        " (select lidar_pc_token,"
        f" max(type) as type from scenario_tag where type is not null{kinds} group by lidar_pc_token) t"
        f" on p.token = t.lidar_pc_token where p.scene_token in ({OFFICIAL_SCENES}){HAS_GOAL * wanted.needs_goal}"
        " group by t.type",
        wanted.scenario_types,
    )
    kept: list[TaggedRow] = []
    for kind, packed in by_type:
        rows = sorted((int(stamp), token) for stamp, token in map(str.split, str(packed).split(",")))
        stamps = np.array([stamp for stamp, _ in rows], dtype=np.int64)
        kept += [
            TaggedRow(token=rows[place][1].lower(), scenario_type=str(kind), timestamp_us=rows[place][0])
            for place in _apart(stamps, round(wanted.min_gap_s * 1e6))
        ]
    kept.sort(key=lambda row: (row.timestamp_us, row.token))
    stamps = np.array([row.timestamp_us for row in kept], dtype=np.int64)
    return [kept[place] for place in _apart(stamps, round(wanted.min_gap_any_s * 1e6))]


def _apart(stamps: np.ndarray, gap: int) -> Iterator[int]:
    """Places in ascending stamps, from the first on, so that each is at least `gap` after the one before."""
    if gap == 0:
        yield from range(len(stamps))
        return
    place = 0
    while place < len(stamps):
        yield place
        place = int(np.searchsorted(stamps, stamps[place] + gap))
