"""Scripted motion: how every agent of a generated scene, and a nominal ego, moves along its own path.

One numba loop over ticks. Each vehicle keeps an IDM gap (Treiber 2000) to the nearest thing on its path, obeys its lights
and stop signs, and slows for bends. Pedestrians and static things follow their speed plan and react to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from nsdrive.world.types import INTERVAL_S, FloatArray

STOP_SIGN = -2  # in `Actor.stops`: instead of a row of the light states
LATERAL_MPS2 = 2.2  # chosen by us: comfortable lateral acceleration of scripted drivers in bends
BEND_DECEL_MPS2 = 1.5  # chosen by us: how they brake towards one
PATH_STEP_M = 1.0


@dataclass(kw_only=True, eq=False)
class Actor:
    """One moving or standing thing of the script, and where it is at tick 0.

    path (N, 2): polyline that its reference point (the box centre; the rear axle for the ego) follows.
    desired_mps: one speed, or one per tick. stops: (progress of the line [m], row of the light states or STOP_SIGN).
    """

    track_id: str
    kind: str
    path: FloatArray
    start_m: float
    speed_mps: float
    desired_mps: float | FloatArray
    length_m: float
    width_m: float
    height_m: float
    stops: tuple[tuple[float, int], ...] = ()
    reacts: bool = True
    min_gap_m: float = 2.0
    headway_s: float = 1.4
    accel_mps2: float = 1.5
    decel_mps2: float = 2.5
    hardest_mps2: float = 6.0
    front_m: float | None = None  # reference point to front bumper; half the length where None
    indicator: tuple[tuple[float, float, int], ...] = ()  # (from progress, to progress, +1 left | -1 right)
    heading_rad: float | None = None  # of a standing thing
    essential: bool = False  # part of what the family is about: never dropped to make room
    dwell_s: float = 1.5  # at a stop sign


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """(actors, ticks): reference-point pose, progress, speed, acceleration, whether it is there; centres of the boxes."""

    poses: FloatArray  # (A, T, 3) reference points
    centres: FloatArray  # (A, T, 2)
    progress_m: FloatArray
    speeds_mps: FloatArray
    accels_mps2: FloatArray
    present: np.ndarray


def run_script(
    actors: Sequence[Actor],
    light_states: np.ndarray,
    junction: tuple[float, float, float],
    ticks: int,
    calm_ticks: int = 0,
) -> Motion:
    """Everyone's motion over `ticks`. The first actor is the nominal ego; its acceleration changes slowly in `calm_ticks`.

    junction: x, y, radius of the place where a stop sign lets one vehicle in at a time.
    """
    n = len(actors)
    known: dict[tuple[int, bool], FloatArray] = {}  # many actors share one path
    tables = []
    for actor in actors:
        key = (id(actor.path), actor.reacts)
        if key not in known:
            known[key] = _path_table(actor)
        tables.append(known[key])
    counts = np.array([len(t) for t in tables])
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    table = np.concatenate(tables)
    most_stops = max(1, max(len(actor.stops) for actor in actors))
    stop_at = np.full((n, most_stops), np.inf)
    stop_row = np.full((n, most_stops), -1, dtype=np.int64)
    for i, actor in enumerate(actors):
        for k, (progress_m, row) in enumerate(actor.stops):
            stop_at[i, k], stop_row[i, k] = progress_m, row
    desired = np.empty((n, ticks))
    for i, actor in enumerate(actors):
        desired[i] = actor.desired_mps
    numbers = np.array(
        [
            (
                a.length_m,
                a.width_m,
                a.length_m / 2 if a.front_m is None else a.front_m,
                a.min_gap_m,
                a.headway_s,
                a.accel_mps2,
                a.decel_mps2,
                a.hardest_mps2,
                a.dwell_s,
                a.start_m,
                a.speed_mps,
            )
            for a in actors
        ]
    )
    reacts = np.array([a.reacts for a in actors])
    if light_states.size == 0:
        light_states = np.zeros((1, ticks), dtype=np.int8)
    out = _run(
        first, counts, table, stop_at, stop_row, desired, numbers, reacts, light_states, np.array(junction), calm_ticks
    )
    poses, progress, speeds, accels, present = out
    for i, actor in enumerate(actors):
        if actor.heading_rad is not None:
            poses[i, :, 2] = actor.heading_rad
    ahead = numbers[:, 2] - numbers[:, 0] / 2  # reference point to box centre
    forward = np.stack([np.cos(poses[:, :, 2]), np.sin(poses[:, :, 2])], axis=2)
    centres = poses[:, :, :2] + ahead[:, None, None] * forward
    return Motion(
        poses=poses, centres=centres, progress_m=progress, speeds_mps=speeds, accels_mps2=accels, present=present
    )


def first_overlaps(boxes: FloatArray, present: np.ndarray) -> np.ndarray:
    """(A, A) bool: which actors' boxes, (A, T, 5), come closer than 0.1 m, or 0.3 m for the ego, at any tick."""
    return _overlaps(boxes, present)


