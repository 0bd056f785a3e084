"""A model that answers questions: batched, greedy, and under a grammar, so that every answer parses.

    answer = answerer("out/run/model", Path("out/data"), batch_size=8)
    for prediction in answer([Question(question_id="A#free", sample_id="A", kind="free"), ...]):
        ...

One answer for each question, in order. A question that cannot be asked (no such sample, an image that cannot be read, a
beginning that no answer has) is an answer with its error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nsdrive.dataset import SPLITS, Dataset, Prediction, open_dataset
from nsdrive.questions import Question
from nsdrive.vla.data.batch import collate, model_inputs
from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.data.rows import Row, Rows, read_row
from nsdrive.vla.grammar import OPEN_PLAN, REASONING_BUDGET, Begun, PlanGrammar, TokenTables, check_begun
from nsdrive.vla.model import load_model, load_processor, model_type, quiet_libraries, require_fast_kernels
from nsdrive.vla.prompt import parse_answer
from nsdrive.vla.question_form import model_folder

MAX_PREFIX = 16_384  # characters, chosen by us: four of our longest traces; a stranger's file may hold anything
WINDOW = 8  # batches, see ModelAnswerer; chosen by us


def answerer(
    model: str | Path,
    dataset: str | Path | Dataset,
    *,
    split: str | None = None,
    batch_size: int = 8,
    constrained: bool = True,
    max_reasoning_tokens: int | None = None,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ModelAnswerer:
    """A model (a folder, an adapter's folder, or a hub id) that answers questions about the samples of a dataset.

    split: whose samples may be asked about; None: all. max_reasoning_tokens: the budget of the free text; None takes the trace
    level's own. progress is told how many of a call's questions are answered. ValueError or FileNotFoundError where the
    dataset cannot be read or the model not loaded.
    """
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    samples = Samples(opened, SPLITS if split is None else (split,))
    return ModelAnswerer(
        load_predictor(model, trust_remote_code=trust_remote_code, allow_slow_kernels=allow_slow_kernels),
        samples,
        batch_size=batch_size,
        constrained=constrained,
        max_reasoning_tokens=max_reasoning_tokens,
        progress=progress,
    )


class ModelAnswerer:
    """An `nsdrive.questions.Answerer`. n_tokens: generated so far, by all calls.

    Within `window` questions those whose answers begin with their whole reasoning are batched together, apart from those that
    have yet to reason, for which they would wait. A batch's padding touches the last bits of its numbers: questions asked in
    two calls are answered as in one if the first call's number is a multiple of `window`.
    """

    def __init__(
        self,
        driver: Predictor,
        samples: Samples,
        *,
        batch_size: int,
        constrained: bool = True,
        max_reasoning_tokens: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
        if max_reasoning_tokens is not None and max_reasoning_tokens < 1:
            raise ValueError(f"max_reasoning_tokens must be at least 1, got {max_reasoning_tokens}")
        self._driver, self._samples, self._batch_size = driver, samples, batch_size
        self._constrained, self._max_reasoning_tokens, self._progress = constrained, max_reasoning_tokens, progress
        self.window, self.n_tokens = WINDOW * batch_size, 0

    def __call__(self, questions: Sequence[Question]) -> Iterator[Prediction]:
        for first in range(0, len(questions), self.window):
            answered: dict[int, Prediction] = {}
            n_done = n_given = 0
            asked = questions[first : first + self.window]
            for batch in _batches(asked, self._batch_size):
                answered.update(zip(batch, self._answers([asked[k] for k in batch]), strict=True))
                n_done += len(batch)
                if self._progress is not None:
                    self._progress(first + n_done, len(questions))
                while n_given in answered:
                    yield answered.pop(n_given)
                    n_given += 1

    def _answers(self, questions: Sequence[Question]) -> list[Prediction]:
        """The answers of one batch. ValueError only where the GPU's memory does not suffice."""
        started_s = time.monotonic()
        asked: dict[int, tuple[Row, Encoded]] = {}
        errors: dict[int, str] = {}
        for k, question in enumerate(questions):
            try:
                asked[k] = self._encoded(question)
            except ValueError as error:
                errors[k] = str(error)
        texts: dict[int, str] = {}
        if asked:
            said = self._driver.answer(
                [encoded for _, encoded in asked.values()],
                [row.level for row, _ in asked.values()],
                constrained=self._constrained,
                max_reasoning_tokens=self._max_reasoning_tokens,
            )
            texts = dict(zip(asked, said.texts, strict=True))
            self.n_tokens += said.n_tokens
        seconds = (time.monotonic() - started_s) / len(questions)
        return [
            _prediction(question, texts.get(k), errors.get(k), seconds=seconds) for k, question in enumerate(questions)
        ]

    def _encoded(self, question: Question) -> tuple[Row, Encoded]:
        row = self._samples.row(question.sample_id)
        if question.images_of is not None:
            shown = self._samples.row(question.images_of)
            if len(shown.images) != len(row.images):
                raise ValueError(
                    f"Sample {row.sample_id} is asked with {len(row.images)} images, {shown.sample_id} has {len(shown.images)}"
                )
            row = replace(row, images=shown.images)
        prefix = question.prefix or ""
        if len(prefix) > MAX_PREFIX:
            raise ValueError(f"Sample {row.sample_id}: the answer's beginning has over {MAX_PREFIX} characters")
        if self._constrained:
            check_begun(row.level, Begun(prefix=prefix))
        black = question.images == "black"
        encoded = encode(self._driver.processor, row, with_answer=False, black_images=black, prefix=prefix)
        return row, encoded


class Samples:
    """The samples of some splits by their ids; a row is read when it is asked for."""

    def __init__(self, dataset: Dataset, splits: Iterable[str]) -> None:
        self._dataset = dataset
        self._places: dict[str, tuple[Rows, int]] = {}
        for split in splits:
            rows = Rows(dataset, split)
            for k in range(len(rows)):
                sample_id = rows.id_of(k)
                if sample_id in self._places:
                    raise ValueError(f"{dataset.folder} has two samples '{sample_id}', so that one cannot be asked for")
                self._places[sample_id] = rows, k

    @property
    def ids(self) -> list[str]:
        """In order."""
        return list(self._places)

    def raw(self, sample_id: str) -> dict[str, Any]:
        """The JSON object of a sample. ValueError where there is none of this id."""
        if sample_id not in self._places:
            raise ValueError(f"There is no sample '{sample_id[:80]}' here")
        rows, k = self._places[sample_id]
        return rows.raw(k)

    def scenario(self, sample_id: str) -> str:
        """The id of the scenario that it is of. ValueError where it names none."""
        scenario = self.raw(sample_id).get("scenario")
        if not isinstance(scenario, str):
            raise ValueError(f"Sample {sample_id} names no scenario")
        return scenario

    def label(self, sample_id: str) -> str | None:
        """The answer that it teaches, None where the sample cannot be read."""
        try:
            return self.row(sample_id).answer
        except ValueError:
            return None

    def row(self, sample_id: str) -> Row:
        """ValueError naming the sample and what is wrong with it."""
        return read_row(self._dataset, self.raw(sample_id))


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Answers to a batch of questions, and how many tokens were generated for them together."""

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

    @torch.no_grad()  # not inference_mode: a model in training answers too, and tensors made there cannot be trained on
    def answer(
        self,
        questions: Sequence[Encoded],
        levels: Sequence[str],
        *,
        constrained: bool = True,
        max_reasoning_tokens: int | None = None,
    ) -> Texts:
        """The greedy answers to encoded prompts, whole: with the beginnings that they were given.

        Raises ValueError where the GPU's memory does not suffice, and for a beginning that the grammar cannot follow.
        """
        from transformers import GenerationConfig

        budget = (
            REASONING_BUDGET if max_reasoning_tokens is None else dict.fromkeys(REASONING_BUDGET, max_reasoning_tokens)
        )
        begun = [Begun(prefix=one.prefix, unsaid=one.unsaid, n_tokens=one.n_prefix) for one in questions]
        grammar = PlanGrammar(self.tables, levels, budget, begun, constrained=constrained)
        batch = collate(questions, self.processor, for_generation=True)
        inputs = model_inputs(batch, self.processor, self.device)
        settings = GenerationConfig(  # not the checkpoint's own: a hub model brings temperatures
            max_new_tokens=grammar.max_new_tokens,
            do_sample=False,
            eos_token_id=self.tables.end_id,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        try:
            ids = self.model.generate(**inputs, generation_config=settings, logits_processor=[grammar])
        except torch.OutOfMemoryError:
            raise ValueError(
                f"The GPU's memory does not suffice for {len(questions)} samples at once: "
                "go on with --resume and a smaller --batch-size"
            ) from None
        said = [_until(row, self.tables.end_id) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
        new = [self.processor.tokenizer.decode(row, skip_special_tokens=True) for row in said]
        texts = tuple(
            one.prefix.removesuffix(one.unsaid) + text for one, text in zip(questions, new, strict=True)
        )  # what was unsaid has been said
        return Texts(texts=texts, n_tokens=sum(len(row) + 1 for row in said))


def load_predictor(
    source: str | Path, *, trust_remote_code: bool = False, allow_slow_kernels: bool = False
) -> Predictor:
    """A model from a folder, a run's too, or hub id, its libraries kept quiet. ValueError where its fast kernels are missing."""
    quiet_libraries()
    source = model_folder(str(source))
    require_fast_kernels(model_type(source, trust_remote_code=trust_remote_code), allow_slow=allow_slow_kernels)
    return Predictor.load(source, trust_remote_code=trust_remote_code)


def _batches(questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """Indices of each batch: first of the kind that the first question is of."""
    reasoned = [OPEN_PLAN in (question.prefix or "") for question in questions]
    for kind in (reasoned[0], not reasoned[0]):
        same = [k for k, one in enumerate(reasoned) if one == kind]
        for first in range(0, len(same), batch_size):
            yield same[first : first + batch_size]


def _prediction(question: Question, text: str | None, error: str | None, *, seconds: float) -> Prediction:
    answer = None if text is None else parse_answer(text)
    return Prediction(
        sample_id=question.question_id,
        text=text or "",
        waypoints_ego_m=answer.waypoints_ego_m if answer else None,
        error=answer.error if answer else error,
        seconds=seconds,
    )


def _until(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids
