"""The roll-out of all speeds along one path, as a loop over arrays of floats: use `planners.pdm.generate`.

States are progress and speed; a lead is its progress, its speed and what is taken off its progress (`rear`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from planners.pdm.corridor import OUTSIDE, UNSURE, box_corners, box_distance, polygon_distance
from planners.pdm.paths import pose_into, project
from planners.pdm.tree import tree_ranks

NOTHING, OBJECT, LIGHT = 0, 1, 2


@njit(cache=True)
def roll(
    path,
    objects,
    lights,
    law,
    targets,
    first_step,
    poses,
    idm,
    leads,
    found,
):
    """Roll F proposals on from the first step to the last, into poses (F, T, 3), idm (F, T, 2) and leads (F, T, 3).

    path: points, headings, progress, blocks. objects: corners (N, 4, 2) now, velocities (N, 2), headings (N,), speeds (N,),
    inside (S, N), the S samples' steps. lights: all polygons' points (K, 2) and `edges_of`, where each begins (L + 1,),
    progress (L,), inside (L,). law: see `generate._Law`. targets (F,): target speeds. found (F, 6): the first
    lead of each proposal: kind, index, gap, speed, step, ego speed; kind NOTHING where there is none yet.
    Returns whether any lead taken is one of which it is UNSURE whether it is in the corridor.
    """
    points, headings, progress, blocks = path
    corners, velocities, object_headings, speeds, inside, samples = objects
    outlines, edges, begins, light_progress, light_inside = lights
    dt, s0, headway, a, b, exponent, clamp, mended, every, rear, size = law
    length = progress[-1]
    count, proposals = corners.shape[0], targets.shape[0]
    ranks, ranked = np.empty(count + light_progress.shape[0], dtype=np.int64), -1
    boxes, middles, along = np.empty((count, 4, 2)), np.empty((count, 3)), np.empty(count)
    radius = np.sqrt(size[0] ** 2 + size[1] ** 2)
    rounds = _rounds(edges, begins)
    ego, last_sample = np.empty((4, 2)), -1
    root = 2.0 * np.sqrt(a * b)
    doubtful, before = False, np.full(proposals, -1)
    left_speed, left_rear = 0.0, 0.0  # what the proposal before leaves behind, see PdmParameters
    for k in range(first_step, poses.shape[1]):
        if mended > 0.0:
            update, at = (k - 1) % int(every) == 0, k - 1
        else:
            update, at = k % int(every) == 0, k
        if update:
            sample = int(np.searchsorted(samples, at, side="right")) - 1
            if sample != last_sample:
                _place(corners, velocities, inside[sample], samples[sample] * dt, boxes, middles)
                along[:] = np.nan
                last_sample = sample
        for f in range(proposals):
            s, v = idm[f, k - 1, 0], idm[f, k - 1, 1]
            if not update:
                leads[f, k] = leads[f, k - 1]
            else:
                _ego_box(poses[f, k - 1], size, ego)
                nearest, kind, which, lead_speed = np.inf, NOTHING, -1, 0.0
                cx, cy = 0.5 * (ego[0, 0] + ego[2, 0]), 0.5 * (ego[0, 1] + ego[2, 1])
                for place in range(-1, count):  # the lead of the last look first, which rules most others out
                    n = before[f] if place < 0 else place
                    if n < 0 or (place >= 0 and n == before[f]) or inside[sample, n] == OUTSIDE:
                        continue
                    dx, dy, reach = middles[n, 0] - cx, middles[n, 1] - cy, nearest + radius + middles[n, 2] + 1e-6
                    if dx * dx + dy * dy > reach * reach:
                        continue
                    if np.isnan(along[n]):
                        along[n] = project(points, progress, blocks, middles[n, 0], middles[n, 1])
                    if not along[n] > s:
                        continue
                    d = box_distance(ego, boxes[n])
                    if d > nearest:
                        continue
                    if d == nearest:
                        if ranked != sample:
                            _rank(corners, velocities, samples[sample] * dt, outlines, begins, ranks)
                            ranked = sample
                        if ranks[n] > ranks[which]:
                            continue
                    nearest, kind, which = d, OBJECT, n
                for m in range(light_progress.shape[0]):
                    if light_inside[m] == OUTSIDE or not light_progress[m] > s:
                        continue
                    dx, dy, reach = rounds[m, 0] - cx, rounds[m, 1] - cy, nearest + radius + rounds[m, 2] + 1e-6
                    if dx * dx + dy * dy > reach * reach:
                        continue
                    of = slice(begins[m], begins[m + 1])
                    d = polygon_distance(ego, outlines[of], edges[of], nearest)
                    if d > nearest:
                        continue
                    if d == nearest:
                        if ranked != sample:
                            _rank(corners, velocities, samples[sample] * dt, outlines, begins, ranks)
                            ranked = sample
                        if ranks[count + m] > ranks[which]:
                            continue
                    nearest, kind, which = d, LIGHT, count + m
                before[f] = which if kind == OBJECT else -1
                if kind == OBJECT:
                    doubtful = doubtful or inside[sample, which] == UNSURE
                    heading, at_heading = object_headings[which], poses[f, k - 1, 2]
                    lead_speed = _projected(speeds[which], heading, velocities[which], at_heading, mended)
                elif kind == LIGHT:
                    doubtful = doubtful or light_inside[which - count] == UNSURE
                if f == 0 or mended > 0.0:
                    left_speed, left_rear = 0.0, 0.0
                if kind == OBJECT:
                    left_speed = lead_speed
                if kind == NOTHING:
                    left_rear = rear
                leads[f, k, 0], leads[f, k, 1], leads[f, k, 2] = s + nearest, left_speed, left_rear
                if kind == NOTHING:
                    leads[f, k, 0] = length
                else:
                    if found[f, 0] == NOTHING:
                        found[f, 0], found[f, 1] = kind, which - (count if kind == LIGHT else 0)
                        found[f, 2], found[f, 3], found[f, 4], found[f, 5] = nearest, lead_speed, k, v
            gap = max(leads[f, k, 0] - s - leads[f, k, 2], s0)
            wanted = v * headway + (v * (v - leads[f, k, 1])) / root
            needed = s0 + (max(0.0, wanted) if clamp > 0.0 else wanted)
            accel = a * (1.0 - (v / targets[f]) ** exponent - (needed / gap) ** 2)
            accel = min(max(accel, -b), a)
            idm[f, k, 0] = s + dt * v
            idm[f, k, 1] = v + dt * accel
            if mended > 0.0:
                idm[f, k, 1] = max(0.0, idm[f, k, 1])
            pose_into(points, headings, progress, idm[f, k, 0], poses[f, k])
    return doubtful


@njit(cache=True)
def begin(path, x, y, speed, poses, idm):
    """The first state of F proposals: the path's point nearest to the ego, at the ego's speed."""
    points, headings, progress, blocks = path
    start = project(points, progress, blocks, x, y)
    for f in range(poses.shape[0]):
        idm[f, 0, 0], idm[f, 0, 1] = start, speed
        pose_into(points, headings, progress, start, poses[f, 0])


@njit(cache=True)
def _rounds(edges, begins):
    """(L, 3): centre and radius of a circle around each light's polygon."""
    out = np.zeros((begins.shape[0] - 1, 3))
    for m in range(out.shape[0]):
        first, last = begins[m], begins[m + 1]
        if last <= first:
            continue
        x, y = np.mean(edges[first:last, 0]), np.mean(edges[first:last, 1])
        for k in range(first, last):
            out[m, 2] = max(out[m, 2], np.sqrt((edges[k, 0] - x) ** 2 + (edges[k, 1] - y) ** 2) + edges[k, 2])
        out[m, 0], out[m, 1] = x, y
    return out


