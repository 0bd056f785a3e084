"""samples.jsonl: one line for each answer of each predictions file and baseline, with its errors and its groups."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eval.answers import Answers
from eval.displacement import COLUMNS
from eval.labels import Labels
from nsdrive.world.types import FloatArray

DIGITS = 4
BATCH = 1000  # lines made at once
GROUPS = {  # title in results.json -> column here
    "by_scenario_type": "scenario_type",
    "by_binding_rule": "binding_rule",
    "by_speed": "speed_group",
    "by_visibility": "visibility_group",
    "by_length": "length_group",
}


def sample_lines(
    answers: Answers, strict: FloatArray, labels: Labels, texts: Sequence[Mapping[str, Any]] | None
) -> Iterator[bytes]:
    """Every line of one file, in the split's order, in batches. strict (N, 20 or more), columns as `COLUMNS` first. texts: what
    there is to say of each answer's text."""
    encoder = msgspec.json.Encoder()
    groups = {GROUPS[title]: names for title, names in labels.groups.items()}
    for start in range(0, len(labels.ids), BATCH):
        numbers = np.round(strict[start : start + BATCH, : len(COLUMNS)], DIGITS) + 0.0
        lines = []
        for k, values in enumerate(numbers.tolist()):
            i = start + k
            row: dict[str, Any] = {
                "predictions": answers.name,
                "id": labels.ids[i],
                "scenario": labels.scenarios[i],
                **{column: names[i] for column, names in groups.items()},
                "error": answers.errors[i],
                **dict(
                    zip(COLUMNS, values, strict=True)
                ),  # nan, a measure that the label is too short for, becomes null
            }
            if texts is not None:
                row |= texts[i]
            lines.append(encoder.encode(row))
        yield b"\n".join(lines) + b"\n"


def write_lines(path: Path, lines: Iterator[bytes]) -> None:
    """The file appears complete or not at all, and is never whole in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
