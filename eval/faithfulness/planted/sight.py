"""What an imperfect pair of eyes makes of a picture: the trace of a driver who sees a little less, and a little wrong.

    trace = perceive(shown, asked, Eyes(noise=1.0, seed=0), parameters)

Nobody looks at pixels: what a picture shows is the sample that it belongs to, and the errors are drawn. A thing is missed, stands
nearer or farther than it does, is slower or faster, and now and then there is something that is not there. The planner's own laws
(`nsdrive.world.rules`) are then followed with these numbers, so the text that comes of it is consistent in itself, as that of a
model that reasons from what it believes to see. With noise 0 it is the planner's own trace, digit for digit.

A thing's error belongs to the thing at that moment, so that a picture in which something else was changed shows it with nearly
the same error; a smaller part is new in every picture. All draws are named (by seed, moment, thing), so order, batch and worker
do not matter.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from eval.faithfulness.planted.way import Way
from nsdrive.dataset import Sample
from nsdrive.trace.record import from_json
from nsdrive.trace.replay import replay
from nsdrive.trace.templates import KINDS, places
from nsdrive.trace.trace import (
    KIND_WORDS,
    N_STEPS,
    STEP_S,
    EndState,
    ObjectFacts,
    SceneFacts,
    Step,
    Trace,
    decimals,
    implied_m,
    phases_of,
)
from nsdrive.world.decision import Constraint, arg_min
from nsdrive.world.navigation import Navigation
from nsdrive.world.rules import IdmParameters, evaluate

# All chosen by us for noise 1.0, of the order of a good monocular detector; they grow in proportion to the noise.
MISSED = 0.05  # share of things that are not seen though a camera shows them
HIDDEN_MISSED = 0.5  # of things that the planner knows of and no camera shows
INVENTED = 0.05  # share of pictures with an object that is not there
DISTANCE = 0.04  # standard deviation of the logarithm of a distance
SPEED_MPS = 0.25  # and of the speed of a moving thing
ANEW = 0.2  # how much of these errors is new in every picture; the rest belongs to the thing
LIGHTS = "signal"  # how the names of lights begin


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """noise: 0.0 sees everything as it is; see above for 1.0. seed: of all draws."""

    noise: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Error:
    """How wrong one thing is seen: its distance times `scale`, its speed plus `faster_mps`, or not at all."""

    scale: float = 1.0
    faster_mps: float = 0.0
    missed: bool = False


NONE = Error()


def perceive(
    shown: Sample, asked: Sample, way: Way, eyes: Eyes, parameters: IdmParameters, *, urge_mps2: float = 0.0
) -> Trace:
    """The trace of who is shown the images of `shown` with the prompt of `asked`, whose speed, route and limit it takes.

    urge_mps2: by how much it brakes less, or accelerates more, than its own rules tell it to."""
    truth = trace_of(shown)
    spoken = {name for step in truth.steps for name in _in_choice(step)}  # the words of a choice are kept as they are
    errors = {}
    for name in _names(truth):
        error = _error(shown, name, shown.trace_names.get(name, name), eyes)
        errors[name] = replace(error, missed=False) if name in spoken else error
    start_mps = truth.steps[0].speed_mps if asked.sample_id == shown.sample_id else now_mps(asked)
    trace = rolled(truth, errors, start_mps, way, parameters, urge_mps2)
    trace = replace(trace, route=route_of(asked), scene=_scene(truth, errors), objects=_objects(truth, errors))
    if not spoken:  # who is not seen does not count: the names of those behind move up
        trace = _renamed(trace, _new_names(errors))
    return _with_invented(trace, shown, eyes)


def trace_of(sample: Sample) -> Trace:
    """The whole trace that a sample keeps. ValueError where it keeps none."""
    try:
        return from_json(sample.trace)
    except ValueError as error:
        raise ValueError(f"sample {sample.sample_id} has no trace to build a planted predictor on: {error}") from None


def route_of(asked: Sample) -> Navigation:
    """What the prompt says of the route. ValueError for a command that no navigation of ours gives."""
    kind = KINDS["command"]
    if re.fullmatch(kind.regex, asked.command) is None:
        raise ValueError(
            f"sample {asked.sample_id} has the command {asked.command[:60]!r}, which no text of ours can say"
        )
    manoeuvre, distance_m = kind.read(asked.command)
    limit = None if asked.speed_limit_mps is None else decimals(asked.speed_limit_mps, 2)
    return Navigation(manoeuvre=manoeuvre, distance_m=distance_m, speed_limit_mps=limit)


def now_mps(asked: Sample) -> float:
    """The ego's speed by the prompt's history."""
    if not asked.ego_history:
        raise ValueError(f"sample {asked.sample_id} has no ego history: planted predictors need the present speed")
    now = asked.ego_history[-1]
    return decimals(math.hypot(now["vx_mps"], now["vy_mps"]), 2)


def moment(sample: Sample) -> str:
    """The same for a sample and for those made of it by an edit."""
    return f"{sample.scenario_id}@{sample.anchor.get('tick')}"


def dice(seed: int, *words: str) -> np.random.Generator:
    """Random numbers that belong to these words, whoever asks and whenever."""
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype=np.uint32).tolist()])


def parameters_of(config: Mapping[str, Any]) -> IdmParameters:
    """The constants of the laws in a dataset's configuration of its planner; the usual ones where it has none."""
    known = {f.name for f in fields(IdmParameters)}
    return IdmParameters(**{name: value for name, value in config.items() if name in known})