@njit(cache=True)
def _place(corners, velocities, inside, elapsed, boxes, middles):
    """Boxes (N, 4, 2) at a sample, and the circles around them (N, 3), of the objects in the corridor."""
    for n in range(corners.shape[0]):
        if inside[n] == OUTSIDE:
            continue
        for c in range(4):
            boxes[n, c, 0] = corners[n, c, 0] + elapsed * velocities[n, 0]
            boxes[n, c, 1] = corners[n, c, 1] + elapsed * velocities[n, 1]
        x, y = 0.5 * (boxes[n, 0, 0] + boxes[n, 2, 0]), 0.5 * (boxes[n, 0, 1] + boxes[n, 2, 1])
        middles[n, 0], middles[n, 1] = x, y
        middles[n, 2] = np.sqrt((boxes[n, 0, 0] - x) ** 2 + (boxes[n, 0, 1] - y) ** 2)


@njit(cache=True)
def _rank(corners, velocities, elapsed, outlines, begins, ranks):
    """The order in which the public code's search tree holds boxes and lights at a sample."""
    count, lights = corners.shape[0], begins.shape[0] - 1
    bounds = np.empty((count + lights, 4))
    for n in range(count + lights):
        x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
        if n < count:
            for c in range(4):
                x = corners[n, c, 0] + elapsed * velocities[n, 0]
                y = corners[n, c, 1] + elapsed * velocities[n, 1]
                x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
        else:
            for i in range(begins[n - count], begins[n - count + 1]):
                x, y = outlines[i, 0], outlines[i, 1]
                x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
        bounds[n, 0], bounds[n, 1], bounds[n, 2], bounds[n, 3] = x0, y0, x1, y1
    tree_ranks(bounds, ranks)


@njit(cache=True)
def _projected(speed, heading, velocity, ego_heading, mended):
    """Speed of a lead along the ego's heading."""
    if mended > 0.0:
        return velocity[0] * np.cos(ego_heading) + velocity[1] * np.sin(ego_heading)
    away = heading - ego_heading
    return speed * np.cos(np.arctan2(np.sin(away), np.cos(away)))


@njit(cache=True)
def _ego_box(pose, size, out):
    """Corners (4, 2) of the ego whose rear axle is at a pose; size: half length, half width, rear axle to centre."""
    x, y = pose[0] + size[2] * np.cos(pose[2]), pose[1] + size[2] * np.sin(pose[2])
    box_corners(x, y, pose[2], size[0], size[1], out)
