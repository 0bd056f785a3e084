"""What a text implies, and whether it holds: the motion it states, its own arithmetic, and its words about choice and path.

`replay` integrates the speeds and accelerations that a text prints (or takes what it says to have moved); on every sample its
progress must meet the label's within TOLERANCE_M. `arithmetic_errors` recomputes each printed evaluation from its printed inputs
with `nsdrive.world.rules`, allowing for nothing but rounding. `choice_errors` adds up the recorded scores again, ranks them, and
asks whether what is said of a choice can be so. `lateral_errors` holds what is said of offset and turn against the driven poses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from nsdrive.trace.choice import Blame, LaneVerdict
from nsdrive.trace.rounding import DIGITS, rounded
from nsdrive.trace.templates import places
from nsdrive.trace.trace import N_STEPS, STEP_S, Step, Trace, implied_m, manoeuvre, phases_of
from nsdrive.world.decision import BINDING_TOLERANCE_MPS2, Constraint
from nsdrive.world.geometry import Path, wrap_angle
from nsdrive.world.rules import IdmParameters, recompute
from nsdrive.world.scoring import TERMS, ranking, total
from nsdrive.world.types import INTERVAL_S, FloatArray

TOLERANCE_M = {3.0: 0.05, 5.0: 0.10}  # the contract: replayed and driven progress agree within this at these times
HALF_SPEED = 0.005  # half a printed digit of a speed or an acceleration
HALF_SCORE = 0.011  # half a digit of a score and of a margin
# less is left, with any planner's terms, where progress alone is missing: 7 of PDM-Closed's 12 parts
BUT_PROGRESS = 0.5
WORST_BUT_ONE = 0.5  # the most that a multiplier below 1.0 leaves (see scoring.TERMS)
EXACT = ("crossing", "waited_s")  # a count, and a number of ticks: printed without rounding
OFFSET_TOLERANCE_M = 0.06  # chosen by us: offsets are printed to 0.1 m, and the label has four decimals
JUMP_M = 1.5  # chosen by us: nobody moves aside so far in half a second; lanes are at least twice as wide
TURN_TOLERANCE_DEG = 1.0  # chosen by us: rounding to whole degrees


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """times_s (11,), progress_m (11,) since the anchor, poses_global (11, 3) of the rear axle where a path was given, else None."""

    times_s: FloatArray
    progress_m: FloatArray
    poses_global: FloatArray | None


def replay(trace: Trace, path: Path | None = None, start_progress_m: float = 0.0) -> Replay:
    """The motion that a trace states: how far each half second goes by its speeds and accelerations (`implied_m`), or as said."""
    speeds = np.array([*(s.speed_mps for s in trace.steps), trace.end.speed_mps])
    accels = np.array([*(s.accel_mps2 for s in trace.steps), trace.end.accel_mps2])
    moved = implied_m(speeds, accels)
    for k, step in enumerate(trace.steps):
        moved[k] = moved[k] if step.moved_m is None else max(0.0, step.moved_m)
    progress = np.concatenate([[0.0], np.cumsum(moved)])
    times = np.linspace(0.0, N_STEPS * STEP_S, N_STEPS + 1)
    poses = None if path is None else path.pose_at(start_progress_m + progress)
    return Replay(times_s=times, progress_m=progress, poses_global=poses)


def progress_errors(trace: Trace, driven_xy: FloatArray) -> list[str]:
    """Where the replayed progress misses the label's by more than TOLERANCE_M. driven_xy (51, 2): the label at 10 Hz."""
    implied = replay(trace)
    driven = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(np.asarray(driven_xy), axis=0), axis=1))])
    errors = []
    for time_s, tolerance_m in TOLERANCE_M.items():
        said = implied.progress_m[round(time_s / STEP_S)]
        did = driven[round(time_s / INTERVAL_S)]
        if not abs(said - did) <= tolerance_m:
            errors.append(f"t={time_s:.1f}: the text implies {said:.3f} m of progress, the label has {did:.3f} m")
    return errors


def arithmetic_errors(trace: Trace, parameters: IdmParameters) -> list[str]:
    """One sentence for each printed number that does not follow from the printed inputs, and for each wrong verdict."""
    errors = []
    for step in trace.steps:
        target = next((c.threshold for c in step.constraints if c.rule == "target_speed"), None)
        for c in step.constraints:
            wrong = evaluation_errors(c, step.speed_mps, target, parameters)
            errors += [f"t={step.time_s:.1f} {c.rule}: {error}" for error in wrong]
        errors += _verdict_errors(step)
    return errors + _phase_errors(trace)


