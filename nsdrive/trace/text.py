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
and that for which the second loses; so many others lose for so many reasons.

A detailed text stays under 1,200 tokens by one idiom: what is as it was when last said is not said again, be it a number or the
object of a rule's evaluation, the chosen proposal, its score, the margin, the reasons of the others, or a neighbouring lane
whose verdict (wanted, safe, because of whom) is the old one; and phases are not said where the steps are. Proposals that lose
for the same term and object are counted, not listed: their numbers are in the record (`nsdrive.trace.record`). What decides is
always said: the winner, the second, the margin and the reason for it. The reasons of the others, and objects that nobody speaks
of, are the first to go where a text would still be too long (`nsdrive.trace.rounding`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from nsdrive.trace.choice import Choice, LaneVerdict
from nsdrive.trace.lines import Said, lines_of, pieces_of
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
    phases_of,
    with_margins,
)
from nsdrive.world.decision import Constraint
from nsdrive.world.navigation import Navigation
from nsdrive.world.rules import RULES


def render(trace: Trace, level: str) -> str:
    """The text of a trace: lines without a final newline, "" at level none. ValueError for an unknown level."""
    return "\n".join(lines_of(rounded(trace, level), level)) if known_level(level) != "none" else ""


def parse(text: str) -> Trace:
    """The trace that a brief or detailed text states. Raises ValueError naming the first line and column it cannot read."""
    reading = parse_lines(text)
    if reading.trace is None:
        raise ValueError(reading.error)
    return reading.trace


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a text, as read. number: from 1. kind: scene, route, object, phase, speeds, accels, moved, state, choice, losers,
    lane, evaluation, turned. fields: what the line itself says, by the places of its template, None where it leaves something as
    it was. means: that, completed by what was said before (SceneFacts, Navigation, ObjectFacts, Phase, Choice or None, LaneVerdict,
    Constraint; a dict of a state; else the fields). step: which of the 11 times it speaks of, None for none."""

    number: int
    kind: str
    fields: Mapping[str, Any]
    means: Any
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text, line by line. trace: None where it could not be read to its end; then `error` says why, `error_line` where, and
    `lines` has what stands above."""

    lines: tuple[Line, ...]
    trace: Trace | None
    error: str | None = None
    error_line: int | None = None


def parse_lines(text: str) -> Reading:
    """Every line of a text and what it means, as far as it can be read. Never raises on a text."""
    reader = _Reader(text.split("\n"))
    try:
        trace = _read(reader)
    except ValueError as error:
        return Reading(
            lines=tuple(reader.read), trace=None, error=str(error), error_line=min(reader.at + 1, len(reader.lines))
        )
    return Reading(lines=tuple(reader.read), trace=trace)


def _read(reader: _Reader) -> Trace:
    scene = SceneFacts(**reader.take(SCENE))
    reader.note("scene", scene)
    manoeuvre, distance = (told := reader.take(ROUTE))["command"]
    route = Navigation(manoeuvre=manoeuvre, distance_m=distance, speed_limit_mps=told["limit"])
    reader.note("route", route)
    objects = []
    while (fields := reader.maybe(OBJECT, HIDDEN, LATER)) is not None:
        objects.append(_object(fields))
        reader.note("object", objects[-1])
    phases = _read_phases(reader)
    if phases:
        steps, end = _read_motion(reader)
    else:
        steps, end = _read_steps(reader)
        phases = list(phases_of(steps, end))
    reader.finish()
    return Trace(scene=scene, route=route, objects=tuple(objects), steps=tuple(steps), end=end, phases=tuple(phases))


# ---- reading --------------------------------------------------------------------------------------------------------------


