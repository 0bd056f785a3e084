"""NAVSIM's scores of an open-loop plan: PDMS and EPDMS, each with its terms, 0 to 1.

    plan_terms(scenario, sample, waypoints_ego_m)   # {"NC": 1.0, ..., "PDMS": 0.93, "EPDMS": 0.91}; None: a failed answer, 0
    scorer = make_plan_scorer(load)                 # the same for many plans, samples of one scenario together
    scorer(sample, waypoints_ego_m)

The ten waypoints become a smooth motion (`nsdrive.vla.waypoints`, which also drives a model in closed loop), nuPlan's tracker
and bicycle drive it for 4 s from the sample's own state, and what comes out is judged:

    term                              PDMS        EPDMS       what is asked
    NC   no at-fault collisions       multiplies  multiplies  0 for a vehicle, a bicycle or a pedestrian, 0.5 for a thing
    DAC  drivable area compliance     multiplies  multiplies  0 if a corner leaves the road by 0.3 m
    DDC  driving direction            -           multiplies  in lanes off the route: 0.5 from 2 m within 1 s, 0 from 6 m
    TLC  traffic light compliance     -           multiplies  0 if it enters a connector of the route while that is red
    EP   ego progress                 5           5           share of the furthest lawful one, along the route's centerline
    TTC  time to collision            5           5           0 if going straight on for 0.9 s would ever hit what is there then
    LK   lane keeping                 -           2           0 if 2 s or more over 0.5 m from the centerline, off intersections
    C    comfort                      2           -           0 if a bound of acceleration, jerk or yaw is broken
    HC   history comfort              -           2           the same, with the 2 s before
    EC   extended comfort             -           2           0 if it differs too much from the plan before

    PDMS  = NC DAC (5 EP + 5 TTC + 2 C) / 12
    EPDMS = F(NC) F(DAC) F(DDC) F(TLC) (5 F(EP) + 5 F(TTC) + 2 F(LK) + 2 F(HC) + 2 F(EC)) / 16,   F(m) = 1 if m(label) = 0 else m

Sources: Dauner et al., "NAVSIM" (NeurIPS 2024) and NAVSIM v2 (Cao et al., CoRL 2025; docs/metrics.md of its repository, and the
scorer's thresholds), written anew. It differs from NAVSIM in this:

* Progress is a share of the furthest lawful one of the plan and the label; NAVSIM's rival is PDM-Closed, driven there. EP is of the
  way itself: NAVSIM also takes the multipliers off it, which then count twice where a collision leaves 0.5.
* The label takes the human's place in EPDMS's filter F; in a generated scene that is the teacher, who hardly ever breaks a rule.
  All nine terms are filtered, as the document's formula has it, EC by the label's own.
* The waypoints carry no headings: those of the smooth path are taken. The tracker sees all 5 s of the plan, and also makes up
  distance that was lost or gained (`eval.closed_loop.track`): nuPlan's rolls on into whom the label stops close behind.
* Fault, contact, between lanes, and 0.3 m of grace at the road's edge (NAVSIM: none) are as in our closed-loop score: nuPlan's.
* TLC counts entering. An ego that is over the line when the light turns red may go on; one that is over it at the anchor, with the
  light red, only until its middle is. NAVSIM counts every overlap with a red connector.
* A map without intersections has its connectors instead; with no route, every lane is on the route and every light the ego's.
* History is the log's own at 10 Hz where there is one; else the prompt's five states, two decimals, in proportion.
* EC compares with the plan of the scenario's previous anchor, at most 2 s before (NAVSIM: always 0.5 s), over what both cover.
  Where there is none, or none was given, EC is nan and EPDMS the mean without it.
* There is no second stage (NAVSIM v2's follow-up scenes): a closed loop is what `nsdrive simulate` drives.

The others do what the scenario says, whatever the ego does, also where a data set was made with reactive agents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import shapely
from numba import njit

from eval.closed_loop.situation import (
    AHEAD_TICKS,
    HORIZON_TICKS,
    Anchor,
    RedLight,
    Situation,
    anchor_of,
    situation,
    usable,
)
from eval.closed_loop.track import track
from eval.score import uncomfortable
from nsdrive.dataset import Sample
from nsdrive.vla.waypoints import through
from nsdrive.world.faults import OFF_ROAD_M, collisions, is_agent, left_road_m
from nsdrive.world.geometry import box_corners
from nsdrive.world.kernels import overlap_kernel
from nsdrive.world.lanes_driven import Lanes, in_intersection, lanes_driven, lanes_holding
from nsdrive.world.measure import AHEAD_RAD, BEHIND_RAD, corners_off_road_m, savgol
from nsdrive.world.measure import STANDING_MPS as TTC_STANDING_MPS
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Scenario
from nsdrive.world.vehicle import PACIFICA, ego_box

T = TypeVar("T")

MULTIPLIERS = ("NC", "DAC", "DDC", "TLC")  # of EPDMS; PDMS has the first two
WEIGHTS = {"EP": 5.0, "TTC": 5.0, "LK": 2.0, "HC": 2.0, "EC": 2.0}  # of EPDMS, NAVSIM PDMScorerConfig
PDMS_WEIGHTS = {"EP": 5.0, "TTC": 5.0, "C": 2.0}
TERMS = (*MULTIPLIERS, "EP", "TTC", "LK", "C", "HC", "EC")
SCORES = ("PDMS", "EPDMS")

WRONG_WAY_TICKS, WRONG_WAY_M, WRONG_WAY_WORST_M = 10, 2.0, 6.0  # driving_direction_horizon and its two thresholds
LEAST_PROGRESS_M = 5.0  # progress_distance_threshold: where nobody gets further, all get 1
AHEAD_STEPS = np.arange(0, AHEAD_TICKS + 1, 3)  # NAVSIM's TTC looks at these
OFF_LINE_M, OFF_LINE_TICKS = 0.5, 20  # lane_keeping_deviation_limit, lane_keeping_horizon_window
EC_LIMITS = {
    "accel_mps2": 0.7,
    "jerk_mps3": 0.5,
    "yaw_rate_radps": 0.1,
    "yaw_accel_radps2": 0.1,
}  # pdm_comfort_metrics.py
PACIFICA_REAR_M = PACIFICA.rear_axle_to_center_m
EC_MOST_TICKS = 20  # chosen by us: an earlier plan shares less than half of what is judged


def plan_terms(
    scenario: Scenario,
    at: Sample | Anchor,
    waypoints_ego_m: FloatArray | None,
    *,
    previous: tuple[Sample | Anchor, FloatArray | None] | None = None,
) -> dict[str, float]:
    """TERMS and SCORES of a plan of ten waypoints (10, 2), 0.5 s apart, in the ego frame at the anchor.

    previous: the plan that the same driver made at an earlier anchor, for EC. A failed answer (None, of another shape, not
    finite, or beyond 1 km) has 0 in every term; EC is nan, and outside the mean, where nothing is to be compared.
    ValueError, one line, where sample and scenario do not fit together.
    """
    stage = Stage(situation(scenario, _anchor(scenario, at)))
    return stage.terms(waypoints_ego_m, previous=None if previous is None else _earlier(scenario, *previous))


class Stage:
    """One anchor, ready to judge plans: what all of them share is worked out once."""

    def __init__(self, around: Situation) -> None:
        self.around = around
        self.label = judged(around, driven(around.anchor, around.anchor.label_ego_m))

    def terms(self, waypoints_ego_m: FloatArray | None, *, previous: Earlier | None = None) -> dict[str, float]:
        """As `plan_terms`."""
        waypoints = usable(waypoints_ego_m)
        label_ec = plan_ec = float("nan")
        if previous is not None:
            label_ec = extended_comfort(self.around.anchor, self.label.states, previous.anchor, previous.label_states)
        if waypoints is None:
            zero = {name: 0.0 for name in (*TERMS, *SCORES)}
            return zero | {"EC": 0.0 if np.isfinite(label_ec) else float("nan")}
        plan = judged(self.around, driven(self.around.anchor, waypoints))
        if previous is not None and previous.plan_states is not None:
            plan_ec = extended_comfort(self.around.anchor, plan.states, previous.anchor, previous.plan_states)
        lawful_m = max(drive.progress_m * _product(drive.terms) for drive in (plan, self.label))
        terms = plan.terms | {"EP": _share(plan.progress_m, lawful_m), "EC": plan_ec}
        label = self.label.terms | {"EP": _share(self.label.progress_m, lawful_m), "EC": label_ec}
        terms = {name: round(terms[name], 6) for name in TERMS}
        return terms | {"PDMS": pdms(terms), "EPDMS": epdms(terms, label)}


def pdms(terms: Mapping[str, float]) -> float:
    """NAVSIM v1's score of these terms, rounded to six decimals."""
    mean = sum(weight * terms[name] for name, weight in PDMS_WEIGHTS.items()) / sum(PDMS_WEIGHTS.values())
    return round(terms["NC"] * terms["DAC"] * mean, 6)


