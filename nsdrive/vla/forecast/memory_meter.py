"""Counts the bytes of tensors that are alive, and the most that ever were: what torch.cuda's counters say, without a GPU.

    with MemoryMeter() as meter:
        loss = model(**batch).loss
        meter.live_bytes            # of what was made inside and is still held: here, what the backward pass needs
        loss.backward()
    meter.peak_bytes

It works on fake tensors too (torch's FakeTensorMode), which have shapes and types but no memory: so a model of any size
can be metered on any machine. Memory that a kernel takes and gives back within itself is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryMeter(TorchDispatchMode):
    """Of all storages that operations made since it was entered: the bytes alive now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):  # what was there before, or comes from elsewhere, is not counted
            if isinstance(given, torch.Tensor):
                self._note(given, counted=False)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self._note(made, counted=True)
        return result

    def _note(self, tensor: torch.Tensor, *, counted: bool) -> None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # a tensor of another kind (sparse) has none
            return
        key = storage._cdata
        if key in self._seen:
            return
        n_bytes = storage.nbytes() if counted else 0

        def gone(_: Any) -> None:
            del self._seen[key]
            self.live_bytes -= n_bytes

        self._seen[key] = weakref.ref(storage, gone)
        self.live_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
