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
from typing import Any

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
        phases = list(phases_of(steps, end))
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
            self.fail(TURNED)

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
    said = Said()
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


def _read_choice(reader: _Reader, said: Said) -> Choice | None:
    if reader.maybe(NO_CHOICE) is not None:
        said.choice = None
        return None
    fields, losers = reader.maybe(CHOICE), reader.maybe(LOSERS)
    if fields is None and losers is None:
        return said.choice
    unsaid = dict.fromkeys(("chosen", "score", "runner_up", "margin"))
    told: dict[str, Any] = pieces_of(said.choice) if said.choice is not None else unsaid
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


def _read_evaluation(reader: _Reader, rule: str, said: Said) -> tuple[Constraint, str]:
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


def _read_state(reader: _Reader, time_s: float, said: Said) -> dict[str, Any]:
    state = reader.take(STEP)
    if state["time_s"] != time_s:
        raise ValueError(f"line {reader.at}, column 1: the time is {state['time_s']:.1f}, expected {time_s:.1f}")
    if state["lateral_offset_m"] is not None:
        said.offset_m = state["lateral_offset_m"]
    return {**state, "lateral_offset_m": said.offset_m}