def epdms(terms: Mapping[str, float], label: Mapping[str, float]) -> float:
    """NAVSIM v2's score of these terms, none held against a plan where the label has 0; rounded to six decimals."""
    kept = {name: 1.0 if label[name] == 0.0 else terms[name] for name in (*MULTIPLIERS, *WEIGHTS)}
    weights = {name: weight for name, weight in WEIGHTS.items() if np.isfinite(kept[name])}
    return round(_product(kept) * sum(w * kept[name] for name, w in weights.items()) / sum(weights.values()), 6)


# ---- many plans ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class PlanScorer:
    """`make_plan_scorer`'s. failures: sample id -> why its plans could not be judged; their terms are all nan."""

    load: Callable[[Sample], Scenario]
    scenarios: int = 4  # chosen by us: how many are kept
    stages: int = 64  # chosen by us: how many anchors are kept
    failures: dict[str, str] = field(default_factory=dict)
    _scenarios: OrderedDict[str, Scenario] = field(default_factory=OrderedDict)
    _stages: OrderedDict[str, Stage] = field(default_factory=OrderedDict)

    def __call__(
        self,
        sample: Sample,
        waypoints_ego_m: FloatArray | None,
        previous: tuple[Sample, FloatArray | None] | None = None,
    ) -> dict[str, float]:
        """As `plan_terms`. previous: an earlier sample of the same scenario and what the same driver answered there."""
        try:
            stage = self._stage(sample)
            earlier = None
            if previous is not None and _scene(previous[0]) == _scene(sample):
                earlier = _earlier(stage.around.scenario, *previous)
            return stage.terms(waypoints_ego_m, previous=earlier)
        except (ValueError, OSError) as error:
            self.failures[sample.sample_id] = " ".join(str(error).split())
            return dict.fromkeys((*TERMS, *SCORES), float("nan"))

    def _stage(self, sample: Sample) -> Stage:
        if sample.sample_id not in self._stages:
            scene = _scene(sample)
            scenario = _kept(self._scenarios, scene, lambda: self.load(sample), self.scenarios)
            return _kept(
                self._stages,
                sample.sample_id,
                lambda: Stage(situation(scenario, anchor_of(scenario, sample))),
                self.stages,
            )
        return self._stages[sample.sample_id]


