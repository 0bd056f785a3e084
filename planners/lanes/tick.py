"""One tick's surroundings: the lanes that the ego could be in, each with its outlook, and the roll-out of a path among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nsdrive.world.decision import LaneChange
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.types import INTERVAL_S, FloatArray, Observation
from planners.lanes.candidates import Candidate, Course, Start, lay
from planners.lanes.config import PdmLanesConfig
from planners.lanes.conflicts import Zone, claims, zones_of
from planners.lanes.following import Bends
from planners.lanes.frenet import entries, place
from planners.lanes.memory import Memory
from planners.lanes.mobil import Beside, beside, route_need, weigh
from planners.lanes.outlook import Outlook, look
from planners.lanes.passing import BICYCLE
from planners.lanes.rollout import Driven, drive
from planners.lanes.topology import Chain, Chains


@dataclass(frozen=True, kw_only=True, eq=False)
class Option:
    """A path with its roll-outs, one per speed fraction. outlook: of the chain it follows. met: who is on it (`frenet.entries`).
    worth_mps2: the incentive of its lane, or of getting past what blocks it. lawful: it goes round something within its
    own lane, but for the tracker's error, or overtakes over the oncoming lane where that is allowed and free."""

    candidate: Candidate
    driven: Driven
    fractions: tuple[float, ...]
    outlook: Outlook
    met: FloatArray
    worth_mps2: float = 0.0
    lawful: bool = False

    def target_mps(self, k: int) -> float:
        """The target speed of one of its roll-outs now."""
        return self.fractions[k] * min(self.outlook.target_mps, self.driven.crawl_mps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbour:
    """A lane beside the ego's. path: that which goes there."""

    path: str
    outlook: Outlook
    change: LaneChange


@dataclass(frozen=True, kw_only=True, eq=False)
class Tick:
    """What everything below looks at. zones: of the chains for which they are known, by the chain's `id`; filled as needed.
    bends: whose lane turns, and where that takes them."""

    lane_map: LaneMap
    chains: Chains
    zones: dict[int, tuple[Zone, ...]]
    memory: Memory
    observation: Observation
    course: Course
    bends: Bends
    config: PdmLanesConfig

    @property
    def speed_mps(self) -> float:
        return max(0.0, self.observation.ego.speed_mps)

    @cached_property
    def grown(self) -> FloatArray:
        """(N, 5) boxes of the objects, those of cyclists with the room that they need."""
        objects = self.observation.objects
        wider = self.config.bicycle_wider_m * (objects.kinds == BICYCLE)
        return objects.boxes + wider[:, None] * np.array([0.0, 0.0, 0.0, 0.0, 1.0])

    @cached_property
    def bend_of(self) -> np.ndarray:
        """(N,): which of the bends each object drives, -1 for none."""
        return self.bends.rows(self.observation.objects.ids)

    def outlook(self, chain: Chain) -> Outlook:
        """What lies ahead on a chain."""
        c, observation = self.config, self.observation
        if id(chain) not in self.zones:
            self.zones[id(chain)] = zones_of(self.lane_map, chain, c)
        start, placed = Start.of(chain, self.course), place(chain.path, observation.objects)
        found = claims(
            self.lane_map,
            self.zones[id(chain)],
            observation.objects,
            observation.lights,
            progress_m=start.progress_m,
            speed_mps=self.speed_mps,
            chain=chain,
            own=placed,
            parameters=c,
            margin_s=c.yield_margin_s,
        )
        return look(chain, start, placed, observation, tuple(found), c)

    def neighbours(self, here: Outlook, blocked: frozenset[str]) -> tuple[Neighbour, ...]:
        """The lanes beside, each weighed. blocked: ids of what stands in the own lane for good."""
        c, memory, chains, speed = self.config, self.memory, self.chains, self.speed_mps
        own = self._beside(here)
        own_need = self._need(here)
        recent = self.observation.ego.time_s - memory.changed_s < c.settle_s
        found: list[Neighbour] = []
        for path, side in (("change_left", "left"), ("change_right", "right")):
            begun = memory.path == path and memory.target is not None
            chain = memory.target if begun else chains.beside(here.chain, here.start.progress_m, side)
            if chain is None or chain is here.chain:
                continue
            there = self.outlook(chain)
            change = weigh(
                path,
                chain.lane_at(there.start.progress_m),
                own,
                self._beside(there),
                speed,
                here.target_mps,
                c,
                c,
                route_mps2=own_need - self._need(there),
                blocked_mps2=c.blocked_gain_mps2 if own.lead in blocked else 0.0,
                begun=begun,
                extra_threshold_mps2=c.settle_mps2 if recent and not begun else 0.0,
            )
            found.append(Neighbour(path=path, outlook=there, change=change))
        return tuple(found)

    def roll(
        self,
        outlook: Outlook,
        knots: Sequence[tuple[float, float]],
        kind: str,
        offset_m: float,
        fractions: tuple[float, ...],
        around: tuple[str, ...] = (),
        crawl_margin_m: float | None = 0.1,
    ) -> Option | None:
        """A path along an outlook's chain, driven at each speed; None where the chain is too short for one. crawl_margin_m: how
        near to the oncoming lane its middle crawls, None for nowhere."""
        c, objects = self.config, self.observation.objects
        reach = max(c.lookahead_min_m, c.path_s * max(self.speed_mps, outlook.target_mps))
        length = max(reach, knots[-1][0] - outlook.start.progress_m + 10.0)
        candidate = lay(outlook.chain, outlook.start, knots, length, kind=kind, offset_m=offset_m, around=around)
        if candidate is None:
            return None
        sample_s = INTERVAL_S * c.forecast_every
        met = entries(
            candidate.points,
            candidate.arc_m,
            self.grown,
            objects.velocities_mps,
            objects.accels_mps2,
            c.half_width_m,
            samples=c.proposal_steps // c.forecast_every + 1,
            interval_s=sample_s,
            bends=(self.bend_of, self.bends.poses),
        )
        driven = drive(
            candidate,
            self.speed_mps,
            fractions,
            outlook.stops,
            np.ascontiguousarray(met[:, :, np.isfinite(met[0]).any(axis=0)]),
            c,
            steps=c.plan_steps,
            sample_s=sample_s,
            accel_mps2=self.observation.ego.accel_mps2,
            against_mps=math.inf if crawl_margin_m is None else self.against_mps(outlook),
            against_margin_m=crawl_margin_m or 0.0,
        )
        return Option(candidate=candidate, driven=driven, fractions=fractions, outlook=outlook, met=met)

    def against_mps(self, outlook: Outlook) -> float:
        """The greatest speed with the car's middle left of a lane: a crawl where that is against the traffic."""
        c = self.config
        if self.chains.opposite(outlook.chain, outlook.start.progress_m) is None:
            return math.inf
        return c.against_mps if self.memory.waited_s < c.against_patience_s else c.against_impatient_mps

    def _beside(self, outlook: Outlook) -> Beside:
        progress = outlook.start.progress_m
        left, right = outlook.chain.edges_m(progress, progress)
        return beside(outlook.placed, progress, left, right, self.config)

    def _need(self, outlook: Outlook) -> float:
        chain = outlook.chain
        changes = self.chains.changes(chain.lane_at(outlook.start.progress_m))
        return route_need(changes, chain.end_m - outlook.nose_m, self.speed_mps, self.config)
