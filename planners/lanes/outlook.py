"""What lies ahead on one chain at one tick: who is where beside it, what the rules of the road allow, who goes first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nsdrive.world.decision import Constraint
from nsdrive.world.rules import IdmParameters, evaluate, idm_acceleration
from nsdrive.world.types import FloatArray, Observation
from nsdrive.world.vehicle import PACIFICA
from planners import road_rules
from planners.lanes.candidates import Start
from planners.lanes.conflicts import Claim
from planners.lanes.frenet import Placed
from planners.lanes.rollout import Stop
from planners.lanes.topology import Chain
from planners.road_rules import RoadParameters

CLEAR_M = 1.0  # chosen by us: so far beside the ego's way somebody on foot has left it


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """One chain as seen now. target_mps: the speed it allows here. rules: constraints of everything but target speed and lead.
    stops: what of that holds the ego, for its roll-outs. claims: who goes before it, those who do not hold it included."""

    chain: Chain
    start: Start
    placed: Placed
    target_mps: float
    rules: tuple[Constraint, ...]
    stops: tuple[Stop, ...]
    claims: tuple[Claim, ...]

    @property
    def nose_m(self) -> float:
        """Progress of the front bumper."""
        return self.start.progress_m + PACIFICA.front_m


def look(
    chain: Chain,
    start: Start,
    placed: Placed,
    observation: Observation,
    claims: tuple[Claim, ...],
    c: RoadParameters,
) -> Outlook:
    """The outlook on a chain. observation: without objects whose numbers are not finite."""
    along = chain.along
    speed, progress = max(0.0, observation.ego.speed_mps), start.progress_m
    target = along.target_speed_mps(progress, c)
    nose = progress + PACIFICA.front_m
    rules = [
        *road_rules.curve_and_end(along, progress, speed, target, c),
        *road_rules.lights(along, observation, progress, speed, target, c),
        *road_rules.stop_signs(along, observation, progress, speed, target, c),
        *road_rules.crosswalks(along, observation, progress, speed, target, c),
    ]
    stops = [
        Stop(
            progress_m=nose + k.inputs["gap_m"],
            until_s=crossed_s(k.about, placed, c) if k.rule == "crosswalk" else np.inf,
        )
        for k in rules
        if "gap_m" in k.inputs and holds(k, c)
    ]
    for claim in claims:
        constraint = yields(claim.track_id, claim.stop_m - nose, claim.clears_s, claim.arrives_s, speed, target, c)
        rules.append(constraint)
        if holds(constraint, c):
            stops.append(Stop(progress_m=claim.stop_m, until_s=claim.leaves_s))
    return Outlook(
        chain=chain,
        start=start,
        placed=placed,
        target_mps=target,
        rules=tuple(rules),
        stops=tuple(stops),
        claims=claims,
    )


def crossed_s(about: str | None, placed: Placed, c: RoadParameters) -> float:
    """When someone on a crosswalk will have left the ego's way, inf for one who stands."""
    row = placed.ids.index(about) if about in placed.ids else -1
    across = float(placed.across_mps[row]) if row >= 0 else 0.0
    if abs(across) < c.standing_mps:
        return math.inf
    clear = c.half_width_m + float(placed.half_across_m[row]) + CLEAR_M
    return max(0.0, clear - math.copysign(1.0, across) * float(placed.offset_m[row])) / abs(across)


def yields(
    about: str | None, gap_m: float, clears_s: float, arrives_s: float, speed: float, target: float, c: IdmParameters
) -> Constraint:
    """The `yield` rule; times beyond a minute are a minute, so that they can be written down."""
    inputs = {"gap_m": gap_m, "clears_s": min(clears_s, 60.0), "arrives_s": min(arrives_s, 60.0)}
    return evaluate("yield", about, inputs, speed, c, target_speed_mps=target)


def holds(constraint: Constraint, c: IdmParameters) -> bool:
    """Whether the ego stops for it: an amber or a stop sign that is passed, and a claim before which it goes, hold nothing."""
    conditional = constraint.rule in ("amber_light", "stop_sign", "yield")
    return not (conditional and constraint.allows_mps2 >= c.accel_max_mps2)


def lead_of(ids: tuple[str, ...], met: FloatArray, speed: float, target: float, c: IdmParameters) -> list[Constraint]:
    """Of those on the path now, the one that allows least. met (4, K, N): `frenet.entries` along the path from the ego."""
    entry, middle, along = met[0, 0], met[1, 0], met[2, 0]
    nose = PACIFICA.front_m
    rows = np.flatnonzero(np.isfinite(entry) & ((entry - nose > 0.05) | (middle > nose)))
    if len(rows) == 0:
        return []
    rows = rows[np.argsort(entry[rows], kind="stable")]
    k = rows[int(np.argmin(idm_acceleration(speed, entry[rows] - nose, along[rows], target, c)))]
    inputs = {"gap_m": max(0.0, float(entry[k]) - nose), "lead_speed_mps": float(along[k])}
    return [evaluate("lead", ids[k], inputs, speed, c, target_speed_mps=target)]


def waiting_lines(chain: Chain, lights: Mapping[str, str]) -> tuple[float, ...]:
    """Progress of the lines at which traffic has to wait now: lights that are not green, stop signs, crosswalks."""
    along = chain.along
    lit = [line for line, connector in along.lights if lights.get(connector) in ("red", "yellow")]
    return (*lit, *(line for line, _, _ in along.stop_signs), *(near for near, _, _ in along.crosswalks))