def make_plan_scorer(load: Callable[[Sample], Scenario]) -> PlanScorer:
    """A function (sample, waypoints or None) -> terms. load: the scenario of a sample, with its edit where it has one.

    It keeps the last scenarios and anchors, so give the samples of a scenario together, and all plans of a sample together.
    """
    return PlanScorer(load=load)


def _scene(sample: Sample) -> str:
    """What tells scenarios apart: an edited sample has one of its own."""
    return sample.sample_id if sample.extra.get("edit") else sample.scenario_id


def _kept(cache: OrderedDict[str, T], key: str, make: Callable[[], T], most: int) -> T:
    """cache[key], made if it is new; the oldest goes when there are more than `most`."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > most:
            cache.popitem(last=False)
    return cache[key]


# ---- one drive ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A plan as it was driven: states (41, 6), `track.COLUMNS`; all terms but EP and EC; metres along the centerline."""

    states: FloatArray
    terms: dict[str, float]
    progress_m: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Earlier:
    """An earlier anchor, and what the same driver's plan and the label came to there; None for a failed answer."""

    anchor: Anchor
    plan_states: FloatArray | None
    label_states: FloatArray


def driven(anchor: Anchor, waypoints_ego_m: FloatArray) -> FloatArray:
    """(41, 6): the plan as the ego drives it for 4 s (`track.COLUMNS`)."""
    motion = through(waypoints_ego_m, anchor.ego)
    return track(motion.from_time(anchor.ego.time_s), anchor.ego, HORIZON_TICKS)


