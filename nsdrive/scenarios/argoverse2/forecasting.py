"""One Argoverse 2 motion-forecasting scenario: 11 s of tracks in city coordinates, one row per track and timestep.

    <id>/scenario_<id>.parquet           track_id 'AV' is the ego; timestep 0 ... 109 at 10 Hz
    <id>/log_map_archive_<id>.json

Positions are box centres (av2 `ObjectState.position`), but the ego's is its rear axle: in the published turns the AV's
track has no side slip, where a box centre, 1.4 m further forward, would show half a degree. Velocities are the
source's. The source smoothed positions, not velocities, which pulls the positions of a track's first and last second
towards its ends, by up to 0.5 to 0.8 m; they are kept as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nsdrive.scenarios.argoverse2.files import Table, read_parquet
from nsdrive.scenarios.argoverse2.recording import Recording, best_map
from nsdrive.scenarios.argoverse2.tracks import Track, ego_states, track_from_velocities
from nsdrive.scenarios.source import ScenarioError
from nsdrive.world.types import FloatArray

EGO_TRACK_ID = "AV"
MAX_TIMESTEPS = 10_000  # chosen by us: the source has 110
MAX_SPEED_MPS = 100.0  # chosen by us

# Every object_type of the source (av2 ObjectType) -> nuPlan's kind and the usual size (length, width, height) [m],
# chosen by us, for the source publishes no sizes: a mid-size car, a person, a city bus, a bicycle with its rider, ...
KINDS: Mapping[str, tuple[str, tuple[float, float, float]]] = {
    "vehicle": ("vehicle", (4.7, 1.9, 1.7)),
    "pedestrian": ("pedestrian", (0.7, 0.7, 1.75)),
    "motorcyclist": ("bicycle", (2.2, 0.9, 1.7)),
    "cyclist": ("bicycle", (1.8, 0.7, 1.75)),
    "bus": ("vehicle", (12.0, 2.6, 3.2)),
    "static": ("generic_object", (0.6, 0.6, 1.0)),
    "background": ("generic_object", (0.6, 0.6, 1.0)),
    "construction": ("traffic_cone", (0.4, 0.4, 0.8)),
    "riderless_bicycle": ("bicycle", (1.8, 0.6, 1.1)),
    "unknown": ("generic_object", (0.6, 0.6, 1.0)),
}


def read_forecasting_scenario(folder: Path) -> Recording:
    """The scenario in `folder`. ScenarioError names the file and the problem where it cannot be read."""
    path = next(iter(sorted(folder.glob("scenario_*.parquet"))), None)
    if path is None:
        raise ScenarioError(f"{folder}: holds no scenario_*.parquet")
    table = read_parquet(path)
    timesteps = table.integers("timestep")
    if timesteps.min() < 0 or timesteps.max() >= MAX_TIMESTEPS:
        raise ScenarioError(f"{path}: timesteps from {timesteps.min()} to {timesteps.max()}, expected 0 to 109")
    ids = table.strings("track_id")
    types = table.strings("object_type")
    poses = np.stack([table.floats(name) for name in ("position_x", "position_y", "heading")], axis=1)
    speeds = [table.floats(name, limit=MAX_SPEED_MPS) for name in ("velocity_x", "velocity_y")]
    velocities = np.stack(speeds, axis=1)

    is_ego = ids == EGO_TRACK_ID
    n_ticks = int(timesteps.max()) + 1
    ego_rows = np.flatnonzero(is_ego)[np.argsort(timesteps[is_ego], kind="stable")]
    if not np.array_equal(timesteps[ego_rows], np.arange(n_ticks)):
        raise ScenarioError(
            f"{path}: track '{EGO_TRACK_ID}', the ego, should have one row for each of {n_ticks} timesteps,"
            f" has {len(ego_rows)} rows"
        )
    ego_poses, ego_velocities = poses[ego_rows], velocities[ego_rows]
    along = ego_velocities[:, 0] * np.cos(ego_poses[:, 2]) + ego_velocities[:, 1] * np.sin(ego_poses[:, 2])
    lane_map, map_path = best_map((folder,), ego_poses[:, :2])
    unknown_types = sorted(set(types) - set(KINDS))
    return Recording(
        ego=ego_states(ego_poses, along),
        tracks=tuple(_tracks(table, ids, types, timesteps, poses, velocities, n_ticks)),
        lane_map=lane_map,
        unknown=frozenset({"traffic_lights", "speed_limits", "stop_lines", "route", "box_sizes"}),
        notes={
            "map": map_path.name,
            **({"city": str(table.strings("city")[0])} if table.has("city") else {}),
            **({"focal_track_id": str(table.strings("focal_track_id")[0])} if table.has("focal_track_id") else {}),
            **({"unknown_object_types": unknown_types} if unknown_types else {}),
        },
    )


def _tracks(
    table: Table,
    ids: np.ndarray,
    types: np.ndarray,
    timesteps: np.ndarray,
    poses: FloatArray,
    velocities: FloatArray,
    n_ticks: int,
) -> list[Track]:
    """Every track but the ego's, present at the timesteps that it has rows for."""
    tracks = []
    for track_id in sorted(set(ids) - {EGO_TRACK_ID}):
        rows = np.flatnonzero(ids == track_id)
        present = np.zeros(n_ticks, dtype=bool)
        present[timesteps[rows]] = True
        if present.sum() < len(rows):
            raise ScenarioError(f"{table.path}: track {track_id} has two rows for one timestep")
        on_ticks, moving = np.zeros((n_ticks, 3)), np.zeros((n_ticks, 2))
        on_ticks[timesteps[rows]] = poses[rows]
        moving[timesteps[rows]] = velocities[rows]
        kind, size_m = KINDS.get(types[rows[0]], KINDS["unknown"])
        tracks.append(track_from_velocities(track_id, kind, size_m, present, on_ticks, moving))
    return tracks
