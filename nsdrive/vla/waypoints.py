"""Waypoints as a motion: ten points of an answer -> a smooth path, and how far along it the ego is at every moment.

    motion = through(answer.waypoints_ego_m, ego)      # from the ego's pose through the points
    motion.from_time(ego.time_s)                       # Trajectory: 81 states, 0.1 s apart, global
    motion.from_time(ego.time_s + 0.3)                 # the rest of the same motion, 8 s again

Where and when are kept apart. The path is a cubic Hermite curve by arc length, with tangents from each three neighbouring
points and the ego's heading at its start; a circle stays one. The distance along it is a cubic Hermite function of time that
goes through every waypoint and never back (slopes limited after Fritsch & Carlson, SIAM J. Numer. Anal. 17 (1980)); constant
acceleration stays exactly that. So a car that stands keeps its heading, whatever its waypoints' last digits say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nsdrive.vla.prompt import N_WAYPOINTS, WAYPOINT_INTERVAL_S
from nsdrive.world.geometry import to_global, wrap_angle
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Trajectory

TICKS = 80  # 8 s, as long as the other planners' plans
# chosen by us: over less, the last digit of a waypoint (1 cm) would turn the path by more than 0.01 rad
MIN_STEP_M = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """A path, in the ego frame at `start_s`, and the distance along it at each waypoint's time.

    points_m (K, 2), tangents (K, 2) of length 1, along_m (K,) the path's arc length at each point; beyond the last it goes
    straight on. distances_m and speeds_mps (W + 1,): at start_s + k * WAYPOINT_INTERVAL_S. After the last the ego goes on at
    its speed, or, where it was braking, brakes on to a stop.
    """

    start_pose_global: FloatArray
    start_s: float
    points_m: FloatArray
    tangents: FloatArray
    along_m: FloatArray
    distances_m: FloatArray
    speeds_mps: FloatArray

    def from_time(self, now_s: float) -> Trajectory:
        """81 states from now_s on, 0.1 s apart. The first is where the motion is then, at start_s the ego's own pose."""
        elapsed = np.asarray(now_s - self.start_s + INTERVAL_S * np.arange(TICKS + 1), dtype=np.float64)
        distance, speed, accel = self._along(elapsed)
        points, headings, stretch = self._at(distance)
        x_y = to_global(points, self.start_pose_global)
        return Trajectory(
            times_s=np.round(now_s + INTERVAL_S * np.arange(TICKS + 1), 6),
            poses_global=np.column_stack([x_y, wrap_angle(headings + self.start_pose_global[2])]),
            speeds_mps=speed * stretch,
            accels_mps2=accel * stretch,
        )

    def _along(self, elapsed_s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Distance, speed and acceleration (T,) along the path."""
        s, v, dt = self.distances_m, self.speeds_mps, WAYPOINT_INTERVAL_S
        last = len(s) - 1
        k = np.clip((elapsed_s / dt + 1e-9).astype(int), 0, last - 1)
        t = np.clip(elapsed_s - k * dt, 0.0, dt)
        mean, start, end = (s[k + 1] - s[k]) / dt, v[k], v[k + 1]
        bend, twist = (3.0 * mean - 2.0 * start - end) / dt, (start + end - 2.0 * mean) / dt**2
        distance = s[k] + t * (start + t * (bend + t * twist))
        speed = np.maximum(0.0, start + t * (2.0 * bend + 3.0 * t * twist))
        accel = np.where(speed > 0.0, 2.0 * bend + 6.0 * t * twist, 0.0)
        after = elapsed_s >= last * dt - 1e-9
        rate = min(0.0, (v[-1] - v[-2]) / dt)  # braking goes on, gathering speed does not
        beyond = np.minimum(elapsed_s[after] - last * dt, v[-1] / -rate if rate < 0.0 else np.inf)
        distance[after] = s[-1] + beyond * (v[-1] + 0.5 * rate * beyond)
        speed[after] = np.maximum(0.0, v[-1] + rate * beyond)
        accel[after] = np.where(speed[after] > 1e-9, rate, 0.0)
        return distance, speed, accel

    def _at(self, distances_m: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Points (T, 2) and headings (T,) in the ego frame, and metres of curve per metre along (T,), which is nearly 1."""
        if len(self.points_m) == 1:
            k, u, length = np.zeros(len(distances_m), dtype=int), np.zeros(len(distances_m)), 1.0
            points = np.tile(self.points_m[0], (len(distances_m), 1))
            direction = np.tile(self.tangents[0], (len(distances_m), 1))
        else:
            k = np.clip(np.searchsorted(self.along_m, distances_m, side="right") - 1, 0, len(self.points_m) - 2)
            length = (self.along_m[k + 1] - self.along_m[k])[:, None]
            u = np.clip((distances_m - self.along_m[k])[:, None] / length, 0.0, 1.0)
            p, q = self.points_m[k], self.points_m[k + 1]
            m, n = length * self.tangents[k], length * self.tangents[k + 1]
            points = p + u * m + u**2 * (3.0 * (q - p) - 2.0 * m - n) + u**3 * (2.0 * (p - q) + m + n)
            direction = (m + 2.0 * u * (3.0 * (q - p) - 2.0 * m - n) + 3.0 * u**2 * (2.0 * (p - q) + m + n)) / length
        beyond = np.maximum(0.0, distances_m - self.along_m[-1])[:, None]
        points = points + beyond * self.tangents[-1]
        stretch = np.hypot(direction[:, 0], direction[:, 1])
        return points, np.arctan2(direction[:, 1], direction[:, 0]), stretch


def through(waypoints_ego_m: FloatArray, ego: EgoState) -> Motion:
    """The motion from the ego's pose and speed through waypoints (W, 2), WAYPOINT_INTERVAL_S apart, in its frame now.

    It never goes backwards: at a waypoint that lies behind the one before, the ego waits (our teachers do not reverse).
    ValueError where a number is not finite.
    """
    waypoints = np.asarray(waypoints_ego_m, dtype=np.float64).reshape(-1, 2)
    if len(waypoints) < 2 or not np.isfinite(waypoints).all():
        raise ValueError(f"A motion needs two or more finite waypoints, got {len(waypoints)}")
    kept, heading = [np.zeros(2)], np.array([1.0, 0.0])
    last_point, ahead_m = [], []  # of each waypoint: the kept point that it lies at or after, and how far after
    for point in waypoints:
        step = point - kept[-1]
        ahead = float(step @ heading)
        if ahead > 0.0 and np.hypot(*step) >= MIN_STEP_M:
            heading = step / np.hypot(*step)
            kept.append(point)
            ahead = 0.0
        last_point.append(len(kept) - 1)
        ahead_m.append(ahead)
    points = np.array(kept)
    tangents = _tangents(points)
    along = np.concatenate([[0.0], np.cumsum(_arc_lengths(points, tangents))])
    distances = np.concatenate([[0.0], along[last_point] + np.maximum(0.0, ahead_m)])
    until = np.append(along[1:], np.inf)[last_point]  # what lies before a kept point is not beyond it
    distances[1:] = np.minimum(distances[1:], until)
    distances = np.maximum.accumulate(distances)
    return Motion(
        start_pose_global=ego.pose,
        start_s=ego.time_s,
        points_m=points,
        tangents=tangents,
        along_m=along,
        distances_m=distances,
        speeds_mps=_slopes(distances, max(0.0, ego.speed_mps)),
    )


def stopping(speed_mps: float, decel_mps2: float) -> FloatArray:
    """(10, 2) waypoints in the ego frame of braking to a stop straight ahead."""
    times_s = WAYPOINT_INTERVAL_S * np.arange(1, N_WAYPOINTS + 1)
    speed = max(0.0, speed_mps)
    braking_s = np.minimum(times_s, speed / decel_mps2)
    return np.column_stack([braking_s * (speed - 0.5 * decel_mps2 * braking_s), np.zeros(N_WAYPOINTS)])


def _tangents(points: FloatArray) -> FloatArray:
    """(K, 2) unit vectors: forward at the first point, at inner ones of the parabola through three, at the last of the circle."""
    tangents = np.zeros_like(points)
    tangents[0] = 1.0, 0.0
    if len(points) == 1:
        return tangents
    chords = np.diff(points, axis=0)
    lengths = np.hypot(chords[:, 0], chords[:, 1])[:, None]
    chords = chords / lengths
    mixed = (chords[:-1] * lengths[1:] + chords[1:] * lengths[:-1]) / (lengths[:-1] + lengths[1:])
    tangents[1:-1] = mixed / np.hypot(mixed[:, 0], mixed[:, 1])[:, None]  # chords turn by less than 90 degrees: never 0
    before, chord = tangents[-2], chords[-1]
    tangents[-1] = 2.0 * (chord @ before) * chord - before
    return tangents


def _arc_lengths(points: FloatArray, tangents: FloatArray) -> FloatArray:
    """(K - 1,): of the circle arcs between points that turn as the tangents do."""
    chords = np.hypot(*np.diff(points, axis=0).T)
    cosines = np.clip((tangents[:-1] * tangents[1:]).sum(axis=1), -1.0, 1.0)
    half = np.minimum(0.5 * np.arccos(cosines), 0.25 * np.pi)  # beyond a right angle it is no arc
    return chords / np.sinc(half / np.pi)


def _slopes(distances_m: FloatArray, speed_mps: float) -> FloatArray:
    """Speeds at the waypoints' times: of the parabola through three, limited so that no cubic between two goes back."""
    mean = np.diff(distances_m) / WAYPOINT_INTERVAL_S
    inner = 0.5 * (mean[:-1] + mean[1:])
    slopes = np.concatenate([[speed_mps], inner, [1.5 * mean[-1] - 0.5 * mean[-2]]])
    least = np.minimum(np.append(mean, np.inf), np.insert(mean, 0, np.inf))  # of the two intervals that meet
    limited: FloatArray = np.clip(slopes, 0.0, 3.0 * least)
    return limited
