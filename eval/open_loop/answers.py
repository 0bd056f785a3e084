"""Predictions files set against a split: every sample once, whatever the files hold.

What a row can be, each counted in `Answers.rows` and none of it fatal:

    broken          a line that is no row (not JSON, no id, no answer)
    unknown_ids     it answers no sample of the split: not measured. Where no row of a file does, the file is another split's
    no_label        its sample's label cannot be read (labels from a JSON list or from the file itself)
    duplicates      the same answer to the same sample once more: the sample counts once
    contradicting   another answer to a sample that the file has answered: nobody can say which one is meant, the best must not
                    be picked by its order, so the sample counts as failed
    missing         samples without a row: failed answers, never absent ones
    text_differs    complete answers whose text prints other waypoints than `waypoints_ego_m` says (those are measured)
    other_label     rows whose own `label` is another one than the dataset's: made with another version of it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.open_loop.baselines import BLIND
from eval.open_loop.labels import Labels
from eval.open_loop.predictions_file import UNUSABLE, PredictionsFile
from nsdrive.vla.prompt import N_WAYPOINTS
from nsdrive.world.types import FloatArray

__all__ = ["CONTRADICTION", "MISSING", "UNUSABLE", "Answers", "blind_answers", "matched"]

MISSING = "missing prediction"
CONTRADICTION = "two rows of the file contradict each other"
DIFFERS_M = 0.0101  # a text prints centimetres
NAME_SHOWN = 80  # characters of an unknown id
LINES_NAMED = 5  # chosen by us: broken lines listed, the rest is counted


@dataclass(kw_only=True, eq=False)
class Answers:
    """One predictions file (or a baseline computed here, file None), aligned to the split: N rows in its order.

    errors: None where the answer is complete. waypoints_ego_m (N, 10, 2): zeros where it is not. printed_m (N, 10, 2), of which
    n_printed (N,) rows count: the points as the release's script would read them. file_rows (N,): the file's row, -1 without one.
    """

    name: str
    errors: list[str | None]
    waypoints_ego_m: FloatArray
    printed_m: FloatArray
    n_printed: FloatArray
    file: PredictionsFile | None = None
    file_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    rows: Mapping[str, int] = field(default_factory=dict)
    in_order: bool = True
    control: str | None = None  # what kind of control it is ...
    control_of: str | None = None  # ... and of which answers

    @property
    def path(self) -> Path | None:
        return None if self.file is None else self.file.path

    @property
    def complete(self) -> np.ndarray:
        """(N,) bool: the answer could be read."""
        return np.array([error is None for error in self.errors], dtype=bool)

    @property
    def seconds(self) -> FloatArray:
        """(M,) of the rows that there are."""
        if self.file is None:
            return np.zeros(0)
        return np.array(self.file.seconds)[self.file_rows[self.file_rows >= 0]]

    def text_span(self, sample: int) -> tuple[int, int] | None:
        """Where the sample's row lies in the file, None where nobody answered or two rows contradict each other."""
        if self.file is None or self.file_rows[sample] < 0 or self.errors[sample] == CONTRADICTION:
            return None
        return self.file.spans[self.file_rows[sample]]

    def warnings(self) -> list[str]:
        """What a reader must know of this file, one sentence each."""
        rows, found = self.rows, []
        if not self.in_order:
            found.append("its rows are not in the split's order (the numbers do not depend on it)")
        if rows.get("broken") and self.file is not None:
            lines = "; ".join(f"line {b.number}: {b.reason[:80]}" for b in self.file.broken[:LINES_NAMED])
            found.append(f"{rows['broken']} lines are no predictions and were passed over ({lines})")
        if rows.get("unknown_ids"):
            found.append(f"{rows['unknown_ids']} rows answer no sample of this split and were not measured")
        if rows.get("no_label"):
            found.append(f"{rows['no_label']} rows answer samples whose label cannot be read and were not measured")
        if rows.get("duplicates"):
            found.append(f"{rows['duplicates']} rows repeat an answer; each sample counts once")
        if rows.get("contradicting"):
            found.append(
                f"{rows['contradicting']} rows contradict another row for their sample, which counts as failed"
            )
        if rows.get("text_differs"):
            found.append(
                f"{rows['text_differs']} texts print other waypoints than 'waypoints_ego_m' says, which are measured"
            )
        if rows.get("other_label"):
            found.append(f"{rows['other_label']} rows bring another label than the dataset's: another version of it?")
        if self.errors and not self.complete.any():
            found.append("no answer could be read; its strict numbers are the penalty alone")
        return [f"{self.name}: {text}" for text in found]


