"""The paths that are weighed: along a lane, beside its middle, over to the next lane, round something and back.

Every one is a chain's centerline moved sideways by an amount that changes along it: fifth-order curves that start with the
ego's own offset, direction and curvature and end parallel to the lane (Werling, Ziegler, Kammel, Thrun, "Optimal trajectory
generation for dynamic street scenarios in a Frenet frame", ICRA 2010, with a length for a time).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nsdrive.world.geometry import wrap_angle
from nsdrive.world.types import EgoState, FloatArray
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.topology import Chain

QUINTIC_PEAK = 5.7735  # greatest |d''| of the fifth-order step from 0 to 1: 10 / sqrt(3)
STEERING_1PM = 0.14  # a radius of 7.1 m, the Pacifica's least is 6 m
STEP_M = 1.0  # chosen by us, as dense as the paths of the map
COURSE_M, COURSE_RAD = (
    0.6,
    0.3,
)  # chosen by us: an ego further than this from its path, or turned more, begins a new one
STEEPEST = 0.55  # chosen by us: a start at more than 30 degrees to the lane is taken as this slope


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A path of M points from the ego's rear axle on.

    kind: one of PATHS. offset_m: where it settles beside the chain's middle (the furthest, for a way round). chain: the lane it
    follows. base_m (M,): progress on the chain. points (M, 2), headings_rad (M,) unwrapped, arc_m (M,): its own length so far,
    curvature_1pm (M,). around: ids of what it goes round. settled_m: progress on the chain at which it has arrived.
    """

    kind: str
    offset_m: float
    chain: Chain
    base_m: FloatArray
    points: FloatArray
    headings_rad: FloatArray
    arc_m: FloatArray
    curvature_1pm: FloatArray
    lateral_m: FloatArray
    around: tuple[str, ...] = ()
    settled_m: float = 0.0

    @property
    def middle_m(self) -> FloatArray:
        """(M,): how far left of the chain's middle the car's own middle is."""
        return np.interp(self.base_m + PACIFICA.rear_axle_to_center_m, self.base_m, self.lateral_m)

    @property
    def middle_over_m(self) -> float:
        """How far the car's middle gets over the lane's left boundary, negative where it stays within."""
        edge = np.interp(self.base_m, self.chain.path.progress_m, self.chain.left_m)
        return float((self.middle_m - edge).max())

    def arc_at(self, progress_m: float) -> float:
        """Its own length up to a progress of the chain; beyond the ends as if it went straight on."""
        first, last = float(self.base_m[0]), float(self.base_m[-1])
        inside = float(np.interp(progress_m, self.base_m, self.arc_m))
        return inside + min(0.0, progress_m - first) + max(0.0, progress_m - last)


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where new paths begin: a place, a heading and a curvature, global frame.

    It is the ego's place on the path that it drives already, so that the tracker keeps correcting what it is off that path and
    a manoeuvre goes on as it began; the ego's own where it is too far from there, or drives no path yet.
    """

    x_m: float
    y_m: float
    heading_rad: float
    curvature_1pm: float

    @staticmethod
    def of(ego: EgoState, driven: Candidate | None) -> Course:
        own = Course(
            x_m=ego.x_m,
            y_m=ego.y_m,
            heading_rad=ego.heading_rad,
            curvature_1pm=math.tan(ego.steering_rad) / PACIFICA.wheel_base_m,
        )
        if driven is None:
            return own
        away = np.hypot(driven.points[:, 0] - ego.x_m, driven.points[:, 1] - ego.y_m)
        k = int(np.argmin(away))
        heading = float(driven.headings_rad[k])
        ahead = (ego.x_m - driven.points[k, 0]) * math.cos(heading) + (ego.y_m - driven.points[k, 1]) * math.sin(
            heading
        )
        at = float(driven.arc_m[k]) + ahead
        x, y, heading, curvature = (
            float(np.interp(at, driven.arc_m, column))
            for column in (driven.points[:, 0], driven.points[:, 1], driven.headings_rad, driven.curvature_1pm)
        )
        turned = abs(float(wrap_angle(heading - ego.heading_rad)))
        if math.hypot(x - ego.x_m, y - ego.y_m) > COURSE_M or turned > COURSE_RAD:
            return own
        return Course(x_m=x, y_m=y, heading_rad=heading, curvature_1pm=curvature)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A course on a chain: progress_m and offset_m of the rear axle, slope and bend (1/m) of the course against the lane's."""

    progress_m: float
    offset_m: float
    slope: float
    bend_1pm: float

    @staticmethod
    def of(chain: Chain, course: Course) -> Start:
        progress, offset = chain.path.project(course.x_m, course.y_m)
        heading = float(chain.path.pose_at(progress)[2])
        slope = math.tan(min(0.5, max(-0.5, float(wrap_angle(course.heading_rad - heading)))))
        bend = course.curvature_1pm - float(chain.path.curvature_at(progress))
        return Start(
            progress_m=progress,
            offset_m=offset,
            slope=min(STEEPEST, max(-STEEPEST, slope)),
            bend_1pm=min(0.15, max(-0.15, bend)),
        )


