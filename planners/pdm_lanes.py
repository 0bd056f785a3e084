"""Past PDM-Closed: the same weighing of proposals, over several lanes, round what stands in the way, and with rules of way.

At each tick the planner looks at its own lane and the ones beside it, lays paths (along the lane, over to the next one, round
an obstacle and back), drives each at several speeds by the rules of the road, simulates and scores them as PDM-Closed does, and
takes the best. What is added to PDM-Closed (Dauner et al., CoRL 2023, see `planners.pdm_closed`):

- lanes from which the route goes on, and the centerline laid anew when the lane changes (`lanes.topology`);
- lane changes with the incentive and the safety check of MOBIL (Kesting, Treiber, Helbing 2007; `lanes.mobil`);
- ways round standing things and slow cyclists, over the oncoming lane where nobody comes (`lanes.passing`, `lanes.oncoming`);
- giving way at junctions by gap acceptance (`lanes.conflicts`), and IDM's curves, ambers, stop signs and crosswalks
  (`planners.road_rules`), inside every proposal's roll-out.

A path once begun is kept by the score's `steady` term, and given up where it is no longer safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from nsdrive.world.decision import Constraint, Decision, LaneChange, Proposal, Term, arg_min
from nsdrive.world.geometry import wrap_angle
from nsdrive.world.route import nearest_lane
from nsdrive.world.rules import RULES, evaluate
from nsdrive.world.scoring import ranking, total
from nsdrive.world.types import INTERVAL_S, EgoState, FloatArray, Mission, Observation, Plan, Trajectory
from nsdrive.world.vehicle import PACIFICA, ego_box
from planners.guard import guarded
from planners.lanes.candidates import QUINTIC_PEAK, STEERING_1PM, Candidate, Course, Start, easing_m, lay
from planners.lanes.conflicts import ConflictParameters, Zone, claims, zones_of
from planners.lanes.frenet import entries
from planners.lanes.mobil import Beside, MobilParameters, beside, blocker_of, follow, route_need, weigh
from planners.lanes.oncoming import OncomingParameters, oncoming_gap, seen_m
from planners.lanes.outlook import Outlook, lead_of, look, waiting_lines, yields
from planners.lanes.passing import PassingParameters, WayRound, ways_round
from planners.lanes.rollout import Driven, Stop, drive
from planners.lanes.topology import CROSSABLE, Chain, Chains, usable_route
from planners.pdm.areas import ONCOMING, Areas
from planners.pdm.brake import emergency_trajectory, must_brake
from planners.pdm.config import PdmParameters
from planners.pdm.forecast import forecast
from planners.pdm.paths import ProposalPath
from planners.pdm.score import NAMES, WRONG_WAY_MUCH_M, WRONG_WAY_SOME_M, score_proposals, terms_of
from planners.pdm.simulate import Simulated, simulate_proposals
from planners.road_rules import RoadParameters


@dataclass(frozen=True, kw_only=True)
class PdmLanesConfig(
    PdmParameters, RoadParameters, MobilParameters, OncomingParameters, PassingParameters, ConflictParameters
):
    """All numbers of the planner; those it shares with PDM-Closed and IDM keep their values there."""

    reference: bool = False  # PDM-Closed's quirks are mended
    clamp_needed_gap: bool = True  # else the ego brakes behind a lead that speeds away
    speed_fractions: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)  # PDM-Closed's, the fastest first: it wins a tie
    side_fractions: tuple[float, ...] = (1.0, 0.7, 0.4)  # chosen by us: of paths other than the lane's middle
    yield_margin_s: float = 1.0  # chosen by us: with the time to clear, some 5 to 6 s in all (see `lanes.conflicts`)
    path_s: float = 8.0  # chosen by us: paths are as long as is driven in this time at the limit
    keep_s: float = 2.5  # chosen by us: in this time the ego is back in the middle of its lane
    change_lateral_mps2: float = 0.9  # chosen by us: a lane change of 3.5 m takes 4.7 s
    against_mps: float = (
        1.8  # nuPlan's driving direction: 2 m against the traffic within a second are a fault, 6 m a grave one
    )
    against_patience_s: float = 10.0  # chosen by us: who has waited so long for a way round ...
    against_impatient_mps: float = 5.5  # ... takes half a fault
    pass_lateral_mps2: float = 1.2  # chosen by us: round something one steers a little more firmly
    moving_longer_m: float = (
        0.6  # chosen by us: what moves is scored as a little longer than it is, for it may speed up or brake
    )
    moving_wider_m: float = 0.2  # chosen by us: and wider, for it may sway
    aside_per_m: float = 0.1  # chosen by us: what the lane term loses per metre beside the middle of the lane
    lane_scale_mps2: float = 3.0  # chosen by us: a lane this much worse in MOBIL's incentive is worth nothing
    settle_s: float = 4.0  # chosen by us: so long after a lane change another one needs a stronger reason ...
    settle_mps2: float = 1.5  # ... by this much
    lost_m: float = 5.0  # chosen by us: an ego this far from its lane's middle looks for another lane
    hold_back_m: float = (
        1.0  # chosen by us: before what it waits to go round the ego keeps room to steer out, and this much more
    )
    worth_waiting_s: float = 25.0  # chosen by us: what takes longer to go round is not waited for at a distance
    hold_decel_mps2: float = 1.2  # chosen by us: for that it brakes no harder
    hold_unsure_m: float = 5.0  # chosen by us: and this far where it is not sure yet that it has to go round


@dataclass(kw_only=True)
class _Memory:
    """What one tick leaves to the next. path, until_m: the change or way round under way, and where (on its chain) it ends."""

    chain: Chain | None = None
    path: str = "keep"
    offset_m: float = 0.0
    target: Chain | None = None
    until_m: float = -math.inf
    around: tuple[str, ...] = ()
    driven: Candidate | None = None
    changed_s: float = -math.inf
    ignored: frozenset[str] = frozenset()
    stood_s: dict[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    time_s: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Option:
    """A path with its roll-outs. worth_mps2: MOBIL's incentive of its lane. outlook: of the chain it follows. met: who is on it."""

    candidate: Candidate
    driven: Driven
    fractions: tuple[float, ...]
    outlook: Outlook
    met: FloatArray
    worth_mps2: float = 0.0


