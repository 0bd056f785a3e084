"""Small worlds in three lines, for tests of planners and traces: one road along x, and what stands or moves on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nsdrive.world.lane_map import Crosswalk, Intersection, Lane, LaneMap, StopLine
from nsdrive.world.types import EgoState, ObjectFrame, Scenario, TrackedObject

LINE_M = 100.0  # where the intersection's stop line is


def straight_road(limit_mps=13.41, stop=None, crosswalk=False, length_m=400.0) -> LaneMap:
    """One lane along x from 0, a connector "x" from LINE_M to LINE_M + 20, and on. stop: the kind of its stop line."""
    return road(np.array([[0.0, 0.0], [length_m, 0.0]]), limit_mps, stop, crosswalk)


def road(centerline, limit_mps=13.41, stop=None, crosswalk=False) -> LaneMap:
    """A lane along any polyline, cut at LINE_M and LINE_M + 20 of it into lane "in", connector "x" and lane "out"."""
    steps = np.linalg.norm(np.diff(centerline, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    cuts = {"in": (0.0, LINE_M), "x": (LINE_M, LINE_M + 20.0), "out": (LINE_M + 20.0, along[-1])}
    lanes = {}
    names = list(cuts)
    for i, (name, (a, b)) in enumerate(cuts.items()):
        at = np.linspace(a, b, max(2, int(b - a) + 1))
        line = np.column_stack([np.interp(at, along, centerline[:, k]) for k in (0, 1)])
        lanes[name] = Lane(
            lane_id=name,
            roadblock_id=f"block-{name}",
            is_connector=name == "x",
            centerline=line,
            left_boundary=line + np.array([0.0, 1.75]),
            right_boundary=line - np.array([0.0, 1.75]),
            speed_limit_mps=limit_mps,
            incoming=tuple(names[i - 1 : i]) if i else (),
            outgoing=tuple(names[i + 1 : i + 2]),
            intersection_id="crossing" if name == "x" else None,
            stop_line_ids=("line",) if name == "x" and stop else (),
        )
    middle = np.array([[LINE_M, -20.0], [LINE_M + 20.0, -20.0], [LINE_M + 20.0, 20.0], [LINE_M, 20.0]])
    line = StopLine(stop_line_id="line", line=np.array([[LINE_M, 1.75], [LINE_M, -1.75]]), kind=stop or "yield")
    zebra = np.array([[60.0, -6.0], [63.0, -6.0], [63.0, 6.0], [60.0, 6.0]])
    return LaneMap(
        name="test road",
        lanes=lanes,
        intersections={"crossing": Intersection(intersection_id="crossing", polygon=middle)},
        stop_lines={"line": line} if stop else {},
        crosswalks={"zebra": Crosswalk(crosswalk_id="zebra", polygon=zebra)} if crosswalk else {},
        drivable_area=(np.array([[-50.0, -5.0], [1000.0, -5.0], [1000.0, 5.0], [-50.0, 5.0]]),),
    )


def thing(track_id, x_m, y_m=0.0, speed_mps=0.0, heading_rad=0.0, kind="vehicle") -> TrackedObject:
    """A tracked object of a usual size for its kind, moving along its heading."""
    length, width, height = {"vehicle": (4.7, 1.9, 1.6), "bicycle": (1.8, 0.6, 1.7)}.get(kind, (0.6, 0.6, 1.7))
    return TrackedObject(
        track_id=track_id,
        kind=kind,
        x_m=x_m,
        y_m=y_m,
        heading_rad=heading_rad,
        length_m=length,
        width_m=width,
        height_m=height,
        vx_mps=speed_mps * np.cos(heading_rad),
        vy_mps=speed_mps * np.sin(heading_rad),
        accel_mps2=0.0,
        indicator=0,
    )


def scene(
    lane_map: LaneMap,
    speed_mps=10.0,
    start_m=10.0,
    objects: Callable[[float], list[TrackedObject]] | tuple[TrackedObject, ...] = (),
    lights: Callable[[float], Mapping[str, str]] | None = None,
    seconds=15.0,
    offset_m=0.0,
) -> Scenario:
    """The ego on the lane at `start_m`, with two seconds of steady past; objects and lights as functions of time [s].

    A tuple of objects keeps moving along their headings; time 0 is the first tick.
    """
    path = np.vstack([lane_map.lanes[name].centerline for name in ("in", "x", "out")])
    path = path[np.concatenate([[True], np.linalg.norm(np.diff(path, axis=0), axis=1) > 1e-6])]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    headings = np.unwrap(np.arctan2(*np.gradient(path, axis=0).T[::-1]))
    times = np.arange(round(seconds * 10) + 1) / 10
    log = []
    for t in times[:21]:
        s = start_m + speed_mps * (t - 2.0)
        x, y = (
            float(np.interp(s, along, path[:, k])) if s > 0 else float(path[0, k] + (s if k == 0 else 0))
            for k in (0, 1)
        )
        heading = float(np.interp(s, along, headings))
        log.append(
            EgoState(
                time_s=float(t),
                x_m=x - offset_m * np.sin(heading),
                y_m=y + offset_m * np.cos(heading),
                heading_rad=heading,
                speed_mps=speed_mps,
            )
        )

    def world(t: float) -> list[TrackedObject]:
        if callable(objects):
            return objects(t)
        return [
            thing(o.track_id, o.x_m + o.vx_mps * t, o.y_m + o.vy_mps * t, o.speed_mps, o.heading_rad, o.kind)
            for o in objects
        ]

    return Scenario(
        scenario_id="test-road",
        scenario_type="unknown",
        source="synthetic",
        split_key="test",
        lane_map=lane_map,
        route_roadblock_ids=("block-in", "block-x", "block-out"),
        goal_m=None,
        ego_log=tuple(log),
        frames=tuple(ObjectFrame.of(world(float(t))) for t in times),
        lights=tuple(lights(float(t)) if lights else {} for t in times),
    )
