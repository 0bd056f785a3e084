"""The text of a trace, written and read by one table of templates.

`render` formats each line with its template, `parse` reads it back with the regular expression that the same template
compiles to: `parse(render(trace, level)) == rounded(trace, level)` exactly. Levels: "none" is the empty text, "brief" says scene,
route, the phases with the objects that they name, and the motion; "detailed" every evaluation of every rule, each half second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nsdrive.trace.templates import (
    ACCELS,
    EVALUATIONS,
    FOLLOW,
    HIDDEN,
    LATER,
    OBJECT,
    PHASE,
    REPEATED,
    ROUTE,
    SCENE,
    SPEEDS,
    STEP,
    TURNED,
    Template,
    known_level,
    places,
)
from nsdrive.trace.trace import (
    N_STEPS,
    STEP_S,
    EndState,
    ObjectFacts,
    Phase,
    SceneFacts,
    Step,
    Trace,
    decimals,
    with_margins,
)
from nsdrive.world.decision import Constraint
from nsdrive.world.navigation import Navigation
from nsdrive.world.rules import RULES


def render(trace: Trace, level: str) -> str:
    """The text of a trace: lines without a final newline, "" at level none. ValueError for an unknown level."""
    return "\n".join(_lines(rounded(trace, level), level)) if known_level(level) != "none" else ""


def parse(text: str) -> Trace:
    """The trace that a brief or detailed text states. Raises ValueError naming the first line and column it cannot read."""
    reader = _Reader(text.split("\n"))
    scene, route = reader.take(SCENE), reader.take(ROUTE)
    objects = []
    while (fields := reader.maybe(OBJECT, HIDDEN, LATER)) is not None:
        objects.append(_object(fields))
    phases = [Phase(**fields) for fields in reader.many(PHASE)]
    if phases:
        steps, end = _read_motion(reader)
    else:
        steps, end = _read_steps(reader)
        phases = [Phase(**fields) for fields in reader.many(PHASE, at_least=1)]
    reader.finish()
    manoeuvre, distance = route["command"]
    return Trace(
        scene=SceneFacts(**scene),
        route=Navigation(manoeuvre=manoeuvre, distance_m=distance, speed_limit_mps=route["limit"]),
        objects=tuple(objects),
        steps=tuple(steps),
        end=end,
        phases=tuple(phases),
    )


def rounded(trace: Trace, level: str) -> Trace:
    """The trace as a text of this level states it: numbers rounded, what is not printed dropped.

    At level none nothing is printed; the detailed numbers are kept, for those who study a sample without its text.
    """
    brief = known_level(level) == "brief"
    named = {p.about for p in trace.phases}
    spoken = 0.0 if trace.route.manoeuvre == FOLLOW else decimals(trace.route.distance_m, 0)
    limit = trace.route.speed_limit_mps
    return replace(
        trace,
        route=replace(trace.route, distance_m=spoken, speed_limit_mps=None if limit is None else decimals(limit, 2)),
        objects=tuple(_rounded_object(o) for o in trace.objects if not brief or o.name in named),
        steps=tuple(_rounded_step(s, brief) for s in trace.steps),
        end=EndState(
            speed_mps=decimals(trace.end.speed_mps, 2),
            accel_mps2=decimals(trace.end.accel_mps2, 2),
            lateral_offset_m=None
            if brief or trace.end.lateral_offset_m is None
            else decimals(trace.end.lateral_offset_m, 1),
            turned_deg=decimals(trace.end.turned_deg, 0),
        ),
    )


# ---- writing --------------------------------------------------------------------------------------------------------------


def _lines(trace: Trace, level: str) -> list[str]:
    route = {"command": (trace.route.manoeuvre, trace.route.distance_m), "limit": trace.route.speed_limit_mps}
    lines = [SCENE.format(vars(trace.scene)), ROUTE.format(route)]
    lines += [_object_template(o).format(vars(o)) for o in trace.objects]
    phases = [PHASE.format(vars(p)) for p in trace.phases]
    turned = TURNED.format({"turned_deg": trace.end.turned_deg})
    if level == "brief":
        speeds = SPEEDS.format({"values": [*(s.speed_mps for s in trace.steps), trace.end.speed_mps]})
        accels = ACCELS.format({"values": [*(s.accel_mps2 for s in trace.steps), trace.end.accel_mps2]})
        return [*lines, *phases, speeds, accels, turned]
    last: dict[str, dict[str, Any]] = {}
    for step in trace.steps:
        if step.binding is None:
            raise ValueError("a trace read from a brief text has no evaluations, so it has no detailed text")
        lines.append(STEP.format(vars(step)))
        for i, c in enumerate(step.constraints):
            mark = " binds" if i == step.binding else " ties" if i in step.tied else ""
            fields = {
                **c.inputs,
                "about": c.about,
                "threshold": c.threshold,
                "allows_mps2": c.allows_mps2,
                "mark": mark,
            }
            short = REPEATED.get(c.rule)
            known = short is not None and c.rule in last and _filled(c.rule, fields, last[c.rule]) == fields
            lines.append((short if short and known else EVALUATIONS[c.rule]).format(fields))
            last[c.rule] = fields
    lines.append(STEP.format({**vars(trace.end), "time_s": N_STEPS * STEP_S}))
    return [*lines, turned, *phases]


def _filled(rule: str, fields: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those that the repeated form leaves out taken from the rule's last evaluation."""
    said = {name for name, _ in REPEATED[rule].fields}
    return {name: fields[name] if name in said else last[name] for name in last}