def evaluation_errors(
    c: Constraint, speed_mps: float, target_mps: float | None, parameters: IdmParameters
) -> list[str]:
    """What of one printed evaluation does not follow from its printed inputs, its step's speed and target speed."""
    said = {"threshold": c.threshold, "allows_mps2": c.allows_mps2}
    halves = {what: 0.5 * 10.0 ** -places(c.rule, what) + 1e-9 for what in said}
    target = target_mps if target_mps is not None else parameters.target_speed_mps
    try:
        given = replace(c, threshold=target) if c.rule == "target_speed" else c
        made = recompute(given, speed_mps, parameters, target_speed_mps=target)
        if all(abs(value - said[what]) <= halves[what] for what, value in zip(said, made, strict=True)):
            return []  # most are: no need to ask for all that rounds to the printed inputs
        return _out_of_reach(c, speed_mps, target, parameters, halves)
    except (ArithmeticError, ValueError):
        return ["its inputs make no sense to the law"]  # as a curve of negative radius


def choice_errors(trace: Trace) -> list[str]:
    """Where recorded scores and ranks do not follow from the recorded terms, and where a stated choice cannot be true."""
    errors = []
    said = rounded(trace, "detailed")
    considered: dict[str, LaneVerdict] = {}
    for step, printed in zip(trace.steps, said.steps, strict=True):
        where = f"t={printed.time_s:.1f}"
        errors += [f"{where}: {error}" for error in _record_errors(step)]
        errors += [f"{where}: {error}" for error in _choice_errors(printed)]
        for verdict in printed.lane_news:
            errors += [f"{where} {verdict.path}: {error}" for error in _verdict_of_lane_errors(verdict, considered)]
    return errors


def lateral_errors(trace: Trace, poses_global: FloatArray, path: Path | Sequence[Path] | None = None) -> list[str]:
    """Where stated offsets, turn and manoeuvre differ from the driven poses (51, 3) at 10 Hz, in any fixed frame.

    path: the planner's centerline in the same frame, to check the offsets; None checks only the turn. An ego that changes
    lanes has a new centerline on the way, and every offset is from the centerline of its moment: give all eleven then. An
    offset that jumps must come with a chosen change to that side.
    """
    poses = np.asarray(poses_global)
    errors = _jump_errors(trace)
    if path is not None:
        offsets = [s.lateral_offset_m for s in trace.steps] + [trace.end.lateral_offset_m]
        paths = [path] * len(offsets) if isinstance(path, Path) else path
        for k, (said, centerline) in enumerate(zip(offsets, paths, strict=True)):
            x, y = poses[round(k * STEP_S / INTERVAL_S), :2]
            did = centerline.project(x, y)[1]
            if said is not None and not abs(said - did) <= OFFSET_TOLERANCE_M:
                errors.append(
                    f"t={k * STEP_S:.1f}: the text says {said:.2f} m beside the centerline, the label {did:.2f}"
                )
    turned = float(np.degrees(wrap_angle(poses[-1, 2] - poses[0, 2])))
    difference = (trace.end.turned_deg - turned + 180.0) % 360.0 - 180.0
    if not abs(difference) <= TURN_TOLERANCE_DEG:
        errors.append(f"the text says that the ego turned {trace.end.turned_deg:.0f} deg, the label {turned:.1f}")
    # A turn that is "now" may be nearly over; of one ahead the text's own progress tells whether it was driven.
    side = {"turn left": 1.0, "turn right": -1.0}.get(trace.route.manoeuvre)
    driven = replay(trace).progress_m[-1]
    # 25 m into a turn an ego has turned by more than 15 degrees, on any radius that an intersection has.
    if side is not None and 0.0 < trace.route.distance_m < driven - 25.0 and side * turned < 15.0:
        errors.append(f"the text's route is to {trace.route.manoeuvre}, but the label turned {turned:.1f} deg")
    return errors


