"""Encoded samples as one batch, and a batch as the arguments of the model's forward.

batch = collate([encode(...), encode(...)], processor)      # in a worker: integers and bytes only
outputs = model(**model_inputs(batch, processor))           # on the device: the pictures become numbers there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nsdrive.vla.data.encoding import IGNORED, UNTRAINED, Encoded
from nsdrive.vla.data.images import pixel_values
from nsdrive.vla.prompt import N_WAYPOINTS

MODEL_TENSORS = ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")


def collate(items: Sequence[Encoded], processor: Any, *, for_generation: bool = False) -> dict[str, Any]:
    """A batch: what `model_inputs` takes, and what a loss wants beside it. Generation wants the padding on the left.

    input_ids, attention_mask, mm_token_type_ids, labels, parts (B, L); image_patches (P, 3 * patch * patch) uint8 and
    image_grid_thw (images, 3), absent where no row has an image; waypoints (B, 10, 2) and ego_now (B, 4), nan where not
    known; read_at (B, 2): batch row and position of each sample's last prompt token; sample_ids.

    Where no row of a training batch has an image, one masked image token with a black picture is added: the vision
    tower must be in every rank's graph, else ZeRO's collectives wait for each other for ever.
    """
    length = max(len(item.input_ids) for item in items)
    starts = [length - len(item.input_ids) if for_generation else 0 for item in items]

    def padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
        block = torch.full((len(rows), length), value, dtype=rows[0].dtype)
        for k, row in enumerate(rows):
            block[k, starts[k] : starts[k] + len(row)] = row
        return block

    batch: dict[str, Any] = {
        "input_ids": padded([item.input_ids for item in items], processor.tokenizer.pad_token_id),
        "attention_mask": padded([torch.ones_like(item.input_ids) for item in items], 0),
        "labels": padded([item.labels for item in items], IGNORED),
        "parts": padded([item.parts for item in items], UNTRAINED),
    }
    patches = [item.patches for item in items if item.patches is not None]
    grids = [item.grid for item in items if item.grid is not None]
    if not patches and not for_generation:
        images, n_rows = processor.image_processor, len(items)
        fill = {
            "input_ids": processor.tokenizer.pad_token_id,
            "attention_mask": 0,
            "labels": IGNORED,
            "parts": UNTRAINED,
        }
        for name, value in fill.items():
            column = torch.full((n_rows, 1), value, dtype=batch[name].dtype)
            batch[name] = torch.cat([batch[name], column], dim=1)
        batch["input_ids"][0, -1] = processor.image_token_id
        side = images.merge_size
        patches = [torch.zeros(side * side, 3 * images.patch_size**2, dtype=torch.uint8)]
        grids = [torch.tensor([[1, side, side]])]
    if patches:
        batch["image_patches"], batch["image_grid_thw"] = torch.cat(patches), torch.cat(grids)
    batch["mm_token_type_ids"] = (batch["input_ids"] == processor.image_token_id).long()
    batch["read_at"] = torch.tensor([[k, starts[k] + item.last_prompt] for k, item in enumerate(items)])
    return batch | _numbers(items) | {"sample_ids": [item.sample_id for item in items]}


def model_inputs(
    batch: Mapping[str, Any], processor: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Exactly the arguments of the model's forward, of a batch of `collate`: on `device`, or where the batch is.

    dtype: of the pictures' numbers, float32 unless given.
    """
    inputs = {name: batch[name].to(device) for name in MODEL_TENSORS if name in batch}
    if "image_patches" in batch:
        patches = batch["image_patches"].to(device)
        inputs["pixel_values"] = pixel_values(patches, processor.image_processor, dtype)
    return inputs


@dataclass(frozen=True)
class Collator:
    """`collate` for a DataLoader's workers."""

    processor: Any

    def __call__(self, items: Sequence[Encoded]) -> dict[str, Any]:
        return collate(items, self.processor)


def _numbers(items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    waypoints = torch.full((len(items), N_WAYPOINTS, 2), torch.nan)
    ego_now = torch.full((len(items), 4), torch.nan)
    for k, item in enumerate(items):
        if item.waypoints is not None:
            waypoints[k] = torch.from_numpy(item.waypoints)
        if item.ego_now is not None:
            ego_now[k] = torch.tensor(item.ego_now)
    return {"waypoints": waypoints, "ego_now": ego_now}
