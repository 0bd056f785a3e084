"""What needs each sample as a whole: what an answer's text is worth, and what its plan is worth in its scene.

Work is cut into runs of consecutive samples, read again from the dataset and the predictions files by those who do it, so
that nothing large travels and memory stays bounded; results come back in order, the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.answers import Answers
from eval.bootstrap import cluster_mean
from eval.entries import cell
from eval.faithfulness.reasoning import ReasoningCheck, check_reasoning, summarise
from eval.labels import Labels
from eval.predictions_file import read_text
from nsdrive.dataset import Line, Sample
from nsdrive.parallel import in_order
from nsdrive.world.types import FloatArray

PlanScorer = Callable[[Sample, FloatArray | None], Mapping[str, float]]
CHUNK = 64  # samples at once, chosen by us: some seconds of work, and a few scenarios that a scorer loads once


@dataclass(kw_only=True, eq=False)
class Texts:
    """By the answers' names, N rows each: checks of the texts and the terms of the plans; labels: checks of the labels' texts."""

    checks: dict[str, list[ReasoningCheck]] = field(default_factory=dict)
    plans: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    labels: list[ReasoningCheck] = field(default_factory=list)


def read_texts(
    answers: Sequence[Answers],
    labels: Labels,
    *,
    reasoning: bool,
    plan_scorer: PlanScorer | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> Texts:
    """Check the texts of every file's answers, and score the plans of all answers, where asked for."""
    found = Texts()
    if not (reasoning or plan_scorer) or not labels.spans:
        return found
    for one in answers:
        if reasoning and one.file is not None:
            found.checks[one.name] = []
        if plan_scorer is not None:
            found.plans[one.name] = []
    jobs = list(_jobs(answers, labels, reasoning))
    work = partial(_work, reasoning=reasoning, plan_scorer=plan_scorer)
    for done, result in enumerate(in_order(work, jobs, workers), start=1):
        for name, checks in result.checks.items():
            found.checks[name] += checks
        for name, plans in result.plans.items():
            found.plans[name] += plans
        found.labels += result.labels
        progress(min(done * CHUNK, len(labels.ids)), len(labels.ids))
    return found


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One file's part of a job: where the texts lie, and the complete waypoints."""

    name: str
    path: Path | None
    spans: list[tuple[int, int] | None]
    waypoints: list[FloatArray | None]


@dataclass(frozen=True, kw_only=True)
class _Job:
    samples: list[tuple[Path, int, int]]
    asked: list[_Asked]


def _jobs(answers: Sequence[Answers], labels: Labels, reasoning: bool) -> Iterator[_Job]:
    for start in range(0, len(labels.ids), CHUNK):
        part = range(start, min(start + CHUNK, len(labels.ids)))
        yield _Job(
            samples=[labels.spans[i] for i in part],
            asked=[
                _Asked(
                    name=one.name,
                    path=one.path if reasoning else None,
                    spans=[one.text_span(i) if reasoning else None for i in part],
                    waypoints=[one.waypoints_ego_m[i] if one.errors[i] is None else None for i in part],
                )
                for one in answers
            ],
        )


def _work(job: _Job, *, reasoning: bool, plan_scorer: PlanScorer | None) -> Texts:
    found = Texts()
    for k, (shard, start, length) in enumerate(job.samples):
        sample = _sample(shard, start, length)
        if reasoning:
            found.labels.append(check_reasoning(sample, sample.answer, sample.waypoints_ego_m))
        for one in job.asked:
            if reasoning and one.path is not None:
                span = one.spans[k]
                text = "" if span is None else read_text(one.path, span)
                found.checks.setdefault(one.name, []).append(check_reasoning(sample, text, one.waypoints[k]))
            if plan_scorer is not None:
                found.plans.setdefault(one.name, []).append(plan_scorer(sample, one.waypoints[k]))
    return found


def _sample(shard: Path, start: int, length: int) -> Sample:
    with shard.open("rb") as file:
        file.seek(start)
        return Line(shard=shard, number=0, start=start, data=file.read(length)).sample()


def add_to(entry: dict[str, Any], name: str, texts: Texts, labels: Labels, seed: int) -> None:
    """What a results entry says of texts and plans."""
    checks, plans = texts.checks.get(name), texts.plans.get(name)
    entry["reasoning"] = summarise(checks) if checks else None
    entry["pdms"] = _plan_cells(plans, labels, seed) if plans else None


def label_reasoning(texts: Texts) -> dict[str, Any]:
    """The labels' own texts: the floor of every check."""
    return summarise(texts.labels)


def definitions(texts: Texts) -> dict[str, str]:
    """What the measures of the texts mean."""
    return {}


def _plan_cells(plans: Sequence[Mapping[str, float]], labels: Labels, seed: int) -> dict[str, dict[str, Any]]:
    """term -> {"value", "low", "high", "n"}; n: the plans that the term applies to."""
    terms = list(dict.fromkeys(term for plan in plans for term in plan))
    values = np.array([[float(plan.get(term, np.nan)) for term in terms] for plan in plans]).reshape(-1, len(terms))
    found = cluster_mean(values, np.ones(len(values), dtype=bool), labels.clusters, seed)
    n = np.isfinite(values).sum(axis=0)
    return {term: {**cell(found, k), "n": int(n[k])} for k, term in enumerate(terms)}
