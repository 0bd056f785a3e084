"""What transformers' Trainer and DeepSpeed are told, from a TrainConfig."""

from __future__ import annotations

import json
import os
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nsdrive.config import config_folder, did_you_mean
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.loader_workers import start_method
from nsdrive.vla.training.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from transformers import TrainingArguments

# micro-batches each worker has ready, chosen by us: evens out images that take long, 25 MB a sample of 8 cameras
PREFETCHED = 4

GATHERS = "stage3_gather_16bit_weights_on_model_save"  # DeepSpeed's own default is not to


def training_arguments(
    config: TrainConfig, deepspeed: dict[str, Any] | None, *, n_rows: int, out: Path
) -> TrainingArguments:
    from transformers import TrainingArguments

    on_gpu = torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    global_batch = processes * config.per_device_batch_size * config.gradient_accumulation_steps
    bf16 = config.bf16 == "on" or (config.bf16 == "auto" and on_gpu)
    arguments = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        max_steps=config.max_steps or ceil(config.epochs * n_rows / global_batch),
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",  # on a CPU as fast as DeepSpeed's own and needs no compiler
        bf16=bf16,
        use_cpu=not on_gpu,
        deepspeed=deepspeed,
        ddp_backend="gloo" if processes > 1 and not on_gpu and not deepspeed else None,
        ddp_find_unused_parameters=False,
        **checkpointing(config.gradient_checkpointing),
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="sequential",  # Schedule is the order
        dataloader_num_workers=config.workers,
        dataloader_multiprocessing_context=start_method(config.workers),
        dataloader_prefetch_factor=PREFETCHED if config.workers else None,
        dataloader_persistent_workers=config.workers > 0,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=config.save_every_steps,
        logging_steps=config.log_every_steps,
        logging_nan_inf_filter=False,  # a NaN is an error here, not something to average away
        log_level="error",
        log_level_replica="error",
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs in one process would be nn.DataParallel: use torchrun
    return arguments


def checkpointing(on: bool) -> dict[str, Any]:
    """TrainingArguments' words for it, which transformers 5.23 renamed."""
    from transformers import TrainingArguments

    known = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: on, f"{name}_kwargs": {"use_reentrant": False} if on else None}


def deepspeed_config(name: str) -> dict[str, Any] | None:
    """The DeepSpeed JSON of "zero1", "zero2", "zero3" or a path, with what a run here needs; None for "none"."""
    if name == "none":
        return None
    folder = config_folder() / "deepspeed"
    known = {path.stem: path for path in folder.glob("*.json")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ValueError(
            f"No DeepSpeed config '{name}'. {did_you_mean(name, ['none', *known])}, or the path of a JSON file"
        )
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    for section in ("optimizer", "scheduler"):
        if section in settings:
            raise ValueError(f"{path} has a section '{section}': leave it out, TrainConfig sets it")
    settings.setdefault("gradient_clipping", "auto")  # DeepSpeed's own default is none
    settings.setdefault("bf16", {"enabled": "auto"})
    zero = settings.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.setdefault(GATHERS, True):
        raise ValueError(f"{path} has {GATHERS} false: the result would have no weights")
    return settings
