"""The loops that look for collisions of simulated proposals with the forecast: use `planners.pdm.score`.

Collisions and times to collision share one pass, because their first boxes are the same. What a proposal's first meeting with
an object says is final: it is its fault, or the object is ignored from then on (tuplan_garage `pdm_scorer.py`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from nsdrive.world.types import INTERVAL_S

AHEAD_RAD = np.deg2rad(30.0)  # nuPlan is_agent_ahead
BEHIND_RAD = np.deg2rad(150.0)  # nuPlan is_agent_behind
STANDING_EGO_MPS = 5e-2  # nuPlan get_collision_type: stopped_speed_threshold
STANDING_TTC_MPS = 5e-3  # nuPlan time_to_collision_within_bound: stopped_speed_threshold
LOOK_STEPS, LOOK_STRIDE = 4, 3  # tuplan_garage future_time_idcs: 0, 0.3, 0.6 and 0.9 s ahead


@njit(cache=True)
def boxes_meet(dx, dy, cos_a, sin_a, la, wa, cos_b, sin_b, lb, wb):
    """Whether two boxes share a point, touching included as in GEOS's `intersects`. d: from a's middle to b's; l, w: halves."""
    cos, sin = abs(cos_a * cos_b + sin_a * sin_b), abs(sin_b * cos_a - cos_b * sin_a)
    if abs(dx * cos_a + dy * sin_a) > la + (lb * cos + wb * sin):
        return False
    if abs(dy * cos_a - dx * sin_a) > wa + (lb * sin + wb * cos):
        return False
    if abs(dx * cos_b + dy * sin_b) > lb + (la * cos + wa * sin):
        return False
    return abs(dy * cos_b - dx * sin_b) <= wb + (la * sin + wa * cos)


@njit(cache=True)
def bearing(cos, sin, dx, dy, exact):
    """Angle between a heading and a point seen from it, 0 to pi.

    nuPlan takes the arc cosine of what rounding may lift above 1: for a point dead ahead or behind the angle is then nan, and
    the point neither ahead nor behind. `exact` mends that.
    """
    norm = np.sqrt(dx * dx + dy * dy)
    if norm == 0.0:
        return np.nan
    cosine = cos * (dx / norm) + sin * (dy / norm)
    if exact:
        cosine = min(max(cosine, -1.0), 1.0)
    return np.arccos(cosine)