# ---- driving by what is seen -----------------------------------------------------------------------------------------------


def rolled(
    truth: Trace,
    errors: Mapping[str, Error],
    start_mps: float,
    way: Way,
    parameters: IdmParameters,
    urge_mps2: float = 0.0,
) -> Trace:
    """The trace of an ego that starts at `start_mps` and obeys the same laws with each thing seen by its error.

    Everybody else moves as in `truth`. Each half second the ego's acceleration is the true one plus the difference between its
    command and the true command, so that the car's own lag stays as it is.
    """
    true_m = replay(truth).progress_m
    true_mps = [*(s.speed_mps for s in truth.steps), truth.end.speed_mps]
    speed, ahead_m, difference, steps = start_mps, 0.0, 0.0, []
    for k, step in enumerate(truth.steps):
        where_it_was = speed == step.speed_mps and ahead_m == 0.0
        if urge_mps2 == 0.0 and where_it_was and all(errors.get(_thing(c), NONE) == NONE for c in step.constraints):
            steps.append(step)
            speed = true_mps[k + 1]
            continue
        accel = 0.0 if speed == 0.0 else decimals(step.accel_mps2 + difference, 2)
        seen = _seen(step, errors, speed, accel, ahead_m, parameters)
        constraints, binding, tied = arg_min(seen)
        command = min(c.allows_mps2 for c in constraints)
        difference = max(command + urge_mps2, -speed / STEP_S) - max(_command(step), -step.speed_mps / STEP_S)
        steps.append(
            replace(
                step,
                speed_mps=speed,
                accel_mps2=accel,
                moved_m=None,
                constraints=constraints,
                binding=binding,
                tied=tied,
                command_mps2=command,
            )
        )
        after = decimals(max(0.0, speed + true_mps[k + 1] - step.speed_mps + STEP_S * difference), 2)
        moved = float(implied_m(np.array([speed, after]), np.zeros(2))[0])
        ahead_m += moved - float(true_m[k + 1] - true_m[k])
        speed = after
    done, end = tuple(steps), truth.end
    if speed != true_mps[-1] or ahead_m != 0.0:
        accel = 0.0 if speed == 0.0 else decimals(end.accel_mps2 + difference, 2)
        end = EndState(
            speed_mps=speed,
            accel_mps2=accel,
            lateral_offset_m=end.lateral_offset_m,
            turned_deg=decimals(way.turned_deg(float(true_m[-1]) + ahead_m), 0),
        )
    return replace(truth, steps=done, end=end, phases=phases_of(done, end))


