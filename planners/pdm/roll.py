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
    ranks = np.empty(count + begins.shape[0] - 1, dtype=np.int64)
    boxes, around, lamps = (
        np.empty((count, 4, 2)),
        np.empty((count, 4)),
        _lamps(edges, begins, light_progress, light_inside),
    )
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
                _place(corners, velocities, inside[sample], samples[sample] * dt, boxes, around)
                ranks[:1], last_sample = -1, sample
        for f in range(proposals):
            s, v = idm[f, k - 1, 0], idm[f, k - 1, 1]
            if not update:
                leads[f, k] = leads[f, k - 1]
            else:
                _ego_box(poses[f, k - 1], size, ego)
                for _ in range(2):  # again, where it takes ranks to decide
                    which, nearest = _nearest(
                        ego, s, before[f], points, progress, blocks, boxes, around, inside[sample], outlines, edges, begins,
                        lamps, ranks
                    )  # fmt: skip
                    if which != -2:
                        break
                    _rank(corners, velocities, samples[sample] * dt, outlines, begins, ranks)
                before[f] = which if which < count else -1
                kind, lead_speed = NOTHING, 0.0
                if which >= count:
                    kind = LIGHT
                    doubtful = doubtful or light_inside[which - count] == UNSURE
                elif which >= 0:
                    kind = OBJECT
                    doubtful = doubtful or inside[sample, which] == UNSURE
                    heading, at_heading = object_headings[which], poses[f, k - 1, 2]
                    lead_speed = _projected(speeds[which], heading, velocities[which], at_heading, mended)
                if f == 0 or mended > 0.0:
                    left_speed, left_rear = 0.0, 0.0
                if kind == OBJECT:
                    left_speed = lead_speed
                elif kind == NOTHING:
                    left_rear = rear
                leads[f, k, 0] = length if kind == NOTHING else s + nearest
                leads[f, k, 1], leads[f, k, 2] = left_speed, left_rear
                if kind != NOTHING and found[f, 0] == NOTHING:
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
def _nearest(ego, s, first, points, progress, blocks, boxes, around, inside, outlines, edges, begins, lamps, ranks):
    """Row of what is nearest to the ego's box of all that is ahead in the corridor, objects then lights, and its distance.

    first: the row to look at before the others, the last lead, which rules most of them out; -1 for none. around (N, 4): the
    objects' circles and progress, nan where not yet known. lamps (L, 5): the lights' too, and whether in the corridor. ranks
    decide between equally near ones. (-1, inf) where nothing is ahead, (-2, ...) where ranks are needed and not known, -1.
    """
    count = boxes.shape[0]
    cx, cy = 0.5 * (ego[0, 0] + ego[2, 0]), 0.5 * (ego[0, 1] + ego[2, 1])
    radius = np.sqrt((ego[0, 0] - cx) ** 2 + (ego[0, 1] - cy) ** 2) + 1e-6
    which, nearest = -1, np.inf
    for place in range(-1, count + lamps.shape[0]):
        n = first if place < 0 else place
        if n < 0 or (place >= 0 and n == first):
            continue
        if n < count:
            if inside[n] == OUTSIDE:
                continue
            dx, dy, reach = around[n, 0] - cx, around[n, 1] - cy, nearest + radius + around[n, 2]
            if dx * dx + dy * dy > reach * reach:
                continue
            if np.isnan(around[n, 3]):
                around[n, 3] = project(points, progress, blocks, around[n, 0], around[n, 1])
            if not around[n, 3] > s:
                continue
            d = box_distance(ego, boxes[n])
        else:
            m = n - count
            if lamps[m, 4] == OUTSIDE or not lamps[m, 3] > s:
                continue
            dx, dy, reach = lamps[m, 0] - cx, lamps[m, 1] - cy, nearest + radius + lamps[m, 2]
            if dx * dx + dy * dy > reach * reach:
                continue
            of = slice(begins[m], begins[m + 1])
            d = polygon_distance(ego, outlines[of], edges[of], nearest)
        if d > nearest:
            continue
        if d == nearest:
            if ranks[0] < 0:
                return -2, nearest
            if ranks[n] > ranks[which]:
                continue
        which, nearest = n, d
    return which, nearest


@njit(cache=True)
def begin(path, x, y, speed, poses, idm):
    """The first state of F proposals: the path's point nearest to the ego, at the ego's speed."""
    points, headings, progress, blocks = path
    start = project(points, progress, blocks, x, y)
    for f in range(poses.shape[0]):
        idm[f, 0, 0], idm[f, 0, 1] = start, speed
        pose_into(points, headings, progress, start, poses[f, 0])


@njit(cache=True)
def _lamps(edges, begins, along, inside):
    """(L, 5): centre and radius of a circle around each light's polygon, its progress, and whether it is in the corridor."""
    out = np.zeros((begins.shape[0] - 1, 5))
    for m in range(out.shape[0]):
        first, last = begins[m], begins[m + 1]
        if last <= first:
            continue
        x, y = np.mean(edges[first:last, 0]), np.mean(edges[first:last, 1])
        for k in range(first, last):
            out[m, 2] = max(out[m, 2], np.sqrt((edges[k, 0] - x) ** 2 + (edges[k, 1] - y) ** 2) + edges[k, 2])
        out[m, 0], out[m, 1], out[m, 3], out[m, 4] = x, y, along[m], inside[m]
    return out


@njit(cache=True)
def _place(corners, velocities, inside, elapsed, boxes, around):
    """Of the objects in the corridor the boxes (N, 4, 2) at a sample, and around (N, 4): a circle, and progress, still nan."""
    for n in range(corners.shape[0]):
        if inside[n] == OUTSIDE:
            continue
        for c in range(4):
            boxes[n, c, 0] = corners[n, c, 0] + elapsed * velocities[n, 0]
            boxes[n, c, 1] = corners[n, c, 1] + elapsed * velocities[n, 1]
        x, y = 0.5 * (boxes[n, 0, 0] + boxes[n, 2, 0]), 0.5 * (boxes[n, 0, 1] + boxes[n, 2, 1])
        around[n, 0], around[n, 1], around[n, 3] = x, y, np.nan
        around[n, 2] = np.sqrt((boxes[n, 0, 0] - x) ** 2 + (boxes[n, 0, 1] - y) ** 2)


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
