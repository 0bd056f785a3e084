"""Where those who drive in lanes will be: along their lane at the speed they have, for as long as the lane says where it goes.

Constant velocity is PDM-Closed's forecast. In a bend it sends the oncoming traffic straight into the ego's lane, and the ego
brakes for nobody. Here velocity is constant in the coordinates of the other's own lane, so that a drift to the side goes on, too;
on a straight lane both are the same. (Lanes as the forecast's coordinates: Petrich, Dang, Kasper, Breuel, Stiller, "Map-based
long term motion prediction for vehicles in traffic environments", ITSC 2013.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nsdrive.world.geometry import Path, wrap_angle
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import centerline, lane_length_m, lanes_near, straightest_successor
from nsdrive.world.types import OBJECT_KINDS, FloatArray, ObjectFrame

MOVING_MPS = 1.0  # chosen by us: who is slower gets nowhere in the forecast's four seconds
BESIDE_M = 1.8  # chosen by us: who is further from a lane's middle, or turned more from it, is not following it
COS_TURNED = math.cos(0.35)
BEND_RAD = 0.03  # chosen by us: a lane that turns less while it is driven is straight
AHEAD_M = 120.0  # chosen by us: 4 s at 108 km/h
_DRIVES_IN_LANES = tuple(OBJECT_KINDS.index(kind) for kind in ("vehicle", "bicycle"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bends:
    """Those whose lane turns: ids of M objects, poses (S, M, 3) of their boxes' centres at each sample, the first now."""

    ids: tuple[str, ...]
    poses: FloatArray

    def rows(self, ids: tuple[str, ...]) -> np.ndarray:
        """(N,): the index in `poses` of each object, -1 for one that goes straight on."""
        where = {track_id: k for k, track_id in enumerate(self.ids)}
        return np.array([where.get(track_id, -1) for track_id in ids], dtype=np.int64)


@dataclass(kw_only=True)
class LaneFollowing:
    """The forecast over one rollout; it remembers who follows which lane, for in a junction many begin alike."""

    lane_map: LaneMap
    _ways: dict[str, Path | None] = field(default_factory=dict)
    _lane_of: dict[str, str] = field(default_factory=dict)

    def bends(self, objects: ObjectFrame, *, samples: int, interval_s: float) -> Bends:
        """Who is in a bend or comes to one within the time, and where each will be."""
        times = interval_s * np.arange(samples)
        moving = np.isin(objects.kinds, _DRIVES_IN_LANES) & (objects.speeds_mps > MOVING_MPS)
        ids, found = [], []
        lanes: dict[str, str] = {}
        for row in np.flatnonzero(moving).tolist():
            x, y, heading = objects.boxes[row, :3].tolist()
            vx, vy = objects.velocities_mps[row].tolist()
            followed = self._followed(objects.ids[row], x, y, heading)
            if followed is None:
                continue
            path, progress, offset = followed
            if (lane_id := path.lane_at(progress)) is not None:
                lanes[objects.ids[row]] = lane_id
            if not _turns(path, progress, progress + objects.speeds_mps[row] * times[-1]):
                continue
            here = float(path.pose_at(progress)[2])
            along = vx * math.cos(here) + vy * math.sin(here)
            across = vy * math.cos(here) - vx * math.sin(here)
            if along < MOVING_MPS:
                continue
            reached = progress + along * times
            poses = path.pose_at(reached)
            turned = wrap_angle(poses[:, 2] - here)
            if np.abs(turned).max() < BEND_RAD:
                continue
            cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
            aside, beyond = offset + across * times, np.maximum(0.0, reached - path.length_m)
            at = np.column_stack(
                [poses[:, 0] + beyond * cos - aside * sin, poses[:, 1] + beyond * sin + aside * cos, heading + turned]
            )
            at[0, :2] = x, y
            ids.append(objects.ids[row])
            found.append(at)
        self._lane_of = lanes
        poses = np.stack(found, axis=1) if found else np.zeros((samples, 0, 3))
        return Bends(ids=tuple(ids), poses=poses)

    def _followed(self, track_id: str, x: float, y: float, heading: float) -> tuple[Path, float, float] | None:
        """(way, progress, offset) in the lane that it followed before, else in the nearest that it could be in."""
        before = self._lane_of.get(track_id)
        found = None if before is None else self._on(before, x, y, heading)
        if found is None:
            near = lanes_near(self.lane_map, x, y, BESIDE_M)
            found = next((on for lane_id in near if (on := self._on(lane_id, x, y, heading)) is not None), None)
        return found

    def _on(self, lane_id: str, x: float, y: float, heading: float) -> tuple[Path, float, float] | None:
        path = self._way(lane_id)
        if path is None:
            return None
        progress, offset = path.project(x, y)
        if abs(offset) > BESIDE_M or not 0.0 < progress < path.length_m:
            return None
        turned = float(path.heading_rad[path.index_at(progress)]) - heading
        return (path, progress, offset) if math.cos(turned) >= COS_TURNED else None

    def _way(self, lane_id: str) -> Path | None:
        """The lane and what follows it, as far as there is no choice, or one way goes straight on."""
        if lane_id not in self._ways:
            lanes, ids, length = self.lane_map.lanes, [lane_id], 0.0
            while length < AHEAD_M + lane_length_m(lanes[lane_id]):
                length += lane_length_m(lanes[ids[-1]])
                following = straightest_successor(self.lane_map, ids[-1])
                choices = [n for n in lanes[ids[-1]].outgoing if n in lanes]
                if following is None or following in ids:
                    break
                if len(choices) > 1 and lanes[following].turn != "straight":
                    break
                ids.append(following)
            try:
                self._ways[lane_id] = centerline(self.lane_map, ids)
            except ValueError:  # fewer than two points, or some that are not finite
                self._ways[lane_id] = None
        return self._ways[lane_id]


def _turns(path: Path, from_m: float, to_m: float) -> bool:
    """Whether a stretch of it is more than straight."""
    headings = path.heading_rad[path.index_at(from_m) : path.index_at(to_m) + 2]
    return bool(headings.max() - headings.min() >= BEND_RAD)
