"""Argoverse 2, as its publishers distribute it: sensor logs and motion-forecasting scenarios as `Scenario`s.

    source = Argoverse2Source(Argoverse2Config(path="~/av2"))  # a log, or any folder above logs: train/, val/, ...
    for item in source.items():                                # fast: looks at names only
        scenario = source.load(item)                           # ScenarioError, one line, where a log is broken

Only pyarrow and json are needed. A log tells neither speed limits nor traffic lights nor a route; each scenario lists
what it does not know, and nothing is made up. The route is read off the ego's own logged way, continued straight on.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import shapely

from nsdrive.config import did_you_mean
from nsdrive.scenarios.argoverse2.cameras import read_cameras
from nsdrive.scenarios.argoverse2.files import one_line
from nsdrive.scenarios.argoverse2.forecasting import read_forecasting_scenario
from nsdrive.scenarios.argoverse2.recording import Recording
from nsdrive.scenarios.argoverse2.sensor import ANNOTATIONS, EGO_POSES, read_sensor_log
from nsdrive.scenarios.argoverse2.tracks import frames_of
from nsdrive.scenarios.recorded import RecordedCamera
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.geometry import to_ego, wrap_angle
from nsdrive.world.route import route_of_log
from nsdrive.world.types import HISTORY_TICKS, OBJECT_KINDS, EgoState, ObjectFrame, Scenario

SENSOR, FORECASTING = "sensor", "motion_forecasting"
KINDS = (SENSOR, FORECASTING)
MIN_TICKS = HISTORY_TICKS + 51  # 2 s of history, the anchor, 5 s of future

# Where the tag's classes begin, all chosen by us (nuPlan's own are made with its private tooling).
STATIONARY_M = 1.0
TURN_RAD, UTURN_RAD = np.deg2rad(45.0), np.deg2rad(150.0)
LOW_SPEED_MPS, HIGH_SPEED_MPS = 3.0, 9.0
LEAD_WITHIN_M, LEAD_ASIDE_M = 30.0, 1.75


@dataclass(frozen=True, kw_only=True)
class Argoverse2Config:
    """Which logs to read. `path` is a log's folder or any folder above logs; linked folders are not followed."""

    path: str
    kinds: tuple[str, ...] = KINDS  # "sensor", "motion_forecasting"
    limit: int | None = None  # the first so many logs in the order of their paths; None: all

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ValueError(f"No kind '{kind}' of Argoverse 2 data. {did_you_mean(kind, KINDS)}")
        if not self.kinds:
            raise ValueError(f"kinds is empty: name at least one of {', '.join(KINDS)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: give 1 or more, or leave it out for all logs")


@dataclass(frozen=True, kw_only=True)
class Argoverse2Item:
    """One log that was found, not yet opened."""

    kind: str  # one of KINDS
    folder: str
    log_id: str

    @property
    def scenario_id(self) -> str:
        """Unique over both kinds and fit for a file name: av2s-<log id> or av2m-<scenario id>."""
        prefix = "av2s" if self.kind == SENSOR else "av2m"
        return f"{prefix}-{re.sub(r'[^A-Za-z0-9._-]', '_', self.log_id)}"


