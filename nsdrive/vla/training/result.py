"""What a run leaves: the trained model as a stock checkpoint with its processor; a LoRA adapter is merged in too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from nsdrive.vla.model import load_model, save_processor
from nsdrive.vla.question_form import QuestionForm, write_form
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.processes import wait_for_all
from nsdrive.vla.training.trainer import AnswerTrainer
from nsdrive.vla.trajectory_head import FOLDER as HEAD_FOLDER


def save_result(
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
    if not any(part.glob("*.safetensors")):
        raise RuntimeError(f"{part} was saved without weights; the newest checkpoint has them")
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
    if (out / "adapter" / HEAD_FOLDER).is_dir():
        shutil.copytree(out / "adapter" / HEAD_FOLDER, part / HEAD_FOLDER)
    part.rename(out / "model")
