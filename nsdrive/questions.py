"""What a model is asked beyond its plain samples: other images, a forced beginning of the answer. No torch here.

A question is a sample's prompt with the images of a sample (its own, another's, or black ones) and, where `prefix` is set, the
beginning of the answer, which the model goes on from as if it had said it. Who answers is an `Answerer`: a model
(`nsdrive.vla.infer`), or a predictor whose faithfulness is known by construction (`eval.faithfulness.planted`).

    Question(question_id="syn-red_light-0-s0-0020#free", sample_id="syn-red_light-0-s0-0020", kind="free")
    Question(question_id="A#forced:A+remove-lead", sample_id="A", kind="forced", prefix="<REASONING>...</REASONING>\\n<PLANNING>")

A file of questions or of their answers has one JSON object a line. An answer's row is that of predictions.jsonl, its id the
question's; its text is the whole answer, prefix included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nsdrive.dataset import Prediction, json_line, write_atomically

Answerer = Callable[
    [Sequence["Question"]], Iterator[Prediction]
]  # in order, one for each; Prediction.sample_id: question_id


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
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no question: {error!r}") from None


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    write_atomically(path, "".join(json_line(question.to_row()) for question in questions))


def read_questions(path: Path) -> list[Question]:
    """Every question of a file. Raises ValueError naming a broken line."""
    if not path.is_file():
        raise FileNotFoundError(f"No questions file {path}")
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            questions.append(Question.from_row(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    return questions