def _record_errors(step: Step) -> list[str]:
    """What the recorded terms do not bear out."""
    errors = []
    for i, proposal in enumerate(step.proposals):
        unknown = [t.name for t in proposal.terms if t.name not in TERMS]
        if unknown:
            return [f"proposal {i}: no score term '{unknown[0]}'"]
        beyond = [t for t in proposal.terms if not 0.0 <= t.value <= 1.0]
        errors += [f"proposal {i}: {t.name} is {t.value:g}, not within 0 and 1" for t in beyond]
        makes = total(proposal.terms)
        if not abs(proposal.score - makes) <= 0.5 * 10.0 ** -DIGITS[0] + 1e-9:
            errors.append(f"proposal {i}: the score is {proposal.score:g}, but its terms make {makes:g}")
    for what, scores in (
        ("scores", [p.score for p in step.proposals]),
        ("terms", [total(p.terms) for p in step.proposals]),
    ):
        if (step.chosen, step.runner_up) != ranking(scores):
            errors.append(
                f"proposals {step.chosen} and {step.runner_up} are said to be the best two, but by their {what} "
                f"these are {ranking(scores)[0]} and {ranking(scores)[1]}"
            )
    return errors


def _choice_errors(step: Step) -> list[str]:
    """What of a stated choice contradicts itself. Numbers are as printed, so each may be half a digit off."""
    choice = step.choice
    if choice is None:
        return []
    errors = []
    if not 0.0 <= choice.score <= 1.0:
        errors.append(f"a score of {choice.score:g} is not within 0 and 1")
    if choice.flaw is None and choice.score < BUT_PROGRESS - HALF_SCORE:
        errors.append(f"the score is {choice.score:g}, lower than missing progress alone can make it")
    if choice.margin is not None:
        most = choice.score + HALF_SCORE
        if not 0.0 <= choice.margin <= most:
            errors.append(f"the runner-up cannot score {choice.margin:g} less than {choice.score:g}")
        if choice.loses_for is not None and choice.loses_for.term is None and choice.margin > 0.0:
            errors.append(f"the runner-up scores {choice.margin:g} less, but is said to lose by order alone")
        elif _is_multiplier(choice.loses_for) and choice.margin < choice.score - WORST_BUT_ONE - HALF_SCORE:
            errors.append(f"{choice.loses_for.term} must cost the runner-up more than {choice.margin:g}")  # type: ignore[union-attr]
    for blame in (choice.flaw, choice.loses_for):
        if blame is not None and blame.time_s is not None and blame.time_s < 0.0:
            errors.append(f"a collision cannot be {blame.time_s:g} s ahead")
    return errors


def _is_multiplier(blame: Blame | None) -> bool:
    return blame is not None and blame.term is not None and TERMS[blame.term].weight is None


def _verdict_of_lane_errors(verdict: LaneVerdict, considered: dict[str, LaneVerdict]) -> list[str]:
    """What is wrong with the news of a neighbouring lane, given what was last said of each, which is brought up to date."""
    v = verdict
    last = considered.pop(v.path, None)
    if v.reason is None or v.incentive_mps2 is None or v.threshold_mps2 is None:
        return [] if last is not None else ["is said to be no longer considered, but was not before"]
    considered[v.path] = v
    errors = []
    wanted, more = v.safe is not None, v.incentive_mps2 - v.threshold_mps2
    if more < -2.0 * HALF_SPEED if wanted else more > 2.0 * HALF_SPEED:
        verb = "is" if wanted else "is not"
        errors.append(f"{verb} wanted with an incentive of {v.incentive_mps2:g} against {v.threshold_mps2:g}")
    asked, limit = v.follower_accel_mps2, v.safe_accel_mps2
    if v.safe and asked is not None and limit is not None and asked < limit - 2.0 * HALF_SPEED:
        errors.append(f"is said to be safe, but {v.follower} would have to brake by {asked:g}, beyond {limit:g}")
    if last is not None and last.verdict == v.verdict:
        errors.append("is said again, but its verdict is the old one")
    return errors


def _jump_errors(trace: Trace) -> list[str]:
    """Offsets that leap from one step to the next, as they do when the centerline is another, without a change of lanes."""
    errors = []
    offsets = [*(s.lateral_offset_m for s in trace.steps), trace.end.lateral_offset_m]
    for k, (before, after) in enumerate(itertools.pairwise(offsets)):
        if trace.steps[k].motion is None or before is None or after is None or abs(after - before) <= JUMP_M:
            continue
        wanted = "change_left" if after < before else "change_right"
        chosen = {s.motion.path for s in trace.steps[k : k + 2] if s.motion is not None}
        if wanted not in chosen:
            errors.append(
                f"t={(k + 1) * STEP_S:.1f}: the offset leaps from {before:.1f} to {after:.1f} m, but no {wanted} is chosen"
            )
    return errors


