"""What Qwen3.5's linear attention keeps when flash-linear-attention and causal-conv1d run it: for counting, not for running.

transformers' own code for the same, without these kernels, keeps several times more. Their memory was read from their
source (fla/ops/gated_delta_rule/chunk.py, causal_conv1d_interface.py) and is not measured here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CHUNK = 64  # flash-linear-attention's: it keeps a chunk x chunk triangle per head, and makes a state per chunk on the way back


class KernelsMemory(nn.Module):
    """Stands in for a Qwen3_5GatedDeltaNet with its own projections and norm; only what the kernels keep is made up."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        layer = self.layer
        batch, n = hidden_states.shape[:2]
        mixed, z = layer.in_proj_qkv(hidden_states), layer.in_proj_z(hidden_states)
        b, a = layer.in_proj_b(hidden_states), layer.in_proj_a(hidden_states)
        mixed = _Convolution.apply(mixed, layer.conv1d.weight)
        query, key, value = torch.split(mixed, [layer.key_dim, layer.key_dim, layer.value_dim], dim=-1)
        query, key = (x.reshape(batch, n, -1, layer.head_k_dim) for x in (query, key))
        value = value.reshape(batch, n, -1, layer.head_v_dim)
        decay = -layer.A_log.float().exp() * nn.functional.softplus(a.float() + layer.dt_bias)
        out = _DeltaRule.apply(query, key, value, decay, b.sigmoid())
        normed = layer.norm(out.reshape(-1, layer.head_v_dim), z.reshape(-1, layer.head_v_dim))
        return layer.out_proj(normed.reshape(batch, n, -1))


class _Convolution(torch.autograd.Function):
    """causal_conv1d_fn with its SiLU: keeps its input, and makes the rest again on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class _DeltaRule(torch.autograd.Function):
    """chunk_gated_delta_rule: keeps normalised queries and keys, values, gates and the solved triangle of each chunk."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, decay: Any, beta: Any) -> torch.Tensor:
        batch, n, heads, _ = value.shape
        triangle = value.new_empty(batch, n, heads, CHUNK)
        norms = [x.new_empty(x.shape[:-1], dtype=torch.float32) for x in (query, key)]
        kept = [x.new_empty(x.shape) for x in (query, key, value, decay)]
        ctx.save_for_backward(*kept, beta, triangle, *norms)
        return torch.empty_like(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        query, key, value, decay, beta = ctx.saved_tensors[:5]
        batch, n, heads, width = value.shape
        states = [
            value.new_empty(batch, -(-n // CHUNK), heads, key.shape[-1], width) for _ in range(2)
        ]  # and gradients'
        keys = [
            value.new_empty(batch, n, heads, key.shape[-1]) for _ in range(4)
        ]  # w, and what dq, dk, dw are summed in
        values = [torch.empty_like(value) for _ in range(3)]  # u, the corrected values, and their gradient
        del states, keys
        return (
            torch.empty_like(query),
            torch.empty_like(key),
            values[0],
            torch.empty_like(decay),
            torch.empty_like(beta),
        )