def judged(around: Situation, states: FloatArray) -> Judged:
    """A drive's terms."""
    lane_map = around.lane_map
    boxes, speeds = ego_box(states[:, :3]), np.abs(states[:, 3])
    centres = boxes[:, :2]
    crossing = in_intersection(lane_map, centres)
    along = around.path.project_points(centres)
    drive = _ego_states(around.anchor.ego.time_s, states)
    everywhere = np.zeros(len(boxes), dtype=bool)
    touches = _touches(boxes, around.objects)
    near_hit = _about_to_hit(boxes, speeds, around.objects, everywhere, AHEAD_STEPS, INTERVAL_S)
    off_road = bool(corners_off_road_m(boxes, lane_map).max() >= OFF_ROAD_M)
    at_fault = []
    if touches or near_hit or off_road:  # only then it matters in which lanes the corners are, which takes longest
        lanes = lanes_driven(lane_map, boxes, states[:, :2])
        at_fault = [c for c in collisions(boxes, speeds, around.frames, lanes) if c.at_fault]
        in_lane = lanes.together & ~lanes.intersection
        near_hit = near_hit and _about_to_hit(boxes, speeds, around.objects, in_lane, AHEAD_STEPS, INTERVAL_S)
        off_road = off_road and bool(left_road_m(lane_map, boxes, lanes).max() >= OFF_ROAD_M)
    terms = {
        "NC": 0.0 if any(is_agent(c.kind) for c in at_fault) else 0.5 if at_fault else 1.0,
        "DAC": float(not off_road),
        "DDC": _direction(around, centres, lanes_holding(lane_map, centres), crossing),
        "TLC": float(not any(_runs(light, boxes) for light in around.red_lights)),
        "TTC": float(not near_hit),
        "LK": float(not _off_line(np.abs(along[:, 1]), crossing)),
        "C": float(not uncomfortable(drive)),
        "HC": float(not uncomfortable((*around.anchor.history, *drive))),
    }
    return Judged(states=states, terms=terms, progress_m=max(0.0, float(along[-1, 0] - along[0, 0])))


def extended_comfort(now: Anchor, states: FloatArray, before: Anchor, earlier: FloatArray) -> float:
    """1.0 where two plans as driven (41, 6) agree over the time that both cover, else 0.0; nan where they share too little.

    NAVSIM's two-frame extended comfort: root mean squares of the differences of acceleration, jerk, yaw rate and yaw
    acceleration, each with its limit.
    """
    gap = now.tick - before.tick
    if not 0 < gap <= EC_MOST_TICKS:
        return float("nan")
    this, that = _felt(states[: len(states) - gap]), _felt(earlier[gap:])
    return float(all(np.sqrt(np.mean((this[name] - that[name]) ** 2)) <= most for name, most in EC_LIMITS.items()))


def _felt(states: FloatArray) -> dict[str, FloatArray]:
    """Smoothed as NAVSIM's extract_features does: windows of 8, 15, 5 and 5 states, order 2."""
    count, heading, accel = len(states), np.unwrap(states[:, 2]), np.abs(states[:, 4])
    smooth = accel @ savgol(count, 8, 2, 0, INTERVAL_S)
    return {
        "accel_mps2": smooth,
        "jerk_mps3": smooth @ savgol(count, 15, 2, 1, INTERVAL_S),
        "yaw_rate_radps": heading @ savgol(count, 5, 2, 1, INTERVAL_S),
        "yaw_accel_radps2": heading @ savgol(count, 5, 2, 2, INTERVAL_S),
    }


def _anchor(scenario: Scenario, at: Sample | Anchor) -> Anchor:
    return at if isinstance(at, Anchor) else anchor_of(scenario, at)


def _earlier(scenario: Scenario, at: Sample | Anchor, waypoints_ego_m: FloatArray | None) -> Earlier:
    anchor, waypoints = _anchor(scenario, at), usable(waypoints_ego_m)
    return Earlier(
        anchor=anchor,
        plan_states=None if waypoints is None else driven(anchor, waypoints),
        label_states=driven(anchor, anchor.label_ego_m),
    )


def _ego_states(start_s: float, states: FloatArray) -> tuple[EgoState, ...]:
    return tuple(
        EgoState(
            time_s=start_s + k * INTERVAL_S, x_m=x, y_m=y, heading_rad=h, speed_mps=v, accel_mps2=a, steering_rad=d
        )
        for k, (x, y, h, v, a, d) in enumerate(states.tolist())
    )


