"""Edits of tracked objects: remove, add, slow down or stop, move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nsdrive.world.edits_scene import WORDS, Applied, Before, check_free, put
from nsdrive.world.geometry import Path, wrap_angle
from nsdrive.world.measure import off_road_m
from nsdrive.world.types import INTERVAL_S, FloatArray, TrackedObject
from nsdrive.world.vehicle import PACIFICA

SIZES = {  # length, width, height [m]; chosen by us, what the generated scenes have
    "vehicle": (4.6, 1.85, 1.45),
    "bicycle": (1.8, 0.65, 1.75),
    "pedestrian": (0.6, 0.6, 1.75),
    "traffic_cone": (0.4, 0.4, 0.75),
    "barrier": (0.5, 2.0, 1.0),
}
OFF_ROAD_M = 0.8  # chosen by us: who stands so far off the road, at least, has nothing to do with who drives on it
BESIDE_AT_MOST_M = 16.0  # chosen by us: from the ego's way; beyond, a wide road has no side to speak of
STANDS_MPS = 0.2
FOLLOWS_M, FOLLOWS_RAD = 2.0, 0.6  # chosen by us: who ends so near the ego's way, in its direction, goes on along it


def removed(before: Before, what: str, groups: Mapping[str, Sequence[str]]) -> Applied:
    """Without one object, or all of some kinds, at every tick. groups: what may be said -> kinds, as in OBJECT_KINDS."""
    scenario = before.scenario
    if what in groups:
        kinds = groups[what]
        ids = frozenset(t.track_id for frame in scenario.frames for t in frame if t.kind in kinds)
        if not ids:
            raise ValueError(f"There are no {what} to remove" if what != "everyone" else "There is nobody to remove")
        about, words = None, f"all {what} are gone" if what != "everyone" else "everyone is gone"
    else:
        about = before.track_id(what, groups)
        ids, words = frozenset([about]), f"{before.words(about)} is gone"
    frames = tuple(frame.without(ids) if ids.intersection(frame.ids) else frame for frame in scenario.frames)
    return Applied(scenario=replace(scenario, frames=frames), about=about, words=words)


def added(before: Before, kind: str, distance_m: float, speed_mps: float, where: str | None) -> Applied:
    """With one object more from the anchor on. distance_m: along the ego's way, from its front bumper to the object's nearest
    part, or from its rear bumper for one behind. A pedestrian in the way looks across the road."""
    length, width, height = SIZES[kind]
    path, scenario = before.path, before.scenario
    across = kind in ("pedestrian", "barrier") and not speed_mps
    half = 0.5 * (width if across else length)
    at = before.front_m + distance_m + half
    if where == "behind":
        at = before.progress_m - (PACIFICA.length_m - PACIFICA.front_m) - distance_m - half
    if not 0.0 <= at <= path.length_m:
        raise ValueError(f"The ego's way does not reach {distance_m:g} m {where or 'ahead'}")
    aside_m = _beside(before, kind, at) if where == "beside" else 0.0
    taken = {track_id for frame in scenario.frames for track_id in frame.ids}
    number = next(n for n in range(1, len(taken) + 2) if f"added-{WORDS[kind]}-{n}" not in taken)
    track_id = f"added-{WORDS[kind]}-{number}"
    things = {}
    for tick in range(before.tick, scenario.n_ticks):
        progress = at + speed_mps * (tick - before.tick) * INTERVAL_S
        x, y, heading = _on(path, progress, aside_m)
        things[tick] = TrackedObject(
            track_id=track_id,
            kind=kind,
            x_m=x,
            y_m=y,
            heading_rad=float(wrap_angle(heading + np.pi / 2)) if across else heading,
            length_m=length,
            width_m=width,
            height_m=height,
            vx_mps=speed_mps * float(np.cos(heading)),
            vy_mps=speed_mps * float(np.sin(heading)),
            accel_mps2=0.0,
            indicator=0,
        )
    after = put(scenario, things)
    place = {None: "ahead in the ego's way", "beside": "ahead, beside the road", "behind": "behind the ego"}[where]
    does = f"moves at {speed_mps:g} m/s" if speed_mps else "stands"
    check_free(before, after, (track_id,), f"A {WORDS[kind]} {distance_m:g} m {place}")
    return Applied(scenario=after, about=track_id, words=f"a {WORDS[kind]} {does} {distance_m:g} m {place}")


def speed_set(before: Before, who: str, speed_mps: float) -> Applied:
    """One object at a constant speed from the anchor on, along the way that it took, and on along the ego's if it shares it."""
    track_id = before.track_id(who)
    thing = before.thing(track_id)
    if abs(thing.speed_mps - speed_mps) < STANDS_MPS and _keeps_speed(before, track_id, speed_mps):
        raise ValueError(f"{track_id} has that speed already")
    poses = _driven(before, track_id, speed_mps)
    things = {}
    for k, (x, y, heading) in enumerate(poses):
        things[before.tick + k] = replace(
            thing,
            x_m=float(x),
            y_m=float(y),
            heading_rad=float(heading),
            vx_mps=speed_mps * float(np.cos(heading)),
            vy_mps=speed_mps * float(np.sin(heading)),
            accel_mps2=0.0,
        )
    after = put(before.scenario, things)
    check_free(before, after, (track_id,), f"{track_id} at {speed_mps:g} m/s")
    does = f"moves at {speed_mps:g} m/s from here on" if speed_mps else "stands from here on"
    return Applied(scenario=after, about=track_id, words=f"{before.words(track_id)} {does}")


