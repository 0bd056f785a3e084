"""A reason found afterwards: the same motion with another cause, chosen by lot, whose numbers follow from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from eval.faithfulness.planted.sight import evaluated
from nsdrive.trace.trace import ObjectFacts, Step, Trace, decimals, phases_of
from nsdrive.world.decision import BINDING_TOLERANCE_MPS2, Constraint, arg_min
from nsdrive.world.rules import IdmParameters

EXCUSES = ("target_speed", "lead", "red_light", "crosswalk", "path_end")
FURTHEST_M = 300.0  # of what is made up to be in the way


def excused(trace: Trace, chance: np.random.Generator, parameters: IdmParameters) -> Trace:
    """The trace with a rule that never bound in it as the cause of every half second, about something that was not the cause."""
    bound = {s.constraints[s.binding].rule for s in trace.steps if s.binding is not None}
    causes = {c.about for s in trace.steps for c in s.constraints}
    rule = str(chance.choice([name for name in EXCUSES if name not in bound]))
    about, thing = _culprit(rule, trace, causes, chance)
    lead_mps = decimals(float(chance.uniform(0.2, 0.8)) * trace.steps[0].speed_mps, 1)
    steps = tuple(_step(step, rule, about, lead_mps, parameters) for step in trace.steps)
    scene = replace(trace.scene, light="red") if rule == "red_light" else trace.scene
    if thing is not None:
        gap_m = next((c.inputs["gap_m"] for c in steps[0].constraints if c.rule == rule), FURTHEST_M)
        speed = lead_mps if rule == "lead" else 0.0
        thing = replace(thing, distance_m=decimals(max(gap_m, 0.0), 1), speed_mps=decimals(speed, 1))
        counts = dict(scene.in_view)
        if counts.get(thing.kind):
            counts[thing.kind] += 1
            scene = replace(scene, in_view=tuple(counts.items()))
    return replace(
        trace,
        scene=scene,
        objects=trace.objects if thing is None else (*trace.objects, thing),
        steps=steps,
        phases=phases_of(steps, trace.end),
    )


def _culprit(
    rule: str, trace: Trace, causes: set[str | None], chance: np.random.Generator
) -> tuple[str | None, ObjectFacts | None]:
    """Whom to blame: something that is there and had nothing to do with it, else something made up."""
    if rule in ("target_speed", "path_end"):
        return None, None
    if rule == "red_light":
        return "signal-1", None
    word = "vehicle" if rule == "lead" else "pedestrian"
    there = [
        o.name for o in trace.objects if o.kind == word and o.name not in causes and not o.name.startswith("hidden")
    ]
    if there:
        return str(chance.choice(there)), None
    name = f"{word}-{dict(trace.scene.in_view).get(word, 0) + 1}"
    cameras = next((o.cameras[:1] for o in trace.objects if o.cameras), ())
    return name, ObjectFacts(name=name, kind=word, distance_m=0.0, sector="ahead", speed_mps=0.0, cameras=cameras)


def _step(step: Step, rule: str, about: str | None, lead_mps: float, p: IdmParameters) -> Step:
    """The half second with this rule as what binds, its numbers chosen so that it commands what was commanded."""
    command = min(c.allows_mps2 for c in step.constraints)
    speed = step.speed_mps
    if rule == "target_speed":
        target = speed / max(1.0 - command / p.accel_max_mps2, 1e-4) ** (1.0 / p.exponent)
        constraints = [evaluated(rule, None, {}, speed, decimals(min(max(target, 0.1), 99.0), 2), p)]
    else:
        target = next((c.threshold for c in step.constraints if c.rule == "target_speed"), p.target_speed_mps)
        if evaluated("target_speed", None, {}, speed, target, p).allows_mps2 < command + 2.0 * BINDING_TOLERANCE_MPS2:
            target = decimals(max(target, 2.0 * speed, 1.0), 2)  # the limit must not be the reason
        free = evaluated("target_speed", None, {}, speed, target, p)
        command = min(command, free.allows_mps2 - 2.0 * BINDING_TOLERANCE_MPS2)
        inputs = {"gap_m": 0.0} | ({"lead_speed_mps": lead_mps} if rule == "lead" else {})
        constraints = [free, _fitted(rule, about, inputs, speed, target, command, p)]
    filled, binding, tied = arg_min(constraints)
    least = min(c.allows_mps2 for c in filled)
    return Step(
        time_s=step.time_s,
        speed_mps=speed,
        accel_mps2=step.accel_mps2,
        lateral_offset_m=step.lateral_offset_m,
        moved_m=step.moved_m,
        constraints=filled,
        binding=binding,
        tied=tied,
        command_mps2=least,
    )


def _fitted(
    rule: str,
    about: str | None,
    inputs: Mapping[str, float],
    speed: float,
    target: float,
    command: float,
    p: IdmParameters,
) -> Constraint:
    """The evaluation whose gap makes it allow just the command: the law grows with the gap, so halving finds it."""
    low, high = p.min_gap_m, FURTHEST_M
    for _ in range(20):
        middle = 0.5 * (low + high)
        if evaluated(rule, about, {**inputs, "gap_m": middle}, speed, target, p).allows_mps2 < command:
            low = middle
        else:
            high = middle
    return evaluated(rule, about, {**inputs, "gap_m": high}, speed, target, p)
