"""Logs of many data sets by one door: whatever py123d has converted into its Arrow format, as `Scenario`s.

    pip install 'nsdrive[logs]'
    source = Py123dSource(Py123dConfig(path="~/py123d"))   # $PY123D_DATA_ROOT, with logs/ and maps/ in it
    for item in source.items():                            # "<split>/<log>@<tick>": two small columns of every log are read
        scenario = source.load(item)                       # ScenarioError, one line, where a log or its map is broken

py123d (https://github.com/kesai-labs/py123d, Apache-2.0) reads nuPlan, Argoverse 2, nuScenes, Waymo, PandaSet, KITTI-360
and NVIDIA's Physical AI. A data set without lanes (PandaSet, KITTI-360, Physical AI) cannot be driven by a planner of
lanes: its logs are refused in one line. What a log does not tell is listed in the scenario, and nothing is made up.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import shapely

from nsdrive.scenarios.argoverse2.files import one_line
from nsdrive.scenarios.argoverse2.map import share_on_map
from nsdrive.scenarios.argoverse2.recording import MIN_SHARE_ON_MAP
from nsdrive.scenarios.argoverse2.source import MIN_TICKS, scenario_type
from nsdrive.scenarios.py123d.cameras import camera_files, read_cameras
from nsdrive.scenarios.py123d.files import READ_ERRORS, SYNC, py123d, read_metadata
from nsdrive.scenarios.py123d.log import TICK_US, Extract, read_clock, read_extract
from nsdrive.scenarios.py123d.map import read_map
from nsdrive.scenarios.recorded import RecordedCamera
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import route_of_log
from nsdrive.world.types import INTERVAL_S, FloatArray, Scenario

SINCE_US = 946_684_800_000_000  # the year 2000: a clock that shows less does not count from 1970 (Argoverse 2's)
ITEM = re.compile(r"(?P<log>.+)@(?P<tick>\d{1,9})")


@dataclass(frozen=True, kw_only=True)
class Py123dConfig:
    """Which logs to read, and how to cut them.

    A log is cut into scenes of `scene_s`, one after the other; what is left at its end belongs to the last one.
    """

    path: str  # py123d's data root (with logs/), any folder above logs, or one log's folder (with sync.arrow)
    maps_path: str | None = None  # the folder with <dataset>/<dataset>_<location>.arrow; None: maps/ beside logs/
    sensor_path: str | None = None  # the data set's own images; None: as py123d's environment variables say
    datasets: tuple[str, ...] = ()  # "nuplan", "av2-sensor", "nuscenes", "wod-perception", ...; empty: all
    splits: tuple[str, ...] = ()  # "av2-sensor_val", ...; empty: all
    logs: tuple[str, ...] = ()  # names of logs; empty: all
    locations: tuple[str, ...] = ()  # "us-ma-boston", "PIT", ...; empty: all
    scene_s: float | None = 20.0  # nuPlan's and nuScenes' length of a scene; None: every log is one scenario
    limit_per_log: int | None = None  # the first so many scenes of each log
    limit: int | None = None  # the first so many of all
    map_margin_m: float | None = 300.0  # how far beyond the ego's way the map is read; None: all of it

    def __post_init__(self) -> None:
        for name in ("limit", "limit_per_log"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give 1 or more, or leave it out for all")
        if self.scene_s is not None and round(self.scene_s / INTERVAL_S) < MIN_TICKS:
            raise ValueError(f"scene_s is {self.scene_s}: a scene needs {MIN_TICKS * INTERVAL_S:.1f} s or more")
        if self.map_margin_m is not None and self.map_margin_m < 0:
            raise ValueError("map_margin_m must not be negative")


@dataclass(frozen=True)
class Py123dSource:
    """py123d behind the common door; an item is "<log's path below config.path>@<tick at which the scene begins>"."""

    config: Py123dConfig
    name: ClassVar[str] = "py123d"
    licence: ClassVar[str] = (
        "the data set's own, see each sample's notes (nuPlan, Argoverse 2, nuScenes: CC BY-NC-SA 4.0; Waymo: its own, not"
        " for commercial use), converted by py123d (Apache-2.0)"
    )

    def items(self) -> tuple[str, ...]:
        """Every scene that passes the filters, by log and time.

        A log that cannot be read is an item too: loading it says what is wrong. ValueError where py123d is not
        installed, there is no log, or none passes the filters.
        """
        py123d("datatypes")
        items: list[str] = []
        seen = 0
        for name, folder in find_logs(self.config):
            seen += 1
            try:
                about = read_metadata(folder / f"{SYNC}.arrow")
                if not self._wanted(about):
                    continue
                starts = _starts(read_clock(folder).n_ticks, self.config.scene_s)
            except ScenarioError:
                items.append(name)
                continue
            items += [f"{name}@{tick}" for tick in starts][: self.config.limit_per_log]
            if self.config.limit is not None and len(items) >= self.config.limit:
                break
        if not items:
            raise ValueError(f"{self.config.path}: {seen} logs of py123d, none of which passes the filters")
        return tuple(items[: self.config.limit])

    def load(self, item: str) -> Scenario:
        """The scenario of that item. ScenarioError, one line, if it cannot be read."""
        py123d("datatypes")
        folder, start = _place(self.config, item)
        try:
            return load_one(self.config, folder, start)
        except ScenarioError:
            raise
        except (*READ_ERRORS, shapely.errors.ShapelyError) as error:
            # The readers check what they use, but the files come from anywhere, and one must not end a run over thousands.
            raise ScenarioError(f"{folder}: cannot be read as a log of py123d ({one_line(error)})") from error

    def cameras(self, item: str) -> tuple[RecordedCamera, ...]:
        """The log's pinhole cameras. ScenarioError where it has others only, or a calibration is unusable."""
        py123d("datatypes")
        folder, start = _place(self.config, item)
        clock = read_clock(folder)
        dataset = str(read_metadata(folder / f"{SYNC}.arrow").get("dataset"))
        n_ticks = _length(clock.n_ticks, start, self.config.scene_s)
        return read_cameras(folder, dataset, self.config.sensor_path, clock.start_us + start * TICK_US, n_ticks)

    def _wanted(self, about: Mapping[str, Any]) -> bool:
        config = self.config
        asked = (
            (config.datasets, "dataset"),
            (config.splits, "split"),
            (config.logs, "log_name"),
            (config.locations, "location"),
        )
        return all(not values or about.get(key) in values for values, key in asked)


