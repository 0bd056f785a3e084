"""The minimal pairs of a split, and the questions that they ask of a model (see `eval.faithfulness.causal.probes`).

    for group in groups_of(dataset.samples("test")):
        group.before, group.afters              # a sample, and the same anchor in each edited scenario

Stage one, of every *before* sample A of a pair and its *after* samples A+e:
    A#free, A+e#free      the plain question
    A#forced:A            A's images and prompt, the answer beginning with the planner's own text of A: the reference
    A#forced:A+e          the same images and prompt, the answer beginning with the planner's text of the edited scene
Stage two, from the text that A#free gave:
    A#cut:k               its first k sections of K, k = 0 to K - 1, then the waypoints
    A#swap:NAME           the section NAME replaced by that of the planner's text of another scenario

The replacing section is of the next before sample, in the split's order and going round, that is of another scenario and says
something else there. It is the planner's text, not the model's own answer there, so that what is asked depends on one answer
alone: it is the same for every model that says the same, and nobody's failure changes another's question. A text with none of our
sections is cut, by lines, but has nothing swapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.faithfulness.causal.sections import Section, first, sections, swapped
from nsdrive.dataset import Sample
from nsdrive.questions import Question
from nsdrive.vla.prompt import parse_answer
from nsdrive.world.types import FloatArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """What is needed of one sample of a pair. text: the planner's reasoning, "" at level none. waypoints_ego_m (10, 2): the label.
    speed_mps: of the ego at the anchor. edit: the sample's `extra["edit"]`, None of a before sample."""

    sample_id: str
    scenario_id: str
    binding_rule: str
    text: str
    waypoints_ego_m: FloatArray
    speed_mps: float
    edit: Mapping[str, Any] | None

    @staticmethod
    def of(sample: Sample) -> Side:
        now = sample.ego_history[-1] if sample.ego_history else {}
        edit = sample.extra.get("edit")
        if edit is not None and not (isinstance(edit, Mapping) and {"of", "name"} <= set(edit)):
            raise ValueError(
                f"Sample {sample.sample_id} has an edit that is no table with `of` and `name`: {edit!r:.80}"
            )
        return Side(
            sample_id=sample.sample_id,
            scenario_id=sample.scenario_id,
            binding_rule=sample.binding_rule,
            text=parse_answer(sample.answer).reasoning or "",
            waypoints_ego_m=sample.waypoints_ego_m,
            speed_mps=float(np.hypot(now.get("vx_mps", 0.0), now.get("vy_mps", 0.0))),
            edit=edit,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """A before sample and its after samples, in the split's order."""

    before: Side
    afters: tuple[Side, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.before.sample_id, *(after.sample_id for after in self.afters))


def groups_of(samples: Iterable[Sample], where: str = "These samples") -> list[Group]:
    """The pairs of a split, by before sample. ValueError where there are none, or where a before sample is not there."""
    befores: dict[str, Side] = {}
    afters: dict[str, list[Side]] = {}
    for sample in samples:
        side = Side.of(sample)
        if side.edit is None:
            befores[side.sample_id] = side
        else:
            afters.setdefault(str(side.edit["of"]), []).append(side)
    lost = [name for name in afters if name not in befores]
    if lost:
        raise ValueError(f"{where} have samples edited from {lost[0]!r:.80}, which is not among them")
    if not afters:
        raise ValueError(f"{where} have no minimal pairs: make some with `nsdrive generate data/pairs`")
    return [Group(before=befores[i], afters=tuple(afters[i])) for i in befores if i in afters]


def stage_one(groups: Iterable[Group]) -> list[Question]:
    """The free and the forced questions of some groups; nothing is forced where the planner wrote no text."""
    questions = []
    for group in groups:
        before = group.before
        questions += [Question(question_id=f"{i}#free", sample_id=i, kind="free") for i in group.ids]
        questions += [
            Question(
                question_id=f"{before.sample_id}#forced:{side.sample_id}",
                sample_id=before.sample_id,
                kind="forced",
                prefix=forced(side.text),
                about=(("text_of", side.sample_id),),
            )
            for side in (before, *group.afters)
            if side.text
        ]
    return questions


def stage_two(groups: Sequence[Group], n: int, answers: Mapping[str, str]) -> list[Question]:
    """The cut and swap questions of the first n groups. answers: texts of complete answers of stage one by question id; a before
    sample without one, or without reasoning in it, is asked nothing more."""
    donors = [{s.name: s for s in sections(group.before.text)} for group in groups]
    questions = []
    for k in range(n):
        before = groups[k].before
        reasoning = parse_answer(answers.get(f"{before.sample_id}#free", "")).reasoning
        parts = sections(reasoning or "")
        for kept in range(len(parts)):
            questions.append(
                Question(
                    question_id=f"{before.sample_id}#cut:{kept}",
                    sample_id=before.sample_id,
                    kind="cut",
                    prefix=forced(first(parts, kept)),
                    about=(("kept", str(kept)), ("of", str(len(parts)))),
                )
            )
        for part in parts:
            donor = _donor(groups, donors, k, part)
            if donor is not None:
                questions.append(
                    Question(
                        question_id=f"{before.sample_id}#swap:{part.name}",
                        sample_id=before.sample_id,
                        kind="swap",
                        prefix=forced(swapped(parts, part.name, donor)),
                        about=(("section", part.name),),
                    )
                )
    return questions


def forced(reasoning: str) -> str:
    """The beginning of an answer that has said this, as `nsdrive.vla.prompt.render_answer` writes it."""
    return f"<REASONING>{reasoning}</REASONING>\n<PLANNING>"


def _donor(groups: Sequence[Group], donors: Sequence[Mapping[str, Section]], k: int, part: Section) -> Section | None:
    """The section of this name of the next before sample of another scenario that says something else there."""
    for step in range(1, len(groups)):
        j = (k + step) % len(groups)
        other = donors[j].get(part.name)
        if groups[j].before.scenario_id == groups[k].before.scenario_id or other is None:
            continue
        if other.text.rstrip("\n") != part.text.rstrip("\n"):
            return other
    return None
