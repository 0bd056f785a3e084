"""What can be wrong with a run, said in one line before minutes are lost: samples, rig, GPUs, memory.

check_before_start(config, source, rows, processor, processes=8)      # after the processor, before the weights
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from nsdrive.counted import counted
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.data.images import ImageShape
from nsdrive.vla.data.rows import evenly_spread
from nsdrive.vla.forecast.sample_size import sample_size
from nsdrive.vla.question_form import require_same_rig
from nsdrive.vla.training.config import TrainConfig

ROWS_READ, ROWS_ENCODED = 64, 2  # chosen by us: a missing folder shows in the first, a bad chat template in one; < 1 s


def check_before_start(
    config: TrainConfig, source: str, rows: Any, processor: Any, *, processes: int, say: bool = True
) -> Any:
    """The forecast (None on a CPU), printed if `say`; ValueError in one line for what cannot be trained."""
    check_rows(rows, processor)
    if config.trajectory_head != "none":
        check_waypoints(rows)
    require_same_rig(source, rows.raw(0), what="the dataset")
    if not torch.cuda.is_available():
        if say:
            shape = ImageShape.of(processor.image_processor)
            told_size = sample_size(rows, shape=shape, tokenizer=processor.tokenizer)
            print(f"tokens per sample: {told_size}", file=sys.stderr)
        return None
    check_gpus(torch.cuda.device_count())
    from nsdrive.vla.forecast.forecast import forecast, require_memory

    told = forecast(config, None, processes=processes, source=source, rows=rows)
    if say:
        print(told, file=sys.stderr)
    require_memory(told, config)
    return told


def check_rows(rows: Any, processor: Any) -> None:
    """The first rows and some further on: their images must be there, and two must become tokens."""
    for number, k in enumerate(evenly_spread(len(rows), ROWS_READ)):
        row = rows[k]
        for image in row.images:
            if isinstance(image, Path) and not image.is_file():
                raise ValueError(
                    f"Sample {row.sample_id}: the image {image.name} is not there: the dataset's folder is not whole"
                )
        if number < ROWS_ENCODED:
            encode(processor, row, with_answer=True)


def check_waypoints(rows: Any) -> None:
    """Some of the same rows must say where the ego went: a trajectory head learns from nothing else."""
    if all(rows[k].waypoints_ego_m is None for k in evenly_spread(len(rows), ROWS_READ)):
        raise ValueError("These samples have no waypoints for a trajectory head to learn: set trajectory_head=none")


def check_gpus(n_gpus: int) -> None:
    """One process per GPU: more were started than this machine has."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > n_gpus:
        raise ValueError(
            f"{here} processes were started on a machine with {counted(n_gpus, 'GPU')}: "
            f"--nproc_per_node {n_gpus}, and gradient_accumulation_steps higher for the same global batch"
        )
