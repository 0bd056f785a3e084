"""The text of a trace, written and read by one table of templates.

`render` formats each line with its template, `parse` reads it back with the regular expression that the same template
compiles to: `parse(render(trace, level)) == rounded(trace, level)` exactly. Levels: "none" is the empty text, "brief" says scene,
route, the phases with the objects that they name, and the motion; "detailed" every half second every evaluation of every rule
and, of a planner that weighs proposals, what it chose:

    1.0 speed 11.77 accel -0.53
    choose keep 80% scores 0.91 over keep 100% by 0.91 for collision vehicle-2 in 1.8 s
    lose 2 collision vehicle-2, 1 ttc vehicle-3, 10 progress
    change_left for speed 0.35 of 0.20 follower vehicle-4 -2.60 of -2.00 blocked by vehicle-4

Path, offset [m] and share of the speed limit name a proposal; "for" is what keeps its score from 1.0 (but missing progress)
and that for which the second loses; so many others lose for so many reasons. A text stays short (a detailed one under 1,200
tokens) by one idiom: what is as it was when last said is not said again, be it an evaluation's number or object, the chosen
proposal, its score, the margin, the reasons of the others, or a neighbouring lane whose verdict (wanted, safe, because of whom)
is the old one. And proposals that lose for the same term and object are counted, not listed: their numbers are in the record
(`nsdrive.trace.record`). What decides is always said: the winner, the margin to the second, for each loser its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nsdrive.trace.choice import Choice, LaneVerdict
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
    LOSERS,
    MOVED,
    NO_CHOICE,
    OBJECT,
    PHASE,
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
    phases = _read_phases(reader)
    if phases:
        steps, end = _read_motion(reader)
    else:
        steps, end = _read_steps(reader)
        phases = _read_phases(reader)
        if not phases:
            reader.fail(PHASE)
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
        moved = [s.moved_m for s in trace.steps]
        told = [MOVED.format({"values": moved})] if any(m is not None for m in moved) else []
        return [*lines, *phases, speeds, accels, *told, turned]
    said = _Said()
    for step in trace.steps:
        if step.binding is None:
            raise ValueError("a trace read from a brief text has no evaluations, so it has no detailed text")
        lines += [_state_line(vars(step), said), *_choice_lines(step.choice, said)]
        lines += [_verdict_line(verdict) for verdict in step.lane_news]
        lines += [_evaluation_line(step, i, said) for i in range(len(step.constraints))]
    lines.append(_state_line({**vars(trace.end), "time_s": N_STEPS * STEP_S, "moved_m": None}, said))
    return [*lines, turned, *phases]


@dataclass
class _Said:
    """What was said last, for that which need not be said again. evaluations: by rule, their fields."""

    offset_m: float = 0.0
    choice: Choice | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)


def _state_line(state: Mapping[str, Any], said: _Said) -> str:
    offset = state["lateral_offset_m"]
    news, said.offset_m = None if offset == said.offset_m else offset, offset
    return STEP.format({**state, "lateral_offset_m": news})


def _choice_lines(choice: Choice | None, said: _Said) -> list[str]:
    last, said.choice = said.choice, choice
    if choice is None:
        return [NO_CHOICE.format({})] if last is not None else []
    before = _pieces(last) if last is not None else {}
    pieces = {name: piece if piece != before.get(name) else None for name, piece in _pieces(choice).items()}
    lines = [CHOICE.format(pieces)] if set(pieces.values()) != {None} else []
    if choice.losers != (last.losers if last is not None else ()):
        lines.append(LOSERS.format({"losers": choice.losers}))
    return lines


def _pieces(choice: Choice) -> dict[str, Any]:
    """The places of CHOICE."""
    lost = None if choice.runner_up is None else (choice.margin, choice.loses_for)
    return {
        "chosen": choice.chosen,
        "score": (choice.score, choice.flaw),
        "runner_up": (choice.runner_up,),
        "margin": lost,
    }


def _verdict_line(verdict: LaneVerdict) -> str:
    v = verdict
    if v.reason is None:
        return LANE_GONE.format(vars(v))
    if v.safe is None:
        return LANE_UNWANTED.format(vars(v))
    behind = None if v.follower is None else (v.follower, v.follower_accel_mps2, v.safe_accel_mps2)
    return LANE_WANTED.format({**vars(v), "behind": behind, "safe": (v.safe, v.blocker)})


def _evaluation_line(step: Step, index: int, said: _Said) -> str:
    """What is new in it since the rule's last one."""
    c = step.constraints[index]
    mark = " binds" if index == step.binding else " ties" if index in step.tied else ""
    fields = {**c.inputs, "about": (c.about,), "threshold": c.threshold, "allows_mps2": c.allows_mps2}
    last = said.evaluations.get(c.rule, {})
    said.evaluations[c.rule] = fields
    news = {name: value if value != last.get(name) else None for name, value in fields.items()}
    return EVALUATIONS[c.rule].format({**news, "mark": mark})


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


