"""The rules of the road that several planners share: what lies on a path and what each of it allows, as constraints.

Every function looks at one path (`planners.along.AlongPath`) from the ego's progress on it and answers with what binds or
may bind: curves and the path's end, the lead, lights, stop signs, crosswalks. The laws are those of `nsdrive.world.rules`.
`speed` is the ego's, `target` the speed that the path allows here [m/s], `progress` that of the rear axle [m].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from nsdrive.world.decision import Constraint
from nsdrive.world.geometry import corridor_overlap
from nsdrive.world.kernels import poses_at, project
from nsdrive.world.rules import IdmParameters, acceleration_kernel, evaluate, idm_constants
from nsdrive.world.types import INTERVAL_S, Observation
from nsdrive.world.vehicle import PACIFICA
from planners.along import AlongPath, crossing, points_in_polygon


@dataclass(frozen=True, kw_only=True)
class RoadParameters(IdmParameters):
    """The laws' parameters, and what a planner looks at. `target_speed_mps` holds where no limit is known."""

    lookahead_s: float = 8.0  # nuPlan's path ahead: 8 s of driving at the target speed
    lookahead_min_m: float = 40.0  # nuPlan: occupancy_map_radius
    corridor_margin_m: float = 0.1  # chosen by us, mirrors; 0 as in nuPlan brushes past parked cars
    path_end_m: float = 80.0  # chosen by us: the end of the path is a rule only within this gap
    # chosen by us: a nose this far over a stop line still waits, further it clears the crossing
    line_tolerance_m: float = 1.0
    stop_zone_m: float = 3.0  # chosen by us: standing within this gap of a stop sign's line counts as having stopped
    standing_mps: float = 0.2  # chosen by us, = the tracker's stopping speed
    crossing_mps: float = 0.5  # chosen by us: a vehicle in the intersection at this speed or more has the way
    step_out_s: float = 1.5  # chosen by us: who will be on a crosswalk this soon is about to enter it
    # chosen by us: who stands on a crosswalk further than this from the ego's way lets it pass
    bystander_m: float = 1.5
    max_crossing: int = 2  # chosen by us: two already show that no single one is the cause

    @property
    def half_width_m(self) -> float:
        """Of the corridor that has to be free."""
        return 0.5 * PACIFICA.width_m + self.corridor_margin_m


def curve_and_end(
    along: AlongPath, progress: float, speed: float, target: float, c: RoadParameters
) -> list[Constraint]:
    """Curves within sight that ask for less than the target speed, and the end of the path."""
    found = []
    distance, radius = along.curve(progress, c)
    if distance <= lookahead_m(speed, c) and c.curve_lateral_accel_mps2 * radius < target * target:
        inputs = {"distance_m": distance, "radius_m": radius}
        found.append(evaluate("curve_speed", None, inputs, speed, c, target_speed_mps=target))
    gap = along.path.length_m - progress - PACIFICA.front_m
    if gap <= c.path_end_m:
        found.append(evaluate("path_end", None, {"gap_m": gap}, speed, c, target_speed_mps=target))
    return found


def lead(
    along: AlongPath, observation: Observation, progress: float, speed: float, target: float, c: RoadParameters
) -> list[Constraint]:
    """Of the tracked objects on the ego's corridor, moving or not, the one that allows least; of equals the nearest.

    nuPlan takes the nearest. Taking the least makes "because of" true: no other object's removal can change the plan.
    """
    objects = observation.objects
    front = progress + PACIFICA.front_m
    entry = corridor_overlap(along.path, objects.boxes, front, front + lookahead_m(speed, c), c.half_width_m)
    row, gap, lead_speed = _strictest(
        along.path.points,
        along.path.progress_m,
        along.path.heading_rad,
        objects.boxes,
        objects.velocities_mps,
        entry,
        front,
        speed,
        target,
        idm_constants(c),
    )
    if row < 0:
        return []
    inputs = {"gap_m": gap, "lead_speed_mps": lead_speed}
    return [evaluate("lead", objects.ids[row], inputs, speed, c, target_speed_mps=target)]