def gap_set(before: Before, who: str, gap_m: float) -> Applied:
    """One object on the ego's way moved along it, at every tick, so that its gap at the anchor is `gap_m`."""
    track_id = before.track_id(who)
    if before.lead is None or before.lead[0] != track_id:
        raise ValueError(f"{who} is not the lead; only its gap is known")
    shift_m = gap_m - before.lead[1]
    if abs(shift_m) < 1.0:
        raise ValueError(f"The lead's gap is {before.lead[1]:.1f} m already")
    path, things = before.path, {}
    for tick, frame in enumerate(before.scenario.frames):
        if track_id not in frame.ids:
            continue
        thing = frame[frame.ids.index(track_id)]
        progress, _ = path.project(thing.x_m, thing.y_m)
        here, there = (np.array(_on(path, at, 0.0)) for at in (progress, progress + shift_m))
        turn = float(there[2] - here[2])
        c, s = np.cos(turn), np.sin(turn)
        from_path = np.array([thing.x_m, thing.y_m]) - here[:2]
        x = there[0] + c * from_path[0] - s * from_path[1]
        y = there[1] + s * from_path[0] + c * from_path[1]
        things[tick] = replace(
            thing,
            x_m=float(x),
            y_m=float(y),
            heading_rad=float(wrap_angle(thing.heading_rad + turn)),
            vx_mps=float(c * thing.vx_mps - s * thing.vy_mps),
            vy_mps=float(s * thing.vx_mps + c * thing.vy_mps),
        )
    after = put(before.scenario, things)
    check_free(before, after, (track_id,), f"The lead at a gap of {gap_m:g} m")
    to = "farther" if shift_m > 0 else "nearer"
    words = f"{before.words(track_id)} is {abs(shift_m):.0f} m {to}, at a gap of {gap_m:g} m"
    return Applied(scenario=after, about=track_id, words=words)


