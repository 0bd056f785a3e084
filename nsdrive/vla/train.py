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
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from nsdrive import __version__
from nsdrive.config import config_folder, did_you_mean, to_plain
from nsdrive.dataset import MANIFEST, claim_folder, open_dataset, sha256_of, write_atomically
from nsdrive.progress import Progress
from nsdrive.vla.data.batch import collate
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.data.schedule import Schedule
from nsdrive.vla.model import (
    load_model,
    load_processor,
    model_type,
    quiet_libraries,
    require_fast_kernels,
    save_processor,
)
from nsdrive.vla.question_form import QuestionForm, form_of, write_form
from nsdrive.vla.training.checkpoints import Checkpoints, complete_checkpoints, remove_incomplete_checkpoints
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.loss_log import LossLog
from nsdrive.vla.training.processes import wait_for_all
from nsdrive.vla.training.trainer import AnswerTrainer

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["TrainConfig", "TrainSummary", "train"]

BASE, CHECKPOINTS, DONE, CONFIG = "base", "checkpoints", "train.json", "config.json"
TOKENIZER_SAMPLES = 512  # chosen by us: as many prompts and answers show the tiny tokenizer every word of the templates


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What train.json holds."""

    folder: str
    model: str  # the class
    steps: int
    samples_seen: int
    answer_tokens: int
    first_loss: float
    final_loss: float
    parameters: int
    trained_parameters: int
    processes: int
    device: str
    seconds: float  # of this call; a resumed run's earlier part is not counted
    input_wait_share: float  # of those seconds, spent waiting for batches
    version: str

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.model}, {self.steps} steps, loss {self.first_loss:.3f} -> {self.final_loss:.3f}, "
            f"{self.seconds:.0f} s on {self.processes} x {self.device}"
        )


def train(
    config: TrainConfig, *, dataset: Path, out: Path, resume: bool = False, overwrite: bool = False
) -> TrainSummary:
    """Train, and leave a run folder as above. Returns the same summary on every process.

    Raises ValueError for settings or samples that cannot be trained on, and for an `out` that holds something else.
    """
    dataset, out = Path(dataset), Path(out)
    rows = Rows(open_dataset(dataset), "train", level=config.train_level)
    deepspeed = _deepspeed_config(config.deepspeed)
    if resume and (out / DONE).is_file():
        _settle_config(config, dataset, out)
        return _read_summary(out)
    if int(os.environ.get("RANK", "0")) == 0:
        claim_folder(out, resume=resume, overwrite=overwrite, marker=CHECKPOINTS)
        (out / CHECKPOINTS).mkdir(exist_ok=True)
        _settle_config(config, dataset, out)
        remove_incomplete_checkpoints(out / CHECKPOINTS)
        quiet_libraries()
        if config.model == "tiny":  # before DeepSpeed is set up: under ZeRO-3 making a model is a collective act
            _make_tiny_base(config, rows, out)
    quiet_libraries()
    with _process_group(deepspeed is not None):
        arguments = _training_arguments(config, deepspeed, n_rows=len(rows), out=out)
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
    model = _choose_what_learns(model, config, source)
    global_batch = arguments.world_size * config.per_device_batch_size * config.gradient_accumulation_steps
    schedule = Schedule(rows, processor, n_samples=arguments.max_steps * global_batch, seed=config.seed)
    resumed_step = int(checkpoints[-1].name.rpartition("-")[2]) if checkpoints else 0
    with Progress("training steps") if is_first else nullcontext() as progress:
        log = LossLog(out / "loss.jsonl", resumed_step=resumed_step, progress=progress)
        trainer = AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=schedule,
            data_collator=_Collator(processor),
            callbacks=[log, Checkpoints(out / CHECKPOINTS, keep=config.keep_checkpoints)],
        )
        log.trainer = trainer
        started_s = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
        seconds = time.monotonic() - started_s
    n_parameters, n_trained = _count_parameters(trainer.model)
    _save_result(trainer, processor, config, source, form_of(rows.raw(0)), out)
    summary = TrainSummary(
        folder=str(out),
        model=type(_inner(trainer.model)).__name__,
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


@dataclass(frozen=True)
class _Collator:
    processor: Any

    def __call__(self, items: Any) -> dict[str, Any]:
        return collate(items, self.processor)


# ---- settings -----------------------------------------------------------------------------------------------------


def _training_arguments(
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
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        seed=config.seed,
        data_seed=config.seed,
        train_sampling_strategy="sequential",  # Schedule is the order
        dataloader_num_workers=config.workers,
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


def _deepspeed_config(name: str) -> dict[str, Any] | None:
    """The DeepSpeed JSON of "zero1", "zero2", "zero3" or a path; None for "none"."""
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
    return settings


def _settle_config(config: TrainConfig, dataset: Path, out: Path) -> None:
    """Write config.json; a resumed run must have the same settings and dataset, else its curve means nothing."""
    settled = {
        "version": __version__,
        "dataset": str(dataset),
        "dataset_sha256": sha256_of(dataset / MANIFEST),
        "train": to_plain(config),
    }
    path = out / CONFIG
    if not path.is_file():
        write_atomically(path, json.dumps(settled, indent=2) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    free = {"workers", "keep_checkpoints", "allow_slow_kernels"}  # these change no number
    old, new = before["train"], settled["train"]
    changed = [
        f"{k}: {old.get(k)!r} -> {new.get(k)!r}"
        for k in sorted(old.keys() | new.keys())
        if old.get(k) != new.get(k) and k not in free
    ]
    if before["dataset_sha256"] != settled["dataset_sha256"]:
        changed.append(f"dataset: {before['dataset']} -> {dataset}")
    if changed:
        raise ValueError(f"{out} was begun with other settings ({'; '.join(changed)}). Give those, or another --out")


def _check_process_count(checkpoint: Path, processes: int) -> None:
    before = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))["processes"]
    if before != processes:
        raise ValueError(f"{checkpoint} was written by {before} processes, this is {processes}: resume with {before}")


# ---- the model ----------------------------------------------------------------------------------------------------


def _make_tiny_base(config: TrainConfig, rows: Rows, out: Path) -> None:
    """The tiny model with random weights, and a tokenizer that has read the dataset's first samples."""
    from nsdrive.vla.tiny import build_tiny

    if (out / BASE).is_dir():
        return
    first = [rows[k] for k in range(min(len(rows), TOKENIZER_SAMPLES))]
    part = out / f"{BASE}.part"
    shutil.rmtree(part, ignore_errors=True)
    build_tiny(
        part,
        arch=config.tiny_arch,
        size=config.tiny_size,
        seed=config.seed,
        texts=[*(text for row in first for text in (row.prompt, row.answer)), "user\nassistant\nsystem\n"],
        vocabulary=config.tiny_vocabulary,
    )
    part.rename(out / BASE)


