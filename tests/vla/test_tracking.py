"""Where numbers go while a model trains, and that nothing that happens there ends the training."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nsdrive.dataset import json_line
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.tracking import open_tracking


def track(folder: Path, name: str, steps: range, *, resumed_step: int = 0) -> None:
    with open_tracking((name,), folder=folder, config={"seed": 3}, resumed_step=resumed_step) as tracking:
        for step in steps:
            tracking.log(step, {"train/loss": 1.0 / step, "train/head_loss": None, "train/mfu": float("nan")})


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_reads_back_what_was_logged_and_a_resumed_run_takes_back_what_it_repeats(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(tmp_path, "tensorboard", range(1, 8))  # killed after 7, its last checkpoint was of 4
    track(tmp_path, "tensorboard", range(5, 10), resumed_step=4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"], "what was not measured is not there"
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 10))
    assert events.Scalars("train/loss")[3].value == pytest.approx(0.25)
    assert "| seed | 3 |" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_forgets_a_run_that_was_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(tmp_path, "tensorboard", range(1, 8))
    track(tmp_path, "tensorboard", range(1, 5))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


class Service:
    """What the documentation of wandb and trackio promises of `init`, `log` and `finish`."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **how: Any) -> Service:
        self.started.append(how)
        return self

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    one = Service()
    for name in ("wandb", "trackio"):
        module = ModuleType(name)
        module.__dict__.update(init=one.init, log=one.log, finish=one.finish, Settings=SimpleNamespace)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return one


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_is_offline_by_default_and_a_resumed_run_is_the_same_run(
    name: str, service: Service, tmp_path: Path
) -> None:
    track(tmp_path, name, range(1, 4))
    (tmp_path / "loss.jsonl").write_text("".join(json_line({"step": step, "loss": 1.0}) for step in range(1, 4)))
    track(tmp_path, name, range(3, 6), resumed_step=2)
    first, again = service.started
    assert first == again
    assert first["resume"] == "allow"
    assert first["config"] == {"seed": 3}
    assert (first.get("mode") == "offline") == (name == "wandb"), "trackio has no server unless one is named"
    assert {step for step, _ in service.logged} == {1, 2, 3, 4, 5}
    if name == "trackio":
        assert [step for step, _ in service.logged] == [1, 2, 3, 4, 5], "it cannot take a step back"
    assert service.logged[0][1] == {"train/loss": 1.0}
    assert service.finished == 2


def test_trackio_hears_no_step_twice_from_a_run_that_begins_again(service: Service, tmp_path: Path) -> None:
    track(tmp_path, "trackio", range(1, 4))
    (tmp_path / "loss.jsonl").write_text("".join(json_line({"step": step, "loss": 1.0}) for step in range(1, 4)))
    track(tmp_path, "trackio", range(1, 6))  # killed before its first checkpoint
    assert [step for step, _ in service.logged] == [1, 2, 3, 4, 5]


def test_trackio_hears_of_a_validation_that_a_resumed_run_makes_up_for(service: Service, tmp_path: Path) -> None:
    (tmp_path / "loss.jsonl").write_text(json_line({"step": 4, "loss": 1.0}))
    (tmp_path / "validation.jsonl").write_text(json_line({"step": 4, "what": "head", "ADE@3s": 0.5}))
    with open_tracking(("trackio",), folder=tmp_path, config={}, resumed_step=4) as tracking:
        for what in ("head", "text"):
            tracking.log(4, {f"val/{what}/ADE@3s": 0.5})
    assert service.logged == [(4, {"val/text/ADE@3s": 0.5})]


def test_another_run_in_the_same_folder_is_another_run_there(service: Service, tmp_path: Path) -> None:
    track(tmp_path, "wandb", range(1, 2))
    (tmp_path / "tracking.json").unlink()  # --overwrite empties the folder
    track(tmp_path, "wandb", range(1, 2))
    assert service.started[0]["id"] != service.started[1]["id"]


def test_a_tracker_that_fails_is_left_out_after_one_line(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(values: dict[str, float], step: int | None = None) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(sys.modules["trackio"], "log", full)
    with open_tracking(("trackio", "wandb"), folder=tmp_path, config={}, resumed_step=0) as tracking:
        for step in range(1, 4):
            tracking.log(step, {"train/loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "trackio failed and is left out from here on (No space left on device)" in said
    assert [step for step, _ in service.logged] == [1, 2, 3], "the other goes on"


def test_a_tracker_that_cannot_start_or_is_not_installed_is_one_line(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(**_: Any) -> None:
        raise RuntimeError("api_key not configured\nmore of it")

    monkeypatch.setattr(sys.modules["wandb"], "init", refused)
    monkeypatch.setitem(sys.modules, "trackio", None)
    track(tmp_path, "wandb", range(1, 3))
    track(tmp_path, "trackio", range(1, 3))
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("wandb cannot be used and is left out (api_key not configured)")
    assert second.startswith("trackio is not installed, so nothing is sent there (pip install trackio)")


def test_a_tracker_that_nobody_knows_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"No tracker 'wandbb'\. Did you mean 'wandb'"):
        TrainConfig(track=("tensorboard", "wandbb"))
    with pytest.raises(ValueError, match="one tracker twice"):
        TrainConfig(track=("wandb", "wandb"))
    with pytest.raises(ValueError, match="validate_samples at least 1"):
        TrainConfig(validate_samples=0)
