"""The terms by which proposals are weighed, and the one formula that makes them a score.

    score = product of the multipliers x weighted mean of the others

A proposal's recorded terms are enough to recompute its score, which proposal wins, and for what reason another loses.

Source: PDM-Closed's scorer (Dauner et al., "Parting with Misconceptions about Learning-based Vehicle Motion Planning", CoRL
2023), which takes over nuPlan's closed-loop score without its speed-limit and making-progress terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nsdrive.world.decision import Proposal, Term


@dataclass(frozen=True, kw_only=True)
class TermSpec:
    """weight: in the weighted mean; None for a multiplier. measured: what `Term.measured` is, with its unit. says: in words."""

    weight: float | None
    measured: str
    says: str


# Multipliers first, each group in the order in which a reason is looked for.
TERMS: dict[str, TermSpec] = {
    "no_at_fault_collision": TermSpec(
        weight=None, measured="collision_s", says="0 if it hits an agent by its own fault, 0.5 a standing thing, else 1"
    ),
    "drivable_area": TermSpec(
        weight=None, measured="off_road_s", says="0 if a corner leaves the drivable area, else 1"
    ),
    "driving_direction": TermSpec(
        weight=None, measured="wrong_way_m", says="0 from 6 m driven off the route's lanes, 0.5 from 2 m, else 1"
    ),
    "right_of_way": TermSpec(
        weight=None, measured="conflict_s", says="0 if it enters the way of someone who goes first, else 1"
    ),
    "progress": TermSpec(
        weight=5.0, measured="progress_m", says="progress along the centerline, as a share of the best proposal's"
    ),
    "time_to_collision": TermSpec(
        weight=5.0,
        measured="infraction_s",
        says="0 if going straight on for 0.9 s would ever hit someone ahead, else 1",
    ),
    "comfort": TermSpec(weight=2.0, measured="", says="0 if an acceleration, jerk or yaw bound is broken, else 1"),
    "lane": TermSpec(
        weight=2.0,  # chosen by us, as the next: less lets the progress of the next four seconds alone choose the lane
        measured="",
        says="how good its lane is: 1 for the best of those considered, less by what the lane-change incentive falls short",
    ),
    "steady": TermSpec(weight=1.0, measured="", says="0 if it gives up the path that was being driven, else 1"),
}


def total(terms: Sequence[Term]) -> float:
    """The score that these terms make; ValueError for a term that is not in TERMS."""
    product, weighted, weights = 1.0, 0.0, 0.0
    for term in terms:
        spec = TERMS.get(term.name)
        if spec is None:
            raise ValueError(f"No score term '{term.name}'. Known: {', '.join(TERMS)}")
        if spec.weight is None:
            product *= term.value
        else:
            weighted += spec.weight * term.value
            weights += spec.weight
    return product * (weighted / weights if weights else 1.0)


def ranking(scores: Sequence[float]) -> tuple[int | None, int | None]:
    """(chosen, runner_up): the first of the best, the first of the best of the rest; None where there are too few."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return (order[0] if order else None, order[1] if len(order) > 1 else None)


def reason(loser: Proposal, winner: Proposal) -> str | None:
    """The term for which `loser` loses: the first multiplier below the winner's, else the term that costs it most score.

    None where it is not behind in any term: an equal score, later in the list.
    """
    best = {term.name: term.value for term in winner.terms}
    behind = [term for term in loser.terms if term.value < best.get(term.name, 0.0)]
    for term in behind:
        if TERMS[term.name].weight is None:
            return term.name
    costs = [((TERMS[t.name].weight or 0.0) * (best[t.name] - t.value), -i, t.name) for i, t in enumerate(behind)]
    return max(costs)[2] if costs else None


def is_consistent(proposal: Proposal, tolerance: float = 1e-9) -> bool:
    """Whether the recorded score is the one that the recorded terms make."""
    return math.isclose(proposal.score, total(proposal.terms), rel_tol=0.0, abs_tol=tolerance)
