"""What a planner decided at one tick, and why: every rule it evaluated, with its numbers.

A decision is the arg-min over constraints. An example, following a slower car below the speed limit:

    Decision(
        planner="idm", time_s=0.5, speed_mps=8.31, accel_mps2=-0.52, progress_m=14.2, lateral_offset_m=0.02, lane_id="12",
        constraints=(
            Constraint(rule="target_speed", about=None, inputs={}, threshold=13.41, allows_mps2=0.85, margin_mps2=2.07),
            Constraint(rule="lead", about="car-3", inputs={"gap_m": 12.4, "lead_speed_mps": 5.1}, threshold=18.32,
                       allows_mps2=-1.22, margin_mps2=-2.07),
        ),
        command_mps2=-1.22, binding=1, tied=(),
    )

The meaning of `inputs` and `threshold`, and the law that turns them into `allows_mps2`, are in `nsdrive.world.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

BINDING_TOLERANCE_MPS2 = (
    0.05  # chosen by us: a constraint binds only if dropping it changes the command by more than this
)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One evaluation of a rule.

    rule: id in `nsdrive.world.rules.RULES`. about: track id, connector, stop line or crosswalk id; None where the rule is
    about nothing but the ego. inputs: measured numbers, named with their units. threshold: what they are held against, in
    the unit that the rule's spec names. allows_mps2: the acceleration that this constraint alone would command.
    margin_mps2: `allows_mps2` minus the least of the others': below -BINDING_TOLERANCE_MPS2 it binds; above, that is how
    far it is from binding; 0.0 for the only constraint there is.
    """

    rule: str
    about: str | None
    inputs: Mapping[str, float]
    threshold: float
    allows_mps2: float
    margin_mps2: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All constraints of one tick and what came of them. `binding` indexes `constraints`; `tied` lists the others
    that are within BINDING_TOLERANCE_MPS2 of it, so that no single one of them is the cause."""

    planner: str
    time_s: float
    speed_mps: float
    accel_mps2: float  # the ego's measured acceleration when it decided
    progress_m: float  # of the rear axle along the planner's centerline
    lateral_offset_m: float  # of the rear axle from the centerline, left positive
    lane_id: str | None
    constraints: tuple[Constraint, ...]
    command_mps2: float
    binding: int
    tied: tuple[int, ...] = ()

    @property
    def binding_constraint(self) -> Constraint:
        return self.constraints[self.binding]


def arg_min(constraints: Sequence[Constraint]) -> tuple[tuple[Constraint, ...], int, tuple[int, ...]]:
    """Constraints with their margins filled in, the index of the binding one, and the indices tied with it.

    Among constraints within BINDING_TOLERANCE_MPS2 of the least, the first listed is named: list the most general
    (target speed) first, so that a car at the horizon is not called the cause of a motion that it does not change.
    """
    allowed = [c.allows_mps2 for c in constraints]
    least = min(allowed)
    near = [i for i, value in enumerate(allowed) if value - least <= BINDING_TOLERANCE_MPS2]
    filled = []
    for i, c in enumerate(constraints):
        others = [value for j, value in enumerate(allowed) if j != i]
        filled.append(replace(c, margin_mps2=c.allows_mps2 - min(others) if others else 0.0))
    return tuple(filled), near[0], tuple(near[1:])
