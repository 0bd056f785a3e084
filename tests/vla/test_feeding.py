"""A training fed in other ways learns the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import FOUR_STEPS, data_with_short_answers, job, seen, start

from nsdrive.vla.data.shards import pack
from nsdrive.vla.train import train
from nsdrive.vla.training.logs import read_log

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


@pytest.mark.slow
def test_killed_in_the_midst_of_a_packed_epoch_it_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    pack(data_with_short_answers(tmp_path / "data", n_train=12), tmp_path / "shards", samples_per_shard=3)
    how = {
        "max_steps": 7,
        "workers": 1,
        "group_by_length": True,
    }  # an epoch is six steps of two; checkpoints at 2, 4, 6
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ended = start(
        job(how, tmp_path / "shards", whole),
        job(how, tmp_path / "shards", killed, kill_at=[0, 3]),
        job(how, tmp_path / "shards", killed, resume=True),
    )
    assert [one.statuses for one in ended] == [[0], [-9], [0]], [one.said for one in ended]
    assert seen(killed, processes=1) == seen(whole, processes=1)
    losses = [[row["loss"] for row in read_log(out / "loss.jsonl")] for out in (whole, killed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 7
