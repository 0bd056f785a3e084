"""loss.jsonl: one row a logged step. A resumed run's file ends up as an undisturbed run's, but for what a clock says.

{"step": 200, "samples_seen": 1600, "loss": 0.61, "reasoning_loss": 0.55, "planning_loss": 0.74, "head_loss": null,
 "learning_rate": 1.8e-05, "grad_norm": 1.9, "tokens": 2211, "seconds": 1.9, "tokens_per_s": 12403.0, "data_wait_s": 0.01,
 "gpu_memory_gb": 61.2, "mfu": 0.41}
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.dataset import json_line, write_atomically
from nsdrive.vla.forecast.flops import Costs, Work, costs_of, peak_flops
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.tracking import Tracking
from nsdrive.vla.training.trainer import AnswerTrainer

TIMED = ("seconds", "tokens_per_s", "data_wait_s", "gpu_memory_gb", "mfu")  # no two runs have the same
PARTS = ("reasoning_loss", "planning_loss", "head_loss")


class LossLog(TrainerCallback):
    """Writes the rows, and sends them to the trackers.

    loss: what is trained on, mean over the answer tokens of the last logged steps; reasoning_loss and planning_loss: of those
    tokens alone; head_loss: of the trajectory head; null where a run has none. samples_seen: from the training's beginning,
    by all processes. tokens: of answers, trained on since the last row. seconds: of training since the last row, data_wait_s
    of them waiting for batches. tokens_per_s: that the model read, pictures' too, padding not, all processes together.
    gpu_memory_gb: the most that this process ever had. mfu: see `nsdrive.vla.forecast.flops`; null without a known GPU.

    A resumed run first drops the rows after its checkpoint.
    """

    def __init__(self, path: Path, *, resumed_step: int, progress: Any, tracking: Tracking | None = None) -> None:
        self._path, self._progress, self._tracking = path, progress, tracking
        self.rows = [row for row in read_log(path) if row["step"] <= resumed_step] if resumed_step else []
        self.trainer: AnswerTrainer | None = None
        self._since_s = self._waited_s = 0.0
        self._tokens, self._work = 0, Work()
        self._parts: dict[str, list[float]] = {name: [] for name in PARTS}
        self._costs: Costs | None = None

    def pause(self, seconds: float) -> None:
        """Take time that was not spent training (on validation) out of the next row."""
        self._since_s += seconds

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert self.trainer is not None
        if state.is_world_process_zero:
            write_atomically(self._path, "".join(json_line(row) for row in self.rows))
        self._costs = costs_of(self.trainer.accelerator.unwrap_model(self.trainer.model))
        self._begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert self.trainer is not None
        self._tokens += self.trainer.tokens_of_step
        self._work += self.trainer.work_of_step
        for name in PARTS:
            value = self.trainer.parts_of_step.get(name)
            if value is not None:
                self._parts[name].append(value)
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last step has a row too, and a short run at least one

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if not logs or "loss" not in logs:  # the Trainer's summary at the end
            return
        assert self.trainer is not None
        row: dict[str, Any] = {
            "step": state.global_step,
            "samples_seen": state.global_step * global_batch(args),
            "loss": float(logs["loss"]),
            **{name: fmean(values) if (values := self._parts[name]) else None for name in PARTS},
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs["grad_norm"]),
            "tokens": self._tokens,
            **self._timed(args),
        }
        self._begin()
        self.rows.append(row)
        if state.is_world_process_zero:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json_line(row))
            self._progress(state.global_step, state.max_steps)
            if self._tracking is not None:
                kept = {f"train/{name}": value for name, value in row.items() if name != "step"}
                self._tracking.log(state.global_step, kept)

    def _begin(self) -> None:
        assert self.trainer is not None
        self._since_s, self._waited_s = time.monotonic(), self.trainer.waited_s
        self._tokens, self._work = 0, Work()
        self._parts = {name: [] for name in PARTS}

    def _timed(self, args: TrainingArguments) -> dict[str, float | None]:
        assert self.trainer is not None
        assert self._costs is not None
        seconds = max(time.monotonic() - self._since_s, 1e-9)
        mine = [float(self._work.tokens), self._costs.flops(self._work)]
        n_tokens, n_flops = sum_over_processes(mine, args.device)
        peak = peak_flops(args.device)
        on_gpu = args.device.type == "cuda"
        return {
            "seconds": round(seconds, 4),
            "tokens_per_s": round(n_tokens / seconds, 1),
            "data_wait_s": round(self.trainer.waited_s - self._waited_s, 4),
            "gpu_memory_gb": round(torch.cuda.max_memory_allocated(args.device) / 1e9, 3) if on_gpu else None,
            "mfu": None if peak is None else round(n_flops / seconds / args.world_size / peak, 4),
        }


def global_batch(args: TrainingArguments) -> int:
    """Samples of a step, of all processes."""
    return args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps


def sum_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums over all processes of each of some numbers; every process has to come here."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        total = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]
    return list(values)
