"""The processes of one training: how they find each other, and how they wait for each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed


@contextmanager
def process_group(wants_deepspeed: bool) -> Iterator[None]:
    """What torchrun sets, for a plain `python` that trains with DeepSpeed in one process; cleaned up afterwards."""
    alone, before = "RANK" not in os.environ, dict(os.environ)
    if wants_deepspeed and alone:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if wants_deepspeed and not torch.cuda.is_available():
        _use_gloo()
    try:
        yield
    finally:
        from accelerate.state import AcceleratorState, GradientState
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        if alone and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in os.environ.keys() - before.keys():  # transformers and accelerate leave theirs, which would rule the
            del os.environ[name]  # next training in this process
        os.environ.update(before)


def _use_gloo() -> None:
    """Let CPU processes talk by gloo: DeepSpeed's shared-memory kernels would first be compiled (20 s, a C++ compiler)."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}  # its table of what can be compiled, else filled by calling compilers


def wait_for_all() -> None:
    """Until every process has come here; nothing where there is only one."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
