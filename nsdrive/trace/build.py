"""From a rollout to its trace: the decisions each half second, with names for what they are about, and facts of the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import shapely

from nsdrive.trace.rounding import printed_steps, spoken_names
from nsdrive.trace.trace import (
    KIND_WORDS,
    LIGHT_WORDS,
    N_STEPS,
    SECTORS,
    STEP_S,
    TICKS_PER_STEP,
    EndState,
    ObjectFacts,
    SceneFacts,
    Step,
    Trace,
    decimals,
    implied_m,
    phases_of,
)
from nsdrive.world.decision import Constraint, Decision, LaneChange, Proposal
from nsdrive.world.geometry import box_corners, to_ego, wrap_angle
from nsdrive.world.navigation import Navigation
from nsdrive.world.navigation import navigation as find_navigation
from nsdrive.world.rules import RULES
from nsdrive.world.types import ObjectFrame, Rollout
from nsdrive.world.vehicle import ego_box

MAX_OBJECTS = 8  # as the published release; more only where a text speaks of more
NEAR_M = 60.0  # chosen by us: what is further is listed only if a text speaks of it
TELLING_M = 0.008  # chosen by us: so much off in every half second would still be within replay's TOLERANCE_M


def build_trace(
    rollout: Rollout,
    anchor: int,
    *,
    seen: Mapping[str, Mapping[str, int]] | None = None,
    navigation: Navigation | None = None,
) -> tuple[Trace, dict[str, str]]:
    """The trace of the five seconds after `rollout.states[anchor]`, and what its names stand for (name -> scenario's id).

    seen: camera -> what it sees -> pixels, as `cameras.render` gives it at the anchor (track ids, and "signal:<signal id>");
    None takes everything as seen. navigation: what the prompt says, None finds it. Raises ValueError where the rollout is too
    short or its planner did not say why.
    """
    ticks = [anchor + k * TICKS_PER_STEP for k in range(N_STEPS + 1)]
    if anchor < 0 or ticks[-1] >= len(rollout.states):
        raise ValueError(
            f"A trace needs {ticks[-1] - anchor} ticks after its anchor {anchor}; the rollout has {len(rollout.states)}."
        )
    decisions = [_decision(rollout, tick) for tick in ticks]
    moved = _moved(rollout, anchor, decisions)
    names = Names(rollout, anchor, seen)
    steps = tuple(
        Step(
            time_s=k * STEP_S,
            speed_mps=d.speed_mps,
            accel_mps2=d.accel_mps2,
            lateral_offset_m=d.lateral_offset_m,
            moved_m=moved[k],
            constraints=tuple(replace(c, about=names.of(c)) for c in d.constraints),
            binding=d.binding,
            tied=d.tied,
            command_mps2=d.command_mps2,
            proposals=tuple(names.in_proposal(p) for p in d.proposals),
            chosen=d.chosen,
            runner_up=d.runner_up,
            lane_changes=tuple(names.in_lane_change(c) for c in d.lane_changes),
        )
        for k, d in enumerate(decisions[:-1])
    )
    names.spoken.update(dict.fromkeys(spoken_names(printed_steps(steps))))
    turned = float(wrap_angle(rollout.states[ticks[-1]].heading_rad - rollout.states[anchor].heading_rad))
    end = EndState(
        speed_mps=decisions[-1].speed_mps,
        accel_mps2=decisions[-1].accel_mps2,
        lateral_offset_m=decisions[-1].lateral_offset_m,
        turned_deg=float(np.degrees(turned)),
    )
    trace = Trace(
        scene=names.scene(),
        route=navigation or find_navigation(rollout.scenario.mission, rollout.states[anchor]),
        objects=names.objects(),
        steps=steps,
        end=end,
        phases=phases_of(steps, end),
    )
    return trace, {name: key[1] for key, name in names.given.items() if name in names.used}


def _decision(rollout: Rollout, tick: int) -> Decision:
    decision = rollout.plans[tick].decision
    if decision is None:
        raise ValueError(
            f"Planner '{rollout.planner}' gave no decision at tick {tick}, so there is nothing to explain."
        )
    return decision


def _moved(rollout: Rollout, anchor: int, decisions: Sequence[Decision]) -> list[float | None]:
    """How far each half second goes, None where the printed speeds and accelerations tell."""
    poses = np.array([s.pose[:2] for s in rollout.states[anchor : anchor + N_STEPS * TICKS_PER_STEP + 1]])
    driven = np.hypot(*np.diff(poses, axis=0).T).reshape(N_STEPS, TICKS_PER_STEP).sum(axis=1)
    speeds = np.array([decimals(d.speed_mps, 2) for d in decisions])
    told = implied_m(speeds, np.array([decimals(d.accel_mps2, 2) for d in decisions]))
    return [float(m) if abs(m - t) > TELLING_M else None for m, t in zip(driven, told, strict=True)]


class Names:
    """Gives names to what a trace speaks of, as a camera at the anchor sees it: by kind, nearest first; the unseen are hidden."""

    def __init__(self, rollout: Rollout, anchor: int, seen: Mapping[str, Mapping[str, int]] | None) -> None:
        self.rollout, self.frame, self.lights = rollout, rollout.frames[anchor], rollout.lights[anchor]
        self.pose = rollout.states[anchor].pose
        self.cameras: dict[str, list[str]] | None = None
        if seen is not None:
            self.cameras = {}
            for camera, things in seen.items():
                for thing in things:
                    self.cameras.setdefault(thing, []).append(camera)
        self.given: dict[tuple[str, str], str] = {}  # (sort of id, id) -> name
        self.used: dict[str, None] = {}  # names that the trace has a use for, in order
        self.spoken: dict[str, None] = {}  # those of them that a text speaks of
        self.counts: dict[str, int] = {}
        self.distances = _distances(self.pose, self.frame)
        self.nearest = sorted(range(len(self.frame)), key=lambda row: (self.distances[row], self.frame.ids[row]))
        for row in self.nearest:
            if self._is_seen(self.frame.ids[row]):
                self._give(("track id", self.frame.ids[row]), KIND_WORDS[self.frame[row].kind])

    def of(self, constraint: Constraint) -> str | None:
        """The name of what a constraint is about."""
        return self._name(RULES[constraint.rule].about, constraint.about)

    def in_proposal(self, proposal: Proposal) -> Proposal:
        """The proposal with names instead of track ids."""
        terms = tuple(replace(t, about=self._track(t.about)) if t.about is not None else t for t in proposal.terms)
        return replace(proposal, terms=terms)

    def in_lane_change(self, change: LaneChange) -> LaneChange:
        lead, follower, blocker = (self._track(thing) for thing in (change.lead, change.follower, change.blocker))
        return replace(change, lead=lead, follower=follower, blocker=blocker)

    def scene(self) -> SceneFacts:
        words = [KIND_WORDS[self.frame[row].kind] for row in self.nearest if self._is_seen(self.frame.ids[row])]
        in_view = tuple((word, words.count(word)) for word in KIND_WORDS.values() if word in words)
        return SceneFacts(in_view=in_view, light=self._light())

    def objects(self) -> tuple[ObjectFacts, ...]:
        """Facts of every object that a text speaks of, and of the nearest seen ones to make MAX_OBJECTS; nearest first, absent
        ones last."""
        tracks = {key[1]: name for key, name in self.given.items() if key[0] == "track id"}
        rows = [row for row in self.nearest if self.frame.ids[row] in tracks]
        spoken = [row for row in rows if tracks[self.frame.ids[row]] in self.spoken]
        near = [row for row in rows if self._is_seen(self.frame.ids[row]) and self.distances[row] <= NEAR_M]
        others = [row for row in near if row not in spoken][: max(0, MAX_OBJECTS - len(spoken))]
        facts = []
        for row in rows:
            if row in spoken or row in others:
                name = tracks[self.frame.ids[row]]
                self.used[name] = None
                facts.append(self._facts(row, name))
        for track_id, name in tracks.items():
            if track_id not in self.frame.ids and name in self.spoken:
                kind = KIND_WORDS[self._kind_later(track_id)]
                facts.append(
                    ObjectFacts(name=name, kind=kind, distance_m=None, sector=None, speed_mps=None, cameras=())
                )
        return tuple(facts)

    def _facts(self, row: int, name: str) -> ObjectFacts:
        thing = self.frame[row]
        ego = ego_box(self.pose)[0]
        x, y = to_ego(np.array([[thing.x_m, thing.y_m]]), ego[:3])[0]
        sector = SECTORS[round(float(np.arctan2(y, x)) / (np.pi / 4.0)) % 8]
        return ObjectFacts(
            name=name,
            kind=KIND_WORDS[thing.kind],
            distance_m=self.distances[row],
            sector=sector,
            speed_mps=thing.speed_mps,
            cameras=() if self.cameras is None else tuple(self.cameras.get(thing.track_id, ())),
        )

    def _light(self) -> str | None:
        lane_map, route = self.rollout.scenario.lane_map, set(self.rollout.scenario.route_roadblock_ids)
        best, light = np.inf, None
        for signal in lane_map.signals:
            mine = [c for c in signal.connector_ids if c in lane_map.lanes and lane_map.lanes[c].roadblock_id in route]
            states = [LIGHT_WORDS[self.lights[c]] for c in mine if self.lights.get(c) in LIGHT_WORDS]
            x, y = to_ego(np.array([[signal.x_m, signal.y_m]]), self.pose)[0]
            if states and x > 0.0 and np.hypot(x, y) < best and self._is_seen(f"signal:{signal.signal_id}"):
                best, light = float(np.hypot(x, y)), states[0]
        return light

    def _track(self, track_id: str | None) -> str | None:
        return self._name("track id", track_id)

    def _name(self, sort: str, thing: str | None) -> str | None:
        if thing is None:
            return None
        key = (sort, thing)
        if key not in self.given:
            self._give(key, self._word(sort, thing))
        self.used[self.given[key]] = None
        return self.given[key]

    def _word(self, sort: str, thing: str) -> str:
        if sort == "stop line id":
            return "stopline"
        if sort == "lane connector id":
            heads = [s.signal_id for s in self.rollout.scenario.lane_map.signals if thing in s.connector_ids]
            return "signal" if not heads or any(self._is_seen(f"signal:{h}") for h in heads) else "hidden"
        return "hidden"

    def _is_seen(self, thing: str) -> bool:
        return self.cameras is None or thing in self.cameras

    def _give(self, key: tuple[str, str], word: str) -> None:
        self.counts[word] = self.counts.get(word, 0) + 1
        self.given[key] = f"{word}-{self.counts[word]}"

    def _kind_later(self, track_id: str) -> str:
        for frame in self.rollout.frames:
            if track_id in frame.ids:
                return frame[frame.ids.index(track_id)].kind
        return "generic_object"


def _distances(pose: np.ndarray, frame: ObjectFrame) -> list[float]:
    """Metres between the nearest points of the ego's box and each object's."""
    if len(frame) == 0:
        return []
    boxes = shapely.polygons(box_corners(frame.boxes))
    return [float(d) for d in shapely.distance(shapely.Polygon(box_corners(ego_box(pose))[0]), boxes)]
