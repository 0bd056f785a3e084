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

from eval.bootstrap import cluster_mean, cluster_ratio
from eval.faithfulness.observed.measures import MEASURES, Observed, observe
from eval.faithfulness.observed.truth import parameters_of
from eval.open_loop.answers import Answers
from eval.open_loop.baselines import BLIND
from eval.open_loop.controls import WITHOUT_TEXT
from eval.open_loop.entries import cell
from eval.open_loop.labels import Labels
from eval.open_loop.predictions_file import read_text
from nsdrive.counted import counted
from nsdrive.dataset import Line, Sample
from nsdrive.parallel import in_order
from nsdrive.world.rules import IdmParameters
from nsdrive.world.types import FloatArray

PlanScorer = Callable[
    ..., Mapping[str, float]
]  # (sample, waypoints or None, (sample before, its waypoints) or None) -> terms
CHUNK = 64  # samples at once, chosen by us: some seconds of work, and a few scenarios that a scorer loads once


@dataclass(kw_only=True, eq=False)
class Texts:
    """By the answers' names, N rows each. rows: what samples.jsonl says of each text. parts: (M, 2) of each text, the part and the
    whole of every measure, in the order of `MEASURES`. plans: the terms of each plan. unjudged: sample id -> why its plans have
    none. labels: the parts of the labels' own texts.
    """

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    parts: dict[str, list[FloatArray]] = field(default_factory=dict)
    plans: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)
    labels: list[FloatArray] = field(default_factory=list)

    def add(self, other: Texts) -> None:
        """Append what was found of the next samples."""
        for name in other.rows:
            self.rows.setdefault(name, []).extend(other.rows[name])
            self.parts.setdefault(name, []).extend(other.parts[name])
        for name in other.plans:
            self.plans.setdefault(name, []).extend(other.plans[name])
        self.unjudged.update(other.unjudged)
        self.labels.extend(other.labels)

    def warnings(self) -> list[str]:
        """What a reader of the plans' means must know: whose plans are in none of them."""
        if not self.unjudged:
            return []
        plans = counted(len(self.unjudged), "sample's plans", "samples' plans")
        return [f"{plans} could not be judged, the first: {_first(self.unjudged)}"]

    def told(self, name: str) -> list[dict[str, Any]] | None:
        """What samples.jsonl says of each answer of one file beyond its distances; None where there is nothing."""
        rows, plans = self.rows.get(name), self.plans.get(name)
        if plans is None:
            return rows
        terms = [{term: None if np.isnan(v) else round(float(v), 4) for term, v in plan.items()} for plan in plans]
        return terms if rows is None else [row | term for row, term in zip(rows, terms, strict=True)]


def read_texts(
    answers: Sequence[Answers],
    labels: Labels,
    *,
    reasoning: bool,
    plan_scorer: PlanScorer | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> Texts:
    """Check the texts of every file's answers, and score the plans of all answers, where asked for.

    plan_scorer: its `failures`, if it has such, say why a sample's plans could not be judged; ValueError where none could be.
    """
    found = Texts()
    if not (reasoning or plan_scorer) or not labels.spans:
        return found
    parameters = parameters_of(labels.facts.get("config") or {})
    work = partial(_work, reasoning=reasoning, plan_scorer=plan_scorer, parameters=parameters)
    jobs = list(_jobs(answers, labels, reasoning))
    for done, result in enumerate(in_order(work, jobs, workers), start=1):
        found.add(result)
        progress(min(done * CHUNK, len(labels.ids)), len(labels.ids))
    if found.unjudged and all(np.isnan(v) for plans in found.plans.values() for plan in plans for v in plan.values()):
        raise ValueError(f"No plan could be judged, the first: {_first(found.unjudged)}")
    return found


def _first(unjudged: Mapping[str, str]) -> str:
    return ": ".join(next(iter(unjudged.items())))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One file's part of a job: where the texts lie, and the complete waypoints. for_text: whether it owes texts at all."""

    name: str
    path: Path | None
    for_text: bool
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
                    for_text=one.control != WITHOUT_TEXT and one.name not in BLIND,
                    spans=[one.text_span(i) if reasoning else None for i in part],
                    waypoints=[one.waypoints_ego_m[i] if one.errors[i] is None else None for i in part],
                )
                for one in answers
            ],
        )


