"""loss.jsonl: one row a logged step. A resumed run's file ends up as an undisturbed run's."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.dataset import json_line, write_atomically
from nsdrive.vla.training.trainer import AnswerTrainer


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


def read_loss_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a loss.jsonl; a last line that a killed process cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
