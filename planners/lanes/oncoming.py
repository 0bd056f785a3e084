"""Whether there is time to drive where others come from ahead: who is coming, and how far one can see.

Before the ego leaves its lane, everyone who comes towards it must be later at the place where it is back than the ego itself,
by a margin. Road that cannot be seen is taken to hold a car at the speed limit: that is the passing sight distance of road
design (AASHTO, "A Policy on Geometric Design of Highways and Streets", 7th edition, section 3.2.4), asked at every tick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nsdrive.world.geometry import Path, box_corners
from nsdrive.world.types import FloatArray
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.frenet import Placed


@dataclass(frozen=True, kw_only=True)
class OncomingParameters:
    """Numbers of the view and of the time that is kept free."""

    oncoming_margin_s: float = 2.0  # chosen by us: the ego is back this long before someone oncoming is there
    unseen_margin_s: float = 0.5  # chosen by us: the same for a car that may come out of what is not seen
    oncoming_continue: float = 0.4  # chosen by us: share of the margins once the ego is on its way round
    oncoming_side_m: float = 0.35  # chosen by us: room beside someone oncoming, who then does not conflict at all
    view_m: float = 200.0  # chosen by us: no further than this, whatever the weather
    tall_m: float = 2.0  # chosen by us: what is higher than this hides what is behind it from a sensor on the roof
    verge_m: float = 8.0  # chosen by us: a line of sight that leaves the lane's middle further than this meets a hedge
    waiting_mps: float = 0.5  # chosen by us: who comes at less than this is waiting


@dataclass(frozen=True, kw_only=True)
class OncomingGap:
    """The time there is for a way round. needs_s: until the ego is back in its lane, exposed_s of it over the line. arrives_s:
    until the first of the oncoming is where it comes back, inf where nobody comes. about: who that is. view_m: how far the ego
    sees along that lane. unseen_s: how long a car at the speed limit needs from beyond the view. free: it may go."""

    needs_s: float
    exposed_s: float
    arrives_s: float
    about: str | None
    view_m: float
    unseen_s: float
    free: bool


def oncoming_gap(
    placed: Placed,
    *,
    progress_m: float,
    back_m: float,
    offset_m: float,
    needs_s: float,
    exposed_s: float,
    view_m: float,
    limit_mps: float,
    parameters: OncomingParameters,
    begun: bool = False,
    enters_s: float = 0.0,
    enters_m: float = math.inf,
) -> OncomingGap:
    """Whether the ego, rear axle now at `progress_m`, may drive `offset_m` beside the lane's middle until `back_m`, where it is
    after `needs_s`, of which it is over the line for `exposed_s`: until then it can still stay behind. placed: everybody in that
    lane's coordinates. begun: it is on its way, and smaller margins will do. enters_s, enters_m: when and where the ego's nose
    first is over the line: who has passed it by then does not conflict."""
    p = parameters
    share = p.oncoming_continue if begun else 1.0
    beside = np.abs(placed.offset_m - offset_m) - placed.half_across_m
    coming = (beside < 0.5 * PACIFICA.width_m + p.oncoming_side_m) & (placed.kinds <= 1) & ~placed.beyond
    coming &= (placed.along_mps < -p.waiting_mps) & (placed.front_m > progress_m - PACIFICA.rear_m)
    if enters_m < math.inf:
        coming &= placed.front_m + placed.along_mps * enters_s > enters_m
    rows = np.flatnonzero(coming)
    arrives, about = math.inf, None
    nose = back_m + PACIFICA.front_m
    if len(rows):
        times = (placed.rear_m[rows] - nose) / -placed.along_mps[rows]
        k = int(np.argmin(times))
        arrives, about = max(0.0, float(times[k])), placed.ids[rows[k]]
    unseen = max(0.0, view_m - (nose - progress_m)) / max(limit_mps, 1.0)
    free = arrives >= needs_s + share * p.oncoming_margin_s and unseen >= exposed_s + share * p.unseen_margin_s
    return OncomingGap(
        needs_s=needs_s, exposed_s=exposed_s, arrives_s=arrives, about=about, view_m=view_m, unseen_s=unseen, free=free
    )


def seen_m(
    path: Path,
    progress_m: float,
    offset_m: float,
    boxes: FloatArray,
    heights_m: FloatArray,
    parameters: OncomingParameters,
    *,
    eye_offset_m: float = 0.0,
    step_m: float = 10.0,
) -> float:
    """How far ahead of `progress_m` a lane `offset_m` beside the path is seen from a sensor over the front axle.

    Sight ends at the first place that a tall object hides (boxes (N, 5), heights_m (N,)), in a bend where the line of sight
    would leave the road, at the path's end, and at `view_m`. eye_offset_m: of the sensor beside the path's middle.
    """
    p = parameters
    eye_m = progress_m + PACIFICA.wheel_base_m
    reach = min(p.view_m, path.length_m - eye_m)
    if reach <= step_m:
        return max(0.0, reach)
    at = eye_m + np.arange(step_m, reach + 1e-6, step_m)
    eye = _beside(path, np.array([eye_m]), eye_offset_m)[0]
    targets = _beside(path, at, offset_m)
    tall = box_corners(boxes[heights_m >= p.tall_m]) if len(boxes) else np.zeros((0, 4, 2))
    i, j = path.index_at(eye_m), path.index_at(float(at[-1])) + 1
    points, progress = path.points[i:j], path.progress_m[i:j]
    for k, target in enumerate(targets):
        chord = target - eye
        length = float(np.hypot(*chord))
        between = points[progress <= at[k]] - eye
        aside = np.abs(between[:, 0] * chord[1] - between[:, 1] * chord[0]) / length
        if (len(aside) and float(aside.max()) > p.verge_m) or _hidden(eye, target, tall):
            return k * step_m
    return reach


def _hidden(eye: FloatArray, target: FloatArray, corners: FloatArray) -> bool:
    """Whether the segment from eye to target meets any of (N, 4, 2) boxes: an end inside, or an edge crossed."""
    if len(corners) == 0:
        return False
    a, b = corners, np.roll(corners, -1, axis=1)
    edge, sight = b - a, target - eye
    side_a = sight[0] * (a[..., 1] - eye[1]) - sight[1] * (a[..., 0] - eye[0])
    side_b = sight[0] * (b[..., 1] - eye[1]) - sight[1] * (b[..., 0] - eye[0])
    side_eye = edge[..., 0] * (eye[1] - a[..., 1]) - edge[..., 1] * (eye[0] - a[..., 0])
    side_target = edge[..., 0] * (target[1] - a[..., 1]) - edge[..., 1] * (target[0] - a[..., 0])
    return bool(((side_a * side_b < 0.0) & (side_eye * side_target < 0.0)).any())


def _beside(path: Path, progress: FloatArray, offset_m: float) -> FloatArray:
    poses = path.pose_at(progress)
    return np.column_stack([poses[:, 0] - offset_m * np.sin(poses[:, 2]), poses[:, 1] + offset_m * np.cos(poses[:, 2])])
