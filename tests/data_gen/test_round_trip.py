"""Samples of a scenario that went through nuPlan's files are those of the original, but for rounding: pictures included.

One thing is put back by the test: nuPlan's tables have no place for things' names, by which the renderer chooses what they look
like. The map is read whole, for the houses along its lanes; the wheels start as they were; anchors lie along a rollout in both,
for a generated scene has no log.
"""

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_gen.sample import Made, SampleConfig, samples_of
from nsdrive.cameras.rig import make_rig
from nsdrive.scenarios.nuplan import NuplanConfig, NuplanSource
from nsdrive.scenarios.nuplan.write import write_scenario
from nsdrive.scenarios.nuplan.write_log import row_token
from nsdrive.scenarios.nuplan.write_map import ORIGIN_UTM_M
from nsdrive.scenarios.synthetic import FAMILIES, SyntheticConfig, SyntheticSource
from planners.idm import IdmPlanner

RIG = make_rig("3", width_px=160, height_px=90)
SAMPLES = SampleConfig(anchors="rollout", anchors_per_scenario=2, anchor_spacing_s=3.0, keep_bad_driving=True)
CHEAP = ("red_light", "construction", "unprotected_left")
WAYPOINT_M = 0.02
SAME_PIXELS = 4.0  # grey levels, mean over an image of 160 x 90
EDGE, EDGE_PX = 0.2, 3.0


def made(scenario):
    found = list(samples_of(scenario, IdmPlanner(), RIG, SAMPLES, item="it"))
    assert all(isinstance(each, Made) for each in found)
    return found


def through_files(original, folder):
    """The scenario written and read, with the original's names of things, by which they are drawn and spoken of."""
    written = write_scenario(original, folder, IdmPlanner())
    settings = NuplanConfig(path=str(folder), scenario_tokens=(written.token,), wheels="as_driven", map_margin_m=None)
    source = NuplanSource(settings)
    read = source.load(source.items()[0])
    ids = dict.fromkeys(track_id for frame in original.frames for track_id in frame.ids)
    names = {row_token(written.log.stem, "track", track_id).hex(): track_id for track_id in ids}
    return replace(read, frames=tuple(replace(f, ids=tuple(names[i] for i in f.ids)) for f in read.frames))


def lines_of(sample):
    """The answer's lines; of two leads that are as near, to the last bit of a coordinate, the other may be named."""
    return [re.sub(r"^lead \w+-\d+", "lead", line) for line in sample.answer.split("\n")]


def same_but_for_rounding(one, other):
    number = r"-?\d+(?:\.\d+)?"
    if re.split(number, one) != re.split(number, other):
        return False
    pairs = list(zip(re.findall(number, one), re.findall(number, other), strict=True))
    return all(abs(float(a) - float(b)) <= 1.001 * 10.0 ** -len(a.partition(".")[2]) for a, b in pairs)


def assert_the_same(original, folder):
    before, after = made(original), made(through_files(original, folder))
    assert [each.sample.anchor["tick"] for each in before] == [each.sample.anchor["tick"] for each in after]
    for made_before, made_after in zip(before, after, strict=True):
        one, other = made_before.sample, made_after.sample
        for pictures in zip(made_before.images.values(), made_after.images.values(), strict=True):
            assert_the_same_picture(*pictures)
        assert np.abs(one.waypoints_ego_m - other.waypoints_ego_m).max() <= WAYPOINT_M
        assert np.abs(one.future - other.future).max() <= WAYPOINT_M
        for row, again in zip(one.ego_history, other.ego_history, strict=True):
            assert again == pytest.approx(row, abs=0.0101)
        for fact in ("command", "speed_limit_mps", "binding_rule", "scenario_type", "planner"):
            assert getattr(one, fact) == getattr(other, fact)
        for line, again in zip(lines_of(one), lines_of(other), strict=True):
            assert same_but_for_rounding(line, again), f"{line} | {again}"
        assert_the_same_is_seen(one.extra["seen"], other.extra["seen"])


def assert_the_same_is_seen(before, after):
    """Pixel by pixel, but for an edge."""
    for camera, things in before.items():
        names = {name for name in {*things, *after[camera]} if not name.startswith("signal:")}
        for name in names:
            assert after[camera].get(name, 0) == pytest.approx(things.get(name, 0), rel=EDGE, abs=EDGE_PX), name


def assert_the_same_picture(one, other):
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(float) for data in (one, other)]
    assert np.abs(images[0] - images[1]).mean() <= SAME_PIXELS


@pytest.mark.parametrize("family", CHEAP)
def test_samples_survive_nuplans_files(family, tmp_path):
    source = SyntheticSource(SyntheticConfig(families=(family,), n_scenarios=1))
    assert_the_same(source.load(source.items()[0]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in CHEAP])
def test_samples_of_every_family_survive_nuplans_files(family, tmp_path):
    source = SyntheticSource(SyntheticConfig(families=(family,), n_scenarios=1))
    assert_the_same(source.load(source.items()[0]), tmp_path)


def test_the_comparison_finds_what_is_not_rounding():
    assert same_but_for_rounding(
        "lead gap 20.4 speed 8.1 allows 0.31 binds", "lead gap 20.5 speed 8.1 allows 0.30 binds"
    )
    assert not same_but_for_rounding("lead gap 20.4 speed 8.1", "lead gap 20.6 speed 8.1")
    assert not same_but_for_rounding("lead gap 20.4 binds", "lead gap 20.4")


def test_the_board_of_a_stop_sign_stands_where_it_stood(tmp_path):
    source = SyntheticSource(SyntheticConfig(families=("stop_sign",), n_scenarios=1))
    original = source.load(source.items()[0])
    before = np.array(original.lane_map.stop_signs)
    after = np.array(through_files(original, tmp_path).lane_map.stop_signs) - [*ORIGIN_UTM_M, 0.0]
    assert len(before) == len(after) > 0
    for x, y, heading in before:
        nearest = after[np.hypot(*(after[:, :2] - (x, y)).T).argmin()]
        assert np.hypot(nearest[0] - x, nearest[1] - y) < 0.5
        assert np.cos(nearest[2] - heading) > 0.999
