"""The lines that say a rounded trace, by the table of templates: what is as it was when last said is not said again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nsdrive.trace.choice import Choice, LaneVerdict
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
)
from nsdrive.trace.trace import N_STEPS, STEP_S, ObjectFacts, Step, Trace


def lines_of(trace: Trace, level: str) -> list[str]:
    """The lines of a trace that is rounded to this level."""
    route = {"command": (trace.route.manoeuvre, trace.route.distance_m), "limit": trace.route.speed_limit_mps}
    lines = [SCENE.format(vars(trace.scene)), ROUTE.format(route)]
    lines += [_object_template(o).format(vars(o)) for o in trace.objects]
    turned = TURNED.format({"turned_deg": trace.end.turned_deg})
    if level == "brief":
        phases = [PHASE.format(vars(p)) for p in trace.phases]
        speeds = SPEEDS.format({"values": [*(s.speed_mps for s in trace.steps), trace.end.speed_mps]})
        accels = ACCELS.format({"values": [*(s.accel_mps2 for s in trace.steps), trace.end.accel_mps2]})
        moved = [s.moved_m for s in trace.steps]
        told = [MOVED.format({"values": moved})] if any(m is not None for m in moved) else []
        return [*lines, *phases, speeds, accels, *told, turned]
    said = Said()
    for step in trace.steps:
        if step.binding is None:
            raise ValueError("a trace read from a brief text has no evaluations, so it has no detailed text")
        lines += [_state_line(vars(step), said), *_choice_lines(step.choice, said)]
        lines += [_verdict_line(verdict) for verdict in step.lane_news]
        lines += [_evaluation_line(step, i, said) for i in range(len(step.constraints))]
    lines.append(_state_line({**vars(trace.end), "time_s": N_STEPS * STEP_S, "moved_m": None}, said))
    return [*lines, turned]


@dataclass
class Said:
    """What was said last, for that which need not be said again. evaluations: by rule, their fields."""

    offset_m: float = 0.0
    choice: Choice | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)


def _state_line(state: Mapping[str, Any], said: Said) -> str:
    offset = state["lateral_offset_m"]
    news, said.offset_m = None if offset == said.offset_m else offset, offset
    return STEP.format({**state, "lateral_offset_m": news})


def _choice_lines(choice: Choice | None, said: Said) -> list[str]:
    last, said.choice = said.choice, choice
    if choice is None:
        return [NO_CHOICE.format({})] if last is not None else []
    before = pieces_of(last) if last is not None else {}
    pieces = {name: piece if piece != before.get(name) else None for name, piece in pieces_of(choice).items()}
    lines = [CHOICE.format(pieces)] if set(pieces.values()) != {None} else []
    if choice.losers != (last.losers if last is not None else ()):
        lines.append(LOSERS.format({"losers": choice.losers}))
    return lines


def pieces_of(choice: Choice) -> dict[str, Any]:
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


def _evaluation_line(step: Step, index: int, said: Said) -> str:
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


def n_tokens(lines: list[str]) -> int:
    """About how many tokens of a Qwen tokenizer the lines are: each digit, mark and line end is one, as is a space before a
    digit, and each word (a long one by nine letters). 0 to 5 % more than Qwen3.5's own count on our texts."""
    return len(lines) + len(_TOKEN.findall("\n".join(lines)))


_TOKEN = re.compile(r"[0-9]|[A-Za-z]{1,9}|[^\w\s]| (?=[0-9])|_")
