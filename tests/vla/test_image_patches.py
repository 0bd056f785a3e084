from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from nsdrive.vla.data.images import image_patches, pixel_values

QWEN3_5 = {"patch_size": 16, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}  # Qwen3-VL's too
QWEN2_5 = {"patch_size": 14, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.269, 0.261, 0.276]}


def stock(kind: dict[str, Any], least: int = 4096, most: int = 40_000) -> Any:
    size = {"shortest_edge": least, "longest_edge": most}
    return Qwen2VLImageProcessorPil(size=size, temporal_patch_size=2, merge_size=2, **kind)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", [QWEN3_5, QWEN2_5], ids=["qwen3_5 and qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("size", [(256, 144), (160, 96), (320, 180), (31, 500), (20, 20), (1, 190)])
def test_the_tower_sees_the_stock_processors_numbers(kind: dict[str, Any], size: tuple[int, int]) -> None:
    processor, image = stock(kind), picture(*size)
    expected = processor(image, return_tensors="pt")
    patches, grid = image_patches(image, processor)
    values = pixel_values(patches, processor)
    assert [list(grid)] == expected["image_grid_thw"].tolist()
    assert values.dtype == torch.float32
    assert (values - expected["pixel_values"]).abs().max() < 1e-5
    assert len(values.unique()) > 50


def test_a_picture_through_a_workers_pipe_is_an_eighth_of_the_stock_processors() -> None:
    processor, image = stock(QWEN3_5), picture(256, 144)
    ours, theirs = image_patches(image, processor)[0], processor(image, return_tensors="pt")["pixel_values"]
    assert theirs.nbytes == 8 * ours.nbytes
    assert len(pickle.dumps(theirs.numpy())) > 7.9 * len(pickle.dumps(ours.numpy()))


def test_a_strip_is_refused_as_the_stock_processor_refuses_it() -> None:
    processor = stock(QWEN3_5)
    with pytest.raises(ValueError, match="2 x 500 pixels are no picture"):
        image_patches(picture(2, 500), processor)
    with pytest.raises(ValueError, match="aspect ratio"):
        processor(picture(2, 500), return_tensors="pt")
