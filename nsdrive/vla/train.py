"""Fine-tune a Qwen-class model on a dataset: full or LoRA, in-process on one device or under torchrun / deepspeed.

    train(TrainConfig(max_steps=100), dataset=Path("out/data"), out=Path("out/run"), resume=False, overwrite=False)

    RUN/
        config.json       the resolved settings, and which dataset
        base/             the tiny model's start, where model = "tiny"
        warmed/           the model after its vision warm-up, where it has one; warmup.jsonl says how that went, and
                          warming.pt is there until it is done
        loss.jsonl        a row a step: losses, samples seen, speed (`nsdrive.vla.training.loss_log`)
        validation.jsonl  ADE@3s and miss rate@3s on samples of the val split, every validate_every_steps
        tensorboard/      the same numbers, and other trackers' folders (`nsdrive.vla.training.tracking`)
        checkpoints/      complete ones carry a complete.json; --resume goes on from the newest
        stopped.json      only after SIGTERM or SIGUSR1 (exit status 75): the step and the signal; --resume goes on
        adapter/          with method = "lora"
        model/            the result: a stock checkpoint with its processor (LoRA merged in), and how it is to be asked
        head.jsonl        the passes of the trajectory head alone, with head_epochs
        train.json        written last: its presence means complete

A resumed run gives the same losses as an undisturbed one, also on another number of processes. Resuming reads the run's
own optimiser state, which DeepSpeed keeps as pickles: resume only runs that you made yourself.
"""

from __future__ import annotations

import gc
import json
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nsdrive import __version__
from nsdrive.config import to_plain
from nsdrive.dataset import write_atomically
from nsdrive.output_folder import claim_folder, refuse_both
from nsdrive.progress import Progress
from nsdrive.vla.data.batch import Collator
from nsdrive.vla.data.rows import require_rows
from nsdrive.vla.data.shards import AnyRows, open_rows
from nsdrive.vla.model import load_model, load_processor, model_type, quiet_libraries
from nsdrive.vla.question_form import form_of, model_folder
from nsdrive.vla.training.arguments import deepspeed_config, training_arguments
from nsdrive.vla.training.checkpoints import Checkpoints, newest_checkpoint, read_note, remove_incomplete_checkpoints
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.head_alone import finish_run, require_memory
from nsdrive.vla.training.kernels import require_kernels, use_liger
from nsdrive.vla.training.linear_attention import ready_linear_attention
from nsdrive.vla.training.loader_workers import ending_workers
from nsdrive.vla.training.logs import DONE, STOPPED
from nsdrive.vla.training.loss_log import LossLog
from nsdrive.vla.training.losses import objective_of
from nsdrive.vla.training.patch_embedding import ready_patch_embedding
from nsdrive.vla.training.preflight import check_before_start
from nsdrive.vla.training.processes import by_the_first, is_first_process, process_count, process_group
from nsdrive.vla.training.result import save_result
from nsdrive.vla.training.resuming import (
    UniversalMended,
    check_global_batch,
    convert_to_universal,
    needs_conversion,
    split_global_batch,
)
from nsdrive.vla.training.run_folder import (
    BASE,
    CHECKPOINTS,
    WARMED,
    TrainSummary,
    begun_global_batch,
    leaving_nothing_begun,
    read_summary,
    settle_config,
)
from nsdrive.vla.training.samples_seen import entries_of_epoch, questions_of, schedule_of
from nsdrive.vla.training.starting_model import (
    count_parameters,
    inner_model,
    make_tiny_base,
    make_warmed,
    starting_head,
)
from nsdrive.vla.training.stopping import Stopping, TrainingStopped, stopped
from nsdrive.vla.training.tracking import open_tracking
from nsdrive.vla.training.trainer import AnswerTrainer, let_go
from nsdrive.vla.training.validation import validations
from nsdrive.vla.training.what_learns import choose_what_learns, parameter_groups
from nsdrive.vla.trajectory_head import attach_head

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["TrainConfig", "TrainSummary", "TrainingStopped", "train"]


