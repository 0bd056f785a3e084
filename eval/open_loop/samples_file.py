"""samples.jsonl: one line for each answer of each predictions file and baseline, with its errors and its groups."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from eval.open_loop.answers import Answers
from eval.open_loop.displacement import COLUMNS
from eval.open_loop.labels import Labels
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
    names = ["predictions", "id", "scenario", *(GROUPS[title] for title in labels.groups), "error", *COLUMNS]
    fields = [f"f{k}" for k in range(len(names))]
    line = msgspec.defstruct("Line", fields, rename=dict(zip(fields, names, strict=True)))
    for start in range(0, len(labels.ids), BATCH):
        part = slice(start, start + BATCH)
        numbers = (
            np.round(strict[part, : len(COLUMNS)], DIGITS) + 0.0
        )  # nan, where a label is too short, is written as null
        columns: list[Sequence[Any]] = [[answers.name] * len(numbers), labels.ids[part], labels.scenarios[part]]
        columns += [group[part] for group in labels.groups.values()]
        columns += [answers.errors[part], *numbers.T.tolist()]
        rows = zip(*columns, strict=True)
        if texts is None:
            yield encoder.encode_lines([line(*row) for row in rows])
        else:
            said = texts[part]
            yield encoder.encode_lines(
                [dict(zip(names, row, strict=True)) | dict(said[k]) for k, row in enumerate(rows)]
            )


def write_lines(path: Path, lines: Iterator[bytes]) -> None:
    """The file appears complete or not at all, and is never whole in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
