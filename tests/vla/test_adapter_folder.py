"""A LoRA adapter's folder that is not what it should be: one line, never a model that is silently another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nsdrive.vla.model import adapter_base, load_model, load_processor, model_type
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.what_learns import choose_what_learns

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # peft asks what transformers renames
ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    base = str(tiny_folder)
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.down_proj", base_model_name_or_path=base)
    get_peft_model(load_model(tiny_folder), lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_whole_adapter_is_merged_into_its_base(adapter: Path, tiny_folder: Path) -> None:
    weights = load_file(adapter / WEIGHTS)
    save_file({name: torch.ones_like(value) for name, value in weights.items()}, adapter / WEIGHTS)
    merged, base = (load_model(folder).model.language_model.layers[0].mlp for folder in (adapter, tiny_folder))
    assert torch.allclose(merged.down_proj.weight - base.down_proj.weight, torch.tensor(2 * 8 / 2), atol=1e-5)
    assert torch.equal(merged.up_proj.weight, base.up_proj.weight)


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / WEIGHTS)


def have_a_layer_too_many(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {sorted(weights)[0].replace("layers.0", "layers.99"): torch.ones(2, 2)}, folder / WEIGHTS)


def have_other_sizes(folder: Path) -> None:
    save_file({name: torch.ones(3, 3) for name in load_file(folder / WEIGHTS)}, folder / WEIGHTS)


def be_cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def name_itself(folder: Path) -> None:
    config = json.loads((folder / ADAPTER).read_text())
    (folder / ADAPTER).write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))


def be_of_no_kind(folder: Path) -> None:
    config = json.loads((folder / ADAPTER).read_text())
    (folder / ADAPTER).write_text(json.dumps(config | {"peft_type": "NOTHING"}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lose_a_weight, "is not the whole adapter: it has no weights base_model"),
        (have_a_layer_too_many, "it has weights of another model: .*layers.99"),
        (have_other_sizes, "is no adapter of"),
        (be_cut_short, "is no adapter of"),
        (name_itself, "leads from adapter to adapter, and to no model"),
        (be_of_no_kind, "is no adapter of"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused_in_one_line(
    spoil: Callable[[Path], None], told: str, adapter: Path
) -> None:
    spoil(adapter)
    with pytest.raises(ValueError, match=told) as caught:
        load_model(adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "[" * 200_000, '{"r": ', "null", '{"base_model_name_or_path": ["a"]}'])
def test_an_adapter_config_that_is_none_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / ADAPTER).write_text(text)
    for read in (load_model, load_processor, model_type):
        with pytest.raises(ValueError, match=ADAPTER) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_an_adapter_trained_from_a_relative_folder_is_used_from_anywhere(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "models" / "driver")
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(method="lora", lora_rank=2)
    learning = choose_what_learns(load_model("models/driver"), config, "models/driver")
    learning.save_pretrained("run/adapter")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert adapter_base(tmp_path / "run" / "adapter") == str(tmp_path / "models" / "driver")
    assert model_type(tmp_path / "run" / "adapter") == "qwen3_5"
    load_model(tmp_path / "run" / "adapter")


def test_a_hub_id_stays_an_adapters_base(tiny_folder: Path) -> None:
    learning = choose_what_learns(load_model(tiny_folder), TrainConfig(method="lora", lora_rank=2), "owner/name")
    assert learning.peft_config["default"].base_model_name_or_path == "owner/name"


@pytest.mark.parametrize("place", [".", "run", "run/adapter"])
def test_a_relative_base_is_looked_for_here_and_beside_the_adapter(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / ADAPTER).write_text('{"base_model_name_or_path": "models/driver"}')
    monkeypatch.chdir(tmp_path)
    assert adapter_base(adapter) == "models/driver", "a hub id, where there is no such folder"
    (tmp_path / place / "models" / "driver").mkdir(parents=True)
    assert (tmp_path / adapter_base(adapter)).samefile(tmp_path / place / "models" / "driver")


@pytest.mark.parametrize("made", ["base", "warmed"])
def test_a_base_that_the_run_made_is_found_where_the_run_was_moved(made: str, tmp_path: Path) -> None:
    adapter = tmp_path / "run" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / ADAPTER).write_text(json.dumps({"base_model_name_or_path": f"/where/it/was/{made}"}))
    (tmp_path / "run" / made).mkdir()
    assert adapter_base(adapter) == str(tmp_path / "run" / made)
