"""A derived data set is, byte for byte, the one that would have been generated."""

from dataclasses import replace
from functools import partial

import pytest

from data_gen.check import check
from data_gen.derive import derive
from data_gen.generate import GenerateConfig, generate
from data_gen.sample import SampleConfig
from nsdrive.config import Chosen
from nsdrive.dataset import open_dataset, sha256_of
from nsdrive.scenarios.synthetic import SyntheticConfig
from planners.idm import IdmConfig, IdmPlanner

MAKE_PLANNER = partial(IdmPlanner, IdmConfig())
EIGHT = GenerateConfig(
    scenarios=Chosen(name="synthetic", config=SyntheticConfig(n_scenarios=5, seed=3)),
    planner=Chosen(name="idm", config=IdmConfig()),
    rig="8",
    image_width_px=64,
    image_height_px=36,
    samples=SampleConfig(anchors_per_scenario=2),
    scenarios_per_chunk=2,
)
AGAIN = {"config": EIGHT, "make_planner": MAKE_PLANNER}


def at(rig, level):
    return replace(EIGHT, rig=rig, samples=replace(EIGHT.samples, trace_level=level))


def hashes(folder):
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    out = tmp_path_factory.mktemp("derive") / "eight"
    assert generate(EIGHT, MAKE_PLANNER, out=out).failures == ()
    return open_dataset(out)


@pytest.fixture(scope="module")
def three_none(eight):
    out = eight.folder.parent / "three_none"
    derive(eight, out, trace_level="none", rig="3", **AGAIN)
    return open_dataset(out)


def test_fewer_cameras_and_another_level_give_the_bytes_that_generate_gives(eight, tmp_path):
    derive(eight, tmp_path / "derived", trace_level="brief", rig="3", **AGAIN)
    generate(at("3", "brief"), MAKE_PLANNER, out=tmp_path / "generated")
    assert hashes(tmp_path / "derived") == hashes(tmp_path / "generated")


def test_another_level_alone_gives_the_bytes_that_generate_gives_and_needs_no_planner(three_none, tmp_path):
    derive(three_none, tmp_path / "derived", trace_level="detailed")
    generate(at("3", "detailed"), MAKE_PLANNER, out=tmp_path / "generated")
    assert hashes(tmp_path / "derived") == hashes(tmp_path / "generated")


def test_what_only_a_camera_that_went_sees_is_no_longer_named_as_seen(eight, three_none):
    told = {s.sample_id: s for split in ("train", "val", "test") for s in eight.samples(split)}
    fewer = [s for split in ("train", "val", "test") for s in three_none.samples(split)]
    in_view = [sum(n for _, n in s.trace["scene"]["in_view"]) for s in fewer]
    before = [sum(n for _, n in told[s.sample_id].trace["scene"]["in_view"]) for s in fewer]
    assert all(now <= was for now, was in zip(in_view, before, strict=True))
    assert sum(in_view) < sum(before)


def test_a_derived_data_set_passes_the_check(three_none):
    found = check(three_none, at("3", "none"), MAKE_PLANNER)
    assert found.problems == ()
    assert found.recomputed == found.samples == three_none.manifest["samples"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(eight, three_none, tmp_path):
    out = tmp_path / "set"

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derive(eight, out, trace_level="none", rig="3", progress=stop, **AGAIN)
    assert not (out / "manifest.json").exists()
    with pytest.raises(ValueError, match="--resume"):
        derive(eight, out, trace_level="none", rig="3", **AGAIN)
    with pytest.raises(ValueError, match="other settings"):
        derive(eight, out, trace_level="brief", rig="3", resume=True, **AGAIN)
    with pytest.raises(ValueError, match="other settings or data"):
        derive(three_none, out, trace_level="detailed", resume=True)
    derive(eight, out, trace_level="none", rig="3", resume=True, **AGAIN)
    assert hashes(out) == hashes(three_none.folder)


def test_overwriting_a_derived_image_leaves_the_first_data_set_as_it_was(eight, tmp_path):
    derive(eight, tmp_path / "set", trace_level="none")
    derived = open_dataset(tmp_path / "set")
    image = next(derived.samples("train")).images[0]
    before = sha256_of(eight.image_path(image))
    derive(eight, tmp_path / "set", trace_level="brief", overwrite=True)
    assert sha256_of(eight.image_path(image)) == before
    assert before == sha256_of(open_dataset(tmp_path / "set").image_path(image))


def test_what_cannot_be_derived_is_refused_in_one_line(eight, three_none, tmp_path):
    pairs = replace(eight, manifest={**eight.manifest, "config": _with_edits(eight.manifest["config"])})
    for dataset, out, settings, words in (
        (eight, tmp_path / "a", {"trace_level": "detailed"}, "nothing to derive"),
        (eight, tmp_path / "a", {"trace_level": "deatiled"}, "Did you mean 'detailed'"),
        (three_none, tmp_path / "a", {"rig": "8", **AGAIN}, "lacks CAM_R1"),
        (eight, eight.folder / "inside", {"trace_level": "none"}, "must not lie in each other"),
        (eight, eight.folder, {"trace_level": "none", "overwrite": True}, "must not lie in each other"),
        (pairs, tmp_path / "a", {"rig": "3", **AGAIN}, "pairs"),
    ):
        with pytest.raises(ValueError, match=words):
            derive(dataset, out, **settings)
    assert not (tmp_path / "a").exists()
    assert (eight.folder / "manifest.json").is_file()


def _with_edits(config):
    return {**config, "samples": {**config["samples"], "edits": ["auto"]}}
