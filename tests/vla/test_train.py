"""Training in one process, also killed and resumed. Curves are compared number by number."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import FOUR_STEPS, data_with_short_answers, end_of, job
from transformers import AutoModelForImageTextToText

from nsdrive.vla import train as training
from nsdrive.vla.model import load_model, load_processor
from nsdrive.vla.train import TrainConfig, TrainSummary, train
from nsdrive.vla.training.arguments import GATHERS, deepspeed_config
from nsdrive.vla.training.checkpoints import complete_checkpoints
from nsdrive.vla.training.logs import read_log
from nsdrive.vla.training.loss_log import PARTS, TIMED
from nsdrive.vla.training.run_folder import settle_config

# What the libraries of one release say of each other's next one: DeepSpeed 0.19 of torch, peft 0.21 of transformers
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_with_short_answers(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "undisturbed"
    train(FOUR_STEPS, dataset=data, out=out)
    return out


def curve(out: Path) -> list[dict[str, Any]]:
    """loss.jsonl but for what a clock says."""
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_log(out / "loss.jsonl")]


def test_a_run_learns_and_leaves_a_stock_checkpoint(undisturbed: Path) -> None:
    rows = read_log(undisturbed / "loss.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert set(rows[0]) == {"step", "samples_seen", "loss", "learning_rate", "grad_norm", "tokens", *PARTS, *TIMED}
    assert [row["samples_seen"] for row in rows] == [2, 4, 6, 8]
    summary = json.loads((undisturbed / "train.json").read_text())
    assert summary["steps"] == 4
    assert summary["final_loss"] == rows[-1]["loss"]
    assert summary["answer_tokens"] == sum(row["tokens"] for row in rows)
    model = AutoModelForImageTextToText.from_pretrained(undisturbed / "model")
    start = AutoModelForImageTextToText.from_pretrained(undisturbed / "base")
    assert not torch.equal(model.lm_head.weight, start.lm_head.weight)
    assert load_processor(undisturbed / "model").image_processor.size["longest_edge"] == 2048
    assert (undisturbed / "model" / "chat_template.jinja").is_file()
    assert not list((undisturbed / "model").glob("*.bin")), "nothing pickled in what is passed on"


def test_the_loss_is_a_mean_over_the_answer_tokens_of_the_global_batch(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Two samples at once, or one after the other: the same step, though their answers differ in length."""
    split = replace(FOUR_STEPS, per_device_batch_size=1, gradient_accumulation_steps=2)
    train(split, dataset=data, out=tmp_path / "split")
    for one, other in zip(curve(undisturbed), curve(tmp_path / "split"), strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_killed_while_it_writes_a_checkpoint_and_resumed_it_gives_the_same_curve(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    assert end_of(job({}, data, out, kill_in_save=4)).statuses == [-9]
    assert (out / "checkpoints" / "checkpoint-4").is_dir()
    assert [path.name for path in complete_checkpoints(out / "checkpoints")] == ["checkpoint-2"]
    copy = shutil.copytree(out / "checkpoints", tmp_path / "copy")
    (copy / "checkpoint-2" / "optimizer.pt").unlink()
    assert not complete_checkpoints(copy), "transformers would go on without it, and learn something else"
    assert not (out / "train.json").exists()
    with pytest.raises(ValueError, match="Go on with --resume"):
        train(FOUR_STEPS, dataset=data, out=out)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate: 0.002 -> 0.1\)"):
        train(replace(FOUR_STEPS, learning_rate=0.1), dataset=data, out=out, resume=True)
    with (out / "loss.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    summary = train(FOUR_STEPS, dataset=data, out=out, resume=True)
    assert curve(out) == curve(undisturbed)
    weights, others = load_file(out / "model/model.safetensors"), load_file(undisturbed / "model/model.safetensors")
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert train(FOUR_STEPS, dataset=data, out=out, resume=True) == summary, "what is complete is left alone"


def test_deepspeed_works_in_one_plain_process_and_cleans_up(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    summary = train(replace(FOUR_STEPS, deepspeed="zero1"), dataset=data, out=tmp_path / "zero1")
    assert isinstance(summary, TrainSummary)
    assert os.environ.get("RANK") == before.get("RANK")
    assert not torch.distributed.is_initialized()
    for one, other in zip(curve(undisturbed), curve(tmp_path / "zero1"), strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_lora_with_gradient_checkpointing_trains_few_weights_and_merges(data: Path, tmp_path: Path) -> None:
    config = replace(FOUR_STEPS, method="lora", gradient_checkpointing=True, max_steps=2, lora_rank=4)
    summary = train(config, dataset=data, out=tmp_path / "lora")
    assert 0 < summary.trained_parameters < 0.1 * summary.parameters
    merged, adapter = load_model(tmp_path / "lora/model"), load_model(tmp_path / "lora/adapter")
    assert load_processor(tmp_path / "lora/adapter").image_processor.size["longest_edge"] == 2048
    base = load_model(tmp_path / "lora/base").state_dict()
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, base[name])}
    assert changed
    assert all("language_model" in name for name in changed)
    for name, value in adapter.state_dict().items():
        assert torch.allclose(value, merged.state_dict()[name])


def test_a_run_shorter_than_its_logging_has_its_last_step_logged(data: Path, tmp_path: Path) -> None:
    short = replace(FOUR_STEPS, max_steps=1, log_every_steps=2, save_every_steps=2)
    assert train(short, dataset=data, out=tmp_path / "short").final_loss > 0.0
    assert [row["step"] for row in read_log(tmp_path / "short/loss.jsonl")] == [1]


def test_a_frozen_vision_tower_stays_as_it_was(data: Path, tmp_path: Path) -> None:
    train(replace(FOUR_STEPS, freeze_vision=True, max_steps=1, warmup_steps=0), dataset=data, out=tmp_path / "run")
    base, model = (load_model(tmp_path / "run" / name).state_dict() for name in ("base", "model"))
    still = {name for name in base if torch.equal(base[name], model[name])}
    assert {name for name in base if ".visual." in name} <= still
    assert any("language_model" in name for name in base.keys() - still)


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_samples(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"The loss became (nan|inf) at step \d.*train-\d"):
        train(
            replace(FOUR_STEPS, learning_rate=1e18, warmup_steps=0, max_grad_norm=1e9),
            dataset=data,
            out=tmp_path / "nan",
        )
    assert not (tmp_path / "nan" / "train.json").exists()


def test_a_gradient_that_is_not_a_number_stops_the_run_before_its_step_and_names_the_samples(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = training._learning_model

    def learning_model(*arguments: Any, **named: Any) -> Any:
        model = make(*arguments, **named)
        model.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
        return model

    monkeypatch.setattr(training, "_learning_model", learning_model)
    with pytest.raises(
        ValueError, match=r"The gradient became inf at step 1, in one of the samples train-\d, train-\d\."
    ):
        train(replace(FOUR_STEPS, log_every_steps=2), dataset=data, out=tmp_path / "nan")
    assert not read_log(tmp_path / "nan" / "loss.jsonl")


def test_settings_that_cannot_be_are_refused_in_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No DeepSpeed config 'zero4'\. Did you mean"):
        train(replace(FOUR_STEPS, deepspeed="zero4"), dataset=data, out=tmp_path / "a")
    own = tmp_path / "own.json"
    own.write_text('{"optimizer": {}}')
    with pytest.raises(ValueError, match="has a section 'optimizer'"):
        train(replace(FOUR_STEPS, deepspeed=str(own)), dataset=data, out=tmp_path / "a")
    own.write_text(json.dumps({"zero_optimization": {"stage": 3, GATHERS: False}}))
    with pytest.raises(ValueError, match="the result would have no weights"):
        train(replace(FOUR_STEPS, deepspeed=str(own)), dataset=data, out=tmp_path / "a")
    with pytest.raises(ValueError, match="No samples to train on"):
        train(replace(FOUR_STEPS, train_level="breif"), dataset=data, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="must be a multiple of log_every_steps"):
        TrainConfig(save_every_steps=5, log_every_steps=2)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="holds something else"):
        train(FOUR_STEPS, dataset=data, out=tmp_path / "precious", overwrite=True)


def test_a_users_own_deepspeed_file_clips_and_gathers_and_may_not_change_meanwhile(
    dataset: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 3}}')
    settings = deepspeed_config(str(own))
    assert settings is not None
    assert settings["gradient_clipping"] == "auto", "or max_grad_norm would do nothing"
    assert settings["bf16"] == {"enabled": "auto"}
    assert settings["zero_optimization"][GATHERS] is True
    out = tmp_path / "run"
    settle_config(TrainConfig(deepspeed=str(own)), dataset, out)
    settle_config(TrainConfig(deepspeed=str(own)), dataset, out)
    own.write_text('{"zero_optimization": {"stage": 2}}')
    with pytest.raises(ValueError, match=r"own\.json is not what it was"):
        settle_config(TrainConfig(deepspeed=str(own)), dataset, out)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"deepspeed": "zero2"}, {"method": "lora"}], ids=["alone", "zero2", "lora"])
def test_bf16_trains_and_is_what_the_result_is_kept_in(change: dict[str, str], data: Path, tmp_path: Path) -> None:
    summary = train(replace(FOUR_STEPS, bf16="on", **change), dataset=data, out=tmp_path / "bf16")
    assert summary.final_loss < summary.first_loss
    weights = load_file(tmp_path / "bf16/model/model.safetensors")
    assert weights["model.language_model.embed_tokens.weight"].dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["qwen3_vl", "qwen2_5_vl"])
def test_the_older_qwens_train_too(arch: str, data: Path, tmp_path: Path) -> None:
    summary = train(replace(FOUR_STEPS, tiny_arch=arch), dataset=data, out=tmp_path / arch)
    assert summary.final_loss < summary.first_loss
