"""Deliberations that no planner has made yet: proposals and lane changes from a seed, as a planner would record them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nsdrive.world.decision import LANE_CHANGE_REASONS, PATHS, LaneChange, Proposal, Term
from nsdrive.world.scoring import TERMS, ranking, total

FRACTIONS, OFFSETS = (0.2, 0.4, 0.6, 0.8, 1.0), (0.0, -1.0, 1.0)


def invent_proposals(rng: random.Random, things: Sequence[str], motions: Sequence[tuple] = ()) -> tuple[Proposal, ...]:
    """Proposals with every term, some a hair apart or equal; motions: (path, offset, fraction), default PDM-Closed's fifteen."""
    motions = motions or [("keep", offset, fraction) for offset in OFFSETS for fraction in FRACTIONS]
    hair = rng.choice((0.0, 0.0, 0.0, 1e-3, 1e-3, 1e-3, 3e-7, 1e-11, 1e-15))
    best = rng.uniform(1.0, 60.0)
    proposals = []
    for k, (path, offset, fraction) in enumerate(motions):
        share = min(1.0, rng.choice((fraction, 0.5, rng.random())) + k * hair)
        failing = rng.random() < 0.25
        terms = tuple(_term(rng, name, share, best * share, things, failing) for name in TERMS)
        proposals.append(Proposal(path=path, offset_m=offset, speed_fraction=fraction, terms=terms, score=total(terms)))
    return tuple(proposals)


def invent_lane_changes(rng: random.Random, things: Sequence[str]) -> tuple[LaneChange, ...]:
    """What is thought of none, one or two neighbouring lanes."""
    return tuple(_lane_change(rng, path, things) for path in rng.sample(PATHS[1:3], rng.randint(0, 2)))


def outcome(proposals: Sequence[Proposal]) -> dict[str, int | None]:
    chosen, runner_up = ranking([p.score for p in proposals])
    return {"chosen": chosen, "runner_up": runner_up}


def _term(rng: random.Random, name: str, share: float, progress_m: float, things: Sequence[str], failing: bool) -> Term:
    if name == "progress":
        return Term(name=name, value=share, measured=progress_m)
    value = rng.choice((0.0, 0.5, 1.0, 1.0)) if failing else 1.0
    if value == 1.0:
        return Term(name=name, value=1.0)
    measured = rng.uniform(0.0, 4.0) if TERMS[name].measured else None
    blames = name in ("no_at_fault_collision", "time_to_collision", "right_of_way")
    return Term(name=name, value=value, measured=measured, about=rng.choice(things) if blames and things else None)


def _lane_change(rng: random.Random, path: str, things: Sequence[str]) -> LaneChange:
    def maybe() -> str | None:
        return rng.choice(things) if things and rng.random() < 0.7 else None

    follower = maybe()
    asked = 0.0 if follower is None else rng.uniform(-3.0, 1.0)
    safe = asked >= -2.0 and rng.random() < 0.7
    return LaneChange(
        path=path,
        lane_id=rng.choice((None, "12")),
        reason=rng.choice(LANE_CHANGE_REASONS),
        incentive_mps2=rng.choice((0.2, 0.2 + 1e-9, -0.0, rng.uniform(-2.0, 2.0))),
        threshold_mps2=0.2,
        lead=maybe(),
        follower=follower,
        follower_accel_mps2=asked,
        safe_accel_mps2=-2.0,
        safe=safe,
        blocker=None if safe else maybe(),
    )