def find_logs(config: Py123dConfig) -> Iterator[tuple[str, Path]]:
    """Name (path below `config.path`, "." for that folder itself) and folder of each log, in the order of the names.

    A log is a folder with sync.arrow; no file is opened, linked folders are not followed. ValueError where there is none.
    """
    root = _root(config)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give py123d's data root ($PY123D_DATA_ROOT) or a folder above logs")
    found = False
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if f"{SYNC}.arrow" in files:
            folders[:] = []
            found = True
            yield Path(folder).relative_to(root).as_posix(), Path(folder)
    if not found:
        raise ValueError(
            f"{root} holds no log of py123d: looked in it and in every folder below for {SYNC}.arrow. Convert a data set"
            " first: py123d-conversion dataset=av2-sensor (linked folders are not followed)"
        )


def load_one(config: Py123dConfig, folder: Path, start: int) -> Scenario:
    """The scene of a log that begins at tick `start`. ScenarioError, one line with file and problem."""
    about = read_metadata(folder / f"{SYNC}.arrow")
    dataset, split, log = (str(about.get(key)) for key in ("dataset", "split", "log_name"))
    clock = read_clock(folder)
    n_ticks = _length(clock.n_ticks, start, config.scene_s)
    if n_ticks < MIN_TICKS:
        raise ScenarioError(f"{folder}: has {n_ticks} ticks of 0.1 s from tick {start} on, needs at least {MIN_TICKS}")
    extract = read_extract(folder, dataset, clock.start_us + start * TICK_US, n_ticks)
    poses = np.stack([state.pose for state in extract.ego])
    map_file = find_map(config, folder, about)
    bounds_m = _bounds(poses, config.map_margin_m)
    place = str(about.get("location") or log)
    lane_map = read_map(map_file, f"{dataset}-{place}", bounds_m, extract.route_roadblock_ids, extract.lit_lanes)
    share = share_on_map(lane_map, poses[:, :2])
    if share < MIN_SHARE_ON_MAP:
        raise ScenarioError(f"{map_file}: only {share:.0%} of the ego's way is on this map")
    route, said = _route(extract, lane_map, poses)
    unknown = {
        *(() if extract.has_lights else ("traffic_lights",)),
        *(() if said is None else ("route",)),
        *(() if lane_map.stop_lines else ("stop_lines",)),
        *(() if any(lane.speed_limit_mps is not None for lane in lane_map.lanes.values()) else ("speed_limits",)),
    }
    refused = {file.name: file.refusal for file in camera_files(folder) if file.refusal}
    lights = tuple({lane: s for lane, s in states.items() if lane in lane_map.lanes} for states in extract.lights)
    return Scenario(
        scenario_id=f"123d-{re.sub(r'[^A-Za-z0-9._-]', '_', f'{split}-{log}')}-{start:06d}",
        scenario_type=scenario_type(extract.ego, extract.frames),
        source=f"py123d_{dataset}",
        split_key=log,
        lane_map=lane_map,
        route_roadblock_ids=route,
        goal_m=None
        if extract.route_line is None
        else (float(extract.route_line[-1, 0]), float(extract.route_line[-1, 1])),
        ego_log=extract.ego,
        frames=extract.frames,
        lights=lights,
        unknown=frozenset(unknown),
        clock_us=extract.start_us if extract.start_us >= SINCE_US else 0,
        scenery_seed=zlib.crc32(place.encode()),
        notes={
            "dataset": dataset,
            "log": log,
            "split": split,
            "location": about.get("location"),
            "py123d": str(about.get("version")),
            "start_us": extract.start_us,
            "map": map_file.name,
            "scenario_type": "computed by us from the logged motion",
            **({"route": said} if said else {}),
            **extract.notes,
            **({"cameras_refused": refused} if refused else {}),
        },
    )


