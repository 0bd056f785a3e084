"""Questions whose answers tell whether a model's text is the cause of its motion, asked and kept in one file.

    run_probes(open_dataset("out/pairs"), "test", answerer, Path("probes.jsonl"))         # a model or predictor at hand
    write_stage(dataset, "test", Path("ask-1.jsonl"))                                      # one elsewhere: what to ask first,
    write_stage(dataset, "test", Path("ask-2.jsonl"), answers=[Path("said-1.jsonl")])      # what then,
    from_answers([Path("ask-1.jsonl"), Path("ask-2.jsonl")], [Path("said-1.jsonl"), Path("said-2.jsonl")], Path("probes.jsonl"))
    read_probes(Path("probes.jsonl"), dataset, "test").answer("A#forced:A+remove-lead")    # the answer, failed or not

What is asked of which sample is in `eval.faithfulness.causal.pairs`: stage one asks for plain answers and forces the planner's
texts, stage two cuts and changes what the model itself said in stage one.

A probes file has one JSON object a line, question and answer. It belongs to a dataset: what is asked is worked out again when it is
read, so a question that was left out, changed or invented counts as what it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.faithfulness.causal.given import MISSING, clean, failed, id_of, join, rows_in
from eval.faithfulness.causal.pairs import groups_of, stage_one, stage_two
from nsdrive.counted import counted
from nsdrive.dataset import MANIFEST, Dataset, Prediction, json_line, sha256_of, write_atomically
from nsdrive.output_folder import claim_file
from nsdrive.part_file import PartFile, check_finished, lines_of
from nsdrive.questions import Answerer, Question, read_questions, write_questions

# Questions per call of an answerer that has no `window` of its own; a resumed run asks the rest in the same groups, because what a
# model is asked together may touch the last digits of its answers. Chosen by us.
AT_ONCE = 64


def run_probes(
    dataset: Dataset,
    split: str,
    answer: Answerer,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeSummary:
    """Ask everything and write the probes file. limit: only the first so many before samples.

    Answers are kept as they come in `OUT.part`, which `resume` goes on from (what came of an unfinished group is asked again); OUT
    appears when all are there. settings: what else must be the same for a resumed run (the model's name, ...).
    ValueError for an `out` that exists, one begun or finished with other settings, or a split without pairs.
    """
    out = Path(out)
    claim_file(out, resume=resume, overwrite=overwrite)
    groups = groups_of(dataset.samples(split), _where(dataset, split))
    asked = groups if limit is None else groups[: _at_least_one(limit)]
    at_once = max(1, int(getattr(answer, "window", AT_ONCE)))
    begun = _settings(dataset, split, len(asked)) | {"at_once": at_once} | dict(settings or {})
    if resume and out.is_file():
        check_finished(out, begun)
        return _summary(out, [json.loads(line) for line in lines_of(out)])
    part = PartFile(out, begun, resume=resume, overwrite=overwrite)
    part.keep(len(part.rows))
    started_s = time.monotonic()
    one = stage_one(asked)
    n_guess = len(one)
    n_new = _ask(one, answer, part, 0, at_once, lambda n: progress(n, n_guess) if progress else None)
    two = stage_two(groups, len(asked), {row["id"]: str(row["text"]) for row in part.rows if row["error"] is None})
    total = len(one) + len(two)
    n_new += _ask(two, answer, part, len(one), at_once, lambda n: progress(n, total) if progress else None)
    part.finish()
    return replace(_summary(out, part.rows), n_new=n_new, seconds=round(time.monotonic() - started_s, 3))


def write_stage(
    dataset: Dataset,
    split: str,
    out: Path,
    answers: Sequence[Path] | None = None,
    *,
    limit: int | None = None,
    overwrite: bool = False,
) -> StageSummary:
    """Write the questions of stage one; with the answers to them, those of stage two. ValueError for an `out` that exists."""
    out = Path(out)
    claim_file(out, overwrite=overwrite)
    groups = groups_of(dataset.samples(split), _where(dataset, split))
    n = len(groups) if limit is None else min(_at_least_one(limit), len(groups))
    questions = stage_one(groups[:n])
    outcomes: Mapping[str, int] = {}
    if answers is not None:
        joined = join(questions, [pair for path in answers for pair in rows_in(path)])
        told = {i: a.text for i, a in joined.answers.items() if a.error is None}
        if not told:
            counts = ", ".join(f"{n} x {what}" for what, n in joined.outcomes.items())
            raise ValueError(
                f"No answer can be gone on from ({counts}): a row has the question's id and the whole answer as text"
            )
        questions, outcomes = stage_two(groups, n, told), joined.outcomes
    write_questions(out, questions)
    return StageSummary(path=str(out), n=len(questions), outcomes=outcomes)


def from_answers(
    questions: Sequence[Path], answers: Sequence[Path], out: Path, *, overwrite: bool = False
) -> ProbeSummary:
    """Join questions files with the predictions files that answer them, in any order, to a probes file.

    A question without an answer, or with two that differ, is answered by a failure; answers to no question are left out; all are
    counted in the summary's outcomes.
    """
    out = Path(out)
    claim_file(out, overwrite=overwrite)
    asked: dict[str, Question] = {}
    for path in questions:
        for question in read_questions(Path(path)):
            if asked.setdefault(question.question_id, question) != question:
                raise ValueError(f"{path} asks '{question.question_id}' otherwise than a file before it")
    joined = join(list(asked.values()), [pair for path in answers for pair in rows_in(path)])
    rows = [_row(question, joined.answers[question.question_id]) for question in asked.values()]
    write_atomically(out, "".join(json_line(row) for row in rows))
    return replace(_summary(out, rows), n_new=len(rows), outcomes=joined.outcomes)


@dataclass(frozen=True, kw_only=True)
class ProbeSummary:
    """n: rows of the file; n_errors: of these, answers that failed; n_new: asked by this call, in so many seconds. outcomes: what
    went wrong, by its name, how often."""

    path: str
    n: int
    n_errors: int
    n_new: int = 0
    seconds: float = 0.0
    outcomes: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.path}: {counted(self.n, 'answer')}, {self.n_errors} failed{_told(self.outcomes)}"


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """n: questions written. outcomes: as in ProbeSummary, of the answers of stage one."""

    path: str
    n: int
    outcomes: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.path}: {counted(self.n, 'question')}{_told(self.outcomes)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Probes:
    """What was asked and answered. questions: all that the data ask of the first n_before before samples of n_before_in_split.
    answers: by question id, one for each question, failed ones with their error. outcomes: what went wrong, how often."""

    questions: tuple[Question, ...]
    answers: Mapping[str, Prediction]
    outcomes: Mapping[str, int]
    n_before: int
    n_before_in_split: int

    def answer(self, question_id: str) -> Prediction:
        """The answer; a failed one where the question was not asked."""
        return self.answers.get(question_id) or failed(question_id, MISSING)


def read_probes(path: Path, dataset: Dataset, split: str) -> Probes:
    """A probes file, whoever wrote it, held against the questions that the dataset asks.

    The last before sample that the file speaks of says how many were asked; of these every question counts. FileNotFoundError
    without the file, ValueError for a split without pairs and a file that speaks of none of them; what else is in it is an outcome.
    """
    groups = groups_of(dataset.samples(split), _where(dataset, split))
    place = {i: k for k, group in enumerate(groups) for i in group.ids}
    given = {id_of(raw).rpartition("#")[0] for raw in rows_in(path) if raw is not None}
    n = 1 + max((place[i] for i in given if i in place), default=-1)
    if n == 0:
        raise ValueError(
            f"{path} answers no question about {dataset.folder}, split '{split}': it was made for other data, or is no file of "
            "`nsdrive probe`"
        )
    one = stage_one(groups[:n])
    free = [question for question in one if question.kind == "free"]
    early = join(free, rows_in(path), check=True)
    two = stage_two(groups, n, {i: a.text for i, a in early.answers.items() if a.error is None})
    questions = [*one, *two]
    joined = join(questions, rows_in(path), check=True)
    return Probes(
        questions=tuple(questions),
        answers=joined.answers,
        outcomes=joined.outcomes,
        n_before=n,
        n_before_in_split=len(groups),
    )


# ---- asking ------------------------------------------------------------------------------------------------------------


def _ask(
    questions: Sequence[Question],
    answer: Answerer,
    part: PartFile,
    offset: int,
    at_once: int,
    tell: Callable[[int], Any],
) -> int:
    """Ask those not yet answered; `offset` rows of the part file are of an earlier stage. How many were asked."""
    done = _kept(part, questions, offset, at_once)
    for start in range(done, len(questions), at_once):
        group = questions[start : start + at_once]
        given = 0
        for question, prediction in zip(group, answer(group), strict=False):
            if prediction.sample_id != question.question_id:
                raise ValueError(f"Asked '{question.question_id}', but '{prediction.sample_id}' was answered")
            part.append([_row(question, clean(prediction))])
            given += 1
            tell(offset + start + given)
        if given != len(group):
            raise ValueError(
                f"Of {len(group)} questions {given} were answered, the last before '{group[given].question_id}'"
            )
        part.sync()
    return len(questions) - done


def _kept(part: PartFile, questions: Sequence[Question], offset: int, at_once: int) -> int:
    """Keep of the rows beyond `offset` the whole groups that answer these questions, in order; how many rows they are."""
    kept = 0
    for question, row in zip(questions, part.rows[offset:], strict=False):
        if {name: row.get(name) for name in question.to_row()} != question.to_row():
            raise ValueError(
                f"{part.path} asks '{row.get('id')}' where '{question.question_id}' is due: use --overwrite"
            )
        kept += 1
    if kept < len(questions):
        kept -= kept % at_once
        part.keep(offset + kept)
    return kept


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _row(question: Question, prediction: Prediction) -> dict[str, Any]:
    return question.to_row() | prediction.to_row()


def _summary(out: Path, rows: Sequence[Mapping[str, Any]]) -> ProbeSummary:
    return ProbeSummary(path=str(out), n=len(rows), n_errors=sum(row["error"] is not None for row in rows), outcomes={})


def _told(outcomes: Mapping[str, int]) -> str:
    return "".join(f"; {n} x {name}" for name, n in outcomes.items())


def _settings(dataset: Dataset, split: str, n_before: int) -> dict[str, Any]:
    return {"dataset_sha256": sha256_of(dataset.folder / MANIFEST), "split": split, "before_samples": n_before}


def _where(dataset: Dataset, split: str) -> str:
    return f"The samples of {dataset.folder}, split '{split}',"


def _at_least_one(limit: int) -> int:
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    return limit
