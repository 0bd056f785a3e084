"""The processes of one training, and how they wait for each other."""

from __future__ import annotations

import torch
import torch.distributed


def wait_for_all() -> None:
    """Until every process has come here; nothing where there is only one."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
