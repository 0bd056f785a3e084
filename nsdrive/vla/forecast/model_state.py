"""What a model's weights, gradients and optimiser take on one GPU, and the buffers through which processes exchange them.

    model_state(parameters, deepspeed=deepspeed_config("zero2"), processes=8)     # ModelState: bytes by part

AdamW keeps two numbers per trained weight. Without DeepSpeed every process has everything, in the weights' own type. With it
the model is in bfloat16, and ZeRO divides what lies beside it by the processes: stage 1 the optimiser with its fp32 copy of
the weights, stage 2 the gradients too, stage 3 the weights too (2, 2 and 12 bytes a parameter; Rajbhandari et al., 1910.02054).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BF16, FP32 = 2, 4
DEFAULT_BUCKET = 500_000_000  # numbers; DeepSpeed's reduce_bucket_size and allgather_bucket_size
DEFAULT_LIVE = 1_000_000_000  # numbers; DeepSpeed's stage3_max_live_parameters


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A weight as it is made before training: how many numbers, how many bytes each takes, whether it is trained."""

    numbers: int
    itemsize: int
    is_trained: bool


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """Bytes on one GPU. step: only while the optimiser steps, when no activations are there. host: on the CPU, per process."""

    weights: int
    gradients: int
    optimiser: int
    communication: int
    step: int
    host: int


def model_state(
    parameters: Sequence[Parameter], *, deepspeed: dict[str, Any] | None, bf16: bool, processes: int
) -> ModelState:
    """deepspeed: its settings as a JSON has them, or None. processes: one per GPU."""
    if deepspeed is None:
        return _everywhere(parameters, processes)
    return _zero(parameters, deepspeed, FP32 if not bf16 else BF16, processes)


def _everywhere(parameters: Sequence[Parameter], processes: int) -> ModelState:
    """All on every GPU; with several processes torch's DistributedDataParallel has a second copy of the gradients."""
    trained = sum(p.numbers * p.itemsize for p in parameters if p.is_trained)
    return ModelState(
        weights=sum(p.numbers * p.itemsize for p in parameters),
        gradients=trained,
        optimiser=2 * trained,
        communication=trained if processes > 1 else 0,
        step=0,
        host=0,
    )


def _zero(parameters: Sequence[Parameter], deepspeed: dict[str, Any], itemsize: int, processes: int) -> ModelState:
    zero = deepspeed.get("zero_optimization", {})
    stage = int(zero.get("stage", 0))
    total = sum(p.numbers for p in parameters)
    trained = sum(p.numbers for p in parameters if p.is_trained)
    share = -(-trained // processes) if stage >= 1 else trained
    weights = total * itemsize
    gradients = (share if stage >= 2 else trained) * itemsize
    optimiser = 3 * FP32 * share  # the fp32 copy, and AdamW's two numbers
    step = FP32 * share  # the gradients in fp32
    bucket = min(int(zero.get("reduce_bucket_size", DEFAULT_BUCKET)), trained) * itemsize
    buckets = bucket * (2 if zero.get("overlap_comm") else 1)
    gathered = min(int(zero.get("allgather_bucket_size", DEFAULT_BUCKET)), trained) * itemsize
    communication, host = buckets if processes > 1 or stage >= 2 else 0, 0
    if stage in (1, 2):
        step += gathered
    if stage == 3:
        live = min(int(zero.get("stage3_max_live_parameters", DEFAULT_LIVE)), total) * itemsize
        weights = -(-total // processes) * itemsize + live
        if _is_on_host(zero, "offload_param"):
            weights, host = live, -(-total // processes) * itemsize
    if _is_on_host(zero, "offload_optimizer"):
        host += optimiser + FP32 * share  # AdamW runs on the CPU, with the gradients there
        optimiser, step = 0, gathered if stage < 3 else 0
        gradients = gradients if stage < 2 else 0
    return ModelState(
        weights=weights, gradients=gradients, optimiser=optimiser, communication=communication, step=step, host=host
    )


def _is_on_host(zero: dict[str, Any], part: str) -> bool:
    return (zero.get(part) or {}).get("device", "none") == "cpu"
