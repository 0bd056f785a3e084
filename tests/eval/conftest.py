"""A small dataset folder: twelve samples of six scenarios."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from eval_fixtures import make_sample, write_dataset

from nsdrive.dataset import Dataset, Prediction, Sample


@pytest.fixture
def samples() -> list[Sample]:
    """Twelve samples of six scenarios: cruising, slowing behind a lead, and stopping at a line."""
    kinds = [("following_lane", "target_speed", 0.0), ("near_lead", "lead", -0.8), ("at_light", "red_light", -1.5)]
    made = []
    for i in range(12):
        scenario_type, rule, accel = kinds[(i // 2) % 3]
        sample = make_sample(
            f"s{i:02d}",
            scenario=f"scene-{i // 2}",
            speed_mps=8.0 + 0.25 * i,
            accel_mps2=accel,
            scenario_type=scenario_type,
            rule=rule,
            speed_limit_mps=13.41,
        )
        made.append(sample)
    return made


@pytest.fixture
def dataset(tmp_path: Path, samples: list[Sample]) -> Dataset:
    return write_dataset(tmp_path / "data", samples)


@pytest.fixture
def write_predictions(tmp_path: Path) -> Callable[..., Path]:
    """write_predictions(name, rows): rows are Predictions, or dicts to be written as they are."""

    def write(name: str, rows: Sequence[Prediction | dict]) -> Path:
        path = tmp_path / f"{name}.jsonl"
        lines = [json.dumps(row if isinstance(row, dict) else row.to_row()) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
        return path

    return write
