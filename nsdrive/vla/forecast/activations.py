"""What a training step keeps in memory besides the model's state: counted by running one layer of each kind on fake tensors.

    batch = Batch(tokens=2948, patches=8192, answer_tokens=500)
    pieces = measure_pieces(skeleton(config_of("Qwen/Qwen3.5-4B"), dtype=torch.bfloat16), batch, autocast=False)
    activations(pieces, batch, checkpointing=True)

The layers' own code is run, at their own width, under torch's FakeTensorMode, so that every cast and copy is counted and
no formula can go stale. A layer's memory is nearly a straight line in the count of tokens: two runs give it. What is not the same
on a GPU is replaced: Qwen3.5's delta rule by what flash-linear-attention keeps (from its description, not measured here).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nsdrive.vla.forecast.kernels_memory import KernelsMemory
from nsdrive.vla.forecast.memory_meter import MemoryMeter

CHUNK = 64  # of the delta rule: the runs' sizes are multiples of it
Probes = tuple[int, int]
SLOW_PROBES: Probes = (128, 256)  # transformers' own delta rule takes a step per chunk, on fake tensors too


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch's size. tokens: with padding, images and all; patches: of its images, 4 to a token."""

    tokens: int
    patches: int
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes. kept: for the backward pass when it begins; beyond: the most that comes on top at one time, and in what."""

    kept: int
    beyond: int
    beyond_in: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of the model; lines are (bytes at no unit, bytes a unit). beyond: of its backward pass, on top of kept.

    units: what its size is counted in, a field of `Batch`. entry: its input alone, which is all that gradient
    checkpointing keeps of a layer.
    """

    name: str
    units: str
    kept: tuple[float, float] = (0.0, 0.0)
    beyond: tuple[float, float] = (0.0, 0.0)
    entry: float = 0.0
    times: int = 1
    is_layer: bool = False


def measure_pieces(model: Any, batch: Batch, *, autocast: bool, fast_delta_rule: bool = True) -> list[Piece]:
    """The pieces of a `skeleton`, with those of its weights trainable that will be; a second or two.

    batch: near which sizes the lines shall be right: they go through it and half of it.

    autocast: weights in fp32, used in bfloat16 (torch.autocast); False: all in the weights' own type (DeepSpeed).
    fast_delta_rule: flash-linear-attention's kernels; False: transformers' own code, as on a CPU.
    """
    with FakeTensorMode():
        vision, vision_learns = _vision_pieces(model, _probes(batch.patches), autocast)
        sizes = _probes(batch.tokens) if fast_delta_rule else SLOW_PROBES
        text = _text_pieces(model, sizes, autocast, fast_delta_rule=fast_delta_rule, input_learns=vision_learns)
        return [*vision, *text, _answer_loss(model, _probes(batch.answer_tokens), autocast)]


def activations(pieces: list[Piece], batch: Batch, *, checkpointing: bool) -> Activations:
    """What a step on a micro-batch keeps, and the most that it takes on top."""
    kept, candidates = 0.0, []
    for piece in pieces:
        units = getattr(batch, piece.units)
        again = checkpointing and piece.is_layer  # what it keeps is made again, one layer at a time
        kept += piece.times * (piece.entry * units if again else _at(piece.kept, units))
        candidates.append((_at(piece.beyond, units) + (_at(piece.kept, units) if again else 0), piece.name))
    beyond, where = max(candidates)
    return Activations(kept=round(kept), beyond=round(beyond), beyond_in=where)


def skeleton(config: Any, *, dtype: torch.dtype) -> Any:
    """The model of a transformers config, its weights without memory or values: to count, not to run."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        # sdpa and flash attention keep the same: queries, keys, values, the result and a row's sum
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    return model.train()


# ---- the pieces ---------------------------------------------------------------------------------------------------


def _vision_pieces(model: Any, probes: Probes, autocast: bool) -> tuple[list[Piece], bool]:
    """The vision tower's, and whether a gradient flows out of it."""
    tower = inner_part(model, "visual")
    config, dtype = tower.config, _dtype(tower.blocks)
    width, head_dim = config.hidden_size, config.hidden_size // config.num_heads
    patch = getattr(config, "in_channels", 3) * config.temporal_patch_size * config.patch_size**2
    embed, merger, first = (_on_fake_cpu(part) for part in (tower.patch_embed, tower.merger, tower.blocks[0]))

    angles = {n: (torch.empty(n, head_dim), torch.empty(n, head_dim)) for n in probes}

    def block(h: torch.Tensor) -> torch.Tensor:
        ends = np.array([0, h.shape[0]])  # attention splits by these numbers: a fake tensor has none
        return first(h, cu_seqlens=ends, position_embeddings=angles[h.shape[0]])

    learns = _learns(tower.patch_embed) or _learns(getattr(tower, "pos_embed", None))
    pieces = []
    if learns:
        pieces.append(_measured("patch embedding", "patches", embed, patch, dtype, probes, autocast, needs_input=False))
    learns = learns or _learns(tower.blocks)
    if learns:
        n = len(tower.blocks)
        pieces.append(
            _measured("vision block", "patches", block, width, dtype, probes, autocast, times=n, is_layer=True)
        )
    mergers = [tower.merger, *getattr(tower, "deepstack_merger_list", [])]
    learns = learns or any(_learns(one) for one in mergers)
    if learns:
        pieces.append(_measured("merger", "patches", merger, width, dtype, probes, autocast, times=len(mergers)))
    return pieces, learns