def _object_template(thing: ObjectFacts) -> Template:
    if thing.distance_m is None:
        return LATER
    return HIDDEN if thing.name.startswith("hidden-") else OBJECT


def _rounded_object(thing: ObjectFacts) -> ObjectFacts:
    if thing.distance_m is None or thing.speed_mps is None:
        return thing
    return replace(thing, distance_m=decimals(thing.distance_m, 1), speed_mps=decimals(thing.speed_mps, 1))


def _rounded_step(step: Step, brief: bool) -> Step:
    motion = Step(
        time_s=decimals(step.time_s, 1),
        speed_mps=decimals(step.speed_mps, 2),
        accel_mps2=decimals(step.accel_mps2, 2),
        lateral_offset_m=None,
    )
    if brief or step.lateral_offset_m is None:
        return motion
    constraints = with_margins([_rounded_constraint(c) for c in step.constraints])
    return replace(
        motion,
        lateral_offset_m=decimals(step.lateral_offset_m, 1),
        constraints=constraints,
        binding=step.binding,
        tied=step.tied,
        command_mps2=min((c.allows_mps2 for c in constraints), default=None),
    )


def _rounded_constraint(c: Constraint) -> Constraint:
    return replace(
        c,
        inputs={name: decimals(value, places(c.rule, name)) for name, value in c.inputs.items()},
        threshold=decimals(c.threshold, places(c.rule, "threshold")),
        allows_mps2=decimals(c.allows_mps2, places(c.rule, "allows_mps2")),
        margin_mps2=0.0,
    )


# ---- reading --------------------------------------------------------------------------------------------------------------


