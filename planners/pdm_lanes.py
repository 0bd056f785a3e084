"""Past PDM-Closed: the same weighing of proposals, over several lanes, round what stands in the way, and with rules of way.

At each tick the planner looks at its own lane and the ones beside it, lays paths (along the lane, over to the next one, round
an obstacle and back), drives each at several speeds by the rules of the road, simulates and scores them as PDM-Closed does, and
takes the best. What is added to PDM-Closed (Dauner et al., CoRL 2023, see `planners.pdm_closed`):

- lanes from which the route goes on, and the centerline laid anew when the lane changes (`lanes.topology`);
- lane changes with the incentive and the safety check of MOBIL (Kesting, Treiber, Helbing 2007; `lanes.mobil`);
- ways round standing things and slow cyclists, over the oncoming lane where nobody comes (`lanes.passing`, `lanes.oncoming`);
- who drives in a lane is expected to follow it (`lanes.following`);
- giving way at junctions by gap acceptance (`lanes.conflicts`), and IDM's curves, ambers, stop signs and crosswalks
  (`planners.road_rules`), inside every proposal's roll-out.

A path once begun is kept by the score's `steady` term, and given up where it is no longer safe. Progress is that of eight
seconds, and driving direction is judged second by second (`lanes.weighing`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nsdrive.world.decision import Constraint, Decision, arg_min
from nsdrive.world.rules import RULES, evaluate
from nsdrive.world.scoring import ranking
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Mission, Observation, Plan, Trajectory
from nsdrive.world.vehicle import ego_box
from planners.guard import guarded
from planners.lanes.candidates import Course, easing_m
from planners.lanes.config import PdmLanesConfig
from planners.lanes.conflicts import Zone
from planners.lanes.following import Bends, LaneFollowing
from planners.lanes.memory import Memory
from planners.lanes.outlook import Outlook, lead_of
from planners.lanes.passing import BICYCLE
from planners.lanes.rollout import Stop
from planners.lanes.rounds import rounds_of, ways_of
from planners.lanes.tick import Neighbour, Option, Tick
from planners.lanes.topology import Chain, Chains, usable_route
from planners.lanes.weighing import by_the_second, near_in_bends, on_the_road, weigh_proposals
from planners.pdm.areas import Areas
from planners.pdm.brake import emergency_trajectory, must_brake
from planners.pdm.forecast import Forecast, forecast
from planners.pdm.paths import ProposalPath
from planners.pdm.score import score_proposals, terms_of
from planners.pdm.simulate import simulate_proposals

RULE_ORDER = {rule: number for number, rule in enumerate(RULES)}


@guarded
class PdmLanesPlanner:
    """One object drives one rollout at a time; `initialize` forgets the last one."""

    name = "pdm_lanes"

    def __init__(self, config: PdmLanesConfig | None = None) -> None:
        self.config = config or PdmLanesConfig()

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Judge the lanes of the route. ValueError for a map on which no lane is usable."""
        self._mission, self._memory = mission, Memory()
        self._chains = Chains(mission, usable_route(mission, ego.pose), self.config)
        self._following = LaneFollowing(lane_map=mission.lane_map)
        self._zones: dict[int, tuple[Zone, ...]] = {}
        self._lines: dict[int, ProposalPath] = {}

    def plan(self, observation: Observation) -> Plan:
        """The best proposal as an 8 s trajectory (81 states, 0.1 s apart), and everything that was weighed."""
        c, ego, memory, lane_map = self.config, observation.ego, self._memory, self._mission.lane_map
        memory.watch(observation, c)
        chain = memory.settle(lane_map, self._chains, ego, c)
        samples, every_s = c.proposal_steps // c.forecast_every + 1, INTERVAL_S * c.forecast_every
        bends = self._following.bends(observation.objects, samples=samples, interval_s=every_s)
        tick = Tick(
            lane_map=lane_map,
            chains=self._chains,
            zones=self._zones,
            memory=memory,
            observation=observation,
            course=Course.of(ego, memory.driven),
            bends=bends,
            config=c,
        )
        here = tick.outlook(chain)
        ways = ways_of(tick, here)
        waits = bool(ways) and tick.speed_mps < c.pass_standing_mps
        memory.waited_s = memory.waited_s + INTERVAL_S * waits if ways else 0.0
        rounds = rounds_of(tick, here, ways)
        stands = frozenset(track_id for way in ways if way.speed_mps == 0.0 for track_id in way.ids)
        neighbours = tick.neighbours(here, stands)
        options = [*_along_the_lane(tick, rounds.here, neighbours), *_over(tick, neighbours), *rounds.options]
        if not options:
            raise ValueError("The lane ends here and no other one can be reached.")

        at = [(option, k) for option in options for k in range(len(option.fractions))]
        poses = np.concatenate([option.driven.poses for option in options])[:, : c.proposal_steps + 1]
        seen = self._seen(observation, bends)
        simulated = simulate_proposals(poses, ego)
        areas = Areas.near(lane_map, ego_box(ego.pose)[0, :2], c.radius_m)
        followed = {lane_id for option in options for lane_id in option.candidate.chain.lane_ids}
        on_route = frozenset(followed | set(self._chains.lanes))
        scores = score_proposals(simulated, seen, self._line(chain), areas, on_route, c)
        terms = on_the_road(terms_of(scores, seen), simulated, areas, c.off_road_m)
        terms = near_in_bends(terms, frozenset(bends.ids), c.bend_ttc_s)
        terms = by_the_second(terms, simulated, areas, on_route)
        proposals = weigh_proposals(at, terms, memory, c)
        chosen, runner_up = ranking([proposal.score for proposal in proposals])
        assert chosen is not None, "there is at least one proposal"

        option, k = at[chosen]
        constraints = _constraints(tick, option, k)
        collision_s = float(scores.collision_s[chosen])
        braking = ego.speed_mps <= c.straight_brake_mps and must_brake(collision_s, ego.speed_mps, c)
        if braking:
            about, inputs = seen.ids[scores.collision_about[chosen]], {"collision_s": collision_s}
            target = option.target_mps(k)
            brake = evaluate("emergency_brake", about, inputs, tick.speed_mps, c, target_speed_mps=target)
            constraints.append(brake)
        filled, binding, tied = arg_min(constraints)
        decision = Decision(
            planner=self.name,
            time_s=observation.time_s,
            speed_mps=tick.speed_mps,
            accel_mps2=ego.accel_mps2,
            progress_m=(place := chain.path.project(ego.x_m, ego.y_m))[0],
            lateral_offset_m=place[1],
            lane_id=chain.lane_at(place[0]),
            constraints=filled,
            command_mps2=min(x.allows_mps2 for x in filled),
            binding=binding,
            tied=tied,
            proposals=proposals,
            chosen=chosen,
            runner_up=runner_up,
            lane_changes=(*(neighbour.change for neighbour in neighbours), *rounds.considered),
        )
        memory.remember(option.candidate, observation.time_s)
        if braking:
            memory.driven = None  # it brakes straight on
        trajectory = _braking(ego, emergency_trajectory(ego, c)) if braking else _following(ego, option, k)
        return Plan(trajectory=trajectory, decision=decision, candidates=poses)

    def _seen(self, observation: Observation, bends: Bends) -> Forecast:
        """The forecast that proposals are scored against: those that move are a little larger than they are."""
        c, memory = self.config, self._memory
        seen = forecast(observation.objects, {}, observation.ego, {}, memory.ignored, c)
        memory.ignored = seen.ignored_ids
        moving = seen.is_agent & (seen.speeds_mps > c.pass_standing_mps)
        kinds = {
            track_id: kind for track_id, kind in zip(observation.objects.ids, observation.objects.kinds, strict=True)
        }
        bicycle = np.array([kinds[track_id] == BICYCLE for track_id in seen.ids], dtype=bool)
        boxes = seen.boxes.copy()
        bend_of = bends.rows(seen.ids)
        unsure = moving & (bend_of < 0)  # in a bend a larger box would reach into the ego's lane, seen along its chord
        boxes[:, 3] += c.moving_longer_m * unsure
        boxes[:, 4] += c.moving_wider_m * unsure + c.bicycle_wider_m * bicycle
        return replace(seen, boxes=boxes, bend_of=bend_of, bends=bends.poses)

    def _line(self, chain: Chain) -> ProposalPath:
        """The chain's centerline as PDM-Closed's scorer wants it."""
        if id(chain) not in self._lines:
            ids = [lane_id or "" for lane_id in chain.path.lane_ids]
            self._lines[id(chain)] = ProposalPath.of(chain.path.points, chain.path.heading_rad, ids)
        return self._lines[id(chain)]


