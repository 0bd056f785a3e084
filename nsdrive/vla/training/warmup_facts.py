"""What the vision warm-up asks of a sample: which object covers an image token and how far away that is, and of all tokens
together the lead's gap, the light, who is in view and where the road leads.

    facts_of(row, grid, merge=2)     # None where the row is not one of ours

The facts come from the stored sample (`seen`, `objects`, the trace's first step, `future`); of a sample that lacks some, the
others are learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nsdrive.cameras.rig import Camera, Rig, project
from nsdrive.world.types import FloatArray

CLASSES = ("nothing", "vehicle", "pedestrian", "cyclist", "other")
LIGHTS = ("none", "green", "amber", "red")
MIN_PIXELS = 12  # of the stored image, chosen by us: fewer are no longer recognised in a smaller one
GAP_SCALE_M = 20.0  # near the mean gap of the synthetic set
AHEAD_M = (10.0, 20.0, 30.0)  # where the road's sideways offset is asked for; chosen by us
OFFSET_SCALE_M = 3.0
UNKNOWN = -100  # class and light: torch's cross entropy leaves it out


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is asked of a sample with N image tokens. Numbers are nan where they are not known."""

    classes: torch.Tensor  # (N,) index into CLASSES
    log_distance: torch.Tensor  # (N,) of the covering object, log(m / 20)
    light: int  # index into LIGHTS, or UNKNOWN
    numbers: torch.Tensor  # (NUMBERS,): see _numbers


N_NUMBERS = 4 + len(AHEAD_M)


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
