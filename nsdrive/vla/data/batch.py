"""Encoded samples as one batch for the model's forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nsdrive.vla.data.encoding import IGNORED, Encoded


def collate(items: Sequence[Encoded], processor: Any, *, for_generation: bool = False) -> dict[str, Any]:
    """A batch for the model's forward, plus `labels` (B, L) and `sample_ids`. Generation wants the padding on the left.

    Where no row of a training batch has an image, one masked image token with a black picture is added: the vision
    tower must be in every rank's graph, else ZeRO's collectives wait for each other for ever.
    """
    length = max(len(item.input_ids) for item in items)

    def padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        block = torch.full((len(rows), length), value, dtype=torch.long)
        for k, row in enumerate(rows):
            start = length - len(row) if for_generation else 0
            block[k, start : start + len(row)] = row
        return block

    batch: dict[str, Any] = {
        "input_ids": padded([item.input_ids for item in items], processor.tokenizer.pad_token_id),
        "attention_mask": padded([torch.ones_like(item.input_ids) for item in items], 0),
        "labels": padded([item.labels for item in items], IGNORED),
    }
    patches = [item.patches for item in items if item.patches is not None]
    grids = [item.grid for item in items if item.grid is not None]
    if not patches and not for_generation:
        images, n_rows = processor.image_processor, len(items)
        fill = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        for name, value in fill.items():
            column = torch.full((n_rows, 1), value, dtype=torch.long)
            batch[name] = torch.cat([batch[name], column], dim=1)
        batch["input_ids"][0, -1] = processor.image_token_id
        side, values = images.merge_size, 3 * images.temporal_patch_size * images.patch_size**2
        patches, grids = [torch.zeros(side * side, values)], [torch.tensor([[1, side, side]])]
    if patches:
        batch["pixel_values"], batch["image_grid_thw"] = torch.cat(patches), torch.cat(grids)
    batch["mm_token_type_ids"] = (batch["input_ids"] == processor.image_token_id).long()
    batch["sample_ids"] = [item.sample_id for item in items]
    return batch
