"""Which true object does a text mean? One-to-one, by class, direction and distance; names are the text's own and prove nothing.

As many claimed objects as possible find a partner that fits in all three, the nearest fits first. One that finds none may
still be recognised by two of the three: it is false, but one can say what is so instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.faithfulness.observed.tolerances import within
from eval.faithfulness.observed.truth import Thing, sectors_at
from nsdrive.trace.trace import ObjectFacts

BEARING_SLACK_RAD = math.radians(5.0)  # chosen by us: a centre so near a sector's border is in either
ALIKE = 0.1  # chosen by us: who fits this much worse (in tolerances) is as good a guess
NEARLY = 4.0  # chosen by us: what is so many tolerances nearer or further is somebody else
MOST = 64  # objects of a text that are looked at. Chosen by us: our texts list eight, and a few that rules speak of


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a claimed object was found to be. thing: None where there is none like it. fits: class, sector and distance are
    right. alike: ids of all that fit as well as `thing` does, itself among them."""

    claimed: ObjectFacts
    thing: Thing | None
    fits: bool
    alike: frozenset[str]


def match_objects(claimed: Sequence[ObjectFacts], things: Sequence[Thing]) -> list[Match]:
    """A match for each of the claimed objects that are there now, of which at most MOST are looked at."""
    claimed = claimed[:MOST]
    misfit = [[_misfit(c, t) for t in things] for c in claimed]
    partner = _assign(misfit)
    taken = set(partner.values())
    matches = []
    for i, c in enumerate(claimed):
        if i in partner:
            best = misfit[i][partner[i]]
            alike = frozenset(
                things[j].thing_id
                for j, cost in enumerate(misfit[i])
                if cost is not None and best is not None and cost <= best + ALIKE
            )
            matches.append(Match(claimed=c, thing=things[partner[i]], fits=True, alike=alike))
            continue
        near = [(cost, j) for j, t in enumerate(things) if j not in taken and (cost := _nearly(c, t)) is not None]
        if near:
            j = min(near)[1]
            taken.add(j)
            matches.append(Match(claimed=c, thing=things[j], fits=False, alike=frozenset([things[j].thing_id])))
        else:
            matches.append(Match(claimed=c, thing=None, fits=False, alike=frozenset()))
    return matches


def _misfit(claimed: ObjectFacts, thing: Thing) -> float | None:
    """How badly a thing fits a claim, in tolerances; None where class, sector or distance is wrong."""
    if claimed.kind != thing.kind or claimed.distance_m is None:
        return None
    off = within("distance_m", claimed.distance_m, thing.distance_m)
    if off > 1.0:
        return None
    if claimed.sector != thing.sector and claimed.sector not in sectors_at(thing.bearing_rad, BEARING_SLACK_RAD):
        return None
    speed = min(2.0, within("speed_mps", claimed.speed_mps or 0.0, thing.speed_mps))
    return off + speed + 0.5 * (claimed.sector != thing.sector) + 0.5 * (set(claimed.cameras) != set(thing.cameras))


def _nearly(claimed: ObjectFacts, thing: Thing) -> float | None:
    """The same for a thing that is right in two of class, sector and distance, and in speed; not too far off in distance."""
    off = within("distance_m", claimed.distance_m or 0.0, thing.distance_m)
    right = (claimed.kind == thing.kind) + (claimed.sector == thing.sector) + (off <= 1.0)
    speed = within("speed_mps", claimed.speed_mps or 0.0, thing.speed_mps)
    return off + speed if right == 2 and speed <= 1.0 and off <= NEARLY else None


def _assign(misfit: Sequence[Sequence[float | None]]) -> dict[int, int]:
    """Partners (row -> column), as many as can be, the best fits first; augmenting paths for those that are left over."""
    edges = sorted((cost, i, j) for i, row in enumerate(misfit) for j, cost in enumerate(row) if cost is not None)
    partner: dict[int, int] = {}
    of: dict[int, int] = {}
    for _, i, j in edges:
        if i not in partner and j not in of:
            partner[i], of[j] = j, i

    def move(i: int, tried: set[int]) -> bool:
        for _, j in sorted((cost, j) for j, cost in enumerate(misfit[i]) if cost is not None):
            if j in tried:
                continue
            tried.add(j)
            if j not in of or move(of[j], tried):
                partner[i], of[j] = j, i
                return True
        return False

    for i, row in enumerate(misfit):
        if i not in partner and any(cost is not None for cost in row):
            move(i, set())
    return partner