@njit(cache=True)
def first_hits(
    states,
    centers,
    careful,
    crossing,
    half_length,
    half_width,
    boxes,
    velocities,
    agent,
    standing,
    skip,
    object_speeds,
    bend_of,
    bends,
    every,
    exact,
):
    """(P, 7) float: value, its time index and object; first at-fault time index and object; first TTC time index and object.

    states (P, T, 8) and centers (P, T, 2) of the simulated ego. careful (P, T): in several lanes or off the road. crossing
    (P, T): in an intersection. boxes (N, 5), velocities (N, 2), agent, standing, skip (N,): the forecast, which moves every
    `every` intervals. object_speeds (N,), bend_of (N,), bends (S, M, 3): who turns with its lane (`Forecast.bends`); a look
    ahead from there goes straight on, as nuPlan's does. -1 where there is none.
    """
    count, ticks, things = states.shape[0], states.shape[1], boxes.shape[0]
    out = np.full((count, 7), -1.0)
    out[:, 0] = 1.0
    near = _within_reach(states, centers, half_length, half_width, boxes, velocities, skip, bend_of, bends, every)
    if near.shape[0] == 0:
        return out
    cos_o, sin_o, reach_o = np.cos(boxes[:, 2]), np.sin(boxes[:, 2]), np.empty(things)
    for n in range(things):
        reach_o[n] = 0.5 * np.sqrt(boxes[n, 3] ** 2 + boxes[n, 4] ** 2)
    reach_e = np.sqrt(half_length * half_length + half_width * half_width) + 1e-6
    met = np.zeros((count, things), dtype=np.bool_)  # in a collision
    seen = np.zeros((count, things), dtype=np.bool_)  # on the way to one
    hit_open, look_open = np.ones(count, dtype=np.bool_), np.ones(count, dtype=np.bool_)
    speeds, cos_e, sin_e = np.empty(count), np.empty(count), np.empty(count)
    x, y, active = np.empty(count), np.empty(count), np.zeros(count, dtype=np.bool_)
    ox, oy, candidates = np.empty(things), np.empty(things), np.empty(things, dtype=np.int64)
    for t in range(ticks):
        for p in range(count):
            speeds[p] = np.hypot(states[p, t, 3], states[p, t, 6])
            cos_e[p], sin_e[p] = np.cos(states[p, t, 2]), np.sin(states[p, t, 2])
        for step in range(LOOK_STEPS):
            ahead_s = step * LOOK_STRIDE * INTERVAL_S
            x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
            for p in range(count):
                looking = look_open[p] and speeds[p] >= STANDING_TTC_MPS
                active[p] = looking or (step == 0 and hit_open[p])
                if active[p]:
                    x[p] = centers[p, t, 0] + cos_e[p] * speeds[p] * ahead_s
                    y[p] = centers[p, t, 1] + sin_e[p] * speeds[p] * ahead_s
                    x0, x1, y0, y1 = min(x0, x[p]), max(x1, x[p]), min(y0, y[p]), max(y1, y[p])
            moved_s = every * ((t + step * LOOK_STRIDE) // every) * INTERVAL_S
            found = 0
            for i in range(near.shape[0]):
                n = near[i]
                bend = bend_of[n]
                if bend < 0:
                    ox[n], oy[n] = boxes[n, 0] + moved_s * velocities[n, 0], boxes[n, 1] + moved_s * velocities[n, 1]
                else:
                    sample = min(t // every, bends.shape[0] - 1)
                    if step == 0:
                        cos_o[n], sin_o[n] = np.cos(bends[sample, bend, 2]), np.sin(bends[sample, bend, 2])
                    ox[n] = bends[sample, bend, 0] + ahead_s * object_speeds[n] * cos_o[n]
                    oy[n] = bends[sample, bend, 1] + ahead_s * object_speeds[n] * sin_o[n]
                reach = reach_e + reach_o[n]
                if x0 - reach <= ox[n] <= x1 + reach and y0 - reach <= oy[n] <= y1 + reach:
                    candidates[found] = n
                    found += 1
            if found == 0:
                continue
            for p in range(count):
                if not active[p]:
                    continue
                for i in range(found):
                    n = candidates[i]
                    dx, dy, reach = ox[n] - x[p], oy[n] - y[p], reach_e + reach_o[n]
                    if not dx * dx + dy * dy <= reach * reach:  # false for nan, too
                        continue
                    hit_new = step == 0 and hit_open[p] and not met[p, n]
                    look_new = look_open[p] and not seen[p, n] and speeds[p] >= STANDING_TTC_MPS
                    if not (hit_new or look_new):
                        continue
                    lo, wo = 0.5 * boxes[n, 3], 0.5 * boxes[n, 4]
                    if not boxes_meet(dx, dy, cos_e[p], sin_e[p], half_length, half_width, cos_o[n], sin_o[n], lo, wo):
                        continue
                    angle = bearing(cos_e[p], sin_e[p], ox[n] - states[p, t, 0], oy[n] - states[p, t, 1], exact)
                    if hit_new:
                        met[p, n] = True
                        fault = False
                        if speeds[p] <= STANDING_EGO_MPS:
                            pass
                        elif standing[n]:
                            fault = True
                        elif not angle > BEHIND_RAD:
                            nose_x, nose_y = x[p] + half_length * cos_e[p], y[p] + half_length * sin_e[p]
                            fault = careful[p, t] or boxes_meet(
                                ox[n] - nose_x,
                                oy[n] - nose_y,
                                cos_e[p],
                                sin_e[p],
                                0.0,
                                half_width,
                                cos_o[n],
                                sin_o[n],
                                lo,
                                wo,
                            )
                        if fault:
                            value = 0.0 if agent[n] else 0.5
                            if out[p, 3] < 0.0 or (out[p, 3] == t and value < out[p, 0]):
                                out[p, 3], out[p, 4] = t, n
                            if value < out[p, 0]:
                                out[p, 0], out[p, 1], out[p, 2] = value, t, n
                                hit_open[p] = value > 0.0
                    if look_new:
                        seen[p, n] = True
                        if angle < AHEAD_RAD or ((careful[p, t] or crossing[p, t]) and not angle > BEHIND_RAD):
                            out[p, 5], out[p, 6] = t, n
                            look_open[p] = False
    return out


@njit(cache=True)
def _within_reach(states, centers, half_length, half_width, boxes, velocities, skip, bend_of, bends, every):
    """Indices of the objects whose way meets, some time, the rectangle that all proposals stay in."""
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    ahead_s = (LOOK_STEPS - 1) * LOOK_STRIDE * INTERVAL_S
    for p in range(states.shape[0]):
        for t in range(states.shape[1]):
            go = np.hypot(states[p, t, 3], states[p, t, 6]) * ahead_s
            for x in (centers[p, t, 0], centers[p, t, 0] + go * np.cos(states[p, t, 2])):
                if x < x0:
                    x0 = x
                if x > x1:
                    x1 = x
            for y in (centers[p, t, 1], centers[p, t, 1] + go * np.sin(states[p, t, 2])):
                if y < y0:
                    y0 = y
                if y > y1:
                    y1 = y
    last_s = (states.shape[1] + (LOOK_STEPS - 1) * LOOK_STRIDE) * INTERVAL_S
    found, n = np.empty(boxes.shape[0], dtype=np.int64), 0
    for k in range(boxes.shape[0]):
        reach = np.hypot(half_length, half_width) + 0.5 * np.hypot(boxes[k, 3], boxes[k, 4]) + 1e-6
        dx, dy = last_s * velocities[k, 0], last_s * velocities[k, 1]
        far_x = boxes[k, 0] + max(0.0, dx) < x0 - reach or boxes[k, 0] + min(0.0, dx) > x1 + reach
        far_y = boxes[k, 1] + max(0.0, dy) < y0 - reach or boxes[k, 1] + min(0.0, dy) > y1 + reach
        if not (skip[k] or (bend_of[k] < 0 and (far_x or far_y))):
            found[n] = k
            n += 1
    return found[:n]
