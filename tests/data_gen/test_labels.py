"""What waypoints are (a drive, a plan, a human's), what the text explains, and which anchors teach nothing good."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from nuplan_builder import write_log
from scenes import scene, straight_road, thing

from data_gen.check import check, check_text
from data_gen.generate import GenerateConfig, generate
from data_gen.labels import FUTURE_TICKS, anchored
from data_gen.sample import LeftOut, Made, SampleConfig, explained_future, samples_of
from data_gen.show import futures_of
from data_gen.teacher import driving_of
from nsdrive.cameras.rig import make_rig
from nsdrive.config import Chosen
from nsdrive.dataset import open_dataset, sha256_of
from nsdrive.scenarios.nuplan import NuplanConfig
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.world.simulate import simulate
from nsdrive.world.types import Observation
from planners.idm import IdmConfig, IdmPlanner

MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
RIG = make_rig("3", width_px=64, height_px=36)


class Blind(IdmPlanner):
    """Sees nobody, and drives on."""

    def plan(self, observation):
        return super().plan(replace(observation, objects=observation.objects.take([])))


class Veering(IdmPlanner):
    """Wants to be four metres further left than it is."""

    def plan(self, observation):
        plan = super().plan(observation)
        poses = plan.trajectory.poses_global.copy()
        poses[:, 1] = observation.ego.y_m + 4.0
        return replace(plan, trajectory=replace(plan.trajectory, poses_global=poses))


class Hasty(IdmPlanner):
    """Plans four seconds ahead."""

    def __init__(self):
        super().__init__(IdmConfig(horizon_s=4.0))


def drive(speed_mps=10.0, objects=(), seconds=15.0):
    """A log: a human who keeps a speed on a straight road with a limit of 13.41 m/s."""
    made = scene(straight_road(), speed_mps=speed_mps, objects=objects, seconds=seconds, start_m=30.0)
    first, start = made.ego_log[0], made.ego_log[20]
    states = (
        replace(first, time_s=round(0.1 * k, 6), x_m=start.x_m + speed_mps * (0.1 * k - 2.0))
        for k in range(made.n_ticks)
    )
    return replace(made, ego_log=tuple(states))


def samples(scenario, planner=None, **settings):
    found = samples_of(scenario, planner or MAKE_PLANNER(), RIG, SampleConfig(**settings), item="it")
    return [each.sample if isinstance(each, Made) else each for each in found]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("anchors_per_scenario", 0, "must be at least 1, got 0"),
        ("anchors_per_scenario", -1, "must be at least 1, got -1"),
        ("anchor_spacing_s", -3.0, "must be at least 0.1 s, a scenario's tick, got -3.0"),
        ("anchor_spacing_s", 0.0, "must be at least 0.1 s"),
        ("anchor_spacing_s", float("nan"), "must be at least 0.1 s"),
        ("anchor_spacing_s", float("inf"), "must be at least 0.1 s"),
        ("jpeg_quality", 0, "must be 1 to 100, got 0"),
        ("jpeg_quality", 1000, "must be 1 to 100, got 1000"),
    ],
)
def test_a_setting_of_the_samples_that_means_nothing_is_refused_in_one_line(name, value, problem):
    with pytest.raises(ValueError, match=f"^samples.{name} {problem}"):
        SampleConfig(**{name: value})


def test_a_humans_waypoints_are_the_logs_and_the_text_is_the_teachers():
    human, teacher = (samples(drive(), label=label)[0] for label in ("human", "rollout"))
    assert human.waypoints_ego_m == pytest.approx(np.column_stack([np.arange(5.0, 51.0, 5.0), np.zeros(10)]), abs=0.006)
    assert human.answer.split("<PLANNING>")[0] == teacher.answer.split("<PLANNING>")[0]
    assert explained_future(human) == pytest.approx(teacher.future)
    assert teacher.waypoints_ego_m[-1, 0] > 53.0  # it speeds up to the limit, as the human did not
    assert human.extra["label"] == "human"
    assert human.prompt == teacher.prompt
    assert {name: points[-1, 0] for name, points in futures_of(human).items()} == {
        "planner": pytest.approx(teacher.future[50, 0]),
        "human": pytest.approx(50.0),
    }
    assert list(futures_of(teacher)) == ["planner"]


def test_a_plans_waypoints_are_those_of_the_planners_one_answer_at_the_anchor():
    log = drive(objects=(thing("slow", 70.0, speed_mps=6.0),))
    sample = samples(log, label="plan")[0]
    planner = MAKE_PLANNER()
    planner.initialize(log.mission, log.ego_log[20])
    seen = Observation(
        tick=20,
        time_s=2.0,
        ego=log.ego_log[20],
        ego_history=log.ego_log[:21],
        objects=log.frames[20],
        lights=log.lights[20],
    )
    plan = planner.plan(seen).trajectory
    assert sample.waypoints_ego_m[:, 0] == pytest.approx(plan.poses_global[5:51:5, 0] - log.ego_log[20].x_m, abs=0.006)
    driven = simulate(log, planner, start_tick=20, duration_s=5.0).states
    assert np.abs(plan.poses_global[50, 0] - driven[50].x_m) > 0.05  # the tracker lags behind


def test_nothing_in_a_plans_sample_knows_what_happens_after_the_anchor():
    def brakes(t):
        return [thing("lead", 65.0 + 8.0 * min(t, 3.0), speed_mps=8.0 if t < 3.0 else 0.0)]

    before, after = drive(objects=(thing("lead", 65.0, speed_mps=8.0),)), drive(objects=brakes)
    plans = [samples(log, label="plan")[0] for log in (before, after)]
    drives = [samples(log, label="rollout")[0] for log in (before, after)]
    assert plans[0].answer == plans[1].answer
    assert drives[0].answer != drives[1].answer


@pytest.mark.parametrize("label", ["rollout", "plan", "human"])
def test_every_text_replays_to_the_motion_that_it_explains(label):
    for objects in ((), (thing("slow", 75.0, speed_mps=4.0),), (thing("parked", 90.0),)):
        for sample in samples(drive(objects=objects), label=label, anchors_per_scenario=2):
            problems, replay_error_m = check_text(sample)
            assert problems == []
            assert replay_error_m < 0.05


def test_a_text_that_explains_another_motion_than_it_says_is_found():
    sample = samples(drive(), label="human")[0]
    rows = [[1.02 * row[0], *row[1:]] for row in sample.extra["explained"]]
    for explained, problem in (
        (rows, "the text implies"),
        (rows[:40], "must be finite and of shape"),
        (None, "explained"),
    ):
        problems, _ = check_text(replace(sample, extra={**sample.extra, "explained": explained}))
        assert any(problem in line for line in problems)


def test_a_plan_explains_itself_along_a_generated_scene_too():
    generated = scene(straight_road(), objects=(thing("slow", 75.0, speed_mps=4.0),))
    for sample in samples(generated, label="plan"):
        assert check_text(sample)[0] == []
        assert sample.extra["label"] == "plan"
    assert "label" not in samples(generated)[0].extra


def test_a_generated_scene_has_no_human():
    with pytest.raises(ValueError, match="has no recorded future"):
        samples(scene(straight_road()), label="human")
    with pytest.raises(ValueError, match="needs anchors along the log"):
        SampleConfig(label="human", anchors="rollout")


@pytest.mark.parametrize("seconds", [7.0, 7.1, 9.5])
def test_an_anchor_has_five_seconds_of_human_future(seconds):
    log = drive(seconds=seconds)
    ticks = [at.tick for at in anchored(log, MAKE_PLANNER(), SampleConfig(label="human", anchor_spacing_s=0.1))]
    assert ticks == list(range(20, log.n_ticks - FUTURE_TICKS))[:5]
    assert all(tick + FUTURE_TICKS < len(log.ego_log) for tick in ticks)


def test_a_plan_that_is_too_short_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"'idm' plans 4.0 s ahead, a label needs 5 s"):
        samples(drive(), Hasty(), label="plan")


# ---- bad driving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["rollout", "plan", "human"])
def test_a_teacher_that_runs_into_something_teaches_nothing(label):
    log = drive(objects=(thing("parked", 75.0),))
    seeing, blind = (samples(log, planner, label=label, anchors_per_scenario=1) for planner in (None, Blind()))
    assert [sample.anchor["tick"] for sample in seeing] == [20]
    assert blind == [LeftOut(tick=20, reason="at_fault_collision")]
    kept = samples(log, Blind(), label=label, anchors_per_scenario=1, keep_bad_driving=True)
    assert [sample.anchor["tick"] for sample in kept] == [20]


def test_after_a_collision_a_rollout_teaches_nothing_any_more():
    generated = scene(straight_road(), objects=(thing("parked", 100.0),), start_m=30.0)
    first = next(k for k, state in enumerate(simulate(generated, Blind()).states) if state.x_m + 4.05 > 97.65)
    found = samples(generated, Blind(), anchor_spacing_s=1.0, anchors_per_scenario=9)
    for k, each in enumerate(found):
        assert isinstance(each, LeftOut) == (10 * k + FUTURE_TICKS >= first)
    assert {isinstance(each, LeftOut) for each in found} == {True, False}


def test_a_teacher_that_leaves_the_road_teaches_nothing():
    reasons = [
        each.reason
        for each in samples(scene(straight_road()), Veering(), anchors_per_scenario=2)
        if isinstance(each, LeftOut)
    ]
    assert reasons == ["off_road"] * len(reasons)
    assert reasons


def test_what_the_log_begins_with_is_not_the_teachers_fault():
    beside = thing("touching", 60.0, 1.0, speed_mps=10.0)
    log = drive(objects=(replace(beside, x_m=beside.x_m - 20.0),))
    driving = driving_of(simulate(log, Blind(), start_tick=20, duration_s=5.0))
    assert driving.hits == ()


# ---- data sets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for family in ("free_road", "stopped_lead"):
        write_log(folder, family)
    return folder


def config(logs, **settings):
    return GenerateConfig(
        scenarios=Chosen(name="nuplan", config=NuplanConfig(path=str(logs))),
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=64,
        image_height_px=36,
        samples=SampleConfig(anchors_per_scenario=2, **settings),
        scenarios_per_chunk=1,
    )


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("label", [pytest.param("plan", marks=pytest.mark.slow), "human"])
def test_a_data_set_of_any_label_passes_the_check_and_resumes_to_the_same_bytes(logs, tmp_path, label):
    settings = config(logs, label=label)
    made = generate(settings, MAKE_PLANNER, out=tmp_path / "whole")
    assert made.n_samples == 4
    found = check(open_dataset(made.folder), settings, MAKE_PLANNER)
    assert found.problems == ()
    assert found.recomputed == 4
    assert len(found.label_off_m) == (4 if label == "human" else 0)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(settings, MAKE_PLANNER, out=tmp_path / "killed", progress=interrupt)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    generate(settings, MAKE_PLANNER, out=tmp_path / "killed", resume=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    if label == "human":
        off = open_dataset(made.folder).manifest["label_off_m"]["at 5 s"]
        assert off["median"] <= off["90 %"] <= off["largest"]
        assert off["largest"] == pytest.approx(max(found.label_off_m), abs=0.006)
        assert f"| {off['largest']:.2f} |" in (made.folder / "README.md").read_text()
        _a_false_human_is_found(made.folder, settings, tmp_path / "false")


def _a_false_human_is_found(folder, settings, copy):
    """Waypoints that say what the sample says, and that nobody drove."""
    shutil.copytree(folder, copy)
    shard = sorted(copy.glob("*-0*.jsonl"))[0]
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    sample = rows[0]["nsdrive"]
    sample["future"] = [[1.1 * row[0], *row[1:]] for row in sample["future"]]
    sample["waypoints_ego_m"] = [[round(row[0], 2), round(row[1], 2)] for row in sample["future"][5::5]]
    said = rows[0]["messages"][1]["content"].split("<PLANNING>")[0]
    points = ", ".join(f"[{x:.2f}, {y + 0.0:.2f}]" for x, y in sample["waypoints_ego_m"])
    rows[0]["messages"][1]["content"] = f"{said}<PLANNING>{points}</PLANNING>"
    shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][shard.name] = sha256_of(shard)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    problems = check(open_dataset(copy), settings, MAKE_PLANNER).problems
    assert len(problems) == 1
    assert "recomputed otherwise: nsdrive.future." in problems[0]


@pytest.mark.slow
def test_two_workers_write_the_same_plans_as_one(logs, tmp_path):
    for workers in (1, 2):
        generate(config(logs, label="plan"), MAKE_PLANNER, out=tmp_path / str(workers), workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_what_was_left_out_is_counted_and_a_bad_example_does_not_pass_the_check(tmp_path):
    synthetic = Chosen(name="synthetic", config=SyntheticConfig(families=("unsignalised_crossing",), n_scenarios=1))
    settings = replace(config(tmp_path), scenarios=synthetic)
    keep = replace(settings, samples=replace(settings.samples, anchors_per_scenario=5, keep_bad_driving=True))
    made = generate(keep, MAKE_PLANNER, out=tmp_path / "kept")
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["left_out"] == {}
    drop = replace(keep, samples=replace(keep.samples, keep_bad_driving=False))
    problems = check(open_dataset(made.folder), drop, MAKE_PLANNER).problems
    made = generate(drop, MAKE_PLANNER, out=tmp_path / "dropped")
    left_out = json.loads((made.folder / "manifest.json").read_text())["left_out"]
    assert 0 < left_out["at_fault_collision"] == 5 - made.n_samples == len(problems)
    assert all("is to be left out: the teacher runs into something" in line for line in problems)
    assert f"| {left_out['at_fault_collision']} |" in (made.folder / "README.md").read_text()