@dataclass(frozen=True)
class Argoverse2Source:
    """Argoverse 2 behind the common door; an item is the path of a log's folder below `config.path`."""

    config: Argoverse2Config
    name: ClassVar[str] = "argoverse2"
    licence: ClassVar[str] = "Argoverse 2 (https://www.argoverse.org), CC BY-NC-SA 4.0"

    def items(self) -> tuple[str, ...]:
        """Every log's path below `config.path` ('.' where that is a log itself). ValueError where there is none."""
        root = _root(self.config)
        return tuple(Path(item.folder).relative_to(root).as_posix() for item in list_items(self.config))

    def load(self, item: str) -> Scenario:
        """The log at that path, found without a search. ScenarioError, one line, if it cannot be read."""
        return load_one(self.config, self._find(item))

    def cameras(self, item: str) -> tuple[RecordedCamera, ...]:
        """What a sensor log's seven ring cameras saw, as far as their images are there. ScenarioError."""
        found = self._find(item)
        return read_cameras(Path(found.folder)) if found.kind == SENSOR else ()

    def _find(self, item: str) -> Argoverse2Item:
        root = _root(self.config)
        folder = Path(os.path.normpath(root / item))
        if not folder.is_relative_to(root):
            raise ScenarioError(f"{item}: lies outside {root}")
        try:
            found = _item(folder, set(_listed(folder)[0]))
        except OSError as error:
            raise ScenarioError(f"{folder}: cannot be listed ({one_line(error)})") from error
        if found is None:
            raise ScenarioError(f"{folder}: is not the folder of an Argoverse 2 log")
        return found


def list_items(config: Argoverse2Config) -> list[Argoverse2Item]:
    """The logs at or below `config.path`, in the order of their paths; files are not opened.

    ValueError where the path does not exist, holds no log, or holds one log twice.
    """
    root = _root(config)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; give an Argoverse 2 log or a folder above logs")
    items = list(islice((item for item in _find(root) if item.kind in config.kinds), config.limit))
    if not items:
        raise ValueError(
            f"{root} holds no Argoverse 2 {' or '.join(config.kinds)} log: looked in it and in every folder below for"
            f" {ANNOTATIONS[0]}, {ANNOTATIONS[1]}, {EGO_POSES} and scenario_*.parquet (linked folders are not followed)"
        )
    folders: dict[str, str] = {}
    for item in items:
        other = folders.setdefault(item.scenario_id, item.folder)
        if other != item.folder:
            raise ValueError(f"log {item.log_id} is there twice, in {other} and {item.folder}; give a path with one")
    return items


def load_one(config: Argoverse2Config, item: Argoverse2Item) -> Scenario:
    """One log as a scenario on 0.1 s ticks. ScenarioError, one line with file and problem, if it cannot be read."""
    try:
        read = read_sensor_log if item.kind == SENSOR else read_forecasting_scenario
        return _scenario(item, read(Path(item.folder)))
    except ScenarioError:
        raise
    except (ArithmeticError, LookupError, OSError, TypeError, ValueError, shapely.errors.ShapelyError) as error:
        # The readers check what they use, but the files come from anywhere, and one must not end a run over thousands.
        raise ScenarioError(f"{item.folder}: cannot be read as a {item.kind} log ({one_line(error)})") from error


def _root(config: Argoverse2Config) -> Path:
    return Path(os.path.abspath(Path(config.path).expanduser()))


def _scenario(item: Argoverse2Item, recording: Recording) -> Scenario:
    n_ticks = len(recording.ego)
    if n_ticks < MIN_TICKS:
        hint = " (the test split publishes only the observed part)" if item.kind == FORECASTING else ""
        raise ScenarioError(f"{item.folder}: has {n_ticks} ticks of 0.1 s, needs at least {MIN_TICKS}{hint}")
    frames = frames_of(recording.tracks, n_ticks)
    poses = np.stack([state.pose for state in recording.ego])
    return Scenario(
        scenario_id=item.scenario_id,
        scenario_type=scenario_type(recording.ego, frames),
        source=f"argoverse2_{item.kind}",
        split_key=item.log_id,
        lane_map=recording.lane_map,
        route_roadblock_ids=route_of_log(recording.lane_map, poses),
        goal_m=None,  # where a log happens to end is not where its driver wanted to go
        ego_log=recording.ego,
        frames=frames,
        lights=({},) * n_ticks,
        unknown=recording.unknown,
        scenery_seed=zlib.crc32(item.log_id.encode()),
        notes={
            "route": "inferred from the ego's own logged way",
            "scenario_type": "computed by us from the logged motion",
            **recording.notes,
        },
    )


