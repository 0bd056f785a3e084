"""Packed samples teach what padded ones teach, and none sees another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, pad

from nsdrive.dataset import open_dataset
from nsdrive.vla.data.batch import collate, model_inputs
from nsdrive.vla.data.encoding import IGNORED, Encoded, encode
from nsdrive.vla.data.positions import token_positions
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.model import load_model, load_processor
from nsdrive.vla.tiny import ARCHITECTURES, build_tiny
from nsdrive.vla.training import linear_attention
from nsdrive.vla.training.linear_attention import ready_linear_attention, segment_of_each
from nsdrive.vla.training.losses import only_rows
from nsdrive.vla.training.patch_embedding import ready_patch_embedding

OTHERS = [pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHITECTURES if arch != "qwen3_5"]


@pytest.fixture(scope="module", params=["qwen3_5", *OTHERS])
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny model and its processor."""
    folder = tmp_path_factory.mktemp("packing") / request.param
    build_tiny(folder, arch=request.param)
    return load_model(folder), load_processor(folder, min_pixels=1024, max_pixels=4096)


@pytest.fixture(scope="module")
def rows(dataset: Path) -> Rows:
    return Rows(open_dataset(dataset), "train")


def items_of(processor: Any, rows: Rows) -> list[Encoded]:
    """Three of unequal lengths, the second without an image."""
    blind = replace(rows[1], images=(), prompt=rows[1].prompt.replace("<image>", "nothing"))
    longer = replace(rows[2], prompt="Look well. " + rows[2].prompt)
    return [encode(processor, row, with_answer=True) for row in (rows[0], blind, longer)]


def loss_of(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    targets = pad(labels[:, 1:], (0, 1), value=IGNORED)
    said = targets != IGNORED
    with only_rows(model, said):
        logits = model(**inputs, use_cache=False).logits
    return cross_entropy(logits.float(), targets[said], reduction="sum")


def loss_and_gradients(model: Any, batch: dict[str, Any], processor: Any) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = loss_of(model, model_inputs(batch, processor), batch["labels"])
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def test_packed_and_padded_samples_give_the_same_loss_and_gradients(one: tuple[Any, Any], rows: Rows) -> None:
    model, processor = one
    items = items_of(processor, rows)
    assert len({len(item.input_ids) for item in items}) == 3
    n_linear = ready_linear_attention(model)
    assert (n_linear > 0) == (model.config.model_type == "qwen3_5")
    loss, gradients = loss_and_gradients(model, collate(items, processor), processor)
    packed = collate(items, processor, packed=True)
    packed_loss, packed_gradients = loss_and_gradients(model, packed, processor)
    assert "attention_mask" not in packed
    assert packed["input_ids"].shape == (1, sum(len(item.input_ids) for item in items))
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert (packed_gradients - gradients).norm() < 1e-5 * gradients.norm()


def test_no_sample_sees_another_and_without_the_borders_it_would(one: tuple[Any, Any], rows: Rows) -> None:
    """The leak is silent: every number is finite, and the loss of an untrained model hardly changes."""
    model, processor = one
    items = items_of(processor, rows)
    n = len(items[-1].input_ids)

    def last_of(model: Any, batch: dict[str, Any], **without: None) -> torch.Tensor:
        inputs = {name: value for name, value in model_inputs(batch, processor).items() if name not in without}
        with torch.inference_mode():
            return model(**inputs, use_cache=False).logits[0, -n:]

    packed, single = collate(items, processor, packed=True), collate(items[-1:], processor, packed=True)
    linear = model.config.model_type == "qwen3_5"
    ready_linear_attention(model)
    alone = last_of(model, single)
    assert (last_of(model, packed) - alone).abs().max() < 1e-5
    borders = dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"))
    leaked = (last_of(model, packed, **borders) - alone).abs().max()
    assert leaked > 1e-2 if linear else leaked < 1e-5  # attention has the borders from position_ids too


def test_a_model_made_ready_for_training_answers_and_learns_as_transformers_one_does(
    one: tuple[Any, Any], rows: Rows
) -> None:
    """Decays as strong as those that a checkpoint may have, so that what is forgotten counts for nothing."""
    prepared, processor = one
    model = type(prepared)(prepared.config)  # stock, whatever was done to the other
    for layer in (part for name, part in model.named_modules() if name.endswith(".linear_attn")):
        torch.nn.init.uniform_(layer.A_log, -6, 4)
    batch = collate(items_of(processor, rows)[:1], processor)
    loss, gradients = loss_and_gradients(model, batch, processor)
    ready_linear_attention(model)
    assert ready_patch_embedding(model) == 1
    ready_loss, ready_gradients = loss_and_gradients(model, batch, processor)
    assert ready_loss == pytest.approx(loss, rel=1e-6)
    assert (ready_gradients - gradients).norm() < 1e-5 * gradients.norm()


def test_unprepared_a_model_with_linear_attention_refuses_a_packed_row(tiny_folder: Path, rows: Rows) -> None:
    model, processor = load_model(tiny_folder), load_processor(tiny_folder, min_pixels=1024, max_pixels=4096)
    with pytest.raises(ValueError, match="can't keep packed sequences apart"):
        model(**model_inputs(collate(items_of(processor, rows), processor, packed=True), processor), use_cache=False)


def test_a_packed_row_without_images_reaches_the_vision_tower_and_changes_nothing(
    one: tuple[Any, Any], rows: Rows
) -> None:
    model, processor = one
    ready_linear_attention(model)
    blind = items_of(processor, rows)[1]
    packed = collate([blind, blind], processor, packed=True)
    model.zero_grad()
    logits = model(**model_inputs(packed, processor), use_cache=False).logits
    logits[packed["labels"] != IGNORED].sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "visual" in name)
    with torch.inference_mode():
        alone = model(input_ids=blind.input_ids[None]).logits[0]
    n = len(blind.input_ids)
    assert torch.allclose(logits[0, :n], alone, atol=1e-5)
    assert torch.allclose(logits[0, n : 2 * n], alone, atol=1e-5)