def matched(name: str, file: PredictionsFile, labels: Labels, split: str) -> Answers:
    """The file's answers, one per sample. Raises ValueError where the file has rows but none for this split."""
    n, chosen, contradicted = len(labels.ids), np.full(len(labels.ids), -1), set()
    counts = dict.fromkeys(("unknown_ids", "no_label", "duplicates", "contradicting"), 0)
    order, first_stranger = [], None
    for row, sample_id in enumerate(file.ids):
        sample = labels.positions.get(sample_id)
        if sample is None and sample_id not in labels.unreadable:
            sample = labels.places.get(file.indices[row])
        if sample is None:
            counts["no_label" if sample_id in labels.unreadable else "unknown_ids"] += 1
            first_stranger = first_stranger or sample_id
        elif chosen[sample] < 0:
            chosen[sample] = row
            order.append(sample)
        elif _same(file, int(chosen[sample]), row):
            counts["duplicates"] += 1
        else:
            counts["contradicting"] += 1
            contradicted.add(sample)
    if file.ids and not order:
        raise ValueError(
            f"{file.path} answers {len(file.ids)} samples that are not in split '{split}', the first {_short(first_stranger)}: "
            "was it made for another split or dataset?"
        )
    errors: list[str | None] = [MISSING if row < 0 else file.errors[row] for row in chosen]
    for sample in contradicted:
        errors[sample] = CONTRADICTION
    taken = np.where(np.array([e == CONTRADICTION for e in errors], dtype=bool), -1, chosen)
    printed_m, n_printed = _taken(file.printed_m, taken), np.where(taken < 0, 0, _taken(file.n_printed, taken))
    answers = Answers(
        name=name,
        errors=errors,
        waypoints_ego_m=_taken(file.waypoints_ego_m, taken),
        printed_m=printed_m,
        n_printed=n_printed,
        file=file,
        file_rows=chosen,
        in_order=bool(np.all(np.diff(order) > 0)),
    )
    answered = len(order)
    differs = answers.complete & (n_printed == N_WAYPOINTS) & _apart(printed_m, answers.waypoints_ego_m)
    n_label = np.where(taken < 0, -1, _taken(file.n_label, taken))
    other = (n_label >= 0) & ((n_label != labels.n_printed) | _apart(_taken(file.label_m, taken), labels.printed_m))
    answers.rows = {
        "given": len(file.ids) + len(file.broken),
        "answered": answered,
        "missing": n - answered,
        "extra": len(file.ids) - answered,
        "broken": len(file.broken),
        **counts,
        "text_differs": int(differs.sum()),
        "other_label": int(other.sum()),
    }
    return answers


def blind_answers(labels: Labels, but: Mapping[str, Any]) -> list[Answers]:
    """The baselines that use only the prompt, those not in `but`; none where the ego's state is not known."""
    if labels.ego is None:
        return []
    found = []
    for name, baseline in BLIND.items():
        if name not in but:
            waypoints = baseline(labels.ego)
            count = np.full(len(waypoints), N_WAYPOINTS)
            errors: list[str | None] = [None] * len(waypoints)
            printed = np.round(waypoints, 2)  # as its file's text would print it
            found.append(
                Answers(name=name, errors=errors, waypoints_ego_m=waypoints, printed_m=printed, n_printed=count)
            )
    return found


def _short(name: str | None) -> str:
    """A stranger's word for a terminal: no line breaks, no colours, no megabyte."""
    return repr((name or "")[:NAME_SHOWN])


def _same(file: PredictionsFile, one: int, other: int) -> bool:
    return (
        file.errors[one] == file.errors[other]
        and bool((file.waypoints_ego_m[one] == file.waypoints_ego_m[other]).all())
        and file.text(one) == file.text(other)
    )


def _taken(values: FloatArray, rows: np.ndarray) -> FloatArray:
    """values[rows], zeros where the row is -1."""
    if len(values) == 0:
        return np.zeros((len(rows), *values.shape[1:]), dtype=values.dtype)
    here = (rows >= 0).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(here, values[rows], np.zeros((), dtype=values.dtype))


def _apart(one: FloatArray, other: FloatArray) -> np.ndarray:
    """(N,) bool: some coordinate differs by more than printing explains."""
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(one - other) > DIFFERS_M).any(axis=(1, 2)))