def train(
    config: TrainConfig, *, dataset: Path, out: Path, resume: bool = False, overwrite: bool = False
) -> TrainSummary:
    """Train, and leave a run folder as above. Returns the same summary on every process.

    Raises ValueError for settings or samples that cannot be trained on, and for an `out` that holds something else;
    ConnectionError on one process where another was lost; TrainingStopped (a SystemExit) after SIGTERM or SIGUSR1.
    """
    dataset, out = Path(dataset), Path(out)
    rows = open_rows(dataset, "train", level=config.train_level)
    questions_of(config)  # what is wrong with them is said before minutes are lost
    deepspeed = deepspeed_config(config.deepspeed)
    refuse_both(resume=resume, overwrite=overwrite)
    require_rows(rows)
    if resume and (out / DONE).is_file():
        settle_config(config, dataset, out)
        return read_summary(out)
    quiet_libraries()
    stopping = Stopping(save_every_minutes=config.save_every_minutes)
    group = process_group(deepspeed=deepspeed is not None, timeout_minutes=config.process_timeout_minutes)
    with stopping.listening(), group:
        claim = partial(claim_folder, out, resume=resume, overwrite=overwrite, marker=CHECKPOINTS)
        by_the_first("folder", claim)
        with leaving_nothing_begun(out) if is_first_process() and not resume else nullcontext():
            prepare = partial(_prepare_folder, config, rows, dataset, out, stopping)
            by_the_first("start", partial(stopping.until_asked, prepare))
            checkpoint = newest_checkpoint(out / CHECKPOINTS)
            whole = begun_global_batch(out) if checkpoint is None else read_note(checkpoint)["global_batch"]
            config = split_global_batch(config, whole, processes=process_count())
            is_converted = checkpoint is not None and needs_conversion(checkpoint, processes=process_count())
            if deepspeed is not None and is_converted:
                deepspeed["checkpoint"] = {"load_universal": True}
            arguments = training_arguments(config, deepspeed, n_rows=entries_of_epoch(config, len(rows)), out=out)
            stopping.leave_if_asked(_step_of(checkpoint), arguments.max_steps, out)
            summary = _learn(config, arguments, dataset, rows, checkpoint, out, stopping)
            gc.collect()  # the trainer, its model and optimiser refer to each other in circles: from here on they are gone
            torch.cuda.empty_cache()
            finish = partial(_finish, config, summary, rows, out, stopping)
            by_the_first("result", partial(stopping.until_asked, finish))
            stopping.leave_if_unfinished(summary.steps, summary.steps, out)
            return summary


def _prepare_folder(config: TrainConfig, rows: AnyRows, dataset: Path, out: Path, stopping: Stopping) -> None:
    """What one process does before the others: the tiny model, the eyes' warm-up, the checkpoint as they will load it."""
    (out / CHECKPOINTS).mkdir(exist_ok=True)
    (out / STOPPED).unlink(missing_ok=True)
    settle_config(config, dataset, out)
    remove_incomplete_checkpoints(out / CHECKPOINTS)
    if config.model == "tiny":  # before the Trainer's arguments: with ZeRO-3 in them making a model is a collective act
        make_tiny_base(config, rows, out)
    if config.vision_warmup_steps:
        make_warmed(config, _base_of(config, out), rows, out, stopping)
    checkpoint = newest_checkpoint(out / CHECKPOINTS)
    if checkpoint is not None:
        check_global_batch(read_note(checkpoint)["global_batch"], processes=process_count())
        if needs_conversion(checkpoint, processes=process_count()):
            convert_to_universal(checkpoint)


def _finish(config: TrainConfig, summary: TrainSummary, rows: AnyRows, out: Path, stopping: Stopping) -> None:
    """What one process does after the others: nothing that trained is in memory any more."""
    if config.head_epochs:
        finish_run(config, rows, out, stopping)
    write_atomically(out / DONE, json.dumps(to_plain(summary), indent=2) + "\n")


def _step_of(checkpoint: Path | None) -> int:
    step: int = 0 if checkpoint is None else read_note(checkpoint)["step"]
    return step


