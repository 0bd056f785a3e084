"""Answers from anybody, held against the questions that were asked: one for each, and whatever else there was is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.open_loop.predictions_file import UNUSABLE, writable
from eval.open_loop.release_format import complete_points
from nsdrive.dataset import Prediction
from nsdrive.questions import Question
from nsdrive.vla.displacement import usable

MISSING = "missing answer"
TWICE = "answered twice, differently"
OTHERWISE = "asked otherwise than the data ask"
UNKNOWN_ID = "answer to no question"
REPEATED = "answer repeated"
NO_ROW = "line that is no answer"
NO_TEXT = "an error that is no text"
NO_PREFIX = "text that does not begin with its prefix"


@dataclass(frozen=True, kw_only=True)
class Joined:
    """answers: by question id, one for each question, failed ones with their error. outcomes: what went wrong, how often."""

    answers: Mapping[str, Prediction]
    outcomes: Mapping[str, int]


def join(questions: Sequence[Question], rows: Iterable[Mapping[str, Any] | None], *, check: bool = False) -> Joined:
    """An answer for every question. check: the rows carry their questions, which must be these."""
    asked = {question.question_id: question for question in questions}
    outcomes: Counter[str] = Counter()
    found: dict[str, Prediction] = {}
    for raw in rows:
        question = None if raw is None else asked.get(id_of(raw))
        if raw is None or question is None:
            outcomes[NO_ROW if raw is None else UNKNOWN_ID] += 1
            continue
        prediction = _prediction(question.question_id, raw)
        if check and any(raw.get(name) != value for name, value in question.to_row().items()):
            prediction = failed(question.question_id, OTHERWISE)
        before = found.setdefault(question.question_id, prediction)
        if before is not prediction:
            outcomes[REPEATED] += 1
            if before.to_row() != prediction.to_row():
                found[question.question_id] = failed(question.question_id, TWICE)
        elif (
            question.prefix is not None and prediction.error is None and not prediction.text.startswith(question.prefix)
        ):
            outcomes[NO_PREFIX] += 1
    answers = {i: found.get(i) or failed(i, MISSING) for i in asked}
    outcomes.update(
        answer.error for answer in answers.values() if answer.error in (MISSING, TWICE, OTHERWISE, UNUSABLE)
    )
    return Joined(answers=answers, outcomes=dict(sorted(outcomes.items())))


def rows_in(path: Path) -> Iterator[Mapping[str, Any] | None]:
    """The objects of a file of JSON lines, None for a line that is none. FileNotFoundError without the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file {path}")
    with Path(path).open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else None


def id_of(raw: Mapping[str, Any]) -> str:
    """A row's id, "" where that is no text."""
    name = raw.get("id")
    return name if isinstance(name, str) else ""


def _prediction(question_id: str, raw: Mapping[str, Any]) -> Prediction:
    text, error, seconds = raw.get("text"), raw.get("error"), raw.get("seconds")
    waypoints = None
    if raw.get("waypoints_ego_m") is None and error is None and isinstance(text, str):  # an answer as text alone
        points, error = complete_points(text)
        waypoints = None if points is None else np.array(points)
    else:
        try:
            waypoints = np.array(raw.get("waypoints_ego_m"), dtype=float)
        except (TypeError, ValueError, OverflowError):
            error = error or UNUSABLE
    given = Prediction(
        sample_id=question_id,
        text=text if isinstance(text, str) else "",
        waypoints_ego_m=waypoints,
        error=error if error is None or isinstance(error, str) else NO_TEXT,
        seconds=float(seconds) if isinstance(seconds, (int, float)) and abs(seconds) < 1e9 else 0.0,
    )
    return clean(given)


def clean(prediction: Prediction) -> Prediction:
    """Complete with usable waypoints, or failed with an error; and nothing in it that no file can hold."""
    error, waypoints = prediction.error, prediction.waypoints_ego_m
    if error is None and (waypoints is None or not usable(np.asarray(waypoints, dtype=float))):
        error = UNUSABLE
    return replace(
        prediction,
        text=writable(prediction.text),
        error=None if error is None else writable(error),
        waypoints_ego_m=None if error is not None else np.round(np.asarray(waypoints, dtype=float), 4) + 0.0,
        seconds=prediction.seconds if np.isfinite(prediction.seconds) else 0.0,
    )


def failed(question_id: str, error: str) -> Prediction:
    return Prediction(sample_id=question_id, text="", waypoints_ego_m=None, error=error, seconds=0.0)
