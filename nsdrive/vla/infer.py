"""The predictions file: a model's answers for every sample of a split.

    predict("out/run/model", dataset=Path("out/data"), split="test", out=Path("predictions.jsonl"))
    predict("out/run/model", dataset=Path("out/data"), out=Path("p.jsonl"), engine="vllm", workers=8)     # one on each GPU
    predict("out/run/model", dataset=Path("out/data"), out=Path("p.jsonl"), best_of=8)
    predict("out/run/model", dataset=Path("out/data"), out=Path("predictions.black.jsonl"), control="black")

A control asks the same model the same, but with something taken away or given: what its answers then are is what that was
worth. One row per sample, always, in order: a sample that cannot be read is a row with its error. Rows are kept as they come
in `predictions.jsonl.part`, which --resume goes on from; the file itself appears when all rows are there, and beside it
`predictions.settings.json`, which says what made it.

A batch's padding touches the last bits of its numbers, so that a file of one batch size is the same bytes twice. Where the
GPU's memory does not suffice for a batch it is answered in halves, and --resume may go on with another --batch-size: the
settings then name all sizes that there were.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsdrive.config import did_you_mean
from nsdrive.counted import counted
from nsdrive.dataset import MANIFEST, open_drives, sha256_of
from nsdrive.output_folder import claim_file
from nsdrive.part_file import PartFile, begun_with, check_finished, lines_of
from nsdrive.questions import CONTROLS, Question, control_of, control_path, control_question, other_scenes
from nsdrive.vla.answering import Samples, Tally, answerer, batch_size_of
from nsdrive.vla.data.rows import evenly_spread
from nsdrive.vla.fingerprint import fingerprint_of
from nsdrive.vla.forecast.sample_size import image_size
from nsdrive.vla.inference.decoding import Decoding
from nsdrive.vla.inference.engine import check_engine
from nsdrive.vla.inference.workers import Batch, Workers, share_gpus
from nsdrive.vla.model import model_type
from nsdrive.vla.question_form import model_folder, read_form, require_same_rig
from nsdrive.vla.trajectory_head import FOLDER, SHAPE

INSTEAD = "delete it, or choose another --out"
ROWS_LOOKED_AT = 16  # chosen by us: where none of so many has its images, the dataset's folder is not whole


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What a prediction run did; of a resumed one, the rows and seconds of this call."""

    path: str
    n: int  # rows in the file
    n_errors: int  # of these, without waypoints
    n_new: int  # rows made by this call
    seconds: float  # loading the model not counted
    tokens: int  # generated
    reasoning_tokens: int  # of these, before the plan
    reasoning_share: float | None  # of the time from an answer's start to its last token, before the plan's first
    reasoning_share_by: (
        str  # "clock": of every answer, by its steps; "tokens": of the tokens, where the engine has no clock
    )
    device: str
    batch_sizes: tuple[int, ...]  # of the whole file; several where memory was short, or --resume had another

    @property
    def samples_per_second(self) -> float:
        return self.n_new / self.seconds if self.seconds > 0.0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0.0 else 0.0

    def __str__(self) -> str:
        told = f"{self.path}: {counted(self.n, 'prediction')}, {self.n_errors} without waypoints"
        if len(self.batch_sizes) > 1:
            told += f" (batches of {', '.join(map(str, self.batch_sizes))})"
        if not self.n_new:
            return told
        told += f", {self.samples_per_second:.2f} samples/s, {self.tokens_per_second:.0f} tokens/s"
        if self.reasoning_share is None:
            return told
        what = "of the time" if self.reasoning_share_by == "clock" else "of the tokens"
        return f"{told}, {100.0 * self.reasoning_share:.0f} % {what} in reasoning"