def _out_of_reach(
    c: Constraint, speed_mps: float, target: float, parameters: IdmParameters, halves: Mapping[str, float]
) -> list[str]:
    """Which of threshold and allowed acceleration lies beyond all that inputs give which round to the printed ones.

    Each law is monotonic, so its extremes are among the corners; one stops as soon as both numbers are within reach.
    """
    names = list(c.inputs)
    middle = [(speed_mps, HALF_SPEED), (target, HALF_SPEED)]
    middle += [(c.inputs[n], 0.0 if n in EXACT else 0.5 * 10.0 ** -places(c.rule, n)) for n in names]
    corners = list(
        itertools.product(*((value - half, value, value + half) if half else (value,) for value, half in middle))
    )
    said = (c.threshold, c.allows_mps2)
    half = (halves["threshold"], halves["allows_mps2"])
    low, high = [math.inf, math.inf], [-math.inf, -math.inf]
    for i in _scattered(len(corners)):
        corner = corners[i]
        speed, corner_target = max(0.0, corner[0]), max(0.0, corner[1])
        given = corner_target if c.rule == "target_speed" else c.threshold
        inputs = dict(zip(names, corner[2:], strict=True))
        at = Constraint(rule=c.rule, about=None, inputs=inputs, threshold=given, allows_mps2=0.0)
        made = recompute(at, speed, parameters, target_speed_mps=corner_target)
        for n in (0, 1):
            low[n], high[n] = min(low[n], made[n]), max(high[n], made[n])
        if all(low[n] - half[n] <= said[n] <= high[n] + half[n] for n in (0, 1)):
            return []
    return [
        f"{what} {said[n]:g} is not in [{low[n]:.3f}, {high[n]:.3f}], what its inputs give"
        for n, what in enumerate(halves)
        if not low[n] - half[n] <= said[n] <= high[n] + half[n]
    ]


@lru_cache(maxsize=64)
def _scattered(n: int) -> tuple[int, ...]:
    """The numbers below n, neighbours far apart, so that the first few tell most."""
    return tuple(sorted(range(n), key=lambda i: (i * 0.6180339887) % 1.0))


def _verdict_errors(step: Step) -> list[str]:
    """Whether the binding evaluation is the least, the ties are near it, and no earlier one is as near."""
    if step.binding is None:
        return []
    allowed = [c.allows_mps2 for c in step.constraints]
    least, slack = min(allowed), 2.0 * HALF_SPEED + 1e-9
    where = f"t={step.time_s:.1f}"
    errors = []
    if step.command_mps2 != least:
        errors.append(f"{where}: the command is {step.command_mps2}, but the least allowed is {least}")
    for i, value in enumerate(allowed):
        rule, near = step.constraints[i].rule, value - least
        if (i == step.binding or i in step.tied) and near > BINDING_TOLERANCE_MPS2 + slack:
            errors.append(f"{where}: {rule} is said to bind or tie, but allows {near:.2f} more than the least")
        if i != step.binding and i not in step.tied and near < BINDING_TOLERANCE_MPS2 - slack:
            errors.append(f"{where}: {rule} is not said to bind or tie, but allows only {near:.2f} more than the least")
    if step.tied and min(step.tied) < step.binding:
        errors.append(
            f"{where}: of tied evaluations the first must be named, not {step.constraints[step.binding].rule}"
        )
    return errors


def _phase_errors(trace: Trace) -> list[str]:
    """Whether the phases are what the steps say; of a brief trace, whether they cover the time and name the right manoeuvre."""
    if all(s.binding is not None for s in trace.steps):
        return [] if phases_of(trace.steps, trace.end) == trace.phases else ["the phases are not those of the steps"]
    errors: list[str] = []
    at = 0.0
    speeds = [*(s.speed_mps for s in trace.steps), trace.end.speed_mps]
    for p in trace.phases:
        first, last = round(p.start_s / STEP_S), round(p.end_s / STEP_S)
        if p.start_s != at or not 0 <= first < last <= N_STEPS:
            return [*errors, f"the phase {p.start_s:.1f} to {p.end_s:.1f} s does not follow {at:.1f} s"]
        what = manoeuvre(speeds[first], speeds[last], p.end_s - p.start_s)
        if what != p.manoeuvre:
            errors.append(f"{p.start_s:.1f} to {p.end_s:.1f} s: said to {p.manoeuvre}, but the speeds {what}")
        at = p.end_s
    return errors if at == N_STEPS * STEP_S else [*errors, f"the phases end at {at:.1f} s"]
