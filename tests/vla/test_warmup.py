"""The vision warm-up: what is asked of a sample, and that a tower of random weights learns to see."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from nsdrive.cameras.rig import Rig, make_rig, project
from nsdrive.vla.data.rows import Row
from nsdrive.vla.model import load_model, load_processor
from nsdrive.vla.question_form import QuestionForm, write_form
from nsdrive.vla.training.config import TrainConfig
from nsdrive.vla.training.starting_model import make_warmed
from nsdrive.vla.training.stopping import Stopping
from nsdrive.vla.training.warmup import warm_vision
from nsdrive.vla.training.warmup_facts import CLASSES, LIGHTS, UNKNOWN, _corners, facts_of
from nsdrive.vla.trajectory_head import HeadShape, TrajectoryHead, load_head, save_head

FRONT = Rig(name="front", cameras=make_rig("3", width_px=128, height_px=64).cameras[:1])
NEVER = Stopping(save_every_minutes=None)
GRID = torch.tensor([[1, 4, 8]])  # 2 x 4 tokens


def a_car(distance_m: float) -> dict[str, Any]:
    return {
        "id": "car-1",
        "kind": "vehicle",
        "x_m": distance_m,
        "y_m": 0.0,
        "heading_rad": 0.0,
        "length_m": 4.5,
        "width_m": 1.9,
        "height_m": 1.5,
    }


def row_of(*, gap_m: float, light: str | None = None) -> dict[str, Any]:
    """A stored sample, as far as the warm-up reads it: a car ahead, and a road that leads 2 m to the left in 20 m."""
    step = {"constraints": [{"rule": "lead", "inputs": {"gap_m": gap_m}}]}
    told = {
        "rig": FRONT.to_json(),
        "objects": [a_car(gap_m + 6.0)],
        "seen": {FRONT.cameras[0].name: {"car-1": 300}},
        "trace": {"scene": {"in_view": [["vehicle", 1], ["pedestrian", 2]], "light": light}, "steps": [step]},
        "future": [[x, 0.005 * x * x, 0.0, 10.0, 0.0] for x in np.arange(51.0) * 0.5],
    }
    return {"id": f"{gap_m:.3f}", "nsdrive": told}


class Scenes:
    """Rows whose pictures are drawn here: a red box on grey."""

    def __init__(self, n: int) -> None:
        self._gaps = np.random.default_rng(0).uniform(2.0, 30.0, size=n)

    def __len__(self) -> int:
        return len(self._gaps)

    def raw(self, index: int) -> dict[str, Any]:
        return row_of(gap_m=float(self._gaps[index]))

    @cache  # noqa: B019
    def __getitem__(self, index: int) -> Row:
        camera = FRONT.cameras[0]
        picture = Image.new("RGB", (camera.width_px, camera.height_px), (110, 110, 110))
        pixels, _ = project(camera, _corners(a_car(float(self._gaps[index]) + 6.0)))
        ImageDraw.Draw(picture).rectangle((*pixels.min(axis=0), *pixels.max(axis=0)), fill=(180, 20, 20))
        return Row(sample_id=str(index), level="none", images=(picture,), prompt="front: <image> Where to?", answer="x")


def test_a_token_is_asked_for_the_object_that_covers_it_and_how_far_that_is() -> None:
    facts = facts_of(row_of(gap_m=14.0), GRID, merge=2)
    assert facts is not None
    covered = facts.classes.view(2, 4) == CLASSES.index("vehicle")
    assert covered[1, 1:3].any(), "straight ahead, below the horizon"
    assert not covered[:, [0, 3]].any(), "not at the sides"
    distances = 20.0 * facts.log_distance[facts.classes > 0].exp()
    assert torch.allclose(distances, torch.tensor(20.0))
    assert facts.log_distance[facts.classes == 0].isnan().all()


def test_the_whole_sample_is_asked_for_gap_light_pedestrians_and_where_the_road_leads() -> None:
    facts = facts_of(row_of(gap_m=10.0, light="red"), GRID, merge=2)
    assert facts is not None
    assert facts.light == LIGHTS.index("red")
    has_lead, gap, line, pedestrians, _, at_20_m, at_30_m = facts.numbers.tolist()
    assert (has_lead, gap, pedestrians) == pytest.approx((1.0, 0.5, 0.4))
    assert at_20_m == pytest.approx(2.0 / 3.0, abs=0.05)
    assert np.isnan([line, at_30_m]).all(), "no line to stop at; the drive ended before 30 m"


def test_what_another_program_stored_is_no_question() -> None:
    assert facts_of({"id": "A"}, GRID, merge=2) is None
    strange = row_of(gap_m=5.0, light="purple")
    facts = facts_of(strange, GRID, merge=2)
    assert facts is not None
    assert facts.light == UNKNOWN


def test_a_tower_of_random_weights_learns_to_see_the_gap_the_same_way_each_time(tiny_folder: Path) -> None:
    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=128 * 64)
    torch.manual_seed(0)
    model = load_model(tiny_folder).train()
    words = model.model.language_model.embed_tokens.weight.clone()
    learn = {"batch_size": 8, "learning_rate": 2e-3, "seed": 0}
    said = warm_vision(model, processor, Scenes(64), steps=54, **learn)
    first, last = (np.mean([row["gap_error_m"] for row in rows]) for rows in (said[:6], said[-6:]))
    assert first > 10.0
    assert last < 5.0, "who always says the mean gap is 7 m off"
    assert torch.equal(model.model.language_model.embed_tokens.weight, words), "no word is learned here"
    again = warm_vision(load_model(tiny_folder).train(), processor, Scenes(64), steps=1, **learn)
    assert said[0] == again[0]


def test_a_warm_up_keeps_the_head_of_its_start_and_refuses_another_rig_first(tiny_folder: Path, tmp_path: Path) -> None:
    class Told(Scenes):
        def raw(self, index: int) -> dict[str, Any]:
            return super().raw(index) | {"trace_level": "none"}

    start = tmp_path / "start"
    shutil.copytree(tiny_folder, start)
    save_head(TrajectoryHead(HeadShape(kind="regression", hidden=128, width=8)), start)
    config = TrainConfig(vision_warmup_steps=1, vision_warmup_batch=2, min_image_pixels=1024, max_image_pixels=128 * 64)
    make_warmed(config, str(start), Told(4), tmp_path, NEVER)
    head = load_head(tmp_path / "warmed")
    assert head is not None
    assert head.shape.width == 8
    write_form(QuestionForm(rig=make_rig("3"), trace_level="none"), start)
    with pytest.raises(ValueError, match="was trained with the cameras"):
        make_warmed(config, str(start), Told(4), tmp_path / "other", NEVER)


def test_a_killed_warm_up_goes_on_to_the_same_weights_from_what_the_clock_had_kept(
    tiny_folder: Path, tmp_path: Path
) -> None:
    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=128 * 64)
    how: dict[str, Any] = {"steps": 4, "batch_size": 2, "learning_rate": 2e-3, "seed": 0}
    undisturbed, other = load_model(tiny_folder).train(), load_model(tiny_folder).train()
    said = warm_vision(undisturbed, processor, Scenes(6), **how)

    def killed(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    always = Stopping(save_every_minutes=0.0)
    how |= {"unfinished": tmp_path / "warming.pt", "stopping": always}
    with pytest.raises(KeyboardInterrupt):
        warm_vision(other, processor, Scenes(6), **how, progress=killed)
    seen: list[int] = []
    fresh = load_model(tiny_folder).train()
    again = warm_vision(fresh, processor, Scenes(6), **how, progress=lambda done, _: seen.append(done))
    assert seen == [3, 4], "two steps were kept"
    assert again == said
    ours, theirs = (model.model.visual.state_dict() for model in (fresh, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_warm_up_may_have_any_number_of_steps(steps: int, tiny_folder: Path) -> None:
    processor = load_processor(tiny_folder, min_pixels=1024, max_pixels=128 * 64)
    how: dict[str, Any] = {"batch_size": 1, "learning_rate": 2e-3, "seed": 0}
    said = warm_vision(load_model(tiny_folder).train(), processor, Scenes(3), steps=steps, **how)
    assert [row["step"] for row in said] == [*range(1, steps + 1)]


def test_a_warm_up_that_could_not_be_kept_is_refused_before_anything_runs() -> None:
    for keeps_none in ({"freeze_vision": True}, {"method": "lora"}):
        with pytest.raises(ValueError, match="vision_warmup_steps trains the vision tower"):
            replace(TrainConfig(vision_warmup_steps=10), **keeps_none)
