"""The text of a trace, written and read by one table of templates.

`render` formats each line with its template, `parse` reads it back with the regular expression that the same template
compiles to: `parse(render(trace, level)) == rounded(trace, level)` exactly. Levels: "none" is the empty text, "brief" says scene,
route, the phases with the objects that they name, and the motion; "detailed" every half second every evaluation of every rule
and, of a planner that weighs proposals, what it chose:

    1.0 speed 11.77 accel -0.53
    keep 80% scores 0.91, keep offset -1.0 80% 0.021 less for progress
    lose 3 collision vehicle-2 in 1.8 s, 10 progress
    change_left for speed 0.35 of 0.20 follower vehicle-4 -2.60 of -2.00 blocked by vehicle-4

It stays short (a detailed text under 1,200 tokens) because of what is *not* repeated: an evaluation's words and numbers that are
as in the rule's last one, a chosen or second proposal that is the "same", the others' reasons if they did not change, and a
neighbouring lane of which the verdict (wanted, safe, because of whom) is the old one. And because proposals that lose for the
same term and object are counted, not listed: their scores are in the record (`nsdrive.trace.record`). What decides is always
said: the winner, the margin to the second, and for each loser its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nsdrive.trace.choice import Choice, LaneVerdict, Losers, Motion
from nsdrive.trace.rounding import rounded
from nsdrive.trace.templates import (
    ACCELS,
    CHOICE,
    EVALUATIONS,
    HIDDEN,
    LANE_GONE,
    LANE_UNWANTED,
    LANE_WANTED,
    LATER,
    LIKEWISE,
    LOSERS,
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
    said = _Said()
    for step in trace.steps:
        if step.binding is None:
            raise ValueError("a trace read from a brief text has no evaluations, so it has no detailed text")
        lines += [STEP.format(vars(step)), *_choice_lines(step.choice, said)]
        lines += [_verdict_line(verdict) for verdict in step.lane_news]
        lines += [_evaluation_line(step, i, said) for i in range(len(step.constraints))]
    lines.append(STEP.format({**vars(trace.end), "time_s": N_STEPS * STEP_S}))
    return [*lines, turned, *phases]


@dataclass
class _Said:
    """What was said last, for that which need not be said again. evaluations: by rule, their fields."""

    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    chosen: Motion | None = None
    runner_up: Motion | None = None
    losers: tuple[Losers, ...] = ()


def _choice_lines(choice: Choice | None, said: _Said) -> list[str]:
    if choice is None:
        return []
    second = None
    if choice.runner_up is not None:
        second = (None if choice.runner_up == said.runner_up else choice.runner_up, choice.margin, choice.loses_for)
    chosen = None if choice.chosen == said.chosen else choice.chosen
    lines = [CHOICE.format({"chosen": chosen, "score": choice.score, "flaw": choice.flaw, "second": second})]
    if choice.losers != said.losers:
        lines.append(LOSERS.format({"losers": choice.losers}))
    said.chosen, said.runner_up, said.losers = choice.chosen, choice.runner_up or said.runner_up, choice.losers
    return lines


def _verdict_line(verdict: LaneVerdict) -> str:
    v = verdict
    if v.reason is None:
        return LANE_GONE.format(vars(v))
    if v.safe is None:
        return LANE_UNWANTED.format(vars(v))
    behind = None if v.follower is None else (v.follower, v.follower_accel_mps2, v.safe_accel_mps2)
    return LANE_WANTED.format({**vars(v), "behind": behind, "safe": (v.safe, v.blocker)})


def _evaluation_line(step: Step, index: int, said: _Said) -> str:
    """The shortest form that says it, after what was said of the same rule."""
    c = step.constraints[index]
    mark = " binds" if index == step.binding else " ties" if index in step.tied else ""
    fields = {**c.inputs, "about": c.about, "threshold": c.threshold, "allows_mps2": c.allows_mps2}
    last = said.evaluations.get(c.rule)
    said.evaluations[c.rule] = fields
    if last is not None and {**last, "about": c.about} == fields:
        about = None if last["about"] == c.about else c.about
        return LIKEWISE.format({"rule": c.rule, "about": about, "mark": mark})
    short = last is not None and c.rule in REPEATED and _filled(c.rule, fields, last) == fields
    return (REPEATED if short else EVALUATIONS)[c.rule].format({**fields, "mark": mark})


def _filled(rule: str, fields: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those that the repeated form leaves out taken from the rule's last evaluation."""
    told = {name for name, _ in REPEATED[rule].fields}
    return {name: fields[name] if name in told else last[name] for name in last}


