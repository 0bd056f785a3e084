"""Questions about images: what is asked and answered of constructed scenes, the folder's bytes, and a check that sees a lie."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scenes import scene, straight_road, thing

from data_gen.generate import GenerateConfig, generate
from data_gen.pairs import scenario_of
from data_gen.perception import all_of, perceive
from data_gen.perception_check import check_perception, wrong_with
from data_gen.sample import SampleConfig, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.cli import main
from nsdrive.config import Chosen
from nsdrive.dataset import MANIFEST, open_dataset, open_drives, sha256_of, write_atomically
from nsdrive.scenarios.catalogue import open_source
from nsdrive.scenarios.synthetic import SyntheticConfig
from nsdrive.world.lane_map import Signal
from planners.idm import IdmConfig, IdmPlanner

RIG = make_rig("3", width_px=256, height_px=144)
MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
SCENARIOS = Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=3, duration_s=9.0))


def asked(scenario, camera="CAM_F0"):
    """topic -> answer, of what one camera (None: all together) is asked at a scenario's first anchor."""
    sample = next(iter(samples_of(scenario, MAKE_PLANNER(), RIG, SampleConfig(), item="it"))).sample
    groups = {group[0].cameras: group for group in all_of(sample, scenario) if group}
    wanted = tuple(c.name for c in RIG.cameras) if camera is None else (camera,)
    return {each.question.topic: each.question.answer for each in groups.get(wanted, [])}


def on_road(*objects, **settings):
    return scene(
        straight_road(stop=settings.pop("stop", None)),
        objects=objects,
        **{"speed_mps": 5.0, "seconds": 7.5, **settings},
    )


def with_light(colour):
    made = on_road(stop="traffic_light", start_m=65.0, lights=lambda t: {"x": colour})
    head = Signal(signal_id="near", x_m=100.0, y_m=-4.0, heading_rad=0.0, connector_ids=("x",), arm_m=3.0)
    return replace(made, lane_map=replace(made.lane_map, signals=(head,)))


def test_the_lead_is_asked_for_with_its_class_its_gap_its_direction_and_how_much_of_it_shows():
    answers = asked(on_road(thing("lead", 40.0)))  # the ego is at x = 10 m, its front 4.049 m before that
    assert answers["lead"] == "vehicle"
    assert float(answers["lead_distance"].removesuffix(" m")) == pytest.approx(40.0 - 2.35 - 10.0 - 4.049, abs=0.06)
    assert answers["lead_bearing"] == "0 deg"
    assert answers["lead_visibility"] == "whole"
    assert answers["nearest"] == f"vehicle, {answers['lead_distance']}, 0 deg"
    assert answers["count_vehicles"] == "1"
    assert answers["lane"] == "lane 1 of 1"


def test_a_hidden_car_is_neither_asked_for_nor_counted():
    truck = replace(thing("truck", 30.0), length_m=10.0, width_m=2.55, height_m=3.6)
    alone, hiding = asked(on_road(truck)), asked(on_road(truck, thing("hidden", 42.0)))
    assert hiding == alone
    assert alone["count_vehicles"] == "1"


def test_a_half_hidden_lead_is_partly_hidden():
    lead = thing("lead", 34.0, y_m=1.4)
    between = replace(
        thing("between", 31.0, y_m=2.3), length_m=1.0, height_m=2.4
    )  # beside our way, in front of its left half
    assert asked(on_road(lead, between))["lead_visibility"] == "partly hidden"


def test_what_covers_too_little_of_the_image_is_not_asked_for():
    walker = thing("walker", 38.0, y_m=4.0, kind="pedestrian")
    answers = asked(on_road(walker))
    assert "count_pedestrians" not in answers  # nearly enough of it is to be seen: who could say
    assert "nearest" not in answers
    assert asked(on_road(replace(walker, x_m=80.0)))["count_pedestrians"] == "0"


def test_nothing_ahead_and_no_light_are_answers_too():
    answers = asked(on_road())
    assert (answers["lead"], answers["light"], answers["nearest"], answers["count_vehicles"]) == ("none",) * 3 + ("0",)


@pytest.mark.parametrize(("state", "word"), [("red", "red"), ("yellow", "amber")])
def test_the_light_for_our_way_is_asked_of_the_camera_that_sees_it(state, word):
    assert asked(with_light(state))["light"] == word
    assert "light" not in asked(with_light(state), "CAM_L0")


def test_a_thing_in_two_images_counts_once_among_all():
    beside = thing("beside", 17.0, y_m=4.5)
    images = [asked(on_road(beside), camera.name).get("count_vehicles") for camera in RIG.cameras]
    assert images == ["1", "0", "1"]
    assert asked(on_road(beside), None)["count_vehicles_around"] == "1"