def moved(before: Before, who: str, distance_m: float, where: str) -> Applied:
    """One object shifted by a constant vector at every tick. where: as it looks at the anchor."""
    track_id = before.track_id(who)
    heading = (
        before.thing(track_id).heading_rad + {"ahead": 0.0, "left": 0.5, "back": 1.0, "right": -0.5}[where] * np.pi
    )
    dx, dy = distance_m * float(np.cos(heading)), distance_m * float(np.sin(heading))
    things = {}
    for tick, frame in enumerate(before.scenario.frames):
        if track_id in frame.ids:
            thing = frame[frame.ids.index(track_id)]
            things[tick] = replace(thing, x_m=thing.x_m + dx, y_m=thing.y_m + dy)
    after = put(before.scenario, things)
    check_free(before, after, (track_id,), f"{track_id} moved by {distance_m:g} m")
    way = {"ahead": "forward", "back": "back", "left": "to its left", "right": "to its right"}[where]
    return Applied(scenario=after, about=track_id, words=f"{before.words(track_id)} is moved {distance_m:g} m {way}")


def _beside(before: Before, kind: str, at_m: float) -> float:
    """How far to the right of the ego's way the road ends and one can stand."""
    length, width, _ = SIZES[kind]
    offsets = np.arange(1.0, BESIDE_AT_MOST_M, 0.25)
    boxes = np.array([[*_on(before.path, at_m, -offset), length, width] for offset in offsets])
    free = np.array([off_road_m(box[None], before.scenario.lane_map)[0] for box in boxes])
    inside = 0.5 * float(np.hypot(length, width))  # off_road_m is of the worst corner; the nearest must be off as well
    fit = np.flatnonzero(free - 2.0 * inside >= OFF_ROAD_M)
    if not len(fit):
        raise ValueError(f"There is no place beside the road within {BESIDE_AT_MOST_M:g} m of the ego's way")
    return -float(offsets[fit[0]])


def _on(path: Path, progress_m: float, left_m: float) -> tuple[float, float, float]:
    """Pose on a path, to its left, and straight on beyond its ends."""
    x, y, heading = (float(v) for v in path.pose_at(progress_m))
    beyond = progress_m - min(max(progress_m, 0.0), path.length_m)
    c, s = float(np.cos(heading)), float(np.sin(heading))
    return x + beyond * c - left_m * s, y + beyond * s + left_m * c, heading


def _driven(before: Before, track_id: str, speed_mps: float) -> FloatArray:
    """(T, 3): the object's poses from the anchor to the scenario's end at a constant speed, along where it went."""
    ticks = before.scenario.n_ticks - before.tick
    frames = before.scenario.frames[before.tick :]
    poses = [f.boxes[f.ids.index(track_id), :3] for f in frames if track_id in f.ids]
    kept = [poses[0]]
    for pose in poses[1:]:
        if np.hypot(*(pose[:2] - kept[-1][:2])) > 0.3:
            kept.append(pose)
    x, y, heading = kept[-1]
    reach = speed_mps * ticks * INTERVAL_S + 1.0
    progress, aside = before.path.project(float(x), float(y))
    off = abs(float(wrap_angle(before.path.pose_at(progress)[2] - heading)))
    if abs(aside) < FOLLOWS_M and off < FOLLOWS_RAD:
        ends = [_on(before.path, progress + d, aside) for d in np.arange(1.0, reach + 1.0)]
    else:
        ends = [(x + d * np.cos(heading), y + d * np.sin(heading), heading) for d in (1.0, reach)]
    way = np.array([*kept, *ends])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(way[:, :2], axis=0).T))])
    at = speed_mps * INTERVAL_S * np.arange(ticks)
    columns = [way[:, 0], way[:, 1], np.unwrap(way[:, 2])]
    found = np.column_stack([np.interp(at, along, column) for column in columns])
    found[:, 2] = wrap_angle(found[:, 2])
    return found


def _keeps_speed(before: Before, track_id: str, speed_mps: float) -> bool:
    frames = (before.scenario.frames[tick] for tick in before.ticks)
    speeds = [float(f.speeds_mps[f.ids.index(track_id)]) for f in frames if track_id in f.ids]
    return max(abs(speed - speed_mps) for speed in speeds) < STANDS_MPS