def _path_table(actor: Actor) -> FloatArray:
    """(N, 4): x, y, heading, speed cap every PATH_STEP_M along the actor's path."""
    path = np.asarray(actor.path, dtype=float)
    if len(path) == 1:
        return np.array([[path[0, 0], path[0, 1], actor.heading_rad or 0.0, 99.0]])
    step = np.hypot(*np.diff(path, axis=0).T)
    arc = np.concatenate([[0.0], np.cumsum(step)])
    at = np.arange(0.0, arc[-1], PATH_STEP_M)
    x, y = np.interp(at, arc, path[:, 0]), np.interp(at, arc, path[:, 1])
    middle = 0.5 * (arc[1:] + arc[:-1])
    heading = np.unwrap(np.arctan2(np.diff(path[:, 1]), np.diff(path[:, 0])))
    heading = np.interp(at, middle, heading)
    cap = np.full(len(at), 99.0)
    if actor.reacts and len(at) > 3:
        curvature = np.abs(np.gradient(heading, PATH_STEP_M))
        curvature = np.convolve(np.pad(curvature, 2, mode="edge"), np.full(5, 0.2), mode="valid")
        square = LATERAL_MPS2 / np.maximum(curvature, 1e-4) + 2 * BEND_DECEL_MPS2 * at
        cap = np.sqrt(np.minimum.accumulate(square[::-1])[::-1] - 2 * BEND_DECEL_MPS2 * at)
    return np.stack([x, y, heading, cap], axis=1)


