"""A small dataset for the VLA's tests, made without the simulator: random pictures, plausible words, true shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from nsdrive.dataset import FORMAT_VERSION, MANIFEST, Sample, json_line, sha256_of, write_atomically
from nsdrive.vla.prompt import build_prompt, render_answer

CAMERAS = ("CAM_F0", "CAM_R0", "CAM_L0")


def make_dataset(folder: Path, *, n_train: int = 12, n_test: int = 5, level: str = "brief", n_images: int = 3) -> Path:
    """A complete dataset folder; sample k of a split is a pure function of (split, k)."""
    files = {}
    for split_number, (split, n_samples) in enumerate((("train", n_train), ("test", n_test))):
        rows = [make_sample(folder, split, split_number, k, level, n_images).to_row() for k in range(n_samples)]
        shard = folder / f"{split}-00000.jsonl"
        write_atomically(shard, "".join(json_line(row) for row in rows))
        files[shard.name] = sha256_of(shard)
    manifest = {"format_version": FORMAT_VERSION, "files": files, "counts": {"train": n_train, "test": n_test}}
    write_atomically(folder / MANIFEST, json.dumps(manifest))
    return folder


def make_sample(folder: Path, split: str, split_number: int, k: int, level: str, n_images: int) -> Sample:
    rng = np.random.default_rng([split_number, k])
    images = []
    for name in CAMERAS[:n_images]:
        path = folder / "images" / f"{split}-{k}" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (36, 64, 3), dtype=np.uint8)).save(path, quality=80)
        images.append(str(path.relative_to(folder)))
    speed_mps = float(rng.uniform(2, 12))
    history = [
        {
            "t_s": -0.5 * j,
            "x_m": -0.5 * j * speed_mps,
            "y_m": 0.0,
            "vx_mps": speed_mps,
            "vy_mps": 0.0,
            "ax_mps2": 0.0,
            "ay_mps2": 0.0,
        }
        for j in range(4, -1, -1)
    ]
    waypoints = np.stack([0.5 * speed_mps * np.arange(1, 11), np.zeros(10)], axis=1)
    said = "" if level == "none" else f"Lead vehicle at {rng.uniform(5, 40):.1f} m. Keep {speed_mps:.1f} m/s."
    future = np.zeros((51, 5))
    future[:, 0], future[:, 3] = 0.1 * speed_mps * np.arange(51), speed_mps
    return Sample(
        sample_id=f"{split}-{k}",
        scenario_id=f"scene-{k}",
        scenario_type="following_lane",
        planner="idm",
        trace_level=level,
        images=tuple(images),
        prompt=build_prompt(
            cameras=CAMERAS[:n_images], ego_history=history, command="keep lane", speed_limit_mps=13.9, level=level
        ),
        answer=render_answer(said, waypoints),
        ego_history=tuple(history),
        waypoints_ego_m=waypoints,
        future=future,
        command="keep lane",
        speed_limit_mps=13.9,
        binding_rule="free_road",
        trace={},
        trace_names={},
        rig={},
        anchor={"tick": 20, "time_s": 2.0, "pose_global": [0.0, 0.0, 0.0]},
    )
