"""A run's forecast against what is measured: weights and states to the byte, activations by metering real steps on the CPU."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vla_fixtures import make_dataset

from nsdrive.config import config_folder, load_config
from nsdrive.dataset import open_dataset
from nsdrive.vla.data.batch import collate, model_inputs
from nsdrive.vla.data.encoding import IGNORED, encode
from nsdrive.vla.data.images import ImageShape
from nsdrive.vla.data.rows import Rows
from nsdrive.vla.forecast.activations import Batch, activations, measure_pieces, skeleton
from nsdrive.vla.forecast.architectures import SHAPES, config_of
from nsdrive.vla.forecast.forecast import ALLOWANCE, GIB, Forecast, forecast, require_memory
from nsdrive.vla.forecast.memory_meter import MemoryMeter
from nsdrive.vla.forecast.model_state import Parameter, model_state
from nsdrive.vla.forecast.sample_size import sample_size, typical_sample_size
from nsdrive.vla.model import load_model, load_processor, model_config
from nsdrive.vla.tiny import build_tiny
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.losses import only_rows
from nsdrive.vla.training.what_learns import choose_what_learns

# peft 0.21 asks transformers by an old name, and transformers 5.23 itself warns of one that it still uses
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
MARGIN = 0.15  # of metered bytes; what is left is what whole models share and single layers do not
RECIPES = sorted(path.stem for path in (config_folder() / "train").glob("qwen*.yaml"))
# What the hub says of each checkpoint's safetensors. Qwen3.5's hold one more layer, which transformers does not load:
# a full-attention layer that predicts a second token (fc 2H -> H, and five norms beside the layer's own two of head size).
HUB = {
    "Qwen/Qwen3.5-0.8B": 873_438_784,
    "Qwen/Qwen3.5-2B": 2_274_069_824,
    "Qwen/Qwen3.5-4B": 4_659_865_088,
    "Qwen/Qwen3.5-9B": 9_653_104_368,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if "4B" in name else pytest.mark.slow) for name in HUB])
def test_a_public_shape_has_as_many_parameters_as_the_hub_says(name: str) -> None:
    assert SHAPES.keys() == HUB.keys()
    model = skeleton(config_of(name), dtype=torch.bfloat16)
    extra = 0
    if name.startswith("Qwen/Qwen3.5"):
        shape = SHAPES[name]
        width = shape.hidden
        attention = width * 256 * (3 * shape.heads + 2 * shape.key_value_heads)
        extra = 2 * width**2 + attention + 3 * width * shape.feed_forward + 5 * width + 2 * 256
    assert sum(p.numel() for p in model.parameters()) + extra == HUB[name]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = make_dataset(tmp_path_factory.mktemp("data"), n_train=3, n_test=1)
    return Rows(open_dataset(folder), "train")


def metered_step(folder: Path, rows: Rows, *, checkpointing: bool, autocast: bool) -> tuple[int, Batch]:
    """The most bytes that a second step has beyond weights and gradients, and the size of its batch."""
    model = load_model(folder).train()
    if checkpointing:
        old_name = (
            model.gradient_checkpointing_enable if not hasattr(model, "activation_checkpointing_enable") else None
        )
        (old_name or model.activation_checkpointing_enable)({"use_reentrant": False})
    processor = load_processor(folder, min_pixels=16384, max_pixels=65536)
    batch = collate([encode(processor, rows[k], with_answer=True) for k in range(2)], processor)
    inputs = model_inputs(batch, processor)
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    is_answer = targets != IGNORED

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), only_rows(model, is_answer):
            logits = model(**inputs, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.float(), targets[is_answer], reduction="sum")

    loss().backward()  # now there are gradients to add to
    with MemoryMeter() as meter:
        loss().backward()
    size = Batch(
        tokens=inputs["input_ids"].numel(),
        patches=int(inputs["image_grid_thw"].prod(1).sum()),
        answer_tokens=int(is_answer.sum()),
    )
    return meter.peak_bytes, size


@pytest.mark.parametrize(
    ("arch", "autocast", "checkpointing"),
    [
        pytest.param(
            arch, autocast, checkpointing, marks=[] if (arch, autocast) == ("qwen2_5_vl", False) else pytest.mark.slow
        )
        for arch in ("qwen2_5_vl", "qwen3_vl", "qwen3_5")
        for autocast in (False, True)
        for checkpointing in (False, True)
    ],
)
def test_activations_are_what_a_real_step_takes(
    arch: str, autocast: bool, checkpointing: bool, rows: Rows, tmp_path: Path
) -> None:
    build_tiny(tmp_path / arch, arch=arch)
    metered, batch = metered_step(tmp_path / arch, rows, checkpointing=checkpointing, autocast=autocast)
    bare = skeleton(model_config(tmp_path / arch), dtype=torch.float32)
    pieces = measure_pieces(bare, batch, autocast=autocast, fast_delta_rule=False)
    told = activations(pieces, batch, checkpointing=checkpointing)
    assert told.kept + told.beyond == pytest.approx(metered, rel=MARGIN)


def test_weights_gradients_and_optimiser_are_counted_to_the_byte(tmp_path: Path) -> None:
    build_tiny(tmp_path / "m", arch="qwen2_5_vl")
    config = TrainConfig(freeze_vision=True, bf16="off")
    model = choose_what_learns(load_model(tmp_path / "m"), config, "m")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    bytes_of = {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "optimiser": sum(v.nbytes for s in optimizer.state.values() for v in s.values() if v.numel() > 1),
    }
    counted = [
        Parameter(numbers=p.numel(), itemsize=p.element_size(), is_trained=p.requires_grad) for p in model.parameters()
    ]
    state = model_state(counted, deepspeed=None, bf16=False, processes=1)
    assert bytes_of == {name: getattr(state, name) for name in bytes_of}


def test_zero_divides_the_optimiser_then_the_gradients_then_the_weights() -> None:
    billion = [Parameter(numbers=1_000_000_000, itemsize=2, is_trained=True)]

    def of(stage: int, **more: Any) -> Any:
        zero = {"stage": stage, "stage3_max_live_parameters": 0, **more}
        return model_state(billion, deepspeed={"zero_optimization": zero}, bf16=True, processes=8)

    # 2, 2 and 12 bytes a parameter, of which a stage divides the last 1, 2 or 3 by the processes (1910.02054, figure 1)
    assert [(s.weights, s.gradients, s.optimiser) for s in map(of, (1, 2, 3))] == [
        (2_000_000_000, 2_000_000_000, 1_500_000_000),
        (2_000_000_000, 250_000_000, 1_500_000_000),
        (250_000_000, 250_000_000, 1_500_000_000),
    ]
    offloaded = of(2, offload_optimizer={"device": "cpu"})
    assert offloaded.optimiser == 0
    assert offloaded.host == 1_500_000_000 + 500_000_000


@pytest.mark.slow
def test_lora_with_a_frozen_tower_keeps_less_than_full_training() -> None:
    full = forecast(TrainConfig(model="Qwen/Qwen3.5-0.8B", deepspeed="zero1"), None, processes=1, cameras=1)
    lora = TrainConfig(model="Qwen/Qwen3.5-0.8B", deepspeed="zero1", method="lora", freeze_vision=True)
    less = forecast(lora, None, processes=1, cameras=1)
    assert less.trained < 0.03 * full.trained
    assert less.memory["optimiser"] < 0.03 * full.memory["optimiser"]
    assert less.memory["activations"] < full.memory["activations"]
    assert full.parameters == full.body + full.embedding + full.vision == 852_985_920


def test_a_run_that_cannot_fit_is_refused_in_one_line() -> None:
    told = Forecast(
        model="m",
        parameters=1,
        body=1,
        embedding=0,
        vision=0,
        trained=1,
        sample=typical_sample_size(
            cameras=3, shape=ImageShape(patch_px=16, merge=2, min_pixels=4096, max_pixels=262144)
        ),
        processes=1,
        global_batch=2,
        steps=0,
        tokens_per_step=2,
        memory={"weights": 30 * GIB, ALLOWANCE: 2 * GIB},
        peak_in="the backward pass",
        host_memory=0,
        gpu_memory=24 * GIB,
        changes=("deepspeed=zero3: 30.0 GiB, does not fit", "method=lora: 9.0 GiB, fits"),
    )
    assert told.verdict == "too much"
    with pytest.raises(
        ValueError, match=r"micro-batch of 2: about 30 GiB .* has 24\. Try method=lora \(check_memory"
    ) as e:
        require_memory(told, TrainConfig(per_device_batch_size=2))
    assert "\n" not in str(e.value)
    require_memory(told, TrainConfig(check_memory=False))
    assert "whether it fits is not known" in str(replace(told, gpu_memory=None))
    assert replace(told, gpu_memory=31 * GIB).verdict == "tight"
    assert replace(told, gpu_memory=32 * GIB).verdict == "fits"


def test_a_run_with_a_vision_warm_up_is_told_what_would_fit_and_its_epoch_counts_the_questions(tmp_path: Path) -> None:
    config = TrainConfig(vision_warmup_steps=5, epochs=1.0, co_data="somewhere", co_share=0.5)
    rows = Rows(open_dataset(make_dataset(tmp_path / "data", n_train=6)), "train")
    told = forecast(config, None, processes=1, gpu_memory_gb=0.1, rows=rows)
    assert any(change.startswith("method=lora: ") for change in told.changes)
    assert told.steps == 12
    with pytest.raises(ValueError, match="--gpus must be at least 1"):
        forecast(config, None, processes=0)


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_what_would() -> None:
    config = TrainConfig(model="Qwen/Qwen3.5-0.8B", deepspeed="zero1", per_device_batch_size=4)
    told = forecast(config, None, processes=1, gpu_memory_gb=40, cameras=3)
    assert told.verdict == "too much"
    assert "does not fit: a GPU has 40.0 GiB" in str(told)
    assert any(
        change.startswith("gradient_checkpointing=true: ") and change.endswith(", fits") for change in told.changes
    )
    with pytest.raises(
        ValueError, match=r"micro-batch of 4: about \d+ GiB .* has 40\. Try gradient_checkpointing=true"
    ):
        require_memory(told, config)
    require_memory(told, TrainConfig(check_memory=False))
    assert str(told).count("\n") == 4 + len(told.changes)


def test_tokens_are_counted_by_the_tokenizer_and_the_images_as_the_processor_makes_them(
    rows: Rows, tiny_folder: Path
) -> None:
    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=2048)
    shape = ImageShape(patch_px=16, merge=2, min_pixels=1024, max_pixels=2048)
    told = sample_size(rows, shape=shape, tokenizer=processor.tokenizer)
    encoded = [encode(processor, rows[k], with_answer=True) for k in range(len(rows))]
    lengths = [len(one.input_ids) for one in encoded]
    assert told.mean == pytest.approx(sum(lengths) / len(lengths), abs=6)  # the template's own tokens are estimated
    assert told.images == sum(int((one.input_ids == processor.image_token_id).sum()) for one in encoded) / len(encoded)
    assert told.most_answer == max(int((one.labels != IGNORED).sum()) for one in encoded)


def test_eight_cameras_of_full_hd_within_the_budget_are_as_many_tokens_as_the_processor_gives() -> None:
    shape = ImageShape(patch_px=16, merge=2, min_pixels=4096, max_pixels=262144)
    told = typical_sample_size(cameras=8, shape=shape)
    assert told.images == 8 * 252
    assert told.most > told.mean > 3000


def recipe(name: str) -> tuple[TrainConfig, int, str]:
    text = (config_folder() / "train" / f"{name}.yaml").read_text(encoding="utf-8")
    found = re.search(r"--nproc_per_node (\d+)", text)
    return load_config(TrainConfig, f"train/{name}"), int(found[1]) if found else 1, text


def told_of(name: str, cameras: int) -> tuple[Forecast, str]:
    config, gpus, text = recipe(name)
    return forecast(config, None, processes=gpus, cameras=cameras), text


@pytest.mark.parametrize(
    ("name", "cameras"),
    [
        pytest.param(name, cameras, marks=[] if (name, cameras) == ("qwen3_5_4b_sft", 8) else pytest.mark.slow)
        for name in RECIPES
        for cameras in (3, 8)
    ],
)
def test_a_recipe_says_the_tokens_and_memory_that_the_forecast_gives(name: str, cameras: int) -> None:
    told, text = told_of(name, cameras)
    line = next(line for line in text.splitlines() if line.startswith(f"#   {cameras} cameras: "))
    tokens, gib = told.short.rsplit(", ", 1)
    assert tokens in line
    said = float(re.search(r"([\d.]+) GiB a GPU", line)[1])  # type: ignore[index]
    assert said == pytest.approx(float(gib.split()[0]), rel=0.05)  # versions of transformers differ by a cast or two
    room = re.search(r"GPUs? of (\d+) GB", text)
    assert told.total < (int(room[1]) if room else 80) * GIB
    assert told.memory[ALLOWANCE] > 0


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves_and_its_global_batch_is_the_one_it_says(name: str) -> None:
    config, gpus, text = recipe(name)
    assert config.model in SHAPES
    said = int(re.search(r"global batch of (\d+)", text)[1])  # type: ignore[index]
    assert said == gpus * config.per_device_batch_size * config.gradient_accumulation_steps
