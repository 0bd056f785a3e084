"""nuPlan's logs and maps, as their publishers distribute them, as `Scenario`s.

    source = NuplanSource(NuplanConfig(path="~/nuplan/dataset/nuplan-v1.1/splits/mini", maps_path="~/nuplan/dataset/maps"))
    for item in source.items():             # "<log>/<token>": opens every log, but reads its tags only
        scenario = source.load(item)        # ScenarioError, one line, where a log or its map is broken

Nothing but sqlite3, shapely and pyproj is needed. A scenario named by a token is the official one: its tick
HISTORY_TICKS is the official initial state, and the ticks from there are the official iterations.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import shapely

from nsdrive.config import did_you_mean
from nsdrive.scenarios.nuplan.cameras import read_cameras
from nsdrive.scenarios.nuplan.geopackage import SCENERY_KEY, UNKNOWN_KEY, GeoPackage
from nsdrive.scenarios.nuplan.listing import TaggedRow, Wanted, find_logs, limited, list_logs, logs_with, tagged_rows
from nsdrive.scenarios.nuplan.log import LogExtract, read_clock, read_extract
from nsdrive.scenarios.nuplan.map import find_map, read_map
from nsdrive.scenarios.nuplan.sqlite import one_line
from nsdrive.scenarios.nuplan.tokens import TOKEN, Selection, read_selection
from nsdrive.scenarios.nuplan.types import SCENARIO_TYPES, UNTAGGED
from nsdrive.scenarios.recorded import RecordedCamera
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import route_of_log
from nsdrive.world.route_repair import is_whole, repair_route
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, Scenario

OFFICIAL_MAPS = ("sg-one-north", "us-ma-boston", "us-nv-las-vegas-strip", "us-pa-pittsburgh-hazelwood")


@dataclass(frozen=True, kw_only=True)
class NuplanConfig:
    """Which logs and which of their scenarios to read.

    Scenarios of one type that follow each other within `min_gap_s` in a log are thinned to the first, then those of any
    types within `min_gap_any_s`; a limit per type then takes evenly from what is left, over all logs. Tokens are taken as
    they are, whatever their type and spacing.
    """

    path: str  # a .db file, or a folder with such files at any depth
    maps_path: str | None = None  # the folder with nuplan-maps-v1.0.json; None: $NUPLAN_MAPS_ROOT, or maps/ above a log
    sensor_path: str | None = None  # the folder with the logs' images; None: $NUPLAN_SENSOR_ROOT, $NUPLAN_DATA_ROOT/
    # nuplan-v1.1/sensor_blobs, or sensor_blobs/ above a log
    log_names: tuple[str, ...] = ()  # names, or patterns such as "2021.07.16*"; empty: all
    map_names: tuple[str, ...] = ()  # "us-nv-las-vegas-strip"; empty: all
    scenario_types: tuple[str, ...] = ()  # nuPlan's tags; empty: any
    scenario_tokens: tuple[str, ...] = ()  # 16 hex digits each; empty: every tagged row
    scenario_token_file: str | None = None  # a published list, see tokens.py; its tokens and those above
    needs_goal: bool = False  # only scenarios whose mission has a goal (nuPlan's remove_invalid_goals)
    min_gap_s: float = 15.0  # nuPlan's timestamp_threshold_s (Val14's value): rows are tagged 20 times a second
    min_gap_any_s: float = 0.0  # the same between scenarios of any types: 0 lets them overlap, 20 keeps all apart
    limit_per_type: int | None = None
    limit: int | None = None  # the first so many of all that is left
    wheels: Literal["straight", "as_driven"] = "straight"  # at a rollout's start; nuPlan's own simulation: straight
    map_margin_m: float | None = 300.0  # how far beyond the ego's way the map is read; None: the whole city

    def __post_init__(self) -> None:
        for kind in self.scenario_types:
            if kind not in (*SCENARIO_TYPES, UNTAGGED):
                raise ValueError(f"No scenario type '{kind}' in nuPlan. {did_you_mean(kind, SCENARIO_TYPES)}")
        for token in self.scenario_tokens:
            if not TOKEN.fullmatch(token):
                raise ValueError(f"'{token}' is no nuPlan token: give the 16 hex digits of a lidar_pc")
        if self.limit_per_type is not None and self.limit_per_type < 1:
            raise ValueError(f"limit_per_type is {self.limit_per_type}: give 1 or more, or leave it out for all")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: give 1 or more, or leave it out for all")
        gaps = {
            "min_gap_s": self.min_gap_s,
            "min_gap_any_s": self.min_gap_any_s,
            "map_margin_m": self.map_margin_m or 0.0,
        }
        if min(gaps.values()) < 0:
            raise ValueError(
                f"{', '.join(gaps)} must not be negative, got {', '.join(f'{gap:g}' for gap in gaps.values())}"
            )

    @property
    def selection(self) -> Selection:
        """Tokens, types, logs and maps that are wanted, with what the token file says. ValueError where it is unreadable."""
        listed = Selection() if self.scenario_token_file is None else read_selection(Path(self.scenario_token_file))
        return Selection(
            tokens=tuple(dict.fromkeys((*self.scenario_tokens, *listed.tokens))),
            scenario_types=self.scenario_types or listed.scenario_types,
            log_names=self.log_names,
            map_names=self.map_names or listed.map_names,
        )


@dataclass(frozen=True)
class NuplanSource:
    """nuPlan behind the common door; an item is "<log's path below config.path>/<token>", or a token alone."""

    config: NuplanConfig
    name: ClassVar[str] = "nuplan"
    licence: ClassVar[str] = "nuPlan (https://www.nuscenes.org/nuplan), CC BY-NC-SA 4.0"

    def items(self) -> tuple[str, ...]:
        """Every scenario that passes the filters, by log and time.

        A log that cannot be read, and a wanted token that no log has, are items too: loading them says what is wrong.
        ValueError where there is no log, one log is there twice, be it under two names, a name fits nothing, or nothing passes
        the filters.
        """
        chosen, config = self.config.selection, self.config
        logs = _logs(config)
        wanted = Wanted(
            scenario_types=chosen.scenario_types,
            tokens=chosen.tokens,
            map_names=chosen.map_names,
            needs_goal=config.needs_goal,
            min_gap_s=config.min_gap_s,
            min_gap_any_s=config.min_gap_any_s,
        )
        listed: list[tuple[str, TaggedRow | None]] = []
        maps = set()
        found: dict[str, str] = {}  # token -> its log
        for log in list_logs(logs, wanted):
            maps.add(log.map_name)
            for row in log.rows or ():
                other = found.setdefault(row.token, log.name)
                if other != log.name:  # two scenarios of one id would write each other's images
                    raise ValueError(f"token {row.token} is in {logs[other]} and in {logs[log.name]}: remove one")
            listed += [(log.name, None)] if log.rows is None else [(log.name, row) for row in log.rows]
            if config.limit is not None and config.limit_per_type is None and len(listed) >= config.limit:
                break
        else:
            _check_map_names(config.map_names, maps - {None})
        items = [f"{name}/{row.token}" if row else name for name, row in limited(listed, config.limit_per_type)]
        items += [token for token in chosen.tokens if token not in found]
        if not items:
            kinds = " or ".join(chosen.scenario_types) or "any type"
            where = f" on {' or '.join(chosen.map_names)}" if chosen.map_names else ""
            raise ValueError(
                f"{config.path}: {len(logs)} logs, but no scenario of {kinds}{where} (as in nuPlan's own selection, the"
                " first two and the last two scenes of a log do not count)"
            )
        return tuple(items[: config.limit])

    def load(self, item: str) -> Scenario:
        """The scenario of that item. ScenarioError, one line, if it cannot be read."""
        log, _, token = item.rpartition("/")
        if not TOKEN.fullmatch(token):
            path = _log_path(self.config, item)
            tagged_rows(path, Wanted())  # says what is wrong with it
            raise ScenarioError(f"{path}: is a log; a scenario is {item}/<token>")
        return load_one(self.config, _log_path(self.config, log) if log else _log_of(self.config, token), token)

    def cameras(self, item: str) -> tuple[RecordedCamera, ...]:
        """What the log's cameras saw, by channel; empty where the log or the user's disk lacks it. See `sensor_path`."""
        log, _, token = item.rpartition("/")
        if not TOKEN.fullmatch(token):
            raise ScenarioError(f"{item}: is no scenario of a log, that is <log>/<token>")
        path = _log_path(self.config, log) if log else _log_of(self.config, token)
        clock_us = read_clock(path, token, self.config.selection.scenario_types)
        return read_cameras(path, clock_us, self.config.sensor_path)


def load_one(config: NuplanConfig, path: Path, token: str) -> Scenario:
    """The scenario of a row in a log. ScenarioError, one line with file and problem, if it cannot be read."""
    extract = read_extract(path, token, config.selection.scenario_types)
    map_file = find_map(extract.map_name, config.maps_path, path)
    bounds_m = _bounds(extract, config.map_margin_m)
    try:
        if bounds_m is None:
            stat = map_file.stat()
            lane_map = _city(map_file, extract.map_name, stat.st_size, stat.st_mtime_ns)
        else:
            lane_map = read_map(map_file, extract.map_name, bounds_m, extract.route_roadblock_ids)
        route, about_route = _route(lane_map, extract)
    except ScenarioError:
        raise
    except (
        ArithmeticError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        shapely.errors.ShapelyError,
    ) as error:
        # The reader checks what it uses, but the files come from anywhere, and one must not end a run over thousands.
        raise ScenarioError(f"{map_file}: cannot be read as a map of nuPlan ({one_line(error)})") from error
    meta = GeoPackage.open(map_file).meta
    seed, untold = meta.get(SCENERY_KEY, ""), set(meta.get(UNKNOWN_KEY, "").split())
    unknown = untold & {"route", "traffic_lights", "speed_limits", "stop_lines", "box_sizes"}
    if "route" in about_route:
        unknown.add("route")
    if not extract.has_lights and _has_traffic_lights(lane_map):
        unknown.add("traffic_lights")
    if all(lane.speed_limit_mps is None for lane in lane_map.lanes.values()):
        unknown.add("speed_limits")
    return Scenario(
        scenario_id=f"nuplan-{token}",
        scenario_type=extract.scenario_type,
        source="nuplan",
        split_key=path.stem,
        lane_map=lane_map,
        route_roadblock_ids=route,
        goal_m=extract.goal_m,
        ego_log=tuple(replace(state, steering_rad=0.0) for state in extract.ego)
        if config.wheels == "straight"
        else extract.ego,
        frames=extract.frames,
        lights=extract.lights,
        unknown=frozenset(unknown),
        clock_us=extract.notes["initial_timestamp_us"] - HISTORY_TICKS * round(INTERVAL_S * 1e6),
        # A street looks the same in every log; a map that we wrote tells what it looked like before.
        scenery_seed=int(seed) if seed.isdecimal() and len(seed) < 20 else zlib.crc32(extract.map_name.encode()),
        notes={
            **extract.notes,
            "map": f"{extract.map_name}/{map_file.parent.name}",
            **about_route,
        },
    )


def _route(lane_map: LaneMap, extract: LogExtract) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The mission's route, repaired where it is broken, read off the ego's logged way where there is none; and notes on it."""
    blocks = {lane.roadblock_id for lane in lane_map.lanes.values()}
    told = tuple(block for block in extract.route_roadblock_ids if block in blocks)
    if not told:
        route = route_of_log(lane_map, np.stack([state.pose for state in extract.ego]))
        return route, {"route": "inferred from the ego's own logged way"}
    notes: dict[str, Any] = {}
    if len(told) < len(extract.route_roadblock_ids):
        notes["route_roadblocks_not_in_the_map"] = len(extract.route_roadblock_ids) - len(told)
    start = extract.ego[HISTORY_TICKS].pose
    if is_whole(lane_map, told, start):
        return told, notes
    route = repair_route(lane_map, told, start)
    if route != told:
        notes["route_repaired_from"] = " ".join(told)
    return route, notes


