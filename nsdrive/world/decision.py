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

A planner that weighs whole motions against each other also records its `proposals`, every one with every score term, which
it chose and which came second, and the lane changes it considered:

    proposals=(
        Proposal(path="keep", offset_m=0.0, speed_fraction=0.8, score=0.91, terms=(
            Term(name="no_at_fault_collision", value=1.0), ...
            Term(name="progress", value=0.78, measured=31.2), ...)),
        Proposal(path="keep", offset_m=0.0, speed_fraction=1.0, score=0.0, terms=(
            Term(name="no_at_fault_collision", value=0.0, measured=1.8, about="car-3"), ...)),
    ),
    chosen=0, runner_up=1,

The constraints of such a decision are those on the chosen proposal's path, at its target speed. What the terms mean and how
they make a score is in `nsdrive.world.scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# chosen by us: a constraint binds only if dropping it changes the command by more than this
BINDING_TOLERANCE_MPS2 = 0.05


NO_WAY = "braking to a stop: "  # how a note begins where a planner found no way at all, whatever the reason
# How the notes of a planner that is asked a question now and then begin. Each is there once for an answer, at the tick of its
# question (where `Plan.said` and `Plan.seconds` are), so that counting ticks counts answers.
LATE_ANSWER = "late answer: "  # it took effect at a later tick; until then the plan before it was followed
KEPT_PLAN = "kept the last plan: "  # the answer was of no use, and the plan before it reached far enough to go on with


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
class Term:
    """One term of a proposal's score. name: key of `nsdrive.world.scoring.TERMS`. value: 0.0 (worst) to 1.0 (best).

    measured: the number behind it, in the unit that TERMS names, None where the term has none (no collision: no time of one).
    about: track id of the object that made it less than 1.0, None where no single one did.
    """

    name: str
    value: float
    measured: float | None = None
    about: str | None = None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A candidate motion and its whole score. path: one of PATHS. offset_m: beside that path's centerline, left positive.
    speed_fraction: its target speed as a share of the speed limit. score: `nsdrive.world.scoring.total(terms)`."""

    path: str
    offset_m: float
    speed_fraction: float
    terms: tuple[Term, ...]
    score: float


@dataclass(frozen=True, kw_only=True)
class LaneChange:
    """What a planner thinks of a neighbouring lane (MOBIL: Kesting, Treiber, Helbing, TRR 1999 (2007)).

    path: the PATHS entry that would go there. reason: one of LANE_CHANGE_REASONS. incentive_mps2: own gain in acceleration
    less politeness times the others' loss, plus what the route adds. threshold_mps2: what it is held against. lead, follower:
    track ids in the neighbouring lane, None where there is none. follower_accel_mps2: what the change would ask of the follower
    (0.0 without one), held against safe_accel_mps2. safe: that, and room, and nothing oncoming. blocker: who makes it unsafe.
    """

    path: str
    lane_id: str | None
    reason: str
    incentive_mps2: float
    threshold_mps2: float
    lead: str | None
    follower: str | None
    follower_accel_mps2: float
    safe_accel_mps2: float
    safe: bool
    blocker: str | None = None

    @property
    def wanted(self) -> bool:
        return self.incentive_mps2 > self.threshold_mps2


PATHS = ("keep", "change_left", "change_right", "pass_left", "pass_right")  # pass: round an obstacle and back again
LANE_CHANGE_REASONS = ("speed", "route", "blocked", "return")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """All constraints of one tick and what came of them. `binding` indexes `constraints`; `tied` lists the others
    that are within BINDING_TOLERANCE_MPS2 of it, so that no single one of them is the cause. `chosen` and `runner_up` index
    `proposals`; both None for a planner that makes none. `notes`: what was wrong with what the planner was given and what it
    did about it, a sentence each; empty as a rule."""

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
    proposals: tuple[Proposal, ...] = ()
    chosen: int | None = None
    runner_up: int | None = None
    lane_changes: tuple[LaneChange, ...] = ()
    notes: tuple[str, ...] = ()

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