@guarded
class PdmLanesPlanner:
    """One object drives one rollout; `initialize` forgets the last one."""

    name = "pdm_lanes"

    def __init__(self, config: PdmLanesConfig | None = None) -> None:
        self.config = config or PdmLanesConfig()
        self._mission: Mission

    def initialize(self, mission: Mission, ego: EgoState) -> None:
        """Judge the lanes of the route. ValueError for a map on which no lane is usable."""
        self._mission, self._memory = mission, _Memory()
        self._zones: dict[int, tuple[Zone, ...]] = {}
        self._free: dict[int, FloatArray] = {}
        self._lines: dict[int, ProposalPath] = {}
        self._chains = Chains(mission, usable_route(mission, ego.pose), self.config)

    def plan(self, observation: Observation) -> Plan:
        """The best proposal as an 8 s trajectory (81 states, 0.1 s apart), and everything that was weighed."""
        c, ego, memory = self.config, observation.ego, self._memory
        self._watch(observation)
        chain = self._settle(ego)
        self._course = Course.of(ego, memory.driven)
        here = self._outlook(chain, observation)
        speed = max(0.0, ego.speed_mps)
        ways = self._ways(here, observation)
        memory.waited_s = 0.0 if not ways else memory.waited_s + INTERVAL_S * (speed < c.pass_standing_mps)
        lanes, changes = self._lane_changes(
            observation, here, blocked={i for way in ways for i in way.ids if way.speed_mps == 0.0}
        )
        options, considered = self._options(observation, here, lanes, ways)
        changes += considered

        proposals_at = [(option, k) for option in options for k in range(len(option.fractions))]
        poses = np.concatenate([option.driven.poses for option in options])
        seen = forecast(observation.objects, observation.lights, ego, {}, memory.ignored, c)
        memory.ignored = seen.ignored_ids
        moving = seen.is_agent & (seen.speeds_mps > c.pass_standing_mps)
        seen = replace(
            seen, boxes=seen.boxes + moving[:, None] * np.array([0.0, 0.0, 0.0, c.moving_longer_m, c.moving_wider_m])
        )
        simulated = simulate_proposals(poses[:, : c.proposal_steps + 1], ego)
        areas = Areas.near(self._mission.lane_map, ego_box(ego.pose)[0, :2], c.radius_m)
        on_route = self._on_route(options)
        scores = score_proposals(simulated, seen, self._line(chain), areas, on_route, c)
        terms = _by_the_second(terms_of(scores, seen), simulated, areas, on_route)
        proposals = self._proposals(proposals_at, terms)
        chosen, runner_up = ranking([proposal.score for proposal in proposals])
        assert chosen is not None, "the lane itself is always an option"

        option, k = proposals_at[chosen]
        braking = must_brake(float(scores.collision_s[chosen]), ego.speed_mps, c)
        target = option.fractions[k] * option.outlook.target_mps
        constraints = [
            evaluate("target_speed", None, {}, speed, c, target_speed_mps=target),
            *(evaluate(r.rule, r.about, r.inputs, speed, c, target_speed_mps=target) for r in option.outlook.rules),
            *lead_of(observation.objects.ids, option.met, speed, target, c),
        ]
        if braking:
            about = seen.ids[scores.collision_about[chosen]]
            inputs = {"collision_s": float(scores.collision_s[chosen])}
            constraints.append(evaluate("emergency_brake", about, inputs, speed, c, target_speed_mps=target))
        self._remember(option, observation.time_s)
        if braking:
            memory.driven = None
        filled, binding, tied = arg_min(sorted(constraints, key=_rule_order))
        decision = Decision(
            planner=self.name,
            time_s=observation.time_s,
            speed_mps=speed,
            accel_mps2=ego.accel_mps2,
            progress_m=here.start.progress_m,
            lateral_offset_m=here.start.offset_m,
            lane_id=chain.lane_at(here.start.progress_m),
            constraints=filled,
            command_mps2=min(x.allows_mps2 for x in filled),
            binding=binding,
            tied=tied,
            proposals=proposals,
            chosen=chosen,
            runner_up=runner_up,
            lane_changes=tuple(changes),
        )
        trajectory = _braking(ego, emergency_trajectory(ego, c)) if braking else _along(ego, option.driven, k)
        return Plan(trajectory=trajectory, decision=decision, candidates=poses[:, : c.proposal_steps + 1])

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _watch(self, observation: Observation) -> None:
        """How long everything has stood."""
        memory, objects = self._memory, observation.objects
        passed = INTERVAL_S if memory.time_s is None else max(0.0, observation.time_s - memory.time_s)
        memory.time_s = observation.time_s
        standing = np.flatnonzero(objects.speeds_mps <= self.config.pass_standing_mps).tolist()
        memory.stood_s = {objects.ids[row]: memory.stood_s.get(objects.ids[row], 0.0) + passed for row in standing}

    def _settle(self, ego: EgoState) -> Chain:
        """The chain that the ego is on: a lane change is done, for the centerline, when it is nearer to the new lane's."""
        memory, c = self._memory, self.config
        if memory.chain is not None:
            progress, offset = memory.chain.path.project(ego.x_m, ego.y_m)
            if memory.target is not None:
                at, aside = memory.target.path.project(ego.x_m, ego.y_m)
                if abs(aside) < abs(offset):
                    memory.chain, memory.target, memory.path = memory.target, None, "keep"
                    memory.changed_s, progress, offset = float(ego.time_s), at, aside
            heading = float(memory.chain.path.pose_at(progress)[2])
            turned = abs(float(wrap_angle(ego.heading_rad - heading)))
            if abs(offset) <= c.lost_m and turned <= math.pi / 2 and progress < memory.chain.end_m - 0.5:
                return memory.chain
        found = self._find(ego)
        if found is None:
            if memory.chain is not None:
                return memory.chain
            raise ValueError("No lane leads from the ego's place along the route.")
        memory.chain, memory.target, memory.path, memory.until_m = found, None, "keep", -math.inf
        return found

    def _find(self, ego: EgoState) -> Chain | None:
        """The chain of the nearest lane of the route; of the nearest lane at all, where the route is out of reach."""
        lane_map = self._mission.lane_map
        blocks = {lane_map.lanes[lane_id].roadblock_id for lane_id in self._chains.lanes}
        near = nearest_lane(lane_map, ego.pose, blocks) if blocks else nearest_lane(lane_map, ego.pose)
        chain = self._chains.through(near)
        if chain is not None and abs(chain.path.project(ego.x_m, ego.y_m)[1]) > 2.0 * self.config.lost_m:
            other = self._chains.through(nearest_lane(lane_map, ego.pose))
            chain = other or chain
        return chain

    def _remember(self, option: _Option, time_s: float) -> None:
        memory, candidate = self._memory, option.candidate
        kind, memory.driven = candidate.kind, candidate
        if kind != memory.path and memory.path.startswith("change"):  # given up
            memory.changed_s = time_s
        if kind != "keep":
            memory.until_m = candidate.settled_m
        elif memory.path != "keep":
            memory.until_m = -math.inf
        memory.path, memory.around, memory.offset_m = kind, candidate.around, candidate.offset_m
        memory.target = candidate.chain if kind.startswith("change") else None

    # ---- what lies ahead -------------------------------------------------------------------------------------------

    def _outlook(self, chain: Chain, observation: Observation) -> Outlook:
        c, lane_map = self.config, self._mission.lane_map
        if id(chain) not in self._zones:
            self._zones[id(chain)] = zones_of(lane_map, chain, c)
            profile = chain.along.profile
            self._free[id(chain)] = np.sqrt(np.minimum(profile[1], profile[2]))
        progress, _ = chain.path.project(observation.ego.x_m, observation.ego.y_m)
        found = claims(
            lane_map,
            self._zones[id(chain)],
            observation.objects,
            observation.lights,
            progress_m=progress,
            speed_mps=observation.ego.speed_mps,
            free_mps=self._free[id(chain)],
            chain=chain,
            parameters=c,
            margin_s=c.yield_margin_s,
        )
        return look(chain, Start.of(chain, self._course), observation, tuple(found), c)

    def _lane_changes(
        self, observation: Observation, here: Outlook, blocked: set[str]
    ) -> tuple[list[tuple[str, Outlook, LaneChange]], list[LaneChange]]:
        """The neighbouring lanes that there are, each weighed, and those weights alone."""
        c, ego, memory, chains = self.config, observation.ego, self._memory, self._chains
        speed, progress = max(0.0, ego.speed_mps), here.start.progress_m
        lanes: list[tuple[str, Outlook, LaneChange]] = []
        own = self._beside(here)
        own_lane = here.chain.lane_at(progress)
        own_need = route_need(chains.changes(own_lane), here.chain.end_m - here.nose_m, speed, c)
        recent = ego.time_s - memory.changed_s < c.settle_s
        for path, side in (("change_left", "left"), ("change_right", "right")):
            begun = memory.path == path and memory.target is not None
            chain = memory.target if begun else chains.beside(here.chain, progress, side)
            if chain is None or chain is here.chain:
                continue
            there = self._outlook(chain, observation)
            lane_id = chain.lane_at(there.start.progress_m)
            need = route_need(chains.changes(lane_id), chain.end_m - there.nose_m, speed, c)
            change = weigh(
                path,
                lane_id,
                own,
                self._beside(there),
                speed,
                here.target_mps,
                c,
                c,
                route_mps2=own_need - need,
                blocked_mps2=c.blocked_gain_mps2 if own.lead in blocked else 0.0,
                begun=begun,
                extra_threshold_mps2=c.settle_mps2 if recent and not begun else 0.0,
            )
            lanes.append((path, there, change))
        return lanes, [change for _, _, change in lanes]

    def _beside(self, outlook: Outlook) -> Beside:
        left, right = outlook.chain.edges_m(outlook.start.progress_m, outlook.start.progress_m)
        return beside(outlook.placed, outlook.start.progress_m, left, right, self.config)

    # ---- paths -----------------------------------------------------------------------------------------------------

    def _options(
        self,
        observation: Observation,
        here: Outlook,
        lanes: list[tuple[str, Outlook, LaneChange]],
        ways: tuple[WayRound, ...],
    ) -> tuple[list[_Option], list[LaneChange]]:
        """Everything that could be driven now, and what was thought of the ways round."""
        c, memory, speed = self.config, self._memory, max(0.0, observation.ego.speed_mps)
        around, considered, held = self._rounds(observation, here, ways)
        if held is not None:
            here = held
        ease = max(8.0, c.keep_s * speed)
        if memory.path == "keep" and memory.until_m > here.start.progress_m + 2.0:  # a change is being finished
            ease = max(ease, memory.until_m - here.start.progress_m)
        options = []
        for offset in c.offsets_m:
            fractions = c.speed_fractions if offset == 0.0 else c.side_fractions
            options.append(self._drive(observation, here, "keep", offset, here.start.progress_m + ease, fractions))
        for path, there, change in lanes:
            begun = memory.path == path
            if change.safe and (change.wanted or begun):
                until = memory.until_m
                if not begun:
                    until = there.start.progress_m + easing_m(there.start.offset_m, speed, c.change_lateral_mps2)
                firm = there.start.progress_m + easing_m(there.start.offset_m, speed, 2.0 * c.change_lateral_mps2)
                option = self._drive(observation, there, path, 0.0, max(until, firm), c.side_fractions)
                options.append(option and replace(option, worth_mps2=change.incentive_mps2))
        options += around
        found = [option for option in options if option is not None]
        if not found:
            raise ValueError("The lane ends here and no other one can be reached.")
        return found, considered

    def _drive(
        self,
        observation: Observation,
        outlook: Outlook,
        kind: str,
        offset_m: float,
        settled_m: float,
        fractions: tuple[float, ...],
    ) -> _Option | None:
        return self._roll(observation, outlook, ((settled_m, offset_m),), kind, offset_m, (), fractions)

    def _roll(
        self,
        observation: Observation,
        outlook: Outlook,
        knots: tuple[tuple[float, float], ...],
        kind: str,
        offset_m: float,
        ids: tuple[str, ...],
        fractions: tuple[float, ...],
    ) -> _Option | None:
        """A path and its roll-outs, None where the chain is too short for one."""
        c, objects = self.config, observation.objects
        speed = max(0.0, observation.ego.speed_mps)
        length = max(c.lookahead_min_m, c.path_s * max(speed, outlook.target_mps))
        candidate = lay(outlook.chain, outlook.start, knots, length, kind=kind, offset_m=offset_m, around=ids)
        if candidate is None:
            return None
        sample_s = INTERVAL_S * c.forecast_every
        met = entries(
            candidate.points,
            candidate.arc_m,
            objects.boxes,
            objects.velocities_mps,
            c.half_width_m,
            samples=c.proposal_steps // c.forecast_every + 1,
            interval_s=sample_s,
        )
        on_it = np.isfinite(met[0]).any(axis=0)
        stops = outlook.stops
        driven = drive(
            candidate,
            speed,
            fractions,
            stops,
            np.ascontiguousarray(met[:, :, on_it]),
            c,
            steps=c.plan_steps,
            sample_s=sample_s,
            accel_mps2=observation.ego.accel_mps2,
            against_mps=self._against_mps(outlook.chain, outlook.start.progress_m),
        )
        return _Option(candidate=candidate, driven=driven, fractions=fractions, outlook=outlook, met=met)

    def _ways(self, here: Outlook, observation: Observation) -> tuple[WayRound, ...]:
        c, chains = self.config, self._chains
        progress = here.start.progress_m
        lane = self._mission.lane_map.lanes[here.chain.lane_at(progress)]
        beside_left = chains.beside(here.chain, progress, "left")
        opposite = chains.opposite(here.chain, progress)
        return ways_round(
            here.chain,
            here.placed,
            progress_m=progress,
            speed_mps=max(0.0, observation.ego.speed_mps),
            limit_mps=here.target_mps,
            stood_s=self._memory.stood_s,
            lines_m=waiting_lines(here.chain, observation.lights),
            left="same" if beside_left is not None else ("oncoming" if opposite is not None else None),
            right="same" if chains.beside(here.chain, progress, "right") is not None else None,
            may_overtake=lane.left_marking in CROSSABLE,
            parameters=c,
        )

    def _rounds(
        self, observation: Observation, here: Outlook, ways: tuple[WayRound, ...]
    ) -> tuple[list[_Option | None], list[LaneChange], Outlook | None]:
        """The ways round that can be driven now, all that were considered, and, where one is worth waiting for, the outlook of
        an ego that waits for it."""
        c, memory = self.config, self._memory
        speed, progress = max(0.0, observation.ego.speed_mps), here.start.progress_m
        options: list[_Option | None] = []
        considered: list[LaneChange] = []
        waits: Constraint | None = None
        for way in ways:
            begun = memory.path == way.kind and bool(set(way.ids) & set(memory.around))
            shift = way.offset_m - here.start.offset_m
            out = max(way.from_m, progress + 0.6 * easing_m(shift, speed, c.pass_lateral_mps2))
            back = max(out, way.to_m)
            settled = back + easing_m(way.offset_m, max(speed, 5.0), c.pass_lateral_mps2)
            knots = ((out, way.offset_m), (back, way.offset_m), (settled, 0.0))
            option = self._roll(observation, here, knots, way.kind, way.offset_m, way.ids, c.side_fractions)
            if option is None:
                continue
            free, about, arrives, needs = self._is_free(observation, here, way, option, settled, begun)
            gain = self._gain(here, way, speed)
            worth = max(0.0, gain)
            if way.over == "own":
                options.append(replace(option, worth_mps2=worth) if way.ready or begun else None)
                continue
            beyond = begun and here.nose_m > way.rear_m
            if (free and way.ready) or beyond:
                options.append(replace(option, worth_mps2=worth))
            elif waits is None:
                room = (
                    c.hold_back_m + math.sqrt(QUINTIC_PEAK * abs(way.offset_m) / STEERING_1PM)
                    if way.ready
                    else c.hold_unsure_m
                )
                hold = max(way.rear_m - room, here.nose_m + max(0.5, speed * speed / (2.0 * c.hold_decel_mps2)))
                if hold < way.rear_m - 2.0 and needs < c.worth_waiting_s:
                    waits = yields(about, hold - here.nose_m, needs, min(arrives, needs), speed, here.target_mps, c)
            considered.append(
                LaneChange(
                    path=way.kind,
                    lane_id=self._chains.opposite(here.chain, progress)
                    if way.over == "oncoming"
                    else self._side_lane(here, way.kind),
                    reason="blocked",
                    incentive_mps2=worth,
                    threshold_mps2=c.change_threshold_mps2,
                    lead=way.ids[0],
                    follower=None,
                    follower_accel_mps2=0.0,
                    safe_accel_mps2=-c.safe_decel_mps2,
                    safe=free,
                    blocker=about,
                )
            )
        if waits is None or any(option is not None for option in options):
            return options, considered, None
        stop = Stop(progress_m=here.nose_m + waits.inputs["gap_m"])
        return options, considered, replace(here, rules=(*here.rules, waits), stops=(*here.stops, stop))

    def _is_free(
        self, observation: Observation, here: Outlook, way: WayRound, option: _Option, settled_m: float, begun: bool
    ) -> tuple[bool, str | None, float, float]:
        """(whether nobody else needs the room, who does, when they arrive, when the ego is back)."""
        c, speed, progress = self.config, max(0.0, observation.ego.speed_mps), here.start.progress_m
        back_m = way.to_m + 0.5 * (settled_m - way.to_m)
        needs, exposed = self._alone_s(option.candidate, speed, back_m)
        if way.over == "own":
            return True, None, math.inf, needs
        if way.over == "same":
            placed = replace(here.placed, offset_m=here.placed.offset_m - way.offset_m)
            there = beside(placed, progress, 0.5 * PACIFICA.width_m, 0.5 * PACIFICA.width_m, c)
            if there.lead in way.ids:
                there = replace(there, lead=None, lead_gap_m=1e6)
            if there.alongside in way.ids:
                there = replace(there, alongside=None)
            v = there.follower_speed_mps
            behind = follow(v, there.follower_gap_m, speed, max(here.target_mps, v), c)
            ahead = follow(speed, there.lead_gap_m, there.lead_speed_mps, here.target_mps, c)
            limit = c.continue_decel_mps2 if begun else c.safe_decel_mps2
            blocker = blocker_of(there, speed, ahead, behind, limit, c)
            return blocker is None, blocker, 0.0, needs
        lane = here.chain.path.speed_limit_at(progress)
        view = seen_m(
            here.chain.path,
            progress,
            max(way.offset_m, 2.0),
            observation.objects.boxes,
            observation.objects.heights_m,
            c,
            eye_offset_m=here.start.offset_m,
        )
        gap = oncoming_gap(
            here.placed,
            progress_m=progress,
            back_m=back_m,
            offset_m=way.offset_m,
            needs_s=needs,
            exposed_s=exposed,
            view_m=view,
            limit_mps=c.target_speed_mps if math.isnan(lane) else lane,
            parameters=c,
            begun=begun,
        )
        return gap.free, gap.about, min(gap.arrives_s, gap.unseen_s), needs

    def _alone_s(self, candidate: Candidate, speed: float, to_m: float) -> tuple[float, float]:
        """How long it takes to a place on a path with nobody else there, and how much of that the ego is over the lane's line; inf
        where the path ends before it."""
        c = self.config
        nobody = np.zeros((3, 1, 0))
        against = self._against_mps(candidate.chain, float(candidate.base_m[0]))
        steps = 3 * c.plan_steps
        arc = drive(
            candidate, speed, (1.0,), (), nobody, c, steps=steps, sample_s=INTERVAL_S, against_mps=against
        ).arc_m[0]
        at = candidate.arc_at(to_m)
        if arc[-1] < at:
            return math.inf, math.inf
        path = candidate.chain.path.progress_m
        edge = np.where(candidate.lateral_m > 0.0, 1.0, 0.0) * np.interp(candidate.base_m, path, candidate.chain.left_m)
        edge += np.where(candidate.lateral_m > 0.0, 0.0, 1.0) * np.interp(
            candidate.base_m, path, candidate.chain.right_m
        )
        over = np.flatnonzero(np.abs(candidate.lateral_m) + 0.5 * PACIFICA.width_m > edge)
        needs = float(np.searchsorted(arc, at)) * INTERVAL_S
        if len(over) == 0:
            return needs, 0.0
        enters = float(np.searchsorted(arc, candidate.arc_m[over[0]] - PACIFICA.front_m)) * INTERVAL_S
        return needs, max(0.0, needs - enters)

    def _against_mps(self, chain: Chain, progress_m: float) -> float:
        """The greatest speed with the car's middle left of this lane: a crawl where that is against the traffic."""
        c = self.config
        if self._chains.opposite(chain, progress_m) is None:
            return math.inf
        return c.against_mps if self._memory.waited_s < c.against_patience_s else c.against_impatient_mps

    def _gain(self, here: Outlook, way: WayRound, speed: float) -> float:
        """What it gains in acceleration not to be behind it."""
        c = self.config
        behind = follow(speed, max(0.1, way.rear_m - here.nose_m), way.speed_mps, here.target_mps, c)
        free = follow(speed, 1e6, 0.0, here.target_mps, c)
        return max(free, -c.decel_max_mps2) - max(behind, -c.decel_max_mps2)

    def _side_lane(self, here: Outlook, kind: str) -> str | None:
        chain = self._chains.beside(here.chain, here.start.progress_m, kind.removeprefix("pass_"))
        return None if chain is None else chain.lane_at(here.start.progress_m)

    # ---- weighing --------------------------------------------------------------------------------------------------

    def _on_route(self, options: list[_Option]) -> frozenset[str]:
        own = {lane_id for option in options for lane_id in option.candidate.chain.lane_ids}
        return frozenset(own | set(self._chains.lanes))

    def _line(self, chain: Chain) -> ProposalPath:
        if id(chain) not in self._lines:
            ids = [lane_id or "" for lane_id in chain.path.lane_ids]
            self._lines[id(chain)] = ProposalPath.of(chain.path.points, chain.path.heading_rad, ids)
        return self._lines[id(chain)]

    def _proposals(self, at: list[tuple[_Option, int]], scored: tuple[tuple[Term, ...], ...]) -> tuple[Proposal, ...]:
        """Every proposal with PDM-Closed's terms and ours: right of way, lane, steadiness. Progress is that of all eight seconds
        of the roll-out: to wait for a gap and then go is more than to crawl."""
        c, memory = self.config, self._memory
        best_worth = max(option.worth_mps2 for option, _ in at)
        rows = []
        for (option, k), terms in zip(at, scored, strict=True):
            named = {term.name: term for term in terms}
            multipliers = [named[name] for name in NAMES[:3]] + [_right_of_way(option, k)]
            worse = (best_worth - option.worth_mps2) / c.lane_scale_mps2
            kind, offset = option.candidate.kind, option.candidate.offset_m
            aside = c.aside_per_m * abs(offset) if kind == "keep" and not option.candidate.around else 0.0
            same = (1.0 if abs(offset - memory.offset_m) < 0.5 else 0.8) if kind == memory.path else 0.0
            rest = [
                named["time_to_collision"],
                named["comfort"],
                Term(name="lane", value=min(1.0, max(0.0, 1.0 - worse - aside))),
                Term(name="steady", value=same),
            ]
            rows.append((multipliers, rest))
        progress_m = np.array([_progress(option, k) for option, k in at])
        product = np.array([math.prod(term.value for term in multipliers) for multipliers, _ in rows])
        allowed = progress_m * product
        best = float(allowed.max())
        shares = allowed / best if best > 0.1 else np.where(product == 0.0, 0.0, 1.0)
        made = []
        for (option, k), (multipliers, rest), share, metres in zip(
            at, rows, shares.tolist(), progress_m.tolist(), strict=True
        ):
            progress = Term(name="progress", value=share, measured=metres)
            terms = (*multipliers, progress, *rest)
            made.append(
                Proposal(
                    path=option.candidate.kind,
                    offset_m=option.candidate.offset_m,
                    speed_fraction=option.fractions[k],
                    terms=terms,
                    score=total(terms),
                )
            )
        return tuple(made)


