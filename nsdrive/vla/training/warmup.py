"""Eyes first: before the steps the vision tower alone learns to see what the renderer knows.

    warm_vision(model, processor, rows, steps=600, batch_size=16, learning_rate=1e-3, seed=0)    # the tower, in place

Cross-entropy on digits says little about where a car is, so that a tower of random weights hardly learns from it. Here every
image token is asked which object covers it and how far away that is, and all tokens of a sample together for the lead's gap,
the light, who is in view and where the road leads. No language model runs, so that a step costs a fraction of a later one.

The facts come from the stored samples (`seen`, `objects`, the trace's first step, `future`); of a sample that lacks some, the
others are learned. What reads them is thrown away afterwards. Batch k is a pure function of (seed, k).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from nsdrive.cameras.rig import Camera, Rig, project
from nsdrive.vla.data.encoding import Encoded, encode
from nsdrive.vla.data.images import pixel_values
from nsdrive.vla.data.rows import Row
from nsdrive.vla.prompt import IMAGE_TOKEN
from nsdrive.world.types import FloatArray

CLASSES = ("nothing", "vehicle", "pedestrian", "cyclist", "other")
LIGHTS = ("none", "green", "amber", "red")
MIN_PIXELS = 12  # of the stored image, chosen by us: fewer are no longer recognised in a smaller one
GAP_SCALE_M = 20.0  # near the mean gap of the synthetic set
AHEAD_M = (10.0, 20.0, 30.0)  # where the road's sideways offset is asked for; chosen by us
OFFSET_SCALE_M = 3.0
UNKNOWN = -100  # class and light: torch's cross entropy leaves it out
_QUERIES = 8  # ways in which the tokens are summed up for the questions about the whole sample


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is asked of a sample with N image tokens. Numbers are nan where they are not known."""

    classes: torch.Tensor  # (N,) index into CLASSES
    log_distance: torch.Tensor  # (N,) of the covering object, log(m / 20)
    light: int  # index into LIGHTS, or UNKNOWN
    numbers: torch.Tensor  # (NUMBERS,): see _numbers


N_NUMBERS = 4 + len(AHEAD_M)


class Reader(nn.Module):
    """Reads the facts from a sample's tokens (B, N, H). Only as strong as it must be, so that the tower does the work."""

    def __init__(self, width: int, n_tokens: int) -> None:
        super().__init__()
        self.each = nn.Linear(width, len(CLASSES) + 1)
        self.place = nn.Parameter(torch.zeros(n_tokens, width))  # which camera and where, for the sums
        self.queries = nn.Parameter(torch.randn(_QUERIES, width) / width**0.5)
        self.all = nn.Sequential(nn.Linear(_QUERIES * width, 128), nn.SiLU(), nn.Linear(128, len(LIGHTS) + N_NUMBERS))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        placed = tokens + self.place
        share = (placed @ self.queries.T).softmax(dim=1)  # (B, N, queries)
        return self.each(tokens), self.all((share.transpose(1, 2) @ placed).flatten(1))


