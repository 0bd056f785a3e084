"""What a model is asked beyond its plain samples: other images, a forced beginning of the answer. No torch here.

A question is a sample's prompt with the images of a sample (its own, another's, or black ones) and, where `prefix` is set, the
beginning of the answer, which the model goes on from as if it had said it. Who answers is an `Answerer`: a model
(`nsdrive.vla.answering`), or a predictor whose faithfulness is known by construction (`eval.faithfulness.planted.predictors`).

    Question(question_id="syn-red_light-0-s0-0020#free", sample_id="syn-red_light-0-s0-0020", kind="free")
    Question(question_id="A#forced:A+remove-lead", sample_id="A", kind="forced", prefix="<REASONING>...</REASONING>\\n<PLANNING>")

A file of questions or of their answers has one JSON object a line. An answer's row is that of predictions.jsonl, its id the
question's; its text is the whole answer, prefix included.

A control (`CONTROLS`) asks about every sample of a split, but with something taken away or given. Its answers make a
predictions file of their own, by convention beside the model's: predictions.jsonl, predictions.black.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nsdrive.config import did_you_mean
from nsdrive.dataset import Prediction, json_line, write_atomically

Answerer = Callable[
    [Sequence["Question"]], Iterator[Prediction]
]  # in order, one for each; Prediction.sample_id: question_id

CONTROLS = (
    "none",  # as in training
    "black",  # every image blacked out: what the ego's history, the command and the speed limit give away
    "shuffled",  # the images of another scenario: eyes that see something else
    "no_text",  # the answer begins with its waypoints: the same model without its reasoning
    "oracle_text",  # the label's reasoning as the answer's beginning: the same model, told what to think
)
NO_TEXT = "<PLANNING>"  # how an answer begins that does not reason
SHUFFLE_SEED = 0  # of the one order in which scenarios lend each other their images


@dataclass(frozen=True, kw_only=True)
class Question:
    """question_id: unique in its file. sample_id: whose prompt is asked. images_of: whose images are shown, None its own.

    kind: what the answer is for, one word ("free", "forced", "cut", ...). about: what else the asker wants to know again, text
    by name. prefix: how the answer begins, verbatim.
    """

    question_id: str
    sample_id: str
    kind: str
    images: Literal["real", "black"] = "real"
    images_of: str | None = None
    prefix: str | None = None
    about: tuple[tuple[str, str], ...] = ()

    def to_row(self) -> dict[str, Any]:
        return {
            "id": self.question_id,
            "sample": self.sample_id,
            "kind": self.kind,
            "images": self.images,
            "images_of": self.images_of,
            "prefix": self.prefix,
            "about": dict(self.about),
        }

    @staticmethod
    def from_row(row: dict[str, Any]) -> Question:
        """Raises ValueError naming what is missing or misshapen."""
        try:
            json.dumps(
                row, ensure_ascii=False
            ).encode()  # half of a surrogate pair is no text, and could not be written
            if row["images"] not in ("real", "black"):
                raise ValueError(f"images must be real or black, got {row['images']!r}")
            return Question(
                question_id=str(row["id"]),
                sample_id=str(row["sample"]),
                kind=str(row["kind"]),
                images=row["images"],
                images_of=None if row["images_of"] is None else str(row["images_of"]),
                prefix=None if row["prefix"] is None else str(row["prefix"]),
                about=tuple(sorted((str(k), str(v)) for k, v in row["about"].items())),
            )
        except KeyError as error:
            raise ValueError(f"no question: it has no {error}") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"no question: {error}") from None


def control_question(
    control: str, sample_id: str, *, images_of: str | None = None, answer: str | None = None
) -> Question:
    """What a control asks of a sample, the question's id the sample's own.

    images_of, for "shuffled": the sample whose images are lent (`other_scenes`). answer, for "oracle_text": the sample's label.
    """
    prefix = None
    if control == "no_text":
        prefix = NO_TEXT
    elif control == "oracle_text" and answer is not None:
        reasoning, mark, _ = answer.partition(NO_TEXT)
        prefix = reasoning + mark
    return Question(
        question_id=sample_id,
        sample_id=sample_id,
        kind="free" if control == "none" else control,
        images="black" if control == "black" else "real",
        images_of=images_of if control == "shuffled" else None,
        prefix=prefix,
    )


def other_scenes(scenarios: Mapping[str, str], *, seed: int = SHUFFLE_SEED) -> dict[str, str]:
    """For each sample one of another scenario, whose images it is shown.

    scenarios: sample id -> scenario id, the whole split's. The scenarios are put into one ring in an order drawn from the seed,
    and each takes its images from the next: the first sample from the first, and so on, round again where the next has fewer.
    ValueError where there is one scenario only.
    """
    members: dict[str, list[str]] = {}
    for sample_id, scenario_id in scenarios.items():
        members.setdefault(scenario_id, []).append(sample_id)
    names = list(members)
    if len(names) < 2:
        raise ValueError(f"Images can be shuffled among two scenarios or more, not among {len(names)}")
    ring = [names[k] for k in np.random.default_rng([seed]).permutation(len(names))]
    lender = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    return {
        sample_id: members[lender[scenario_id]][k % len(members[lender[scenario_id]])]
        for scenario_id, ids in members.items()
        for k, sample_id in enumerate(ids)
    }


def control_path(predictions: Path, control: str) -> Path:
    """Where a control's answers lie, beside those of the model itself: predictions.jsonl -> predictions.black.jsonl."""
    if control not in CONTROLS:
        raise ValueError(f"No control '{control}'. {did_you_mean(control, CONTROLS)}")
    return predictions if control == "none" else predictions.with_name(f"{predictions.stem}.{control}.jsonl")


def control_of(predictions: Path) -> tuple[Path, str]:
    """The other way round: the model's own file, and the control that this one is of ("none" for the model's own)."""
    stem, dot, control = predictions.stem.rpartition(".")
    if not dot or control not in CONTROLS[1:]:
        return predictions, "none"
    return predictions.with_name(f"{stem}.jsonl"), control


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    write_atomically(path, "".join(json_line(question.to_row()) for question in questions))


def read_questions(path: Path) -> list[Question]:
    """Every question of a file. Raises ValueError naming a broken line, or a second one of the same id."""
    if not path.is_file():
        raise FileNotFoundError(f"No questions file {path}")
    questions: dict[str, Question] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            question = Question.from_row(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if question.question_id in questions:
            raise ValueError(f"{path}:{number}: a second question '{question.question_id[:80]}'")
        questions[question.question_id] = question
    return list(questions.values())