def _route(extract: Extract, lane_map: LaneMap, poses: FloatArray) -> tuple[tuple[str, ...], str | None]:
    """The route, and how it was inferred where the log does not tell it."""
    blocks = {lane.roadblock_id for lane in lane_map.lanes.values()}
    route = tuple(block for block in extract.route_roadblock_ids if block in blocks)
    if route:
        return route, None
    if extract.route_line is not None and len(extract.route_line) > 1:
        steps = np.diff(extract.route_line, axis=0)
        heading = np.arctan2(steps[:, 1], steps[:, 0])
        return route_of_log(lane_map, np.column_stack([extract.route_line, [*heading, heading[-1]]])), None
    return route_of_log(lane_map, poses), "inferred from the ego's own logged way"


def find_map(config: Py123dConfig, folder: Path, about: Mapping[str, Any]) -> Path:
    """The map of a log: map.arrow in its folder, else <maps>/<dataset>/<dataset>_<location>.arrow. ScenarioError."""
    own = folder / "map.arrow"
    if own.is_file():
        return own
    dataset, location = about.get("dataset"), about.get("location")
    if about.get("map_metadata") is None or location is None:
        raise ScenarioError(f"{folder}: has no map, and without lanes nobody can plan on it ({dataset} publishes none)")
    looked = []
    roots = (
        [Path(config.maps_path).expanduser()] if config.maps_path else [up / "maps" for up in list(folder.parents)[:4]]
    )
    for root in (Path(os.path.abspath(root)) for root in roots):
        path = Path(os.path.normpath(root / f"{dataset}" / f"{dataset}_{location}.arrow"))
        if not path.is_relative_to(root):
            raise ScenarioError(f"{folder}: names a map outside {root}: {str(location)[:80]}")
        if path.is_file():
            return path
        looked.append(str(root))
    raise ScenarioError(f"{folder}: no map {dataset}/{dataset}_{location}.arrow; looked in {', '.join(looked)}")


def _starts(n_ticks: int, scene_s: float | None) -> list[int]:
    """The ticks at which a log's scenes begin; a log shorter than one scene is one."""
    if scene_s is None:
        return [0]
    length = round(scene_s / INTERVAL_S)
    return [number * length for number in range(max(1, n_ticks // length))]


def _length(n_ticks: int, start: int, scene_s: float | None) -> int:
    """How many ticks the scene that begins at `start` has: the last one of a log takes what is left."""
    following = [tick for tick in _starts(n_ticks, scene_s) if tick > start]
    if scene_s is not None and following:
        return min(round(scene_s / INTERVAL_S), n_ticks - start)
    return max(0, n_ticks - start)


def _bounds(poses: FloatArray, margin_m: float | None) -> FloatArray | None:
    """(4,): the box around the ego's way, widened."""
    if margin_m is None:
        return None
    return np.concatenate([poses[:, :2].min(axis=0) - margin_m, poses[:, :2].max(axis=0) + margin_m])


def _root(config: Py123dConfig) -> Path:
    return Path(os.path.abspath(Path(config.path).expanduser()))


def _place(config: Py123dConfig, item: str) -> tuple[Path, int]:
    """The folder and the first tick of an item, found without a search. ScenarioError."""
    root = _root(config)
    match = ITEM.fullmatch(item)
    name, start = (match["log"], int(match["tick"])) if match else (item, 0)
    folder = Path(os.path.normpath(root / name))
    if not folder.is_relative_to(root):
        raise ScenarioError(f"{item}: lies outside {root}")
    if not (folder / f"{SYNC}.arrow").is_file():
        raise ScenarioError(f"{folder}: is not a log of py123d (no {SYNC}.arrow)")
    return folder, start
