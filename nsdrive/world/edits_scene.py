"""What a scene edit starts from: the scenario as it is at the anchor, the ego's way ahead, and who is meant by a word."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nsdrive.world.geometry import Path, boxes_overlap, corridor_overlap, to_ego
from nsdrive.world.route import centerline, extend_straight, find_route, nearest_lane
from nsdrive.world.types import OBJECT_KINDS, EgoState, FloatArray, ObjectFrame, Scenario, TrackedObject
from nsdrive.world.vehicle import PACIFICA, ego_box

LEAD_WITHIN_M = 80.0  # chosen by us: the path ahead that a planner looks at in town
HALF_WIDTH_M = 0.5 * PACIFICA.width_m + 0.1  # of the way that has to be free; the planners' own
NO_ROUTE_M = 500.0  # chosen by us, as the planners': without a route the way leads so far straight on
JUDGED_TICKS = 50  # the five seconds of a sample
KINDS = {  # as said -> in OBJECT_KINDS
    "vehicle": "vehicle",
    "car": "vehicle",
    "pedestrian": "pedestrian",
    "cyclist": "bicycle",
    "bicycle": "bicycle",
    "cone": "traffic_cone",
    "barrier": "barrier",
}
WORDS = dict(
    zip(OBJECT_KINDS, ("vehicle", "cyclist", "pedestrian", "cone", "barrier", "sign", "object"), strict=True)
)  # as texts say


@dataclass(frozen=True, kw_only=True, eq=False)
class Applied:
    """An edited scenario; whom it is about (track id; None: nobody, or several); the change in words, for people."""

    scenario: Scenario
    about: str | None
    words: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Before:
    """The scenario at the anchor. pose (3,): of the ego's rear axle, global, six decimals (what a sample stores, so that an edit
    is the same from a sample as from the drive). path: the ego's way along the route. progress_m: of the rear axle on it."""

    scenario: Scenario
    tick: int
    pose: FloatArray
    path: Path
    progress_m: float

    @property
    def frame(self) -> ObjectFrame:
        return self.scenario.frames[self.tick]

    @property
    def front_m(self) -> float:
        """Progress of the front bumper."""
        return self.progress_m + PACIFICA.front_m

    @property
    def ticks(self) -> range:
        """The anchor and the five seconds after it, as far as the scenario goes."""
        return range(self.tick, min(self.tick + JUDGED_TICKS + 1, self.scenario.n_ticks))

    @cached_property
    def lead(self) -> tuple[str, float] | None:
        """The next tracked object on the ego's way, and its gap [m]."""
        entry = corridor_overlap(self.path, self.frame.boxes, self.front_m, self.front_m + LEAD_WITHIN_M, HALF_WIDTH_M)
        ahead = np.array([self.path.project(*box[:2])[0] > self.front_m for box in self.frame.boxes], dtype=bool)
        entry = np.where(ahead, entry, np.inf)  # alongside is nobody's lead
        if not len(entry) or not np.isfinite(entry.min()):
            return None
        row = int(np.argmin(entry))
        return self.frame.ids[row], float(entry[row] - self.front_m)

    def track_id(self, who: str, also: Collection[str] = ()) -> str:
        """Of "lead", or of a track id that is there at the anchor. ValueError for nobody; also: what else could have been meant."""
        if who == "lead":
            if self.lead is None:
                raise ValueError(
                    f"No lead: nothing stands or moves on the ego's way within {LEAD_WITHIN_M:.0f} m of its bumper"
                )
            return self.lead[0]
        if who not in self.frame.ids:
            near = difflib.get_close_matches(who, ["lead", *also, *self.frame.ids], n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            there = ", ".join(self.frame.ids[:12]) + (", ..." if len(self.frame) > 12 else "")
            raise ValueError(f"No '{who[:80]}' at the anchor.{hint} There: {there or 'nobody'}")
        return who

    def thing(self, track_id: str) -> TrackedObject:
        return self.frame[self.frame.ids.index(track_id)]

    def words(self, track_id: str) -> str:
        """ "the lead, a vehicle 23 m ahead," or "the vehicle 9 m behind": from the ego's centre, to a metre."""
        thing = self.thing(track_id)
        x, y = to_ego(np.array([[thing.x_m, thing.y_m]]), ego_box(self.pose)[0, :3])[0]
        ways = [(x, "ahead" if x > 0 else "behind"), (y, "to the left" if y > 0 else "to the right")]
        where = " and ".join(f"{abs(far):.0f} m {way}" for far, way in ways if abs(far) >= 1.5) or "beside"
        said = f"{WORDS[thing.kind]} {where}"
        return f"the lead, a {said}," if self.lead and self.lead[0] == track_id else f"the {said}"


def before_of(scenario: Scenario, tick: int, ego: EgoState) -> Before:
    """ValueError where the tick is outside the scenario or the ego is on no lane."""
    if not 0 <= tick < scenario.n_ticks:
        raise ValueError(f"Scenario {scenario.scenario_id} has no tick {tick}: it has {scenario.n_ticks}")
    pose = np.round(ego.pose, 6)
    lane_map, route = scenario.lane_map, scenario.route_roadblock_ids
    on_route = frozenset(route) & {lane.roadblock_id for lane in lane_map.lanes.values()} or None
    start = nearest_lane(lane_map, pose, allowed_roadblocks=on_route)
    if on_route:
        path = centerline(lane_map, find_route(lane_map, start, scenario.goal_m, route))
    else:
        path = centerline(lane_map, extend_straight(lane_map, (start,), NO_ROUTE_M))
    progress = path.project(float(pose[0]), float(pose[1]))[0]
    return Before(scenario=scenario, tick=tick, pose=pose, path=path, progress_m=progress)


def put(scenario: Scenario, things: Mapping[int, TrackedObject]) -> Scenario:
    """The scenario with one object as given, by tick: in its row where it has one, else as the last. Other ticks stay."""
    frames = list(scenario.frames)
    for tick, thing in things.items():
        frame, row = frames[tick], ObjectFrame.of([thing])
        if thing.track_id not in frame.ids:
            parts, ids = [frame, row], (*frame.ids, thing.track_id)
        else:
            at = frame.ids.index(thing.track_id)
            before, after = frame.take(list(range(at))), frame.take(list(range(at + 1, len(frame))))
            parts, ids = [before, row, after], frame.ids
        frames[tick] = ObjectFrame(
            ids=ids,
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("kinds", "boxes", "heights_m", "velocities_mps", "accels_mps2", "indicators")
            },
        )
    return replace(scenario, frames=tuple(frames))


def check_free(before: Before, after: Scenario, changed: Collection[str], what: str) -> None:
    """ValueError where the changed objects would overlap the ego at the anchor, or another object within five seconds that they do
    not overlap in the scenario as it was."""
    mine = _boxes(after.frames[before.tick], changed)
    if len(mine[1]) and boxes_overlap(mine[1], ego_box(before.pose)).any():
        raise ValueError(f"{what} would be where the ego is")
    for tick in before.ticks:
        ids, boxes = _boxes(after.frames[tick], changed)
        others = after.frames[tick].without(frozenset(changed))
        hits = boxes_overlap(boxes, others.boxes)
        if not hits.any():
            continue
        was = dict(zip(*_boxes(before.scenario.frames[tick], changed), strict=True))
        for i, j in np.argwhere(hits):
            if ids[i] not in was or not boxes_overlap(was[ids[i]], others.boxes[j]).any():
                raise ValueError(f"{what} would be in the way of {others.ids[j]}")


def _boxes(frame: ObjectFrame, track_ids: Collection[str]) -> tuple[Sequence[str], FloatArray]:
    rows = [row for row, track_id in enumerate(frame.ids) if track_id in track_ids]
    return [frame.ids[row] for row in rows], frame.boxes[rows]
