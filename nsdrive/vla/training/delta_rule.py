"""Qwen3.5's linear attention in plain torch: for training where flash-linear-attention cannot run.

The gated delta rule (Yang et al., Gated Delta Networks, arXiv 2412.06464): each head keeps a matrix S and, for each token,

    S <- exp(g) S;   S <- S + k (beta (v - S^T k))^T;   out = S^T q

In chunks (section 3.3 there), so that all but the passing on of S is products of matrices over the whole sequence at once.
transformers' own plain version does the same sums chunk by chunk with writes into slices, whose gradients are each as large as
the whole sequence: several times the work of the sums themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import conv1d, pad, silu, softplus

CHUNK = 32  # tokens, chosen by us: near the heads' width, where the work within and between chunks is about equal
NORM_FLOOR = 1e-6  # flash-linear-attention's, and transformers'
# What is left of a token by then, 9e-14, is a millionth of float32's last digit; but the products of smaller shares and their
# gradients become denormal, and a CPU takes a hundred times as long for those.
FORGOTTEN = -30.0


def linear_attention(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """What transformers' Qwen3_5GatedDeltaNet `layer` gives for hidden_states (B, L, H) without padding before them, no cache."""
    n_rows, length, _ = hidden_states.shape
    mixed = layer.in_proj_qkv(hidden_states).transpose(1, 2)
    taps = layer.conv1d.weight
    mixed = conv1d(pad(mixed, (taps.shape[-1] - 1, 0)).to(taps.dtype), taps, layer.conv1d.bias, groups=taps.shape[0])
    mixed = silu(mixed.transpose(1, 2).contiguous()).to(hidden_states.dtype)
    query, key, value = mixed.split([layer.key_dim, layer.key_dim, layer.value_dim], dim=-1)
    decay = -layer.A_log.float().exp() * softplus(layer.in_proj_a(hidden_states).float() + layer.dt_bias)
    beta = layer.in_proj_b(hidden_states).sigmoid()
    with torch.autocast(hidden_states.device.type, enabled=False):  # in float32, as the kernels do
        out = gated_delta_rule(
            query.reshape(n_rows, length, layer.num_k_heads, layer.head_k_dim),
            key.reshape(n_rows, length, layer.num_k_heads, layer.head_k_dim),
            value.reshape(n_rows, length, layer.num_v_heads, layer.head_v_dim),
            decay,
            beta,
        ).to(hidden_states.dtype)
    gate = layer.in_proj_z(hidden_states)
    out = layer.norm(out.reshape(-1, layer.head_v_dim), gate.reshape(-1, layer.head_v_dim))
    return layer.out_proj(out.reshape(n_rows, length, -1))


def gated_delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """(B, L, V heads, D_v) in float32. query, key (B, L, K heads, D_k), not yet of length 1; value (B, L, V heads, D_v); decay, the
    g above (0 or less), and beta (B, L, V heads). Each key head serves as many value heads that follow one another.
    """
    n_rows, length, n_heads, width = value.shape
    each = n_heads // key.shape[2]
    query, key = (_of_length_one(x.float()).repeat_interleave(each, dim=2) for x in (query, key))
    query = query * query.shape[-1] ** -0.5

    def in_chunks(x: torch.Tensor) -> torch.Tensor:
        """(B, L, heads, D) -> (B * heads, chunks, CHUNK, D); the end filled with zeros, which change no state."""
        x = pad(x.float(), (0, 0, 0, 0, 0, -length % CHUNK)).transpose(1, 2)
        return x.reshape(n_rows * n_heads, -1, CHUNK, x.shape[-1])

    query, key, value = in_chunks(query), in_chunks(key), in_chunks(value)
    beta, since = in_chunks(beta[..., None]), in_chunks(decay[..., None]).cumsum(dim=2)  # since the chunk's begin
    # how much of what token j wrote is left at token i, for j <= i
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=value.device).tril()
    left = _what_is_left((since - since.transpose(2, 3)).masked_fill(~lower, -torch.inf))
    since_begin, to_end = _what_is_left(since), _what_is_left(since[:, :, -1:] - since)
    # the writes of a chunk, as if it began with S = 0, and what each takes from the S that it begins with
    weighted = key * beta
    system = (weighted @ key.transpose(2, 3) * left).tril(-1)
    wanted = torch.cat([value * beta, weighted * since_begin], dim=-1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    writes, takes = solved.split([width, key.shape[-1]], dim=-1)
    keeps = key * to_end
    state = value.new_zeros(len(value), key.shape[-1], width)
    begins, written = [], []
    for write, take, keep, fades in zip(
        writes.unbind(1),
        takes.unbind(1),
        keeps.transpose(2, 3).unbind(1),
        since_begin[:, :, -1:].unbind(1),
        strict=True,
    ):
        begins.append(state)
        written.append(torch.baddbmm(write, take, state, alpha=-1))
        state = torch.baddbmm(state * fades, keep, written[-1])
    out = (query * since_begin) @ torch.stack(begins, dim=1)
    out = out + (query @ key.transpose(2, 3) * left) @ torch.stack(written, dim=1)
    return out.reshape(n_rows, n_heads, -1, width)[:, :, :length].transpose(1, 2)


def _what_is_left(log_share: torch.Tensor) -> torch.Tensor:
    return log_share.masked_fill(log_share < FORGOTTEN, -torch.inf).exp()


def _of_length_one(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + NORM_FLOOR)
