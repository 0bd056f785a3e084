"""Fine-tune a Qwen-class model on a dataset: full or LoRA, in-process on one device or under torchrun / deepspeed.

    train(TrainConfig(max_steps=100), dataset=Path("out/data"), out=Path("out/run"), resume=False, overwrite=False)

    RUN/
        config.json       the resolved settings, and which dataset
        base/             the tiny model's start, where model = "tiny"
        loss.jsonl        step, loss, learning_rate, grad_norm, tokens, seconds
        checkpoints/      complete ones carry a complete.json; --resume goes on from the newest
        adapter/          with method = "lora"
        model/            the result: a stock checkpoint with its processor (LoRA merged in), and how it is to be asked
        train.json        written last: its presence means complete

A resumed run gives the same losses as an undisturbed one. Resuming reads the run's own optimiser state, which DeepSpeed
keeps as pickles: resume only runs that you made yourself.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nsdrive import __version__
from nsdrive.config import to_plain
from nsdrive.dataset import claim_folder, open_dataset, write_atomically
from nsdrive.progress import Progress
from nsdrive.vla.data.batch import Collator
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.data.schedule import Schedule
from nsdrive.vla.model import load_model, load_processor, model_type, quiet_libraries, require_fast_kernels
from nsdrive.vla.question_form import form_of
from nsdrive.vla.training.arguments import deepspeed_config, training_arguments
from nsdrive.vla.training.checkpoints import Checkpoints, complete_checkpoints, remove_incomplete_checkpoints
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.loss_log import LossLog
from nsdrive.vla.training.processes import process_group, wait_for_all
from nsdrive.vla.training.result import save_result
from nsdrive.vla.training.run_folder import (
    BASE,
    CHECKPOINTS,
    DONE,
    TrainSummary,
    read_summary,
    settle_config,
)
from nsdrive.vla.training.starting_model import choose_what_learns, count_parameters, inner_model, make_tiny_base
from nsdrive.vla.training.trainer import AnswerTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["TrainConfig", "TrainSummary", "train"]


def train(
    config: TrainConfig, *, dataset: Path, out: Path, resume: bool = False, overwrite: bool = False
) -> TrainSummary:
    """Train, and leave a run folder as above. Returns the same summary on every process.

    Raises ValueError for settings or samples that cannot be trained on, and for an `out` that holds something else.
    """
    dataset, out = Path(dataset), Path(out)
    rows = Rows(open_dataset(dataset), "train", level=config.train_level)
    deepspeed = deepspeed_config(config.deepspeed)
    if resume and (out / DONE).is_file():
        settle_config(config, dataset, out)
        return read_summary(out)
    if int(os.environ.get("RANK", "0")) == 0:
        claim_folder(out, resume=resume, overwrite=overwrite, marker=CHECKPOINTS)
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        settle_config(config, dataset, out)
        remove_incomplete_checkpoints(out / CHECKPOINTS)
        quiet_libraries()
        if config.model == "tiny":  # before DeepSpeed is set up: under ZeRO-3 making a model is a collective act
            make_tiny_base(config, rows, out)
    quiet_libraries()
    with process_group(deepspeed is not None):
        arguments = training_arguments(config, deepspeed, n_rows=len(rows), out=out)
        wait_for_all()
        return _run(config, arguments, rows, out)


def _run(config: TrainConfig, arguments: TrainingArguments, rows: Rows, out: Path) -> TrainSummary:
    from transformers import set_seed

    is_first = arguments.process_index == 0
    checkpoints = complete_checkpoints(out / CHECKPOINTS)
    if checkpoints:
        _check_process_count(checkpoints[-1], arguments.world_size)
    source = str(out / BASE) if config.model == "tiny" else config.model
    require_fast_kernels(
        model_type(source, trust_remote_code=config.trust_remote_code), allow_slow=config.allow_slow_kernels
    )
    processor = load_processor(
        source,
        min_pixels=config.min_image_pixels,
        max_pixels=config.max_image_pixels,
        trust_remote_code=config.trust_remote_code,
    )
    set_seed(config.seed)  # before LoRA draws its first weights: else two runs differ
    # trained weights are kept in fp32 (DeepSpeed and autocast make the bf16 ones); LoRA's frozen base needs no more than bf16
    dtype = torch.bfloat16 if arguments.bf16 and config.method == "lora" else torch.float32
    model = load_model(source, dtype=dtype, attention=config.attention, trust_remote_code=config.trust_remote_code)
    model = choose_what_learns(model, config, source)
    global_batch = arguments.world_size * config.per_device_batch_size * config.gradient_accumulation_steps
    schedule = Schedule(rows, processor, n_samples=arguments.max_steps * global_batch, seed=config.seed)
    resumed_step = int(checkpoints[-1].name.rpartition("-")[2]) if checkpoints else 0
    with Progress("training steps") if is_first else nullcontext() as progress:
        log = LossLog(out / "loss.jsonl", resumed_step=resumed_step, progress=progress)
        trainer = AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=schedule,
            data_collator=Collator(processor),
            callbacks=[log, Checkpoints(out / CHECKPOINTS, keep=config.keep_checkpoints)],
        )
        log.trainer = trainer
        started_s = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
        seconds = time.monotonic() - started_s
    n_parameters, n_trained = count_parameters(trainer.model)
    save_result(trainer, processor, config, source, form_of(rows.raw(0)), out)
    summary = TrainSummary(
        folder=str(out),
        model=type(inner_model(trainer.model)).__name__,
        steps=arguments.max_steps,
        samples_seen=len(schedule),
        answer_tokens=sum(row["tokens"] for row in log.rows),
        first_loss=log.rows[0]["loss"],
        final_loss=log.rows[-1]["loss"],
        parameters=n_parameters,
        trained_parameters=n_trained,
        processes=arguments.world_size,
        device=arguments.device.type,
        seconds=round(seconds, 1),
        input_wait_share=round(trainer.waited_s / max(seconds, 1e-9), 4),
        version=__version__,
    )
    if is_first:
        write_atomically(out / DONE, json.dumps(to_plain(summary), indent=2) + "\n")
    wait_for_all()
    return summary


def _check_process_count(checkpoint: Path, processes: int) -> None:
    before = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))["processes"]
    if before != processes:
        raise ValueError(f"{checkpoint} was written by {before} processes, this is {processes}: resume with {before}")