def warm_vision(
    model: Any,
    processor: Any,
    rows: Any,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, float]]:
    """Train the vision tower in place, where it is; every step's parts: class_loss, light_loss, number_loss, gap_error_m.

    rows: of one rig. ValueError where the first sample has no image or tells nothing to learn from.
    """
    data = _Scenes(rows, processor, n_samples=steps * batch_size, seed=seed)
    first = data[0]
    if first is None:
        raise ValueError(
            "vision_warmup_steps needs samples with images, and with the facts that nsdrive generate stores"
        )
    visual = tower_of(model)
    device = next(visual.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(model.config.get_text_config().hidden_size, len(first[1].classes)).to(device)
    learns = [*(p for p in visual.parameters() if p.requires_grad), *reader.parameters()]
    optimizer = torch.optim.AdamW(learns, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1)
    batches = torch.utils.data.DataLoader(data, batch_size=batch_size, num_workers=workers, collate_fn=_kept)
    said = []
    for step, batch in enumerate(batches, start=1):
        kept = [one for one in batch if len(one[1].classes) == len(first[1].classes)]
        if kept:
            parts = _step(visual, reader, processor, kept, device)
            parts["loss"].backward()
            nn.utils.clip_grad_norm_(learns, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            said.append({name: float(value) for name, value in parts.items() if name != "loss"})
        rate.step()
        progress(step, steps)
    return said


def _step(visual: Any, reader: Reader, processor: Any, kept: Sequence[_Scene], device: torch.device) -> dict[str, Any]:
    grid = torch.cat([one.grid for one, _ in kept if one.grid is not None]).to(device)
    patches = torch.cat([one.patches for one, _ in kept if one.patches is not None]).to(device)
    pixels = pixel_values(patches, processor.image_processor, next(visual.parameters()).dtype)
    seen = visual(pixels, grid_thw=grid).pooler_output
    tokens = seen.reshape(len(kept), -1, seen.shape[-1]).float()
    each, whole = reader(tokens)
    classes = torch.stack([facts.classes for _, facts in kept]).to(device)
    distance = torch.stack([facts.log_distance for _, facts in kept]).to(device)
    lights = torch.tensor([facts.light for _, facts in kept], device=device)
    numbers = torch.stack([facts.numbers for _, facts in kept]).to(device)
    class_loss = _mean_known(cross_entropy(each[..., :-1].flatten(0, 1), classes.flatten(), reduction="none"), None)
    distance_loss = _mean_known(smooth_l1_loss(each[..., -1], _zeroed(distance), reduction="none"), distance)
    light_loss = _mean_known(
        cross_entropy(whole[:, : len(LIGHTS)], lights, reduction="none", ignore_index=UNKNOWN),
        torch.where(lights == UNKNOWN, torch.nan, 0.0),
    )
    guesses = whole[:, len(LIGHTS) :]
    number_loss = _mean_known(smooth_l1_loss(guesses, _zeroed(numbers), reduction="none"), numbers)
    gap_error = _mean_known((guesses[:, 1] - _zeroed(numbers[:, 1])).abs(), numbers[:, 1]) * GAP_SCALE_M
    return {
        "loss": 2.0 * class_loss + distance_loss + light_loss + 2.0 * number_loss,  # chosen by us: about one size each
        "class_loss": class_loss.detach(),
        "light_loss": light_loss.detach(),
        "number_loss": number_loss.detach(),
        "gap_error_m": gap_error.detach(),
    }


# ---- what is known of a sample ------------------------------------------------------------------------------------


_Scene = tuple[Encoded, Facts]


class _Scenes(torch.utils.data.Dataset[Any]):
    """Entry k: a sample's images and facts, None where it has none."""

    def __init__(self, rows: Any, processor: Any, *, n_samples: int, seed: int) -> None:
        self._rows, self._processor, self._n_samples, self._seed = rows, processor, n_samples, seed

    def __len__(self) -> int:
        return self._n_samples

    def __getitem__(self, k: int) -> _Scene | None:
        epoch, place = divmod(k, len(self._rows))
        index = int(np.random.default_rng([self._seed, 7, epoch]).permutation(len(self._rows))[place])
        row: Row = self._rows[index]
        wordless = replace(row, prompt=IMAGE_TOKEN * len(row.images))
        encoded = encode(self._processor, wordless, with_answer=False)
        if encoded.grid is None:
            return None
        facts = facts_of(self._rows.raw(index), encoded.grid, merge=self._processor.image_processor.merge_size)
        return None if facts is None else (encoded, facts)


def _kept(items: Sequence[_Scene | None]) -> list[_Scene]:
    return [item for item in items if item is not None]


def facts_of(row: Mapping[str, Any], grid: torch.Tensor, *, merge: int) -> Facts | None:
    """What a sample's row tells of what its images show; None where it is not one of ours."""
    try:
        told = row["nsdrive"]
        cameras = Rig.from_json(told["rig"]).cameras
        objects = {str(one["id"]): one for one in told["objects"]}
        pairs = [
            _covered(camera, told["seen"].get(camera.name, {}), objects, shape, merge)
            for camera, shape in zip(cameras, grid.tolist(), strict=True)
        ]
        light = told["trace"]["scene"]["light"] or "none"
        return Facts(
            classes=torch.from_numpy(np.concatenate([classes for classes, _ in pairs])),
            log_distance=torch.from_numpy(np.concatenate([distance for _, distance in pairs])),
            light=LIGHTS.index(light) if light in LIGHTS else UNKNOWN,
            numbers=torch.tensor(_numbers(told), dtype=torch.float32),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _covered(
    camera: Camera, seen: Mapping[str, int], objects: Mapping[str, Mapping[str, Any]], shape: Sequence[int], merge: int
) -> tuple[Any, Any]:
    """Of every token, row by row: the class of the nearest object that its middle lies in, and the log of its distance."""
    n_rows, n_columns = shape[1] // merge, shape[2] // merge
    classes = np.zeros((n_rows, n_columns), dtype=np.int64)
    nearest = np.full((n_rows, n_columns), np.inf)
    x = (np.arange(n_columns) + 0.5) * camera.width_px / n_columns
    y = (np.arange(n_rows) + 0.5) * camera.height_px / n_rows
    half = 0.5 * camera.width_px / n_columns, 0.5 * camera.height_px / n_rows
    for name, n_pixels in seen.items():
        one = objects.get(name)
        if one is None or n_pixels < MIN_PIXELS:
            continue
        pixels, depth_m = project(camera, _corners(one))
        if (depth_m <= 0.1).any():
            pixels = pixels[depth_m > 0.1]
        if not len(pixels):
            continue
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        inside = (np.abs(y - np.clip(y, low[1], high[1])) < half[1])[:, None] & (
            np.abs(x - np.clip(x, low[0], high[0])) < half[0]
        )[None, :]
        distance_m = float(np.hypot(one["x_m"], one["y_m"]))
        kind = str(one["kind"])
        closer = inside & (distance_m < nearest)
        classes[closer] = CLASSES.index(kind) if kind in CLASSES else len(CLASSES) - 1
        nearest[closer] = distance_m
    log_distance = np.where(np.isfinite(nearest), np.log(np.maximum(nearest, 1.0) / GAP_SCALE_M), np.nan)
    return classes.ravel(), log_distance.astype(np.float32).ravel()


def _corners(one: Mapping[str, Any]) -> FloatArray:
    """(8, 3) of an object's box on the ground, ego frame."""
    c, s = np.cos(one["heading_rad"]), np.sin(one["heading_rad"])
    along, across = 0.5 * one["length_m"], 0.5 * one["width_m"]
    corners = [
        (one["x_m"] + a * c - b * s, one["y_m"] + a * s + b * c, z)
        for a in (-along, along)
        for b in (-across, across)
        for z in (0.0, one["height_m"])
    ]
    return np.array(corners)


def _numbers(told: Mapping[str, Any]) -> list[float]:
    """Whether there is a lead, its gap, the gap to a line to stop at, pedestrians in view, where the road is further on."""
    constraints = told["trace"]["steps"][0]["constraints"]
    leads = [one["inputs"].get("gap_m", np.nan) for one in constraints if one["rule"] == "lead"]
    lines = [one["inputs"].get("gap_m", np.nan) for one in constraints if one["rule"].endswith("_light")]
    in_view = dict(told["trace"]["scene"]["in_view"])
    path = np.array([state[:2] for state in told["future"]], dtype=float)
    offsets = [_offset_m(path, ahead_m) for ahead_m in AHEAD_M]
    return [
        float(bool(leads)),
        min(leads, default=np.nan) / GAP_SCALE_M,
        min(lines, default=np.nan) / GAP_SCALE_M,
        min(float(in_view.get("pedestrian", 0)), 5.0) / 5.0,
        *(offset / OFFSET_SCALE_M for offset in offsets),
    ]


def _offset_m(path: FloatArray, ahead_m: float) -> float:
    """Sideways, where the path that was driven is so far ahead; nan where it does not go there."""
    beyond = np.flatnonzero(path[:, 0] >= ahead_m)
    return float(path[beyond[0], 1]) if len(beyond) else np.nan


# ---- small things ---------------------------------------------------------------------------------------------------


def tower_of(model: Any) -> Any:
    """The eyes of a model, with LoRA around it or not."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.model.visual


def _zeroed(x: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(x)


def _mean_known(values: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    if known is None:
        return values.mean()
    mask = torch.isfinite(known)
    return (values * mask).sum() / mask.sum().clamp(min=1)
