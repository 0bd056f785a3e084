"""Every family trains by its recipes, at tiny size, and what comes out is what vLLM and SGLang load: the stock checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from vla_fixtures import make_dataset

from nsdrive.config import load_config
from nsdrive.vla.model import model_config
from nsdrive.vla.train import TrainConfig, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
RECIPE = {"qwen3_5": "qwen3_5_2b", "qwen3_vl": "qwen3_vl_2b", "qwen2_5_vl": "qwen2_5_vl_3b"}
CLASS = {
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
VLLM_READS = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), n_train=4)


def saved_keys(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("method", ["sft", "lora"])
@pytest.mark.parametrize("arch", list(RECIPE))
def test_a_family_trains_by_its_recipe_and_leaves_a_stock_checkpoint(
    arch: str, method: str, data: Path, tmp_path: Path
) -> None:
    recipe = load_config(TrainConfig, f"train/{RECIPE[arch]}_{method}")
    config = replace(
        recipe,
        model="tiny",
        tiny_arch=arch,  # type: ignore[arg-type]
        tiny_vocabulary=512,
        max_steps=1,
        per_device_batch_size=2,
        gradient_accumulation_steps=1,
        min_image_pixels=1024,
        max_image_pixels=4096,
        workers=0,
        # DeepSpeed can be begun once in a process
        deepspeed=recipe.deepspeed if arch == "qwen3_5" else "none",
        track=(),
    )
    done = train(config, dataset=data, out=tmp_path / "run")
    assert 0 < done.trained_parameters <= done.parameters
    assert (done.trained_parameters < 0.2 * done.parameters) == (method == "lora")
    model, base = tmp_path / "run" / "model", tmp_path / "run" / "base"
    assert saved_keys(model) == saved_keys(base)
    assert not any("lm_head" in name for name in saved_keys(model)), "tied: the embedding is the output layer"
    config_json = json.loads((model / "config.json").read_text())
    assert config_json["architectures"] == [CLASS[arch]]
    assert config_json["model_type"] == arch
    assert model_config(model).get_text_config().tie_word_embeddings
    files = {path.name for path in model.iterdir()}
    assert files >= VLLM_READS
    assert not any(name.endswith((".bin", ".pt", ".py")) for name in files), "a pickle or code would be refused"
    said = json.loads((model / "generation_config.json").read_text())
    assert said["eos_token_id"] == json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    processor = json.loads((model / "processor_config.json").read_text())
    assert {"image_processor", "video_processor", "processor_class"} <= processor.keys()
    assert processor["image_processor"]["size"] == {"shortest_edge": 1024, "longest_edge": 4096}
