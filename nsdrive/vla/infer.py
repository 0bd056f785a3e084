"""The predictions file: a model's answers for every sample of a split.

    predict("out/run/model", dataset=Path("out/data"), split="test", out=Path("predictions.jsonl"))
    predict("out/run/model", dataset=Path("out/data"), split="test", out=Path("predictions.black.jsonl"), control="black")

A control asks the same model the same, but with something taken away or given: what its answers then are is what that was
worth. One row per sample, always, in order: a sample that cannot be read is a row with its error. Rows are kept as they come
in `predictions.jsonl.part`, which --resume goes on from; the file itself appears when all rows are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsdrive.config import did_you_mean
from nsdrive.dataset import MANIFEST, open_dataset, sha256_of
from nsdrive.part_file import PartFile, lines_of
from nsdrive.questions import CONTROLS, control_of, control_path, control_question, other_scenes
from nsdrive.vla.answering import ModelAnswerer, Predictor, Samples, answerer, load_predictor

__all__ = ["CONTROLS", "PredictSummary", "Predictor", "answerer", "predict"]


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What a prediction run did; of a resumed one, the rows and seconds of this call."""

    path: str
    n: int  # rows in the file
    n_errors: int  # of these, without waypoints
    n_new: int  # rows made by this call
    seconds: float
    tokens: int  # generated
    device: str

    def __str__(self) -> str:
        rate = (
            f", {self.seconds / self.n_new:.2f} s each, {self.tokens / self.seconds:.0f} tokens/s" if self.n_new else ""
        )
        return f"{self.path}: {self.n} predictions, {self.n_errors} without waypoints{rate}"


def predict(
    model: str | Path,
    *,
    dataset: Path,
    split: str = "test",
    out: Path,
    batch_size: int = 8,
    constrained: bool = True,
    max_reasoning_tokens: int | None = None,
    control: str = "none",
    limit: int | None = None,
    resume: bool = False,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Write predictions.jsonl for a split with a model (a folder, an adapter's folder, or a hub id).

    max_reasoning_tokens: the budget of the free text; None takes the trace level's own. control: one of
    `nsdrive.questions.CONTROLS`. Raises ValueError for an `out` that exists, and for one begun with other settings; what is
    wrong with a sample becomes that sample's row.
    """
    if control not in CONTROLS:
        raise ValueError(f"No control '{control}'. {did_you_mean(control, CONTROLS)}")
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    out = Path(out)
    own, named = control_of(out)
    if named not in ("none", control):
        raise ValueError(f"{out} is, by its name, of --control {named}: choose {control_path(own, control)}")
    opened = open_dataset(dataset)
    samples = Samples(opened, [split])
    ids = samples.ids
    n_rows = len(ids) if limit is None else min(limit, len(ids))
    settings = {
        "model": str(model),
        "dataset_sha256": sha256_of(Path(dataset) / MANIFEST),
        "split": split,
        "rows": n_rows,
        "batch_size": batch_size,  # its padding touches the last bits of the numbers
        "constrained": constrained,
        "max_reasoning_tokens": max_reasoning_tokens,
        "control": control,
    }
    if resume and out.is_file():
        return _summary(out, [json.loads(line) for line in lines_of(out)], device="none")
    if out.exists():
        raise ValueError(f"{out} exists: choose another --out, or delete it")
    part = PartFile(out, settings, resume=resume, instead="delete it")
    shown = other_scenes({one: samples.scenario(one) for one in ids}) if control == "shuffled" else {}

    def labels(sample_id: str) -> str | None:
        return samples.label(sample_id) if control == "oracle_text" else None

    driver = load_predictor(model, trust_remote_code=trust_remote_code, allow_slow_kernels=allow_slow_kernels)
    answer = ModelAnswerer(
        driver, samples, batch_size=batch_size, constrained=constrained, max_reasoning_tokens=max_reasoning_tokens
    )
    part.keep(len(part.rows) // batch_size * batch_size)  # whole batches: the next ones are then the same
    started_s, n_before = time.monotonic(), len(part.rows)
    for first in range(n_before, n_rows, batch_size):
        asked = [
            control_question(control, sample_id, images_of=shown.get(sample_id), answer=labels(sample_id))
            for sample_id in ids[first : min(first + batch_size, n_rows)]
        ]
        part.append([prediction.to_row() for prediction in answer(asked)])
        part.sync()
        if progress is not None:
            progress(len(part.rows), n_rows)
    part.finish()
    spent_s = max(time.monotonic() - started_s, 1e-9)
    n_new = n_rows - n_before
    return _summary(out, part.rows, n_new=n_new, seconds=spent_s, tokens=answer.n_tokens, device=driver.device.type)


def _summary(
    out: Path, rows: list[dict[str, Any]], *, n_new: int = 0, seconds: float = 0.0, tokens: int = 0, device: str
) -> PredictSummary:
    n_errors = sum(row["error"] is not None for row in rows)
    return PredictSummary(
        path=str(out),
        n=len(rows),
        n_errors=n_errors,
        n_new=n_new,
        seconds=round(seconds, 3),
        tokens=tokens,
        device=device,
    )