def _choose_what_learns(model: Any, config: TrainConfig, source: str) -> Any:
    model.train()
    if config.freeze_vision:
        for name, parameter in model.named_parameters():
            if ".visual." in name:
                parameter.requires_grad_(False)
    if config.method == "lora":
        from peft import LoraConfig, get_peft_model

        if config.gradient_checkpointing:
            model.enable_input_require_grads()  # else no gradient passes the frozen embedding
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=config.lora_targets,
            task_type="CAUSAL_LM",
            base_model_name_or_path=source,
        )
        model = get_peft_model(model, lora)
    return model


def _save_result(
    trainer: AnswerTrainer, processor: Any, config: TrainConfig, source: str, form: QuestionForm | None, out: Path
) -> None:
    """The final model, complete or not there at all. Every process takes part: ZeRO-3 gathers the weights."""
    is_lora, is_first = config.method == "lora", trainer.args.process_index == 0
    name = "adapter" if is_lora else "model"
    part = out / f"{name}.part"
    if is_first:
        for left in (part, out / name, out / "model"):
            shutil.rmtree(left, ignore_errors=True)
    wait_for_all()
    if trainer.args.bf16 and not trainer.is_deepspeed_enabled and not is_lora:
        model: Any = trainer.model
        model.to(torch.bfloat16)  # trained under autocast: the fp32 copy is not needed any more
    trainer.save_model(str(part))
    wait_for_all()
    if not is_first:
        return
    (part / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to who loads the model
    _save_beside(part, processor, form)
    part.rename(out / name)
    if is_lora:
        _merge_adapter(trainer, processor, config, form, out)


def _save_beside(folder: Path, processor: Any, form: QuestionForm | None) -> None:
    """What a model's folder needs beside its weights."""
    save_processor(processor, folder)
    if form is not None:
        write_form(form, folder)


def _merge_adapter(
    trainer: AnswerTrainer, processor: Any, config: TrainConfig, form: QuestionForm | None, out: Path
) -> None:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # the merged model is loaded whole, not in ZeRO-3's pieces
    dtype = torch.bfloat16 if trainer.args.bf16 else torch.float32
    merged = load_model(out / "adapter", dtype=dtype, trust_remote_code=config.trust_remote_code)
    part = out / "model.part"
    shutil.rmtree(part, ignore_errors=True)
    merged.save_pretrained(part)
    _save_beside(part, processor, form)
    part.rename(out / "model")


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _count_parameters(model: Any) -> tuple[int, int]:
    """All and trained; under ZeRO-3 a parameter's true size is in ds_numel."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def _read_summary(out: Path) -> TrainSummary:
    return TrainSummary(**json.loads((out / DONE).read_text(encoding="utf-8")))


# ---- processes ----------------------------------------------------------------------------------------------------


@contextmanager
def _process_group(wants_deepspeed: bool) -> Iterator[None]:
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
