"""Training on two processes: killed, stopped, resumed on as many and on fewer, and the same as on one throughout."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_runs import Ended, data_with_short_answers, end_of, job, seen, start
from vla_fixtures import make_dataset

from nsdrive.vla.model import load_model
from nsdrive.vla.training.checkpoints import newest_checkpoint, read_note
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.loss_log import TIMED

FIVE_STEPS = {"max_steps": 5}  # of 2 samples: both epochs of the 5, the first of which ends within a step
TWO = {"per_device_batch_size": 1, **FIVE_STEPS}  # the same global batch on two processes


def curve(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_log(out / "loss.jsonl")]


def assert_same_curve(out: Path, other: Path) -> None:
    for one, two in zip(curve(out), curve(other), strict=True):
        same = {
            name: None if value is None else pytest.approx(value, rel=1e-4, abs=1e-4) for name, value in one.items()
        }
        assert two == same  # relative: a gradient's norm of 5 differs by 3e-4 between splits


def assert_same_keys(one: Path, other: Path) -> None:
    """transformers 5.23 with ZeRO-3 writes model.language_model.model.language_model.* unless it is stopped."""
    assert load_file(one / "model.safetensors").keys() == load_file(other / "model.safetensors").keys()
    assert "lm_head.weight" not in load_file(one / "model.safetensors")  # tied; DeepSpeed gathers it a second time


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_with_short_answers(tmp_path_factory.mktemp("data"), n_train=5)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Ended]]:
    """The trainings of this file, in one start: most of what each would take alone is imports."""
    folder = tmp_path_factory.mktemp("runs")
    zero_2, zero_3 = {**TWO, "deepspeed": "zero2"}, {**TWO, "deepspeed": "zero3"}
    jobs = {
        "alone": job(FIVE_STEPS, data, folder / "alone"),
        "zero 2, killed": job(zero_2, data, folder / "two", processes=2, kill_at=[1, 3]),
        "zero 2, stopped": job(
            zero_2, data, folder / "two", processes=2, resume=True, signal_at=[1, 3, int(signal.SIGUSR1)]
        ),
        "zero 2, on one": job(zero_2, data, folder / "two", resume=True),
        "zero 3, killed": job(zero_3, data, folder / "three", processes=2, kill_at=[0, 3]),
        "zero 3, resumed": job(zero_3, data, folder / "three", processes=2, resume=True),
    }
    return folder, dict(zip(jobs, start(*jobs.values()), strict=True))


def test_a_killed_process_ends_the_other_and_is_named(runs: tuple[Path, dict[str, Ended]]) -> None:
    killed = runs[1]["zero 2, killed"]
    assert killed.statuses == [1, -9]
    assert killed.said.count("error: ") == 1
    assert "error: rank 1 (" in killed.said
    assert "of 2 processes ended without a word; so the others end. Go on with --resume" in killed.said


def test_the_others_end_too_where_the_first_process_is_killed(runs: tuple[Path, dict[str, Ended]]) -> None:
    killed = runs[1]["zero 3, killed"]
    assert killed.statuses == [-9, 1]
    assert "error: The process that the others meet at (MASTER_ADDR, usually rank 0) is gone" in killed.said


def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(
    runs: tuple[Path, dict[str, Ended]],
) -> None:
    stopped = runs[1]["zero 2, stopped"]
    assert stopped.statuses == [75, 75], stopped.said
    assert "stopped by SIGUSR1 after step 3 of 5, the checkpoint is complete. Go on with --resume" in stopped.said


def test_zero_2_killed_stopped_and_resumed_on_one_process_learns_what_one_process_learns(
    runs: tuple[Path, dict[str, Ended]],
) -> None:
    folder, ended = runs
    assert ended["zero 2, on one"].statuses == [0], ended["zero 2, on one"].said
    assert "keeps its global batch of 2 samples: 1 process x 1 sample at once x 2" in ended["zero 2, on one"].said
    assert_same_curve(folder / "alone", folder / "two")
    assert_same_keys(folder / "two" / "model", folder / "alone" / "model")
    assert json.loads((folder / "two" / "train.json").read_text())["processes"] == 1
    assert not (folder / "two" / "stopped.json").exists()
    assert not list((folder / "two" / "checkpoints").rglob("*universal*")), "the copy for other counts is not kept"


def test_zero_3_killed_and_resumed_learns_what_one_process_learns_and_saves_stock_names(
    runs: tuple[Path, dict[str, Ended]],
) -> None:
    folder, ended = runs
    assert ended["zero 3, resumed"].statuses == [0, 0], ended["zero 3, resumed"].said
    assert_same_curve(folder / "alone", folder / "three")
    assert_same_keys(folder / "three" / "model", folder / "alone" / "model")
    assert json.loads((folder / "three" / "train.json").read_text())["processes"] == 2


@pytest.mark.parametrize("name", ["two", "three"])
def test_tied_embeddings_survive_the_processes(name: str, runs: tuple[Path, dict[str, Ended]]) -> None:
    folder = runs[0]
    model, alone = (load_model(folder / run / "model") for run in (name, "alone"))
    assert model.config.get_text_config().tie_word_embeddings
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.allclose(model.lm_head.weight, alone.lm_head.weight, atol=1e-4)


@pytest.mark.slow
def test_a_failing_sample_ends_all_processes_with_its_one_line(data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "data"
    shutil.copytree(data, bad)
    (bad / "images" / "train-3" / "CAM_F0.jpg").write_bytes(b"not a picture")
    ended = end_of(job({**TWO, "workers": 1}, bad, tmp_path / "run", processes=2))
    assert ended.statuses == [1, 1]
    said = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].startswith("error: Sample train-3: the image CAM_F0.jpg cannot be read")


@pytest.mark.slow
def test_torchrun_passes_a_signal_on_and_all_leave_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    settings, out = tmp_path / "long.yaml", tmp_path / "run"
    settings.write_text(yaml.safe_dump(job({**TWO, "max_steps": 500, "save_every_steps": 500}, data, out)["config"]))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    train = ["-m", "nsdrive.cli", "train", str(settings), "--data", str(data), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([*torchrun, *train], env=environment, stderr=subprocess.PIPE, text=True) as running:
        while len(read_log(out / "loss.jsonl")) < 2 and running.poll() is None:
            time.sleep(0.1)
        running.terminate()
        said = running.communicate()[1]
    steps = len(read_log(out / "loss.jsonl"))
    assert f"stopped by SIGTERM after step {steps} of 500, the checkpoint is complete" in said
    assert json.loads((out / "stopped.json").read_text()) == {"step": steps, "steps": 500, "signal": "SIGTERM"}
    newest = newest_checkpoint(out / "checkpoints")
    assert newest is not None
    assert read_note(newest)["step"] == steps


def test_the_processes_share_every_epoch_without_duplicates_or_gaps(runs: tuple[Path, dict[str, Ended]]) -> None:
    folder = runs[0]
    three = seen(folder / "three", processes=2)
    assert sorted(three) == [(step, rank) for step in range(1, 6) for rank in range(2)]
    in_order = [sample for _, ids in sorted(three.items()) for sample in ids]
    assert sorted(in_order[:5]) == sorted(in_order[5:]) == [f"train-{k}" for k in range(5)]
    alone = seen(folder / "alone", processes=1)
    assert in_order == [sample for _, ids in sorted(alone.items()) for sample in ids]


def test_only_the_first_process_writes(runs: tuple[Path, dict[str, Ended]]) -> None:
    folder = runs[0]
    steps = [row["step"] for row in read_log(folder / "three" / "loss.jsonl")]
    assert steps == [1, 2, 3, 4, 5], "a row a step, not one a process"
    assert sorted(path.name for path in (folder / "three").iterdir()) == [
        "base",
        "checkpoints",
        "config.json",
        "loss.jsonl",
        "model",
        "tensorboard",
        "train.json",
    ]
    newest = newest_checkpoint(folder / "three" / "checkpoints")
    assert newest is not None
    note = read_note(newest)
    assert (note["step"], note["processes"], note["global_batch"]) == (5, 2, 2)


def test_a_count_that_cannot_share_the_global_batch_is_refused_with_those_that_can() -> None:
    from nsdrive.vla.training.config import TrainConfig
    from nsdrive.vla.training.resuming import split_global_batch

    with pytest.raises(
        ValueError, match=r"24 samples cannot be shared by 5 processes\. Resume with 1, 2, 3, 4, 6, 8, 12, 24"
    ):
        split_global_batch(TrainConfig(), 24, processes=5)
    split = split_global_batch(TrainConfig(per_device_batch_size=5), 24, processes=3)
    assert (split.per_device_batch_size, split.gradient_accumulation_steps) == (4, 2)
    unchanged = TrainConfig(per_device_batch_size=3, gradient_accumulation_steps=4)
    assert split_global_batch(unchanged, 24, processes=2) is unchanged


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", ["none", "zero1", "zero3"])
def test_a_run_goes_on_with_more_or_fewer_processes(
    deepspeed: str, data: Path, runs: tuple[Path, dict[str, Ended]], tmp_path: Path
) -> None:
    config, out = {**TWO, "deepspeed": deepspeed}, tmp_path / "run"
    wide = {**config, "per_device_batch_size": 2}
    term = int(signal.SIGTERM)
    ended = start(
        job(wide, data, out, signal_at=[0, 1, term]),
        job(wide, data, out, resume=True, processes=2, signal_at=[0, 3, term]),
        job(wide, data, out, resume=True),
    )
    assert [one.statuses for one in ended] == [[75], [75, 75], [0]], [one.said for one in ended]
    assert_same_curve(runs[0] / "alone", out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [{"vision_learning_rate": 1e-4, "weight_decay": 0.3}, {"method": "lora", "lora_rank": 4}],
    ids=["full", "lora"],
)
def test_on_more_processes_zero_3_keeps_each_groups_rate_decay_and_count_of_steps(
    how: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """As DeepSpeed 0.19 loads a universal checkpoint, all groups have the first one's, and count each other's steps."""
    how = {**FIVE_STEPS, **how}
    alone, out = tmp_path / "alone", tmp_path / "run"
    ended = start(
        job(how, data, alone),
        job({**how, "deepspeed": "zero3"}, data, out, signal_at=[0, 2, int(signal.SIGTERM)]),
        job({**how, "deepspeed": "zero3"}, data, out, resume=True, processes=2),
    )
    assert [one.statuses for one in ended] == [[0], [75], [0, 0]], [one.said for one in ended]
    assert_same_curve(alone, out)
    weights, same = (load_file(run / "model" / "model.safetensors") for run in (out, alone))
    for name, weight in same.items():
        assert torch.allclose(weights[name], weight, atol=1e-4), name


@pytest.mark.slow
def test_zero_1_killed_and_resumed_learns_what_one_process_learns(
    data: Path, runs: tuple[Path, dict[str, Ended]], tmp_path: Path
) -> None:
    zero_1, out = {**TWO, "deepspeed": "zero1"}, tmp_path / "run"
    killed, resumed = start(
        job(zero_1, data, out, processes=2, kill_at=[1, 3]), job(zero_1, data, out, processes=2, resume=True)
    )
    assert killed.statuses == [1, -9]
    assert resumed.statuses == [0, 0], resumed.said
    assert_same_curve(runs[0] / "alone", out)


@pytest.mark.slow
def test_lora_under_zero_3_merges(data: Path, tmp_path: Path) -> None:
    config = {**TWO, "deepspeed": "zero3", "method": "lora", "gradient_checkpointing": True}
    done = end_of(job(config, data, tmp_path / "lora", processes=2))
    assert done.statuses == [0, 0], done.said
    assert_same_keys(tmp_path / "lora" / "model", tmp_path / "lora" / "base")


@pytest.mark.slow
@pytest.mark.parametrize("deepspeed", ["zero2", "zero3"])
def test_a_process_without_an_image_does_not_stall_zero(deepspeed: str, tmp_path: Path) -> None:
    mixed = make_dataset(tmp_path / "data", n_train=4, n_images=0)
    make_dataset(tmp_path / "seen", n_train=4)
    shard = mixed / "train-00000.jsonl"
    lines = shard.read_text().splitlines()
    lines[::2] = (tmp_path / "seen" / "train-00000.jsonl").read_text().splitlines()[::2]
    (tmp_path / "seen" / "images").rename(mixed / "images")
    shard.write_text("".join(line + "\n" for line in lines))
    done = end_of(job({**TWO, "deepspeed": deepspeed}, mixed, tmp_path / "run", processes=2))
    assert done.statuses == [0, 0], done.said
    assert len(curve(tmp_path / "run")) == 5
