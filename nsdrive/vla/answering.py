"""A model that answers questions: batched, and under a grammar, so that every answer parses.

    answer = answerer("out/run/model", Path("out/data"), batch_size=8)
    for prediction in answer([Question(question_id="A#free", sample_id="A", kind="free"), ...]):
        ...

One answer for each question, in order. A question that cannot be asked (no such sample, an image that cannot be read, a
beginning that no answer has) is an answer with its error. A batch that does not fit into the GPU's memory is answered in
halves. Which library runs the model: `nsdrive.vla.inference.engine`; how answers are drawn and chosen:
`nsdrive.vla.inference.decoding`.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from nsdrive.counted import counted
from nsdrive.dataset import SPLITS, Dataset, Prediction, open_dataset
from nsdrive.questions import NO_TEXT, Question
from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.data.rows import Row, Rows, read_row
from nsdrive.vla.grammar import OPEN_PLAN, Begun, check_begun
from nsdrive.vla.inference.decoding import Decoding
from nsdrive.vla.inference.engine import Engine, OutOfMemory, Said, load_engine
from nsdrive.vla.inference.selection import Chosen, best_of
from nsdrive.vla.prompt import parse_answer, render_answer
from nsdrive.world.types import FloatArray

MAX_PREFIX = 16_384  # characters, chosen by us: four of our longest traces; a stranger's file may hold anything
WINDOW = 8  # batches, see ModelAnswerer; chosen by us
BATCH_SIZES = {"transformers": 8, "vllm": 256}  # chosen by us; vLLM's own number of sequences under way at once

_Asked = TypeVar("_Asked")
_Given = TypeVar("_Given")


def answerer(
    model: str | Path,
    dataset: str | Path | Dataset | Samples,
    *,
    split: str | None = None,
    batch_size: int | None = None,
    constrained: bool = True,
    max_reasoning_tokens: int | None = None,
    engine: str = "transformers",
    tensor_parallel: int = 1,
    mode: str = "full",
    best_of: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_slow_kernels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ModelAnswerer:
    """A model (a folder, an adapter's folder, or a hub id) that answers questions about the samples of a dataset.

    split: whose samples may be asked about; None: all. batch_size: None takes the engine's own. How answers are made is
    `Decoding`'s. progress is told how many of a call's questions are answered. ValueError or FileNotFoundError where the
    dataset cannot be read or the model not loaded.
    """
    how = Decoding(
        mode=mode,
        constrained=constrained,
        max_reasoning_tokens=max_reasoning_tokens,
        best_of=best_of,
        temperature=temperature,
        seed=seed,
    )
    if isinstance(dataset, Samples):
        samples = dataset
    else:
        opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        samples = Samples(opened, SPLITS if split is None else (split,))
    size = batch_size_of(engine, batch_size)
    driver = load_engine(
        model,
        engine=engine,
        tensor_parallel=tensor_parallel,
        batch_size=size,
        trust_remote_code=trust_remote_code,
        allow_slow_kernels=allow_slow_kernels,
    )
    return ModelAnswerer(driver, samples, batch_size=size, how=how, progress=progress)


def batch_size_of(engine: str, batch_size: int | None) -> int:
    """What is given, else the engine's own. ValueError for less than one."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    return batch_size or BATCH_SIZES.get(engine, 1)


@dataclass(frozen=True, kw_only=True)
class ModelAnswer(Prediction):
    """A prediction that says more of how it came about, by the names of its row."""

    more: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        return super().to_row() | dict(self.more)


@dataclass(kw_only=True)
class Tally:
    """What generating took, all answers together. A text's time runs from its batch's start to its last token, so that texts
    of one batch add up to more than the batch; of it, reasoning_seconds are from the first token to the plan's first.
    halved_to: the batch sizes gone on with, each time that the memory did not suffice."""

    n_tokens: int = 0
    n_reasoning_tokens: int = 0
    seconds: float = 0.0
    reasoning_seconds: float = 0.0
    halved_to: list[int] = field(default_factory=list)

    def add(self, other: Tally | Said) -> None:
        if isinstance(other, Tally):
            self.halved_to += other.halved_to
        self.n_tokens += other.n_tokens
        self.n_reasoning_tokens += other.n_reasoning_tokens
        self.seconds += other.seconds
        self.reasoning_seconds += other.reasoning_seconds


class ModelAnswerer:
    """An `nsdrive.questions.Answerer`. tally: of all calls so far.

    Within `window` questions those whose answers begin with their whole reasoning are batched together, apart from those that
    have yet to reason, for which they would wait. A batch's padding touches the last bits of its numbers: questions asked in
    two calls are answered as in one if the first call's number is a multiple of `window`.
    """

    def __init__(
        self,
        driver: Engine,
        samples: Samples,
        *,
        batch_size: int,
        how: Decoding | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.driver, self._samples, self._progress = driver, samples, progress
        self._batch_size, self._how = batch_size_of("", batch_size), how or Decoding()
        self.window, self.tally = WINDOW * batch_size, Tally()
        self._at_once = self._batch_size  # less from where the memory did not suffice

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
        """The answers of one batch. ValueError only where the memory does not suffice, or the model has not what is asked of it."""
        started_s = time.monotonic()
        asked: dict[int, tuple[Row, Encoded]] = {}
        errors: dict[int, str] = {}
        for k, question in enumerate(questions):
            try:
                asked[k] = self._encoded(question)
            except ValueError as error:
                errors[k] = str(error)
        made: dict[int, ModelAnswer] = {}
        if asked and self._how.mode == "head":
            points = self._as_fits(self.driver.waypoints, [encoded for _, encoded in asked.values()])
            made = {k: _of_head(questions[k], one) for k, one in zip(asked, points, strict=True)}
        elif asked:
            said = self._said([(questions[k], row, encoded) for k, (row, encoded) in asked.items()])
            made = {k: self._of_text(questions[k], one) for k, one in zip(asked, said, strict=True)}
        seconds = (time.monotonic() - started_s) / len(questions)
        return [
            replace(made[k], seconds=seconds) if k in made else _failed(question, errors[k], seconds)
            for k, question in enumerate(questions)
        ]

    def _said(self, asked: Sequence[tuple[Question, Row, Encoded]]) -> list[list[Said]]:
        """For each question its answers, as many as are drawn. Memory holds a batch at a time."""
        how = self._how
        drawn = [
            (encoded, row.level, how.seed_of(question.question_id, candidate))
            for question, row, encoded in asked
            for candidate in range(how.best_of)
        ]

        def answered(part: Sequence[tuple[Encoded, str, int]]) -> Sequence[Said]:
            encoded, levels, seeds = zip(*part, strict=True)
            return self.driver.answer(
                encoded,
                levels,
                constrained=how.constrained,
                max_reasoning_tokens=how.max_reasoning_tokens,
                temperature=how.drawn_at,
                seeds=seeds,
            ).said

        said = list(answered(drawn)) if self.driver.queues else self._as_fits(answered, drawn)
        for one in said:
            self.tally.add(one)
        return [said[first : first + how.best_of] for first in range(0, len(said), how.best_of)]

    def _as_fits(self, ask: Callable[[Sequence[_Asked]], Iterable[_Given]], asked: Sequence[_Asked]) -> list[_Given]:
        """What is given for each, a batch at once, or fewer where the memory does not suffice. OutOfMemory where that is one."""
        given: list[_Given] = []
        while len(given) < len(asked):
            part = asked[len(given) : len(given) + self._at_once]
            try:
                given.extend(ask(part))
                continue
            except OutOfMemory as error:
                if len(part) == 1:
                    raise OutOfMemory(
                        f"{error}. What is answered is kept: go on with --resume where more of it is free"
                    ) from None
            # not in the except clause, where the error still holds what filled the memory; from Python 3.13 on in a circle
            gc.collect()
            self._at_once = len(part) // 2
            self.tally.halved_to.append(self._at_once)
            print(
                f"The GPU's memory does not suffice for {len(part)} samples at once: "
                f"from here on {counted(self._at_once, 'sample')} at a time",
                file=sys.stderr,
                flush=True,
            )
        return given

    def _of_text(self, question: Question, said: Sequence[Said]) -> ModelAnswer:
        chosen: Chosen | None = best_of(said) if self._how.best_of > 1 else None
        one = said[chosen.index if chosen is not None else 0]
        answer, more = parse_answer(one.text), dict[str, Any]()
        if self._how.mode != "full":
            more["mode"] = self._how.mode
        if chosen is not None:
            more["best_of"] = chosen.to_json()
        if one.early_waypoints_ego_m is not None and one.early_seconds is not None:
            more["early_waypoints_ego_m"] = one.early_waypoints_ego_m.round(4).tolist()
            more["early_seconds"] = round(one.early_seconds, 4)
        return ModelAnswer(
            sample_id=question.question_id,
            text=one.text,
            waypoints_ego_m=answer.waypoints_ego_m,
            error=answer.error,
            seconds=0.0,
            more=more,
        )

    def _encoded(self, question: Question) -> tuple[Row, Encoded]:
        row = self._samples.row(question.sample_id)
        if question.images_of is not None:
            shown = self._samples.row(question.images_of)
            if len(shown.images) != len(row.images):
                raise ValueError(
                    f"Sample {row.sample_id} is asked with {len(row.images)} images, {shown.sample_id} has {len(shown.images)}"
                )
            row = replace(row, images=shown.images)
        prefix = question.prefix or (NO_TEXT if self._how.mode == "plan" else "")
        if self._how.mode == "head":
            prefix = ""
        if len(prefix) > MAX_PREFIX:
            raise ValueError(f"Sample {row.sample_id}: the answer's beginning has over {MAX_PREFIX} characters")
        if self._how.constrained:
            check_begun(row.level, Begun(prefix=prefix))
        black = question.images == "black"
        encoded = encode(self.driver.processor, row, with_answer=False, black_images=black, prefix=prefix)
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


def _batches(questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """Indices of each batch: first of the kind that the first question is of."""
    reasoned = [OPEN_PLAN in (question.prefix or "") for question in questions]
    for kind in (reasoned[0], not reasoned[0]):
        same = [k for k, one in enumerate(reasoned) if one == kind]
        for first in range(0, len(same), batch_size):
            yield same[first : first + batch_size]


def _of_head(question: Question, waypoints_ego_m: FloatArray) -> ModelAnswer:
    """Its text is the plan as a model would have written it, so that whoever reads texts reads the same points."""
    text = render_answer("", waypoints_ego_m)
    answer = parse_answer(text)
    return ModelAnswer(
        sample_id=question.question_id,
        text=text,
        waypoints_ego_m=answer.waypoints_ego_m,
        error=answer.error,
        seconds=0.0,
        more={"mode": "head"},
    )


def _failed(question: Question, error: str, seconds: float) -> ModelAnswer:
    return ModelAnswer(sample_id=question.question_id, text="", waypoints_ego_m=None, error=error, seconds=seconds)