def free_road(asked: Sample, parameters: IdmParameters) -> Trace:
    """The trace of who sees nothing: up to the speed limit by the law of the free road, straight on."""
    limit = asked.speed_limit_mps
    target = decimals(parameters.target_speed_mps if limit is None else limit, 2)
    speed, steps = now_mps(asked), []
    for k in range(N_STEPS):
        rule = evaluated("target_speed", None, {}, speed, target, parameters)
        steps.append(
            Step(
                time_s=k * STEP_S,
                speed_mps=speed,
                accel_mps2=rule.allows_mps2,
                lateral_offset_m=0.0,
                constraints=(rule,),
                binding=0,
                command_mps2=rule.allows_mps2,
            )
        )
        speed = decimals(max(0.0, speed + STEP_S * rule.allows_mps2), 2)
    end = EndState(speed_mps=speed, accel_mps2=steps[-1].accel_mps2, lateral_offset_m=0.0, turned_deg=0.0)
    done = tuple(steps)
    return Trace(
        scene=SceneFacts(in_view=(), light=None),
        route=route_of(asked),
        objects=(),
        steps=done,
        end=end,
        phases=phases_of(done, end),
    )


def evaluated(
    rule: str,
    about: str | None,
    inputs: Mapping[str, float],
    speed_mps: float,
    target_mps: float,
    parameters: IdmParameters,
) -> Constraint:
    """The evaluation as it is printed: rounded inputs, and what follows from them."""
    inputs = {name: decimals(value, places(rule, name)) for name, value in inputs.items()}
    c = evaluate(rule, about, inputs, speed_mps, parameters, target_speed_mps=target_mps)
    threshold = decimals(c.threshold, places(rule, "threshold"))
    return replace(c, threshold=threshold, allows_mps2=decimals(c.allows_mps2, places(rule, "allows_mps2")))


def _seen(
    step: Step, errors: Mapping[str, Error], speed_mps: float, accel_mps2: float, ahead_m: float, p: IdmParameters
) -> list[Constraint]:
    """A step's evaluations as they come out for an ego that is so much further along and so fast, and sees with errors."""
    target = next((c.threshold for c in step.constraints if c.rule == "target_speed"), p.target_speed_mps)
    seen = []
    for c in step.constraints:
        error, inputs = errors.get(_thing(c), NONE), dict(c.inputs)
        if error.missed:
            continue
        for name in ("gap_m", "distance_m", "radius_m", "clears_s", "arrives_s", "collision_s"):
            if name in inputs:
                moved = ahead_m if name in ("gap_m", "distance_m") else 0.0
                inputs[name] = (inputs[name] - moved) * error.scale
        if "gap_m" in inputs and inputs["gap_m"] < 0.0 < c.inputs["gap_m"] and c.rule != "lead":
            continue  # the line is passed
        if inputs.get("lead_speed_mps", 0.0) > 0.0:
            inputs["lead_speed_mps"] = max(0.0, inputs["lead_speed_mps"] + error.faster_mps)
        if "accel_mps2" in inputs:
            inputs["accel_mps2"] = accel_mps2
        seen.append(evaluated(c.rule, c.about, inputs, speed_mps, target, p))
    return seen or [evaluated("target_speed", None, {}, speed_mps, target, p)]


def _thing(c: Constraint) -> str:
    return c.about or c.rule


def _command(step: Step) -> float:
    return min(c.allows_mps2 for c in step.constraints)


# ---- errors, and what they do to the list of things --------------------------------------------------------------------------


def _error(shown: Sample, name: str, thing: str, eyes: Eyes) -> Error:
    if eyes.noise == 0.0:
        return NONE
    own, new = dice(eyes.seed, moment(shown), thing), dice(eyes.seed, "picture", shown.sample_id, thing)
    missed = (HIDDEN_MISSED if name.startswith("hidden-") else MISSED) * eyes.noise
    a, b = own.standard_normal(2), new.standard_normal(2)
    scale, faster = eyes.noise * (np.sqrt(1.0 - ANEW**2) * a + ANEW * b)
    return Error(
        scale=float(np.exp(DISTANCE * scale)),
        faster_mps=float(SPEED_MPS * faster),
        missed=own.random() < missed or new.random() < ANEW * missed,
    )


def _names(truth: Trace) -> list[str]:
    """What there is to see: objects, and whatever a rule is about; a curve by the rule's own name."""
    names = dict.fromkeys(o.name for o in truth.objects)
    for step in truth.steps:
        names |= dict.fromkeys(c.about for c in step.constraints if c.about is not None)
        names |= dict.fromkeys(c.rule for c in step.constraints if c.rule == "curve_speed")
    return [name for name in names if name is not None]


def _in_choice(step: Step) -> Iterator[str]:
    for p in step.proposals:
        yield from (t.about for t in p.terms if t.about is not None)
    for change in step.lane_changes:
        yield from (name for name in (change.lead, change.follower, change.blocker) if name is not None)


def _scene(truth: Trace, errors: Mapping[str, Error]) -> SceneFacts:
    gone = [name.rsplit("-", 1)[0] for name, error in errors.items() if error.missed]
    counts = [(word, n - gone.count(word)) for word, n in truth.scene.in_view]
    light = None if LIGHTS in gone else truth.scene.light
    return SceneFacts(in_view=tuple((word, n) for word, n in counts if n > 0), light=light)


def _objects(truth: Trace, errors: Mapping[str, Error]) -> tuple[ObjectFacts, ...]:
    seen = []
    for thing in truth.objects:
        error = errors[thing.name]
        if error.missed:
            continue
        if thing.distance_m is not None and thing.speed_mps is not None and error != NONE:
            faster = error.faster_mps if thing.speed_mps > 0.0 else 0.0
            thing = replace(
                thing,
                distance_m=decimals(thing.distance_m * error.scale, 1),
                speed_mps=decimals(max(0.0, thing.speed_mps + faster), 1),
            )
        seen.append(thing)
    return tuple(seen)


def _new_names(errors: Mapping[str, Error]) -> dict[str, str]:
    """vehicle-3 is called vehicle-2 where vehicle-1 or vehicle-2 is not seen."""
    split = {name: name.rsplit("-", 1) for name in errors if _NAME.fullmatch(name)}
    missed = [(word, int(number)) for name, (word, number) in split.items() if errors[name].missed]
    return {
        name: f"{word}-{int(number) - sum(w == word and n < int(number) for w, n in missed)}"
        for name, (word, number) in split.items()
    }


def _renamed(trace: Trace, names: Mapping[str, str]) -> Trace:
    objects = tuple(replace(o, name=names.get(o.name, o.name)) for o in trace.objects)
    steps = tuple(
        replace(s, constraints=tuple(replace(c, about=names.get(c.about or "", c.about)) for c in s.constraints))
        for s in trace.steps
    )
    return replace(trace, objects=objects, steps=steps, phases=phases_of(steps, trace.end))


def _with_invented(trace: Trace, shown: Sample, eyes: Eyes) -> Trace:
    """The trace with, now and then, a bystander that nobody put there."""
    chance = dice(eyes.seed, "invented", moment(shown))
    if chance.random() >= INVENTED * eyes.noise:
        return trace
    word = ("vehicle", "pedestrian")[int(chance.integers(2))]
    count = dict(trace.scene.in_view).get(word, 0) + 1
    in_view = [(w, n) for w, n in trace.scene.in_view if w != word] + [(word, count)]
    order = list(KIND_WORDS.values())
    thing = ObjectFacts(
        name=f"{word}-{count}",
        kind=word,
        distance_m=decimals(chance.uniform(5.0, 40.0), 1),
        sector=str(chance.choice(("ahead", "ahead-left", "ahead-right"))),
        speed_mps=decimals(chance.uniform(0.0, 1.5 if word == "pedestrian" else 10.0), 1),
        cameras=next((o.cameras[:1] for o in trace.objects if o.cameras), ()),
    )
    scene = replace(trace.scene, in_view=tuple(sorted(in_view, key=lambda part: order.index(part[0]))))
    return replace(trace, scene=scene, objects=(*trace.objects, thing))


_NAME = re.compile(r"[a-z]+-[0-9]+")
