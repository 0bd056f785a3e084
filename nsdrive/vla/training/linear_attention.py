"""Qwen3.5's linear-attention layers, made ready for training: packed samples kept apart, and faster without their kernels.

    ready_linear_attention(model)                       # once, before training
    model(**model_inputs(collate(items, processor, packed=True), processor))

Attention layers learn from `position_ids` or `cu_seq_lens_q` where a packed sample begins. Linear-attention layers (a short
convolution and a recurrence over the row) need it said to each of their two kernels, else a sample quietly reads the one
before it. On CUDA both kernels take it: flash-linear-attention as `cu_seqlens`, causal-conv1d as `seq_idx`. Without them
`delta_rule` computes the layer, once for each sample.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from nsdrive.vla.model import LINEAR_KERNELS
from nsdrive.vla.training.delta_rule import linear_attention

KERNELS = tuple(LINEAR_KERNELS)


def ready_linear_attention(model: Any) -> int:
    """Returns how many such layers the model has: 0 for Qwen3-VL and Qwen2.5-VL, which need nothing.

    Only this model's own layers change, not the library. What goes on from a cache, or has a mask, is transformers' as before.
    """
    layers = [module for name, module in model.named_modules() if name.endswith(".linear_attn")]
    for layer in layers:
        if not isinstance(layer.forward, _Ready):
            layer.forward = _Ready(layer)
    return len(layers)


class _Ready:
    """A linear-attention layer's forward."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._forward = layer, layer.forward
        self._has_kernels = all(importlib.util.find_spec(name) for name in KERNELS)

    def __call__(
        self, hidden_states: torch.Tensor, cache_params: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """hidden_states (1, L, H) where cu_seq_lens_q (segments + 1,) is given, else (B, L, H)."""
        ends = kwargs.get("cu_seq_lens_q")
        if cache_params is not None or attention_mask is not None or (hidden_states.is_cuda and self._has_kernels):
            if ends is not None:
                kwargs["seq_idx"] = segment_of_each(ends, hidden_states.shape[1])[None]
            return self._forward(hidden_states, cache_params=cache_params, attention_mask=attention_mask, **kwargs)
        if ends is None:
            return linear_attention(self._layer, hidden_states)
        segments = hidden_states.split(ends.diff().tolist(), dim=1)
        return torch.cat([linear_attention(self._layer, segment) for segment in segments], dim=1)


def segment_of_each(ends: torch.Tensor, length: int) -> torch.Tensor:
    """(length,) int32: the number of the segment that each token is in; ends (segments + 1,) from 0 to length."""
    numbers = torch.arange(len(ends) - 1, dtype=torch.int32, device=ends.device)
    return numbers.repeat_interleave(ends.diff().long(), output_size=length)  # known, so that no GPU is waited for
