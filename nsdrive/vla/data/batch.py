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
from nsdrive.vla.data.positions import token_positions
from nsdrive.vla.prompt import N_WAYPOINTS

MODEL_TENSORS = (
    "input_ids",
    "attention_mask",
    "position_ids",
    "mm_token_type_ids",
    "image_grid_thw",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
)
MODEL_NUMBERS = ("max_length_q", "max_length_k")


def collate(
    items: Sequence[Encoded], processor: Any, *, for_generation: bool = False, packed: bool = False
) -> dict[str, Any]:
    """A batch: what `model_inputs` takes, and what a loss wants beside it. B rows, padded on the right to L tokens.

    input_ids, attention_mask, mm_token_type_ids, labels, parts (B, L); position_ids (3, B, L); image_patches
    (P, 3 * patch * patch) uint8 and image_grid_thw (images, 3), absent where no row has an image; waypoints (samples, 10, 2)
    and ego_now (samples, 4), nan where not known; read_at (samples, 2): batch row and position of each sample's last prompt
    token; sample_ids.

    for_generation pads on the left, and leaves the positions to `generate`. packed writes the samples one after the other in
    one row without padding: no attention_mask, but where each begins, cu_seq_lens_q/k (segments + 1,) int32 and max_length_q/k,
    and position_ids (4, 1, L) whose first row begins again with each. A model with linear attention also needs
    `ready_linear_attention`.

    Where no row of a training batch has an image, one untrained image token with a black picture is added: the vision
    tower must be in every rank's graph, else ZeRO's collectives wait for each other for ever.
    """
    assert not (for_generation and packed), "generation goes on from the end of each row"
    patches = [item.patches for item in items if item.patches is not None]
    grids = [item.grid for item in items if item.grid is not None]
    is_blind = not patches and not for_generation
    if is_blind:
        images = processor.image_processor
        patches = [torch.zeros(images.merge_size**2, 3 * images.patch_size**2, dtype=torch.uint8)]
        grids = [torch.tensor([[1, images.merge_size, images.merge_size]])]
    if packed:
        batch = _one_row(items, processor, with_black_image=is_blind)
    else:
        batch = _padded_rows(items, processor, on_the_left=for_generation, with_black_image=is_blind)
    if patches:
        batch["image_patches"], batch["image_grid_thw"] = torch.cat(patches), torch.cat(grids)
    batch["mm_token_type_ids"] = (batch["input_ids"] == processor.image_token_id).long()
    return batch | _numbers(items) | {"sample_ids": [item.sample_id for item in items]}


def model_inputs(
    batch: Mapping[str, Any], processor: Any, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Exactly the arguments of the model's forward, of a batch of `collate`: on `device`, or where the batch is.

    dtype: of the pictures' numbers, float32 unless given.
    """
    inputs = {name: batch[name].to(device, non_blocking=True) for name in MODEL_TENSORS if name in batch}
    if (
        "position_ids" in batch
    ):  # then padding is on the right, where nothing that comes before can see it: without a mask
        inputs.pop("attention_mask", None)  # attention is plainly causal, half the work, and flash kernels take it
    inputs |= {name: batch[name] for name in MODEL_NUMBERS if name in batch}
    if "image_patches" in batch:
        patches = batch["image_patches"].to(device, non_blocking=True)
        inputs["pixel_values"] = pixel_values(patches, processor.image_processor, dtype)
    return inputs


@dataclass(frozen=True)
class Collator:
    """`collate` for a DataLoader's workers."""

    processor: Any
    packed: bool = False

    def __call__(self, items: Sequence[Encoded]) -> dict[str, Any]:
        return collate(items, self.processor, packed=self.packed)


def _padded_rows(
    items: Sequence[Encoded], processor: Any, *, on_the_left: bool, with_black_image: bool
) -> dict[str, Any]:
    length = max(len(item.input_ids) for item in items)
    starts = [length - len(item.input_ids) if on_the_left else 0 for item in items]
    shape = (len(items), length + with_black_image)
    batch = {
        "input_ids": torch.full(shape, processor.tokenizer.pad_token_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
        "parts": torch.full(shape, UNTRAINED, dtype=torch.int8),
        "read_at": torch.tensor([[k, starts[k] + item.last_prompt] for k, item in enumerate(items)]),
    }
    for k, item in enumerate(items):
        own = slice(starts[k], starts[k] + len(item.input_ids))
        batch["input_ids"][k, own], batch["attention_mask"][k, own] = item.input_ids, 1
        batch["labels"][k, own], batch["parts"][k, own] = item.labels, item.parts
    if with_black_image:
        batch["input_ids"][0, -1] = processor.image_token_id
    if not on_the_left:
        batch["position_ids"] = torch.zeros((3, *shape), dtype=torch.long)
        for k, item in enumerate(items):
            batch["position_ids"][:, k, : len(item.input_ids)] = _positions(item.input_ids, item.grid, processor)
    return batch


def _one_row(items: Sequence[Encoded], processor: Any, *, with_black_image: bool) -> dict[str, Any]:
    ids = [item.input_ids for item in items]
    labels, parts = [item.labels for item in items], [item.parts for item in items]
    positions = [_positions(item.input_ids, item.grid, processor) for item in items]
    if with_black_image:  # a segment of its own, that no other sees
        ids.append(torch.tensor([processor.image_token_id]))
        labels.append(torch.tensor([IGNORED]))
        parts.append(torch.tensor([UNTRAINED], dtype=torch.int8))
        positions.append(torch.zeros((3, 1), dtype=torch.long))
    lengths = [len(one) for one in ids]
    places = [torch.cat([torch.arange(one.shape[1])[None], one]) for one in positions]
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    starts = ends.tolist()
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": torch.cat(labels)[None],
        "parts": torch.cat(parts)[None],
        "position_ids": torch.cat(places, dim=1)[:, None],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "read_at": torch.tensor([[0, starts[k] + item.last_prompt] for k, item in enumerate(items)]),
    }


def _positions(input_ids: torch.Tensor, grid: torch.Tensor | None, processor: Any) -> torch.Tensor:
    return token_positions(
        input_ids, grid, image_token_id=processor.image_token_id, merge_size=processor.image_processor.merge_size
    )


def _numbers(items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    waypoints = torch.full((len(items), N_WAYPOINTS, 2), torch.nan)
    ego_now = torch.full((len(items), 4), torch.nan)
    for k, item in enumerate(items):
        if item.waypoints is not None:
            waypoints[k] = torch.from_numpy(item.waypoints)
        if item.ego_now is not None:
            ego_now[k] = torch.tensor(item.ego_now)
    return {"waypoints": waypoints, "ego_now": ego_now}
