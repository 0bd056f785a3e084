"""ADE and miss rate on validation samples while a model trains: what is measured, and that measuring leaves no trace."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import job, start
from transformers import TrainerControl, TrainerState
from vla_fixtures import make_dataset

from nsdrive.dataset import MANIFEST, open_dataset, sha256_of
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.displacement import displacements_m
from nsdrive.vla.inference.engine import OutOfMemory
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.train import TrainConfig, TrainingStopped, train
from nsdrive.vla.training import validation
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.loss_log import TIMED, LossLog
from nsdrive.vla.training.stopping import Stopping
from nsdrive.vla.training.tracking import Tracking
from nsdrive.vla.training.validation import shares, validations

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
CONFIG = TrainConfig(
    max_steps=2,
    per_device_batch_size=2,
    learning_rate=2e-3,
    warmup_steps=1,
    save_every_steps=2,
    min_image_pixels=1024,
    max_image_pixels=2048,
    tiny_vocabulary=512,
    lora_dropout=0.0,
    trajectory_head="flow",  # its loss draws random numbers in every step
    track=(),
)
EVERY = replace(CONFIG, validate_every_steps=1, validate_samples=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples without reasoning; five of them are for validation, one of which has lost its pictures."""
    folder = make_dataset(tmp_path_factory.mktemp("data"), n_train=4, n_test=5, level="none")
    rows = [json.loads(line) for line in (folder / "test-00000.jsonl").read_text().splitlines()]
    rows[2]["images"] = [name.replace("test-2", "gone") for name in rows[2]["images"]]
    (folder / "val-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["val-00000.jsonl"] = sha256_of(folder / "val-00000.jsonl")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "measured"
    train(EVERY, dataset=data, out=out)
    return out


def asked_to_stop_in_call(n: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, in whose n-th call SIGTERM comes."""
    calls = iter(range(1, 1000))

    def asked(*given: Any, **named: Any) -> Any:
        if next(calls) == n:
            signal.raise_signal(signal.SIGTERM)
        return function(*given, **named)

    return asked


def untimed(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(out / "validation.jsonl")]


def curve(out: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_log(out / "loss.jsonl")]


def test_a_training_that_is_measured_learns_the_same_to_the_bit(data: Path, measured: Path, tmp_path: Path) -> None:
    train(CONFIG, dataset=data, out=tmp_path / "plain")
    assert curve(measured) == curve(tmp_path / "plain")
    assert not (tmp_path / "plain" / "validation.jsonl").exists(), "nothing is measured unless asked for"
    for name in ("model.safetensors", "trajectory_head/head.safetensors"):
        assert sha256_of(measured / "model" / name) == sha256_of(tmp_path / "plain" / "model" / name)


def test_text_and_head_are_measured_and_a_sample_that_cannot_be_asked_is_ten_metres_off(
    data: Path, measured: Path
) -> None:
    rows = read_log(measured / "validation.jsonl")
    assert [(row["step"], row["samples_seen"], row["what"]) for row in rows] == [
        (1, 2, "head"),
        (1, 2, "text"),
        (2, 4, "head"),
        (2, 4, "text"),
    ]
    head, text = rows[:2]
    assert (head["n"], text["n"]) == (5, 2), "the head answers more samples, here all that there are"
    assert head["failed"] == 1, "the one without pictures"
    # After one step at rate 0 the head says what it began with: constant speed, which is what these samples' egos do
    assert head["ADE@3s"] == pytest.approx(10.0 / 5, abs=0.02)
    assert head["miss_rate@3s"] == pytest.approx(1 / 5)
    assert 0.0 < text["ADE@3s"] < 1000.0


def test_a_resumed_run_measures_what_an_undisturbed_one_does(data: Path, measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "again")
    (tmp_path / "again" / "train.json").unlink()  # ended after its last checkpoint, before the result was written
    with (tmp_path / "again" / "validation.jsonl").open("a") as file:
        file.write('{"step": 2, "wh')
    train(EVERY, dataset=data, out=tmp_path / "again", resume=True)
    kept = [read_log(folder / "validation.jsonl") for folder in (tmp_path / "again", measured)]
    assert kept[0] == kept[1]


@pytest.mark.usefixtures("own_signals")
def test_a_signal_while_it_is_measured_loses_no_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "BATCH_SIZE", 2)  # before each batch it looks whether it is asked to stop
    config = replace(
        EVERY, max_steps=3, validate_every_steps=2
    )  # each look: three batches for the head, one for the text
    out = tmp_path / "run"
    train(config, dataset=data, out=tmp_path / "undisturbed")

    def train_asked_to_stop_in_batch(n: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Predictor, "waypoints", asked_to_stop_in_call(n, Predictor.waypoints))
            train(config, dataset=data, out=out, resume=out.exists())

    with pytest.raises(TrainingStopped, match="after step 2 of 3"):
        train_asked_to_stop_in_batch(2)
    assert untimed(out) == []
    with pytest.raises(TrainingStopped, match="before step 3 of 3"):
        train_asked_to_stop_in_batch(3)
    assert [(row["step"], row["what"]) for row in untimed(out)] == [(2, "head")], "this much was done when it came"
    train_asked_to_stop_in_batch(1)  # after the last step: it ends anyway
    assert untimed(out) == untimed(tmp_path / "undisturbed")
    assert curve(out) == curve(tmp_path / "undisturbed")
    of_both = [sha256_of(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "undisturbed")]
    assert of_both[0] == of_both[1]


def test_questions_about_images_are_trained_on_without_validation_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = make_dataset(tmp_path / "questions", n_train=2, n_test=1, level="none")
    rows = [json.loads(line) for line in (questions / "train-00000.jsonl").read_text().splitlines()]
    for row in rows:
        row["trace_level"] = "perception"
        row["messages"][1]["content"] = "vehicle, 12.3 m, 0 deg"
        row["nsdrive"] = {"topic": "nearest"}
    for split in ("train", "val"):
        (questions / f"{split}-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((questions / MANIFEST).read_text()) | {"kind": "perception"}
    manifest["files"] = {name: sha256_of(questions / name) for name in ("train-00000.jsonl", "val-00000.jsonl")}
    (questions / MANIFEST).write_text(json.dumps(manifest))
    out = tmp_path / "run"
    summary = train(replace(EVERY, max_steps=1, trajectory_head="none"), dataset=questions, out=out)
    said = capsys.readouterr().err
    line = "The samples to validate on are questions about images, without waypoints: no ADE while training\n"
    assert said.count(line) == 1
    assert summary.steps == 1
    assert not (out / "validation.jsonl").exists()


@pytest.mark.parametrize("zero3", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_too_small_a_memory_ends_only_those_who_wait_for_each_other_in_their_answers(
    zero3: bool, processes: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "is_deepspeed_zero3_enabled", lambda: zero3)
    log, stopping = LossLog(tmp_path / "loss.jsonl", resumed_step=0, progress=None), Stopping(save_every_minutes=None)
    [one] = validations(EVERY, data, log, tmp_path, stopping, resumed_step=0, tracking=Tracking({}))
    monkeypatch.setattr(one, "_asked", lambda index: None)
    tried = []

    def points(what: str, predictor: Any, asked: list[Any]) -> Any:
        tried.append(len(asked))
        raise OutOfMemory("The GPU's memory does not suffice")

    monkeypatch.setattr(one, "_points", points)
    args: Any = SimpleNamespace(process_index=0, world_size=processes, device=torch.device("cpu"))
    predictor: Any = None  # not asked
    state = TrainerState(global_step=1, max_steps=2)
    if zero3 and processes > 1:
        with pytest.raises(ValueError, match="Set validate_every_steps=0, or validate_samples below 2") as raised:
            one._measured("text", predictor, args, state)
        assert "\n" not in str(raised.value)
    else:
        assert one._measured("text", predictor, args, state) is None
        assert tried[-1] == (2 if zero3 else 1), "smaller batches are tried where that stops nobody"


def test_a_dataset_without_a_validation_split_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "data", n_train=2, n_test=1, level="none")
    log = LossLog(tmp_path / "loss.jsonl", resumed_step=0, progress=None)
    stopping, tracking = Stopping(save_every_minutes=None), Tracking({})
    [one] = validations(EVERY, data, log, tmp_path, stopping, resumed_step=0, tracking=tracking)
    state, control = TrainerState(is_world_process_zero=True, global_step=1, max_steps=1), TrainerControl()
    arguments: Any = None  # not looked at
    one.on_train_begin(arguments, state, control)
    one.on_step_end(arguments, state, control)
    one.on_train_end(arguments, state, control)
    assert capsys.readouterr().err == "There are no samples to validate on: no ADE while training\n"
    assert not (tmp_path / "validation.jsonl").exists()
    assert validations(CONFIG, data, log, tmp_path, stopping, resumed_step=0, tracking=tracking) == []


@pytest.mark.parametrize(("n", "processes", "batch_size"), [(5, 1, 2), (5, 2, 2), (1, 4, 8), (64, 8, 8), (9, 3, 2)])
def test_every_sample_is_asked_once_and_all_processes_go_in_step(n: int, processes: int, batch_size: int) -> None:
    of_each = [shares(n, process, processes, batch_size) for process in range(processes)]
    asked = [place for batches in of_each for batch in batches for place in batch if place is not None]
    assert sorted(asked) == list(range(n))
    assert len({tuple(len(batch) for batch in batches) for batches in of_each}) == 1
    assert max(len(batch) for batch in of_each[0]) <= batch_size


def test_waypoints_that_are_the_labels_are_no_distance_away(data: Path) -> None:
    rows = Rows(open_dataset(data), "val")
    label = rows[0].waypoints_ego_m
    assert label is not None
    assert displacements_m(label[None], label[None], np.array([True])).max() == 0.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="two processes over gloo")
@pytest.mark.parametrize("deepspeed", ["none", "zero2", "zero3"])
def test_two_processes_share_the_samples_and_measure_what_one_does(
    deepspeed: str, data: Path, measured: Path, tmp_path: Path
) -> None:
    two = {**asdict(EVERY), "per_device_batch_size": 1, "deepspeed": deepspeed}
    [ended] = start(job(two, data, tmp_path / "two", processes=2))
    assert ended.statuses == [0, 0], ended.said[-2000:]
    one, other = (read_log(folder / "validation.jsonl") for folder in (measured, tmp_path / "two"))
    assert [(row["step"], row["what"], row["n"], row["failed"]) for row in one] == [
        (row["step"], row["what"], row["n"], row["failed"]) for row in other
    ]
    for mine, theirs in zip(one, other, strict=True):
        if mine["what"] == "head":
            assert theirs["ADE@3s"] == pytest.approx(mine["ADE@3s"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="two processes over gloo")
@pytest.mark.parametrize("deepspeed", ["zero2", "zero3"])
def test_two_processes_resume_with_the_validation_that_a_signal_left_out(
    deepspeed: str, data: Path, tmp_path: Path
) -> None:
    two = asdict(replace(EVERY, max_steps=4, validate_every_steps=2, per_device_batch_size=1, deepspeed=deepspeed))
    out = tmp_path / "stopped"
    whole, stopped, resumed = start(
        job(two, data, tmp_path / "whole", processes=2),
        job(two, data, out, processes=2, signal_at=[1, 2, signal.SIGTERM]),
        job(two, data, out, processes=2, resume=True),
    )
    assert [ended.statuses for ended in (whole, stopped, resumed)] == [[0, 0], [75, 75], [0, 0]], resumed.said[-2000:]
    assert [row["step"] for row in untimed(out)] == [2, 2, 4, 4]
    assert untimed(out) == untimed(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="two processes over gloo")
def test_under_zero3_all_processes_end_when_the_memory_of_one_does_not_suffice(data: Path, tmp_path: Path) -> None:
    two = asdict(replace(EVERY, per_device_batch_size=1, deepspeed="zero3"))
    [ended] = start(job(two, data, tmp_path / "run", processes=2, no_memory_at=1))
    assert ended.statuses == [1, 1], ended.said[-2000:]
    assert ended.said.count("error: The GPU's memory does not suffice for a validation by head") == 1
