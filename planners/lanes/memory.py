"""What one tick leaves to the next: the lane, the path under way, how long things have stood."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nsdrive.world.geometry import wrap_angle
from nsdrive.world.lane_map import LaneMap
from nsdrive.world.route import nearest_lane
from nsdrive.world.types import INTERVAL_S, EgoState, Observation
from planners.lanes.candidates import Candidate
from planners.lanes.config import PdmLanesConfig
from planners.lanes.topology import Chain, Chains


@dataclass(kw_only=True)
class Memory:
    """path, offset_m, around, driven: the kind of path that was chosen, where it settles, what it goes round, and the path itself.
    until_m: where the change or way round under way ends, on its chain; target: the chain of a change under way. changed_s: when
    the last change was done or given up. ignored: what the ego overlapped once. stood_s: how long each object has stood. waited_s:
    how long the ego has, for a way round."""

    chain: Chain | None = None
    path: str = "keep"
    offset_m: float = 0.0
    around: tuple[str, ...] = ()
    driven: Candidate | None = None
    target: Chain | None = None
    until_m: float = -math.inf
    changed_s: float = -math.inf
    ignored: frozenset[str] = frozenset()
    stood_s: dict[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    time_s: float | None = None

    def watch(self, observation: Observation, c: PdmLanesConfig) -> None:
        """How long everything has stood."""
        objects = observation.objects
        passed = INTERVAL_S if self.time_s is None else max(0.0, observation.time_s - self.time_s)
        self.time_s = observation.time_s
        standing = np.flatnonzero(objects.speeds_mps <= c.pass_standing_mps).tolist()
        self.stood_s = {objects.ids[row]: self.stood_s.get(objects.ids[row], 0.0) + passed for row in standing}

    def settle(self, lane_map: LaneMap, chains: Chains, ego: EgoState, c: PdmLanesConfig) -> Chain:
        """The chain that the ego is on; a lane change is done when the ego is nearer to the new lane's middle. ValueError where no
        lane is left."""
        if self.chain is not None:
            progress, offset = self.chain.path.project(ego.x_m, ego.y_m)
            if self.target is not None:
                at, aside = self.target.path.project(ego.x_m, ego.y_m)
                if abs(aside) < abs(offset):
                    self.chain, self.target, self.path = self.target, None, "keep"
                    self.changed_s, progress, offset = ego.time_s, at, aside
            heading = float(self.chain.path.pose_at(progress)[2])
            turned = abs(float(wrap_angle(ego.heading_rad - heading)))
            if abs(offset) <= c.lost_m and turned <= math.pi / 2 and progress < self.chain.end_m - 0.5:
                return self.chain
        found = _find(lane_map, chains, ego, c) or self.chain
        if found is None:
            raise ValueError("No path can be laid along the lane that is nearest to the ego.")
        if found is not self.chain:
            self.chain, self.target, self.path, self.until_m = found, None, "keep", -math.inf
        return found

    def remember(self, candidate: Candidate, time_s: float) -> None:
        """The path that is driven from now on."""
        kind = candidate.kind
        if kind != self.path and self.path.startswith("change"):  # given up
            self.changed_s = time_s
        if kind != "keep":
            self.until_m = candidate.settled_m
        elif self.path != "keep":
            self.until_m = -math.inf
        self.path, self.offset_m, self.around, self.driven = kind, candidate.offset_m, candidate.around, candidate
        self.target = candidate.chain if kind.startswith("change") else None


def _find(lane_map: LaneMap, chains: Chains, ego: EgoState, c: PdmLanesConfig) -> Chain | None:
    """The chain of the nearest lane of the route; of the nearest lane at all, where the route is out of reach."""
    blocks = {lane_map.lanes[lane_id].roadblock_id for lane_id in chains.lanes}
    chain = chains.through(nearest_lane(lane_map, ego.pose, blocks or None))
    if chain is None or abs(chain.path.project(ego.x_m, ego.y_m)[1]) > 2.0 * c.lost_m:
        return chains.through(nearest_lane(lane_map, ego.pose)) or chain
    return chain