def predict(
    model: str | Path,
    *,
    dataset: Path,
    split: str = "test",
    out: Path,
    batch_size: int | None = None,
    constrained: bool = True,
    max_reasoning_tokens: int | None = None,
    control: str = "none",
    limit: int | None = None,
    resume: bool = False,
    engine: str = "transformers",
    workers: int = 1,
    tensor_parallel: int = 1,
    mode: str = "full",
    best_of: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Write predictions.jsonl for a split with a model (a folder, an adapter's folder, or a hub id).

    batch_size: None takes the engine's own; what is resumed may have had another. control: one of
    `nsdrive.questions.CONTROLS`. workers: processes, one for each GPU (with tensor_parallel, for so many) or all on the CPU; the
    rows are those of one worker. mode, constrained, max_reasoning_tokens, best_of, temperature, seed: see
    `nsdrive.vla.inference.decoding.Decoding`.

    Raises ValueError for an `out` that exists, one begun or finished with other settings, a worker that died, and a GPU without
    the memory for one sample; what is wrong with a sample becomes that sample's row.
    """
    how = Decoding(
        mode=mode,
        constrained=constrained,
        max_reasoning_tokens=max_reasoning_tokens,
        best_of=best_of,
        temperature=temperature,
        seed=seed,
    )
    batch_size = batch_size_of(engine, batch_size)
    out = Path(out)
    claim_file(out, resume=resume)
    _check_question(how, control, out)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    check_engine(engine, tensor_parallel=tensor_parallel)
    if mode == "head":
        _check_head(model, engine)
    if mode == "plan" and (form := read_form(model_folder(str(model)))) is not None and form.trace_level != "none":
        print(
            f"{model} was trained on answers with reasoning ({form.trace_level}): without it its waypoints may be far off",
            file=sys.stderr,
        )
    samples = Samples(open_drives(dataset), [split])
    ids = samples.ids if limit is None else samples.ids[:limit]
    if not ids:
        raise ValueError(f"{dataset} has no samples in split '{split}': choose another --split")
    require_same_rig(model_folder(str(model)), samples.raw(ids[0]), what=f"the split '{split}'")
    settings: dict[str, Any] = {
        "model": str(model),
        "weights": fingerprint_of(model),
        "dataset_sha256": sha256_of(Path(dataset) / MANIFEST),
        "split": split,
        "rows": len(ids),
        "batch_sizes": _sizes_before(out, batch_size) if resume else [batch_size],
        "control": control,
        "engine": engine,
        "tensor_parallel": tensor_parallel,
        **how.to_json(),
    }
    if resume and out.is_file():
        check_finished(out, settings, instead=INSTEAD)
        rows = [json.loads(line) for line in lines_of(out)]
        return _summary(out, rows, batch_sizes=settings["batch_sizes"])
    part = PartFile(out, settings, resume=resume, instead=INSTEAD)
    _check_images(samples, ids)
    asked = _questions(samples, ids, control)
    batches = [ids[first : first + batch_size] for first in range(0, len(ids), batch_size)]
    there = {row["id"]: row for row in part.rows}
    due = [k for k, batch in enumerate(batches) if not all(one in there for one in batch)]
    part.rows = [there[one] for k, batch in enumerate(batches) if k not in set(due) for one in batch]
    sizes = dict.fromkeys([*(settings["batch_sizes"] if part.rows else ()), batch_size])
    part.settings["batch_sizes"] = list(sizes)
    work = {
        "model": str(model),
        "dataset": str(dataset),
        "split": split,
        "batch_size": batch_size,
        "engine": engine,
        "tensor_parallel": tensor_parallel,
        "trust_remote_code": trust_remote_code,
        "allow_slow_kernels": allow_slow_kernels,
        **how.to_json(),
    }
    model_type(model_folder(str(model)), trust_remote_code=trust_remote_code)  # before anything is written or started
    tally, n_before = Tally(), len(part.rows)
    with _answering(work, samples, workers) as answering:
        part.keep(n_before)
        for batch in answering.answer((k, [asked(one) for one in batches[k]]) for k in due):
            spent = Tally(**batch.tally)
            tally.add(spent)
            part.append(batch.rows)
            if spent.halved_to:
                sizes.update(dict.fromkeys(spent.halved_to))
                part.settings["batch_sizes"] = list(sizes)
                part.keep(len(part.rows))
            part.sync()
            if progress is not None:
                progress(len(part.rows), len(ids))
        spent_s = max(time.monotonic() - answering.started_s, 1e-9)
    made = {row["id"]: row for row in part.rows}
    part.rows = [made[one] for one in ids]
    part.finish()
    return _summary(
        out,
        part.rows,
        n_new=len(ids) - n_before,
        seconds=spent_s,
        tally=tally,
        batch_sizes=list(sizes),
        device=answering.device,
        by="clock" if engine == "transformers" else "tokens",
    )


def _sizes_before(out: Path, batch_size: int) -> list[int]:
    """The batch sizes of what is there. An unfinished file may be gone on with in any, a finished one has but its own."""
    there = begun_with(out).get("batch_sizes")
    if not isinstance(there, list) or (out.is_file() and batch_size not in there):
        return [batch_size]
    return there


def _check_question(how: Decoding, control: str, out: Path) -> None:
    if control not in CONTROLS:
        raise ValueError(f"No control '{control}'. {did_you_mean(control, CONTROLS)}")
    own, named = control_of(out)
    if named not in ("none", control):
        raise ValueError(f"{out} is, by its name, of --control {named}: choose {control_path(own, control)}")
    if control == "oracle_text" and how.mode != "full":
        raise ValueError(f"--control oracle_text gives a reasoning, and --mode {how.mode} has none")
    if control == "no_text" and how.mode == "head":
        raise ValueError("--control no_text takes the reasoning away, and --mode head has none")


def _check_head(model: str | Path, engine: str) -> None:
    if engine != "transformers":
        raise ValueError(f"--mode head reads the model's hidden states, which --engine {engine} does not give")
    folder = Path(model_folder(str(model)))
    if folder.is_dir() and not (folder / FOLDER / SHAPE).is_file():
        raise ValueError(
            f"{folder} has no trajectory head: train one with trajectory_head=regression, or leave --mode out"
        )


def _check_images(samples: Samples, ids: Sequence[str]) -> None:
    """ValueError where no sample of several, spread over all, can be read with its images: one that cannot is a row alone."""
    spread = evenly_spread(len(ids), ROWS_LOOKED_AT)
    wrong = ""
    for one in (ids[k] for k in spread):
        try:
            row = samples.row(one)
            for image in row.images:
                image_size(image, one)
        except ValueError as error:
            wrong = wrong or str(error)
        else:
            return
    raise ValueError(f"None of {counted(len(spread), 'sample')} can be read. {wrong}")


def _questions(samples: Samples, ids: Sequence[str], control: str) -> Callable[[str], Question]:
    """What is asked about a sample. ValueError where images cannot be shuffled."""
    shown = other_scenes({one: samples.scenario(one) for one in samples.ids}) if control == "shuffled" else {}

    def question(sample_id: str) -> Question:
        label = samples.label(sample_id) if control == "oracle_text" else None
        return control_question(control, sample_id, images_of=shown.get(sample_id), answer=label)

    return question


@contextlib.contextmanager
def _answering(work: Mapping[str, Any], samples: Samples, workers: int) -> Iterator[_Here | Workers]:
    """One worker is this process; many are processes of their own."""
    shares = share_gpus(workers, int(work["tensor_parallel"]))
    if workers > 1:
        with Workers(work, shares) as many:
            yield many
        return
    yield _Here(work, samples)


class _Here:
    """One worker, in this process. device: what the model is on; started_s: when it was loaded."""

    def __init__(self, work: Mapping[str, Any], samples: Samples) -> None:
        how = {name: value for name, value in work.items() if name not in ("model", "dataset")}
        self._answer = answerer(work["model"], samples, **how)
        self.device, self.started_s = self._answer.driver.device_type, time.monotonic()

    def answer(self, batches: Iterator[tuple[int, Sequence[Question]]]) -> Iterator[Batch]:
        for number, questions in batches:
            self._answer.tally = Tally()
            rows = [prediction.to_row() for prediction in self._answer(questions)]
            yield Batch(number=number, rows=rows, tally=vars(self._answer.tally))


def _summary(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    n_new: int = 0,
    seconds: float = 0.0,
    tally: Tally | None = None,
    batch_sizes: Sequence[int],
    device: str = "none",
    by: str = "clock",
) -> PredictSummary:
    spent = tally or Tally()
    part, whole = (
        (spent.reasoning_seconds, spent.seconds) if by == "clock" else (spent.n_reasoning_tokens, spent.n_tokens)
    )
    return PredictSummary(
        path=str(out),
        n=len(rows),
        n_errors=sum(row["error"] is not None for row in rows),
        n_new=n_new,
        seconds=round(seconds, 3),
        tokens=spent.n_tokens,
        reasoning_tokens=spent.n_reasoning_tokens,
        reasoning_share=round(part / whole, 4) if whole > 0 else None,
        reasoning_share_by=by,
        device=device,
        batch_sizes=tuple(batch_sizes),
    )
