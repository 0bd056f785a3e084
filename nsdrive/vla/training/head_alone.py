"""The trajectory head alone, after the steps: many passes over hidden states that are computed once.

    finish_head(Path("RUN/model"), rows, samples=7000, epochs=12)      # MODEL/trajectory_head/ anew; its rows for head.jsonl

A pass over the data costs a language model of random weights an hour, and its head a second: the head can go on learning what
the states already say, and above all where in the images to look, when the model has stopped. The last part of the samples
is held out; the head kept is that of the pass that was best on it. Nothing else of the model changes.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsdrive.dataset import json_line, write_atomically
from nsdrive.progress import Progress
from nsdrive.vla.data.batch import collate, model_inputs
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.model import load_model, load_processor
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.processes import cores_of_all
from nsdrive.vla.training.stopping import Stopping, Unfinished
from nsdrive.vla.trajectory_head import FOLDER, HeadShape, TrajectoryHead, image_states, load_head, save_head

BATCH_SIZE = 64  # chosen by us
HELD_OUT = 0.07  # of the samples, chosen by us
READ_AT_ONCE = 8  # samples of a forward
MEMORY_SHARE = 0.8  # of the machine's, that the states may take; chosen by us


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """What the head reads of S samples, and what it should say; in the machine's memory, which is larger than a GPU's.

    images in half the bits: they are most of it, 73 GB of 7,000 samples with 8 cameras of 256 tokens for a model of width 2560.
    """

    hidden: torch.Tensor  # (S, H)
    ego_now: torch.Tensor  # (S, 4)
    waypoints: torch.Tensor  # (S, 10, 2)
    images: torch.Tensor | None  # (S, N, H) float16
    is_image: torch.Tensor | None  # (S, N)

    def of(self, chosen: torch.Tensor, device: torch.device) -> dict[str, Any]:
        return {
            "hidden": self.hidden[chosen].to(device),
            "ego_now": self.ego_now[chosen].to(device),
            "images": None if self.images is None else self.images[chosen].to(device).float(),
            "is_image": None if self.is_image is None else self.is_image[chosen].to(device),
        }


def finish_head(
    model_folder: Path,
    rows: Any,
    *,
    samples: int,
    epochs: int,
    learning_rate: float = 3e-3,
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    going_on: Callable[[], None] = lambda: None,
) -> list[dict[str, float | None]]:
    """Train the head of a model's folder on, in place; a row a pass: train_loss, held_out_ade_m. ValueError without a head.

    going_on: called every few samples and passes; what it raises ends this, and the folder is as it was.
    """
    head = load_head(model_folder)
    if head is None:
        raise ValueError(
            f"{model_folder} has no trajectory head that could learn on: train with trajectory_head=regression"
        )
    chosen = np.random.default_rng([seed, 11]).permutation(len(rows))[:samples]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = head.to(device)
    dtype = (
        torch.bfloat16 if device.type == "cuda" else torch.float32
    )  # as `predict` loads it, which the head will read
    model = load_model(model_folder, dtype=dtype, trust_remote_code=trust_remote_code).to(device).eval()
    processor = load_processor(model_folder, trust_remote_code=trust_remote_code)

    def told(done: int, total: int) -> None:
        progress(done, total)
        going_on()

    states = read_states(model, processor, rows, chosen.tolist(), head, told)
    del model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        best, said = _learn(head, states, epochs=epochs, learning_rate=learning_rate, going_on=going_on)
    save_head(best, model_folder)
    return said


def finish_run(config: TrainConfig, rows: Any, out: Path, stopping: Stopping) -> None:
    """`finish_head` of a run's model, by one process; the others wait, and their cores help.

    Loads the model from the run's folder: what trained must be out of memory by then. Raises Unfinished where it was asked to
    stop meanwhile; the next call begins the passes again.
    """

    def going_on() -> None:
        if stopping.asked:
            raise Unfinished("after its last step, in the passes of the trajectory head alone, which begin again")

    with cores_of_all(), Progress("samples for the trajectory head") as progress:
        said = finish_head(
            out / "model",
            rows,
            samples=config.head_samples,
            epochs=config.head_epochs,
            seed=config.seed,
            trust_remote_code=config.trust_remote_code,
            progress=progress,
            going_on=going_on,
        )
    if (out / "adapter").is_dir():
        shutil.copytree(out / "model" / FOLDER, out / "adapter" / FOLDER, dirs_exist_ok=True)
    write_atomically(out / "head.jsonl", "".join(json_line(row) for row in said))


def require_memory(config: TrainConfig, shape: HeadShape) -> None:
    """ValueError, before the steps, where the image states that `finish_run` keeps would not fit into this machine's memory."""
    if not config.head_epochs:
        return
    each = shape.image_tokens * shape.hidden * torch.float16.itemsize
    has = MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if config.head_samples * each > has:
        raise ValueError(
            f"head_epochs keeps the image states of {config.head_samples} samples in memory: "
            f"{config.head_samples * each / 1e9:.0f} GB, and this machine has room for {has / 1e9:.0f} GB. "
            f"Set head_samples to {int(has // each)} or less, or head_looks=false"
        )


