"""When a training saves besides every N steps: by the clock, and when it is asked to stop.

SIGTERM (a scheduler's, a person's) and SIGUSR1 (Slurm's warning: --signal=USR1@300) mean: finish this step, write a
checkpoint, leave. Every process does so after the same step, whichever of them was asked.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.dataset import write_atomically
from nsdrive.vla.training.processes import agree_on_greatest, is_first_process, wait_for_all
from nsdrive.vla.training.run_folder import STOPPED

STOPPED_STATUS = 75  # sysexits.h EX_TEMPFAIL: not done, no error, try again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(SystemExit):
    """Asked to stop, a complete checkpoint is written; the process's exit status is 75."""

    def __init__(self, line: str) -> None:
        super().__init__(STOPPED_STATUS)
        self.line = line

    def __str__(self) -> str:
        return self.line


def stopped(signal_name: str, step: int, steps: int, out: Path) -> TrainingStopped:
    """Note it in the run's folder, say how to go on; every process calls it, and leaves by what it returns."""
    line = (
        f"{out}: stopped by {signal_name} after step {step} of {steps}, the checkpoint is complete. Go on with --resume"
    )
    if is_first_process():
        write_atomically(out / STOPPED, json.dumps({"step": step, "steps": steps, "signal": signal_name}) + "\n")
        print(line, file=sys.stderr, flush=True)
    wait_for_all()  # a launcher ends the others as soon as one left
    return TrainingStopped(line)


class Stopping(TrainerCallback):
    """Saves when `save_every_minutes` are over, and saves and stops when a signal came."""

    def __init__(self, *, save_every_minutes: float | None) -> None:
        self._every_s = None if save_every_minutes is None else save_every_minutes * 60.0
        self._saved_s = time.monotonic()
        self._asked = 0
        self.signal: str | None = None  # the name of the one that the training stopped for

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the two signals while this lasts; a plain function call in another thread than the main one cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield
        finally:
            if self.signal is None:  # else the process is about to leave: a repeated signal must not change its status
                for number, handler in before.items():
                    signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        """Whether a signal has come to this process."""
        return self._asked > 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._saved_s = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        due = self._every_s is not None and is_first_process() and time.monotonic() - self._saved_s >= self._every_s
        asked = agree_on_greatest(max(self._asked, int(due)))
        if asked > 1 and state.global_step < state.max_steps:
            self.signal = signal.Signals(asked).name
            control.should_save = control.should_training_stop = True
        elif asked == 1 and state.global_step % args.logging_steps == 0:  # where a resumed run logs what this one does
            control.should_save = True

    def on_save(self, *_: Any, **__: Any) -> None:
        self._saved_s = time.monotonic()

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = number
