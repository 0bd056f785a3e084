"""Pictures as the patches that the vision tower reads: uint8 until they are on the device.

patches, grid = image_patches(image, processor.image_processor)     # (P, 3 * patch * patch) uint8, (1, rows, columns)
values = pixel_values(patches, processor.image_processor)           # (P, 3 * 2 * patch * patch) float, normalised

The stock processor hands on float32 with every frame written twice: eight times as many bytes through the workers' pipes,
for the same pictures. Here a patch holds its colour planes one after the other, each row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

MAX_ASPECT = 200  # as stock Qwen2-VL preprocessing refuses it


def image_patches(image: Image.Image, image_processor: Any) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """An RGB image resized as the stock processor does, cut into patches (P, 3 * patch * patch) uint8; grid (1, rows, columns).

    Patches come in the order in which the vision tower merges them: the merge x merge patches of a token together, tokens row
    by row. ValueError for a picture that is too narrow to be one.
    """
    patch, merge = image_processor.patch_size, image_processor.merge_size
    width, height = ImageShape.of(image_processor).resized(image.width, image.height)
    if image.size != (width, height):
        image = image.resize((width, height), resample=image_processor.resample)
    rows, columns = height // patch, width // patch
    pixels = torch.from_numpy(np.array(image))  # (height, width, 3)
    blocks = pixels.view(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    patches = blocks.permute(0, 3, 1, 4, 6, 2, 5)  # token row, token column, its patches, colour, y, x
    return patches.reshape(rows * columns, 3 * patch * patch), (1, rows, columns)


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """How an image becomes tokens: patch x merge pixels squared each, after resizing to between min and max pixels."""

    patch_px: int
    merge: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def of(cls, image_processor: Any) -> ImageShape:
        size = image_processor.size  # pixels, for all their names
        return cls(
            patch_px=image_processor.patch_size,
            merge=image_processor.merge_size,
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
        )

    @property
    def token_px(self) -> int:
        """The side of a token."""
        return self.patch_px * self.merge

    def resized(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height in whole tokens, within the pixel budget, nearly in proportion: the stock processor's rule.

        ValueError for a picture that is too narrow to be one.
        """
        if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
            raise ValueError(
                f"{width_px} x {height_px} pixels are no picture: one side is over {MAX_ASPECT} times the other"
            )
        side = self.token_px
        width, height = round(width_px / side) * side, round(height_px / side) * side
        if width * height > self.max_pixels:
            shrink = math.sqrt(width_px * height_px / self.max_pixels)
            width = max(side, math.floor(width_px / shrink / side) * side)
            height = max(side, math.floor(height_px / shrink / side) * side)
        elif width * height < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width_px * height_px))
            width, height = math.ceil(width_px * grow / side) * side, math.ceil(height_px * grow / side) * side
        return width, height

    def tokens(self, width_px: int, height_px: int) -> int:
        width, height = self.resized(width_px, height_px)
        return (height // self.token_px) * (width // self.token_px)


def pixel_values(patches: torch.Tensor, image_processor: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """What the vision tower takes: patches normalised, (P, 3 * frames * patch * patch), a still picture in every frame.

    On the device that the patches are on; float32 unless dtype says otherwise.
    """
    mean, std = (
        torch.tensor(getattr(image_processor, name), dtype=torch.float32, device=patches.device).view(1, 3, 1, 1)
        for name in ("image_mean", "image_std")
    )
    colours = patches.view(len(patches), 3, 1, -1).float()
    values = ((colours * image_processor.rescale_factor - mean) / std).to(dtype or torch.float32)
    return values.expand(-1, -1, image_processor.temporal_patch_size, -1).reshape(len(patches), -1)