def _along_the_lane(tick: Tick, here: Outlook, neighbours: tuple[Neighbour, ...]) -> list[Option]:
    """Along the lane's middle and beside it. Where the ego has to leave the lane and cannot yet, it lets those pass who are in its
    way, and keeps some of the lane before it."""
    c, memory, progress = tick.config, tick.memory, here.start.progress_m
    share = 1.0
    for neighbour in neighbours:
        change = neighbour.change
        urgent = change.reason in ("route", "blocked") and change.incentive_mps2 >= c.make_room_mps2
        if not urgent or change.safe or change.blocker is None:
            continue
        objects = tick.observation.objects
        speed = float(objects.speeds_mps[objects.ids.index(change.blocker)])
        share = min(share, max(0.2, (speed - c.make_room_mps) / max(here.target_mps, 1.0)))
        hold = max(here.chain.end_m - c.hold_end_m, here.nose_m + 0.5)
        if not here.chain.reaches_goal and hold < here.chain.end_m:
            here = replace(here, stops=(*here.stops, Stop(progress_m=hold)))
    settled = progress + max(8.0, c.keep_s * tick.speed_mps)
    if memory.path == "keep":
        settled = max(settled, memory.until_m)  # a lane change is being finished
    options = []
    for offset in c.offsets_m:
        fractions = tuple(round(share * f, 2) for f in (c.speed_fractions if offset == 0.0 else c.side_fractions))
        options.append(tick.roll(here, [(settled, offset)], "keep", offset, fractions))
    return [option for option in options if option is not None]