class _Reader:
    """The lines of a text and how far they have been read."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines, self.at = lines, 0
        self.read: list[Line] = []
        self.fields: dict[str, Any] = {}  # of the last line read

    def maybe(self, *templates: Template) -> dict[str, Any] | None:
        """The fields of the next line if one of the templates reads it."""
        if self.at < len(self.lines):
            for template in templates:
                fields = template.read(self.lines[self.at])
                if fields is not None:
                    self.at += 1
                    self.fields = fields
                    return fields
        return None

    def note(self, kind: str, means: Any, step: int | None = None) -> None:
        """Keep the last line read, with what it means."""
        self.read.append(Line(number=self.at, kind=kind, fields=self.fields, means=means, step=step))

    def take(self, *templates: Template) -> dict[str, Any]:
        fields = self.maybe(*templates)
        if fields is None:
            self.fail(*templates)
        assert fields is not None
        return fields

    def word(self) -> str:
        """The first word of the next line."""
        return self.lines[self.at].split(" ", 1)[0] if self.at < len(self.lines) else ""

    def finish(self) -> None:
        if self.at < len(self.lines):
            self.fail(TURNED)

    def fail(self, *templates: Template) -> None:
        if self.at >= len(self.lines):
            raise ValueError(f"the text ends after line {len(self.lines)}; {_expected(templates)}")
        line = self.lines[self.at]
        column = max(t.reaches(line) for t in templates) + 1
        raise ValueError(f"line {self.at + 1}, column {column}: cannot read {line[:60]!r}; {_expected(templates)}")

    def refuse(self, why: str) -> NoReturn:
        """Of the line just read: it can be read, but not be so."""
        self.at -= 1
        raise ValueError(f"line {self.at + 1}, {why}")


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
        reader.note("phase", phases[-1])
    return phases


def _read_motion(reader: _Reader) -> tuple[list[Step], EndState]:
    speeds = reader.take(SPEEDS)["values"]
    reader.note("speeds", speeds)
    accels = reader.take(ACCELS)["values"]
    reader.note("accels", accels)
    told = reader.maybe(MOVED)
    moved = told["values"] if told is not None else [None] * N_STEPS
    if told is not None:
        reader.note("moved", moved)
    steps = [
        Step(time_s=k * STEP_S, speed_mps=speeds[k], accel_mps2=accels[k], lateral_offset_m=None, moved_m=moved[k])
        for k in range(N_STEPS)
    ]
    turned = reader.take(TURNED)["turned_deg"]
    reader.note("turned", turned, N_STEPS)
    return steps, EndState(speed_mps=speeds[-1], accel_mps2=accels[-1], lateral_offset_m=None, turned_deg=turned)


def _read_steps(reader: _Reader) -> tuple[list[Step], EndState]:
    steps = []
    said = Said()
    for k in range(N_STEPS):
        state = _read_state(reader, k * STEP_S, said)
        choice = _read_choice(reader, said, k)
        news = []
        while (fields := reader.maybe(LANE_WANTED, LANE_UNWANTED, LANE_GONE)) is not None:
            news.append(_verdict(fields))
            reader.note("lane", news[-1], k)
        constraints, marks = [], []
        while (rule := reader.word()) in EVALUATIONS:
            constraint, mark = _read_evaluation(reader, rule, said)
            reader.note("evaluation", constraint, k)
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
    turned = reader.take(TURNED)["turned_deg"]
    reader.note("turned", turned, N_STEPS)
    return steps, EndState(
        speed_mps=state["speed_mps"],
        accel_mps2=state["accel_mps2"],
        lateral_offset_m=state["lateral_offset_m"],
        turned_deg=turned,
    )


def _read_choice(reader: _Reader, said: Said, step: int) -> Choice | None:
    if reader.maybe(NO_CHOICE) is not None:
        said.choice = None
        reader.note("choice", None, step)
        return None
    fields = reader.maybe(CHOICE)
    if fields is not None:
        said.choice = _chosen(reader, fields, said)
        reader.note("choice", said.choice, step)
    losers = reader.maybe(LOSERS)
    if losers is not None:
        said.choice = replace(said.choice or _chosen(reader, {}, said), losers=losers["losers"])
        reader.note("losers", said.choice, step)
    return said.choice


def _chosen(reader: _Reader, fields: Mapping[str, Any], said: Said) -> Choice:
    """What a choice line says, completed from the last one."""
    unsaid = dict.fromkeys(("chosen", "score", "runner_up", "margin"))
    told: dict[str, Any] = pieces_of(said.choice) if said.choice is not None else unsaid
    told |= {name: piece for name, piece in fields.items() if piece is not None}
    alone = told["runner_up"] == (None,)
    if None in (told["chosen"], told["score"], told["runner_up"]) or (told["margin"] is None and not alone):
        reader.refuse("column 1: not all of a choice is said, and none was said before")
    return Choice(
        chosen=told["chosen"],
        score=told["score"][0],
        flaw=told["score"][1],
        runner_up=told["runner_up"][0],
        margin=None if alone else told["margin"][0],
        loses_for=None if alone else told["margin"][1],
        losers=said.choice.losers if said.choice is not None else (),
    )


def _verdict(fields: Mapping[str, Any]) -> LaneVerdict:
    given = dict(fields)
    follower, accel, safe_accel = given.pop("behind", None) or (None, None, None)
    safe, blocker = given.pop("safe", (None, None))
    given |= {"follower": follower, "follower_accel_mps2": accel, "safe_accel_mps2": safe_accel}
    return LaneVerdict(**given, safe=safe, blocker=blocker)


def _read_evaluation(reader: _Reader, rule: str, said: Said) -> tuple[Constraint, str]:
    """An evaluation and its mark, completed from the rule's last one."""
    fields = reader.take(EVALUATIONS[rule])
    mark = fields["mark"]
    last = said.evaluations.get(rule, {})
    full: dict[str, Any] = {name: last.get(name) if value is None else value for name, value in fields.items()}
    del full["mark"]
    missing = [name for name, value in full.items() if value is None]
    if missing:
        reader.refuse(f"column {len(rule) + 1}: {rule} does not say its {missing[0]}, nor was it said before")
    said.evaluations[rule] = full
    constraint = Constraint(
        rule=rule,
        about=full.get("about", (None,))[0],
        inputs={name: full[name] for name in RULES[rule].inputs},
        threshold=full["threshold"],
        allows_mps2=full["allows_mps2"],
    )
    return constraint, mark


def _read_state(reader: _Reader, time_s: float, said: Said) -> dict[str, Any]:
    state = reader.take(STEP)
    if state["time_s"] != time_s:
        reader.refuse(f"column 1: the time is {state['time_s']:.1f}, expected {time_s:.1f}")
    if state["lateral_offset_m"] is not None:
        said.offset_m = state["lateral_offset_m"]
    state = {**state, "lateral_offset_m": said.offset_m}
    reader.note("state", state, round(time_s / STEP_S))
    return state