def _product(terms: Mapping[str, float]) -> float:
    return float(np.prod([terms[name] for name in MULTIPLIERS]))


def _share(progress_m: float, lawful_m: float) -> float:
    return 1.0 if lawful_m <= LEAST_PROGRESS_M else min(1.0, progress_m / lawful_m)


def _direction(around: Situation, centres: FloatArray, held: Sequence[Lanes], crossing: np.ndarray) -> float:
    """1, 0.5 or 0 by the most that was driven within a second with the middle in no lane of the route, off intersections."""
    lanes = around.lane_map.lanes
    on_route = [any(not around.route or lanes[i].roadblock_id in around.route for i in here) for here in held]
    steps = np.append(0.0, np.hypot(*np.diff(centres, axis=0).T))
    steps[np.array(on_route) | crossing] = 0.0
    sums = np.append(0.0, np.cumsum(steps))
    ends = np.arange(1, len(sums))
    worst = float((sums[ends] - sums[np.maximum(0, ends - WRONG_WAY_TICKS - 1)]).max())
    return 1.0 if worst < WRONG_WAY_M else 0.5 if worst < WRONG_WAY_WORST_M else 0.0


def _runs(light: RedLight, boxes: FloatArray) -> bool:
    """Whether a drive enters the connector while it is red, or, being over its line from the start, goes in."""
    over = np.asarray(shapely.intersects(shapely.polygons(box_corners(boxes)), light.area))
    if (over[1:] & ~over[:-1] & light.red[1:]).any():
        return True
    if not (over[0] and light.red[0]):
        return False
    inside = np.asarray(shapely.contains_xy(light.area, boxes[:, 0], boxes[:, 1]))
    return bool((inside[1:] & ~inside[:-1] & light.red[1:]).any())


def _off_line(deviations_m: FloatArray, crossing: np.ndarray) -> bool:
    """Whether the middle is off its line for so long; intersections neither count nor interrupt."""
    run = 0
    for off in deviations_m[~crossing] > OFF_LINE_M:
        run = run + 1 if off else 0
        if run >= OFF_LINE_TICKS:
            return True
    return False


@njit(cache=True)
def _touches(boxes, objects):
    """Whether the ego (T, 5) ever overlaps one of the objects (T or more, M, 5): mostly not, and then there is no fault to find."""
    for tick in range(boxes.shape[0]):
        for m in range(objects.shape[1]):
            if not np.isnan(objects[tick, m, 0]) and overlap_kernel(boxes[tick], objects[tick, m]):
                return True
    return False


@njit(cache=True)
def _about_to_hit(boxes, speeds, objects, in_lane, steps, interval):
    """Whether the ego (T, 5), driven straight on from any moment, meets an object (T or more, M, 5) where that will be then.

    in_lane (T,): there only what is ahead counts; elsewhere, between lanes and in intersections, what is not behind. What is
    met but does not count is never looked at again, as in NAVSIM.
    """
    ego = np.empty(5)
    passed = np.zeros(objects.shape[1], dtype=np.bool_)
    for tick in range(boxes.shape[0]):
        if speeds[tick] < TTC_STANDING_MPS:
            continue
        cos, sin = np.cos(boxes[tick, 2]), np.sin(boxes[tick, 2])
        axle_x = boxes[tick, 0] - PACIFICA_REAR_M * cos
        axle_y = boxes[tick, 1] - PACIFICA_REAR_M * sin
        ego[:] = boxes[tick]
        for step in steps:
            if tick + step >= objects.shape[0]:
                break
            ego[0] = boxes[tick, 0] + step * interval * speeds[tick] * cos
            ego[1] = boxes[tick, 1] + step * interval * speeds[tick] * sin
            for m in range(objects.shape[1]):
                other = objects[tick + step, m]
                if passed[m] or np.isnan(other[0]) or not overlap_kernel(ego, other):
                    continue
                bearing = np.arctan2(other[1] - axle_y, other[0] - axle_x) - boxes[tick, 2]
                bearing = abs((bearing + np.pi) % (2.0 * np.pi) - np.pi)
                if bearing < AHEAD_RAD or (not in_lane[tick] and bearing < BEHIND_RAD):
                    return True
                passed[m] = True
    return False