def test_tokens_stand_where_the_model_itself_would_place_them(one: tuple[Any, Any], rows: Rows) -> None:
    model, processor = one
    for item in items_of(processor, rows):
        batch = collate([item], processor, for_generation=True)
        expected, _ = model.model.get_rope_index(
            batch["input_ids"], mm_token_type_ids=batch["mm_token_type_ids"], image_grid_thw=batch.get("image_grid_thw")
        )
        ours = token_positions(item.input_ids, item.grid, image_token_id=processor.image_token_id, merge_size=2)
        assert torch.equal(ours, expected[:, 0])


def test_a_row_s_prompts_end_where_it_says(tiny_folder: Path, rows: Rows) -> None:
    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=4096)
    items = items_of(processor, rows)
    packed = collate(items, processor, packed=True)
    for (row, at), item in zip(packed["read_at"].tolist(), items, strict=True):
        assert row == 0
        prompt = item.input_ids[: item.last_prompt + 1]
        assert torch.equal(packed["input_ids"][0, at + 1 - len(prompt) : at + 1], prompt)
        assert packed["parts"][0, at].item() == 0
        assert packed["parts"][0, at + 1].item() != 0


def test_plain_linear_attention_gives_transformers_numbers_and_gradients(tiny_folder: Path, rows: Rows) -> None:
    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=4096)
    batch = collate(items_of(processor, rows), processor)
    model = load_model(tiny_folder)
    loss, gradients = loss_and_gradients(model, batch, processor)
    assert ready_linear_attention(model) == 3
    our_loss, our_gradients = loss_and_gradients(model, batch, processor)
    assert our_loss == pytest.approx(loss, rel=1e-6)
    assert (our_gradients - gradients).norm() < 1e-5 * gradients.norm()


def test_the_fast_kernels_are_told_the_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA with the kernels the layer is called once, each token's segment beside the borders."""
    assert segment_of_each(torch.tensor([0, 2, 3, 6]), 6).tolist() == [0, 0, 1, 2, 2, 2]
    monkeypatch.setattr(linear_attention, "KERNELS", ("json",))  # one that every Python has
    calls: list[dict[str, Any]] = []

    class OnCuda:
        is_cuda, shape = True, (1, 3, 8)

    class Layer:
        def forward(self, hidden_states: Any, **kwargs: Any) -> Any:
            calls.append(kwargs)
            return hidden_states

    ready = linear_attention._Ready(Layer())
    ready(OnCuda(), cu_seq_lens_q=torch.tensor([0, 1, 3]))  # type: ignore[arg-type]
    assert len(calls) == 1
    assert calls[0]["seq_idx"].tolist() == [[0, 1, 1]]
    assert calls[0]["cu_seq_lens_q"].tolist() == [0, 1, 3]
    ready(OnCuda())  # type: ignore[arg-type]
    assert "seq_idx" not in calls[1]
