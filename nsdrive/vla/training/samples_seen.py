"""Which samples a training sees, and in which order: its drives, and with co_data the questions among them."""

from __future__ import annotations

from math import ceil
from typing import Any

from nsdrive.dataset import PERCEPTION
from nsdrive.vla.data.mixture import Mixture
from nsdrive.vla.data.schedule import Schedule, TrainingRows
from nsdrive.vla.data.shards import AnyRows, open_rows
from nsdrive.vla.training.config import TrainConfig


def schedule_of(
    config: TrainConfig, rows: TrainingRows, processor: Any, *, n_samples: int, global_batch: int
) -> Schedule | Mixture:
    """What a training of so many samples sees: the drives' schedule, with questions in every batch where there are co_data."""
    questions = questions_of(config)
    share = 0.0 if questions is None else config.co_share
    of_drives = max(1, global_batch - round(global_batch * share))
    drives = Schedule(
        rows,
        processor,
        n_samples=n_samples,
        seed=config.seed,
        group_by=of_drives if config.group_by_length else None,
    )
    if questions is None:
        return drives
    return Mixture(
        drives,
        Schedule(questions, processor, n_samples=n_samples, seed=config.seed),
        global_batch=global_batch,
        share=share,
        n_samples=n_samples,
        spread=config.packing,
    )


def questions_of(config: TrainConfig) -> AnyRows | None:
    """The questions that a training learns from beside its drives, packed or not; None where there are none. ValueError, or
    FileNotFoundError, in one line, where co_data is no such dataset."""
    if config.co_data is None:
        return None
    rows = open_rows(config.co_data, "train")
    if len(rows) == 0:
        raise ValueError(f"co_data {config.co_data} has no questions in its split 'train'")
    if rows[0].level != PERCEPTION:
        raise ValueError(
            f"co_data {config.co_data} holds drives, not questions about images: make one, nsdrive perceive"
        )
    return rows


def entries_of_epoch(config: TrainConfig, n_rows: int) -> int:
    """How many entries an epoch of the drives takes, with the questions among them."""
    return n_rows if config.co_data is None else ceil(n_rows / (1.0 - config.co_share))
