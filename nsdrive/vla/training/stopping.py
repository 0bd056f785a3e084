"""When a training saves besides every N steps: by the clock, and when it is asked to stop.

SIGTERM (a scheduler's, a person's) and SIGUSR1 (Slurm's warning: --signal=USR1@300) mean: finish this step, write a
checkpoint, leave. Every process does so after the same step, whichever of them was asked. So it is in the vision warm-up and
in the head's passes too, which the first process does alone.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsdrive.dataset import write_atomically
from nsdrive.vla.training.logs import STOPPED
from nsdrive.vla.training.processes import agree_on_greatest, is_first_process, wait_for_all

STOPPED_STATUS = 75  # sysexits.h EX_TEMPFAIL: not done, no error, try again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(SystemExit):
    """Asked to stop, a complete checkpoint is written; the process's exit status is 75."""

    def __init__(self, line: str) -> None:
        super().__init__(STOPPED_STATUS)
        self.line = line

    def __str__(self) -> str:
        return self.line


class Unfinished(Exception):
    """Raised by what one process does alone, when it was asked to stop. Its text says where it is: 'after step 3 of 10'."""


class Stopping(TrainerCallback):
    """Saves when `save_every_minutes` are over, and saves and stops when a signal came.

    The steps are watched as a Trainer's callback. What one process does alone before and after them asks `asked` and `is_due`
    by itself, and raises Unfinished; then all processes `leave_if_asked`.
    """

    def __init__(self, *, save_every_minutes: float | None) -> None:
        self._every_s = None if save_every_minutes is None else save_every_minutes * 60.0
        self._saved_s = time.monotonic()
        self._asked = 0
        self._unfinished: Unfinished | None = None
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

    @property
    def is_due(self) -> bool:
        """Whether a save is due by the clock."""
        return self._every_s is not None and time.monotonic() - self._saved_s >= self._every_s

    def note_save(self) -> None:
        """The clock starts anew."""
        self._saved_s = time.monotonic()

    def until_asked(self, work: Callable[[], None]) -> None:
        """Do the work; where it is Unfinished, `leave_if_unfinished` will tell the others."""
        try:
            work()
        except Unfinished as unfinished:
            self._unfinished = unfinished

    def leave_if_asked(self, step: int, steps: int, out: Path) -> None:
        """TrainingStopped on every process where one was asked to stop: between two parts of a training, all call it."""
        asked = agree_on_greatest(self._asked)
        if asked:
            self.signal = signal.Signals(asked).name
            raise stopped(self.signal, str(self._unfinished or f"before step {step + 1} of {steps}"), step, steps, out)

    def leave_if_unfinished(self, step: int, steps: int, out: Path) -> None:
        """The same, but only where work was left unfinished: after the last part of a training."""
        if agree_on_greatest(int(self._unfinished is not None)):
            self.leave_if_asked(step, steps, out)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.note_save()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        asked = agree_on_greatest(max(self._asked, int(is_first_process() and self.is_due)))
        if asked > 1 and state.global_step < state.max_steps:
            self.signal = signal.Signals(asked).name
            control.should_log = control.should_save = control.should_training_stop = True
        elif asked == 1 and state.global_step % args.logging_steps == 0:  # where a resumed run logs what this one does
            control.should_save = True

    def on_save(self, *_: Any, **__: Any) -> None:
        self.note_save()

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = number


def stopped(signal_name: str, where: str, step: int, steps: int, out: Path) -> TrainingStopped:
    """Note it in the run's folder, say how to go on; every process calls it, and leaves by what it returns.

    where: for a reader, 'after step 3 of 10'. step: of the training, that --resume goes on from.
    """
    line = f"{out}: stopped by {signal_name} {where}. Go on with --resume"
    if is_first_process():
        write_atomically(out / STOPPED, json.dumps({"step": step, "steps": steps, "signal": signal_name}) + "\n")
        print(line, file=sys.stderr, flush=True)
    wait_for_all()  # a launcher ends the others as soon as one left
    return TrainingStopped(line)
