"""The rows of a nuPlan log: one SQLite file, tables and columns as in nuPlan v1.1.

lidar_pc is the clock, 20 Hz. Tokens are 8 bytes, drawn from the log's name and the row's, so that the same scenario
gives the same file. Without cameras and point clouds: `camera` and `image` are empty, the lidar's mounting is NULL.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nsdrive.scenarios.nuplan.sqlite_file import written_file
from nsdrive.world.types import OBJECT_KINDS, EgoState
from nsdrive.world.vehicle import PACIFICA

if TYPE_CHECKING:
    from nsdrive.scenarios.nuplan.write import LogTick

START_US = 1_767_225_600_000_000  # 2026-01-01 00:00 UTC, chosen by us
ROW_US = 50_000
TABLES = {
    "log": "token BLOB NOT NULL, vehicle_name VARCHAR(64), date VARCHAR(64), timestamp INTEGER, logfile VARCHAR(64), "
    "location VARCHAR(64), map_version VARCHAR(64), PRIMARY KEY (token)",
    "category": "token BLOB NOT NULL, name VARCHAR(64), description TEXT, PRIMARY KEY (token)",
    "camera": "token BLOB NOT NULL, log_token BLOB NOT NULL, channel VARCHAR(64), model VARCHAR(64), translation BLOB, "
    "rotation BLOB, intrinsic BLOB, distortion BLOB, width INTEGER, height INTEGER, PRIMARY KEY (token)",
    "lidar": "token BLOB NOT NULL, log_token BLOB NOT NULL, channel VARCHAR(64), model VARCHAR(64), translation BLOB, "
    "rotation BLOB, PRIMARY KEY (token)",
    "ego_pose": "token BLOB NOT NULL, timestamp INTEGER, x FLOAT, y FLOAT, z FLOAT, qw FLOAT, qx FLOAT, qy FLOAT, qz FLOAT, "
    "vx FLOAT, vy FLOAT, vz FLOAT, acceleration_x FLOAT, acceleration_y FLOAT, acceleration_z FLOAT, angular_rate_x FLOAT, "
    "angular_rate_y FLOAT, angular_rate_z FLOAT, epsg INTEGER, log_token BLOB NOT NULL, PRIMARY KEY (token)",
    "scene": "token BLOB NOT NULL, log_token BLOB NOT NULL, name TEXT, goal_ego_pose_token BLOB, roadblock_ids TEXT, "
    "PRIMARY KEY (token)",
    "lidar_pc": "token BLOB NOT NULL, next_token BLOB, prev_token BLOB, ego_pose_token BLOB NOT NULL, "
    "lidar_token BLOB NOT NULL, scene_token BLOB NOT NULL, filename VARCHAR(128), timestamp INTEGER, PRIMARY KEY (token)",
    "image": "token BLOB NOT NULL, next_token BLOB, prev_token BLOB, ego_pose_token BLOB NOT NULL, "
    "camera_token BLOB NOT NULL, filename_jpg VARCHAR(128), timestamp INTEGER, PRIMARY KEY (token)",
    "track": "token BLOB NOT NULL, category_token BLOB NOT NULL, width FLOAT, length FLOAT, height FLOAT, "
    "PRIMARY KEY (token)",
    "lidar_box": "token BLOB NOT NULL, lidar_pc_token BLOB NOT NULL, track_token BLOB, next_token BLOB, prev_token BLOB, "
    "x FLOAT, y FLOAT, z FLOAT, width FLOAT, length FLOAT, height FLOAT, vx FLOAT, vy FLOAT, vz FLOAT, yaw FLOAT, "
    "confidence FLOAT, PRIMARY KEY (token)",
    "scenario_tag": "token BLOB NOT NULL, lidar_pc_token BLOB NOT NULL, type TEXT, agent_track_token BLOB, "
    "PRIMARY KEY (token)",
    "traffic_light_status": "token BLOB NOT NULL, lidar_pc_token BLOB NOT NULL, lane_connector_id INTEGER, "
    "status VARCHAR(8), PRIMARY KEY (token)",
}
INDEXES = (  # without them nuPlan's queries scan whole tables
    ("lidar_pc", "timestamp"),
    ("lidar_pc", "scene_token"),
    ("lidar_box", "lidar_pc_token"),
    ("lidar_box", "track_token"),
    ("traffic_light_status", "lidar_pc_token"),
    ("scenario_tag", "lidar_pc_token"),
    ("image", "timestamp"),
)


def write_log(
    path: Path,
    ticks: Sequence[LogTick],
    *,
    map_name: str,
    epsg: int,
    origin_m: tuple[float, float],
    route: Sequence[int],
    goal_m: tuple[float, float] | None,
    light_fids: Mapping[str, int],
    scenario_type: str,
    tagged: int,
    scenes: Sequence[range],
) -> None:
    """Write the log, complete or not at all. The token of the tagged row is what nuPlan calls the scenario.

    origin_m: the position of our frame in the map's projection. route: roadblock fids in driving order. light_fids: lane
    connector -> fid; a light on a connector that is not among them is not written. scenes: rows of each scene, in order.
    """
    name = path.stem

    def token(table: str, *key: object) -> bytes:
        return row_token(name, table, *key)

    log, lidar, goal = token("log"), token("lidar"), token("goal")
    clouds = [token("lidar_pc", k) for k in range(len(ticks))]
    poses = [token("ego_pose", k) for k in range(len(ticks))]
    categories = [token("category", kind) for kind in OBJECT_KINDS]
    scene_of = {k: token("scene", n) for n, rows in enumerate(scenes) for k in rows}
    x0, y0 = origin_m
    rows: dict[str, list[tuple]] = {table: [] for table in TABLES}
    rows["log"].append((log, "nsdrive", "2026-01-01", START_US, name, map_name, map_name))
    rows["category"] = [(categories[k], kind, kind) for k, kind in enumerate(OBJECT_KINDS)]
    rows["lidar"].append((lidar, log, "MergedPointCloud", "none", None, None))
    spaced = " ".join(str(fid) for fid in route)
    for n in range(len(scenes)):
        rows["scene"].append((token("scene", n), log, f"{name}-scene-{n:04d}", goal if goal_m else None, spaced))

    sightings: dict[str, list[int]] = {}  # track -> rows in which it is seen
    for k, tick in enumerate(ticks):
        for track_id in tick.objects.ids:
            sightings.setdefault(track_id, []).append(k)
    linked: dict[tuple[str, int], tuple[int | None, int | None]] = {}
    for track_id, seen in sightings.items():
        for before, k, after in zip([None, *seen[:-1]], seen, [*seen[1:], None], strict=True):
            linked[track_id, k] = (before, after)

    for k, tick in enumerate(ticks):
        at = START_US + k * ROW_US
        rows["ego_pose"].append((poses[k], at, *_ego_columns(tick.ego, x0, y0), epsg, log))
        following = clouds[k + 1] if k + 1 < len(ticks) else None
        previous = clouds[k - 1] if k else None
        file = f"{name}/MergedPointCloud/{clouds[k].hex()}.pcd"
        rows["lidar_pc"].append((clouds[k], following, previous, poses[k], lidar, scene_of[k], file, at))
        frame = tick.objects
        for row, track_id in enumerate(frame.ids):
            track = token("track", track_id)
            x, y, heading, length, width = (float(v) for v in frame.boxes[row])
            height = float(frame.heights_m[row])
            before, after = linked[track_id, k]
            if before is None:
                rows["track"].append((track, categories[int(frame.kinds[row])], width, length, height))
            links = [None if n is None else token("lidar_box", track_id, n) for n in (after, before)]
            vx, vy = (float(v) for v in frame.velocities_mps[row])
            box = (x + x0, y + y0, height / 2, width, length, height, vx, vy, 0.0, heading, 1.0)
            rows["lidar_box"].append((token("lidar_box", track_id, k), clouds[k], track, *links, *box))
        for connector, state in tick.lights.items():
            if connector in light_fids:
                light = token("traffic_light_status", connector, k)
                rows["traffic_light_status"].append((light, clouds[k], light_fids[connector], state))
    if goal_m:
        there = EgoState(time_s=0.0, x_m=goal_m[0], y_m=goal_m[1], heading_rad=ticks[-1].ego.heading_rad, speed_mps=0.0)
        beyond = START_US + len(ticks) * ROW_US
        rows["ego_pose"].append((goal, beyond, *_ego_columns(there, x0, y0), epsg, log))
    rows["scenario_tag"].append((token("scenario_tag"), clouds[tagged], scenario_type, None))

    with written_file(path) as connection:
        for table, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
            if rows[table]:
                marks = ",".join("?" * len(rows[table][0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])
        for table, column in INDEXES:
            connection.execute(f"CREATE INDEX ix_{table}_{column} ON {table} ({column})")


def row_token(log: str, table: str, *key: object) -> bytes:
    """The token of a row: 8 bytes from the log's name, the table and what tells the row from the table's others."""
    return hashlib.blake2b("/".join((log, table, *map(str, key))).encode(), digest_size=8).digest()


def _ego_columns(state: EgoState, x0: float, y0: float) -> tuple[float, ...]:
    """x, y, z, quaternion, then velocity, acceleration and angular rate in the body frame."""
    half = state.heading_rad / 2
    yaw_rate = state.speed_mps * math.tan(state.steering_rad) / PACIFICA.wheel_base_m
    pose = (state.x_m + x0, state.y_m + y0, 0.0, math.cos(half), 0.0, 0.0, math.sin(half))
    return (*pose, state.speed_mps, 0.0, 0.0, state.accel_mps2, 0.0, 0.0, 0.0, 0.0, yaw_rate)