def _over(tick: Tick, neighbours: tuple[Neighbour, ...]) -> list[Option]:
    """Over to each neighbouring lane to which a change is safe, and wanted or under way."""
    c, memory = tick.config, tick.memory
    options = []
    for neighbour in neighbours:
        start, begun = neighbour.outlook.start, memory.path == neighbour.path
        if not neighbour.change.safe or not (neighbour.change.wanted or begun):
            continue
        until = start.progress_m + easing_m(start.offset_m, tick.speed_mps, c.change_lateral_mps2)
        if begun:  # it ends where it was to end, or as soon as it can twice as firmly
            firm = start.progress_m + easing_m(start.offset_m, tick.speed_mps, 2.0 * c.change_lateral_mps2)
            until = max(memory.until_m, firm)
        option = tick.roll(neighbour.outlook, [(until, 0.0)], neighbour.path, 0.0, c.side_fractions)
        if option is not None:
            options.append(replace(option, worth_mps2=neighbour.change.incentive_mps2))
    return options


def _constraints(tick: Tick, option: Option, k: int) -> list[Constraint]:
    """What every rule says now on an option's path, at its target speed."""
    c, speed, objects = tick.config, tick.speed_mps, tick.observation.objects
    target = option.target_mps(k)
    found = [
        evaluate("target_speed", None, {}, speed, c, target_speed_mps=target),
        *(evaluate(r.rule, r.about, r.inputs, speed, c, target_speed_mps=target) for r in option.outlook.rules),
        *lead_of(objects.ids, option.met, speed, target, c),
    ]
    for rule in [rule for rule in found if rule.rule == "lead"]:
        gap, closing = rule.inputs["gap_m"], speed - max(0.0, rule.inputs["lead_speed_mps"])
        if closing > 0.0 and (speed + speed - closing) * closing > 2.0 * c.decel_max_mps2 * max(gap - 0.3, 0.1):
            inputs = {"collision_s": gap / closing}  # the roll-out brakes harder than the law of the lead
            found.append(evaluate("emergency_brake", rule.about, inputs, speed, c, target_speed_mps=target))
    return sorted(found, key=lambda constraint: RULE_ORDER[constraint.rule])


def _following(ego: EgoState, option: Option, k: int) -> Trajectory:
    """One roll-out as a plan. It begins on its path, beside which the ego may be by what the tracker is off."""
    driven = option.driven
    return _trajectory(ego, driven.poses[k], driven.speeds_mps[k], driven.accels_mps2[k])


def _braking(ego: EgoState, poses: FloatArray) -> Trajectory:
    steps = np.hypot(*np.diff(poses[:, :2], axis=0).T) / INTERVAL_S
    speeds = np.append(steps, steps[-1])
    return _trajectory(ego, poses, speeds, np.diff(speeds, append=speeds[-1]) / INTERVAL_S)


def _trajectory(ego: EgoState, poses: FloatArray, speeds: FloatArray, accels: FloatArray) -> Trajectory:
    times = np.round(ego.time_s + INTERVAL_S * np.arange(len(poses)), 6)
    return Trajectory(times_s=times, poses_global=poses, speeds_mps=speeds, accels_mps2=accels)
