"""A rollout through a manoeuvre as its checks look at it: poses, boxes, the line, standstills, the lane, nuPlan's terms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely

from eval.score import Expert, Score, score
from nsdrive.world.geometry import box_corners
from nsdrive.world.route import centerline, find_route, nearest_lane
from nsdrive.world.types import INTERVAL_S, FloatArray, Rollout
from nsdrive.world.vehicle import PACIFICA, ego_box

STANDING_MPS = 0.2  # = the tracker's stopping speed: below it nuPlan's ego eases out of its last decimetres


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """A rollout as checks look at it. Times count from the rollout's start; T states. scored: its score, if known already."""

    rollout: Rollout
    scored: Score | None = None

    @cached_property
    def poses(self) -> FloatArray:
        return np.array([s.pose for s in self.rollout.states], dtype=np.float64)

    @cached_property
    def speeds_mps(self) -> FloatArray:
        return np.array([s.speed_mps for s in self.rollout.states], dtype=np.float64)

    @cached_property
    def boxes(self) -> FloatArray:
        return ego_box(self.poses)

    @cached_property
    def times_s(self) -> FloatArray:
        return np.asarray(INTERVAL_S * np.arange(len(self.poses)), dtype=np.float64)

    @cached_property
    def judged(self) -> Score:
        """nuPlan's terms: faults, off-road, comfort. The ego is its own expert here, for its progress does not matter."""
        return self.scored or score(self.rollout, Expert(source="none", states=self.rollout.states))

    @cached_property
    def to_line_m(self) -> FloatArray:
        """(T,): from the ego's front bumper to the manoeuvre's line, negative once past it."""
        x, y, heading = self.rollout.scenario.notes["line"]
        front = self.poses[:, :2] + PACIFICA.front_m * _directions(self.poses[:, 2])
        return (np.array([x, y]) - front) @ np.array([np.cos(heading), np.sin(heading)])

    def of(self, track_id: str) -> tuple[np.ndarray, FloatArray]:
        """(K,) ticks at which the object is there, and its (K, 5) boxes."""
        found = [
            (tick, frame.boxes[frame.ids.index(track_id)])
            for tick, frame in enumerate(self.rollout.frames)
            if track_id in frame.ids
        ]
        if not found:
            raise ValueError(f"{self.rollout.scenario.scenario_id} has no {track_id!r}")
        return np.array([tick for tick, _ in found]), np.array([box for _, box in found])

    @cached_property
    def standing(self) -> tuple[int, int] | None:
        """First and last tick of the first stretch of at least half a second without driving; None where it drives on."""
        still = np.concatenate([[False], np.abs(self.speeds_mps) < STANDING_MPS, [False]])
        edges = np.flatnonzero(np.diff(still.astype(int)))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin >= 5:
                return int(begin), int(end) - 1
        return None

    @cached_property
    def lane(self) -> Any:
        """The path of the lane in which the ego starts, as far as it leads along the route."""
        scenario = self.rollout.scenario
        start = nearest_lane(scenario.lane_map, self.poses[0], scenario.route_roadblock_ids)
        lanes = find_route(scenario.lane_map, start, scenario.goal_m, scenario.route_roadblock_ids)
        return centerline(scenario.lane_map, lanes)

    @cached_property
    def offsets_m(self) -> FloatArray:
        """(T,): the box centre's lateral offset from that lane's middle, left positive."""
        return np.asarray(self.lane.project_points(self.boxes[:, :2])[:, 1])


def first(flags: np.ndarray) -> int | None:
    """Index of the first true one."""
    return int(np.argmax(flags)) if flags.any() else None


def _directions(headings_rad: FloatArray) -> FloatArray:
    return np.column_stack([np.cos(headings_rad), np.sin(headings_rad)])


def distances_m(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """(T,) distances between (T, 5) boxes and (T, 5) others."""
    return np.asarray(
        shapely.distance(shapely.polygons(box_corners(boxes)), shapely.polygons(box_corners(others))), dtype=float
    )