# ---- the folder ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "drives"
    config = GenerateConfig(
        scenarios=SCENARIOS,
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=96,
        image_height_px=54,
        samples=SampleConfig(anchors_per_scenario=2, anchor_spacing_s=1.0),
        scenarios_per_chunk=1,
    )
    generate(config, MAKE_PLANNER, out=out)
    return open_dataset(out)


@pytest.fixture(scope="module")
def scenes():
    return partial(scenario_of, open_source(SCENARIOS.name, SCENARIOS.config))


@pytest.fixture(scope="module")
def questions(drives, scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("seen") / "questions"
    made = perceive(drives, out, scenes=scenes)
    assert made.n_questions > 20
    assert made.without_scene == 0
    return open_dataset(out)


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_that_stopped_midway_resumes_to_the_same_bytes(drives, scenes, questions, tmp_path, monkeypatch):
    def dies(done, total):
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perceive(drives, tmp_path / "seen", scenes=scenes, progress=dies)
    assert not (tmp_path / "seen" / MANIFEST).exists()
    perceive(drives, tmp_path / "seen", scenes=scenes, resume=True)
    assert hashes(tmp_path / "seen") == hashes(questions.folder)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(drives, scenes, questions, tmp_path):
    perceive(drives, tmp_path / "seen", scenes=scenes, workers=2)
    assert hashes(tmp_path / "seen") == hashes(questions.folder)


def test_what_is_asked_holds_and_answers_that_there_is_nothing_do_not_outnumber_the_others(drives, scenes, questions):
    found = check_perception(questions, source=drives, scenes=scenes)
    assert found.problems == ()
    assert found.held == found.questions == questions.manifest["samples"]
    counts = questions.manifest["counts"]
    assert sum(counts["nothing"].values()) <= 0.6 * sum(counts["topic"].values())


def test_check_sees_one_changed_answer_and_one_changed_fact(drives, questions, tmp_path):
    lying = tmp_path / "lying"
    shutil.copytree(questions.folder, lying)
    shard = next(lying.glob("train-*.jsonl"))
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    k = next(k for k, row in enumerate(rows) if row["nsdrive"]["topic"] == "count_vehicles")
    rows[k]["messages"][1]["content"] = "7"
    rows[k + 1]["nsdrive"]["facts"]["objects"] = [*rows[k + 1]["nsdrive"]["facts"]["objects"], {"id": "nobody"}]
    write_atomically(shard, "".join(json.dumps(row) + "\n" for row in rows))
    manifest = json.loads((lying / MANIFEST).read_text())
    manifest["files"][shard.name] = sha256_of(shard)
    write_atomically(lying / MANIFEST, json.dumps(manifest))
    assert main(["check", str(lying)]) == 1
    problems = check_perception(open_dataset(lying), source=drives).problems
    assert any(rows[k]["id"] in line and "its answer is '7'" in line for line in problems)
    assert any(rows[k + 1]["id"] in line for line in problems)
    assert {line.split()[1].rstrip(":") for line in problems} == {rows[k]["id"], rows[k + 1]["id"]}


def test_the_command_line_holds_questions_to_their_dataset(drives, questions, capsys):
    assert main(["check", str(questions.folder), "--source", str(drives.folder)]) == 0
    n = questions.manifest["samples"]
    assert f"{n} questions, {n} of them held to their dataset: every one is true" in capsys.readouterr().out


def test_a_row_of_a_stranger_is_named_by_what_is_wrong_with_it(questions):
    _, row = next(questions.rows("train"))
    row["nsdrive"]["facts"]["seen"] = []
    with pytest.raises(ValueError, match="facts are misshapen"):
        list(wrong_with(row))


def test_questions_are_refused_where_drives_are_wanted_and_where_there_are_no_boxes(drives, questions, tmp_path):
    with pytest.raises(ValueError, match="questions about images, not drives"):
        open_drives(questions.folder)
    with pytest.raises(ValueError, match="a question about an image, not a drive"):
        next(questions.samples("train"))
    with pytest.raises(ValueError, match="questions about images, not drives"):
        perceive(questions, tmp_path / "again")
    with pytest.raises(ValueError, match="must not lie in each other"):
        perceive(drives, drives.folder / "seen")
    old = tmp_path / "old"
    shutil.copytree(drives.folder, old)
    for shard in old.glob("*.jsonl"):
        rows = [json.loads(line) for line in shard.read_text().splitlines()]
        for row in rows:
            del row["nsdrive"]["objects"]
        write_atomically(shard, "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="has no `objects`"):
        perceive(open_dataset(old), tmp_path / "of_old")
    assert not (tmp_path / "of_old").exists()


def test_without_the_scenarios_nothing_is_asked_of_lights_and_lanes(drives, tmp_path):
    made = perceive(drives, tmp_path / "seen")
    assert made.without_scene == made.n_samples > 0
    assert not {"light", "lane"} & set(made.counts)
    assert "no scenario of them is here" in made.summary()
    assert np.all([n > 0 for n in made.counts.values()])