@njit(cache=True)
def _strictest(points, progress, heading, boxes, velocities, entry, front, speed, target, idm):
    """(row, gap, speed along the path) of the lead that allows least, row -1 where there is none.

    entry (N,): progress at which each box begins on the ego's corridor, inf where it is not on it. front: of the ego's nose.
    """
    found, found_gap, found_speed, least = -1, np.inf, 0.0, np.inf
    for row in range(entry.shape[0]):
        gap = entry[row] - front
        if not gap < np.inf:
            continue
        # Alongside and behind the nose is who follows or merges: theirs to mind, and nothing to stop for.
        last = points.shape[0] - 1
        if gap <= 0.05 and project(points, progress, boxes[row, 0], boxes[row, 1], 0, last)[0] <= front:
            continue
        angle = poses_at(points, progress, heading, entry[row : row + 1])[0, 2]
        lead_speed = velocities[row, 0] * np.cos(angle) + velocities[row, 1] * np.sin(angle)
        allows = acceleration_kernel(speed, gap, lead_speed, target, *idm)
        if found < 0 or allows < least or (allows == least and gap < found_gap):
            found, found_gap, found_speed, least = row, gap, lead_speed, allows
    return found, found_gap, found_speed


def lights(
    along: AlongPath, observation: Observation, progress: float, speed: float, target: float, c: RoadParameters
) -> list[Constraint]:
    """The next red light and the next amber one on the path."""
    front, sight = progress + PACIFICA.front_m, lookahead_m(speed, c)
    found: dict[str, Constraint] = {}
    for line, connector in along.lights:
        gap = line - front
        if not -c.line_tolerance_m <= gap <= sight:
            continue
        state = observation.lights.get(connector)
        if state == "red" and "red" not in found:
            found["red"] = evaluate("red_light", connector, {"gap_m": gap}, speed, c, target_speed_mps=target)
        if state == "yellow" and "yellow" not in found:
            inputs = {"gap_m": gap, "accel_mps2": observation.ego.accel_mps2}
            found["yellow"] = evaluate("amber_light", connector, inputs, speed, c, target_speed_mps=target)
    return [found[state] for state in ("red", "yellow") if state in found]


def stop_signs(
    along: AlongPath, observation: Observation, progress: float, speed: float, target: float, c: RoadParameters
) -> list[Constraint]:
    """The next stop line with a sign: how long the ego has stood at it, and how many are crossing."""
    objects = observation.objects
    front, sight = progress + PACIFICA.front_m, lookahead_m(speed, c)
    for line, line_id, intersection in along.stop_signs:
        gap = line - front
        if not -c.line_tolerance_m <= gap <= sight:
            continue
        moving = (objects.kinds <= 1) & (objects.speeds_mps >= c.crossing_mps)  # OBJECT_KINDS: vehicle, bicycle
        inside = 0
        if intersection is not None and moving.any():
            inside = int(np.count_nonzero(points_in_polygon(objects.boxes[moving, :2], intersection)))
        inputs = {"gap_m": gap, "waited_s": _waited_s(observation, gap, c), "crossing": float(inside)}
        return [evaluate("stop_sign", line_id, inputs, speed, c, target_speed_mps=target)]
    return []


def _waited_s(observation: Observation, gap_m: float, c: RoadParameters) -> float:
    """The longest that the ego has stood so far, while within the stop zone of a line that is `gap_m` ahead now."""
    ego = observation.ego
    longest = run = 0
    for state in reversed(observation.ego_history):
        if gap_m + math.hypot(state.x_m - ego.x_m, state.y_m - ego.y_m) > c.stop_zone_m:
            break
        run = run + 1 if abs(state.speed_mps) < c.standing_mps else 0
        longest = max(longest, run)
    return round(longest * INTERVAL_S, 1)


def crosswalks(
    along: AlongPath, observation: Observation, progress: float, speed: float, target: float, c: RoadParameters
) -> list[Constraint]:
    """Who is on the nearest used crosswalk ahead or about to step onto it, up to the crosswalk's middle."""
    objects = observation.objects
    front, sight = progress + PACIFICA.front_m, lookahead_m(speed, c)
    for near, far, polygon in along.crosswalks:
        if not (front <= 0.5 * (near + far) and near - front <= sight):
            continue
        gap = near - front
        # For who is not on it yet only a stop is worth beginning: half a brake would help no one.
        can_stop = speed * speed <= 2.0 * c.decel_max_mps2 * max(gap, 0.1)
        people = crossing(along, polygon, objects, c.half_width_m, c.step_out_s, c.bystander_m)
        rows = [row for row, on in people if on or can_stop]
        rows.sort(key=lambda row: abs(along.path.project(*objects.boxes[row, :2])[1]))
        if rows:
            return [
                evaluate("crosswalk", objects.ids[row], {"gap_m": gap}, speed, c, target_speed_mps=target)
                for row in rows[: c.max_crossing]
            ]
    return []


def lookahead_m(speed: float, c: RoadParameters) -> float:
    """How far ahead a rule looks."""
    return max(c.lookahead_min_m, c.lookahead_s * speed)
