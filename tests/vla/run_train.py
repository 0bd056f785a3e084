"""A process that trains, for the tests that start several of them or kill one: python run_train.py '{...}'.

kill_at: end by SIGKILL right after that step, as a power cut would. kill_in_save: likewise, in the middle of writing
the checkpoint of that step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from nsdrive.vla.train import TrainConfig, train
from nsdrive.vla.training import checkpoints, loss_log


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    if job.get("kill_at"):
        die_after_step(int(job["kill_at"]))
    if job.get("kill_in_save"):
        die_in_save(int(job["kill_in_save"]))
    config = TrainConfig(**job["config"])
    train(config, dataset=Path(job["dataset"]), out=Path(job["out"]), resume=job.get("resume", False))


def die_after_step(step: int) -> None:
    log = loss_log.LossLog.on_log

    def on_log(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        log(self, args, state, control, logs=logs, **more)
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    loss_log.LossLog.on_log = on_log


def die_in_save(step: int) -> None:
    def on_save(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    marked = checkpoints.Checkpoints.on_save
    checkpoints.Checkpoints.on_save = lambda self, *a, **k: (on_save(self, *a, **k), marked(self, *a, **k))[1]


if __name__ == "__main__":
    main()