def _work(job: _Job, *, reasoning: bool, plan_scorer: PlanScorer | None, parameters: IdmParameters | None) -> Texts:
    found = Texts()
    before: Sample | None = None
    for k, (shard, start, length) in enumerate(job.samples):
        sample = _sample(shard, start, length)
        if reasoning:
            found.labels.append(_parts(observe(sample, sample.answer, sample.waypoints_ego_m, parameters=parameters)))
        for one in job.asked:
            if reasoning and one.path is not None:
                span = one.spans[k]
                text = "" if span is None else read_text(one.path, span)
                observed = observe(sample, text, one.waypoints[k], asked=one.for_text, parameters=parameters)
                found.rows.setdefault(one.name, []).append(dict(observed.to_row()))
                found.parts.setdefault(one.name, []).append(_parts(observed))
            if plan_scorer is not None:
                previous = None if before is None else (before, one.waypoints[k - 1])
                found.plans.setdefault(one.name, []).append(dict(plan_scorer(sample, one.waypoints[k], previous)))
        why = getattr(plan_scorer, "failures", {}).get(sample.sample_id)  # of this process's scorer
        if why is not None:
            found.unjudged[sample.sample_id] = why
        before = sample
    return found


def _parts(observed: Observed) -> FloatArray:
    return np.array([observed.parts[measure] for measure in MEASURES], dtype=float)


def _sample(shard: Path, start: int, length: int) -> Sample:
    with shard.open("rb") as file:
        file.seek(start)
        return Line(shard=shard, number=0, start=start, data=file.read(length)).sample()


def add_to(entry: dict[str, Any], name: str, texts: Texts, labels: Labels, seed: int) -> None:
    """What a results entry says of texts and plans. texts: how many answers have a reasoning, None where nobody looked."""
    parts, plans = texts.parts.get(name), texts.plans.get(name)
    rows = texts.rows.get(name)
    entry["texts"] = None if rows is None else sum(row["reasoning_said"] for row in rows)
    entry["observed"] = _observed_cells(parts, labels, seed) if parts else None
    entry["pdms"] = _plan_cells(plans, labels, seed) if plans else None


def label_observed(texts: Texts, labels: Labels, seed: int) -> dict[str, dict[str, Any]] | None:
    """The labels' own texts, measured like a model's: the floor, or the ceiling, of every measure."""
    return _observed_cells(texts.labels, labels, seed) if texts.labels else None


def _observed_cells(parts: Sequence[FloatArray], labels: Labels, seed: int) -> dict[str, dict[str, Any]]:
    """measure -> {"value", "low", "high", "n"}; n: the answers that it applies to."""
    table = np.array(parts)
    found = cluster_ratio(table[..., 0], table[..., 1], labels.clusters, seed)
    n = (table[..., 1] != 0.0).sum(axis=0)
    return {measure: {**cell(found, k), "n": int(n[k])} for k, measure in enumerate(MEASURES)}


def _plan_cells(plans: Sequence[Mapping[str, float]], labels: Labels, seed: int) -> dict[str, dict[str, Any]]:
    """term -> {"value", "low", "high", "n"}; n: the plans that the term applies to."""
    terms = list(dict.fromkeys(term for plan in plans for term in plan))
    values = np.array([[float(plan.get(term, np.nan)) for term in terms] for plan in plans]).reshape(-1, len(terms))
    found = cluster_mean(values, np.ones(len(values), dtype=bool), labels.clusters, seed)
    n = np.isfinite(values).sum(axis=0)
    return {term: {**cell(found, k), "n": int(n[k])} for k, term in enumerate(terms)}