class _Reader:
    """The lines of a text and how far they have been read."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines, self.at = lines, 0

    def maybe(self, *templates: Template) -> dict[str, Any] | None:
        """The fields of the next line if one of the templates reads it."""
        if self.at < len(self.lines):
            for template in templates:
                fields = template.read(self.lines[self.at])
                if fields is not None:
                    self.at += 1
                    return fields
        return None

    def take(self, *templates: Template) -> dict[str, Any]:
        fields = self.maybe(*templates)
        if fields is None:
            self.fail(*templates)
        assert fields is not None
        return fields

    def many(self, template: Template, at_least: int = 0) -> list[dict[str, Any]]:
        found = [self.take(template) for _ in range(at_least)]
        while (fields := self.maybe(template)) is not None:
            found.append(fields)
        return found

    def word(self) -> str:
        """The first word of the next line."""
        return self.lines[self.at].split(" ")[0] if self.at < len(self.lines) else ""

    def finish(self) -> None:
        if self.at < len(self.lines):
            self.fail(PHASE)

    def fail(self, *templates: Template) -> None:
        if self.at >= len(self.lines):
            raise ValueError(f"the text ends after line {len(self.lines)}; {_expected(templates)}")
        line = self.lines[self.at]
        column = max(t.reaches(line) for t in templates) + 1
        raise ValueError(f"line {self.at + 1}, column {column}: cannot read {line[:60]!r}; {_expected(templates)}")


def _expected(templates: Sequence[Template]) -> str:
    wanted = ["".join(t.fixed[0]).split(" ")[0].strip() or t.fields[0][0] for t in templates]
    return f"expected {' or '.join(dict.fromkeys(wanted))} ..."


def _object(fields: Mapping[str, Any]) -> ObjectFacts:
    kind = fields.get("kind") or fields["name"].rsplit("-", 1)[0]
    return ObjectFacts(
        name=fields["name"],
        kind=kind,
        distance_m=fields.get("distance_m"),
        sector=fields.get("sector"),
        speed_mps=fields.get("speed_mps"),
        cameras=fields.get("cameras", ()),
    )


def _read_motion(reader: _Reader) -> tuple[list[Step], EndState]:
    speeds, accels = reader.take(SPEEDS)["values"], reader.take(ACCELS)["values"]
    steps = [
        Step(time_s=k * STEP_S, speed_mps=speeds[k], accel_mps2=accels[k], lateral_offset_m=None)
        for k in range(N_STEPS)
    ]
    turned = reader.take(TURNED)["turned_deg"]
    return steps, EndState(speed_mps=speeds[-1], accel_mps2=accels[-1], lateral_offset_m=None, turned_deg=turned)


def _read_steps(reader: _Reader) -> tuple[list[Step], EndState]:
    steps = []
    last: dict[str, dict[str, Any]] = {}
    for k in range(N_STEPS):
        state = _read_state(reader, k * STEP_S)
        constraints, marks = [], []
        while (rule := reader.word()) in EVALUATIONS:
            fields = _read_evaluation(reader, rule, last)
            marks.append(fields["mark"])
            inputs = {name: fields[name] for name in RULES[rule].inputs}
            constraints.append(
                Constraint(
                    rule=rule,
                    about=fields.get("about"),
                    inputs=inputs,
                    threshold=fields["threshold"],
                    allows_mps2=fields["allows_mps2"],
                )
            )
        if not marks:
            reader.fail(*EVALUATIONS.values())
        if marks.count(" binds") != 1:
            where = f"line {reader.at + 1}, column 1"
            raise ValueError(
                f"{where}: {marks.count(' binds')} of {len(marks)} evaluations above bind at {state['time_s']} s, expected 1"
            )
        steps.append(
            Step(
                **state,
                constraints=with_margins(constraints),
                binding=marks.index(" binds"),
                tied=tuple(i for i, mark in enumerate(marks) if mark == " ties"),
                command_mps2=min(c.allows_mps2 for c in constraints),
            )
        )
    state = _read_state(reader, N_STEPS * STEP_S)
    del state["time_s"]
    return steps, EndState(**state, turned_deg=reader.take(TURNED)["turned_deg"])


def _read_evaluation(reader: _Reader, rule: str, last: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The fields of a line, in short form completed from the rule's last one."""
    full = reader.maybe(EVALUATIONS[rule])
    if full is None and rule in REPEATED and rule in last:
        full = _filled(rule, reader.take(EVALUATIONS[rule], REPEATED[rule]), last[rule])
    elif full is None:
        reader.fail(EVALUATIONS[rule])
    assert full is not None
    last[rule] = full
    return full


def _read_state(reader: _Reader, time_s: float) -> dict[str, Any]:
    state = reader.take(STEP)
    if state["time_s"] != time_s:
        raise ValueError(f"line {reader.at}, column 1: the time is {state['time_s']:.1f}, expected {time_s:.1f}")
    return state
