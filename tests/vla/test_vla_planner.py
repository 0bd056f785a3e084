"""A model in the driver's seat: it is asked as it was trained, followed as it answered, and stopped where it said nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import car, scenario, straight_map

from data_gen.sample import SampleConfig, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.cli import choose_planner, main, planner_factory
from nsdrive.dataset import Dataset, open_dataset
from nsdrive.scenarios.synthetic import SyntheticConfig, build
from nsdrive.vla.data.encoding import encode
from nsdrive.vla.data.rows import read_row
from nsdrive.vla.inference.engine import Said, Texts
from nsdrive.vla.inference.predictor import Predictor
from nsdrive.vla.prompt import parse_answer, render_answer
from nsdrive.vla.question_form import FORM, QuestionForm, form_of, model_folder, read_form, write_form
from nsdrive.vla.trajectory_head import HeadShape, TrajectoryHead, save_head
from nsdrive.vla.waypoints import through
from nsdrive.world.decision import KEPT_PLAN, LATE_ANSWER, NO_WAY
from nsdrive.world.simulate import simulate
from nsdrive.world.types import HISTORY_TICKS, ObjectFrame, Observation
from planners.vla import LATE, VlaConfig, VlaPlanner

SMALL = {"image_width_px": 64, "image_height_px": 36, "trace_level": "none"}


def planner(model: Path, **settings) -> VlaPlanner:
    return VlaPlanner(VlaConfig(model=str(model), **(SMALL | settings)))


def saying(driver: VlaPlanner, texts: str | list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The driver's model answers this, whatever it is asked, or these one after the other; what it is asked is listed."""
    asked: list[str] = []

    def answer(questions, levels, **how):
        asked.extend(question.sample_id for question in questions)
        text = texts if isinstance(texts, str) else texts[min(len(asked), len(texts)) - 1]
        return Texts(said=(Said(text=text),) * len(questions))

    monkeypatch.setattr(Predictor, "answer", lambda self, *a, **k: answer(*a, **k))
    return asked


def observed(world, tick=HISTORY_TICKS, **changes) -> Observation:
    history = world.ego_log[: tick + 1]
    fields = {"tick": tick, "time_s": history[-1].time_s, "ego": history[-1], "ego_history": history}
    return Observation(**(fields | {"objects": world.frames[tick], "lights": world.lights[tick]} | changes))


ROAD = scenario(straight_map(300.0), [car("ahead", 60.0, speed_mps=8.0)])
STRAIGHT = render_answer("", np.column_stack([4.0 * np.arange(1, 11), np.zeros(10)]))  # 8 m/s


def test_a_model_that_knows_nothing_drives_and_its_words_are_kept(model):
    rollout = simulate(ROAD, planner(model), duration_s=0.2)
    assert [plan.said is None for plan in rollout.plans] == [False, True, True]
    said = parse_answer(rollout.plans[0].said)
    assert said.error is None, "constrained answers parse"
    motion = through(said.waypoints_ego_m, rollout.states[0])
    assert rollout.plans[0].seconds > 0.0
    assert [plan.seconds for plan in rollout.plans[1:]] == [None, None]
    for plan, state in zip(rollout.plans, rollout.states, strict=True):
        assert plan.decision is None
        assert plan.notes == ()
        assert len(plan.trajectory.times_s) == 81
        expected = motion.from_time(state.time_s)
        np.testing.assert_array_equal(plan.trajectory.poses_global, expected.poses_global)


