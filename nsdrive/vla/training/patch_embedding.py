"""The vision tower's first layer as one product of matrices.

    ready_patch_embedding(model)          # once, before training

It is a convolution whose kernel is as large as its step: each patch is seen once, which is a linear layer. As a Conv3d it takes
ten times as long on a CPU, and on GPUs it has been slow in bf16 in several of torch's versions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear


def ready_patch_embedding(model: Any) -> int:
    """Returns how many such layers the model has. Only their forward changes: weights, names and hooks stay as they are."""
    layers: list[Any] = [
        one for one in model.modules() if isinstance(one, torch.nn.Conv3d) and one.kernel_size == one.stride
    ]
    for layer in layers:
        if not isinstance(layer.forward, _AsProduct):
            layer.forward = _AsProduct(layer)
    return len(layers)


class _AsProduct:
    """A Conv3d's forward for patches of its kernel's size."""

    def __init__(self, layer: torch.nn.Conv3d) -> None:
        self._layer = layer

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """(P, channels, frames, height, width), one kernel large -> (P, D, 1, 1, 1)."""
        embedded = linear(patches.flatten(1), self._layer.weight.flatten(1), self._layer.bias)
        return embedded[..., None, None, None]
