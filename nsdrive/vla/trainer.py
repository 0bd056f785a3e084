"""transformers' Trainer with our loss, our log and crash-safe checkpoints.

The loss of a step is the sum of the answer tokens' losses over all processes and accumulation steps, divided by the
count of those tokens: one process and eight give the same gradients and the same logged number for one global batch.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.dataset import json_line, write_atomically
from nsdrive.vla.data import IGNORED

COMPLETE = "complete.json"  # written into a checkpoint folder last: without it a checkpoint is not resumed from


class AnswerTrainer(Trainer):
    """Trains on batches of `data.collate`: loss on the answer tokens only, logits computed on their rows only."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole global batch

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)  # LossLog prints
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the global batch's tokens, num_items_in_batch
        self.tokens_of_step = 0
        self.waited_s = 0.0

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        started_s = time.monotonic()
        batches, n_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.waited_s += time.monotonic() - started_s
        self.tokens_of_step = int(n_tokens) if n_tokens is not None else 0
        return batches, n_tokens

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's share of the step's loss; raises ValueError naming the samples where it is not finite."""
        batch = dict(inputs)
        labels, sample_ids = batch.pop("labels"), batch.pop("sample_ids")
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # token t is predicted at t - 1
        is_answer = targets != IGNORED
        outputs = model(**batch, logits_to_keep=is_answer, use_cache=False)
        summed = cross_entropy(outputs.logits.float(), targets[is_answer], reduction="sum")
        if not torch.isfinite(summed):
            raise ValueError(
                f"The loss became {summed.item()} at step {self.state.global_step + 1}, in the samples "
                f"{', '.join(sample_ids)}. Lower learning_rate, or look at these samples, then train again"
            )
        # processes average their gradients, so each one's share is scaled by how many there are
        loss = summed * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class LossLog(TrainerCallback):
    """loss.jsonl, one row a logged step: step, loss, learning_rate, grad_norm, tokens trained on in the step, seconds.

    A resumed run first drops the rows after its checkpoint, so that the file ends up as an undisturbed run's.
    """

    def __init__(self, path: Path, *, resumed_step: int, progress: Any) -> None:
        self._path, self._progress = path, progress
        self.rows = [row for row in read_loss_log(path) if row["step"] <= resumed_step] if resumed_step else []
        self.trainer: AnswerTrainer | None = None
        self._since_s = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            write_atomically(self._path, "".join(json_line(row) for row in self.rows))
        self._since_s = time.monotonic()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:  # the Trainer's summary at the end
            return
        now_s = time.monotonic()
        assert self.trainer is not None
        row = {
            "step": state.global_step,
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs["grad_norm"]),
            "tokens": self.trainer.tokens_of_step,
            "seconds": round(now_s - self._since_s, 4),
        }
        self._since_s = now_s
        if not math.isfinite(row["grad_norm"]):
            raise ValueError(
                f"The gradient became {row['grad_norm']} at step {state.global_step}. Lower learning_rate, train again"
            )
        self.rows.append(row)
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_line(row))
            self._progress(state.global_step, state.max_steps)


class Checkpoints(TrainerCallback):
    """Marks a checkpoint complete once every process has written its part, and only then deletes older ones."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_all()
        if not state.is_world_process_zero:
            return
        folder = self._folder / f"checkpoint-{state.global_step}"
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                _flush_to_disk(path)
        note = {"step": state.global_step, "processes": args.world_size}
        write_atomically(folder / COMPLETE, json.dumps(note) + "\n")
        for old in complete_checkpoints(self._folder)[: -self._keep]:
            (old / COMPLETE).unlink()  # first: a folder half deleted must not look complete
            shutil.rmtree(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that were written to the end, oldest first."""
    found = [
        (int(path.parent.name.rpartition("-")[2]), path.parent) for path in folder.glob(f"checkpoint-*/{COMPLETE}")
    ]
    return [path for _, path in sorted(found)]


def remove_incomplete_checkpoints(folder: Path) -> None:
    """What a killed process left half written."""
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)


def read_loss_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a loss.jsonl; a last line that a killed process cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def wait_for_all() -> None:
    """Until every process has come here; nothing where there is only one."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
