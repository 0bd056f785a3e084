"""The tiny model that a run may start from, made here; and what can be said of any model that is trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nsdrive.dataset import json_line, write_atomically
from nsdrive.progress import Progress
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.data.shards import AnyRows
from nsdrive.vla.model import load_model, load_processor, save_processor
from nsdrive.vla.prompt import IMAGE_TOKEN
from nsdrive.vla.question_form import require_same_rig
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.processes import cores_of_all
from nsdrive.vla.training.run_folder import BASE, WARMED, WARMING
from nsdrive.vla.training.stopping import Stopping
from nsdrive.vla.trajectory_head import HeadShape, TrajectoryHead, load_head, save_head

TOKENIZER_SAMPLES = 512  # chosen by us: as many prompts and answers show the tiny tokenizer every word of the templates


def make_tiny_base(config: TrainConfig, rows: AnyRows | None, out: Path) -> None:
    """The tiny model with random weights, and a tokenizer that has read the dataset's first samples (None: built-in ones)."""
    from nsdrive.vla.tiny import build_tiny

    if (out / BASE).is_dir():
        return
    first = [rows[k] for k in range(min(len(rows), TOKENIZER_SAMPLES))] if rows is not None else []
    part = out / f"{BASE}.part"
    shutil.rmtree(part, ignore_errors=True)
    build_tiny(
        part,
        arch=config.tiny_arch,
        size=config.tiny_size,
        seed=config.seed,
        texts=[*(text for row in first for text in (row.prompt, row.answer)), "user\nassistant\nsystem\n"]
        if first
        else None,
        vocabulary=config.tiny_vocabulary,
    )
    part.rename(out / BASE)


def make_warmed(config: TrainConfig, source: str, rows: AnyRows, out: Path, stopping: Stopping) -> None:
    """RUN/warmed/: the model after its vision warm-up, a stock folder. One process makes it, on one device, for all.

    Raises Unfinished where it was asked to stop meanwhile; the next call goes on.
    """
    from nsdrive.vla.training.warmup import tower_of, warm_vision

    if (out / WARMED).is_dir():
        return
    require_same_rig(source, rows.raw(0), what="the dataset")  # said before minutes are lost
    how: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    processor = load_processor(source, min_pixels=config.min_image_pixels, max_pixels=config.max_image_pixels, **how)
    model = load_model(source, attention=config.attention, **how).train()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower_of(model).to(device)  # the words stay where they are: no GPU memory for what does not learn
    with cores_of_all(), Progress("vision warm-up steps") as progress:
        said = warm_vision(
            model,
            processor,
            rows,
            steps=config.vision_warmup_steps,
            batch_size=config.vision_warmup_batch,
            learning_rate=config.vision_warmup_learning_rate,
            seed=config.seed,
            workers=config.workers,
            progress=progress,
            unfinished=out / WARMING,
            stopping=stopping,
        )
    model.to("cpu")
    torch.cuda.empty_cache()
    part = out / f"{WARMED}.part"
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    save_processor(processor, part)
    if (head := load_head(source)) is not None:  # a run that goes on from another's model goes on with its head too
        save_head(head, part)
    write_atomically(out / "warmup.jsonl", "".join(json_line(row) for row in said))
    part.rename(out / WARMED)
    (out / WARMING).unlink(missing_ok=True)


def starting_head(config: TrainConfig, model: Any, processor: Any, source: str, rows: AnyRows) -> TrajectoryHead:
    """The head that the starting model has, where it is of the kind that is asked for; else a new one."""
    n_tokens = 0
    if config.head_looks:
        wordless = replace(rows[0], prompt=IMAGE_TOKEN * len(rows[0].images))
        ids = encode(processor, wordless, with_answer=False).input_ids
        n_tokens = int((ids == processor.image_token_id).sum())
    shape = HeadShape(
        kind=config.trajectory_head,
        hidden=int(inner_model(model).config.get_text_config().hidden_size),
        image_tokens=n_tokens,
    )
    before = load_head(source) if Path(source).is_dir() else None
    return before.train() if before is not None and before.shape == shape else TrajectoryHead(shape)


def inner_model(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def count_parameters(model: Any) -> tuple[int, int]:
    """All and trained; under ZeRO-3 a parameter's true size is in ds_numel."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
