"""The trajectory head on two processes, under ZeRO, with LoRA, and alone after the steps: what one process learns, whole."""

from __future__ import annotations

import gc
import json
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import FOUR_STEPS, Ended, data_with_short_answers, job, start

from nsdrive.cli import main
from nsdrive.vla import train as training
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.loss_log import TIMED
from nsdrive.vla.trajectory_head import load_head

pytestmark = pytest.mark.slow

HEAD = {"trajectory_head": "regression", "max_steps": 3, "warmup_steps": 0}
TWO = {**HEAD, "per_device_batch_size": 1}  # the same global batch on two processes
LORA = {"method": "lora", "lora_rank": 4}
TERM = int(signal.SIGTERM)
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "zero1": {"deepspeed": "zero1"},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
    "zero3 packed": {"deepspeed": "zero3", "packing": True, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_with_short_answers(tmp_path_factory.mktemp("data"), n_train=5)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Ended]]:
    folder = tmp_path_factory.mktemp("runs")
    flow = {**TWO, "trajectory_head": "flow", "deepspeed": "zero3"}
    jobs = {
        "alone": job(HEAD, data, folder / "alone"),
        "lora alone": job({**HEAD, **LORA}, data, folder / "lora-alone"),
        **{way: job({**TWO, **change}, data, folder / way, processes=2) for way, change in WAYS.items()},
        "lora zero3": job({**TWO, **LORA, "deepspeed": "zero3"}, data, folder / "lora-zero3", processes=2),
        "flow": job(flow, data, folder / "flow", processes=2),
        "flow, stopped": job(flow, data, folder / "flow-again", processes=2, signal_at=[0, 2, TERM]),
        "flow, resumed": job(flow, data, folder / "flow-again", processes=2, resume=True),
        "zero3, stopped": job(
            {**TWO, "deepspeed": "zero3"}, data, folder / "fewer", processes=2, signal_at=[1, 2, TERM]
        ),
        "zero3, on one": job({**TWO, "deepspeed": "zero3"}, data, folder / "fewer", resume=True),
    }
    return folder, dict(zip(jobs, start(*jobs.values()), strict=True))


def curve(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_log(out / "loss.jsonl")]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    """The model's and the head's."""
    head = load_file(model / "trajectory_head" / "head.safetensors")
    return load_file(model / "model.safetensors") | {f"head.{name}": value for name, value in head.items()}


def assert_learned_alike(one: Path, other: Path, *, within: float = 5e-4) -> None:
    """AdamW's first steps are as long as the rate (2e-3), so that weights that moved otherwise are further apart."""
    for row, same in zip(curve(one), curve(other), strict=True):
        assert row == {k: v if v is None else pytest.approx(v, rel=1e-3, abs=1e-4) for k, v in same.items()}
    weights, others = weights_of(one / "model"), weights_of(other / "model")
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert value.numel(), f"{name} is empty"
        assert (value - others[name]).abs().mean() < within, name


@pytest.mark.parametrize("way", list(WAYS))
def test_two_processes_give_the_head_and_the_model_that_one_gives(
    way: str, runs: tuple[Path, dict[str, Ended]]
) -> None:
    folder, ended = runs
    assert ended["alone"].statuses == [0], ended["alone"].said
    assert ended[way].statuses == [0, 0], ended[way].said
    assert_learned_alike(folder / way, folder / "alone")
    assert curve(folder / way)[0]["head_loss"] != curve(folder / way)[-1]["head_loss"]
    head = load_head(folder / way / "model")
    assert head is not None
    assert head.layers[-1].weight.any(), "it has left the zeros that it began with"


def test_a_flow_head_under_zero_3_is_resumed_exactly(runs: tuple[Path, dict[str, Ended]]) -> None:
    folder, ended = runs
    statuses = [ended[name].statuses for name in ("flow", "flow, stopped", "flow, resumed")]
    assert statuses == [[0, 0], [75, 75], [0, 0]], [one.said for one in ended.values()]
    assert curve(folder / "flow-again") == curve(folder / "flow")
    again, whole = weights_of(folder / "flow-again" / "model"), weights_of(folder / "flow" / "model")
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_a_head_goes_on_with_fewer_processes(runs: tuple[Path, dict[str, Ended]]) -> None:
    folder, ended = runs
    assert [ended[name].statuses for name in ("zero3, stopped", "zero3, on one")] == [[75, 75], [0]], [
        ended["zero3, stopped"].said,
        ended["zero3, on one"].said,
    ]
    assert_learned_alike(folder / "fewer", folder / "alone")


def test_a_head_learns_beside_lora_and_the_merged_model_keeps_it(
    runs: tuple[Path, dict[str, Ended]], data: Path, tmp_path: Path
) -> None:
    folder, ended = runs
    assert ended["lora alone"].statuses == [0], ended["lora alone"].said
    assert ended["lora zero3"].statuses == [0, 0], ended["lora zero3"].said
    assert_learned_alike(folder / "lora-zero3", folder / "lora-alone")
    for run in ("lora-alone", "lora-zero3"):
        merged, beside = (load_head(folder / run / part) for part in ("model", "adapter"))
        assert merged is not None
        assert beside is not None
        assert merged.layers[-1].weight.any(), "it has left the zeros that it began with"
        assert all(torch.equal(value, beside.state_dict()[name]) for name, value in merged.state_dict().items())
        names = load_file(folder / run / "adapter" / "adapter_model.safetensors").keys()
        assert not [name for name in names if "trajectory_head" in name], "what peft would not know"
    out = tmp_path / "answers.jsonl"
    command = ["predict", "--model", str(folder / "lora-zero3"), "--data", str(data), "--out", str(out)]
    assert main([*command, "--mode", "head", "--split", "train"]) == 0
    answers = read_jsonl(out)
    assert len(answers) == 5
    assert all(answer["mode"] == "head" for answer in answers)


def test_the_others_wait_for_the_first_longer_than_for_a_lost_one(data: Path, tmp_path: Path) -> None:
    """Warming the eyes before the steps, and training the head on after them, may take hours: no collective waits so long."""
    config = {**TWO, "deepspeed": "zero3", "head_epochs": 2, "head_samples": 5, "process_timeout_minutes": 0.5}
    (ended,) = start(job(config, data, tmp_path / "run", processes=2, first_takes_s=40.0))
    assert ended.statuses == [0, 0], ended.said
    assert [row["epoch"] for row in read_jsonl(tmp_path / "run" / "head.jsonl")] == [0, 1, 2]
    assert (tmp_path / "run" / "train.json").is_file()


def test_the_others_end_when_the_first_fails_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("not a run")
    (ended,) = start(job({**TWO, "deepspeed": "zero2"}, data, tmp_path / "run", processes=2))
    assert ended.statuses == [1, 1]
    said = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "exists. Go on with --resume" in said[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_that_trained_is_in_memory_when_the_head_learns_on_and_a_process_can_train_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    monkeypatch.setattr(training, "finish_run", lambda *_: held.append(bytes_of_tensors()))
    for number, deepspeed in enumerate(("zero3", "zero3", "zero2", "none")):
        config = replace(FOUR_STEPS, max_steps=1, deepspeed=deepspeed, trajectory_head="regression", head_epochs=1)
        training.train(config, dataset=data, out=tmp_path / str(number))
    model = tmp_path / "0" / "model" / "model.safetensors"
    assert max(held) < 0.1 * model.stat().st_size


def bytes_of_tensors() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what looks at every object also asks those that are deprecated
        found = [one.untyped_storage() for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return sum({one.data_ptr(): one.nbytes() for one in found}.values())