def test_it_is_asked_what_its_training_samples_asked(model, tmp_path):
    world = build(SyntheticConfig(families=("red_light_lead",)), 0)
    rig = make_rig("3", width_px=64, height_px=36)
    config = SampleConfig(trace_level="brief", anchors_per_scenario=2, anchor_spacing_s=1.0)
    teacher = planner_factory(choose_planner("idm"))()
    driver = planner(model, trace_level="brief", scenery_seed=world.scenery_seed)
    rollout = simulate(world, planner_factory(choose_planner("idm"))())
    driver.initialize(world.mission, rollout.states[0])
    for made, index in zip(samples_of(world, teacher, rig, config, item="0"), (0, 10), strict=True):
        for name, data in made.images.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
        trained = read_row(Dataset(folder=tmp_path, manifest={}), made.sample.to_row())
        history = (*rollout.history, *rollout.states[: index + 1])
        asked = driver.question(
            Observation(
                tick=HISTORY_TICKS + index,
                time_s=history[-1].time_s,
                ego=history[-1],
                ego_history=history,
                objects=rollout.frames[index],
                lights=rollout.lights[index],
            )
        )
        assert asked.prompt == trained.prompt
        theirs = encode(driver._predictor.processor, trained, with_answer=False)
        ours = encode(driver._predictor.processor, asked, with_answer=False)
        assert ours.input_ids.tolist() == theirs.input_ids.tolist()
        assert ours.patches.equal(theirs.patches), "the same pixels, JPEG and all"


def test_a_plan_of_constant_speed_is_driven_at_constant_speed(model, monkeypatch):
    driver = planner(model)
    asked = saying(driver, STRAIGHT, monkeypatch)
    rollout = simulate(ROAD, driver, duration_s=2.0)
    assert asked == [f"tick {tick}" for tick in (20, 25, 30, 35, 40)]
    assert rollout.states[-1].speed_mps == pytest.approx(8.0, abs=0.05)
    assert rollout.states[-1].x_m == pytest.approx(rollout.states[0].x_m + 16.0, abs=0.1)
    assert rollout.states[-1].y_m == pytest.approx(0.0, abs=1e-6)


def test_an_answer_that_cannot_be_read_is_a_stop_with_its_reason(model, monkeypatch):
    driver = planner(model)
    saying(driver, "I would rather not.", monkeypatch)
    rollout = simulate(ROAD, driver, duration_s=6.0)
    assert rollout.states[-1].speed_mps == pytest.approx(0.0, abs=0.2)
    for plan in rollout.plans:
        assert plan.notes == (f"{NO_WAY}the model's answer cannot be read, 0 PLANNING blocks, expected 1",)
    assert rollout.plans[0].said == "I would rather not."
    assert rollout.states[-1].heading_rad == pytest.approx(0.0, abs=1e-9)


UNREADABLE = "the model's answer cannot be read, 0 PLANNING blocks, expected 1"


def test_an_answer_that_cannot_be_read_keeps_the_last_plan_as_long_as_it_reaches(model, monkeypatch):
    driver = planner(model)
    saying(driver, [STRAIGHT, "I would rather not."], monkeypatch)
    rollout = simulate(ROAD, driver, duration_s=7.0)
    noted = [plan.notes for plan in rollout.plans]
    assert noted[:50] == [(), *9 * [(), (), (), (), (f"{KEPT_PLAN}{UNREADABLE}",)], (), (), (), ()]
    assert noted[50:55] == 5 * [(f"{NO_WAY}{UNREADABLE}",)], "5 s after its question the plan is over"
    speeds = [state.speed_mps for state in rollout.states]
    assert speeds[50] == pytest.approx(8.0, abs=0.05)
    assert speeds[-1] < 3.0
    kept = [plan for plan in rollout.plans if any(note.startswith(KEPT_PLAN) for note in plan.notes)]
    assert len(kept) == 9 == sum(plan.said is not None for plan in kept), "one note for an answer"


def slowing(times_s: np.ndarray) -> str:
    """From 8 m/s at 2 m/s^2."""
    return render_answer("", np.column_stack([8.0 * times_s - times_s**2, np.zeros(10)]).clip(max=16.0))


