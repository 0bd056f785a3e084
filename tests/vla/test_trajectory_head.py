"""The head that says waypoints from a hidden state, and training with one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import FOUR_STEPS, data_with_short_answers
from transformers import AutoModelForImageTextToText

from nsdrive.dataset import open_dataset
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.model import load_model, load_processor
from nsdrive.vla.train import train
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.loss_log import TIMED
from nsdrive.vla.training.starting_model import starting_head
from nsdrive.vla.trajectory_head import (
    HeadShape,
    TrajectoryHead,
    constant_acceleration,
    load_head,
    read_head,
    save_head,
)

BRAKING = torch.tensor([[10.0, 0.0, -4.0, 0.0]])  # stands after 2.5 s and 12.5 m
UNKNOWN = torch.full((1, 4), torch.nan)


def logged(out: Path) -> list[dict[str, Any]]:
    return read_log(out / "loss.jsonl")


def make_head(kind: str) -> TrajectoryHead:
    torch.manual_seed(0)
    return TrajectoryHead(HeadShape(kind=kind, hidden=16, width=32))


def learn(head: TrajectoryHead, hidden: torch.Tensor, ego: torch.Tensor, true: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(steps):
        (head(hidden, ego, true) / len(hidden)).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_constant_acceleration_stands_when_it_has_braked_and_does_not_reverse() -> None:
    along, across = constant_acceleration(BRAKING)[0].T
    assert along[1] == pytest.approx(10.0 - 2.0)  # after 1 s
    assert along[4:].tolist() == pytest.approx([12.5] * 6)
    assert not across.any()
    assert not constant_acceleration(UNKNOWN).any()


@pytest.mark.parametrize("kind", ["regression", "flow"])
def test_a_head_that_has_learned_nothing_goes_on_as_the_ego_does(kind: str) -> None:
    hidden = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    ego = torch.cat([BRAKING, UNKNOWN])
    assert torch.equal(make_head(kind)(hidden, ego), constant_acceleration(ego))


@pytest.mark.parametrize("kind", ["regression", "flow"])
def test_a_head_learns_to_turn_by_what_the_hidden_state_says(kind: str) -> None:
    head = make_head(kind)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(64, 16, generator=generator)
    ego = torch.tensor([[8.0, 0.0, 0.0, 0.0]]).repeat(64, 1)
    true = constant_acceleration(ego)
    seconds = 0.5 * torch.arange(1, 11)
    true[..., 1] = torch.sign(hidden[:, :1]) * 0.1 * seconds**2  # left or right, as the first number says
    learn(head, hidden, ego, true, steps=60)
    error_m = (head(hidden, ego) - true).norm(dim=-1).mean()
    assert error_m < 0.5 * (constant_acceleration(ego) - true).norm(dim=-1).mean()


@pytest.mark.parametrize("kind", ["regression", "flow"])
def test_a_head_that_looks_learns_what_only_an_image_token_says(kind: str) -> None:
    torch.manual_seed(0)
    head = TrajectoryHead(HeadShape(kind=kind, hidden=16, width=32, image_tokens=6))
    hidden, ego = torch.zeros(64, 16), torch.tensor([[8.0, 0.0, 0.0, 0.0]]).repeat(64, 1)
    images = torch.randn(64, 6, 16, generator=torch.Generator().manual_seed(6))
    is_image = torch.ones(64, 6, dtype=torch.bool)
    true = constant_acceleration(ego)
    true[..., 1] = (
        torch.sign(images[:, 4, :1]) * 0.1 * (0.5 * torch.arange(1, 11)) ** 2
    )  # by the fifth token's first number
    looking = partial(head, images=images, is_image=is_image)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(100):
        (looking(hidden, ego, true) / 64).backward()
        optimizer.step()
        optimizer.zero_grad()
    error_m = (looking(hidden, ego) - true).norm(dim=-1).mean()
    assert error_m < 0.5 * (constant_acceleration(ego) - true).norm(dim=-1).mean()
    blind = partial(head, images=torch.zeros_like(images), is_image=is_image)
    assert (blind(hidden, ego) - true).norm(dim=-1).mean() > 1.5 * error_m


def test_a_head_says_the_same_of_a_sample_padded_on_either_side_or_packed() -> None:
    """Two samples of 5 and 3 tokens, the first two of each of images; `read_at` says where their prompts end."""
    torch.manual_seed(0)
    head = TrajectoryHead(HeadShape(kind="regression", hidden=16, width=32, image_tokens=2))
    torch.nn.init.normal_(head.layers[-1].weight)  # type: ignore[arg-type]
    long, short, none = torch.randn(5, 16), torch.randn(3, 16), torch.full((2, 16), 7.0)
    ways = {
        "right": ([[*long], [*short, *none]], [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]], [[0, 4], [1, 2]]),
        "left": ([[*long], [*none, *short]], [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], [[0, 4], [1, 4]]),
        "packed": ([[*long, *short]], [[1, 1, 0, 0, 0, 1, 1, 0]], [[0, 4], [0, 7]]),
    }
    said = {}
    for name, (rows, is_image, read_at) in ways.items():
        batch = {
            "read_at": torch.tensor(read_at),
            "ego_now": BRAKING.repeat(2, 1),
            "mm_token_type_ids": torch.tensor(is_image),
        }
        said[name] = read_head(head, torch.stack([torch.stack(row) for row in rows]), batch)
    assert torch.allclose(said["left"], said["right"], atol=1e-5)
    assert torch.allclose(said["packed"], said["right"], atol=1e-5)
    assert not torch.allclose(said["right"][0], said["right"][1], atol=1e-2)


def test_samples_without_waypoints_teach_nothing() -> None:
    head = make_head("regression")
    hidden = torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    ego, true = BRAKING.repeat(2, 1), torch.randn(2, 10, 2, generator=torch.Generator().manual_seed(4))
    half = true.clone()
    half[1] = torch.nan
    assert head(hidden, ego, half).item() == pytest.approx(head(hidden[:1], ego[:1], true[:1]).item())
    loss = head(hidden, ego, torch.full_like(true, torch.nan))
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["regression", "flow"])
def test_a_saved_head_says_what_it_said(kind: str, tmp_path: Path) -> None:
    head = make_head(kind)
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(5))
    ego = BRAKING.repeat(3, 1)
    learn(head, hidden, ego, torch.ones(3, 10, 2), steps=2)
    save_head(head, tmp_path)
    loaded = load_head(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded(hidden, ego), head(hidden, ego))
    assert load_head(tmp_path / "trajectory_head") is None, "a model without one has none"


def spoil_shape(folder: Path) -> None:
    path = folder / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden": 10**9}))


def spoil_weights(folder: Path) -> None:
    (folder / "head.safetensors").write_bytes(b"\x80\x04no pickle is opened")


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "head.safetensors")
    save_file({name: value for name, value in weights.items() if "norm" not in name}, folder / "head.safetensors")


@pytest.mark.parametrize("spoil", [spoil_shape, spoil_weights, drop_a_weight])
def test_a_strangers_broken_head_is_one_line(spoil: Any, tmp_path: Path) -> None:
    save_head(make_head("regression"), tmp_path)
    spoil(tmp_path / "trajectory_head")
    with pytest.raises(ValueError, match="no trajectory head that can be read") as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_head_trains_beside_the_text_is_resumed_exactly_and_leaves_a_stock_checkpoint(tmp_path: Path) -> None:
    data = data_with_short_answers(tmp_path / "data")
    config = replace(FOUR_STEPS, trajectory_head="regression", warmup_steps=0)
    whole, half = tmp_path / "whole", tmp_path / "half"
    train(config, dataset=data, out=whole)
    shutil.copytree(whole, half)
    for left in ("model", "checkpoints/checkpoint-4"):
        shutil.rmtree(half / left)
    (half / "train.json").unlink()
    train(config, dataset=data, out=half, resume=True)

    rows = [[{k: v for k, v in row.items() if k not in TIMED} for row in logged(out)] for out in (whole, half)]
    assert rows[0] == rows[1]
    assert rows[0][-1]["head_loss"] != rows[0][0]["head_loss"]
    first, second = (load_file(out / "model/trajectory_head/head.safetensors") for out in (whole, half))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["layers.4.weight"].any(), "it has left the zeros that it began with"

    keys = set(load_file(whole / "model/model.safetensors"))
    assert keys == set(load_file(whole / "base/model.safetensors"))
    _, told = AutoModelForImageTextToText.from_pretrained(whole / "model", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]

    model, processor = load_model(whole / "model"), load_processor(whole / "model")
    rows_of = Rows(open_dataset(data), "train")
    goes_on = starting_head(config, model, processor, str(whole / "model"), rows_of)
    assert all(torch.equal(value, first[name]) for name, value in goes_on.state_dict().items())
    new = starting_head(replace(config, head_looks=False), model, processor, str(whole / "model"), rows_of)
    assert new.look is None
    assert not new.layers[-1].weight.any(), "of another kind: a new one"
