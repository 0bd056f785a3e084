"""A log's own camera images in samples: where they are, they are shown, and the check reads them again."""

import json
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
from nuplan_builder import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    add_cameras,
    change,
    image_name,
    log_file,
    write_images,
    write_log,
)

from data_gen.check import check
from data_gen.generate import GenerateConfig, generate
from data_gen.sample import SampleConfig, image_source
from nsdrive.cameras.rig import make_rig
from nsdrive.config import Chosen
from nsdrive.dataset import open_dataset, sha256_of
from nsdrive.scenarios.nuplan import NuplanConfig
from nsdrive.scenarios.synthetic import SyntheticConfig
from planners.idm import IdmConfig, IdmPlanner

MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
BEFORE = 10  # images of the test log before the one at tick 0
ANCHORS = (20, 40, 60)


def numbered(number):
    """A red and green image that tells its number."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (3 * number, 255 - 3 * number, 0)
    return image


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("NUPLAN_SENSOR_ROOT", raising=False)
    monkeypatch.delenv("NUPLAN_DATA_ROOT", raising=False)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log with images of the three front cameras at its first two anchors; at the third the left one took none."""
    root = tmp_path_factory.mktemp("log") / "log"
    write_log(root, "free_road")
    add_cameras(root, channels=CHANNELS[:3])
    write_images(root, [BEFORE + tick for tick in ANCHORS], numbered, CHANNELS[:3])
    lost = image_name(root, "CAM_L0", BEFORE + ANCHORS[2])
    change(log_file(root), f"delete from image where filename_jpg = '{lost}'")
    (root / "sensor_blobs" / lost).unlink()
    return root


def config(root, **samples):
    return GenerateConfig(
        scenarios=Chosen(name="nuplan", config=NuplanConfig(path=str(root))),
        planner=Chosen(name="idm", config=IdmConfig()),
        image_width_px=160,
        image_height_px=90,
        samples=SampleConfig(anchors_per_scenario=len(ANCHORS), **samples),
    )


def made(root, out, **samples):
    generated = generate(config(root, **samples), MAKE_PLANNER, out=out, overwrite=True)
    dataset = open_dataset(out)
    return (
        generated,
        dataset,
        {s.anchor["tick"]: s for split in ("train", "val", "test") for s in dataset.samples(split)},
    )


@pytest.fixture(scope="module")
def shown(log, tmp_path_factory):
    """The data set of the log, `images` left at auto."""
    return made(log, tmp_path_factory.mktemp("set") / "set")


def test_a_sample_shows_what_the_logs_cameras_saw_at_its_anchor_and_else_what_is_drawn(shown):
    generated, dataset, samples = shown
    assert generated.failures == ()
    assert [image_source(samples[tick]) for tick in ANCHORS] == ["recorded", "recorded", "rendered"]
    for tick in ANCHORS[:2]:
        for name in samples[tick].images:
            image = cv2.imread(str(dataset.image_path(name)))[:, :, ::-1]
            assert image.shape == (90, 160, 3)
            assert np.abs(np.median(image, axis=(0, 1)) - numbered(BEFORE + tick)[0, 0]).max() <= 4
    assert dataset.manifest["counts"]["images"] == {"recorded": 2, "rendered": 1}


def test_the_rig_of_a_sample_is_the_one_that_took_its_images(shown):
    _, _, samples = shown
    nominal = make_rig("3", width_px=160, height_px=90).to_json()
    assert samples[60].rig == nominal
    front = samples[20].rig["cameras"][0]
    assert front["cx"] == pytest.approx((240.3 + 0.5) / 3, abs=1e-6)
    assert front["name"] == nominal["cameras"][0]["name"]
    assert set(samples[20].extra["seen"]) == {"CAM_F0", "CAM_R0", "CAM_L0"}


def test_the_card_tells_whose_the_images_are_and_under_which_licence(shown):
    _, dataset, _ = shown
    card = (dataset.folder / "README.md").read_text()
    assert "the images of 2 samples were taken by the log's own cameras" in card
    assert "under its licence: nuPlan (https://www.nuscenes.org/nuplan), CC BY-NC-SA 4.0" in card


def test_the_check_reads_recorded_images_again_and_finds_a_false_one(shown, log, tmp_path):
    _, dataset, samples = shown
    found = check(dataset, config(log), MAKE_PLANNER)
    assert found.problems == ()
    assert found.recomputed == 3
    copy = tmp_path / "copy"
    shutil.copytree(dataset.folder, copy)
    false, other = samples[20].images[0], samples[40].images[0]
    shutil.copyfile(copy / other, copy / false)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][false] = sha256_of(copy / false)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    problems = check(open_dataset(copy), config(log), MAKE_PLANNER).problems
    assert len(problems) == 1
    assert f"{false} does not show the scene" in problems[0]


def test_without_the_logs_images_the_check_says_in_one_line_that_it_needs_them(shown, log, tmp_path):
    _, dataset, _ = shown
    root = tmp_path / "log"
    shutil.copytree(log, root, ignore=shutil.ignore_patterns("sensor_blobs"))
    found = check(dataset, config(log), MAKE_PLANNER, source_path=root)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("2 samples show what the log's own cameras saw")
    assert found.recomputed == 1


def test_images_that_were_drawn_stay_true_when_the_logs_own_arrive(log, tmp_path):
    root = tmp_path / "log"
    shutil.copytree(log, root, ignore=shutil.ignore_patterns("sensor_blobs"))
    _, dataset, samples = made(root, tmp_path / "set")
    assert {image_source(s) for s in samples.values()} == {"rendered"}
    shutil.copytree(log / "sensor_blobs", root / "sensor_blobs")
    assert check(dataset, config(root), MAKE_PLANNER).problems == ()


def test_who_insists_on_recorded_images_gets_no_others(log, tmp_path):
    generated, dataset, samples = made(log, tmp_path / "set", images="recorded")
    assert sorted(samples) == [20, 40]
    assert generated.failures == ()
    assert dataset.manifest["left_out"] == {"no_recorded_images": 1}
    assert check(dataset, config(log, images="recorded"), MAKE_PLANNER).problems == ()
    root = tmp_path / "bare"
    shutil.copytree(log, root, ignore=shutil.ignore_patterns("sensor_blobs"))
    generated, _, samples = made(root, tmp_path / "none", images="recorded")
    assert samples == {}
    assert len(generated.failures) == 1
    assert "the log's images of CAM_F0, CAM_R0, CAM_L0 are not there" in generated.failures[0]


def test_recorded_images_of_a_generated_scene_are_refused_at_once(tmp_path):
    synthetic = Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=2))
    settings = GenerateConfig(scenarios=synthetic, samples=SampleConfig(images="recorded"))
    with pytest.raises(ValueError, match="is no log"):
        generate(settings, MAKE_PLANNER, out=tmp_path / "set")


def test_rendered_images_are_drawn_though_the_log_has_its_own(log, tmp_path):
    _, _, samples = made(log, tmp_path / "set", images="rendered")
    assert {image_source(s) for s in samples.values()} == {"rendered"}