def test_a_late_answer_takes_effect_when_it_comes_and_is_meant_from_where_it_was_asked(model, monkeypatch):
    braking = slowing(np.minimum(0.5 * np.arange(1, 11), 4.0))
    rollouts = {}
    for latency_s in (None, 0.0, 0.25, 0.3):
        driver = planner(model, latency_s=latency_s, replan_interval_s=1.0)
        saying(driver, [STRAIGHT, braking, braking], monkeypatch)
        rollouts[latency_s] = simulate(ROAD, driver, duration_s=1.9)
    prompt, late = rollouts[None], rollouts[0.3]
    for same, as_ in ((0.0, None), (0.25, 0.3)):
        assert rollouts[same].states == rollouts[as_].states, "at the first tick after it has come"
    assert [plan.notes for plan in late.plans] == [(LATE,) if k == 10 else () for k in range(20)]
    assert [plan.said is not None for plan in late.plans] == [k in (0, 10) for k in range(20)]
    straight = through(parse_answer(STRAIGHT).waypoints_ego_m, late.states[0])
    meant = through(parse_answer(braking).waypoints_ego_m, late.states[10])
    for k, plan in enumerate(late.plans):
        followed = straight if k < 13 else meant
        expected = followed.from_time(late.states[k].time_s)
        np.testing.assert_array_equal(plan.trajectory.poses_global, expected.poses_global)
    assert late.states[13].speed_mps == pytest.approx(8.0, abs=0.05)
    assert prompt.states[13].speed_mps < 7.8
    assert all(plan.notes == () for plan in prompt.plans)


def test_while_an_answer_is_on_its_way_nothing_is_asked_and_a_plan_that_is_over_is_a_stop(model, monkeypatch):
    driver = planner(model, latency_s=4.8)
    asked = saying(driver, STRAIGHT, monkeypatch)
    rollout = simulate(ROAD, driver, duration_s=6.0)
    assert asked == ["tick 20", "tick 25", "tick 73"]
    noted = [plan.notes for plan in rollout.plans]
    assert noted[5] == (LATE,)
    over = f"{NO_WAY}the last plan is over and no other has come"
    assert noted[50:53] == 3 * [(over,)]
    assert noted[53] == (LATE,)
    assert noted[55:60] == 5 * [(over,)], "the answer of tick 25 reaches 5 s from there"


def test_an_answer_that_comes_after_its_own_plan_is_over_is_a_stop(model, monkeypatch):
    driver = planner(model, latency_s=5.5)
    saying(driver, STRAIGHT, monkeypatch)
    rollout = simulate(ROAD, driver, duration_s=9.0)
    assert rollout.plans[60].notes[-1] == f"{NO_WAY}the answer came after its own plan was over"
    assert rollout.states[-1].speed_mps == pytest.approx(0.0, abs=0.2)


def test_a_late_answer_that_cannot_be_read_is_both(model, monkeypatch):
    driver = planner(model, latency_s=0.3)
    saying(driver, [STRAIGHT, "No."], monkeypatch)
    plans = simulate(ROAD, driver, duration_s=1.2).plans
    both = (LATE, f"{KEPT_PLAN}{UNREADABLE}")
    assert [plan.notes for plan in plans] == [both if k in (5, 10) else () for k in range(13)]


def test_the_measured_time_of_an_answer_is_when_it_takes_effect(model, monkeypatch):
    driver = planner(model, latency_s="measured")
    asked = saying(driver, STRAIGHT, monkeypatch)
    clock = iter(np.arange(0.0, 10.0, 0.21))  # looked at when it begins to read, has read, and has answered
    monkeypatch.setattr("planners.vla.time.perf_counter", lambda: float(next(clock)))
    plans = simulate(ROAD, driver, duration_s=1.2).plans
    assert asked == ["tick 20", "tick 25", "tick 30"]
    assert [k for k, plan in enumerate(plans) if plan.seconds is not None] == [0, 5, 10]
    assert [plan.seconds for plan in plans if plan.said] == pytest.approx([0.42, 0.42, 0.42])
    (note,) = plans[5].notes
    assert note.startswith(LATE_ANSWER)
    assert plans[0].notes == (), "the first answer is not waited for"