def _base_of(config: TrainConfig, out: Path) -> str:
    return str(out / BASE) if config.model == "tiny" else model_folder(config.model)


def _learn(
    config: TrainConfig,
    arguments: TrainingArguments,
    dataset: Path,
    rows: AnyRows,
    checkpoint: Path | None,
    out: Path,
    stopping: Stopping,
) -> TrainSummary:
    """The steps, and the model that they leave in the folder."""
    from transformers import set_seed

    is_first = arguments.process_index == 0
    source = str(out / WARMED) if config.vision_warmup_steps else _base_of(config, out)
    family = model_type(source, trust_remote_code=config.trust_remote_code)
    require_kernels(family, config)
    processor = load_processor(
        source,
        min_pixels=config.min_image_pixels,
        max_pixels=config.max_image_pixels,
        trust_remote_code=config.trust_remote_code,
    )
    told = check_before_start(config, source, rows, processor, processes=arguments.world_size, say=is_first)
    model = _learning_model(config, source, family, bf16=arguments.bf16)
    set_seed(config.seed)
    if config.trajectory_head != "none":
        head = starting_head(config, model, processor, source, rows)
        require_memory(config, head.shape)
        attach_head(model, head)
    global_batch = arguments.world_size * config.per_device_batch_size * config.gradient_accumulation_steps
    n_samples = arguments.max_steps * global_batch
    schedule = schedule_of(config, rows, processor, n_samples=n_samples, global_batch=global_batch)
    resumed_step = _step_of(checkpoint)
    names = config.track if is_first else ()
    with (
        Progress("training steps") if is_first else nullcontext() as progress,
        open_tracking(names, folder=out, config=to_plain(config), resumed_step=resumed_step) as tracking,
    ):
        log = LossLog(out / "loss.jsonl", resumed_step=resumed_step, progress=progress, tracking=tracking)
        watching = validations(config, dataset, log, out, stopping, resumed_step=resumed_step, tracking=tracking)
        trainer = AnswerTrainer(
            objective=objective_of(config, processor.tokenizer),
            groups=partial(parameter_groups, config=config) if config.vision_learning_rate is not None else None,
            model=model,
            args=arguments,
            train_dataset=schedule,
            data_collator=Collator(processor, packed=config.packing),
            callbacks=[*watching, log, stopping, Checkpoints(out / CHECKPOINTS, keep=config.keep_checkpoints)],
        )
        log.trainer = trainer
        if isinstance(arguments.deepspeed, dict) and "checkpoint" in arguments.deepspeed:
            trainer.add_callback(UniversalMended(trainer))
        if arguments.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # what a warm-up took is not the training's
        stopping.leave_if_asked(resumed_step, arguments.max_steps, out)
        started_s = time.monotonic()
        with ending_workers(schedule):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        seconds = time.monotonic() - started_s
    if stopping.signal is not None:
        step, steps = trainer.state.global_step, arguments.max_steps
        raise stopped(stopping.signal, f"after step {step} of {steps}, the checkpoint is complete", step, steps, out)
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
        forecast_gpu_gib=None if told is None else round(told.surely_needed / 2**30, 2),
        measured_gpu_gib=None if told is None else round(torch.cuda.max_memory_allocated() / 2**30, 2),
        version=__version__,
    )
    let_go(trainer)
    return summary


def _learning_model(config: TrainConfig, source: str, family: str, *, bf16: bool) -> Any:
    """The model with its kernels, and with what of it learns."""
    from transformers import set_seed

    # trained weights are kept in fp32 (DeepSpeed and autocast make the bf16 ones); LoRA's frozen base needs no more than bf16
    dtype = torch.bfloat16 if bf16 and config.method == "lora" else torch.float32
    model = load_model(source, dtype=dtype, attention=config.attention, trust_remote_code=config.trust_remote_code)
    use_liger(model, family, config)
    set_seed(config.seed)  # LoRA draws its first weights: how many numbers loading has drawn depends on ZeRO's stage
    model = choose_what_learns(model, config, source)
    ready_linear_attention(model)
    ready_patch_embedding(model)
    return model
