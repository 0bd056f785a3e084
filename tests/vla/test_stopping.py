"""When a training saves by the clock, and that it stops in the parts that are not steps too."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from data_gen.generate import GenerateConfig, generate
from data_gen.sample import SampleConfig
from nsdrive.config import Chosen
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.vla.train import TrainConfig, TrainingStopped, train
from nsdrive.vla.training import head_alone, warmup
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.stopping import Stopping
from nsdrive.vla.training.trainer import AnswerTrainer
from planners.idm import IdmConfig, IdmPlanner


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


class Calls:
    """A function that asks this process to stop when it is called the n-th time."""

    def __init__(self, function: Callable[..., Any], n: int) -> None:
        self._function, self._n, self._count = function, n, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._count += 1
        if self._count == self._n:
            signal.raise_signal(signal.SIGTERM)
        return self._function(*arguments, **named)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples that say what their images show, which a warm-up learns from."""
    config = GenerateConfig(
        scenarios=Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=4, seed=3)),
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=64,
        image_height_px=36,
        samples=SampleConfig(anchors_per_scenario=2, trace_level="none"),
        train_share=1.0,
        val_share=0.0,
    )
    out = tmp_path_factory.mktemp("scenes") / "data"
    generate(config, partial(IdmPlanner, IdmConfig()), out=out)
    return out


@pytest.mark.usefixtures("own_signals")
def test_a_run_stopped_in_its_warm_up_and_in_its_head_passes_ends_as_if_undisturbed(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        vision_warmup_steps=4,
        vision_warmup_batch=2,
        max_steps=1,
        per_device_batch_size=2,
        trajectory_head="regression",
        head_epochs=2,
        head_samples=6,
        min_image_pixels=1024,
        max_image_pixels=2048,
        validate_every_steps=0,
        track=(),
    )
    train(config, dataset=scenes, out=tmp_path / "undisturbed")
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(warmup, "_step", Calls(warmup._step, 2))
        with pytest.raises(TrainingStopped, match="in the vision warm-up, after step 2 of 4, which is kept"):
            train(config, dataset=scenes, out=out)
    assert json.loads((out / "stopped.json").read_text()) == {"step": 0, "steps": 1, "signal": "SIGTERM"}
    assert not (out / "warmed").exists()
    with monkeypatch.context() as patched:
        patched.setattr(warmup, "_step", counted_steps := Calls(warmup._step, 0))
        patched.setattr(head_alone, "error_m", Calls(head_alone.error_m, 2))
        with pytest.raises(TrainingStopped, match="in the passes of the trajectory head alone, which begin again"):
            train(config, dataset=scenes, out=out, resume=True)
    assert counted_steps._count == 2, "the first two steps were kept"
    assert not (out / "train.json").exists()
    train(config, dataset=scenes, out=out, resume=True)
    kept = ["warmup.jsonl", "head.jsonl", "model/model.safetensors", "model/trajectory_head/head.safetensors"]
    for name in [*kept, "warmed/model.safetensors"]:
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    assert not {"warming.pt", "stopped.json"} & {path.name for path in out.iterdir()}


@pytest.mark.usefixtures("own_signals")
def test_a_signal_to_the_whole_group_loses_no_worker_and_no_token(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher, a scheduler or a shell signals the workers that read images too."""
    config = TrainConfig(
        max_steps=8,
        per_device_batch_size=1,
        log_every_steps=4,
        save_every_steps=8,
        min_image_pixels=1024,
        max_image_pixels=2048,
        workers=2,
        track=(),
    )
    step = AnswerTrainer.training_step

    def signalled(self: AnswerTrainer, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == 5 and not (tmp_path / "run" / "signalled").exists():
            (tmp_path / "run" / "signalled").touch()
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for worker in workers:
                os.kill(int(worker.pid or 0), signal.SIGTERM)
            time.sleep(0.5)  # long enough for one to die of it
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments, **named)

    monkeypatch.setattr(AnswerTrainer, "training_step", signalled)
    with pytest.raises(TrainingStopped, match="after step 6 of 8, the checkpoint is complete"):
        train(config, dataset=scenes, out=tmp_path / "run")
    train(config, dataset=scenes, out=tmp_path / "run", resume=True)
    rows = read_log(tmp_path / "run" / "loss.jsonl")
    assert [row["step"] for row in rows] == [4, 6, 8]
    undisturbed = train(replace(config, workers=0), dataset=scenes, out=tmp_path / "undisturbed")
    assert sum(row["tokens"] for row in rows) == undisturbed.answer_tokens
    ours, theirs = (load_file(tmp_path / run / "model/model.safetensors") for run in ("run", "undisturbed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_all_processes_leave_a_warm_up_that_one_of_them_does(scenes: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tmp_path / "warm.yaml"
    warm = {
        "vision_warmup_steps": 300,
        "vision_warmup_batch": 2,
        "max_steps": 2,
        "workers": 1,
        "save_every_minutes": 1e-9,
        "track": [],
    }
    settings.write_text(yaml.safe_dump(warm | {"per_device_batch_size": 1, "deepspeed": "zero2"}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    train = ["-m", "nsdrive.cli", "train", str(settings), "--data", str(scenes), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([*torchrun, *train], env=environment, stderr=subprocess.PIPE, text=True) as running:
        while not (out / "warming.pt").exists() and running.poll() is None:
            time.sleep(0.05)
        running.terminate()
        said = running.communicate()[1]
    assert said.count("stopped by SIGTERM in the vision warm-up, after step") == 1, said
    assert not (out / "warmed").exists()
    again = subprocess.run([*torchrun, *train, "--resume"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    steps = [json.loads(line)["step"] for line in (out / "warmup.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 301)]