def _text_pieces(
    model: Any, probes: Probes, autocast: bool, *, fast_delta_rule: bool, input_learns: bool
) -> list[Piece]:
    """The language model's. Its layers share the angles of rotary embedding, which are not counted."""
    text = inner_part(model, "language_model")
    width, dtype = text.config.hidden_size, _dtype(text.embed_tokens)
    if not (input_learns or _learns(text.embed_tokens) or _learns(text.layers)):
        return []
    rotary, pieces = _on_fake_cpu(text.rotary_emb), []
    angles = {n: rotary(torch.empty(1, dtype=dtype), torch.zeros(3, 1, n, dtype=torch.long)) for n in probes}
    named = getattr(text.config, "layer_types", None) or ["attention"] * len(text.layers)
    for kind in dict.fromkeys(named):
        layer = _on_fake_cpu(text.layers[named.index(kind)])
        if kind == "linear_attention" and fast_delta_rule:
            layer.linear_attn = KernelsMemory(layer.linear_attn)

        def run(h: torch.Tensor, layer: Any = layer) -> Any:
            out = layer(h[None], position_embeddings=angles[h.shape[0]], attention_mask=None)
            return out[0] if isinstance(out, tuple) else out

        name = f"{kind.removesuffix('_attention').replace('_', ' ')} attention layer".replace(
            "attention attention", "attention"
        )
        pieces.append(
            _measured(name, "tokens", run, width, dtype, probes, autocast, times=named.count(kind), is_layer=True)
        )
    return [*pieces, _measured("last norm", "tokens", _on_fake_cpu(text.norm), width, dtype, probes, autocast)]


def _answer_loss(model: Any, probes: Probes, autocast: bool) -> Piece:
    """The output layer and the loss, on the answer's tokens alone; the logits live only while the loss is made and undone."""
    head = _on_fake_cpu(_inner(model).lm_head)
    width, dtype = head.weight.shape[1], _dtype(head)
    most = []
    for n in probes:
        hidden = torch.empty(n, width, dtype=dtype).requires_grad_()
        targets = torch.zeros(n, dtype=torch.long)
        _give_gradients(head)
        with _autocast(autocast), MemoryMeter() as meter:
            logits = head(hidden)
            torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum").backward()
        most.append(meter.peak_bytes)
    row = (0.0, float(width * dtype.itemsize))  # a last hidden state
    return Piece(name="answer's logits and loss", units="answer_tokens", kept=row, beyond=_line(probes, most))


def _measured(
    name: str,
    units: str,
    run: Callable[[torch.Tensor], Any],
    width: int,
    dtype: torch.dtype,
    probes: Probes,
    autocast: bool,
    *,
    times: int = 1,
    is_layer: bool = False,
    needs_input: bool = True,
) -> Piece:
    """A piece run forward and back on two sizes of input (n, width). needs_input: a gradient goes further back."""
    kept, beyond = [], []
    for n in probes:
        leaf = torch.empty((), dtype=dtype).requires_grad_(needs_input)
        _give_gradients(getattr(run, "__self__", None) or run)
        with _autocast(autocast), MemoryMeter() as meter:
            # neither the input nor the result is held by us: they count only where the piece itself keeps them
            end = _End.apply(run(leaf.expand(n, width).clone()))
            kept.append(meter.live_bytes)
            meter.peak_bytes = meter.live_bytes
            end.backward()
            beyond.append(meter.peak_bytes - kept[-1])
    return Piece(
        name=name,
        units=units,
        kept=_line(probes, kept),
        beyond=_line(probes, beyond),
        entry=float(width * dtype.itemsize),
        times=times,
        is_layer=is_layer,
    )


class _End(torch.autograd.Function):
    """Goes on from a result without keeping it, and gives it a gradient."""

    @staticmethod
    def forward(ctx: Any, result: torch.Tensor) -> torch.Tensor:
        ctx.shape, ctx.dtype = result.shape, result.dtype
        return result.new_empty(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient.new_empty(ctx.shape, dtype=ctx.dtype)


def _autocast(enabled: bool) -> Any:
    """Entered anew for each run: what it casts it keeps until it is left, and would not cast a second time."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def _probes(units: int) -> Probes:
    larger = max(2, ceil(units / CHUNK)) * CHUNK
    return larger // 2 // CHUNK * CHUNK, larger


def _line(probes: Probes, found: list[int]) -> tuple[float, float]:
    slope = (found[1] - found[0]) / (probes[1] - probes[0])
    return max(0.0, found[0] - slope * probes[0]), slope


def _at(line: tuple[float, float], units: int) -> float:
    return line[0] + line[1] * units


# ---- the model's parts --------------------------------------------------------------------------------------------


def inner_part(model: Any, name: str) -> Any:
    """`visual` or `language_model` of a model, with LoRA around it or not."""
    return getattr(_inner(model).model, name)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _on_fake_cpu(module: Any) -> Any:
    """Its weights as fake tensors that say they are on the CPU: there torch.autocast acts on them."""
    return module._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cpu"))


def _learns(module: nn.Module | None) -> bool:
    return module is not None and any(p.requires_grad for p in module.parameters())


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _give_gradients(module: Any) -> None:
    """As after the first micro-batch: a gradient is there, so that the next one is added to it and then gone."""
    if isinstance(module, nn.Module):
        for p in module.parameters():
            if p.requires_grad:
                p.grad = torch.empty_like(p)
