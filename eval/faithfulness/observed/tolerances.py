"""How far a stated number may be from the true one and still be true: one table, and the reason of each.

A planner's own text is exact to its last printed digit; a model looks at pictures. The tolerances are those of a careful
passenger: what one could not tell apart at a glance, and what would not change what a driver does. They are the same for
every predictor, so that they compare; they are wide enough for any rounding, and narrow enough that a second car is another.
"""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """Whichever is more: so much, or this share of the true number."""

    absolute: float
    share: float
    why: str


TOLERANCES: dict[str, Tolerance] = {
    "count": Tolerance(0.0, 0.0, "a count is either right or wrong"),
    "distance_m": Tolerance(1.0, 0.10, "an object's distance; facts of this project's field: max(1 m, 10 %)"),
    "gap_m": Tolerance(1.0, 0.10, "as a distance"),
    "needed_gap_m": Tolerance(1.0, 0.10, "as a distance; it is held against a gap"),
    "radius_m": Tolerance(2.0, 0.15, "of a curve; 15 % of it are 7 % of the speed that it allows"),
    "offset_m": Tolerance(0.3, 0.0, "from the centerline: a hand's breadth or two, far less than a lane"),
    "speed_mps": Tolerance(
        0.5, 0.10, "of an object: 2 km/h, or one part in ten, is what watching it for a second gives"
    ),
    "ego_speed_mps": Tolerance(0.3, 0.05, "of the ego, whose history is given: 1 km/h"),
    "limit_mps": Tolerance(0.011, 0.0, "the prompt says it: it is copied, not measured"),
    "route_m": Tolerance(0.5, 0.0, "the prompt says it: it is copied, not measured"),
    "accel_mps2": Tolerance(0.3, 0.10, "below what a passenger notices as another way of driving"),
    "allows_mps2": Tolerance(0.5, 0.10, "a gap 1 m off at 20 m and 10 m/s allows some 0.3 m/s2 more or less"),
    "moved_m": Tolerance(0.15, 0.05, "in half a second, at a speed 0.3 m/s off"),
    "time_s": Tolerance(0.5, 0.10, "one step of a text"),
    "constant": Tolerance(0.051, 0.0, "a constant of the rule's law: it is known, not measured; one printed digit"),
    "score": Tolerance(0.05, 0.0, "of a proposal: closer ones are as good to any passenger"),
    "margin": Tolerance(0.05, 0.0, "between two proposals, as a score"),
    "turned_deg": Tolerance(3.0, 0.10, "a tenth of a turn at a crossing is the width of a lane at its end"),
    "speed_fraction": Tolerance(0.011, 0.0, "of the limit: proposals are steps of a tenth or more"),
    "incentive_mps2": Tolerance(0.3, 0.10, "as an acceleration"),
}


def within(what: str, said: float, true: float) -> float:
    """How far off a number is, as a multiple of what is tolerated: at most 1.0 is true. inf where nothing is tolerated."""
    limit = TOLERANCES[what]
    allowed = max(limit.absolute, limit.share * abs(true))
    off = abs(said - true)
    if allowed > 0.0:
        return off / (allowed + 1e-9)
    return 0.0 if off == 0.0 else float("inf")
