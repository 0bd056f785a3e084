"""What is wrong with a run is said in one line, before weights are loaded."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vla_fixtures import make_dataset

from nsdrive.cameras.rig import make_rig
from nsdrive.dataset import open_dataset
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.model import load_processor, load_tokenizer, model_config, model_type
from nsdrive.vla.question_form import QuestionForm, require_same_rig, write_form
from nsdrive.vla.train import train
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.kernels import require_kernels, use_liger
from nsdrive.vla.training.preflight import check_gpus, check_rows, check_waypoints
from nsdrive.vla.training.what_learns import LORA_TARGETS, choose_what_learns, lora_pattern, parameter_groups


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from nsdrive.vla import model

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model._hub_is_reachable.cache_clear()


@pytest.mark.usefixtures("offline")
def test_a_hub_id_that_is_not_cached_is_refused_offline_at_once() -> None:
    with pytest.raises(ValueError, match="not in this machine's Hugging Face cache") as error:
        model_type("Qwen/Qwen3.5-400B")
    assert "hf download Qwen/Qwen3.5-400B" in one_line(error)


@pytest.mark.usefixtures("offline")
def test_a_run_that_could_not_begin_leaves_its_folder_free(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data")
    for _ in range(2):
        with pytest.raises(ValueError, match="not in this machine's Hugging Face cache"):
            train(TrainConfig(model="Qwen/Qwen3.5-400B"), dataset=tmp_path / "data", out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_text_only_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}))
    with pytest.raises(ValueError, match="'qwen3' model, which reads no images") as error:
        model_config(tmp_path)
    one_line(error)


def test_a_base_model_without_a_chat_template_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template: it is a base model") as error:
        load_tokenizer(tmp_path / "base")
    one_line(error)


def test_a_missing_image_is_named_before_the_start(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", n_train=3, n_test=1)
    (folder / "images" / "train-2" / "CAM_R0.jpg").unlink()
    rows = Rows(open_dataset(folder), "train")
    with pytest.raises(ValueError, match=r"Sample train-2: the image CAM_R0.jpg is not there") as error:
        check_rows(rows, load_processor(tiny_folder, min_pixels=1024, max_pixels=2048))
    one_line(error)


def test_a_trajectory_head_without_waypoints_to_learn_from_is_refused() -> None:
    known = np.zeros((10, 2))
    rows = [SimpleNamespace(waypoints_ego_m=None), SimpleNamespace(waypoints_ego_m=known)]
    check_waypoints(rows)
    with pytest.raises(ValueError, match="no waypoints for a trajectory head to learn: set trajectory_head=none") as e:
        check_waypoints(rows[:1])
    one_line(e)


def test_a_dataset_of_another_rig_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    three, eight = make_rig("3"), make_rig("8")
    write_form(QuestionForm(rig=three, trace_level="brief"), tmp_path)

    def row(rig: Any) -> dict[str, Any]:
        return {"trace_level": "detailed", "nsdrive": {"rig": rig.to_json()}}

    require_same_rig(tmp_path, row(three), what="the dataset")
    require_same_rig(tmp_path, row(make_rig("3", width_px=256, height_px=144)), what="the same at another resolution")
    require_same_rig(tmp_path, {"trace_level": "brief"}, what="another's dataset, whose rig is not known")
    with pytest.raises(
        ValueError, match=r"with the cameras CAM_F0, CAM_R0, CAM_L0; the dataset has CAM_F0, .* CAM_B0"
    ) as e:
        require_same_rig(tmp_path, row(eight), what="the dataset")
    one_line(e)
    moved = replace(three, cameras=(replace(three.cameras[0], x_m=2.5), *three.cameras[1:]))
    with pytest.raises(ValueError, match="the same cameras, but mounted or cropped otherwise"):
        require_same_rig(tmp_path, row(moved), what="the dataset")


def test_predicting_for_another_rig_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    from nsdrive.vla.infer import predict

    data = make_dataset(tmp_path / "data", n_train=1, n_test=1)
    shard = data / "test-00000.jsonl"
    sample = json.loads(shard.read_text())
    sample["nsdrive"]["rig"] = make_rig("3").to_json()
    shard.write_text(json.dumps(sample) + "\n")
    model = tmp_path / "model"  # holds no weights
    model.mkdir()
    write_form(QuestionForm(rig=make_rig("8"), trace_level="brief"), model)
    with pytest.raises(ValueError, match="the split 'test' has CAM_F0, CAM_R0, CAM_L0") as error:
        predict(model, dataset=data, out=tmp_path / "predictions.jsonl")
    one_line(error)
    with pytest.raises(ValueError, match="has no samples in split 'val'"):
        predict(model, dataset=data, split="val", out=tmp_path / "predictions.jsonl")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    check_gpus(8)
    with pytest.raises(ValueError, match="8 processes were started on a machine with 4 GPUs") as error:
        check_gpus(4)
    one_line(error)


def test_missing_kernels_are_an_error_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="needs a GPU: take attention=sdpa"):
        require_kernels("qwen3_vl", TrainConfig(attention="flash_attention_2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="pip install flash-linear-attention causal-conv1d") as error:
        require_kernels("qwen3_5", TrainConfig())
    one_line(error)
    require_kernels("qwen3_5", TrainConfig(kernels="off"))
    require_kernels("qwen3_vl", TrainConfig())
    with pytest.raises(ValueError, match="pip install liger-kernel"):
        require_kernels("qwen3_vl", TrainConfig(kernels="require"))


def test_liger_is_put_into_the_model_where_installed_without_its_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def put_in(
        rope: bool = True, rms_norm: bool = True, fused_linear_cross_entropy: bool = True, model: Any = None
    ) -> None:
        given.append({"rope": rope, "fused_linear_cross_entropy": fused_linear_cross_entropy, "model": model})

    package, inside = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    package.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    inside.apply_liger_kernel_to_qwen3_vl = put_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", inside)
    assert not use_liger("a model", "qwen3_vl", TrainConfig()), "not on a CPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert use_liger("a model", "qwen3_vl", TrainConfig())
    assert given == [{"rope": True, "fused_linear_cross_entropy": False, "model": "a model"}]
    assert not use_liger("a model", "qwen3_vl", TrainConfig(kernels="off"))
    assert not use_liger("a model", "qwen3_5", TrainConfig()), "this version has none for it"


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # peft 0.21 asks it by an old name
def test_presets_adapt_what_they_say(tiny_folder: Path) -> None:
    from nsdrive.vla.model import load_model

    def adapted(targets: str) -> set[str]:
        config = TrainConfig(method="lora", lora_targets=targets)
        model = choose_what_learns(load_model(tiny_folder), config, str(tiny_folder))
        return {name for name, p in model.named_parameters() if p.requires_grad}

    language, attention, everything = (adapted(preset) for preset in LORA_TARGETS)
    assert attention < language < everything
    assert not any(".visual." in name for name in language)
    assert any(".in_proj_qkv." in name for name in attention), "Qwen3.5's linear attention too"
    assert not any(".gate_proj." in name for name in attention)
    assert any(".visual.blocks." in name for name in everything)
    assert any(".visual.merger." in name for name in everything)
    assert lora_pattern(r".*q_proj") == r".*q_proj"
    with pytest.raises(ValueError, match="none of language, attention, all"):
        lora_pattern("(")
    with pytest.raises(ValueError, match="fits no module"):
        adapted("no_such_layer")


def test_the_vision_tower_has_its_own_rate_or_only_its_merger_learns(tiny_folder: Path) -> None:
    from nsdrive.vla.model import load_model

    model = choose_what_learns(load_model(tiny_folder), TrainConfig(), "tiny")
    groups = parameter_groups(model, TrainConfig(learning_rate=1e-4, vision_learning_rate=1e-5, weight_decay=0.1))
    vision = {id(p) for name, p in model.named_parameters() if ".visual." in name}
    for group in groups:
        assert {id(p) in vision for p in group["params"]} == {group["lr"] == 1e-5}
        assert {p.ndim < 2 for p in group["params"]} == {group["weight_decay"] == 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    config = TrainConfig(freeze_vision=True, train_merger=True)
    model = choose_what_learns(load_model(tiny_folder), config, "tiny")
    seen = {name for name, p in model.named_parameters() if ".visual." in name and p.requires_grad}
    assert seen
    assert all(".visual.merger." in name for name in seen)


def test_a_run_keeps_its_global_batch_also_before_its_first_checkpoint(dataset: Path, tmp_path: Path) -> None:
    from nsdrive.vla.training.resuming import split_global_batch
    from nsdrive.vla.training.run_folder import begun_global_batch, settle_config

    settle_config(TrainConfig(per_device_batch_size=4), dataset, tmp_path)
    other = TrainConfig(per_device_batch_size=2)
    settle_config(other, dataset, tmp_path)  # a resumed run may split its global batch otherwise
    assert begun_global_batch(tmp_path) == 4
    split = split_global_batch(other, begun_global_batch(tmp_path), processes=1)
    assert (split.per_device_batch_size, split.gradient_accumulation_steps) == (2, 2)


def test_a_finished_run_is_not_both_resumed_and_replaced(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(ValueError, match="exclude each other"):
        train(TrainConfig(), dataset=dataset, out=tmp_path, resume=True, overwrite=True)
    assert (tmp_path / "train.json").is_file()