def _learn(
    head: TrajectoryHead, states: States, *, epochs: int, learning_rate: float, going_on: Callable[[], None]
) -> tuple[TrajectoryHead, list[dict[str, float | None]]]:
    n, device = len(states.hidden), next(head.parameters()).device
    n_held_out = max(1, round(HELD_OUT * n))
    train, held_out = torch.arange(n - n_held_out), torch.arange(n - n_held_out, n)
    best, least_m = copy.deepcopy(head), error_m(head, states, held_out)
    said: list[dict[str, float | None]] = [{"epoch": 0, "train_loss": None, "held_out_ade_m": least_m}]
    total = max(1, epochs * -(-len(train) // BATCH_SIZE))
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for epoch in range(1, epochs + 1):
        losses = []
        for part in train[torch.randperm(len(train))].split(BATCH_SIZE):
            given, true = states.of(part, device), states.waypoints[part].to(device)
            loss = head(given.pop("hidden"), given.pop("ego_now"), true, **given) / len(part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            losses.append(loss.item())
        error = error_m(head, states, held_out)
        said.append({"epoch": epoch, "train_loss": float(np.mean(losses)), "held_out_ade_m": error})
        if error < least_m:
            best, least_m = copy.deepcopy(head), error
        going_on()
    return best.eval(), said


@torch.no_grad()
def error_m(head: TrajectoryHead, states: States, chosen: torch.Tensor) -> float:
    """Mean distance of the waypoints over 5 s."""
    errors, device = [], next(head.parameters()).device
    for part in chosen.split(BATCH_SIZE):
        given, true = states.of(part, device), states.waypoints[part].to(device)
        errors.append((head(given.pop("hidden"), given.pop("ego_now"), **given) - true).norm(dim=-1))
    return float(torch.cat(errors).mean())


@torch.no_grad()
def read_states(
    model: Any,
    processor: Any,
    rows: Any,
    chosen: list[int],
    head: TrajectoryHead,
    progress: Callable[[int, int], None],
) -> States:
    """The hidden states of the chosen rows' prompts, of those that have waypoints and an ego motion."""
    device = next(model.parameters()).device
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("hidden", "ego_now", "waypoints", "is_image")}
    images, n_read = None, 0
    if head.look is not None:  # made at once: to join parts would take twice the memory
        images = torch.empty(len(chosen), head.shape.image_tokens, head.shape.hidden, dtype=torch.float16)
    for first in range(0, len(chosen), READ_AT_ONCE):
        items = [encode(processor, rows[k], with_answer=False) for k in chosen[first : first + READ_AT_ONCE]]
        items = [item for item in items if item.waypoints is not None and item.ego_now is not None]
        progress(min(first + READ_AT_ONCE, len(chosen)), len(chosen))
        if not items:
            continue
        batch = collate(items, processor, for_generation=True)
        last = model.model(**model_inputs(batch, processor, device), use_cache=False).last_hidden_state
        read_rows, ends = batch["read_at"].to(device).unbind(dim=1)
        found["hidden"].append(last[read_rows, ends].float().cpu())
        found["ego_now"].append(batch["ego_now"])
        found["waypoints"].append(batch["waypoints"])
        if images is not None:
            seen, is_image = image_states(last, batch, count=head.shape.image_tokens)
            images[n_read : n_read + len(items)] = seen.half().cpu()
            found["is_image"].append(is_image.cpu())
        n_read += len(items)
    if n_read < 2:
        raise ValueError(
            f"{n_read} of {len(chosen)} samples have waypoints and an ego motion: "
            "there is nothing that the trajectory head could learn"
        )
    whole = {name: torch.cat(parts) if parts else None for name, parts in found.items()}
    return States(**whole, images=None if images is None else images[:n_read])  # type: ignore[arg-type]
