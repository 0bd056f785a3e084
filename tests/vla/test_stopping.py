"""When a training saves by the clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from nsdrive.vla.training.stopping import Stopping


@pytest.mark.parametrize(("minutes", "saves"), [(1e-9, True), (60.0, False), (None, False)])
def test_a_checkpoint_is_due_when_so_many_minutes_are_over(minutes: float | None, saves: bool, tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, logging_steps=1)
    state, control = TrainerState(global_step=3, max_steps=9), TrainerControl()
    stopping = Stopping(save_every_minutes=minutes)
    stopping.on_train_begin()
    stopping.on_step_end(arguments, state, control)
    assert (control.should_save, control.should_training_stop) == (saves, False)


def test_a_save_for_another_reason_starts_the_clock_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [0.0]
    monkeypatch.setattr("nsdrive.vla.training.stopping.time.monotonic", lambda: clock_s[0])
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, logging_steps=1)
    state, control = TrainerState(global_step=3, max_steps=9), TrainerControl()
    stopping = Stopping(save_every_minutes=10.0)
    clock_s[0] = 540.0
    stopping.on_save()
    clock_s[0] = 1100.0
    stopping.on_step_end(arguments, state, control)
    assert not control.should_save
    clock_s[0] = 1140.0
    stopping.on_step_end(arguments, state, control)
    assert control.should_save