@numba.njit(cache=True)
def _run(first, counts, table, stop_at, stop_row, desired, numbers, reacts, light_states, junction, calm_ticks):
    n, ticks = desired.shape
    dt = INTERVAL_S
    poses = np.zeros((n, ticks, 3))
    progress = np.zeros((n, ticks))
    speeds = np.zeros((n, ticks))
    accels = np.zeros((n, ticks))
    present = np.ones((n, ticks), dtype=np.bool_)
    s = numbers[:, 9].copy()
    v = numbers[:, 10].copy()
    last_accel = np.zeros(n)
    waited = np.zeros(n)
    facing = np.zeros((n, 2))
    committed = np.zeros((n, stop_at.shape[1]), dtype=np.bool_)
    for t in range(ticks):
        for i in range(n):
            cell = min(max(s[i] / PATH_STEP_M, 0.0), counts[i] - 1.0)
            k = min(int(cell), max(counts[i] - 2, 0))
            f = cell - k
            q = first[i] + k
            r = q + 1 if counts[i] > 1 else q
            for c in range(3):
                poses[i, t, c] = table[q, c] * (1 - f) + table[r, c] * f
            progress[i, t] = s[i]
            speeds[i, t] = v[i]
            if counts[i] > 1 and s[i] >= (counts[i] - 1) * PATH_STEP_M - 0.5:
                present[i, t] = False
        for i in range(n):
            facing[i, 0], facing[i, 1] = np.cos(poses[i, t, 2]), np.sin(poses[i, t, 2])
        taken = _junction_taken(poses, speeds, present, t, numbers, junction, s, stop_at, stop_row)
        for i in range(n):
            if counts[i] < 2 or not present[i, t]:
                continue
            limit = desired[i, t]
            accel, decel, hardest = numbers[i, 5], numbers[i, 6], numbers[i, 7]
            if not reacts[i]:
                a = min(max((limit - v[i]) / 0.3, -4.0), 3.0)
            else:
                here = first[i] + min(int(s[i] / PATH_STEP_M), counts[i] - 1)
                limit = min(limit, table[here, 3])
                a = (
                    accel * (1 - (v[i] / limit) ** 4)
                    if v[i] <= limit and limit > 0.05
                    else max((limit - v[i]) / 0.8, -decel)
                )
                gap, lead_v = _nearest_ahead(i, t, poses, facing, speeds, present, first, counts, table, s, numbers)
                a = min(a, _follow(v[i], gap, lead_v, numbers[i, 3], numbers[i, 4], accel, decel))
                for m in range(stop_at.shape[1]):
                    left = stop_at[i, m] - s[i] - numbers[i, 2]
                    if not np.isfinite(left) or left < -1.0:
                        continue
                    row = stop_row[i, m]
                    held = False
                    if row == STOP_SIGN:
                        if not committed[i, m]:
                            held = True
                            if v[i] < 0.3 and left < 3.5:
                                waited[i] += dt
                                if waited[i] >= numbers[i, 8] and not taken:
                                    committed[i, m] = True
                                    taken = True
                                    held = False
                    elif row >= 0:
                        state = light_states[row, t]
                        if state == 0:
                            committed[i, m] = False
                        elif state == 1:
                            if not committed[i, m] and v[i] ** 2 > 2 * 3.0 * max(left - 0.5, 0.01):
                                committed[i, m] = True  # too close to stop at 3 m/s2: go on
                            held = not committed[i, m]
                        else:
                            held = not (committed[i, m] and left < 25.0)
                    if held:
                        a = min(
                            a, _follow(v[i], max(left, 0.1), 0.0, min(numbers[i, 3], 1.2), numbers[i, 4], accel, decel)
                        )
            a = min(max(a, -hardest), max(accel, 0.1) if reacts[i] else 3.0)
            if i == 0 and t < calm_ticks:
                a = min(max(a, last_accel[i] - 0.15), last_accel[i] + 0.15)
            if v[i] + a * dt < 0.0:
                a = -v[i] / dt
            accels[i, t] = a
            last_accel[i] = a
            s[i] += v[i] * dt + 0.5 * a * dt * dt
            v[i] = max(v[i] + a * dt, 0.0)
    return poses, progress, speeds, accels, present


@numba.njit(cache=True)
def _follow(v, gap, lead_v, min_gap, headway, accel, decel):
    """IDM's interaction term on top of free acceleration."""
    wanted = min_gap + max(0.0, v * headway + v * (v - lead_v) / (2 * np.sqrt(accel * decel)))
    return accel * (1 - (wanted / max(gap, 0.1)) ** 2)


@numba.njit(cache=True)
def _junction_taken(poses, speeds, present, t, numbers, junction, s, stop_at, stop_row):
    """Whether a vehicle that has passed its stop sign is still inside the junction."""
    if junction[2] <= 0:
        return False
    for j in range(poses.shape[0]):
        if not present[j, t] or speeds[j, t] < 0.2:
            continue
        for m in range(stop_at.shape[1]):
            if stop_row[j, m] == STOP_SIGN and s[j] + numbers[j, 2] > stop_at[j, m] + 0.3:
                dx, dy = poses[j, t, 0] - junction[0], poses[j, t, 1] - junction[1]
                if dx * dx + dy * dy < junction[2] ** 2:
                    return True
    return False


