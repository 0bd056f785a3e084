"""Packed samples kept apart in linear-attention layers, on any machine.

    keep_packed_apart(model)                            # once, before training with TrainConfig.packing
    model(**model_inputs(collate(items, processor, packed=True), processor))

Attention layers learn from `position_ids` or `cu_seq_lens_q` where a sample begins. Qwen3.5's linear-attention layers (a short
convolution and a recurrence over the row) need it said to each of their two kernels, else a sample quietly reads the one
before it. On CUDA both kernels take it: flash-linear-attention as `cu_seqlens`, causal-conv1d as `seq_idx`. transformers'
fallback in plain torch takes neither, so there the layer is called once for each sample: the same numbers, no kernel needed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

KERNELS = ("fla", "causal_conv1d")


def keep_packed_apart(model: Any) -> int:
    """Make the model's linear-attention layers mind `cu_seq_lens_q`. Returns how many it has: 0 for Qwen3-VL and Qwen2.5-VL.

    Only this model's own layers change, not the library. Batches that are not packed go through as before.
    """
    layers = [module for name, module in model.named_modules() if name.endswith(".linear_attn")]
    for layer in layers:
        if not isinstance(layer.forward, _Apart):
            layer.forward = _Apart(layer.forward)
    return len(layers)


class _Apart:
    """A linear-attention layer's forward that is called with packed rows too."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self._has_kernels = all(importlib.util.find_spec(name) for name in KERNELS)

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """hidden_states (1, L, H) where cu_seq_lens_q (segments + 1,) is given, else (B, L, H)."""
        ends = kwargs.get("cu_seq_lens_q")
        if ends is None:
            return self._forward(hidden_states, *args, **kwargs)
        if hidden_states.is_cuda and self._has_kernels:
            kwargs["seq_idx"] = segment_of_each(ends)[None]
            return self._forward(hidden_states, *args, **kwargs)
        alone = {name: value for name, value in kwargs.items() if not name.startswith(("cu_seq_lens", "max_length"))}
        parts = hidden_states.split(ends.diff().tolist(), dim=1)
        return torch.cat([self._forward(part, *args, **alone) for part in parts], dim=1)


def segment_of_each(ends: torch.Tensor) -> torch.Tensor:
    """(L,) int32: the number of the segment that each token is in; ends (segments + 1,) begins with 0."""
    numbers = torch.arange(len(ends) - 1, dtype=torch.int32, device=ends.device)
    return numbers.repeat_interleave(ends.diff().long())
