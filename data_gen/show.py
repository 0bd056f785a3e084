"""One scenario as a person wants to see it: cameras, bird's eye view, trace and text; and scenes redrawn for the report."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_gen.labels import FUTURE_TICKS, anchored
from data_gen.sample import SampleConfig, explained_future, make_sample, pictures_of
from nsdrive.cameras.recorded import recorded_views
from nsdrive.cameras.render import Renderer, encode_jpeg
from nsdrive.cameras.rig import make_rig
from nsdrive.config import did_you_mean
from nsdrive.dataset import Sample, json_line, write_atomically
from nsdrive.draw import birds_eye, contact_sheet
from nsdrive.draw_choice import DrawnChoice, drawn_choice
from nsdrive.scenarios.argoverse2 import Argoverse2Config, Argoverse2Source
from nsdrive.scenarios.manoeuvres import MANOEUVRES, ManoeuvresConfig, ManoeuvresSource
from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.py123d import Py123dConfig, Py123dSource
from nsdrive.scenarios.source import ScenarioSource
from nsdrive.scenarios.synthetic import FAMILIES, SyntheticConfig, SyntheticSource
from nsdrive.trace.text import render
from nsdrive.vla.prompt import TICKS_PER_WAYPOINT
from nsdrive.world.geometry import to_global
from nsdrive.world.types import HISTORY_TICKS, INTERVAL_S, FloatArray, Planner, Scenario


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What was written, and the detailed text."""

    scenario_id: str
    scenario_type: str
    text: str
    files: tuple[Path, ...]


def show(name: str, make_planner: Callable[[], Planner], *, rig: str, at_s: float, seed: int, out: Path) -> Shown:
    """Write cameras, bird's eye view, texts and the sample's row for the anchor at `at_s` seconds into the scenario.

    The images of a log are its own where it has them, as in a data set.
    """
    source, item = find_item(name, seed)
    scenario = source.load(item)
    tick = anchor_tick(scenario, at_s)
    config = SampleConfig(keep_bad_driving=True)
    (at,) = anchored(scenario, make_planner(), config, ticks=(tick,))
    camera_rig = make_rig(rig)
    views = recorded_views(source.cameras(item), camera_rig)
    pictures = pictures_of(at, Renderer(scenario.lane_map, scenario.scenery_seed), camera_rig, views)
    made = make_sample(at, pictures, config, item=item)
    rollout, index = at.rollout, at.index
    choice = drawn_choice(rollout.plans[index], made.sample.trace_names)
    above = scene_from_above(scenario, rollout.frames[index], rollout.lights[index], made.sample, {}, choice)
    out.mkdir(parents=True, exist_ok=True)
    texts = {level: render(made.trace, level) for level in ("brief", "detailed")}
    contents: dict[str, bytes | str] = {
        "sheet.png": _png(contact_sheet(pictures.rgb, birds_eye=above)),
        "birds_eye.png": _png(above),
        "brief.txt": texts["brief"] + "\n",
        "detailed.txt": texts["detailed"] + "\n",
        "sample.json": json_line(made.sample.to_row()),
        **{f"{n}.jpg": encode_jpeg(rgb) for n, rgb in pictures.rgb.items()},
    }
    for file, content in contents.items():
        write_atomically(out / file, content)
    return Shown(
        scenario_id=scenario.scenario_id,
        scenario_type=scenario.scenario_type,
        text=texts["detailed"],
        files=tuple(out / file for file in contents),
    )


def find_item(name: str, seed: int = 0) -> tuple[ScenarioSource, str]:
    """A scenario, as its source and its name there, by the name that a person types: a log (a folder, FILE.db, FILE.db/TOKEN,
    a log of py123d: FOLDER, FOLDER@TICK), a family, a manoeuvre, or a generated id."""
    source: ScenarioSource
    path = Path(name)
    log, _, tick = name.rpartition("@") if re.fullmatch(r".+@\d+", name) else (name, "", "0")
    if (Path(log) / "sync.arrow").is_file():
        return Py123dSource(Py123dConfig(path=log)), f".@{tick}"
    if path.parent.suffix == ".db":
        return NuplanSource(NuplanConfig(path=str(path.parent))), path.name
    if path.exists():
        if path.suffix == ".db":
            source = NuplanSource(NuplanConfig(path=name, limit=1))
        else:
            source = Argoverse2Source(Argoverse2Config(path=name, limit=1))
        return source, source.items()[0]
    if name in FAMILIES:
        source = SyntheticSource(SyntheticConfig(seed=seed, families=(name,), n_scenarios=1))
        return source, source.items()[0]
    if name in MANOEUVRES:
        return ManoeuvresSource(ManoeuvresConfig()), name
    generated = re.fullmatch(r"syn-(.+)-(\d+)-s(\d+)", name)
    if generated and generated.group(1) in FAMILIES:
        return SyntheticSource(SyntheticConfig(seed=int(generated.group(3)))), name
    known = did_you_mean(name, {**FAMILIES, **MANOEUVRES})
    raise ValueError(f"No scenario '{name}': no such path, family or manoeuvre. {known}")


def anchor_tick(scenario: Scenario, at_s: float) -> int:
    """The tick of an anchor at `at_s` seconds. ValueError where a sample would lack past or future there."""
    last = scenario.n_ticks - 1 - FUTURE_TICKS
    if not math.isfinite(at_s) or not HISTORY_TICKS <= round(at_s / INTERVAL_S) <= last:
        raise ValueError(
            f"--at {at_s} is outside {scenario.scenario_id}: give {HISTORY_TICKS * INTERVAL_S:.1f} to {last * INTERVAL_S:.1f} s"
        )
    return round(at_s / INTERVAL_S)


def scene_from_above(
    scenario: Scenario,
    frame: Any,
    lights: Mapping[str, str],
    sample: Sample,
    predicted: Mapping[str, FloatArray],
    choice: DrawnChoice | None = None,
) -> np.ndarray:
    """Bird's eye view (H, W, 3) of a sample: the world, the history, `futures_of` it, and predictions if any, and choice."""
    pose = np.array(sample.anchor["pose_global"], dtype=float)
    history = to_global(np.array([[h["x_m"], h["y_m"]] for h in sample.ego_history]), pose)
    trajectories = {name: to_global(points, pose) for name, points in {**futures_of(sample), **predicted}.items()}
    return birds_eye(
        scenario.lane_map, pose, frame, lights=lights, history=history, trajectories=trajectories, choice=choice
    )


def futures_of(sample: Sample) -> dict[str, FloatArray]:
    """Whose -> (11, 2) positions in the ego frame, 0.5 s apart from the anchor on: the planner's, and a human's label."""
    futures = {"planner": explained_future(sample)[::TICKS_PER_WAYPOINT, :2]}
    if sample.extra.get("label") == "human":
        futures["human"] = sample.future[::TICKS_PER_WAYPOINT, :2]
    return futures


def _png(rgb: np.ndarray) -> bytes:
    import cv2

    ok, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert ok
    return bytes(data)
