"""Answers of a model for every sample of a split: batched, greedy, and under a grammar, so that every answer parses.

    predict("out/run/model", dataset=Path("out/data"), split="test", out=Path("predictions.jsonl"))

One row per sample, always, in order: a sample that cannot be read is a row with its error. Rows are kept as they come in
`predictions.jsonl.part`, which --resume goes on from; the file itself appears when all rows are there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nsdrive.dataset import MANIFEST, Dataset, Prediction, json_line, open_dataset, sha256_of, write_atomically
from nsdrive.vla.data import Encoded, Row, Rows, collate, encode, read_row
from nsdrive.vla.grammar import REASONING_BUDGET, PlanGrammar, TokenTables
from nsdrive.vla.model import load_model, load_processor, model_type, quiet_libraries, require_fast_kernels
from nsdrive.vla.prompt import parse_answer

IMAGES = ("real", "black")  # black: the same prompts with every picture blacked out, what the model does without eyes


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
    images: str = "real",
    limit: int | None = None,
    resume: bool = False,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Write predictions.jsonl for a split with a model (a folder, an adapter's folder, or a hub id).

    max_reasoning_tokens: the budget of the free text; None takes the trace level's own. Raises ValueError for an `out`
    that exists, and for one begun with other settings; what is wrong with a sample becomes that sample's row.
    """
    if images not in IMAGES:
        raise ValueError(f"images must be one of {', '.join(IMAGES)}, got '{images}'")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size and limit must be at least 1, got {batch_size} and {limit}")
    out = Path(out)
    opened = open_dataset(dataset)
    rows = Rows(opened, split)
    n_rows = len(rows) if limit is None else min(limit, len(rows))
    settings = {
        "model": str(model),
        "dataset_sha256": sha256_of(Path(dataset) / MANIFEST),
        "split": split,
        "rows": n_rows,
        "batch_size": batch_size,  # its padding touches the last bits of the numbers
        "constrained": constrained,
        "max_reasoning_tokens": max_reasoning_tokens,
        "images": images,
    }
    if resume and out.is_file():
        return _summary(out, [json.loads(line) for line in _lines(out)], device="none")
    part = _Part(out, settings, resume=resume)
    quiet_libraries()
    require_fast_kernels(model_type(model, trust_remote_code=trust_remote_code), allow_slow=allow_slow_kernels)
    driver = Predictor.load(model, trust_remote_code=trust_remote_code)
    part.begin()
    started_s, n_tokens, n_before = time.monotonic(), 0, len(part.rows)
    for first in range(n_before, n_rows, batch_size):
        chunk = range(first, min(first + batch_size, n_rows))
        batch = _predict_batch(
            driver,
            opened,
            [rows.raw(k) for k in chunk],
            constrained=constrained,
            max_reasoning_tokens=max_reasoning_tokens,
            black_images=images == "black",
        )
        part.append([prediction.to_row() for prediction in batch.predictions])
        n_tokens += batch.n_tokens
        if progress is not None:
            progress(len(part.rows), n_rows)
    part.finish()
    spent_s = max(time.monotonic() - started_s, 1e-9)
    n_new = n_rows - n_before
    return _summary(out, part.rows, n_new=n_new, seconds=spent_s, tokens=n_tokens, device=driver.device.type)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Answers to a batch of questions, and how many tokens they took together."""

    texts: tuple[str, ...]
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A loaded model, ready to answer."""

    model: Any
    processor: Any
    tables: TokenTables
    device: torch.device

    @staticmethod
    def load(source: str | Path, *, trust_remote_code: bool = False) -> Predictor:
        """On the GPU in bf16 where there is one, else on the CPU in fp32."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        processor = load_processor(source, trust_remote_code=trust_remote_code)
        model = load_model(source, dtype=dtype, trust_remote_code=trust_remote_code).to(device).eval()
        return Predictor(model=model, processor=processor, tables=TokenTables(processor.tokenizer), device=device)

    @torch.inference_mode()
    def answer(
        self,
        questions: Sequence[Encoded],
        levels: Sequence[str],
        *,
        constrained: bool = True,
        max_reasoning_tokens: int | None = None,
    ) -> Texts:
        """The greedy answers to encoded prompts. Raises ValueError where the GPU's memory does not suffice."""
        from transformers import GenerationConfig

        budget = (
            REASONING_BUDGET if max_reasoning_tokens is None else dict.fromkeys(REASONING_BUDGET, max_reasoning_tokens)
        )
        grammar = PlanGrammar(self.tables, levels, budget)
        batch = collate(questions, self.processor, for_generation=True)
        inputs = {name: value.to(self.device) for name, value in batch.items() if name not in ("labels", "sample_ids")}
        settings = GenerationConfig(  # not the checkpoint's own: a hub model brings temperatures
            max_new_tokens=grammar.max_new_tokens,
            do_sample=False,
            eos_token_id=self.tables.end_id,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        try:
            ids = self.model.generate(
                **inputs, generation_config=settings, logits_processor=[grammar] if constrained else None
            )
        except torch.OutOfMemoryError:
            raise ValueError(
                f"The GPU's memory does not suffice for {len(questions)} samples at once: "
                "go on with --resume and a smaller --batch-size"
            ) from None
        said = [_until(row, self.tables.end_id) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
        texts = tuple(self.processor.tokenizer.decode(row, skip_special_tokens=True) for row in said)
        return Texts(texts=texts, n_tokens=sum(len(row) + 1 for row in said))


@dataclass(frozen=True, kw_only=True)
class _Batch:
    predictions: list[Prediction]
    n_tokens: int


def _predict_batch(
    driver: Predictor,
    dataset: Dataset,
    raw_rows: list[dict[str, Any]],
    *,
    constrained: bool,
    max_reasoning_tokens: int | None,
    black_images: bool,
) -> _Batch:
    started_s = time.monotonic()
    questions: dict[int, tuple[Row, Encoded]] = {}
    errors: dict[int, str] = {}
    for k, raw in enumerate(raw_rows):
        try:
            row = read_row(dataset, raw)
            questions[k] = (row, encode(driver.processor, row, with_answer=False, black_images=black_images))
        except ValueError as error:
            errors[k] = str(error)
    said = Texts(texts=(), n_tokens=0)
    if questions:
        asked = list(questions.values())
        said = driver.answer(
            [encoded for _, encoded in asked],
            [row.level for row, _ in asked],
            constrained=constrained,
            max_reasoning_tokens=max_reasoning_tokens,
        )
    texts = dict(zip(questions, said.texts, strict=True))
    seconds = (time.monotonic() - started_s) / len(raw_rows)
    predictions = []
    for k, raw in enumerate(raw_rows):
        answer = parse_answer(texts[k]) if k in texts else None
        predictions.append(
            Prediction(
                sample_id=str(raw["id"]),
                text=texts.get(k, ""),
                waypoints_ego_m=answer.waypoints_ego_m if answer else None,
                error=answer.error if answer else errors[k],
                seconds=seconds,
            )
        )
    return _Batch(predictions=predictions, n_tokens=said.n_tokens)


class _Part:
    """predictions.jsonl.part: a first line with the settings, then rows as they come, each batch safely on the disk."""

    def __init__(self, out: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self._out, self._path = out, out.with_name(f"{out.name}.part")
        self.rows: list[dict[str, Any]] = []
        if out.exists():
            raise ValueError(f"{out} exists: choose another --out, or delete it")
        if self._path.exists() and not resume:
            raise ValueError(f"{self._path} is there from an unfinished run: go on with --resume, or delete it")
        self._settings = settings
        whole = [line for line in _lines(self._path) if line.endswith("\n")]  # a killed process may leave half a line
        if whole:
            before = json.loads(whole[0])
            changed = [f"{k}: {before.get(k)!r} -> {v!r}" for k, v in settings.items() if before.get(k) != v]
            if changed:
                raise ValueError(f"{self._path} was begun with other settings ({'; '.join(changed)}): delete it")
            batch_size = settings["batch_size"]
            n_kept = (len(whole) - 1) // batch_size * batch_size  # whole batches: the next ones are then the same
            self.rows = [json.loads(line) for line in whole[1 : 1 + n_kept]]

    def begin(self) -> None:
        """Write what is kept of an earlier run, without its last, unfinished batch."""
        write_atomically(self._path, json_line(self._settings) + "".join(json_line(row) for row in self.rows))

    def append(self, rows: list[dict[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json_line(row) for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows.extend(rows)

    def finish(self) -> None:
        write_atomically(self._out, "".join(json_line(row) for row in self.rows))
        self._path.unlink()


def _lines(path: Path) -> list[str]:
    """With their newlines. Not str.splitlines: it also splits at U+2028, which a text may hold."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="\n") as file:
        return list(file)


def _until(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids


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