def _has_traffic_lights(lane_map: LaneMap) -> bool:
    kinds = {line.kind for line in lane_map.stop_lines.values()} | {i.kind for i in lane_map.intersections.values()}
    return bool(lane_map.signals) or "traffic_light" in kinds


@lru_cache(maxsize=1)
def _city(path: Path, name: str, size: int, changed_ns: int) -> LaneMap:
    """All of a map, seconds of work that logs of one city share."""
    return read_map(path, name, None, ())


def _bounds(extract: LogExtract, margin_m: float | None) -> np.ndarray | None:
    """(4,): the box around the ego's way, widened."""
    if margin_m is None:
        return None
    points = np.array([(state.x_m, state.y_m) for state in extract.ego])
    return np.concatenate([points.min(axis=0) - margin_m, points.max(axis=0) + margin_m])


def _check_map_names(wanted: Sequence[str], there: set[str | None]) -> None:
    """ValueError for the name of a map that is neither nuPlan's nor that of a log."""
    known = sorted({*OFFICIAL_MAPS, *(name for name in there if name)})
    for name in wanted:
        if name not in known:
            raise ValueError(f"No log is on a map '{name}'. {did_you_mean(name, known)}")


def _logs(config: NuplanConfig) -> dict[str, Path]:
    """The logs to look into. Those that a token file names are only those of them that are there, for few have all."""
    logs = find_logs(_root(config), config.log_names)
    if config.log_names or config.scenario_token_file is None:
        return logs
    listed = read_selection(Path(config.scenario_token_file))
    if listed.tokens or not listed.log_names:
        return logs
    names = set(listed.log_names)
    there = {name: path for name, path in logs.items() if path.stem in names}
    if not there:
        raise ValueError(
            f"{_root(config)}: has none of the {len(names)} logs of {config.scenario_token_file} ({listed.log_names[0]}, ...)"
        )
    return there


