"""How much arithmetic a training step asks for, and what share of a GPU's best that is: the model FLOPs utilisation (MFU).

    costs = costs_of(model)                     # once: which weights a token meets, and how often
    costs.flops(work_of(micro_batches))         # of one step on one process, forward and backward

Counted as in PaLM (arXiv 2204.02311, appendix B): 6 FLOPs per weight and token (2 forward, 4 backward) and 12 x width x keys
per token and attention layer, of which a causal layer needs half (so counted by Megatron-LM and FlashAttention-2). Padding and
activations computed a second time are no model FLOPs. Differences that matter here: the output layer is computed for answer
tokens only; the vision tower runs on patches, its merger on 1 token of merge x merge patches; a frozen weight that gradients
pass through costs 4, one that they do not reach costs 2. Left out: Qwen3.5's delta rule and convolutions (1 % of the 4B).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nsdrive.vla.data.encoding import IGNORED

# Dense bf16 tensor-core FLOP/s by what CUDA calls the GPU, from NVIDIA's data sheets; the first name that fits counts
PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX A6000": 155e12,
    "RTX 4090": 165e12,
}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What some samples ask for. tokens: those that the model reads, pictures' too, no padding. squared_*: sums of the squares
    of each sample's tokens and of each picture's patches."""

    tokens: int = 0
    squared_tokens: int = 0
    answer_tokens: int = 0
    patches: int = 0
    squared_patches: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


def work_of(batches: Iterable[Mapping[str, Any]]) -> Work:
    """The work of micro-batches of `data.collate`, padded or packed."""
    total = Work()
    for batch in batches:
        lengths = batch["cu_seq_lens_q"].diff() if "cu_seq_lens_q" in batch else batch["attention_mask"].sum(dim=1)
        patches = batch["image_grid_thw"].prod(dim=1) if "image_grid_thw" in batch else torch.zeros(1, dtype=torch.long)
        lengths, patches = lengths.long(), patches.long()
        total += Work(
            tokens=int(lengths.sum()),
            squared_tokens=int(lengths.square().sum()),
            answer_tokens=int((batch["labels"] != IGNORED).sum()),
            patches=int(patches.sum()),
            squared_patches=int(patches.square().sum()),
        )
    return total


@dataclass(frozen=True, kw_only=True)
class Costs:
    """FLOPs of a model, forward and backward: per token of the text, per answer token, per patch, and per pair of them."""

    per_token: float
    per_answer_token: float
    per_patch: float
    per_squared_token: float
    per_squared_patch: float

    def flops(self, work: Work) -> float:
        return (
            self.per_token * work.tokens
            + self.per_answer_token * work.answer_tokens
            + self.per_patch * work.patches
            + self.per_squared_token * work.squared_tokens
            + self.per_squared_patch * work.squared_patches
        )


def costs_of(model: Any) -> Costs:
    """Of a Qwen-class model as it is about to train: which weights learn is looked at. Under ZeRO-3 sizes are in ds_numel."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    text, vision = inner.config.get_text_config(), inner.config.vision_config
    sizes: dict[str, float] = {"text": 0.0, "vision": 0.0, "merger": 0.0}
    weights = [
        (_place(name), getattr(p, "ds_numel", p.numel()), p.requires_grad) for name, p in inner.named_parameters()
    ]
    seen = any(trained for place, _, trained in weights if place in ("vision", "merger"))
    for place, count, trained in weights:
        if place in sizes:
            sizes[place] += count * (6 if trained else 4 if place == "text" or seen else 2)
    backward = 3.0 if seen else 1.0
    output = model.get_output_embeddings().weight
    layers = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    windowed, window = 0, 0
    if getattr(vision, "fullatt_block_indexes", None):
        windowed, window = (
            vision.depth - len(vision.fullatt_block_indexes),
            (vision.window_size // vision.patch_size) ** 2,
        )
    return Costs(
        per_token=sizes["text"],
        per_answer_token=(6.0 if output.requires_grad else 4.0) * text.vocab_size * text.hidden_size,
        per_patch=sizes["vision"]
        + sizes["merger"] / vision.spatial_merge_size**2
        + 4.0 * backward * windowed * window * vision.hidden_size,
        per_squared_token=6.0 * layers.count("full_attention") * width,
        per_squared_patch=4.0 * backward * (vision.depth - windowed) * vision.hidden_size,
    )


def peak_flops(device: torch.device) -> float | None:
    """The most bf16 FLOP/s that a GPU can do; None for a CPU and for a GPU that is not in PEAK_FLOPS."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def _place(name: str) -> str:
    if "trajectory_head" in name.split(".") or "embed_tokens" in name or "lm_head" in name or "pos_embed" in name:
        return "elsewhere"
    if ".visual." in name or name.startswith("visual."):
        return "merger" if "merger" in name else "vision"
    return "text"