def scenario_type(ego: tuple[EgoState, ...], frames: tuple[ObjectFrame, ...]) -> str:
    """A tag in nuPlan's words, computed by us: from the ego's logged motion and from who was in front of it.

    Standing and turning come first, then a lead (a vehicle within 30 m ahead and 1.75 m aside for at least half of the
    time), then the median speed.
    """
    poses = np.stack([state.pose for state in ego])
    speeds_mps = np.array([state.speed_mps for state in ego])
    has_lead = np.mean([_has_lead(state, frame) for state, frame in zip(ego, frames, strict=True)]) >= 0.5
    if np.hypot(*(poses[:, :2] - poses[0, :2]).T).max() < STATIONARY_M:
        return "stationary_in_traffic" if has_lead else "stationary"
    turned_rad = np.unwrap(poses[:, 2]) - poses[0, 2]
    furthest_rad = float(turned_rad[np.abs(turned_rad).argmax()])
    if abs(furthest_rad) >= UTURN_RAD:
        return "starting_u_turn"
    if abs(furthest_rad) >= TURN_RAD:
        return "starting_left_turn" if furthest_rad > 0 else "starting_right_turn"
    if has_lead:
        stops = speeds_mps[0] > LOW_SPEED_MPS and speeds_mps[-1] < 0.5
        return "stopping_with_lead" if stops else "following_lane_with_lead"
    median_mps = float(np.median(speeds_mps))
    if median_mps < LOW_SPEED_MPS:
        return "low_magnitude_speed"
    return "medium_magnitude_speed" if median_mps < HIGH_SPEED_MPS else "high_magnitude_speed"


def _has_lead(ego: EgoState, frame: ObjectFrame) -> bool:
    vehicles = frame.kinds == OBJECT_KINDS.index("vehicle")
    ahead = to_ego(frame.boxes[vehicles, :2], ego.pose)
    turned = np.abs(wrap_angle(frame.boxes[vehicles, 2] - ego.heading_rad))
    near = (ahead[:, 0] > 0) & (ahead[:, 0] < LEAD_WITHIN_M) & (np.abs(ahead[:, 1]) < LEAD_ASIDE_M)
    return bool((near & (turned < np.pi / 4)).any())


def _find(folder: Path) -> Iterator[Argoverse2Item]:
    """Logs at or below a folder, depth first, names sorted; a log's own sub-folders are not searched."""
    try:
        names, folders = _listed(folder)
    except OSError as error:
        raise ValueError(f"{folder} cannot be searched ({one_line(error)})") from error
    item = _item(folder, set(names))
    if item is not None:
        yield item
        return
    for name in folders:
        yield from _find(folder / name)


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of a folder's files and of its folders, without hidden ones: Mac archives hold a "._x" beside each x."""
    with os.scandir(folder) as entries:
        seen = sorted((e.name, e.is_dir(), e.is_symlink()) for e in entries if not e.name.startswith("."))
    files = [name for name, is_folder, _ in seen if not is_folder]
    return files, [name for name, is_folder, linked in seen if is_folder and not linked]


def _item(folder: Path, names: set[str]) -> Argoverse2Item | None:
    """The log that a folder with these files is, also a broken one: what cannot be loaded must be counted, not missed."""
    if not names.isdisjoint((*ANNOTATIONS, EGO_POSES)):
        return Argoverse2Item(kind=SENSOR, folder=str(folder), log_id=folder.name)
    scenarios = sorted(name for name in names if name.startswith("scenario_") and name.endswith(".parquet"))
    if scenarios:
        scenario_id = scenarios[0].removeprefix("scenario_").removesuffix(".parquet")
        return Argoverse2Item(kind=FORECASTING, folder=str(folder), log_id=scenario_id)
    if f"log_map_archive_{folder.name}.json" in names:
        return Argoverse2Item(kind=FORECASTING, folder=str(folder), log_id=folder.name)
    return None
