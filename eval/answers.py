"""Predictions files set against a split: every sample once, whatever the files hold.

A sample without a prediction is a failed answer ("missing prediction"), never an absent one. A prediction without a
sample, or two for one sample, is an error: the file belongs to another dataset or was put together wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eval.baselines import BASELINES, BLIND
from eval.displacement import usable
from eval.faithfulness.reasoning import ReasoningCheck, check_reasoning
from nsdrive.dataset import Dataset, Prediction, Sample, read_predictions
from nsdrive.vla.prompt import N_WAYPOINTS
from nsdrive.world.types import FloatArray

MISSING = "missing prediction"
UNUSABLE = "waypoints_ego_m is not 10 finite [x, y] of a believable size"


@dataclass(kw_only=True)
class Labels:
    """What the split says, N samples in order: the columns that measures and groupings need, not the texts."""

    ids: list[str] = field(default_factory=list)
    scenarios: list[str] = field(default_factory=list)
    scenario_types: list[str] = field(default_factory=list)
    binding_rules: list[str] = field(default_factory=list)
    planners: list[str] = field(default_factory=list)
    waypoints: list[FloatArray] = field(default_factory=list)
    reasoning: list[ReasoningCheck] = field(default_factory=list)  # of the label's own text: the floor

    @property
    def waypoints_ego_m(self) -> FloatArray:
        """(N, 10, 2)."""
        return np.array(self.waypoints).reshape(-1, N_WAYPOINTS, 2)


@dataclass(kw_only=True)
class Answers:
    """One predictions file (or a baseline computed here, path None), aligned to the split: N rows in its order.

    errors: None where the answer is complete. waypoints: ten zeros where it is not.
    """

    name: str
    path: Path | None
    in_order: bool = True
    errors: list[str | None] = field(default_factory=list)
    waypoints: list[FloatArray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reasoning: list[ReasoningCheck] = field(default_factory=list)

    def add(self, prediction: Prediction | None) -> None:
        error = MISSING if prediction is None else prediction.error
        waypoints_ego_m = None if prediction is None else prediction.waypoints_ego_m
        if error is None and not usable(waypoints_ego_m):
            error = UNUSABLE
        # a lone surrogate is legal in JSON and in no file of ours
        self.errors.append(None if error is None else error.encode("utf-8", "replace").decode("utf-8"))
        failed = error is not None or waypoints_ego_m is None
        self.waypoints.append(np.zeros((N_WAYPOINTS, 2)) if failed else np.asarray(waypoints_ego_m))
        if prediction is not None:
            self.seconds.append(prediction.seconds)

    @property
    def complete(self) -> np.ndarray:
        """(N,) bool: the answer could be read."""
        return np.array([error is None for error in self.errors], dtype=bool)

    @property
    def waypoints_ego_m(self) -> FloatArray:
        """(N, 10, 2)."""
        return np.array(self.waypoints).reshape(-1, N_WAYPOINTS, 2)


def collect(
    files: Mapping[str, Path],
    dataset: Dataset,
    split: str,
    progress: Callable[[int, int], None],
) -> tuple[Labels, list[Answers], list[Answers]]:
    """The labels of a split, the answers of each file and those of the blind baselines, in one pass over the dataset.

    Raises ValueError for an empty split, and for files with unknown or repeated ids.
    """
    by_id = {name: _by_id(path) for name, path in files.items()}
    labels = Labels()
    from_files = [Answers(name=name, path=path) for name, path in files.items()]
    blind = [Answers(name=name, path=None) for name in BLIND if name not in files]
    total = int(dataset.manifest.get("counts", {}).get("split", {}).get(split, 0))
    for sample in dataset.samples(split):
        _add_label(labels, sample)
        for answers in from_files:
            prediction = by_id[answers.name].get(sample.sample_id)
            answers.add(prediction)
            complete = answers.errors[-1] is None
            text = "" if prediction is None else prediction.text
            answers.reasoning.append(check_reasoning(sample, text, answers.waypoints[-1] if complete else None))
        for answers in blind:
            answers.add(_as_prediction(sample, BASELINES[answers.name](sample)))
        progress(len(labels.ids), max(total, len(labels.ids)))
    if not labels.ids:
        raise ValueError(f"{dataset.folder} has no samples in split '{split}': nothing to evaluate")
    for answers in from_files:
        _check_ids(answers, list(by_id[answers.name]), labels.ids, split)
    return labels, from_files, blind


def _add_label(labels: Labels, sample: Sample) -> None:
    labels.ids.append(sample.sample_id)
    labels.scenarios.append(sample.scenario_id)
    labels.scenario_types.append(sample.scenario_type)
    labels.binding_rules.append(sample.binding_rule)
    labels.planners.append(sample.planner)
    labels.waypoints.append(sample.waypoints_ego_m)
    labels.reasoning.append(check_reasoning(sample, sample.answer, sample.waypoints_ego_m))


def _as_prediction(sample: Sample, waypoints_ego_m: FloatArray) -> Prediction:
    return Prediction(sample_id=sample.sample_id, text="", waypoints_ego_m=waypoints_ego_m, error=None, seconds=0.0)


def _by_id(path: Path) -> dict[str, Prediction]:
    rows: dict[str, Prediction] = {}
    for row in read_predictions(path):
        if row.sample_id in rows:
            raise ValueError(f"{path} answers sample '{row.sample_id}' twice: keep one row per sample")
        rows[row.sample_id] = row
    return rows


def _check_ids(answers: Answers, given: Sequence[str], ids: Sequence[str], split: str) -> None:
    known = set(ids)
    strangers = [sample_id for sample_id in given if sample_id not in known]
    if strangers:
        raise ValueError(
            f"{answers.path} answers {len(strangers)} samples that are not in split '{split}', the first "
            f"'{strangers[0]}': was it made for another split or dataset?"
        )
    present = set(given)
    answers.in_order = list(given) == [sample_id for sample_id in ids if sample_id in present]
