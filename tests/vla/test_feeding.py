"""A training fed in other ways learns the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import FOUR_STEPS, data_with_short_answers

from nsdrive.vla.data.shards import pack
from nsdrive.vla.train import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


def test_packed_rows_and_workers_give_the_losses_of_padded_rows_from_a_packed_data_set_too(tmp_path: Path) -> None:
    data = data_with_short_answers(tmp_path / "data")
    pack(data, tmp_path / "shards", samples_per_shard=3)
    padded = replace(FOUR_STEPS, group_by_length=True, max_steps=3)
    packed = replace(padded, packing=True, workers=1)
    curves = []
    for name, config in (("padded", padded), ("packed", packed)):
        summary = train(config, dataset=tmp_path / "shards", out=tmp_path / name)
        assert summary.samples_seen == 6
        lines = (tmp_path / name / "loss.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)
    assert curves[0][-1] < curves[0][0]
