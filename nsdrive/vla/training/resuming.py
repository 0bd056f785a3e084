"""Going on from a checkpoint, also with another number of processes: the global batch stays, its split adapts."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.counted import counted
from nsdrive.vla.training.checkpoints import forget_universal, read_note
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.processes import is_first_process
from nsdrive.vla.training.trainer import AnswerTrainer

PARALLEL_FROM_BYTES = 1 << 30  # chosen by us: below, starting worker processes takes longer than the conversion


def split_global_batch(config: TrainConfig, whole: int, *, processes: int) -> TrainConfig:
    """`config` with the batch per process and the accumulation that give the run's global batch, of `whole` samples.

    The loss is a mean over the global batch's tokens, so that a run goes on as before however the batch is split.
    """
    if config.per_device_batch_size * config.gradient_accumulation_steps * processes == whole:
        return config
    check_global_batch(whole, processes=processes)
    share = whole // processes
    size = max(n for n in range(1, config.per_device_batch_size + 1) if share % n == 0)
    if is_first_process():
        split = f"{counted(processes, 'process', 'processes')} x {counted(size, 'sample')} at once x {share // size}"
        print(f"The run keeps its global batch of {counted(whole, 'sample')}: {split}", file=sys.stderr, flush=True)
    return replace(config, per_device_batch_size=size, gradient_accumulation_steps=share // size)


def check_global_batch(whole: int, *, processes: int) -> None:
    """ValueError, with the counts that fit, where so many processes cannot share a global batch of `whole` samples."""
    if whole % processes:
        fit = ", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0)
        raise ValueError(
            f"The run's global batch of {counted(whole, 'sample')} cannot be shared by "
            f"{counted(processes, 'process', 'processes')}. Resume with {fit}"
        )


def needs_conversion(checkpoint: Path, *, processes: int) -> bool:
    """Whether DeepSpeed's parts in it were made for another number of processes."""
    return bool(read_note(checkpoint)["processes"] != processes) and _parts(checkpoint) is not None


def convert_to_universal(checkpoint: Path) -> None:
    """Rewrite DeepSpeed's parts so that any number of processes can load them; one process calls this, before the group.

    Takes as much disk as the parts once more, until `forget_universal`.
    """
    from deepspeed.checkpoint import ds_to_universal

    forget_universal(checkpoint)
    parts = _parts(checkpoint)
    assert parts is not None
    size = sum(path.stat().st_size for path in parts.iterdir())
    workers = min(8, os.cpu_count() or 1) if size > PARALLEL_FROM_BYTES else 1
    task = argparse.Namespace(
        input_folder=str(parts),
        output_folder=f"{parts}_universal",
        num_extract_workers=workers,
        num_merge_workers=workers,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # ZeRO-1 and 2 write none; the run has no tensor parallelism that it would describe
    )
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ds_to_universal.main(task)


class UniversalMended(TrainerCallback):
    """Sets right what DeepSpeed 0.19 gets wrong when ZeRO-3 loads a universal checkpoint, before the first step.

    All groups of weights (with and without decay, the vision tower's) then share one count of steps, which each of them raises,
    so that Adam's bias correction is that of two or four times as many steps; and all have the first group's decay and rate.
    """

    def __init__(self, trainer: AnswerTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **having: Any
    ) -> None:
        optimizer = having["optimizer"]
        while hasattr(optimizer, "optimizer"):  # accelerate's around DeepSpeed's around torch's
            optimizer = optimizer.optimizer
        for of_weight in optimizer.state.values():
            if isinstance(of_weight.get("step"), torch.Tensor):
                of_weight["step"] = of_weight["step"].clone()
        rates = having["lr_scheduler"].get_last_lr()
        for group, decay, rate in zip(optimizer.param_groups, self._trainer.weight_decays, rates, strict=True):
            group["weight_decay"], group["lr"] = decay, rate


def _parts(checkpoint: Path) -> Path | None:
    found = [path for path in checkpoint.glob("global_step*") if not path.name.endswith("_universal")]
    return found[0] if found else None
