"""The trajectory head, trained on alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from nsdrive.dataset import open_dataset
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.head_alone import finish_head
from nsdrive.vla.trajectory_head import HeadShape, TrajectoryHead, load_head, save_head


@pytest.fixture
def with_head(model: Path, tmp_path: Path) -> Path:
    """A model whose head has learned nothing yet."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    torch.manual_seed(0)
    save_head(TrajectoryHead(HeadShape(kind="regression", hidden=128, width=32, image_tokens=6)), folder)
    return folder


def test_only_the_head_changes_and_its_best_pass_is_kept(with_head: Path, dataset: Path) -> None:
    before = {path: path.read_bytes() for path in with_head.rglob("*") if path.is_file()}
    rows = Rows(open_dataset(dataset), "train")
    said = finish_head(with_head, rows, samples=12, epochs=3, learning_rate=1e-3)
    assert [row["epoch"] for row in said] == [0, 1, 2, 3]
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    best = min(range(4), key=lambda k: said[k]["held_out_ade_m"])
    assert changed == ({"head.safetensors"} if best else set())
    again = finish_head(with_head, rows, samples=12, epochs=0)
    assert again[0]["held_out_ade_m"] == pytest.approx(said[best]["held_out_ade_m"]), (
        "what is kept is as good as it said"
    )


def test_a_model_without_a_head_and_a_run_without_one_are_told(model: Path, dataset: Path) -> None:
    assert load_head(model) is None
    with pytest.raises(ValueError, match="has no trajectory head that could learn on"):
        finish_head(model, Rows(open_dataset(dataset), "train"), samples=4, epochs=1)
    with pytest.raises(ValueError, match="head_epochs trains a trajectory head"):
        TrainConfig(head_epochs=2)