def test_what_goes_wrong_in_a_tick_is_a_stop_and_the_next_tick_asks_again(model, monkeypatch):
    driver = planner(model)
    driver.initialize(ROAD.mission, ROAD.ego_log[HISTORY_TICKS])

    def out_of_memory(*a, **k):
        raise ValueError("The GPU's memory does not suffice")

    with monkeypatch.context() as broken:
        broken.setattr(Predictor, "answer", out_of_memory)
        plan = driver.plan(observed(ROAD))
    assert plan.decision.notes == (f"{NO_WAY}The GPU's memory does not suffice",)
    assert plan.trajectory.speeds_mps[-1] == 0.0
    asked = saying(driver, STRAIGHT, monkeypatch)
    assert driver.plan(observed(ROAD, HISTORY_TICKS)).said == STRAIGHT
    assert len(asked) == 1


def test_input_that_is_not_as_it_should_be_is_noted_and_driven_on(model, monkeypatch):
    driver = planner(model)
    saying(driver, STRAIGHT, monkeypatch)
    driver.initialize(replace(ROAD.mission, route_roadblock_ids=()), ROAD.ego_log[HISTORY_TICKS])
    frame = ObjectFrame.of([car("ahead", 60.0), replace(car("lost", 70.0), x_m=float("nan"))])
    plan = driver.plan(observed(ROAD, objects=frame))
    assert plan.notes == ("there is no route", "without a usable box, left out: lost")
    assert plan.trajectory.speeds_mps[0] == pytest.approx(8.0)


def test_a_model_says_how_it_is_to_be_asked_unless_it_is_told(model, tmp_path):
    folder = tmp_path / "run" / "model"
    shutil.copytree(model, folder)
    form = QuestionForm(rig=make_rig("8", width_px=96, height_px=54), trace_level="brief")
    write_form(form, folder)
    assert read_form(folder) == form
    assert model_folder(str(tmp_path / "run")) == str(folder)
    assert VlaPlanner(VlaConfig(model=str(tmp_path / "run"))).form == form
    told = planner(folder, rig="3").form
    assert (told.trace_level, len(told.rig.cameras), told.rig.cameras[0].width_px) == ("none", 3, 64)
    assert VlaPlanner(VlaConfig(model=str(model))).form == QuestionForm(rig=make_rig("3"), trace_level="detailed")
    (folder / FORM).write_text("{}")
    with pytest.raises(ValueError, match=r"nsdrive\.json is not what nsdrive wrote"):
        read_form(folder)
    told_by = {"nsdrive": {"rig": form.rig.to_json()}}
    assert form_of(told_by | {"trace_level": "brief"}) == form
    assert form_of(told_by | {"trace_level": "long"}) is None
    assert form_of({"trace_level": "brief"}) is form_of({"nsdrive": {"rig": {}}, "trace_level": "none"}) is None


def test_without_a_model_or_with_a_wrong_setting_it_is_one_line(capsys, tmp_path):
    for said, *settings in [
        ("planner.model=out/run/model",),
        ("No model folder /nowhere/model", "planner.model=/nowhere/model"),
        ("replan_interval_s must be 0.1 to 5.0", "planner.replan_interval_s=9"),
        ("latency_s must be 0 to 60", "planner.latency_s=-1"),
        ("latency_s", "planner.latency_s=sometimes"),
        ("Did you mean 'max_reasoning_tokens'", "planner.max_reasoning_token=9"),
    ]:
        scene = ["scenarios.n_scenarios=1", "planner=vla", *settings, "--out", str(tmp_path / said[:4]), "--overwrite"]
        assert main(["simulate", "simulate/synthetic", *scene]) == 1
        assert said in capsys.readouterr().err