def _by_the_second(
    scored: tuple[tuple[Term, ...], ...], simulated: Simulated, areas: Areas, on_route: frozenset[str]
) -> tuple[tuple[Term, ...], ...]:
    """The terms with driving direction as nuPlan's metric has it: the furthest that the car's middle gets off the route's lanes in
    any one second, where PDM-Closed adds up the whole way. So something can be gone round at a crawl."""
    column = NAMES.index("driving_direction")
    rows = [row for row, terms in enumerate(scored) if terms[column].measured is not None]
    if not rows:
        return scored
    window = round(1.0 / INTERVAL_S)
    off = areas.ego_areas(simulated.corners[rows], simulated.centers[rows], on_route)[:, :, ONCOMING]
    steps = np.linalg.norm(np.diff(simulated.centers[rows], axis=1), axis=2) * off[:, 1:]
    driven = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(steps, axis=1)], axis=1)
    furthest = (driven[:, window:] - driven[:, :-window]).max(axis=1)
    mended = list(scored)
    for row, metres in zip(rows, furthest.tolist(), strict=True):
        value = 1.0 if metres < WRONG_WAY_SOME_M else 0.5 if metres < WRONG_WAY_MUCH_M else 0.0
        term = replace(scored[row][column], value=value, measured=metres)
        mended[row] = (*scored[row][:column], term, *scored[row][column + 1 :])
    return tuple(mended)


