"""What both kinds of Argoverse 2 data are read into, and the map that belongs to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsdrive.scenarios.argoverse2.map import read_map, share_on_map
from nsdrive.scenarios.argoverse2.tracks import Track
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import EgoState, FloatArray

MIN_SHARE_ON_MAP = 0.5  # chosen by us: an ego that spends more of its time off the map has somebody else's map


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One log, on ticks: the ego's states, the others' tracks, the map, what is unknown, and the source's parameters."""

    ego: tuple[EgoState, ...]
    tracks: tuple[Track, ...]
    lane_map: LaneMap
    unknown: frozenset[str]
    notes: Mapping[str, Any]


def best_map(folders: Sequence[Path], ego_points: FloatArray) -> tuple[LaneMap, Path]:
    """The map, of all `log_map_archive_*.json` in the first of `folders` that has any, that most of the ego's way is on.

    Some logs come with the maps of several city parts. ScenarioError where there is none, or none that fits.
    """
    paths: list[Path] = []
    for folder in folders:
        paths = paths or sorted(folder.glob("log_map_archive_*.json"))
    if not paths:
        raise ScenarioError(f"{folders[0]}: holds no map (log_map_archive_*.json)")
    fits = []
    for path in paths:
        lane_map = read_map(path, _name(path))
        fits.append((share_on_map(lane_map, ego_points), lane_map, path))
    share, lane_map, path = max(fits, key=lambda fit: fit[0])
    if share < MIN_SHARE_ON_MAP:
        raise ScenarioError(f"{path}: only {share:.0%} of the ego's way is on this map")
    return lane_map, path


def _name(path: Path) -> str:
    """The city where the file's name tells it (log_map_archive_<log id>____PIT_city_47896.json), else its id."""
    city = re.search(r"____([A-Z]+)_city_(\d+)", path.stem)
    return f"argoverse2-{city[1]}-{city[2]}" if city else f"argoverse2-{path.stem.removeprefix('log_map_archive_')}"
