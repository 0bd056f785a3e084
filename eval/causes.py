"""Probes files in an evaluation: what each says of cause and effect, and, with planted predictors, which measures can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.faithfulness.causal.measures import PairScore, causal, pair_scores
from eval.faithfulness.causal.probes import Probes, read_probes
from eval.faithfulness.observed.measures import MEASURES
from eval.faithfulness.observed.truth import parameters_of
from eval.faithfulness.planted.validation import FAITHFUL, ObservedRow, Run, evidence, validate
from eval.open_loop.labels import Labels
from eval.texts import Texts
from nsdrive.dataset import Dataset, json_line


@dataclass(frozen=True, kw_only=True)
class Causes:
    """By the probes' names: the measures with intervals, and the row of each pair. validation: the table of every measure against
    every planted predictor, None without the faithful one. warnings: what a reader must know, one sentence each."""

    cells: Mapping[str, dict[str, dict[str, Any]]]
    pairs: Mapping[str, Sequence[PairScore]]
    validation: dict[str, Any] | None
    warnings: Sequence[str]

    def lines(self) -> Iterator[bytes]:
        """pairs.jsonl: one line for each pair of each probes file."""
        for name, rows in self.pairs.items():
            for row in rows:
                yield json_line({"predictions": name, **row.to_row()}).encode()


def causes_of(
    files: Mapping[str, Path], dataset: Dataset, split: str, labels: Labels, texts: Texts, seed: int
) -> Causes:
    """Read probes files and measure them. Raises ValueError for a split without pairs."""
    cells, pairs, warnings = {}, {}, []
    runs: dict[str, Run] = {}
    for name, path in files.items():
        probes = read_probes(path, dataset, split)
        rows = pair_scores(probes, dataset.samples(split))
        if FAITHFUL in files and name in texts.parts:
            runs[name] = (probes, _observed_rows(probes, name, labels, texts), rows)
        elif FAITHFUL in files:
            parameters = parameters_of(dataset.manifest.get("config") or {})
            runs[name] = evidence(probes, list(dataset.samples(split)), parameters)
        pairs[name], cells[name] = rows, causal(rows, seed)
        if probes.n_before < probes.n_before_in_split:
            warnings.append(
                f"{name}: asked of {probes.n_before} of the split's {probes.n_before_in_split} before samples"
            )
        warnings += [f"{name}: {count} questions: {outcome}" for outcome, count in probes.outcomes.items() if count]
    validation = validate(runs, seed)
    return Causes(cells=cells, pairs=pairs, validation=validation, warnings=warnings)


def _observed_rows(probes: Probes, name: str, labels: Labels, texts: Texts) -> list[ObservedRow]:
    """The observed measures of a probes file's free answers, as the evaluation has found them already."""
    asked = {question.question_id for question in probes.questions}
    return [
        ObservedRow(
            scenario=scenario, parts={m: (float(p), float(w)) for m, (p, w) in zip(MEASURES, parts, strict=True)}
        )
        for sample_id, scenario, parts in zip(labels.ids, labels.scenarios, texts.parts.get(name, ()), strict=False)
        if f"{sample_id}#free" in asked
    ]