def _object_template(thing: ObjectFacts) -> Template:
    if thing.distance_m is None:
        return LATER
    return HIDDEN if thing.name.startswith("hidden-") else OBJECT


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
    said = _Said()
    for k in range(N_STEPS):
        state = _read_state(reader, k * STEP_S)
        choice = _read_choice(reader, said)
        news = []
        while (fields := reader.maybe(LANE_WANTED, LANE_UNWANTED, LANE_GONE)) is not None:
            news.append(_verdict(fields))
        constraints, marks = [], []
        while (rule := reader.word()) in EVALUATIONS:
            constraint, mark = _read_evaluation(reader, rule, said)
            constraints.append(constraint)
            marks.append(mark)
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
                choice=choice,
                lane_news=tuple(news),
            )
        )
    state = _read_state(reader, N_STEPS * STEP_S)
    del state["time_s"]
    return steps, EndState(**state, turned_deg=reader.take(TURNED)["turned_deg"])


def _read_choice(reader: _Reader, said: _Said) -> Choice | None:
    fields = reader.maybe(CHOICE)
    if fields is None:
        return None
    if (losers := reader.maybe(LOSERS)) is not None:
        said.losers = losers["losers"]
    said.chosen = fields["chosen"] or said.chosen
    choice = {"chosen": said.chosen, "score": fields["score"], "flaw": fields["flaw"], "losers": said.losers}
    if fields["second"] is not None:
        motion, choice["margin"], choice["loses_for"] = fields["second"]
        said.runner_up = choice["runner_up"] = motion or said.runner_up
    if None in (said.chosen, choice.get("runner_up", said.chosen)):
        raise ValueError(f"line {reader.at}, column 1: 'same', but no such proposal was named before")
    return Choice(**choice)


def _verdict(fields: Mapping[str, Any]) -> LaneVerdict:
    given = dict(fields)
    follower, accel, safe_accel = given.pop("behind", None) or (None, None, None)
    safe, blocker = given.pop("safe", (None, None))
    given |= {"follower": follower, "follower_accel_mps2": accel, "safe_accel_mps2": safe_accel}
    return LaneVerdict(**given, safe=safe, blocker=blocker)


def _read_evaluation(reader: _Reader, rule: str, said: _Said) -> tuple[Constraint, str]:
    """An evaluation and its mark, completed from the rule's last one where the line is short."""
    last = said.evaluations.get(rule)
    full = reader.maybe(EVALUATIONS[rule])
    if full is not None:
        mark = full.pop("mark")
    elif last is None:
        reader.fail(EVALUATIONS[rule])
    elif (again := reader.maybe(LIKEWISE)) is not None:
        mark, full = again["mark"], {**last, "about": again["about"] or last["about"]}
    else:
        short = reader.take(EVALUATIONS[rule], *([REPEATED[rule]] if rule in REPEATED else []), LIKEWISE)
        mark, full = short["mark"], _filled(rule, short, last)
    assert full is not None
    full.setdefault("about", None)
    said.evaluations[rule] = full
    constraint = Constraint(
        rule=rule,
        about=full["about"],
        inputs={name: full[name] for name in RULES[rule].inputs},
        threshold=full["threshold"],
        allows_mps2=full["allows_mps2"],
    )
    return constraint, mark


def _read_state(reader: _Reader, time_s: float) -> dict[str, Any]:
    state = reader.take(STEP)
    if state["time_s"] != time_s:
        raise ValueError(f"line {reader.at}, column 1: the time is {state['time_s']:.1f}, expected {time_s:.1f}")
    return state