def test_it_drives_but_does_not_teach(model, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Predictor, "answer", lambda *a, **k: Texts(said=(Said(text=STRAIGHT),)))
    small = ["image_width_px=64", "image_height_px=36"]
    scene = ["scenarios.n_scenarios=1", "scenarios.families=free_road", "planner=vla", f"planner.model={model}"]
    scene += [f"planner.{setting}" for setting in (*small, "trace_level=none")]
    assert main(["simulate", "simulate/synthetic", *scene, "duration_s=3", "--out", str(tmp_path / "driven")]) == 0
    (row,) = json.loads((tmp_path / "driven/results.json").read_text())["scenarios"]
    assert row["planner"] == "vla"
    assert 0.0 <= row["score"] <= 1.0
    assert row["binding_ticks"] == {}
    rollout = json.loads((tmp_path / "driven/rollouts.jsonl").read_text())
    assert [said["state"] for said in rollout["said"]] == [0, 5, 10, 15, 20, 25, 30]
    assert {said["text"] for said in rollout["said"]} == {STRAIGHT}
    assert main(["generate", "data/synthetic", *scene, *small, "--out", str(tmp_path / "data")]) == 1
    assert "Planner 'vla' makes no decisions" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")  # as in test_train.py
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_a_trained_model_drives_a_scene_to_its_score(tmp_path):
    scenes = ["scenarios.n_scenarios=2", "scenarios.families=free_road", "rig=3"]
    small = ["image_width_px=64", "image_height_px=36", "samples.trace_level=none", "train_share=1", "val_share=0"]
    data, run = tmp_path / "data", tmp_path / "run"
    assert main(["generate", "data/synthetic", *scenes, *small, "--out", str(data)]) == 0
    assert (
        main(
            [
                "train",
                "train/tiny_demo",
                "deepspeed=none",
                "max_steps=2",
                "save_every_steps=2",
                "--data",
                str(data),
                "--out",
                str(run),
            ]
        )
        == 0
    )
    form = read_form(run / "model")
    assert form == form_of(json.loads(open_dataset(data).shards("train")[0].read_text().splitlines()[0]))
    assert form.trace_level == "none"
    driver = ["planner=vla", f"planner.model={run}", "duration_s=1", *scenes[:2]]
    assert main(["simulate", "simulate/synthetic", *driver, "--out", str(tmp_path / "driven")]) == 0
    assert main(["simulate", "simulate/synthetic", *driver, "--out", str(tmp_path / "two"), "--workers", "2"]) == 0
    for name in ("results.json", "rollouts.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "driven" / name).read_bytes()
    assert all(json.loads(line)["said"] for line in (tmp_path / "driven/rollouts.jsonl").read_text().splitlines())


def test_naming_the_planner_needs_no_torch():
    code = (
        "import sys; from nsdrive.cli import planner_table; planner_table()['vla']; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trajectory_head_drives_at_once_or_alone_and_where_there_is_none_that_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="has no trajectory head"):
        planner(model, mode="head")
    shutil.copytree(model, tmp_path / "model")
    save_head(TrajectoryHead(HeadShape(kind="regression", hidden=128)), tmp_path / "model")  # goes on as it goes
    alone, early = planner(tmp_path / "model", mode="head"), planner(tmp_path / "model", early=True)
    braking = render_answer("", np.zeros((10, 2)))
    on = np.column_stack([3.0 * np.arange(1, 11), np.zeros(10)])
    said = Said(text=braking, early_waypoints_ego_m=on, early_seconds=0.25)
    monkeypatch.setattr(Predictor, "answer", lambda *a, **k: Texts(said=(said,)))
    for driver in (alone, early):
        driver.initialize(ROAD.mission, observed(ROAD).ego)
        plan = driver.plan(observed(ROAD))
        ego = observed(ROAD).ego
        expected_m = 3.0 * 10 if driver is early else 5.0 * ego.speed_mps
        driven_m = np.hypot(*(plan.trajectory.poses_global[50, :2] - ego.pose[:2]))
        assert driven_m == pytest.approx(expected_m, abs=1.0)
        assert plan.notes == ()
    assert plan.said == braking, "what it says is kept, though it drives by its head"
    assert 0.25 <= plan.seconds < 10.0


def test_a_driver_may_be_asked_for_its_waypoints_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = planner(model, mode="plan", trace_level="brief")
    asked: list[str] = []

    def answer(self: Predictor, questions, levels, **how) -> Texts:
        asked.extend(one.prefix for one in questions)
        return Texts(said=(Said(text=STRAIGHT),))

    monkeypatch.setattr(Predictor, "answer", answer)
    driver.initialize(ROAD.mission, observed(ROAD).ego)
    driver.plan(observed(ROAD))
    assert asked == ["<PLANNING>"]
