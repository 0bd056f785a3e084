"""The score of a proposal: PDM-Closed's terms, and right of way, lane and steadiness beside them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from nsdrive.world.decision import Proposal, Term
from nsdrive.world.scoring import total
from nsdrive.world.types import INTERVAL_S
from nsdrive.world.vehicle import PACIFICA
from planners.lanes.config import PdmLanesConfig
from planners.lanes.memory import Memory
from planners.lanes.outlook import holds
from planners.lanes.tick import Option
from planners.pdm.areas import NON_DRIVABLE, ONCOMING, Areas
from planners.pdm.score import NAMES, WRONG_WAY_MUCH_M, WRONG_WAY_SOME_M
from planners.pdm.simulate import Simulated

LEAST_PROGRESS_M = 0.1  # as in PDM-Closed: below it progress is not compared
OVER_LINE_M = 0.5  # chosen by us: a nose this far over the place where it has to wait is in the other's way


def weigh_proposals(
    at: Sequence[tuple[Option, int]], scored: Sequence[tuple[Term, ...]], memory: Memory, c: PdmLanesConfig
) -> tuple[Proposal, ...]:
    """One proposal for each option and speed, in their order. scored: PDM-Closed's terms of each.

    Progress is that of all eight seconds of the roll-out, not of the first four: to wait for a gap and then go is more than to
    crawl. Its value is the share of the best, after the multipliers.
    """
    best_worth = max(option.worth_mps2 for option, _ in at)
    multipliers, rest = [], []
    for (option, k), terms in zip(at, scored, strict=True):
        named = {term.name: term for term in terms}
        kind, offset = option.candidate.kind, option.candidate.offset_m
        aside = c.aside_per_m * abs(offset) if kind == "keep" and not option.candidate.around else 0.0
        worse = (best_worth - option.worth_mps2) / c.lane_scale_mps2
        same = (1.0 if abs(offset - memory.offset_m) < 0.5 else 0.8) if kind == memory.path else 0.0
        if option.lawful:
            named["driving_direction"] = replace(named["driving_direction"], value=1.0)
        multipliers.append((*(named[name] for name in NAMES[:3]), _right_of_way(option, k, c)))
        rest.append(
            (
                named["time_to_collision"],
                named["comfort"],
                Term(name="lane", value=min(1.0, max(0.0, 1.0 - worse - aside))),
                Term(name="steady", value=same),
            )
        )
    progress_m = np.array([_progress_m(option, k) for option, k in at])
    product = np.array([math.prod(term.value for term in terms) for terms in multipliers])
    allowed_m = progress_m * product
    best_m = float(allowed_m.max())
    share = allowed_m / best_m if best_m > LEAST_PROGRESS_M else np.where(product == 0.0, 0.0, 1.0)
    proposals = []
    for i, (option, k) in enumerate(at):
        progress = Term(name="progress", value=float(share[i]), measured=float(progress_m[i]))
        terms = (*multipliers[i], progress, *rest[i])
        proposals.append(
            Proposal(
                path=option.candidate.kind,
                offset_m=option.candidate.offset_m,
                speed_fraction=option.fractions[k],
                terms=terms,
                score=total(terms),
            )
        )
    return tuple(proposals)


def by_the_second(
    scored: tuple[tuple[Term, ...], ...], simulated: Simulated, areas: Areas, on_route: Collection[str]
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


def on_the_road(
    scored: tuple[tuple[Term, ...], ...], simulated: Simulated, areas: Areas, tolerance_m: float
) -> tuple[tuple[Term, ...], ...]:
    """The terms with nuPlan's tolerance for the drivable area: its metric lets a corner out by 0.3 m, PDM-Closed by nothing. In
    a tight turn that decides whether there is a way at all."""
    column = NAMES.index("drivable_area")
    rows = [row for row, terms in enumerate(scored) if terms[column].value < 1.0]
    if not rows:
        return scored
    centers, corners = simulated.centers[rows], simulated.corners[rows]
    ahead, left = (
        corners[:, :, :1] - corners[:, :, 1:2],
        corners[:, :, :1] - corners[:, :, 3:],
    )  # front left comes first
    ahead, left = (side / np.linalg.norm(side, axis=3, keepdims=True) for side in (ahead, left))
    forwards, leftwards = np.array([1.0, -1.0, -1.0, 1.0])[:, None], np.array([1.0, 1.0, -1.0, -1.0])[:, None]
    inside = corners - tolerance_m * (forwards * ahead + leftwards * left)
    off = areas.ego_areas(inside, centers, ())[:, :, NON_DRIVABLE].any(axis=1)
    mended = list(scored)
    for row in np.array(rows)[~off].tolist():
        mended[row] = (*scored[row][:column], Term(name="drivable_area", value=1.0), *scored[row][column + 1 :])
    return tuple(mended)


def near_in_bends(
    scored: tuple[tuple[Term, ...], ...], in_bend: Collection[str], within_s: float
) -> tuple[tuple[Term, ...], ...]:
    """The terms without infractions of the time to collision that are far off and with someone in a bend: it looks straight on,
    along both chords, and would have the ego slow down for all who come towards it there."""
    column = NAMES.index("time_to_collision")
    mended = []
    for terms in scored:
        term = terms[column]
        if term.about in in_bend and term.measured is not None and term.measured > within_s:
            terms = (*terms[:column], Term(name=term.name, value=1.0), *terms[column + 1 :])
        mended.append(terms)
    return tuple(mended)


def _progress_m(option: Option, k: int) -> float:
    """How far a roll-out gets in its eight seconds, along the chain that it follows."""
    candidate = option.candidate
    end = float(np.interp(option.driven.arc_m[k, -1], candidate.arc_m, candidate.base_m))
    return max(0.0, end - option.outlook.start.progress_m)


def _right_of_way(option: Option, k: int, c: PdmLanesConfig) -> Term:
    """0 where the ego's nose is over the place where it waits before one who goes first has gone."""
    outlook = option.outlook
    if not outlook.claims:
        return Term(name="right_of_way", value=1.0)
    waited_for = {rule.about for rule in outlook.rules if rule.rule == "yield" and holds(rule, c)}
    for claim in outlook.claims:
        if claim.track_id not in waited_for or claim.stop_m < outlook.nose_m - OVER_LINE_M:
            continue
        line = option.candidate.arc_at(claim.stop_m) - PACIFICA.front_m + OVER_LINE_M
        entered = int(np.searchsorted(option.driven.arc_m[k, : c.proposal_steps + 1], line, side="right"))
        if entered <= c.proposal_steps and entered * INTERVAL_S < claim.leaves_s:
            return Term(name="right_of_way", value=0.0, measured=entered * INTERVAL_S, about=claim.track_id)
    return Term(name="right_of_way", value=1.0)