def lay(
    chain: Chain,
    start: Start,
    knots: Sequence[tuple[float, float]],
    length_m: float,
    *,
    kind: str,
    offset_m: float,
    around: tuple[str, ...] = (),
) -> Candidate | None:
    """A path over the chain's next `length_m` that has the given offset at each knot (progress, offset) and between two equal
    ones, and keeps the last. None where the chain ends within two metres."""
    begin, end = start.progress_m, min(start.progress_m + length_m, chain.path.length_m)
    if end - begin < 2.0:
        return None
    base = begin + np.linspace(0.0, end - begin, max(3, math.ceil((end - begin) / STEP_M) + 1))
    lateral, slope, bend = _sideways(base, start, knots)
    poses = chain.path.pose_at(base)
    heading = np.unwrap(poses[:, 2])
    curvature = chain.path.curvature_at(base)
    points = np.column_stack([poses[:, 0] - lateral * np.sin(heading), poses[:, 1] + lateral * np.cos(heading)])
    steps = np.hypot(*np.diff(points, axis=0).T)
    if not (steps > 1e-6).all():  # folded back on the inner side of a tight bend
        return None
    stretch = np.maximum(0.3, 1.0 - curvature * lateral)
    return Candidate(
        kind=kind,
        offset_m=offset_m,
        chain=chain,
        base_m=base,
        points=np.ascontiguousarray(points),
        headings_rad=heading + np.arctan(slope / stretch),
        arc_m=np.concatenate([[0.0], np.cumsum(steps)]),
        curvature_1pm=curvature / stretch + bend / (stretch * stretch),
        lateral_m=lateral,
        around=around,
        settled_m=knots[-1][0],
    )


def easing_m(shift_m: float, speed_mps: float, lateral_accel_mps2: float, *, least_m: float = 6.0) -> float:
    """Length of a fifth-order sidestep whose lateral acceleration stays below a bound, not tighter than a car can steer."""
    by_comfort = speed_mps * math.sqrt(QUINTIC_PEAK * abs(shift_m) / lateral_accel_mps2)
    by_steering = math.sqrt(
        QUINTIC_PEAK * abs(shift_m) / 0.13
    )  # 0.13 1/m: a radius of 7.7 m, the Pacifica's least is 6 m
    return max(least_m, by_comfort, by_steering)


def _sideways(
    at: FloatArray, start: Start, knots: Sequence[tuple[float, float]]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(offset, its slope, its second derivative) at each progress."""
    d, slope, bend = np.empty_like(at), np.zeros_like(at), np.zeros_like(at)
    s0, d0, m0, a0 = start.progress_m, start.offset_m, start.slope, start.bend_1pm
    d[:] = d0
    for s1, d1 in knots:
        length = s1 - s0
        if length <= 0.0:
            continue
        here = at >= s0 - 1e-9
        u = np.minimum((at[here] - s0) / length, 1.0)
        shift, m, a = d1 - d0, m0 * length, a0 * length * length
        c3, c4, c5 = 10 * shift - 6 * m - 1.5 * a, -15 * shift + 8 * m + 1.5 * a, 6 * shift - 3 * m - 0.5 * a
        d[here] = d0 + u * (m + u * (0.5 * a + u * (c3 + u * (c4 + u * c5))))
        slope[here] = (m + u * (a + u * (3 * c3 + u * (4 * c4 + u * 5 * c5)))) / length
        bend[here] = (a + u * (6 * c3 + u * (12 * c4 + u * 20 * c5))) / (length * length)
        beyond = at > s1
        d[beyond], slope[beyond], bend[beyond] = d1, 0.0, 0.0
        s0, d0, m0, a0 = s1, d1, 0.0, 0.0
    return d, slope, bend