def _root(config: NuplanConfig) -> Path:
    return Path(os.path.abspath(Path(config.path).expanduser()))


def _log_path(config: NuplanConfig, name: str) -> Path:
    """The file of a log by its name, found without a search."""
    root = _root(config)
    if root.is_file():
        if name != root.stem:
            raise ScenarioError(f"{name}: is not the log {root}")
        return root
    path = Path(os.path.normpath(root / f"{name}.db"))
    if not path.is_relative_to(root):
        raise ScenarioError(f"{name}: lies outside {root}")
    return path


def _log_of(config: NuplanConfig, token: str) -> Path:
    """The log that has a token, looked for in all of them."""
    wanted = config.selection.tokens
    found, n_logs, broken = _looked_up(config, wanted) if token in wanted else _look_up(config, (token,))
    if token in found:
        return found[token]
    unread = f", {broken} of which cannot be read," if broken else ""
    raise ScenarioError(f"{_root(config)}: none of {n_logs} logs{unread} has a lidar_pc with token {token}")


def _look_up(config: NuplanConfig, tokens: tuple[str, ...]) -> tuple[dict[str, Path], int, int]:
    """Token -> its log, the number of logs, and of those that cannot be read."""
    logs = _logs(config)
    found, broken = logs_with(logs, tokens)
    return found, len(logs), broken


_looked_up = lru_cache(maxsize=2)(_look_up)  # of a published list, hundreds of tokens may be in no log
