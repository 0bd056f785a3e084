"""The processes of one training: how they find each other, agree, wait for each other, and end together.

    with process_group(deepspeed=True, timeout_minutes=30):
        by_the_first("model", make_it)
        everyone_stops = agree_on_greatest(1 if asked_to_stop else 0) > 0

torchrun, deepspeed or srun start the processes and set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. What
the processes tell each other outside the training itself goes over a side group on the CPUs (gloo): it stalls no GPU, and
it can name a process that does not come.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed

from nsdrive.vla.training.lost_processes import Roll, failures_told

T = TypeVar("T")

_side: Any = None  # the side group while there is one; torch keeps its process groups per Python process too
_roll: Roll | None = None  # likewise


@contextmanager
def process_group(*, deepspeed: bool, timeout_minutes: float) -> Iterator[None]:
    """The processes' groups, and what torchrun sets for a plain `python` that trains with DeepSpeed; cleaned up after.

    A process that does not come to a common step within `timeout_minutes` counts as lost. Where one is lost or fails, the
    others end too: ConnectionError names it, once.
    """
    global _side, _roll
    alone, before = "RANK" not in os.environ, dict(os.environ)
    if deepspeed and alone:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port())
        )
    if deepspeed:
        import_deepspeed()
    timeout = timedelta(minutes=timeout_minutes)
    try:
        if process_count() > 1:
            _roll = _begin(timeout)
            _side = torch.distributed.new_group(backend="gloo", timeout=timeout)
        with warnings.catch_warnings(), failures_told(_roll):
            # DeepSpeed 0.19 calls what torch 2.13 renames: a line of it per process and step would hide ours
            warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
            yield
        _destroy_groups()  # not after a failure: NCCL's would wait for those who are lost
    finally:
        if _roll is not None:
            _roll.close()
        _side = _roll = None
        _forget_the_libraries_state()
        if alone:
            _destroy_groups()
        for name in os.environ.keys() - before.keys():  # transformers and accelerate leave theirs, which would rule the
            del os.environ[name]  # next training in this process
        os.environ.update(before)


def process_count() -> int:
    """How many train together, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Of all nodes: the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def by_the_first(name: str, work: Callable[[], None]) -> None:
    """Have `work` done by the first process, and by all others waited for, as long as it takes and it lives.

    Not in a collective, which would time out, and would keep a GPU busy with waiting. name: of this work, once a training.
    """
    if is_first_process():
        work()
    if _roll is not None:
        if is_first_process():
            _roll.note_done(name)
        else:
            _roll.wait_for(name)
        wait_for_all()  # before the first process may end, who in most launchers keeps the store


@contextmanager
def cores_of_all() -> Iterator[None]:
    """For what one process computes on the CPU while the machine's others wait: with their cores too."""
    own = torch.get_num_threads()
    if not torch.cuda.is_available():
        torch.set_num_threads(own * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(own)


def wait_for_all() -> None:
    """Until every process has come here; nothing where there is only one. Names, on the first, those that do not come."""
    if _side is not None:
        torch.distributed.monitored_barrier(group=_side, wait_all_ranks=True)


def agree_on_greatest(number: int) -> int:
    """The greatest of the processes' numbers, the same on every one."""
    if _side is None:
        return number
    numbers = torch.tensor([number])
    torch.distributed.all_reduce(numbers, op=torch.distributed.ReduceOp.MAX, group=_side)
    return int(numbers)


def gather(mine: T) -> list[T]:
    """Every process's, by rank, on every one."""
    if _side is None:
        return [mine]
    found: list[Any] = [None] * process_count()
    torch.distributed.all_gather_object(found, mine, group=_side)
    return found


def import_deepspeed() -> None:
    """DeepSpeed without what costs a start its time and is not needed here."""
    import deepspeed.ops

    if not torch.cuda.is_available():  # CPUs talk by gloo: DeepSpeed's own kernels would first be compiled (20 s, a
        deepspeed.ops.__compatible_ops__ = {}  # C++ compiler). This table of them is else filled by calling compilers
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # its Muon optimiser, which it looks at, would import torch's compiler
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    except ImportError:  # another version, which has none
        pass
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]
        if before is not None:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def _begin(timeout: timedelta) -> Roll:
    from torch.distributed.rendezvous import rendezvous

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=count, timeout=timeout
    )
    return Roll(store, rank=rank, count=count, timeout_s=timeout.total_seconds())


def _destroy_groups() -> None:
    """torch's groups, and what DeepSpeed remembers of them: else its next training would ask torch for a group that is gone."""
    if not torch.distributed.is_initialized():
        return
    deepspeed = sys.modules.get("deepspeed.comm.comm")
    if deepspeed is not None and deepspeed.cdb is not None:
        deepspeed.destroy_process_group()
    else:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _forget_the_libraries_state() -> None:
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