def _read_phases(reader: _Reader) -> list[Phase]:
    phases: list[Phase] = []
    while (fields := reader.maybe(PHASE)) is not None:
        phases.append(Phase(start_s=phases[-1].end_s if phases else 0.0, **fields))
    return phases


def _read_motion(reader: _Reader) -> tuple[list[Step], EndState]:
    speeds, accels = reader.take(SPEEDS)["values"], reader.take(ACCELS)["values"]
    told = reader.maybe(MOVED)
    moved = told["values"] if told is not None else [None] * N_STEPS
    steps = [
        Step(time_s=k * STEP_S, speed_mps=speeds[k], accel_mps2=accels[k], lateral_offset_m=None, moved_m=moved[k])
        for k in range(N_STEPS)
    ]
    turned = reader.take(TURNED)["turned_deg"]
    return steps, EndState(speed_mps=speeds[-1], accel_mps2=accels[-1], lateral_offset_m=None, turned_deg=turned)


def _read_steps(reader: _Reader) -> tuple[list[Step], EndState]:
    steps = []
    said = _Said()
    for k in range(N_STEPS):
        state = _read_state(reader, k * STEP_S, said)
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
    state = _read_state(reader, N_STEPS * STEP_S, said)
    del state["time_s"], state["moved_m"]
    return steps, EndState(**state, turned_deg=reader.take(TURNED)["turned_deg"])


def _read_choice(reader: _Reader, said: _Said) -> Choice | None:
    if reader.maybe(NO_CHOICE) is not None:
        said.choice = None
        return None
    fields, losers = reader.maybe(CHOICE), reader.maybe(LOSERS)
    if fields is None and losers is None:
        return said.choice
    unsaid = dict.fromkeys(("chosen", "score", "runner_up", "margin"))
    told: dict[str, Any] = _pieces(said.choice) if said.choice is not None else unsaid
    told |= {name: piece for name, piece in (fields or {}).items() if piece is not None}
    alone = told["runner_up"] == (None,)
    if None in (told["chosen"], told["score"], told["runner_up"]) or (told["margin"] is None and not alone):
        raise ValueError(f"line {reader.at}, column 1: not all of a choice is said, and none was said before")
    before = said.choice.losers if said.choice is not None else ()
    said.choice = Choice(
        chosen=told["chosen"],
        score=told["score"][0],
        flaw=told["score"][1],
        runner_up=told["runner_up"][0],
        margin=None if alone else told["margin"][0],
        loses_for=None if alone else told["margin"][1],
        losers=before if losers is None else losers["losers"],
    )
    return said.choice


def _verdict(fields: Mapping[str, Any]) -> LaneVerdict:
    given = dict(fields)
    follower, accel, safe_accel = given.pop("behind", None) or (None, None, None)
    safe, blocker = given.pop("safe", (None, None))
    given |= {"follower": follower, "follower_accel_mps2": accel, "safe_accel_mps2": safe_accel}
    return LaneVerdict(**given, safe=safe, blocker=blocker)


def _read_evaluation(reader: _Reader, rule: str, said: _Said) -> tuple[Constraint, str]:
    """An evaluation and its mark, completed from the rule's last one."""
    fields = reader.take(EVALUATIONS[rule])
    mark = fields.pop("mark")
    last = said.evaluations.get(rule, {})
    full: dict[str, Any] = {name: last.get(name) if value is None else value for name, value in fields.items()}
    missing = [name for name, value in full.items() if value is None]
    if missing:
        raise ValueError(
            f"line {reader.at}, column {len(rule) + 1}: {rule} does not say its {missing[0]}, nor was it said before"
        )
    said.evaluations[rule] = full
    constraint = Constraint(
        rule=rule,
        about=full.get("about", (None,))[0],
        inputs={name: full[name] for name in RULES[rule].inputs},
        threshold=full["threshold"],
        allows_mps2=full["allows_mps2"],
    )
    return constraint, mark


def _read_state(reader: _Reader, time_s: float, said: _Said) -> dict[str, Any]:
    state = reader.take(STEP)
    if state["time_s"] != time_s:
        raise ValueError(f"line {reader.at}, column 1: the time is {state['time_s']:.1f}, expected {time_s:.1f}")
    if state["lateral_offset_m"] is not None:
        said.offset_m = state["lateral_offset_m"]
    return {**state, "lateral_offset_m": said.offset_m}