def _progress(option: _Option, k: int) -> float:
    """How far a roll-out gets in its eight seconds, along the chain that it follows."""
    candidate = option.candidate
    end = float(np.interp(option.driven.arc_m[k, -1], candidate.arc_m, candidate.base_m))
    return max(0.0, end - option.outlook.start.progress_m)


def _right_of_way(option: _Option, k: int) -> Term:
    """0 where the ego's nose passes a line while the one who goes first has not gone yet."""
    outlook = option.outlook
    for constraint, claim in ((r, c) for r in outlook.rules if r.rule == "yield" for c in outlook.claims):
        if claim.track_id != constraint.about or constraint.allows_mps2 >= 1.0:
            continue
        if claim.stop_m < outlook.nose_m - 0.5:
            continue
        line = option.candidate.arc_at(claim.stop_m) - PACIFICA.front_m + 0.5
        over = np.flatnonzero(option.driven.arc_m[k, :41] > line)
        if len(over) and over[0] * INTERVAL_S < claim.leaves_s:
            return Term(name="right_of_way", value=0.0, measured=float(over[0] * INTERVAL_S), about=claim.track_id)
    return Term(name="right_of_way", value=1.0)


_ORDER = list(RULES)


def _rule_order(constraint: Constraint) -> int:
    return _ORDER.index(constraint.rule)


def _along(ego: EgoState, driven: Driven, k: int) -> Trajectory:
    """One roll-out as a plan. It begins on its path, beside which the ego may be by what the tracker is off."""
    return _trajectory(ego, driven.poses[k], driven.speeds_mps[k], driven.accels_mps2[k])


def _braking(ego: EgoState, poses: FloatArray) -> Trajectory:
    steps = np.hypot(*np.diff(poses[:, :2], axis=0).T) / INTERVAL_S
    speeds = np.append(steps, steps[-1])
    return _trajectory(ego, poses, speeds, np.diff(speeds, append=speeds[-1]) / INTERVAL_S)


def _trajectory(ego: EgoState, poses: FloatArray, speeds: FloatArray, accels: FloatArray) -> Trajectory:
    times = np.round(ego.time_s + INTERVAL_S * np.arange(len(poses)), 6)
    return Trajectory(times_s=times, poses_global=poses, speeds_mps=speeds, accels_mps2=accels)
