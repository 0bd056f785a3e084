from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from nsdrive.vla.model import load_model, load_processor, save_processor
from nsdrive.vla.tiny import ARCHITECTURES, build_tiny


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_seed_makes_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tiny_folder)
    build_tiny(tmp_path / "other", seed=1)
    assert digests(tmp_path / "other")["model.safetensors"] != digests(tiny_folder)["model.safetensors"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_a_stock_checkpoint(arch: str, tmp_path: Path) -> None:
    build_tiny(tmp_path / arch, arch=arch)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / arch)
    assert model.config.model_type == arch
    assert sum(p.numel() for p in model.parameters()) < 2.5e6
    assert load_processor(tmp_path / arch).image_processor.patch_size == (14 if arch == "qwen2_5_vl" else 16)


def test_every_digit_is_a_token_and_any_text_survives(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer.tokenize("12.50") == ["1", "2", ".", "5", "0"]
    for text in ("[12.50, -3.07]", "Größe 5 → 停车 🚗", "<REASONING>Lead</REASONING>\n<PLANNING>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_pixel_budget_bounds_an_image_s_tokens_and_is_saved(tiny_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=9216)
    save_processor(processor, tmp_path)
    for one in (processor, load_processor(tmp_path_with_config(tiny_folder, tmp_path))):
        grid = one.image_processor([Image.new("RGB", (640, 360))], return_tensors="pt")["image_grid_thw"]
        assert int(grid.prod()) // 4 == 8  # 128 x 64 px, 32 x 32 each
    with pytest.raises(ValueError, match="pixel budget"):
        load_processor(tiny_folder, min_pixels=4096, max_pixels=1024)


def tmp_path_with_config(tiny_folder: Path, folder: Path) -> Path:
    (folder / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    return folder


def test_a_pickled_checkpoint_is_not_opened(tiny_folder: Path, tmp_path: Path) -> None:
    for path in tiny_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="only safetensors"):
        load_model(tmp_path)


def test_a_checkpoint_that_is_not_whole_is_not_filled_in_with_random_numbers(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    path = folder / "model.safetensors"
    whole, name = load_file(path), "model.visual.patch_embed.proj.bias"
    save_file({key: value for key, value in whole.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"is not whole: it has no weights {name}"):
        load_model(folder)
    save_file(whole | {name: whole[name][:7].clone()}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="weights of other sizes"):
        load_model(folder)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(folder)


def test_what_is_no_model_gets_one_helpful_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No model folder"):
        load_model(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"'gpt2' model, which reads no images\. Known: qwen3_5"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="No tiny size 'xl'"):
        build_tiny(tmp_path / "x", size="xl")