@numba.njit(cache=True)
def _nearest_ahead(i, t, poses, facing, speeds, present, first, counts, table, s, numbers):
    """Gap to, and speed along the path of, the nearest thing whose box reaches into i's corridor."""
    best, best_v = np.inf, 0.0
    x, y = poses[i, t, 0], poses[i, t, 1]
    v = speeds[i, t]
    reach = 25.0 + 4.0 * v
    start = int(s[i] / PATH_STEP_M)
    stop = min(counts[i] - 1, start + int(reach / PATH_STEP_M))
    ch, sh = facing[i, 0], facing[i, 1]
    for j in range(poses.shape[0]):
        if j == i or not present[j, t]:
            continue
        jx, jy, jh = poses[j, t, 0], poses[j, t, 1], poses[j, t, 2]
        dx, dy = jx - x, jy - y
        if dx * dx + dy * dy > (reach + 8.0) ** 2 or dx * ch + dy * sh < -numbers[j, 0]:
            continue
        cj, sj = facing[j, 0], facing[j, 1]
        front, back = numbers[j, 2], numbers[j, 2] - numbers[j, 0]
        # the path's nearest sample to its middle, coarsely: most things are nowhere near the corridor
        mx, my = jx + 0.5 * (front + back) * cj, jy + 0.5 * (front + back) * sj
        closest, middle = np.inf, start
        far = numbers[j, 0] / 2 + numbers[i, 1] / 2 + numbers[j, 1] / 2 + 1.5
        k = start
        while k <= stop:
            d = np.sqrt((table[first[i] + k, 0] - mx) ** 2 + (table[first[i] + k, 1] - my) ** 2)
            if d < closest:
                closest, middle = d, k
            k += max(2, int((d - far) / PATH_STEP_M))  # nothing nearer can come before that
        if closest > far + 2.0:
            continue
        q = first[i] + middle
        ct, st = np.cos(table[q, 2]), np.sin(table[q, 2])
        aside = abs(-(mx - table[q, 0]) * st + (my - table[q, 1]) * ct)
        reaches = numbers[j, 0] / 2 * abs(sj * ct - cj * st) + numbers[i, 1] / 2 + numbers[j, 1] / 2
        if middle > start and aside > reaches + 0.8:  # 0.35 of corridor, the rest for the path's own bend
            continue
        around = int(numbers[j, 0] / 2) + 4
        for c in range(5):
            along = back + (front - back) * c / 4.0
            px, py = jx + along * cj, jy + along * sj
            near, at = np.inf, middle
            for k in range(max(start, middle - around), min(stop, middle + around) + 1):
                q = first[i] + k
                d = (table[q, 0] - px) ** 2 + (table[q, 1] - py) ** 2
                if d < near:
                    near, at = d, k
            q = first[i] + at
            th = table[q, 2]
            ex, ey = px - table[q, 0], py - table[q, 1]
            lon = ex * np.cos(th) + ey * np.sin(th)
            lat = -ex * np.sin(th) + ey * np.cos(th)
            turn = abs(np.sin(jh - th))
            half = numbers[i, 1] / 2 + numbers[j, 1] / 2 * (1 - turn) + 0.35
            if abs(lat) > half or abs(lon) > 2.5:
                continue
            entry = at * PATH_STEP_M + lon - numbers[j, 1] / 2 * turn
            if entry < s[i] + numbers[i, 2] - 0.6 * numbers[i, 0]:
                continue  # beside or behind: its business
            gap = entry - s[i] - numbers[i, 2]
            if gap < best:
                best = gap
                best_v = speeds[j, t] * np.cos(jh - th)
    return best, max(best_v, 0.0)


@numba.njit(cache=True)
def _overlaps(boxes, present):
    n, ticks = boxes.shape[:2]
    hit = np.zeros((n, n), dtype=np.bool_)
    for i in range(n):
        for j in range(i + 1, n):
            reach = 0.5 * (np.hypot(boxes[i, 0, 3], boxes[i, 0, 4]) + np.hypot(boxes[j, 0, 3], boxes[j, 0, 4])) + 1.0
            margin = 0.3 if i == 0 else 0.1
            for t in range(ticks):
                if not (present[i, t] and present[j, t]):
                    continue
                dx, dy = boxes[j, t, 0] - boxes[i, t, 0], boxes[j, t, 1] - boxes[i, t, 1]
                if dx * dx + dy * dy < reach * reach and _touch(boxes[i, t], boxes[j, t], dx, dy, margin):
                    hit[i, j] = hit[j, i] = True
                    break
    return hit


@numba.njit(cache=True)
def _touch(a, b, dx, dy, margin):
    """Separating axes of two rectangles."""
    ca, sa, cb, sb = np.cos(a[2]), np.sin(a[2]), np.cos(b[2]), np.sin(b[2])
    c, s = abs(ca * cb + sa * sb), abs(ca * sb - sa * cb)
    la, wa, lb, wb = a[3] / 2, a[4] / 2, b[3] / 2, b[4] / 2
    return (
        abs(dx * ca + dy * sa) < la + lb * c + wb * s + margin
        and abs(dy * ca - dx * sa) < wa + lb * s + wb * c + margin
        and abs(dx * cb + dy * sb) < lb + la * c + wa * s + margin
        and abs(dy * cb - dx * sb) < wb + la * s + wa * c + margin
    )
