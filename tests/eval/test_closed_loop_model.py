"""A model in the driver's seat of whole scenarios, the others answering: asked, late, unreadable, timed and filmed."""

import json
import shutil
from functools import partial

import numpy as np
import pytest

from eval.closed_loop.drive import SimulateConfig, closed_loop
from nsdrive.config import Chosen
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.vla.inference.engine import Said, Texts
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.model import load_processor, save_processor
from nsdrive.vla.prompt import render_answer
from nsdrive.vla.tiny import build_tiny
from planners.idm import IdmConfig, IdmPlanner
from planners.vla import VlaConfig, VlaPlanner

STRAIGHT = render_answer("The road is free.", np.column_stack([4.0 * np.arange(1, 11), np.zeros(10)]))  # 8 m/s


@pytest.mark.slow
def test_a_model_drives_among_reactive_agents_and_its_late_and_unreadable_answers_are_counted(tmp_path, monkeypatch):
    tiny, small = tmp_path / "tiny", tmp_path / "small"
    build_tiny(tiny)
    shutil.copytree(tiny, small)
    save_processor(load_processor(tiny, min_pixels=1024, max_pixels=2048), small)
    asked = []

    def answer(self, questions, levels, **how):
        asked.append(levels)
        return Texts(said=(Said(text="I do not know" if len(asked) == 3 else STRAIGHT),))

    monkeypatch.setattr(Predictor, "answer", answer)
    driver = VlaConfig(model=str(small), image_width_px=64, image_height_px=36, trace_level="brief", latency_s=0.3)
    config = SimulateConfig(
        scenarios=Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=1, families=("cut_in",))),
        planner=Chosen(name="vla", config=driver),
        agents="reactive",
        duration_s=2.0,
        films="all",
    )
    done = closed_loop(config, partial(VlaPlanner, driver), partial(IdmPlanner, IdmConfig()), out=tmp_path / "run")
    assert done.failures == ()
    assert done.rows[0]["answers"] == {"asked": 5, "late": 4, "unreadable": 1}
    timing = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert timing["per_answer"]["n"] == len(asked) == 5
    assert timing["per_tick"]["n"] == 21
    told = json.loads((tmp_path / "run" / "rollouts.jsonl").read_text())
    assert [said["text"] for said in told["said"]].count("I do not know") == 1
    assert (tmp_path / "run" / done.films[0]["file"]).read_bytes()[8:12] == b"WEBP"
